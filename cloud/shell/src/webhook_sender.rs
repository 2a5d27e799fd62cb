//! Posts webhooks over HTTP: no redirects, no proxies, no addresses inside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use convoy_cloud_core::ports::{WebhookRequest, WebhookResponse, WebhookSender};
use convoy_cloud_core::webhook::is_public;
use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Time for a whole attempt (Standard Webhooks asks for 15 to 30 s).
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
