//! `cargo xtask bench wire`: bytes a sample in whole envelopes (header, manifest id and checksum included), and the
//! speed of encoding and decoding them.
//!
//! | set | log | decoded with |
//! |---|---|---|
//! | drive | css-obd2-gnss-drive | `obd2_s01.dbc` on can1, `canmod-gps.dbc` on can9, ids mapped as its SOURCE.md says |
//! | truck | css-j1939-truck-gps | `j1939_excerpt.dbc` by PGN, values that are not available dropped |
//!
//! Every sample in log order, cut by the gateway into batches of at most 1,000 or 10,000 (the samples of a frame stay
//! together); the first 40 full batches count, or all there are.

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use convoy_protocol::columns::Columns;
use convoy_protocol::envelope::{Envelope, EnvelopeWriter, Header, SectionKind};
use convoy_protocol::frame::{CanFrame, CanId};
use convoy_protocol::time::TimeUnit;
use logs::{Batch, Log};

#[path = "measure/logs.rs"]
mod logs;
#[path = "measure/metric.rs"]
mod metric;

const DRIVE_LOG: &str = "css-obd2-gnss-drive/7512BE4D_00000427_00000001_candump.log.gz";
const DRIVE_OBD: &str = "css-obd2-gnss-drive/obd2_s01.dbc";
const DRIVE_GPS: &str = "css-obd2-gnss-drive/canmod-gps.dbc";
const DRIVE_GPS_BUS: &str = "can9";

const BATCHES_MAX: usize = 40;
/// The gateway's own, which `encode` is held against.
const ZSTD_LEVEL: i32 = 3;

fn drive() -> Result<Log> {
    let mut log = logs::load(DRIVE_LOG, &[(DRIVE_OBD, Some("can1")), (DRIVE_GPS, Some(DRIVE_GPS_BUS))])?;
    for frame in &mut log.frames {
        frame.id = as_canmod_gps(frame);
    }
    Ok(log)
}

/// The logger's own GNSS frames are those of a CANmod.gps under other ids, which nothing else in the log has.
fn as_canmod_gps(frame: &CanFrame) -> CanId {
    match frame.id {
        CanId::Standard(id @ 101..=108) => CanId::Standard(id - 100),
        CanId::Standard(111) => CanId::Standard(9),
        id => id,
    }
}

/// Measures one sample set at one batch size, and returns its batches.
fn measure_bytes(set: &str, log: &Log, batch_samples: u32) -> Result<Vec<Batch>> {
    let (mut batches, open) = logs::batches(log, batch_samples);
    batches.truncate(BATCHES_MAX);
    ensure!(!batches.is_empty(), "{set} has only {open} samples, too few for a batch of {batch_samples}");
    let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
    let samples: u64 = batches.iter().map(|batch| u64::from(batch.samples)).sum();
    let name = format!("wire.bytes_per_sample.{set}.{batch_samples}");
    metric::print(&name, bytes as f64 / samples as f64, "B")?;
    Ok(batches)
}

fn decode(bytes: &[u8]) -> Result<(Header, Columns)> {
    let envelope = Envelope::parse(bytes)?;
    let mut sections = envelope.sections().filter(|section| section.kind == SectionKind::Samples);
    let body = sections.next().context("an envelope without samples")?.body()?;
    Ok((envelope.header, Columns::decode(&body, envelope.header.base_us)?))
}

fn encode(header: &Header, columns: &Columns) -> Result<Vec<u8>> {
    let body = columns.encode(header.base_us, TimeUnit::Milliseconds);
    let mut writer = EnvelopeWriter::new(header);
    writer.compressed(SectionKind::Samples, &body, ZSTD_LEVEL);
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
    let (drive, truck) = (drive()?, logs::load(logs::TRUCK_LOG, &[(logs::TRUCK_J1939, None)])?);
    measure_bytes("drive", &drive, 1_000)?;
    measure_bytes("drive", &drive, 10_000)?;
    let batches = measure_bytes("truck", &truck, 1_000)?;
    measure_bytes("truck", &truck, 10_000)?;
    measure_speed(&batches)
}
