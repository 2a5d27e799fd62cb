//! Takes everything personal out of a candump log, so that it can be replayed in a demo.
//!
//! ```text
//! cargo run -p convoy-simulator --example scrub_recording -- INPUT OUTPUT.log.gz GNSS_BUS [SECONDS]
//! ```
//!
//! | in the log | becomes |
//! |---|---|
//! | VIN of an OBD-II response (service 09, PID 02) | `0` for every character |
//! | ids 101 to 108 and 111 on GNSS_BUS (a CANedge's own GNSS) | 1 to 8 and 9, as in `canmod-gps.dbc` |
//! | `gnss_pos` (3) | latitude and longitude 0 |
//! | `gnss_attitude` (5) | heading 0 |
//! | `gnss_time` (2), `gnss_altitude` (4) | removed |
//! | times | begin at 2000-01-01T00:00:00Z, distances stay |
//!
//! It refuses a log with J1939 messages that identify or place a vehicle, with VIN characters that are still
//! found afterwards, and with damaged lines.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use convoy_agent::log::LogInput;
use convoy_agent_core::isotp::IsoTpAssembler;
use convoy_agent_core::j1939::{J1939Id, Pgn, TpAssembler};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_simulator::disguise::{GNSS_POS_ID, VinRewrite, overwrite, set_position};
use convoy_simulator::recording::Recording;
use convoy_simulator::route::Position;
use convoy_simulator::vehicle::VIN_LEN;
use flate2::Compression;
use flate2::write::GzEncoder;

/// 2000-01-01T00:00:00Z, microseconds since the Unix epoch.
const START_US: i64 = 946_684_800_000_000;
const USAGE: &str = "expected INPUT OUTPUT.log.gz GNSS_BUS [SECONDS]";

const GNSS_TIME_ID: CanId = CanId::Standard(2);
const GNSS_ALTITUDE_ID: CanId = CanId::Standard(4);
const GNSS_ATTITUDE_ID: CanId = CanId::Standard(5);

/// J1939 messages that name the vehicle or the component, or tell where and when it was: vehicle and component
/// identification, software identification, position, direction and speed, time and date.
const TELLING_PGNS: [u32; 6] = [65_260, 65_259, 65_242, 65_267, 65_256, 65_254];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (input, output, bus, seconds) = match &arguments[..] {
        [input, output, bus] => (input, output, bus, None),
        [input, output, bus, seconds] => {
            (input, output, bus, Some(seconds.parse::<i64>().context("SECONDS")?))
        }
        _ => bail!(USAGE),
    };
    let recording =
        Recording::read(&LogInput::File(PathBuf::from(input))).with_context(|| format!("read {input}"))?;
    if let Some(damage) = recording.lines.damage() {
        bail!("{input} has damaged lines: {damage}");
    }
    let gnss_bus = recording.bus(bus).with_context(|| format!("{input} has no bus {bus}"))?;
    let scrubbed = scrub(&recording, gnss_bus, seconds);
    check(&recording.frames, &scrubbed)?;
    write(output, &scrubbed, &recording.buses).with_context(|| format!("write {output}"))
}

fn scrub(recording: &Recording, gnss_bus: BusIndex, seconds: Option<i64>) -> Vec<CanFrame> {
    let first_us = recording.frames.first().map_or(0, |frame| frame.timestamp_us);
    let end_us = seconds.map_or(i64::MAX, |seconds| seconds.saturating_mul(1_000_000));
    let mut vin = VinRewrite::new([b'0'; VIN_LEN]);
    let mut scrubbed = Vec::new();
    for frame in recording.frames.iter() {
        let elapsed_us = frame.timestamp_us - first_us;
        if elapsed_us >= end_us {
            break;
        }
        let mut frame = *frame;
        frame.timestamp_us = START_US + elapsed_us;
        vin.rewrite(&mut frame);
        if frame.bus != gnss_bus || keep_gnss(&mut frame) {
            scrubbed.push(frame);
        }
    }
    scrubbed
}

/// Gives a GNSS frame its CANmod id and takes out where it was; false where nothing would be left.
fn keep_gnss(frame: &mut CanFrame) -> bool {
    frame.id = match frame.id {
        CanId::Standard(id @ 101..=108) => CanId::Standard(id - 100),
        CanId::Standard(111) => CanId::Standard(9),
        id => id,
    };
    match frame.id {
        GNSS_TIME_ID | GNSS_ALTITUDE_ID => return false,
        GNSS_POS_ID => set_position(frame, Position::ZERO),
        GNSS_ATTITUDE_ID => {
            // Heading is bits 43 to 54.
            const HEADING_BITS: u64 = 0xFFF << 43;
            let bits = u64::from_le_bytes(frame.first_8()) & !HEADING_BITS;
            overwrite(frame, 0, &bits.to_le_bytes());
        }
        _ => {}
    }
    true
}

/// Refuses what the rules above do not cover.
fn check(original: &[CanFrame], scrubbed: &[CanFrame]) -> anyhow::Result<()> {
    for frame in scrubbed {
        let CanId::Extended(id) = frame.id else { continue };
        let pgn = match (J1939Id::split(id).pgn, frame.data()) {
            (Pgn::TP_CM, &[_, _, _, _, _, low, middle, high]) => {
                Pgn::new(u32::from_le_bytes([low, middle, high, 0]))
            }
            (pgn, _) => pgn,
        };
        ensure!(
            !TELLING_PGNS.contains(&pgn.bits()),
            "the log holds J1939 group {}, which identifies or places the vehicle; there is no rule for it",
            pgn.bits()
        );
    }
    let vins: Vec<Vec<u8>> = messages(original).iter().filter_map(|message| vin_of(message)).collect();
    let left = messages(scrubbed).iter().any(|message| vins.iter().any(|vin| holds(message, vin)));
    ensure!(!left, "the recorded VIN is still in a message; there is no rule for it");
    Ok(())
}

/// Every message that ISO-TP and J1939 transport put together, and every payload.
fn messages(frames: &[CanFrame]) -> Vec<Vec<u8>> {
    let (mut isotp, mut tp) = (IsoTpAssembler::new(), TpAssembler::new());
    let mut messages = Vec::new();
    for frame in frames {
        let (time_us, bus) = (frame.timestamp_us, frame.bus);
        messages.push(frame.data().to_vec());
        messages.extend(
            isotp
                .handle_frame(time_us, (bus, frame.id), false, frame.data())
                .map(|message| message.data().to_vec()),
        );
        if let CanId::Extended(id) = frame.id {
            messages.extend(tp.handle_frame(time_us, bus, id, frame.data()).map(|message| message.data));
        }
    }
    messages
}

fn vin_of(message: &[u8]) -> Option<Vec<u8>> {
    message.strip_prefix(&[0x49, 0x02, 0x01]).map(<[u8]>::to_vec)
}

fn holds(data: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && data.windows(part.len()).any(|window| window == part)
}

fn write(path: &str, frames: &[CanFrame], buses: &[String]) -> anyhow::Result<()> {
    let mut log = GzEncoder::new(BufWriter::new(File::create(path)?), Compression::best());
    for frame in frames {
        let (seconds, micros) = (frame.timestamp_us / 1_000_000, frame.timestamp_us % 1_000_000);
        let bus = buses.get(usize::from(frame.bus.0)).context("a frame is on an unknown bus")?;
        let id = match frame.id {
            CanId::Standard(id) => format!("{id:03X}"),
            CanId::Extended(id) => format!("{id:08X}"),
        };
        let separator = if frame.data().len() > 8 { "##0" } else { "#" };
        let data: String = frame.data().iter().map(|byte| format!("{byte:02X}")).collect();
        writeln!(log, "({seconds}.{micros:06}) {bus} {id}{separator}{data}")?;
    }
    log.finish()?.flush()?;
    Ok(())
}
