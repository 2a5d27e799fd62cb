//! A rule on a classic bus, with its one target.

use aws_sdk_eventbridge::error::BuildError;
use aws_sdk_eventbridge::types::{
    DeadLetterConfig, InputTransformer, RetryPolicy, RuleState, Tag, Target as AwsTarget,
};
use convoy_cloud_core::ports::{PortError, Resource};
use convoy_cloud_core::rules::{Rule, Target};

use super::{
    AwsProvisioner, Found, RETRIES_MAX, RETRY_S_MAX, STACK_TAG, gone, id_of, is_missing, provision_error,
    same_json,
};
use crate::entry_calls::entry_error;
use crate::error::{port_error, refused, unavailable};

const SERVICE: &str = "EventBridge";
const QUOTA: &str = "rules of one bus (a bus with CONVOY_BUS=v2 takes more)";

fn unbuilt(error: BuildError) -> PortError {
    refused(SERVICE, error.to_string())
}

impl AwsProvisioner {
    pub(super) async fn find_rule(&self, bus: &str, wanted: &Rule) -> Result<Found, PortError> {
        let name = self.name(wanted);
        let described = self.clients.events.describe_rule().event_bus_name(bus).name(&name).send().await;
        let described = match described {
            Err(error) if is_missing(&error) => return Ok(Found::Missing),
            described => described.map_err(|error| port_error(SERVICE, &error))?,
        };
        let mut pattern = described.event_pattern.unwrap_or_default();
        if same_json(&pattern, &wanted.pattern) {
            pattern.clone_from(&wanted.pattern);
        }
        if described.state != Some(RuleState::Enabled) {
            return Ok(Found::Differs("it is disabled".to_owned()));
        }
        let listed = self.clients.events.list_targets_by_rule().event_bus_name(bus).rule(&name).send().await;
        let listed = match listed {
            Err(error) if is_missing(&error) => return Ok(Found::Missing),
            listed => listed.map_err(|error| port_error(SERVICE, &error))?.targets.unwrap_or_default(),
        };
        let target = match listed.as_slice() {
            // A rule that was made while its target was not: making it again completes it.
            [] if pattern == wanted.pattern => return Ok(Found::Missing),
            [] => return Ok(Found::Differs("it has no target and another pattern".to_owned())),
            [target] => target,
            more => return Ok(Found::Differs(format!("it has {} targets, not one", more.len()))),
        };
        let Some(ours) = self.target_of(&target.arn, &target.id) else {
            return Ok(Found::Differs(format!("its target is {}", target.arn)));
        };
        if *target != aws_target(&ours, target.arn.clone(), self)? {
            return Ok(Found::Differs(
                "its target has another input, role, retry or dead letters".to_owned(),
            ));
        }
        if matches!(ours, Target::Destination(_))
            && self.arn_of(&ours).await.ok().as_ref() != Some(&target.arn)
        {
            return Ok(Found::Differs("its API destination is not there any more".to_owned()));
        }
        Ok(Found::Is(Resource::Rule(Rule { name: wanted.name.clone(), pattern, target: ours })))
    }

    pub(super) async fn make_rule(&self, bus: &str, rule: &Rule) -> Result<(), PortError> {
        let name = self.name(rule);
        let target = aws_target(&rule.target, self.arn_of(&rule.target).await?, self)?;
        let tag = Tag::builder().key(STACK_TAG).value(self.stack()).build().map_err(unbuilt)?;
        let call =
            self.clients.events.put_rule().event_bus_name(bus).name(&name).event_pattern(&rule.pattern);
        let made = call.state(RuleState::Enabled).tags(tag).send().await;
        made.map_err(|error| provision_error(SERVICE, QUOTA, &error))?;
        let call = self.clients.events.put_targets().event_bus_name(bus).rule(&name).targets(target);
        let put = call.send().await.map_err(|error| provision_error(SERVICE, "targets of a rule", &error))?;
        first_failure(put.failed_entries().iter().map(|entry| (entry.error_code(), entry.error_message())))
    }

    pub(super) async fn remove_rule(&self, bus: &str, rule: &Rule) -> Result<(), PortError> {
        let name = self.name(rule);
        // A rule with targets cannot be deleted.
        let listed = self.clients.events.list_targets_by_rule().event_bus_name(bus).rule(&name).send().await;
        let targets = match listed {
            Err(error) if is_missing(&error) => Vec::new(),
            listed => listed.map_err(|error| port_error(SERVICE, &error))?.targets.unwrap_or_default(),
        };
        if !targets.is_empty() {
            let ids = targets.into_iter().map(|target| target.id).collect();
            let call =
                self.clients.events.remove_targets().event_bus_name(bus).rule(&name).set_ids(Some(ids));
            match call.send().await {
                Err(error) if is_missing(&error) => {}
                removed => {
                    let removed = removed.map_err(|error| provision_error(SERVICE, "deletions", &error))?;
                    let failed = removed.failed_entries().iter();
                    first_failure(failed.map(|entry| (entry.error_code(), entry.error_message())))?;
                }
            }
        }
        gone(SERVICE, self.clients.events.delete_rule().event_bus_name(bus).name(&name).send().await)
    }
}

/// Of targets that were not put or removed.
fn first_failure<'a>(
    mut failed: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>,
) -> Result<(), PortError> {
    match failed.next() {
        Some((Some("ConcurrentModificationException"), _)) => {
            Err(unavailable(SERVICE, "the rule is being changed by another call just now"))
        }
        Some((code, message)) => Err(entry_error(SERVICE, code.unwrap_or("no code"), message)),
        None => Ok(()),
    }
}

/// The target as EventBridge is told of it.
fn aws_target(target: &Target, arn: String, by: &AwsProvisioner) -> Result<AwsTarget, PortError> {
    let settings = &by.settings;
    let retry =
        RetryPolicy::builder().maximum_retry_attempts(RETRIES_MAX).maximum_event_age_in_seconds(RETRY_S_MAX);
    let dead = DeadLetterConfig::builder().arn(&settings.rule_dead_queue_arn).build();
    let common =
        AwsTarget::builder().id(id_of(target)).arn(arn).retry_policy(retry.build()).dead_letter_config(dead);
    match target {
        Target::Queue(_) | Target::Feed(_) => common.build(),
        Target::Webhook(endpoint) => {
            let template = format!("{{\"endpoint_id\":\"{endpoint}\",\"event\":<detail>}}");
            let input =
                InputTransformer::builder().input_paths_map("detail", "$.detail").input_template(template);
            common.input_transformer(input.build().map_err(unbuilt)?).build()
        }
        Target::Destination(_) => {
            common.input_path("$.detail.event").role_arn(&settings.target_role_arn).build()
        }
    }
    .map_err(unbuilt)
}
