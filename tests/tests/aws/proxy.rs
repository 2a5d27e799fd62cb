//! AWS on a bad day: a proxy before the emulator that throttles, refuses parts of batches and fails, every so many calls.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use serde_json::{Value, json};

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The service says that it is asked too much.
    Throttled,
    /// The service fails after the call took effect, so that what is sent again is there already.
    LostAnswer,
    /// Every second entry of a batch is refused, the others are taken.
    HalfRefused,
}

type Hook = Box<dyn Fn() + Send + Sync>;

struct Shared {
    emulator: String,
    client: reqwest::Client,
    calls: Mutex<BTreeMap<String, u32>>,
    faults: Mutex<BTreeMap<(String, Fault), u32>>,
    /// Hashes of the calls to DynamoDB that met a fault.
    failed: Mutex<HashSet<u64>>,
    /// Called while a write of envelopes waits here, from time to time.
    on_write: Mutex<Option<Hook>>,
}

/// The proxy.
pub(crate) struct Proxy {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

/// Which fault the `nth` call of an operation meets, from 1. The first calls of the way in and of the bus meet all of
/// them; the others are chosen by dice without memory, or work that takes as many calls each time it is tried would meet
/// the same fault at the same place for ever.
fn fault(operation: &str, nth: u32) -> Option<Fault> {
    match operation {
        "Kinesis_20131202.PutRecords" | "AWSEvents.PutEvents" => match nth % 5 {
            1 => Some(Fault::HalfRefused),
            3 => Some(Fault::Throttled),
            4 => Some(Fault::LostAnswer),
            _ => None,
        },
        _ if operation.starts_with("DynamoDB_20120810.") => match dice(nth) % 10 {
            5 => Some(Fault::Throttled),
            9 => Some(Fault::LostAnswer),
            _ => None,
        },
        "AmazonSQS.SendMessage" => (dice(nth) % 7 == 3).then_some(Fault::Throttled),
        _ => None,
    }
}

/// The same for the same number, and without a period: SplitMix64.
fn dice(nth: u32) -> u64 {
    let mut dice = u64::from(nth).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    dice = (dice ^ (dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    dice = (dice ^ (dice >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    dice ^ (dice >> 31)
}

impl Proxy {
    pub(crate) async fn start(emulator: &str) -> Self {
        let shared = Arc::new(Shared {
            emulator: emulator.to_owned(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            calls: Mutex::default(),
            faults: Mutex::default(),
            failed: Mutex::default(),
            on_write: Mutex::default(),
        });
        let limit = axum::extract::DefaultBodyLimit::max(64 << 20);
        let router = axum::Router::new().fallback(pass).layer(limit).with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url: format!("http://{address}"), shared }
    }

    /// How often each fault was met, by operation.
    pub(crate) fn faults(&self) -> BTreeMap<(String, Fault), u32> {
        self.shared.faults.lock().unwrap().clone()
    }

    /// `hook` is called while a write of envelopes is on its way: what it kills, it kills in the middle of a batch.
    pub(crate) fn on_write(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.shared.on_write.lock().unwrap() = Some(Box::new(hook));
    }
}

fn error(status: u16, code: &str) -> Response<Body> {
    let body = json!({"__type": code, "message": "as the test says"}).to_string();
    let answer = Response::builder().status(status).header("content-type", "application/x-amz-json-1.1");
    answer.body(Body::from(body)).unwrap()
}

async fn pass(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = target.to_owned();
    let nth = {
        let mut calls = shared.calls.lock().unwrap();
        let calls = calls.entry(operation.clone()).or_default();
        *calls += 1;
        *calls
    };
    let writes_envelope = operation == "DynamoDB_20120810.PutItem" || operation.ends_with("BatchWriteItem");
    if writes_envelope
        && nth.is_multiple_of(11)
        && let Some(hook) = &*shared.on_write.lock().unwrap()
    {
        hook();
    }
    let fault =
        fault(&operation, nth).filter(|_| !operation.starts_with("DynamoDB") || shared.is_first(&body));
    let Some(fault) = fault else {
        return shared.forward(method, &uri, &headers, body).await;
    };
    *shared.faults.lock().unwrap().entry((operation.clone(), fault)).or_default() += 1;
    match fault {
        Fault::Throttled if operation.starts_with("DynamoDB") => {
            error(400, "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException")
        }
        Fault::Throttled => error(400, "ThrottlingException"),
        Fault::LostAnswer => {
            shared.forward(method, &uri, &headers, body).await;
            error(500, "InternalServerError")
        }
        Fault::HalfRefused => shared.half(&headers, &body).await,
    }
}

impl Shared {
    /// Has this call met no fault yet? One that met it five times in a row would be given up, ingest would say so of its
    /// batch, and the emulator, unlike Kinesis, would not give the batch again.
    fn is_first(&self, body: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        self.failed.lock().unwrap().insert(hasher.finish())
    }

    async fn forward(&self, method: Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Response<Body> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = self.client.request(method, format!("{}{path}", self.emulator)).body(body);
        for (name, value) in headers.iter().filter(|(name, _)| !is_of_connection(name.as_str())) {
            request = request.header(name, value);
        }
        let Ok(answer) = request.send().await else {
            return error(503, "ServiceUnavailable");
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.unwrap_or_default();
        let mut response = Response::builder().status(StatusCode::from_u16(status.as_u16()).unwrap());
        for (name, value) in headers.iter().filter(|(name, _)| !is_of_connection(name.as_str())) {
            response = response.header(name, value);
        }
        response.body(Body::from(body)).unwrap()
    }

    /// Forwards the entries in even places, and says of the others that they were refused.
    async fn half(&self, headers: &HeaderMap, body: &Bytes) -> Response<Body> {
        let mut request: Value = serde_json::from_slice(body).unwrap();
        let list = if request.get("Records").is_some() { "Records" } else { "Entries" };
        let entries = request[list].as_array().unwrap().clone();
        request[list] = entries.iter().step_by(2).cloned().collect();
        let uri = Uri::from_static("/");
        let answer = self.forward(Method::POST, &uri, headers, request.to_string().into()).await;
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        let mut taken = answer[list].as_array().unwrap().clone().into_iter();
        let refused = json!({"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "half"});
        let merged: Vec<Value> = (0..entries.len())
            .map(|place| if place % 2 == 0 { taken.next().unwrap() } else { refused.clone() })
            .collect();
        let count = if list == "Records" { "FailedRecordCount" } else { "FailedEntryCount" };
        answer[count] = (entries.len() / 2).into();
        answer[list] = merged.into();
        Response::from_parts(parts, Body::from(answer.to_string()))
    }
}

fn is_of_connection(name: &str) -> bool {
    matches!(name, "host" | "content-length" | "transfer-encoding" | "connection" | "x-amz-crc32")
}
