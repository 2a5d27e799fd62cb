//! SQS and EventBridge as the provisioner, and what it makes at work.

use aws_sdk_eventbridge::types::Target as AwsTarget;
use aws_sdk_sqs::types::QueueAttributeName;
use convoy_aws::eventbridge::ClassicBus;
use convoy_aws::provisioner::{AwsProvisioner, Clients, DeliveryBus, STACK_TAG, Settings};
use convoy_aws::sqs::SqsQueue;
use convoy_cloud_core::bus::{
    BusEvent, BusName, EventClass, Meta, SOURCE_DELIVERY, TYPE_ALERT, TYPE_TELEMETRY,
};
use convoy_cloud_core::contract::{Run, provisioner};
use convoy_cloud_core::identity::{CustomerId, EventId, SubscriptionId, VehicleRef, WebhookEndpointId};
use convoy_cloud_core::ports::{
    CustomerQueue as _, EventBus as _, PortError, Provisioner as _, QueueMessage, QueueName, Resource,
};
use convoy_cloud_core::rules::{Rule, Target};
use convoy_cloud_core::webhook::{BASIC_HEADER, WebhookMasterKey};

use crate::customers::Customers;
use crate::emulator::{ambient, config, emulator};
use crate::fake::{Fake, Reply};

const ACCOUNT: &str = "000000000000";
const KEY: WebhookMasterKey = WebhookMasterKey([3; 32]);

/// A deployment of its own on the emulator.
struct Site {
    clients: Clients,
    settings: Settings,
    bus: String,
    webhook_url: String,
    customers: Customers,
}

impl Site {
    async fn new(prefix: &str) -> Self {
        let config = config(&emulator().url);
        let clients = Clients {
            sqs: aws_sdk_sqs::Client::new(&config),
            events: aws_sdk_eventbridge::Client::new(&config),
            events_v2: aws_sdk_eventbridgev2::Client::new(&config),
        };
        let bus = format!("{prefix}delivery");
        clients.events.create_event_bus().name(&bus).send().await.unwrap();
        let mut queues = Vec::new();
        for name in ["webhooks", "undelivered"] {
            let made = clients.sqs.create_queue().queue_name(format!("{prefix}{name}")).send().await.unwrap();
            queues.push(made.queue_url.unwrap());
        }
        let arn = |service: &str, name: &str| format!("arn:aws:{service}:eu-central-1:{ACCOUNT}:{name}");
        let settings = Settings {
            prefix: prefix.to_owned(),
            bus: DeliveryBus::Classic(bus.clone()),
            webhook_queue_arn: arn("sqs", &format!("{prefix}webhooks")),
            rule_dead_queue_arn: arn("sqs", &format!("{prefix}undelivered")),
            feed_queue_arn: arn("sqs", "feed"),
            target_role_arn: format!("arn:aws:iam::{ACCOUNT}:role/targets"),
        };
        Self { clients, settings, bus, webhook_url: queues.remove(0), customers: Customers::new().await }
    }

    fn provisioner(&self) -> AwsProvisioner {
        let (settings, clients) = (self.settings.clone(), self.clients.clone());
        AwsProvisioner::new(settings, clients, self.customers.reference.clone(), KEY).unwrap()
    }

    fn name(&self, rule: &Rule) -> String {
        format!("{}{}", self.settings.prefix, rule.name)
    }

    async fn targets(&self, rule: &Rule) -> Vec<AwsTarget> {
        let call = self.clients.events.list_targets_by_rule().event_bus_name(&self.bus).rule(self.name(rule));
        call.send().await.unwrap().targets.unwrap_or_default()
    }

    async fn publish(&self, events: Vec<BusEvent>) {
        let bus = ClassicBus::new(self.clients.events.clone(), None, Some(self.bus.clone()), ambient());
        for outcome in bus.publish(BusName::Delivery, events).await {
            outcome.unwrap();
        }
    }

    /// What a provisioner that starts anew says of a resource.
    async fn described(&self, resource: &Resource) -> Result<Option<Resource>, PortError> {
        self.provisioner().describe(resource).await
    }
}

fn subscription(number: u8) -> SubscriptionId {
    SubscriptionId::from_bytes(&[number; 16])
}

fn rule(number: u8, class: Option<EventClass>, target: Target) -> Rule {
    Rule::of_subscription(&CustomerId::from_bytes(&[1; 16]), &subscription(number), class, target)
}

fn queue(number: u8) -> Resource {
    Resource::Queue(QueueName::Subscription(subscription(number)))
}

fn event(number: u8, event: u8, class: EventClass) -> BusEvent {
    let event_id = EventId::from_bytes(&[event; 16]);
    BusEvent {
        source: SOURCE_DELIVERY,
        detail_type: if class == EventClass::Alert { TYPE_ALERT } else { TYPE_TELEMETRY },
        payload: format!("{{\"specversion\":\"1.0\",\"id\":\"{event_id}\",\"data\":{{\"v\":[1.50,2]}}}}")
            .into(),
        meta: Meta::Delivery {
            customer_id: CustomerId::from_bytes(&[1; 16]),
            subscription_id: subscription(number),
            package: "telematics@1".into(),
            class,
            event_id,
            vehicle_ref: VehicleRef::from_bytes(&[9; 16]),
            count: 1,
        },
        received_us: 0,
        last_us: 0,
        opened: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_and_eventbridge_are_a_provisioner() {
    let site = Site::new("contract-").await;
    for run in [1, 2].map(Run) {
        provisioner::all(&site.provisioner(), run).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_gets_what_its_rule_matches_and_nothing_else() {
    let site = Site::new("deliver-").await;
    let provisioner = site.provisioner();
    for number in [1, 2] {
        provisioner.create(&queue(number)).await.unwrap();
        let rule = rule(number, None, Target::Queue(subscription(number)));
        provisioner.create(&Resource::Rule(rule)).await.unwrap();
    }
    let telemetry = EventClass::Telemetry;
    let events = vec![
        event(1, 10, telemetry),
        event(2, 20, telemetry),
        event(1, 11, telemetry),
        event(1, 12, EventClass::Alert),
        event(3, 30, telemetry),
    ];
    site.publish(events.clone()).await;
    let queue = SqsQueue::new(site.clients.sqs.clone(), &site.settings.prefix, ambient());
    let name = QueueName::Subscription(subscription(1));
    let mut got: Vec<QueueMessage> = Vec::new();
    while got.len() < 3 {
        let received = queue.receive(&name, 10, u64::MAX, 60_000_000, 0).await.unwrap();
        got.extend(received.into_iter().flat_map(|received| received.events));
    }
    let of = |event: &BusEvent| {
        let Meta::Delivery { event_id, .. } = &event.meta else { panic!() };
        got.iter().find(|message| message.event_id == *event_id).unwrap().body.clone()
    };
    assert_eq!(
        [of(&events[0]), of(&events[2])],
        [&events[0], &events[2]].map(|event| event.payload.to_vec())
    );
    // An alert rides in clear, and a bus may write JSON anew.
    let json = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap();
    assert_eq!(json(&of(&events[3])), json(&events[3].payload));
    assert_eq!(got.len(), 3);
    assert_eq!(queue.stats(&name, 0).await.unwrap().visible, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_webhook_gets_its_endpoint_with_the_detail() {
    let site = Site::new("signed-").await;
    let endpoint = WebhookEndpointId::from_bytes(&[5; 16]);
    let rule = Resource::Rule(rule(1, Some(EventClass::Alert), Target::Webhook(endpoint.clone())));
    site.provisioner().create(&rule).await.unwrap();
    assert_eq!(site.described(&rule).await.unwrap(), Some(rule));
    site.publish(vec![event(1, 1, EventClass::Telemetry), event(1, 2, EventClass::Alert)]).await;
    let look = site.clients.sqs.receive_message().queue_url(&site.webhook_url).wait_time_seconds(4);
    let mut messages = look.max_number_of_messages(10).send().await.unwrap().messages.unwrap();
    assert_eq!(messages.len(), 1, "alerts only");
    let posting: serde_json::Value = serde_json::from_str(&messages.remove(0).body.unwrap()).unwrap();
    assert_eq!(posting["endpoint_id"], endpoint.as_str());
    let detail = serde_json::value::to_raw_value(&posting["event"]).unwrap();
    let pack = convoy_aws::entry::unpack_delivery(&detail).unwrap();
    assert_eq!(pack.events[0].event_id, EventId::from_bytes(&[2; 16]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basic_endpoint_gets_the_bare_event_with_its_key() {
    let fake = Fake::alone(|_| Reply::Answer(200, serde_json::json!({}))).await;
    let site = Site::new("basic-").await;
    let endpoint = site.customers.endpoint(1, &format!("{}/alerts", fake.url)).await;
    let provisioner = site.provisioner();
    let destination = Resource::Destination(endpoint.clone());
    let rule = Resource::Rule(rule(1, Some(EventClass::Alert), Target::Destination(endpoint.clone())));
    let early = provisioner.create(&rule).await.unwrap_err();
    assert!(
        matches!(&early, PortError::Refused { reason, .. } if reason.contains("make it first")),
        "{early}"
    );
    assert_eq!(site.described(&destination).await.unwrap(), None);
    for resource in [&destination, &rule, &destination, &rule] {
        provisioner.create(resource).await.unwrap();
        assert_eq!(site.described(resource).await.unwrap().as_ref(), Some(resource));
    }
    let alert = event(1, 2, EventClass::Alert);
    site.publish(vec![alert.clone()]).await;
    while fake.requests().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let request = fake.requests().remove(0);
    assert_eq!((request.method.as_str(), request.uri.path()), ("POST", "/alerts"));
    assert_eq!(request.headers[BASIC_HEADER], KEY.basic_text(&endpoint));
    assert_eq!(request.json(), serde_json::from_slice::<serde_json::Value>(&alert.payload).unwrap());
    for resource in [&rule, &destination, &rule, &destination] {
        provisioner.delete(resource).await.unwrap();
        assert_eq!(site.described(resource).await.unwrap(), None);
    }
    assert!(
        site.clients.events.describe_connection().name(format!("basic-{endpoint}")).send().await.is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_rules_are_made_as_the_design_says() {
    let site = Site::new("made-").await;
    let provisioner = site.provisioner();
    let rule = rule(1, None, Target::Queue(subscription(1)));
    provisioner.create(&queue(1)).await.unwrap();
    provisioner.create(&Resource::Rule(rule.clone())).await.unwrap();
    let name = format!("made-{}", subscription(1));
    let url = site.clients.sqs.get_queue_url().queue_name(&name).send().await.unwrap().queue_url.unwrap();
    let call =
        site.clients.sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::All);
    let attributes = call.send().await.unwrap().attributes.unwrap();
    assert_eq!(attributes[&QueueAttributeName::MessageRetentionPeriod], "1209600");
    assert_eq!(attributes[&QueueAttributeName::SqsManagedSseEnabled], "true");
    let policy: serde_json::Value = serde_json::from_str(&attributes[&QueueAttributeName::Policy]).unwrap();
    let source = &policy["Statement"][0]["Condition"]["ArnEquals"]["aws:SourceArn"];
    assert_eq!(
        *source,
        format!("arn:aws:events:eu-central-1:{ACCOUNT}:rule/{}/made-{}", site.bus, rule.name)
    );
    let tags = site.clients.sqs.list_queue_tags().queue_url(&url).send().await.unwrap().tags.unwrap();
    assert_eq!(tags[STACK_TAG], "made");
    let target = site.targets(&rule).await.remove(0);
    let retry = target.retry_policy.unwrap();
    assert_eq!((retry.maximum_retry_attempts, retry.maximum_event_age_in_seconds), (Some(185), Some(86_400)));
    assert_eq!(target.dead_letter_config.unwrap().arn, Some(site.settings.rule_dead_queue_arn.clone()));
    let call = site.clients.events.describe_rule().event_bus_name(&site.bus).name(site.name(&rule));
    let arn = call.send().await.unwrap().arn.unwrap();
    let tags =
        site.clients.events.list_tags_for_resource().resource_arn(arn).send().await.unwrap().tags.unwrap();
    assert_eq!(
        tags.iter().map(|tag| (tag.key.as_str(), tag.value.as_str())).collect::<Vec<_>>(),
        [(STACK_TAG, "made")]
    );
}

/// Each change by hand is found, told with the part, and not taken for what was made.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_by_hand_is_found() {
    let site = Site::new("drift-").await;
    let (provisioner, events, bus) = (site.provisioner(), &site.clients.events, &site.bus);
    let rule = rule(1, None, Target::Queue(subscription(1)));
    let (made, name) = (Resource::Rule(rule.clone()), site.name(&rule));
    provisioner.create(&queue(1)).await.unwrap();
    provisioner.create(&made).await.unwrap();
    let good = site.targets(&rule).await.remove(0);
    let expect = async |resource: &Resource, part: &str| {
        let differs = site.described(resource).await.unwrap_err();
        assert!(!differs.is_transient() && differs.to_string().contains(part), "{part}: {differs}");
        let conflict = provisioner.create(resource).await.unwrap_err();
        assert!(matches!(conflict, PortError::Conflict { .. }), "{part}: {conflict}");
    };
    events.disable_rule().event_bus_name(bus).name(&name).send().await.unwrap();
    expect(&made, "disabled").await;
    events.enable_rule().event_bus_name(bus).name(&name).send().await.unwrap();
    let mut without_dead = good.clone();
    without_dead.dead_letter_config = None;
    let mut elsewhere = good.clone();
    elsewhere.arn = site.settings.rule_dead_queue_arn.clone();
    for (target, part) in [(without_dead, "dead letters"), (elsewhere, "its target is")] {
        events.put_targets().event_bus_name(bus).rule(&name).targets(target).send().await.unwrap();
        expect(&made, part).await;
    }
    let second = AwsTarget::builder().id("second").arn(&good.arn).build().unwrap();
    events
        .put_targets()
        .event_bus_name(bus)
        .rule(&name)
        .targets(good.clone())
        .targets(second)
        .send()
        .await
        .unwrap();
    expect(&made, "2 targets").await;
    events.remove_targets().event_bus_name(bus).rule(&name).ids("second").send().await.unwrap();
    assert_eq!(site.described(&made).await.unwrap(), Some(made.clone()), "as it was");
    events.remove_targets().event_bus_name(bus).rule(&name).ids(&good.id).send().await.unwrap();
    assert_eq!(site.described(&made).await.unwrap(), None, "without its target it does nothing");
    provisioner.create(&made).await.unwrap();
    assert_eq!(site.targets(&rule).await, [good], "what is half there is completed");

    let sqs = &site.clients.sqs;
    let url = sqs.get_queue_url().queue_name(format!("drift-{}", subscription(1))).send().await.unwrap();
    let open =
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sqs:*"}]}"#;
    let call = sqs.set_queue_attributes().queue_url(url.queue_url.unwrap());
    call.attributes(QueueAttributeName::Policy, open).send().await.unwrap();
    expect(&queue(1), "Policy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_right_and_rules_on_single_events_are_refused() {
    let site = Site::new("check-").await;
    for prefix in ["", "-x", "a space", "an-extremely-long-prefix-"] {
        let settings = Settings { prefix: prefix.into(), ..site.settings.clone() };
        let made = AwsProvisioner::new(settings, site.clients.clone(), site.customers.reference.clone(), KEY);
        assert!(made.is_err_and(|error| !error.is_transient()), "{prefix:?}");
    }
    let pattern = r#"{"detail":{"meta":{"event_id":["evt_x"]}}}"#.to_owned();
    let single = Resource::Rule(Rule { pattern, ..rule(1, None, Target::Feed(subscription(1))) });
    let refused = site.provisioner().create(&single).await.unwrap_err();
    assert!(
        matches!(&refused, PortError::Refused { reason, .. } if reason.contains("event_id")),
        "{refused}"
    );
    let unknown = Resource::Destination(WebhookEndpointId::from_bytes(&[99; 16]));
    assert!(matches!(site.provisioner().create(&unknown).await, Err(PortError::Refused { .. })));
}
