//! What became of a vehicle's campaigns: the body of a report section.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::CampaignId;

/// Characters of a reason at most; what is longer is cut.
pub const REASON_CHARS_MAX: usize = 512;
/// Names of signals in one campaign's report at most.
pub const UNSEEN_MAX: usize = 16;

/// What an agent runs, sent when it starts and when anything of it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the desired state that it runs; `None`: only what its configuration says.
    pub version: Option<u64>,
    /// A newer desired state that it did not take, and why.
    pub refused: Option<Refusal>,
    /// Every campaign it was given.
    pub campaigns: Vec<CampaignReport>,
    /// What is wrong with the agent itself, a sentence each: a spool that cannot be written.
    pub problems: Vec<String>,
}

/// A desired state that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its version, where it could be read.
    pub version: Option<u64>,
    /// Why.
    pub reason: String,
}

/// One campaign of a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CampaignReport {
    /// The campaign's content address.
    pub id: CampaignId,
    /// Its name.
    pub name: String,
    /// How it does.
    pub status: CampaignStatus,
    /// Signals of the vehicle that it selects.
    pub signals_matched: u32,
    /// Of these, signals that were on the bus since the campaign runs.
    pub signals_seen: u32,
    /// Paths of signals that it selects and that were never seen, the first [`UNSEEN_MAX`].
    pub unseen: Vec<String>,
}

/// How a campaign does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignStatus {
    /// It collects.
    Active,
    /// None of its signals was on the bus yet.
    WaitingForSignals,
    /// Its condition has not triggered yet.
    WaitingForTrigger,
    /// Its byte budget of the day is nearly used: signals are taken rarely.
    Degraded,
    /// Its byte budget of the day is used: nothing is taken until the next day.
    OverBudget,
    /// Its time is over.
    Expired,
    /// It is not run, with the reason.
    Rejected(String),
}

/// Cuts a reason to [`REASON_CHARS_MAX`].
pub fn reason(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}

/// When and by what a condition-based campaign was triggered: the body of a trigger section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerRecord {
    /// Time of the sample that triggered, microseconds since the Unix epoch, UTC.
    pub triggered_us: i64,
    /// Which trigger of the campaign since it runs, from 1.
    pub number: u64,
}
