//! Recordings in the format of `candump -l`, plain or gzip-compressed.
//!
//! ```text
//! (1635188455.020850) can1 0CF00400#607D84481400F084     data frame, 29-bit id (8 digits; 3 digits: 11-bit id)
//! (1635188455.020850) can1 7E8##3024106                  CAN FD: one digit of flags, then the data
//! (1635188455.020850) can1 7DF#R8                        remote frame: counted, skipped
//! (1635188455.020850) can1 20000080#0000000000000000     error frame (bit 29 set): counted, skipped
//! ```
//!
//! A line that is none of these is *damaged*: counted, remembered by its number, and skipped.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;

use convoy_protocol::frame::{BusIndex, CanFrame, CanId, FRAME_DATA_BYTES_MAX};
use flate2::bufread::MultiGzDecoder;

/// Buses with different names in one recording at most.
pub const BUSES_MAX: usize = 32;
/// Longest name of a bus, bytes; Linux allows 15.
pub const BUS_NAME_BYTES_MAX: usize = 32;
/// Longest line, bytes: a longer one is damaged. The longest good one has about 190.
pub const LINE_BYTES_MAX: usize = 1_024;
/// Damaged lines that are remembered with their number and fault; the rest are counted.
pub const DAMAGED_LINES_NAMED_MAX: usize = 5;

const READ_BYTES: usize = 64 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Bit of the SocketCAN id that marks an error frame (`CAN_ERR_FLAG`).
const ERROR_FLAG: u32 = 0x2000_0000;

/// Names of the buses; a [`BusIndex`] is a place here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusTable {
    names: Vec<String>,
}

impl BusTable {
    /// A table that begins with `names`; those beyond [`BUSES_MAX`] are left out.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut table = Self::default();
        for name in names {
            table.intern(&name);
        }
        table
    }

    /// The names, in the order of their index.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of a bus; empty for one that is not here.
    pub fn name(&self, bus: BusIndex) -> &str {
        self.names.get(usize::from(bus.0)).map_or("", String::as_str)
    }

    /// The index of `name`, which is added if it is new; `None` where the table is full.
    pub fn intern(&mut self, name: &str) -> Option<BusIndex> {
        let at = match self.names.iter().position(|known| known == name) {
            Some(at) => at,
            None if self.names.len() < BUSES_MAX => {
                self.names.push(name.to_owned());
                self.names.len() - 1
            }
            None => return None,
        };
        u8::try_from(at).ok().map(BusIndex)
    }
}

/// What a good line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// A data frame.
    Data(DataLine<'a>),
    /// A remote frame, which has no data.
    Remote,
    /// An error frame of the driver.
    Error,
}

/// A data frame as it stands in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataLine<'a> {
    /// Microseconds; since the Unix epoch in a log with absolute times.
    pub timestamp_us: i64,
    /// The name of its bus.
    pub bus: &'a str,
    /// Its identifier.
    pub id: CanId,
    /// Payload bytes that count.
    pub len: usize,
    /// The payload, zero-padded.
    pub data: [u8; FRAME_DATA_BYTES_MAX],
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LineFault {
    /// It does not begin with a time in parentheses.
    #[error("does not begin with (seconds.microseconds)")]
    Time,
    /// The name of the bus is missing or longer than [`BUS_NAME_BYTES_MAX`].
    #[error("has no bus name of 1 to {BUS_NAME_BYTES_MAX} characters after the time")]
    Bus,
    /// The identifier has not 3 or 8 hex digits, or is larger than CAN allows.
    #[error("has no CAN id of 3 or 8 hex digits before the #")]
    Id,
    /// The data are not whole bytes in hex, or too many of them.
    #[error("has data that are not 0 to 8 bytes in hex (0 to {FRAME_DATA_BYTES_MAX} for CAN FD)")]
    Data,
    /// Something follows the frame that is not `R` or `T`.
    #[error("goes on after the frame")]
    Trailing,
    /// The line is longer than [`LINE_BYTES_MAX`].
    #[error("is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// A bus beyond [`BUSES_MAX`].
    #[error("names one bus more than the {BUSES_MAX} that are allowed")]
    Buses,
}

/// Parses one line without its line end.
pub fn parse_line(line: &[u8]) -> Result<Line<'_>, LineFault> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
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
    let len = parse_data(digits, &mut data[..bytes_max]).ok_or(LineFault::Data)?;
    Ok(Line::Data(DataLine { timestamp_us, bus, id, len, data }))
}

/// `(1635188455.020850)` to microseconds; digits beyond microseconds are cut.
fn parse_time(word: &[u8]) -> Option<i64> {
    let inner = word.strip_prefix(b"(")?.strip_suffix(b")")?;
    let dot = inner.iter().position(|byte| *byte == b'.')?;
    let (seconds, fraction) = (decimal(&inner[..dot])?, &inner[dot + 1..]);
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let kept = &fraction[..fraction.len().min(6)];
    decimal(&fraction[kept.len()..])?;
    let scale = 10i64.pow(u32::try_from(6 - kept.len()).ok()?);
    seconds.checked_mul(1_000_000)?.checked_add(decimal(kept)? * scale)
}

/// Digits to a number; 0 for no digits.
fn decimal(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// `None` for an error frame.
fn parse_id(digits: &[u8]) -> Result<Option<CanId>, LineFault> {
    let bits = digits
        .iter()
        .try_fold(0u32, |bits, digit| Some(bits.checked_mul(16)? | u32::from(nibble(*digit)?)))
        .ok_or(LineFault::Id)?;
    match (digits.len(), u16::try_from(bits)) {
        (3, Ok(id)) if id <= CanId::STANDARD_MAX => Ok(Some(CanId::Standard(id))),
        (8, _) if bits <= CanId::EXTENDED_MAX => Ok(Some(CanId::Extended(bits))),
        (8, _) if bits & !CanId::EXTENDED_MAX == ERROR_FLAG => Ok(None),
        _ => Err(LineFault::Id),
    }
}

fn parse_data(digits: &[u8], out: &mut [u8]) -> Option<usize> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes = out.get_mut(..pairs.len())?;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(pairs.len())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Where a recording lies.
#[derive(Clone)]
pub enum LogInput {
    /// A file, `.log` or gzip-compressed.
    File(PathBuf),
    /// The same in memory.
    Memory(Arc<[u8]>),
}

impl fmt::Debug for LogInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LogInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Memory(bytes) => write!(f, "{} bytes in memory", bytes.len()),
        }
    }
}

impl LogInput {
    /// Opens it; gzip is known by its first two bytes, whatever the file is called.
    pub fn open(&self) -> io::Result<Box<dyn BufRead + Send>> {
        match self {
            Self::File(path) => decompressed(BufReader::with_capacity(READ_BYTES, File::open(path)?)),
            Self::Memory(bytes) => decompressed(Cursor::new(Arc::clone(bytes))),
        }
    }
}

fn decompressed<R: BufRead + Send + 'static>(mut input: R) -> io::Result<Box<dyn BufRead + Send>> {
    if input.fill_buf()?.starts_with(&GZIP_MAGIC) {
        Ok(Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(input))))
    } else {
        Ok(Box::new(input))
    }
}

/// What the lines of a recording were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// Data frames.
    pub frames: u64,
    /// Remote frames.
    pub remote: u64,
    /// Error frames.
    pub error_frames: u64,
    /// Damaged lines.
    pub damaged: u64,
    /// The first damaged lines: number, counted from 1, and fault.
    pub first_damaged: Vec<(u64, LineFault)>,
}

impl LineCounts {
    /// `line 3 has no CAN id ...; line 7 ...; and 12 more`; `None` without damage.
    pub fn damage(&self) -> Option<String> {
        let named: Vec<String> =
            self.first_damaged.iter().map(|(line, fault)| format!("line {line} {fault}")).collect();
        let more = self.damaged.saturating_sub(named.len() as u64);
        match (self.damaged, more) {
            (0, _) => None,
            (_, 0) => Some(named.join("; ")),
            (_, more) => Some(format!("{}; and {more} more", named.join("; "))),
        }
    }
}

/// Reads the data frames of a recording, line by line.
pub struct LogReader {
    input: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    line_number: u64,
    buses: BusTable,
    counts: LineCounts,
}

impl LogReader {
    /// A reader at the start of `input`; `buses` gives the indices that are already taken.
    pub fn new(input: Box<dyn BufRead + Send>, buses: BusTable) -> Self {
        Self { input, line: Vec::new(), line_number: 0, buses, counts: LineCounts::default() }
    }

    /// Goes on with the start of another input; buses and counts stay.
    pub fn restart(&mut self, input: Box<dyn BufRead + Send>) {
        self.input = input;
        self.line_number = 0;
    }

    /// The buses met so far.
    pub fn buses(&self) -> &BusTable {
        &self.buses
    }

    /// What the lines so far were.
    pub fn counts(&self) -> &LineCounts {
        &self.counts
    }

    /// The next data frame; `None` at the end.
    pub fn next_frame(&mut self) -> io::Result<Option<CanFrame>> {
        while self.next_line()? {
            match self.frame_of_line() {
                Ok(Some(frame)) => {
                    self.counts.frames += 1;
                    return Ok(Some(frame));
                }
                Ok(None) => {}
                Err(fault) => self.damaged(fault),
            }
        }
        Ok(None)
    }

    fn frame_of_line(&mut self) -> Result<Option<CanFrame>, LineFault> {
        if self.line.len() > LINE_BYTES_MAX {
            return Err(LineFault::TooLong);
        }
        if self.line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        match parse_line(&self.line)? {
            Line::Data(line) => {
                let bus = self.buses.intern(line.bus).ok_or(LineFault::Buses)?;
                let data = line.data.get(..line.len).ok_or(LineFault::Data)?;
                let frame = CanFrame::new(line.timestamp_us, bus, line.id, data);
                frame.map(Some).map_err(|_| LineFault::Data)
            }
            Line::Remote => {
                self.counts.remote += 1;
                Ok(None)
            }
            Line::Error => {
                self.counts.error_frames += 1;
                Ok(None)
            }
        }
    }

    fn damaged(&mut self, fault: LineFault) {
        self.counts.damaged += 1;
        if self.counts.first_damaged.len() < DAMAGED_LINES_NAMED_MAX {
            self.counts.first_damaged.push((self.line_number, fault));
        }
    }

    /// Reads a line into `self.line`, of an overlong one its first [`LINE_BYTES_MAX`] + 1 bytes; false at the end.
    fn next_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.input).take(limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(false);
        }
        self.line_number += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if read as u64 == limit {
            self.input.skip_until(b'\n')?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn data(line: &str) -> DataLine<'_> {
        match parse_line(line.as_bytes()) {
            Ok(Line::Data(data)) => data,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn reader(text: &[u8]) -> LogReader {
        LogReader::new(LogInput::Memory(text.into()).open().unwrap(), BusTable::default())
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

    #[test]
    fn reader_counts_damage_by_line_and_goes_on() {
        let long = "x".repeat(3 * LINE_BYTES_MAX);
        let text =
            format!("(1.0) can0 123#01\r\n\ngarbage\n{long}\n(2.0) can1 7DF#R\n(3.0) can1 00000123#02");
        let mut reader = reader(text.as_bytes());
        let first = reader.next_frame().unwrap().unwrap();
        let second = reader.next_frame().unwrap().unwrap();
        assert_eq!((first.bus, first.data()), (BusIndex(0), &[1][..]));
        assert_eq!((second.bus, second.id, second.data()), (BusIndex(1), CanId::Extended(0x123), &[2][..]));
        assert_eq!(reader.next_frame().unwrap(), None);
        let counts = reader.counts();
        assert_eq!((counts.frames, counts.remote, counts.damaged), (2, 1, 2));
        assert_eq!(counts.first_damaged, [(3, LineFault::Time), (4, LineFault::TooLong)]);
        assert_eq!(
            counts.damage().unwrap(),
            "line 3 does not begin with (seconds.microseconds); line 4 is longer than 1024 bytes"
        );
    }

    #[test]
    fn a_thirty_third_bus_is_damage() {
        let text: String = (0..=BUSES_MAX).map(|bus| format!("(1.0) bus{bus} 123#00\n")).collect();
        let mut reader = reader(text.as_bytes());
        while reader.next_frame().unwrap().is_some() {}
        assert_eq!((reader.counts().frames, reader.counts().damaged), (BUSES_MAX as u64, 1));
        assert_eq!(reader.counts().first_damaged, [(BUSES_MAX as u64 + 1, LineFault::Buses)]);
    }

    #[test]
    fn gzip_is_known_by_its_magic_and_a_cut_file_is_an_error_after_its_frames() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(b"(1.0) can0 123#01\n(2.0) can0 123#02\n").unwrap();
        let packed = packer.finish().unwrap();
        let mut whole = reader(&packed);
        assert!(whole.next_frame().unwrap().is_some() && whole.next_frame().unwrap().is_some());
        assert_eq!(whole.next_frame().unwrap(), None);
        let mut cut = reader(&packed[..packed.len() - 4]);
        let error = loop {
            match cut.next_frame() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a cut file has no end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
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
