//! `cargo xtask bench local`: end to end on one machine, from the first MQTT publish to the last event that is
//! committed in a customer's feed, with durable acknowledgements. This program and `convoy serve` share the machine.
//!
//! | metric | envelopes | vehicles |
//! |---|---|---|
//! | local.samples_per_s | 1,000 samples each, the truck's log over and over | 8, up to 64 envelopes each on their way |
//! | local.envelopes_per_s | 30 samples each | 10,000, up to 512 envelopes of all together on their way |
//!
//! The vehicles share a few connections: what is measured is the way behind the broker, not its number of sockets. A
//! first part of the work warms up and tells how much fills the time of the measurement.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use cloud::Cloud;
use convoy_agent_core::gateway::Output;
use convoy_protocol::envelope::{Envelope, EnvelopeWriter, Header, SectionKind};
use convoy_protocol::id::{EnvelopeKey, Lane};
use convoy_simulator::vehicle::{VirtualVehicle, fleet};
use logs::Log;
use publisher::{Outgoing, Publisher};

#[path = "measure/cloud.rs"]
mod cloud;
#[path = "measure/logs.rs"]
mod logs;
#[path = "measure/metric.rs"]
mod metric;
#[path = "measure/process.rs"]
mod process;
#[path = "measure/publisher.rs"]
mod publisher;

const FLEET_SEED: u64 = 2026;
const CONNECTIONS: usize = 4;
/// How long the measurement should take.
const MEASURED_S: f64 = 8.0;
/// Longest wait for what was acknowledged to be delivered.
const DELIVERED_WITHIN: Duration = Duration::from_secs(120);
const DELIVERED_POLL: Duration = Duration::from_millis(20);

/// One of both measurements.
struct Load {
    batch_samples: u32,
    vehicles: usize,
    window: u32,
    /// Envelopes of the part that warms up.
    warm_up: usize,
    /// Envelopes of the measurement at most.
    envelopes_max: usize,
}

const LARGE: Load =
    Load { batch_samples: 1_000, vehicles: 8, window: 8 * 64, warm_up: 800, envelopes_max: 30_000 };
const SMALL: Load =
    Load { batch_samples: 30, vehicles: 10_000, window: 512, warm_up: 4_000, envelopes_max: 100_000 };

/// A batch whose times count from its envelope's base, so that it can be sent at any time by any vehicle.
struct Body {
    header: Header,
    bytes: Vec<u8>,
    samples: u64,
}

/// The bodies of all full batches of the log.
fn bodies(log: &Log, batch_samples: u32) -> Result<Vec<Body>> {
    let (batches, _) = logs::batches(log, batch_samples);
    let body = |batch: &logs::Batch| {
        let envelope = Envelope::parse(&batch.bytes)?;
        let section = envelope.sections().find(|section| section.kind.is_samples());
        let section = section.context("a batch without samples")?;
        let bytes = section.body()?.into_owned();
        let (columns, _) = section.columns(envelope.header.base_us)?.context("a section without samples")?;
        Ok(Body { header: envelope.header, bytes, samples: columns.samples() as u64 })
    };
    batches.iter().map(body).collect()
}

/// Work that goes round: vehicle after vehicle, each with its next sequence.
struct Work {
    vehicles: Vec<VirtualVehicle>,
    bodies: Vec<Body>,
    /// Length of the log, microseconds.
    log_us: i64,
    /// Added to recorded times, so that the log's first frame is an hour ago.
    shift_us: i64,
    next: usize,
}

impl Work {
    /// The next envelopes, and the samples in them.
    fn take(&mut self, envelopes: usize) -> Result<(Vec<Outgoing>, u64)> {
        let mut outgoing = Vec::with_capacity(envelopes);
        let mut samples = 0;
        for number in self.next..self.next + envelopes {
            let sequence = number / self.vehicles.len();
            let (round, at) = (sequence / self.bodies.len(), sequence % self.bodies.len());
            let vehicle_id = self.vehicles[number % self.vehicles.len()].vehicle_id;
            let body = &self.bodies[at];
            let later_us = self.shift_us + self.log_us * i64::try_from(round)?;
            let header = Header {
                vehicle_id,
                lane: Lane::Bulk,
                sequence: sequence as u64,
                base_us: body.header.base_us + later_us,
                ..body.header
            };
            let mut writer = EnvelopeWriter::new(&header);
            writer.plain(SectionKind::CompactSamples, &body.bytes);
            outgoing.push(Outgoing { vehicle_id, key: header.key(), bytes: writer.finish()? });
            samples += body.samples;
        }
        self.next += envelopes;
        Ok((outgoing, samples))
    }
}

fn work(log: &Log, load: &Load) -> Result<Work> {
    let (first, last) = log.frames.first().zip(log.frames.last()).context("an empty log")?;
    let now_us = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    Ok(Work {
        vehicles: fleet(load.vehicles, FLEET_SEED),
        bodies: bodies(log, load.batch_samples)?,
        log_us: (last.timestamp_us - first.timestamp_us) / 1_000 * 1_000,
        shift_us: (now_us - 3_600_000_000 - first.timestamp_us) / 1_000 * 1_000,
        next: 0,
    })
}

/// What the vehicles say first: their manifest, which is the same for all.
fn check_in(log: &Log, vehicle: &VirtualVehicle) -> Result<Outgoing> {
    let mut gateway = logs::gateway(log, vehicle.vehicle_id, 1_000);
    let Some(Output::Envelope { key, bytes, .. }) = gateway.poll_output() else {
        anyhow::bail!("a gateway begins with its check-in");
    };
    ensure!(key == EnvelopeKey { lane: Lane::Fast, sequence: 0, ..key }, "the check-in is {key}");
    Ok(Outgoing { vehicle_id: vehicle.vehicle_id, key, bytes })
}

/// Seconds from the first publish until the feed holds all samples.
async fn deliver(
    cloud: &Cloud,
    publisher: &mut Publisher,
    (envelopes, samples): (Vec<Outgoing>, u64),
) -> Result<f64> {
    let before = cloud.counters().await?;
    let start = Instant::now();
    publisher.publish(envelopes.into_iter()).await?;
    let deadline = Instant::now() + DELIVERED_WITHIN;
    loop {
        let counters = cloud.counters().await?;
        ensure!(counters.given_up == before.given_up, "the cloud set envelopes aside");
        let delivered = counters.samples_delivered - before.samples_delivered;
        ensure!(delivered <= samples, "{delivered} samples were delivered, {samples} were sent");
        if delivered == samples {
            return Ok(start.elapsed().as_secs_f64());
        }
        ensure!(Instant::now() < deadline, "only {delivered} of {samples} samples were delivered");
        tokio::time::sleep(DELIVERED_POLL).await;
    }
}

/// Envelopes and samples a second.
async fn measure(log: &Log, load: &Load) -> Result<(f64, f64)> {
    let dir = tempfile::tempdir()?;
    let mut work = work(log, load)?;
    let cloud = Cloud::start(&dir.path().join("cloud"))?;
    cloud.onboard(&work.vehicles).await?;
    let mut publisher = Publisher::connect(cloud.mqtt, CONNECTIONS, load.window).await?;
    let first = work.vehicles.first().context("a load has vehicles")?;
    publisher.publish(std::iter::once(check_in(log, first)?)).await?;
    let warm_up_s = deliver(&cloud, &mut publisher, work.take(load.warm_up)?).await?;
    let wanted = (load.warm_up as f64 / warm_up_s * MEASURED_S) as usize;
    let envelopes = wanted.clamp(load.warm_up, load.envelopes_max);
    let (outgoing, samples) = work.take(envelopes)?;
    let seconds = deliver(&cloud, &mut publisher, (outgoing, samples)).await?;
    Ok((envelopes as f64 / seconds, samples as f64 / seconds))
}

#[tokio::main]
async fn main() -> Result<()> {
    // Plain HTTP on loopback, but the client wants to know its TLS; a second install changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let log = logs::truck()?;
    let (_, samples) = measure(&log, &LARGE).await?;
    metric::print("local.samples_per_s", samples, "1/s")?;
    let (envelopes, _) = measure(&log, &SMALL).await?;
    metric::print("local.envelopes_per_s", envelopes, "1/s")
}
