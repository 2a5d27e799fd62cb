//! A customer's HTTP endpoint that asks for a proof: a signature, which the official Standard Webhooks library verifies,
//! or the key of an endpoint of the basic class.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;

/// What an endpoint was told to expect when it was made.
enum Proof {
    Signature(Webhook),
    Key(String),
}

/// What arrived: events with a good proof, and how many had none.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) events: Vec<Value>,
    pub(crate) unsigned: u32,
    proof: Option<Proof>,
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
        self.received.lock().unwrap().proof = Some(Proof::Signature(Webhook::new(secret).unwrap()));
    }

    /// The same of an endpoint of the basic class.
    #[allow(dead_code, reason = "one of the suites that share this has no such endpoint")]
    pub(crate) fn set_key(&self, key: &str) {
        self.received.lock().unwrap().proof = Some(Proof::Key(key.to_owned()));
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
    let event: Value = serde_json::from_slice(&body).unwrap();
    let is_proved = match received.proof.as_ref().unwrap() {
        Proof::Signature(webhook) => {
            webhook.verify(&body, &headers).is_ok() && headers["webhook-id"] == event["id"].as_str().unwrap()
        }
        Proof::Key(key) => headers.get("x-convoy-key").is_some_and(|sent| sent == key),
    };
    if !is_proved {
        received.unsigned += 1;
        return StatusCode::BAD_REQUEST;
    }
    received.events.push(event);
    StatusCode::NO_CONTENT
}
