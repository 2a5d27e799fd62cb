//! What a condition-based campaign collects: the time around its triggers.

use std::collections::VecDeque;

use convoy_protocol::campaign::{self, BEFORE_SAMPLES_MAX, TriggerMode};
use convoy_protocol::manifest::{Manifest, SignalIndex};
use convoy_protocol::report::TriggerRecord;

use crate::condition::Condition;
use crate::decoder::{RawValue, Row};

/// A condition, what it triggers, and the samples that wait for it.
#[derive(Debug, Clone)]
pub struct Trigger {
    condition: Condition,
    mode: TriggerMode,
    minimum_interval_us: i64,
    before_us: i64,
    after_us: i64,
    held: Option<bool>,
    triggers: u64,
    /// When samples began to be collected, and the latest trigger since.
    began_us: i64,
    last_us: Option<i64>,
    collecting: bool,
    /// Rows that wait, oldest first: time and number of samples.
    rows: VecDeque<(i64, usize)>,
    samples: VecDeque<(SignalIndex, RawValue)>,
}

impl Trigger {
    /// A trigger that has not triggered yet.
    pub fn new(condition: Condition, of: &campaign::Trigger) -> Self {
        Self {
            condition,
            mode: of.mode,
            minimum_interval_us: i64::from(of.minimum_interval_ms) * 1_000,
            before_us: i64::from(of.before_duration_ms) * 1_000,
            after_us: i64::from(of.after_duration_ms) * 1_000,
            held: None,
            triggers: 0,
            began_us: 0,
            last_us: None,
            collecting: false,
            rows: VecDeque::new(),
            samples: VecDeque::new(),
        }
    }

    /// How far samples are collected before and after, microseconds.
    pub fn reach_us(&self) -> (i64, i64) {
        (self.before_us, self.after_us)
    }

    /// Does its condition look at the signal?
    pub fn uses(&self, signal: SignalIndex) -> bool {
        self.condition.uses(signal)
    }

    /// Triggers so far.
    pub fn triggers(&self) -> u64 {
        self.triggers
    }

    /// Are the samples of the row that was taken last to be collected?
    pub fn is_collecting(&self) -> bool {
        self.collecting
    }

    /// The trigger that the present collection began with.
    pub fn record(&self) -> TriggerRecord {
        TriggerRecord { triggered_us: self.began_us, number: self.triggers }
    }

    /// Takes a row: judges the condition, and whether the row lies behind a trigger.
    pub fn handle_row(&mut self, time_us: i64, row: &Row, manifest: &Manifest) {
        let was_collecting = self.collecting;
        let is_near = |at_us: i64, us: i64| time_us.saturating_sub(at_us).saturating_abs() <= us;
        if let Some(holds) = self.condition.handle_row(time_us, row, manifest) {
            // What held before the first judgement is not known: true is then an edge, false is not.
            let held = self.held.replace(holds).unwrap_or(false);
            let is_edge = match self.mode {
                TriggerMode::WhileTrue => holds,
                TriggerMode::RisingEdge => holds && !held,
                TriggerMode::AnyEdge => holds != held,
            };
            let is_early = self.last_us.is_some_and(|last_us| {
                self.minimum_interval_us > 0 && is_near(last_us, self.minimum_interval_us - 1)
            });
            if is_edge && !is_early {
                self.last_us = Some(time_us);
                self.triggers += 1;
                if !was_collecting {
                    self.began_us = time_us;
                }
            }
        }
        self.collecting = self.last_us.is_some_and(|last_us| is_near(last_us, self.after_us));
    }

    /// Keeps samples that a trigger may want, for the time before it.
    pub fn push_before(&mut self, time_us: i64, row: &Row) {
        if self.before_us == 0 || row.signals().is_empty() {
            return;
        }
        self.rows.push_back((time_us, row.signals().len()));
        self.samples.extend(row.iter());
        let is_old = |at_us: i64| time_us.saturating_sub(at_us).saturating_abs() > self.before_us;
        while let Some(&(at_us, samples)) = self.rows.front() {
            if !is_old(at_us) && self.samples.len() <= BEFORE_SAMPLES_MAX {
                break;
            }
            self.rows.pop_front();
            self.samples.drain(..samples);
        }
    }

    /// The next row that waited, put into `row`, and its time; rows too far from `time_us` are skipped.
    pub fn pop_before(&mut self, time_us: i64, row: &mut Row) -> Option<i64> {
        loop {
            let (at_us, samples) = self.rows.pop_front()?;
            let is_near = time_us.saturating_sub(at_us).saturating_abs() <= self.before_us;
            row.clear();
            for (signal, value) in self.samples.drain(..samples) {
                row.push(signal, value);
            }
            if is_near {
                return Some(at_us);
            }
        }
    }
}
