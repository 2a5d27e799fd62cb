//! The way to DynamoDB: what is asked for is signed, sent, and tried again.
//!
//! DynamoDB is called more often than everything else together, some calls a record, and the SDK's client for it took
//! half of the ingest function's processor time (`docs/adr/0014-dynamodb-without-its-sdk.md`). So here are six operations
//! without it, over the SDK's own signer, credentials and HTTP.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use axum::http;
use bytes::Bytes;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::ports::PortError;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::attributes::Item;
use super::request::{Answer, Operation, Refusal, Request};
use super::{CALLS_AT_ONCE, SERVICE};
use crate::backoff::Backoff;
use crate::clients::{ATTEMPT_TIMEOUT, ATTEMPTS_MAX, FIRST_PAUSE, Http, LONGEST_PAUSE};
use crate::error::{answered, chain, is_later, refused, unavailable};

/// Between tries of a call.
const PAUSES: Backoff = Backoff { attempts_max: ATTEMPTS_MAX, first: FIRST_PAUSE, longest: LONGEST_PAUSE };
/// Tries again that a process has in hand at most.
const TRIES_MAX: f64 = 1_000.0;
/// Tries again that come back a second.
const TRIES_PER_S: f64 = 20.0;
/// An answer at most, bytes: a page of a megabyte, of which every byte may be written as base 64, and room.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Credentials are asked for again this long before they end.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);

/// A client. Clones share connections, credentials and tries.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// With a path: `https://dynamodb.eu-central-1.amazonaws.com/`.
    url: http::Uri,
    region: String,
    credentials: Option<SharedCredentialsProvider>,
    identity: tokio::sync::Mutex<Option<Identity>>,
    http: Http,
    ambient: Ambient,
    permits: Semaphore,
    tries: std::sync::Mutex<Tries>,
}

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum Failed {
    /// The condition of the write does not hold; because of this item, where it was asked for and there is one.
    Condition(Option<Item>),
    /// The transaction was cancelled; a code for each write.
    Cancelled(Vec<String>),
    /// Anything else.
    Port(PortError),
}

impl From<Failed> for PortError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Condition(_) => refused(SERVICE, "a condition does not hold"),
            Failed::Cancelled(codes) => refused(SERVICE, format!("transaction cancelled: {codes:?}")),
            Failed::Port(error) => error,
        }
    }
}

/// What came of one try.
enum Outcome {
    Done(Answer),
    Failed(Failed),
    /// Another one may succeed.
    Again(PortError),
}

/// Tries again that are left.
///
/// They bound what a process adds to the load of a service in trouble. They come back with time and not with success: a
/// put under a condition whose answer got lost does not succeed, for its condition no longer holds, and a process that
/// lived through an outage would never try again until its end.
struct Tries {
    left: f64,
    at_us: i64,
}

impl Tries {
    /// Takes one, where there is one.
    fn take(&mut self, now_us: i64) -> bool {
        let passed_us = now_us.saturating_sub(self.at_us).max(0);
        self.left = (self.left + passed_us as f64 / 1e6 * TRIES_PER_S).min(TRIES_MAX);
        self.at_us = now_us;
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

/// Where a region's DynamoDB is (AWS General Reference, "Amazon DynamoDB endpoints and quotas").
fn endpoint(region: &str) -> String {
    let domain = match region {
        china if china.starts_with("cn-") => "amazonaws.com.cn",
        sovereign if sovereign.starts_with("eusc-") => "amazonaws.eu",
        _ => "amazonaws.com",
    };
    format!("https://dynamodb.{region}.{domain}")
}

impl Client {
    /// A client for the place and with the credentials of `config`.
    ///
    /// # Errors
    /// Where there is no region, or the endpoint is no URL.
    pub fn new(config: &SdkConfig, http: Http, ambient: Ambient) -> Result<Self, PortError> {
        let region = config.region().ok_or_else(|| refused(SERVICE, "there is no region"))?.to_string();
        let endpoint = config.endpoint_url().map_or_else(|| endpoint(&region), str::to_owned);
        let url = format!("{}/", endpoint.trim_end_matches('/'));
        let url =
            url.parse().map_err(|_| refused(SERVICE, format!("its endpoint {endpoint:?} is no URL")))?;
        let tries = Tries { left: TRIES_MAX, at_us: ambient.now_us() };
        Ok(Self(Arc::new(Inner {
            url,
            region,
            credentials: config.credentials_provider(),
            identity: tokio::sync::Mutex::default(),
            http,
            ambient,
            permits: Semaphore::new(CALLS_AT_ONCE),
            tries: tries.into(),
        })))
    }

    /// Makes a call: up to [`ATTEMPTS_MAX`] tries.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Answer, Failed> {
        let body = serde_json::to_vec(request);
        let body = body.map_err(|_| Failed::Port(refused(SERVICE, "the request cannot be written")))?;
        let body = Bytes::from(body);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.attempt(request.operation, &body).await {
                Outcome::Done(answer) => return Ok(answer),
                Outcome::Failed(failed) => return Err(failed),
                Outcome::Again(error) => error,
            };
            let may_try = {
                let mut tries = self.0.tries.lock().unwrap_or_else(PoisonError::into_inner);
                attempt < ATTEMPTS_MAX && tries.take(self.0.ambient.now_us())
            };
            if !may_try || !PAUSES.pause(attempt, &self.0.ambient).await {
                return Err(Failed::Port(error));
            }
        }
    }

    /// All items of all pages.
    pub(super) async fn items(&self, query: Request<'_>) -> Result<Vec<Item>, PortError> {
        let (mut items, mut next) = (Vec::new(), query);
        loop {
            let page = self.send(&next).await?;
            items.extend(page.items);
            if page.last_evaluated_key.is_none() {
                return Ok(items);
            }
            next = next.after(page.last_evaluated_key);
        }
    }

    async fn attempt(&self, operation: Operation, body: &Bytes) -> Outcome {
        // Never closed; without a permit one call more would be made, and that is all.
        let _permit = self.0.permits.acquire().await.ok();
        let request = match self.signed(operation, body).await {
            Ok(request) => request,
            Err(error) if error.is_transient() => return Outcome::Again(error),
            Err(error) => return Outcome::Failed(Failed::Port(error)),
        };
        let exchange = async {
            let response = match self.0.http.call(request).await {
                Ok(response) => response,
                Err(error) => {
                    return Err(unavailable(SERVICE, format!("request not sent: {}", chain(&error))));
                }
            };
            let status = response.status().as_u16();
            Ok((status, body_of(response).await?))
        };
        match timeout(ATTEMPT_TIMEOUT, exchange).await {
            Err(_) => Outcome::Again(unavailable(SERVICE, "no answer in time")),
            Ok(Err(error)) => Outcome::Again(error),
            Ok(Ok((200, answer))) => match serde_json::from_slice(&answer) {
                Ok(answer) => Outcome::Done(answer),
                Err(_) => Outcome::Again(unavailable(SERVICE, "its answer could not be read")),
            },
            Ok(Ok((status, answer))) => {
                // What is not DynamoDB's own, of a proxy perhaps, says no more than its status.
                let refusal: Refusal = serde_json::from_slice(&answer).unwrap_or_default();
                if refusal.code().is_some_and(|code| code.starts_with("ExpiredToken")) {
                    *self.0.identity.lock().await = None;
                }
                not_done(status, refusal)
            }
        }
    }

    async fn signed(&self, operation: Operation, body: &Bytes) -> Result<HttpRequest, PortError> {
        const CONTENT_TYPE: &str = "application/x-amz-json-1.0";
        let wrong = |error: &dyn std::fmt::Display| refused(SERVICE, format!("cannot be signed: {error}"));
        let now =
            SystemTime::UNIX_EPOCH + Duration::from_micros(self.0.ambient.now_us().max(0).cast_unsigned());
        let identity = self.identity(now).await?;
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.0.region)
            .name("dynamodb")
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| wrong(&error))?
            .into();
        let headers = [("content-type", CONTENT_TYPE), ("x-amz-target", operation.target())];
        let url = self.0.url.to_string();
        let signable = SignableRequest::new("POST", &url, headers.into_iter(), SignableBody::Bytes(body));
        let signable = signable.map_err(|error| wrong(&error))?;
        let (instructions, _) = sign(signable, &parameters).map_err(|error| wrong(&error))?.into_parts();
        let mut request = http::Request::post(self.0.url.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut request = request.body(SdkBody::from(body.clone())).map_err(|error| wrong(&error))?;
        instructions.apply_to_request_http1x(&mut request);
        request.try_into().map_err(|error| wrong(&error))
    }

    async fn identity(&self, now: SystemTime) -> Result<Identity, PortError> {
        let mut held = self.0.identity.lock().await;
        let lasts = |identity: &&Identity| identity.expiration().is_none_or(|end| end > now + RENEWED_BEFORE);
        if let Some(identity) = held.as_ref().filter(lasts) {
            return Ok(identity.clone());
        }
        let provider = self.0.credentials.as_ref();
        let provider = provider.ok_or_else(|| refused(SERVICE, "there are no credentials"))?;
        let found = provider.provide_credentials().await;
        let found =
            found.map_err(|error| unavailable(SERVICE, format!("no credentials: {}", chain(&error))))?;
        let identity = Identity::from(found);
        *held = Some(identity.clone());
        Ok(identity)
    }
}

async fn body_of(response: HttpResponse) -> Result<Vec<u8>, PortError> {
    let mut stream = ByteStream::new(response.into_body());
    let mut body = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|error| unavailable(SERVICE, format!("answer cut off: {}", chain(&error))))?;
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(unavailable(SERVICE, format!("its answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What an answer that is not 200 says.
fn not_done(status: u16, refusal: Refusal) -> Outcome {
    let code = refusal.code();
    match code {
        Some("ConditionalCheckFailedException") => return Outcome::Failed(Failed::Condition(refusal.item)),
        Some("TransactionCanceledException") => {
            let codes = refusal.reasons.into_iter().map(|reason| reason.code.unwrap_or_default());
            return Outcome::Failed(Failed::Cancelled(codes.collect()));
        }
        _ => {}
    }
    let error = answered(SERVICE, status, code, refusal.message.as_deref());
    if status >= 500 || status == 429 || code.is_some_and(is_later) {
        Outcome::Again(error)
    } else {
        Outcome::Failed(Failed::Port(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_of_regions_has_its_domain() {
        let endpoints = ["eu-central-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1"].map(endpoint);
        let expected = [
            "https://dynamodb.eu-central-1.amazonaws.com",
            "https://dynamodb.us-gov-west-1.amazonaws.com",
            "https://dynamodb.cn-north-1.amazonaws.com.cn",
            "https://dynamodb.eusc-de-east-1.amazonaws.eu",
        ];
        assert_eq!(endpoints, expected);
    }

    #[test]
    fn tries_end_and_come_back_with_time() {
        let mut tries = Tries { left: TRIES_MAX, at_us: 0 };
        let count = |tries: &mut Tries, now_us| (0..2_000).take_while(|_| tries.take(now_us)).count();
        assert_eq!(count(&mut tries, 0), 1_000);
        assert_eq!(count(&mut tries, 49_999), 0);
        assert_eq!(count(&mut tries, 1_000_000), 20);
        assert_eq!(count(&mut tries, 0), 0, "a clock that was set back gives none");
        assert_eq!(count(&mut tries, i64::MAX), 1_000, "never more than at the start");
    }
}
