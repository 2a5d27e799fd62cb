//! A subscription's queue and its dead letters.

use std::collections::HashMap;

use aws_sdk_sqs::types::QueueAttributeName;
use convoy_cloud_core::identity::SubscriptionId;
use convoy_cloud_core::ports::{PortError, QueueName, Resource};
use serde_json::{Value, json};

use super::{AwsProvisioner, DeliveryBus, Found, Home, STACK_TAG, gone, is_missing, provision_error};
use crate::error::port_error;
use crate::sqs::{DEAD_SUFFIX, queue_name};

const SERVICE: &str = "SQS";
/// How long a message waits for its customer, seconds: SQS's limit, 14 days.
const RETENTION_S: u32 = 1_209_600;
/// Receptions of a message without an acknowledgement before it counts as dead; SQS's limit.
const RECEPTIONS_MAX: u32 = 1_000;

type Attributes = HashMap<QueueAttributeName, String>;

impl AwsProvisioner {
    fn queue_name(&self, id: &SubscriptionId) -> String {
        queue_name(&self.settings.prefix, &QueueName::Subscription(id.clone()))
    }

    async fn queue_url(&self, name: &str) -> Result<Option<String>, PortError> {
        match self.clients.sqs.get_queue_url().queue_name(name).send().await {
            Ok(found) => Ok(found.queue_url),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(port_error(SERVICE, &error)),
        }
    }

    /// What the queue and its dead letters are made with.
    fn queue_attributes(&self, id: &SubscriptionId) -> (Attributes, Attributes) {
        let arn = self.queue_arn(id);
        let dead = Attributes::from([
            (QueueAttributeName::MessageRetentionPeriod, RETENTION_S.to_string()),
            (QueueAttributeName::SqsManagedSseEnabled, "true".to_owned()),
        ]);
        let redrive =
            json!({"deadLetterTargetArn": format!("{arn}{DEAD_SUFFIX}"), "maxReceiveCount": RECEPTIONS_MAX});
        let mut queue = dead.clone();
        queue.insert(QueueAttributeName::RedrivePolicy, redrive.to_string());
        queue.insert(QueueAttributeName::Policy, self.queue_policy(id, &arn).to_string());
        (queue, dead)
    }

    /// Only the subscription's own rule may send. A v2 bus sends in the name of the role.
    fn queue_policy(&self, id: &SubscriptionId, arn: &str) -> Value {
        let Home { partition, region, account } = &self.home;
        let mut statement = json!({
            "Sid": "DeliveryBus",
            "Effect": "Allow",
            "Principal": {"AWS": self.settings.target_role_arn},
            "Action": "sqs:SendMessage",
            "Resource": arn,
        });
        if let DeliveryBus::Classic(bus) = &self.settings.bus {
            let rule = format!("{}{id}-queue", self.settings.prefix);
            let rule = format!("arn:{partition}:events:{region}:{account}:rule/{bus}/{rule}");
            statement["Principal"] = json!({"Service": "events.amazonaws.com"});
            statement["Condition"] = json!({"ArnEquals": {"aws:SourceArn": rule}});
        }
        json!({"Version": "2012-10-17", "Statement": [statement]})
    }

    pub(super) async fn find_queue(&self, id: &SubscriptionId) -> Result<Found, PortError> {
        let name = self.queue_name(id);
        let (queue, dead) = self.queue_attributes(id);
        for (name, wanted) in [(format!("{name}{DEAD_SUFFIX}"), dead), (name, queue)] {
            let Some(url) = self.queue_url(&name).await? else { return Ok(Found::Missing) };
            let names: Vec<_> = wanted.keys().cloned().collect();
            let call =
                self.clients.sqs.get_queue_attributes().queue_url(url).set_attribute_names(Some(names));
            let found = match call.send().await {
                Ok(found) => found.attributes.unwrap_or_default(),
                Err(error) if is_missing(&error) => return Ok(Found::Missing),
                Err(error) => return Err(port_error(SERVICE, &error)),
            };
            let differs = wanted.iter().find(|(attribute, value)| !is_same(value, found.get(attribute)));
            if let Some((attribute, value)) = differs {
                let found = found.get(attribute).map_or("nothing", String::as_str);
                return Ok(Found::Differs(format!(
                    "{} of {name} is {found}, not {value}",
                    attribute.as_str()
                )));
            }
        }
        Ok(Found::Is(Resource::Queue(QueueName::Subscription(id.clone()))))
    }

    pub(super) async fn make_queue(&self, id: &SubscriptionId) -> Result<(), PortError> {
        let name = self.queue_name(id);
        let (queue, dead) = self.queue_attributes(id);
        // The dead letters first: a queue names them.
        for (name, attributes) in [(format!("{name}{DEAD_SUFFIX}"), dead), (name, queue)] {
            let call = self.clients.sqs.create_queue().queue_name(name).set_attributes(Some(attributes));
            let made = call.tags(STACK_TAG, self.stack()).send().await;
            made.map_err(|error| provision_error(SERVICE, "queues", &error))?;
        }
        Ok(())
    }

    pub(super) async fn remove_queue(&self, id: &SubscriptionId) -> Result<(), PortError> {
        let name = self.queue_name(id);
        for name in [name.clone(), format!("{name}{DEAD_SUFFIX}")] {
            if let Some(url) = self.queue_url(&name).await? {
                gone(SERVICE, self.clients.sqs.delete_queue().queue_url(url).send().await)?;
            }
        }
        Ok(())
    }

    /// The one queue of signed webhooks is part of the deployment.
    pub(super) async fn find_webhook_queue(&self, resource: &Resource) -> Result<Found, PortError> {
        let name = self.settings.webhook_queue_arn.rsplit(':').next().unwrap_or_default();
        let is_there = self.queue_url(name).await?.is_some();
        Ok(if is_there { Found::Is(resource.clone()) } else { Found::Missing })
    }
}

/// Documents are compared by what they say; a number may come back as a text.
fn is_same(wanted: &str, found: Option<&String>) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).map(as_texts).ok();
    found.is_some_and(|found| found == wanted || (parse(found).is_some() && parse(found) == parse(wanted)))
}

fn as_texts(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Array(values) => values.into_iter().map(as_texts).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, as_texts(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_compared_by_what_they_say() {
        let same = |wanted: &str, found: &str| is_same(wanted, Some(&found.to_owned()));
        assert!(same(r#"{"a":"x","maxReceiveCount":1000}"#, r#"{"maxReceiveCount":"1000", "a":"x"}"#));
        assert!(!same(r#"{"a":"x"}"#, r#"{"a":"y"}"#));
        assert!(same("1209600", "1209600") && !same("1209600", "345600"));
        assert!(!is_same("true", None));
    }
}
