//! Recordings that other tools wrote: the same one in several formats has the same frames.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;

use convoy_agent::log::{BusTable, LineCounts, LogInput, LogReader};
use convoy_protocol::frame::CanFrame;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

/// A recording of CSS Electronics beside candump's.
struct Css {
    file: &'static str,
    /// How much later candump's times are.
    behind_us: i64,
    /// By how much more the times may differ; candump's have microseconds.
    tolerance_us: u64,
}

const CSS: [Css; 3] = [
    Css { file: "css-format-samples/multiple_CAN.asc", behind_us: 0, tolerance_us: 0 },
    Css { file: "css-format-samples/multiple_CAN.csv", behind_us: 0, tolerance_us: 0 },
    // The writer of the sample began at 43874 for 2020-02-14, which is 43875 in PEAK's own files: one day. The start has 10
    // decimals of a day, 8.64 us, half of which can be missing; the offset of a frame has microseconds.
    Css { file: "css-format-samples/multiple_CAN.trc", behind_us: 86_400_000_000, tolerance_us: 5 },
];
const CSS_CANDUMP: &str = "css-format-samples/multiple_CAN.log";
const SAVVYCAN: [&str; 3] =
    ["savvycan-logs/candump.log.gz", "savvycan-logs/GVRET_Log.csv.gz", "savvycan-logs/CRTD_Log.txt.gz"];

struct Recording {
    frames: Vec<CanFrame>,
    buses: Vec<String>,
    lines: LineCounts,
}

fn read(text: &[u8]) -> Recording {
    let mut reader = LogReader::new(LogInput::Memory(text.into()).open().unwrap(), BusTable::default());
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        frames.push(frame);
    }
    Recording { frames, buses: reader.buses().names().to_vec(), lines: reader.counts().clone() }
}

fn file(name: &str) -> Vec<u8> {
    let bytes =
        std::fs::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data")).join(name)).unwrap();
    if !name.ends_with(".gz") {
        return bytes;
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    plain
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

/// Same bus, id with its kind, data and time.
fn assert_equal(candump: &Recording, other: &Recording, css: &Css) {
    let name = css.file;
    assert_eq!((candump.frames.len(), &candump.buses), (other.frames.len(), &other.buses), "{name}");
    assert_eq!(candump.lines, other.lines, "{name}");
    for (at, (candump, other)) in candump.frames.iter().zip(&other.frames).enumerate() {
        let expected = (candump.bus, candump.id, candump.data());
        assert_eq!((other.bus, other.id, other.data()), expected, "{name}, frame {at}");
        let apart_us = (other.timestamp_us + css.behind_us).abs_diff(candump.timestamp_us);
        assert!(apart_us <= css.tolerance_us, "{name}, frame {at}: {apart_us} us apart");
    }
}

#[test]
fn every_format_of_css_has_the_frames_of_candump() {
    let candump = read(&file(CSS_CANDUMP));
    assert_eq!((candump.frames.len(), candump.lines.damaged), (164, 0));
    assert_eq!(candump.buses, ["can0", "can1"]);
    assert_eq!(candump.frames.iter().map(|frame| frame.data().len()).max(), Some(64));
    for css in &CSS {
        let text = file(css.file);
        let windows = String::from_utf8(text.clone()).unwrap().replace('\n', "\r\n").into_bytes();
        for text in [&text, &packed(&text), &windows] {
            assert_equal(&candump, &read(text), css);
        }
    }
    let commas = String::from_utf8(file(CSS[1].file)).unwrap().replace(';', ",");
    assert_equal(&candump, &read(commas.as_bytes()), &CSS[1]);
}

#[test]
fn every_format_of_savvycan_has_the_frames_of_the_golden_counts() {
    let golden: Value = serde_json::from_slice(&file("savvycan-logs/golden.counts.json")).unwrap();
    let golden = &golden["candump"];
    for (name, bus) in SAVVYCAN.into_iter().zip(["vcan0", "can0", "can1"]) {
        let recording = read(&file(name));
        assert_eq!((recording.lines.damaged, recording.buses), (0, vec![bus.to_owned()]), "{name}");
        assert_eq!(golden["frames"], recording.lines.frames, "{name}");
        let mut per_id = BTreeMap::<String, u64>::new();
        let mut text = String::new();
        for frame in &recording.frames {
            let id = format!("{:X}", frame.id.bits());
            write!(text, "{id}#").unwrap();
            frame.data().iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
            text.push(';');
            *per_id.entry(id).or_default() += 1;
        }
        assert_eq!(golden["per_id"], serde_json::to_value(&per_id).unwrap(), "{name}");
        assert_eq!(golden["ids"], per_id.len(), "{name}");
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(golden["sha256_id_data"], hex, "{name}");
    }
}

#[test]
fn savvycan_times_are_equal_to_their_resolution() {
    let [candump, gvret, crtd] = SAVVYCAN.map(|name| read(&file(name)));
    assert_eq!((gvret.frames[0].timestamp_us, crtd.frames[0].timestamp_us), (166_064_000, 166_064_000));
    for ((candump, gvret), crtd) in candump.frames.iter().zip(&gvret.frames).zip(&crtd.frames) {
        assert_eq!((gvret.id, gvret.data()), (crtd.id, crtd.data()));
        assert_eq!((gvret.id, gvret.data()), (candump.id, candump.data()));
        // In the files CRTD's times are up to 10 ms before GVRET's, and candump's are whole seconds, cut.
        let behind_us = gvret.timestamp_us - crtd.timestamp_us;
        assert!((0..=10_000).contains(&behind_us), "{gvret:?} {crtd:?}");
        assert_eq!(candump.timestamp_us / 1_000_000, gvret.timestamp_us / 1_000_000, "{gvret:?}");
    }
    assert_eq!((crtd.lines.events, gvret.lines.events), (1, 0));
}

/// Heads that make each format's reader take what follows.
const HEADS: [&str; 12] = [
    "",
    "(1.0) can0 123#01\n",
    "date Fri Feb 14 08:51:20 am 2020\nbase hex timestamps absolute\n",
    "base dec timestamps relative\n",
    "1) 1841 0001 1 01\n",
    ";$FILEVERSION=1.1\n",
    ";$FILEVERSION=1.3\n;$STARTTIME=44548.6028595139\n",
    ";$FILEVERSION=2.0\n",
    ";$FILEVERSION=2.1\n;$COLUMNS=N,O,T,B,I,d,L,D\n",
    "TimestampEpoch;BusChannel;ID;IDE;DLC;DataLength;Dir;EDL;BRS;DataBytes\n",
    "Time Stamp,ID,Extended,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8\n",
    "166.064000 CXX GVRET-PC\n",
];

/// Every line that is not empty is in one count, or is part of a head.
fn accounted(text: &[u8]) -> Result<(), TestCaseError> {
    let lines = read(text).lines;
    let counted = lines.frames + lines.remote + lines.error_frames + lines.events + lines.damaged;
    prop_assert!(counted <= text.split(|byte| *byte == b'\n').count() as u64);
    prop_assert_eq!(lines.damage().is_some(), lines.damaged > 0);
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_panic_any_reader(
        head in select(&HEADS[..]),
        bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
    ) {
        accounted(&[head.as_bytes(), &bytes].concat())?;
    }

    #[test]
    fn no_words_of_the_formats_panic_any_reader(
        head in select(&HEADS[..]),
        text in "([0-9]{0,20}[.:;,) #]{0,2}|[A-F0-9]{1,9}x?|Rx|Tx|d|r|RTR|DT|FD|CANFD|ErrorFrame|date|base|R11|C..|\\$COLUMNS=|[ \t\r\n]){0,200}",
    ) {
        accounted(format!("{head}{text}").as_bytes())?;
    }

    #[test]
    fn no_change_of_a_recording_panics_its_reader(
        name in select(vec![CSS_CANDUMP, CSS[0].file, CSS[1].file, CSS[2].file]),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..50),
        len in any::<Index>(),
    ) {
        let mut text = file(name);
        for (at, byte) in changes {
            *at.get_mut(&mut text) = byte;
        }
        text.truncate(len.index(text.len()));
        // Gzip that is none is an error of the input.
        prop_assume!(!text.starts_with(&[0x1f, 0x8b]));
        accounted(&text)?;
    }
}
