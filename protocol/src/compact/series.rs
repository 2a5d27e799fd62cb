//! One column of integers: the first, how the others are predicted, and by how much each differs from that.

use super::number::Numbers;
use super::range::Coder;
use crate::varint::{unzigzag, zigzag};

/// Values that must come again for a column to be taken as periodic.
const RECUR: usize = 4;
/// Longest period that an encoder looks for, in rows, and the number of candidates it tries.
const LAG_MAX: usize = 256;
const LAGS_TRIED_MAX: usize = 4;

/// How a value is predicted; the numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prediction {
    /// 0: the first value, and it is right.
    Constant,
    /// 2: the line through the two values before.
    Line,
    /// Others: the value this many rows before; the one before where there are not so many.
    Lag(usize),
}

impl Prediction {
    /// The value before.
    const PREVIOUS: Self = Self::Lag(1);

    pub(super) const fn to_wire(self) -> u64 {
        match self {
            Self::Constant => 0,
            Self::Line => 2,
            Self::Lag(rows) => rows as u64,
        }
    }

    /// `None` for a lag of more than `rows_max`.
    pub(super) fn from_wire(number: u64, rows_max: usize) -> Option<Self> {
        match usize::try_from(number).ok().filter(|rows| *rows <= rows_max)? {
            0 => Some(Self::Constant),
            2 => Some(Self::Line),
            rows => Some(Self::Lag(rows)),
        }
    }

    /// The value of `row`, which is not the first.
    #[inline(always)]
    fn of(self, values: &[i64], row: usize) -> i64 {
        let previous = values[row - 1];
        match self {
            Self::Line if row > 1 => previous.wrapping_add(previous.wrapping_sub(values[row - 2])),
            Self::Lag(rows) if row >= rows => values[row - rows],
            _ => previous,
        }
    }

    /// About how many bits the differences take.
    fn cost(self, values: &[i64]) -> u64 {
        let bits = |row| {
            1 + 2 * u64::from(u64::BITS - difference(values[row], self.of(values, row)).leading_zeros())
        };
        (1..values.len()).map(bits).sum()
    }

    /// The one that fits best.
    pub(super) fn choose(values: &[i64]) -> Self {
        if values.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Constant;
        }
        let mut best = (Self::PREVIOUS, Self::PREVIOUS.cost(values));
        if best.1 < 2 * values.len() as u64 {
            return best.0;
        }
        for other in core::iter::once(Self::Line).chain(lags(values).map(Self::Lag)) {
            let cost = other.cost(values) + u64::from(u8::BITS);
            if cost < best.1 {
                best = (other, cost);
            }
        }
        best.0
    }
}

/// Periods after which the column's end is the same.
fn lags(values: &[i64]) -> impl Iterator<Item = usize> {
    let end = &values[values.len().saturating_sub(RECUR)..];
    let lag_max = LAG_MAX.min(values.len() / 2);
    let recurs = move |lag: &usize| values[..values.len() - lag].ends_with(end);
    (3..=lag_max).filter(recurs).take(LAGS_TRIED_MAX)
}

const fn difference(value: i64, predicted: i64) -> u64 {
    zigzag(value.wrapping_sub(predicted))
}

/// Contexts of a [`History`].
pub(super) const HISTORY: usize = 16;

/// How far off the last two predictions were, 0 to 3 each: a context for the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct History(usize);

impl History {
    #[inline(always)]
    pub(super) const fn context(self) -> usize {
        self.0
    }

    #[inline(always)]
    pub(super) fn push(&mut self, difference: u64) {
        self.0 = (self.0 << 2 | difference.min(3) as usize) % HISTORY;
    }
}

/// Codes all values after the first.
pub(super) fn code<C: Coder>(coder: &mut C, prediction: Prediction, values: &mut [i64]) {
    if prediction == Prediction::Constant {
        if let [first, rest @ ..] = values {
            rest.fill(*first);
        }
        return;
    }
    let mut numbers = Numbers::<HISTORY>::NEW;
    let mut history = History::default();
    for row in 1..values.len() {
        let predicted = prediction.of(values, row);
        let off = numbers.code(coder, history.context(), difference(values[row], predicted));
        history.push(off);
        values[row] = predicted.wrapping_add(unzigzag(off));
    }
}
