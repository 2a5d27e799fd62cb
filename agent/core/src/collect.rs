//! A campaign at work: which samples it takes, and when its batch is closed.

use convoy_protocol::campaign::{BATCH_SAMPLES_MAX, Campaign, Collection, pattern_matches};
use convoy_protocol::expression::Expression;
use convoy_protocol::id::{CampaignId, Lane};
use convoy_protocol::manifest::{Manifest, SignalDef, SignalIndex};
use convoy_protocol::report::CampaignStatus;

use crate::batch::{Batch, ClosedBatch};
use crate::budget::{Budget, Spending};
use crate::condition::{Condition, value_at_path};
use crate::decoder::{RawValue, Row};
use crate::trigger::Trigger;

/// A signal that the campaign does not take.
const NOT_SELECTED: i64 = -1;
/// No sample was taken yet.
const NEVER: i64 = i64::MIN;

/// What a campaign takes of one signal.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Microseconds, or [`NOT_SELECTED`].
    period_us: i64,
    deadband: f64,
    on_change: bool,
}

const NO_RULE: Rule = Rule { period_us: NOT_SELECTED, deadband: 0.0, on_change: false };

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Microseconds that never go back: for timers.
    pub us: i64,
    /// Microseconds since the Unix epoch, UTC, as good as the vehicle knows them: for expiry and budgets.
    pub wall_us: i64,
}

/// One campaign, compiled for one manifest, with its open batch.
#[derive(Debug)]
pub struct Collector {
    lane: Lane,
    campaign_id: CampaignId,
    /// A batch is closed this long after it was opened, at the latest.
    hold_us: i64,
    /// Its samples are less than this apart.
    span_us: i64,
    batch_samples: u32,
    expires_us: i64,
    is_expired: bool,
    /// By signal.
    rules: Vec<Rule>,
    /// By signal: time and value of the last sample taken.
    taken: Vec<(i64, RawValue)>,
    /// Every sample of every signal is taken: rows need no selection.
    takes_all: bool,
    trigger: Option<Trigger>,
    budget: Budget,
    batch: Batch,
    /// When the first sample came into the open batch.
    opened_us: i64,
    selected: Row,
}

impl Collector {
    /// Compiles a campaign that has no `Campaign::faults`; the first selector that matches a signal decides.
    ///
    /// # Errors
    /// Why the vehicle cannot run it: for people, and reported to the cloud.
    pub fn new(campaign: &Campaign, manifest: &Manifest) -> Result<Self, String> {
        let trigger = match &campaign.collection {
            Collection::TimeBased => None,
            Collection::ConditionBased(trigger) => {
                let program = Expression::parse(&trigger.condition).map_err(|error| error.to_string())?;
                Some(Trigger::new(Condition::new(program, manifest)?, trigger))
            }
        };
        let window_us = i64::from(campaign.window_ms) * 1_000;
        let (before_us, after_us) = trigger.as_ref().map_or((0, 0), Trigger::reach_us);
        let rules: Vec<Rule> =
            manifest.signals.iter().map(|signal| rule(campaign, manifest, signal)).collect();
        let every = |rule: &Rule| rule.period_us == 0 && rule.deadband == 0.0 && !rule.on_change;
        Ok(Self {
            lane: campaign.lane,
            campaign_id: campaign.id(),
            hold_us: window_us.max(after_us),
            // Both ends of what lies around a trigger belong to it.
            span_us: window_us.max(if before_us + after_us > 0 { before_us + after_us + 1 } else { 0 }),
            batch_samples: campaign.batch_samples.clamp(1, BATCH_SAMPLES_MAX),
            expires_us: campaign.expires_us.unwrap_or(i64::MAX),
            is_expired: false,
            takes_all: trigger.is_none() && rules.iter().all(every),
            taken: vec![(NEVER, RawValue::Raw(0)); rules.len()],
            batch: Batch::new(rules.len()),
            budget: Budget::new(campaign.bytes_per_day),
            rules,
            trigger,
            opened_us: 0,
            selected: Row::new(),
        })
    }

    /// The lane of its envelopes.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The campaign's content address.
    pub fn campaign_id(&self) -> CampaignId {
        self.campaign_id
    }

    /// Does it take the signal?
    pub fn selects(&self, signal: SignalIndex) -> bool {
        self.rules.get(signal.0 as usize).is_some_and(|rule| rule.period_us != NOT_SELECTED)
    }

    /// Must it hear the signal, to take it or to know its condition?
    pub fn needs(&self, signal: SignalIndex) -> bool {
        self.selects(signal) || self.trigger.as_ref().is_some_and(|trigger| trigger.uses(signal))
    }

    /// Signals of the manifest that the campaign takes.
    pub fn signals(&self) -> impl Iterator<Item = SignalIndex> + '_ {
        (0..)
            .map(SignalIndex)
            .zip(&self.rules)
            .filter(|(_, rule)| rule.period_us != NOT_SELECTED)
            .map(|(at, _)| at)
    }

    /// Its time is over.
    pub fn is_expired(&self) -> bool {
        self.is_expired
    }

    /// Bytes of its envelopes today, and the day; see [`Budget`].
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// As [`Collector::budget`], to be changed.
    pub fn budget_mut(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// How it does; `has_signals`: one of its signals was on the bus.
    pub fn status(&self, wall_us: i64, has_signals: bool) -> CampaignStatus {
        if self.is_expired {
            return CampaignStatus::Expired;
        }
        match self.budget.spending(wall_us) {
            Spending::Over => CampaignStatus::OverBudget,
            Spending::Near => CampaignStatus::Degraded,
            Spending::Free if self.signals().next().is_some() && !has_signals => {
                CampaignStatus::WaitingForSignals
            }
            Spending::Free => match &self.trigger {
                Some(trigger) if trigger.triggers() == 0 => CampaignStatus::WaitingForTrigger,
                _ => CampaignStatus::Active,
            },
        }
    }

    /// Takes what the campaign wants of a row; appends the batches that this closes, and returns the number of
    /// samples taken.
    pub fn handle_row(
        &mut self,
        now: Now,
        time_us: i64,
        row: &Row,
        manifest: &Manifest,
        closed: &mut Vec<ClosedBatch>,
    ) -> u32 {
        if self.is_expired {
            return 0;
        }
        let spending = self.budget.spending(now.wall_us);
        if self.takes_all && spending == Spending::Free {
            self.take(now, time_us, row, closed);
            return row.signals().len() as u32;
        }
        if spending == Spending::Over {
            self.budget.withhold(row.signals().iter().filter(|signal| self.selects(**signal)).count() as u64);
            return 0;
        }
        let mut selected = std::mem::take(&mut self.selected);
        selected.clear();
        for part in row.parts() {
            selected.append(part, |signal, value| self.is_due(signal, value, time_us, spending, manifest));
        }
        let taken = self.take_selected(now, time_us, (row, &selected), manifest, closed);
        self.selected = selected;
        taken
    }

    fn take_selected(
        &mut self,
        now: Now,
        time_us: i64,
        (row, selected): (&Row, &Row),
        manifest: &Manifest,
        closed: &mut Vec<ClosedBatch>,
    ) -> u32 {
        let Some(mut trigger) = self.trigger.take() else {
            self.take(now, time_us, selected, closed);
            return selected.signals().len() as u32;
        };
        let mut taken = 0;
        let was_collecting = trigger.is_collecting();
        trigger.handle_row(time_us, row, manifest);
        if was_collecting != trigger.is_collecting() {
            closed.extend(self.batch.close());
        }
        if trigger.is_collecting() {
            self.batch.set_trigger(trigger.record());
            let mut before = Row::new();
            while let Some(at_us) = trigger.pop_before(time_us, &mut before) {
                self.take(now, at_us, &before, closed);
                taken += before.signals().len() as u32;
                self.batch.set_trigger(trigger.record());
            }
            self.take(now, time_us, selected, closed);
            // The row may be the first of another batch.
            if self.batch.samples() > 0 {
                self.batch.set_trigger(trigger.record());
            }
            taken += selected.signals().len() as u32;
        } else {
            trigger.push_before(time_us, selected);
        }
        self.trigger = Some(trigger);
        taken
    }

    /// Marks the signal as taken where it is due. A clock that steps back makes every signal due.
    fn is_due(
        &mut self,
        signal: SignalIndex,
        value: RawValue,
        time_us: i64,
        spending: Spending,
        manifest: &Manifest,
    ) -> bool {
        let at = signal.0 as usize;
        let (rule, (taken_us, taken)) = (self.rules[at], self.taken[at]);
        if rule.period_us == NOT_SELECTED {
            return false;
        }
        let period_us = rule.period_us.max(spending.period_us_min());
        let is_first = taken_us == NEVER || time_us < taken_us;
        let in_time = time_us.saturating_sub(taken_us) >= period_us;
        let moved = || {
            rule.deadband == 0.0 || {
                let distance =
                    value_at_path(manifest, signal, value) - value_at_path(manifest, signal, taken);
                // What is no number is a change too.
                distance.is_nan() || distance.abs() >= rule.deadband
            }
        };
        let due = is_first || (in_time && (!rule.on_change || !is_same(value, taken)) && moved());
        if due {
            self.taken[at] = (time_us, value);
        }
        due
    }

    fn take(&mut self, now: Now, time_us: i64, row: &Row, closed: &mut Vec<ClosedBatch>) {
        if row.signals().is_empty() {
            return;
        }
        // A step of the clock in either direction ends the batch too: its times would be far apart.
        let span_us = self.span_us;
        let outside = |oldest_us: i64| time_us.saturating_sub(oldest_us).saturating_abs() >= span_us;
        let samples = self.batch.samples().saturating_add(row.signals().len() as u32);
        if self.batch.oldest_us().is_some_and(outside)
            || samples > self.batch_samples
            || self.batch.is_large()
        {
            closed.extend(self.batch.close());
        }
        if self.batch.samples() == 0 {
            self.opened_us = now.us;
        }
        for (signals, values) in row.parts() {
            self.batch.push(time_us, signals, values);
        }
        if self.batch.samples() >= self.batch_samples || self.span_us == 0 {
            closed.extend(self.batch.close());
        }
    }

    /// Samples in the open batch.
    pub fn open_samples(&self) -> u32 {
        self.batch.samples()
    }

    /// The open batch.
    pub fn batch_mut(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// When the open batch must be closed at the latest, or the campaign ends; `None` for never. `correction_us` is
    /// wall clock minus [`Now::us`].
    pub fn deadline_us(&self, correction_us: i64) -> Option<i64> {
        let expiry = (!self.is_expired && self.expires_us != i64::MAX)
            .then(|| self.expires_us.saturating_sub(correction_us));
        self.batch_deadline_us().into_iter().chain(expiry).min()
    }

    fn batch_deadline_us(&self) -> Option<i64> {
        (self.batch.samples() > 0).then(|| self.opened_us.saturating_add(self.hold_us))
    }

    /// Closes the open batch where its deadline has come, and ends the campaign where it expires.
    pub fn handle_timeout(&mut self, now: Now) -> Option<ClosedBatch> {
        self.opened_us = self.opened_us.min(now.us);
        let was_expired = self.is_expired;
        // A clock that was ahead for a while ends no campaign for good.
        self.is_expired = now.wall_us >= self.expires_us;
        if self.is_expired && !was_expired {
            return self.batch.close();
        }
        if self.batch_deadline_us()? <= now.us { self.batch.close() } else { None }
    }

    /// Closes the open batch.
    pub fn close(&mut self) -> Option<ClosedBatch> {
        self.batch.close()
    }
}

fn is_same(left: RawValue, right: RawValue) -> bool {
    match (left, right) {
        (RawValue::Raw(left), RawValue::Raw(right)) => left == right,
        (RawValue::F32(left), RawValue::F32(right)) => left.to_bits() == right.to_bits(),
        (RawValue::F64(left), RawValue::F64(right)) => left.to_bits() == right.to_bits(),
        _ => false,
    }
}

fn rule(campaign: &Campaign, manifest: &Manifest, signal: &SignalDef) -> Rule {
    let qualified = format!("{}.{}", manifest.message_of(signal), signal.name);
    let matches =
        |pattern: &str| pattern_matches(pattern, &signal.path) || pattern_matches(pattern, &qualified);
    let selector = campaign.signals.iter().find(|selector| matches(&selector.pattern));
    selector.filter(|selector| !selector.exclude).map_or(NO_RULE, |selector| Rule {
        period_us: i64::from(selector.period_ms) * 1_000,
        deadband: selector.deadband,
        on_change: selector.on_change,
    })
}
