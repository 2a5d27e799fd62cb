//! Customers' resources on AWS: queues on SQS, rules and API destinations on EventBridge.
//!
//! Nothing is remembered of what was made: what exists is read from the services, compared part by part, and what
//! differs is told with the part. So that a rule changed by hand is found when an operation reads back.

mod classic;
mod destination;
mod queue;
mod subscriber;

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use convoy_cloud_core::identity::{SubscriptionId, WebhookEndpointId};
use convoy_cloud_core::ports::{PortError, Provisioner, QueueName, Resource};
use convoy_cloud_core::reference::ReferenceDatabase;
use convoy_cloud_core::rules::{Rule, Target, check_pattern};
use convoy_cloud_core::webhook::WebhookMasterKey;

use crate::entry::check_matches_entries;
use crate::error::{port_error, refused, unavailable};
use crate::sqs::queue_name;

/// Tag that names the deployment on every queue, rule and subscriber.
pub const STACK_TAG: &str = "convoy:stack";
/// Longest prefix of names: a rule's name has 64 characters, `-destination` and the id of its subscription take 42.
const PREFIX_CHARS_MAX: usize = 22;
/// How often EventBridge tries a target again, its own limit.
const RETRIES_MAX: i32 = 185;
/// How long EventBridge tries a target, seconds; its own limit.
const RETRY_S_MAX: i32 = 86_400;

/// The bus of customers' rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryBus {
    /// A classic bus, by name.
    Classic(String),
    /// A custom event bus of the API `eventbridgev2`, by arn.
    V2(String),
}

/// What the deployment has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What names of queues, rules and destinations begin with; `convoy-prod-`.
    pub prefix: String,
    /// The bus of the rules.
    pub bus: DeliveryBus,
    /// Arn of the one queue of signed webhooks.
    pub webhook_queue_arn: String,
    /// Arn of the queue for what no target took.
    pub rule_dead_queue_arn: String,
    /// Arn of the one queue of what goes into feeds.
    pub feed_queue_arn: String,
    /// Arn of the role that EventBridge assumes for API destinations, and for every target of a v2 bus.
    pub target_role_arn: String,
}

/// The services.
#[derive(Clone)]
pub struct Clients {
    /// Queues.
    pub sqs: aws_sdk_sqs::Client,
    /// Classic rules, connections, API destinations.
    pub events: aws_sdk_eventbridge::Client,
    /// Subscribers of a v2 bus.
    pub events_v2: aws_sdk_eventbridgev2::Client,
}

/// The provisioner.
pub struct AwsProvisioner {
    settings: Settings,
    /// `arn:aws:sqs:eu-central-1:123456789012`, of the webhook queue, split.
    home: Home,
    clients: Clients,
    reference: Arc<dyn ReferenceDatabase>,
    key: WebhookMasterKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Home {
    partition: String,
    region: String,
    account: String,
}

/// What there is under a resource's name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// Nothing, or a part that making it completes.
    Missing,
    /// A resource of ours; perhaps with other content.
    Is(Resource),
    /// Something that no resource of ours is, and why.
    Differs(String),
}

impl AwsProvisioner {
    /// A provisioner; `Refused` where the settings cannot be right.
    pub fn new(
        settings: Settings,
        clients: Clients,
        reference: Arc<dyn ReferenceDatabase>,
        key: WebhookMasterKey,
    ) -> Result<Self, PortError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let prefix = &settings.prefix;
        let first = prefix.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !first || prefix.len() > PREFIX_CHARS_MAX || !prefix.bytes().all(fits) {
            let reason = format!(
                "the prefix {prefix:?} must be 1 to {PREFIX_CHARS_MAX} letters, digits, - or _, the first no sign"
            );
            return Err(refused("provisioner", reason));
        }
        let home = Home::of(&settings.webhook_queue_arn)?;
        Ok(Self { settings, home, clients, reference, key })
    }

    fn name(&self, rule: &Rule) -> String {
        format!("{}{}", self.settings.prefix, rule.name)
    }

    /// The stack as a tag names it.
    fn stack(&self) -> &str {
        self.settings.prefix.trim_end_matches(['-', '_'])
    }

    fn queue_arn(&self, subscription: &SubscriptionId) -> String {
        let name = queue_name(&self.settings.prefix, &QueueName::Subscription(subscription.clone()));
        let Home { partition, region, account } = &self.home;
        format!("arn:{partition}:sqs:{region}:{account}:{name}")
    }

    fn destination_name(&self, endpoint: &WebhookEndpointId) -> String {
        format!("{}{endpoint}", self.settings.prefix)
    }

    /// The target behind an arn, and the id that was kept with it.
    fn target_of(&self, arn: &str, id: &str) -> Option<Target> {
        if arn == self.settings.feed_queue_arn {
            return id.parse().ok().map(Target::Feed);
        }
        if arn == self.settings.webhook_queue_arn {
            return id.parse().ok().map(Target::Webhook);
        }
        if let Ok(subscription) = id.parse::<SubscriptionId>() {
            return (arn == self.queue_arn(&subscription)).then_some(Target::Queue(subscription));
        }
        let endpoint: WebhookEndpointId = id.parse().ok()?;
        let (_, resource) = arn.split_once(":api-destination/")?;
        // `name/uuid`, where the service gives the uuid.
        let name = resource.split_once('/').map_or(resource, |(name, _)| name);
        (name == self.destination_name(&endpoint)).then_some(Target::Destination(endpoint))
    }

    async fn arn_of(&self, target: &Target) -> Result<String, PortError> {
        match target {
            Target::Queue(subscription) => Ok(self.queue_arn(subscription)),
            Target::Feed(_) => Ok(self.settings.feed_queue_arn.clone()),
            Target::Webhook(_) => Ok(self.settings.webhook_queue_arn.clone()),
            Target::Destination(endpoint) => self.destination_arn(endpoint).await?.ok_or_else(|| {
                refused("provisioner", format!("there is no API destination of {endpoint}: make it first"))
            }),
        }
    }

    async fn find(&self, resource: &Resource) -> Result<Found, PortError> {
        match (resource, &self.settings.bus) {
            (Resource::Queue(QueueName::Subscription(id)), _) => self.find_queue(id).await,
            (Resource::Queue(QueueName::Webhook(_)), _) => self.find_webhook_queue(resource).await,
            (Resource::Destination(endpoint), _) => self.find_destination(endpoint).await,
            (Resource::Rule(rule), DeliveryBus::Classic(bus)) => self.find_rule(bus, rule).await,
            (Resource::Rule(rule), DeliveryBus::V2(bus)) => self.find_subscriber(bus, rule).await,
        }
    }
}

impl Home {
    fn of(arn: &str) -> Result<Self, PortError> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        match parts.as_slice() {
            ["arn", partition, "sqs", region, account, _] => Ok(Self {
                partition: (*partition).into(),
                region: (*region).into(),
                account: (*account).into(),
            }),
            _ => Err(refused("provisioner", format!("{arn:?} is not the arn of a queue"))),
        }
    }
}

/// What is kept with a target to find it again.
fn id_of(target: &Target) -> &str {
    match target {
        Target::Queue(id) | Target::Feed(id) => id.as_str(),
        Target::Webhook(id) | Target::Destination(id) => id.as_str(),
    }
}

/// Are the patterns the same, however they are written?
fn same_json(left: &str, right: &str) -> bool {
    let parse = |text| serde_json::from_str::<serde_json::Value>(text);
    matches!((parse(left), parse(right)), (Ok(left), Ok(right)) if left == right)
}

/// The error of a call that makes or removes: a quota says what to raise, a change by somebody else passes.
fn provision_error<E: ProvideErrorMetadata>(
    service: &'static str,
    quota: &str,
    error: &SdkError<E, HttpResponse>,
) -> PortError {
    match code_of(error) {
        Some("LimitExceededException") => {
            let reason =
                format!("the quota of {quota} is used up: have it raised under Service Quotas, EventBridge");
            refused(service, reason)
        }
        Some("ConcurrentModificationException") => {
            unavailable(service, "it is being changed by another call just now")
        }
        Some("QueueDeletedRecently" | "AWS.SimpleQueueService.QueueDeletedRecently") => {
            unavailable(service, "a queue of this name was deleted within the last 60 seconds")
        }
        _ => port_error(service, error),
    }
}

fn code_of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

fn is_missing<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    code_of(error).is_some_and(|code| code == "ResourceNotFoundException" || crate::sqs::is_no_queue(code))
}

fn is_taken<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    code_of(error) == Some("ResourceAlreadyExistsException")
}

/// Of a deletion: what was not there is deleted.
fn gone<T, E: ProvideErrorMetadata>(
    service: &'static str,
    deleted: Result<T, SdkError<E, HttpResponse>>,
) -> Result<(), PortError> {
    match deleted {
        Err(error) if !is_missing(&error) => Err(provision_error(service, "deletions", &error)),
        _ => Ok(()),
    }
}

#[async_trait]
impl Provisioner for AwsProvisioner {
    async fn create(&self, resource: &Resource) -> Result<(), PortError> {
        if let Resource::Rule(rule) = resource {
            let refuse = |reason| refused("provisioner", reason);
            check_pattern(&rule.pattern).map_err(|error| refuse(error.to_string()))?;
            check_matches_entries(&rule.pattern).map_err(refuse)?;
        }
        let conflict = |reason| PortError::Conflict { service: "provisioner", reason };
        match self.find(resource).await? {
            Found::Is(found) if found == *resource => return Ok(()),
            Found::Is(_) => return Err(conflict(format!("{} with other content", resource.name()))),
            Found::Differs(how) => return Err(conflict(format!("{}: {how}", resource.name()))),
            Found::Missing => {}
        }
        match (resource, &self.settings.bus) {
            (Resource::Queue(QueueName::Subscription(id)), _) => self.make_queue(id).await,
            (Resource::Queue(QueueName::Webhook(_)), _) => {
                let reason = format!("there is no queue {}: deploy it", self.settings.webhook_queue_arn);
                Err(refused("provisioner", reason))
            }
            (Resource::Destination(endpoint), _) => self.make_destination(endpoint).await,
            (Resource::Rule(rule), DeliveryBus::Classic(bus)) => self.make_rule(bus, rule).await,
            (Resource::Rule(rule), DeliveryBus::V2(bus)) => self.make_subscriber(bus, rule).await,
        }
    }

    async fn delete(&self, resource: &Resource) -> Result<(), PortError> {
        match (resource, &self.settings.bus) {
            (Resource::Queue(QueueName::Subscription(id)), _) => self.remove_queue(id).await,
            // Part of the deployment, and of every endpoint.
            (Resource::Queue(QueueName::Webhook(_)), _) => Ok(()),
            (Resource::Destination(endpoint), _) => self.remove_destination(endpoint).await,
            (Resource::Rule(rule), DeliveryBus::Classic(bus)) => self.remove_rule(bus, rule).await,
            (Resource::Rule(rule), DeliveryBus::V2(bus)) => self.remove_subscriber(bus, rule).await,
        }
    }

    /// What was changed by hand into something that no resource of ours is, is `Refused` with the part that differs.
    async fn describe(&self, resource: &Resource) -> Result<Option<Resource>, PortError> {
        match self.find(resource).await? {
            Found::Missing => Ok(None),
            Found::Is(found) => Ok(Some(found)),
            Found::Differs(how) => {
                Err(refused("provisioner", format!("{} differs from what was made: {how}", resource.name())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_read_from_the_arn_of_a_queue() {
        let home = Home::of("arn:aws-cn:sqs:cn-north-1:123456789012:convoy-webhooks").unwrap();
        assert_eq!((home.partition.as_str(), home.region.as_str()), ("aws-cn", "cn-north-1"));
        for arn in ["", "convoy-webhooks", "arn:aws:sns:eu-central-1:123456789012:x"] {
            assert!(!Home::of(arn).unwrap_err().is_transient());
        }
    }

    #[test]
    fn patterns_are_compared_by_what_they_say() {
        assert!(same_json(r#"{"a":[1],"b":["x"]}"#, r#"{ "b": ["x"], "a": [1] }"#));
        assert!(!same_json(r#"{"a":[1]}"#, r#"{"a":[2]}"#));
        assert!(!same_json("{", "{"), "what is no pattern is like no pattern");
    }
}
