//! A rule on a v2 bus: a subscriber, which is rule and target in one.

use aws_sdk_eventbridgev2::error::BuildError;
use aws_sdk_eventbridgev2::operation::describe_subscriber::DescribeSubscriberOutput;
use aws_sdk_eventbridgev2::types::{
    BatchConfiguration, Filter, FilterConfiguration, FilterLanguage, FilterScope, HttpParameters,
    InvokeConfiguration, JsonataConfiguration, OnFailureConfiguration, OrderingType, RetryPolicy,
    SqsParameters, StartingPosition, SubscriberState, Transformer, TransformerType,
};
use convoy_cloud_core::ports::{PortError, Resource};
use convoy_cloud_core::rules::{Rule, Target};

use super::{
    AwsProvisioner, Found, RETRIES_MAX, RETRY_S_MAX, STACK_TAG, gone, id_of, is_missing, is_taken,
    provision_error, same_json,
};
use crate::error::{port_error, refused, unavailable};

const SERVICE: &str = "EventBridge";
const QUOTA: &str = "subscribers of one bus";
/// Pages of subscribers whose names begin with a rule's name, at most: one rule's name begins no other.
const PAGES_MAX: usize = 10;
/// How long an endpoint of the basic class may take to answer, seconds; as on a classic bus.
const ANSWER_S: &str = "5";

fn unbuilt(error: BuildError) -> PortError {
    refused(SERVICE, error.to_string())
}

/// How a target gets what: everything that depends on the kind of target.
#[derive(Debug, PartialEq)]
struct Invocation {
    invoke: InvokeConfiguration,
    /// JSONata; `None` for the whole event as on a classic bus.
    expression: Option<String>,
    /// One event a call, where a target takes no list.
    one_by_one: bool,
}

impl AwsProvisioner {
    async fn subscriber_arn(&self, bus: &str, name: &str) -> Result<Option<String>, PortError> {
        let mut next = None;
        for _ in 0..PAGES_MAX {
            let call = self.clients.events_v2.list_subscribers().event_bus_arn(bus).name_prefix(name);
            let page = call.set_next_token(next).send().await.map_err(|error| port_error(SERVICE, &error))?;
            let found = page.subscribers().iter().find(|subscriber| subscriber.name() == Some(name));
            if let Some(found) = found {
                return Ok(found.subscriber_arn.clone());
            }
            match page.next_token {
                Some(token) => next = Some(token),
                None => return Ok(None),
            }
        }
        Err(refused(SERVICE, format!("too many subscribers begin with {name}: clear the bus up")))
    }

    pub(super) async fn find_subscriber(&self, bus: &str, wanted: &Rule) -> Result<Found, PortError> {
        let Some(arn) = self.subscriber_arn(bus, &self.name(wanted)).await? else {
            return Ok(Found::Missing);
        };
        let described = self.clients.events_v2.describe_subscriber().subscriber_arn(arn).send().await;
        let described = match described {
            Err(error) if is_missing(&error) => return Ok(Found::Missing),
            described => described.map_err(|error| port_error(SERVICE, &error))?,
        };
        let filters = described.filter_configuration.as_ref().and_then(|filters| filters.filters.as_deref());
        let mut pattern = match filters {
            Some([filter]) if filter.scope == FilterScope::Data => filter.pattern.clone(),
            _ => return Ok(Found::Differs("it has no filter, several or one of another scope".to_owned())),
        };
        if same_json(&pattern, &wanted.pattern) {
            pattern.clone_from(&wanted.pattern);
        }
        let target = described.invoke_configuration().map(|invoke| &*invoke.target_arn).unwrap_or_default();
        let Some(ours) = self.target_of(target, described.description().unwrap_or_default()) else {
            return Ok(Found::Differs(format!("its target is {target}")));
        };
        if let Some(how) = self.drift(&described, &invocation(&ours, target.to_owned(), self)?) {
            return Ok(Found::Differs(how));
        }
        if matches!(ours, Target::Destination(_)) && self.arn_of(&ours).await.ok().as_deref() != Some(target)
        {
            return Ok(Found::Differs("its API destination is not there any more".to_owned()));
        }
        Ok(Found::Is(Resource::Rule(Rule { name: wanted.name.clone(), pattern, target: ours })))
    }

    /// What of a subscriber is not as it was made. Parts that we leave to the service are not compared.
    fn drift(&self, found: &DescribeSubscriberOutput, made: &Invocation) -> Option<String> {
        let invoke = found.invoke_configuration()?;
        let transformer = found.transformer();
        let expression =
            transformer.and_then(Transformer::jsonata_configuration).map(|jsonata| &*jsonata.expression);
        let kind = transformer.and_then(Transformer::r#type).unwrap_or(&TransformerType::Raw);
        let wanted_kind =
            if made.expression.is_some() { TransformerType::Jsonata } else { TransformerType::Raw };
        let retry =
            found.retry_policy().map(|retry| (retry.max_retry_attempts, retry.max_event_age_in_seconds));
        let dead = found.on_failure_configuration().and_then(OnFailureConfiguration::arn);
        let batch = found.batch_configuration().and_then(BatchConfiguration::max_batch_size);
        let parts = [
            ("it is not running", found.state() == Some(&SubscriberState::Running)),
            ("it was revoked", found.revoked() != Some(true)),
            ("its role is another one", invoke.role_arn == made.invoke.role_arn),
            ("its input is another one", expression == made.expression.as_deref() && *kind == wanted_kind),
            ("its retries are others", retry == Some((Some(RETRIES_MAX), Some(RETRY_S_MAX)))),
            ("its dead letters go elsewhere", dead == Some(&*self.settings.rule_dead_queue_arn)),
            ("it sends several events at once", !made.one_by_one || batch == Some(1)),
        ];
        parts.iter().find(|(_, is_so)| !is_so).map(|(what, _)| (*what).to_owned())
    }

    pub(super) async fn make_subscriber(&self, bus: &str, rule: &Rule) -> Result<(), PortError> {
        let made = invocation(&rule.target, self.arn_of(&rule.target).await?, self)?;
        let filter =
            Filter::builder().pattern(&rule.pattern).scope(FilterScope::Data).build().map_err(unbuilt)?;
        let filters =
            FilterConfiguration::builder().language(FilterLanguage::EventBridgePattern).filters(filter);
        let retry =
            RetryPolicy::builder().max_retry_attempts(RETRIES_MAX).max_event_age_in_seconds(RETRY_S_MAX);
        let dead = OnFailureConfiguration::builder().arn(&self.settings.rule_dead_queue_arn).build();
        let transformer = match made.expression {
            Some(expression) => {
                let jsonata =
                    JsonataConfiguration::builder().expression(expression).build().map_err(unbuilt)?;
                Transformer::builder().r#type(TransformerType::Jsonata).jsonata_configuration(jsonata).build()
            }
            None => Transformer::builder().r#type(TransformerType::Raw).build(),
        };
        let batch = made.one_by_one.then(|| BatchConfiguration::builder().max_batch_size(1).build());
        let call = self.clients.events_v2.create_subscriber().event_bus_arn(bus).name(self.name(rule));
        let call = call.description(id_of(&rule.target)).tags(STACK_TAG, self.stack());
        let call = call.invoke_configuration(made.invoke).filter_configuration(filters.build());
        // In order, one event that cannot be delivered would hold up its whole group for a day; no reader needs order.
        let call = call.r#type(OrderingType::Unordered).starting_position(StartingPosition::Latest);
        let call = call.transformer(transformer).set_batch_configuration(batch).retry_policy(retry.build());
        let call = call.on_failure_configuration(dead).state(SubscriberState::Running);
        match call.send().await {
            Ok(_) => Ok(()),
            // Somebody was faster: the next try finds and compares it.
            Err(error) if is_taken(&error) => Err(unavailable(SERVICE, "the subscriber was made just now")),
            Err(error) => Err(provision_error(SERVICE, QUOTA, &error)),
        }
    }

    pub(super) async fn remove_subscriber(&self, bus: &str, rule: &Rule) -> Result<(), PortError> {
        let Some(arn) = self.subscriber_arn(bus, &self.name(rule)).await? else { return Ok(()) };
        gone(SERVICE, self.clients.events_v2.delete_subscriber().subscriber_arn(arn).send().await)
    }
}

fn invocation(target: &Target, arn: String, by: &AwsProvisioner) -> Result<Invocation, PortError> {
    let invoke = InvokeConfiguration::builder().role_arn(&by.settings.target_role_arn).target_arn(arn);
    let queue = SqsParameters::builder().build();
    let (invoke, expression, one_by_one) = match target {
        Target::Queue(_) | Target::Feed(_) => (invoke.sqs_parameters(queue), None, false),
        Target::Webhook(endpoint) => {
            let expression =
                format!("{{% {{\"endpoint_id\": \"{endpoint}\", \"event\": $events.Data.detail}} %}}");
            (invoke.sqs_parameters(queue), Some(expression), false)
        }
        Target::Destination(_) => {
            let http = HttpParameters::builder().invocation_timeout_seconds(ANSWER_S).build();
            (invoke.http_parameters(http), Some("{% $events.Data.detail.event %}".to_owned()), true)
        }
    };
    Ok(Invocation { invoke: invoke.build().map_err(unbuilt)?, expression, one_by_one })
}
