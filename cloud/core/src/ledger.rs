//! The ledger: what became of every envelope of a vehicle, by boot, lane and sequence.
//!
//! ```text
//! accepted = stored + rejected + parked          parked ones become one of the others
//! accepted = archived                            once the archive has closed its object
//! missing  = known to exist - accepted - dropped
//! ```
//!
//! An envelope is known to exist when a later one of its boot and lane came, or when the vehicle said in a check-in how
//! far a boot got, so that a missing tail is seen too. Identities are kept as ranges, for ever: an envelope that comes
//! again after its events were deleted is still known.

use std::collections::BTreeMap;

use convoy_protocol::id::{BootId, EnvelopeKey, Lane, VehicleId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What became of envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Outcome {
    /// In the event store, and published.
    Stored = 0,
    /// In quarantine: its content cannot be used.
    Rejected = 1,
    /// It waits for its manifest.
    Parked = 2,
    /// In the archive.
    Archived = 3,
    /// The vehicle gave it up because its disk was full.
    DroppedFull = 4,
    /// The vehicle gave it up because its disk damaged it.
    DroppedDamaged = 5,
    /// The vehicle says that it made it.
    Announced = 6,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 7] = [
        Self::Stored,
        Self::Rejected,
        Self::Parked,
        Self::Archived,
        Self::DroppedFull,
        Self::DroppedDamaged,
        Self::Announced,
    ];
}

/// Envelopes of one vehicle, boot and lane, both ends included, of which the same became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LedgerRange {
    /// The boot that numbered them.
    pub boot_id: BootId,
    /// Their lane.
    pub lane: Lane,
    /// What became of them.
    pub outcome: Outcome,
    /// First sequence.
    pub first: u64,
    /// Last sequence.
    pub last: u64,
}

impl LedgerRange {
    /// One envelope.
    pub const fn one(key: EnvelopeKey, outcome: Outcome) -> Self {
        Self { boot_id: key.boot_id, lane: key.lane, outcome, first: key.sequence, last: key.sequence }
    }
}

/// An entry: a vehicle's envelopes and what became of them.
pub type LedgerEntry = (VehicleId, LedgerRange);

/// Entries in as few ranges as they take, sorted.
pub fn merged(mut entries: Vec<LedgerEntry>) -> Vec<LedgerEntry> {
    entries.sort_unstable_by_key(|(vehicle, range)| {
        (*vehicle, range.boot_id, range.lane, range.outcome, range.first)
    });
    let mut merged: Vec<LedgerEntry> = Vec::with_capacity(entries.len());
    for (vehicle, range) in entries {
        let continues = merged.last_mut().filter(|(known_vehicle, known)| {
            (*known_vehicle, known.boot_id, known.lane, known.outcome)
                == (vehicle, range.boot_id, range.lane, range.outcome)
                && range.first <= known.last.saturating_add(1)
        });
        match continues {
            Some((_, known)) => known.last = known.last.max(range.last),
            None => merged.push((vehicle, range)),
        }
    }
    merged
}

/// Sequences, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Sequences {
    /// First sequence.
    pub first: u64,
    /// Last sequence.
    pub last: u64,
}

/// Sequences that the vehicle gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct DroppedSequences {
    /// First sequence.
    pub first: u64,
    /// Last sequence.
    pub last: u64,
    /// Why.
    pub reason: Outcome,
}

/// The account of one boot and lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LaneLedger {
    /// The boot, `counter-spool`.
    pub boot: String,
    /// The lane.
    #[schema(value_type = String)]
    pub lane: Lane,
    /// Largest sequence known to exist.
    pub last: u64,
    /// Envelopes that came: stored, rejected or parked.
    pub accepted: u64,
    /// Envelopes in the archive.
    pub archived: u64,
    /// Envelopes in the event store.
    pub stored: u64,
    /// Envelopes in quarantine.
    pub rejected: u64,
    /// Envelopes that wait for their manifest.
    pub parked: u64,
    /// Envelopes that the vehicle gave up and said so.
    pub dropped: Vec<DroppedSequences>,
    /// Envelopes that must exist and that nobody accounts for.
    pub missing: Vec<Sequences>,
}

/// A set of sequences as sorted ranges that do not touch.
#[derive(Debug, Clone, Default)]
struct Set(Vec<(u64, u64)>);

impl Set {
    fn of(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.sort_unstable();
        let mut set: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match set.last_mut() {
                Some(known) if first <= known.1.saturating_add(1) => known.1 = known.1.max(last),
                _ => set.push((first, last)),
            }
        }
        Self(set)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| (last - first).saturating_add(1)).sum()
    }

    /// What is absent from 0 to `last`.
    fn absent_until(&self, last: u64) -> Vec<Sequences> {
        let mut absent = Vec::new();
        let mut next = 0;
        for (first, end) in &self.0 {
            if *first > next {
                absent.push(Sequences { first: next, last: (*first - 1).min(last) });
            }
            next = end.saturating_add(1);
        }
        if next <= last {
            absent.push(Sequences { first: next, last });
        }
        absent
    }
}

/// The accounts of a vehicle, oldest boot first.
pub fn accounts(ranges: &[LedgerRange]) -> Vec<LaneLedger> {
    let mut lanes: BTreeMap<(BootId, Lane), Vec<&LedgerRange>> = BTreeMap::new();
    for range in ranges {
        lanes.entry((range.boot_id, range.lane)).or_default().push(range);
    }
    lanes.into_iter().map(|((boot_id, lane), ranges)| account(boot_id, lane, &ranges)).collect()
}

fn account(boot_id: BootId, lane: Lane, ranges: &[&LedgerRange]) -> LaneLedger {
    use Outcome::{Announced, Archived, DroppedDamaged, DroppedFull, Parked, Rejected, Stored};
    let set = |outcomes: &[Outcome]| {
        let of = ranges.iter().filter(|range| outcomes.contains(&range.outcome));
        Set::of(of.map(|range| (range.first, range.last)).collect())
    };
    let settled = set(&[Stored, Rejected]);
    // What waited for its manifest may have been settled since.
    let accepted = set(&[Stored, Rejected, Parked]);
    let last = ranges.iter().map(|range| range.last).max().unwrap_or(0);
    let dropped = |reason| {
        let ranges = set(&[reason]).0;
        ranges.into_iter().map(move |(first, last)| DroppedSequences { first, last, reason })
    };
    let known = set(&[Stored, Rejected, Parked, DroppedFull, DroppedDamaged]);
    debug_assert!(Outcome::ALL.contains(&Announced));
    LaneLedger {
        boot: boot_id.to_string(),
        lane,
        last,
        accepted: accepted.count(),
        archived: set(&[Archived]).count(),
        stored: set(&[Stored]).count(),
        rejected: set(&[Rejected]).count(),
        parked: accepted.count() - settled.count(),
        dropped: dropped(DroppedFull).chain(dropped(DroppedDamaged)).collect(),
        missing: known.absent_until(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId { counter: 2, spool: 9 };

    fn range(outcome: Outcome, first: u64, last: u64) -> LedgerRange {
        LedgerRange { boot_id: BOOT, lane: Lane::Bulk, outcome, first, last }
    }

    #[test]
    fn account_adds_up_and_names_what_is_missing() {
        let ranges = [
            range(Outcome::Stored, 0, 4),
            range(Outcome::Rejected, 5, 5),
            range(Outcome::Parked, 4, 6),
            range(Outcome::Archived, 0, 6),
            range(Outcome::DroppedFull, 9, 11),
            range(Outcome::Stored, 14, 14),
            range(Outcome::Announced, 0, 16),
        ];
        let account = &accounts(&ranges)[0];
        assert_eq!((account.accepted, account.stored, account.rejected, account.parked), (8, 6, 1, 1));
        assert_eq!((account.archived, account.last), (7, 16));
        let missing: Vec<_> = account.missing.iter().map(|range| (range.first, range.last)).collect();
        assert_eq!(missing, [(7, 8), (12, 13), (15, 16)]);
        let dropped: Vec<_> =
            account.dropped.iter().map(|drop| (drop.first, drop.last, drop.reason)).collect();
        assert_eq!(dropped, [(9, 11, Outcome::DroppedFull)]);
    }

    #[test]
    fn nothing_is_missing_where_everything_came_in_any_order() {
        let ranges = [range(Outcome::Stored, 3, 9), range(Outcome::Stored, 0, 2)];
        assert_eq!(accounts(&ranges)[0].missing, []);
        let first_only = [range(Outcome::Stored, 3, 3)];
        assert_eq!(accounts(&first_only)[0].missing, [Sequences { first: 0, last: 2 }]);
        assert!(accounts(&[]).is_empty());
    }

    #[test]
    fn entries_that_touch_are_merged_and_others_are_not() {
        let vehicle = VehicleId([1; 16]);
        let entry = |outcome, first, last| (vehicle, range(outcome, first, last));
        let entries = vec![
            entry(Outcome::Stored, 5, 5),
            entry(Outcome::Stored, 3, 4),
            entry(Outcome::Archived, 6, 6),
            entry(Outcome::Stored, 7, 7),
            entry(Outcome::Stored, 4, 4),
        ];
        let expected =
            vec![entry(Outcome::Stored, 3, 5), entry(Outcome::Stored, 7, 7), entry(Outcome::Archived, 6, 6)];
        assert_eq!(merged(entries), expected);
    }
}
