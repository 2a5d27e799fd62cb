//! DynamoDB as an event store.

use convoy_cloud_core::contract::{Run, event_store};
use convoy_cloud_core::ledger::{LedgerRange, Outcome, merged};
use convoy_cloud_core::ports::Novelty::{Forgotten, Known, New};
use convoy_cloud_core::ports::{EventQuery, EventStore as _, PortError, SignalState, StoredEnvelope};
use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, ManifestId, VehicleId};
use futures_util::TryStreamExt as _;

use crate::emulator::emulator;
use crate::fake::{Fake, Reply};
use crate::store::{DAY_US, Home, KEEP_DAYS};

const VEHICLE: VehicleId = VehicleId([7; 16]);
/// 2026-11-24T00:00:00Z.
const START_US: i64 = 1_795_478_400_000_000;

fn envelope(sequence: u64, first_us: i64) -> StoredEnvelope {
    let boot_id = BootId { counter: 1, spool: 9 };
    let key = EnvelopeKey { boot_id, lane: Lane::Bulk, sequence };
    let bytes = vec![sequence as u8; 40];
    StoredEnvelope {
        vehicle_id: VEHICLE,
        key,
        first_us,
        last_us: first_us + 9,
        received_us: first_us + 99,
        bytes,
    }
}

fn query(from_us: i64, to_us: i64, limit: u32) -> EventQuery {
    EventQuery { vehicle_id: VEHICLE, from_us, to_us, after: None, limit }
}

#[tokio::test(flavor = "multi_thread")]
async fn dynamodb_is_an_event_store() {
    let home = Home::new("contract").await;
    for run in [1, 2].map(Run) {
        event_store::all(&home.store(), run).await;
        event_store::keep(&home.store(), run).await;
        event_store::kept(&home.store(), run).await;
    }
}

/// One call in ten.
#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_dynamodb_keeps_every_promise() {
    let home = Home::new("throttled").await;
    let mut dice = 0u32;
    let fake = Fake::before(&emulator().url, move |_| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match (dice >> 16) % 10 {
            0 => Reply::error(400, "ProvisionedThroughputExceededException"),
            _ => Reply::Forward,
        }
    })
    .await;
    event_store::all(&home.store_by(&fake.url), Run(1)).await;
    event_store::keep(&home.store_by(&fake.url), Run(1)).await;
    event_store::kept(&home.store_by(&fake.url), Run(1)).await;
}

#[tokio::test]
async fn an_envelope_that_comes_again_after_its_time_is_forgotten() {
    let home = Home::new("forgotten").await;
    let store = home.store();
    let (old, young) = (envelope(1, START_US), envelope(2, START_US + 5));
    assert_eq!(store.put_events(std::slice::from_ref(&old)).await.unwrap(), [New]);
    home.days_go_by(KEEP_DAYS - 1);
    assert_eq!(store.put_events(std::slice::from_ref(&young)).await.unwrap(), [New]);
    assert_eq!(store.put_events(&[old.clone(), young.clone()]).await.unwrap(), [Known, Known]);
    home.days_go_by(2);
    // Whether DynamoDB has come to deleting it or not.
    for _ in 0..2 {
        let batch = [old.clone(), young.clone(), old.clone()];
        assert_eq!(store.put_events(&batch).await.unwrap(), [Forgotten, Known, Forgotten]);
        let found = home.store().events(query(i64::MIN, i64::MAX, 9)).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&young));
        home.delete_ended(&home.tables.events).await;
    }
    let ledger = store.ledger(VEHICLE).await.unwrap();
    assert_eq!(ledger, [LedgerRange { last: 2, ..LedgerRange::one(old.key, Outcome::Stored) }]);
}

#[tokio::test]
async fn days_are_read_one_after_the_other_and_are_found_as_long_as_they_have_envelopes() {
    let home = Home::new("days").await;
    let store = home.store();
    let day = |number: u64| envelope(number, START_US + number as i64 * DAY_US - 5);
    let envelopes: Vec<_> = (0..6).map(day).collect();
    store.put_events(&envelopes).await.unwrap();
    assert_eq!(store.events(query(i64::MIN, i64::MAX, 4)).await.unwrap(), envelopes[..4]);
    let after = Some((envelopes[3].first_us, envelopes[3].key));
    let rest = EventQuery { after, ..query(i64::MIN, i64::MAX, 4) };
    assert_eq!(store.events(rest).await.unwrap(), envelopes[4..]);
    // The third reaches over midnight into the day that is asked for.
    let second_day = query(START_US + 2 * DAY_US, START_US + 3 * DAY_US, 9);
    assert_eq!(store.events(second_day).await.unwrap(), envelopes[2..4]);
    // Late ones of a day that was noted long ago.
    home.days_go_by(KEEP_DAYS - 1);
    let late = envelope(9, START_US + 7);
    assert_eq!(store.put_events(std::slice::from_ref(&late)).await.unwrap(), [New]);
    home.days_go_by(KEEP_DAYS - 1);
    assert_eq!(home.store().events(query(i64::MIN, i64::MAX, 9)).await.unwrap(), [late]);
    // By now the other days are taken out when the next one is noted.
    home.days_go_by(9);
    let last = envelope(10, START_US + 70 * DAY_US);
    store.put_events(std::slice::from_ref(&last)).await.unwrap();
    assert_eq!(home.store().events(query(i64::MIN, i64::MAX, 9)).await.unwrap(), [last]);
}

#[tokio::test]
async fn the_largest_envelope_fits_and_a_larger_one_is_refused() {
    let home = Home::new("large").await;
    let store = home.store();
    let large = StoredEnvelope { bytes: vec![9; ENVELOPE_BYTES_MAX], ..envelope(1, START_US) };
    assert_eq!(store.put_events(std::slice::from_ref(&large)).await.unwrap(), [New]);
    assert_eq!(store.events(query(i64::MIN, i64::MAX, 9)).await.unwrap(), std::slice::from_ref(&large));
    let larger = StoredEnvelope { bytes: vec![9; 2 * ENVELOPE_BYTES_MAX], ..large };
    assert!(matches!(store.put_events(&[larger]).await, Err(PortError::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_lose_neither_state_nor_ledger() {
    const WRITERS: u64 = 6;
    const TURNS: u64 = 10;
    let home = Home::new("writers").await;
    let signal = |path: u64, time: u64| SignalState {
        path: format!("Vehicle.S{path}"),
        unit: String::new(),
        value: Some(time as f64),
        sampled_us: time as i64,
        received_us: 0,
    };
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = home.store();
        writers.spawn(async move {
            for turn in 0..TURNS {
                let time = turn * WRITERS + writer;
                let states = [(VEHICLE, (0..3).map(|path| signal(path, time)).collect())];
                store.put_state(&states).await.unwrap();
                let key = envelope(time, 0).key;
                store.put_ledger(&[(VEHICLE, LedgerRange::one(key, Outcome::Archived))]).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let newest = WRITERS * TURNS - 1;
    let expected: Vec<_> = (0..3).map(|path| signal(path, newest)).collect();
    assert_eq!(home.store().state(VEHICLE).await.unwrap(), expected);
    let ledger = home.store().ledger(VEHICLE).await.unwrap();
    let whole = LedgerRange { last: newest, ..LedgerRange::one(envelope(0, 0).key, Outcome::Archived) };
    assert_eq!(merged(ledger.into_iter().map(|range| (VEHICLE, range)).collect()), [(VEHICLE, whole)]);
}

#[tokio::test]
async fn a_parked_record_too_large_for_an_item_waits_in_the_bucket() {
    let home = Home::new("parked").await;
    let store = home.store();
    let record = |len: usize| Record {
        partition_key: PartitionKey { version: 1, hash: [1; 16] },
        vehicle_id: VEHICLE,
        lane: Lane::Bulk,
        received_us: 5,
        payload: (0..len).map(|index| (index * index % 251) as u8).collect(),
    };
    let (manifest, records) = (ManifestId([3; 16]), [record(10), record(900_000)]);
    for record in &records {
        store.park(manifest, record).await.unwrap();
    }
    assert_eq!(store.parked(manifest, 9).await.unwrap(), records);
    assert_eq!(objects(&home).await, 1);
    store.unpark(manifest, &records).await.unwrap();
    assert_eq!((store.parked(manifest, 9).await.unwrap(), objects(&home).await), (vec![], 0));
}

async fn objects(home: &Home) -> usize {
    home.objects.list(Some(&"parked".into())).try_collect::<Vec<_>>().await.unwrap().len()
}
