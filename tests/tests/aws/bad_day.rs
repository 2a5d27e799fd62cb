//! Everything fails now and then, and nothing is lost: the same recordings, the same oracles, the ledger's difference 0.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::fleet::{
    CAR_ID, CODES, HYSTERESIS_RPM, LIMIT_RPM, TRUCK_ID, alerts_in_feed, endpoint, ids, nothing_was_given_up,
    pulled, raw_objects_are_kept, whole_feed,
};
use crate::golden::{CAR, TRUCK, crossings};
use crate::harness::samples;
use crate::proxy::Fault;
use crate::receiver::Receiver;
use crate::stack::{Stack, until};
use crate::twin::archived;

/// Seconds that PostgreSQL is away, unless `CONVOY_OUTAGE_S` says otherwise.
const OUTAGE_S: u64 = 20;
/// Processes of the ingest function that are killed in the middle of a batch.
const KILLS: u32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_on_a_bad_day() {
    let dir = tempfile::tempdir().unwrap();
    let (mut stack, proxy) = Stack::deploy_on_a_bad_day(dir.path()).await;
    let (hauler, driver) = (stack.customer("Hauler").await, stack.customer("Driver").await);
    let rows =
        [("CNVYTRUCK00000001", hauler.id.as_str(), TRUCK_ID), ("CNVYCAR0000000001", &driver.id, CAR_ID)];
    stack.import(dir.path(), &rows).await;
    let signed = Receiver::start().await;
    let (webhook, secret) =
        endpoint(&stack, &hauler, &format!("http://{}/alerts", signed.address), "signed").await;
    signed.set_secret(&secret);
    let raw = stack.subscribe(&hauler, json!({"package": "raw"})).await;
    let rpm = json!([{"path": "Vehicle.Powertrain.CombustionEngine.Speed", "side": "above",
        "limit": LIMIT_RPM, "hysteresis": HYSTERESIS_RPM}]);
    let alerts =
        json!({"package": "alerts", "thresholds": rpm, "delivery": {"queue": true, "webhook": webhook}});
    let alerts = stack.subscribe(&hauler, alerts).await;
    let all_of_car = stack.subscribe(&driver, json!({"package": "raw"})).await;

    let killed = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&killed);
    let (endpoint_url, pids) = (proxy.url.clone(), Mutex::new(Vec::new()));
    proxy.on_write(move || {
        if counted.load(Ordering::Relaxed) < KILLS {
            let mut pids = pids.lock().unwrap();
            counted.fetch_add(kill_ingest(&endpoint_url, &mut pids), Ordering::Relaxed);
        }
    });
    stack.bridge_is_up_to_date(dir.path()).await;
    stack.database.go_away();
    TRUCK.drive(dir.path(), stack.mqtt, TRUCK_ID).await;
    CAR.drive(dir.path(), stack.mqtt, CAR_ID).await;
    let outage_s = std::env::var("CONVOY_OUTAGE_S").map_or(OUTAGE_S, |text| text.parse().unwrap());
    tokio::time::sleep(Duration::from_secs(outage_s)).await;
    let while_away = hauler.client.status("/v1/vehicles").await;
    assert!(
        while_away.is_none_or(|status| status >= 500),
        "without its database the API says so: {while_away:?}"
    );
    stack.database.come_back();

    let truck_feed = whole_feed(&hauler, &raw, &TRUCK).await;
    TRUCK.assert_equals(&samples(&truck_feed));
    let car_feed = whole_feed(&driver, &all_of_car, &CAR).await;
    CAR.assert_equals(&samples(&car_feed));
    for (customer, subscription, feed) in [(&hauler, &raw, &truck_feed), (&driver, &all_of_car, &car_feed)] {
        assert_eq!(ids(feed).len(), feed.len(), "no event twice in a feed");
        assert_eq!(ids(&pulled(customer, subscription, feed).await), ids(feed));
    }
    let rpm = &samples(&truck_feed)["EEC1.SPN190_EngineSpeed"].values;
    let expected = CODES.len() + crossings(rpm, LIMIT_RPM, HYSTERESIS_RPM);
    let alert_feed = alerts_in_feed(&hauler, &alerts, expected).await;
    assert_eq!(alert_feed.len(), expected);
    until("all alerts are posted and signed", || async {
        (ids(&signed.events()) == ids(&alert_feed)).then_some(())
    })
    .await;
    raw_objects_are_kept(&stack).await;
    again_in_another_order(&stack, dir.path());
    nothing_is_on_its_way(&stack).await;
    for (customer, subscription, feed) in [(&hauler, &raw, &truck_feed), (&hauler, &alerts, &alert_feed)] {
        assert_eq!(&customer.client.feed(subscription).await, feed, "the same batches again change nothing");
    }
    raw_objects_are_kept(&stack).await;
    nothing_was_given_up(&stack);
    assert_eq!(killed.load(Ordering::Relaxed), KILLS, "ingest was killed in the middle of batches");
    every_fault_was_met(&proxy.faults());
}

/// Kills the process of the ingest function of this deployment, unless it was killed before; how many were.
fn kill_ingest(endpoint: &str, killed: &mut Vec<u32>) -> u32 {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let has =
            |variable: String| environment.split(|byte| *byte == 0).any(|one| one == variable.as_bytes());
        let is_ours = has("CONVOY_FUNCTION=ingest".into()) && has(format!("AWS_ENDPOINT_URL={endpoint}"));
        if is_ours && !killed.contains(&pid) {
            let done = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            count += u32::from(done.success());
            killed.push(pid);
        }
    }
    count
}

/// Everything that was archived comes to ingest once more, twice and backwards.
fn again_in_another_order(stack: &Stack, dir: &Path) {
    let mut records: Vec<_> = archived(stack, dir)
        .iter()
        .enumerate()
        .map(|(number, record)| {
            json!({
                "eventID": format!("shardId-000000000009:{number:030}"),
                "kinesis": {"data": STANDARD.encode(record.encode()), "sequenceNumber": number.to_string()},
            })
        })
        .collect();
    records.reverse();
    for batch in records.chunks(100) {
        for _ in 0..2 {
            let mut batch = batch.to_vec();
            // What a fault of the day stops is given again from there, as Kinesis does it.
            while !batch.is_empty() {
                let answer = stack.cli().invoke("convoy-ingest", &json!({"Records": batch}), dir);
                let failed = answer["batchItemFailures"].as_array().unwrap().first().cloned();
                let Some(failed) = failed else { break };
                let is_first =
                    |record: &&Value| record["kinesis"]["sequenceNumber"] == failed["itemIdentifier"];
                let from = batch.iter().position(|record| is_first(&record)).unwrap();
                batch.drain(..from);
            }
        }
    }
}

/// Waits until the queues before enrich and feed are empty.
async fn nothing_is_on_its_way(stack: &Stack) {
    for queue in ["EnrichQueue", "FeedQueue"] {
        until("the queues are empty", || async {
            let arguments = ["sqs", "get-queue-attributes", "--attribute-names", "All", "--queue-url"];
            let found = stack.cli().run(&[arguments.as_slice(), &[stack.output(queue)]].concat());
            let count = |name: &str| found["Attributes"][name].as_str().unwrap().parse::<u32>().unwrap();
            let waiting =
                count("ApproximateNumberOfMessages") + count("ApproximateNumberOfMessagesNotVisible");
            (waiting == 0).then_some(())
        })
        .await;
    }
}

fn every_fault_was_met(faults: &BTreeMap<(String, Fault), u32>) {
    let met = |operation: &str, fault| {
        faults.iter().any(|((name, kind), _)| name.starts_with(operation) && *kind == fault)
    };
    for (operation, fault) in [
        ("Kinesis_20131202.PutRecords", Fault::HalfRefused),
        ("Kinesis_20131202.PutRecords", Fault::Throttled),
        ("Kinesis_20131202.PutRecords", Fault::LostAnswer),
        ("AWSEvents.PutEvents", Fault::HalfRefused),
        ("AWSEvents.PutEvents", Fault::Throttled),
        ("AWSEvents.PutEvents", Fault::LostAnswer),
        ("DynamoDB_20120810", Fault::Throttled),
        ("DynamoDB_20120810", Fault::LostAnswer),
    ] {
        assert!(met(operation, fault), "{operation} never met {fault:?}: {faults:?}");
    }
}
