//! Trouble codes from frames to envelopes.

use std::sync::Arc;

use convoy_agent_core::faults::STILL_PRESENT_INTERVAL_US;
use convoy_agent_core::frozen::COMPLETE_AFTER_US;
use convoy_agent_core::gateway::{FrameTimes, Gateway, GatewayConfig};
use convoy_agent_core::obd;
use convoy_protocol::columns::{Columns, Values};
use convoy_protocol::dtc::{Dtc, DtcChange, DtcStage, DtcState, ExtendedData, FreezeFrameHeader, Lamps};
use convoy_protocol::envelope::SectionKind;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::id::Lane;

use super::gateway::{NOW_US, Read, codes_only, config, drain, run};
use super::recording::{OBD_DBC, decoder, truck, truck_decoder};
use super::transport::tp_frames;

#[test]
fn truck_trouble_codes_open_once_in_the_fast_lane() {
    let (envelopes, gateway) = run(truck_decoder(), config(vec![codes_only()]), &truck());
    assert_eq!(envelopes.len(), 2);
    let records = envelopes[1].dtcs();
    let code = |record: &DtcState| match record.dtc {
        Dtc::J1939 { sa: 0, spn, fmi } => (spn, fmi, record.occurrence_count.unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        records.iter().map(code).collect::<Vec<_>>(),
        [(980, 9, 126), (3_216, 20, 2), (609, 9, 1), (609, 12, 3)]
    );
    let lamps =
        Lamps { malfunction: Some(true), red_stop: Some(false), amber_warning: Some(false), protect: None };
    assert!(records.iter().all(|record| record.change == DtcChange::Opened && record.lamps == Some(lamps)));
    assert!(records.iter().all(|record| record.stage == DtcStage::Active));
    assert_eq!((envelopes[1].header.lane, gateway.counters().dtc_changes), (Lane::Fast, 4));
}

#[test]
fn stored_codes_of_an_ecu_open_and_close() {
    let decoder = decoder(&[("obd2.dbc", OBD_DBC, None)]);
    let mut gateway = Gateway::new(config(vec![codes_only()]), Arc::new(decoder), NOW_US);
    drain(&mut gateway);
    let mut changes = |data: &[u8]| -> Vec<(Dtc, DtcChange)> {
        gateway.handle_frame(NOW_US, &CanFrame::new(5, BusIndex(0), CanId::Standard(0x7E8), data).unwrap());
        let records = drain(&mut gateway).into_iter().flat_map(|read| read.dtcs());
        records.map(|record| (record.dtc, record.change)).collect()
    };
    let code = |code| Dtc::Obd { ecu: 0x7E8, code };
    let opened = [(code(0x0301), DtcChange::Opened), (code(0xC100), DtcChange::Opened)];
    assert_eq!(changes(&[6, 0x43, 2, 0x03, 0x01, 0xC1, 0x00]), opened);
    assert_eq!(changes(&[4, 0x43, 1, 0xC1, 0x00]), [(code(0x0301), DtcChange::Closed)]);
    assert_eq!(changes(&[2, 0x43, 0]), [(code(0xC100), DtcChange::Closed)]);
}

#[test]
fn active_codes_of_two_controllers_are_kept_apart_and_close_when_gone() {
    let mut gateway = Gateway::new(config(vec![codes_only()]), Arc::new(truck_decoder()), NOW_US);
    drain(&mut gateway);
    let mut changes = |sa: u8, codes: &[u8]| {
        let data = [&[0x40, 0xFF][..], codes].concat();
        let frames = match data.len() {
            0..=8 => vec![(0x18FE_CA00 | u32::from(sa), data)],
            _ => tp_frames(32, sa, 0xFF, 0xFECA, &data),
        };
        for (id, data) in frames {
            gateway.handle_frame(NOW_US, &CanFrame::new(5, BusIndex(1), CanId::Extended(id), &data).unwrap());
        }
        let records: Vec<DtcState> = drain(&mut gateway).into_iter().flat_map(|read| read.dtcs()).collect();
        records.into_iter().map(|record| (record.dtc, record.change)).collect::<Vec<_>>()
    };
    let code = |sa, spn| Dtc::J1939 { sa, spn, fmi: 3 };
    let dtc = |spn: u8| [spn, 0, 3, 1];
    assert_eq!(changes(0, &dtc(9)), [(code(0, 9), DtcChange::Opened)]);
    assert_eq!(changes(3, &dtc(9)), [(code(3, 9), DtcChange::Opened)]);
    assert_eq!(changes(0, &[dtc(9), dtc(8)].concat()), [(code(0, 8), DtcChange::Opened)]);
    assert_eq!(changes(0, &dtc(8)), [(code(0, 9), DtcChange::Closed)]);
    assert_eq!(changes(0, &[0, 0, 0, 0, 0xFF, 0xFF]), [(code(0, 8), DtcChange::Closed)]);
    assert_eq!(changes(3, &[9, 0, 3, 0x81]), [(code(3, 9), DtcChange::Closed)]);
    assert_eq!(gateway.counters().dtc_old_conversion, 1);
}

const ENGINE: CanId = CanId::Standard(0x7E8);

fn obd_gateway(config: GatewayConfig) -> Gateway {
    let set = obd::signal_set();
    let mut gateway = Gateway::new(config, Arc::new(decoder(&[("obd.json", &set, None)])), NOW_US);
    drain(&mut gateway);
    gateway
}

fn hear(gateway: &mut Gateway, now_us: i64, id: CanId, data: &[u8]) -> Vec<Read> {
    gateway.handle_frame(now_us, &CanFrame::new(now_us, BusIndex(0), id, data).unwrap());
    drain(gateway)
}

fn changes(read: &[Read]) -> Vec<(String, DtcStage, DtcChange)> {
    let states = read.iter().flat_map(Read::dtcs);
    states.map(|state| (state.dtc.to_string(), state.stage, state.change)).collect()
}

#[test]
fn each_stage_is_reported_and_a_new_connection_hears_what_is_still_there() {
    let mut gateway =
        obd_gateway(GatewayConfig { frame_times: FrameTimes::Live, ..config(vec![codes_only()]) });
    let pending = hear(&mut gateway, NOW_US, ENGINE, &[4, 0x47, 1, 0x03, 0x01]);
    let code = || "P0301".to_owned();
    assert_eq!(changes(&pending), [(code(), DtcStage::Pending, DtcChange::Opened)]);
    let stored = hear(&mut gateway, NOW_US, ENGINE, &[4, 0x43, 1, 0x03, 0x01]);
    assert_eq!(changes(&stored), [(code(), DtcStage::Active, DtcChange::Opened)]);
    let gone = hear(&mut gateway, NOW_US, ENGINE, &[2, 0x47, 0]);
    assert_eq!(changes(&gone), [(code(), DtcStage::Pending, DtcChange::Closed)]);

    gateway.handle_connected(NOW_US + 5);
    let present = drain(&mut gateway);
    assert_eq!(changes(&present), [(code(), DtcStage::Active, DtcChange::StillPresent)]);
    assert_eq!(present[0].dtcs()[0].timestamp_us, NOW_US, "when it was heard of");
    gateway.handle_connected(NOW_US + 6);
    assert!(drain(&mut gateway).is_empty(), "not at each flap of the connection");

    // The next life goes on, and closes what went away meanwhile.
    assert!(gateway.take_trouble_codes_changed());
    let mut next = obd_gateway(config(vec![codes_only()]));
    assert!(next.restore_trouble_codes(&gateway.trouble_codes()));
    next.handle_connected(NOW_US);
    assert!(drain(&mut next).is_empty(), "whether it is still there nobody knows");
    let still = [(code(), DtcStage::Active, DtcChange::StillPresent)];
    assert_eq!(changes(&hear(&mut next, NOW_US, ENGINE, &[4, 0x43, 1, 0x03, 0x01])), still);
    let cleared = hear(&mut next, NOW_US, ENGINE, &[2, 0x43, 0]);
    assert_eq!(changes(&cleared), [(code(), DtcStage::Active, DtcChange::Closed)]);
    assert!(!next.restore_trouble_codes(b"\xFF"));
}

#[test]
fn lamps_of_a_truck_are_told_when_they_change() {
    let mut gateway = Gateway::new(config(vec![codes_only()]), Arc::new(truck_decoder()), NOW_US);
    drain(&mut gateway);
    let dm1 = |lamps: u8| [lamps, 0xFF, 9, 0, 3, 1, 0xFF, 0xFF];
    let mut at = |us: i64, lamps: u8| {
        let frame = CanFrame::new(us, BusIndex(0), CanId::Extended(0x18FE_CA00), &dm1(lamps)).unwrap();
        gateway.handle_frame(NOW_US, &frame);
        let states: Vec<DtcState> = drain(&mut gateway).iter().flat_map(Read::dtcs).collect();
        states.into_iter().map(|state| (state.change, state.lamps.unwrap().red_stop)).collect::<Vec<_>>()
    };
    assert_eq!(at(0, 0), [(DtcChange::Opened, Some(false))]);
    assert_eq!(at(1_000_000, 0x10), [(DtcChange::StillPresent, Some(true))]);
    assert_eq!(at(2_000_000, 0x30), []);
    assert_eq!(at(1_000_000 + STILL_PRESENT_INTERVAL_US, 0x30), [(DtcChange::StillPresent, None)]);
}

#[test]
fn a_list_of_uds_closes_codes_only_where_all_confirmed_ones_were_asked_for() {
    let mut gateway = obd_gateway(config(vec![codes_only()]));
    let answer = |code: u8| [0x07, 0x59, 0x02, 0xFF, 0x03, code, 0x13, 0x09];
    let one = |code: u8, change| (format!("P030{code}-13"), DtcStage::Active, change);
    let ask = |gateway: &mut Gateway, mask| {
        assert!(hear(gateway, NOW_US, CanId::Standard(0x7E0), &[3, 0x19, 0x02, mask]).is_empty());
    };
    // Nobody knows what was asked for.
    assert_eq!(changes(&hear(&mut gateway, NOW_US, ENGINE, &answer(1))), [one(1, DtcChange::Opened)]);
    assert_eq!(changes(&hear(&mut gateway, NOW_US, ENGINE, &answer(2))), [one(2, DtcChange::Opened)]);
    ask(&mut gateway, 0x01);
    assert_eq!(changes(&hear(&mut gateway, NOW_US, ENGINE, &answer(2))), []);
    ask(&mut gateway, 0x0D);
    assert_eq!(changes(&hear(&mut gateway, NOW_US, ENGINE, &answer(2))), [one(1, DtcChange::Closed)]);
}

#[test]
fn a_freeze_frame_travels_with_its_code_and_is_told_again_to_who_asks_later() {
    let mut gateway = obd_gateway(config(vec![codes_only()]));
    for data in [&[5, 0x42, 0x02, 0, 0x03, 0x01][..], &[5, 0x42, 0x0C, 0, 0x1A, 0xF8], &[4, 0x42, 5, 0, 0x5A]]
    {
        assert!(hear(&mut gateway, NOW_US, ENGINE, data).is_empty());
    }
    let due_us = gateway.poll_timeout().unwrap();
    assert!(due_us <= NOW_US + COMPLETE_AFTER_US);
    gateway.handle_timeout(NOW_US + COMPLETE_AFTER_US);
    let read: Vec<Read> = drain(&mut gateway)
        .into_iter()
        .filter(|read| read.section(SectionKind::FreezeFrame).is_some())
        .collect();
    assert_eq!((read.len(), read[0].header.lane), (1, Lane::Fast));
    assert_eq!(read[0].header.manifest_id, Some(gateway.decoder().manifest_id()));
    let body = read[0].section(SectionKind::FreezeFrame).unwrap();
    let (header, columns) = postcard::take_from_bytes::<FreezeFrameHeader>(body).unwrap();
    assert_eq!(header.dtc, Dtc::Obd { ecu: 0x7E8, code: 0x0301 });
    let columns = Columns::decode(columns, read[0].header.base_us).unwrap();
    let values: Vec<_> = columns.groups[0].columns.iter().map(|column| column.values.clone()).collect();
    assert_eq!(values, [Values::Raw(vec![0x5A]), Values::Raw(vec![0x1AF8])]);
    assert_eq!(gateway.counters().frozen_frames, 1);

    let extended = hear(&mut gateway, NOW_US, ENGINE, &[7, 0x59, 0x06, 3, 1, 0x13, 9, 1]);
    let records: Vec<ExtendedData> =
        postcard::from_bytes(extended[0].section(SectionKind::DtcExtendedData).unwrap()).unwrap();
    assert_eq!((records.len(), records[0].records.as_slice()), (1, &[1][..]));
}
