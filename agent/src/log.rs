//! Recordings: what lies in them, line by line, in whichever of the formats they are.
//!
//! | format | told by | buses |
//! |---|---|---|
//! | candump (`candump -l`) | a line that begins with `(`, or nothing else | as they are named |
//! | ASC (Vector) | `date`, `base hex`, or a time and a channel | channel 1 is can0 |
//! | TRC (PEAK) 1.0 to 1.3, 2.0, 2.1 | `;$`, or a number with `)` | bus 1 is can0; without one, can0 |
//! | CSV (CSS Electronics) | the header `TimestampEpoch;...` | channel 1 is can0 |
//! | CSV (GVRET, SavvyCAN) | the header `Time Stamp,ID,...` | bus 0 is can0 |
//! | CRTD (OVMS) | a time and a type such as `1R11` | bus 1 is can1; without one, can1 |
//!
//! Each is plain or gzip-compressed; what a file is called does not matter. The first line that tells a format decides;
//! after [`UNDECIDED_LINES_MAX`] others it is candump. A line that its format does not have is *damaged*: counted,
//! remembered by its number, and skipped.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;

use convoy_protocol::frame::{BusIndex, CanFrame, CanId, FRAME_DATA_BYTES_MAX};
use flate2::bufread::MultiGzDecoder;

mod asc;
mod candump;
mod crtd;
mod csv;
mod date;
mod digits;
mod fault;
mod format;
mod trc;

pub use fault::LineFault;
use format::{Comment, Format};

/// Buses with different names in one recording at most.
pub const BUSES_MAX: usize = 32;
/// Longest name of a bus, bytes; Linux allows 15.
pub const BUS_NAME_BYTES_MAX: usize = 32;
/// Longest line, bytes: a longer one is damaged. The longest good one has about 450.
pub const LINE_BYTES_MAX: usize = 1_024;
/// Damaged lines that are remembered with their number and fault; the rest are counted.
pub const DAMAGED_LINES_NAMED_MAX: usize = 5;

/// Lines that tell no format, comments and unreadable ones, before a recording is taken as candump's.
pub const UNDECIDED_LINES_MAX: usize = 64;

const READ_BYTES: usize = 64 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Some editors begin UTF-8 with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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

/// What a good line says. `B` is how its format tells buses apart: names, or numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<B> {
    /// A data frame.
    Data(DataLine<B>),
    /// A remote frame, which has no data.
    Remote,
    /// An error frame.
    Error,
    /// A record that is no frame: statistics, a change of status, a note.
    Event,
    /// No record: a comment, a part of the head.
    Header,
}

/// A data frame as it stands in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DataLine<B> {
    /// Microseconds; since the Unix epoch in a recording with absolute times.
    timestamp_us: i64,
    /// Its bus.
    bus: B,
    /// Its identifier.
    id: CanId,
    /// Payload bytes that count.
    len: usize,
    /// The payload, zero-padded.
    data: [u8; FRAME_DATA_BYTES_MAX],
}

/// Where a recording lies.
#[derive(Clone)]
pub enum LogInput {
    /// A file, plain or gzip-compressed.
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
    /// Records that are no frames: statistics, changes of status, notes.
    pub events: u64,
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
    /// Counts a line other than a data frame, which is counted when it is handed out.
    fn take<B>(
        &mut self,
        line: Line<B>,
        bus_of: impl FnOnce(B) -> Option<BusIndex>,
    ) -> Result<Option<CanFrame>, LineFault> {
        match line {
            Line::Data(line) => {
                let bus = bus_of(line.bus).ok_or(LineFault::Buses)?;
                let data = line.data.get(..line.len).ok_or(LineFault::Length)?;
                let frame = CanFrame::new(line.timestamp_us, bus, line.id, data);
                return frame.map(Some).map_err(|_| LineFault::Length);
            }
            Line::Remote => self.remote += 1,
            Line::Error => self.error_frames += 1,
            Line::Event => self.events += 1,
            Line::Header => {}
        }
        Ok(None)
    }
}

/// Reads the data frames of a recording, line by line.
pub struct LogReader {
    input: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    line_number: u64,
    reading: Reading,
    buses: BusTable,
    /// Of the formats with numbers: which bus a number is.
    numbered_buses: [Option<BusIndex>; 256],
    counts: LineCounts,
}

enum Reading {
    /// No line has told the format yet: number and kind of these, at most [`UNDECIDED_LINES_MAX`].
    Undecided(Vec<(u64, EarlyLine)>),
    Decided(Format),
}

/// A line that does not tell the format.
enum EarlyLine {
    Comment(Comment),
    Unknown,
    TooLong,
}

impl LogReader {
    /// A reader at the start of `input`; `buses` gives the indices that are already taken.
    pub fn new(input: Box<dyn BufRead + Send>, buses: BusTable) -> Self {
        Self {
            input,
            line: Vec::new(),
            line_number: 0,
            reading: Reading::Undecided(Vec::new()),
            buses,
            numbered_buses: [None; 256],
            counts: LineCounts::default(),
        }
    }

    /// Goes on with the start of another input, whose format is found anew; buses and counts stay.
    pub fn restart(&mut self, input: Box<dyn BufRead + Send>) {
        self.input = input;
        self.line_number = 0;
        self.reading = Reading::Undecided(Vec::new());
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
        loop {
            match self.next_line() {
                Ok(true) => {}
                Ok(false) => {
                    self.decide(Format::Candump);
                    return Ok(None);
                }
                Err(error) => {
                    self.decide(Format::Candump);
                    return Err(error);
                }
            }
            if !self.is_decided() || self.line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match self.frame_of_line() {
                Ok(Some(frame)) => {
                    self.counts.frames += 1;
                    return Ok(Some(frame));
                }
                Ok(None) => {}
                Err(fault) => self.damaged(self.line_number, fault),
            }
        }
    }

    /// Is the format known, now that this line was read?
    fn is_decided(&mut self) -> bool {
        let Reading::Undecided(early) = &mut self.reading else { return true };
        let is_too_long = self.line.len() > LINE_BYTES_MAX;
        let told = if is_too_long { None } else { Format::of_line(&self.line) };
        if told.is_none() && early.len() < UNDECIDED_LINES_MAX {
            let kind = match Comment::of_line(&self.line) {
                _ if is_too_long => EarlyLine::TooLong,
                Some(comment) => EarlyLine::Comment(comment),
                None => EarlyLine::Unknown,
            };
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                early.push((self.line_number, kind));
            }
            return false;
        }
        self.decide(told.unwrap_or(Format::Candump));
        true
    }

    /// Judges the lines before the format was known by it; one that is known stays.
    fn decide(&mut self, format: Format) {
        let Reading::Undecided(early) = &mut self.reading else { return };
        for (line, kind) in std::mem::take(early) {
            match kind {
                EarlyLine::Comment(comment) if format.has_comment(comment) => {}
                EarlyLine::TooLong => self.damaged(line, LineFault::TooLong),
                _ => self.damaged(line, format.fault_of_early_line()),
            }
        }
        self.reading = Reading::Decided(format);
    }

    fn frame_of_line(&mut self) -> Result<Option<CanFrame>, LineFault> {
        if self.line.len() > LINE_BYTES_MAX {
            return Err(LineFault::TooLong);
        }
        match &mut self.reading {
            Reading::Decided(Format::Numbered(format)) => {
                let line = format.parse_line(&self.line)?;
                let bus_of = |bus: u8| {
                    let known = &mut self.numbered_buses[usize::from(bus)];
                    if known.is_none() {
                        *known = self.buses.intern(&format!("can{}", format.bus_in_name(bus)));
                    }
                    *known
                };
                self.counts.take(line, bus_of)
            }
            _ => {
                let line = candump::parse_line(&self.line)?;
                self.counts.take(line, |name| self.buses.intern(name))
            }
        }
    }

    fn damaged(&mut self, line: u64, fault: LineFault) {
        self.counts.damaged += 1;
        if self.counts.first_damaged.len() < DAMAGED_LINES_NAMED_MAX {
            self.counts.first_damaged.push((line, fault));
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
        if self.line_number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
