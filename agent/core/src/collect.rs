//! Campaigns at work: which samples a campaign takes, and when its batch is closed.

use convoy_protocol::campaign::{BATCH_SAMPLES_MAX, Campaign, pattern_matches};
use convoy_protocol::id::{CampaignId, Lane};
use convoy_protocol::manifest::{Manifest, SignalIndex};

use crate::batch::{Batch, ClosedBatch};
use crate::decoder::Row;

/// A signal that the campaign does not take.
const NOT_SELECTED: i64 = -1;
/// No sample was taken yet.
const NEVER: i64 = i64::MIN;

/// One campaign, compiled for one manifest, with its open batch.
#[derive(Debug)]
pub struct Collector {
    lane: Lane,
    campaign_id: CampaignId,
    window_us: i64,
    batch_samples: u32,
    /// By signal: its period in microseconds, or [`NOT_SELECTED`].
    periods_us: Vec<i64>,
    /// By signal: time of the last sample taken.
    taken_us: Vec<i64>,
    /// Every sample of every signal is taken: rows need no selection.
    takes_all: bool,
    batch: Batch,
    /// When the first sample came into the open batch.
    opened_us: i64,
    selected: Row,
}

impl Collector {
    /// Compiles a campaign that has no `Campaign::faults`; the first selector that matches a signal decides.
    pub fn new(campaign: &Campaign, manifest: &Manifest) -> Self {
        let period_us = |signal| {
            let signal: &convoy_protocol::manifest::SignalDef = signal;
            let qualified = format!("{}.{}", manifest.message_of(signal), signal.name);
            let matches = |pattern: &str| {
                pattern_matches(pattern, &signal.path) || pattern_matches(pattern, &qualified)
            };
            let selector = campaign.signals.iter().find(|selector| matches(&selector.pattern));
            selector.map_or(NOT_SELECTED, |selector| i64::from(selector.period_ms) * 1_000)
        };
        let periods_us: Vec<i64> = manifest.signals.iter().map(period_us).collect();
        Self {
            lane: campaign.lane,
            campaign_id: campaign.id(),
            window_us: i64::from(campaign.window_ms) * 1_000,
            batch_samples: campaign.batch_samples.clamp(1, BATCH_SAMPLES_MAX),
            takes_all: periods_us.iter().all(|period_us| *period_us == 0),
            taken_us: vec![NEVER; periods_us.len()],
            batch: Batch::new(periods_us.len()),
            periods_us,
            opened_us: 0,
            selected: Row::new(),
        }
    }

    /// The lane of its envelopes.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The campaign's content address.
    pub fn campaign_id(&self) -> CampaignId {
        self.campaign_id
    }

    /// Signals of the manifest that the campaign takes.
    pub fn signals(&self) -> usize {
        self.periods_us.iter().filter(|period_us| **period_us != NOT_SELECTED).count()
    }

    /// Takes what the campaign wants of a row; appends the batches that this closes, and returns the number of
    /// samples taken.
    pub fn handle_row(&mut self, now_us: i64, time_us: i64, row: &Row, closed: &mut Vec<ClosedBatch>) -> u32 {
        if self.takes_all {
            self.take(now_us, time_us, row, closed);
            return row.signals().len() as u32;
        }
        let mut selected = std::mem::take(&mut self.selected);
        selected.clear();
        for part in row.parts() {
            selected.append(part, |signal| self.is_due(signal, time_us));
        }
        self.take(now_us, time_us, &selected, closed);
        let taken = selected.signals().len() as u32;
        self.selected = selected;
        taken
    }

    /// Marks the signal as taken where it is due. A clock that steps back makes every signal due.
    fn is_due(&mut self, signal: SignalIndex, time_us: i64) -> bool {
        let at = signal.0 as usize;
        let (period_us, taken_us) = (self.periods_us[at], self.taken_us[at]);
        let due = period_us != NOT_SELECTED
            && (taken_us == NEVER || time_us < taken_us || time_us.saturating_sub(taken_us) >= period_us);
        if due {
            self.taken_us[at] = time_us;
        }
        due
    }

    fn take(&mut self, now_us: i64, time_us: i64, row: &Row, closed: &mut Vec<ClosedBatch>) {
        if row.signals().is_empty() {
            return;
        }
        // A step of the clock in either direction ends the batch too: its times would be far apart.
        let outside = |oldest_us: i64| time_us.saturating_sub(oldest_us).saturating_abs() >= self.window_us;
        let samples = self.batch.samples().saturating_add(row.signals().len() as u32);
        if self.batch.oldest_us().is_some_and(outside) || samples > self.batch_samples {
            closed.extend(self.batch.close());
        }
        if self.batch.samples() == 0 {
            self.opened_us = now_us;
        }
        for (signals, values) in row.parts() {
            self.batch.push(time_us, signals, values);
        }
        if self.batch.samples() >= self.batch_samples || self.window_us == 0 {
            closed.extend(self.batch.close());
        }
    }

    /// Samples in the open batch.
    pub fn open_samples(&self) -> u32 {
        self.batch.samples()
    }

    /// When the open batch must be closed at the latest; `None` without one.
    pub fn deadline_us(&self) -> Option<i64> {
        (self.batch.samples() > 0).then(|| self.opened_us.saturating_add(self.window_us))
    }

    /// Closes the open batch where its deadline has come. After a step back of the clock its time starts anew.
    pub fn handle_timeout(&mut self, now_us: i64) -> Option<ClosedBatch> {
        self.opened_us = self.opened_us.min(now_us);
        if self.deadline_us()? <= now_us { self.batch.close() } else { None }
    }

    /// Closes the open batch.
    pub fn close(&mut self) -> Option<ClosedBatch> {
        self.batch.close()
    }
}
