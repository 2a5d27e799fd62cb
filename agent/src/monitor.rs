//! Answers those who ask how the agent does: on a socket in the spool's directory, and as metrics on a loopback port.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::status::Status;
use crate::tap::{self, Tap};

const SOCKET: &str = "status.sock";
/// How long one who asks may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request that are read at most.
const REQUEST_BYTES_MAX: u64 = 8 << 10;
/// Longest status that is read, bytes.
const STATUS_BYTES_MAX: u64 = 4 << 20;

/// A question to the agent's loop, answered when it comes round.
pub(crate) type Question = oneshot::Sender<Status>;

/// The tasks that listen; they end with it.
pub(crate) struct Monitor {
    _tasks: JoinSet<()>,
    sockets: [PathBuf; 2],
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Left behind, it would only be in the way of nobody: the next start removes it.
        for socket in &self.sockets {
            let _ = std::fs::remove_file(socket);
        }
    }
}

impl Monitor {
    /// Listens. What cannot be listened on is said and done without: an agent that collects is worth more than one
    /// that can be asked.
    pub(crate) async fn start(
        dir: &Path,
        metrics: Option<SocketAddr>,
        questions: mpsc::Sender<Question>,
        tap: &Tap,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let socket = dir.join(SOCKET);
        let _ = std::fs::remove_file(&socket);
        match UnixListener::bind(&socket) {
            Ok(listener) => {
                let questions = questions.clone();
                tasks.spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        // One at a time: whoever asks has five seconds.
                        let _ = timeout(ASK_TIMEOUT, answer_status(stream, &questions)).await;
                    }
                });
            }
            Err(error) => warn!("convoy-agent status will not work, {}: {error}", socket.display()),
        }
        if let Some(address) = metrics {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    info!(%address, "metrics are served at /metrics");
                    tasks.spawn(async move {
                        while let Ok((stream, _)) = listener.accept().await {
                            let _ = timeout(ASK_TIMEOUT, answer_metrics(stream, &questions)).await;
                        }
                    });
                }
                Err(error) => warn!("metrics are not served, {address}: {error}"),
            }
        }
        if let Err(error) = tap.listen(dir, &mut tasks) {
            warn!("convoy-agent tap will not work: {error}");
        }
        Self { _tasks: tasks, sockets: [socket, dir.join(tap::SOCKET)] }
    }
}

async fn ask(questions: &mpsc::Sender<Question>) -> io::Result<Status> {
    let gone = || io::Error::other("the agent is ending");
    let (question, answer) = oneshot::channel();
    questions.send(question).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

async fn answer_status(mut stream: UnixStream, questions: &mpsc::Sender<Question>) -> io::Result<()> {
    let status = ask(questions).await?;
    stream.write_all(&serde_json::to_vec(&status)?).await?;
    stream.shutdown().await
}

/// HTTP as far as a scraper needs it: one request, one answer, closed.
async fn answer_metrics(mut stream: TcpStream, questions: &mpsc::Sender<Question>) -> io::Result<()> {
    let (input, mut output) = stream.split();
    let mut lines = BufReader::new(input.take(REQUEST_BYTES_MAX)).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let path = request.strip_prefix("GET ").and_then(|rest| rest.split(' ').next());
    let (code, body) = match path {
        Some("/metrics") => ("200 OK", ask(questions).await?.metrics()),
        Some(_) => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
        None => ("405 Method Not Allowed", "only GET is answered\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    output.write_all(head.as_bytes()).await?;
    output.write_all(body.as_bytes()).await?;
    output.shutdown().await
}

/// Asks the agent that runs on a spool.
pub(crate) async fn query(dir: &Path) -> io::Result<Status> {
    let ask = async {
        let mut answer = Vec::new();
        let stream = UnixStream::connect(dir.join(SOCKET)).await?;
        stream.take(STATUS_BYTES_MAX).read_to_end(&mut answer).await?;
        serde_json::from_slice(&answer).map_err(io::Error::from)
    };
    timeout(ASK_TIMEOUT, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
