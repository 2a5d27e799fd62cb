//! Campaigns: what a vehicle collects, when, how often, in which lane, and how long it may wait to send it.
//!
//! The words are those of AWS IoT FleetWise where they fit:
//!
//! | here | FleetWise |
//! |---|---|
//! | [`Collection::TimeBased`] | `time_based_collection_scheme`; the period is each selector's `period_ms` |
//! | [`Collection::ConditionBased`] | `condition_based_collection_scheme` |
//! | `minimum_interval_ms` | `condition_minimum_interval_ms` |
//! | [`TriggerMode`] | `condition_trigger_mode` |
//! | `after_duration_ms` | `after_duration_ms` |
//! | `before_duration_ms` | `sample_buffer_size`, there in samples |
//! | `period_ms` | `minimum_sample_period_ms` |
//! | `priority`, `expires_us` | `priority`, `expiry_time_ms_epoch` |
//! | `deadband`, `bytes_per_day`, `window_ms`, lane | none |

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::expression::{Expression, ExpressionError};
use crate::id::{CampaignId, Lane};

/// Signal selectors in one campaign at most.
pub const CAMPAIGN_SIGNALS_MAX: usize = 4_096;
/// Campaigns that a vehicle runs at most; those of the least priority are rejected first.
pub const CAMPAIGNS_MAX: usize = 64;
/// Characters of a campaign's name, and of a selector's pattern, at most.
pub const NAME_CHARS_MAX: usize = 256;
/// Samples in one envelope at most.
pub const BATCH_SAMPLES_MAX: u32 = 20_000;
/// Longest batch window, milliseconds: one hour.
pub const WINDOW_MS_MAX: u32 = 3_600_000;
/// Longest time collected before and after a trigger, milliseconds: ten minutes.
pub const TRIGGER_MS_MAX: u32 = 600_000;
/// Samples that wait for a trigger at most, for one campaign; the oldest go.
pub const BEFORE_SAMPLES_MAX: usize = 20_000;
/// Priority of a campaign that states none.
pub const PRIORITY_DEFAULT: u8 = 100;

/// One campaign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    /// A name for people, 1 to [`NAME_CHARS_MAX`] characters.
    pub name: String,
    /// The lane its envelopes travel in.
    pub lane: Lane,
    /// A batch is closed when its oldest sample is this old, milliseconds, 0 to [`WINDOW_MS_MAX`].
    pub window_ms: u32,
    /// A batch is closed when it holds this many samples, 1 to [`BATCH_SAMPLES_MAX`].
    pub batch_samples: u32,
    /// 0 is the most important. Where a vehicle cannot run all campaigns, the largest numbers are rejected.
    pub priority: u8,
    /// Nothing is collected from this time on, microseconds since the Unix epoch, UTC.
    pub expires_us: Option<i64>,
    /// Bytes of envelopes in one day, UTC: near the limit signals are taken rarely, at the limit not at all.
    pub bytes_per_day: Option<u32>,
    /// When it collects.
    pub collection: Collection,
    /// What it collects; the first selector that matches a signal decides.
    pub signals: Vec<SignalSelector>,
    /// Does it want the trouble codes that controllers report?
    pub trouble_codes: bool,
}

/// When a campaign collects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collection {
    /// Always.
    TimeBased,
    /// Around the times when a condition holds.
    ConditionBased(Trigger),
}

/// A condition and what is collected around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// The condition, see [`crate::expression`].
    pub condition: String,
    /// What about it triggers.
    pub mode: TriggerMode,
    /// Shortest time between two triggers, milliseconds.
    pub minimum_interval_ms: u32,
    /// How far before a trigger samples are collected, milliseconds, 0 to [`TRIGGER_MS_MAX`]; at most
    /// [`BEFORE_SAMPLES_MAX`] samples.
    pub before_duration_ms: u32,
    /// How long after a trigger samples are collected, milliseconds, 0 to [`TRIGGER_MS_MAX`].
    pub after_duration_ms: u32,
}

/// What about a condition triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerMode {
    /// Every sample for which it holds.
    WhileTrue,
    /// It becomes true.
    RisingEdge,
    /// It becomes true, or false again.
    AnyEdge,
}

/// Signals of a campaign and which of their samples it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalSelector {
    /// A VSS path or `Message.Signal`; `*` stands for any characters.
    pub pattern: String,
    /// At most one sample of each signal in this time, milliseconds; 0 takes every sample.
    pub period_ms: u32,
    /// A sample is taken only if its value, in the unit of the path, differs by at least this much from the last one
    /// that was taken; 0 takes every one.
    pub deadband: f64,
    /// A sample is taken only if its raw value differs from the last one that was taken.
    pub on_change: bool,
    /// The signals that match are not taken: for what another campaign has already.
    pub exclude: bool,
}

impl SignalSelector {
    /// Every sample of the signals that match.
    pub fn every(pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), period_ms: 0, deadband: 0.0, on_change: false, exclude: false }
    }

    /// No sample of the signals that match.
    pub fn none(pattern: impl Into<String>) -> Self {
        Self { exclude: true, ..Self::every(pattern) }
    }
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
    /// A deadband is negative or no number.
    #[error("campaign {name}: the deadband of {pattern} must be a number from 0 on")]
    Deadband {
        /// The campaign's name.
        name: String,
        /// The selector's pattern.
        pattern: String,
    },
    /// The condition cannot be read.
    #[error("campaign {name}: condition, {error}")]
    Condition {
        /// The campaign's name.
        name: String,
        /// Why.
        error: ExpressionError,
    },
}

impl Campaign {
    /// A campaign that takes every sample of every signal, all the time, and trouble codes.
    pub fn everything() -> Self {
        Self {
            name: "everything".to_string(),
            lane: Lane::Bulk,
            window_ms: 10_000,
            batch_samples: 1_000,
            priority: PRIORITY_DEFAULT,
            expires_us: None,
            bytes_per_day: None,
            collection: Collection::TimeBased,
            signals: alloc::vec![SignalSelector::every("*")],
            trouble_codes: true,
        }
    }

    /// Everything that is wrong with it; empty when it can be run.
    pub fn faults(&self) -> Vec<CampaignError> {
        let trigger = match &self.collection {
            Collection::TimeBased => None,
            Collection::ConditionBased(trigger) => Some(trigger),
        };
        let longest_pattern = self.signals.iter().map(|selector| selector.pattern.chars().count()).max();
        // One that only wants trouble codes selects no signal.
        let signals_min = u64::from(!self.trouble_codes);
        let ms = |field: fn(&Trigger) -> u32| trigger.map_or(0, |trigger| u64::from(field(trigger)));
        let bounds = [
            ("window_ms", u64::from(self.window_ms), 0, u64::from(WINDOW_MS_MAX)),
            ("batch_samples", u64::from(self.batch_samples), 1, u64::from(BATCH_SAMPLES_MAX)),
            ("number of signals", self.signals.len() as u64, signals_min, CAMPAIGN_SIGNALS_MAX as u64),
            ("length of its name", self.name.chars().count() as u64, 1, NAME_CHARS_MAX as u64),
            ("length of a pattern", longest_pattern.unwrap_or(1) as u64, 1, NAME_CHARS_MAX as u64),
            ("before_duration_ms", ms(|trigger| trigger.before_duration_ms), 0, u64::from(TRIGGER_MS_MAX)),
            ("after_duration_ms", ms(|trigger| trigger.after_duration_ms), 0, u64::from(TRIGGER_MS_MAX)),
        ];
        let name = || self.name.clone();
        let mut faults: Vec<_> = bounds
            .into_iter()
            .filter(|(_, got, min, max)| got < min || got > max)
            .map(|(what, got, min, max)| CampaignError::Bound { name: name(), what, got, min, max })
            .collect();
        let bad = |selector: &&SignalSelector| !selector.deadband.is_finite() || selector.deadband < 0.0;
        faults.extend(
            self.signals
                .iter()
                .filter(bad)
                .map(|selector| CampaignError::Deadband { name: name(), pattern: selector.pattern.clone() }),
        );
        if let Some(Err(error)) = trigger.map(|trigger| Expression::parse(&trigger.condition)) {
            faults.push(CampaignError::Condition { name: name(), error });
        }
        faults
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
            window_ms: WINDOW_MS_MAX + 1,
            batch_samples: 0,
            trouble_codes: false,
            signals: Vec::new(),
            ..Campaign::everything()
        };
        assert_eq!(campaign.faults().len(), 3);
        let trigger = Trigger {
            condition: "A >".into(),
            mode: TriggerMode::RisingEdge,
            minimum_interval_ms: 0,
            before_duration_ms: TRIGGER_MS_MAX + 1,
            after_duration_ms: TRIGGER_MS_MAX,
        };
        let selector = SignalSelector { deadband: -0.5, ..SignalSelector::every("*") };
        let campaign = Campaign {
            name: String::new(),
            collection: Collection::ConditionBased(trigger),
            signals: alloc::vec![selector],
            ..Campaign::everything()
        };
        let faults: Vec<_> = campaign.faults().iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[2].contains("deadband of *") && faults[3].contains("at character 4"), "{faults:?}");
        assert_eq!(Campaign::everything().faults(), []);
    }

    #[test]
    fn a_campaign_for_trouble_codes_alone_selects_no_signal() {
        assert_eq!(Campaign { signals: Vec::new(), ..Campaign::everything() }.faults(), []);
    }
}
