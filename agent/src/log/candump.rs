//! Recordings in the format of `candump -l`.
//!
//! ```text
//! (1635188455.020850) can1 0CF00400#607D84481400F084     data frame, 29-bit id (8 digits; 3 digits: 11-bit id)
//! (1635188455.020850) can1 7E8##3024106                  CAN FD: one digit of flags, then the data
//! (1635188455.020850) can1 7DF#R8                        remote frame: counted, skipped
//! (1635188455.020850) can1 20000080#0000000000000000     error frame (bit 29 set): counted, skipped
//! ```

use convoy_protocol::frame::{CanId, FRAME_DATA_BYTES_MAX};

use super::digits::{Base, hex_pairs, number, scaled, words};
use super::{BUS_NAME_BYTES_MAX, DataLine, Line, LineFault};

/// Bit of the SocketCAN id that marks an error frame (`CAN_ERR_FLAG`).
const ERROR_FLAG: u32 = 0x2000_0000;

/// Parses one line without its line end.
pub(super) fn parse_line(line: &[u8]) -> Result<Line<&str>, LineFault> {
    let mut words = words(line);
    let timestamp_us = words.next().and_then(parse_time).ok_or(LineFault::Time)?;
    let bus = words
        .next()
        .filter(|name| name.len() <= BUS_NAME_BYTES_MAX && !name.contains(&b'#'))
        .and_then(|name| std::str::from_utf8(name).ok())
        .ok_or(LineFault::Bus)?;
    let frame = words.next().ok_or(LineFault::Id)?;
    // Newer candump adds the direction.
    if words.next().is_some_and(|word| !matches!(word, b"R" | b"T")) || words.next().is_some() {
        return Err(LineFault::Trailing);
    }
    let hash = frame.iter().position(|byte| *byte == b'#').ok_or(LineFault::Id)?;
    let (id, rest) = (parse_id(&frame[..hash])?, &frame[hash + 1..]);
    let Some(id) = id else { return Ok(Line::Error) };
    if let [b'R', length @ ..] = rest {
        let good = length.len() <= 1 && length.iter().all(u8::is_ascii_hexdigit);
        return if good { Ok(Line::Remote) } else { Err(LineFault::Data) };
    }
    let (digits, bytes_max) = match rest {
        [b'#', flags, digits @ ..] if flags.is_ascii_hexdigit() => (digits, FRAME_DATA_BYTES_MAX),
        [b'#', ..] => return Err(LineFault::Data),
        // `_9` to `_F` after 8 bytes is the raw DLC of a controller that keeps it.
        [digits @ .., b'_', dlc] if digits.len() == 16 && dlc.is_ascii_hexdigit() => (digits, 8),
        digits => (digits, 8),
    };
    let mut data = [0; FRAME_DATA_BYTES_MAX];
    let len = hex_pairs(digits, &mut data[..bytes_max]).ok_or(LineFault::Data)?;
    Ok(Line::Data(DataLine { timestamp_us, bus, id, len, data }))
}

/// `(1635188455.020850)` to microseconds; digits beyond microseconds are cut.
fn parse_time(word: &[u8]) -> Option<i64> {
    let inner = word.strip_prefix(b"(")?.strip_suffix(b")")?;
    inner.contains(&b'.').then(|| scaled(inner, 6))?
}

/// `None` for an error frame.
fn parse_id(digits: &[u8]) -> Result<Option<CanId>, LineFault> {
    let bits = number(digits, Base::Hex).ok_or(LineFault::Id)?;
    match (digits.len(), u16::try_from(bits)) {
        (3, Ok(id)) if id <= CanId::STANDARD_MAX => Ok(Some(CanId::Standard(id))),
        (8, _) if bits <= CanId::EXTENDED_MAX => Ok(Some(CanId::Extended(bits))),
        (8, _) if bits & !CanId::EXTENDED_MAX == ERROR_FLAG => Ok(None),
        _ => Err(LineFault::Id),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(line: &str) -> DataLine<&str> {
        match parse_line(line.as_bytes()) {
            Ok(Line::Data(data)) => data,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn classic_frame_has_time_bus_id_and_bytes() {
        let line = data("(1635188455.020850) can1 0CF00400#607D84481400F084");
        assert_eq!(line.timestamp_us, 1_635_188_455_020_850);
        assert_eq!((line.bus, line.id), ("can1", CanId::Extended(0x0CF0_0400)));
        assert_eq!(line.data[..line.len], [0x60, 0x7D, 0x84, 0x48, 0x14, 0x00, 0xF0, 0x84]);
        assert_eq!(data("(0.000001) vcan0 7FF#").id, CanId::Standard(0x7FF));
        assert_eq!(data("(5.5) can0 123#12 R").timestamp_us, 5_500_000);
        assert_eq!(data("(5.123456789) can0 123#1122334455667788_C").timestamp_us, 5_123_456);
    }

    #[test]
    fn fd_frame_holds_up_to_64_bytes_and_classic_8() {
        assert_eq!(data(&format!("(1.0) can0 123##3{}", "AB".repeat(64))).len, 64);
        for (frame, fault) in [
            (format!("123##3{}", "AB".repeat(65)), LineFault::Data),
            (format!("123#{}", "AB".repeat(9)), LineFault::Data),
            ("123##".into(), LineFault::Data),
        ] {
            assert_eq!(parse_line(format!("(1.0) can0 {frame}").as_bytes()), Err(fault), "{frame}");
        }
    }

    #[test]
    fn remote_and_error_frames_are_told_apart_from_data() {
        assert_eq!(parse_line(b"(1.0) can0 7DF#R"), Ok(Line::Remote));
        assert_eq!(parse_line(b"(1.0) can0 7DF#R8"), Ok(Line::Remote));
        assert_eq!(parse_line(b"(1.0) can0 20000080#0000000000000000"), Ok(Line::Error));
    }

    #[test]
    fn damaged_lines_name_their_fault() {
        for (line, fault) in [
            ("can0 123#00", LineFault::Time),
            ("(1.) can0 123#00", LineFault::Time),
            ("(99999999999999999999.0) can0 123#00", LineFault::Time),
            ("(1.0) 123#00", LineFault::Bus),
            ("(1.0) can0", LineFault::Id),
            ("(1.0) can0 800#00", LineFault::Id),
            ("(1.0) can0 1234#00", LineFault::Id),
            ("(1.0) can0 40000000#00", LineFault::Id),
            ("(1.0) can0 60000000#00", LineFault::Id),
            ("(1.0) can0 123#0", LineFault::Data),
            ("(1.0) can0 123#0G", LineFault::Data),
            ("(1.0) can0 123#00 X", LineFault::Trailing),
            ("(1.0) can0 123#00 R R", LineFault::Trailing),
        ] {
            assert_eq!(parse_line(line.as_bytes()), Err(fault), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_line(&line);
        }

        #[test]
        fn any_frame_survives_writing_and_parsing(
            time_us in 0i64..4_000_000_000_000_000,
            id in 0u32..=CanId::EXTENDED_MAX,
            bytes in proptest::collection::vec(any::<u8>(), 0..=8),
        ) {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            let (seconds, micros) = (time_us / 1_000_000, time_us % 1_000_000);
            let text = format!("({seconds}.{micros:06}) can0 {id:08X}#{hex}");
            let line = data(&text);
            prop_assert_eq!((line.timestamp_us, line.id), (time_us, CanId::Extended(id)));
            prop_assert_eq!(&line.data[..line.len], &bytes[..]);
        }
    }
}
