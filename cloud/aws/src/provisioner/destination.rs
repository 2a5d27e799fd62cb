//! An API destination and its connection, for an endpoint of the basic class.

use aws_sdk_eventbridge::types::{
    ApiDestinationHttpMethod, ConnectionAuthorizationType, CreateConnectionApiKeyAuthRequestParameters,
    CreateConnectionAuthRequestParameters,
};
use convoy_cloud_core::identity::WebhookEndpointId;
use convoy_cloud_core::ports::{PortError, Resource};
use convoy_cloud_core::reference::WebhookEndpoint;
use convoy_cloud_core::webhook::BASIC_HEADER;

use super::{AwsProvisioner, SERVICE, conflict, failed, is_missing};
use crate::error::refused;

/// Posts in a second at most, EventBridge's default limit.
const POSTS_PER_S_MAX: i32 = 300;

impl AwsProvisioner {
    fn destination_name(&self, endpoint: &WebhookEndpointId) -> String {
        format!("{}{endpoint}", self.stack.prefix)
    }

    async fn endpoint_of(&self, id: &WebhookEndpointId) -> Result<WebhookEndpoint, PortError> {
        let found = self.reference.endpoint(id).await?;
        found.ok_or_else(|| refused(SERVICE, format!("there is no endpoint {id}")))
    }

    pub(super) async fn create_destination(&self, id: &WebhookEndpointId) -> Result<(), PortError> {
        let endpoint = self.endpoint_of(id).await?;
        match self.find_destination(id).await? {
            Some((_, url)) if url == endpoint.url => return Ok(()),
            Some(_) => return Err(conflict(&Resource::Destination(id.clone()))),
            None => {}
        }
        let name = self.destination_name(id);
        let connection = match self.find_connection(&name).await? {
            Some(arn) => arn,
            None => self.create_connection(&name, id).await?,
        };
        self.events
            .create_api_destination()
            .name(&name)
            .connection_arn(connection)
            .invocation_endpoint(&endpoint.url)
            .http_method(ApiDestinationHttpMethod::Post)
            .invocation_rate_limit_per_second(POSTS_PER_S_MAX)
            .send()
            .await
            .map(drop)
            .map_err(|error| failed(&error))
    }

    async fn create_connection(&self, name: &str, id: &WebhookEndpointId) -> Result<String, PortError> {
        let build = |error: aws_sdk_eventbridge::error::BuildError| refused(SERVICE, error.to_string());
        let key = CreateConnectionApiKeyAuthRequestParameters::builder()
            .api_key_name(BASIC_HEADER)
            .api_key_value(self.key.basic_text(id))
            .build()
            .map_err(build)?;
        let parameters =
            CreateConnectionAuthRequestParameters::builder().api_key_auth_parameters(key).build();
        let made = self
            .events
            .create_connection()
            .name(name)
            .authorization_type(ConnectionAuthorizationType::ApiKey)
            .auth_parameters(parameters)
            .send()
            .await
            .map_err(|error| failed(&error))?;
        made.connection_arn
            .ok_or_else(|| refused(SERVICE, format!("connection {name} was made without an arn")))
    }

    async fn find_connection(&self, name: &str) -> Result<Option<String>, PortError> {
        match self.events.describe_connection().name(name).send().await {
            Ok(found) => Ok(found.connection_arn),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Arn and url of an endpoint's API destination.
    pub(super) async fn find_destination(
        &self,
        id: &WebhookEndpointId,
    ) -> Result<Option<(String, String)>, PortError> {
        match self.events.describe_api_destination().name(self.destination_name(id)).send().await {
            Ok(found) => Ok(found.api_destination_arn.zip(found.invocation_endpoint)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    pub(super) async fn has_destination(&self, id: &WebhookEndpointId) -> Result<bool, PortError> {
        let url = self.endpoint_of(id).await?.url;
        Ok(self.find_destination(id).await?.is_some_and(|(_, found)| found == url))
    }

    pub(super) async fn delete_destination(&self, id: &WebhookEndpointId) -> Result<(), PortError> {
        let name = self.destination_name(id);
        match self.events.delete_api_destination().name(&name).send().await {
            Err(error) if !is_missing(&error) => return Err(failed(&error)),
            _ => {}
        }
        match self.events.delete_connection().name(&name).send().await {
            Err(error) if !is_missing(&error) => Err(failed(&error)),
            _ => Ok(()),
        }
    }
}
