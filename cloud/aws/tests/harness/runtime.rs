//! A small server of the AWS Lambda Runtime API, and the function behind it: a process of its own that is started,
//! invoked, killed and started again.
//!
//! As on Lambda, a function is invoked once at a time, and killed if it does not answer by its deadline.
#![allow(dead_code, reason = "each suite uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

/// A function asks for its first event, or ends, within this time.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const NAME: &str = "function";

/// How a function is started, any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
}

/// What came of an invocation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The answer.
    Answer(Value),
    /// The function said that it failed.
    Error(Value),
    /// Its process ended.
    Died,
    /// It was killed at its deadline.
    TimedOut,
}

impl Outcome {
    /// The answer, where there must be one.
    pub(crate) fn answer(self) -> Value {
        match self {
            Self::Answer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }
}

/// A process that ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What it wrote, line by line.
    pub(crate) output: String,
    /// What it told the runtime API of its failed start.
    pub(crate) init_error: Option<Value>,
}

struct Invocation {
    id: String,
    event: Bytes,
    time: Duration,
}

/// What the server and the callers share.
struct Desk {
    waiting: AsyncMutex<mpsc::Receiver<Invocation>>,
    answers: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    /// Has the function asked for an event?
    is_ready: watch::Sender<bool>,
    init_error: Mutex<Option<Value>>,
    output: Mutex<String>,
}

/// A running function; its process ends with it.
pub(crate) struct Function {
    desk: Arc<Desk>,
    invocations: mpsc::Sender<Invocation>,
    count: AtomicU32,
    pid: u32,
    kill: Arc<Notify>,
    ended: watch::Receiver<Option<Ended>>,
}

impl Launch {
    /// Of this program with these variables and those of Lambda, no others.
    pub(crate) fn new(program: impl Into<PathBuf>, variables: BTreeMap<String, String>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), variables }
    }

    /// With these arguments.
    pub(crate) fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// With this variable too.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Without this variable.
    pub(crate) fn without(mut self, name: &str) -> Self {
        assert!(self.variables.remove(name).is_some(), "{name} was not set anyway");
        self
    }

    /// Starts it; `Err` where it ends before it asks for its first event.
    pub(crate) async fn start(&self) -> Result<Function, Ended> {
        let (invocations, waiting) = mpsc::channel(1);
        let desk = Arc::new(Desk {
            waiting: AsyncMutex::new(waiting),
            answers: Mutex::default(),
            is_ready: watch::Sender::new(false),
            init_error: Mutex::default(),
            output: Mutex::default(),
        });
        let address = serve(Arc::clone(&desk)).await;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", NAME)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{NAME}"))
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "stream")
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (kill, ended) = (Arc::new(Notify::new()), watch::Sender::new(None));
        let mut is_ready = desk.is_ready.subscribe();
        let function = Function {
            desk: Arc::clone(&desk),
            invocations,
            count: AtomicU32::new(0),
            pid: child.id().unwrap(),
            kill: Arc::clone(&kill),
            ended: ended.subscribe(),
        };
        tokio::spawn(watch_over(child, desk, kill, ended));
        let ready = async {
            tokio::select! {
                _ = is_ready.wait_for(|is_ready| *is_ready) => None,
                ended = function.ended() => Some(ended),
            }
        };
        match timeout(START_TIMEOUT, ready).await.expect("it starts or ends") {
            None => Ok(function),
            Some(ended) => Err(ended),
        }
    }
}

impl Function {
    /// Invokes it with this event and so much time.
    pub(crate) async fn invoke(&self, event: &Value, time: Duration) -> Outcome {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = format!("{number:08x}-0000-4000-8000-000000000000");
        let (sender, answer) = oneshot::channel();
        self.desk.answers.lock().unwrap().insert(id.clone(), sender);
        let invocation = Invocation { id, event: event.to_string().into(), time };
        let outcome = async {
            self.invocations.send(invocation).await.expect("the desk keeps the receiver");
            tokio::select! {
                biased;
                Ok(outcome) = answer => outcome,
                _ = self.ended() => Outcome::Died,
            }
        };
        match timeout(time, outcome).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.kill().await;
                Outcome::TimedOut
            }
        }
    }

    /// Ends its process with SIGKILL, whatever it does at the moment.
    pub(crate) async fn kill(&self) -> Ended {
        self.kill.notify_one();
        self.ended().await
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written so far, line by line.
    pub(crate) fn output(&self) -> String {
        self.desk.output.lock().unwrap().clone()
    }

    async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let ended = ended.wait_for(Option::is_some).await.expect("somebody watches over the process");
        ended.clone().expect("it was waited for")
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.kill.notify_one();
    }
}

async fn watch_over(
    mut child: Child,
    desk: Arc<Desk>,
    kill: Arc<Notify>,
    ended: watch::Sender<Option<Ended>>,
) {
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let wait = async {
        tokio::select! {
            status = child.wait() => status.unwrap(),
            () = kill.notified() => {
                child.start_kill().unwrap();
                child.wait().await.unwrap()
            }
        }
    };
    let (status, (), ()) = tokio::join!(wait, listen(stdout, &desk), listen(stderr, &desk));
    let (output, init_error) = (desk.output.lock().unwrap().clone(), desk.init_error.lock().unwrap().clone());
    ended.send_replace(Some(Ended { status, output, init_error }));
}

async fn listen(pipe: impl AsyncRead + Unpin, desk: &Desk) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut output = desk.output.lock().unwrap();
        output.push_str(&line);
        output.push('\n');
    }
}

async fn serve(desk: Arc<Desk>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::disable())
        .with_state(desk);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn next(State(desk): State<Arc<Desk>>) -> Response {
    desk.is_ready.send_replace(true);
    let Some(Invocation { id, event, time }) = desk.waiting.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let deadline = SystemTime::UNIX_EPOCH.elapsed().unwrap() + time;
    let arn = format!("arn:aws:lambda:eu-central-1:000000000000:function:{NAME}");
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("lambda-runtime-aws-request-id", id),
        ("lambda-runtime-deadline-ms", deadline.as_millis().to_string()),
        ("lambda-runtime-invoked-function-arn", arn),
        ("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0".to_owned()),
    ];
    (headers, event).into_response()
}

async fn response(State(desk): State<Arc<Desk>>, Path(id): Path<String>, body: Bytes) -> StatusCode {
    desk.take(&id, Outcome::Answer(read(&body)))
}

async fn error(State(desk): State<Arc<Desk>>, Path(id): Path<String>, body: Bytes) -> StatusCode {
    desk.take(&id, Outcome::Error(read(&body)))
}

async fn init_error(State(desk): State<Arc<Desk>>, body: Bytes) -> StatusCode {
    *desk.init_error.lock().unwrap() = Some(read(&body));
    StatusCode::ACCEPTED
}

impl Desk {
    fn take(&self, id: &str, outcome: Outcome) -> StatusCode {
        match self.answers.lock().unwrap().remove(id) {
            Some(sender) => {
                // Nobody waits any more for what comes too late.
                let _ = sender.send(outcome);
                StatusCode::ACCEPTED
            }
            None => StatusCode::BAD_REQUEST,
        }
    }
}

fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}
