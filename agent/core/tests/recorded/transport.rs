//! J1939 transport, trouble codes and ISO-TP on recorded logs.

use std::collections::BTreeMap;

use convoy_agent_core::decoder::Row;
use convoy_agent_core::isotp::IsoTpAssembler;
use convoy_agent_core::j1939::{Dm1, Pgn, TpAssembler, TpMessage};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use sha2::{Digest, Sha256};

use crate::recording::{data, decoder, drive, tp_short, truck};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn reassemble(frames: &[CanFrame]) -> (Vec<TpMessage>, TpAssembler) {
    let mut assembler = TpAssembler::new();
    let mut messages = Vec::new();
    for frame in frames {
        if let CanId::Extended(id) = frame.id {
            messages.extend(assembler.handle_frame(frame.timestamp_us, frame.bus, id, frame.data()));
        }
    }
    (messages, assembler)
}

fn assert_tp_golden(frames: &[CanFrame], golden: &[u8]) {
    let golden: serde_json::Value = serde_json::from_slice(golden).unwrap();
    let (messages, assembler) = reassemble(frames);
    assert_eq!(golden["reassembled"].as_u64(), Some(messages.len() as u64));
    let counters = assembler.counters();
    let lost = counters.orphans + counters.aborted + counters.malformed;
    assert_eq!(golden["aborted_or_orphan_dt"].as_u64(), Some(lost));
    assert_eq!(golden["open_at_end"].as_u64(), Some(assembler.open() as u64));
    let (mut hash, mut firsts) = (Sha256::new(), BTreeMap::new());
    for message in &messages {
        hash.update(message.pgn.bits().to_be_bytes());
        hash.update([message.sa, message.da]);
        hash.update(&message.data);
        let (pgn, size) = (message.pgn.bits(), message.data.len());
        let key = format!("{pgn}|{:02X}->{:02X}|BAM|{size}", message.sa, message.da);
        firsts.entry(key).or_insert((0u64, hex(&message.data))).0 += 1;
    }
    assert_eq!(golden["sha256_concat_pgn_sa_da_payload"].as_str(), Some(hex(&hash.finalize()).as_str()));
    for (key, session) in golden["sessions"].as_object().unwrap() {
        let (count, first) = &firsts[key];
        assert_eq!(session["count"].as_u64(), Some(*count), "{key}");
        assert_eq!(session["first_hex"].as_str(), Some(first.as_str()), "{key}");
    }
}

#[test]
fn truck_transport_messages_equal_the_golden_ones() {
    assert_tp_golden(&truck(), data!("css-j1939-truck-gps/golden.tp.json"));
}

#[test]
fn short_log_transport_messages_equal_the_golden_ones() {
    assert_tp_golden(&tp_short(), data!("css-j1939-tp-short/golden.tp.json"));
}

#[test]
fn a_message_longer_than_a_frame_decodes_by_dbc() {
    // The golden values come from payloads shorter than the DBC says, so the DBC is cut to 28 bytes here.
    let dbc = String::from_utf8(data!("css-j1939-tp-short/tp_j1939.dbc").to_vec()).unwrap();
    let decoder = decoder(&[("tp.dbc", dbc.replace("EC1: 40", "EC1: 28").as_bytes(), None)]);
    let golden: serde_json::Value =
        serde_json::from_slice(data!("css-j1939-tp-short/golden.tp_decoded.json")).unwrap();
    let (mut row, mut values) = (Row::new(), Vec::new());
    for message in reassemble(&tp_short()).0 {
        let _ = decoder.decode_payload(message.bus, message.can_id(), &message.data, &mut row);
        values.extend(
            row.iter().map(|(signal, value)| value.physical(decoder.manifest().signal(signal).unwrap())),
        );
    }
    let expected: Vec<f64> =
        golden.as_array().unwrap().iter().map(|row| row["EngineSpeedAtPoint5"].as_f64().unwrap()).collect();
    assert_eq!(values, expected);
}

#[test]
fn truck_trouble_codes_equal_the_golden_ones() {
    let golden: serde_json::Value =
        serde_json::from_slice(data!("css-j1939-truck-gps/golden.dm1.json")).unwrap();
    let expected = &golden["distinct"][0];
    let messages: Vec<_> =
        reassemble(&truck()).0.into_iter().filter(|message| message.pgn == Pgn::DM1).collect();
    assert_eq!(golden["dm1_messages"].as_u64(), Some(messages.len() as u64));
    for message in messages {
        assert_eq!(expected["sa"].as_u64(), Some(u64::from(message.sa)));
        let dm1 = Dm1::parse(&message.data).unwrap();
        assert_eq!((dm1.lamps.malfunction, dm1.lamps.red_stop), (Some(true), Some(false)));
        assert_eq!((dm1.lamps.amber_warning, dm1.lamps.protect), (Some(false), None));
        let dtcs: Vec<_> = dm1
            .dtcs()
            .map(|dtc| {
                let occurrence_count = dtc.occurrence_count.unwrap();
                serde_json::json!({
                    "spn": dtc.spn, "fmi": dtc.fmi, "oc": occurrence_count, "cm": u8::from(dtc.old_conversion)
                })
            })
            .collect();
        assert_eq!(expected["dtcs"].as_array(), Some(&dtcs));
    }
}

#[test]
fn drive_isotp_messages_equal_the_golden_ones() {
    let golden: serde_json::Value =
        serde_json::from_slice(data!("css-obd2-gnss-drive/golden.isotp.json")).unwrap();
    let mut assembler = IsoTpAssembler::new();
    let (mut hash, mut found) = (Sha256::new(), BTreeMap::new());
    for frame in drive().iter().filter(|frame| matches!(frame.id, CanId::Standard(0x7E0 | 0x7E8))) {
        let message = assembler.handle_frame(frame.timestamp_us, (frame.bus, frame.id), false, frame.data());
        let Some(message) = message else { continue };
        hash.update(frame.id.bits().to_be_bytes());
        let message = message.data();
        hash.update(message);
        let key = format!("{:03X}|SID {:02X}|len {}", frame.id.bits(), message[0], message.len());
        found.entry(key).or_insert((0u64, hex(message))).0 += 1;
    }
    let counters = assembler.counters();
    assert_eq!(golden["messages"].as_u64(), Some(counters.messages));
    assert_eq!(golden["multi_frame"].as_u64(), Some(counters.multi_frame));
    assert_eq!(golden["orphan_or_bad_cf"].as_u64(), Some(counters.orphans + counters.aborted));
    assert_eq!(golden["open_at_end"].as_u64(), Some(assembler.open() as u64));
    assert_eq!(golden["sha256_concat_id_payload"].as_str(), Some(hex(&hash.finalize()).as_str()));
    for (key, expected) in golden["by_id_sid_len"].as_object().unwrap() {
        let (count, first) = &found[key];
        assert_eq!(expected["count"].as_u64(), Some(*count), "{key}");
        assert_eq!(expected["first_hex"].as_str(), Some(first.as_str()), "{key}");
    }
}

/// Announcement with `pgn`, then the packets.
pub(crate) fn tp_frames(control: u8, sa: u8, da: u8, pgn: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let [size0, size1] = (data.len() as u16).to_le_bytes();
    let [pgn0, pgn1, pgn2, _] = pgn.to_le_bytes();
    let packets = data.len().div_ceil(7) as u8;
    let id = |group: u32| 7 << 26 | group << 16 | u32::from(da) << 8 | u32::from(sa);
    let mut frames = vec![(id(0xEC), vec![control, size0, size1, packets, 0xFF, pgn0, pgn1, pgn2])];
    frames.extend(data.chunks(7).zip(1u8..).map(|(chunk, number)| {
        let mut packet = vec![number];
        packet.extend_from_slice(chunk);
        packet.resize(8, 0xFF);
        (id(0xEB), packet)
    }));
    frames
}

fn feed(assembler: &mut TpAssembler, time_us: i64, frame: &(u32, Vec<u8>)) -> Option<Vec<u8>> {
    assembler.handle_frame(time_us, BusIndex(0), frame.0, &frame.1).map(|message| message.data)
}

#[test]
fn broadcast_with_a_lost_packet_is_dropped_and_its_rest_counted() {
    let (mut assembler, data) = (TpAssembler::new(), [7; 20]);
    let frames = tp_frames(32, 1, 0xFF, 0xFECA, &data);
    for frame in [&frames[0], &frames[1], &frames[3]] {
        assert_eq!(feed(&mut assembler, 0, frame), None);
    }
    assert_eq!((assembler.counters().aborted, assembler.open()), (1, 0));
    assert_eq!(feed(&mut assembler, 0, &frames[3]), None);
    assert_eq!(assembler.counters().orphans, 1);
    let whole: Vec<_> = frames.iter().filter_map(|frame| feed(&mut assembler, 0, frame)).collect();
    assert_eq!(whole, [data]);
}

#[test]
fn broadcast_silent_for_more_than_750_ms_is_dropped() {
    let frames = tp_frames(32, 1, 0xFF, 0xFECA, &[7; 9]);
    for (silence_us, expected) in [(750_000, 1), (750_001, 0)] {
        let mut assembler = TpAssembler::new();
        feed(&mut assembler, 0, &frames[0]);
        feed(&mut assembler, silence_us, &frames[1]);
        let whole = feed(&mut assembler, silence_us, &frames[2]);
        assert_eq!(whole.iter().count(), expected, "{silence_us}");
    }
}

#[test]
fn packets_asked_for_again_are_taken_again() {
    let data: Vec<u8> = (0..30).collect();
    let frames = tp_frames(16, 1, 2, 0xEF00, &data);
    // The receiver (2) answers the sender (1): 5 packets from number 2.
    let cts = (7 << 26 | 0xEC << 16 | 1 << 8 | 2, vec![17, 5, 2, 0xFF, 0xFF, 0x00, 0xEF, 0x00]);
    let mut assembler = TpAssembler::new();
    let order = [&frames[0], &frames[1], &frames[2], &frames[4], &cts, &frames[2], &frames[3], &frames[4]];
    for frame in order {
        assert_eq!(feed(&mut assembler, 0, frame), None);
    }
    assert_eq!(feed(&mut assembler, 0, &frames[5]), Some(data));
    assert_eq!((assembler.counters().orphans, assembler.counters().aborted), (1, 0));
}

#[test]
fn abort_of_either_side_ends_the_session() {
    for (from, to) in [(1u32, 2u32), (2, 1)] {
        let mut assembler = TpAssembler::new();
        feed(&mut assembler, 0, &tp_frames(16, 1, 2, 0xEF00, &[1; 20])[0]);
        let abort = (7 << 26 | 0xEC << 16 | to << 8 | from, vec![255, 1, 0xFF, 0xFF, 0xFF, 0x00, 0xEF, 0x00]);
        feed(&mut assembler, 0, &abort);
        assert_eq!((assembler.open(), assembler.counters().aborted), (0, 1));
    }
}

#[test]
fn impossible_announcements_are_counted() {
    let mut assembler = TpAssembler::new();
    for data in [
        vec![32, 8, 0, 2, 0xFF, 0xCA, 0xFE, 0],
        vec![32, 0xFA, 6, 255, 0xFF, 0xCA, 0xFE, 0],
        vec![32, 9, 0, 3, 0xFF, 0xCA, 0xFE, 0],
        vec![32, 9, 0],
        vec![],
    ] {
        feed(&mut assembler, 0, &(7 << 26 | 0xECFF << 8 | 1, data));
    }
    assert_eq!((assembler.counters().malformed, assembler.open()), (5, 0));
}

#[test]
fn sessions_are_bounded() {
    let mut assembler = TpAssembler::new();
    for sa in 0..200 {
        feed(&mut assembler, i64::from(sa), &tp_frames(32, sa, 0xFF, 0xFECA, &[1; 20])[0]);
    }
    assert_eq!((assembler.open(), assembler.counters().aborted), (64, 136));
}

#[test]
fn dm1_without_codes_is_read_as_none() {
    assert_eq!(Dm1::parse(&[0x00, 0xFF, 0, 0, 0, 0, 0xFF, 0xFF]).unwrap().dtcs().count(), 0);
    assert_eq!(Dm1::parse(&[0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]).unwrap().dtcs().count(), 0);
    assert_eq!(Dm1::parse(&[0x00, 0xFF, 0, 0, 0]), None);
    let old = Dm1::parse(&[0x00, 0xFF, 1, 0, 0, 0xFF]).unwrap().dtcs().next().unwrap();
    assert_eq!((old.spn, old.old_conversion, old.occurrence_count), (1, true, None));
    let wide = Dm1::parse(&[0x00, 0xFF, 0xFE, 0xFF, 0xFF, 5]).unwrap().dtcs().next().unwrap();
    assert_eq!((wide.spn, wide.fmi, wide.occurrence_count), (0x7_FFFE, 31, Some(5)));
}

fn isotp(assembler: &mut IsoTpAssembler, time_us: i64, data: &[u8]) -> Option<Vec<u8>> {
    let sender = (BusIndex(0), CanId::Standard(0x7E8));
    assembler.handle_frame(time_us, sender, false, data).map(|message| message.data().to_vec())
}

#[test]
fn consecutive_frame_out_of_order_drops_its_message() {
    let mut assembler = IsoTpAssembler::new();
    assert_eq!(isotp(&mut assembler, 0, &[0x10, 20, 1, 2, 3, 4, 5, 6]), None);
    assert_eq!(isotp(&mut assembler, 0, &[0x22, 0, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(isotp(&mut assembler, 0, &[0x21, 0, 0, 0, 0, 0, 0, 0]), None);
    let counters = assembler.counters();
    assert_eq!((counters.aborted, counters.orphans, assembler.open()), (1, 1, 0));
    assert_eq!(isotp(&mut assembler, 0, &[0x02, 0x3E, 0x00]), Some(vec![0x3E, 0x00]));
}

#[test]
fn message_silent_for_more_than_a_second_is_dropped() {
    for (silence_us, expected) in [(1_000_000, Some((1..=9).collect())), (1_000_001, None)] {
        let mut assembler = IsoTpAssembler::new();
        isotp(&mut assembler, 0, &[0x10, 9, 1, 2, 3, 4, 5, 6]);
        assert_eq!(isotp(&mut assembler, silence_us, &[0x21, 7, 8, 9]), expected);
    }
}

#[test]
fn impossible_isotp_frames_are_counted() {
    let mut assembler = IsoTpAssembler::new();
    for data in [
        &[][..],
        &[0x00, 1, 2],
        &[0x05, 1, 2],
        &[0x10],
        &[0x10, 6, 1, 2, 3, 4, 5, 6],
        &[0x10, 0, 0, 0, 0x0F, 0xFF, 2, 3],
        &[0x40, 1],
    ] {
        assert_eq!(isotp(&mut assembler, 0, data), None);
    }
    assert_eq!((assembler.counters().malformed, assembler.open()), (7, 0));
}
