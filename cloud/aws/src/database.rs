//! The reference database on PostgreSQL, behind RDS Proxy where passwords are IAM tokens.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::ReferenceDatabase;
use convoy_reference::{OpenOptions, PasswordProvider, Reference, VinKey};
use tokio::sync::Mutex;

use crate::error::{refused, unavailable};

const SERVICE: &str = "reference database";
/// How long a token opens connections, RDS's limit.
const TOKEN_LIFE: Duration = Duration::from_secs(900);
/// How long a token is used before another is signed.
const TOKEN_USE: Duration = Duration::from_secs(600);
/// A function works on one request at a time.
const CONNECTIONS_MAX: u32 = 1;
/// How long a statement waits for a connection: longer than a failover's pause is not worth an invocation.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the database. With `tokens`, passwords are IAM tokens; with `migrate`, the schema is made or brought up, and
/// otherwise nothing is asked for until the first use.
pub async fn open(
    url: &str,
    key: &VinKey,
    tokens: Option<&SdkConfig>,
    migrate: bool,
) -> Result<Arc<dyn ReferenceDatabase>, PortError> {
    let options = OpenOptions { connections_max: CONNECTIONS_MAX, acquire_timeout: ACQUIRE_TIMEOUT, migrate };
    let password = tokens.map(|sdk| passwords(url, sdk.clone())).transpose()?;
    Ok(Arc::new(Reference::open_with(url, key, &options, password).await?))
}

/// Signs a token every [`TOKEN_USE`].
fn passwords(url: &str, sdk: SdkConfig) -> Result<PasswordProvider, PortError> {
    let url = reqwest::Url::parse(url).map_err(|_| refused(SERVICE, "its url cannot be read"))?;
    let host = url.host_str().ok_or_else(|| refused(SERVICE, "its url has no host"))?;
    let address: Arc<str> = format!("{host}:{}", url.port().unwrap_or(5_432)).into();
    let user: Arc<str> = url.username().into();
    let held: Arc<Mutex<Option<(SystemTime, String)>>> = Arc::default();
    Ok(Arc::new(move || {
        let (sdk, address, user, held) =
            (sdk.clone(), Arc::clone(&address), Arc::clone(&user), Arc::clone(&held));
        Box::pin(async move {
            let now = SystemTime::now();
            let mut held = held.lock().await;
            if let Some((signed, token)) = held.as_ref()
                && now.duration_since(*signed).is_ok_and(|age| age < TOKEN_USE)
            {
                return Ok(token.clone());
            }
            let provider =
                sdk.credentials_provider().ok_or_else(|| refused(SERVICE, "there are no credentials"))?;
            let identity = provider
                .provide_credentials()
                .await
                .map_err(|error| unavailable(SERVICE, format!("no credentials: {error}")))?
                .into();
            let region = sdk.region().map_or("", |region| region.as_ref());
            let token = token(&address, &user, region, &identity, now)?;
            *held = Some((now, token.clone()));
            Ok(token)
        })
    }))
}

/// A token is a request to connect that is signed in its query, without the scheme (RDS user guide, "Connecting to
/// your DB instance using IAM authentication").
fn token(
    address: &str,
    user: &str,
    region: &str,
    identity: &aws_smithy_runtime_api::client::identity::Identity,
    now: SystemTime,
) -> Result<String, PortError> {
    let wrong = |error: &dyn std::fmt::Display| refused(SERVICE, format!("no token can be signed: {error}"));
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(TOKEN_LIFE);
    settings.signature_location = SignatureLocation::QueryParams;
    let parameters = v4::SigningParams::builder()
        .identity(identity)
        .region(region)
        .name("rds-db")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| wrong(&error))?;
    let mut url = reqwest::Url::parse(&format!("https://{address}/")).map_err(|error| wrong(&error))?;
    url.query_pairs_mut().append_pair("Action", "connect").append_pair("DBUser", user);
    let request = SignableRequest::new("GET", url.as_str(), std::iter::empty(), SignableBody::Bytes(&[]))
        .map_err(|error| wrong(&error))?;
    let (instructions, _) = sign(request, &parameters.into()).map_err(|error| wrong(&error))?.into_parts();
    for (name, value) in instructions.params() {
        url.query_pairs_mut().append_pair(name, value);
    }
    Ok(url.as_str().trim_start_matches("https://").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::Credentials;

    #[test]
    fn a_token_names_host_and_user_and_is_signed_for_fifteen_minutes() {
        let identity = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test").into();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_478_400);
        let token = token("db.example:5432", "convoy", "eu-central-1", &identity, now).unwrap();
        assert!(token.starts_with("db.example:5432/?Action=connect&DBUser=convoy&"), "{token}");
        for part in [
            "X-Amz-Expires=900",
            "X-Amz-Date=20261124T000000Z",
            "X-Amz-Credential=AKIDEXAMPLE%2F20261124%2Feu-central-1%2Frds-db%2Faws4_request",
            "X-Amz-Signature=",
        ] {
            assert!(token.contains(part), "{part} is not in {token}");
        }
    }
}
