//! Recordings in TRC, the text format of PEAK's tools, versions 1.0 to 1.3, 2.0 and 2.1.
//!
//! ```text
//! ;$FILEVERSION=1.1                                      1.0 where it is missing
//! ;$STARTTIME=44548.6028595139                           days since 1899-12-30
//!      1)      1059.9  Rx         0300  2  12 34         number, milliseconds, Rx or Tx, id (8 digits: 29 bits), DLC, data
//!      2)      1060.1  Warng  FFFFFFFF  4  00 00 00 08   event: counted, skipped
//!      3)      1060.2  Error      0008  4  00 19 08 08   error frame: counted, skipped
//!      4)      1060.3  Rx         0300  7  RTR           remote frame: counted, skipped
//! ;$FILEVERSION=2.1
//! ;$COLUMNS=N,O,T,B,I,d,R,L,D                            what stands where: L is a DLC, l bytes
//!       1      1059.900 DT 1      0300 Rx -  2  12 34    FD, FB, FE, BI: CAN FD; RR: remote; ER: error; ST, EC, EV: events
//! ; comment
//! ```

use convoy_protocol::frame::{CanId, FRAME_DATA_BYTES_MAX};

use super::digits::{Base, bus_number, bytes, can_id, classic_length, dlc, fd_length, number, scaled, words};
use super::{DataLine, Line, LineFault, date};

const COLUMNS_V1_0: &[u8] = b"NOILD";
const COLUMNS_V1_1: &[u8] = b"NOTILD";
const COLUMNS_V1_2: &[u8] = b"NOBTILD";
const COLUMNS_V1_3: &[u8] = b"NOBTIRLD";
const COLUMNS_V2_0: &[u8] = b"NOTIdlD";
const COLUMNS_V2_1: &[u8] = b"NOTBIdRLD";
/// Where the format has no bus, it is one.
const ONLY_BUS: u8 = 1;

/// What the lines so far say about those to come.
#[derive(Debug)]
pub(super) struct Trc {
    /// Names of the columns; none in a version that is not read.
    columns: Vec<u8>,
    start_us: i64,
}

impl Default for Trc {
    fn default() -> Self {
        Self { columns: COLUMNS_V1_0.to_vec(), start_us: 0 }
    }
}

/// What the type of a record says.
enum Kind {
    Classic,
    Fd,
    Remote,
    Error,
    Event,
}

impl Trc {
    /// Parses one line without its line end.
    pub(super) fn parse_line(&mut self, line: &[u8]) -> Result<Line<u8>, LineFault> {
        match line.trim_ascii() {
            [] => Ok(Line::Header),
            [b';', b'$', setting @ ..] => self.set(setting).map(|()| Line::Header),
            [b';', ..] => Ok(Line::Header),
            record => self.record(record),
        }
    }

    fn set(&mut self, setting: &[u8]) -> Result<(), LineFault> {
        let at = setting.iter().position(|byte| *byte == b'=').unwrap_or(setting.len());
        let (name, value) =
            (setting[..at].trim_ascii(), setting.get(at + 1..).unwrap_or_default().trim_ascii());
        match name {
            b"FILEVERSION" => {
                self.columns = match value {
                    b"1.0" => COLUMNS_V1_0,
                    b"1.1" => COLUMNS_V1_1,
                    b"1.2" => COLUMNS_V1_2,
                    b"1.3" => COLUMNS_V1_3,
                    b"2.0" => COLUMNS_V2_0,
                    b"2.1" => COLUMNS_V2_1,
                    _ => b"",
                }
                .to_vec();
                if self.columns.is_empty() { Err(LineFault::Version) } else { Ok(()) }
            }
            b"STARTTIME" => {
                self.start_us = 0;
                self.start_us = date::spreadsheet_days(value).ok_or(LineFault::StartTime)?;
                Ok(())
            }
            b"COLUMNS" if !self.columns.is_empty() => {
                self.columns = columns(value).ok_or(LineFault::ColumnList)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn record(&self, line: &[u8]) -> Result<Line<u8>, LineFault> {
        if self.columns.is_empty() {
            return Err(LineFault::Version);
        }
        let mut words = words(line);
        let (mut kind, mut bus, mut id, mut timestamp_us, mut len) = (Kind::Classic, ONLY_BUS, None, 0, 0);
        for column in self.columns.iter().take_while(|column| **column != b'D') {
            let word = words.next().unwrap_or_default();
            match column {
                b'N' => message_number(word).ok_or(LineFault::MessageNumber)?,
                b'O' => timestamp_us = self.time(word).ok_or(LineFault::Milliseconds)?,
                b'T' => match kind_of(word).ok_or(LineFault::RecordType)? {
                    Kind::Error => return Ok(Line::Error),
                    Kind::Event => return Ok(Line::Event),
                    other => kind = other,
                },
                b'B' => bus = bus_number(word, 1).ok_or(LineFault::BusNumber)?,
                // Version 1.0 has no types, but this id.
                b'I' if word == b"FFFFFFFF" => return Ok(Line::Event),
                b'I' => id = Some(identifier(word).ok_or(LineFault::Identifier)?),
                b'd' if matches!(word, b"Rx" | b"Tx") => {}
                b'd' => return Err(LineFault::Direction),
                b'L' | b'l' => len = length(*column, word, &kind).ok_or(LineFault::Length)?,
                _ => {}
            }
        }
        match words.clone().next() {
            Some(b"RTR") => return Ok(Line::Remote),
            Some(b"ERROR") => return Ok(Line::Error),
            _ if matches!(kind, Kind::Remote) => return Ok(Line::Remote),
            _ => {}
        }
        let data = bytes(&mut words, len, Base::Hex)?;
        if words.next().is_some() {
            return Err(LineFault::Bytes);
        }
        let id = id.ok_or(LineFault::Identifier)?;
        Ok(Line::Data(DataLine { timestamp_us, bus, id, len, data }))
    }

    fn time(&self, word: &[u8]) -> Option<i64> {
        scaled(word, 3)?.checked_add(self.start_us)
    }
}

/// `N,O,T,B,I,d,R,L,D`: each at most once, with all that a frame needs.
fn columns(list: &[u8]) -> Option<Vec<u8>> {
    let mut columns = Vec::new();
    for name in list.split(|byte| *byte == b',') {
        let [name] = name.trim_ascii() else { return None };
        if !b"NOTBIdRlLD".contains(name) || columns.contains(name) {
            return None;
        }
        columns.push(*name);
    }
    let has = |name: u8| columns.contains(&name);
    let is_whole = has(b'O') && has(b'T') && has(b'I') && (has(b'l') != has(b'L'));
    let type_is_first =
        columns.iter().position(|name| *name == b'T') < columns.iter().position(|name| b"IlL".contains(name));
    (is_whole && type_is_first && columns.last() == Some(&b'D')).then_some(columns)
}

/// `12)` or `12`.
fn message_number(word: &[u8]) -> Option<()> {
    let digits = word.strip_suffix(b")").unwrap_or(word);
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then_some(())
}

fn kind_of(word: &[u8]) -> Option<Kind> {
    Some(match word {
        b"Rx" | b"Tx" | b"DT" => Kind::Classic,
        b"FD" | b"FB" | b"FE" | b"BI" => Kind::Fd,
        b"RR" => Kind::Remote,
        b"ER" | b"Error" => Kind::Error,
        b"ST" | b"EC" | b"EV" | b"Warng" => Kind::Event,
        _ => return None,
    })
}

/// 4 digits for 11 bits, 8 for 29.
fn identifier(word: &[u8]) -> Option<CanId> {
    can_id(number(word, Base::Hex)?, word.len() > 4)
}

fn length(column: u8, word: &[u8], kind: &Kind) -> Option<usize> {
    let bytes_max = if matches!(kind, Kind::Fd) { FRAME_DATA_BYTES_MAX } else { 8 };
    match (column, kind) {
        (b'L', Kind::Fd) => dlc(word).map(fd_length),
        (b'L', _) => dlc(word).map(classic_length),
        _ => usize::try_from(number(word, Base::Dec)?).ok().filter(|len| *len <= bytes_max),
    }
}

/// Does the line tell that a recording is TRC: a setting, or a record of version 1?
pub(super) fn tells_format(line: &[u8]) -> bool {
    let is_numbered =
        words(line).next().is_some_and(|word| word.ends_with(b")") && message_number(word).is_some());
    is_numbered || line.trim_ascii_start().starts_with(b";$")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = ";$STARTTIME=43875.5";
    const START_US: i64 = 1_581_681_600_000_000;

    fn trc(head: &[&str]) -> Trc {
        let mut trc = Trc::default();
        for line in head {
            assert_eq!(trc.parse_line(line.as_bytes()), Ok(Line::Header), "{line}");
        }
        trc
    }

    fn data(trc: &mut Trc, line: &str) -> DataLine<u8> {
        match trc.parse_line(line.as_bytes()) {
            Ok(Line::Data(data)) => data,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_version_has_its_columns() {
        for (version, start_us, line, bus) in [
            ("1.0", 0, "     1)      1059  00000300  2  12 34", 1),
            ("1.1", START_US, "     1)      1059.0  Rx     00000300  2  12 34 ", 1),
            ("1.2", START_US, "     1)      1059.000 2  Rx    00000300  2  12 34", 2),
            ("1.3", START_US, "     1)      1059.000 2  Tx    00000300 -  2    12 34", 2),
            ("2.0", START_US, "      1      1059.000 DT 00000300 Tx 2  12 34", 1),
            ("2.1", START_US, "      1      1059.000 DT 2  00000300 Rx -  2    12 34\r", 2),
        ] {
            let head = [&*format!(";$FILEVERSION={version}\r"), START, ";", ";  Start time: 30.09.2017"];
            let mut trc = trc(if version == "1.0" { &head[2..] } else { &head[..] });
            let line = data(&mut trc, line);
            assert_eq!((line.timestamp_us, line.bus), (start_us + 1_059_000, bus), "{version}");
            assert_eq!(
                (line.id, &line.data[..line.len]),
                (CanId::Extended(0x300), &[0x12, 0x34][..]),
                "{version}"
            );
        }
    }

    #[test]
    fn columns_can_be_named() {
        let mut trc = trc(&[";$FILEVERSION=2.1", ";$COLUMNS=N,O,T,B,I,d,L,D"]);
        let line =
            data(&mut trc, "    163      6924.150 FB 2 12345678 Rx 09 00 01 02 03 04 05 06 07 08 09 0A 0B");
        assert_eq!((line.timestamp_us, line.len, line.data[11]), (6_924_150, 12, 0x0B));
        for list in [
            "",
            "N,O,T,I,D",
            "O,T,I,l,L,D",
            "O,T,I,l,D,R",
            "O,T,I,I,l,D",
            "O,T,I,x,l,D",
            "O,I,T,l,D",
            "O,T,I,ll,D",
        ] {
            let line = format!(";$COLUMNS={list}");
            assert_eq!(trc.parse_line(line.as_bytes()), Err(LineFault::ColumnList), "{list}");
        }
        assert_eq!(data(&mut trc, "1 0.0 DT 2 0123 Rx 0").len, 0);
    }

    #[test]
    fn fd_frames_hold_64_bytes_by_code_or_by_count() {
        let mut codes = trc(&[";$FILEVERSION=2.1"]);
        for kind in ["FD", "FB", "FE", "BI"] {
            let line = data(&mut codes, &format!("1 0.0 {kind} 1 0123 Rx - 15{}", " AB".repeat(64)));
            assert_eq!((line.len, line.data[63]), (64, 0xAB));
        }
        assert_eq!(data(&mut codes, &format!("1 0.0 DT 1 07FF Rx - 15{}", " AB".repeat(8))).len, 8);
        let mut counts = trc(&[";$FILEVERSION=2.0"]);
        assert_eq!(data(&mut counts, &format!("1 0.0 FD 0123 Rx 64{}", " AB".repeat(64))).len, 64);
        assert_eq!(counts.parse_line(b"1 0.0 FD 0123 Rx 65"), Err(LineFault::Length));
        assert_eq!(counts.parse_line(b"1 0.0 DT 0123 Rx 9"), Err(LineFault::Length));
    }

    #[test]
    fn remote_frames_error_frames_and_events_are_told_apart_from_data() {
        for (version, line, expected) in [
            ("1.0", "2)  1842      0008  4  ERROR 00 19 08 08", Line::Error),
            ("1.0", "3)  1843  FFFFFFFF  4  00 00 00 04  -- -- -- -- BUSLIGHT", Line::Event),
            ("1.0", "4)  1844      0100  3  RTR", Line::Remote),
            ("1.1", "6)      1346.8  Warng  FFFFFFFF  4  00 00 00 04  BUSLIGHT", Line::Event),
            ("1.1", "7)      1349.2  Error      0008  4  00 19 08 08", Line::Error),
            ("1.1", "12)     48937.6  Rx         0704  1  RTR", Line::Remote),
            ("1.3", "12)     48937.600 1  Rx        0704 -  1    RTR", Line::Remote),
            ("2.0", "2     17540.300 ST          Rx    00 00 00 08", Line::Event),
            ("2.0", "12     48937.600 RR     0704 Rx 1", Line::Remote),
            ("2.1", "4      1298.945 ST 1         - Rx -  4    00 00 00 08", Line::Event),
            ("2.1", "7      1334.222 ER 1         - Rx -  5    04 00 02 00 00", Line::Error),
            ("2.1", "8      1334.224 EV 1    User-defined event for bus 1", Line::Event),
            ("2.1", "9      1334.520 EC 1         - Rx -  2    02 02", Line::Event),
            ("2.1", "10      1334.231 RR 1      0100 Rx -  3", Line::Remote),
        ] {
            let mut trc = trc(&[&format!(";$FILEVERSION={version}")]);
            assert_eq!(trc.parse_line(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_version_that_is_not_read_is_a_fault_of_every_record() {
        let mut trc = Trc::default();
        assert_eq!(trc.parse_line(b";$FILEVERSION=3.0"), Err(LineFault::Version));
        assert_eq!(trc.parse_line(b";$COLUMNS=N,O,T,I,l,D"), Ok(Line::Header));
        assert_eq!(trc.parse_line(b"1 0.0 DT 0123 0"), Err(LineFault::Version));
    }

    #[test]
    fn damaged_lines_name_their_fault() {
        let mut trc = trc(&[";$FILEVERSION=2.1", START]);
        for (line, fault) in [
            ("garbage", LineFault::MessageNumber),
            ("1", LineFault::Milliseconds),
            ("1 0.0.0 DT 1 0123 Rx - 0", LineFault::Milliseconds),
            ("1 9223372036854775.807 DT 1 0123 Rx - 0", LineFault::Milliseconds),
            ("1 0.0 XX 1 0123 Rx - 0", LineFault::RecordType),
            ("1 0.0 DT 0 0123 Rx - 0", LineFault::BusNumber),
            ("1 0.0 DT 1 0800 Rx - 0", LineFault::Identifier),
            ("1 0.0 DT 1 20000000 Rx - 0", LineFault::Identifier),
            ("1 0.0 DT 1 - Rx - 0", LineFault::Identifier),
            ("1 0.0 DT 1 0123 Ry - 0", LineFault::Direction),
            ("1 0.0 DT 1 0123 Rx -", LineFault::Length),
            ("1 0.0 DT 1 0123 Rx - 16", LineFault::Length),
            ("1 0.0 DT 1 0123 Rx - 2 00", LineFault::Bytes),
            ("1 0.0 DT 1 0123 Rx - 2 00 0G", LineFault::Bytes),
            ("1 0.0 DT 1 0123 Rx - 2 00 01 02", LineFault::Bytes),
        ] {
            assert_eq!(trc.parse_line(line.as_bytes()), Err(fault), "{line}");
        }
        assert_eq!(trc.parse_line(b";$STARTTIME=now"), Err(LineFault::StartTime));
        assert_eq!(data(&mut trc, "1 1.0 DT 1 0123 Rx - 0").timestamp_us, 1_000);
    }
}
