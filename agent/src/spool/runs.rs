//! Which envelope lies at which position of a lane's log, as runs: numbers and positions grow together, so that a
//! boot costs one entry, however many envelopes it wrote.

use std::collections::VecDeque;
use std::ops::Range;

use convoy_protocol::downlink::SequenceRange;
use convoy_protocol::id::{BootId, EnvelopeKey, Lane};

/// Boots whose end is told to the cloud, at most: the newest.
const TAILS_MAX: usize = 500;

/// Positions in a row that hold consecutive envelopes of one boot, or records whose header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    len: u64,
    /// Boot and sequence at `first`.
    origin: Option<(BootId, u64)>,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + self.len
    }

    fn goes_on_with(&self, position: u64, origin: Option<(BootId, u64)>) -> bool {
        let expected = self.origin.map(|(boot_id, sequence)| (boot_id, sequence.saturating_add(self.len)));
        position == self.end() && origin == expected
    }
}

/// Consecutive envelopes of one boot and where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRange {
    /// Their boot.
    pub boot_id: BootId,
    /// The sequence of the first.
    pub first_sequence: u64,
    /// Where they lie in the lane's log; never empty.
    pub positions: Range<u64>,
}

impl KeyedRange {
    /// How many.
    pub fn count(&self) -> u64 {
        self.positions.end - self.positions.start
    }

    /// The sequence of the last.
    pub fn last_sequence(&self) -> u64 {
        self.first_sequence.saturating_add(self.count() - 1)
    }
}

/// The index of one lane.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    lane: Lane,
    runs: VecDeque<Run>,
}

impl Runs {
    pub(crate) fn new(lane: Lane) -> Self {
        Self { lane, runs: VecDeque::new() }
    }

    /// Adds a record behind all others; `None` for one whose header cannot be read.
    pub(crate) fn push(&mut self, position: u64, origin: Option<(BootId, u64)>) {
        match self.runs.back_mut() {
            Some(last) if last.goes_on_with(position, origin) => last.len += 1,
            _ => self.runs.push_back(Run { first: position, len: 1, origin }),
        }
    }

    /// Adds the records between the last one and `position` if that is where numbering leads: then their keys are
    /// known although they cannot be read. False where it is not.
    pub(crate) fn bridge(&mut self, position: u64, origin: Option<(BootId, u64)>) -> bool {
        let Some(run) = self.runs.back_mut() else { return false };
        let Some(len) = position.checked_sub(run.first) else { return false };
        let expected = run.origin.map(|(boot_id, sequence)| (boot_id, sequence.saturating_add(len)));
        let leads_there = origin.is_some() && origin == expected;
        if leads_there {
            run.len = len;
        }
        leads_there
    }

    /// Forgets everything below `position`.
    pub(crate) fn trim_before(&mut self, position: u64) {
        while let Some(run) = self.runs.front_mut() {
            if run.end() <= position {
                self.runs.pop_front();
                continue;
            }
            if let Some(gone) = position.checked_sub(run.first) {
                run.first += gone;
                run.len -= gone;
                run.origin = run.origin.map(|(boot_id, sequence)| (boot_id, sequence.saturating_add(gone)));
            }
            return;
        }
    }

    /// Boot and sequence of the last record.
    pub(crate) fn last(&self) -> Option<(u64, BootId, u64)> {
        let run = self.runs.back()?;
        let (boot_id, sequence) = run.origin?;
        Some((run.end() - 1, boot_id, sequence.saturating_add(run.len - 1)))
    }

    pub(crate) fn key_at(&self, position: u64) -> Option<EnvelopeKey> {
        let range = self.keyed_in(position..position + 1).pop()?;
        Some(EnvelopeKey { boot_id: range.boot_id, lane: self.lane, sequence: range.first_sequence })
    }

    /// The envelopes with known keys in `positions`.
    pub(crate) fn keyed_in(&self, positions: Range<u64>) -> Vec<KeyedRange> {
        let from = self.runs.partition_point(|run| run.end() <= positions.start);
        let runs = self.runs.range(from..).take_while(|run| run.first < positions.end);
        let keyed = runs.filter_map(|run| {
            let (boot_id, sequence) = run.origin?;
            let (start, end) = (run.first.max(positions.start), run.end().min(positions.end));
            (start < end).then(|| KeyedRange {
                boot_id,
                first_sequence: sequence.saturating_add(start - run.first),
                positions: start..end,
            })
        });
        keyed.collect()
    }

    /// Where the envelopes of `range` lie.
    pub(crate) fn positions_of(&self, range: &SequenceRange) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        for run in self.runs.iter().filter(|_| range.lane == self.lane) {
            let Some((_, sequence)) = run.origin.filter(|origin| origin.0 == range.boot_id) else { continue };
            let first = range.first.max(sequence);
            let last = range.last.min(sequence.saturating_add(run.len - 1));
            if first <= last {
                found.push(run.first + (first - sequence)..run.first + (last - sequence) + 1);
            }
        }
        found
    }

    /// The last sequence of each boot, of the newest [`TAILS_MAX`].
    pub(crate) fn tails(&self) -> Vec<EnvelopeKey> {
        let mut tails: Vec<EnvelopeKey> = Vec::new();
        for run in &self.runs {
            let Some((boot_id, sequence)) = run.origin else { continue };
            let sequence = sequence.saturating_add(run.len - 1);
            match tails.iter_mut().find(|tail| tail.boot_id == boot_id) {
                Some(tail) => tail.sequence = tail.sequence.max(sequence),
                None => tails.push(EnvelopeKey { boot_id, lane: self.lane, sequence }),
            }
        }
        tails.split_off(tails.len().saturating_sub(TAILS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BootId = BootId { counter: 1, spool: 9 };
    const B: BootId = BootId { counter: 2, spool: 9 };

    fn runs() -> Runs {
        let mut runs = Runs::new(Lane::Bulk);
        (0..5).for_each(|at| runs.push(10 + at, Some((A, 3 + at))));
        runs.push(15, None);
        (0..3).for_each(|at| runs.push(16 + at, Some((B, at))));
        runs
    }

    #[test]
    fn consecutive_envelopes_share_an_entry_and_keys_are_found_by_position() {
        let runs = runs();
        assert_eq!(runs.runs.len(), 3);
        assert_eq!(runs.key_at(14), Some(EnvelopeKey { boot_id: A, lane: Lane::Bulk, sequence: 7 }));
        assert_eq!((runs.key_at(15), runs.key_at(9), runs.key_at(19)), (None, None, None));
        assert_eq!(runs.last(), Some((18, B, 2)));
        let tails: Vec<_> = runs.tails().iter().map(|tail| (tail.boot_id, tail.sequence)).collect();
        assert_eq!(tails, [(A, 7), (B, 2)]);
    }

    #[test]
    fn sequences_map_to_positions_within_what_is_there() {
        let runs = runs();
        let of = |boot_id, first, last| {
            runs.positions_of(&SequenceRange { boot_id, lane: Lane::Bulk, first, last })
        };
        assert_eq!(of(A, 0, u64::MAX), vec![10..15]);
        assert_eq!(of(A, 4, 5), vec![11..13]);
        assert_eq!(of(B, 2, 9), vec![18..19]);
        assert_eq!(of(B, 3, 9), Vec::<Range<u64>>::new());
    }

    #[test]
    fn a_hole_between_envelopes_of_one_boot_is_bridged_and_no_other() {
        let mut runs = runs();
        assert!(!runs.bridge(21, Some((B, 4))));
        assert!(!runs.bridge(21, Some((A, 5))));
        assert!(runs.bridge(21, Some((B, 5))));
        assert_eq!(runs.key_at(20).map(|key| (key.boot_id, key.sequence)), Some((B, 4)));
    }

    #[test]
    fn trimming_keeps_the_keys_of_what_remains() {
        let mut runs = runs();
        runs.trim_before(12);
        assert_eq!(runs.key_at(12).map(|key| key.sequence), Some(5));
        assert_eq!(runs.key_at(11), None);
        runs.trim_before(17);
        assert_eq!(runs.keyed_in(0..99), [KeyedRange { boot_id: B, first_sequence: 1, positions: 17..19 }]);
        assert_eq!(runs.keyed_in(0..99)[0].last_sequence(), 2);
    }
}
