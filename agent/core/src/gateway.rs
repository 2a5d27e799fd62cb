//! The gateway: frames, downlink and time in; numbered envelopes out.

use std::collections::VecDeque;
use std::sync::Arc;

use convoy_protocol::campaign::Campaign;
use convoy_protocol::checkin::{CheckIn, DropReport, VinCheck};
use convoy_protocol::columns::Columns;
use convoy_protocol::downlink::Down;
use convoy_protocol::dtc::{Dtc, DtcRecord};
use convoy_protocol::envelope::{EnvelopeError, EnvelopeWriter, Header, SECTION_BYTES_MAX, SectionKind};
use convoy_protocol::frame::{CanFrame, CanId};
use convoy_protocol::id::{BootId, CampaignId, EnvelopeKey, Lane, ManifestId, VehicleId};
use convoy_protocol::manifest::Manifest;
use convoy_protocol::time::{ClockQuality, TimeUnit};

use crate::batch::{ClosedBatch, split};
use crate::collect::Collector;
use crate::decoder::{Decoder, Outcome, Row};
use crate::faults::{ActiveDtc, FaultTracker, Reporter};
use crate::isotp::IsoTpAssembler;
use crate::j1939::{Dm1, J1939Id, Lamp, Pgn, TpAssembler, TpMessage};
use crate::obd::{self, ObdResponse};
use crate::vin::Vin;

/// Outputs that wait for [`Gateway::poll_output`] before frames are refused.
pub const OUTPUTS_MAX: usize = 1_024;
/// Drop reports in one envelope at most.
pub const DROPS_PER_ENVELOPE_MAX: usize = 1_000;

const SAMPLES_ZSTD_LEVEL: i32 = 3;
/// A manifest is sent once and kept for ever: worth more work.
const MANIFEST_ZSTD_LEVEL: i32 = 9;

/// What a gateway is told at its start.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The vehicle.
    pub vehicle_id: VehicleId,
    /// This life of the agent.
    pub boot_id: BootId,
    /// What to collect; each without `Campaign::faults`.
    pub campaigns: Vec<Campaign>,
    /// The VIN of the vehicle that the agent was installed in.
    pub vin_expected: Option<Vin>,
    /// The cloud has the manifest already: it is not sent with the check-in.
    pub manifest_known: bool,
    /// Last sequence of each earlier boot and lane still on disk.
    pub tails: Vec<EnvelopeKey>,
    /// The agent's version.
    pub agent_version: String,
    /// How the time passed as `now_us` is known.
    pub clock: ClockQuality,
    /// Wall clock minus monotonic clock, microseconds.
    pub monotonic_offset_us: i64,
}

/// Something for the shell to do.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    },
}

/// What a gateway has seen and done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Frames taken.
    pub frames: u64,
    /// Frames not looked at because [`OUTPUTS_MAX`] outputs were waiting.
    pub frames_refused: u64,
    /// Frames and transport messages that a DBC message was found for and decoded.
    pub frames_decoded: u64,
    /// Frames and transport messages without a DBC message.
    pub unknown: u64,
    /// Dropped: a multiplexer value that no signal is defined for.
    pub mux_unmatched: u64,
    /// Dropped: shorter than the DBC message.
    pub too_short: u64,
    /// Values dropped as not available or error by SAE J1939-71.
    pub not_available: u64,
    /// Samples that campaigns took; one that two campaigns take counts twice.
    pub samples: u64,
    /// Envelopes made.
    pub envelopes: u64,
    /// Bytes of these envelopes.
    pub envelope_bytes: u64,
    /// Samples dropped because a single one did not fit an envelope.
    pub samples_too_large: u64,
    /// Requests of the cloud that could not be met: another manifest, or too many outputs waiting.
    pub requests_refused: u64,
    /// J1939 transport messages put together.
    pub tp_messages: u64,
    /// J1939 data packets outside a session.
    pub tp_orphans: u64,
    /// J1939 sessions given up.
    pub tp_aborted: u64,
    /// J1939 announcements that make no sense.
    pub tp_malformed: u64,
    /// ISO-TP messages of ECUs.
    pub isotp_messages: u64,
    /// ISO-TP consecutive frames outside a message.
    pub isotp_orphans: u64,
    /// ISO-TP messages given up.
    pub isotp_aborted: u64,
    /// ISO-TP frames that make no sense.
    pub isotp_malformed: u64,
    /// Trouble codes opened or closed.
    pub dtc_changes: u64,
    /// J1939 codes not reported because their SPN is in an old form that cannot be read safely.
    pub dtc_old_conversion: u64,
    /// DM1 messages too short to read.
    pub dtc_malformed: u64,
    /// Lists of codes not looked at because too many controllers report.
    pub dtc_reporters_refused: u64,
}

/// The in-vehicle gateway: a state machine without I/O and without a clock.
///
/// # Contract
///
/// - `now_us` is wall time in microseconds since the Unix epoch, as good as the shell knows it; it may step.
///   Frames carry their own times, which may be recorded ones; samples keep those.
/// - After every `handle_*` and [`flush`](Self::flush), call [`poll_output`](Self::poll_output) until it returns
///   `None`, then [`poll_timeout`](Self::poll_timeout), and call [`handle_timeout`](Self::handle_timeout) when that
///   time has come, or earlier.
/// - Each call adds few outputs: a frame at most two batches a campaign, split where they are too large, and a DTC
///   and a check-in envelope. While [`OUTPUTS_MAX`] outputs wait, frames are refused and counted: a shell that
///   cannot store envelopes stops reading frames instead, and counts what its source then drops.
/// - Nothing returns an error: what cannot be used is counted with its reason in [`counters`](Self::counters).
/// - An envelope that was handed out is forgotten here; sequences count from 0 for each lane of the boot id.
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    decoder: Arc<Decoder>,
    collectors: Vec<Collector>,
    row: Row,
    closed: Vec<ClosedBatch>,
    tp: TpAssembler,
    isotp: IsoTpAssembler,
    faults: FaultTracker,
    vin: VinCheck,
    /// Next sequence of the fast and the bulk lane.
    sequences: [u64; 2],
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Gateway {
    /// A gateway whose first output is its check-in, with the manifest unless the cloud knows it.
    pub fn new(config: GatewayConfig, decoder: Arc<Decoder>, now_us: i64) -> Self {
        let compile = |campaign| Collector::new(campaign, decoder.manifest());
        let mut gateway = Self {
            collectors: config.campaigns.iter().map(compile).collect(),
            config,
            decoder,
            row: Row::new(),
            closed: Vec::new(),
            tp: TpAssembler::new(),
            isotp: IsoTpAssembler::new(),
            faults: FaultTracker::new(),
            vin: VinCheck::NotSeen,
            sequences: [0; 2],
            outputs: VecDeque::new(),
            counters: Counters::default(),
        };
        gateway.check_in(now_us, !gateway.config.manifest_known);
        gateway
    }

    /// Tells how the clock is known from now on, and wall clock minus monotonic clock in microseconds.
    pub fn set_clock(&mut self, clock: ClockQuality, monotonic_offset_us: i64) {
        self.config.clock = clock;
        self.config.monotonic_offset_us = monotonic_offset_us;
    }

    /// Takes a frame.
    pub fn handle_frame(&mut self, now_us: i64, frame: &CanFrame) {
        if self.outputs.len() >= OUTPUTS_MAX {
            self.counters.frames_refused += 1;
            return;
        }
        self.counters.frames += 1;
        let outcome = self.decoder.decode(frame, &mut self.row);
        self.collect(now_us, frame.timestamp_us, outcome);
        match frame.id {
            CanId::Extended(id) => self.handle_j1939(now_us, frame, id),
            id if obd::is_response_id(id) => self.handle_obd(now_us, frame),
            CanId::Standard(_) => {}
        }
    }

    /// Takes a message of the cloud. Acknowledgements concern the spool and change nothing here.
    pub fn handle_downlink(&mut self, now_us: i64, down: &Down) {
        match down {
            Down::WantManifest(id)
                if *id == self.decoder.manifest_id() && self.outputs.len() < OUTPUTS_MAX =>
            {
                let encoding = self.decoder.manifest().encode();
                self.emit(Lane::Fast, now_us, |writer| {
                    writer.compressed(SectionKind::Manifest, &encoding, MANIFEST_ZSTD_LEVEL);
                });
            }
            Down::WantManifest(_) => self.counters.requests_refused += 1,
            Down::Stored(_) | Down::Quarantined(_) | Down::Busy { .. } => {}
        }
    }

    /// Reports envelopes that the shell had to give up.
    pub fn handle_drops(&mut self, now_us: i64, drops: &[DropReport]) {
        for chunk in drops.chunks(DROPS_PER_ENVELOPE_MAX) {
            let body = to_postcard(&chunk);
            self.emit(Lane::Fast, now_us, |writer| {
                writer.compressed(SectionKind::Drops, &body, SAMPLES_ZSTD_LEVEL);
            });
        }
    }

    /// Closes the batches whose time has come.
    pub fn handle_timeout(&mut self, now_us: i64) {
        for at in 0..self.collectors.len() {
            if let Some(batch) = self.collectors[at].handle_timeout(now_us) {
                self.send(at, batch);
            }
        }
    }

    /// Closes all batches.
    pub fn flush(&mut self, _now_us: i64) {
        for at in 0..self.collectors.len() {
            if let Some(batch) = self.collectors[at].close() {
                self.send(at, batch);
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), microseconds in the time of `now_us`.
    pub fn poll_timeout(&self) -> Option<i64> {
        self.collectors.iter().filter_map(Collector::deadline_us).min()
    }

    /// Samples in open batches: what a crash would lose.
    pub fn open_samples(&self) -> u64 {
        self.collectors.iter().map(|collector| u64::from(collector.open_samples())).sum()
    }

    /// What was seen and done so far.
    pub fn counters(&self) -> Counters {
        let (tp, isotp) = (self.tp.counters(), self.isotp.counters());
        Counters {
            tp_messages: tp.messages,
            tp_orphans: tp.orphans,
            tp_aborted: tp.aborted,
            tp_malformed: tp.malformed,
            isotp_messages: isotp.messages,
            isotp_orphans: isotp.orphans,
            isotp_aborted: isotp.aborted,
            isotp_malformed: isotp.malformed,
            dtc_reporters_refused: self.faults.refused(),
            ..self.counters
        }
    }

    /// What became of the VIN on the bus. Once it differed it stays so.
    pub fn vin_check(&self) -> VinCheck {
        self.vin
    }

    /// The campaigns in the order of the configuration, with the number of signals each takes.
    pub fn campaigns(&self) -> impl Iterator<Item = (&Campaign, usize)> {
        self.config.campaigns.iter().zip(self.collectors.iter().map(Collector::signals))
    }

    fn collect(&mut self, now_us: i64, time_us: i64, outcome: Outcome) {
        match outcome {
            Outcome::Decoded => self.counters.frames_decoded += 1,
            Outcome::Unknown => self.counters.unknown += 1,
            Outcome::MuxUnmatched => self.counters.mux_unmatched += 1,
            Outcome::TooShort => self.counters.too_short += 1,
        }
        if outcome != Outcome::Decoded {
            return;
        }
        self.counters.not_available += u64::from(self.row.not_available());
        for at in 0..self.collectors.len() {
            let taken = self.collectors[at].handle_row(now_us, time_us, &self.row, &mut self.closed);
            self.counters.samples += u64::from(taken);
            if !self.closed.is_empty() {
                let closed = std::mem::take(&mut self.closed);
                closed.into_iter().for_each(|batch| self.send(at, batch));
            }
        }
    }

    fn handle_j1939(&mut self, now_us: i64, frame: &CanFrame, id: u32) {
        let J1939Id { pgn, sa, .. } = J1939Id::split(id);
        match pgn {
            Pgn::DM1 => {
                self.handle_dm1(now_us, frame.timestamp_us, Reporter::J1939(frame.bus, sa), frame.data())
            }
            Pgn::TP_CM | Pgn::TP_DT => {
                let message = self.tp.handle_frame(frame.timestamp_us, frame.bus, id, frame.data());
                if let Some(message) = message {
                    self.handle_tp_message(now_us, frame.timestamp_us, &message);
                }
            }
            _ => {}
        }
    }

    fn handle_tp_message(&mut self, now_us: i64, time_us: i64, message: &TpMessage) {
        let id = message.can_id();
        let outcome = self.decoder.decode_payload(message.bus, id, &message.data, &mut self.row);
        self.collect(now_us, time_us, outcome);
        match message.pgn {
            Pgn::DM1 => {
                let reporter = Reporter::J1939(message.bus, message.sa);
                self.handle_dm1(now_us, time_us, reporter, &message.data);
            }
            // VIN, then `*`, which some controllers put after further text.
            Pgn::VEHICLE_IDENTIFICATION => {
                if let Some(vin) = message.data.get(..17).and_then(|vin| Vin::from_bytes(vin).ok()) {
                    self.handle_vin(now_us, vin);
                }
            }
            _ => {}
        }
    }

    fn handle_dm1(&mut self, now_us: i64, time_us: i64, reporter: Reporter, data: &[u8]) {
        let (Some(dm1), Reporter::J1939(_, sa)) = (Dm1::parse(data), reporter) else {
            self.counters.dtc_malformed += 1;
            return;
        };
        let mut active = Vec::new();
        for dtc in dm1.dtcs() {
            if dtc.old_conversion {
                self.counters.dtc_old_conversion += 1;
                continue;
            }
            let code = Dtc::J1939 { sa, spn: dtc.spn, fmi: dtc.fmi };
            active.push(ActiveDtc { dtc: code, occurrence_count: dtc.occurrence_count });
        }
        let mil_on = match dm1.malfunction {
            Lamp::On => Some(true),
            Lamp::Off => Some(false),
            Lamp::Unknown => None,
        };
        self.handle_fault_list(now_us, time_us, reporter, mil_on, &active);
    }

    fn handle_obd(&mut self, now_us: i64, frame: &CanFrame) {
        let message = self.isotp.handle_frame(frame.timestamp_us, frame.bus, frame.id, frame.data());
        match message.and_then(obd::parse) {
            Some(ObdResponse::Vin(vin)) => self.handle_vin(now_us, vin),
            Some(ObdResponse::StoredDtcs(dtcs)) => {
                let ecu = frame.id.bits();
                let active = |code| ActiveDtc { dtc: Dtc::Obd { ecu, code }, occurrence_count: None };
                let active: Vec<_> = dtcs.codes().map(active).collect();
                let reporter = Reporter::Obd(frame.bus, ecu);
                self.handle_fault_list(now_us, frame.timestamp_us, reporter, None, &active);
            }
            None => {}
        }
    }

    fn handle_fault_list(
        &mut self,
        now_us: i64,
        time_us: i64,
        reporter: Reporter,
        mil_on: Option<bool>,
        active: &[ActiveDtc],
    ) {
        let mut records: Vec<DtcRecord> = Vec::new();
        self.faults.update(time_us, reporter, mil_on, active, &mut records);
        if records.is_empty() {
            return;
        }
        self.counters.dtc_changes += records.len() as u64;
        let body = to_postcard(&records);
        self.emit(Lane::Fast, now_us, |writer| {
            writer.compressed(SectionKind::Dtcs, &body, SAMPLES_ZSTD_LEVEL);
        });
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
        let body = to_postcard(&CheckIn {
            agent_version: self.config.agent_version.clone(),
            manifest_id: self.decoder.manifest_id(),
            campaigns: self.collectors.iter().map(Collector::campaign_id).collect(),
            tails: self.config.tails.clone(),
            vin: self.vin,
        });
        let manifest = with_manifest.then(|| self.decoder.manifest().encode());
        // Together where they fit; `dbc::load` made sure that the manifest alone does.
        let both = |writer: &mut EnvelopeWriter| {
            writer.compressed(SectionKind::CheckIn, &body, SAMPLES_ZSTD_LEVEL);
            if let Some(manifest) = &manifest {
                writer.compressed(SectionKind::Manifest, manifest, MANIFEST_ZSTD_LEVEL);
            }
        };
        if self.emit(Lane::Fast, now_us, both) {
            return;
        }
        self.emit(Lane::Fast, now_us, |writer| {
            writer.compressed(SectionKind::CheckIn, &body, SAMPLES_ZSTD_LEVEL);
        });
        if let Some(manifest) = manifest {
            self.emit(Lane::Fast, now_us, |writer| {
                writer.compressed(SectionKind::Manifest, &manifest, MANIFEST_ZSTD_LEVEL);
            });
        }
    }

    /// An envelope without samples; false, and no number used, where it would be too large.
    fn emit(&mut self, lane: Lane, now_us: i64, write: impl Fn(&mut EnvelopeWriter)) -> bool {
        let base_us = now_us.div_euclid(1_000).saturating_mul(1_000);
        let header = self.header(lane, base_us, None, None);
        let mut writer = EnvelopeWriter::new(&header);
        write(&mut writer);
        match writer.finish() {
            Ok(bytes) => {
                self.queue(&header, bytes, 0, None);
                true
            }
            Err(_) => false,
        }
    }

    /// A batch as one envelope, or as several where it is too large for one.
    fn send(&mut self, collector: usize, batch: ClosedBatch) {
        let (lane, campaign_id) =
            (self.collectors[collector].lane(), self.collectors[collector].campaign_id());
        let mut parts = vec![batch.columns];
        while let Some(columns) = parts.pop() {
            let manifest_id = Some(self.decoder.manifest_id());
            let header = self.header(lane, batch.base_us, manifest_id, Some(campaign_id));
            match samples_envelope(&header, &columns) {
                Ok(bytes) => {
                    let last_us = columns.span_us().map(|(_, last_us)| last_us);
                    self.queue(&header, bytes, columns.samples() as u32, last_us);
                }
                Err(_) => match split(columns) {
                    Some((head, tail)) => parts.extend([tail, head]),
                    None => self.counters.samples_too_large += 1,
                },
            }
        }
    }

    fn header(
        &self,
        lane: Lane,
        base_us: i64,
        manifest_id: Option<ManifestId>,
        campaign_id: Option<CampaignId>,
    ) -> Header {
        Header {
            vehicle_id: self.config.vehicle_id,
            boot_id: self.config.boot_id,
            lane,
            sequence: self.sequences[lane_index(lane)],
            base_us,
            monotonic_offset_us: self.config.monotonic_offset_us,
            clock: self.config.clock,
            manifest_id,
            campaign_id,
        }
    }

    fn queue(&mut self, header: &Header, bytes: Vec<u8>, samples: u32, last_sample_us: Option<i64>) {
        self.sequences[lane_index(header.lane)] += 1;
        self.counters.envelopes += 1;
        self.counters.envelope_bytes += bytes.len() as u64;
        self.outputs.push_back(Output::Envelope { key: header.key(), bytes, samples, last_sample_us });
    }
}

const fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Fast => 0,
        Lane::Bulk => 1,
    }
}

fn to_postcard(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("section bodies are plain data")
}

fn samples_envelope(header: &Header, columns: &Columns) -> Result<Vec<u8>, EnvelopeError> {
    let body = columns.encode(header.base_us, TimeUnit::Milliseconds);
    if body.len() > SECTION_BYTES_MAX {
        return Err(EnvelopeError::TooLarge(body.len()));
    }
    let mut writer = EnvelopeWriter::new(header);
    writer.compressed(SectionKind::Samples, &body, SAMPLES_ZSTD_LEVEL);
    writer.finish()
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
