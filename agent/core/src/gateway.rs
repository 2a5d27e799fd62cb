//! The gateway: frames, downlink and time in; numbered envelopes out.

use std::sync::Arc;

use convoy_protocol::campaign::Campaign;
use convoy_protocol::checkin::{CheckIn, DropReport, VinCheck};
use convoy_protocol::desired::{DesiredError, DesiredState};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::{EnvelopeWriter, Header, SECTION_BYTES_MAX, SectionKind};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::id::{BootId, CampaignId, EnvelopeKey, Lane, VehicleId};
use convoy_protocol::manifest::{Manifest, SignalIndex};
use convoy_protocol::report::{Refusal, Report};
use convoy_protocol::time::ClockQuality;

use crate::batch::ClosedBatch;
use crate::campaigns::Campaigns;
use crate::collect::{Collector, Now};
use crate::decoder::{Decoder, Outcome, Row};
use crate::diagnosis::{self, AskedCodes, Diagnosis};
use crate::faults::FaultTracker;
use crate::frozen::Frozen;
use crate::journal::{BatchId, ChunkHeader, Recovered, chunk_record};
use crate::latest::Latest;
use crate::listen::{IsoTpIds, Listener, Message};
use crate::poll::{PollOptions, Poller};
use crate::vin::Vin;

mod asking;
mod counters;
mod outbox;
mod trouble_codes;

pub use counters::Counters;
use outbox::{Clock, Outbox, Samples};

/// Outputs that wait for [`Gateway::poll_output`] before frames are refused.
pub const OUTPUTS_MAX: usize = 1_024;
/// Drop reports in one envelope at most.
pub const DROPS_PER_ENVELOPE_MAX: usize = 1_000;
/// Shortest time between two snapshots, microseconds.
pub const SNAPSHOT_INTERVAL_US: i64 = 10_000_000;
/// How often the campaigns' statuses are looked at, microseconds: what changed is reported.
pub const REPORT_INTERVAL_US: i64 = 5_000_000;
/// Shortest time between two reports of which the second says nothing but that there is a connection again,
/// microseconds.
pub const REPORT_RECONNECT_INTERVAL_US: i64 = 30_000_000;
/// Shortest time between two reports that differ only in the numbers of signals seen, microseconds.
pub const REPORT_COUNTS_INTERVAL_US: i64 = 60_000_000;

const RECORDS_ZSTD_LEVEL: i32 = 3;
/// A manifest is sent once and kept for ever: worth more work.
const MANIFEST_ZSTD_LEVEL: i32 = 9;

/// Whose clock the times of frames are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameTimes {
    /// The gateway's: when the clock turns out to be wrong, they are wrong by the same and are put right with it.
    Live,
    /// A recording's: they stay as they are.
    Recorded,
}

/// What a gateway is told at its start.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The vehicle.
    pub vehicle_id: VehicleId,
    /// This life of the agent.
    pub boot_id: BootId,
    /// Campaigns of its own configuration, which run besides those of the cloud.
    pub campaigns: Vec<Campaign>,
    /// What the cloud wanted last.
    pub desired: Option<DesiredState>,
    /// The VIN of the vehicle that the agent was installed in.
    pub vin_expected: Option<Vin>,
    /// The cloud has the manifest already: it is not sent with the check-in.
    pub manifest_known: bool,
    /// Last sequence of each earlier boot and lane still on disk.
    pub tails: Vec<EnvelopeKey>,
    /// Batches that an earlier life left open; they are sent at once.
    pub recovered: Vec<Recovered>,
    /// The agent's version.
    pub agent_version: String,
    /// How the time passed as `now_us` is known.
    pub clock: ClockQuality,
    /// Wall clock minus monotonic clock, microseconds.
    pub monotonic_offset_us: i64,
    /// Whose times frames have.
    pub frame_times: FrameTimes,
    /// A sample is put into the journal this long after it was taken, microseconds, unless its batch was closed
    /// before; `None`: open batches are not journalled.
    pub journal_after_us: Option<i64>,
    /// What to ask, on each bus at most once. Empty: nothing is ever sent to a bus.
    pub polls: Vec<PollOptions>,
}

impl GatewayConfig {
    /// A first start, of which the cloud knows nothing: no VIN to compare, a clock that nobody vouches for, live
    /// frames, no journal.
    pub fn new(vehicle_id: VehicleId, boot_id: BootId, campaigns: Vec<Campaign>) -> Self {
        Self {
            vehicle_id,
            boot_id,
            campaigns,
            desired: None,
            vin_expected: None,
            manifest_known: false,
            tails: Vec::new(),
            recovered: Vec::new(),
            agent_version: String::new(),
            clock: ClockQuality::None,
            monotonic_offset_us: 0,
            frame_times: FrameTimes::Live,
            journal_after_us: None,
            polls: Vec::new(),
        }
    }
}

/// Something for the shell to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Put this envelope into the spool; the numbers of a lane come in order, without a hole.
    Envelope {
        /// Its identity within the vehicle.
        key: EnvelopeKey,
        /// Its bytes, at most `ENVELOPE_BYTES_MAX`.
        bytes: Vec<u8>,
        /// Samples in it.
        samples: u32,
        /// Its latest sample time, microseconds; `None` without samples.
        last_sample_us: Option<i64>,
        /// The journalled batch whose samples it holds, see [`crate::journal`].
        closes: Option<BatchId>,
    },
    /// Put this record into the journal: a part of an open batch, see [`crate::journal`].
    Chunk {
        /// The batch.
        batch: BatchId,
        /// The record.
        record: Vec<u8>,
        /// Samples in it.
        samples: u32,
    },
    /// Ask the vehicle: send this as a single frame of ISO-TP, or as a request of an adapter that does that itself.
    Request {
        /// The bus.
        bus: BusIndex,
        /// Whom to ask.
        id: CanId,
        /// Service and parameters, 1 to 7 bytes.
        payload: Vec<u8>,
    },
    /// Send this frame, which lets an ECU go on with its answer. It may not wait.
    FlowControl(CanFrame),
    /// What a frame or message said, for whoever watches, see [`Gateway::set_tap`].
    Tapped {
        /// When it was received, microseconds since the Unix epoch, UTC.
        time_us: i64,
        /// Its signals.
        row: Row,
    },
}

/// The in-vehicle gateway: a state machine without I/O and without a clock.
///
/// # Contract
///
/// - `now_us` is in microseconds and never goes back: the wall clock's time at the start, and from there on a
///   monotonic clock's. Where the wall clock turns out to be another, [`handle_clock`](Self::handle_clock) says by
///   how much: what was not sent yet is put right, and no timer notices.
/// - Frames carry their own times, which may be recorded ones and may step; samples keep those.
/// - After every `handle_*` and [`flush`](Self::flush), call [`poll_output`](Self::poll_output) until it returns
///   `None`, then [`poll_timeout`](Self::poll_timeout), and call [`handle_timeout`](Self::handle_timeout) when that
///   time has come, or earlier.
/// - Each call adds few outputs: a frame at most two batches a campaign, split where they are too large, and a DTC
///   and a check-in envelope. While [`OUTPUTS_MAX`] outputs wait, frames are refused and counted: a shell that
///   cannot store envelopes stops reading frames instead, and counts what its source then drops.
/// - What cannot be used is counted with its reason in [`counters`](Self::counters).
/// - An envelope that was handed out is forgotten here; sequences count from 0 for each lane of the boot id.
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    decoder: Arc<Decoder>,
    campaigns: Campaigns,
    desired: Option<u64>,
    desired_ids: Vec<CampaignId>,
    refused: Option<Refusal>,
    problems: Vec<String>,
    latest: Latest,
    row: Row,
    closed: Vec<ClosedBatch>,
    listener: Listener,
    faults: FaultTracker,
    /// When all known trouble codes were sent last.
    present_us: Option<i64>,
    asked_codes: AskedCodes,
    frozen: Frozen,
    pollers: Vec<Poller>,
    /// When they were asked last.
    polled_us: i64,
    /// The signal that tells the voltage at the vehicle's socket, where there is one.
    voltage: Option<SignalIndex>,
    is_tapped: bool,
    /// Other frames are needed than when they were asked for last.
    needs_changed: bool,
    vin: VinCheck,
    outbox: Outbox,
    batches: u64,
    /// When samples that are not journalled yet must be.
    journal_due_us: Option<i64>,
    snapshot_due_us: Option<i64>,
    snapshot_us: Option<i64>,
    reported: Report,
    reported_us: i64,
    /// Connected since the last report.
    reconnected: bool,
    report_due_us: i64,
    counters: Counters,
}

impl Gateway {
    /// A gateway whose first output is its check-in, with the manifest unless the cloud knows it.
    pub fn new(mut config: GatewayConfig, decoder: Arc<Decoder>, now_us: i64) -> Self {
        let clock = Clock {
            quality: config.clock,
            start_offset_us: config.monotonic_offset_us,
            correction_us: 0,
            frame_times: config.frame_times,
        };
        let recovered = std::mem::take(&mut config.recovered);
        let desired = config.desired.take();
        let polls = std::mem::take(&mut config.polls);
        let pollers = polls.into_iter().map(|poll| Poller::new(poll, now_us)).collect();
        let voltage = asking::voltage_signal(decoder.manifest());
        let mut gateway = Self {
            campaigns: Campaigns::default(),
            desired: desired.as_ref().map(|desired| desired.version),
            desired_ids: desired.as_ref().map(|desired| ids(&desired.campaigns)).unwrap_or_default(),
            refused: None,
            problems: Vec::new(),
            latest: Latest::new(decoder.manifest().signals.len()),
            outbox: Outbox::new(config.vehicle_id, config.boot_id, clock),
            config,
            decoder,
            row: Row::new(),
            closed: Vec::new(),
            listener: Listener::new(IsoTpIds::Known),
            faults: FaultTracker::new(),
            present_us: None,
            asked_codes: AskedCodes::default(),
            frozen: Frozen::new(),
            pollers,
            polled_us: now_us,
            voltage,
            is_tapped: false,
            needs_changed: true,
            vin: VinCheck::NotSeen,
            batches: 0,
            journal_due_us: None,
            snapshot_due_us: None,
            snapshot_us: None,
            reported: Report::default(),
            reported_us: now_us,
            reconnected: false,
            report_due_us: now_us.saturating_add(REPORT_INTERVAL_US),
            counters: Counters::default(),
        };
        gateway.swap(now_us, desired.map(|desired| desired.campaigns).unwrap_or_default());
        gateway.check_in(now_us, !gateway.config.manifest_known);
        recovered.into_iter().for_each(|batch| gateway.send_recovered(batch));
        gateway
    }

    /// Tells how the clock is known from now on, and what has to be added to `now_us` to have the wall clock's time.
    /// The cloud hears of a clock that became better or was put right by a second or more.
    pub fn handle_clock(&mut self, now_us: i64, quality: ClockQuality, correction_us: i64) {
        let clock = &mut self.outbox.clock;
        let by_us = correction_us.saturating_sub(clock.correction_us).saturating_abs();
        let is_news = quality != clock.quality || by_us >= 1_000_000;
        (clock.quality, clock.correction_us) = (quality, correction_us);
        if is_news {
            self.check_in(now_us, false);
        }
    }

    /// Takes a frame.
    pub fn handle_frame(&mut self, now_us: i64, frame: &CanFrame) {
        if self.outbox.len() >= OUTPUTS_MAX {
            self.counters.frames_refused += 1;
            return;
        }
        self.counters.frames += 1;
        let outcome = self.decoder.decode(frame, &mut self.row);
        self.collect(now_us, frame.timestamp_us, outcome);
        if !self.pollers.is_empty() {
            self.pollers_on(frame.bus).for_each(|poller| poller.handle_frame(now_us, frame));
        }
        self.asked_codes.handle_frame(frame);
        if let Some(diagnosis) = diagnosis::of_frame(frame) {
            self.diagnose(now_us, frame.timestamp_us, diagnosis);
        }
        if let Some(message) = self.listener.handle_frame(&self.decoder, frame) {
            let outcome = message.decode(&self.decoder, &mut self.row);
            // Most of ISO-TP is described by the frame, or not at all, and was counted with it.
            if outcome != Outcome::Unknown || matches!(message, Message::J1939(_)) {
                self.collect(now_us, frame.timestamp_us, outcome);
            }
            if let Some(diagnosis) = diagnosis::of_message(&message, &self.asked_codes) {
                self.diagnose(now_us, frame.timestamp_us, diagnosis);
            }
            self.handle_frozen(now_us, frame.timestamp_us, &message);
            if let Message::IsoTp(answer) = &message {
                self.pollers_on(frame.bus).for_each(|poller| poller.handle_message(now_us, answer));
            }
            self.listener.recycle(message);
        }
        if !self.pollers.is_empty() {
            self.ask(now_us);
        }
    }

    /// Takes a message of the cloud. Acknowledgements concern the spool and change nothing here; a desired state is
    /// checked by the shell first, see [`handle_desired`](Self::handle_desired).
    pub fn handle_downlink(&mut self, now_us: i64, down: &Down) {
        match down {
            Down::WantManifest(id)
                if *id == self.decoder.manifest_id() && self.outbox.len() < OUTPUTS_MAX =>
            {
                let encoding = self.decoder.manifest().encode();
                self.outbox.emit(Lane::Fast, now_us, |writer| {
                    writer.compressed(SectionKind::Manifest, &encoding, MANIFEST_ZSTD_LEVEL);
                });
            }
            Down::WantManifest(_) => self.counters.requests_refused += 1,
            Down::WantSnapshot => self.want_snapshot(now_us),
            Down::Stored(_) | Down::Quarantined(_) | Down::Busy { .. } | Down::Desired(_) => {}
        }
    }

    /// Takes what the cloud wants collected: compiled beside what runs, and swapped at once. The check-in that
    /// follows says what became of each campaign.
    ///
    /// # Errors
    /// Nothing was changed, and the cloud is told why.
    pub fn handle_desired(&mut self, now_us: i64, state: DesiredState) -> Result<(), DesiredError> {
        let fault = match self.desired {
            _ if state.vehicle_id != self.config.vehicle_id => Some(DesiredError::OtherVehicle),
            // The cloud does not know yet that we have it: it is told soon.
            Some(have) if have == state.version && self.desired_ids == ids(&state.campaigns) => {
                self.reconnected = true;
                return Ok(());
            }
            Some(have) if have >= state.version => Some(DesiredError::NotNewer { got: state.version, have }),
            _ => None,
        };
        if let Some(error) = fault {
            self.refuse_desired(now_us, Some(state.version), &error);
            return Err(error);
        }
        self.desired = Some(state.version);
        self.desired_ids = ids(&state.campaigns);
        self.refused = None;
        self.swap(now_us, state.campaigns);
        self.check_in(now_us, false);
        self.want_snapshot(now_us);
        Ok(())
    }

    /// Reports a desired state that was not taken.
    pub fn refuse_desired(&mut self, now_us: i64, version: Option<u64>, error: &DesiredError) {
        self.counters.desired_refused += 1;
        let refusal = Some(Refusal { version, reason: error.reason() });
        if self.refused != refusal {
            self.refused = refusal;
            self.check_in(now_us, false);
        }
    }

    /// Says what is wrong with the agent itself, a sentence each; the cloud hears of what changed.
    pub fn set_problems(&mut self, now_us: i64, problems: Vec<String>) {
        if self.problems != problems {
            self.problems = problems;
            self.check_in(now_us, false);
        }
    }

    /// The connection to the cloud stands: it gets the state of the vehicle.
    ///
    /// What the cloud sent while there was no connection is lost: it is told soon which campaigns run.
    pub fn handle_connected(&mut self, now_us: i64) {
        self.reconnected = true;
        self.want_snapshot(now_us);
    }

    /// Reports envelopes that the shell had to give up.
    pub fn handle_drops(&mut self, now_us: i64, drops: &[DropReport]) {
        for chunk in drops.chunks(DROPS_PER_ENVELOPE_MAX) {
            let body = to_postcard(&chunk);
            self.outbox.emit(Lane::Fast, now_us, |writer| {
                writer.compressed(SectionKind::Drops, &body, RECORDS_ZSTD_LEVEL);
            });
        }
    }

    /// Closes the batches whose time has come, and does what else is due.
    pub fn handle_timeout(&mut self, now_us: i64) {
        let now = self.now(now_us);
        for at in 0..self.campaigns.len() {
            if let Some(batch) =
                self.campaigns.collector_mut(at).and_then(|collector| collector.handle_timeout(now))
            {
                self.send(now, at, batch);
            }
        }
        if self.journal_due_us.is_some_and(|due_us| due_us <= now_us) {
            self.journal();
        }
        if self.snapshot_due_us.is_some_and(|due_us| due_us <= now_us) {
            self.snapshot(now_us);
        }
        if self.report_due_us <= now_us {
            self.report(now_us);
        }
        self.frozen.handle_timeout(now_us);
        self.send_frozen(now_us);
        self.ask(now_us);
    }

    /// Closes all batches.
    pub fn flush(&mut self, now_us: i64) {
        let now = self.now(now_us);
        for at in 0..self.campaigns.len() {
            if let Some(batch) = self.campaigns.collector_mut(at).and_then(Collector::close) {
                self.send(now, at, batch);
            }
        }
        self.journal_due_us = None;
        self.frozen.flush();
        self.send_frozen(now_us);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), microseconds in the time of `now_us`.
    pub fn poll_timeout(&self) -> Option<i64> {
        let correction_us = self.outbox.clock.correction_us;
        let batches =
            self.campaigns.collectors().filter_map(|collector| collector.deadline_us(correction_us));
        let own =
            [self.journal_due_us, self.snapshot_due_us, Some(self.report_due_us), self.frozen.poll_timeout()];
        let polls = self.pollers.iter().filter_map(|poller| poller.poll_timeout(self.polled_us));
        batches.chain(own.into_iter().flatten()).chain(polls).min()
    }

    /// Samples in open batches.
    pub fn open_samples(&self) -> u64 {
        self.campaigns.collectors().map(|collector| u64::from(collector.open_samples())).sum()
    }

    /// What was seen and done so far.
    pub fn counters(&self) -> Counters {
        let (tp, isotp) = (self.listener.tp_counters(), self.listener.isotp_counters());
        Counters {
            envelopes: self.outbox.envelopes,
            envelope_bytes: self.outbox.envelope_bytes,
            samples_too_large: self.outbox.samples_too_large,
            samples_over_budget: self.campaigns.collectors().map(|one| one.budget().withheld()).sum(),
            tp_messages: tp.messages,
            tp_orphans: tp.orphans,
            tp_aborted: tp.aborted,
            tp_malformed: tp.malformed,
            isotp_messages: isotp.messages,
            isotp_orphans: isotp.orphans,
            isotp_aborted: isotp.aborted,
            isotp_malformed: isotp.malformed,
            dtc_reporters_refused: self.faults.refused(),
            frozen_dropped: self.frozen.counters().dropped(),
            ..self.counters
        }
    }

    /// What became of the VIN on the bus. Once it differed it stays so.
    pub fn vin_check(&self) -> VinCheck {
        self.vin
    }

    /// The campaigns, the most important first.
    pub fn campaigns(&self) -> &Campaigns {
        &self.campaigns
    }

    /// As [`Gateway::campaigns`], for the shell to go on with budgets that an earlier life used.
    pub fn campaigns_mut(&mut self) -> &mut Campaigns {
        &mut self.campaigns
    }

    /// Every campaign with status and reason, as the cloud is told.
    pub fn current_report(&self, now_us: i64) -> Report {
        let wall_us = self.outbox.clock.wall_us(now_us);
        Report {
            version: self.desired,
            refused: self.refused.clone(),
            campaigns: self.campaigns.report(wall_us, self.decoder.manifest(), &self.latest),
            problems: self.problems.clone(),
        }
    }

    fn now(&self, now_us: i64) -> Now {
        Now { us: now_us, wall_us: self.outbox.clock.wall_us(now_us) }
    }

    fn swap(&mut self, now_us: i64, desired: Vec<Campaign>) {
        self.needs_changed = true;
        let wanted_codes = self.campaigns.want_trouble_codes();
        let wanted = self.config.campaigns.iter().cloned().chain(desired).collect();
        let mut ended = Vec::new();
        self.campaigns.swap(wanted, self.decoder.manifest(), |collector, batch| {
            ended.push((collector.lane(), collector.campaign_id(), batch));
        });
        for (lane, campaign_id, batch) in ended {
            self.send_batch(lane, campaign_id, batch);
        }
        if !wanted_codes && self.campaigns.want_trouble_codes() {
            self.send_all_known(now_us);
        }
    }

    fn collect(&mut self, now_us: i64, time_us: i64, outcome: Outcome) {
        match outcome {
            Outcome::Decoded => self.counters.frames_decoded += 1,
            Outcome::Unknown => self.counters.unknown += 1,
            Outcome::MuxUnmatched => self.counters.mux_unmatched += 1,
            Outcome::TooShort => self.counters.too_short += 1,
            Outcome::Part => self.counters.parts += 1,
        }
        if !outcome.has_row() {
            return;
        }
        self.counters.not_available += u64::from(self.row.not_available());
        self.latest.handle_row(time_us, &self.row);
        if !self.pollers.is_empty()
            && let Some(voltage) = self.voltage
        {
            self.hear_voltage(now_us, voltage);
        }
        let now = self.now(now_us);
        if self.is_tapped {
            let time_us = time_us.saturating_add(self.outbox.clock.frame_correction_us());
            self.outbox.push(Output::Tapped { time_us, row: self.row.clone() });
        }
        let mut taken_in_all = 0;
        for at in 0..self.campaigns.len() {
            let Some(collector) = self.campaigns.collector_mut(at) else { continue };
            let manifest = self.decoder.manifest();
            taken_in_all += collector.handle_row(now, time_us, &self.row, manifest, &mut self.closed);
            if !self.closed.is_empty() {
                let closed = std::mem::take(&mut self.closed);
                closed.into_iter().for_each(|batch| self.send(now, at, batch));
            }
        }
        self.counters.samples += u64::from(taken_in_all);
        if taken_in_all > 0
            && let Some(after_us) = self.config.journal_after_us
        {
            self.journal_due_us.get_or_insert(now_us.saturating_add(after_us));
        }
    }

    fn diagnose(&mut self, now_us: i64, time_us: i64, diagnosis: Diagnosis) {
        match diagnosis {
            Diagnosis::Vin(vin) => self.handle_vin(now_us, vin),
            Diagnosis::Malformed => self.counters.dtc_malformed += 1,
            Diagnosis::Faults(list) => self.handle_faults(now_us, time_us, &list),
        }
    }

    /// Compares; the cloud hears of the first result, and of a vehicle that turns out to be another.
    fn handle_vin(&mut self, now_us: i64, vin: Vin) {
        let check = match self.config.vin_expected {
            None => VinCheck::NotConfigured,
            Some(expected) if expected == vin => VinCheck::Matches,
            Some(_) => VinCheck::Differs,
        };
        if check != self.vin && self.vin != VinCheck::Differs {
            self.vin = check;
            self.check_in(now_us, false);
        }
    }

    fn check_in(&mut self, now_us: i64, with_manifest: bool) {
        self.reported = self.current_report(now_us);
        self.reported_us = now_us;
        self.reconnected = false;
        let report = to_postcard(&self.reported);
        let body = to_postcard(&CheckIn {
            agent_version: self.config.agent_version.clone(),
            manifest_id: self.decoder.manifest_id(),
            campaigns: self.campaigns.collectors().map(Collector::campaign_id).collect(),
            tails: self.config.tails.clone(),
            vin: self.vin,
        });
        let manifest = with_manifest.then(|| self.decoder.manifest().encode());
        let check_in = |writer: &mut EnvelopeWriter| {
            writer.compressed(SectionKind::CheckIn, &body, RECORDS_ZSTD_LEVEL);
            writer.compressed(SectionKind::Report, &report, RECORDS_ZSTD_LEVEL);
        };
        // Together where they fit; `dbc::load` made sure that the manifest alone does.
        let both = |writer: &mut EnvelopeWriter| {
            check_in(writer);
            if let Some(manifest) = &manifest {
                writer.compressed(SectionKind::Manifest, manifest, MANIFEST_ZSTD_LEVEL);
            }
        };
        if self.outbox.emit(Lane::Fast, now_us, both) {
            return;
        }
        self.outbox.emit(Lane::Fast, now_us, check_in);
        if let Some(manifest) = manifest {
            self.outbox.emit(Lane::Fast, now_us, |writer| {
                writer.compressed(SectionKind::Manifest, &manifest, MANIFEST_ZSTD_LEVEL);
            });
        }
    }

    /// Checks in again where a status changed, or, less often, the number of signals seen.
    fn report(&mut self, now_us: i64) {
        self.report_due_us = now_us.saturating_add(REPORT_INTERVAL_US);
        let report = self.current_report(now_us);
        let statuses = |report: &Report| {
            report.campaigns.iter().map(|campaign| campaign.status.clone()).collect::<Vec<_>>()
        };
        let since_us = now_us.saturating_sub(self.reported_us);
        let counts_due = since_us >= REPORT_COUNTS_INTERVAL_US;
        let reconnect_due = self.reconnected && since_us >= REPORT_RECONNECT_INTERVAL_US;
        if reconnect_due
            || statuses(&report) != statuses(&self.reported)
            || (counts_due && report != self.reported)
        {
            self.check_in(now_us, false);
        }
    }

    fn want_snapshot(&mut self, now_us: i64) {
        let earliest_us =
            self.snapshot_us.map_or(now_us, |last_us| last_us.saturating_add(SNAPSHOT_INTERVAL_US));
        if earliest_us <= now_us {
            self.snapshot(now_us);
        } else {
            self.snapshot_due_us = Some(earliest_us);
        }
    }

    /// The last value of every signal that a campaign takes, and the trouble codes that are there. Nothing is sent where
    /// nothing was seen.
    fn snapshot(&mut self, now_us: i64) {
        self.snapshot_due_us = None;
        if self.send_present(now_us) {
            self.snapshot_us = Some(now_us);
        }
        let columns = self.latest.columns(|signal| self.campaigns.select(signal));
        if columns.groups.is_empty() {
            return;
        }
        self.snapshot_us = Some(now_us);
        self.counters.snapshots += 1;
        let base_us = columns.span_us().map_or(now_us, |(first_us, _)| first_us);
        self.outbox.send(Samples {
            kind: SectionKind::CompactSnapshot,
            lane: Lane::Fast,
            manifest_id: self.decoder.manifest_id(),
            campaign_id: None,
            base_us,
            columns,
            trigger: None,
            closes: None,
        });
    }

    /// Puts what is not in the journal yet into it.
    fn journal(&mut self) {
        self.journal_due_us = None;
        let clock = self.outbox.clock;
        for collector in self.campaigns.collectors_mut() {
            let (lane, campaign_id) = (collector.lane(), collector.campaign_id());
            let batch = collector.batch_mut();
            let samples = batch.unjournalled();
            if samples == 0 {
                continue;
            }
            let number = batch.number_or(|| {
                self.batches += 1;
                self.batches
            });
            let header = ChunkHeader {
                batch: BatchId { boot_id: self.config.boot_id, number },
                part: batch.chunks(),
                lane,
                campaign_id,
                manifest_id: self.decoder.manifest_id(),
                clock: clock.quality,
                monotonic_offset_us: clock.start_offset_us.saturating_add(clock.correction_us),
                correction_us: clock.frame_correction_us(),
                trigger: batch.trigger(),
            };
            let record = chunk_record(&header, &batch.take_unjournalled());
            self.outbox.push_chunk(header.batch, record, samples);
        }
    }

    fn send(&mut self, now: Now, at: usize, batch: ClosedBatch) {
        let Some(collector) = self.campaigns.collector_mut(at) else { return };
        let (lane, campaign_id) = (collector.lane(), collector.campaign_id());
        let bytes = self.send_batch(lane, campaign_id, batch);
        if let Some(collector) = self.campaigns.collector_mut(at) {
            collector.budget_mut().spend(now.wall_us, bytes);
        }
    }

    fn send_batch(&mut self, lane: Lane, campaign_id: CampaignId, batch: ClosedBatch) -> u64 {
        let closes = batch.number.map(|number| BatchId { boot_id: self.config.boot_id, number });
        self.outbox.send(Samples {
            kind: SectionKind::CompactSamples,
            lane,
            manifest_id: self.decoder.manifest_id(),
            campaign_id: Some(campaign_id),
            base_us: batch.base_us,
            columns: batch.columns,
            trigger: batch.trigger,
            closes,
        })
    }

    /// Sends a batch that an earlier life of the agent left open, with its times as right as they were known then.
    fn send_recovered(&mut self, batch: Recovered) {
        let Recovered { header, mut columns } = batch;
        self.counters.samples_recovered += columns.samples() as u64;
        let correct = |us: i64| us.saturating_add(header.correction_us);
        for time_us in columns.groups.iter_mut().flat_map(|group| &mut group.times_us) {
            *time_us = correct(*time_us);
        }
        let trigger = header.trigger.map(|mut trigger| {
            trigger.triggered_us = correct(trigger.triggered_us);
            trigger
        });
        let clock = self.outbox.clock;
        self.outbox.clock.quality = header.clock;
        self.outbox.clock.start_offset_us = header.monotonic_offset_us;
        self.outbox.send_as_they_are(Samples {
            kind: SectionKind::CompactSamples,
            lane: header.lane,
            manifest_id: header.manifest_id,
            campaign_id: Some(header.campaign_id),
            base_us: columns.span_us().map_or(0, |(first_us, _)| first_us),
            columns,
            trigger,
            closes: Some(header.batch),
        });
        self.outbox.clock = clock;
    }
}

fn to_postcard(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("section bodies are plain data")
}

/// Does an envelope hold the manifest, and a reader its encoding?
pub(crate) fn manifest_fits(manifest: &Manifest) -> bool {
    let encoding = manifest.encode();
    let header = Header {
        vehicle_id: VehicleId([0xFF; 16]),
        boot_id: BootId { counter: u32::MAX, spool: u64::MAX },
        lane: Lane::Fast,
        sequence: u64::MAX,
        base_us: i64::MAX,
        monotonic_offset_us: i64::MAX,
        clock: ClockQuality::None,
        manifest_id: None,
        campaign_id: None,
    };
    let mut writer = EnvelopeWriter::new(&header);
    writer.compressed(SectionKind::Manifest, &encoding, MANIFEST_ZSTD_LEVEL);
    encoding.len() <= SECTION_BYTES_MAX && writer.finish().is_ok()
}

fn ids(campaigns: &[Campaign]) -> Vec<CampaignId> {
    campaigns.iter().map(Campaign::id).collect()
}
