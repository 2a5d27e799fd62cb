//! Diagnostic messages of electric cars: ISO-TP with lost frames, UDS by DBC and by signal set.

use std::collections::BTreeMap;

use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::decoder::{Decoder, Row};
use convoy_agent_core::isotp::IsoTpAssembler;
use convoy_agent_core::listen::{IsoTpIds, Listener, Message};
use convoy_agent_core::obd;
use convoy_agent_core::vss::VssMap;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::recording::{OBD_DBC, Statistics, bytes_of_hex, data, decoder, parse_candump, unzip};

/// Diagnostic ids of these cars: requests and answers.
const IDS: [u16; 8] = [0x7A0, 0x7A8, 0x7B3, 0x7BB, 0x7DF, 0x7E4, 0x7EC, 0x7E8];

fn logs() -> [(Vec<CanFrame>, &'static [u8], &'static [u8]); 3] {
    [
        (
            parse_candump(&unzip(data!("css-ev-hyundai-kia-uds/17BD1DB7_00000006_00000170_candump.log.gz"))),
            data!("css-ev-hyundai-kia-uds/golden.isotp.0.json"),
            data!("css-ev-hyundai-kia-uds/golden.decoded.0.json"),
        ),
        (
            parse_candump(&unzip(data!(
                "css-ev-hyundai-kia-uds/2F6913DB_00001089_00000001-63BEF5CD_candump.log.gz"
            ))),
            data!("css-ev-hyundai-kia-uds/golden.isotp.1.json"),
            data!("css-ev-hyundai-kia-uds/golden.decoded.1.json"),
        ),
        (
            parse_candump(&unzip(data!(
                "css-ev-hyundai-kia-uds/2F6913DB_00001089_00000002-63BEFDF9_candump.log.gz"
            ))),
            data!("css-ev-hyundai-kia-uds/golden.isotp.2.json"),
            data!("css-ev-hyundai-kia-uds/golden.decoded.2.json"),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn electric_cars_messages_equal_the_golden_ones_and_37_orphan_frames_corrupt_none() {
    let mut lost = Vec::new();
    for (frames, golden, _) in logs() {
        let golden: Value = serde_json::from_slice(golden).unwrap();
        let mut assembler = IsoTpAssembler::new();
        let (mut hash, mut found) = (Sha256::new(), BTreeMap::new());
        for frame in
            frames.iter().filter(|frame| matches!(frame.id, CanId::Standard(id) if IDS.contains(&id)))
        {
            let sender = (frame.bus, frame.id);
            let Some(message) = assembler.handle_frame(frame.timestamp_us, sender, false, frame.data())
            else {
                continue;
            };
            hash.update(frame.id.bits().to_be_bytes());
            hash.update(message.data());
            let key =
                format!("{:03X}|SID {:02X}|len {}", frame.id.bits(), message.data()[0], message.data().len());
            found.entry(key).or_insert((0u64, hex(message.data()))).0 += 1;
        }
        let counters = assembler.counters();
        assert_eq!(golden["messages"].as_u64(), Some(counters.messages));
        assert_eq!(golden["multi_frame"].as_u64(), Some(counters.multi_frame));
        assert_eq!(
            (assembler.open(), counters.malformed),
            (golden["open_at_end"].as_u64().unwrap() as usize, 0)
        );
        lost.push((golden["orphan_or_bad_cf"].as_u64().unwrap(), counters.orphans, counters.aborted));
        assert_eq!(golden["sha256_concat_id_payload"].as_str(), Some(hex(&hash.finalize()).as_str()));
        let expected = golden["by_id_sid_len"].as_object().unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (key, expected) in expected {
            assert_eq!(expected["count"].as_u64(), Some(found[key].0), "{key}");
            assert_eq!(expected["first_hex"].as_str(), Some(found[key].1.as_str()), "{key}");
        }
    }
    // The golden files count consecutive frames that are outside a message or out of order; messages that are given up
    // because another one begins are not counted there.
    assert_eq!(lost, [(0, 0, 29), (29, 15, 14), (8, 4, 4)]);
}

/// Everything that a log says, as the gateway hears it.
fn heard(decoder: &Decoder, frames: &[CanFrame]) -> Statistics {
    let (mut listener, mut row, mut all) =
        (Listener::new(IsoTpIds::Known), Row::new(), Statistics::default());
    for frame in frames {
        if decoder.decode(frame, &mut row).has_row() {
            all.add_row(decoder.manifest(), &row);
        }
        if let Some(message) = listener.handle_frame(decoder, frame) {
            if message.decode(decoder, &mut row).has_row() {
                all.add_row(decoder.manifest(), &row);
            }
            listener.recycle(message);
        }
    }
    all
}

#[test]
fn a_dbc_longer_than_a_frame_describes_the_message_behind_its_length() {
    let decoder = decoder(&[("tp_uds.dbc", data!("css-ev-hyundai-kia-uds/tp_uds.dbc"), Some(1))]);
    for (frames, _, golden) in logs() {
        let golden: Value = serde_json::from_slice(golden).unwrap();
        let mut by_signal = BTreeMap::new();
        for (name, stats) in heard(&decoder, &frames).0 {
            let signal = name.split_once('.').unwrap().1.to_owned();
            by_signal.entry(signal).or_insert_with(Vec::new).push(stats);
        }
        for (name, expected) in golden["signals"].as_object().unwrap() {
            let found = &by_signal[name];
            assert_eq!(expected["count"].as_u64(), Some(found.iter().map(|one| one.count).sum()), "{name}");
            let least = found.iter().map(|one| one.min).fold(f64::INFINITY, f64::min);
            let most = found.iter().map(|one| one.max).fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(
                (expected["min"].as_f64(), expected["max"].as_f64()),
                (Some(least), Some(most)),
                "{name}"
            );
        }
    }
}

/// The frame in a line of an ELM327 adapter that was told to show ids; some have lost characters, some are two in one.
fn frames_of_line(line: &str) -> Vec<(u16, Vec<u8>)> {
    let line: String = line.chars().filter(|char| !char.is_whitespace()).collect();
    let Some((id, data)) = line.split_at_checked(3) else { return Vec::new() };
    let Ok(id) = u16::from_str_radix(id, 16) else { return Vec::new() };
    let whole = &data[..data.len().min(16)];
    if whole.len() % 2 != 0 || whole.is_empty() {
        return Vec::new();
    }
    bytes_of_hex(whole).map(|bytes| (id, bytes)).into_iter().collect()
}

/// Values of one case, by signal.
fn case_values(decoder: &Decoder, case: &Value) -> BTreeMap<String, f64> {
    let (mut listener, mut row, mut values) = (Listener::new(IsoTpIds::Likely), Row::new(), BTreeMap::new());
    for (at, line) in case["response"].as_array().unwrap().iter().enumerate() {
        for (id, bytes) in frames_of_line(line.as_str().unwrap()) {
            let Ok(frame) =
                CanFrame::new(at as i64 * 1_000, BusIndex(0), CanId::Standard(id & 0x7FF), &bytes)
            else {
                continue;
            };
            let Some(message) = listener.handle_frame(decoder, &frame) else { continue };
            assert!(matches!(message, Message::IsoTp(_)));
            if message.decode(decoder, &mut row).has_row() {
                for (signal, value) in row.iter() {
                    let def = decoder.manifest().signal(signal).unwrap();
                    values.insert(def.name.clone(), value.physical(def));
                }
            }
        }
    }
    values
}

/// The oracle has rounded some values to five decimals.
fn tolerance(expected: f64) -> f64 {
    let text = expected.to_string();
    let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    if (4..=5).contains(&decimals) { 0.5e-5 + 1e-12 } else { 1e-9 * expected.abs() }
}

#[test]
fn every_reproducible_value_of_the_ioniq_5_comes_out_of_its_frames() {
    let decoder = decoder(&[("ioniq5.json", data!("obdb-ioniq5-uds/default.json"), None)]);
    let (mut equal, mut without_answer, mut wrong) = (0, 0, Vec::new());
    for line in unzip(data!("obdb-ioniq5-uds/test_cases_2022_2026.jsonl.gz")).lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let values = case_values(&decoder, &case);
        if values.is_empty() {
            without_answer += 1;
            continue;
        }
        for (name, expected) in case["expected"].as_object().unwrap() {
            let expected = expected.as_f64().unwrap();
            match values.get(name) {
                Some(value) if (value - expected).abs() <= tolerance(expected) => equal += 1,
                value => wrong.push(format!("{}: {name}: {expected} but {value:?}", case["command"])),
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    // Of 20,901 values in 1,270 cases; 88 cases have no whole answer, as an independent reader of the lines found too.
    assert_eq!((equal, without_answer), (19_436, 88));
}

#[test]
fn parameters_that_ship_with_the_agent_equal_the_independent_dbc() {
    let source = DbcSource { name: "obd".into(), bytes: obd::signal_set(), bus: None };
    let (ours, warnings) = dbc::load(&[source], &VssMap::builtin()).unwrap();
    assert_eq!(warnings, []);
    let theirs = decoder(&[("obd2.dbc", OBD_DBC, None)]);
    let (mut row, mut compared) = (Row::new(), 0);
    for pid in 0..=0xFFu8 {
        for seed in 0..16u8 {
            let bytes: Vec<u8> =
                (0..4u8).map(|at| seed.wrapping_mul(73).wrapping_add(at * 59).wrapping_add(pid)).collect();
            // More would be another parameter.
            let len = obd::parameter_bytes(pid).unwrap_or(4);
            let message = [&[2 + len as u8, 0x41, pid][..], &bytes[..len]].concat();
            let padded = [&message[..], &vec![0; 8 - message.len()]].concat();
            let frame = CanFrame::new(0, BusIndex(0), CanId::Standard(0x7E8), &padded).unwrap();
            let mut expected = Vec::new();
            if theirs.decode(&frame, &mut row).has_row() {
                expected = values_of(&theirs, &row).into_iter().map(|(_, value)| value).collect();
            }
            let _ = ours.decode_isotp(BusIndex(0), CanId::Standard(0x7E8), &message, &mut row);
            for (name, value) in values_of(&ours, &row) {
                // One oracle divides by 65,535, the standard by 65,536; pressures are in Pa here and in kPa there.
                let is_equal = |other: &f64| {
                    [1.0, 1e3].iter().any(|unit| (value - other * unit).abs() <= 2e-5 * value.abs().max(1e-9))
                };
                assert!(
                    expected.iter().any(is_equal),
                    "{name} of {pid:02X}: {value} is not among {expected:?}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared >= 58 * 16, "{compared}");
    // The same signals come with 29 bits.
    let wide = CanId::Extended(0x18DA_F110);
    let _ = ours.decode_isotp(BusIndex(0), wide, &[4, 0x41, 0x0C, 0x1A, 0xF8], &mut row);
    let def = ours.manifest().signal(row.signals()[0]).unwrap();
    assert_eq!(
        (def.path.as_str(), values_of(&ours, &row)[0].1),
        ("Vehicle.Powertrain.CombustionEngine.Speed", 1726.0)
    );
}

#[test]
fn every_parameter_of_an_answer_with_several_is_decoded() {
    let source = DbcSource { name: "obd".into(), bytes: obd::signal_set(), bus: None };
    let (decoder, _) = dbc::load(&[source], &VssMap::builtin()).unwrap();
    let mut row = Row::new();
    let answer = [10, 0x41, 0x0C, 0x1A, 0xF8, 0x0D, 50, 0x11, 255, 0x05, 90];
    let outcome = decoder.decode_isotp(BusIndex(0), CanId::Standard(0x7E8), &answer, &mut row);
    assert!(outcome.has_row());
    let expected = [
        ("EngineSpeed", 1_726.0),
        ("VehicleSpeed", 50.0),
        ("ThrottlePosition", 100.0),
        ("EngineCoolantTemperature", 50.0),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(values_of(&decoder, &row), expected);
    // Every parameter that is described is as long as its signals take, or longer.
    for line in include_str!("../../src/obd_pids.csv").lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let pid = u8::from_str_radix(fields[0], 16).unwrap();
        let end = fields[2].parse::<usize>().unwrap() + fields[3].parse::<usize>().unwrap();
        let bytes = obd::parameter_bytes(pid).unwrap_or_else(|| panic!("{pid:02X} has no length"));
        assert!(end <= bytes * 8, "{line}");
    }
}

fn values_of(decoder: &Decoder, row: &Row) -> Vec<(String, f64)> {
    let value = |(signal, value): (_, convoy_agent_core::decoder::RawValue)| {
        let def = decoder.manifest().signal(signal).unwrap();
        (def.name.clone(), value.physical(def))
    };
    row.iter().map(value).collect()
}
