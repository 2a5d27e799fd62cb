//! Signal values against cantools, and what becomes of frames without values.

use std::collections::BTreeMap;

use convoy_agent_core::dbc::{self, DbcError, WarningReason};
use convoy_agent_core::decoder::{Decoder, Outcome, RawValue, Row};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};

use crate::recording::{
    GPS_DBC, J1939_DBC, OBD_DBC, Statistics, assert_close, bytes_of_hex, data, decoder, drive, drive_decoder,
    source, tp_short, truck, truck_decoder, unzip,
};

fn statistics(decoder: &Decoder, frames: &[CanFrame]) -> (Statistics, BTreeMap<String, u64>) {
    let (mut statistics, mut outcomes, mut row) =
        (Statistics::default(), BTreeMap::<String, u64>::new(), Row::new());
    for frame in frames {
        let outcome = decoder.decode(frame, &mut row);
        *outcomes.entry(format!("{outcome:?}")).or_default() += 1;
        statistics.add_row(decoder.manifest(), &row);
    }
    (statistics, outcomes)
}

#[test]
fn truck_values_equal_the_golden_ones() {
    let mut decoder = decoder(&[("j1939.dbc", J1939_DBC, None)]);
    let (dropped, outcomes) = statistics(&decoder, &truck());
    assert_eq!(outcomes["Decoded"], 26_456);
    dropped.assert_golden_valid(data!("css-j1939-truck-gps/golden.j1939.json"));
    decoder.keep_not_available(true);
    let (all, _) = statistics(&decoder, &truck());
    all.assert_golden(data!("css-j1939-truck-gps/golden.j1939.json"));
}

#[test]
fn truck_positions_equal_the_golden_ones() {
    let decoder = decoder(&[("canmod-gps.dbc", GPS_DBC, None)]);
    statistics(&decoder, &truck()).0.assert_golden(data!("css-j1939-truck-gps/golden.gps.json"));
}

#[test]
fn short_j1939_log_equals_the_golden_values() {
    let mut decoder = decoder(&[("j1939.dbc", J1939_DBC, None)]);
    let golden = data!("css-j1939-tp-short/golden.j1939.json");
    statistics(&decoder, &tp_short()).0.assert_golden_valid(golden);
    decoder.keep_not_available(true);
    statistics(&decoder, &tp_short()).0.assert_golden(golden);
}

#[test]
fn drive_values_equal_the_golden_ones() {
    let decoder = drive_decoder();
    let (all, outcomes) = statistics(&decoder, &drive());
    all.of_messages(|name| name.starts_with("OBD2"))
        .assert_golden(data!("css-obd2-gnss-drive/golden.obd2.json"));
    all.of_messages(|name| name.starts_with("gnss") && !name.starts_with("gnss_odo"))
        .assert_golden(data!("css-obd2-gnss-drive/golden.gnss.json"));
    // cantools refuses these frames, which are 3 bytes of 8: two signals lie in them.
    assert_eq!((all.0["gnss_odo.DistanceTrip"].count, all.0["gnss_odo.DistanceValid"].count), (1_624, 1_624));
    // PIDs without a signal, and odometer frames shorter than their message.
    assert_eq!((outcomes["MuxUnmatched"], outcomes["TooShort"]), (277, 1_624));
}

#[test]
fn vectors_equal_cantools_exactly() {
    let mut decoder = decoder(&[("j1939.dbc", data!("j1939-excerpt-dbc/j1939_excerpt.dbc"), None)]);
    decoder.keep_not_available(true);
    let (mut row, mut values) = (Row::new(), 0);
    for line in unzip(data!("j1939-excerpt-dbc/golden.vectors.jsonl.gz")).lines() {
        let vector: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = CanId::Extended(vector["id"].as_u64().unwrap() as u32);
        let bytes = bytes_of_hex(vector["data"].as_str().unwrap()).unwrap();
        let frame = CanFrame::new(0, BusIndex(0), id, &bytes).unwrap();
        assert_eq!(decoder.decode(&frame, &mut row), Outcome::Decoded);
        let expected = vector["decoded"].as_object().unwrap();
        assert_eq!(row.signals().len(), expected.len(), "{line}");
        for (signal, value) in row.iter() {
            let def = decoder.manifest().signal(signal).unwrap();
            assert_eq!(Some(value.physical(def)), expected[&def.name].as_f64(), "{} of {line}", def.name);
            values += 1;
        }
    }
    assert_eq!(values, 252);
}

/// A DBC with the given messages, and its warnings.
fn load(body: &str) -> (Decoder, Vec<String>) {
    let text = format!("VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_:\n\n{body}\n");
    let (decoder, warnings) = dbc::load(&[source("x.dbc", text.as_bytes(), None)], &VssMap::empty()).unwrap();
    (decoder, warnings.iter().map(ToString::to_string).collect())
}

/// Signal names and physical values of a frame.
fn decode(decoder: &Decoder, id: CanId, data: &[u8]) -> Result<Vec<(String, f64)>, Outcome> {
    let mut row = Row::new();
    match decoder.decode(&CanFrame::new(0, BusIndex(0), id, data).unwrap(), &mut row) {
        Outcome::Decoded | Outcome::TooShort => Ok(row
            .iter()
            .map(|(signal, value)| {
                let def = decoder.manifest().signal(signal).unwrap();
                (def.name.clone(), value.physical(def))
            })
            .collect()),
        outcome => {
            assert!(row.signals().is_empty());
            Err(outcome)
        }
    }
}

fn pairs(expected: &[(&str, f64)]) -> Result<Vec<(String, f64)>, Outcome> {
    Ok(expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
}

#[test]
fn simple_multiplexer_selects_by_value_and_an_unknown_value_gives_no_row() {
    let (decoder, warnings) = load(
        "BO_ 1 M: 2 X\n SG_ Mux M : 0|8@1+ (1,0) [0|0] \"\" X\n SG_ A m0 : 8|8@1+ (1,0) [0|0] \"\" X\n \
         SG_ B m3 : 8|8@1- (0.5,1) [0|0] \"\" X\n",
    );
    assert_eq!(warnings, [""; 0]);
    let id = CanId::Standard(1);
    assert_eq!(decode(&decoder, id, &[0, 7]), pairs(&[("Mux", 0.0), ("A", 7.0)]));
    assert_eq!(decode(&decoder, id, &[3, 0xFF]), pairs(&[("Mux", 3.0), ("B", 0.5)]));
    assert_eq!(decode(&decoder, id, &[1, 0]), Err(Outcome::MuxUnmatched));
    assert_eq!(decode(&decoder, id, &[0]), pairs(&[("Mux", 0.0)]));
    assert_eq!(decode(&decoder, id, &[1]), Err(Outcome::MuxUnmatched));
    assert_eq!(decode(&decoder, id, &[]), pairs(&[]));
    assert_eq!(decode(&decoder, CanId::Extended(1), &[0, 0]), Err(Outcome::Unknown));
}

#[test]
fn extended_multiplexing_nests_and_takes_ranges() {
    let (decoder, warnings) = load(
        "BO_ 1 M: 4 X\n SG_ Outer M : 0|8@1+ (1,0) [0|0] \"\" X\n \
         SG_ Inner m0M : 8|8@1+ (1,0) [0|0] \"\" X\n SG_ A m0 : 16|8@1+ (1,0) [0|0] \"\" X\n \
         SG_ B m0 : 24|8@1+ (1,0) [0|0] \"\" X\n\nSG_MUL_VAL_ 1 Inner Outer 1-3, 9-9;\n\
         SG_MUL_VAL_ 1 A Inner 0-10;\nSG_MUL_VAL_ 1 B Inner 5-20;\n",
    );
    assert_eq!(warnings, [""; 0]);
    let names = |data: &[u8]| {
        decode(&decoder, CanId::Standard(1), data)
            .map(|row| row.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(names(&[3, 4, 0, 0]).unwrap(), "Outer Inner A");
    assert_eq!(names(&[9, 5, 0, 0]).unwrap(), "Outer Inner A B");
    assert_eq!(names(&[1, 10, 0, 0]).unwrap(), "Outer Inner A B");
    assert_eq!(names(&[1, 11, 0, 0]).unwrap(), "Outer Inner B");
    assert_eq!(names(&[4, 0, 0, 0]), Err(Outcome::MuxUnmatched));
    assert_eq!(names(&[1, 21, 0, 0]), Err(Outcome::MuxUnmatched));
}

#[test]
fn floats_and_64_bit_integers_keep_their_values() {
    let (decoder, _) = load(
        "BO_ 1 M: 8 X\n SG_ F : 0|32@1- (2,1) [0|0] \"\" X\nBO_ 2 N: 8 X\n SG_ D : 7|64@0- (1,0) [0|0] \"\" X\n\
         BO_ 3 O: 8 X\n SG_ U : 0|64@1+ (1,0) [0|0] \"\" X\nBO_ 4 P: 8 X\n SG_ S : 0|64@1- (1,0) [0|0] \"\" X\n\n\
         SIG_VALTYPE_ 1 F : 1;\nSIG_VALTYPE_ 2 D : 2;\n",
    );
    let mut row = Row::new();
    let mut raw = |id, data: [u8; 8]| {
        let frame = CanFrame::new(0, BusIndex(0), CanId::Standard(id), &data).unwrap();
        assert_eq!(decoder.decode(&frame, &mut row), Outcome::Decoded);
        row.values()[0]
    };
    let single = [1.5f32.to_le_bytes(), [0; 4]].concat().try_into().unwrap();
    assert_eq!(raw(1, single), RawValue::F32(1.5));
    assert_eq!(raw(2, (-0.1f64).to_be_bytes()), RawValue::F64(-0.1));
    assert_eq!(raw(3, (i64::MAX as u64).to_le_bytes()), RawValue::Raw(i64::MAX));
    assert_eq!(raw(3, u64::MAX.to_le_bytes()), RawValue::F64(u64::MAX as f64));
    assert_eq!(raw(4, i64::MIN.to_le_bytes()), RawValue::Raw(i64::MIN));
    assert_eq!(decode(&decoder, CanId::Standard(1), &single), pairs(&[("F", 4.0)]));
}

#[test]
fn j1939_messages_match_any_sender_and_destination_and_drop_what_is_not_available() {
    // PDU2 with the placeholder source; PDU1 (0xEF00) sent to 0x33; a proprietary whole id.
    let (decoder, _) = load(&format!(
        "BO_ {} P2: 3 X\n SG_ Switch : 0|2@1+ (1,0) [0|0] \"\" X\n SG_ Byte : 8|8@1+ (1,0) [0|0] \"\" X\n \
         SG_ Signed : 16|8@1- (1,0) [0|0] \"\" X\nBO_ {} P1: 1 X\n SG_ A : 0|8@1+ (1,0) [0|0] \"\" X\n\
         BO_ {} Whole: 1 X\n SG_ B : 0|8@1+ (1,0) [0|0] \"\" X\n",
        0x98FE_F1FEu32, 0x98EF_33FEu32, 0x98FE_F107u32
    ));
    let id = |bits| CanId::Extended(bits);
    let full = pairs(&[("Switch", 1.0), ("Byte", 250.0), ("Signed", -1.0)]);
    assert_eq!(decode(&decoder, id(0x0CFE_F142), &[1, 0xFA, 0xFF]), full);
    assert_eq!(decode(&decoder, id(0x0CFE_F142), &[2, 0xFB, 1]), pairs(&[("Signed", 1.0)]));
    assert_eq!(decode(&decoder, id(0x18EF_9912), &[5]), pairs(&[("A", 5.0)]));
    assert_eq!(decode(&decoder, id(0x18FE_F107), &[0xFF]), pairs(&[("B", 255.0)]));
}

#[test]
fn a_file_of_one_bus_comes_before_a_file_of_every_bus() {
    let text = |name: &str| {
        format!(
            "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_:\n\nBO_ 1 {name}: 1 X\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" X\n"
        )
    };
    let (every, own) = (text("Every"), text("Own"));
    let sources = [source("every.dbc", every.as_bytes(), None), source("own.dbc", own.as_bytes(), Some(4))];
    let (decoder, warnings) = dbc::load(&sources, &VssMap::empty()).unwrap();
    assert_eq!(warnings, []);
    let message = |bus| {
        let (mut row, id) = (Row::new(), CanId::Standard(1));
        assert_eq!(
            decoder.decode(&CanFrame::new(0, BusIndex(bus), id, &[1]).unwrap(), &mut row),
            Outcome::Decoded
        );
        let def = decoder.manifest().signal(row.signals()[0]).unwrap();
        decoder.manifest().message_of(def).to_owned()
    };
    assert_eq!((message(4), message(5)), ("Own".to_owned(), "Every".to_owned()));
}

#[test]
fn faulty_definitions_are_left_out_by_name_and_the_rest_is_used() {
    let (decoder, warnings) = load(
        "BO_ 1 M: 1 X\n SG_ Long : 4|8@1+ (1,0) [0|0] \"\" X\n SG_ Big : 3|8@0+ (1,0) [0|0] \"\" X\n \
         SG_ Lost m1 : 0|4@1+ (1,0) [0|0] \"\" X\n SG_ Good : 0|4@1+ (1,0) [0|0] \"\" X\n \
         SG_ Good : 4|4@1+ (1,0) [0|0] \"\" X\nBO_ 1 Again: 1 X\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" X\n\
         BO_ 2048 Wide: 1 X\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" X\nBO_ 3 Empty: 0 X\nBO_ 5 Vast: 1786 X\n",
    );
    let expected = [
        "x.dbc: M.Long: it does not fit the message; left out",
        "x.dbc: M.Big: it does not fit the message; left out",
        "x.dbc: M.Good: the message has a signal of this name already; left out",
        "x.dbc: M.Lost: its multiplexer is not in the message; left out",
        "x.dbc: Again: an earlier message has the same id or PGN; left out",
        "x.dbc: Wide: id 0x800 is not an 11-bit id and not marked as extended; left out",
        "x.dbc: Vast: message of 1786 bytes, at most 1785 can be decoded; left out",
    ];
    assert_eq!(warnings, expected);
    assert_eq!(decode(&decoder, CanId::Standard(1), &[0x35]), pairs(&[("Good", 5.0)]));
    assert_eq!(decode(&decoder, CanId::Standard(3), &[]), pairs(&[]));
}

#[test]
fn multiplexers_that_select_each_other_are_left_out() {
    let (decoder, warnings) = load(
        "BO_ 1 M: 2 X\n SG_ A m0M : 0|8@1+ (1,0) [0|0] \"\" X\n SG_ B m0M : 8|8@1+ (1,0) [0|0] \"\" X\n\n\
         SG_MUL_VAL_ 1 A B 0-255;\nSG_MUL_VAL_ 1 B A 0-255;\n",
    );
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].starts_with("x.dbc: M.A: its multiplexers select each other"));
    assert_eq!(decode(&decoder, CanId::Standard(1), &[0, 0]), pairs(&[]));
}

#[test]
fn what_is_no_dbc_is_refused_with_its_name() {
    let error = dbc::load(&[source("broken.dbc", b"\xFF\x00 no DBC", None)], &VssMap::empty()).unwrap_err();
    assert!(matches!(&error, DbcError::Parse { file, .. } if file == "broken.dbc"));
    assert!(error.to_string().starts_with("broken.dbc: not a DBC file that can be read: "));
}

#[test]
fn units_in_windows_1252_are_read() {
    let text =
        b"VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_:\n\nBO_ 1 M: 1 X\n SG_ T : 0|8@1+ (1,0) [0|0] \"\xB0C\" X\n";
    let (decoder, _) = dbc::load(&[source("x.dbc", text, None)], &VssMap::empty()).unwrap();
    assert_eq!(decoder.manifest().signals[0].unit, "\u{b0}C");
}

#[test]
fn a_path_has_one_source_and_later_ones_stay_private() {
    let sources = [source("obd2.dbc", OBD_DBC, Some(1)), source("gps.dbc", GPS_DBC, Some(9))];
    let (decoder, warnings) = dbc::load(&sources, &VssMap::builtin()).unwrap();
    let signal = |message: &str, name: &str| {
        let manifest = decoder.manifest();
        let found = |def: &&convoy_protocol::manifest::SignalDef| {
            def.name == name && manifest.message_of(def) == message
        };
        manifest.signals.iter().find(found).unwrap()
    };
    let speed = signal("OBD2_7E8", "S01_0D_VSS");
    assert_eq!((speed.path.as_str(), speed.path_unit.as_str()), ("Vehicle.Speed", "km/h"));
    let gnss = signal("gnss_speed", "Speed");
    assert_eq!((gnss.path.as_str(), gnss.path_unit.as_str()), ("Vehicle.Private.gnss_speed.Speed", "m/s"));
    assert_eq!(gnss.at_path(5.0), 5.0);
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    let reason = WarningReason::PathTaken {
        path: "Vehicle.Speed".into(),
        source_signal: "OBD2_7E8.S01_0D_VSS".into(),
    };
    assert_eq!((warning.signal.as_deref(), &warning.reason), (Some("Speed"), &reason));
    let paths: std::collections::BTreeSet<_> =
        decoder.manifest().signals.iter().map(|def| &def.path).collect();
    assert_eq!(paths.len(), decoder.manifest().signals.len());
}

#[test]
fn mapped_values_are_converted_to_the_unit_of_the_path() {
    let decoder = truck_decoder();
    let distance =
        decoder.manifest().signals.iter().find(|def| def.path == "Vehicle.TraveledDistance").unwrap();
    assert_eq!((distance.unit.as_str(), distance.path_unit.as_str()), ("km", "m"));
    assert_close(distance.at_path(distance.physical(8)), 1_000.0, "8 raw are 1 km");
}
