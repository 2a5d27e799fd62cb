//! Customers of the deployment get what those of the single machine get: the same recordings, the same oracles.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::golden::{CAR, Recording, TRUCK, crossings};
use crate::harness::{Customer, samples};
use crate::receiver::Receiver;
use crate::stack::{Stack, until};
use crate::twin;

pub(crate) const TRUCK_ID: &str = "7a000000000000000000000000000001";
pub(crate) const CAR_ID: &str = "7a000000000000000000000000000002";
pub(crate) const LIMIT_RPM: f64 = 652.0;
pub(crate) const HYSTERESIS_RPM: f64 = 2.0;

/// Trouble codes that the truck's recording opens.
pub(crate) const CODES: [&str; 4] = ["SPN 3216 FMI 20", "SPN 609 FMI 12", "SPN 609 FMI 9", "SPN 980 FMI 9"];

pub(crate) fn ids(events: &[Value]) -> BTreeSet<String> {
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

pub(crate) async fn endpoint(stack: &Stack, customer: &Customer, url: &str, class: &str) -> (String, String) {
    let path = format!("/admin/v1/customers/{}/webhook-endpoints", customer.id);
    let created = stack.admin.post(&path, &json!({"url": url, "class": class})).await;
    let text = |name: &str| created[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

/// Samples that the oracle counts. Of J1939 it also counts what says "not available", which the agent drops.
fn count(signal: &Value) -> u64 {
    signal.get("valid_count").unwrap_or(&signal["count"]).as_u64().unwrap()
}

/// The feed once it holds as many samples of every signal as the oracle says.
pub(crate) async fn whole_feed(customer: &Customer, subscription: &str, recording: &Recording) -> Vec<Value> {
    feed_of(customer, subscription, recording.golden().values().map(count).sum()).await
}

async fn feed_of(customer: &Customer, subscription: &str, expected: u64) -> Vec<Value> {
    until("the feed holds every sample of the recording", || async {
        let feed = customer.client.feed(subscription).await;
        let found: usize = samples(&feed).values().map(|samples| samples.values.len()).sum();
        (found as u64 >= expected).then_some(feed)
    })
    .await
}

/// Pulls and acknowledges until as many events came as the feed holds. A queue may bring one twice.
pub(crate) async fn pulled(customer: &Customer, subscription: &str, feed: &[Value]) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    loop {
        events.extend(customer.client.pull_all(subscription).await);
        let known = ids(&events);
        if ids(feed).is_subset(&known) {
            return events;
        }
        until("more events are in the queue", || async {
            let stats = customer.client.get(&format!("/v1/subscriptions/{subscription}/stream/stats")).await;
            (stats["visible"].as_u64().unwrap() > 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_of_the_deployment_get_exactly_what_they_subscribed_to() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::deploy(dir.path()).await;
    let (hauler, driver) = (stack.customer("Hauler").await, stack.customer("Driver").await);
    let rows =
        [("CNVYTRUCK00000001", hauler.id.as_str(), TRUCK_ID), ("CNVYCAR0000000001", &driver.id, CAR_ID)];
    stack.import(dir.path(), &rows).await;
    let (signed, plain) = (Receiver::start().await, Receiver::start().await);
    let (webhook, secret) =
        endpoint(&stack, &hauler, &format!("http://{}/alerts", signed.address), "signed").await;
    signed.set_secret(&secret);
    let (basic, key) = endpoint(&stack, &hauler, &format!("http://{}/alerts", plain.address), "basic").await;
    plain.set_key(&key);
    let raw = stack.subscribe(&hauler, json!({"package": "raw"})).await;
    let rpm = json!([{"path": "Vehicle.Powertrain.CombustionEngine.Speed", "side": "above",
        "limit": LIMIT_RPM, "hysteresis": HYSTERESIS_RPM}]);
    let alerts = |endpoint: &str| json!({"package": "alerts", "thresholds": rpm, "delivery": {"queue": true, "webhook": endpoint}});
    let by_webhook = stack.subscribe(&hauler, alerts(&webhook)).await;
    let by_destination = stack.subscribe(&hauler, alerts(&basic)).await;
    let all_of_car = stack.subscribe(&driver, json!({"package": "raw"})).await;
    let fields = json!({"include": ["Vehicle.Speed"]});
    let speed = stack.subscribe(&driver, json!({"package": "telematics", "fields": fields})).await;

    stack.bridge_is_up_to_date(dir.path()).await;
    TRUCK.drive(dir.path(), stack.mqtt, TRUCK_ID).await;
    CAR.drive(dir.path(), stack.mqtt, CAR_ID).await;

    let truck_feed = whole_feed(&hauler, &raw, &TRUCK).await;
    TRUCK.assert_equals(&samples(&truck_feed));
    let car_feed = whole_feed(&driver, &all_of_car, &CAR).await;
    CAR.assert_equals(&samples(&car_feed));
    for (customer, subscription, feed) in [(&hauler, &raw, &truck_feed), (&driver, &all_of_car, &car_feed)] {
        assert_eq!(ids(feed).len(), feed.len(), "no event twice in a feed");
        assert_eq!(ids(&pulled(customer, subscription, feed).await), ids(feed));
    }
    let of_speed = samples(&feed_of(&driver, &speed, count(&CAR.golden()["OBD2_7E8.S01_0D_VSS"])).await);
    assert_eq!(of_speed.keys().collect::<Vec<_>>(), ["OBD2_7E8.S01_0D_VSS"]);
    let rpm = &samples(&truck_feed)["EEC1.SPN190_EngineSpeed"].values;
    let expected = crossings(rpm, LIMIT_RPM, HYSTERESIS_RPM);
    alerts_come_both_ways(&hauler, expected, (&by_webhook, &signed), (&by_destination, &plain)).await;
    on_demand_reads_agree(&hauler, &truck_feed).await;
    raw_objects_are_kept(&stack).await;
    nothing_was_given_up(&stack);
    let of_hauler = vec![&raw, &by_webhook, &by_destination];
    let customers = [(&hauler, of_hauler), (&driver, vec![&all_of_car, &speed])];
    twin::assert_same(&stack, dir.path(), &rows, &customers).await;
}

/// The feed once it holds as many alerts as are expected.
pub(crate) async fn alerts_in_feed(customer: &Customer, subscription: &str, expected: usize) -> Vec<Value> {
    until("all alerts are in the feed", || async {
        let feed = customer.client.feed(subscription).await;
        (feed.len() >= expected).then_some(feed)
    })
    .await
}

/// Alerts reach the signed endpoint through the dispatcher and the basic one through an API destination.
async fn alerts_come_both_ways(
    hauler: &Customer,
    expected_crossings: usize,
    (by_webhook, signed): (&str, &Receiver),
    (by_destination, plain): (&str, &Receiver),
) {
    let feed = alerts_in_feed(hauler, by_webhook, CODES.len() + expected_crossings).await;
    let mut codes: Vec<_> = feed
        .iter()
        .filter(|event| event["data"]["alert"]["kind"] == "dtc_opened")
        .map(|event| event["data"]["alert"]["dtc"]["text"].as_str().unwrap().to_owned())
        .collect();
    codes.sort();
    assert_eq!(codes, CODES);
    let crossed = feed.iter().filter(|event| event["data"]["alert"]["kind"] == "threshold_crossed").count();
    assert!(crossed > 0, "the recording crosses the limit");
    assert_eq!((crossed, feed.len()), (expected_crossings, CODES.len() + expected_crossings));
    until("all alerts are posted and signed", || async {
        (ids(&signed.events()) == ids(&feed)).then_some(())
    })
    .await;
    assert_eq!(signed.received.lock().unwrap().unsigned, 0);
    let other = alerts_in_feed(hauler, by_destination, feed.len()).await;
    assert_eq!(other.len(), feed.len(), "both subscriptions get the same alerts");
    until("all alerts are posted through the API destination", || async {
        (ids(&plain.events()) == ids(&other)).then_some(())
    })
    .await;
}

/// State and history, read on demand, are what the feed says.
async fn on_demand_reads_agree(hauler: &Customer, feed: &[Value]) {
    let vehicles = hauler.client.get("/v1/vehicles").await;
    let vehicle = vehicles["data"][0]["vehicle_ref"].as_str().unwrap();
    let delivered = samples(feed);
    let state = hauler.client.get(&format!("/v1/vehicles/{vehicle}/state")).await;
    let signals = state["signals"].as_array().unwrap();
    assert_eq!(signals.len(), delivered.len());
    for samples in delivered.values() {
        let signal = signals.iter().find(|signal| signal["path"] == samples.path.as_str()).unwrap();
        assert_eq!(signal["value"].as_f64(), samples.values.last().unwrap().1, "{}", samples.path);
    }
    let (mut events, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/vehicles/{vehicle}/events?package=raw&limit=50{cursor}");
        let page = hauler.client.get(&path).await;
        events.extend(page["data"].as_array().unwrap().iter().cloned());
        if page["page"]["has_more"] == false {
            break;
        }
        cursor = format!("&cursor={}", page["page"]["cursor"].as_str().unwrap());
    }
    assert_eq!(ids(&events), ids(feed), "the same ids on demand as delivered");
}

/// The archive holds every record, and the ledger of the truck adds up.
pub(crate) async fn raw_objects_are_kept(stack: &Stack) {
    let path = format!("/admin/v1/vehicles/{TRUCK_ID}/ledger");
    until("the ledger accounts for everything, archived too", || async {
        let ledger = stack.admin.get(&path).await;
        let lanes = ledger["lanes"].as_array().or(ledger.as_array()).cloned().unwrap_or_default();
        let adds_up = |lane: &Value| {
            lane["missing"].as_array().is_some_and(Vec::is_empty)
                && lane["archived"] == lane["accepted"]
                && lane["stored"] == lane["accepted"]
        };
        (!lanes.is_empty() && lanes.iter().all(adds_up)).then_some(())
    })
    .await;
    let listed = stack.cli().run(&[
        "s3api",
        "list-objects-v2",
        "--bucket",
        stack.output("Bucket"),
        "--prefix",
        "raw/v1/",
    ]);
    assert!(listed["Contents"].as_array().is_some_and(|objects| !objects.is_empty()), "{listed}");
}

/// Nothing is in quarantine, among the dead letters, or at a failure destination.
pub(crate) fn nothing_was_given_up(stack: &Stack) {
    for queue in ["RuleDeadQueue", "FailureQueue", "WebhookDeadQueue"] {
        let arguments =
            ["sqs", "get-queue-attributes", "--queue-url", stack.output(queue), "--attribute-names", "All"];
        let found = stack.cli().run(&arguments);
        assert_eq!(found["Attributes"]["ApproximateNumberOfMessages"], "0", "{queue}");
    }
    for prefix in ["quarantine/", "dead-letters/", "undecodable/"] {
        let arguments = ["s3api", "list-objects-v2", "--bucket", stack.output("Bucket"), "--prefix", prefix];
        let listed = stack.cli().run(&arguments);
        assert!(listed["Contents"].is_null(), "{prefix}: {listed}");
    }
}
