//! The recorded logs in `tests/data`, and statistics to compare with their golden files.

use std::collections::BTreeMap;
use std::io::Read;

use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::decoder::{Decoder, RawValue, Row};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::manifest::{Manifest, SignalIndex};

macro_rules! data {
    ($path:literal) => {
        include_bytes!(concat!("../../../../tests/data/", $path)).as_slice()
    };
}
pub(crate) use data;

pub(crate) const J1939_DBC: &[u8] = data!("css-j1939-truck-gps/j1939_excerpt.dbc");
pub(crate) const GPS_DBC: &[u8] = data!("css-j1939-truck-gps/canmod-gps.dbc");
pub(crate) const OBD_DBC: &[u8] = data!("css-obd2-gnss-drive/obd2_s01.dbc");

pub(crate) fn unzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn truck() -> Vec<CanFrame> {
    parse_candump(&unzip(data!("css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz")))
}

pub(crate) fn tp_short() -> Vec<CanFrame> {
    parse_candump(&unzip(data!("css-j1939-tp-short/FCBF0606_00003482_00000001-60B621D9_candump.log.gz")))
}

/// The logger's own GNSS frames on bus 9 get the ids of CANmod.gps, as SOURCE.md of the log says.
pub(crate) fn drive() -> Vec<CanFrame> {
    let log = data!("css-obd2-gnss-drive/7512BE4D_00000427_00000001_candump.log.gz");
    let renamed = |frame: CanFrame| {
        let id = match (frame.bus, frame.id) {
            (BusIndex(9), CanId::Standard(id @ 101..=108)) => CanId::Standard(id - 100),
            (BusIndex(9), CanId::Standard(111)) => CanId::Standard(9),
            (_, id) => id,
        };
        CanFrame::new(frame.timestamp_us, frame.bus, id, frame.data()).unwrap()
    };
    parse_candump(&unzip(log)).into_iter().map(renamed).collect()
}

pub(crate) fn parse_candump(text: &str) -> Vec<CanFrame> {
    let frame = |line: &str| {
        let (time, rest) = line.strip_prefix('(')?.split_once(") can")?;
        let (seconds, micros) = time.split_once('.')?;
        let timestamp_us = seconds.parse::<i64>().ok()? * 1_000_000 + micros.parse::<i64>().ok()?;
        let (bus, frame) = rest.split_once(' ')?;
        let (id, hex) = frame.split_once('#')?;
        let bits = u32::from_str_radix(id, 16).ok()?;
        let id = if id.len() == 8 { CanId::Extended(bits) } else { CanId::Standard(bits as u16) };
        CanFrame::new(timestamp_us, BusIndex(bus.parse().ok()?), id, &bytes_of_hex(hex)?).ok()
    };
    text.lines().map(|line| frame(line).unwrap_or_else(|| panic!("not a frame: {line}"))).collect()
}

pub(crate) fn bytes_of_hex(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

pub(crate) fn source(name: &str, bytes: &[u8], bus: Option<u8>) -> DbcSource {
    DbcSource { name: name.into(), bytes: bytes.to_vec(), bus: bus.map(BusIndex) }
}

pub(crate) fn decoder(sources: &[(&str, &[u8], Option<u8>)]) -> Decoder {
    let sources: Vec<_> = sources.iter().map(|(name, bytes, bus)| source(name, bytes, *bus)).collect();
    dbc::load(&sources, &VssMap::builtin()).unwrap().0
}

/// J1939 and the GNSS receiver of the truck.
pub(crate) fn truck_decoder() -> Decoder {
    decoder(&[("j1939.dbc", J1939_DBC, None), ("canmod-gps.dbc", GPS_DBC, Some(2))])
}

/// OBD-II responses on bus 1, GNSS on bus 9.
pub(crate) fn drive_decoder() -> Decoder {
    decoder(&[("obd2.dbc", OBD_DBC, Some(1)), ("canmod-gps.dbc", GPS_DBC, Some(9))])
}

/// What the golden files hold of a signal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stats {
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) first: f64,
    pub(crate) last: f64,
}

/// Statistics by `Message.Signal`.
#[derive(Debug, Default)]
pub(crate) struct Statistics(pub(crate) BTreeMap<String, Stats>);

impl Statistics {
    pub(crate) fn add(&mut self, manifest: &Manifest, signal: SignalIndex, value: RawValue) {
        let def = manifest.signal(signal).unwrap();
        let name = format!("{}.{}", manifest.message_of(def), def.name);
        let value = value.physical(def);
        let none = Stats { count: 0, min: value, max: value, first: value, last: value };
        let stats = self.0.entry(name).or_insert(none);
        stats.count += 1;
        stats.min = stats.min.min(value);
        stats.max = stats.max.max(value);
        stats.last = value;
    }

    pub(crate) fn add_row(&mut self, manifest: &Manifest, row: &Row) {
        row.iter().for_each(|(signal, value)| self.add(manifest, signal, value));
    }

    /// Only the signals of messages whose name begins so.
    pub(crate) fn of_messages(&self, begins: impl Fn(&str) -> bool) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(name, _)| begins(name))
                .map(|(name, stats)| (name.clone(), *stats))
                .collect(),
        )
    }

    /// All signals of the golden file and no other, equal to 1e-9 relative.
    pub(crate) fn assert_golden(&self, golden: &[u8]) {
        let golden: serde_json::Value = serde_json::from_slice(golden).unwrap();
        let golden = golden["signals"].as_object().unwrap();
        assert_eq!(self.0.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
        for (name, stats) in &self.0 {
            let expected = &golden[name];
            assert_eq!(Some(stats.count), expected["count"].as_u64(), "{name} count");
            for (what, got) in
                [("min", stats.min), ("max", stats.max), ("first", stats.first), ("last", stats.last)]
            {
                assert_close(got, expected[what].as_f64().unwrap(), &format!("{name} {what}"));
            }
        }
    }

    /// The golden values without those that J1939 marks as not available; absent here where none is left.
    pub(crate) fn assert_golden_valid(&self, golden: &[u8]) {
        let golden: serde_json::Value = serde_json::from_slice(golden).unwrap();
        let golden = golden["signals"].as_object().unwrap();
        for (name, expected) in golden {
            let stats = self.0.get(name);
            let count = stats.map_or(0, |stats| stats.count);
            assert_eq!(Some(count), expected["valid_count"].as_u64(), "{name} valid_count");
            let Some(stats) = stats else { continue };
            assert_close(stats.min, expected["valid_min"].as_f64().unwrap(), name);
            assert_close(stats.max, expected["valid_max"].as_f64().unwrap(), name);
        }
        assert!(self.0.keys().all(|name| golden.contains_key(name)));
    }
}

pub(crate) fn assert_close(got: f64, expected: f64, what: &str) {
    let close = (got - expected).abs() <= 1e-9 * expected.abs().max(1e-9);
    assert!(close, "{what}: got {got}, expected {expected}");
}
