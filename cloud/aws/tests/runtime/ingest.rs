//! Ingest works off batches, on good days and on bad ones.

use std::collections::BTreeSet;
use std::time::Duration;

use convoy_aws::environment::Function;
use convoy_protocol::id::{EnvelopeKey, VehicleId};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use crate::BOOTSTRAP;
use crate::shard::{Batch, done, place};
use crate::stage::Stage;
use crate::vehicle::Vehicle;

/// What the template gives it.
const TIME: Duration = Duration::from_secs(60);

/// Asserts that the first `count` envelopes of a vehicle are stored and in the ledger, and no others, and that none is
/// missing.
pub(crate) async fn assert_whole(stage: &Stage, vehicle: &Vehicle, count: u64) {
    let account = stage.account(vehicle.id).await;
    let counts = (account.accepted, account.stored, account.rejected, account.parked);
    assert_eq!(counts, (count, count, 0, 0), "{account:?}");
    assert_eq!((account.last, account.missing), (count - 1, vec![]));
    let expected: Vec<_> = (0..count).map(|sequence| vehicle.key(sequence)).collect();
    assert_eq!(stage.stored(vehicle.id).await, expected);
}

/// The first `count` envelopes of a vehicle.
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
    assert_whole(&stage, &vehicle, 40).await;
    let published = stage.published().await;
    assert_eq!(published.len(), 40);
    assert_eq!(BTreeSet::from_iter(published), all(&vehicle, 40));
}
