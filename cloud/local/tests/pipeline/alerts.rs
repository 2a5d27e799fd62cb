//! Alerts: once for each time a condition opens.

use convoy_cloud_core::identity::{SubscriptionId, WebhookEndpointId};
use convoy_cloud_core::ports::QueueName;
use convoy_cloud_core::reference::{
    Delivery, EndpointClass, SubscriptionTerms, Threshold, ThresholdSide, WebhookEndpoint,
};
use convoy_protocol::dtc::DtcChange;
use convoy_protocol::dtc::DtcChange::{Closed, Opened};
use convoy_protocol::id::VehicleId;
use proptest::prelude::*;

use crate::world::{Packet, SECOND_US, START_US, World, everything, manifest};

const VEHICLE: VehicleId = VehicleId([1; 16]);

async fn alerts(world: &World, thresholds: Vec<Threshold>) -> SubscriptionId {
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    world.subscribe(&customer, "alerts", SubscriptionTerms { thresholds, ..everything() }).await
}

const fn second(number: i64) -> i64 {
    START_US + number * SECOND_US
}

/// A code's change in an envelope of its own, sent in this boot.
fn change(boot: u32, sequence: u64, change: DtcChange, at_s: i64) -> Packet {
    Packet { boot, ..Packet::new(VEHICLE, sequence).dtc(520, change, second(at_s)) }
}

#[tokio::test]
async fn an_open_code_reported_again_by_a_new_boot_alerts_once_and_opened_again_after_closing_twice() {
    let world = World::new().await;
    let subscription = alerts(&world, Vec::new()).await;
    let reports = [
        change(1, 0, Opened, 5),
        change(2, 0, Opened, 10),
        change(2, 1, Closed, 15),
        change(3, 0, Closed, 20),
        change(3, 1, Opened, 25),
        change(4, 0, Opened, 30),
    ];
    for report in &reports {
        // Each after a start of its own: what was judged is read from the store.
        world.ingest().handle(&[report.record()]).await.unwrap();
    }
    let feed = world.feed(&subscription).await;
    let times: Vec<_> = feed.iter().map(|event| event["time"].as_str().unwrap()).collect();
    assert_eq!(times, ["2026-11-24T00:00:05.000Z", "2026-11-24T00:00:25.000Z"]);
    for event in &feed {
        assert_eq!(event["type"], "vehicle.alert.v1");
        assert_eq!(event["data"]["alert"]["kind"], "dtc_opened");
        assert_eq!(event["data"]["alert"]["dtc"]["text"], "SPN 520 FMI 3");
    }
    // The same in one batch gives the same alerts.
    let in_one = World::new().await;
    let subscription = alerts(&in_one, Vec::new()).await;
    in_one.ingest().handle(&reports.map(|report| report.record())).await.unwrap();
    assert_eq!(in_one.feed(&subscription).await, feed);
}

#[tokio::test]
async fn a_code_that_opens_closes_and_opens_in_one_envelope_alerts_twice() {
    let world = World::new().await;
    let subscription = alerts(&world, Vec::new()).await;
    let packet = Packet::new(VEHICLE, 0)
        .dtc(1, Opened, second(1))
        .dtc(2, Opened, second(1))
        .dtc(1, Closed, second(2))
        .dtc(1, Opened, second(3));
    world.ingest().handle(&[packet.record()]).await.unwrap();
    let mut codes: Vec<_> = world
        .feed(&subscription)
        .await
        .iter()
        .map(|event| event["data"]["alert"]["dtc"]["spn"].as_u64().unwrap())
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [1, 1, 2]);
}

fn rule(side: ThresholdSide, hysteresis: f64) -> Threshold {
    Threshold { path: "Vehicle.Speed".into(), side, limit: 100.0, hysteresis }
}

/// Values a second apart, `per_envelope` of them in each envelope; the values that alerted.
async fn crossed(rule: Threshold, values: &[i64], per_envelope: usize) -> Vec<i64> {
    let world = World::new().await;
    let subscription = alerts(&world, vec![rule]).await;
    let manifest = manifest(&["Vehicle.Cabin", "Vehicle.Speed"]);
    let samples: Vec<_> = (0..).map(second).zip(values.iter().copied()).collect();
    let mut packets = vec![Packet::new(VEHICLE, 1_000).uploads(&manifest)];
    for (sequence, samples) in samples.chunks(per_envelope).enumerate() {
        packets.push(Packet::new(VEHICLE, sequence as u64).samples(&manifest, 1, samples));
    }
    let records: Vec<_> = packets.iter().map(Packet::record).collect();
    world.ingest().handle(&records).await.unwrap();
    let feed = world.feed(&subscription).await;
    assert!(feed.iter().all(|event| event["data"]["alert"]["unit"] == "unit_1_"));
    feed.iter().map(|event| event["data"]["alert"]["value"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_threshold_alerts_beyond_its_limit_and_again_only_after_the_hysteresis() {
    use ThresholdSide::{Above, Below};
    for (rule, values, expected) in [
        (rule(Above, 5.0), [100, 101, 96, 102, 95, 100, 103, 94, 104], vec![101, 103, 104]),
        (rule(Below, 5.0), [100, 99, 104, 98, 105, 100, 97, 106, 96], vec![99, 97, 96]),
        (rule(Above, 0.0), [100, 101, 102, 100, 103, 99, 100, 100, 104], vec![101, 103, 104]),
        (rule(Above, 5.0), [50, 60, 70, 80, 90, 100, 100, 100, 100], vec![]),
    ] {
        for per_envelope in [1, 2, 9] {
            assert_eq!(
                crossed(rule.clone(), &values, per_envelope).await,
                expected,
                "{rule:?} by {per_envelope}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_threshold_alerts_as_a_two_state_machine_would(
        values in proptest::collection::vec(90i64..110, 1..30),
        per_envelope in 1usize..8,
        hysteresis in 0i64..6,
    ) {
        let (mut open, mut expected) = (false, Vec::new());
        for value in &values {
            if *value > 100 && !open {
                expected.push(*value);
            }
            open = *value > 100 || (open && *value > 100 - hysteresis);
        }
        let rule = rule(ThresholdSide::Above, hysteresis as f64);
        let found = tokio::runtime::Runtime::new().unwrap().block_on(crossed(rule, &values, per_envelope));
        prop_assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_webhook_gets_alerts_and_no_telemetry() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    let endpoint = WebhookEndpoint {
        id: WebhookEndpointId::random(&world.ambient),
        customer_id: customer.clone(),
        url: "https://fleet.example/convoy".into(),
        class: EndpointClass::Signed,
        disabled_us: None,
        created_us: 0,
    };
    world.reference.create_endpoint(&endpoint).await.unwrap();
    let delivery = Delivery { queue: false, webhook: Some(endpoint.id.clone()) };
    let raw = SubscriptionTerms { delivery: delivery.clone(), ..everything() };
    let raw = world.subscribe(&customer, "raw", raw).await;
    let terms = SubscriptionTerms { delivery, ..everything() };
    let alerts = world.subscribe(&customer, "alerts", terms).await;
    world.ingest().handle(&[change(1, 0, Opened, 1).record()]).await.unwrap();
    let posted = world.queued(QueueName::Webhook(endpoint.id)).await;
    let posted: Vec<_> = posted.into_iter().map(|(_, body)| body).collect();
    assert_eq!(posted, world.feed_bodies(&alerts).await);
    assert_eq!(posted.len(), 1);
    assert_eq!(world.feed(&raw).await.len(), 1, "the change itself, as telemetry");
    assert_eq!(world.queued(QueueName::Subscription(raw)).await, [], "no queue was asked for");
}
