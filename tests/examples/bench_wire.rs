//! `cargo xtask bench wire`: bytes a sample in whole envelopes (header, manifest id and checksum included), and the
//! speed of encoding and decoding them.
//!
//! | set | log | decoded with |
//! |---|---|---|
//! | drive | css-obd2-gnss-drive | `obd2_s01.dbc` on can1, `canmod-gps.dbc` on can9, ids mapped as its SOURCE.md says |
//! | truck | css-j1939-truck-gps | `j1939_excerpt.dbc` by PGN, values that are not available dropped |
//!
//! Beside them what FleetWise's VehicleData and JSON take for the same samples.
//!
//! Every sample in log order, cut by the gateway into batches of at most 1,000 or 10,000 (the samples of a frame stay
//! together); the first 40 full batches count, or all there are.

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use convoy_protocol::columns::{Column, Columns, Group, Values};
use convoy_protocol::compact;
use convoy_protocol::envelope::{Envelope, EnvelopeWriter, Header, SectionKind};
use convoy_protocol::id::{BootId, CampaignId, Lane, ManifestId, VehicleId};
use convoy_protocol::manifest::SignalIndex;
use convoy_protocol::time::{ClockQuality, TimeUnit};
use logs::{Batch, Log};

#[path = "measure/logs.rs"]
mod logs;
#[path = "measure/metric.rs"]
mod metric;
#[path = "measure/peers.rs"]
mod peers;

const BATCHES_MAX: usize = 40;
/// 2023-11-14T22:13:20Z.
const START_US: i64 = 1_700_000_000_000_000;

/// Measures one sample set at one batch size, beside what others take for the same batches, and returns these.
fn measure_bytes(set: &str, log: &Log, batch_samples: u32) -> Result<Vec<Batch>> {
    let (mut batches, open) = logs::batches(log, batch_samples);
    batches.truncate(BATCHES_MAX);
    ensure!(!batches.is_empty(), "{set} has only {open} samples, too few for a batch of {batch_samples}");
    let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
    let samples: u64 = batches.iter().map(|batch| u64::from(batch.samples)).sum();
    let (mut fleetwise, mut json) = (0, 0);
    for batch in &batches {
        let flat = peers::samples(&decode(&batch.bytes)?.1);
        fleetwise += peers::fleetwise(&flat)?;
        json += peers::json(&flat)?;
    }
    let a_sample = |bytes: usize| bytes as f64 / samples as f64;
    let name = format!("wire.bytes_per_sample.{set}.{batch_samples}");
    metric::print_beside(&name, a_sample(bytes), "B", ("fleetwise+snappy", a_sample(fleetwise)))?;
    let name = format!("wire.json_bytes_per_sample.{set}.{batch_samples}");
    metric::print(&name, a_sample(json), "B")?;
    Ok(batches)
}

/// The worst case: a thousand signals, each once, with random values at random times.
fn measure_random() -> Result<()> {
    let (mut state, mut groups) = (1u64, Vec::new());
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for signal in 0..1_000 {
        let time_us = START_US + (random() % 1_000) as i64 * 1_000;
        let values = Values::Raw(vec![i64::from(random() as u16)]);
        let column = Column { signal: SignalIndex(signal), values };
        groups.push(Group { times_us: vec![time_us], columns: vec![column] });
    }
    let columns = Columns { groups };
    let ours = encode(&random_header(), &columns)?.len();
    let fleetwise = peers::fleetwise(&peers::samples(&columns))?;
    ensure!(ours <= fleetwise, "{ours} bytes are more than FleetWise's {fleetwise}");
    let a_sample = |bytes: usize| bytes as f64 / 1_000.0;
    metric::print_beside(
        "wire.bytes_per_sample.random.1000",
        a_sample(ours),
        "B",
        ("fleetwise+snappy", a_sample(fleetwise)),
    )
}

fn random_header() -> Header {
    Header {
        vehicle_id: VehicleId([0x5a; 16]),
        boot_id: BootId { counter: 1, spool: 0x9f3c_0a6b_e21d_4477 },
        lane: Lane::Bulk,
        sequence: 0,
        base_us: START_US,
        monotonic_offset_us: START_US,
        clock: ClockQuality::Ntp,
        manifest_id: Some(ManifestId([7; 16])),
        campaign_id: Some(CampaignId([7; 8])),
    }
}

fn decode(bytes: &[u8]) -> Result<(Header, Columns)> {
    let envelope = Envelope::parse(bytes)?;
    let section = envelope.sections().find(|section| section.kind.is_samples());
    let columns = section.context("an envelope without samples")?.columns(envelope.header.base_us)?;
    Ok((envelope.header, columns.context("a section without samples")?.0))
}

fn encode(header: &Header, columns: &Columns) -> Result<Vec<u8>> {
    let mut writer = EnvelopeWriter::new(header);
    writer.plain(
        SectionKind::CompactSamples,
        &compact::encode(columns, header.base_us, TimeUnit::Milliseconds),
    );
    Ok(writer.finish()?)
}

/// Columns to envelope and back, without the gateway before it.
fn measure_speed(batches: &[Batch]) -> Result<()> {
    let decoded = batches.iter().map(|batch| decode(&batch.bytes)).collect::<Result<Vec<_>>>()?;
    for (batch, (header, columns)) in batches.iter().zip(&decoded) {
        ensure!(encode(header, columns)? == batch.bytes, "this program encodes otherwise than the gateway");
    }
    let samples: u64 = batches.iter().map(|batch| u64::from(batch.samples)).sum();
    let encoding = metric::best_rate(|| {
        for (header, columns) in &decoded {
            black_box(encode(header, columns)?);
        }
        Ok(samples)
    })?;
    metric::print("wire.encode_samples_per_s", encoding, "1/s")?;
    let decoding = metric::best_rate(|| {
        for batch in batches {
            black_box(decode(&batch.bytes)?);
        }
        Ok(samples)
    })?;
    metric::print("wire.decode_samples_per_s", decoding, "1/s")
}

fn main() -> Result<()> {
    let (drive, truck) = (logs::drive()?, logs::load(logs::TRUCK_LOG, &[(logs::TRUCK_J1939, None)])?);
    measure_bytes("drive", &drive, 1_000)?;
    measure_bytes("drive", &drive, 10_000)?;
    let batches = measure_bytes("truck", &truck, 1_000)?;
    measure_bytes("truck", &truck, 10_000)?;
    measure_random()?;
    measure_speed(&batches)
}
