//! The bucket: archive, quarantine, dead letters and bodies that are too large for an item.

use std::net::IpAddr;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use crate::clients::{CONNECT_TIMEOUT, FIRST_PAUSE, LONGEST_PAUSE, Place};

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
    #[error("AWS_ENDPOINT_URL is {0}: http is taken on loopback only, use https")]
    PlainHttp(String),
    /// What the builder said.
    #[error("bucket cannot be opened")]
    Builder(#[from] object_store::Error),
}

/// Opens a bucket. Credentials come from the environment, as [`AmazonS3Builder::from_env`] reads them.
pub fn open(place: &Place, bucket: &str) -> Result<AmazonS3, OpenError> {
    open_with(AmazonS3Builder::from_env(), place, bucket)
}

/// Opens a bucket with what else the builder holds.
pub fn open_with(builder: AmazonS3Builder, place: &Place, bucket: &str) -> Result<AmazonS3, OpenError> {
    let options = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_allow_http(false);
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    let retry = RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT };
    let mut builder = builder
        .with_bucket_name(bucket)
        .with_region(&place.region)
        .with_client_options(options)
        .with_retry(retry);
    if let Some(url) = &place.endpoint_url {
        if url.starts_with("http://") && !is_loopback(url) {
            return Err(OpenError::PlainHttp(url.clone()));
        }
        builder = builder.with_endpoint(url).with_allow_http(is_loopback(url));
    }
    Ok(builder.build()?)
}

/// Is this the URL of an http service on this machine?
fn is_loopback(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split(':').next(),
    };
    let host = host.unwrap_or_default();
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_taken_on_loopback_only() {
        for url in ["http://127.0.0.1:4566", "http://localhost:1/", "http://[::1]:9", "http://127.1.2.3"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "https://127.0.0.1",
            "http://10.0.0.1:80",
            "http://localhost.example.com",
            "http://127.0.0.1@example.com/",
            "http://[2001:db8::1]/",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
        let place = Place { region: "r".into(), endpoint_url: Some("http://example.com".into()) };
        let error = open(&place, "bucket").unwrap_err();
        assert_eq!(
            error.to_string(),
            "AWS_ENDPOINT_URL is http://example.com: http is taken on loopback only, use https"
        );
    }
}
