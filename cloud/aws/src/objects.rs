//! The bucket: archive, quarantine, dead letters and bodies that are too large for an item.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use axum::http;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use tokio::time::timeout;

use crate::clients::{FIRST_PAUSE, Http, LONGEST_PAUSE, Place};

/// One request ends after this time; the largest object is an hour's archive of some 64 MB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of a request after the first.
const RETRIES_MAX: usize = 4;
/// No try begins later than this after the first.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a bucket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Data would travel readable by others.
    #[error("AWS_ENDPOINT_URL is {0}: http is taken on this machine only, use https")]
    PlainHttp(String),
    /// As above, from wherever the host's name came.
    #[error("http to {0:?} would travel readable by others, use https")]
    PlainHost(String),
    /// What the builder said.
    #[error("bucket cannot be opened")]
    Builder(#[from] object_store::Error),
}

/// S3 over the connections that the other services use: with a client of its own it would load the TLS roots once more.
#[derive(Debug, Clone)]
struct Connections(Http);

impl HttpConnector for Connections {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connections {
    /// Returns when the whole answer is there: all that is read is used as a whole.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri();
        if uri.scheme() != Some(&http::uri::Scheme::HTTPS) && !is_near(uri.host().unwrap_or_default()) {
            let error = OpenError::PlainHost(uri.host().unwrap_or_default().to_owned());
            return Err(HttpError::new(HttpErrorKind::Unknown, error));
        }
        let malformed = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let request = request.map(SdkBody::from_body_1_x).try_into().map_err(malformed)?;
        let exchange = async {
            let response = self.0.call(request).await.map_err(failed)?;
            let (parts, body) = response.try_into_http1x().map_err(malformed)?.into_parts();
            let body = ByteStream::new(body).collect().await;
            let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
            Ok(http::Response::from_parts(parts, body.into_bytes().into()))
        };
        let late = |error| Err(HttpError::new(HttpErrorKind::Timeout, error));
        timeout(REQUEST_TIMEOUT, exchange).await.unwrap_or_else(late)
    }
}

/// Is this host on this machine or, as the container's agent that gives credentials, on its link?
fn is_near(host: &str) -> bool {
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_near = |address| match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback(),
    };
    host == "localhost" || address.is_some_and(is_near)
}

fn failed(error: ConnectorError) -> HttpError {
    let kind = if error.is_timeout() { HttpErrorKind::Timeout } else { HttpErrorKind::Interrupted };
    HttpError::new(kind, error)
}

/// Opens a bucket. Credentials come from the environment, as [`AmazonS3Builder::from_env`] reads them.
///
/// # Errors
/// Where data would travel readable by others, or what the environment says makes no bucket.
pub fn open(place: &Place, bucket: &str, http: Http) -> Result<AmazonS3, OpenError> {
    open_with(AmazonS3Builder::from_env(), place, bucket, http)
}

/// Opens a bucket with what else the builder holds.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    builder: AmazonS3Builder,
    place: &Place,
    bucket: &str,
    http: Http,
) -> Result<AmazonS3, OpenError> {
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    let retry = RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT };
    let mut builder = builder
        .with_bucket_name(bucket)
        .with_region(&place.region)
        .with_http_connector(Connections(http))
        .with_retry(retry);
    if let Some(url) = &place.endpoint_url {
        let host = url.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
        if !url.starts_with("https://") && !is_near(host.as_deref().unwrap_or_default()) {
            return Err(OpenError::PlainHttp(url.clone()));
        }
        builder = builder.with_endpoint(url);
    }
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_taken_on_this_machine_and_its_link_only() {
        let opened = |url: &str| {
            let place = Place { region: "r".into(), endpoint_url: Some(url.into()) };
            open(&place, "bucket", Http::default()).map(drop).map_err(|error| error.to_string())
        };
        for url in ["http://127.0.0.1:4566", "http://localhost:1/", "http://[::1]:9", "http://127.1.2.3"] {
            assert_eq!(opened(url), Ok(()), "{url}");
        }
        assert_eq!(opened("https://10.0.0.1"), Ok(()));
        for url in [
            "http://10.0.0.1:80",
            "http://localhost.example.com",
            "http://127.0.0.1@example.com/",
            "http://[2001:db8::1]/",
            "ftp://example.com",
        ] {
            let expected =
                format!("AWS_ENDPOINT_URL is {url}: http is taken on this machine only, use https");
            assert_eq!(opened(url), Err(expected));
        }
        assert!(is_near("169.254.170.2") && !is_near("170.254.169.2"));
    }

    /// Other variables than the one that is checked can name an endpoint.
    #[tokio::test]
    async fn a_request_over_plain_http_to_another_machine_is_not_sent() {
        let service = Connections(Http::default());
        let request = http::Request::get("http://192.0.2.1/bucket/key").body(Vec::new().into()).unwrap();
        let error = service.call(request).await.unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Unknown);
        assert!(format!("{error}").contains("192.0.2.1"), "{error}");
    }
}
