//! How long to wait before something is tried again.

use std::time::Duration;

use convoy_cloud_core::ambient::Ambient;

/// Exponential backoff with full jitter and an end.
///
/// The SDK backs off by itself where a whole call fails; this is for what a call that succeeded left undone, and for
/// writers that lost a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Tries at most, the first included.
    pub attempts_max: u32,
    /// Upper end of the first pause.
    pub first: Duration,
    /// Upper end of every pause.
    pub longest: Duration,
}

impl Backoff {
    /// Waits before the next try, after `attempt` tries (from 1); `false` without a wait where there is none left.
    pub async fn pause(&self, attempt: u32, ambient: &Ambient) -> bool {
        if attempt >= self.attempts_max {
            return false;
        }
        tokio::time::sleep(self.pause_after(attempt, u32::from_le_bytes(ambient.random()))).await;
        true
    }

    /// A pause between nothing and the bound of this try, chosen by `dice`.
    fn pause_after(&self, attempt: u32, dice: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let bound = self.first.saturating_mul(1 << doublings).min(self.longest);
        bound.mul_f64(f64::from(dice) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { attempts_max: 3, first: Duration::from_millis(10), longest: Duration::from_millis(50) };

    #[test]
    fn pauses_double_up_to_the_longest_and_jitter_reaches_down_to_nothing() {
        let bounds = [1, 2, 3, 4, 99].map(|attempt| BACKOFF.pause_after(attempt, u32::MAX).as_millis());
        assert_eq!(bounds, [10, 20, 40, 50, 50]);
        assert_eq!(BACKOFF.pause_after(4, 0), Duration::ZERO);
    }

    #[tokio::test]
    async fn tries_end() {
        let ambient = Ambient::new(|| 0, |bytes| bytes.fill(0));
        let goes_on = [BACKOFF.pause(1, &ambient).await, BACKOFF.pause(2, &ambient).await];
        assert_eq!((goes_on, BACKOFF.pause(3, &ambient).await), ([true, true], false));
    }
}
