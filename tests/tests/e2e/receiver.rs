//! A customer's HTTP endpoint that verifies signatures with the official Standard Webhooks library.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;

/// What arrived: events with a good signature, and how many had a bad one.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) events: Vec<Value>,
    pub(crate) unsigned: u32,
    secret: String,
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    pub(crate) received: Arc<Mutex<Received>>,
}

impl Receiver {
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

    /// The secret that the admin API showed when the endpoint was made.
    pub(crate) fn set_secret(&self, secret: &str) {
        self.received.lock().unwrap().secret = secret.to_owned();
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
    let verified = Webhook::new(&received.secret).unwrap().verify(&body, &headers);
    let event: Value = serde_json::from_slice(&body).unwrap();
    if verified.is_err() || headers["webhook-id"] != event["id"].as_str().unwrap() {
        received.unsigned += 1;
        return StatusCode::BAD_REQUEST;
    }
    received.events.push(event);
    StatusCode::NO_CONTENT
}
