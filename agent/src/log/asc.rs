//! Recordings in ASC, the text format of Vector's CANoe and CANalyzer.
//!
//! ```text
//! date Fri Feb 14 08:51:20 am 2020                       when time 0 was
//! base hex  timestamps absolute                          or dec, relative: to the line before
//!   348.161550 1 123        Rx d 2 12 34                 data frame on channel 1
//!   348.165350 1 12345678x  Rx d 0                       29-bit id
//!   348.165350 1 123        Tx r 8                       remote frame: counted, skipped
//!   348.165350 1 ErrorFrame                              counted, skipped
//!   348.165350 CANFD 1 Rx 300 Name 1 0 9 12 00 01 ...    name may be missing; BRS, ESI, DLC, bytes; more may follow
//!   348.165350 1 Statistic: D 2 R 0 ...                  event: counted, skipped
//! // comment
//! ```
//!
//! A DLC is one hex digit or 9 to 15; 9 and more are 8 bytes in a classic frame and 12 to 64 in one of CAN FD, which some
//! writers put into the classic line.

use convoy_protocol::frame::{CanId, FRAME_DATA_BYTES_MAX};

use super::digits::{Base, bus_number, byte, bytes, can_id, dlc, fd_length, number, scaled, words};
use super::{DataLine, Line, LineFault, date};

/// Bit of the flags of a `CANFD` line that marks a remote frame.
const REMOTE_FLAG: u32 = 0x10;

/// What the lines so far say about those to come.
#[derive(Debug)]
pub(super) struct Asc {
    base: Base,
    is_relative: bool,
    /// When times count from: the date or, where they are relative, the last time.
    origin_us: i64,
}

impl Default for Asc {
    fn default() -> Self {
        Self { base: Base::Hex, is_relative: false, origin_us: 0 }
    }
}

impl Asc {
    /// Parses one line without its line end.
    pub(super) fn parse_line(&mut self, line: &[u8]) -> Result<Line<u8>, LineFault> {
        let mut rest = words(line);
        let Some(first) = rest.next() else { return Ok(Line::Header) };
        let Some(since_us) = scaled(first, 6) else { return self.header(line, first, rest) };
        let timestamp_us = self.origin_us.checked_add(since_us).ok_or(LineFault::Seconds)?;
        if self.is_relative {
            self.origin_us = timestamp_us;
        }
        self.record(timestamp_us, rest)
    }

    fn header<'l>(
        &mut self,
        line: &[u8],
        first: &[u8],
        rest: impl Iterator<Item = &'l [u8]>,
    ) -> Result<Line<u8>, LineFault> {
        if first.eq_ignore_ascii_case(b"date") {
            self.origin_us = 0;
            let text = line.trim_ascii().get(first.len()..).unwrap_or_default();
            self.origin_us = date::named_date(text).ok_or(LineFault::Date)?;
            return Ok(Line::Header);
        }
        if first.eq_ignore_ascii_case(b"base") {
            return self.set_base(rest);
        }
        if is_header(line) { Ok(Line::Header) } else { Err(LineFault::Seconds) }
    }

    fn set_base<'l>(&mut self, mut words: impl Iterator<Item = &'l [u8]>) -> Result<Line<u8>, LineFault> {
        self.base = match words.next() {
            Some(word) if word.eq_ignore_ascii_case(b"hex") => Base::Hex,
            Some(word) if word.eq_ignore_ascii_case(b"dec") => Base::Dec,
            _ => return Err(LineFault::NumberBase),
        };
        self.is_relative = match (words.next(), words.next()) {
            (None, _) => false,
            (Some(_), Some(word)) if word.eq_ignore_ascii_case(b"absolute") => false,
            (Some(_), Some(word)) if word.eq_ignore_ascii_case(b"relative") => true,
            _ => return Err(LineFault::NumberBase),
        };
        Ok(Line::Header)
    }

    /// What follows the time.
    fn record<'l>(
        &self,
        timestamp_us: i64,
        mut words: impl Iterator<Item = &'l [u8]> + Clone,
    ) -> Result<Line<u8>, LineFault> {
        let channel = words.next().ok_or(LineFault::BusNumber)?;
        if channel.eq_ignore_ascii_case(b"CANFD") {
            return self.fd(timestamp_us, words);
        }
        let id = words.clone().next();
        let has_direction = words.clone().nth(1).is_some_and(is_direction);
        if !channel.iter().all(u8::is_ascii_digit) {
            let is_frame = has_direction && words.nth(2).is_some_and(|kind| matches!(kind, b"d" | b"r"));
            return if is_frame { Err(LineFault::BusNumber) } else { Ok(Line::Event) };
        }
        let bus = bus_number(channel, 1).ok_or(LineFault::BusNumber)?;
        let id = id.ok_or(LineFault::Identifier)?;
        if is_error_frame(id) {
            return Ok(Line::Error);
        }
        match self.id(id) {
            Err(_) if !has_direction && !id.iter().all(u8::is_ascii_hexdigit) => Ok(Line::Event),
            Err(fault) => Err(fault),
            Ok(_) if !has_direction => Err(LineFault::Direction),
            Ok(id) => {
                let mut words = words.skip(2);
                match words.next() {
                    Some(b"d" | b"D") => {
                        let (len, data) = self.classic(words)?;
                        Ok(Line::Data(DataLine { timestamp_us, bus, id, len, data }))
                    }
                    Some(b"r" | b"R") => Ok(Line::Remote),
                    _ => Err(LineFault::RecordType),
                }
            }
        }
    }

    /// What follows the `d`.
    fn classic<'l>(
        &self,
        mut words: impl Iterator<Item = &'l [u8]> + Clone,
    ) -> Result<(usize, [u8; FRAME_DATA_BYTES_MAX]), LineFault> {
        let dlc = words.next().and_then(dlc).ok_or(LineFault::Length)?;
        let len = words.clone().take_while(|word| byte(word, self.base).is_some()).count();
        if len != fd_length(dlc) && (dlc <= 8 || len != 8) {
            return Err(LineFault::Bytes);
        }
        let data = bytes(&mut words, len, self.base)?;
        match (words.next(), words.next()) {
            // `Length = 240015 BitCount = 124 ID = 1785`
            (None, _) | (Some(_), Some(b"=")) => Ok((len, data)),
            (Some(word), _) if word.starts_with(b"//") => Ok((len, data)),
            (Some(_), _) => Err(LineFault::Trailing),
        }
    }

    /// What follows `CANFD`, which classic frames have too.
    fn fd<'l>(
        &self,
        timestamp_us: i64,
        mut words: impl Iterator<Item = &'l [u8]> + Clone,
    ) -> Result<Line<u8>, LineFault> {
        let bus = words.next().and_then(|word| bus_number(word, 1)).ok_or(LineFault::BusNumber)?;
        words.next().filter(|word| is_direction(word)).ok_or(LineFault::Direction)?;
        let id = words.next().ok_or(LineFault::Identifier)?;
        if is_error_frame(id) {
            return Ok(Line::Error);
        }
        let id = self.id(id)?;
        let is_flag = |word: &&[u8]| matches!(*word, b"0" | b"1");
        if words.clone().next().is_some_and(|word| !is_flag(&word)) {
            words.next();
        }
        words.next().filter(is_flag).and(words.next().filter(is_flag)).ok_or(LineFault::Flags)?;
        let dlc = words.next().and_then(dlc).ok_or(LineFault::Length)?;
        let len = words.next().and_then(|word| number(word, Base::Dec)).ok_or(LineFault::Length)?;
        let len = usize::try_from(len).map_err(|_| LineFault::Length)?;
        // Without data, duration and length of the frame come next, and then its flags.
        let has_data = words.clone().next().is_some_and(|word| byte(word, self.base).is_some()) && len > 0;
        let flags = words.clone().nth(2).and_then(|word| number(word, Base::Hex)).unwrap_or(0);
        if !has_data && (flags & REMOTE_FLAG != 0 || (len == 0 && dlc > 0)) {
            return Ok(Line::Remote);
        }
        if len != fd_length(dlc) && (dlc <= 8 || len != 8) {
            return Err(LineFault::Length);
        }
        let data = bytes(&mut words, len, self.base)?;
        Ok(Line::Data(DataLine { timestamp_us, bus, id, len, data }))
    }

    /// `123`, or `12345678x` for 29 bits.
    fn id(&self, word: &[u8]) -> Result<CanId, LineFault> {
        let (digits, is_extended) = match word {
            [digits @ .., b'x' | b'X'] => (digits, true),
            digits => (digits, false),
        };
        number(digits, self.base).and_then(|bits| can_id(bits, is_extended)).ok_or(LineFault::Identifier)
    }
}

fn is_direction(word: &[u8]) -> bool {
    [&b"Rx"[..], b"Tx", b"TxRq"].iter().any(|direction| word.eq_ignore_ascii_case(direction))
}

fn is_error_frame(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"ErrorFrame")
}

/// Is the line a comment, or one of the head and foot that says nothing about frames?
fn is_header(line: &[u8]) -> bool {
    let line = line.trim_ascii_start().to_ascii_lowercase();
    let starts: [&[u8]; 5] =
        [b"//", b"begin triggerblock", b"end triggerblock", b"internal events logged", b"no internal events"];
    starts.iter().any(|start| line.starts_with(start))
}

/// Does the line tell that a recording is ASC: the head, or a record with its time?
pub(super) fn tells_format(line: &[u8]) -> bool {
    let mut words = words(line);
    let (Some(first), Some(second)) = (words.next(), words.next()) else { return false };
    let is_head = |name: &[u8]| first.eq_ignore_ascii_case(name);
    let is_time = first.contains(&b'.') && scaled(first, 6).is_some();
    is_head(b"date")
        || (is_head(b"base") && [&b"hex"[..], b"dec"].iter().any(|base| second.eq_ignore_ascii_case(base)))
        || (is_header(line) && !first.starts_with(b"//"))
        || (is_time && (bus_number(second, 1).is_some() || matches!(second, b"CANFD" | b"CAN" | b"Start")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "date Fri Feb 14 08:51:20 am 2020";
    const START_US: i64 = 1_581_670_280_000_000;

    fn asc(head: &[&str]) -> Asc {
        let mut asc = Asc::default();
        for line in head {
            assert_eq!(asc.parse_line(line.as_bytes()), Ok(Line::Header), "{line}");
        }
        asc
    }

    fn data(asc: &mut Asc, line: &str) -> DataLine<u8> {
        match asc.parse_line(line.as_bytes()) {
            Ok(Line::Data(data)) => data,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn classic_frame_has_time_channel_id_and_bytes() {
        let mut asc =
            asc(&[START, "base hex  timestamps absolute", "internal events logged", "// version 9.0.0"]);
        let line = data(&mut asc, "  348.161550 1 123  Rx d 2 12 34\r");
        assert_eq!((line.timestamp_us, line.bus), (START_US + 348_161_550, 1));
        assert_eq!((line.id, &line.data[..line.len]), (CanId::Standard(0x123), &[0x12, 0x34][..]));
        assert_eq!(data(&mut asc, "0.0 255 1FFFFFFFx  TxRq d 0 ").id, CanId::Extended(CanId::EXTENDED_MAX));
        let line = data(
            &mut asc,
            "3.0 1 18EBFF00x Rx d 8 01 A0 0F A6 60 3B D1 40    Length = 273910 BitCount = 141 ID = 4x",
        );
        assert_eq!(line.data[..line.len], [0x01, 0xA0, 0x0F, 0xA6, 0x60, 0x3B, 0xD1, 0x40]);
        assert_eq!(data(&mut asc, "3.0 1 0 Rx d 0 Length = 0 BitCount = 55 ID = 0").len, 0);
    }

    #[test]
    fn length_codes_beyond_8_are_8_bytes_or_those_of_can_fd() {
        let mut asc = asc(&["base hex timestamps absolute"]);
        assert_eq!(data(&mut asc, "1.0 1 3FF Tx d D 55 AA 01 02 03 04 05 06  Length = 0").len, 8);
        assert_eq!(data(&mut asc, &format!("1.0 1 3FF Tx d 15{}", " AB".repeat(64))).len, 64);
        assert_eq!(data(&mut asc, &format!("1.0 1 3FF Tx d 9{}", " AB".repeat(12))).len, 12);
        for bytes in [7, 9, 63, 65] {
            let line = format!("1.0 1 3FF Tx d F{}", " AB".repeat(bytes));
            assert_eq!(asc.parse_line(line.as_bytes()), Err(LineFault::Bytes), "{bytes}");
        }
    }

    #[test]
    fn decimal_base_is_for_ids_and_data() {
        let mut asc = asc(&["base dec timestamps absolute"]);
        let line = data(&mut asc, "1.0 1 291 Rx d 3 0 18 255");
        assert_eq!((line.id, &line.data[..line.len]), (CanId::Standard(0x123), &[0, 18, 255][..]));
        assert_eq!(data(&mut asc, "1.0 1 305419896x Rx d 0").id, CanId::Extended(0x1234_5678));
        assert_eq!(asc.parse_line(b"1.0 1 291 Rx d 1 256"), Err(LineFault::Bytes));
        assert_eq!(asc.parse_line(b"1.0 1 123A Rx d 1 25"), Err(LineFault::Identifier));
        let line =
            data(&mut asc, "1.0 CANFD 2 Rx 291 Name 1 0 9 12 0 1 2 3 4 5 6 7 8 9 10 255 102203 133 303000");
        assert_eq!((line.bus, line.len, line.data[11]), (2, 12, 255));
    }

    #[test]
    fn relative_times_count_from_the_line_before_events_included() {
        let mut asc = asc(&[START, "base hex timestamps relative"]);
        assert_eq!(data(&mut asc, "1.0 1 1 Rx d 0").timestamp_us, START_US + 1_000_000);
        assert_eq!(asc.parse_line(b"0.5 1  Statistic: D 0 R 0 XD 0 XR 0 E 0 O 0 B 0.00%"), Ok(Line::Event));
        assert_eq!(data(&mut asc, "0.25 1 1 Rx d 0").timestamp_us, START_US + 1_750_000);
    }

    #[test]
    fn without_a_date_times_count_from_0() {
        assert_eq!(data(&mut Asc::default(), "348.161550 1 123 Rx d 0").timestamp_us, 348_161_550);
        let mut asc = asc(&[START]);
        assert_eq!(asc.parse_line(b"date 14.02.2020 08:51:20"), Err(LineFault::Date));
        assert_eq!(data(&mut asc, "1.0 1 123 Rx d 0").timestamp_us, 1_000_000);
    }

    #[test]
    fn fd_line_may_have_a_name_and_holds_64_bytes() {
        let mut asc = Asc::default();
        let flags = "102203  133   303000 e0006659 46500250 4b140250 20011736 2001040d";
        let line = data(
            &mut asc,
            &format!(
                "30.5 CANFD   2 Rx        300  Generic_Name_12    1 0 8  8 01 02 03 04 05 06 07 08   {flags}"
            ),
        );
        assert_eq!((line.bus, line.id, line.len), (2, CanId::Standard(0x300), 8));
        let line = data(&mut asc, &format!("30.5 CANFD 4 Tx 4EEx   0 1 f 64{} {flags}", " AB".repeat(64)));
        assert_eq!((line.id, line.len, line.data[63]), (CanId::Extended(0x4EE), 64, 0xAB));
        assert_eq!(data(&mut asc, "30.5 CANFD 4 Tx 4EE 0 0 0 0 140000 73").len, 0);
        for (line, fault) in [
            ("1.0 CANFD", LineFault::BusNumber),
            ("1.0 CANFD 0 Rx 300 0 0 0 0", LineFault::BusNumber),
            ("1.0 CANFD 1 300 0 0 0 0", LineFault::Direction),
            ("1.0 CANFD 1 Rx", LineFault::Identifier),
            ("1.0 CANFD 1 Rx 800 0 0 0 0", LineFault::Identifier),
            ("1.0 CANFD 1 Rx 300 Name 2 0 0 0", LineFault::Flags),
            ("1.0 CANFD 1 Rx 300 0", LineFault::Flags),
            ("1.0 CANFD 1 Rx 300 0 0", LineFault::Length),
            ("1.0 CANFD 1 Rx 300 0 0 9 16 00", LineFault::Length),
            ("1.0 CANFD 1 Rx 300 0 0 2 2 00", LineFault::Bytes),
            ("1.0 CANFD 1 Rx 300 0 0 2 2 00 GG", LineFault::Bytes),
        ] {
            assert_eq!(asc.parse_line(line.as_bytes()), Err(fault), "{line}");
        }
    }

    #[test]
    fn remote_and_error_frames_are_told_apart_from_data() {
        let mut asc = Asc::default();
        for line in [
            "2.5 2 100 Tx r",
            "2.5 3 200 Tx r Length = 1704000 BitCount = 145 ID = 88888888x",
            "2.5 4 300 Tx r 8 Length = 1704000",
            "30.3 CANFD   3 Tx     50005x                 0 1 5 0 140000 73 200050 7a60 46500250",
            "30.3 CANFD   3 Tx     50005x                 0 1 5 0",
            "30.3 CANFD   1 Rx        123                 0 0 8  8         0    0       10        0        0        0        0        0",
            "30.3 CANFD   1 Rx        123                 0 0 0  0         0    0       10        0        0        0        0        0",
        ] {
            assert_eq!(asc.parse_line(line.as_bytes()), Ok(Line::Remote), "{line}");
        }
        for line in [
            "2.501000 1 ErrorFrame",
            "2.501020 2 ErrorFrame Flags = 0xe CodeExt = 0x20a2 Code = 0x82 ID = 0 DLC = 0 Position = 5",
            "30.8 CANFD   5 Tx ErrorFrame Not Acknowledge error, dominant error flag fffe c7 31ca Arb. 556",
        ] {
            assert_eq!(asc.parse_line(line.as_bytes()), Ok(Line::Error), "{line}");
        }
    }

    #[test]
    fn head_and_events_are_no_frames() {
        let mut asc = Asc::default();
        for line in [
            "",
            "// 0.000000 previous log file: a.asc",
            "//0.0 1 123 Rx d 0",
            "no internal events logged",
            "Begin TriggerBlock Thu Apr 28 10:44:52.480 am 2022",
            "End Triggerblock",
            "BASE HEX",
        ] {
            assert_eq!(asc.parse_line(line.as_bytes()), Ok(Line::Header), "{line}");
        }
        for line in [
            "0.000000 Start of measurement",
            "0.015991 CAN 1 Status:chip status error passive - TxErr: 132 RxErr: 0",
            "3.297743 1  J1939TP FEE3p        6    0  0   -   Rx   d 23 A0 0F A6",
            "1.0 Li 1 3F Rx 2 00 00",
        ] {
            assert_eq!(asc.parse_line(line.as_bytes()), Ok(Line::Event), "{line}");
        }
    }

    #[test]
    fn damaged_lines_name_their_fault() {
        let mut asc = Asc::default();
        for (line, fault) in [
            ("garbage", LineFault::Seconds),
            ("1,5 1 123 Rx d 0", LineFault::Seconds),
            ("99999999999999.0 1 123 Rx d 0", LineFault::Seconds),
            ("base oct", LineFault::NumberBase),
            ("base hex timestamps never", LineFault::NumberBase),
            ("base hex timestamps", LineFault::NumberBase),
            ("date", LineFault::Date),
            ("1.0", LineFault::BusNumber),
            ("1.0 0 123 Rx d 0", LineFault::BusNumber),
            ("1.0 256 123 Rx d 0", LineFault::BusNumber),
            ("1.0 x1 123 Rx d 0", LineFault::BusNumber),
            ("1.0 1", LineFault::Identifier),
            ("1.0 1 800 Rx d 0", LineFault::Identifier),
            ("1.0 1 20000000x Rx d 0", LineFault::Identifier),
            ("1.0 1 Speed Rx d 0", LineFault::Identifier),
            ("1.0 1 123 d 0", LineFault::Direction),
            ("1.0 1 123 Rx", LineFault::RecordType),
            ("1.0 1 123 Rx s 0", LineFault::RecordType),
            ("1.0 1 123 Rx d", LineFault::Length),
            ("1.0 1 123 Rx d 40 00", LineFault::Length),
            ("1.0 1 123 Rx d 2 12", LineFault::Bytes),
            ("1.0 1 123 Rx d 2 12 3G", LineFault::Bytes),
            ("1.0 1 123 Rx d 2 12 34 56", LineFault::Bytes),
            ("1.0 1 123 Rx d 2 12 34 more", LineFault::Trailing),
        ] {
            assert_eq!(asc.parse_line(line.as_bytes()), Err(fault), "{line}");
        }
        let mut late = Asc { origin_us: i64::MAX - 1_000_000, ..Asc::default() };
        assert_eq!(data(&mut late, "1.0 1 123 Rx d 0").timestamp_us, i64::MAX);
        assert_eq!(late.parse_line(b"1.000001 1 123 Rx d 0"), Err(LineFault::Seconds));
    }
}
