//! What is written, since DynamoDB charges every write: a change that makes it more shows here.

use std::collections::BTreeMap;

use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::{EventStore as _, FeedEntry, SignalState, StoredEnvelope};
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, VehicleId};

use crate::emulator::emulator;
use crate::fake::{Fake, Reply};
use crate::store::Home;

const VEHICLE: VehicleId = VehicleId([7; 16]);

/// Writes since the last look, by table.
struct Meter {
    fake: Fake,
    seen: usize,
}

impl Meter {
    fn writes(&mut self) -> BTreeMap<String, usize> {
        let requests = self.fake.requests();
        let mut writes = BTreeMap::new();
        for request in &requests[self.seen..] {
            if matches!(request.operation(), "PutItem" | "UpdateItem") {
                let table = request.json()["TableName"].as_str().unwrap().to_owned();
                *writes.entry(table.rsplit('-').next().unwrap().to_owned()).or_default() += 1;
            }
        }
        self.seen = requests.len();
        writes
    }
}

fn expected(writes: &[(&str, usize)]) -> BTreeMap<String, usize> {
    writes.iter().map(|(table, count)| ((*table).to_owned(), *count)).collect()
}

fn envelope(sequence: u64) -> StoredEnvelope {
    let key = EnvelopeKey { boot_id: BootId { counter: 1, spool: 9 }, lane: Lane::Bulk, sequence };
    let times = (sequence as i64, sequence as i64 + 9);
    let bytes = vec![1; 500];
    StoredEnvelope { vehicle_id: VEHICLE, key, first_us: times.0, last_us: times.1, received_us: 99, bytes }
}

#[tokio::test]
async fn a_batch_writes_its_envelopes_and_twice_a_vehicle() {
    let home = Home::new("cost").await;
    let fake = Fake::before(&emulator().url, |_| Reply::Forward).await;
    let (store, mut meter) = (home.store_by(&fake.url), Meter { fake, seen: 0 });
    let batch = |from: u64| (from..from + 5).map(envelope).collect::<Vec<_>>();
    store.put_events(&batch(0)).await.unwrap();
    assert_eq!(meter.writes(), expected(&[("events", 5), ("vehicles", 2)]), "the day once, and the ledger");
    store.put_events(&batch(5)).await.unwrap();
    assert_eq!(meter.writes(), expected(&[("events", 5), ("vehicles", 1)]), "the ledger");
    store.put_events(&batch(5)).await.unwrap();
    assert_eq!(meter.writes(), expected(&[]), "what comes again is only read");
    let signal = |sampled_us| SignalState {
        path: "Vehicle.Speed".into(),
        unit: "km/h".into(),
        value: Some(1.0),
        sampled_us,
        received_us: 2,
    };
    let states = |time| [(VEHICLE, vec![signal(time)]), (VEHICLE, vec![signal(time + 1)])];
    store.put_state(&states(5)).await.unwrap();
    assert_eq!(meter.writes(), expected(&[("state", 1)]));
    store.put_state(&states(4)).await.unwrap();
    assert_eq!(meter.writes(), expected(&[]), "nothing is newer");
}

#[tokio::test]
async fn an_append_writes_a_chunk_the_head_and_a_claim_an_event() {
    let home = Home::new("costfeed").await;
    let fake = Fake::before(&emulator().url, |_| Reply::Forward).await;
    let (store, mut meter) = (home.store_by(&fake.url), Meter { fake, seen: 0 });
    let entry = |number: u8| FeedEntry {
        subscription_id: SubscriptionId::from_bytes(&[5; 16]),
        event_id: EventId::from_bytes(&[number; 16]),
        body: vec![b'1'; 900],
        committed_us: 1,
    };
    for from in [0, 10, 20] {
        let entries: Vec<_> = (from..from + 10).map(entry).collect();
        store.append_feed(&entries).await.unwrap();
        assert_eq!(meter.writes(), expected(&[("feed", 12)]));
    }
}
