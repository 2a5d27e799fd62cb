//! The latest value of every signal: what a snapshot is made of.

use std::collections::BTreeMap;

use convoy_protocol::columns::{Column, Columns, Group};
use convoy_protocol::manifest::SignalIndex;

use crate::batch::column_of;
use crate::decoder::{RawValue, Row};

/// Latest time and value, by signal.
#[derive(Debug, Clone)]
pub struct Latest {
    values: Vec<Option<(i64, RawValue)>>,
    seen: usize,
}

impl Latest {
    /// Nothing seen of a manifest of `signals` signals.
    pub fn new(signals: usize) -> Self {
        Self { values: vec![None; signals], seen: 0 }
    }

    /// Takes a row.
    #[inline]
    pub fn handle_row(&mut self, time_us: i64, row: &Row) {
        for (signal, value) in row.iter() {
            let slot = &mut self.values[signal.0 as usize];
            self.seen += usize::from(slot.is_none());
            *slot = Some((time_us, value));
        }
    }

    /// Was the signal on the bus?
    pub fn is_seen(&self, signal: SignalIndex) -> bool {
        self.values.get(signal.0 as usize).is_some_and(Option::is_some)
    }

    /// Signals that were on the bus.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The latest values of the signals that are wanted, signals of one time in one group.
    pub fn columns(&self, is_wanted: impl Fn(SignalIndex) -> bool) -> Columns {
        let mut groups: BTreeMap<i64, Vec<Column>> = BTreeMap::new();
        for (signal, latest) in (0..).map(SignalIndex).zip(&self.values) {
            if let Some((time_us, value)) = latest.filter(|_| is_wanted(signal)) {
                groups.entry(time_us).or_default().push(Column { signal, values: column_of(value) });
            }
        }
        let group = |(time_us, columns)| Group { times_us: vec![time_us], columns };
        Columns { groups: groups.into_iter().map(group).collect() }
    }
}

#[cfg(test)]
mod tests {
    use convoy_protocol::columns::Values;

    use super::*;

    #[test]
    fn only_the_latest_value_of_each_wanted_signal_is_given() {
        let mut latest = Latest::new(4);
        for (time_us, signal, raw) in [(1, 0, 10), (1, 1, 11), (2, 0, 20), (3, 3, 30)] {
            let mut row = Row::new();
            row.push(SignalIndex(signal), RawValue::Raw(raw));
            latest.handle_row(time_us, &row);
        }
        assert!(latest.is_seen(SignalIndex(1)) && !latest.is_seen(SignalIndex(2)));
        assert_eq!(latest.seen(), 3);
        let columns = latest.columns(|signal| signal != SignalIndex(3));
        let read: Vec<_> = columns.groups.iter().map(|group| (group.times_us[0], &group.columns)).collect();
        let column =
            |signal, raw| vec![Column { signal: SignalIndex(signal), values: Values::Raw(vec![raw]) }];
        assert_eq!(read, [(1, &column(1, 11)), (2, &column(0, 20))]);
    }
}
