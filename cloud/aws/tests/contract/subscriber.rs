//! A custom event bus as the provisioner: a fake that keeps subscribers as they are made, over the service's protocol.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use convoy_aws::provisioner::{AwsProvisioner, Clients, DeliveryBus, Settings};
use convoy_cloud_core::bus::EventClass;
use convoy_cloud_core::contract::{Run, provisioner};
use convoy_cloud_core::identity::{CustomerId, SubscriptionId, WebhookEndpointId};
use convoy_cloud_core::ports::{PortError, Provisioner as _, Resource};
use convoy_cloud_core::rules::{Rule, Target};
use convoy_cloud_core::webhook::WebhookMasterKey;
use serde_json::{Value, json};

use crate::customers::Customers;
use crate::emulator::{config, emulator};
use crate::fake::{Fake, Reply, Request};

const BUS: &str = "arn:aws:events:eu-central-1:000000000000:event-busv2/convoy/abcdefghijklmnopqrstuvwxy";
const ROLE: &str = "arn:aws:iam::000000000000:role/targets";
const FEED: &str = "arn:aws:sqs:eu-central-1:000000000000:feed";

/// Subscribers by arn, as they were made.
type Subscribers = Arc<Mutex<BTreeMap<String, Value>>>;

fn error(status: u16, code: &str) -> Reply {
    Reply::Cbor(
        status,
        json!({"__type": format!("com.amazonaws.eventsv2#{code}"), "message": "as the script says"}),
    )
}

/// One subscriber a page.
fn serve(subscribers: &Subscribers, request: &Request) -> Reply {
    let ((operation, body), mut kept) = (request.cbor(), subscribers.lock().unwrap());
    let arn = body["SubscriberArn"].as_str().unwrap_or_default();
    match operation {
        "CreateSubscriber" => {
            let arn = format!("{BUS}/subscriber/{}", body["Name"].as_str().unwrap());
            if kept.contains_key(&arn) {
                return error(409, "ResourceAlreadyExistsException");
            }
            let mut made = body.clone();
            made["SubscriberArn"] = json!(arn);
            kept.insert(arn.clone(), made);
            Reply::Cbor(200, json!({ "SubscriberArn": arn }))
        }
        "ListSubscribers" => {
            let prefix = body["NamePrefix"].as_str().unwrap();
            let from = body["NextToken"].as_str().unwrap_or_default();
            let mut found = kept.iter().filter(|(arn, subscriber)| {
                subscriber["Name"].as_str().unwrap().starts_with(prefix) && arn.as_str() > from
            });
            let Some((arn, subscriber)) = found.next() else {
                return Reply::Cbor(200, json!({"Subscribers": []}));
            };
            let page = json!([{"SubscriberArn": arn, "Name": subscriber["Name"]}]);
            Reply::Cbor(200, json!({"Subscribers": page, "NextToken": arn}))
        }
        "DescribeSubscriber" => match kept.get(arn) {
            Some(subscriber) => Reply::Cbor(200, subscriber.clone()),
            None => error(404, "ResourceNotFoundException"),
        },
        "DeleteSubscriber" => match kept.remove(arn) {
            Some(_) => Reply::Cbor(200, json!({})),
            None => error(404, "ResourceNotFoundException"),
        },
        other => panic!("{other} is not asked for"),
    }
}

struct Site {
    provisioner: AwsProvisioner,
    subscribers: Subscribers,
    _customers: Customers,
}

impl Site {
    /// `refuse` says what fails instead of being done.
    async fn new(prefix: &str, mut refuse: impl FnMut(&str) -> Option<Reply> + Send + 'static) -> Self {
        let subscribers = Subscribers::default();
        let kept = Arc::clone(&subscribers);
        let fake =
            Fake::alone(move |request| refuse(request.cbor().0).unwrap_or_else(|| serve(&kept, request)))
                .await;
        let (at_emulator, customers) = (config(&emulator().url), Customers::new().await);
        let clients = Clients {
            sqs: aws_sdk_sqs::Client::new(&at_emulator),
            events: aws_sdk_eventbridge::Client::new(&at_emulator),
            events_v2: aws_sdk_eventbridgev2::Client::new(&config(&fake.url)),
        };
        clients.sqs.create_queue().queue_name(format!("{prefix}webhooks")).send().await.unwrap();
        let settings = Settings {
            prefix: prefix.into(),
            bus: DeliveryBus::V2(BUS.into()),
            webhook_queue_arn: format!("arn:aws:sqs:eu-central-1:000000000000:{prefix}webhooks"),
            rule_dead_queue_arn: "arn:aws:sqs:eu-central-1:000000000000:undelivered".into(),
            feed_queue_arn: FEED.into(),
            target_role_arn: ROLE.into(),
        };
        let key = WebhookMasterKey([1; 32]);
        let provisioner = AwsProvisioner::new(settings, clients, customers.reference.clone(), key).unwrap();
        Self { provisioner, subscribers, _customers: customers }
    }

    /// The only subscriber there is.
    fn only(&self) -> Value {
        let kept = self.subscribers.lock().unwrap();
        assert_eq!(kept.len(), 1);
        kept.values().next().unwrap().clone()
    }

    fn change(&self, path: &str, value: Value) -> Value {
        let mut kept = self.subscribers.lock().unwrap();
        let place = kept.values_mut().next().unwrap().pointer_mut(path).unwrap();
        std::mem::replace(place, value)
    }
}

fn rule(class: Option<EventClass>, target: Target) -> Resource {
    let customer = CustomerId::from_bytes(&[1; 16]);
    Resource::Rule(Rule::of_subscription(&customer, &subscription(), class, target))
}

fn subscription() -> SubscriptionId {
    SubscriptionId::from_bytes(&[1; 16])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_event_bus_is_a_provisioner() {
    let site = Site::new("v2-", |_| None).await;
    for run in [1, 2].map(Run) {
        provisioner::all(&site.provisioner, run).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_made_as_the_design_says() {
    let site = Site::new("v2made-", |_| None).await;
    let feed = rule(None, Target::Feed(subscription()));
    site.provisioner.create(&feed).await.unwrap();
    let made = site.only();
    assert_eq!(made["RetryPolicy"], json!({"MaxRetryAttempts": 185, "MaxEventAgeInSeconds": 86_400}));
    assert_eq!(made["OnFailureConfiguration"]["Arn"], "arn:aws:sqs:eu-central-1:000000000000:undelivered");
    assert_eq!(made["Tags"], json!({"convoy:stack": "v2made"}));
    assert_eq!((&made["Type"], &made["State"]), (&json!("UNORDERED"), &json!("RUNNING")));
    assert_eq!(made["Transformer"]["Type"], "RAW");
    let invoke = &made["InvokeConfiguration"];
    assert_eq!((&invoke["TargetArn"], &invoke["RoleArn"]), (&json!(FEED), &json!(ROLE)));
    assert!(invoke["SqsParameters"].is_object() && invoke["LambdaParameters"].is_null(), "{invoke}");
    let filter = &made["FilterConfiguration"]["Filters"][0];
    let Resource::Rule(wanted) = &feed else { panic!() };
    assert_eq!((&filter["Scope"], &filter["Pattern"]), (&json!("DATA"), &json!(wanted.pattern)));
    site.provisioner.delete(&feed).await.unwrap();

    let endpoint = WebhookEndpointId::from_bytes(&[5; 16]);
    site.provisioner.create(&rule(Some(EventClass::Alert), Target::Webhook(endpoint.clone()))).await.unwrap();
    let expression = site.only()["Transformer"]["JsonataConfiguration"]["Expression"].clone();
    assert_eq!(
        expression,
        format!("{{% {{\"endpoint_id\": \"{endpoint}\", \"event\": $events.Data.detail}} %}}")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_by_hand_is_found() {
    let site = Site::new("v2drift-", |_| None).await;
    let made = rule(None, Target::Feed(subscription()));
    site.provisioner.create(&made).await.unwrap();
    for (path, value, part) in [
        ("/State", json!("STOPPED"), "not running"),
        ("/RetryPolicy/MaxRetryAttempts", json!(5), "retries"),
        ("/OnFailureConfiguration/Arn", json!("arn:aws:sqs:::other"), "dead letters"),
        ("/InvokeConfiguration/RoleArn", json!("arn:aws:iam::1:role/x"), "role"),
        ("/InvokeConfiguration/TargetArn", json!("arn:aws:lambda:::other"), "target"),
        ("/Transformer/Type", json!("WITH_METADATA"), "input"),
        ("/FilterConfiguration/Filters", json!([]), "filter"),
        ("/FilterConfiguration/Filters/0/Scope", json!("METADATA"), "filter"),
    ] {
        let before = site.change(path, value);
        let differs = site.provisioner.describe(&made).await.unwrap_err();
        assert!(!differs.is_transient() && differs.to_string().contains(part), "{path}: {differs}");
        let conflict = site.provisioner.create(&made).await.unwrap_err();
        assert!(matches!(conflict, PortError::Conflict { .. }), "{path}: {conflict}");
        site.change(path, before);
        assert_eq!(site.provisioner.describe(&made).await.unwrap(), Some(made.clone()), "{path} as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_refused_and_what_may_pass_is_unavailable() {
    for (operation, status, code, transient) in [
        ("CreateSubscriber", 400, "LimitExceededException", false),
        ("CreateSubscriber", 409, "ConcurrentModificationException", true),
        ("CreateSubscriber", 409, "ResourceAlreadyExistsException", true),
        ("CreateSubscriber", 429, "ThrottlingException", true),
        ("CreateSubscriber", 400, "InvalidInputException", false),
        ("ListSubscribers", 500, "InternalException", true),
        ("ListSubscribers", 403, "AccessDeniedException", true),
    ] {
        let refuse = move |asked: &str| (asked == operation).then(|| error(status, code));
        let site = Site::new("v2bad-", refuse).await;
        let error = site.provisioner.create(&rule(None, Target::Feed(subscription()))).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{operation} {code}: {error}");
    }
    let refuse =
        |asked: &str| (asked == "DeleteSubscriber").then(|| error(409, "ConcurrentModificationException"));
    let site = Site::new("v2bad-", refuse).await;
    let made = rule(None, Target::Feed(subscription()));
    site.provisioner.create(&made).await.unwrap();
    assert!(site.provisioner.delete(&made).await.unwrap_err().is_transient());
}
