//! The recorded logs of `tests/data`, their decoders, and the envelopes that a gateway makes of them.
#![allow(dead_code, reason = "each measuring program uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use convoy_agent::log::LogInput;
use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::decoder::Decoder;
use convoy_agent_core::gateway::{FrameTimes, Gateway, GatewayConfig, Output};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::campaign::{Campaign, WINDOW_MS_MAX};
use convoy_protocol::frame::{CanFrame, CanId};
use convoy_protocol::id::{BootId, VehicleId};
use convoy_protocol::time::ClockQuality;
use convoy_simulator::recording::Recording;

pub(crate) const TRUCK_LOG: &str = "css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz";
pub(crate) const TRUCK_J1939: &str = "css-j1939-truck-gps/j1939_excerpt.dbc";
pub(crate) const TRUCK_GPS: &str = "css-j1939-truck-gps/canmod-gps.dbc";
pub(crate) const TRUCK_GPS_BUS: &str = "can2";

const DRIVE_LOG: &str = "css-obd2-gnss-drive/7512BE4D_00000427_00000001_candump.log.gz";
const DRIVE_OBD: &str = "css-obd2-gnss-drive/obd2_s01.dbc";
const DRIVE_GPS: &str = "css-obd2-gnss-drive/canmod-gps.dbc";
const DRIVE_GPS_BUS: &str = "can9";

/// A log in memory and what its frames mean.
pub(crate) struct Log {
    pub(crate) frames: Vec<CanFrame>,
    pub(crate) decoder: Arc<Decoder>,
}

/// A file of `tests/data`.
pub(crate) fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(path)
}

/// Reads a log and the DBC files that describe it, each for one bus or, without one, for all.
pub(crate) fn load(log: &str, dbcs: &[(&str, Option<&str>)]) -> Result<Log> {
    let recording = Recording::read(&LogInput::File(data(log))).with_context(|| format!("read {log}"))?;
    ensure!(recording.lines.damage().is_none(), "{log} has damaged lines");
    let source = |(path, bus): &(&str, Option<&str>)| -> Result<DbcSource> {
        let bytes = std::fs::read(data(path)).with_context(|| format!("read {path}"))?;
        let index = |name| recording.bus(name).with_context(|| format!("{log} has no bus {name}"));
        Ok(DbcSource { name: (*path).to_owned(), bytes, bus: bus.map(index).transpose()? })
    };
    let sources = dbcs.iter().map(source).collect::<Result<Vec<_>>>()?;
    let (decoder, _) = dbc::load(&sources, &VssMap::builtin())?;
    Ok(Log { frames: recording.frames.to_vec(), decoder: Arc::new(decoder) })
}

/// The truck with all that is known of it: J1939 by PGN, and its GNSS receiver.
pub(crate) fn truck() -> Result<Log> {
    load(TRUCK_LOG, &[(TRUCK_J1939, None), (TRUCK_GPS, Some(TRUCK_GPS_BUS))])
}

/// Half an hour in a passenger car: OBD-II answers and GNSS.
pub(crate) fn drive() -> Result<Log> {
    let mut log = load(DRIVE_LOG, &[(DRIVE_OBD, Some("can1")), (DRIVE_GPS, Some(DRIVE_GPS_BUS))])?;
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

/// An envelope with samples, as a gateway made it.
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) samples: u32,
}

/// A gateway that takes every sample and closes a batch at `batch_samples`; its first output is its check-in with
/// the manifest.
pub(crate) fn gateway(log: &Log, vehicle_id: VehicleId, batch_samples: u32) -> Gateway {
    let every_sample = Campaign { window_ms: WINDOW_MS_MAX, batch_samples, ..Campaign::everything() };
    gateway_with(log, vehicle_id, every_sample)
}

/// A gateway that runs one campaign.
pub(crate) fn gateway_with(log: &Log, vehicle_id: VehicleId, campaign: Campaign) -> Gateway {
    let boot_id = BootId { counter: 1, spool: 0x9f3c_0a6b_e21d_4477 };
    let config = GatewayConfig {
        agent_version: env!("CARGO_PKG_VERSION").into(),
        clock: ClockQuality::Ntp,
        monotonic_offset_us: 1_600_000_000_000_000,
        frame_times: FrameTimes::Recorded,
        ..GatewayConfig::new(vehicle_id, boot_id, vec![campaign])
    };
    let now_us = log.frames.first().map_or(0, |frame| frame.timestamp_us);
    Gateway::new(config, Arc::clone(&log.decoder), now_us)
}

/// The batches that the log's samples fill in their order, and the samples left over in the open one.
pub(crate) fn batches(log: &Log, batch_samples: u32) -> (Vec<Batch>, u64) {
    let mut gateway = gateway(log, VehicleId([0x5a; 16]), batch_samples);
    let mut batches = Vec::new();
    for frame in &log.frames {
        gateway.handle_frame(frame.timestamp_us, frame);
        while let Some(Output::Envelope { bytes, samples, .. }) = gateway.poll_output() {
            // What has no samples is the check-in and the trouble codes.
            if samples > 0 {
                batches.push(Batch { bytes, samples });
            }
        }
    }
    (batches, gateway.open_samples())
}
