//! What posts to an endpoint of the basic class: an API destination with its connection.

use aws_sdk_eventbridge::error::BuildError;
use aws_sdk_eventbridge::operation::describe_api_destination::DescribeApiDestinationOutput;
use aws_sdk_eventbridge::operation::describe_connection::DescribeConnectionOutput;
use aws_sdk_eventbridge::types::{
    ApiDestinationHttpMethod, ConnectionAuthorizationType, ConnectionState,
    CreateConnectionApiKeyAuthRequestParameters, CreateConnectionAuthRequestParameters,
};
use convoy_cloud_core::identity::WebhookEndpointId;
use convoy_cloud_core::ports::{PortError, Resource};
use convoy_cloud_core::webhook::BASIC_HEADER;

use super::{AwsProvisioner, Found, gone, is_missing, is_taken, provision_error};
use crate::error::{port_error, refused, unavailable};

const SERVICE: &str = "EventBridge";
/// Posts in a second to one endpoint, at most; the service's default.
const RATE_PER_S: i32 = 300;

fn unbuilt(error: BuildError) -> PortError {
    refused(SERVICE, error.to_string())
}

impl AwsProvisioner {
    async fn described_destination(
        &self,
        name: &str,
    ) -> Result<Option<DescribeApiDestinationOutput>, PortError> {
        match self.clients.events.describe_api_destination().name(name).send().await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(port_error(SERVICE, &error)),
        }
    }

    async fn described_connection(&self, name: &str) -> Result<Option<DescribeConnectionOutput>, PortError> {
        match self.clients.events.describe_connection().name(name).send().await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(port_error(SERVICE, &error)),
        }
    }

    pub(super) async fn destination_arn(&self, id: &WebhookEndpointId) -> Result<Option<String>, PortError> {
        let found = self.described_destination(&self.destination_name(id)).await?;
        Ok(found.and_then(|found| found.api_destination_arn))
    }

    async fn endpoint_url(&self, id: &WebhookEndpointId) -> Result<String, PortError> {
        let endpoint = self.reference.endpoint(id).await?;
        let endpoint =
            endpoint.ok_or_else(|| refused("provisioner", format!("there is no endpoint {id}")))?;
        Ok(endpoint.url)
    }

    /// The key itself cannot be read back: what is compared is where it goes and that it is there.
    pub(super) async fn find_destination(&self, id: &WebhookEndpointId) -> Result<Found, PortError> {
        let (name, url) = (self.destination_name(id), self.endpoint_url(id).await?);
        let connection = self.described_connection(&name).await?;
        if let Some(connection) = &connection {
            let key = connection.auth_parameters().and_then(|auth| auth.api_key_auth_parameters());
            let header = key.and_then(|key| key.api_key_name());
            if connection.authorization_type() != Some(&ConnectionAuthorizationType::ApiKey)
                || !header.is_some_and(|header| header.eq_ignore_ascii_case(BASIC_HEADER))
            {
                return Ok(Found::Differs(format!("its connection does not send the header {BASIC_HEADER}")));
            }
            let lost =
                [ConnectionState::Deauthorized, ConnectionState::Deauthorizing, ConnectionState::Deleting];
            if connection.connection_state().is_some_and(|state| lost.contains(state)) {
                return Ok(Found::Differs("its connection has lost its key".to_owned()));
            }
        }
        let (Some(found), Some(connection)) = (self.described_destination(&name).await?, connection) else {
            return Ok(Found::Missing);
        };
        let parts = [
            ("its url is another one", found.invocation_endpoint() == Some(&*url)),
            ("it does not post", found.http_method() == Some(&ApiDestinationHttpMethod::Post)),
            ("its rate is another one", found.invocation_rate_limit_per_second() == Some(RATE_PER_S)),
            ("its connection is another one", found.connection_arn() == connection.connection_arn()),
        ];
        match parts.iter().find(|(_, is_so)| !is_so) {
            Some((what, _)) => Ok(Found::Differs((*what).to_owned())),
            None => Ok(Found::Is(Resource::Destination(id.clone()))),
        }
    }

    pub(super) async fn make_destination(&self, id: &WebhookEndpointId) -> Result<(), PortError> {
        let (name, url) = (self.destination_name(id), self.endpoint_url(id).await?);
        let connection = match self.described_connection(&name).await? {
            Some(found) => found.connection_arn,
            None => self.make_connection(&name, &self.key.basic_text(id)).await?,
        };
        let made = self
            .clients
            .events
            .create_api_destination()
            .name(name)
            .set_connection_arn(connection)
            .invocation_endpoint(url)
            .http_method(ApiDestinationHttpMethod::Post)
            .invocation_rate_limit_per_second(RATE_PER_S)
            .send()
            .await;
        match made {
            Ok(_) => Ok(()),
            Err(error) if is_taken(&error) => {
                Err(unavailable(SERVICE, "an API destination of this name exists and is not complete yet"))
            }
            Err(error) => Err(provision_error(SERVICE, "API destinations", &error)),
        }
    }

    async fn make_connection(&self, name: &str, key: &str) -> Result<Option<String>, PortError> {
        let key = CreateConnectionApiKeyAuthRequestParameters::builder()
            .api_key_name(BASIC_HEADER)
            .api_key_value(key)
            .build()
            .map_err(unbuilt)?;
        let auth = CreateConnectionAuthRequestParameters::builder().api_key_auth_parameters(key).build();
        let call = self.clients.events.create_connection().name(name).auth_parameters(auth);
        match call.authorization_type(ConnectionAuthorizationType::ApiKey).send().await {
            Ok(made) => Ok(made.connection_arn),
            Err(error) if is_taken(&error) => Err(unavailable(SERVICE, "the connection was made just now")),
            Err(error) => Err(provision_error(SERVICE, "connections", &error)),
        }
    }

    pub(super) async fn remove_destination(&self, id: &WebhookEndpointId) -> Result<(), PortError> {
        let name = self.destination_name(id);
        gone(SERVICE, self.clients.events.delete_api_destination().name(&name).send().await)?;
        gone(SERVICE, self.clients.events.delete_connection().name(&name).send().await)
    }
}
