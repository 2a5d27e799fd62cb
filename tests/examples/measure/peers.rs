//! What the same samples cost elsewhere: AWS IoT FleetWise's `VehicleData` under snappy, and flat JSON.
//!
//! VehicleData as its edge agent documents it: a header of about 178 bytes with typical ARNs, then for each sample a
//! captured signal {sint64 relative_time_ms = 1, uint32 signal_id = 2, double value = 3} in protobuf.

use anyhow::Result;
use convoy_protocol::columns::{Columns, Values};

/// Bytes of campaign and decoder ARNs, event id and time.
const FLEETWISE_HEADER_BYTES: usize = 178;

/// A sample as others send it.
pub(crate) struct Sample {
    pub(crate) time_us: i64,
    pub(crate) signal: u32,
    pub(crate) value: f64,
}

/// All samples in the order of their times.
pub(crate) fn samples(columns: &Columns) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(columns.samples());
    for group in &columns.groups {
        for column in &group.columns {
            for (row, time_us) in group.times_us.iter().enumerate() {
                let value = match &column.values {
                    Values::Raw(values) => values[row] as f64,
                    Values::F32(values) => f64::from(values[row]),
                    Values::F64(values) => values[row],
                    Values::Bool(values) => f64::from(u8::from(values[row])),
                    Values::Text(_) => continue,
                };
                samples.push(Sample { time_us: *time_us, signal: column.signal.0, value });
            }
        }
    }
    samples.sort_by_key(|sample| sample.time_us);
    samples
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes of one FleetWise message, compressed.
pub(crate) fn fleetwise(samples: &[Sample]) -> Result<usize> {
    let base_ms = samples.first().map_or(0, |sample| sample.time_us / 1_000);
    // Text that compresses about as ARNs do: letters and digits, nothing repeated.
    let mut message: Vec<u8> =
        (0..FLEETWISE_HEADER_BYTES).map(|at| b"0123456789abcdef"[at * 7 % 16]).collect();
    for sample in samples {
        let mut signal = Vec::with_capacity(20);
        let relative_ms = sample.time_us / 1_000 - base_ms;
        signal.push(0x08);
        varint(&mut signal, ((relative_ms << 1) ^ (relative_ms >> 63)) as u64);
        signal.push(0x10);
        varint(&mut signal, u64::from(sample.signal));
        signal.push(0x19);
        signal.extend_from_slice(&sample.value.to_le_bytes());
        message.push(0x2a);
        varint(&mut message, signal.len() as u64);
        message.extend_from_slice(&signal);
    }
    Ok(snap::raw::Encoder::new().compress_vec(&message)?.len())
}

/// Bytes of the samples as flat JSON, compressed with zstd 3.
pub(crate) fn json(samples: &[Sample]) -> Result<usize> {
    let flat: Vec<_> = samples
        .iter()
        .map(|sample| serde_json::json!({"t": sample.time_us / 1_000, "n": format!("signal{}", sample.signal), "v": sample.value}))
        .collect();
    Ok(zstd::bulk::compress(&serde_json::to_vec(&flat)?, 3)?.len())
}
