//! A campaign's bytes a day: counted, enforced, and visible.

/// From this share of the budget on, signals are taken rarely, percent.
pub const NEAR_PERCENT: u64 = 80;
/// Shortest period of a signal while the budget is nearly used, microseconds.
pub const NEAR_PERIOD_US: i64 = 10_000_000;
const DAY_US: i64 = 86_400_000_000;

/// How much of the day's budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spending {
    /// Less than [`NEAR_PERCENT`], or there is no budget.
    Free,
    /// From [`NEAR_PERCENT`] on: each signal at most once in [`NEAR_PERIOD_US`].
    Near,
    /// All of it: nothing is taken.
    Over,
}

impl Spending {
    /// Shortest period of a signal, microseconds.
    pub const fn period_us_min(self) -> i64 {
        match self {
            Self::Free => 0,
            Self::Near | Self::Over => NEAR_PERIOD_US,
        }
    }
}

/// Bytes of one campaign in one day, UTC. A batch is counted when it is closed, so a day may exceed its budget by the
/// batch that was open when it was reached.
#[derive(Debug, Clone)]
pub struct Budget {
    bytes_per_day: Option<u32>,
    day: i64,
    used: u64,
    withheld: u64,
}

impl Budget {
    /// A budget of which nothing is used; `None`: without a limit.
    pub fn new(bytes_per_day: Option<u32>) -> Self {
        Self { bytes_per_day, day: i64::MIN, used: 0, withheld: 0 }
    }

    /// Goes on with what was used before the agent was started again.
    pub fn resume(&mut self, day: i64, used: u64) {
        (self.day, self.used) = (day, used);
    }

    /// The day of a time, counted from the Unix epoch.
    pub const fn day_of(now_us: i64) -> i64 {
        now_us.div_euclid(DAY_US)
    }

    /// The day of the last envelope and the bytes of that day.
    pub fn used(&self) -> (i64, u64) {
        (self.day, self.used)
    }

    /// Samples that were not taken because the budget was used.
    pub fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Counts samples that were not taken.
    pub fn withhold(&mut self, samples: u64) {
        self.withheld += samples;
    }

    /// Counts an envelope.
    pub fn spend(&mut self, now_us: i64, bytes: u64) {
        let day = Self::day_of(now_us);
        if day != self.day {
            (self.day, self.used) = (day, 0);
        }
        self.used += bytes;
    }

    /// How much is used.
    pub fn spending(&self, now_us: i64) -> Spending {
        let Some(bytes_per_day) = self.bytes_per_day.map(u64::from) else { return Spending::Free };
        let used = if Self::day_of(now_us) == self.day { self.used } else { 0 };
        if used >= bytes_per_day {
            Spending::Over
        } else if used * 100 >= bytes_per_day * NEAR_PERCENT {
            Spending::Near
        } else {
            Spending::Free
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_spent_in_two_stages_and_the_next_begins_anew() {
        let mut budget = Budget::new(Some(1_000));
        let noon = DAY_US / 2;
        budget.spend(noon, 799);
        assert_eq!(budget.spending(noon), Spending::Free);
        budget.spend(noon, 1);
        assert_eq!(budget.spending(noon), Spending::Near);
        budget.spend(noon, 300);
        assert_eq!(budget.spending(noon), Spending::Over);
        assert_eq!(budget.spending(DAY_US - 1), Spending::Over);
        assert_eq!(budget.spending(DAY_US), Spending::Free);
        budget.spend(DAY_US, 5);
        assert_eq!(budget.used(), (1, 5));
    }

    #[test]
    fn without_a_limit_nothing_is_ever_over() {
        let mut budget = Budget::new(None);
        budget.spend(0, u64::MAX / 2);
        assert_eq!(budget.spending(0), Spending::Free);
        let mut none = Budget::new(Some(0));
        assert_eq!(none.spending(0), Spending::Over);
        none.resume(0, 7);
        assert_eq!(none.used(), (0, 7));
    }
}
