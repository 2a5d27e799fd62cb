//! The demo's customers at work: they pull and acknowledge their queues, and receive alerts by webhook.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::onboard::Caller;

const PULL_MESSAGES: u32 = 100;
/// Pause after an empty queue or a failed call.
const PAUSE: Duration = Duration::from_millis(200);

/// What customers have received.
pub(super) struct Deliveries {
    started: Instant,
    first: OnceLock<f64>,
    pulled: AtomicU64,
    alerts: AtomicU64,
}

impl Deliveries {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, first: OnceLock::new(), pulled: AtomicU64::new(0), alerts: AtomicU64::new(0) }
    }

    fn received(&self, counter: &AtomicU64, count: u64) {
        if count > 0 {
            self.first.get_or_init(|| self.started.elapsed().as_secs_f64());
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Events pulled from queues.
    pub(super) fn pulled(&self) -> u64 {
        self.pulled.load(Ordering::Relaxed)
    }

    /// Alerts received by webhook.
    pub(super) fn alerts(&self) -> u64 {
        self.alerts.load(Ordering::Relaxed)
    }

    /// When the first event was in a customer's hands, seconds after the start.
    pub(super) fn first_event_s(&self) -> Option<f64> {
        self.first.get().copied()
    }
}

/// A customer with its key.
pub(super) struct Customer {
    pub(super) caller: Caller,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) key: String,
}

/// Both customers.
pub(super) struct Customers {
    /// Queues that the demo empties itself.
    pub(super) pulled: Vec<(Caller, String)>,
    /// The customer whose key is shown.
    pub(super) shown: Customer,
    /// A subscription of it whose queue is the user's to pull.
    pub(super) left_to_the_user: String,
}

impl Customers {
    /// Pulls and acknowledges until the demo ends.
    pub(super) fn start_pulling(&self, deliveries: &Arc<Deliveries>, stop: &watch::Receiver<bool>) {
        for (caller, subscription) in self.pulled.clone() {
            let (deliveries, mut stop) = (Arc::clone(deliveries), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = pull(&caller, &subscription, &deliveries) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            });
        }
    }
}

async fn pull(caller: &Caller, subscription: &str, deliveries: &Deliveries) {
    let base = format!("/v1/subscriptions/{subscription}/stream");
    loop {
        match pull_once(caller, &base).await {
            Ok(0) => tokio::time::sleep(PAUSE).await,
            Ok(count) => deliveries.received(&deliveries.pulled, count),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "demo customer: trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn pull_once(caller: &Caller, base: &str) -> Result<u64> {
    let pulled = caller.post(&format!("{base}/pull"), &json!({"max_messages": PULL_MESSAGES})).await?;
    let receipts: Vec<&Value> =
        pulled["messages"].as_array().into_iter().flatten().map(|message| &message["receipt"]).collect();
    if receipts.is_empty() {
        return Ok(0);
    }
    let acked = caller.post(&format!("{base}/ack"), &json!({"receipts": receipts})).await?;
    acked["accepted"].as_u64().context("the answer has no accepted")
}

/// The first customer's HTTP endpoint, on a free loopback port.
pub(super) async fn receive_webhooks(
    deliveries: Arc<Deliveries>,
    mut stop: watch::Receiver<bool>,
) -> Result<SocketAddr> {
    let listener =
        tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.context("open the webhook receiver")?;
    let address = listener.local_addr()?;
    let alerts = |State(deliveries): State<Arc<Deliveries>>| async move {
        deliveries.received(&deliveries.alerts, 1);
        StatusCode::NO_CONTENT
    };
    let router = axum::Router::new().route("/alerts", axum::routing::post(alerts)).with_state(deliveries);
    tokio::spawn(async move {
        tokio::select! {
            _ = axum::serve(listener, router).into_future() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
    Ok(address)
}
