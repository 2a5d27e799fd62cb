//! What a function or the bridge is told by its environment, checked whole at the start.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// Which function of the one bootstrap this process is: `CONVOY_FUNCTION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Stream batch: validate, store, publish.
    Ingest,
    /// Stream batch: raw objects.
    Archive,
    /// Queue of the default bus to delivery bus.
    Enrich,
    /// Queue of the delivery bus to feeds.
    Feed,
    /// Fleet API.
    Fleet,
    /// Admin API.
    Admin,
    /// Are keys valid?
    Authorizer,
    /// Vehicle maps from the bucket.
    Loader,
    /// Signed webhooks.
    Webhook,
    /// One step of an operation.
    Provision,
    /// Campaigns to vehicles, their reports, and what is done from time to time.
    Steer,
}

impl Function {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Ingest,
        Self::Archive,
        Self::Enrich,
        Self::Feed,
        Self::Fleet,
        Self::Admin,
        Self::Authorizer,
        Self::Loader,
        Self::Webhook,
        Self::Provision,
        Self::Steer,
    ];

    /// Its name in `CONVOY_FUNCTION`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Archive => "archive",
            Self::Enrich => "enrich",
            Self::Feed => "feed",
            Self::Fleet => "fleet",
            Self::Admin => "admin",
            Self::Authorizer => "authorizer",
            Self::Loader => "loader",
            Self::Webhook => "webhook",
            Self::Provision => "provision",
            Self::Steer => "steer",
        }
    }

    /// What it must be told.
    pub const fn requires(self) -> &'static [&'static str] {
        use names::{
            BUCKET, DATABASE, DEAD_QUEUE, DEFAULT_BUS, DELIVERY_BUS, DOWNLINK_QUEUE, EVENTS, FEED,
            FEED_QUEUE_ARN, QUEUE_PREFIX, REPORTS_QUEUE, RULE_DEAD_QUEUE_ARN, SECRET, STATE, STATE_MACHINE,
            TARGET_ROLE, VEHICLES, WEBHOOK_QUEUE_ARN, WORK_QUEUE,
        };
        match self {
            Self::Ingest => {
                &[SECRET, BUCKET, EVENTS, STATE, FEED, VEHICLES, DEFAULT_BUS, DOWNLINK_QUEUE, REPORTS_QUEUE]
            }
            Self::Archive => &[BUCKET, EVENTS, STATE, FEED, VEHICLES],
            Self::Enrich => &[SECRET, BUCKET, DELIVERY_BUS, WORK_QUEUE, DEAD_QUEUE],
            Self::Feed => &[BUCKET, EVENTS, STATE, FEED, VEHICLES, WORK_QUEUE, DEAD_QUEUE],
            Self::Fleet => &[SECRET, BUCKET, EVENTS, STATE, FEED, VEHICLES, QUEUE_PREFIX, DATABASE],
            Self::Admin => {
                &[SECRET, BUCKET, EVENTS, STATE, FEED, VEHICLES, QUEUE_PREFIX, DATABASE, STATE_MACHINE]
            }
            Self::Authorizer => &[SECRET, DATABASE],
            Self::Loader => &[SECRET, BUCKET, DATABASE],
            Self::Webhook => &[SECRET, DATABASE, WORK_QUEUE, DEAD_QUEUE],
            Self::Provision => &[
                SECRET,
                BUCKET,
                DATABASE,
                QUEUE_PREFIX,
                DELIVERY_BUS,
                WEBHOOK_QUEUE_ARN,
                RULE_DEAD_QUEUE_ARN,
                FEED_QUEUE_ARN,
                TARGET_ROLE,
            ],
            Self::Steer => &[SECRET, BUCKET, DATABASE, DOWNLINK_QUEUE, DELIVERY_BUS, STATE_MACHINE],
        }
    }
}

impl std::str::FromStr for Function {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        let Some(function) = Self::ALL.into_iter().find(|function| function.name() == text) else {
            let known = Self::ALL.map(Self::name).join(", ");
            bail!("CONVOY_FUNCTION is {text:?}, it must be one of {known}");
        };
        Ok(function)
    }
}

/// Names of the variables.
pub mod names {
    /// The function.
    pub const FUNCTION: &str = "CONVOY_FUNCTION";
    /// Name of the Kinesis stream.
    pub const STREAM: &str = "CONVOY_STREAM";
    /// Name of the default bus.
    pub const DEFAULT_BUS: &str = "CONVOY_DEFAULT_BUS";
    /// Name of the delivery bus; its arn where [`BUS`] is `v2`.
    pub const DELIVERY_BUS: &str = "CONVOY_DELIVERY_BUS";
    /// `classic` (where it is left out) or `v2`: which EventBridge the delivery bus is.
    pub const BUS: &str = "CONVOY_BUS";
    /// DynamoDB table of envelopes.
    pub const EVENTS: &str = "CONVOY_EVENTS_TABLE";
    /// DynamoDB table of last known states.
    pub const STATE: &str = "CONVOY_STATE_TABLE";
    /// DynamoDB table of feeds.
    pub const FEED: &str = "CONVOY_FEED_TABLE";
    /// DynamoDB table of conditions, ledger and parked records.
    pub const VEHICLES: &str = "CONVOY_VEHICLES_TABLE";
    /// S3 bucket.
    pub const BUCKET: &str = "CONVOY_BUCKET";
    /// Url of the SQS queue to the bridge.
    pub const DOWNLINK_QUEUE: &str = "CONVOY_DOWNLINK_QUEUE";
    /// Url of the SQS queue of vehicles' reports.
    pub const REPORTS_QUEUE: &str = "CONVOY_REPORTS_QUEUE";
    /// Url of the SQS queue that the function works off.
    pub const WORK_QUEUE: &str = "CONVOY_WORK_QUEUE";
    /// Url of the SQS queue of what it gave up.
    pub const DEAD_QUEUE: &str = "CONVOY_DEAD_QUEUE";
    /// Arn of the SQS queue of webhooks.
    pub const WEBHOOK_QUEUE_ARN: &str = "CONVOY_WEBHOOK_QUEUE_ARN";
    /// What names of customers' resources begin with.
    pub const QUEUE_PREFIX: &str = "CONVOY_QUEUE_PREFIX";
    /// Arn of the SQS queue for what a rule cannot deliver.
    pub const RULE_DEAD_QUEUE_ARN: &str = "CONVOY_RULE_DEAD_QUEUE_ARN";
    /// Arn of the secret that all keys are derived from.
    pub const SECRET: &str = "CONVOY_SECRET";
    /// `postgres://user@host/database?sslmode=verify-full`.
    pub const DATABASE: &str = "CONVOY_DATABASE_URL";
    /// `true` where the database takes IAM tokens as passwords.
    pub const DATABASE_IAM: &str = "CONVOY_DATABASE_IAM";
    /// Arn of the provisioning state machine.
    pub const STATE_MACHINE: &str = "CONVOY_STATE_MACHINE";
    /// Arn of the SQS queue of what goes into feeds.
    pub const FEED_QUEUE_ARN: &str = "CONVOY_FEED_QUEUE_ARN";
    /// Arn of the role that EventBridge assumes for its targets.
    pub const TARGET_ROLE: &str = "CONVOY_TARGET_ROLE";
    /// Networks inside that webhooks may reach nevertheless, CIDRs with commas between.
    pub const WEBHOOK_ALLOW: &str = "CONVOY_WEBHOOK_ALLOW";
    /// Days that events, feeds and messages are kept.
    pub const KEEP_DAYS: &str = "CONVOY_KEEP_DAYS";
}

/// The variables.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// From name and value; empty values count as left out, as CloudFormation writes them.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }

    /// This process's.
    #[allow(clippy::disallowed_methods, reason = "the shell reads the environment, once")]
    pub fn of_process() -> Self {
        Self::new(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// A value, where there is one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value that must be there.
    pub fn required(&self, name: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| anyhow::anyhow!("{name} is not set"))
    }

    /// Says everything that is missing, in one sentence.
    pub fn check(&self, required: &[&str]) -> Result<()> {
        let missing: Vec<_> = required.iter().filter(|name| self.get(name).is_none()).copied().collect();
        if !missing.is_empty() {
            bail!("not set: {}; the template sets them for each function", missing.join(", "));
        }
        Ok(())
    }

    /// A whole number, or what counts where it is left out.
    pub fn number(&self, name: &str, otherwise: u32) -> Result<u32> {
        match self.get(name) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|_| anyhow::anyhow!("{name} is {text:?}, not a whole number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let variables = [(names::BUCKET, "b"), (names::SECRET, "")];
        let environment =
            Environment::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let error = environment.check(Function::Loader.requires()).unwrap_err().to_string();
        assert!(error.contains("CONVOY_SECRET, CONVOY_DATABASE_URL") && !error.contains("BUCKET"), "{error}");
    }

    #[test]
    fn every_function_is_found_by_its_name_and_another_is_refused() {
        for function in Function::ALL {
            assert_eq!(function.name().parse::<Function>().unwrap(), function);
        }
        assert!("ingress".parse::<Function>().unwrap_err().to_string().contains("one of ingest, archive"));
    }
}
