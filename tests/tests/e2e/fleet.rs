//! Three customers, two vehicles: each customer gets exactly what it subscribed to, by every way.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::golden::{CAR, TRUCK, crossings};
use crate::harness::{BrokerMode, Cloud, Customer, free_address, mosquitto, samples, until};
use crate::receiver::Receiver;

const TRUCK_ID: &str = "7a000000000000000000000000000001";
const CAR_ID: &str = "7a000000000000000000000000000002";
const LIMIT_RPM: f64 = 652.0;
const HYSTERESIS_RPM: f64 = 2.0;

fn ids(events: &[Value]) -> BTreeSet<String> {
    let ids: BTreeSet<_> = events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), events.len(), "no event twice");
    ids
}

fn of_type<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

async fn endpoint(cloud: &Cloud, customer: &Customer, receiver: &Receiver) -> String {
    let url = format!("http://{}/alerts", receiver.address);
    let path = format!("/admin/v1/customers/{}/webhook-endpoints", customer.id);
    let created = cloud.admin.post(&path, &json!({"url": url})).await;
    receiver.set_secret(created["secret"].as_str().unwrap());
    created["id"].as_str().unwrap().to_owned()
}

async fn everyone_gets_their_own(mode: BrokerMode) {
    let dir = tempfile::tempdir().unwrap();
    let mqtt = free_address();
    let _broker = (mode == BrokerMode::Mosquitto).then(|| mosquitto(dir.path(), mqtt));
    let cloud = Cloud::start(dir.path(), mode, mqtt).await;
    let (hauler, driver, nobody) =
        (cloud.customer("Hauler").await, cloud.customer("Driver").await, cloud.customer("Nobody").await);
    cloud
        .import(&[("CNVYTRUCK00000001", &hauler.id, TRUCK_ID), ("CNVYCAR0000000001", &driver.id, CAR_ID)])
        .await;
    let receiver = Receiver::start().await;
    let webhook = endpoint(&cloud, &hauler, &receiver).await;
    let raw = cloud.subscribe(&hauler, json!({"package": "raw"})).await;
    let rpm = json!([{"path": "Vehicle.Powertrain.CombustionEngine.Speed", "side": "above",
        "limit": LIMIT_RPM, "hysteresis": HYSTERESIS_RPM}]);
    let alerts =
        json!({"package": "alerts", "thresholds": rpm, "delivery": {"queue": true, "webhook": webhook}});
    let alerts = cloud.subscribe(&hauler, alerts).await;
    let all_of_car = cloud.subscribe(&driver, json!({"package": "raw"})).await;
    let fields = json!({"include": ["Vehicle.Speed"]});
    let speed = cloud.subscribe(&driver, json!({"package": "telematics", "fields": fields})).await;
    let nothing = cloud.subscribe(&nobody, json!({"package": "raw"})).await;

    TRUCK.drive(dir.path(), cloud.mqtt, TRUCK_ID).await;
    CAR.drive(dir.path(), cloud.mqtt, CAR_ID).await;
    cloud.settled().await;

    let truck_feed = hauler.client.feed(&raw).await;
    TRUCK.assert_equals(&samples(&truck_feed));
    let car_feed = driver.client.feed(&all_of_car).await;
    CAR.assert_equals(&samples(&car_feed));
    for (customer, subscription, feed) in [(&hauler, &raw, &truck_feed), (&driver, &all_of_car, &car_feed)] {
        let pulled = customer.client.pull_all(subscription).await;
        assert_eq!(ids(&pulled), ids(feed), "queue and feed hold the same events");
    }
    assert_eq!(nobody.client.feed(&nothing).await, Vec::<Value>::new());
    assert_eq!(nobody.client.pull_all(&nothing).await, Vec::<Value>::new());

    only_the_field(&driver.client.feed(&speed).await);
    alerts_arrive_by_every_way(&hauler, &alerts, &receiver, &samples(&truck_feed)).await;
    on_demand_reads_agree(&hauler, &truck_feed).await;
    nothing_personal_in_the_logs(&cloud);
    cloud.stop().await;
}

/// A field selection of one path shows that path and no other.
fn only_the_field(events: &[Value]) {
    let golden = CAR.golden();
    let delivered = samples(events);
    assert_eq!(delivered.keys().collect::<Vec<_>>(), ["OBD2_7E8.S01_0D_VSS"]);
    let speed = &delivered["OBD2_7E8.S01_0D_VSS"];
    assert_eq!((speed.path.as_str(), speed.unit.as_str()), ("Vehicle.Speed", "km/h"));
    assert_eq!(speed.values.len() as u64, golden["OBD2_7E8.S01_0D_VSS"]["count"].as_u64().unwrap());
}

/// The truck's four trouble codes and each crossing of the threshold: webhook, queue and feed agree.
async fn alerts_arrive_by_every_way(
    hauler: &Customer,
    alerts: &str,
    receiver: &Receiver,
    delivered: &BTreeMap<String, crate::harness::Samples>,
) {
    let expected_crossings =
        crossings(&delivered["EEC1.SPN190_EngineSpeed"].values, LIMIT_RPM, HYSTERESIS_RPM);
    assert!(expected_crossings > 0, "the recording crosses the limit");
    let feed = hauler.client.feed(alerts).await;
    let mut codes: Vec<_> = feed
        .iter()
        .filter(|event| event["data"]["alert"]["kind"] == "dtc_opened")
        .map(|event| event["data"]["alert"]["dtc"]["text"].as_str().unwrap().to_owned())
        .collect();
    codes.sort();
    assert_eq!(codes, ["SPN 3216 FMI 20", "SPN 609 FMI 12", "SPN 609 FMI 9", "SPN 980 FMI 9"]);
    let crossed: Vec<_> =
        feed.iter().filter(|event| event["data"]["alert"]["kind"] == "threshold_crossed").collect();
    assert_eq!(crossed.len(), expected_crossings);
    assert!(crossed.iter().all(|event| event["data"]["alert"]["value"].as_f64().unwrap() > LIMIT_RPM));
    assert_eq!(feed.len(), codes.len() + crossed.len());
    until("all alerts are posted", || async { (receiver.events().len() >= feed.len()).then_some(()) }).await;
    let posted = receiver.events();
    assert_eq!(ids(&posted), ids(&feed));
    assert_eq!(receiver.received.lock().unwrap().unsigned, 0);
    assert_eq!(ids(&hauler.client.pull_all(alerts).await), ids(&feed));
}

/// State and history, read on demand, are what the feed says.
async fn on_demand_reads_agree(hauler: &Customer, feed: &[Value]) {
    let vehicles = hauler.client.get("/v1/vehicles").await;
    let vehicle = vehicles["data"][0]["vehicle_ref"].as_str().unwrap();
    assert!(feed.iter().all(|event| event["subject"] == vehicle));
    let delivered = samples(feed);
    let state = hauler.client.get(&format!("/v1/vehicles/{vehicle}/state")).await;
    let last: BTreeMap<_, _> = state["signals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|signal| (signal["path"].as_str().unwrap(), signal["value"].as_f64()))
        .collect();
    assert_eq!(last.len(), delivered.len());
    for samples in delivered.values() {
        assert_eq!(last[samples.path.as_str()], samples.values.last().unwrap().1, "{}", samples.path);
    }
    let (mut events, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/vehicles/{vehicle}/events?package=raw&limit=7{cursor}");
        let page = hauler.client.get(&path).await;
        events.extend(page["data"].as_array().unwrap().iter().cloned());
        if page["page"]["has_more"] == false {
            break;
        }
        cursor = format!("&cursor={}", page["page"]["cursor"].as_str().unwrap());
    }
    assert_eq!(ids(&events), ids(feed), "the same ids on demand as delivered");
    assert!(!of_type(&events, "vehicle.dtc.changed.v1").is_empty());
}

/// Neither a VIN nor a key is in what the cloud logged, besides the admin key's one line.
fn nothing_personal_in_the_logs(cloud: &Cloud) {
    let output = cloud.process.output();
    let rest: Vec<_> = output.lines().filter(|line| !line.contains("shown this once")).collect();
    let found: Vec<_> = rest.iter().filter(|line| line.contains("CNVY") || line.contains("cvk_")).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_get_exactly_what_they_subscribed_to_with_the_embedded_broker() {
    everyone_gets_their_own(BrokerMode::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_get_exactly_what_they_subscribed_to_with_mosquitto() {
    if BrokerMode::all().contains(&BrokerMode::Mosquitto) {
        everyone_gets_their_own(BrokerMode::Mosquitto).await;
    }
}
