//! A set of numbers kept as ranges: positions of a log that are done with.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint ranges, none touching another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// Start to end, the end not included.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Ranges that overlap or touch: their starts lie at or before the end.
        while let Some((&before, &before_end)) = self.ranges.range(..=end).next_back() {
            if before_end < start {
                break;
            }
            self.ranges.remove(&before);
            start = start.min(before);
            end = end.max(before_end);
        }
        self.ranges.insert(start, end);
    }

    /// Is the number in the set?
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.next_absent(number) != number
    }

    /// The first number at or above `from` that is not in the set.
    pub(crate) fn next_absent(&self, from: u64) -> u64 {
        match self.ranges.range(..=from).next_back() {
            Some((_, &end)) if end > from => end,
            _ => from,
        }
    }

    /// The parts of `range` that are not in the set, in order.
    pub(crate) fn absent_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut absent = Vec::new();
        let mut at = self.next_absent(range.start);
        while at < range.end {
            let end = self.ranges.range(at..).next().map_or(range.end, |(&start, _)| start.min(range.end));
            absent.push(at..end);
            at = self.next_absent(end);
        }
        absent
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_behave_as_a_set_of_numbers(
            inserts in proptest::collection::vec((0u64..60, 0u64..12), 0..20),
            query in (0u64..60, 0u64..30),
        ) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (start, len) in inserts {
                set.insert(start..start + len);
                model.extend(start..start + len);
            }
            let range = query.0..query.0 + query.1;
            let absent: Vec<u64> = set.absent_in(range.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = range.filter(|number| !model.contains(number)).collect();
            prop_assert_eq!(absent, expected);
            let next = (query.0..).find(|number| !model.contains(number)).unwrap();
            prop_assert_eq!(set.next_absent(query.0), next);
            let starts: Vec<_> = set.ranges.iter().collect();
            prop_assert!(starts.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
