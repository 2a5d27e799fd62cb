//! The one configuration that all clients of the SDK are built from.
//!
//! A function must be ready within milliseconds, so nothing is read or loaded here that a call may not need: TLS roots
//! are loaded with the first connection, credentials are asked for with the first request.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

/// A connection must stand after this time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// One try of a call ends after this time.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries of a call at most, the first included; then it is given back as unavailable.
pub const ATTEMPTS_MAX: u32 = 5;
/// Upper end of the pause before the second try; doubled for each further one.
pub const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Upper end of every pause between tries.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where the services are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The region: `AWS_REGION`.
    pub region: String,
    /// The endpoint of all services, for an emulator: `AWS_ENDPOINT_URL`.
    pub endpoint_url: Option<String>,
}

/// A variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("AWS_REGION is not set: Lambda and ECS set it, elsewhere name the region of the deployment")]
pub struct NoRegion;

impl Place {
    /// Reads `AWS_REGION` (else `AWS_DEFAULT_REGION`) and `AWS_ENDPOINT_URL`; an empty one counts as not set.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Self, NoRegion> {
        let get = |name| get(name).filter(|value| !value.is_empty());
        let region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")).ok_or(NoRegion)?;
        Ok(Self { region, endpoint_url: get("AWS_ENDPOINT_URL") })
    }
}

/// Credentials from the environment's variables, as in Lambda, or from the container's agent, as in ECS, which is asked
/// over `http`: the SDK is built without an HTTP client of its own.
pub fn credentials(http: &Http) -> SharedCredentialsProvider {
    // The provider below reads the same variables again with every refresh.
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_some() {
        SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new())
    } else {
        let http = SharedHttpConnector::new(http.clone());
        let config =
            ProviderConfig::without_region().with_http_client(http_client_fn(move |_, _| http.clone()));
        SharedCredentialsProvider::new(EcsCredentialsProvider::builder().configure(&config).build())
    }
}

/// The configuration of all clients, which share the connections of `http`.
pub fn sdk_config(place: &Place, credentials: SharedCredentialsProvider, http: &Http) -> SdkConfig {
    let retries = RetryConfig::standard()
        .with_max_attempts(ATTEMPTS_MAX)
        .with_initial_backoff(FIRST_PAUSE)
        .with_max_backoff(LONGEST_PAUSE);
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
    // One connector serves all clients; it knows how long to connect by itself.
    let http = SharedHttpConnector::new(http.clone());
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(place.region.clone()))
        .credentials_provider(credentials)
        .http_client(http_client_fn(move |_, _| http.clone()))
        .retry_config(retries)
        .timeout_config(timeouts);
    config.set_endpoint_url(place.endpoint_url.clone());
    config.build()
}

/// HTTP over rustls with ring. Clones share connections.
///
/// The SDK's own client loads the TLS roots when a service's client is built; this one when the first request is sent.
#[derive(Debug, Clone, Default)]
pub struct Http(Arc<OnceLock<Connector>>);

impl HttpConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.0.get_or_init(|| {
            let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
            let connector = Connector::builder().connector_settings(settings);
            connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
        });
        connector.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_needs_a_region_and_takes_an_endpoint() {
        let place = |vars: &'static [(&str, &str)]| {
            Place::from_vars(|name| {
                vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(place(&[("AWS_ENDPOINT_URL", "http://[::1]:1")]), Err(NoRegion));
        let expected = Place { region: "eu-central-1".into(), endpoint_url: None };
        assert_eq!(place(&[("AWS_REGION", "eu-central-1"), ("AWS_ENDPOINT_URL", "")]), Ok(expected));
        let expected = Place { region: "r".into(), endpoint_url: Some("http://[::1]:1".into()) };
        assert_eq!(
            place(&[("AWS_DEFAULT_REGION", "r"), ("AWS_ENDPOINT_URL", "http://[::1]:1")]),
            Ok(expected)
        );
    }
}
