//! Campaigns: what a vehicle collects, how often, in which lane, and how long it may wait to send it.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{CampaignId, Lane};

/// Signal selectors in one campaign at most.
pub const CAMPAIGN_SIGNALS_MAX: usize = 4_096;
/// Samples in one envelope at most.
pub const BATCH_SAMPLES_MAX: u32 = 20_000;
/// Longest batch window, milliseconds: one hour.
pub const WINDOW_MS_MAX: u32 = 3_600_000;

/// A time-based campaign: each selected signal at most once a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    /// A name for people.
    pub name: String,
    /// The lane its envelopes travel in.
    #[serde(default = "bulk")]
    pub lane: Lane,
    /// A batch is closed when its oldest sample is this old, milliseconds, 0 to [`WINDOW_MS_MAX`].
    pub window_ms: u32,
    /// A batch is closed when it holds this many samples, 1 to [`BATCH_SAMPLES_MAX`].
    #[serde(default = "batch_samples_default")]
    pub batch_samples: u32,
    /// What it collects; the first selector that matches a signal decides.
    pub signals: Vec<SignalSelector>,
}

const fn bulk() -> Lane {
    Lane::Bulk
}

const fn batch_samples_default() -> u32 {
    1_000
}

/// Signals of a campaign and their period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalSelector {
    /// A VSS path or `Message.Signal`; `*` stands for any characters.
    pub pattern: String,
    /// At most one sample of each signal in this time, milliseconds; 0 takes every sample.
    pub period_ms: u32,
}

/// What is wrong with a campaign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CampaignError {
    /// A bound is exceeded.
    #[error("campaign {name}: {what} is {got}, it must be from {min} to {max}")]
    Bound {
        /// The campaign's name.
        name: String,
        /// The field.
        what: &'static str,
        /// Its value.
        got: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
}

impl Campaign {
    /// Everything that is wrong with it; empty when it can be run.
    pub fn faults(&self) -> Vec<CampaignError> {
        let bounds = [
            ("window_ms", u64::from(self.window_ms), 0, u64::from(WINDOW_MS_MAX)),
            ("batch_samples", u64::from(self.batch_samples), 1, u64::from(BATCH_SAMPLES_MAX)),
            ("number of signals", self.signals.len() as u64, 1, CAMPAIGN_SIGNALS_MAX as u64),
        ];
        bounds
            .into_iter()
            .filter(|(_, got, min, max)| got < min || got > max)
            .map(|(what, got, min, max)| CampaignError::Bound {
                name: self.name.clone(),
                what,
                got,
                min,
                max,
            })
            .collect()
    }

    /// Its content address.
    pub fn id(&self) -> CampaignId {
        let encoding = postcard::to_allocvec(self).expect("a campaign is plain data");
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::hash(&encoding).as_bytes()[..8]);
        CampaignId(id)
    }
}

/// Does `pattern`, in which `*` stands for any run of characters, match the whole of `text`?
pub fn pattern_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    // `split` yields at least one part.
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_matches_any_run_and_the_whole_text_must_match() {
        assert!(pattern_matches("*", ""));
        assert!(pattern_matches("Vehicle.*", "Vehicle.Speed"));
        assert!(pattern_matches("*.Speed", "Vehicle.Speed"));
        assert!(pattern_matches("A*B*C", "AxBxBxC"));
        assert!(pattern_matches("Vehicle.Speed", "Vehicle.Speed"));
        assert!(!pattern_matches("Vehicle.Speed", "Vehicle.SpeedLimit"));
        assert!(!pattern_matches("A*B*C", "AxCxB"));
        assert!(!pattern_matches("AB*BC", "ABC"));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let campaign = Campaign {
            name: "c".into(),
            lane: Lane::Bulk,
            window_ms: WINDOW_MS_MAX + 1,
            batch_samples: 0,
            signals: Vec::new(),
        };
        assert_eq!(campaign.faults().len(), 3);
    }
}
