//! NMEA 0183, the sentences of GNSS receivers, as frames of a bus of their own.
//!
//! A fix becomes the frames that [`GNSS_DBC`] describes, so that positions take the same way as every other signal. What a
//! receiver does not know it leaves out: a frame without it is shorter, or not there. Sentences are read by the crate
//! `nmea`, checksums included; RMC and GGA are used, which every receiver sends, of whatever satellites.

use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use nmea::ParseResult;
use nmea::sentences::FixType;
use nmea::sentences::rmc::RmcStatusOfFix;

/// What the frames mean, as a DBC file.
pub const GNSS_DBC: &str = include_str!("gnss.dbc");
/// Longest sentence, bytes. The standard says 82; receivers of several systems exceed it.
pub const SENTENCE_BYTES_MAX: usize = 256;

const POSITION: CanId = CanId::Standard(1);
const COURSE: CanId = CanId::Standard(2);
const FIX: CanId = CanId::Standard(3);
const ALTITUDE: CanId = CanId::Standard(4);
/// km/h of a knot.
const KNOT_KM_H: f64 = 1.852;

/// What was read and could not be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NmeaCounters {
    /// Sentences with a position.
    pub fixes: u64,
    /// Sentences that say that there is none.
    pub without_fix: u64,
    /// Sentences that are not used.
    pub unused: u64,
    /// Sentences with a wrong checksum, cut short or too long, and what is none.
    pub malformed: u64,
}

/// Reads one receiver.
#[derive(Debug)]
pub struct NmeaReader {
    bus: BusIndex,
    sentence: Vec<u8>,
    overlong: bool,
    counters: NmeaCounters,
}

impl NmeaReader {
    /// A reader whose frames are of `bus`.
    pub fn new(bus: BusIndex) -> Self {
        Self { bus, sentence: Vec::new(), overlong: false, counters: NmeaCounters::default() }
    }

    /// What was counted so far.
    pub fn counters(&self) -> NmeaCounters {
        self.counters
    }

    /// Takes what the receiver sent; calls `frame` for each frame, whose time is `wall_us`.
    pub fn handle_bytes(&mut self, wall_us: i64, bytes: &[u8], mut frame: impl FnMut(CanFrame)) {
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    let sentence = std::mem::take(&mut self.sentence);
                    if std::mem::take(&mut self.overlong) {
                        self.counters.malformed += 1;
                    } else if !sentence.is_empty() {
                        self.handle_sentence(&sentence, wall_us, &mut frame);
                    }
                    self.sentence = sentence;
                    self.sentence.clear();
                }
                // A sentence that begins inside another one: the end of that one is lost.
                b'$' => {
                    self.counters.malformed += u64::from(!self.sentence.is_empty() || self.overlong);
                    self.sentence.clear();
                    self.sentence.push(b'$');
                    self.overlong = false;
                }
                byte if self.sentence.len() < SENTENCE_BYTES_MAX => self.sentence.push(*byte),
                _ => self.overlong = true,
            }
        }
    }

    fn handle_sentence(&mut self, sentence: &[u8], wall_us: i64, frame: &mut impl FnMut(CanFrame)) {
        let bus = self.bus;
        let mut put = |id, data: &[u8]| {
            if let Ok(parsed) = CanFrame::new(wall_us, bus, id, data) {
                frame(parsed);
            }
        };
        match nmea::parse_bytes(sentence) {
            Ok(ParseResult::RMC(rmc)) => {
                let (Some(latitude), Some(longitude), true) =
                    (rmc.lat, rmc.lon, rmc.status_of_fix != RmcStatusOfFix::Invalid)
                else {
                    self.counters.without_fix += 1;
                    return;
                };
                self.counters.fixes += 1;
                put(POSITION, &position(latitude, longitude));
                if let Some(knots) = rmc.speed_over_ground {
                    let speed = scaled_u16(f64::from(knots) * KNOT_KM_H).to_le_bytes();
                    match rmc.true_course {
                        Some(course) => {
                            let heading = scaled_u16(f64::from(course)).to_le_bytes();
                            put(COURSE, &[speed, heading].concat());
                        }
                        None => put(COURSE, &speed),
                    }
                }
            }
            Ok(ParseResult::GGA(gga)) => {
                let Some(fix) = gga.fix_type.filter(|fix| *fix != FixType::Invalid) else {
                    self.counters.without_fix += 1;
                    return;
                };
                self.counters.fixes += 1;
                let satellites = u8::try_from(gga.fix_satellites.unwrap_or(0)).unwrap_or(u8::MAX);
                let mut data = vec![quality(fix), satellites];
                data.extend(gga.hdop.map(|hdop| scaled_u16(f64::from(hdop)).to_le_bytes()).iter().flatten());
                put(FIX, &data);
                if let Some(altitude) = gga.altitude {
                    put(ALTITUDE, &scaled_i32(f64::from(altitude), 1e2).to_le_bytes());
                }
            }
            Ok(_) | Err(nmea::Error::DisabledSentence | nmea::Error::Unsupported(_)) => {
                self.counters.unused += 1
            }
            Err(_) => self.counters.malformed += 1,
        }
    }
}

fn position(latitude: f64, longitude: f64) -> Vec<u8> {
    [scaled_i32(latitude, 1e7).to_le_bytes(), scaled_i32(longitude, 1e7).to_le_bytes()].concat()
}

/// Digit of GGA.
const fn quality(fix: FixType) -> u8 {
    match fix {
        FixType::Invalid => 0,
        FixType::Gps => 1,
        FixType::DGps => 2,
        FixType::Pps => 3,
        FixType::Rtk => 4,
        FixType::FloatRtk => 5,
        FixType::Estimated => 6,
        FixType::Manual => 7,
        FixType::Simulation => 8,
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a cast of a double saturates")]
fn scaled_i32(value: f64, per_unit: f64) -> i32 {
    (value * per_unit).round() as i32
}

/// In hundredths.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a double saturates")]
fn scaled_u16(value: f64) -> u16 {
    (value * 100.0).round() as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dbc::{self, DbcSource};
    use crate::decoder::Row;
    use crate::vss::VssMap;
    use proptest::prelude::*;

    /// Paths and values of everything that a receiver says.
    fn values(reader: &mut NmeaReader, text: &str) -> Vec<(String, f64)> {
        let source = DbcSource { name: "gnss.dbc".into(), bytes: GNSS_DBC.into(), bus: None };
        let (decoder, warnings) = dbc::load(&[source], &VssMap::builtin()).unwrap();
        assert_eq!(warnings, []);
        let (mut row, mut values) = (Row::new(), Vec::new());
        reader.handle_bytes(5, text.as_bytes(), |frame| {
            assert!(decoder.decode(&frame, &mut row).has_row());
            for (signal, value) in row.iter() {
                let def = decoder.manifest().signal(signal).unwrap();
                values.push((def.path.replace("Vehicle.", ""), def.at_path(value.physical(def))));
            }
        });
        values
    }

    /// With its checksum.
    fn sentence(body: &str) -> String {
        format!("${body}*{:02X}\r\n", body.bytes().fold(0, |sum, byte| sum ^ byte))
    }

    fn gga() -> String {
        sentence("GNGGA,133605.0,5521.75946,N,03731.93769,E,2,12,0.7,146.4,M,14.8,M,,")
    }

    fn named(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(path, value)| ((*path).to_owned(), *value)).collect()
    }

    #[test]
    fn position_speed_and_course_come_from_rmc_and_the_fix_from_gga() {
        let mut reader = NmeaReader::new(BusIndex(3));
        let rmc = "$GPRMC,225446.33,A,4916.45,N,12311.12,W,000.5,054.7,191194,020.3,E,A*2B\r\n";
        let found = values(&mut reader, &format!("{rmc}{}", gga()));
        let expected = [
            ("CurrentLocation.Latitude", 49.274_166_7),
            ("CurrentLocation.Longitude", -123.185_333_3),
            ("Private.GnssCourse.Speed", 0.93),
            ("CurrentLocation.Heading", 54.7),
            ("Private.GnssFix.Quality", 2.0),
            ("Private.GnssFix.Satellites", 12.0),
            ("Private.GnssFix.Hdop", 0.7),
            ("CurrentLocation.Altitude", 146.4),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((path, value), (expected_path, expected)) in found.iter().zip(expected) {
            assert!(path == expected_path && (value - expected).abs() < 1e-9, "{path}: {value}");
        }
        assert_eq!(reader.counters().fixes, 2);
    }

    #[test]
    fn what_a_receiver_does_not_know_is_left_out() {
        let mut reader = NmeaReader::new(BusIndex(0));
        let none =
            ["GPRMC,,V,,,,,,,,,,N", "GPGGA,133605.00,,,,,0,00,99.99,,,,,,", "GPGSV,1,1,00"].map(sentence);
        assert_eq!(values(&mut reader, &none.concat()), named(&[]));
        let counters = reader.counters();
        assert_eq!((counters.without_fix, counters.unused, counters.malformed), (2, 1, 0));
        let standing = sentence("GPRMC,225446,A,4916.45,N,12311.12,W,000.0,,191194,,,A");
        assert_eq!(
            values(&mut reader, &standing).last(),
            Some(&("Private.GnssCourse.Speed".to_owned(), 0.0))
        );
    }

    #[test]
    fn damaged_sentences_are_counted_and_the_next_one_is_read() {
        let mut reader = NmeaReader::new(BusIndex(0));
        let good = gga();
        let bad = good.replace("5521", "5522");
        let cut = &good[..30];
        let text = format!("{bad}{cut}{good}{}\r\n{good}", "x".repeat(1_000));
        assert_eq!(values(&mut reader, &text).len(), 8);
        assert_eq!((reader.counters().malformed, reader.counters().fixes), (3, 2));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = NmeaReader::new(BusIndex(0));
            reader.handle_bytes(0, &bytes, |_| {});
            reader.handle_bytes(0, b"\r\n$GPRMC,", |_| {});
            reader.handle_bytes(0, &bytes, |_| {});
            reader.handle_bytes(0, b"\n", |_| {});
        }
    }
}
