//! What every [`EventStore`] must do.
#![allow(clippy::unwrap_used, reason = "a call that fails is a promise that is broken")]

use convoy_protocol::id::{BootId, EnvelopeKey, Lane, VehicleId};

use super::Run;
use crate::condition::{Before, Condition};
use crate::identity::SubscriptionId;
use crate::ledger::{LedgerRange, Outcome, accounts};
use crate::ports::Novelty::{Known, New};
use crate::ports::{EventQuery, EventStore, FeedEntry, SignalState, StoredEnvelope};
use crate::record::{PartitionKey, Record};

/// Enough for one page in these suites.
const ALL: u32 = 1_000;

const fn key(counter: u32, spool: u64, lane: Lane, sequence: u64) -> EnvelopeKey {
    EnvelopeKey { boot_id: BootId { counter, spool }, lane, sequence }
}

const fn bulk(sequence: u64) -> EnvelopeKey {
    key(1, 7, Lane::Bulk, sequence)
}

fn envelope(vehicle_id: VehicleId, key: EnvelopeKey, first_us: i64, last_us: i64) -> StoredEnvelope {
    let bytes = format!("{key}").into_bytes();
    StoredEnvelope { vehicle_id, key, first_us, last_us, received_us: 77, bytes }
}

const fn everything(vehicle_id: VehicleId) -> EventQuery {
    EventQuery { vehicle_id, from_us: i64::MIN, to_us: i64::MAX, after: None, limit: ALL }
}

async fn keys(store: &dyn EventStore, query: EventQuery) -> Vec<EnvelopeKey> {
    store.events(query).await.unwrap().into_iter().map(|found| found.key).collect()
}

/// All of the suites below.
pub async fn all(store: &dyn EventStore, run: Run) {
    storing_again_changes_nothing(store, run).await;
    identity_is_vehicle_boot_lane_and_sequence(store, run).await;
    a_range_includes_its_beginning_and_not_its_end(store, run).await;
    order_is_time_then_identity(store, run).await;
    paging_loses_and_repeats_nothing(store, run).await;
    the_ledger_accounts_for_what_comes_in_any_order(store, run).await;
    newer_state_wins_in_any_order(store, run).await;
    conditions_are_replaced_one_by_one(store, run).await;
    a_feed_keeps_order_and_holds_an_event_once(store, run).await;
    a_feed_is_read_whole_while_it_grows(store, run).await;
    parked_records_wait_for_their_manifest(store, run).await;
}

/// Each envelope is new once, also within one call, and its first form stays.
pub async fn storing_again_changes_nothing(store: &dyn EventStore, run: Run) {
    let vehicle = run.vehicle("put");
    let [a, b, c] = [1, 2, 3].map(|number| envelope(vehicle, bulk(number), 10, 20));
    assert_eq!(store.put_events(&[]).await.unwrap(), []);
    assert_eq!(store.put_events(&[a.clone(), b.clone()]).await.unwrap(), [New, New]);
    let changed = StoredEnvelope { bytes: b"other".to_vec(), received_us: 99, ..b.clone() };
    let news = store.put_events(&[changed, c.clone(), c.clone()]).await.unwrap();
    assert_eq!(news, [Known, New, Known], "one was there, one is new, one is there twice in the call");
    assert_eq!(store.events(everything(vehicle)).await.unwrap(), [a, b, c]);
}

/// Two envelopes are the same only if vehicle, boot, lane and sequence are.
pub async fn identity_is_vehicle_boot_lane_and_sequence(store: &dyn EventStore, run: Run) {
    let (vehicle, other) = (run.vehicle("identity"), run.vehicle("identity, another"));
    let variants = [
        (vehicle, key(1, 1, Lane::Fast, 1)),
        (other, key(1, 1, Lane::Fast, 1)),
        (vehicle, key(2, 1, Lane::Fast, 1)),
        (vehicle, key(1, 2, Lane::Fast, 1)),
        (vehicle, key(1, 1, Lane::Bulk, 1)),
        (vehicle, key(1, 1, Lane::Fast, 2)),
    ];
    let envelopes = variants.map(|(vehicle, key)| envelope(vehicle, key, 0, 0));
    assert_eq!(store.put_events(&envelopes).await.unwrap(), [New; 6]);
    assert_eq!(store.put_events(&envelopes).await.unwrap(), [Known; 6]);
    assert_eq!(store.events(everything(vehicle)).await.unwrap().len(), 5);
    assert_eq!(store.events(everything(other)).await.unwrap(), [envelopes[1].clone()]);
    assert_eq!(store.events(everything(run.vehicle("identity, unknown"))).await.unwrap(), []);
}

/// From is inclusive, to is exclusive, and what reaches into the range from before belongs to it.
pub async fn a_range_includes_its_beginning_and_not_its_end(store: &dyn EventStore, run: Run) {
    let vehicle = run.vehicle("range");
    let spans = [(50, 99), (50, 100), (90, 150), (100, 100), (199, 250), (200, 250), (250, 260)];
    let envelopes: Vec<_> = (0..)
        .zip(spans)
        .map(|(number, (first_us, last_us))| envelope(vehicle, bulk(number), first_us, last_us))
        .collect();
    store.put_events(&envelopes).await.unwrap();
    let range = EventQuery { from_us: 100, to_us: 200, ..everything(vehicle) };
    assert_eq!(keys(store, range).await, [1, 2, 3, 4].map(bulk));
    let none = EventQuery { from_us: 300, to_us: 100, ..everything(vehicle) };
    assert_eq!(keys(store, none).await, []);

    let edges = run.vehicle("range, at the edges of time");
    let (first, last) = (key(0, 0, Lane::Fast, 0), bulk(1));
    let extremes =
        [envelope(edges, first, i64::MIN, i64::MIN), envelope(edges, last, i64::MAX - 1, i64::MAX)];
    store.put_events(&extremes).await.unwrap();
    assert_eq!(store.events(everything(edges)).await.unwrap(), extremes);
    let before = EventQuery { to_us: i64::MIN, ..everything(edges) };
    assert_eq!(keys(store, before).await, []);
    let earliest = EventQuery { to_us: i64::MIN + 1, ..everything(edges) };
    assert_eq!(keys(store, earliest).await, [first]);
    let latest = EventQuery { from_us: i64::MAX, ..everything(edges) };
    assert_eq!(keys(store, latest).await, [last]);
    let after_first = EventQuery { after: Some((i64::MIN, first)), ..everything(edges) };
    assert_eq!(keys(store, after_first).await, [last]);
}

/// Envelopes of one time come by boot, lane and sequence, all numbers being unsigned.
pub async fn order_is_time_then_identity(store: &dyn EventStore, run: Run) {
    let vehicle = run.vehicle("order");
    let mut expected = Vec::new();
    // The later time has the lower boots.
    for (first_us, counters) in [(-5, [2, u32::MAX]), (5, [0, 1])] {
        for counter in counters {
            for spool in [0, i64::MAX as u64, 1 << 63, u64::MAX] {
                for lane in [Lane::Fast, Lane::Bulk] {
                    for sequence in [0, 1, u64::MAX] {
                        expected.push((first_us, key(counter, spool, lane, sequence)));
                    }
                }
            }
        }
    }
    let mut shuffled = expected.clone();
    run.dice().shuffle(&mut shuffled);
    let envelopes: Vec<_> =
        shuffled.into_iter().map(|(first_us, key)| envelope(vehicle, key, first_us, 9)).collect();
    store.put_events(&envelopes).await.unwrap();
    let found = store.events(everything(vehicle)).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|envelope| (envelope.first_us, envelope.key)).collect();
    assert_eq!(found, expected);
}

/// Pages of any size, each begun after the last of the one before, give the same as one read.
pub async fn paging_loses_and_repeats_nothing(store: &dyn EventStore, run: Run) {
    let (vehicle, mut dice) = (run.vehicle("paging"), run.dice());
    let envelopes: Vec<_> = (0..57)
        .map(|number| {
            let first_us = dice.below(9) as i64 - 4;
            envelope(vehicle, key(dice.below(2) as u32, dice.next(), Lane::Bulk, number), first_us, 5)
        })
        .collect();
    store.put_events(&envelopes).await.unwrap();
    let at_once = store.events(everything(vehicle)).await.unwrap();
    assert_eq!(at_once.len(), envelopes.len());
    for limit in [1, 2, 7, 56, 57, 58] {
        let mut paged: Vec<StoredEnvelope> = Vec::new();
        loop {
            let after = paged.last().map(|last| (last.first_us, last.key));
            let page = store.events(EventQuery { after, limit, ..everything(vehicle) }).await.unwrap();
            assert!(page.len() <= limit as usize, "a page of {} is over {limit}", page.len());
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, at_once, "in pages of {limit}");
    }
}

/// Whatever the order and the grouping in which values arrive, the newest of each path stays.
pub async fn newer_state_wins_in_any_order(store: &dyn EventStore, run: Run) {
    let mut dice = run.dice();
    let times = [i64::MIN, -1, 0, 1, 1_000, i64::MAX];
    let paths = ["Vehicle.A", "Vehicle.B", "Vehicle.C"];
    let mut states = Vec::new();
    for path in paths {
        for (number, sampled_us) in times.into_iter().enumerate() {
            let value = (number % 2 == 1).then_some(number as f64);
            let unit = format!("unit {number}");
            states.push(SignalState {
                path: path.into(),
                unit,
                value,
                sampled_us,
                received_us: -sampled_us.max(-9),
            });
        }
    }
    let newest: Vec<_> = states.iter().filter(|state| state.sampled_us == i64::MAX).cloned().collect();
    for turn in 0..16 {
        let vehicle = run.vehicle(&format!("state {turn}"));
        dice.shuffle(&mut states);
        let mut rest = states.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + dice.below(rest.len().min(5)));
            // A vehicle may be there several times in one call.
            let (left, right) = now.split_at(dice.below(now.len()));
            store.put_state(&[(vehicle, left.to_vec()), (vehicle, right.to_vec())]).await.unwrap();
            rest = later;
        }
        assert_eq!(store.state(vehicle).await.unwrap(), newest, "by path, in turn {turn}");
    }
    assert_eq!(store.state(run.vehicle("state of an unknown one")).await.unwrap(), []);
}

/// A condition put again takes the place of the one with its key, of its vehicle only.
pub async fn conditions_are_replaced_one_by_one(store: &dyn EventStore, run: Run) {
    let (vehicle, other) = (run.vehicle("conditions"), run.vehicle("conditions, another"));
    let condition = |key: &str, open: bool, judged_us: i64, sequence: u64| Condition {
        key: key.into(),
        open,
        judged_us,
        by: bulk(sequence),
        before: Before { open: !open, judged_us: i64::MIN },
    };
    assert_eq!(store.conditions(vehicle).await.unwrap(), []);
    let (a, b) = (condition("a", true, i64::MAX, u64::MAX), condition("b", false, -1, 0));
    let foreign = condition("a", false, 3, 3);
    let put = [(vehicle, b.clone()), (vehicle, a), (other, foreign.clone())];
    store.put_conditions(&put).await.unwrap();
    let newer = condition("a", false, 4, 4);
    store.put_conditions(&[(vehicle, newer.clone())]).await.unwrap();
    assert_eq!(store.conditions(vehicle).await.unwrap(), [newer.clone(), b.clone()]);
    assert_eq!(store.conditions(other).await.unwrap(), [foreign]);
    // What is put last in one call stays.
    let (middle, last) = (condition("a", true, 5, 5), condition("a", false, 6, 6));
    store.put_conditions(&[(vehicle, middle), (vehicle, last.clone())]).await.unwrap();
    assert_eq!(store.conditions(vehicle).await.unwrap(), [last, b]);
}

fn entry(run: Run, subscription: &SubscriptionId, number: usize) -> FeedEntry {
    FeedEntry {
        subscription_id: subscription.clone(),
        event_id: run.event(&format!("feed {number}")),
        // Long ones too, which a store may pack.
        body: format!("{{\"n\":{number}}}").repeat(1 + number % 3 * 100).into_bytes(),
        committed_us: number as i64,
    }
}

/// Feeds are apart; each is in the order of appending, and an event comes into it once.
pub async fn a_feed_keeps_order_and_holds_an_event_once(store: &dyn EventStore, run: Run) {
    let (mine, other) = (run.subscription("feed"), run.subscription("feed, another"));
    assert_eq!(store.feed_end(&mine).await.unwrap(), 0);
    let empty = store.feed(&mine, 0, ALL).await.unwrap();
    assert_eq!((empty.entries.len(), empty.position, empty.has_more, empty.oldest), (0, 0, false, 0));
    let entries: Vec<_> = (0..6).map(|number| entry(run, &mine, number)).collect();
    let foreign = FeedEntry { subscription_id: other.clone(), ..entries[0].clone() };
    assert_eq!(store.append_feed(&[]).await.unwrap(), 0);
    let first = [entries[0].clone(), foreign.clone(), entries[1].clone(), entries[1].clone()];
    assert_eq!(store.append_feed(&first).await.unwrap(), 3, "the same event in another feed is new");
    let changed = FeedEntry { body: b"other".to_vec(), committed_us: 99, ..entries[0].clone() };
    let second = [changed, entries[2].clone(), entries[3].clone(), entries[1].clone()];
    assert_eq!(store.append_feed(&second).await.unwrap(), 2);
    assert_eq!(store.append_feed(&entries).await.unwrap(), 2);
    assert_eq!(store.append_feed(&entries).await.unwrap(), 0);

    let page = store.feed(&mine, 0, 6).await.unwrap();
    assert_eq!(page.entries, entries);
    assert!(!page.has_more, "exactly as many as asked for");
    assert_eq!((page.position, page.oldest), (store.feed_end(&mine).await.unwrap(), 0));
    assert!(store.feed(&mine, 0, 5).await.unwrap().has_more);
    let end = store.feed(&mine, page.position, ALL).await.unwrap();
    assert_eq!((end.entries.len(), end.position, end.has_more), (0, page.position, false));
    let beyond = store.feed(&mine, i64::MAX as u64, ALL).await.unwrap();
    assert_eq!((beyond.entries.len(), beyond.has_more), (0, false));
    assert_eq!(store.feed(&other, 0, ALL).await.unwrap().entries, [foreign]);
}

/// A reader that goes on at each page's position sees every entry once, in order, while others append.
pub async fn a_feed_is_read_whole_while_it_grows(store: &dyn EventStore, run: Run) {
    const ENTRIES: usize = 60;
    let (mine, other, mut dice) = (run.subscription("growing"), run.subscription("growing too"), run.dice());
    let entries: Vec<_> = (0..ENTRIES).map(|number| entry(run, &mine, number)).collect();
    let (mut appended, mut position, mut seen) = (0, 0, Vec::new());
    while seen.len() < ENTRIES {
        if appended < ENTRIES && dice.below(2) == 0 {
            let now = (appended + 1 + dice.below(7)).min(ENTRIES);
            // What comes into another feed in between leaves gaps in positions at most.
            let foreign = FeedEntry { subscription_id: other.clone(), ..entries[appended].clone() };
            let mut batch = vec![foreign];
            batch.extend_from_slice(&entries[appended..now]);
            store.append_feed(&batch).await.unwrap();
            appended = now;
        }
        let limit = 1 + dice.below(5);
        let page = store.feed(&mine, position, limit as u32).await.unwrap();
        assert!(page.position >= position, "{} is before {position}", page.position);
        let known = appended - seen.len();
        assert_eq!((page.entries.len(), page.has_more), (known.min(limit), known > limit));
        position = page.position;
        seen.extend(page.entries);
    }
    assert_eq!(seen, entries);
}

fn record(run: Run, label: &str, payload: &[u8]) -> Record {
    Record {
        partition_key: PartitionKey { version: 1, hash: run.bytes(label) },
        vehicle_id: run.vehicle(label),
        lane: Lane::Bulk,
        received_us: -5,
        payload: payload.to_vec(),
    }
}

/// Parking again changes nothing, the oldest come first, and only what was taken is forgotten.
pub async fn parked_records_wait_for_their_manifest(store: &dyn EventStore, run: Run) {
    let (wanted, other) = (run.manifest("parked"), run.manifest("parked, another"));
    let records: Vec<_> = (0u8..5).map(|number| record(run, "parked", &[number; 300])).collect();
    assert_eq!(store.parked(wanted, ALL).await.unwrap(), []);
    for record in &records[..3] {
        store.park(wanted, record).await.unwrap();
    }
    store.park(wanted, &records[0]).await.unwrap();
    store.park(other, &records[0]).await.unwrap();
    assert_eq!(store.parked(wanted, ALL).await.unwrap(), records[..3]);
    let taken = store.parked(wanted, 2).await.unwrap();
    assert_eq!(taken, records[..2]);
    store.park(wanted, &records[3]).await.unwrap();
    store.unpark(wanted, &taken).await.unwrap();
    store.unpark(wanted, &taken).await.unwrap();
    assert_eq!(store.parked(wanted, ALL).await.unwrap(), records[2..4]);
    assert_eq!(store.parked(other, ALL).await.unwrap(), records[..1]);
    store.unpark(wanted, &records[2..4]).await.unwrap();
    assert_eq!(store.parked(wanted, ALL).await.unwrap(), []);
}

/// Writes one thing of each kind, for [`kept`] to find after the store was closed and opened.
pub async fn keep(store: &dyn EventStore, run: Run) {
    let vehicle = run.vehicle("kept");
    store.put_events(&[envelope(vehicle, bulk(1), 1, 2)]).await.unwrap();
    store.put_state(&[(vehicle, vec![kept_state()])]).await.unwrap();
    store.put_conditions(&[(vehicle, kept_condition())]).await.unwrap();
    let mine = run.subscription("kept");
    store.append_feed(&[entry(run, &mine, 0), entry(run, &mine, 1)]).await.unwrap();
    store.park(run.manifest("kept"), &record(run, "kept", b"payload")).await.unwrap();
}

/// Everything that [`keep`] wrote is there, and writing it again changes nothing.
pub async fn kept(store: &dyn EventStore, run: Run) {
    let (vehicle, mine) = (run.vehicle("kept"), run.subscription("kept"));
    let end = store.feed_end(&mine).await.unwrap();
    let again = store.put_events(&[envelope(vehicle, bulk(1), 1, 2)]).await.unwrap();
    assert_eq!(again, [Known]);
    keep(store, run).await;
    assert_eq!(store.events(everything(vehicle)).await.unwrap(), [envelope(vehicle, bulk(1), 1, 2)]);
    assert_eq!(store.state(vehicle).await.unwrap(), [kept_state()]);
    assert_eq!(store.conditions(vehicle).await.unwrap(), [kept_condition()]);
    let page = store.feed(&mine, 0, ALL).await.unwrap();
    assert_eq!(page.entries, [entry(run, &mine, 0), entry(run, &mine, 1)]);
    assert_eq!(page.position, end);
    let parked = store.parked(run.manifest("kept"), ALL).await.unwrap();
    assert_eq!(parked, [record(run, "kept", b"payload")]);
    // Positions go on where they were: a reader's place stays good.
    store.append_feed(&[entry(run, &mine, 2)]).await.unwrap();
    let after = store.feed(&mine, end, ALL).await.unwrap();
    assert_eq!(after.entries, [entry(run, &mine, 2)]);
}

fn kept_state() -> SignalState {
    SignalState {
        path: "Vehicle.Speed".into(),
        unit: "km/h".into(),
        value: Some(-0.5),
        sampled_us: 3,
        received_us: 4,
    }
}

fn kept_condition() -> Condition {
    let before = Before { open: false, judged_us: 5 };
    Condition { key: "dtc".into(), open: true, judged_us: 6, by: key(9, u64::MAX, Lane::Fast, 2), before }
}

/// Whatever comes, in any order and again, ends in the same account.
async fn the_ledger_accounts_for_what_comes_in_any_order(store: &dyn EventStore, run: Run) {
    let vehicle = run.vehicle("ledger");
    let stored = |sequences: &[u64]| -> Vec<_> {
        sequences.iter().map(|sequence| envelope(vehicle, bulk(*sequence), 1, 2)).collect()
    };
    store.put_events(&stored(&[3, 0, 1, 8])).await.unwrap();
    store.put_events(&stored(&[1, 2])).await.unwrap();
    let entry = |outcome, first, last| {
        (vehicle, LedgerRange { first, last, ..LedgerRange::one(bulk(first), outcome) })
    };
    for _ in 0..2 {
        let entries = [
            entry(Outcome::Rejected, 4, 4),
            entry(Outcome::DroppedFull, 6, 7),
            entry(Outcome::Announced, 0, 10),
            entry(Outcome::Archived, 0, 2),
            entry(Outcome::Archived, 1, 4),
        ];
        store.put_ledger(&entries).await.unwrap();
    }
    let accounts = accounts(&store.ledger(vehicle).await.unwrap());
    let [account] = accounts.as_slice() else { panic!("one boot and lane: {accounts:?}") };
    assert_eq!((account.accepted, account.stored, account.rejected, account.archived), (6, 5, 1, 5));
    let missing: Vec<_> = account.missing.iter().map(|range| (range.first, range.last)).collect();
    assert_eq!((account.last, missing), (10, vec![(5, 5), (9, 10)]));
    assert_eq!(store.ledger(run.vehicle("ledger, unknown")).await.unwrap(), []);
}
