//! What one envelope comes to in DynamoDB: units written and read, bytes kept.

use super::Scenario;
use super::bill::write_units;
use super::book::Sizes;
use super::design::{Design, Feed};
use super::pack::Packed;

/// What DynamoDB adds to an item's bytes.
const STORED_ITEM_BYTES: f64 = 100.0;
/// Ledger of a boot, claim of an event, condition, bytes.
const SMALL_ITEM_BYTES: f64 = 200.0;
/// A claim, bytes.
const CLAIM_BYTES: f64 = 85.0;
/// A claim outlives its chunk by this time, days.
const CLAIM_OUTLIVES_DAYS: f64 = 1.0;
/// Keys, token and end of a chunk, bytes.
const CHUNK_BYTES: f64 = 85.0;
/// Id, time and length beside an event in a chunk, compressed with it, bytes.
const CHUNK_EVENT_BYTES: f64 = 12.0;
/// Keys and revision of a vehicle's state, bytes.
const STATE_BYTES: f64 = 50.0;
/// A read that may be stale is half a unit; all items read so are below 4 KB.
const STALE_READ: f64 = 0.5;
/// Until when a vehicle's day has to be looked at, written once a day.
const DAY_S: f64 = 86_400.0;

/// Write units of one envelope, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Writes {
    pub(crate) event: f64,
    pub(crate) ledger: f64,
    pub(crate) archive_ledger: f64,
    pub(crate) state: f64,
    pub(crate) days: f64,
    /// Of thresholds, unless they are written when they change only.
    pub(crate) conditions: f64,
    /// Of all subscriptions that it goes to, as [`Writes::chunks`] too.
    pub(crate) claims: f64,
    /// Chunks and heads of feeds.
    pub(crate) chunks: f64,
}

/// Read units of one envelope, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reads {
    /// Ledger for ingest, state and days.
    pub(crate) store: f64,
    pub(crate) archive_ledger: f64,
    pub(crate) conditions: f64,
    /// Heads of feeds, and chunks of other writers.
    pub(crate) feed: f64,
}

/// How many times in `window_s` something happens that happens once in `interval_s`, but once an envelope at most.
fn share(window_s: f64, interval_s: f64) -> f64 {
    (window_s / interval_s).min(1.0)
}

/// Bytes of a chunk with so many events.
fn chunk_bytes(events: f64, sizes: &Sizes) -> f64 {
    CHUNK_BYTES + events * (sizes.event_among(events) + CHUNK_EVENT_BYTES)
}

/// Sum over all chunks of what each comes to, for an event.
fn of_chunks(packed: &Packed, each: impl Fn(f64) -> f64) -> f64 {
    let chunks = (0..).zip(&packed.chunks).skip(1);
    chunks.map(|(events, chunks)| chunks * each(f64::from(events))).sum::<f64>() / packed.records
}

/// Claims for an event.
fn claims(design: &Design, packed: &Packed) -> f64 {
    match design.feed {
        Feed::ClaimEvents => 1.0,
        Feed::ClaimEntries => packed.delivery_entries / packed.records,
        Feed::Off => 0.0,
    }
}

/// `archive_s` are the seconds of a shard's records in one object.
pub(crate) fn writes(
    scenario: &Scenario,
    design: &Design,
    sizes: &Sizes,
    packed: &Packed,
    archive_s: f64,
) -> Writes {
    let state_bytes = STATE_BYTES + design.state_signals * design.state_signal_bytes;
    let window_s = scenario.window_s;
    let has_feed = f64::from(u8::from(design.feed != Feed::Off));
    let subscriptions = design.subscriptions_per_vehicle;
    // Whoever loses the race for a place has written for nothing, and writes again.
    let tries = 1.0 + design.chunks_lost;
    let chunk = |events| tries * write_units(chunk_bytes(events, sizes)) + write_units(CLAIM_BYTES);
    Writes {
        event: write_units(sizes.envelope + design.item_overhead_bytes),
        ledger: f64::from(u8::from(design.has_ledger)) * write_units(SMALL_ITEM_BYTES),
        archive_ledger: share(window_s, design.archive_ledger_s.unwrap_or(archive_s)),
        state: share(window_s, design.state_s.unwrap_or(0.0)) * write_units(state_bytes),
        days: share(window_s, DAY_S),
        conditions: if design.conditions_on_change { 0.0 } else { scenario.thresholds },
        claims: claims(design, packed) * subscriptions,
        chunks: has_feed * of_chunks(packed, chunk) * subscriptions,
    }
}

/// As [`writes`].
pub(crate) fn reads(
    scenario: &Scenario,
    design: &Design,
    sizes: &Sizes,
    packed: &Packed,
    writes: &Writes,
) -> Reads {
    let has_feed = f64::from(u8::from(design.feed != Feed::Off));
    let days = (share(scenario.window_s, DAY_S) * design.day_reads).min(1.0);
    let state = share(scenario.window_s, design.state_s.unwrap_or(0.0));
    // A consistent read of the head with each chunk, and of the chunk that was faster.
    let chunk = |events| 1.0 + design.chunks_lost * (chunk_bytes(events, sizes) / 4_096.0).ceil();
    Reads {
        store: STALE_READ * (f64::from(u8::from(design.has_ledger)) + state + days),
        archive_ledger: STALE_READ * writes.archive_ledger,
        conditions: if scenario.thresholds > 0.0 { 1.0 } else { 0.0 },
        feed: has_feed * of_chunks(packed, chunk) * design.subscriptions_per_vehicle,
    }
}

/// Byte-days that an envelope leaves in the event table, and in the feeds. What is kept for each vehicle and boot is
/// less than a thousandth of it.
pub(crate) fn stored_byte_days(design: &Design, sizes: &Sizes, packed: &Packed) -> (f64, f64) {
    let event = sizes.envelope + design.item_overhead_bytes + STORED_ITEM_BYTES;
    let has_feed = f64::from(u8::from(design.feed != Feed::Off));
    let chunk = |events| chunk_bytes(events, sizes) + STORED_ITEM_BYTES;
    let chunks = has_feed * of_chunks(packed, chunk) * design.keep_days;
    let claim = (CLAIM_BYTES + STORED_ITEM_BYTES) * (design.keep_days + CLAIM_OUTLIVES_DAYS);
    let feed = chunks + claims(design, packed) * claim;
    (event * design.keep_days, feed * design.subscriptions_per_vehicle)
}

/// Write units a second into the key of the largest feed: its chunks and its head. Claims are spread over a thousand keys.
pub(crate) fn largest_feed_writes(design: &Design, sizes: &Sizes, packed: &Packed) -> f64 {
    if design.feed == Feed::Off {
        return 0.0;
    }
    let events = packed.records * packed.largest_customer / packed.largest_chunks.max(f64::MIN_POSITIVE);
    let each = (1.0 + design.chunks_lost) * write_units(chunk_bytes(events, sizes)) + 1.0;
    packed.largest_chunks * each
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::book::Book;
    use crate::cost::design::Lever;
    use crate::cost::ours::Flow;

    fn of(window_s: f64, levers: &[Lever]) -> (Writes, Reads, Packed) {
        let book = Book::of_repository().unwrap();
        let (scenario, design) = (Scenario::of(100_000.0, window_s), Design::with(levers));
        let flow = Flow::new(&book, &scenario, &design);
        (flow.writes, flow.reads, flow.packed.clone())
    }

    #[test]
    fn an_envelope_is_written_and_read_as_it_is_built() {
        let (writes, reads, packed) = of(60.0, &[]);
        let expected = Writes {
            event: 1.0,
            ledger: 1.0,
            archive_ledger: 1.0,
            state: 1.0,
            days: 60.0 / 86_400.0,
            conditions: 1.0,
            claims: 1.0,
            chunks: writes.chunks,
        };
        assert_eq!(writes, expected);
        // A chunk of one event is two units, one of many half a unit an event; each with its head.
        assert!((0.5..3.2).contains(&writes.chunks), "{writes:?}");
        assert_eq!(reads.store, 0.5 + 0.5 + 0.5 * 8.0 * 60.0 / 86_400.0);
        assert_eq!((reads.archive_ledger, reads.conditions), (0.5, 1.0));
        let heads = packed.all_chunks() / packed.records;
        assert!(reads.feed > heads && reads.feed < heads * 1.2, "{} {heads}", reads.feed);
    }

    #[test]
    fn a_write_that_stands_for_several_envelopes_costs_each_its_share() {
        let (writes, reads, _) = of(60.0, &[Lever::ArchiveHourly, Lever::StateEvery5Min]);
        assert!((writes.archive_ledger - 1.0 / 60.0).abs() < 1e-9);
        assert!((reads.archive_ledger - 1.0 / 120.0).abs() < 1e-9);
        assert!((writes.state - 1.0 / 5.0).abs() < 1e-9);
        assert_eq!(of(300.0, &[Lever::StateEvery5Min]).0.state, 1.0);
    }

    #[test]
    fn state_beyond_1_kb_is_two_units() {
        let book = Book::of_repository().unwrap();
        let scenario = Scenario::of(1_000.0, 60.0);
        let state = |state_signals: f64| {
            let design = Design { state_signals, ..Design::built() };
            Flow::new(&book, &scenario, &design).writes.state
        };
        assert_eq!([18.0, 26.0, 27.0].map(state), [1.0, 1.0, 2.0]);
    }

    #[test]
    fn levers_of_ledger_conditions_and_feed_take_their_writes_away() {
        let (writes, reads, packed) =
            of(60.0, &[Lever::LedgerInItem, Lever::ConditionsOnChange, Lever::ClaimEntries]);
        assert_eq!((writes.ledger, writes.conditions), (0.0, 0.0));
        assert_eq!(reads.conditions, 1.0, "who judges must know what was");
        assert!((writes.claims * packed.per_delivery_entry() - 1.0).abs() < 1e-9, "{writes:?}");
        let (writes, reads, _) = of(60.0, &[Lever::NoFeed]);
        assert_eq!((writes.claims, writes.chunks, reads.feed), (0.0, 0.0, 0.0));
    }

    #[test]
    fn events_that_share_a_chunk_share_its_units() {
        let sizes = Book::of_repository().unwrap().sizes(91.7);
        let of = |events: usize| {
            let mut packed = of(60.0, &[]).2;
            packed.chunks = vec![0.0; events + 1];
            packed.chunks[events] = packed.records / events as f64;
            of_chunks(&packed, |events| write_units(chunk_bytes(events, &sizes)) + 1.0)
        };
        // One event is 1,417 bytes, eight are 5,073.
        assert!((of(1) - 3.0).abs() < 1e-9 && (of(8) - 6.0 / 8.0).abs() < 1e-9, "{} {}", of(1), of(8));
    }
}
