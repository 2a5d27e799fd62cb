//! Quotas, other people's changes and halves while resources are made.

use convoy_aws::provisioner::{AwsProvisioner, Clients, DeliveryBus, Settings};
use convoy_cloud_core::identity::{CustomerId, SubscriptionId};
use convoy_cloud_core::ports::{PortError, Provisioner as _, QueueName, Resource};
use convoy_cloud_core::rules::{Rule, Target};
use convoy_cloud_core::webhook::WebhookMasterKey;
use serde_json::{Value, json};

use crate::customers::Customers;
use crate::emulator::config;
use crate::fake::{Fake, Reply, Request};

const FEED: &str = "arn:aws:sqs:eu-central-1:123456789012:feed";

fn subscription() -> SubscriptionId {
    SubscriptionId::from_bytes(&[1; 16])
}

fn rule() -> Resource {
    let customer = CustomerId::from_bytes(&[1; 16]);
    Resource::Rule(Rule::of_subscription(&customer, &subscription(), None, Target::Feed(subscription())))
}

fn queue() -> Resource {
    Resource::Queue(QueueName::Subscription(subscription()))
}

/// A provisioner before services that do as the script says; nothing exists unless it says so.
async fn provisioner(
    mut script: impl FnMut(&Request) -> Option<Reply> + Send + 'static,
) -> (AwsProvisioner, Fake, Customers) {
    let fake = Fake::alone(move |request| {
        script(request).unwrap_or_else(|| match request.operation() {
            "GetQueueUrl" => Reply::error(400, "com.amazonaws.sqs#QueueDoesNotExist"),
            _ => Reply::error(400, "ResourceNotFoundException"),
        })
    })
    .await;
    let (config, customers) = (config(&fake.url), Customers::new().await);
    let clients = Clients {
        sqs: aws_sdk_sqs::Client::new(&config),
        events: aws_sdk_eventbridge::Client::new(&config),
        events_v2: aws_sdk_eventbridgev2::Client::new(&config),
    };
    let settings = Settings {
        prefix: "test-".into(),
        bus: DeliveryBus::Classic("delivery".into()),
        webhook_queue_arn: "arn:aws:sqs:eu-central-1:123456789012:webhooks".into(),
        rule_dead_queue_arn: "arn:aws:sqs:eu-central-1:123456789012:undelivered".into(),
        feed_queue_arn: FEED.into(),
        target_role_arn: "arn:aws:iam::123456789012:role/targets".into(),
    };
    let key = WebhookMasterKey([1; 32]);
    let made = AwsProvisioner::new(settings, clients, customers.reference.clone(), key).unwrap();
    (made, fake, customers)
}

/// What making a resource comes to where one operation fails with this.
async fn make(resource: Resource, operation: &'static str, status: u16, code: &'static str) -> PortError {
    let script = move |request: &Request| match request.operation() {
        found if found == operation => Some(Reply::error(status, code)),
        "PutRule" => Some(Reply::Answer(200, json!({"RuleArn": "arn"}))),
        "CreateQueue" => Some(Reply::Answer(200, json!({"QueueUrl": "http://localhost/1/x"}))),
        _ => None,
    };
    let (provisioner, ..) = provisioner(script).await;
    provisioner.create(&resource).await.unwrap_err()
}

#[tokio::test]
async fn a_quota_is_refused_with_what_to_raise() {
    let error = make(rule(), "PutRule", 400, "LimitExceededException").await;
    assert!(!error.is_transient());
    assert_eq!(
        error.to_string(),
        "EventBridge refused: the quota of rules of one bus (a bus with CONVOY_BUS=v2 takes more) is used up: have it \
         raised under Service Quotas, EventBridge"
    );
}

#[tokio::test]
async fn what_may_pass_is_unavailable() {
    for (resource, operation, status, code) in [
        (rule(), "PutRule", 400, "ConcurrentModificationException"),
        (rule(), "PutTargets", 400, "ThrottlingException"),
        (rule(), "PutRule", 400, "AccessDeniedException"),
        (rule(), "DescribeRule", 500, "InternalException"),
        (queue(), "CreateQueue", 400, "com.amazonaws.sqs#QueueDeletedRecently"),
        (queue(), "CreateQueue", 400, "com.amazonaws.sqs#RequestThrottled"),
        (queue(), "GetQueueUrl", 503, "ServiceUnavailable"),
    ] {
        let error = make(resource, operation, status, code).await;
        assert!(error.is_transient(), "{operation} {code}: {error}");
    }
}

#[tokio::test]
async fn what_will_not_pass_is_refused_and_a_taken_name_is_a_conflict() {
    for (resource, operation, code) in [
        (rule(), "PutRule", "InvalidEventPatternException"),
        (rule(), "PutTargets", "ValidationException"),
        (queue(), "CreateQueue", "com.amazonaws.sqs#InvalidAttributeValue"),
    ] {
        let error = make(resource, operation, 400, code).await;
        assert!(matches!(error, PortError::Refused { .. }), "{operation} {code}: {error}");
    }
    let error = make(queue(), "CreateQueue", 400, "com.amazonaws.sqs#QueueNameExists").await;
    assert!(matches!(error, PortError::Conflict { .. }), "{error}");
}

/// Of a target that was not put, whether it is told by the call or within it.
#[tokio::test]
async fn a_target_that_was_not_put_is_no_success() {
    for (code, transient) in
        [("ConcurrentModificationException", true), ("InternalFailure", true), ("Invalid", false)]
    {
        let failed = json!({"FailedEntryCount": 1, "FailedEntries": [{"TargetId": "x", "ErrorCode": code}]});
        let script = move |request: &Request| match request.operation() {
            "PutRule" => Some(Reply::Answer(200, json!({"RuleArn": "arn"}))),
            "PutTargets" => Some(Reply::Answer(200, failed.clone())),
            _ => None,
        };
        let (provisioner, ..) = provisioner(script).await;
        assert_eq!(provisioner.create(&rule()).await.unwrap_err().is_transient(), transient, "{code}");
    }
}

#[tokio::test]
async fn a_rule_goes_after_its_targets_and_stays_where_they_do() {
    let targets = json!({"Targets": [{"Id": "x", "Arn": FEED}]});
    for (failed, transient) in [(None, None), (Some("ConcurrentModificationException"), Some(true))] {
        let targets = targets.clone();
        let script = move |request: &Request| match request.operation() {
            "ListTargetsByRule" => Some(Reply::Answer(200, targets.clone())),
            "RemoveTargets" => {
                let entries: Vec<Value> =
                    failed.iter().map(|code| json!({"TargetId": "x", "ErrorCode": code})).collect();
                Some(Reply::Answer(200, json!({"FailedEntryCount": entries.len(), "FailedEntries": entries})))
            }
            "DeleteRule" => Some(Reply::Answer(200, json!({}))),
            _ => None,
        };
        let (provisioner, fake, _customers) = provisioner(script).await;
        let outcome = provisioner.delete(&rule()).await;
        assert_eq!(outcome.err().map(|error| error.is_transient()), transient);
        let requests = fake.requests();
        let operations: Vec<_> = requests.iter().map(Request::operation).collect();
        let expected = ["ListTargetsByRule", "RemoveTargets", "DeleteRule"];
        assert_eq!(operations, expected[..if failed.is_some() { 2 } else { 3 }]);
    }
}
