//! A rule of the delivery bus with its one target.

use aws_sdk_eventbridge::types::{DeadLetterConfig, InputTransformer, RetryPolicy, Target as AwsTarget};
use convoy_cloud_core::ports::{PortError, QueueName, Resource};
use convoy_cloud_core::rules::{Rule, Target, check_pattern};

use super::{AwsProvisioner, SERVICE, conflict, failed, is_missing};
use crate::error::refused;
use crate::sqs::queue_name;

/// A rule has one target.
const TARGET_ID: &str = "target";
/// EventBridge tries a target this often, and this long, seconds; its own limits.
const RETRIES_MAX: i32 = 185;
const RETRY_AGE_S_MAX: i32 = 86_400;
/// Longest name of a rule.
const NAME_CHARS_MAX: usize = 64;

impl AwsProvisioner {
    fn rule_name(&self, name: &str) -> Result<String, PortError> {
        let name = format!("{}{name}", self.stack.prefix);
        if name.len() > NAME_CHARS_MAX {
            let reason = format!(
                "rule name {name} is longer than {NAME_CHARS_MAX} characters: use a shorter stack name"
            );
            return Err(refused(SERVICE, reason));
        }
        Ok(name)
    }

    pub(super) async fn create_rule(&self, rule: &Rule) -> Result<(), PortError> {
        check_pattern(&rule.pattern).map_err(|error| refused(SERVICE, error.to_string()))?;
        match self.find_rule(&rule.name).await? {
            Some(found) if found == *rule => return Ok(()),
            // A rule without its target is one whose making was interrupted.
            Some(found) if found.pattern != rule.pattern => {
                return Err(conflict(&Resource::Rule(rule.clone())));
            }
            _ => {}
        }
        let name = self.rule_name(&rule.name)?;
        self.events
            .put_rule()
            .name(&name)
            .event_bus_name(&self.stack.delivery_bus)
            .event_pattern(&rule.pattern)
            .send()
            .await
            .map_err(|error| failed(&error))?;
        let put = self.events.put_targets().rule(&name).event_bus_name(&self.stack.delivery_bus);
        let put = put.targets(self.target(&rule.target).await?).send().await;
        let put = put.map_err(|error| failed(&error))?;
        match put.failed_entries().first() {
            None => Ok(()),
            Some(entry) => {
                let reason = entry.error_message().or(entry.error_code()).unwrap_or("no reason");
                Err(refused(SERVICE, format!("the target of rule {name} was refused: {reason}")))
            }
        }
    }

    async fn target(&self, target: &Target) -> Result<AwsTarget, PortError> {
        let stack = &self.stack;
        let dead = DeadLetterConfig::builder().arn(&stack.rule_dead_queue_arn).build();
        let retry = RetryPolicy::builder()
            .maximum_retry_attempts(RETRIES_MAX)
            .maximum_event_age_in_seconds(RETRY_AGE_S_MAX)
            .build();
        let builder = AwsTarget::builder().id(TARGET_ID).dead_letter_config(dead).retry_policy(retry);
        let builder = match target {
            Target::Feed(_) => builder.arn(&stack.feed_function),
            Target::Queue(id) => builder.arn(self.queue_arn(&QueueName::Subscription(id.clone()))),
            Target::Webhook(id) => {
                let transformer = InputTransformer::builder()
                    .input_paths_map("detail", "$.detail")
                    .input_template(format!("{{\"endpoint_id\":\"{id}\",\"event\":<detail>}}"))
                    .build()
                    .map_err(|error| refused(SERVICE, error.to_string()))?;
                builder.arn(&stack.webhook_queue_arn).input_transformer(transformer)
            }
            Target::Destination(id) => {
                let Some((arn, _)) = self.find_destination(id).await? else {
                    return Err(refused(SERVICE, format!("endpoint {id} has no API destination")));
                };
                builder.arn(arn).role_arn(&stack.target_role).input_path("$.detail.event")
            }
        };
        builder.build().map_err(|error| refused(SERVICE, error.to_string()))
    }

    /// Where a customer's queue is: beside the webhook queue, in the same account and region.
    fn queue_arn(&self, queue: &QueueName) -> String {
        let place = self.stack.webhook_queue_arn.rsplit_once(':').map_or("", |(place, _)| place);
        format!("{place}:{}", queue_name(&self.stack.prefix, queue))
    }

    /// The rule as it is: its pattern and where its target leads.
    pub(super) async fn find_rule(&self, rule_name: &str) -> Result<Option<Rule>, PortError> {
        let name = self.rule_name(rule_name)?;
        let bus = &self.stack.delivery_bus;
        let found = match self.events.describe_rule().name(&name).event_bus_name(bus).send().await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let targets = self.events.list_targets_by_rule().rule(&name).event_bus_name(bus).send().await;
        let targets = targets.map_err(|error| failed(&error))?;
        let target = targets.targets().first().and_then(|target| self.read_target(rule_name, target));
        let pattern = found.event_pattern.unwrap_or_default();
        Ok(target.map(|target| Rule { name: rule_name.to_owned(), pattern, target }))
    }

    fn read_target(&self, rule_name: &str, target: &AwsTarget) -> Option<Target> {
        let subscription = || rule_name.rsplit_once('-').and_then(|(id, _)| id.parse().ok());
        let arn = target.arn();
        if arn == self.stack.feed_function {
            return subscription().map(Target::Feed);
        }
        if arn == self.stack.webhook_queue_arn {
            let template = target.input_transformer()?.input_template();
            let id = template.split('"').find(|part| part.starts_with("whe_"))?;
            return Some(Target::Webhook(id.parse().ok()?));
        }
        if let Some((_, named)) = arn.split_once(":api-destination/") {
            let id = named.split('/').next()?.strip_prefix(&self.stack.prefix)?;
            return Some(Target::Destination(id.parse().ok()?));
        }
        let id = arn.rsplit(':').next()?.strip_prefix(&self.stack.prefix)?;
        Some(Target::Queue(id.parse().ok()?))
    }

    pub(super) async fn delete_rule(&self, rule: &Rule) -> Result<(), PortError> {
        let name = self.rule_name(&rule.name)?;
        let bus = &self.stack.delivery_bus;
        let removed =
            self.events.remove_targets().rule(&name).event_bus_name(bus).ids(TARGET_ID).send().await;
        match removed {
            Err(error) if is_missing(&error) => return Ok(()),
            removed => removed.map_err(|error| failed(&error))?,
        };
        match self.events.delete_rule().name(&name).event_bus_name(bus).send().await {
            Err(error) if !is_missing(&error) => Err(failed(&error)),
            _ => Ok(()),
        }
    }
}
