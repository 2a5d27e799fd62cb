//! A fake of an AWS service, or of a bad way to one: a script says what becomes of each request.
#![allow(dead_code, reason = "each suite uses a part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::emulator::http;

/// A call that a test waits for comes within this time.
const HELD_TIMEOUT: Duration = Duration::from_secs(60);

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Request {
    /// The operation, of services that name it in `x-amz-target`: `PutItem`.
    pub(crate) fn operation(&self) -> &str {
        let target =
            self.headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
        target.rsplit('.').next().unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body of a service that speaks `rpc-v2-cbor`, and its operation.
    pub(crate) fn cbor(&self) -> (&str, Value) {
        assert_eq!(self.headers["smithy-protocol"], "rpc-v2-cbor");
        let (_, operation) = self.uri.path().rsplit_once('/').unwrap();
        (operation, ciborium::from_reader(&self.body[..]).unwrap())
    }
}

/// Holds calls until it is opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    held: watch::Sender<usize>,
    is_open: watch::Sender<bool>,
}

impl Gate {
    /// Waits until it holds a call.
    pub(crate) async fn holds(&self) {
        let mut held = self.held.subscribe();
        let held = timeout(HELD_TIMEOUT, held.wait_for(|held| *held > 0)).await;
        held.expect("the call that shall be held is made").unwrap();
    }

    /// Lets go what it holds and what will come.
    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    async fn pass(&self) {
        self.held.send_modify(|held| *held += 1);
        // The gate lives as long as the script that names it.
        self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
    }
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// This answer.
    Answer(u16, Value),
    /// This answer, not of a service that speaks JSON.
    Text(u16, &'static str),
    /// This answer, CBOR.
    Cbor(u16, Value),
    /// Never an answer.
    Silence,
    /// The service behind answers.
    Forward,
    /// The service behind does what was asked, and its answer gets lost.
    ForwardAndLose,
    /// The service behind answers when the gate is opened, and knows nothing of the request before.
    HoldRequest(Gate),
    /// The service behind does what was asked, and its answer comes when the gate is opened.
    HoldAnswer(Gate),
    /// Of a `PutEvents`, the entry of this number is refused with this code, and the service behind takes the others.
    RefuseEntry(usize, &'static str),
}

impl Reply {
    /// An error as JSON services write it.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::Answer(status, json!({ "__type": code, "message": "as the script says" }))
    }
}

type Script = Box<dyn FnMut(&Request) -> Reply + Send>;

/// A fake; it ends with its runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    /// Its endpoint.
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    behind: Option<String>,
    script: Mutex<Script>,
    requests: Mutex<Vec<Request>>,
    http: reqwest::Client,
}

impl Fake {
    /// A fake that is all by itself.
    pub(crate) async fn alone(script: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        Self::start(None, Box::new(script)).await
    }

    /// A fake before a service.
    pub(crate) async fn before(url: &str, script: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        Self::start(Some(url.to_owned()), Box::new(script)).await
    }

    async fn start(behind: Option<String>, script: Script) -> Self {
        let requests = Mutex::default();
        let shared = Arc::new(Shared { behind, script: Mutex::new(script), requests, http: http() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // A service says itself what is too large for it.
        let router = Router::new().fallback(handle).layer(DefaultBodyLimit::disable());
        let router = router.with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared }
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Request { method, uri, headers, body };
    let reply = (shared.script.lock().unwrap())(&request);
    shared.requests.lock().unwrap().push(request.clone());
    match reply {
        Reply::Answer(status, body) => {
            let status = StatusCode::from_u16(status).unwrap();
            (status, [("content-type", "application/x-amz-json-1.1")], body.to_string()).into_response()
        }
        Reply::Text(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Reply::Cbor(status, body) => {
            let (status, mut bytes) = (StatusCode::from_u16(status).unwrap(), Vec::new());
            ciborium::into_writer(&body, &mut bytes).unwrap();
            let headers = [("content-type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor")];
            (status, headers, bytes).into_response()
        }
        Reply::Silence => std::future::pending().await,
        Reply::Forward => forward(&shared, request).await,
        Reply::ForwardAndLose => {
            forward(&shared, request).await;
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Reply::HoldRequest(gate) => {
            gate.pass().await;
            forward(&shared, request).await
        }
        Reply::HoldAnswer(gate) => {
            let answer = forward(&shared, request).await;
            gate.pass().await;
            answer
        }
        Reply::RefuseEntry(index, code) => forward_without(&shared, request, index, code).await,
    }
}

async fn forward_without(shared: &Shared, request: Request, index: usize, code: &str) -> Response {
    let mut asked = request.json();
    let entries = asked["Entries"].as_array_mut().unwrap();
    let index = index.min(entries.len() - 1);
    entries.remove(index);
    let mut answer = json!({ "Entries": [] });
    if !entries.is_empty() {
        let taken = forward(shared, Request { body: asked.to_string().into(), ..request }).await;
        assert_eq!(taken.status(), StatusCode::OK);
        let taken = axum::body::to_bytes(taken.into_body(), usize::MAX).await.unwrap();
        answer = serde_json::from_slice(&taken).unwrap();
    }
    let refused = json!({ "ErrorCode": code, "ErrorMessage": "as the script says" });
    answer["Entries"].as_array_mut().unwrap().insert(index, refused);
    let failed = answer["FailedEntryCount"].as_u64().unwrap_or(0) + 1;
    answer["FailedEntryCount"] = failed.into();
    ([("content-type", "application/x-amz-json-1.1")], answer.to_string()).into_response()
}

async fn forward(shared: &Shared, request: Request) -> Response {
    let behind = shared.behind.as_ref().expect("the script forwards only where there is a service");
    let mut headers = request.headers;
    headers.remove("host");
    headers.remove("content-length");
    let sent = shared.http.request(request.method, format!("{behind}{}", request.uri)).headers(headers);
    let answer = sent.body(request.body).send().await.unwrap();
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove("transfer-encoding");
    headers.remove("content-length");
    (status, headers, answer.bytes().await.unwrap()).into_response()
}
