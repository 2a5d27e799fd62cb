//! A subscription's queue and its dead letters.

use std::collections::HashMap;

use aws_sdk_sqs::types::QueueAttributeName;
use convoy_cloud_core::ports::{PortError, QueueName};
use serde_json::{Value, json};

use super::{AwsProvisioner, SERVICE, failed, is_missing};
use crate::error::refused;
use crate::sqs::{DEAD_SUFFIX, queue_name};

/// Fourteen days, SQS's limit, seconds.
const RETENTION_S: &str = "1209600";
/// Receptions without an acknowledgement before a message counts as dead, SQS's limit.
const RECEPTIONS_MAX: u32 = 1_000;

impl AwsProvisioner {
    pub(super) async fn create_queue(&self, queue: &QueueName) -> Result<(), PortError> {
        let name = queue_name(&self.stack.prefix, queue);
        let dead = self.make(&format!("{name}{DEAD_SUFFIX}"), common()).await?;
        let dead_arn =
            self.attributes(&dead).await?.remove(&QueueAttributeName::QueueArn).unwrap_or_default();
        let mut attributes = common();
        attributes.insert(QueueAttributeName::RedrivePolicy, redrive(&dead_arn).to_string());
        let url = self.make(&name, attributes).await?;
        // The policy names the queue, whose arn is known only now.
        let arn = self.attributes(&url).await?.remove(&QueueAttributeName::QueueArn).unwrap_or_default();
        let policy = self.policy(&arn)?.to_string();
        self.sqs
            .set_queue_attributes()
            .queue_url(&url)
            .attributes(QueueAttributeName::Policy, policy)
            .send()
            .await
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// Makes a queue; one that is there already is as good.
    async fn make(
        &self,
        name: &str,
        attributes: HashMap<QueueAttributeName, String>,
    ) -> Result<String, PortError> {
        if let Some(url) = self.queue_url(name).await? {
            return Ok(url);
        }
        let made = self.sqs.create_queue().queue_name(name).set_attributes(Some(attributes)).send().await;
        let made = made.map_err(|error| failed(&error))?;
        made.queue_url.ok_or_else(|| refused(SERVICE, format!("queue {name} was made without a url")))
    }

    async fn queue_url(&self, name: &str) -> Result<Option<String>, PortError> {
        match self.sqs.get_queue_url().queue_name(name).send().await {
            Ok(found) => Ok(found.queue_url),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn attributes(&self, url: &str) -> Result<HashMap<QueueAttributeName, String>, PortError> {
        let request = self.sqs.get_queue_attributes().queue_url(url);
        let found = request.attribute_names(QueueAttributeName::All).send().await;
        Ok(found.map_err(|error| failed(&error))?.attributes.unwrap_or_default())
    }

    /// Only rules of this deployment may send.
    fn policy(&self, queue_arn: &str) -> Result<Value, PortError> {
        Ok(json!({"Version": "2012-10-17", "Statement": [{
            "Sid": "RulesOfTheDeliveryBus",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue_arn,
            "Condition": {"ArnLike": {"aws:SourceArn": self.stack.rule_arns()?}},
        }]}))
    }

    /// Is the queue there, with its dead letters and its policy as they were made?
    pub(super) async fn has_queue(&self, queue: &QueueName) -> Result<bool, PortError> {
        let name = queue_name(&self.stack.prefix, queue);
        let dead = self.queue_url(&format!("{name}{DEAD_SUFFIX}")).await?;
        let (Some(url), Some(dead)) = (self.queue_url(&name).await?, dead) else { return Ok(false) };
        let (found, dead) = (self.attributes(&url).await?, self.attributes(&dead).await?);
        let read = |name| found.get(&name).and_then(|text| serde_json::from_str::<Value>(text).ok());
        let arn =
            |of: &HashMap<_, String>| of.get(&QueueAttributeName::QueueArn).cloned().unwrap_or_default();
        let has_policy = read(QueueAttributeName::Policy) == Some(self.policy(&arn(&found))?);
        let redrives = read(QueueAttributeName::RedrivePolicy)
            .is_some_and(|policy| policy["deadLetterTargetArn"] == arn(&dead).as_str());
        Ok(has_policy && redrives)
    }

    pub(super) async fn delete_queue(&self, queue: &QueueName) -> Result<(), PortError> {
        let name = queue_name(&self.stack.prefix, queue);
        for name in [name.clone(), format!("{name}{DEAD_SUFFIX}")] {
            let Some(url) = self.queue_url(&name).await? else { continue };
            match self.sqs.delete_queue().queue_url(url).send().await {
                Err(error) if !is_missing(&error) => return Err(failed(&error)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn common() -> HashMap<QueueAttributeName, String> {
    HashMap::from([
        (QueueAttributeName::MessageRetentionPeriod, RETENTION_S.to_owned()),
        (QueueAttributeName::SqsManagedSseEnabled, "true".to_owned()),
    ])
}

fn redrive(dead_arn: &str) -> Value {
    json!({"deadLetterTargetArn": dead_arn, "maxReceiveCount": RECEPTIONS_MAX})
}
