//! Streams deliver at least once: what comes again changes nothing.

use std::collections::BTreeSet;

use convoy_cloud_core::counters::get;
use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::QueueName;
use convoy_cloud_core::record::Record;
use convoy_cloud_core::reference::{SubscriptionTerms, Threshold, ThresholdSide};
use convoy_protocol::dtc::DtcChange;
use convoy_protocol::id::VehicleId;
use proptest::prelude::*;

use crate::world::{Packet, SECOND_US, START_US, World, everything, ids, manifest};

/// What customers have in the end.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    feeds: Vec<Vec<Vec<u8>>>,
    queues: Vec<Vec<(EventId, Vec<u8>)>>,
    envelopes_stored: u64,
}

async fn outcome(world: &World, subscriptions: &[SubscriptionId]) -> Outcome {
    let (mut feeds, mut queues) = (Vec::new(), Vec::new());
    for subscription in subscriptions {
        feeds.push(world.feed_bodies(subscription).await);
        queues.push(world.queued(QueueName::Subscription(subscription.clone())).await);
    }
    Outcome { feeds, queues, envelopes_stored: get(&world.counters.envelopes_stored) }
}

/// Two customers with two vehicles each; telemetry, codes and thresholds for both.
async fn subscribed(world: &World) -> Vec<SubscriptionId> {
    let mut subscriptions = Vec::new();
    for number in [1, 2] {
        let customer = world.customer("customer").await;
        world.vehicle(&customer, number, None).await;
        world.vehicle(&customer, number + 10, None).await;
        subscriptions.push(world.subscribe(&customer, "raw", everything()).await);
        let threshold = Threshold {
            path: "Vehicle.Speed".into(),
            side: ThresholdSide::Above,
            limit: 80.0,
            hysteresis: 5.0,
        };
        let terms = SubscriptionTerms { thresholds: vec![threshold], ..everything() };
        subscriptions.push(world.subscribe(&customer, "alerts", terms).await);
    }
    subscriptions
}

/// Five envelopes of each vehicle, in order of time, with codes and speeds that go up and down.
fn records() -> Vec<Record> {
    let manifest = manifest(&["Vehicle.Speed"]);
    let mut records = Vec::new();
    for turn in 0..5u64 {
        for vehicle in [1, 11, 2, 12] {
            let at_us = START_US + turn as i64 * SECOND_US;
            let samples = [(at_us, 60 + 10 * turn as i64), (at_us + 1, 70)];
            let change = if turn % 2 == 0 { DtcChange::Opened } else { DtcChange::Closed };
            let mut packet = Packet::new(VehicleId([vehicle; 16]), turn).samples(&manifest, 0, &samples);
            packet = packet.dtc(100, change, at_us).dtc(200 + turn as u32 / 3, DtcChange::Opened, at_us);
            packet.boot = 1 + turn as u32 / 2;
            records.push(packet.uploads(&manifest).record());
        }
    }
    records
}

/// How records come: in batches, each with whether the process was started anew before it.
type Arrival = Vec<(Vec<Record>, bool)>;

async fn delivered(arrival: Arrival) -> (World, Vec<SubscriptionId>) {
    let world = World::new().await;
    let subscriptions = subscribed(&world).await;
    let mut ingest = world.ingest();
    for (batch, restarted) in arrival {
        if restarted {
            ingest = world.ingest();
        }
        ingest.handle(&batch).await.unwrap();
    }
    (world, subscriptions)
}

/// Three of each, the first ones in the order of the stream, cut into batches.
fn thrice() -> impl Strategy<Value = Arrival> {
    let copies: Vec<usize> = (0..records().len()).flat_map(|index| [index; 3]).collect();
    (Just(copies).prop_shuffle(), proptest::collection::vec((1usize..12, any::<bool>()), 60)).prop_map(
        |(shuffled, cuts)| {
            let records = records();
            let mut seen: Vec<usize> = Vec::new();
            let in_order = shuffled.into_iter().map(|index| {
                let place = seen.iter().position(|known| *known == index);
                let place = place.unwrap_or_else(|| {
                    seen.push(index);
                    seen.len() - 1
                });
                records[place].clone()
            });
            let mut rest: Vec<_> = in_order.collect();
            let mut arrival = Vec::new();
            for (len, restarted) in cuts {
                let later = rest.split_off(len.min(rest.len()));
                arrival.push((std::mem::replace(&mut rest, later), restarted));
            }
            arrival
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_record_three_times_leaves_what_once_leaves(arrival in thrice()) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let (once, subscriptions) = delivered(vec![(records(), false)]).await;
            let expected = outcome(&once, &subscriptions).await;
            // Codes 100 at turns 0, 2, 4; 200 and 201 once each; the speed rises over 80 in turns 3 and 4.
            assert_eq!(expected.feeds.iter().map(Vec::len).collect::<Vec<_>>(), [20, 14, 20, 14]);
            let (thrice, subscriptions) = delivered(arrival).await;
            assert_eq!(outcome(&thrice, &subscriptions).await, expected);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn in_any_order_telemetry_is_the_same_and_an_open_code_alerts_once(
        shuffled in Just((0..records().len()).flat_map(|index| [index; 3]).collect::<Vec<_>>()).prop_shuffle(),
        batch in 1usize..20,
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let (once, subscriptions) = delivered(vec![(records(), false)]).await;
            let records = records();
            let arrival = shuffled.chunks(batch).map(|indexes| {
                (indexes.iter().map(|index| records[*index].clone()).collect(), false)
            });
            let (shuffled, _) = delivered(arrival.collect()).await;
            for telemetry in [0, 2] {
                let set = async |world: &World| {
                    let events = world.feed(&subscriptions[telemetry]).await;
                    let unique: BTreeSet<_> = ids(&events).into_iter().collect();
                    assert_eq!(unique.len(), events.len());
                    unique
                };
                assert_eq!(set(&shuffled).await, set(&once).await);
            }
            for alerts in [1, 3] {
                let feed = shuffled.feed(&subscriptions[alerts]).await;
                for spn in [200, 201] {
                    let of_code = feed.iter().filter(|event| event["data"]["alert"]["dtc"]["spn"] == spn);
                    assert_eq!(of_code.count(), 2, "once for each of the two vehicles");
                }
            }
        });
    }
}
