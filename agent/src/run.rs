//! The agent's one loop: frames, downlink and time go into the gateway; what it puts out goes to the spool, and from
//! there to the cloud.

use std::future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use convoy_agent_core::dbc::{self, DbcError, DbcSource};
use convoy_agent_core::gateway::{Gateway, GatewayConfig, Output};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::downlink::{Down, PayloadDigest, SequenceRange};
use convoy_protocol::envelope::{Envelope, SectionKind};
use convoy_protocol::frame::BusIndex;
use convoy_protocol::id::{EnvelopeKey, Lane, ManifestId, VehicleId};
use convoy_segment_log::disk::{Disk, SystemDisk};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use crate::causes::with_causes;
use crate::clock::{self, Clock};
use crate::config::{AgentConfig, DbcFile};
use crate::desired::{self, CampaignKey};
use crate::metrics::{self, Metrics, Summary};
use crate::monitor::{Monitor, Question};
use crate::source::{FrameSource, SourceError, SourceEvent, Transmission};
use crate::spool::{Spool, SpoolEnvelope, SpoolError};
use crate::state_file;
use crate::tap::Tap;
use crate::uplink::tls::TlsError;
use crate::uplink::window::Window;
use crate::uplink::{Uplink, UplinkEvent};

/// Frames taken in one turn of the loop: between them nothing else happens.
pub const FRAMES_PER_TURN_MAX: usize = 256;

/// Events of the connection taken in one turn.
pub const UPLINK_EVENTS_PER_TURN_MAX: usize = 256;

/// A frame waits for the disk no longer than that; one that says more came while the wall clock was set.
const FRAME_AGE_US_MAX: i64 = 86_400_000_000;

const MANIFEST_FILE: &str = "manifest";
/// Envelopes with the manifest that are remembered, the newest first: one that is stored is enough.
const MANIFEST_KEYS_MAX: usize = 8;
/// Pause after a failed read of the spool.
const READ_RETRY_US: i64 = 1_000_000;
/// Questions of those who ask how the agent does that wait at most.
const QUESTIONS_MAX: usize = 4;

mod budgets;
mod reporting;
mod trouble_codes;

/// Why the agent could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The DBC files make no decoder.
    #[error(transparent)]
    Dbc(#[from] DbcError),
    /// A DBC file is for a bus that the source does not have.
    #[error("DBC file {file} is for bus {bus}, which the source does not have: it has {known}")]
    UnknownBus {
        /// The file.
        file: String,
        /// The bus.
        bus: String,
        /// The buses of the source.
        known: String,
    },
    /// The spool could not be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The source failed. What was read before is in the spool.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Runs the agent until its source ends and everything is stored, or until `shutdown` becomes true: then what is open
/// is closed and spooled, and nothing is waited for.
///
/// # Errors
/// What keeps it from starting, and a source that fails. A broker that cannot be reached and a disk that is full are
/// no errors: they are waited for.
pub async fn run<S: FrameSource>(
    config: AgentConfig,
    mut source: S,
    mut shutdown: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
) -> Result<Summary, RunError> {
    let (questions, mut asked) = mpsc::channel::<Question>(QUESTIONS_MAX);
    let (dir, metrics_at) = (config.spool.dir.clone(), config.metrics);
    let mut agent = Agent::start(config, &source, metrics)?;
    let _monitor = Monitor::start(&dir, metrics_at, questions, &agent.tap).await;
    let stopped = loop {
        agent.carry_out();
        agent.transmit(&mut source);
        if agent.is_finished() {
            break Ok(false);
        }
        let (deadline_us, takes_frames) = (agent.next_deadline(), agent.takes_frames());
        let timeout = async {
            match deadline_us {
                Some(at_us) => sleep_until(agent.clock.instant(at_us)).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            event = source.recv(), if takes_frames => {
                if let Err(error) = agent.handle_source(event, &mut source) {
                    break Err(error);
                }
                // A source that is always ready would keep the runtime from its sockets.
                tokio::task::yield_now().await;
            }
            event = agent.uplink.event() => agent.handle_uplink_events(event),
            () = timeout => agent.handle_timeout(),
            Some(question) = asked.recv() => {
                // Whoever asked may be gone.
                let _ = question.send(agent.status(&source));
            }
            () = requested(&mut shutdown) => break Ok(true),
        }
    };
    let lines_damaged = source.line_counts().damaged;
    agent.stop(stopped, lines_damaged).await
}

/// Waits for the request to stop; for ever where nobody is left to make one.
async fn requested(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        future::pending::<()>().await;
    }
}

struct Agent {
    clock: Clock,
    gateway: Gateway,
    spool: Spool,
    window: Window,
    uplink: Uplink,
    metrics: Arc<Metrics>,
    source_ended: bool,
    read_retry_us: Option<i64>,
    manifest_id: ManifestId,
    /// Envelopes on their way that hold the manifest.
    manifest_keys: Vec<EnvelopeKey>,
    quarantined: u64,
    stored: u64,
    busy: u64,
    vehicle_id: VehicleId,
    campaign_key: Option<CampaignKey>,
    takes_cloud_campaigns: bool,
    broker: String,
    spool_bytes_max: u64,
    budgets_save_at_us: i64,
    /// What was wrong at the start.
    problems: Vec<String>,
    failures_reported: u64,
    /// What the gateway wants to send to a bus.
    transmissions: Vec<Transmission>,
    tap: Tap,
    /// The names of live buses; `None`: what is read is a recording.
    buses: Option<Vec<String>>,
    codes_save_at_us: i64,
}

impl Agent {
    fn start(
        mut config: AgentConfig,
        source: &impl FrameSource,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RunError> {
        let sources = dbc_sources(std::mem::take(&mut config.dbcs), &source.bus_names())?;
        let (decoder, warnings) = dbc::load(&sources, &VssMap::builtin())?;
        for warning in &warnings {
            warn!("{warning}");
        }
        let uplink = Uplink::new(&config.broker, config.vehicle_id)?;
        let resend_after_us = i64::try_from(config.broker.resend_after.as_micros()).unwrap_or(i64::MAX);
        let window = Window::new(resend_after_us, config.broker.backfill_bytes_per_s);
        // Half of the time until a sample is safe is for the journal or the batch, half for the sync.
        let journal_after_us = i64::from(config.spool.sync_ms) * 500;
        config.spool.sync_ms = (config.spool.sync_ms / 2).max(1);
        let spool_bytes_max = config.spool.bytes_max;
        let (mut spool, problems) = reporting::open_spool(config.spool.clone(), config.vehicle_id)?;
        let clock = Clock::start(spool.disk(), spool.dir(), config.follows_wall_clock);
        let manifest_id = decoder.manifest_id();
        let gateway_config = GatewayConfig {
            clock: clock.reading().quality,
            monotonic_offset_us: clock.monotonic_offset_us(),
            frame_times: source.frame_times(),
            journal_after_us: Some(journal_after_us),
            vin_expected: config.vin,
            polls: std::mem::take(&mut config.polls),
            ..known_before(&mut spool, &config, manifest_id)
        };
        info!(
            vehicle.id = %config.vehicle_id, boot_id = %spool.boot_id(), manifest.id = %manifest_id,
            signals = decoder.manifest().signals.len(), spool_bytes = spool.bytes(), "agent started"
        );
        let now_us = clock.now_us();
        let mut agent = Self {
            gateway: Gateway::new(gateway_config, Arc::new(decoder), now_us),
            clock,
            spool,
            window,
            uplink,
            metrics,
            source_ended: false,
            read_retry_us: None,
            manifest_id,
            manifest_keys: Vec::new(),
            quarantined: 0,
            stored: 0,
            busy: 0,
            vehicle_id: config.vehicle_id,
            campaign_key: config.campaign_key,
            takes_cloud_campaigns: config.takes_cloud_campaigns,
            broker: format!("{}:{}", config.broker.host, config.broker.port),
            spool_bytes_max,
            budgets_save_at_us: now_us,
            problems,
            failures_reported: 0,
            transmissions: Vec::new(),
            tap: Tap::new(),
            buses: None,
            codes_save_at_us: now_us,
        };
        agent.resume_budgets();
        agent.resume_trouble_codes(source);
        agent.gateway.set_problems(now_us, agent.problems.clone());
        agent.report_drops(now_us);
        Ok(agent)
    }

    fn takes_frames(&self) -> bool {
        !self.source_ended && !self.spool.is_full()
    }

    fn is_finished(&self) -> bool {
        self.source_ended && self.spool.is_drained()
    }

    fn next_deadline(&self) -> Option<i64> {
        let deadlines = [
            self.gateway.poll_timeout(),
            self.spool.poll_timeout(),
            self.window.poll_timeout(),
            self.clock.poll_timeout(),
            self.read_retry_us,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Takes a frame and those that are due with it, without waiting for more.
    fn handle_source<S: FrameSource>(
        &mut self,
        event: Result<SourceEvent, SourceError>,
        source: &mut S,
    ) -> Result<(), RunError> {
        let now_us = self.clock.now_us();
        let wall_us = source.has_wall_times().then(clock::wall_us);
        let mut event = event;
        for turn in 1.. {
            match event? {
                SourceEvent::Frame(mut frame) => {
                    if let Some(wall_us) = wall_us {
                        let age_us = wall_us.saturating_sub(frame.timestamp_us).clamp(0, FRAME_AGE_US_MAX);
                        frame.timestamp_us = now_us - age_us;
                    }
                    self.gateway.handle_frame(now_us, &frame);
                }
                SourceEvent::Voltage(bus, volts) => self.gateway.handle_voltage(now_us, bus, volts),
                SourceEvent::RequestEnd(bus) => self.gateway.handle_request_end(now_us, bus),
                SourceEvent::End => {
                    self.source_ended = true;
                    info!("source has ended, sending what is left");
                    self.gateway.flush(now_us);
                    self.take_outputs();
                    self.spool.flush(now_us);
                    break;
                }
            }
            self.take_outputs();
            self.transmit(source);
            if turn == FRAMES_PER_TURN_MAX || !self.takes_frames() {
                break;
            }
            match poll_once(source.recv()) {
                Some(next) => event = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Sends what is to be sent, and lets through what is needed now.
    fn transmit(&mut self, source: &mut impl FrameSource) {
        if self.gateway.take_needs_changed() {
            for at in 0..source.bus_names().len() {
                let bus = BusIndex(u8::try_from(at).unwrap_or(u8::MAX));
                source.set_filters(bus, self.gateway.filters(bus));
            }
        }
        self.transmissions.drain(..).for_each(|transmission| source.transmit(transmission));
    }

    fn handle_timeout(&mut self) {
        let now_us = self.clock.now_us();
        if let Some(reading) = self.clock.handle_timeout(self.spool.disk()) {
            self.gateway.handle_clock(now_us, reading.quality, reading.correction_us);
        }
        self.gateway.handle_timeout(now_us);
        self.window.handle_timeout(now_us);
        self.save_budgets(now_us, false);
        self.save_trouble_codes(now_us, false);
        self.read_retry_us = self.read_retry_us.filter(|at| *at > now_us);
    }

    /// Takes an event of the connection and those that are there with it.
    fn handle_uplink_events(&mut self, event: UplinkEvent) {
        let mut event = event;
        for turn in 1.. {
            self.handle_uplink(event);
            if turn == UPLINK_EVENTS_PER_TURN_MAX {
                return;
            }
            self.publish(self.clock.now_us());
            match poll_once(self.uplink.event()) {
                Some(next) => event = next,
                None => return,
            }
        }
    }

    fn handle_uplink(&mut self, event: UplinkEvent) {
        match event {
            UplinkEvent::Connected => {
                let ends = Lane::ALL.map(|lane| self.spool.durable_end(lane));
                self.window.handle_connected(ends);
                self.gateway.handle_connected(self.clock.now_us());
                self.metrics.connected.store(true, Ordering::Relaxed);
                metrics::add(&self.metrics.connections, 1);
            }
            UplinkEvent::Disconnected => {
                self.window.handle_disconnected();
                self.metrics.connected.store(false, Ordering::Relaxed);
            }
            UplinkEvent::Down(down) => self.handle_down(&down),
            UplinkEvent::Progress => {}
        }
    }

    fn handle_down(&mut self, down: &Down) {
        let now_us = self.clock.now_us();
        match down {
            Down::Stored(ranges) => ranges.iter().for_each(|range| self.handle_stored(now_us, range)),
            Down::Quarantined(digest) => self.handle_quarantined(now_us, *digest),
            Down::Busy { retry_after_ms } => {
                debug!(retry_after_ms, "cloud is busy");
                self.busy += 1;
                self.window.handle_busy(now_us, *retry_after_ms);
            }
            Down::WantManifest(manifest_id) => {
                info!(manifest.id = %manifest_id, "cloud asks for the manifest");
                self.forget_manifest();
            }
            Down::Desired(sealed) => self.handle_desired(now_us, sealed),
            Down::WantSnapshot => {}
        }
        self.gateway.handle_downlink(now_us, down);
    }

    fn handle_stored(&mut self, now_us: i64, range: &SequenceRange) {
        for acked in self.spool.ack_range(now_us, range) {
            self.window.handle_done(range.lane, acked.positions.clone());
            self.stored += acked.count();
            for sequence in acked.first_sequence..=acked.last_sequence() {
                debug!(boot_id = %acked.boot_id, lane = %range.lane, sequence, "envelope stored");
            }
        }
        metrics::set(&self.metrics.envelopes_stored, self.stored);
        if self.manifest_keys.iter().any(|key| range.contains(key)) {
            self.manifest_keys.clear();
            self.remember_manifest();
        }
    }

    fn handle_quarantined(&mut self, now_us: i64, digest: PayloadDigest) {
        // Not in flight: it was acknowledged before, or it will be sent again and quarantined again.
        let Some((lane, position)) = self.window.find(digest) else { return };
        let key = self.spool.key_at(lane, position).map(|key| key.to_string());
        self.window.handle_done(lane, position..position + 1);
        if self.spool.ack_position(now_us, lane, position) {
            self.quarantined += 1;
            metrics::set(&self.metrics.envelopes_quarantined, self.quarantined);
            warn!(envelope = key.unwrap_or_default(), %lane, position, "cloud cannot read an envelope and keeps it in quarantine");
        }
    }

    fn remember_manifest(&self) {
        let path = self.spool.dir().join(MANIFEST_FILE);
        if let Err(error) =
            state_file::write_durably(self.spool.disk(), &path, format!("{}\n", self.manifest_id).as_bytes())
        {
            warn!("cannot write {}, the manifest is sent again at the next start: {error}", path.display());
        }
    }

    fn forget_manifest(&self) {
        let path = self.spool.dir().join(MANIFEST_FILE);
        match self.spool.disk().remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                warn!("cannot remove {}: {error}", path.display());
            }
            _ => {}
        }
    }

    /// Outputs to the spool, the spool to the disk, what is on disk to the connection.
    fn carry_out(&mut self) {
        let now_us = self.clock.now_us();
        self.gateway.set_tap(self.tap.is_watched());
        self.take_outputs();
        self.spool.handle_timeout(now_us);
        self.report_drops(now_us);
        self.report_problems(now_us);
        self.publish(now_us);
        let (spool, gateway) = (self.spool.counters(), self.gateway.counters());
        metrics::set(&self.metrics.frames, gateway.frames);
        metrics::set(&self.metrics.samples, gateway.samples);
        metrics::set(&self.metrics.envelopes_spooled, spool.spooled);
        metrics::set(&self.metrics.envelopes_dropped, spool.dropped);
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            let (key, bytes, samples, closes) = match output {
                Output::Envelope { key, bytes, samples, closes, .. } => (key, bytes, samples, closes),
                Output::Chunk { batch, record, samples } => {
                    self.spool.push_chunk(batch, record, samples);
                    continue;
                }
                Output::Request { bus, id, payload } => {
                    self.transmissions.push(Transmission::Request { bus, id, payload });
                    continue;
                }
                Output::FlowControl(frame) => {
                    self.transmissions.push(Transmission::Frame(frame));
                    continue;
                }
                Output::Tapped { time_us, row } => {
                    self.tap.put(self.gateway.decoder(), time_us, &row);
                    continue;
                }
            };
            // The manifest travels in the fast lane, in few envelopes: only these are looked into.
            if key.lane == Lane::Fast && holds_manifest(&bytes) {
                self.manifest_keys.truncate(MANIFEST_KEYS_MAX - 1);
                self.manifest_keys.insert(0, key);
            }
            self.spool.push(SpoolEnvelope { key, bytes, samples, closes });
        }
    }

    fn report_drops(&mut self, now_us: i64) {
        let drops = self.spool.take_drops();
        if !drops.is_empty() {
            self.gateway.handle_drops(now_us, &drops);
            self.take_outputs();
            self.spool.handle_timeout(now_us);
        }
    }

    fn publish(&mut self, now_us: i64) {
        if self.read_retry_us.is_some() {
            return;
        }
        let spool = &mut self.spool;
        while let Some(dispatch) =
            self.window.poll_dispatch(now_us, |lane, from| spool.next_unacked(lane, from))
        {
            let bytes = match spool.read(dispatch.lane, dispatch.position, dispatch.again) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    self.window.handle_done(dispatch.lane, dispatch.position..dispatch.position + 1);
                    continue;
                }
                Err(error) => {
                    warn!(lane = %dispatch.lane, "spool cannot be read, trying again: {}", with_causes(&error));
                    self.read_retry_us = Some(now_us.saturating_add(READ_RETRY_US));
                    return;
                }
            };
            let (digest, len) = (PayloadDigest::of(&bytes), bytes.len());
            if !self.uplink.publish(dispatch.lane, dispatch.backfill, bytes) {
                return;
            }
            self.window.handle_sent(now_us, dispatch, digest, len);
            metrics::add(&self.metrics.bytes_published, len as u64);
            metrics::add(&self.metrics.resent, u64::from(dispatch.again));
        }
    }

    /// Closes and spools what is open; `stopped` is whether the end was asked for, or why the source failed.
    async fn stop(
        mut self,
        stopped: Result<bool, RunError>,
        lines_damaged: u64,
    ) -> Result<Summary, RunError> {
        let now_us = self.clock.now_us();
        self.gateway.flush(now_us);
        self.carry_out();
        if !self.spool.flush(now_us) {
            warn!("disk does not take the last envelopes: they are lost with this process");
        }
        self.carry_out();
        self.save_budgets(now_us, true);
        self.save_trouble_codes(now_us, true);
        self.metrics.connected.store(false, Ordering::Relaxed);
        let (spool, gateway) = (self.spool.counters(), self.gateway.counters());
        let summary = Summary {
            frames: gateway.frames,
            samples: gateway.samples,
            envelopes_spooled: spool.spooled,
            envelopes_stored: self.stored,
            envelopes_quarantined: self.quarantined,
            envelopes_dropped: spool.dropped,
            records_damaged: spool.damaged_unknown,
            lines_damaged,
            is_drained: self.spool.is_drained(),
        };
        if !stopped? {
            self.uplink.close().await;
        }
        Ok(summary)
    }
}

/// What earlier lives of the agent left in the spool's directory.
fn known_before(spool: &mut Spool, config: &AgentConfig, manifest_id: ManifestId) -> GatewayConfig {
    let known = state_file::read(spool.disk(), &spool.dir().join(MANIFEST_FILE)).ok().flatten();
    let key = config.campaign_key.as_ref();
    // A spool in memory does not know what the disk that cannot be written still tells.
    let recall = |disk: &dyn Disk| desired::recall(disk, spool.dir(), key, config.vehicle_id);
    let desired = recall(spool.disk()).or_else(|| recall(&SystemDisk));
    GatewayConfig {
        desired: desired.filter(|_| config.takes_cloud_campaigns),
        // An unreadable file means that the manifest is sent once more.
        manifest_known: known.is_some_and(|known| known.trim() == manifest_id.to_string()),
        tails: spool.tails(),
        recovered: spool.take_recovered(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        ..GatewayConfig::new(config.vehicle_id, spool.boot_id(), config.campaigns.clone())
    }
}

/// What a source has ready, without waiting.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn holds_manifest(bytes: &[u8]) -> bool {
    Envelope::parse(bytes)
        .is_ok_and(|envelope| envelope.sections().any(|section| section.kind == SectionKind::Manifest))
}

/// The DBC files with the index of their bus among `buses`.
pub(crate) fn dbc_sources(dbcs: Vec<DbcFile>, buses: &[String]) -> Result<Vec<DbcSource>, RunError> {
    dbcs.into_iter()
        .map(|dbc| {
            let bus = match &dbc.bus {
                None => None,
                Some(bus) => {
                    let at = buses.iter().position(|known| known == bus);
                    let index = at.and_then(|at| u8::try_from(at).ok()).map(BusIndex);
                    Some(index.ok_or_else(|| RunError::UnknownBus {
                        file: dbc.name.clone(),
                        bus: bus.clone(),
                        known: if buses.is_empty() { "none yet".into() } else { buses.join(", ") },
                    })?)
                }
            };
            Ok(DbcSource { name: dbc.name, bytes: dbc.bytes, bus })
        })
        .collect()
}
