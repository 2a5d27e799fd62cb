//! An open batch: samples grouped by the set of signals they came in, so that each set has one time column.

use convoy_protocol::columns::{Column, Columns, Group, Values};
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::manifest::SignalIndex;
use convoy_protocol::report::TriggerRecord;

use crate::decoder::RawValue;

const NONE: u32 = u32::MAX;
/// A batch whose encoding might be larger than this is closed: it fits an envelope whatever is in it.
const ENCODED_BYTES_MAX: usize = ENVELOPE_BYTES_MAX - (16 << 10);
/// What a row adds to the encoding at most, besides its values: its time.
const ROW_BYTES_MAX: usize = 10;
/// What a new set of signals adds at most, a signal, besides its values.
const SIGNAL_BYTES_MAX: usize = 12;

/// A batch ready to be encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct ClosedBatch {
    /// The samples.
    pub columns: Columns,
    /// Time of the first sample that came, microseconds, cut to a whole millisecond.
    pub base_us: i64,
    /// Latest sample time, microseconds.
    pub last_us: i64,
    /// What it was collected around.
    pub trigger: Option<TriggerRecord>,
    /// Its number, where a part of it was journalled.
    pub number: Option<u64>,
}

/// Rows that came with the same signals and kinds of values.
#[derive(Debug)]
struct Open {
    signals: Vec<SignalIndex>,
    times_us: Vec<i64>,
    values: Vec<Values>,
    /// Rows that are in the journal.
    journalled: usize,
    /// The next set that begins with the same signal.
    next: u32,
}

impl Open {
    fn takes(&self, signals: &[SignalIndex], values: &[RawValue]) -> bool {
        let same_kind = |(column, value): (&Values, &RawValue)| {
            matches!(
                (column, value),
                (Values::Raw(_), RawValue::Raw(_))
                    | (Values::F32(_), RawValue::F32(_))
                    | (Values::F64(_), RawValue::F64(_))
            )
        };
        self.signals == signals && self.values.iter().zip(values).all(same_kind)
    }

    fn push(&mut self, time_us: i64, values: &[RawValue]) {
        self.times_us.push(time_us);
        for (column, value) in self.values.iter_mut().zip(values) {
            match (column, *value) {
                (Values::Raw(column), RawValue::Raw(value)) => column.push(value),
                (Values::F32(column), RawValue::F32(value)) => column.push(value),
                (Values::F64(column), RawValue::F64(value)) => column.push(value),
                _ => unreachable!("`takes` compared the kinds"),
            }
        }
    }
}

/// Samples that wait to be sent together.
#[derive(Debug)]
pub struct Batch {
    open: Vec<Open>,
    /// By signal: the first set that begins with it.
    heads: Vec<u32>,
    samples: u32,
    first_us: i64,
    oldest_us: i64,
    last_us: i64,
    trigger: Option<TriggerRecord>,
    bytes_bound: usize,
    number: Option<u64>,
    journalled: u32,
    chunks: u32,
}

impl Batch {
    /// An empty batch for a manifest of `signals` signals.
    pub fn new(signals: usize) -> Self {
        Self {
            open: Vec::new(),
            heads: vec![NONE; signals],
            samples: 0,
            first_us: 0,
            oldest_us: 0,
            last_us: 0,
            trigger: None,
            bytes_bound: 0,
            number: None,
            journalled: 0,
            chunks: 0,
        }
    }

    /// Says what the batch is collected around, where nothing was said before.
    pub fn set_trigger(&mut self, trigger: TriggerRecord) {
        self.trigger.get_or_insert(trigger);
    }

    /// Is its encoding so large that it must be closed?
    pub fn is_large(&self) -> bool {
        self.bytes_bound >= ENCODED_BYTES_MAX
    }

    /// Samples that are not in the journal yet.
    pub fn unjournalled(&self) -> u32 {
        self.samples - self.journalled
    }

    /// What it is collected around.
    pub fn trigger(&self) -> Option<TriggerRecord> {
        self.trigger
    }

    /// Its number in the journal; `number` becomes it where it has none.
    pub fn number_or(&mut self, number: impl FnOnce() -> u64) -> u64 {
        *self.number.get_or_insert_with(number)
    }

    /// Chunks taken so far.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The samples since the last call, which count as journalled from now on.
    pub fn take_unjournalled(&mut self) -> Columns {
        self.journalled = self.samples;
        self.chunks += 1;
        let rows_since = |open: &mut Open| {
            let from = std::mem::replace(&mut open.journalled, open.times_us.len());
            let columns = open.signals.iter().zip(&open.values);
            let columns =
                columns.map(|(signal, values)| Column { signal: *signal, values: tail(values, from) });
            Group { times_us: open.times_us[from..].to_vec(), columns: columns.collect() }
        };
        let groups = self.open.iter_mut().filter(|open| open.journalled < open.times_us.len());
        Columns { groups: groups.map(rows_since).collect() }
    }

    /// Samples in it.
    pub fn samples(&self) -> u32 {
        self.samples
    }

    /// Earliest sample time; `None` when empty.
    pub fn oldest_us(&self) -> Option<i64> {
        (self.samples > 0).then_some(self.oldest_us)
    }

    /// Adds samples of one time, those of a frame or a part of them; both slices are equally long and name signals of the manifest.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a row has fewer than 2^32 signals, a batch fewer sets"
    )]
    pub fn push(&mut self, time_us: i64, signals: &[SignalIndex], values: &[RawValue]) {
        let Some(first) = signals.first() else { return };
        debug_assert_eq!(signals.len(), values.len());
        if self.samples == 0 {
            (self.first_us, self.oldest_us, self.last_us) = (time_us, time_us, time_us);
        }
        self.oldest_us = self.oldest_us.min(time_us);
        self.last_us = self.last_us.max(time_us);
        self.samples += signals.len() as u32;
        self.bytes_bound += ROW_BYTES_MAX + values.iter().map(|value| bytes_bound(*value)).sum::<usize>();
        let head = self.heads[first.0 as usize];
        let mut at = head;
        while let Some(open) = self.open.get_mut(at as usize) {
            if open.takes(signals, values) {
                open.push(time_us, values);
                return;
            }
            at = open.next;
        }
        self.bytes_bound += SIGNAL_BYTES_MAX * signals.len();
        self.heads[first.0 as usize] = self.open.len() as u32;
        self.open.push(Open {
            signals: signals.to_vec(),
            times_us: vec![time_us],
            values: values.iter().map(|value| column_of(*value)).collect(),
            journalled: 0,
            next: head,
        });
    }

    /// Hands out what it holds and is empty again; `None` when it was.
    pub fn close(&mut self) -> Option<ClosedBatch> {
        let trigger = self.trigger.take();
        if self.samples == 0 {
            return None;
        }
        (self.samples, self.journalled, self.chunks, self.bytes_bound) = (0, 0, 0, 0);
        let number = self.number.take();
        let mut groups = Vec::with_capacity(self.open.len());
        for open in self.open.drain(..) {
            self.heads[open.signals[0].0 as usize] = NONE;
            let columns = open.signals.into_iter().zip(open.values);
            let columns = columns.map(|(signal, values)| Column { signal, values }).collect();
            groups.push(Group { times_us: open.times_us, columns });
        }
        let base_us = self.first_us.div_euclid(1_000).saturating_mul(1_000);
        Some(ClosedBatch { columns: Columns { groups }, base_us, last_us: self.last_us, trigger, number })
    }
}

/// Bytes of a value's encoding at most: that of a difference of two values is one bit longer than they are.
fn bytes_bound(value: RawValue) -> usize {
    match value {
        RawValue::Raw(raw) => (66 - (raw ^ (raw >> 63)).leading_zeros() as usize) / 7 + 1,
        RawValue::F32(_) => 4,
        RawValue::F64(_) => 8,
    }
}

fn tail(values: &Values, from: usize) -> Values {
    match values {
        Values::Raw(values) => Values::Raw(values[from..].to_vec()),
        Values::F32(values) => Values::F32(values[from..].to_vec()),
        Values::F64(values) => Values::F64(values[from..].to_vec()),
        Values::Bool(values) => Values::Bool(values[from..].to_vec()),
        Values::Text(values) => Values::Text(values[from..].to_vec()),
    }
}

pub(crate) fn column_of(value: RawValue) -> Values {
    match value {
        RawValue::Raw(value) => Values::Raw(vec![value]),
        RawValue::F32(value) => Values::F32(vec![value]),
        RawValue::F64(value) => Values::F64(vec![value]),
    }
}

/// Cuts columns in two non-empty parts; `None` for a single sample or none.
pub fn split(mut columns: Columns) -> Option<(Columns, Columns)> {
    if columns.groups.len() > 1 {
        let tail = columns.groups.split_off(columns.groups.len() / 2);
        return Some((columns, Columns { groups: tail }));
    }
    let mut head = columns.groups.pop()?;
    let tail = if head.times_us.len() > 1 {
        let at = head.times_us.len() / 2;
        Group {
            times_us: head.times_us.split_off(at),
            columns: head.columns.iter_mut().map(|column| split_column(column, at)).collect(),
        }
    } else if head.columns.len() > 1 {
        Group { columns: head.columns.split_off(head.columns.len() / 2), times_us: head.times_us.clone() }
    } else {
        return None;
    };
    Some((Columns { groups: vec![head] }, Columns { groups: vec![tail] }))
}

fn split_column(column: &mut Column, at: usize) -> Column {
    let values = match &mut column.values {
        Values::Raw(values) => Values::Raw(values.split_off(at)),
        Values::F32(values) => Values::F32(values.split_off(at)),
        Values::F64(values) => Values::F64(values.split_off(at)),
        Values::Bool(values) => Values::Bool(values.split_off(at)),
        Values::Text(values) => Values::Text(values.split_off(at)),
    };
    Column { signal: column.signal, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(batch: &mut Batch, time_us: i64, signals: &[u32], values: &[RawValue]) {
        let signals: Vec<_> = signals.iter().copied().map(SignalIndex).collect();
        batch.push(time_us, &signals, values);
    }

    #[test]
    fn rows_with_the_same_signals_share_a_time_column() {
        let mut batch = Batch::new(4);
        push(&mut batch, 2_500, &[0, 1], &[RawValue::Raw(1), RawValue::Raw(2)]);
        push(&mut batch, 3_500, &[0], &[RawValue::Raw(3)]);
        push(&mut batch, 1_500, &[0, 1], &[RawValue::Raw(5), RawValue::Raw(6)]);
        push(&mut batch, 4_500, &[], &[]);
        assert_eq!((batch.samples(), batch.oldest_us()), (5, Some(1_500)));
        let closed = batch.close().unwrap();
        assert_eq!((closed.base_us, closed.last_us), (2_000, 3_500));
        assert_eq!(closed.columns.groups.len(), 2);
        assert_eq!(closed.columns.groups[0].times_us, [2_500, 1_500]);
        assert_eq!(closed.columns.groups[0].columns[1].values, Values::Raw(vec![2, 6]));
        assert_eq!(batch.close(), None);
    }

    #[test]
    fn a_signal_of_two_kinds_gets_two_columns() {
        let mut batch = Batch::new(1);
        for value in [RawValue::Raw(1), RawValue::F64(1e19), RawValue::Raw(2)] {
            push(&mut batch, 0, &[0], &[value]);
        }
        let groups = batch.close().unwrap().columns.groups;
        assert_eq!(groups[0].columns[0].values, Values::Raw(vec![1, 2]));
        assert_eq!(groups[1].columns[0].values, Values::F64(vec![1e19]));
    }

    #[test]
    fn splitting_ends_at_single_samples_and_loses_none() {
        let mut batch = Batch::new(3);
        for time_us in 0..5 {
            push(&mut batch, time_us, &[0, 1], &[RawValue::Raw(time_us), RawValue::F32(0.5)]);
        }
        push(&mut batch, 9, &[2], &[RawValue::F64(1.0)]);
        let mut parts = vec![batch.close().unwrap().columns];
        let mut singles = 0;
        while let Some(columns) = parts.pop() {
            match split(columns.clone()) {
                Some((head, tail)) => {
                    assert_eq!(head.samples() + tail.samples(), columns.samples());
                    parts.extend([head, tail]);
                }
                None => singles += columns.samples(),
            }
        }
        assert_eq!(singles, 11);
    }
}
