//! Ingest works off batches, on good days and on bad ones.

use std::collections::BTreeSet;
use std::time::Duration;

use convoy_aws::environment::Function;
use convoy_protocol::id::{EnvelopeKey, VehicleId};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use crate::BOOTSTRAP;
use crate::fake::Reply;
use crate::proxy::{Rule, both, every, from, holding, up_to};
use crate::shard::{Batch, done, failed_from, place};
use crate::stage::Stage;
use crate::vehicle::Vehicle;

/// What the template gives it.
pub(crate) const TIME: Duration = Duration::from_secs(60);

/// What is published of the first `count` envelopes of a vehicle.
pub(crate) fn all(vehicle: &Vehicle, count: u64) -> BTreeSet<(VehicleId, EnvelopeKey)> {
    (0..count).map(|sequence| (vehicle.id, vehicle.key(sequence))).collect()
}

#[tokio::test]
async fn garbage_in_a_batch_is_set_aside_and_all_else_is_stored_and_published_once() {
    let (stage, vehicle) = (Stage::new("garbage").await, Vehicle::new(1));
    let function = stage.launch(BOOTSTRAP, Function::Ingest).start().await.unwrap();
    let mut records = vehicle.encoded(0, 40);
    records.insert(20, b"\xff garbage".to_vec());
    let answer = function.invoke(&Batch::new(0, records).event(), TIME).await.answer();
    assert_eq!(answer, done(), "{}", function.output());
    let kept = stage.home.objects.get(&Path::from(format!("undecodable/{}", place(20)))).await.unwrap();
    assert_eq!(kept.bytes().await.unwrap().as_ref(), b"\xff garbage");
    stage.assert_whole(&vehicle, 40).await;
    let published = stage.published().await;
    assert_eq!(published.len(), 40);
    assert_eq!(BTreeSet::from_iter(published), all(&vehicle, 40));
}

/// Gives 300 envelopes while this rule applies, and what is left of them when it no longer does.
async fn fails_in_the_second_slice(name: &str, rule: impl FnOnce(&Vehicle) -> Rule) {
    let (stage, vehicle) = (Stage::new(name).await, Vehicle::new(1));
    let function = stage.launch(BOOTSTRAP, Function::Ingest).start().await.unwrap();
    let batch = Batch::new(1_000, vehicle.encoded(0, 300));
    stage.proxy.add(rule(&vehicle));
    let answer = function.invoke(&batch.event(), TIME).await.answer();
    assert_eq!(answer, failed_from(1_128), "{}", function.output());
    let published = BTreeSet::from_iter(stage.published().await);
    assert_eq!(
        published,
        all(&vehicle, 128),
        "the first slice is done, and nothing after the second is begun"
    );
    stage.proxy.clear();
    assert_eq!(function.invoke(&batch.from(1_128).event(), TIME).await.answer(), done());
    stage.assert_whole(&vehicle, 300).await;
    let rest: Vec<_> = (128..300).map(|sequence| (vehicle.id, vehicle.key(sequence))).collect();
    assert_eq!(stage.published().await, rest, "each once and in order");
}

#[tokio::test]
async fn a_bus_that_fails_in_the_second_slice_brings_the_batch_again_from_there() {
    fails_in_the_second_slice("secondbus", |_| {
        Rule::new("AWSEvents.PutEvents", from(2), Reply::error(500, "InternalFailure"))
    })
    .await;
}

#[tokio::test]
async fn a_table_that_fails_in_the_second_slice_brings_the_batch_again_from_there() {
    fails_in_the_second_slice("secondtable", |vehicle| {
        let choice = holding(vehicle.sort_key_end(200));
        Rule::new("DynamoDB.PutItem", choice, Reply::error(400, "ThrottlingException"))
    })
    .await;
}

#[tokio::test]
async fn batches_given_twice_and_in_another_order_come_to_the_same() {
    const COUNT: u64 = 60;
    let vehicle = Vehicle::new(1);
    let (ordered, mixed) = tokio::join!(Stage::new("ordered"), Stage::new("mixed"));
    let function = ordered.launch(BOOTSTRAP, Function::Ingest).start().await.unwrap();
    let whole = Batch::new(0, vehicle.encoded(0, COUNT));
    assert_eq!(function.invoke(&whole.event(), TIME).await.answer(), done());
    // The first envelope, without whose manifest the others wait, comes last.
    let parts = [(40, COUNT), (20, 40), (0, 20)].map(|(from, to)| vehicle.encoded(from, to));
    let mut backwards = parts[1].clone();
    backwards.reverse();
    let [last, middle, first] = parts;
    let function = mixed.launch(BOOTSTRAP, Function::Ingest).start().await.unwrap();
    let batches = [last.clone(), middle, backwards.clone(), last, first.clone(), backwards, first];
    let mut waited = 0;
    for (number, records) in batches.into_iter().enumerate() {
        let batch = Batch::new(number as u64 * 100, records);
        assert_eq!(function.invoke(&batch.event(), TIME).await.answer(), done(), "{}", function.output());
        waited = waited.max(mixed.account(vehicle.id).await.parked);
    }
    assert_eq!(waited, 40, "what came before the first envelope has waited for it");
    mixed.assert_whole(&vehicle, COUNT).await;
    assert_eq!(mixed.stored(vehicle.id).await, ordered.stored(vehicle.id).await);
    let expected = all(&vehicle, COUNT);
    assert_eq!(BTreeSet::from_iter(ordered.published().await), expected);
    assert_eq!(BTreeSet::from_iter(mixed.published().await), expected);
}

/// Some 12 KB, so that a batch is many entries and several calls.
const MANY_SAMPLES: usize = 1_200;

#[tokio::test]
async fn an_entry_that_stays_refused_brings_its_slice_again_and_what_was_taken_is_known() {
    const COUNT: u64 = 40;
    let (stage, vehicle) =
        (Stage::new("refused").await, Vehicle { samples: MANY_SAMPLES, ..Vehicle::new(1) });
    let function = stage.launch(BOOTSTRAP, Function::Ingest).start().await.unwrap();
    let batch = Batch::new(0, vehicle.encoded(0, COUNT)).event();
    // The first of each call, and so at last one alone.
    stage.proxy.add(Rule::new("AWSEvents.PutEvents", from(1), Reply::RefuseEntry(0, "InternalFailure")));
    let answer = function.invoke(&batch, TIME).await.answer();
    assert_eq!(answer, failed_from(0), "{}", function.output());
    let (mut published, expected) = (BTreeSet::from_iter(stage.published().await), all(&vehicle, COUNT));
    assert!(!published.is_empty() && published.len() < expected.len(), "{}", published.len());
    stage.proxy.clear();
    assert_eq!(function.invoke(&batch, TIME).await.answer(), done());
    published.extend(stage.published().await);
    assert_eq!(published, expected);
    stage.assert_whole(&vehicle, COUNT).await;
}

#[tokio::test]
async fn on_a_bad_day_of_all_services_nothing_gets_lost_and_everything_is_published() {
    const COUNT: u64 = 100;
    let stage = Stage::new("badday").await;
    let vehicles = [1, 2, 3].map(|number| Vehicle { samples: MANY_SAMPLES, ..Vehicle::new(number) });
    let function = stage.launch(BOOTSTRAP, Function::Ingest).start().await.unwrap();
    let throttled = Reply::error(400, "ProvisionedThroughputExceededException");
    // One envelope for longer than any client tries, so that the batch has to come again.
    let put = both(holding(vehicles[0].id.to_string()), holding(vehicles[0].sort_key_end(70)));
    let stuck = both(put, up_to(12));
    stage.proxy.add(Rule::new("DynamoDB.PutItem", stuck, throttled.clone()));
    stage.proxy.add(Rule::new("DynamoDB.", every(10), throttled));
    let refused = Reply::RefuseEntry(1, "ThrottlingException");
    stage.proxy.add(Rule::new("AWSEvents.PutEvents", every(5), refused));
    stage.proxy.add(Rule::new("S3.", every(3), Reply::Text(503, "<Error><Code>SlowDown</Code></Error>")));
    let interleaved =
        (0..COUNT).flat_map(|sequence| vehicles.map(|vehicle| vehicle.record(sequence).encode()));
    let batch = Batch::new(0, interleaved.collect());
    let begun = batch.give(&function, TIME).await;
    assert_eq!(begun, [128, 128], "five tries each: the third time the envelope goes through");
    for calls in ["DynamoDB.", "AWSEvents.PutEvents", "S3."] {
        assert!(stage.proxy.calls(calls).ruled > 1, "{calls} {:?}", stage.proxy.calls(calls));
    }
    let published = BTreeSet::from_iter(stage.published().await);
    assert_eq!(published, vehicles.iter().flat_map(|vehicle| all(vehicle, COUNT)).collect());
    for vehicle in &vehicles {
        stage.assert_whole(vehicle, COUNT).await;
    }
}
