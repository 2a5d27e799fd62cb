//! The gateway from frames to envelopes, read again with the protocol crate.

use std::sync::Arc;

use convoy_agent_core::decoder::{Decoder, RawValue};
use convoy_agent_core::gateway::{FrameTimes, Gateway, GatewayConfig, Output, REPORT_INTERVAL_US};
use convoy_agent_core::vin::Vin;
use convoy_protocol::campaign::{Campaign, SignalSelector};
use convoy_protocol::checkin::{CheckIn, DropReason, DropReport, VinCheck};
use convoy_protocol::columns::{Columns, Values};
use convoy_protocol::compact;
use convoy_protocol::downlink::Down;
use convoy_protocol::dtc::DtcState;
use convoy_protocol::envelope::{ENVELOPE_BYTES_MAX, Envelope, Header, SectionKind};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::id::{BootId, Lane, ManifestId, VehicleId};
use convoy_protocol::manifest::{Manifest, SignalIndex};
use convoy_protocol::time::ClockQuality;

use crate::recording::{
    OBD_DBC, Statistics, bytes_of_hex, data, decoder, drive, drive_decoder, tp_short, truck, truck_decoder,
};

pub(crate) const NOW_US: i64 = 1_700_000_000_000_000;

pub(crate) fn campaign(pattern: &str, period_ms: u32, batch_samples: u32, window_ms: u32) -> Campaign {
    let signals = vec![SignalSelector { period_ms, ..SignalSelector::every(pattern) }];
    Campaign { name: "test".into(), window_ms, batch_samples, signals, ..Campaign::everything() }
}

pub(crate) fn config(campaigns: Vec<Campaign>) -> GatewayConfig {
    GatewayConfig {
        manifest_known: true,
        agent_version: "0.1.0".into(),
        clock: ClockQuality::Ntp,
        monotonic_offset_us: 42,
        frame_times: FrameTimes::Recorded,
        ..GatewayConfig::new(VehicleId([3; 16]), BootId { counter: 7, spool: 9 }, campaigns)
    }
}

/// Trouble codes, and no signal.
pub(crate) fn codes_only() -> Campaign {
    Campaign { name: "codes".into(), signals: Vec::new(), ..Campaign::everything() }
}

/// An envelope taken apart.
pub(crate) struct Read {
    pub(crate) header: Header,
    pub(crate) sections: Vec<(SectionKind, Vec<u8>)>,
    pub(crate) samples: u32,
    last_sample_us: Option<i64>,
}

impl Read {
    pub(crate) fn section(&self, kind: SectionKind) -> Option<&[u8]> {
        self.sections.iter().find(|section| section.0 == kind).map(|section| section.1.as_slice())
    }

    pub(crate) fn columns(&self) -> Option<Columns> {
        self.section(SectionKind::CompactSamples)
            .map(|body| compact::decode(body, self.header.base_us).unwrap())
    }

    pub(crate) fn dtcs(&self) -> Vec<DtcState> {
        self.section(SectionKind::DtcStates)
            .map(|body| postcard::from_bytes(body).unwrap())
            .unwrap_or_default()
    }

    fn check_in(&self) -> Option<CheckIn> {
        self.section(SectionKind::CheckIn).map(|body| postcard::from_bytes(body).unwrap())
    }
}

pub(crate) fn drain(gateway: &mut Gateway) -> Vec<Read> {
    std::iter::from_fn(|| gateway.poll_output())
        .map(|output| {
            let Output::Envelope { key, bytes, samples, last_sample_us, .. } = output else {
                panic!("nothing is journalled here")
            };
            assert!(bytes.len() <= ENVELOPE_BYTES_MAX);
            let envelope = Envelope::parse(&bytes).unwrap();
            assert_eq!(envelope.header.key(), key);
            let sections = envelope
                .sections()
                .map(|section| (section.kind, section.body().unwrap().into_owned()))
                .collect();
            Read { header: envelope.header, sections, samples, last_sample_us }
        })
        .collect()
}

/// Everything a gateway makes of frames, at the speed of the recording.
pub(crate) fn run(decoder: Decoder, config: GatewayConfig, frames: &[CanFrame]) -> (Vec<Read>, Gateway) {
    let mut gateway = Gateway::new(config, Arc::new(decoder), frames[0].timestamp_us);
    let mut read = drain(&mut gateway);
    for frame in frames {
        gateway.handle_frame(frame.timestamp_us, frame);
        read.extend(drain(&mut gateway));
    }
    gateway.flush(frames[frames.len() - 1].timestamp_us);
    read.extend(drain(&mut gateway));
    (read, gateway)
}

fn statistics(manifest: &Manifest, envelopes: &[Read]) -> Statistics {
    let mut statistics = Statistics::default();
    for columns in envelopes.iter().filter_map(Read::columns) {
        for column in columns.groups.iter().flat_map(|group| &group.columns) {
            let mut add = |value| statistics.add(manifest, column.signal, value);
            match &column.values {
                Values::Raw(values) => values.iter().for_each(|value| add(RawValue::Raw(*value))),
                Values::F32(values) => values.iter().for_each(|value| add(RawValue::F32(*value))),
                Values::F64(values) => values.iter().for_each(|value| add(RawValue::F64(*value))),
                other => panic!("kind not made by a decoder: {other:?}"),
            }
        }
    }
    statistics
}

#[test]
fn truck_log_comes_out_of_the_envelopes_with_the_golden_values() {
    let frames = truck();
    let mut config = config(vec![campaign("*", 0, 1_000, 3_600_000)]);
    config.manifest_known = false;
    let (envelopes, gateway) = run(truck_decoder(), config, &frames);

    let first = &envelopes[0];
    let manifest = Manifest::decode(first.section(SectionKind::Manifest).unwrap()).unwrap();
    let check_in = first.check_in().unwrap();
    assert_eq!((check_in.manifest_id, check_in.vin), (manifest.id(), VinCheck::NotSeen));
    assert_eq!((first.header.lane, first.header.manifest_id), (Lane::Fast, None));
    assert_eq!((first.header.clock, first.header.monotonic_offset_us), (ClockQuality::Ntp, 42));

    for lane in Lane::ALL {
        let of_lane = envelopes.iter().filter(|read| read.header.lane == lane);
        assert!(of_lane.zip(0..).all(|(read, sequence)| read.header.sequence == sequence));
    }
    let all = statistics(&manifest, &envelopes);
    all.of_messages(|name| !name.starts_with("gnss"))
        .assert_golden_valid(data!("css-j1939-truck-gps/golden.j1939.json"));
    all.of_messages(|name| name.starts_with("gnss"))
        .assert_golden(data!("css-j1939-truck-gps/golden.gps.json"));

    let counters = gateway.counters();
    let samples: u64 = all.0.values().map(|stats| stats.count).sum();
    assert_eq!((counters.frames, counters.samples), (57_849, samples));
    assert_eq!(envelopes.iter().map(|read| u64::from(read.samples)).sum::<u64>(), samples);
    assert!(envelopes.iter().all(|read| read.samples <= 1_000));
    assert_eq!((counters.tp_messages, counters.tp_orphans, counters.tp_aborted), (152, 0, 0));
    let bulk: Vec<_> = envelopes.iter().filter(|read| read.samples > 0).collect();
    assert!(bulk.iter().all(|read| read.header.manifest_id == Some(manifest.id())));
    // Times come back as whole milliseconds; the base is the first sample's.
    assert_eq!(bulk[0].columns().unwrap().span_us().unwrap().0, bulk[0].header.base_us);
    let last = frames.iter().map(|frame| frame.timestamp_us).max().unwrap();
    assert!(last - bulk.iter().filter_map(|read| read.last_sample_us).max().unwrap() < 20_000);
}

#[test]
fn drive_log_comes_out_of_the_envelopes_with_the_golden_values() {
    let config = config(vec![campaign("*", 0, 10_000, 3_600_000)]);
    let (envelopes, gateway) = run(drive_decoder(), config, &drive());
    let all = statistics(drive_decoder().manifest(), &envelopes);
    all.of_messages(|name| name.starts_with("OBD2"))
        .assert_golden(data!("css-obd2-gnss-drive/golden.obd2.json"));
    all.of_messages(|name| name.starts_with("gnss") && !name.starts_with("gnss_odo"))
        .assert_golden(data!("css-obd2-gnss-drive/golden.gnss.json"));
    // cantools refuses these frames, which are 3 bytes of 8: two signals lie in them.
    assert_eq!((all.0["gnss_odo.DistanceTrip"].count, all.0["gnss_odo.DistanceValid"].count), (1_624, 1_624));
    let counters = gateway.counters();
    assert_eq!((counters.mux_unmatched, counters.too_short), (277, 1_624));
    assert_eq!((counters.isotp_messages, counters.isotp_orphans, counters.dtc_changes), (15_298, 0, 0));
}

/// A log in which the vehicle tells its VIN.
struct VinLog {
    vin: Vec<u8>,
    frames: Vec<CanFrame>,
    decoder: fn() -> Decoder,
}

/// The VINs are taken from the golden files, so that none is written here.
fn vin_logs() -> [VinLog; 2] {
    let vin = |golden: &[u8], key: &[&str], skip: usize| {
        let golden: serde_json::Value = serde_json::from_slice(golden).unwrap();
        let hex = key.iter().fold(&golden, |value, key| &value[*key])["first_hex"].as_str().unwrap();
        bytes_of_hex(hex).unwrap()[skip..skip + 17].to_vec()
    };
    let isotp = data!("css-obd2-gnss-drive/golden.isotp.json");
    let tp = data!("css-j1939-tp-short/golden.tp.json");
    [
        VinLog {
            vin: vin(isotp, &["by_id_sid_len", "7E8|SID 49|len 20"], 3),
            frames: drive(),
            decoder: drive_decoder,
        },
        VinLog {
            vin: vin(tp, &["sessions", "65260|00->FF|BAM|28"], 0),
            frames: tp_short(),
            decoder: truck_decoder,
        },
    ]
}

#[test]
fn vin_is_compared_and_leaves_in_no_output() {
    for VinLog { vin, frames, decoder } in vin_logs() {
        let other = Vin::from_bytes(&[b'X'; 17]).unwrap();
        let expected = Vin::from_bytes(&vin).unwrap();
        for (vin_expected, check) in [
            (None, VinCheck::NotConfigured),
            (Some(expected), VinCheck::Matches),
            (Some(other), VinCheck::Differs),
        ] {
            let config = GatewayConfig { vin_expected, ..config(vec![campaign("*", 0, 1_000, 60_000)]) };
            let (envelopes, gateway) = run(decoder(), config, &frames);
            assert_eq!(gateway.vin_check(), check);
            let check_ins: Vec<_> =
                envelopes.iter().filter_map(Read::check_in).map(|check_in| check_in.vin).collect();
            assert_eq!(check_ins, [VinCheck::NotSeen, check]);
            let bodies = envelopes.iter().flat_map(|read| &read.sections);
            assert!(bodies.into_iter().all(|(_, body)| !body.windows(17).any(|window| window == vin)));
            assert!(!format!("{gateway:?}").contains(std::str::from_utf8(&vin).unwrap()));
        }
    }
}

/// `BO_ 1 M` with an 8-bit signal `A`, `BO_ 2 N` with a 64-bit signal `B`.
pub(crate) fn two_messages() -> Decoder {
    let text = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_:\n\nBO_ 1 M: 1 X\n SG_ A : 0|8@1+ (1,0) [0|0] \"\" X\n\n\
                BO_ 2 N: 8 X\n SG_ B : 0|64@1- (1,0) [0|0] \"\" X\n";
    decoder(&[("two.dbc", text.as_bytes(), None)])
}

pub(crate) fn a(timestamp_us: i64, value: u8) -> CanFrame {
    CanFrame::new(timestamp_us, BusIndex(0), CanId::Standard(1), &[value]).unwrap()
}

/// A gateway with one campaign, its check-in already taken.
fn gateway(campaign: Campaign) -> Gateway {
    let mut gateway = Gateway::new(config(vec![campaign]), Arc::new(two_messages()), NOW_US);
    assert_eq!(drain(&mut gateway).len(), 1);
    gateway
}

/// Raw values of `A` in each envelope.
fn values(gateway: &mut Gateway) -> Vec<Vec<i64>> {
    let values = |read: Read| match &read.columns().unwrap().groups[0].columns[0].values {
        Values::Raw(values) => values.clone(),
        other => panic!("{other:?}"),
    };
    drain(gateway).into_iter().map(values).collect()
}

#[test]
fn batch_closes_at_its_number_of_samples() {
    let mut gateway = gateway(campaign("*", 0, 3, 60_000));
    for value in 0..7 {
        gateway.handle_frame(NOW_US, &a(i64::from(value), value));
    }
    assert_eq!(values(&mut gateway), [[0, 1, 2], [3, 4, 5]]);
    assert_eq!(gateway.open_samples(), 1);
    gateway.flush(NOW_US);
    assert_eq!(values(&mut gateway), [[6]]);
    assert_eq!(gateway.poll_timeout(), Some(NOW_US + REPORT_INTERVAL_US), "no batch is open");
}

#[test]
fn batch_closes_when_a_sample_is_a_window_later_than_its_oldest() {
    let mut gateway = gateway(campaign("*", 0, 1_000, 10));
    for (time_us, value) in [(5_000, 1), (14_999, 2), (15_000, 3), (24_999, 4), (1_000, 5)] {
        gateway.handle_frame(NOW_US, &a(time_us, value));
    }
    // The last one lies more than a window back: a step of the clock.
    assert_eq!(values(&mut gateway), [[1, 2], [3, 4]]);
}

#[test]
fn batch_closes_a_window_of_wall_time_after_its_first_sample() {
    let mut gateway = gateway(campaign("*", 0, 1_000, 10));
    assert_eq!(gateway.poll_timeout(), Some(NOW_US + REPORT_INTERVAL_US), "no batch is open");
    gateway.handle_frame(NOW_US, &a(1, 1));
    gateway.handle_frame(NOW_US + 3_000, &a(2, 2));
    assert_eq!(gateway.poll_timeout(), Some(NOW_US + 10_000));
    gateway.handle_timeout(NOW_US + 9_999);
    assert_eq!(values(&mut gateway), [[0; 0]; 0]);
    gateway.handle_timeout(NOW_US + 10_000);
    assert_eq!(values(&mut gateway), [[1, 2]]);
}

#[test]
fn clock_that_steps_back_delays_a_batch_by_one_window_at_most() {
    let mut gateway = gateway(campaign("*", 0, 1_000, 10));
    gateway.handle_frame(NOW_US, &a(1, 1));
    let year_us = 365 * 86_400 * 1_000_000;
    gateway.handle_timeout(NOW_US - year_us);
    assert_eq!(gateway.poll_timeout(), Some(NOW_US - year_us + 10_000));
    gateway.handle_timeout(NOW_US - year_us + 10_000);
    assert_eq!(values(&mut gateway), [[1]]);
}

#[test]
fn window_of_zero_sends_every_row_at_once() {
    let mut gateway = gateway(campaign("*", 0, 1_000, 0));
    gateway.handle_frame(NOW_US, &a(1, 1));
    assert_eq!(values(&mut gateway), [[1]]);
}

#[test]
fn period_takes_one_sample_in_its_time_and_starts_anew_after_a_step_back() {
    let mut gateway = gateway(campaign("M.A", 10, 1_000, 60_000));
    for (time_us, value) in [(0, 1), (9_999, 2), (10_000, 3), (19_999, 4), (25_000, 5), (24_000, 6)] {
        gateway.handle_frame(NOW_US, &a(time_us, value));
    }
    gateway.flush(NOW_US);
    assert_eq!(values(&mut gateway), [[1, 3, 5, 6]]);
    assert_eq!((gateway.counters().frames_decoded, gateway.counters().samples), (6, 4));
}

#[test]
fn first_selector_that_matches_decides_and_unselected_signals_are_not_taken() {
    let mut both = campaign("Vehicle.Private.N.*", 50, 1_000, 60_000);
    both.signals.push(SignalSelector::every("N.B"));
    let mut gateway = gateway(both);
    let slot = &gateway.campaigns().slots()[0];
    assert_eq!((slot.campaign.name.as_str(), slot.collector().unwrap().signals().count()), ("test", 1));
    for time_us in [0, 49_000, 50_000] {
        let b = CanFrame::new(time_us, BusIndex(0), CanId::Standard(2), &[1; 8]).unwrap();
        gateway.handle_frame(NOW_US, &b);
        gateway.handle_frame(NOW_US, &a(time_us, 1));
    }
    gateway.flush(NOW_US);
    let columns = drain(&mut gateway)[0].columns().unwrap();
    assert_eq!(columns.groups.len(), 1);
    assert_eq!(columns.groups[0].columns[0].signal, SignalIndex(1));
    assert_eq!(columns.groups[0].times_us, [0, 50_000]);
}

#[test]
fn signals_that_a_multiplexer_selects_do_not_share_the_columns_of_the_others() {
    let decoder = decoder(&[("obd2.dbc", OBD_DBC, None)]);
    let mut gateway = Gateway::new(config(vec![campaign("*", 0, 1_000, 60_000)]), Arc::new(decoder), NOW_US);
    drain(&mut gateway);
    for (time_us, data) in [(0, [4, 0x41, 0x0C, 0x1A, 0xF8]), (1_000, [3, 0x41, 0x0D, 50, 0])] {
        let data = [&data[..], &[0; 3]].concat();
        gateway.handle_frame(
            NOW_US,
            &CanFrame::new(time_us, BusIndex(0), CanId::Standard(0x7E8), &data).unwrap(),
        );
    }
    gateway.flush(NOW_US);
    let groups = drain(&mut gateway)[0].columns().unwrap().groups;
    let shape: Vec<_> = groups.iter().map(|group| (group.columns.len(), group.times_us.clone())).collect();
    // Length; service; PID: each level of multiplexing is a part of its own.
    assert_eq!(shape, [(2, vec![0, 1_000]), (1, vec![0, 1_000]), (1, vec![0]), (1, vec![1_000])]);
}

#[test]
fn largest_batch_of_incompressible_values_loses_no_sample() {
    let mut gateway = gateway(campaign("*", 0, 20_000, 3_600_000));
    // Values and times that nothing compresses.
    let (mut state, mut time_us) = (1u64, 0i64);
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = state ^ state >> 29;
        time_us = (time_us + (value >> 33) as i64 % 7_000_000_000_000) % 3_599_000_000;
        let frame = CanFrame::new(time_us, BusIndex(0), CanId::Standard(2), &value.to_le_bytes()).unwrap();
        gateway.handle_frame(NOW_US, &frame);
    }
    gateway.flush(NOW_US);
    let envelopes = drain(&mut gateway);
    assert_eq!(envelopes.iter().map(|read| read.columns().unwrap().samples()).sum::<usize>(), 20_000);
    assert_eq!(gateway.counters().samples_too_large, 0);
}

#[test]
fn frames_are_refused_and_counted_while_too_many_outputs_wait() {
    let mut gateway = gateway(campaign("*", 0, 1, 60_000));
    for _ in 0..1_030 {
        gateway.handle_frame(NOW_US, &a(1, 1));
    }
    assert_eq!(gateway.counters().frames_refused, 6);
    assert_eq!(drain(&mut gateway).len(), 1_024);
    gateway.handle_frame(NOW_US, &a(1, 1));
    assert_eq!(gateway.counters().frames, 1_025);
}

#[test]
fn wanted_manifest_is_sent_and_another_one_is_counted() {
    let mut gateway = gateway(campaign("*", 0, 1, 60_000));
    let manifest_id = two_messages().manifest_id();
    gateway.handle_downlink(NOW_US, &Down::WantManifest(manifest_id));
    gateway.handle_downlink(NOW_US, &Down::WantManifest(ManifestId([0; 16])));
    gateway.handle_downlink(NOW_US, &Down::Busy { retry_after_ms: 5 });
    let envelopes = drain(&mut gateway);
    assert_eq!((envelopes.len(), gateway.counters().requests_refused), (1, 1));
    let manifest = Manifest::decode(envelopes[0].section(SectionKind::Manifest).unwrap()).unwrap();
    assert_eq!(manifest.id(), manifest_id);
}

#[test]
fn drops_are_reported_in_the_fast_lane() {
    let mut gateway = gateway(campaign("*", 0, 1, 60_000));
    let boot_id = BootId { counter: 6, spool: 9 };
    let drops = [DropReport { boot_id, lane: Lane::Bulk, first: 3, last: 8, reason: DropReason::SpoolFull }];
    gateway.handle_drops(NOW_US, &drops);
    gateway.handle_drops(NOW_US, &[]);
    let envelopes = drain(&mut gateway);
    assert_eq!((envelopes.len(), envelopes[0].header.lane), (1, Lane::Fast));
    let read: Vec<DropReport> =
        postcard::from_bytes(envelopes[0].section(SectionKind::Drops).unwrap()).unwrap();
    assert_eq!(read, drops);
}
