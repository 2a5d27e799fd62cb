//! A fleet application's client: pulls the queue of a subscription, acknowledges, drops duplicates, and receives
//! signed webhooks. Start from this one for your own.
//!
//! ```text
//! export CONVOY_KEY=cvk_...
//! cargo run --release -p convoy --example fleet_client -- --base http://127.0.0.1:8080 --subscription sub_...
//! cargo run --release -p convoy --example fleet_client -- --base http://127.0.0.1:8080 --subscription sub_... \
//!     --webhook-listen 127.0.0.1:8090 --webhook-secret whsec_... --count 10
//! ```
//!
//! What to know about the queue:
//!
//! - **Lease.** A pulled message is hidden from other pulls for `lease_s` seconds. Work on it, then acknowledge. Without
//!   an acknowledgement it comes again, with a new receipt; the old receipt is stale from then on.
//! - **Duplicates.** Delivery is at least once, by queue and by webhook. An event has the same `id` each time it comes,
//!   so an application remembers the ids it has worked on, in the same transaction as the work if it can.
//! - **Order.** None is promised. Events of one vehicle and lane are numbered by `data.boot` and `data.seq`, and samples
//!   carry their own times. Who needs an order without gaps or repeats reads the feed.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use clap::Parser;
use serde::Deserialize;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::sync::{mpsc, oneshot};

/// Messages asked for at once.
const PULL_MESSAGES: u32 = 100;
/// Long enough for a batch of work; an application that dies gives its messages back after this time.
const LEASE_S: u32 = 30;
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Ids remembered for dropping duplicates. An application that must survive its own restarts keeps them on disk.
const IDS_REMEMBERED_MAX: usize = 100_000;
/// Webhooks waiting for the application, at most; beyond it the sender waits, and tries again later.
const WEBHOOKS_WAITING_MAX: usize = 1_000;

/// Pulls events of a subscription of Convoy and prints one line an event. The API key is read from CONVOY_KEY.
#[derive(Parser)]
struct Arguments {
    /// Where Convoy's API is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    base: String,
    /// The subscription whose queue is pulled
    #[arg(long, value_name = "SUB")]
    subscription: String,
    /// Receive webhooks here, at any path
    #[arg(long, value_name = "ADDR", requires = "webhook_secret")]
    webhook_listen: Option<SocketAddr>,
    /// Secret of the webhook endpoint, shown once when it was made
    #[arg(long, value_name = "SECRET", requires = "webhook_listen")]
    webhook_secret: Option<String>,
    /// Stop after this many different events, pulled or by webhook; runs until Ctrl-C without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// What of an event this program looks at: CloudEvents 1.0 in JSON. Fields may be added by later versions, so
/// unknown ones are ignored.
#[derive(Deserialize)]
struct Event {
    id: String,
    r#type: String,
    /// The vehicle, under the name that only this customer knows it by.
    subject: String,
    data: Value,
}

impl Event {
    fn line(&self, way: &str) -> String {
        let content = if let Some(samples) = self.data["samples"].as_u64() {
            format!("{samples} samples")
        } else if let Some(changes) = self.data["changes"].as_array() {
            format!("{} changes of trouble codes", changes.len())
        } else {
            self.data["alert"].to_string()
        };
        format!("{way:<7} {} {} {} {content}", self.id, self.subject, self.r#type)
    }
}

#[derive(Deserialize)]
struct Pulled {
    messages: Vec<Message>,
    /// When it makes sense to ask again, after an empty answer.
    poll_after_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Message {
    receipt: String,
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Acked {
    stale: u64,
}

/// The queue of one subscription.
struct Queue {
    client: reqwest::Client,
    url: String,
    key: String,
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
enum CallError {
    /// It may work later: the network, a restart, or too many requests.
    #[error("no answer to use: {0}")]
    Transient(String),
    /// It will not: a wrong key or a foreign subscription.
    #[error("{0}")]
    Refused(String),
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        Self::Transient(error.to_string())
    }
}

impl Queue {
    async fn pull(&self) -> Result<Pulled, CallError> {
        self.call("pull", &json!({"max_messages": PULL_MESSAGES, "lease_s": LEASE_S})).await
    }

    async fn ack(&self, receipts: &[String]) -> Result<Acked, CallError> {
        self.call("ack", &json!({"receipts": receipts})).await
    }

    async fn call<T: for<'de> Deserialize<'de>>(&self, name: &str, body: &Value) -> Result<T, CallError> {
        let url = format!("{}/{name}", self.url);
        let answer = self.client.post(url).bearer_auth(&self.key).json(body).send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.json().await?);
        }
        // Errors are RFC 9457 problems; `detail` is the sentence for people.
        let problem: Value = answer.json().await.unwrap_or_default();
        let reason =
            format!("{name} answered {status}: {}", problem["detail"].as_str().unwrap_or("no reason"));
        let may_work_later = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Err(if may_work_later { CallError::Transient(reason) } else { CallError::Refused(reason) })
    }
}

/// Ids of the newest events that were worked on.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    /// Remembers an id; `false` if it was there.
    fn insert(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > IDS_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// The application: what it does with an event is to print it.
struct Application {
    seen: Seen,
    handled: u64,
    duplicates: u64,
    count: Option<u64>,
}

impl Application {
    #[expect(clippy::print_stdout, reason = "the command's output")]
    fn handle(&mut self, event: &Event, way: &str) {
        if self.seen.insert(&event.id) {
            println!("{}", event.line(way));
            self.handled += 1;
        } else {
            self.duplicates += 1;
        }
    }

    fn is_done(&self) -> bool {
        self.count.is_some_and(|count| self.handled >= count)
    }
}

/// An event that came by webhook; the sender is answered when the application is done with it.
struct Posted {
    event: Event,
    handled: oneshot::Sender<()>,
}

struct Receiver {
    webhook: Webhook,
    posted: mpsc::Sender<Posted>,
}

/// Answers 204 only when the event has been worked on: what is answered with 2xx never comes again.
async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    // The signature is over the bytes as they came, so it is checked before they are parsed. It covers the id and the
    // time as well; a copy replayed more than five minutes later is refused.
    if let Err(error) = receiver.webhook.verify(&body, &headers) {
        complain(&format!("webhook refused: {error}"));
        return StatusCode::BAD_REQUEST;
    }
    let Ok(event) = serde_json::from_slice(&body) else {
        complain("webhook refused: it is signed, but no event");
        return StatusCode::BAD_REQUEST;
    };
    let (handled, done) = oneshot::channel();
    let is_handled = receiver.posted.send(Posted { event, handled }).await.is_ok() && done.await.is_ok();
    if is_handled { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn listen(address: SocketAddr, secret: &str) -> Result<mpsc::Receiver<Posted>> {
    let webhook = Webhook::new(secret).context("--webhook-secret is not a whsec_... as Convoy gave it")?;
    let (posted, webhooks) = mpsc::channel(WEBHOOKS_WAITING_MAX);
    let receiver = Arc::new(Receiver { webhook, posted });
    let router = Router::new().fallback(post(receive)).with_state(receiver);
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} for webhooks"))?;
    tokio::spawn(axum::serve(listener, router).into_future());
    Ok(webhooks)
}

async fn run(arguments: Arguments) -> Result<Application> {
    let key = std::env::var("CONVOY_KEY").context("set CONVOY_KEY to the customer's API key")?;
    let client = reqwest::Client::builder().timeout(TIMEOUT).build().context("set up the HTTP client")?;
    let base = arguments.base.trim_end_matches('/');
    let url = format!("{base}/v1/subscriptions/{}/stream", arguments.subscription);
    let queue = Queue { client, url, key };
    let mut webhooks = match arguments.webhook_listen.zip(arguments.webhook_secret) {
        Some((address, secret)) => listen(address, &secret).await?,
        // A closed channel: no webhook ever comes.
        None => mpsc::channel(1).1,
    };
    let mut application =
        Application { seen: Seen::default(), handled: 0, duplicates: 0, count: arguments.count };
    let mut wait = Duration::ZERO;
    let mut retry = RETRY_MIN;
    while !application.is_done() {
        tokio::select! {
            () = tokio::time::sleep(wait) => match pull_once(&queue, &mut application).await {
                Ok(next) => (wait, retry) = (next, RETRY_MIN),
                Err(CallError::Refused(reason)) => bail!(reason),
                Err(error @ CallError::Transient(_)) => {
                    complain(&format!("{error}; trying again"));
                    (wait, retry) = (retry, (retry * 2).min(RETRY_MAX));
                }
            },
            Some(posted) = webhooks.recv() => {
                application.handle(&posted.event, "webhook");
                // The sender may have hung up meanwhile: it tries again, and the id tells that it is a duplicate.
                let _ = posted.handled.send(());
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    Ok(application)
}

/// Pulls, works, acknowledges, in this order: acknowledging first would lose what a crash leaves undone. Returns how
/// long to wait before the next pull.
async fn pull_once(queue: &Queue, application: &mut Application) -> Result<Duration, CallError> {
    let pulled = queue.pull().await?;
    let mut receipts = Vec::with_capacity(pulled.messages.len());
    for message in pulled.messages {
        // What is left when enough events have come is not acknowledged, and comes again after its lease.
        if application.is_done() {
            break;
        }
        message.events.iter().for_each(|event| application.handle(event, "queue"));
        // A duplicate is acknowledged like any other, else it would come for ever.
        receipts.push(message.receipt);
    }
    if !receipts.is_empty() {
        let stale = queue.ack(&receipts).await?.stale;
        if stale > 0 {
            complain(&format!(
                "{stale} leases had ended before the acknowledgement: these events come again"
            ));
        }
    }
    Ok(Duration::from_millis(pulled.poll_after_ms.unwrap_or(0)))
}

#[expect(clippy::print_stderr, reason = "the command's output")]
fn complain(sentence: &str) {
    eprintln!("fleet_client: {sentence}");
}

#[tokio::main]
async fn main() -> ExitCode {
    // The provider of TLS for https:// bases; nobody else sets one in this process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Arguments::parse()).await {
        Ok(application) => {
            let Application { handled, duplicates, .. } = application;
            complain(&format!("{handled} events, {duplicates} duplicates dropped"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
