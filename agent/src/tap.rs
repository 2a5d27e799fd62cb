//! `convoy-agent tap`: what a running agent decodes, as it decodes it.
//!
//! One JSON object a line, as `decode` writes them, with the path that the value is collected under:
//!
//! ```json
//! {"t_us":1635188455020850,"message":"EEC1","signal":"EngineSpeed","path":"Vehicle.Powertrain.CombustionEngine.Speed","value":812.5,"unit":"rpm"}
//! {"rows_dropped":120}
//! ```
//!
//! Nothing waits for a reader: what one does not take in time is dropped, and it is told how many frames and messages.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use convoy_agent_core::decoder::{Decoder, Row};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

/// The socket, in the spool's directory.
pub(crate) const SOCKET: &str = "tap.sock";
/// Rows that wait for a reader at most.
const ROWS_MAX: usize = 1_024;
const READ_BYTES: usize = 16 * 1024;
/// Readers at most.
const READERS_MAX: usize = 8;
/// After a reader could not be let in.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Where rows go to those who watch.
pub(crate) struct Tap {
    lines: broadcast::Sender<Arc<[u8]>>,
    /// By signal: what stands between the time and the value, and after it.
    texts: Vec<(String, String)>,
}

impl Tap {
    pub(crate) fn new() -> Self {
        Self { lines: broadcast::Sender::new(ROWS_MAX), texts: Vec::new() }
    }

    /// Does anybody watch?
    pub(crate) fn is_watched(&self) -> bool {
        self.lines.receiver_count() > 0
    }

    /// How many watch.
    pub(crate) fn watchers(&self) -> u64 {
        self.lines.receiver_count() as u64
    }

    pub(crate) fn put(&mut self, decoder: &Decoder, time_us: i64, row: &Row) {
        if self.texts.is_empty() {
            self.texts = texts(decoder);
        }
        let mut lines = Vec::new();
        for (index, value) in row.iter() {
            let Some(signal) = decoder.manifest().signal(index) else { continue };
            let Some((before, after)) = self.texts.get(index.0 as usize) else { continue };
            lines.extend_from_slice(format!("{{\"t_us\":{time_us},{before}").as_bytes());
            // Not a number and infinity have no JSON form: null. A vector takes everything.
            let _ = serde_json::to_writer(&mut lines, &value.physical(signal));
            lines.extend_from_slice(after.as_bytes());
        }
        // Whoever watched may be gone.
        let _ = self.lines.send(lines.into());
    }

    /// Lets others watch. The task ends with the set.
    pub(crate) fn listen(&self, dir: &Path, tasks: &mut JoinSet<()>) -> io::Result<()> {
        let path = dir.join(SOCKET);
        let _ = std::fs::remove_file(&path);
        let (listener, lines) = (UnixListener::bind(&path)?, self.lines.clone());
        tasks.spawn(async move {
            let mut readers = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Too many open files, most likely, which ends.
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                };
                while readers.try_join_next().is_some() {}
                if readers.len() < READERS_MAX {
                    readers.spawn(serve(stream, lines.subscribe()));
                }
            }
        });
        Ok(())
    }
}

fn texts(decoder: &Decoder) -> Vec<(String, String)> {
    let manifest = decoder.manifest();
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let text = |signal| {
        let signal: &convoy_protocol::manifest::SignalDef = signal;
        let (message, name, path) =
            (json(manifest.message_of(signal)), json(&signal.name), json(&signal.path));
        (
            format!("\"message\":{message},\"signal\":{name},\"path\":{path},\"value\":"),
            format!(",\"unit\":{}}}\n", json(&signal.unit)),
        )
    };
    manifest.signals.iter().map(text).collect()
}

async fn serve(stream: UnixStream, mut lines: broadcast::Receiver<Arc<[u8]>>) {
    let (mut reading, mut writing) = stream.into_split();
    let mut ignored = [0; 64];
    loop {
        let written = tokio::select! {
            received = lines.recv() => match received {
                Ok(lines) => writing.write_all(&lines).await,
                Err(RecvError::Lagged(rows)) => {
                    writing.write_all(format!("{{\"rows_dropped\":{rows}}}\n").as_bytes()).await
                }
                Err(RecvError::Closed) => return,
            },
            // Nobody says anything here: it is the end of the reader, who leaves room for another.
            read = reading.read(&mut ignored) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => Ok(()),
            },
        };
        if written.is_err() {
            return;
        }
    }
}

/// Copies what the agent on a spool decodes to `out`, until one of them ends.
pub(crate) async fn watch(dir: &Path, mut out: impl Write) -> io::Result<()> {
    let mut stream = UnixStream::connect(dir.join(SOCKET)).await?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let len = stream.read(&mut buffer).await?;
        match out.write_all(&buffer[..len]).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        if len == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until so many watch.
    async fn watched_by(tap: &Tap, watchers: u64) {
        let wait = async {
            while tap.watchers() != watchers {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("as many watch as should");
    }

    #[tokio::test]
    async fn a_reader_that_went_away_leaves_its_place_though_nothing_is_decoded() {
        let dir = tempfile::tempdir().unwrap();
        let (tap, mut tasks) = (Tap::new(), JoinSet::new());
        tap.listen(dir.path(), &mut tasks).unwrap();
        let connect = async || UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
        let mut readers = Vec::new();
        for _ in 0..READERS_MAX {
            readers.push(connect().await);
        }
        watched_by(&tap, READERS_MAX as u64).await;
        // One more than there is room for: its connection ends.
        assert_eq!(connect().await.read(&mut [0; 8]).await.unwrap(), 0);
        readers.pop();
        watched_by(&tap, READERS_MAX as u64 - 1).await;
        readers.push(connect().await);
        watched_by(&tap, READERS_MAX as u64).await;
    }
}
