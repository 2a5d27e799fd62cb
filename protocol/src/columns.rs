//! Samples by column: the body of a samples section.
//!
//! Samples that were decoded from one frame share their time, so a [`Group`] is a set of signals that always came
//! together: one time column, then one value column a signal, all of the same length.
//!
//! ```text
//! unit         1 byte    0 milliseconds, 1 microseconds
//! groups       varint
//! per group:   signals varint, rows varint
//!              signal numbers: the first, then differences, zigzag varint each
//!              times: difference of differences in units since the base, zigzag varint each
//!              per signal: kind 1 byte, then its values
//! kinds:       0 raw integers (differences, zigzag varint)   1 f32 LE   2 f64 LE
//!              3 bool (bits, low first)                      4 text (length varint, UTF-8)
//! ```

use alloc::string::String;
use alloc::vec::Vec;

use crate::manifest::SignalIndex;
use crate::time::TimeUnit;
use crate::varint::{Bytes, put, unzigzag, zigzag};

/// Rows in one group at most: what a reader will allocate for it. An agent's batch holds far fewer samples.
pub const GROUP_ROWS_MAX: usize = 1 << 16;
/// Groups in one encoding at most.
pub const GROUPS_MAX: usize = 1 << 14;

/// A batch of samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    /// Its groups, in the order they were first seen.
    pub groups: Vec<Group>,
}

/// Signals that always came together, with their common times.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// Row times, microseconds since the Unix epoch, UTC.
    pub times_us: Vec<i64>,
    /// One column a signal, each as long as `times_us`.
    pub columns: Vec<Column>,
}

/// The values of one signal.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The signal, by its number in the manifest.
    pub signal: SignalIndex,
    /// Its values, one a row.
    pub values: Values,
}

/// Values of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// DBC raw integers; physical = raw x factor + offset.
    Raw(Vec<i64>),
    /// Single-precision values.
    F32(Vec<f32>),
    /// Double-precision values.
    F64(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts.
    Text(Vec<String>),
}

impl Values {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Raw(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    /// No values?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why bytes are not columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// The bytes end before what they announce.
    #[error("columns are cut short in their {0}")]
    CutShort(&'static str),
    /// A group announces more rows than [`GROUP_ROWS_MAX`] or than its bytes can hold.
    #[error("a group announces {0} rows, more than its bytes can hold")]
    TooManyRows(u64),
    /// A number outside what the format allows.
    #[error("columns hold an impossible {0}")]
    Impossible(&'static str),
}

impl Columns {
    /// Number of samples: rows times signals, over all groups.
    pub fn samples(&self) -> usize {
        self.groups.iter().map(|group| group.times_us.len() * group.columns.len()).sum()
    }

    /// Earliest and latest time, microseconds; `None` without rows.
    pub fn span_us(&self) -> Option<(i64, i64)> {
        let times = || self.groups.iter().flat_map(|group| group.times_us.iter().copied());
        Some((times().min()?, times().max()?))
    }

    /// Encodes with times counted from `base_us` and truncated to `unit`.
    ///
    /// # Panics
    /// If a column is not as long as its group's times: a bug of the caller.
    pub fn encode(&self, base_us: i64, unit: TimeUnit) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.samples() + 16 * self.groups.len());
        out.push(match unit {
            TimeUnit::Milliseconds => 0,
            TimeUnit::Microseconds => 1,
        });
        put(&mut out, self.groups.len() as u64);
        for group in &self.groups {
            encode_group(group, base_us, unit, &mut out);
        }
        out
    }

    /// Reads an encoding whose times count from `base_us`.
    pub fn decode(bytes: &[u8], base_us: i64) -> Result<Self, ColumnsError> {
        let mut bytes = Bytes::new(bytes);
        let unit = match bytes.take(1).ok_or(ColumnsError::CutShort("time unit"))? {
            [0] => TimeUnit::Milliseconds,
            [1] => TimeUnit::Microseconds,
            _ => return Err(ColumnsError::Impossible("time unit")),
        };
        let groups = bytes.varint().ok_or(ColumnsError::CutShort("group count"))?;
        if groups > GROUPS_MAX as u64 {
            return Err(ColumnsError::Impossible("group count"));
        }
        let mut columns = Self::default();
        for _ in 0..groups {
            columns.groups.push(decode_group(&mut bytes, base_us, unit)?);
        }
        if bytes.len() > 0 { Err(ColumnsError::Impossible("trailing bytes")) } else { Ok(columns) }
    }
}

fn encode_group(group: &Group, base_us: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    put(out, group.columns.len() as u64);
    put(out, group.times_us.len() as u64);
    let mut previous = 0;
    for column in &group.columns {
        let signal = i64::from(column.signal.0);
        put(out, zigzag(signal - previous));
        previous = signal;
    }
    let (mut time, mut delta) = (base_us.div_euclid(unit.as_us()), 0i64);
    for time_us in &group.times_us {
        let next = time_us.div_euclid(unit.as_us());
        let next_delta = next.wrapping_sub(time);
        put(out, zigzag(next_delta.wrapping_sub(delta)));
        (time, delta) = (next, next_delta);
    }
    for column in &group.columns {
        assert_eq!(column.values.len(), group.times_us.len(), "a column is as long as its times");
        encode_values(&column.values, out);
    }
}

fn encode_values(values: &Values, out: &mut Vec<u8>) {
    match values {
        Values::Raw(values) => {
            out.push(0);
            let mut previous = 0i64;
            for value in values {
                put(out, zigzag(value.wrapping_sub(previous)));
                previous = *value;
            }
        }
        Values::F32(values) => {
            out.push(1);
            values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        }
        Values::F64(values) => {
            out.push(2);
            values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        }
        Values::Bool(values) => {
            out.push(3);
            for bits in values.chunks(8) {
                out.push(bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
            }
        }
        Values::Text(values) => {
            out.push(4);
            for value in values {
                put(out, value.len() as u64);
                out.extend_from_slice(value.as_bytes());
            }
        }
    }
}

fn decode_group(bytes: &mut Bytes<'_>, base_us: i64, unit: TimeUnit) -> Result<Group, ColumnsError> {
    let signals = bytes.varint().ok_or(ColumnsError::CutShort("signal count"))?;
    let rows = bytes.varint().ok_or(ColumnsError::CutShort("row count"))?;
    // Each row's time takes at least one byte and so does each signal number: the input bounds what is allocated.
    if rows > GROUP_ROWS_MAX as u64 || rows > bytes.len() as u64 {
        return Err(ColumnsError::TooManyRows(rows));
    }
    if signals > bytes.len() as u64 {
        return Err(ColumnsError::Impossible("signal count"));
    }
    let rows = rows as usize;
    let mut numbers = Vec::with_capacity(signals as usize);
    let mut previous = 0i64;
    for _ in 0..signals {
        let difference = bytes.varint().ok_or(ColumnsError::CutShort("signal numbers"))?;
        previous = previous.wrapping_add(unzigzag(difference));
        numbers.push(u32::try_from(previous).map_err(|_| ColumnsError::Impossible("signal number"))?);
    }
    let times_us = decode_times(bytes, rows, base_us, unit)?;
    let mut columns = Vec::with_capacity(numbers.len());
    for number in numbers {
        columns.push(Column { signal: SignalIndex(number), values: decode_values(bytes, rows)? });
    }
    Ok(Group { times_us, columns })
}

fn decode_times(
    bytes: &mut Bytes<'_>,
    rows: usize,
    base_us: i64,
    unit: TimeUnit,
) -> Result<Vec<i64>, ColumnsError> {
    let (mut time, mut delta) = (base_us.div_euclid(unit.as_us()), 0i64);
    let mut times_us = Vec::with_capacity(rows);
    for _ in 0..rows {
        let step = bytes.varint().ok_or(ColumnsError::CutShort("times"))?;
        delta = delta.wrapping_add(unzigzag(step));
        time = time.wrapping_add(delta);
        times_us.push(time.checked_mul(unit.as_us()).ok_or(ColumnsError::Impossible("time"))?);
    }
    Ok(times_us)
}

fn decode_values(bytes: &mut Bytes<'_>, rows: usize) -> Result<Values, ColumnsError> {
    const CUT: ColumnsError = ColumnsError::CutShort("values");
    Ok(match bytes.take(1).ok_or(CUT)? {
        [0] => {
            let mut values = Vec::with_capacity(rows);
            let mut value = 0i64;
            for _ in 0..rows {
                value = value.wrapping_add(unzigzag(bytes.varint().ok_or(CUT)?));
                values.push(value);
            }
            Values::Raw(values)
        }
        [1] => {
            let (chunks, _) = bytes.take(rows * 4).ok_or(CUT)?.as_chunks::<4>();
            Values::F32(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
        }
        [2] => {
            let (chunks, _) = bytes.take(rows * 8).ok_or(CUT)?.as_chunks::<8>();
            Values::F64(chunks.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect())
        }
        [3] => {
            let bits = bytes.take(rows.div_ceil(8)).ok_or(CUT)?;
            Values::Bool((0..rows).map(|row| bits[row / 8] >> (row % 8) & 1 == 1).collect())
        }
        [4] => {
            let mut values = Vec::with_capacity(rows);
            for _ in 0..rows {
                let len = bytes.varint().and_then(|len| usize::try_from(len).ok()).ok_or(CUT)?;
                let text = core::str::from_utf8(bytes.take(len).ok_or(CUT)?)
                    .map_err(|_| ColumnsError::Impossible("text"))?;
                values.push(String::from(text));
            }
            Values::Text(values)
        }
        _ => return Err(ColumnsError::Impossible("value kind")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(rows: usize) -> impl Strategy<Value = Values> {
        use proptest::collection::vec;
        prop_oneof![
            vec(any::<i64>(), rows).prop_map(Values::Raw),
            vec(-100i64..100, rows).prop_map(Values::Raw),
            vec(-1e30f32..1e30, rows).prop_map(Values::F32),
            vec(-1e300f64..1e300, rows).prop_map(Values::F64),
            vec(any::<bool>(), rows).prop_map(Values::Bool),
            vec(".{0,9}", rows).prop_map(Values::Text),
        ]
    }

    fn group() -> impl Strategy<Value = Group> {
        (0usize..40, 0usize..5).prop_flat_map(|(rows, signals)| {
            let times = proptest::collection::vec(0i64..4_000_000_000_000, rows);
            let column = (any::<u32>(), values(rows))
                .prop_map(|(signal, values)| Column { signal: SignalIndex(signal), values });
            (times, proptest::collection::vec(column, signals)).prop_map(|(times, columns)| Group {
                times_us: times.into_iter().map(|ms| ms * 1_000).collect(),
                columns,
            })
        })
    }

    proptest! {
        #[test]
        fn columns_round_trip(groups in proptest::collection::vec(group(), 0..5), base_us in 0i64..1_u64.rotate_right(8) as i64) {
            let columns = Columns { groups };
            let base_us = base_us / 1_000 * 1_000;
            let bytes = columns.encode(base_us, TimeUnit::Milliseconds);
            prop_assert_eq!(Columns::decode(&bytes, base_us), Ok(columns));
        }

        #[test]
        fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Columns::decode(&bytes, 0);
        }

        #[test]
        fn decoding_a_damaged_encoding_never_panics(group in group(), at in any::<usize>(), byte: u8) {
            let mut bytes = Columns { groups: alloc::vec![group] }.encode(0, TimeUnit::Microseconds);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Columns::decode(&bytes, 0);
        }
    }

    #[test]
    fn milliseconds_truncate_toward_the_past() {
        let group = Group { times_us: alloc::vec![1_999, -1], columns: Vec::new() };
        let bytes = Columns { groups: alloc::vec![group] }.encode(0, TimeUnit::Milliseconds);
        assert_eq!(Columns::decode(&bytes, 0).unwrap().groups[0].times_us, [1_000, -1_000]);
    }

    #[test]
    fn a_small_input_cannot_announce_a_large_group() {
        let mut bytes = alloc::vec![0, 1, 1];
        put(&mut bytes, 1 << 19);
        assert_eq!(Columns::decode(&bytes, 0), Err(ColumnsError::TooManyRows(1 << 19)));
    }
}
