//! A customer's HTTP endpoint of the basic class: it knows the key, and no signature.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

/// What arrived with the key.
#[derive(Default)]
pub(crate) struct Received {
    events: Vec<Value>,
    key: String,
}

pub(crate) struct PlainReceiver {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

impl PlainReceiver {
    pub(crate) async fn start() -> Self {
        let received: Arc<Mutex<Received>> = Arc::default();
        let router = axum::Router::new()
            .route("/alerts", axum::routing::post(receive))
            .with_state(Arc::clone(&received));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, received }
    }

    /// The key that the admin API showed when the endpoint was made.
    pub(crate) fn set_key(&self, key: &str) {
        self.received.lock().unwrap().key = key.to_owned();
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.received.lock().unwrap().events.clone()
    }
}

async fn receive(
    State(received): State<Arc<Mutex<Received>>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let mut received = received.lock().unwrap();
    if headers.get("x-convoy-key").is_none_or(|key| *key != *received.key) {
        return StatusCode::UNAUTHORIZED;
    }
    received.events.push(serde_json::from_slice(&body).unwrap());
    StatusCode::NO_CONTENT
}
