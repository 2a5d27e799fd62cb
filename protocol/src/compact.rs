//! Samples by column in the fewest bytes: the body of compact samples and compact snapshot sections.
//!
//! The content is that of [`crate::columns`]; the coding is an adaptive binary range coder, which a batch of a
//! thousand samples pays for where a general compressor's tables do not. Everything is a number that goes through it
//! (`range`, `number`); *signed* ones are zigzag. Such a section is not compressed again.
//!
//! ```text
//! unit       1 raw bit    0 milliseconds, 1 microseconds; times below are in units since the base
//! groups     number
//! span       signed       the latest time
//! per group:
//!   follows     0 or 1    in one context after a group that follows, in another after one that does not
//!   if 0:       first     signed, difference from the last group that does not follow (from 0)
//!               period    number
//!   if 1:       leader    number of an earlier group, its row of our first time, our stride in its rows:
//!               row, stride   signed differences from the last group that follows (from 0, 0, 1)
//!   rows        signed, difference from what fits: (span - first) / period + 1, or
//!               (leader's rows - 1 - row) / stride + 1; 1 where period or stride is not above 0
//!   columns     number
//!   signals     signed differences, each from the one before, across groups too
//!   times       `times`: of a group of its own the first is known, one that follows codes all
//!   per column: kind      0 raw integers, 1 f32 bits, 2 f64 bits, 3 bool, 4 text
//!               0 to 3:   first value, signed; with two rows and more the prediction, then what the values
//!                         differ from it, `series`
//!               4:        per row 0 for the text before, or its length + 1, and its UTF-8 bytes
//!
//! own times   the clock shows first + period. Per row: signed difference d from the clock, in the context of the last
//!             two; the clock is put forward by the period and d / 2 rounded down, or by d where |d| > period / 4
//! following   due = row. Per row: signed difference of the row from the due one, signed difference of our time from
//!             that row's (context: the last one's size; from the last row's where there is no such row); due = row +
//!             stride
//! prediction  0 all are the first; 2 the line through the last two; else the value that many rows before. Where those
//!             rows are not there: the value before
//! contexts    the zigzag of each of the last two differences, 0, 1, 2 or 3 and more: 4 x the older + the newer
//! models      of own times and of a column's values new for each; of all else one for the whole section
//! number      bits above 0? above 1? .. above 15? by its context; then in 6 bits what is above 16. Below the leading
//!             bit two bits by the number of bits (15 and more together) and those before, the rest raw
//! ```

use alloc::string::String;
use alloc::vec::Vec;

use crate::columns::{Column, Columns, ColumnsError, GROUP_ROWS_MAX, GROUPS_MAX, Group, Values};
use crate::manifest::SignalIndex;
use crate::time::TimeUnit;

mod number;
mod range;
mod series;
mod times;

use crate::varint::{unzigzag, zigzag};
use number::{Numbers, tree};
use range::{Bit, Coder, Decoder, Encoder};
use series::Prediction;
use times::{FOLLOWED, Lead, Plan, leader_of};

/// Values that one encoding can hold, with what a group or a column adds.
pub const VALUES_MAX: usize = 1 << 20;
/// What a group or a column counts besides its values.
const OVERHEAD_VALUES: usize = 8;
/// An encoder takes times this near for those of one event, microseconds.
const NEAR_US: u64 = 4_000;

/// Kinds of values on the wire.
const KIND_RAW: u64 = 0;
const KIND_F32: u64 = 1;
const KIND_F64: u64 = 2;
const KIND_BOOL: u64 = 3;
const KIND_TEXT: u64 = 4;

/// Numbers that are not times or values, each expected for itself.
#[derive(Debug, Clone, Copy)]
enum Field {
    Groups,
    Span,
    /// Does it follow? After a group that does not.
    Follows,
    /// Does it follow? After one that does.
    FollowsAgain,
    First,
    Period,
    Leader,
    LeaderRow,
    Stride,
    RowsMore,
    Columns,
    FirstSignal,
    NextSignal,
    Kind,
    Prediction,
    TextLength,
}
const FIELDS: usize = Field::TextLength as usize + 1;

/// What is expected, and what the last group was.
#[derive(Debug)]
struct State {
    fields: Numbers<FIELDS>,
    firsts: Numbers<1>,
    followed: Numbers<FOLLOWED>,
    text: [Bit; 256],
    /// Latest time of the batch, as all times in units since the base.
    span: i64,
    /// Times of the groups so far.
    times: Vec<Vec<i64>>,
    is_following: bool,
    first: i64,
    leader: i64,
    leader_row: i64,
    stride: i64,
    signal: i64,
}

impl State {
    fn new() -> Self {
        Self {
            fields: Numbers::NEW,
            firsts: Numbers::NEW,
            followed: Numbers::NEW,
            text: [Bit::NEW; 256],
            span: 0,
            times: Vec::new(),
            is_following: false,
            first: 0,
            leader: 0,
            leader_row: 0,
            stride: 1,
            signal: 0,
        }
    }

    fn number<C: Coder>(&mut self, coder: &mut C, field: Field, value: u64) -> u64 {
        self.fields.code(coder, field as usize, value)
    }

    /// Codes by how much a number differs from the one before.
    fn step<C: Coder>(&mut self, coder: &mut C, field: Field, value: i64, before: i64) -> i64 {
        before.wrapping_add(self.fields.signed(coder, field as usize, value.wrapping_sub(before)))
    }

    fn plan<C: Coder>(&mut self, coder: &mut C, plan: Plan) -> Plan {
        let field = if self.is_following { Field::FollowsAgain } else { Field::Follows };
        let follows = u64::from(matches!(plan, Plan::Follow { .. }));
        self.is_following = self.number(coder, field, follows) > 0;
        if self.is_following {
            let (leader, first, stride) = match plan {
                Plan::Follow { leader, first, stride } => (leader, first, stride),
                Plan::Own { .. } => (0, 0, 0),
            };
            self.leader = self.step(coder, Field::Leader, leader, self.leader);
            self.leader_row = self.step(coder, Field::LeaderRow, first, self.leader_row);
            self.stride = self.step(coder, Field::Stride, stride, self.stride);
            return Plan::Follow { leader: self.leader, first: self.leader_row, stride: self.stride };
        }
        let (first, period) = match plan {
            Plan::Own { first, period } => (first, period),
            Plan::Follow { .. } => (0, 0),
        };
        self.first = self.step(coder, Field::First, first, self.first);
        Plan::Own { first: self.first, period: self.number(coder, Field::Period, period as u64) as i64 }
    }

    /// Codes the number of rows by how many there are more than the plan makes.
    fn rows<C: Coder>(&mut self, coder: &mut C, plan: Plan, rows: i64) -> i64 {
        self.step(coder, Field::RowsMore, rows, plan.rows(&self.times, self.span))
    }

    fn signal<C: Coder>(&mut self, coder: &mut C, is_first: bool, signal: i64) -> i64 {
        let field = if is_first { Field::FirstSignal } else { Field::NextSignal };
        self.signal = self.step(coder, field, signal, self.signal);
        self.signal
    }

    /// Codes a group's times, of which there are as many as `times` is long.
    fn times<C: Coder>(&mut self, coder: &mut C, plan: Plan, unit: TimeUnit, mut times: Vec<i64>) {
        match plan {
            Plan::Own { first, period } => {
                if let Some(time) = times.first_mut() {
                    *time = first;
                }
                times::code_own(coder, period, &mut times);
            }
            Plan::Follow { leader, first, stride } => {
                let lead = Lead { times: leader_of(&self.times, leader).unwrap_or(&[]), near: near(unit) };
                lead.code(coder, &mut self.followed, (first, stride), &mut times);
            }
        }
        self.times.push(times);
    }

    /// Codes a column of integers; `prediction` is known to encoders only.
    fn series<C: Coder>(
        &mut self,
        coder: &mut C,
        prediction: Prediction,
        values: &mut [i64],
    ) -> Result<(), ColumnsError> {
        let Some(first) = values.first_mut() else { return Ok(()) };
        *first = self.firsts.signed(coder, 0, *first);
        if values.len() > 1 {
            let number = self.number(coder, Field::Prediction, prediction.to_wire());
            let prediction = Prediction::from_wire(number, GROUP_ROWS_MAX);
            series::code(coder, prediction.ok_or(ColumnsError::Impossible("prediction"))?, values);
        }
        Ok(())
    }
}

const fn near(unit: TimeUnit) -> u64 {
    NEAR_US / unit.as_us().unsigned_abs()
}

/// Encodes with times counted from `base_us` and truncated to `unit`.
///
/// # Panics
/// If a column is not as long as its group's times: a bug of the caller.
pub fn encode(columns: &Columns, base_us: i64, unit: TimeUnit) -> Vec<u8> {
    let base = base_us.div_euclid(unit.as_us());
    let in_units = |time_us: &i64| time_us.div_euclid(unit.as_us()).wrapping_sub(base);
    let (coder, state) = (&mut Encoder::new(), &mut State::new());
    coder.raw(u64::from(unit == TimeUnit::Microseconds), 1);
    state.number(coder, Field::Groups, columns.groups.len() as u64);
    state.span = columns.span_us().map_or(0, |(_, latest_us)| in_units(&latest_us));
    state.number(coder, Field::Span, zigzag(state.span));
    let mut leaders = Vec::new();
    let mut integers = Vec::new();
    for (number, group) in columns.groups.iter().enumerate() {
        let times: Vec<i64> = group.times_us.iter().map(in_units).collect();
        let plan = Plan::choose(&times, &state.times, &leaders, near(unit));
        if matches!(plan, Plan::Own { .. }) {
            leaders.push(number);
        }
        state.plan(coder, plan);
        state.rows(coder, plan, times.len() as i64);
        state.number(coder, Field::Columns, group.columns.len() as u64);
        for (at, column) in group.columns.iter().enumerate() {
            state.signal(coder, at == 0, i64::from(column.signal.0));
        }
        state.times(coder, plan, unit, times);
        for column in &group.columns {
            assert_eq!(column.values.len(), group.times_us.len(), "a column is as long as its times");
            encode_values(coder, state, &column.values, &mut integers);
        }
    }
    core::mem::replace(coder, Encoder::new()).finish()
}

fn encode_values(coder: &mut Encoder, state: &mut State, values: &Values, integers: &mut Vec<i64>) {
    integers.clear();
    let kind = match values {
        Values::Raw(_) => KIND_RAW,
        Values::F32(_) => KIND_F32,
        Values::F64(_) => KIND_F64,
        Values::Bool(_) => KIND_BOOL,
        Values::Text(_) => KIND_TEXT,
    };
    state.number(coder, Field::Kind, kind);
    match values {
        Values::Raw(values) => integers.extend_from_slice(values),
        Values::F32(values) => integers.extend(values.iter().map(|value| i64::from(value.to_bits()))),
        Values::F64(values) => integers.extend(values.iter().map(|value| value.to_bits() as i64)),
        Values::Bool(values) => integers.extend(values.iter().map(|value| i64::from(*value))),
        Values::Text(texts) => return encode_texts(coder, state, texts),
    }
    let coded = state.series(coder, Prediction::choose(integers), integers);
    debug_assert!(coded.is_ok(), "an encoder's prediction is one of ours");
}

/// A text is 0 where it is the one before, else its length and 1, then its bytes.
fn encode_texts(coder: &mut Encoder, state: &mut State, texts: &[String]) {
    let mut before = "";
    for text in texts {
        if text == before {
            state.number(coder, Field::TextLength, 0);
            continue;
        }
        state.number(coder, Field::TextLength, text.len() as u64 + 1);
        for byte in text.bytes() {
            tree::<8, _>(coder, &mut state.text, u64::from(byte));
        }
        before = text;
    }
}

/// How much an encoding may still hold: few bytes can announce much, and this bounds what is allocated for it.
#[derive(Debug)]
struct Budget(usize);

impl Budget {
    fn take(&mut self, values: usize) -> Result<(), ColumnsError> {
        self.0 = self.0.checked_sub(values).ok_or(ColumnsError::Impossible("number of values"))?;
        Ok(())
    }
}

/// Reads an encoding whose times count from `base_us`.
pub fn decode(bytes: &[u8], base_us: i64) -> Result<Columns, ColumnsError> {
    let (coder, state) = (&mut Decoder::new(bytes), &mut State::new());
    let unit = match coder.raw(0, 1) {
        0 => TimeUnit::Milliseconds,
        _ => TimeUnit::Microseconds,
    };
    let groups = state.number(coder, Field::Groups, 0);
    if groups > GROUPS_MAX as u64 {
        return Err(ColumnsError::Impossible("group count"));
    }
    state.span = unzigzag(state.number(coder, Field::Span, 0));
    let base = base_us.div_euclid(unit.as_us());
    let mut budget = Budget(VALUES_MAX);
    let mut columns = Columns::default();
    for _ in 0..groups {
        let group = decode_group(coder, state, &mut budget, unit, base)?;
        columns.groups.push(group);
    }
    if coder.is_at_end() { Ok(columns) } else { Err(end_error(coder)) }
}

fn end_error(coder: &Decoder<'_>) -> ColumnsError {
    if coder.is_beyond() {
        ColumnsError::CutShort("values")
    } else {
        ColumnsError::Impossible("trailing bytes")
    }
}

fn decode_group(
    coder: &mut Decoder<'_>,
    state: &mut State,
    budget: &mut Budget,
    unit: TimeUnit,
    base: i64,
) -> Result<Group, ColumnsError> {
    let plan = state.plan(coder, Plan::Own { first: 0, period: 0 });
    if let Plan::Follow { leader, .. } = plan {
        leader_of(&state.times, leader).ok_or(ColumnsError::Impossible("group to follow"))?;
    }
    let rows = state.rows(coder, plan, 0);
    let rows = usize::try_from(rows).ok().filter(|rows| *rows <= GROUP_ROWS_MAX);
    let rows = rows.ok_or(ColumnsError::Impossible("row count"))?;
    let count = state.number(coder, Field::Columns, 0);
    let count = usize::try_from(count).ok().filter(|count| *count <= VALUES_MAX);
    let count = count.ok_or(ColumnsError::Impossible("signal count"))?;
    // Both are far below the square root of what a usize holds.
    budget.take((rows + OVERHEAD_VALUES).saturating_mul(count + 1))?;
    let mut signals = Vec::with_capacity(count);
    for at in 0..count {
        let signal = u32::try_from(state.signal(coder, at == 0, 0));
        signals.push(SignalIndex(signal.map_err(|_| ColumnsError::Impossible("signal number"))?));
    }
    state.times(coder, plan, unit, alloc::vec![0; rows]);
    let in_us = |time: &i64| time.wrapping_add(base).checked_mul(unit.as_us());
    let times_us = state.times.last().into_iter().flatten().map(in_us).collect::<Option<Vec<i64>>>();
    let times_us = times_us.ok_or(ColumnsError::Impossible("time"))?;
    let mut columns = Vec::with_capacity(count);
    for signal in signals {
        if coder.is_beyond() {
            return Err(end_error(coder));
        }
        columns.push(Column { signal, values: decode_values(coder, state, budget, rows)? });
    }
    Ok(Group { times_us, columns })
}

fn decode_values(
    coder: &mut Decoder<'_>,
    state: &mut State,
    budget: &mut Budget,
    rows: usize,
) -> Result<Values, ColumnsError> {
    let kind = state.number(coder, Field::Kind, 0);
    if kind == KIND_TEXT {
        return decode_texts(coder, state, budget, rows).map(Values::Text);
    }
    let mut integers = alloc::vec![0; rows];
    state.series(coder, Prediction::Constant, &mut integers)?;
    let single =
        |value| u32::try_from(value).map(f32::from_bits).map_err(|_| ColumnsError::Impossible("value"));
    let truth = |value| match value {
        0 | 1 => Ok(value == 1),
        _ => Err(ColumnsError::Impossible("value")),
    };
    Ok(match kind {
        KIND_RAW => Values::Raw(integers),
        KIND_F32 => Values::F32(integers.into_iter().map(single).collect::<Result<_, _>>()?),
        KIND_F64 => Values::F64(integers.into_iter().map(|value| f64::from_bits(value as u64)).collect()),
        KIND_BOOL => Values::Bool(integers.into_iter().map(truth).collect::<Result<_, _>>()?),
        _ => return Err(ColumnsError::Impossible("value kind")),
    })
}

fn decode_texts(
    coder: &mut Decoder<'_>,
    state: &mut State,
    budget: &mut Budget,
    rows: usize,
) -> Result<Vec<String>, ColumnsError> {
    let mut texts: Vec<String> = Vec::with_capacity(rows);
    for _ in 0..rows {
        let length = state.number(coder, Field::TextLength, 0);
        let length = usize::try_from(length).map_err(|_| ColumnsError::Impossible("text length"))?;
        budget.take(length.max(texts.last().map_or(0, String::len)))?;
        if length == 0 {
            texts.push(texts.last().cloned().unwrap_or_default());
            continue;
        }
        let bytes = (1..length).map(|_| tree::<8, _>(coder, &mut state.text, 0) as u8).collect();
        texts.push(String::from_utf8(bytes).map_err(|_| ColumnsError::Impossible("text"))?);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Columns of every kind of values, of rows that come at any times.
    fn columns() -> impl Strategy<Value = Columns> {
        let group = (0usize..40, 0usize..5).prop_flat_map(|(rows, count)| {
            let times = proptest::collection::vec(-1_000_000_000i64..1_000_000_000, rows);
            let values = prop_oneof![
                proptest::collection::vec(any::<i64>(), rows).prop_map(Values::Raw),
                proptest::collection::vec(0i64..4, rows).prop_map(Values::Raw),
                proptest::collection::vec(any::<u32>(), rows)
                    .prop_map(|bits| Values::F32(bits.into_iter().map(f32::from_bits).collect())),
                proptest::collection::vec(any::<u64>(), rows)
                    .prop_map(|bits| Values::F64(bits.into_iter().map(f64::from_bits).collect())),
                proptest::collection::vec(any::<bool>(), rows).prop_map(Values::Bool),
                proptest::collection::vec("[a-c°]{0,3}", rows).prop_map(Values::Text),
            ];
            let column = (any::<u32>(), values);
            let column = column.prop_map(|(signal, values)| Column { signal: SignalIndex(signal), values });
            (times, proptest::collection::vec(column, count))
        });
        let group = group.prop_map(|(mut times_us, columns)| {
            times_us.sort_unstable();
            Group { times_us, columns }
        });
        proptest::collection::vec(group, 0..6).prop_map(|groups| Columns { groups })
    }

    /// Bit for bit: a NaN is one of many.
    fn bits(columns: &Columns) -> alloc::string::String {
        let values = |column: &Column| match &column.values {
            Values::F32(values) => {
                alloc::format!("{:?}", values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            }
            Values::F64(values) => {
                alloc::format!("{:?}", values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            }
            other => alloc::format!("{other:?}"),
        };
        let group = |group: &Group| {
            let columns: Vec<_> =
                group.columns.iter().map(|column| (column.signal, values(column))).collect();
            alloc::format!("{:?} {columns:?}", group.times_us)
        };
        columns.groups.iter().map(group).collect()
    }

    proptest! {
        #[test]
        fn microseconds_round_trip(columns in columns(), base_us in -1_000_000_000i64..1_000_000_000) {
            let bytes = encode(&columns, base_us, TimeUnit::Microseconds);
            prop_assert_eq!(bits(&decode(&bytes, base_us).unwrap()), bits(&columns));
        }

        #[test]
        fn any_bytes_and_any_damage_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            columns in columns(),
            at: proptest::sample::Index,
            byte: u8,
        ) {
            let _ = decode(&bytes, 0);
            let mut damaged = encode(&columns, 0, TimeUnit::Milliseconds);
            if !damaged.is_empty() {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            let _ = decode(&damaged, 0);
        }
    }

    #[test]
    fn milliseconds_truncate_toward_the_past() {
        let group = Group { times_us: alloc::vec![-1, 1_999], columns: Vec::new() };
        let bytes = encode(&Columns { groups: alloc::vec![group] }, 0, TimeUnit::Milliseconds);
        assert_eq!(decode(&bytes, 0).unwrap().groups[0].times_us, [-1_000, 1_000]);
    }

    #[test]
    fn few_bytes_cannot_announce_much() {
        let many = Columns {
            groups: alloc::vec![
                Group {
                    times_us: alloc::vec![0; GROUP_ROWS_MAX],
                    columns: alloc::vec![Column {
                        signal: SignalIndex(0),
                        values: Values::Raw(alloc::vec![0; GROUP_ROWS_MAX]),
                    }],
                };
                9
            ],
        };
        let bytes = encode(&many, 0, TimeUnit::Milliseconds);
        assert!(bytes.len() < 1_000, "{}", bytes.len());
        assert_eq!(decode(&bytes, 0), Err(ColumnsError::Impossible("number of values")));
    }
}
