//! Time columns, in units since the base: either with a period of their own, or after an earlier group's times.

use alloc::vec::Vec;

use super::number::Numbers;
use super::range::Coder;
use super::series::{HISTORY, History};
use crate::varint::{unzigzag, zigzag};

/// Groups that an encoder tries to follow, the latest ones.
const LEADERS_TRIED_MAX: usize = 16;
/// Contexts of [`code_followed`]: how far off the last row was, then which row is followed.
const ROW: usize = 4;
pub(super) const FOLLOWED: usize = 5;

/// How a group's times are told; it is coded before the number of rows.
///
/// A decoder can meet any numbers in it: the arithmetic wraps, and [`Lead::at`] takes rows that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// The first time, and a usual time between rows.
    Own { first: i64, period: i64 },
    /// The rows of an earlier group: its number, the row of the first time, and the usual number of rows between.
    Follow { leader: i64, first: i64, stride: i64 },
}

impl Plan {
    /// How many rows that makes until the batch ends at `span`.
    pub(super) fn rows(self, earlier: &[Vec<i64>], span: i64) -> i64 {
        let (left, step) = match self {
            Self::Own { first, period } => (span.wrapping_sub(first), period),
            Self::Follow { leader, first, stride } => {
                let rows = leader_of(earlier, leader).map_or(0, <[i64]>::len);
                ((rows as i64).wrapping_sub(first).wrapping_sub(1), stride)
            }
        };
        if step > 0 { (left / step).wrapping_add(1) } else { 1 }
    }

    /// The shorter one; `leaders` are the earlier groups that do not follow another.
    pub(super) fn choose(times: &[i64], earlier: &[Vec<i64>], leaders: &[usize], near: u64) -> Self {
        let own = Self::Own { first: times.first().copied().unwrap_or(0), period: median_step(times) };
        let mut best = (own, own_cost(times, median_step(times)));
        for leader in leaders.iter().rev().take(LEADERS_TRIED_MAX) {
            let lead = Lead { times: &earlier[*leader], near };
            let Some((first, stride)) = lead.start(times) else { continue };
            let cost = lead.cost(times, first, stride);
            if cost < best.1 {
                best = (Self::Follow { leader: *leader as i64, first, stride }, cost);
            }
        }
        best.0
    }
}

/// The times of the group `leader`; `None` where there is no such group.
pub(super) fn leader_of(earlier: &[Vec<i64>], leader: i64) -> Option<&[i64]> {
    earlier.get(usize::try_from(leader).ok()?).map(Vec::as_slice)
}

fn median_step(times: &[i64]) -> i64 {
    let mut steps: Vec<i64> = times.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    if steps.is_empty() {
        return 0;
    }
    let middle = steps.len() / 2;
    (*steps.select_nth_unstable(middle).1).max(0)
}

/// A clock that ticks with a period and is set by the times that are seen.
#[derive(Debug, Clone, Copy)]
struct Clock {
    next: i64,
    period: i64,
}

impl Clock {
    const fn new(first: i64, period: i64) -> Self {
        Self { next: first.wrapping_add(period), period }
    }

    /// Sets it: half way back where the time is off by a quarter of the period at most, otherwise all the way.
    #[inline(always)]
    const fn see(&mut self, off: i64) {
        let back = if off.unsigned_abs() <= self.period.unsigned_abs() / 4 { off >> 1 } else { off };
        self.next = self.next.wrapping_add(back).wrapping_add(self.period);
    }
}

/// About how many bits a difference takes; where it is 0 the rest is.
const fn cost_of(off: i64) -> u64 {
    let bits = u64::BITS - zigzag(off).leading_zeros();
    2 * bits as u64
}

fn own_cost(times: &[i64], period: i64) -> u64 {
    let [first, rest @ ..] = times else { return 0 };
    let mut clock = Clock::new(*first, period);
    // The first time, the period, and about a bit for each row.
    let mut cost = 16 + cost_of(period) / 2 + rest.len() as u64 / 2;
    for time in rest {
        let off = time.wrapping_sub(clock.next);
        cost += cost_of(off);
        clock.see(off);
    }
    cost
}

/// Codes all times after the first.
pub(super) fn code_own<C: Coder>(coder: &mut C, period: i64, times: &mut [i64]) {
    let [first, rest @ ..] = times else { return };
    if rest.is_empty() {
        return;
    }
    let mut numbers = Numbers::<HISTORY>::NEW;
    let mut history = History::default();
    let mut clock = Clock::new(*first, period);
    for time in rest {
        let off = numbers.code(coder, history.context(), zigzag(time.wrapping_sub(clock.next)));
        history.push(off);
        *time = clock.next.wrapping_add(unzigzag(off));
        clock.see(unzigzag(off));
    }
}

/// A group that is followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lead<'a> {
    /// Its times.
    pub(super) times: &'a [i64],
    /// Times this near can be of the same event.
    pub(super) near: u64,
}

impl Lead<'_> {
    /// The time of a row; `None` where there is no such row.
    fn get(&self, row: i64) -> Option<i64> {
        self.times.get(usize::try_from(row).ok()?).copied()
    }

    /// The time that a row is coded from: of the last one where there is no such row.
    fn at(&self, row: i64) -> i64 {
        self.get(row).or(self.times.last().copied()).unwrap_or(0)
    }

    /// The row for a time: the one that is due if it is near, another that is, or else the one that is due.
    fn row(&self, due: i64, time: i64) -> i64 {
        let is_near = |row: i64| self.get(row).is_some_and(|lead| lead.abs_diff(time) <= self.near);
        if is_near(due) {
            return due;
        }
        let after = self.times.partition_point(|lead| *lead < time) as i64;
        [after, after - 1].into_iter().find(|row| is_near(*row)).unwrap_or(due)
    }

    /// The first row and the stride; `None` where the first time is not there, or the second not after it.
    fn start(&self, times: &[i64]) -> Option<(i64, i64)> {
        let first = self.row(-1, *times.first()?);
        if first < 0 {
            return None;
        }
        let Some(second) = times.get(1) else { return Some((first, 0)) };
        let second = self.row(first + 1, *second);
        (second > first).then_some((first, second - first))
    }

    fn cost(&self, times: &[i64], first: i64, stride: i64) -> u64 {
        let (mut due, mut cost) = (first, 8);
        for time in times {
            let row = self.row(due, *time);
            cost += cost_of(row - due) + cost_of(time.wrapping_sub(self.at(row)));
            due = row + stride;
        }
        cost
    }

    /// Codes all times; what one group's are like is expected of the next.
    pub(super) fn code<C: Coder>(
        &self,
        coder: &mut C,
        numbers: &mut Numbers<FOLLOWED>,
        (first, stride): (i64, i64),
        times: &mut [i64],
    ) {
        let (mut due, mut off) = (first, 0);
        for time in times {
            let row = if C::ENCODES { self.row(due, *time) } else { due };
            let row = due.wrapping_add(numbers.signed(coder, ROW, row.wrapping_sub(due)));
            let lead = self.at(row);
            off = numbers.code(coder, off.min(3) as usize, zigzag(time.wrapping_sub(lead)));
            *time = lead.wrapping_add(unzigzag(off));
            due = row.wrapping_add(stride);
        }
    }
}
