//! What the recordings of this repository hold, and what they must not hold: the originals are in `tests/data`.

use std::path::Path;

use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::decoder::{Outcome, Row};
use convoy_agent_core::isotp::IsoTpAssembler;
use convoy_agent_core::j1939::{Dm1, J1939Id, Pgn, TpAssembler};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::frame::CanId;

use super::*;

const KINDS: [VehicleKind; 2] = [VehicleKind::Car, VehicleKind::Truck];
/// 2000-01-01T00:00:00Z: where the times of scrubbed recordings begin.
const START_US: i64 = 946_684_800_000_000;
const SECOND_US: i64 = 1_000_000;

fn original(kind: VehicleKind) -> Recording {
    let log = match kind {
        VehicleKind::Car => "css-obd2-gnss-drive/7512BE4D_00000427_00000001_candump.log.gz",
        VehicleKind::Truck => "css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz",
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(log);
    Recording::read(&LogInput::File(path)).unwrap()
}

fn gnss_bus(recording: &Recording, kind: VehicleKind) -> BusIndex {
    let name = match kind {
        VehicleKind::Car => "can9",
        VehicleKind::Truck => "can2",
    };
    recording.bus(name).unwrap()
}

/// Every message that ISO-TP and J1939 transport put together.
fn messages(recording: &Recording) -> Vec<Vec<u8>> {
    let (mut isotp, mut tp) = (IsoTpAssembler::new(), TpAssembler::new());
    let mut messages = Vec::new();
    for frame in recording.frames.iter() {
        let (time_us, bus) = (frame.timestamp_us, frame.bus);
        match frame.id {
            CanId::Standard(_) => {
                let message = isotp.handle_frame(time_us, (bus, frame.id), false, frame.data());
                messages.extend(message.map(|message| message.data().to_vec()));
            }
            CanId::Extended(id) => {
                messages.extend(tp.handle_frame(time_us, bus, id, frame.data()).map(|message| message.data));
            }
        }
    }
    messages
}

/// The VIN characters of OBD-II responses (service 09, PID 02).
fn vins(recording: &Recording) -> Vec<Vec<u8>> {
    let vin = |message: &Vec<u8>| message.strip_prefix(&[0x49, 0x02, 0x01]).map(<[u8]>::to_vec);
    messages(recording).iter().filter_map(vin).collect()
}

fn holds(data: &[u8], part: &[u8]) -> bool {
    data.windows(part.len()).any(|window| window == part)
}

#[test]
fn recordings_are_read_without_a_damaged_line_and_in_order() {
    for (kind, seconds, frames_min) in [(VehicleKind::Car, 600, 16_000), (VehicleKind::Truck, 127, 57_000)] {
        let recording = Recording::of_kind(kind);
        assert_eq!(recording.lines.damaged, 0);
        assert_eq!(recording.lines.frames, recording.frames.len() as u64);
        assert!(recording.frames.len() > frames_min, "{}", recording.frames.len());
        assert!(recording.frames.is_sorted_by_key(|frame| frame.timestamp_us));
        let (first, last) = (recording.frames[0], recording.frames[recording.frames.len() - 1]);
        assert_eq!(first.timestamp_us, START_US, "times tell nothing about the day of the drive");
        assert_eq!((last.timestamp_us - START_US) / SECOND_US, seconds - i64::from(kind == VehicleKind::Car));
    }
}

#[test]
fn a_recording_is_parsed_once_and_shared() {
    let (one, two) = (Recording::of_kind(VehicleKind::Car), Recording::of_kind(VehicleKind::Car));
    assert!(Arc::ptr_eq(&one.frames, &two.frames));
}

#[test]
fn recorded_vin_is_gone_and_zeros_are_in_its_place() {
    let original = original(VehicleKind::Car);
    let recorded = vins(&original);
    let [vin] = &recorded[..] else { panic!("the car told {} VINs", recorded.len()) };
    assert_eq!(vin.len(), 17);
    // What a first and each consecutive frame carries of it.
    let parts = [&vin[..3], &vin[3..10], &vin[10..]];
    let holds_part = |frame: &CanFrame| parts.iter().any(|part| frame.data().ends_with(part));
    assert_eq!(original.frames.iter().filter(|frame| holds_part(frame)).count(), 3);
    assert_eq!(vins(&Recording::of_kind(VehicleKind::Car)), [vec![b'0'; 17]]);
    for kind in KINDS {
        let recording = Recording::of_kind(kind);
        assert!(messages(&recording).iter().all(|message| !holds(message, vin)));
        assert!(!recording.frames.iter().any(holds_part));
    }
}

#[test]
fn no_message_identifies_a_truck() {
    let telling = [Pgn::VEHICLE_IDENTIFICATION, Pgn::new(65_259), Pgn::new(65_267), Pgn::new(65_254)];
    for kind in KINDS {
        let recording = Recording::of_kind(kind);
        for frame in recording.frames.iter() {
            let CanId::Extended(id) = frame.id else { continue };
            let announced = match (J1939Id::split(id).pgn, frame.data()) {
                (Pgn::TP_CM, &[_, _, _, _, _, low, middle, high]) => {
                    Pgn::new(u32::from_le_bytes([low, middle, high, 0]))
                }
                (pgn, _) => pgn,
            };
            assert!(!telling.contains(&announced), "{announced:?}");
        }
    }
}

#[test]
fn every_position_and_heading_is_zero_and_time_and_altitude_are_gone() {
    for kind in KINDS {
        let recording = Recording::of_kind(kind);
        let bus = gnss_bus(&recording, kind);
        let source = DbcSource { name: "gps".into(), bytes: GPS_DBC.to_vec(), bus: Some(bus) };
        let (decoder, _) = dbc::load(&[source], &VssMap::builtin()).unwrap();
        let (mut row, mut positions) = (Row::new(), 0);
        for frame in recording.frames.iter().filter(|frame| frame.bus == bus) {
            let kept = matches!(frame.id, CanId::Standard(1 | 3 | 5..=9));
            // The car's logger sends a shorter gnss_odo than CANmod.gps.
            let expected = if frame.data().len() == 3 { Outcome::TooShort } else { Outcome::Decoded };
            assert!(kept && decoder.decode(frame, &mut row) == expected, "{}", frame.id);
            for (signal, value) in row.iter() {
                let def = decoder.manifest().signal(signal).unwrap();
                if matches!(def.name.as_str(), "Latitude" | "Longitude" | "Heading") {
                    assert_eq!(value.physical(def), 0.0, "{}", def.name);
                    positions += 1;
                }
            }
        }
        assert!(positions > 200, "{positions}");
        assert!(
            recording
                .frames
                .iter()
                .all(|frame| frame.bus == bus || !matches!(frame.id, CanId::Standard(..=111)))
        );
    }
}

/// The frames that scrubbing does not touch, with the ids of the car's logger replaced.
fn untouched(recording: &Recording, kind: VehicleKind, end_us: i64) -> Vec<CanFrame> {
    let bus = gnss_bus(recording, kind);
    let start_us = recording.frames[0].timestamp_us;
    let shifted = |frame: &CanFrame| {
        let mut frame = *frame;
        frame.timestamp_us -= start_us;
        frame.id = match frame.id {
            CanId::Standard(id @ 101..=108) if frame.bus == bus => CanId::Standard(id - 100),
            CanId::Standard(111) if frame.bus == bus => CanId::Standard(9),
            id => id,
        };
        frame
    };
    let is_vin = |frame: &CanFrame| {
        frame.id == CanId::Standard(0x7E8)
            && (frame.data().starts_with(&[0x10, 0x14]) || matches!(frame.data()[0], 0x21 | 0x22))
    };
    let is_touched =
        |frame: &CanFrame| is_vin(frame) || (frame.bus == bus && matches!(frame.id, CanId::Standard(2..=5)));
    recording
        .frames
        .iter()
        .map(shifted)
        .filter(|frame| frame.timestamp_us < end_us && !is_touched(frame))
        .collect()
}

#[test]
fn everything_else_is_as_it_was_recorded() {
    for (kind, end_us) in [(VehicleKind::Car, 600 * SECOND_US), (VehicleKind::Truck, i64::MAX)] {
        let expected = untouched(&original(kind), kind, end_us);
        let got = untouched(&Recording::of_kind(kind), kind, end_us);
        assert_eq!(got.len(), expected.len());
        let differs = got.iter().zip(&expected).find(|(got, expected)| got != expected);
        assert_eq!(differs, None);
    }
}

#[test]
fn truck_reports_its_four_trouble_codes_over_transport() {
    let recording = Recording::of_kind(VehicleKind::Truck);
    let mut tp = TpAssembler::new();
    let mut counts = Vec::new();
    for frame in recording.frames.iter() {
        let CanId::Extended(id) = frame.id else { continue };
        let message = tp.handle_frame(frame.timestamp_us, frame.bus, id, frame.data());
        let dm1 = message.as_ref().filter(|message| message.pgn == Pgn::DM1);
        counts.extend(dm1.and_then(|dm1| Dm1::parse(&dm1.data)).map(|dm1| dm1.dtcs().count()));
    }
    assert_eq!(counts, [4; 127]);
}
