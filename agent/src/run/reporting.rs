//! What the agent says of itself, to the cloud and to whoever asks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use convoy_protocol::desired::DesiredError;
use convoy_protocol::id::{Lane, VehicleId};
use convoy_segment_log::OpenError;
use convoy_segment_log::simulated::SimulatedDisk;
use tracing::{info, warn};

use super::Agent;
use crate::causes::with_causes;
use crate::desired;
use crate::identity::IdentityError;
use crate::source::FrameSource;
use crate::spool::{LaneError, SEGMENT_BYTES_MIN, SEGMENTS_MIN, Spool, SpoolConfig, SpoolError};
use crate::status::{Acks, Connection, Source, SpoolStatus, Status};

/// Size of a spool in memory, bytes.
const VOLATILE_BYTES_MAX: u64 = 2 * SEGMENTS_MIN * SEGMENT_BYTES_MIN;

/// Opens the spool, in memory where the disk cannot be written: what is collected can then be sent while there is a
/// connection, and the cloud is told.
pub(super) fn open_spool(
    config: SpoolConfig,
    vehicle_id: VehicleId,
) -> Result<(Spool, Vec<String>), SpoolError> {
    let error = match Spool::open(config.clone(), vehicle_id) {
        Ok(spool) => return Ok((spool, Vec::new())),
        Err(error) => error,
    };
    if !is_unwritable(&error) {
        return Err(error);
    }
    let why = with_causes(&error);
    warn!("spool is kept in memory and is lost with this process: {why}");
    let in_memory = SpoolConfig { bytes_max: VOLATILE_BYTES_MAX, segment_bytes: SEGMENT_BYTES_MIN, ..config };
    let spool = Spool::open_on(Arc::new(SimulatedDisk::new(0)), in_memory, vehicle_id)?;
    Ok((spool, vec![format!("the spool is in memory and lost with the process: {why}")]))
}

fn is_unwritable(error: &SpoolError) -> bool {
    let source = match error {
        SpoolError::Lane { source: LaneError::Open(OpenError::Io { source, .. }), .. }
        | SpoolError::Journal { source: LaneError::Open(OpenError::Io { source, .. }) }
        | SpoolError::Identity(IdentityError::Io { source, .. })
        | SpoolError::Io { source, .. } => source,
        _ => return false,
    };
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
    // 5: EIO, which has no kind of its own.
    matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem | StorageFull)
        || source.raw_os_error() == Some(5)
}

impl Agent {
    pub(super) fn handle_desired(&mut self, now_us: i64, sealed: &[u8]) {
        if !self.takes_cloud_campaigns {
            return self.gateway.refuse_desired(now_us, None, &DesiredError::NotTaken);
        }
        match desired::check(sealed, self.campaign_key.as_ref(), self.vehicle_id) {
            Ok(state) => {
                let (version, campaigns) = (state.version, state.campaigns.len());
                match self.gateway.handle_desired(now_us, state) {
                    Ok(()) => {
                        info!(version, campaigns, "campaigns of the cloud are collected");
                        desired::remember(self.spool.disk(), self.spool.dir(), sealed);
                    }
                    Err(error) => warn!("campaigns of the cloud are not taken: {error}"),
                }
            }
            Err((version, error)) => {
                warn!("campaigns of the cloud are not taken: {error}");
                self.gateway.refuse_desired(now_us, version, &error);
            }
        }
    }

    /// The cloud hears of a disk that failed when it works again, or where it was in memory from the start.
    pub(super) fn report_problems(&mut self, now_us: i64) {
        let failures = self.spool.counters().write_failures;
        if failures > self.failures_reported && !self.spool.is_in_trouble() {
            self.failures_reported = failures;
            let mut problems = self.problems.clone();
            problems
                .push(format!("the spool could not be written {failures} times since the start; it can now"));
            self.gateway.set_problems(now_us, problems);
        }
    }

    fn sources(&self, source: &impl FrameSource, state: &str) -> Vec<Source> {
        let links = source.links();
        if links.is_empty() {
            return vec![Source {
                name: source.describe(),
                state: state.into(),
                frames: self.gateway.counters().frames,
                lines_damaged: source.line_counts().damaged,
                ..Source::default()
            }];
        }
        let now_us = self.clock.now_us();
        let polled =
            |at: usize| self.gateway.pollers().iter().find(|poller| usize::from(poller.bus().0) == at);
        links
            .into_iter()
            .enumerate()
            .map(|(at, link)| Source {
                name: link.name,
                bus: link.bus,
                state: link.state,
                frames: link.frames,
                lines_damaged: link.malformed,
                dropped: link.dropped,
                error_frames: link.error_frames,
                last_error: link.last_error,
                detail: link.detail,
                sends_dropped: link.sends_dropped,
                reopened: link.reopened,
                polling: polled(at).map(|poller| poller.state(now_us).name().to_owned()),
                ecus: polled(at)
                    .map(|poller| poller.ecus().map(|(id, _)| id.to_string()).collect())
                    .unwrap_or_default(),
                frames_sent: polled(at).map_or(0, |poller| poller.counters().frames_sent),
            })
            .collect()
    }

    /// How the agent does.
    pub(super) fn status(&self, source: &impl FrameSource) -> Status {
        let now_us = self.clock.now_us();
        let (spool, counters) = (self.spool.counters(), self.gateway.counters());
        let reading = self.clock.reading();
        let report = self.gateway.current_report(now_us);
        let state = match (self.source_ended, self.takes_frames()) {
            (true, _) => "ended",
            (false, true) => "running",
            (false, false) => "waiting for the disk",
        };
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            agent_version: env!("CARGO_PKG_VERSION").into(),
            vehicle_id: self.vehicle_id.to_string(),
            boot_id: self.spool.boot_id().to_string(),
            uptime_s: u64::try_from(now_us.saturating_sub(self.clock.monotonic_offset_us()) / 1_000_000)
                .unwrap_or(0),
            clock: reading.quality,
            clock_correction_us: reading.correction_us,
            connection: Connection {
                broker: self.broker.clone(),
                connected: self.window.is_online(),
                connections: load(&self.metrics.connections),
                in_flight: self.window.in_flight() as u64,
            },
            sources: self.sources(source, state),
            watchers: self.tap.watchers(),
            spool: SpoolStatus {
                writable: !self.spool.is_in_trouble() && self.problems.is_empty(),
                bytes: self.spool.bytes(),
                bytes_max: self.spool_bytes_max,
                unacked: Lane::ALL.map(|lane| self.spool.unacked(lane)),
                spooled: spool.spooled,
                journalled_samples: spool.journalled_samples,
                open_samples: self.gateway.open_samples(),
                dropped: spool.dropped,
                damaged_unknown: spool.damaged_unknown,
                write_failures: spool.write_failures,
            },
            acks: Acks {
                stored: self.stored,
                quarantined: self.quarantined,
                resent: load(&self.metrics.resent),
                bytes_published: load(&self.metrics.bytes_published),
                busy: self.busy,
            },
            desired_version: report.version,
            desired_refused: report.refused.map(|refusal| refusal.reason),
            campaigns: report.campaigns.into_iter().map(Into::into).collect(),
            problems: report.problems,
            counters,
        }
    }
}
