//! Recordings in CRTD, the text format of the Open Vehicle Monitoring System (OVMS).
//!
//! ```text
//! 1542473901.020305 1R11 7E8 03 41 0C          received on bus 1, 11-bit id; T11: sent; R29, T29: 29-bit ids
//! 1542473901.021 R29 18DAF110 02 01            no number: bus 1
//! 1542473901.021 CEV vehicle.on                comment or event: counted, skipped
//! ```

use super::digits::{Base, bus_number, bytes, can_id, number, scaled, words};
use super::{DataLine, Line, LineFault};

/// The bus of a record without its number.
const DEFAULT_BUS: u8 = 1;
const DATA_BYTES_MAX: usize = 8;

/// Parses one line without its line end.
pub(super) fn parse_line(line: &[u8]) -> Result<Line<u8>, LineFault> {
    let mut words = words(line);
    let timestamp_us = words.next().and_then(seconds).ok_or(LineFault::Seconds)?;
    let kind = words.next().ok_or(LineFault::RecordType)?;
    let number_len = kind.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (bus, kind) = kind.split_at(number_len);
    let bus = if bus.is_empty() { Some(DEFAULT_BUS) } else { bus_number(bus, 1) };
    let bus = bus.ok_or(LineFault::BusNumber)?;
    let is_extended = match kind {
        b"R11" | b"T11" => false,
        b"R29" | b"T29" => true,
        [b'C', _, _] => return Ok(Line::Event),
        _ => return Err(LineFault::RecordType),
    };
    let id = words.next().and_then(|word| number(word, Base::Hex));
    let id = id.and_then(|bits| can_id(bits, is_extended)).ok_or(LineFault::Identifier)?;
    let len = words.clone().count();
    if len > DATA_BYTES_MAX {
        return Err(LineFault::Length);
    }
    let data = bytes(&mut words, len, Base::Hex)?;
    Ok(Line::Data(DataLine { timestamp_us, bus, id, len, data }))
}

fn seconds(word: &[u8]) -> Option<i64> {
    scaled(word, 6).filter(|_| word.contains(&b'.'))
}

/// Does the line tell that a recording is CRTD: a record with its time and type?
pub(super) fn tells_format(line: &[u8]) -> bool {
    let mut words = words(line);
    let (Some(time), Some(kind)) = (words.next(), words.next()) else { return false };
    let number_len = kind.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_type = match &kind[number_len..] {
        b"R11" | b"T11" | b"R29" | b"T29" => true,
        [b'C', second, third] => second.is_ascii_uppercase() && third.is_ascii_uppercase(),
        _ => false,
    };
    seconds(time).is_some() && is_type && number_len <= 3
}

#[cfg(test)]
mod tests {
    use convoy_protocol::frame::CanId;

    use super::*;

    fn data(line: &str) -> DataLine<u8> {
        match parse_line(line.as_bytes()) {
            Ok(Line::Data(data)) => data,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn record_has_time_bus_id_and_bytes() {
        let line = data("1542473901.020305 2R11 000007E8 03 41 0C \r");
        assert_eq!((line.timestamp_us, line.bus), (1_542_473_901_020_305, 2));
        assert_eq!((line.id, &line.data[..line.len]), (CanId::Standard(0x7E8), &[3, 0x41, 0x0C][..]));
        let line = data("166.064 T29 18DAF110");
        assert_eq!((line.timestamp_us, line.bus), (166_064_000, DEFAULT_BUS));
        assert_eq!((line.id, line.len), (CanId::Extended(0x18DA_F110), 0));
        assert_eq!(data("1.0 R29 1 01 02 03 04 05 06 07 08").len, 8);
        assert_eq!(data("1.0 T11 1 FF").id, CanId::Standard(1));
    }

    #[test]
    fn comments_and_events_are_no_frames() {
        for line in ["1.0 CXX Info Type:crtd; Path:'/sd/a.crtd'", "1.0 2CEV vehicle.on", "1.0 CMT"] {
            assert_eq!(parse_line(line.as_bytes()), Ok(Line::Event), "{line}");
        }
    }

    #[test]
    fn damaged_lines_name_their_fault() {
        for (line, fault) in [
            ("R11 123 00", LineFault::Seconds),
            ("1 R11 123 00", LineFault::Seconds),
            ("1.0", LineFault::RecordType),
            ("1.0 R12 123 00", LineFault::RecordType),
            ("1.0 11", LineFault::RecordType),
            ("1.0 0R11 123 00", LineFault::BusNumber),
            ("1.0 256R11 123 00", LineFault::BusNumber),
            ("1.0 R11", LineFault::Identifier),
            ("1.0 R11 800 00", LineFault::Identifier),
            ("1.0 R29 20000000 00", LineFault::Identifier),
            ("1.0 R11 123 0G", LineFault::Bytes),
            ("1.0 R11 123 001", LineFault::Bytes),
            ("1.0 R11 123 01 02 03 04 05 06 07 08 09", LineFault::Length),
        ] {
            assert_eq!(parse_line(line.as_bytes()), Err(fault), "{line}");
        }
    }
}
