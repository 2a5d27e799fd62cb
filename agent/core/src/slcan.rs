//! SLCAN, the serial protocol of LAWICEL that CAN adapters speak (CANable, CANUSB, USBtin and their like).
//!
//! ```text
//! t1232DEAD\r        data frame, 11 bits; T with 29 bits; four more hexadecimal digits are the adapter's time
//! d1239...\r b...\r  CAN FD without and with switched bit rate, D and B with 29 bits; the length is a code
//! r1232\r R...\r     remote frame
//! \r  \x07           done, refused
//! C S6 O L           close, 500 kbit/s, open, open for listening only
//! F -> F08\r         what went wrong since it was asked last, in bits; not every adapter knows it
//! ```
//!
//! Without I/O and without a clock: the session is told the time, takes the bytes that came, and says which to send.

use convoy_protocol::frame::{BusIndex, CanFrame, CanId, FRAME_DATA_BYTES_MAX};

use crate::hex::nibble;

/// Longest line that can be one, bytes: a CAN FD frame with a time.
pub const LINE_BYTES_MAX: usize = 1 + 8 + 1 + 2 * FRAME_DATA_BYTES_MAX + 4;
/// How long an adapter may take to answer a command, microseconds. Some never do: then the next command follows.
pub const ANSWER_WITHIN_US: i64 = 300_000;
/// An adapter that has answered once is asked for its version after this silence, microseconds.
pub const ALIVE_AFTER_US: i64 = 3_000_000;
/// Questions without an answer until the adapter counts as hung.
pub const ALIVE_MISSED_MAX: u32 = 2;

/// How often an adapter is asked whether it lost frames, microseconds; one that does not know the question is not asked again.
pub const FLAGS_EVERY_US: i64 = 5_000_000;
/// Of the answer: its queue was full, or its controller was read too late.
const FLAGS_LOST: u8 = 0x01 | 0x08;

const BELL: u8 = 0x07;
/// Payload of a CAN FD length code.
const FD_LENGTHS: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64];

/// A bit rate that the protocol has a code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bitrate(u32);

impl Bitrate {
    /// All of them, bit/s; the code of each is its place.
    pub const ALL: [u32; 9] =
        [10_000, 20_000, 50_000, 100_000, 125_000, 250_000, 500_000, 800_000, 1_000_000];

    /// `None` for a rate without a code.
    pub fn new(bits_per_s: u32) -> Option<Self> {
        Self::ALL.contains(&bits_per_s).then_some(Self(bits_per_s))
    }

    fn code(self) -> usize {
        Self::ALL.iter().position(|rate| *rate == self.0).unwrap_or(6)
    }
}

/// How the adapter is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlcanOptions {
    /// The bit rate; `None` leaves the adapter's.
    pub bitrate: Option<Bitrate>,
    /// Nothing is sent to the bus, not even acknowledgements.
    pub listen_only: bool,
}

/// What was read and could not be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlcanCounters {
    /// Data frames.
    pub frames: u64,
    /// Remote frames, which have no data.
    pub remote: u64,
    /// Lines that are nothing the protocol knows, or a frame cut short.
    pub malformed: u64,
    /// Commands that the adapter refused.
    pub refused: u64,
    /// Times that the adapter said that it had lost frames; how many, it does not know.
    pub overruns: u64,
}

/// Why the adapter has to be opened anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlcanFault {
    /// It was asked whether it is there, and did not answer.
    #[error("adapter does not answer any more")]
    Hung,
    /// It does not listen only, and is not allowed to do more.
    #[error(
        "adapter refuses to listen only (L); use one that can, or add listen_only=false if it may acknowledge frames"
    )]
    NotListenOnly,
}

/// One adapter, from its opening on.
#[derive(Debug)]
pub struct SlcanSession {
    options: SlcanOptions,
    bus: BusIndex,
    line: Vec<u8>,
    /// The line is too long: everything up to its end is left out.
    overlong: bool,
    /// Place in the opening commands; past their end it is open.
    step: usize,
    step_sent_us: Option<i64>,
    has_answered: bool,
    heard_us: i64,
    asked_us: Option<i64>,
    missed: u32,
    /// When to ask for its flags; `None`: it does not know them, or is being asked.
    flags_due_us: Option<i64>,
    is_asked_for_flags: bool,
    fault: Option<SlcanFault>,
    out: Vec<u8>,
    counters: SlcanCounters,
}

impl SlcanSession {
    /// A session whose frames are of `bus`.
    pub fn new(options: SlcanOptions, bus: BusIndex, now_us: i64) -> Self {
        Self {
            options,
            bus,
            line: Vec::new(),
            overlong: false,
            step: 0,
            step_sent_us: None,
            has_answered: false,
            heard_us: now_us,
            asked_us: None,
            missed: 0,
            flags_due_us: Some(now_us.saturating_add(FLAGS_EVERY_US)),
            is_asked_for_flags: false,
            fault: None,
            out: Vec::new(),
            counters: SlcanCounters::default(),
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> SlcanCounters {
        self.counters
    }

    /// Is the channel open, as far as can be known?
    pub fn is_open(&self) -> bool {
        self.command(self.step).is_none()
    }

    /// Why it has to be opened anew.
    pub fn fault(&self) -> Option<SlcanFault> {
        self.fault
    }

    /// Takes what the adapter sent; calls `frame` for each data frame, whose time is `wall_us`.
    pub fn handle_bytes(&mut self, now_us: i64, wall_us: i64, bytes: &[u8], mut frame: impl FnMut(CanFrame)) {
        if !bytes.is_empty() {
            self.heard_us = now_us;
            (self.asked_us, self.missed) = (None, 0);
        }
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    if std::mem::take(&mut self.overlong) {
                        self.counters.malformed += 1;
                    } else {
                        self.handle_line(&line, (now_us, wall_us), &mut frame);
                    }
                    self.line = line;
                    self.line.clear();
                }
                &BELL => {
                    self.line.clear();
                    self.handle_refusal();
                }
                byte if self.line.len() < LINE_BYTES_MAX => self.line.push(*byte),
                _ => self.overlong = true,
            }
        }
    }

    /// Goes on with opening, and asks whether a silent adapter is still there.
    pub fn handle_timeout(&mut self, now_us: i64) {
        if let Some(command) = self.command(self.step) {
            match self.step_sent_us {
                None => {
                    self.out.extend_from_slice(&command);
                    self.step_sent_us = Some(now_us);
                }
                Some(sent_us) if now_us.saturating_sub(sent_us) >= ANSWER_WITHIN_US => self.next_step(),
                Some(_) => {}
            }
            if self.step_sent_us.is_none() {
                self.handle_timeout(now_us);
            }
            return;
        }
        if self.has_answered && self.flags_due_us.is_some_and(|due_us| due_us <= now_us) {
            self.flags_due_us = None;
            self.is_asked_for_flags = true;
            self.out.extend_from_slice(b"F\r");
        }
        if self.has_answered && now_us >= self.alive_due_us() {
            if self.asked_us.is_some() {
                self.missed += 1;
            }
            if self.missed >= ALIVE_MISSED_MAX {
                self.fault = Some(SlcanFault::Hung);
                return;
            }
            self.out.extend_from_slice(b"V\r");
            self.asked_us = Some(now_us);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<i64> {
        if self.fault.is_some() {
            return None;
        }
        match (self.is_open(), self.step_sent_us) {
            (false, None) => Some(i64::MIN),
            (false, Some(sent_us)) => Some(sent_us.saturating_add(ANSWER_WITHIN_US)),
            (true, _) => {
                let alive_us = self.has_answered.then(|| self.alive_due_us())?;
                Some(self.flags_due_us.map_or(alive_us, |flags_us| flags_us.min(alive_us)))
            }
        }
    }

    /// What to send to the adapter; empty where there is nothing.
    pub fn poll_transmit(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Sends a frame; false where the adapter is not open, or only listens.
    pub fn transmit(&mut self, frame: &CanFrame) -> bool {
        let may = self.is_open() && !self.options.listen_only;
        if may {
            encode(frame, &mut self.out);
        }
        may
    }

    fn alive_due_us(&self) -> i64 {
        self.asked_us.unwrap_or(self.heard_us).saturating_add(ALIVE_AFTER_US)
    }

    fn command(&self, step: usize) -> Option<Vec<u8>> {
        let open = if self.options.listen_only { b"L\r" } else { b"O\r" };
        match (step, self.options.bitrate) {
            // What an adapter has of a line from before is ended first.
            (0, _) => Some(b"\r\rC\r".to_vec()),
            (1, Some(bitrate)) => Some(format!("S{}\r", bitrate.code()).into_bytes()),
            (1, None) | (2, Some(_)) => Some(open.to_vec()),
            _ => None,
        }
    }

    fn next_step(&mut self) {
        self.step += 1;
        self.step_sent_us = None;
    }

    fn handle_refusal(&mut self) {
        self.counters.refused += 1;
        self.has_answered = true;
        self.is_asked_for_flags = false;
        let is_opening = self.step > 0 && self.command(self.step).is_some();
        if is_opening && self.command(self.step + 1).is_none() && self.options.listen_only {
            self.fault = Some(SlcanFault::NotListenOnly);
        } else if is_opening && self.step_sent_us.is_some() {
            self.next_step();
        }
    }

    fn handle_flags(&mut self, now_us: i64, digits: &[u8]) {
        let &[high, low] = digits else {
            self.counters.malformed += 1;
            return;
        };
        let Some(flags) = nibble(high).zip(nibble(low)).map(|(high, low)| high << 4 | low) else {
            self.counters.malformed += 1;
            return;
        };
        self.has_answered = true;
        // Whoever answers knows the question, even where a bell for something else came between.
        self.is_asked_for_flags = false;
        self.flags_due_us = Some(now_us.saturating_add(FLAGS_EVERY_US));
        self.counters.overruns += u64::from(flags & FLAGS_LOST != 0);
    }

    fn handle_line(&mut self, line: &[u8], (now_us, wall_us): (i64, i64), frame: &mut impl FnMut(CanFrame)) {
        match line.first() {
            None => {
                // Three empty lines end what was there before; the one that counts answers the command.
                if self.step > 0 && self.command(self.step).is_some() && self.step_sent_us.is_some() {
                    self.has_answered = true;
                    self.next_step();
                }
            }
            Some(b't' | b'T' | b'd' | b'D' | b'b' | b'B') => match parse_frame(line, wall_us, self.bus) {
                Some(parsed) => {
                    self.counters.frames += 1;
                    frame(parsed);
                }
                None => self.counters.malformed += 1,
            },
            Some(b'r' | b'R') => self.counters.remote += 1,
            Some(b'F') if line.len() > 1 => self.handle_flags(now_us, &line[1..]),
            // Version, serial number: an answer.
            Some(b'V' | b'v' | b'N' | b'F') => self.has_answered = true,
            // Sent (z, Z); the commands of another host, which an adapter may echo.
            Some(b'z' | b'Z' | b'C' | b'S' | b'O' | b'L' | b'M' | b'm' | b'W') => {}
            Some(_) => self.counters.malformed += 1,
        }
    }
}

/// The frame of a line that begins with the letter of a data frame; `None` where it is not whole.
fn parse_frame(line: &[u8], wall_us: i64, bus: BusIndex) -> Option<CanFrame> {
    let (kind, rest) = line.split_first()?;
    let id_digits = if kind.is_ascii_uppercase() { 8 } else { 3 };
    let (id, rest) = rest.split_at_checked(id_digits)?;
    let bits = id.iter().try_fold(0u32, |bits, digit| Some(bits << 4 | u32::from(nibble(*digit)?)))?;
    let id = match u16::try_from(bits) {
        Ok(id) if id_digits == 3 && id <= CanId::STANDARD_MAX => CanId::Standard(id),
        _ if id_digits == 8 && bits <= CanId::EXTENDED_MAX => CanId::Extended(bits),
        _ => return None,
    };
    let (code, rest) = rest.split_first()?;
    let code = usize::from(nibble(*code)?);
    let is_fd = !kind.eq_ignore_ascii_case(&b't');
    let len = if is_fd { FD_LENGTHS[code] } else { Some(code).filter(|code| *code <= 8)? };
    // Behind the data there may be the adapter's time.
    let (digits, time) = rest.split_at_checked(len * 2)?;
    if !(time.is_empty() || (time.len() == 4 && time.iter().all(u8::is_ascii_hexdigit))) {
        return None;
    }
    let mut data = [0; FRAME_DATA_BYTES_MAX];
    for (byte, pair) in data.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    CanFrame::new(wall_us, bus, id, &data[..len]).ok()
}

/// Appends a frame as the adapter takes it; one of more than 8 bytes as CAN FD, filled up to the next length.
pub fn encode(frame: &CanFrame, out: &mut Vec<u8>) {
    let data = frame.data();
    let code = FD_LENGTHS.iter().position(|len| *len >= data.len()).unwrap_or(15);
    let letter = match (frame.id, data.len() > 8) {
        (CanId::Standard(_), false) => 't',
        (CanId::Extended(_), false) => 'T',
        (CanId::Standard(_), true) => 'd',
        (CanId::Extended(_), true) => 'D',
    };
    let id = match frame.id {
        CanId::Standard(id) => format!("{letter}{id:03X}{code:X}"),
        CanId::Extended(id) => format!("{letter}{id:08X}{code:X}"),
    };
    out.extend_from_slice(id.as_bytes());
    let filling = std::iter::repeat_n(&0, FD_LENGTHS[code].saturating_sub(data.len()));
    for byte in data.iter().chain(filling) {
        out.extend_from_slice(format!("{byte:02X}").as_bytes());
    }
    out.push(b'\r');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LISTEN: SlcanOptions = SlcanOptions { bitrate: Some(Bitrate(500_000)), listen_only: true };

    fn read(session: &mut SlcanSession, now_us: i64, bytes: &[u8]) -> Vec<CanFrame> {
        let mut frames = Vec::new();
        session.handle_bytes(now_us, 7, bytes, |frame| frames.push(frame));
        frames
    }

    fn texts(frames: &[CanFrame]) -> Vec<String> {
        frames.iter().map(|frame| format!("{frame:?}")).collect()
    }

    #[test]
    fn frames_of_every_kind_are_read_and_what_is_no_frame_is_counted() {
        let mut session = SlcanSession::new(LISTEN, BusIndex(1), 0);
        let lines = b"t1232DEAD\rT18DAF1100\rt7E81AA1F3C\rd1009000102030405060708090A0B\rr1232\rt8000\rt1239\rt12\rxyz\rz\r";
        let frames = read(&mut session, 0, lines);
        let expected = [
            "(7) bus1 0x123#DEAD",
            "(7) bus1 0x18DAF110#",
            "(7) bus1 0x7E8#AA",
            "(7) bus1 0x100#000102030405060708090A0B",
        ];
        assert_eq!(texts(&frames), expected);
        assert_eq!(
            session.counters(),
            SlcanCounters { frames: 4, remote: 1, malformed: 4, ..SlcanCounters::default() }
        );
    }

    #[test]
    fn a_line_in_two_halves_is_one_and_an_endless_one_ends_with_itself() {
        let mut session = SlcanSession::new(LISTEN, BusIndex(0), 0);
        assert_eq!(read(&mut session, 0, b"t1232DE").len(), 0);
        assert_eq!(texts(&read(&mut session, 0, b"AD\r")), ["(7) bus0 0x123#DEAD"]);
        read(&mut session, 0, &[b'1'; 10_000]);
        assert_eq!(read(&mut session, 0, b"\rt0000\r").len(), 1);
        assert_eq!(session.counters().malformed, 1);
    }

    #[test]
    fn adapter_is_closed_set_and_opened_for_listening_with_and_without_its_answers() {
        for answers in [true, false] {
            let mut session = SlcanSession::new(LISTEN, BusIndex(0), 0);
            let (mut now_us, mut sent) = (0, Vec::new());
            while !session.is_open() {
                session.handle_timeout(now_us);
                sent.extend(session.poll_transmit());
                if answers {
                    read(&mut session, now_us, b"\r");
                }
                now_us += 100_000;
            }
            assert_eq!(String::from_utf8(sent).unwrap(), "\r\rC\rS6\rL\r");
            let frame = read(&mut session, 0, b"t0000\r").remove(0);
            assert!(!session.transmit(&frame));
        }
    }

    #[test]
    fn adapter_that_cannot_listen_only_is_not_opened() {
        let mut session = SlcanSession::new(LISTEN, BusIndex(0), 0);
        for now_us in [0, 300_000, 600_000] {
            session.handle_timeout(now_us);
        }
        assert!(session.poll_transmit().ends_with(b"L\r"));
        read(&mut session, 600_000, b"\x07");
        assert_eq!(session.fault(), Some(SlcanFault::NotListenOnly));
    }

    #[test]
    fn adapter_that_stops_answering_is_hung_and_one_that_never_did_is_left_alone() {
        let mut session =
            SlcanSession::new(SlcanOptions { bitrate: None, listen_only: false }, BusIndex(0), 0);
        let mut silent =
            SlcanSession::new(SlcanOptions { bitrate: None, listen_only: false }, BusIndex(0), 0);
        for now_us in (0..1_000_000).step_by(100_000) {
            session.handle_timeout(now_us);
            silent.handle_timeout(now_us);
            read(&mut session, now_us, b"\r");
        }
        assert!(session.is_open() && silent.is_open());
        assert_eq!(silent.poll_timeout(), None);
        let mut now_us = 0;
        while session.fault().is_none() {
            now_us = session.poll_timeout().unwrap();
            session.handle_timeout(now_us);
        }
        assert_eq!((session.fault(), now_us), (Some(SlcanFault::Hung), 900_000 + 3 * ALIVE_AFTER_US));
        assert!(session.poll_transmit().ends_with(b"V\rF\rV\r"));
    }

    /// An open adapter that answers, after its flags were asked for.
    fn asked_for_flags() -> SlcanSession {
        let mut session =
            SlcanSession::new(SlcanOptions { bitrate: None, listen_only: true }, BusIndex(0), 0);
        for now_us in (0..1_000_000).step_by(100_000) {
            session.handle_timeout(now_us);
            read(&mut session, now_us, b"\r");
        }
        assert!(session.is_open());
        session.poll_transmit();
        read(&mut session, FLAGS_EVERY_US - 1, b"t0000\r");
        assert_eq!(session.poll_timeout(), Some(FLAGS_EVERY_US));
        session.handle_timeout(FLAGS_EVERY_US);
        assert_eq!(session.poll_transmit(), b"F\r");
        session
    }

    #[test]
    fn frames_that_the_adapter_lost_are_asked_for_and_counted() {
        let mut session = asked_for_flags();
        read(&mut session, FLAGS_EVERY_US + 5, b"F08\r");
        assert_eq!(session.poll_timeout(), Some(FLAGS_EVERY_US + 5 + ALIVE_AFTER_US));
        session.handle_timeout(2 * FLAGS_EVERY_US + 5);
        assert!(session.poll_transmit().starts_with(b"F\r"));
        read(&mut session, 2 * FLAGS_EVERY_US + 6, b"F01\r");
        // A warning, and what is no answer.
        read(&mut session, 2 * FLAGS_EVERY_US + 7, b"F04\rF0\rF0x\r");
        let counters = session.counters();
        assert_eq!((counters.overruns, counters.malformed), (2, 2));
    }

    #[test]
    fn an_adapter_that_does_not_know_its_flags_is_not_asked_again() {
        for answer in [&b"\x07"[..], b""] {
            let mut session = asked_for_flags();
            read(&mut session, FLAGS_EVERY_US + 5, answer);
            for at_us in 1..20 {
                read(&mut session, FLAGS_EVERY_US * at_us, b"t0000\r");
                session.handle_timeout(FLAGS_EVERY_US * at_us);
            }
            assert_eq!(session.poll_transmit(), b"");
            assert_eq!(session.fault(), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_and_frames_come_back_as_they_were(
            garbage in prop::collection::vec(any::<u8>(), 0..300), bits in 0u32..0x2000_0000, extended: bool,
            data in prop::collection::vec(any::<u8>(), 0..=8),
        ) {
            let id = if extended { CanId::Extended(bits) } else { CanId::Standard(bits as u16 & 0x7FF) };
            let frame = CanFrame::new(7, BusIndex(0), id, &data).unwrap();
            let mut session = SlcanSession::new(LISTEN, BusIndex(0), 0);
            read(&mut session, 0, &garbage);
            let mut bytes = b"\r".to_vec();
            encode(&frame, &mut bytes);
            let read = read(&mut session, 0, &bytes);
            prop_assert_eq!(read.last(), Some(&frame));
        }
    }
}
