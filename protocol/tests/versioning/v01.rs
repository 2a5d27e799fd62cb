//! Wire version 1: envelope, sections and downlink, byte by byte.
//!
//! If a test in this module fails, do not change the test: vehicles in the field write these bytes and read them.
//! New content gets a new section kind, or a new version with a module of its own beside this one.
//!
//! Integers without a note are varints (LEB128), signed ones zigzag varints; `u8` is one byte, `f64` eight, little
//! endian; a text, a list and bytes come after their length, an option after 00 (none) or 01 (some).

use convoy_protocol::campaign::{Campaign, Collection, SignalSelector, Trigger, TriggerMode};
use convoy_protocol::checkin::{CheckIn, DropReason, DropReport, GnssFix, VinCheck};
use convoy_protocol::columns::{Column, Columns, Group, Values};
use convoy_protocol::compact;
use convoy_protocol::desired::{DesiredState, Sealed, seal};
use convoy_protocol::downlink::{Down, PayloadDigest, SequenceRange};
use convoy_protocol::dtc::{
    Dtc, DtcChange, DtcRecord, DtcStage, DtcState, ExtendedData, FreezeFrameHeader, Lamps,
};
use convoy_protocol::envelope::{Envelope, EnvelopeError, EnvelopeWriter, Header, SectionKind, peek_header};
use convoy_protocol::id::{BootId, CampaignId, EnvelopeKey, Lane, ManifestId, VehicleId};
use convoy_protocol::manifest::{Manifest, SignalDef, SignalIndex};
use convoy_protocol::report::{CampaignReport, CampaignStatus, Refusal, Report, TriggerRecord};
use convoy_protocol::time::{ClockQuality, TimeUnit};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bytes;

const BASE_US: i64 = 1_700_000_000_000_000;
const BOOT: BootId = BootId { counter: 300, spool: 0x9f3c_0a6b_e21d_4477 };
const VEHICLE_ID: VehicleId = VehicleId([
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
]);
const MANIFEST_ID: ManifestId = ManifestId([
    0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf,
]);
const CAMPAIGN_ID: CampaignId = CampaignId([0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7]);

/// `BOOT` wherever it occurs.
const BOOT_BYTES: &str = concat!(
    "ac02",                 // counter 300
    "f788f590becd829e9f01", // spool 0x9f3c0a6be21d4477
);

const FULL: Header = Header {
    vehicle_id: VEHICLE_ID,
    boot_id: BOOT,
    lane: Lane::Bulk,
    sequence: 1_000_000,
    base_us: BASE_US,
    monotonic_offset_us: -5,
    clock: ClockQuality::Ntp,
    manifest_id: Some(MANIFEST_ID),
    campaign_id: Some(CAMPAIGN_ID),
};
const FULL_BYTES: &[&str] = &[
    "4356",                               // magic
    "01",                                 // version
    "44",                                 // header length 68
    "00112233445566778899aabbccddeeff",   // vehicle id
    BOOT_BYTES,                           // boot id
    "01",                                 // lane bulk
    "c0843d",                             // sequence 1,000,000
    "8080f28183898506",                   // base 1,700,000,000,000,000 us
    "09",                                 // monotonic offset -5 us
    "02",                                 // clock ntp
    "01a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", // manifest id: some
    "01c0c1c2c3c4c5c6c7",                 // campaign id: some
];

const BARE: Header = Header {
    vehicle_id: VehicleId([0; 16]),
    boot_id: BootId { counter: 1, spool: 0 },
    lane: Lane::Fast,
    sequence: 0,
    base_us: 0,
    monotonic_offset_us: 0,
    clock: ClockQuality::None,
    manifest_id: None,
    campaign_id: None,
};
const BARE_BYTES: &[&str] = &[
    "4356",                             // magic
    "01",                               // version
    "19",                               // header length 25
    "00000000000000000000000000000000", // vehicle id
    "01",                               // boot counter 1
    "00",                               // spool 0
    "00",                               // lane fast
    "00",                               // sequence 0
    "00",                               // base 0
    "00",                               // monotonic offset 0
    "00",                               // clock none
    "00",                               // manifest id: none
    "00",                               // campaign id: none
];

/// The whole envelope; `crc` is the CRC-32C of what is before it, little endian.
fn envelope(header: &[&str], sections: &[&str], crc: &str) -> Vec<u8> {
    bytes(&[header, sections, &[crc]].concat())
}

/// The envelope with this one section is these bytes, and they hold the header and this one body.
fn assert_section(envelope: &[u8], header: &Header, kind: SectionKind, body: &[u8]) {
    let mut writer = EnvelopeWriter::new(header);
    writer.plain(kind, body);
    assert_eq!(writer.finish().unwrap(), envelope);
    let parsed = Envelope::parse(envelope).unwrap();
    assert_eq!(parsed.header, *header);
    let sections: Vec<_> = parsed.sections().collect();
    assert_eq!(sections.len(), 1);
    assert_eq!((sections[0].kind, &*sections[0].body().unwrap()), (kind, body));
}

/// A body in postcard is these bytes and they are this value.
pub(crate) fn assert_postcard<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    body: &[u8],
    value: &T,
) {
    assert_eq!(postcard::to_allocvec(value).unwrap(), body);
    assert_eq!(&postcard::from_bytes::<T>(body).unwrap(), value);
}

#[test]
fn header_only() {
    for (header, expected, crc) in [
        (FULL, FULL_BYTES, "3a34c718"), // 0x18c7343a
        (BARE, BARE_BYTES, "3e4cd890"), // 0x90d84c3e
    ] {
        let expected = envelope(expected, &[], crc);
        assert_eq!(EnvelopeWriter::new(&header).finish().unwrap(), expected);
        let parsed = Envelope::parse(&expected).unwrap();
        assert_eq!((parsed.header, parsed.sections().count()), (header, 0));
        assert_eq!(peek_header(&expected).unwrap(), header);
    }
}

#[test]
fn lanes_and_clocks_are_numbered() {
    assert_eq!(Lane::ALL.map(|lane| postcard::to_allocvec(&lane).unwrap()[0]), [0, 1]);
    let clocks = [ClockQuality::None, ClockQuality::Rtc, ClockQuality::Ntp, ClockQuality::Gnss];
    assert_eq!(clocks.map(|clock| postcard::to_allocvec(&clock).unwrap()[0]), [0, 1, 2, 3]);
}

fn column(signal: u32, values: Values) -> Column {
    Column { signal: SignalIndex(signal), values }
}

/// Every kind of value, times in milliseconds.
fn in_milliseconds() -> Columns {
    let bools = [true, false, true, false, false, false, false, true, true];
    Columns {
        groups: vec![
            Group {
                times_us: vec![BASE_US, BASE_US + 10_000, BASE_US + 25_000],
                columns: vec![
                    column(7, Values::Raw(vec![256, 255, -1])),
                    column(300, Values::F32(vec![1.5, -0.0, f32::MAX])),
                ],
            },
            Group {
                times_us: (-1..8).map(|row| BASE_US + row * 1_000).collect(),
                columns: vec![column(5, Values::Bool(bools.into()))],
            },
            Group {
                times_us: vec![BASE_US + 1_000_000; 2],
                columns: vec![
                    column(2, Values::F64(vec![0.1, -1e300])),
                    column(1, Values::Text(vec![String::new(), "°C".into()])),
                ],
            },
        ],
    }
}

const IN_MILLISECONDS: &[&str] = &[
    "00",                               // unit: milliseconds, 1 byte
    "03",                               // 3 groups
    "02",                               // group 1: 2 signals
    "03",                               // 3 rows
    "0eca04",                           // signals 7, 7 + 293
    "00140a",                           // times: the base, 10 ms later (+10), 15 ms later (+5)
    "00",                               // kind raw, 1 byte
    "800401ff03",                       // 256, -1, -256 from one value to the next
    "01",                               // kind f32
    "0000c03f00000080ffff7f7f",         // 1.5, -0.0, the largest
    "01",                               // group 2: 1 signal
    "09",                               // 9 rows
    "0a",                               // signal 5
    "010400000000000000",               // times: 1 ms before the base (-1), 1 ms later (+2), then no change
    "03",                               // kind bool
    "8501",                             // rows 0, 2 and 7, then 8; low bit first
    "02",                               // group 3: 2 signals
    "02",                               // 2 rows
    "0401",                             // signals 2, 2 - 1
    "d00fcf0f",                         // times: 1 s after the base (+1,000), the same again (-1,000)
    "02",                               // kind f64
    "9a9999999999b93f9c7500883ce437fe", // 0.1, -1e300
    "04",                               // kind text
    "0003c2b043",                       // "", "°C" in UTF-8
];

/// Times in microseconds, and differences that wrap.
fn in_microseconds() -> Columns {
    Columns {
        groups: vec![Group {
            times_us: vec![BASE_US + 1, BASE_US - 5],
            columns: vec![column(0, Values::Raw(vec![i64::MIN, i64::MAX]))],
        }],
    }
}

const IN_MICROSECONDS: &[&str] = &[
    "01",                     // unit: microseconds
    "01",                     // 1 group
    "01",                     // 1 signal
    "02",                     // 2 rows
    "00",                     // signal 0
    "020d",                   // times: 1 us after the base (+1), 6 us earlier (-7)
    "00",                     // kind raw
    "ffffffffffffffffff0101", // i64::MIN, then -1, which wraps to i64::MAX
];

#[test]
fn samples_and_snapshot() {
    for (columns, unit, expected) in [
        (in_milliseconds(), TimeUnit::Milliseconds, IN_MILLISECONDS),
        (in_microseconds(), TimeUnit::Microseconds, IN_MICROSECONDS),
    ] {
        assert_eq!(columns.encode(BASE_US, unit), bytes(expected));
        assert_eq!(Columns::decode(&bytes(expected), BASE_US).unwrap(), columns);
    }
    let samples = ["01", "00", "4b"]; // section kind 1, codec plain (1 byte), 75 bytes
    let snapshot = ["04", "00", "13"]; // section kind 4, codec plain, 19 bytes
    let sections = [&samples[..], IN_MILLISECONDS, &snapshot, IN_MICROSECONDS].concat();
    let expected = envelope(FULL_BYTES, &sections, "373bf4a4"); // 0xa4f43b37
    let mut writer = EnvelopeWriter::new(&FULL);
    writer.plain(SectionKind::Samples, &in_milliseconds().encode(BASE_US, TimeUnit::Milliseconds));
    writer.plain(SectionKind::Snapshot, &in_microseconds().encode(BASE_US, TimeUnit::Microseconds));
    assert_eq!(writer.finish().unwrap(), expected);
    let parsed = Envelope::parse(&expected).unwrap();
    let read: Vec<_> = parsed
        .sections()
        .map(|section| (section.kind, Columns::decode(&section.body().unwrap(), BASE_US).unwrap()))
        .collect();
    assert_eq!(read, [(SectionKind::Samples, in_milliseconds()), (SectionKind::Snapshot, in_microseconds())]);
}

#[test]
fn samples_compressed_with_zstd() {
    let section = [
        "01",         // section kind 1
        "01",         // codec zstd
        "12",         // 18 bytes
        "28b52ffd",   // zstd magic (RFC 8878)
        "20",         // single segment, content size in 1 byte
        "2e",         // content size 46
        "280000",     // block: raw, 5 bytes (5 << 3)
        "000101140e", // milliseconds, 1 group, 1 signal, 20 rows, signal 7
        "4b0100",     // last block: one byte, 41 times (41 << 3 | 1 << 1 | 1)
        "00",         // 20 times without change, kind raw, 20 values without change
    ];
    let expected = envelope(FULL_BYTES, &section, "bbfb0e7e"); // 0x7e0efbbb
    let parsed = Envelope::parse(&expected).unwrap();
    let body = parsed.sections().next().unwrap().body().unwrap();
    let group = Group { times_us: vec![BASE_US; 20], columns: vec![column(7, Values::Raw(vec![0; 20]))] };
    assert_eq!(Columns::decode(&body, BASE_US).unwrap(), Columns { groups: vec![group] });
}

#[test]
fn trouble_codes() {
    let records = vec![
        DtcRecord {
            timestamp_us: BASE_US,
            dtc: Dtc::J1939 { sa: 23, spn: 520_192, fmi: 31 },
            change: DtcChange::Opened,
            occurrence_count: Some(126),
            mil_on: Some(true),
        },
        DtcRecord {
            timestamp_us: -1,
            dtc: Dtc::Obd { ecu: 0x7E8, code: 0xC100 },
            change: DtcChange::Closed,
            occurrence_count: None,
            mil_on: None,
        },
    ];
    let body = [
        "02",               // 2 records
        "8080f28183898506", // time
        "00",               // J1939
        "17",               // source address 23, u8
        "80e01f",           // SPN 520,192
        "1f",               // FMI 31, u8
        "00",               // opened
        "017e",             // occurrence count: some 126, u8
        "0101",             // lamp: some on
        "01",               // time -1 us
        "01",               // OBD
        "e80f",             // ECU 0x7E8
        "808203",           // code 0xC100
        "01",               // closed
        "00",               // occurrence count: none
        "00",               // lamp: none
    ];
    assert_postcard(&bytes(&body), &records);
    // Section kind 2, codec plain, 30 bytes; 0xc62bfa13.
    let expected = envelope(BARE_BYTES, &[&["02", "00", "1e"], &body[..]].concat(), "13fa2bc6");
    assert_section(&expected, &BARE, SectionKind::Dtcs, &bytes(&body));
}

#[test]
fn trouble_code_states() {
    let lamps =
        Lamps { malfunction: Some(true), red_stop: Some(false), amber_warning: None, protect: Some(false) };
    let states = vec![
        DtcState {
            timestamp_us: BASE_US,
            dtc: Dtc::J1939 { sa: 23, spn: 520_192, fmi: 31 },
            stage: DtcStage::Permanent,
            change: DtcChange::StillPresent,
            occurrence_count: Some(126),
            lamps: Some(lamps),
            uds_status: None,
        },
        DtcState {
            timestamp_us: -1,
            dtc: Dtc::Uds { ecu: 0x7E8, code: 0x03_0113 },
            stage: DtcStage::Pending,
            change: DtcChange::Closed,
            occurrence_count: None,
            lamps: None,
            uds_status: Some(0x2F),
        },
    ];
    let body = [
        "02",               // 2 states
        "8080f28183898506", // time
        "00",               // J1939
        "17",               // source address 23, u8
        "80e01f",           // SPN 520,192
        "1f",               // FMI 31, u8
        "03",               // permanent
        "02",               // still present
        "017e",             // occurrence count: some 126, u8
        "01",               // lamps: some
        "0101",             // malfunction: some on
        "0100",             // red stop: some off
        "00",               // amber warning: none
        "0100",             // protect: some off
        "00",               // status: none
        "01",               // time -1 us
        "02",               // UDS
        "e80f",             // ECU 0x7E8
        "93820c",           // code 0x030113
        "00",               // pending
        "01",               // closed
        "00",               // occurrence count: none
        "00",               // lamps: none
        "012f",             // status: some 0x2f, u8
    ];
    assert_postcard(&bytes(&body), &states);
    // Section kind 13, codec plain, 41 bytes; 0x3c809603.
    let expected = envelope(BARE_BYTES, &[&["0d", "00", "29"], &body[..]].concat(), "0396803c");
    assert_section(&expected, &BARE, SectionKind::DtcStates, &bytes(&body));
    // The other stages and changes, in the order of their numbers.
    let stages = [DtcStage::Pending, DtcStage::Active, DtcStage::PreviouslyActive, DtcStage::Permanent];
    assert_postcard(&[4, 0, 1, 2, 3], &stages.to_vec());
    assert_postcard(&[3, 0, 1, 2], &vec![DtcChange::Opened, DtcChange::Closed, DtcChange::StillPresent]);
}

#[test]
fn trouble_code_counters() {
    let data = ExtendedData {
        timestamp_us: BASE_US,
        dtc: Dtc::Uds { ecu: 0x7E8, code: 0x03_0113 },
        uds_status: 0x09,
        records: vec![1, 4],
    };
    let body = [
        "01",               // 1 record
        "8080f28183898506", // time
        "02",               // UDS
        "e80f",             // ECU 0x7E8
        "93820c",           // code 0x030113
        "09",               // status, u8
        "020104",           // 2 bytes
    ];
    assert_postcard(&bytes(&body), &vec![data]);
    // Section kind 14, codec plain, 19 bytes; 0xa2b0e4b9.
    let expected = envelope(BARE_BYTES, &[&["0e", "00", "13"], &body[..]].concat(), "b9e4b0a2");
    assert_section(&expected, &BARE, SectionKind::DtcExtendedData, &bytes(&body));
}

#[test]
fn drop_reports() {
    let report = |lane, first, last, reason| DropReport { boot_id: BOOT, lane, first, last, reason };
    let reports = vec![
        report(Lane::Bulk, 128, 300, DropReason::SpoolFull),
        report(Lane::Fast, 0, 0, DropReason::SpoolDamaged),
    ];
    let body = [
        "02",       // 2 reports
        BOOT_BYTES, // boot id
        "01",       // lane bulk
        "8001",     // first 128
        "ac02",     // last 300
        "00",       // spool full
        BOOT_BYTES, // boot id
        "00",       // lane fast
        "00",       // first 0
        "00",       // last 0
        "01",       // spool damaged
    ];
    assert_postcard(&bytes(&body), &reports);
    // Section kind 3, codec plain, 35 bytes; 0xf883f076.
    let expected = envelope(BARE_BYTES, &[&["03", "00", "23"], &body[..]].concat(), "76f083f8");
    assert_section(&expected, &BARE, SectionKind::Drops, &bytes(&body));
}

#[test]
fn check_in() {
    let check_in = CheckIn {
        agent_version: "0.1.0".into(),
        manifest_id: MANIFEST_ID,
        campaigns: vec![CAMPAIGN_ID],
        tails: vec![EnvelopeKey { boot_id: BOOT, lane: Lane::Bulk, sequence: 999 }],
        vin: VinCheck::Matches,
    };
    let body = [
        "05302e312e30",                     // agent version
        "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", // manifest id
        "01",                               // 1 campaign
        "c0c1c2c3c4c5c6c7",                 // campaign id
        "01",                               // 1 tail
        BOOT_BYTES,                         // boot id
        "01",                               // lane bulk
        "e707",                             // sequence 999
        "02",                               // VIN: 0 not seen, 1 not configured, 2 matches, 3 differs
    ];
    assert_postcard(&bytes(&body), &check_in);
    let numbered = [VinCheck::NotSeen, VinCheck::NotConfigured, VinCheck::Matches, VinCheck::Differs];
    assert_eq!(numbered.map(|check| postcard::to_allocvec(&check).unwrap()[0]), [0, 1, 2, 3]);
    // Section kind 5, codec plain, 48 bytes; 0x1758c7fe.
    let expected = envelope(BARE_BYTES, &[&["05", "00", "30"], &body[..]].concat(), "fec75817");
    assert_section(&expected, &BARE, SectionKind::CheckIn, &bytes(&body));
}

#[test]
fn manifest() {
    let signal = SignalDef {
        message: 0,
        name: "EngineSpeed".into(),
        unit: "rpm".into(),
        factor: 0.125,
        offset: 0.0,
        path: "Vehicle.Powertrain.CombustionEngine.Speed".into(),
        path_unit: "rpm".into(),
        path_factor: 1.0,
        path_offset: -40.0,
    };
    let manifest = Manifest { messages: vec!["EEC1".into()], signals: vec![signal] };
    let body = [
        "01",                       // 1 message
        "0445454331",               // EEC1
        "01",                       // 1 signal
        "00",                       // message 0
        "0b456e67696e655370656564", // name
        "0372706d",                 // unit
        "000000000000c03f",         // factor 0.125
        "0000000000000000",         // offset 0
        // path
        "2956656869636c652e506f776572747261696e2e436f6d62757374696f6e456e67696e652e5370656564",
        "0372706d",         // path unit
        "000000000000f03f", // path factor 1
        "00000000000044c0", // path offset -40
    ];
    let encoding = bytes(&body);
    assert_eq!(manifest.encode(), encoding);
    assert_eq!(Manifest::decode(&encoding).unwrap(), manifest);
    assert_eq!(manifest.id().0, blake3::hash(&encoding).as_bytes()[..16]);
    // Section kind 6, codec plain, 102 bytes; 0x59e0f55e.
    let expected = envelope(BARE_BYTES, &[&["06", "00", "66"], &body[..]].concat(), "5ef5e059");
    assert_section(&expected, &BARE, SectionKind::Manifest, &encoding);
}

#[test]
fn gnss_fixes() {
    let fix = GnssFix {
        timestamp_us: BASE_US,
        latitude_e7: -900_000_000,
        longitude_e7: 1_800_000_000,
        altitude_mm: Some(-1),
        speed_mm_s: Some(27_778),
        heading_cdeg: Some(35_999),
        satellites: 12,
    };
    let body = [
        "01",               // 1 fix
        "8080f28183898506", // time
        "ffa3a7da06",       // latitude -90 degrees, 1e-7 degrees
        "80c8ceb40d",       // longitude 180 degrees, 1e-7 degrees
        "0101",             // altitude: some -1 mm
        "0182d901",         // speed: some 27,778 mm/s
        "019f9902",         // heading: some 359.99 degrees, hundredths
        "0c",               // 12 satellites, u8
    ];
    assert_postcard(&bytes(&body), &vec![fix]);
    // Section kind 7, codec plain, 30 bytes; 0x22555c34.
    let expected = envelope(BARE_BYTES, &[&["07", "00", "1e"], &body[..]].concat(), "345c5522");
    assert_section(&expected, &BARE, SectionKind::Gnss, &bytes(&body));
}

#[test]
fn freeze_frame() {
    let header =
        FreezeFrameHeader { timestamp_us: BASE_US, dtc: Dtc::Obd { ecu: 0x7E8, code: 0x0301 }, number: 0 };
    let frozen = [
        "8080f28183898506", // time
        "01",               // OBD
        "e80f",             // ECU 0x7E8
        "8106",             // code 0x0301
        "00",               // frame number 0, u8
    ];
    let body = [&frozen[..], IN_MICROSECONDS].concat();
    let encoding = bytes(&body);
    let (read, columns) = postcard::take_from_bytes::<FreezeFrameHeader>(&encoding).unwrap();
    assert_eq!((read, Columns::decode(columns, BASE_US).unwrap()), (header, in_microseconds()));
    assert_postcard(&bytes(&frozen), &header);
    // Section kind 8, codec plain, 33 bytes; 0x3848bdcb.
    let expected = envelope(FULL_BYTES, &[&["08", "00", "21"], &body[..]].concat(), "cbbd4838");
    assert_section(&expected, &FULL, SectionKind::FreezeFrame, &encoding);
}

/// Samples in the coding that agents write: each byte depends on all before it, so the whole is held.
#[test]
fn compact_samples_and_snapshot() {
    for (columns, unit, expected) in [
        (in_milliseconds(), TimeUnit::Milliseconds, COMPACT_MILLISECONDS),
        (in_microseconds(), TimeUnit::Microseconds, COMPACT_MICROSECONDS),
        (steady(), TimeUnit::Milliseconds, COMPACT_STEADY),
    ] {
        assert_eq!(hex(&compact::encode(&columns, BASE_US, unit)), expected.concat());
        assert_eq!(compact::decode(&bytes(expected), BASE_US).unwrap(), columns);
    }
    let mut writer = EnvelopeWriter::new(&FULL);
    writer.plain(SectionKind::CompactSamples, &bytes(COMPACT_STEADY));
    writer.plain(SectionKind::CompactSnapshot, &bytes(COMPACT_MICROSECONDS));
    let written = writer.finish().unwrap();
    let read: Vec<_> = Envelope::parse(&written)
        .unwrap()
        .sections()
        .map(|section| (section.kind as u8, section.columns(BASE_US).unwrap().unwrap().0))
        .collect();
    assert_eq!(read, [(11, steady()), (12, in_microseconds())]);
}

/// Two signals that come together every 100 ms or so, and one that follows every third time.
fn steady() -> Columns {
    let time_us = |row: i64| BASE_US + row * 100_000 + (row * 7 % 3) * 1_000;
    let both = Group {
        times_us: (0..30).map(time_us).collect(),
        columns: vec![
            column(4, Values::Raw((0..30).map(|row| 700 + row * row).collect())),
            column(7, Values::Raw(vec![5; 30])),
        ],
    };
    let third = Group {
        times_us: (0..10).map(|row| time_us(3 * row) + 1_000).collect(),
        columns: vec![column(9, Values::Bool((0..10).map(|row| row % 4 == 0).collect()))],
    };
    Columns { groups: vec![both, third] }
}

const COMPACT_MILLISECONDS: &[&str] = &[
    "10001a184809e707fc87f0f509f66cdacb89c613cf8000182ff618a20000000202ff8d155b334da83fb2cc62df8ac63dcbfad07ce11f9b333333336e1124d6294917ee71c7585f91e8c410",
];
const COMPACT_MICROSECONDS: &[&str] = &["a735b9b9d004c02fffffffffffff93"];
const COMPACT_STEADY: &[&str] = &["17ffb55980aa57463a65aaccf2ef4f011fe3359157202c3bbb93d69b"];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn reports_and_triggers() {
    let report = Report {
        version: Some(300),
        refused: Some(Refusal { version: None, reason: "no".into() }),
        campaigns: vec![CampaignReport {
            id: CAMPAIGN_ID,
            name: "c".into(),
            status: CampaignStatus::Rejected("why".into()),
            signals_matched: 200,
            signals_seen: 3,
            unseen: vec!["A.B".into()],
        }],
        problems: vec!["p".into()],
    };
    let body = [
        "01ac02",           // version: some 300
        "01",               // refused: some
        "00",               // its version: none
        "026e6f",           // "no"
        "01",               // 1 campaign
        "c0c1c2c3c4c5c6c7", // campaign id
        "0163",             // name "c"
        "06",               // status rejected
        "03776879",         // "why"
        "c801",             // matched 200
        "03",               // seen 3
        "01",               // 1 signal never seen
        "03412e42",         // "A.B"
        "01",               // 1 problem
        "0170",             // "p"
    ];
    assert_postcard(&bytes(&body), &report);
    let statuses = [
        CampaignStatus::Active,
        CampaignStatus::WaitingForSignals,
        CampaignStatus::WaitingForTrigger,
        CampaignStatus::Degraded,
        CampaignStatus::OverBudget,
        CampaignStatus::Expired,
    ];
    assert_eq!(
        statuses.map(|status| postcard::to_allocvec(&status).unwrap()),
        [[0], [1], [2], [3], [4], [5]]
    );
    let trigger = TriggerRecord { triggered_us: -3, number: 128 };
    // Time -3 us, then number 128.
    assert_postcard(&bytes(&["05", "8001"]), &trigger);
    assert_eq!((SectionKind::Report as u8, SectionKind::Trigger as u8), (9, 10));
}

#[test]
fn desired_state_and_its_way_down() {
    let campaign = Campaign {
        name: "c".into(),
        lane: Lane::Fast,
        window_ms: 128,
        batch_samples: 5,
        priority: 200,
        expires_us: Some(1),
        bytes_per_day: None,
        collection: Collection::ConditionBased(Trigger {
            condition: "A > 1".into(),
            mode: TriggerMode::AnyEdge,
            minimum_interval_ms: 1,
            before_duration_ms: 2,
            after_duration_ms: 3,
        }),
        signals: vec![SignalSelector {
            pattern: "*".into(),
            period_ms: 7,
            deadband: 0.5,
            on_change: true,
            exclude: false,
        }],
        trouble_codes: true,
    };
    let state = DesiredState { vehicle_id: VEHICLE_ID, version: 300, campaigns: vec![campaign] };
    let document = [
        "00112233445566778899aabbccddeeff", // vehicle id
        "ac02",                             // version 300
        "01",                               // 1 campaign
        "0163",                             // name "c"
        "00",                               // lane fast
        "8001",                             // window 128 ms
        "05",                               // 5 samples
        "c8",                               // priority 200, u8
        "0102",                             // expires: some 1 us
        "00",                               // bytes a day: none
        "01",                               // condition-based
        "0541203e2031",                     // "A > 1"
        "02",                               // any edge
        "010203",                           // interval, before, after
        "01",                               // 1 selector
        "012a",                             // "*"
        "07",                               // period 7 ms
        "000000000000e03f",                 // deadband 0.5, f64
        "01",                               // on change
        "00",                               // exclude: no
        "01",                               // trouble codes
    ];
    let document = bytes(&document);
    assert_eq!(state.document(), document);
    let sealed = seal(&document, Some([9; 64]));
    // Form 1, the document's length, the document, the signature.
    let expected = [&[1, document.len() as u8][..], &document, &[9; 64]].concat();
    assert_eq!(sealed, expected);
    assert_eq!(Sealed::parse(&sealed).unwrap().read(), Ok(state));
    // Version 1, kind 4, the length, the sealed bytes; kind 5 is a request without content.
    let down = Down::Desired(vec![1, 2]);
    assert_eq!((down.encode(), Down::WantSnapshot.encode()), (vec![1, 4, 2, 1, 2], vec![1, 5]));
}

#[test]
fn sections_of_unknown_kind_are_skipped() {
    let sections = [
        "000000",   // kind 0, plain, empty: never used
        "03000100", // kind 3, plain, 1 byte: 0 drop reports
        "c0843d",   // kind 1,000,000, of a later version
        "0902ffee", // codec 9, 2 bytes
        "02000100", // kind 2, plain, 1 byte: 0 trouble codes
    ];
    let expected = envelope(BARE_BYTES, &sections, "f27e260e"); // 0x0e267ef2
    let parsed = Envelope::parse(&expected).unwrap();
    let read: Vec<_> =
        parsed.sections().map(|section| (section.kind, section.body().unwrap().into_owned())).collect();
    assert_eq!(read, [(SectionKind::Drops, vec![0]), (SectionKind::Dtcs, vec![0])]);
}

#[test]
fn another_version_is_named() {
    let mut later = envelope(BARE_BYTES, &[], "3e4cd890");
    later[2] = 2;
    assert_eq!(Envelope::parse(&later).unwrap_err(), EnvelopeError::Version(2));
    assert_eq!(peek_header(&later).unwrap_err(), EnvelopeError::Version(2));
}

#[test]
fn downlink_messages() {
    let range = SequenceRange { boot_id: BOOT, lane: Lane::Bulk, first: 5, last: 200 };
    let digest = PayloadDigest([0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7]);
    let messages: [(Down, &[&str]); 4] = [
        // Version (1 byte), stored, 1 range; lane bulk, first 5, last 200.
        (Down::Stored(vec![range]), &["01", "00", "01", BOOT_BYTES, "01", "05", "c801"]),
        // Version, quarantined, payload digest.
        (Down::Quarantined(digest), &["01", "01", "d0d1d2d3d4d5d6d7"]),
        // Version, busy, 2,000 ms.
        (Down::Busy { retry_after_ms: 2_000 }, &["01", "02", "d00f"]),
        // Version, want manifest, its id.
        (Down::WantManifest(MANIFEST_ID), &["01", "03", "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"]),
    ];
    for (down, expected) in messages {
        assert_eq!(down.encode(), bytes(expected), "{down:?}");
        assert_eq!(Down::decode(&bytes(expected)), Ok(down));
    }
    // The first 8 bytes of the BLAKE3 hash of no bytes, from the specification.
    assert_eq!(PayloadDigest::of(b"").0[..], bytes(&["af1349b9f5f9a1a6"]));
}
