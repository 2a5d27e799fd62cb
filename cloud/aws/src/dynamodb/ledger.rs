//! The ledger: one item a boot of a vehicle, its ranges packed into one value, kept for ever.

use std::collections::{BTreeMap, BTreeSet};

use convoy_cloud_core::ledger::{LedgerEntry, LedgerRange, Outcome, merged};
use convoy_cloud_core::ports::PortError;
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, VehicleId};

use super::attributes::{text, text_of};
use super::request::Request;
use super::revision::{self, Place, Revision};
use super::{CALLS_AT_ONCE, DynamoEventStore, SORT_KEY, at_once, damaged};

/// Sort keys of ledgers begin so.
const PREFIX: &str = "L#";
/// First byte of the packed value.
const VERSION: u8 = 1;

/// The sequences of a lane of which the same became: how many were left out before each range, and how many follow
/// its first one. A lane that came whole is one range, a few bytes.
#[derive(serde::Serialize, serde::Deserialize)]
struct Sequences {
    lane: Lane,
    outcome: Outcome,
    ranges: Vec<(u64, u64)>,
}

/// A boot of a vehicle.
pub(super) type Boot = (VehicleId, BootId);

fn sort_key(boot_id: BootId) -> String {
    format!("{PREFIX}{boot_id}")
}

/// Packs the merged ranges of one boot.
fn pack(ranges: &[LedgerEntry]) -> Result<Vec<u8>, PortError> {
    let mut all: Vec<Sequences> = Vec::new();
    let mut next = 0;
    for (_, range) in ranges {
        let is_same = |known: &&mut Sequences| (known.lane, known.outcome) == (range.lane, range.outcome);
        let length = range.last.wrapping_sub(range.first);
        match all.last_mut().filter(is_same) {
            Some(known) => known.ranges.push((range.first.wrapping_sub(next), length)),
            None => all.push(Sequences {
                lane: range.lane,
                outcome: range.outcome,
                ranges: vec![(range.first, length)],
            }),
        }
        next = range.last.wrapping_add(1);
    }
    postcard::to_extend(&all, vec![VERSION]).map_err(|_| damaged("a ledger cannot be packed"))
}

fn unpack(boot_id: BootId, packed: &[u8]) -> Result<Vec<LedgerRange>, PortError> {
    let all: Vec<Sequences> = match packed {
        [] => return Ok(Vec::new()),
        [VERSION, body @ ..] => postcard::from_bytes(body).map_err(|_| damaged("a ledger"))?,
        _ => return Err(damaged("a ledger of a version not known here")),
    };
    let mut ranges = Vec::new();
    for Sequences { lane, outcome, ranges: packed } in all {
        let mut next = 0u64;
        for (gap, length) in packed {
            let first = next.wrapping_add(gap);
            let last = first.wrapping_add(length);
            next = last.wrapping_add(1);
            ranges.push(LedgerRange { boot_id, lane, outcome, first, last });
        }
    }
    Ok(ranges)
}

/// The packed value after these ranges, or none where all were there.
fn changed(
    (vehicle_id, boot_id): Boot,
    packed: &[u8],
    news: &[LedgerRange],
) -> Result<Option<Vec<u8>>, PortError> {
    let known = unpack(boot_id, packed)?;
    let entries = known.iter().chain(news).map(|range| (vehicle_id, *range)).collect();
    let after = merged(entries);
    let is_same = after.iter().map(|(_, range)| range).eq(&known);
    if is_same { Ok(None) } else { pack(&after).map(Some) }
}

/// What is known of some boots.
pub(super) struct Known(BTreeMap<Boot, (Revision, Vec<LedgerRange>)>);

impl Known {
    /// Was this envelope ever in the event store?
    pub(super) fn was_stored(&self, vehicle_id: VehicleId, key: EnvelopeKey) -> bool {
        self.0.get(&(vehicle_id, key.boot_id)).is_some_and(|(_, ranges)| {
            ranges.iter().any(|range| {
                (range.lane, range.outcome) == (key.lane, Outcome::Stored)
                    && (range.first..=range.last).contains(&key.sequence)
            })
        })
    }
}

/// Reads the ledgers of boots, perhaps without the last writes.
pub(super) async fn look_up(store: &DynamoEventStore, boots: BTreeSet<Boot>) -> Result<Known, PortError> {
    let reads = boots.into_iter().map(|boot| look_up_one(store, boot)).collect();
    Ok(Known(at_once(CALLS_AT_ONCE, reads).await?.into_iter().collect()))
}

async fn look_up_one(
    store: &DynamoEventStore,
    boot: Boot,
) -> Result<(Boot, (Revision, Vec<LedgerRange>)), PortError> {
    let (partition, sort) = (format!("V#{}", boot.0), sort_key(boot.1));
    let place = Place { table: &store.tables.vehicles, partition: &partition, sort: &sort };
    let revision = revision::read(store, place, false).await?;
    let ranges = unpack(boot.1, &revision.value)?;
    Ok((boot, (revision, ranges)))
}

/// Enters what became of envelopes.
pub(super) async fn put(store: &DynamoEventStore, entries: &[LedgerEntry]) -> Result<(), PortError> {
    let boots = entries.iter().map(|(vehicle_id, range)| (*vehicle_id, range.boot_id)).collect();
    let known = look_up(store, boots).await?;
    enter(store, entries, known).await
}

/// Enters what became of envelopes of boots that were looked up.
pub(super) async fn enter(
    store: &DynamoEventStore,
    entries: &[LedgerEntry],
    mut known: Known,
) -> Result<(), PortError> {
    let mut boots: BTreeMap<Boot, Vec<LedgerRange>> = BTreeMap::new();
    for (vehicle_id, range) in merged(entries.to_vec()) {
        boots.entry((vehicle_id, range.boot_id)).or_default().push(range);
    }
    let writes = boots.into_iter().map(|(boot, news)| {
        let known = known.0.remove(&boot).map(|(revision, _)| revision).unwrap_or_default();
        enter_one(store, boot, known, news)
    });
    at_once(CALLS_AT_ONCE, writes.collect()).await.map(drop)
}

async fn enter_one(
    store: &DynamoEventStore,
    boot: Boot,
    known: Revision,
    news: Vec<LedgerRange>,
) -> Result<(), PortError> {
    let (partition, sort) = (format!("V#{}", boot.0), sort_key(boot.1));
    let place = Place { table: &store.tables.vehicles, partition: &partition, sort: &sort };
    revision::write(store, place, known, |packed| changed(boot, packed, &news)).await
}

/// All ranges of a vehicle.
pub(super) async fn read(
    store: &DynamoEventStore,
    vehicle_id: VehicleId,
) -> Result<Vec<LedgerRange>, PortError> {
    let query = Request::query(&store.tables.vehicles, "pk = :pk AND begins_with(sk, :prefix)")
        .value(":pk", text(format!("V#{vehicle_id}")))
        .value(":prefix", text(PREFIX));
    let mut ranges = Vec::new();
    for item in store.client.items(query).await? {
        let boot_id = text_of(&item, SORT_KEY)?.strip_prefix(PREFIX).and_then(|text| text.parse().ok());
        let boot_id = boot_id.ok_or_else(|| damaged("a boot in the ledger"))?;
        ranges.extend(unpack(boot_id, &Revision::of(&item)?.value)?);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Boot = (VehicleId([1; 16]), BootId { counter: 3, spool: u64::MAX });

    fn range(lane: Lane, outcome: Outcome, first: u64, last: u64) -> LedgerRange {
        LedgerRange { boot_id: BOOT.1, lane, outcome, first, last }
    }

    #[test]
    fn ranges_come_back_as_they_were_merged() {
        let news = [
            range(Lane::Fast, Outcome::Stored, 0, 4),
            range(Lane::Fast, Outcome::Stored, 9, 9),
            range(Lane::Fast, Outcome::Announced, 0, u64::MAX),
            range(Lane::Bulk, Outcome::Stored, 2, 3),
            range(Lane::Bulk, Outcome::Stored, u64::MAX, u64::MAX),
        ];
        let packed = changed(BOOT, &[], &news).unwrap().unwrap();
        assert_eq!(unpack(BOOT.1, &packed).unwrap(), news);
        assert_eq!(changed(BOOT, &packed, &news[1..3]).unwrap(), None);
        let more = changed(BOOT, &packed, &[range(Lane::Fast, Outcome::Stored, 5, 8)]).unwrap().unwrap();
        assert_eq!(unpack(BOOT.1, &more).unwrap()[0], range(Lane::Fast, Outcome::Stored, 0, 9));
    }

    #[test]
    fn a_boot_that_came_whole_takes_few_bytes() {
        let news = [
            range(Lane::Fast, Outcome::Stored, 0, 99_999),
            range(Lane::Fast, Outcome::Archived, 0, 99_999),
            range(Lane::Bulk, Outcome::Stored, 0, 99_999),
            range(Lane::Bulk, Outcome::Archived, 0, 99_999),
        ];
        let len = changed(BOOT, &[], &news).unwrap().unwrap().len();
        assert!(len < 40, "{len} bytes");
    }
}
