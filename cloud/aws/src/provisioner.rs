//! Customers' resources on SQS and EventBridge: made, compared and removed one by one, each call idempotent.
//!
//! | resource | on AWS |
//! |---|---|
//! | a subscription's queue | an SQS queue and its dead letters; only rules of this deployment may send to it |
//! | an endpoint's queue | nothing: all signed webhooks go through the one queue of the stack |
//! | a destination | a connection (API key) and an API destination |
//! | a rule | a rule of the delivery bus with one target |

mod destination;
mod queue;
mod rule;

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use convoy_cloud_core::ports::{PortError, Provisioner, QueueName, Resource};
use convoy_cloud_core::reference::ReferenceDatabase;
use convoy_cloud_core::webhook::WebhookMasterKey;

use crate::error::{port_error, refused};

const SERVICE: &str = "provisioner";

/// What the stack has, and what customers' resources are called.
#[derive(Debug, Clone)]
pub struct Stack {
    /// What names of customers' resources begin with.
    pub prefix: String,
    /// Name of the delivery bus.
    pub delivery_bus: String,
    /// Arn of the function that appends to feeds.
    pub feed_function: String,
    /// Arn of the webhook queue.
    pub webhook_queue_arn: String,
    /// Arn of the queue for what a rule cannot deliver.
    pub rule_dead_queue_arn: String,
    /// Arn of the role that EventBridge assumes for API destinations.
    pub target_role: String,
}

impl Stack {
    /// `arn:aws:events:REGION:ACCOUNT:rule/BUS/PREFIX*`: the rules that may send to a customer's queue.
    fn rule_arns(&self) -> Result<String, PortError> {
        let mut parts = self.feed_function.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("arn"), Some(partition), Some(_), Some(region), Some(account)) => Ok(format!(
                "arn:{partition}:events:{region}:{account}:rule/{}/{}*",
                self.delivery_bus, self.prefix
            )),
            _ => Err(refused(SERVICE, format!("{} is no arn of a function", self.feed_function))),
        }
    }
}

/// The provisioner.
pub struct AwsProvisioner {
    sqs: aws_sdk_sqs::Client,
    events: aws_sdk_eventbridge::Client,
    stack: Stack,
    reference: Arc<dyn ReferenceDatabase>,
    key: WebhookMasterKey,
}

impl AwsProvisioner {
    /// Over these clients; endpoints are looked up in the reference database, their keys are derived from `key`.
    pub fn new(
        sqs: aws_sdk_sqs::Client,
        events: aws_sdk_eventbridge::Client,
        stack: Stack,
        reference: Arc<dyn ReferenceDatabase>,
        key: WebhookMasterKey,
    ) -> Self {
        Self { sqs, events, stack, reference, key }
    }
}

/// The error of a call; a quota is refused with what to do, since no retry raises it.
fn failed<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> PortError {
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    match code {
        Some("LimitExceededException") => {
            let message = error.as_service_error().and_then(ProvideErrorMetadata::message);
            let message = message.unwrap_or("no message");
            refused(
                SERVICE,
                format!("a quota is used up ({message}): raise it in Service Quotas and subscribe again"),
            )
        }
        Some(
            "ConcurrentModificationException"
            | "QueueDeletedRecently"
            | "AWS.SimpleQueueService.QueueDeletedRecently",
        ) => PortError::Unavailable { service: SERVICE, reason: code.unwrap_or_default().to_owned() },
        _ => port_error(SERVICE, error),
    }
}

/// Is it the answer for something that is not there?
fn is_missing<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    matches!(
        code,
        "ResourceNotFoundException" | "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue"
    )
}

fn conflict(resource: &Resource) -> PortError {
    PortError::Conflict { service: SERVICE, reason: format!("{} with other content", resource.name()) }
}

#[async_trait]
impl Provisioner for AwsProvisioner {
    async fn create(&self, resource: &Resource) -> Result<(), PortError> {
        match resource {
            Resource::Queue(QueueName::Webhook(_)) => Ok(()),
            Resource::Queue(queue) => self.create_queue(queue).await,
            Resource::Destination(endpoint) => self.create_destination(endpoint).await,
            Resource::Rule(rule) => self.create_rule(rule).await,
        }
    }

    async fn delete(&self, resource: &Resource) -> Result<(), PortError> {
        match resource {
            Resource::Queue(QueueName::Webhook(_)) => Ok(()),
            Resource::Queue(queue) => self.delete_queue(queue).await,
            Resource::Destination(endpoint) => self.delete_destination(endpoint).await,
            Resource::Rule(rule) => self.delete_rule(rule).await,
        }
    }

    async fn describe(&self, resource: &Resource) -> Result<Option<Resource>, PortError> {
        let is_there = match resource {
            Resource::Queue(QueueName::Webhook(_)) => true,
            Resource::Queue(queue) => self.has_queue(queue).await?,
            Resource::Destination(endpoint) => self.has_destination(endpoint).await?,
            Resource::Rule(rule) => {
                return Ok(self.find_rule(&rule.name).await?.map(Resource::Rule));
            }
        };
        Ok(is_there.then(|| resource.clone()))
    }
}
