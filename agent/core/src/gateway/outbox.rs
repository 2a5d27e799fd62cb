//! Envelopes on their way out: numbered, timed by what is known of the clock, queued.

use std::collections::VecDeque;

use convoy_protocol::columns::Columns;
use convoy_protocol::compact;
use convoy_protocol::dtc::{DtcState, ExtendedData};
use convoy_protocol::envelope::{EnvelopeError, EnvelopeWriter, Header, SectionKind};
use convoy_protocol::id::{BootId, CampaignId, Lane, ManifestId, VehicleId};
use convoy_protocol::report::TriggerRecord;
use convoy_protocol::time::{ClockQuality, TimeUnit};

use super::{FrameTimes, Output, RECORDS_ZSTD_LEVEL, to_postcard};
use crate::batch::split;
use crate::frozen::FrozenFrame;
use crate::journal::BatchId;

/// Trouble codes in one envelope at most.
const DTC_STATES_PER_ENVELOPE_MAX: usize = 1_000;
/// Records of counters in one envelope at most.
const EXTENDED_DATA_PER_ENVELOPE_MAX: usize = 32;

/// What is known of the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) quality: ClockQuality,
    /// Wall clock minus monotonic clock as it was at the start, microseconds.
    pub(crate) start_offset_us: i64,
    /// What has to be added to the gateway's time to have the wall clock's.
    pub(crate) correction_us: i64,
    pub(crate) frame_times: FrameTimes,
}

impl Clock {
    /// What has to be added to the times of frames.
    pub(crate) fn frame_correction_us(&self) -> i64 {
        match self.frame_times {
            FrameTimes::Live => self.correction_us,
            FrameTimes::Recorded => 0,
        }
    }

    pub(crate) fn wall_us(&self, now_us: i64) -> i64 {
        now_us.saturating_add(self.correction_us)
    }
}

/// What a samples envelope is made of.
pub(crate) struct Samples {
    pub(crate) kind: SectionKind,
    pub(crate) lane: Lane,
    pub(crate) manifest_id: ManifestId,
    pub(crate) campaign_id: Option<CampaignId>,
    pub(crate) base_us: i64,
    pub(crate) columns: Columns,
    pub(crate) trigger: Option<TriggerRecord>,
    pub(crate) closes: Option<BatchId>,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) vehicle_id: VehicleId,
    pub(crate) boot_id: BootId,
    pub(crate) clock: Clock,
    /// Next sequence of the fast and the bulk lane.
    sequences: [u64; 2],
    outputs: VecDeque<Output>,
    pub(crate) envelopes: u64,
    pub(crate) envelope_bytes: u64,
    pub(crate) samples_too_large: u64,
}

impl Outbox {
    pub(crate) fn new(vehicle_id: VehicleId, boot_id: BootId, clock: Clock) -> Self {
        Self {
            vehicle_id,
            boot_id,
            clock,
            sequences: [0; 2],
            outputs: VecDeque::new(),
            envelopes: 0,
            envelope_bytes: 0,
            samples_too_large: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.outputs.len()
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Something that is no envelope.
    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn push_chunk(&mut self, batch: BatchId, record: Vec<u8>, samples: u32) {
        self.outputs.push_back(Output::Chunk { batch, record, samples });
    }

    /// An envelope without samples; false, and no number used, where it would be too large.
    pub(crate) fn emit(&mut self, lane: Lane, now_us: i64, write: impl Fn(&mut EnvelopeWriter)) -> bool {
        let base_us = whole_ms(self.clock.wall_us(now_us));
        let header = self.header(lane, base_us, None, None);
        let mut writer = EnvelopeWriter::new(&header);
        write(&mut writer);
        match writer.finish() {
            Ok(bytes) => {
                self.queue(&header, bytes, 0, None, None);
                true
            }
            Err(_) => false,
        }
    }

    /// Trouble codes, whose times are those of frames.
    pub(crate) fn emit_dtc_states(&mut self, now_us: i64, states: &mut [DtcState]) {
        let correction_us = self.clock.frame_correction_us();
        for states in states.chunks_mut(DTC_STATES_PER_ENVELOPE_MAX) {
            for state in &mut *states {
                state.timestamp_us = state.timestamp_us.saturating_add(correction_us);
            }
            let body = to_postcard(&&*states);
            self.emit(Lane::Fast, now_us, |writer| {
                writer.compressed(SectionKind::DtcStates, &body, RECORDS_ZSTD_LEVEL);
            });
        }
    }

    /// Counters of trouble codes, with times as those of frames.
    pub(crate) fn emit_extended_data(&mut self, now_us: i64, mut records: Vec<ExtendedData>) {
        let correction_us = self.clock.frame_correction_us();
        for record in &mut records {
            record.timestamp_us = record.timestamp_us.saturating_add(correction_us);
        }
        // An answer of UDS has at most 4,095 bytes: so many fit an envelope.
        for records in records.chunks(EXTENDED_DATA_PER_ENVELOPE_MAX) {
            let body = to_postcard(&records);
            self.emit(Lane::Fast, now_us, |writer| {
                writer.compressed(SectionKind::DtcExtendedData, &body, RECORDS_ZSTD_LEVEL);
            });
        }
    }

    /// Values that were frozen with a trouble code.
    pub(crate) fn emit_frozen_frame(&mut self, now_us: i64, manifest_id: ManifestId, mut frame: FrozenFrame) {
        let correction_us = self.clock.frame_correction_us();
        frame.header.timestamp_us = frame.header.timestamp_us.saturating_add(correction_us);
        let base_us = whole_ms(self.clock.wall_us(now_us));
        let header = self.header(Lane::Fast, base_us, Some(manifest_id), None);
        let mut body = to_postcard(&frame.header);
        body.extend(frame.columns().encode(base_us, TimeUnit::Milliseconds));
        let mut writer = EnvelopeWriter::new(&header);
        writer.compressed(SectionKind::FreezeFrame, &body, RECORDS_ZSTD_LEVEL);
        match writer.finish() {
            Ok(bytes) => self.queue(&header, bytes, 0, None, None),
            Err(_) => self.samples_too_large += 1,
        }
    }

    /// Samples as one envelope, or as several where they are too large for one. Their times are those of frames.
    /// Returns the bytes.
    pub(crate) fn send(&mut self, mut samples: Samples) -> u64 {
        let correction_us = self.clock.frame_correction_us();
        if correction_us != 0 {
            shift(&mut samples, correction_us);
        }
        self.send_as_they_are(samples)
    }

    /// As [`Outbox::send`], with times that are right already.
    pub(crate) fn send_as_they_are(&mut self, samples: Samples) -> u64 {
        let mut parts = vec![samples.columns];
        let mut sent = 0;
        while let Some(columns) = parts.pop() {
            let base_us = whole_ms(samples.base_us);
            let header = self.header(samples.lane, base_us, Some(samples.manifest_id), samples.campaign_id);
            match samples_envelope(&header, samples.kind, &columns, samples.trigger.as_ref()) {
                Ok(bytes) => {
                    sent += bytes.len() as u64;
                    let last_us = columns.span_us().map(|(_, last_us)| last_us);
                    // The batch is closed with its last part.
                    let closes = samples.closes.filter(|_| parts.is_empty());
                    self.queue(&header, bytes, columns.samples() as u32, last_us, closes);
                }
                Err(_) => match split(columns) {
                    Some((head, tail)) => parts.extend([tail, head]),
                    None => self.samples_too_large += 1,
                },
            }
        }
        sent
    }

    fn header(
        &self,
        lane: Lane,
        base_us: i64,
        manifest_id: Option<ManifestId>,
        campaign_id: Option<CampaignId>,
    ) -> Header {
        Header {
            vehicle_id: self.vehicle_id,
            boot_id: self.boot_id,
            lane,
            sequence: self.sequences[lane as usize],
            base_us,
            monotonic_offset_us: self.clock.start_offset_us.saturating_add(self.clock.correction_us),
            clock: self.clock.quality,
            manifest_id,
            campaign_id,
        }
    }

    fn queue(
        &mut self,
        header: &Header,
        bytes: Vec<u8>,
        samples: u32,
        last_sample_us: Option<i64>,
        closes: Option<BatchId>,
    ) {
        self.sequences[header.lane as usize] += 1;
        self.envelopes += 1;
        self.envelope_bytes += bytes.len() as u64;
        self.outputs.push_back(Output::Envelope {
            key: header.key(),
            bytes,
            samples,
            last_sample_us,
            closes,
        });
    }
}

fn whole_ms(us: i64) -> i64 {
    us.div_euclid(1_000).saturating_mul(1_000)
}

fn shift(samples: &mut Samples, by_us: i64) {
    samples.base_us = samples.base_us.saturating_add(by_us);
    for time_us in samples.columns.groups.iter_mut().flat_map(|group| &mut group.times_us) {
        *time_us = time_us.saturating_add(by_us);
    }
    if let Some(trigger) = &mut samples.trigger {
        trigger.triggered_us = trigger.triggered_us.saturating_add(by_us);
    }
}

fn samples_envelope(
    header: &Header,
    kind: SectionKind,
    columns: &Columns,
    trigger: Option<&TriggerRecord>,
) -> Result<Vec<u8>, EnvelopeError> {
    let body = compact::encode(columns, header.base_us, TimeUnit::Milliseconds);
    let mut writer = EnvelopeWriter::new(header);
    if let Some(trigger) = trigger {
        writer.plain(SectionKind::Trigger, &to_postcard(trigger));
    }
    writer.plain(kind, &body);
    writer.finish()
}
