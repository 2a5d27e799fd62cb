//! Posts webhooks over HTTP: no redirects, no proxies, no addresses inside; and the task that keeps posting.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::counters::Counters;
use convoy_cloud_core::identity::WebhookEndpointId;
use convoy_cloud_core::ports::{CustomerQueue, WebhookRequest, WebhookResponse, WebhookSender};
use convoy_cloud_core::reference::{ReferenceDatabase, WebhookEndpoint};
use convoy_cloud_core::webhook::{Dispatcher, Poster, WebhookMasterKey, is_public};
use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Notify, Semaphore, watch};

/// Time for a whole attempt (Standard Webhooks asks for 15 to 30 s).
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Endpoints served at once, at most.
const ENDPOINTS_AT_ONCE: usize = 16;
/// Longest wait before the queues are looked at again.
const IDLE: Duration = Duration::from_secs(5);

/// Which addresses webhooks may reach.
#[derive(Debug, Clone)]
pub struct AddressPolicy {
    allow: Arc<[IpNet]>,
}

impl AddressPolicy {
    /// Public addresses, and these networks besides.
    pub fn new(allow: &[IpNet]) -> Self {
        Self { allow: allow.into() }
    }

    fn permits(&self, address: IpAddr) -> bool {
        is_public(address) || self.allow.iter().any(|network| network.contains(&address))
    }

    /// Why a URL may not be used, in one sentence.
    pub fn url_fault(&self, url: &str) -> Option<String> {
        let Ok(url) = Url::parse(url) else { return Some("is not a URL".into()) };
        match (url.scheme(), self.allow.is_empty()) {
            ("https", _) | ("http", false) => {}
            _ => return Some("must begin with https://".into()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Some("must not hold a user name or password".into());
        }
        match literal(&url) {
            Some(address) if !self.permits(address) => {
                Some(format!("leads to {address}, which is not a public address"))
            }
            _ => None,
        }
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Resolves names and leaves out addresses that webhooks may not reach. The connection is made to what was checked
/// here, so a name that changes its address in between gains nothing.
struct GuardedResolver(AddressPolicy);

#[derive(Debug, thiserror::Error)]
#[error("{host} has no public address")]
struct NoPublicAddress {
    host: String,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0))
                .await?
                .filter(|address| policy.permits(address.ip()))
                .collect();
            if found.is_empty() {
                return Err(NoPublicAddress { host }.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The sender.
pub struct HttpSender {
    client: reqwest::Client,
    policy: AddressPolicy,
}

impl HttpSender {
    /// A sender under a policy.
    pub fn new(policy: AddressPolicy) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("convoy/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(GuardedResolver(policy.clone()))
            .build()
            .context("set up the HTTP client")?;
        Ok(Self { client, policy })
    }
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<NoPublicAddress>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[async_trait]
impl WebhookSender for HttpSender {
    async fn post(&self, request: &WebhookRequest) -> WebhookResponse {
        if let Some(fault) = self.policy.url_fault(&request.url) {
            return WebhookResponse::AddressRefused(format!("the URL {fault}"));
        }
        let mut post = self
            .client
            .post(&request.url)
            .header("content-type", "application/cloudevents+json")
            .body(request.body.clone());
        for (name, value) in &request.headers {
            post = post.header(*name, value);
        }
        match post.send().await {
            Ok(answer) => WebhookResponse::Status {
                code: answer.status().as_u16(),
                retry_after_s: answer
                    .headers()
                    .get("retry-after")
                    .and_then(|value| value.to_str().ok())
                    .and_then(|value| value.parse().ok()),
            },
            Err(error) if is_refused(&error) => {
                WebhookResponse::AddressRefused("the URL leads to no public address".into())
            }
            Err(error) => WebhookResponse::NoAnswer(error.without_url().to_string()),
        }
    }
}

/// What the dispatching task works on.
#[derive(Clone)]
pub struct Webhooks {
    /// Where endpoints are kept.
    pub reference: Arc<dyn ReferenceDatabase>,
    /// Where events wait.
    pub queue: Arc<dyn CustomerQueue>,
    /// How they are posted.
    pub sender: Arc<dyn WebhookSender>,
    /// Signs them.
    pub key: WebhookMasterKey,
    /// Time and jitter.
    pub ambient: Ambient,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Wakes the task when something was queued.
    pub sent: Arc<Notify>,
}

/// Posts what waits, each endpoint on its own, so that a slow one holds up nobody else.
pub async fn run(webhooks: Webhooks, mut shutdown: watch::Receiver<bool>) -> Result<()> {
    let busy: Arc<Mutex<HashSet<WebhookEndpointId>>> = Arc::default();
    let slots = Arc::new(Semaphore::new(ENDPOINTS_AT_ONCE));
    loop {
        match webhooks.reference.endpoints().await {
            Ok(endpoints) => {
                for endpoint in endpoints {
                    let free = lock(&busy).insert(endpoint.id.clone());
                    if free {
                        tokio::spawn(serve(
                            webhooks.clone(),
                            endpoint,
                            Arc::clone(&busy),
                            Arc::clone(&slots),
                        ));
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "webhooks: endpoints cannot be read, trying again"),
        }
        let idle = until_next(&webhooks).await;
        tokio::select! {
            () = webhooks.sent.notified() => {}
            () = tokio::time::sleep(idle) => {}
            _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

/// Time until the next message is due; at least 10 ms so that a message under way is not polled for.
async fn until_next(webhooks: &Webhooks) -> Duration {
    let next_us = webhooks.queue.next_webhook_us().await.ok().flatten();
    let wait_us = next_us.map_or(i64::MAX, |next_us| next_us - webhooks.ambient.now_us());
    Duration::from_micros(wait_us.max(10_000).unsigned_abs()).min(IDLE)
}

async fn serve(
    webhooks: Webhooks,
    mut endpoint: WebhookEndpoint,
    busy: Arc<Mutex<HashSet<WebhookEndpointId>>>,
    slots: Arc<Semaphore>,
) {
    let dispatcher = Dispatcher {
        reference: webhooks.reference.as_ref(),
        queue: webhooks.queue.as_ref(),
        poster: Poster { sender: webhooks.sender.as_ref(), key: &webhooks.key, ambient: &webhooks.ambient },
        counters: &webhooks.counters,
    };
    // A slot is given back after each batch: an endpoint that hangs waits behind the others for its next one.
    while let Ok(_slot) = slots.acquire().await {
        let outcome = match dispatcher.dispatch(&endpoint).await {
            Ok(true) => webhooks.reference.endpoint(&endpoint.id).await,
            Ok(false) => break,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Some(current)) => endpoint = current,
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(endpoint.id = %endpoint.id, %error, "webhooks: trying again");
                break;
            }
        }
    }
    lock(&busy).remove(&endpoint.id);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_inside_are_refused_and_an_allowed_network_opens_them() {
        let closed = AddressPolicy::new(&[]);
        for url in [
            "http://example.com/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://169.254.169.254/latest",
            "https://10.1.2.3/",
            "https://0x7f000001/",
            "https://2130706433/",
            "https://u:p@example.com/",
            "ftp://x/",
            "nonsense",
        ] {
            assert!(closed.url_fault(url).is_some(), "{url}");
        }
        assert_eq!(closed.url_fault("https://fleet.example/hook"), None);
        let open = AddressPolicy::new(&["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(open.url_fault("http://127.0.0.1:9000/hook"), None);
        assert!(open.url_fault("http://10.0.0.1/").is_some());
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_at_the_connection() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sender = HttpSender::new(AddressPolicy::new(&[])).unwrap();
        let request =
            WebhookRequest { url: "https://localhost:9/".into(), headers: vec![], body: b"{}".to_vec() };
        assert!(matches!(sender.post(&request).await, WebhookResponse::AddressRefused(_)));
    }
}
