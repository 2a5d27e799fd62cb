//! ELM327 and STN adapters, and the many that imitate them: asked for OBD-II, or listening.
//!
//! An adapter is a terminal: it takes a command that ends with a carriage return and answers lines up to a prompt, `>`.
//! Imitations echo although told not to, put `SEARCHING...` and an answer on one line, lose characters, send zeros, start
//! anew in the middle, and hang. Whatever comes is a frame, a notice, or counted; where the prompt stays away the adapter is
//! interrupted, then reset, and then given up for the shell to open it again: within [`RECOVERY_US_MAX`] in all.
//!
//! Frames come out as they were on the bus, so that whatever asks, ISO-TP and its trouble codes are read in one place. Of an
//! adapter that puts messages together itself, and of protocols before CAN, frames are made again.

use std::collections::VecDeque;

use convoy_protocol::frame::{BusIndex, CanFrame, CanId};

mod line;

pub use line::Notice;
use line::{Dialect, Line};

/// Longest line that is looked at, bytes.
pub const LINE_BYTES_MAX: usize = 256;
/// Longest silence in an answer, microseconds.
pub const ANSWER_WITHIN_US: i64 = 2_500_000;
/// Longest silence while the adapter looks for the protocol, microseconds.
pub const SEARCH_WITHIN_US: i64 = 4_000_000;
/// How long an interrupted adapter may take to its prompt, microseconds.
pub const INTERRUPT_WITHIN_US: i64 = 700_000;
/// How long a reset may take, microseconds.
pub const RESET_WITHIN_US: i64 = 2_000_000;
/// Longest time from a hang to the moment the adapter is given up, microseconds.
pub const RECOVERY_US_MAX: i64 = SEARCH_WITHIN_US + INTERRUPT_WITHIN_US + RESET_WITHIN_US;
/// Quiet after a prompt by which an interrupted adapter is known to have come to rest, microseconds.
const SETTLED_AFTER_US: i64 = 200_000;
/// Requests sent again after `STOPPED` at most.
const RETRIES_MAX: u32 = 2;
/// How often the voltage is read, microseconds.
pub const VOLTAGE_INTERVAL_US: i64 = 10_000_000;
/// Bytes of an ECU's trouble codes at most: their count is a byte.
const CODE_BYTES_MAX: usize = 2 * 255;
/// Bytes of a message in parts at most (12 bits).
const MESSAGE_BYTES_MAX: usize = 4_095;

/// What the adapter is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElmMode {
    /// It is asked.
    Requests,
    /// It writes every frame, and acknowledges none.
    Monitor,
}

/// How the adapter is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElmOptions {
    /// What for.
    pub mode: ElmMode,
    /// Digit of the protocol as in `ATSP`, `0` to `C`; `0`: the adapter looks for it.
    pub protocol: char,
}

/// What was read and could not be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ElmCounters {
    /// Frames, also those made of messages.
    pub frames: u64,
    /// Lines that are neither a frame nor a notice, or a frame cut short.
    pub malformed: u64,
    /// Requests that were answered, by whomever.
    pub answered: u64,
    /// Requests that nobody answered.
    pub no_data: u64,
    /// Requests given up because of the bus or the adapter.
    pub failed: u64,
    /// `BUFFER FULL`: frames were lost in the adapter.
    pub buffer_full: u64,
    /// Times that it was interrupted because it hung.
    pub interrupted: u64,
    /// Times that it was set up anew.
    pub resets: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// There were frames.
    Answered,
    /// There was none.
    NoData,
    /// The bus or the adapter failed.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    /// Place in [`SETUP`].
    Setup(usize),
    /// Sets the head of requests.
    Header(CanId),
    Request,
    Voltage,
    Monitor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A command was sent; its prompt is waited for.
    Waiting(Command),
    /// It hung: a command was sent that stops whatever it does.
    Interrupted { since_us: i64, prompted: bool },
    /// Ready for a command.
    Idle,
    /// The shell has to open it anew.
    Hung,
}

/// Commands at the start; an adapter may refuse any of them. `ATSP` gets its protocol, and one that listens shows frames as
/// they are: with `ATCAF1` it would take most of them for damaged messages.
const SETUP: [&str; 10] =
    ["ATZ", "ATE0", "ATL0", "ATS1", "ATH1", "ATAT1", "ATCAF1", "ATJHF0", "ATSP", "ATDPN"];
/// Pause before an adapter that stopped listening is told to go on, unless its buffer was full, microseconds.
const MONITOR_PAUSE_US: i64 = 1_000_000;
/// An answer takes no longer in all, microseconds: an adapter that babbles is no better than a silent one.
const ANSWER_US_MAX: i64 = 2 * SEARCH_WITHIN_US;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    id: CanId,
    payload: Vec<u8>,
    retries: u32,
    frames: u64,
    notice: Option<Notice>,
}

/// A message that the adapter puts together itself.
#[derive(Debug, Default)]
struct Parts {
    size: usize,
    bytes: Vec<u8>,
    next: u8,
}

/// One adapter, from its opening on.
#[derive(Debug)]
pub struct ElmSession {
    options: ElmOptions,
    bus: BusIndex,
    state: State,
    dialect: Dialect,
    line: Vec<u8>,
    sent_us: i64,
    heard_us: i64,
    is_searching: bool,
    /// The command on its way, to know its echo.
    command: String,
    header: Option<CanId>,
    request: Option<Request>,
    parts: Parts,
    ends: VecDeque<RequestEnd>,
    voltage: Option<f64>,
    /// It was measured since it was last asked for.
    is_voltage_new: bool,
    voltage_due_us: i64,
    /// When an adapter that listens is told to go on.
    monitor_due_us: i64,
    /// Trouble codes of protocols before CAN, which come three a line without a count: by sender and service.
    codes: Vec<(CanId, u8, Vec<u8>)>,
    out: Vec<u8>,
    counters: ElmCounters,
}

impl ElmSession {
    /// A session whose frames are of `bus`. The first bytes to send are there at once.
    pub fn new(options: ElmOptions, bus: BusIndex, now_us: i64) -> Self {
        let mut session = Self {
            options,
            bus,
            state: State::Idle,
            dialect: Dialect::Unknown,
            line: Vec::new(),
            sent_us: now_us,
            heard_us: now_us,
            is_searching: false,
            command: String::new(),
            header: None,
            request: None,
            parts: Parts::default(),
            ends: VecDeque::new(),
            voltage: None,
            is_voltage_new: false,
            voltage_due_us: now_us,
            monitor_due_us: now_us,
            codes: Vec::new(),
            out: Vec::new(),
            counters: ElmCounters::default(),
        };
        session.set_up(now_us);
        session
    }

    /// What was counted so far.
    pub fn counters(&self) -> ElmCounters {
        self.counters
    }

    /// Was it set up?
    pub fn is_set_up(&self) -> bool {
        !matches!(self.state, State::Waiting(Command::Setup(_)) | State::Interrupted { .. } | State::Hung)
    }

    /// Can it be asked?
    pub fn is_ready(&self) -> bool {
        self.state == State::Idle && self.request.is_none() && self.options.mode == ElmMode::Requests
    }

    /// Has it stopped answering for good? Then it has to be opened anew.
    pub fn is_hung(&self) -> bool {
        self.state == State::Hung
    }

    /// Volts at the vehicle's socket, as last read.
    pub fn voltage(&self) -> Option<f64> {
        self.voltage
    }

    /// The same, once for each time that it was read; `Some(None)`: the adapter does not know it.
    pub fn poll_voltage(&mut self) -> Option<Option<f64>> {
        std::mem::take(&mut self.is_voltage_new).then_some(self.voltage)
    }

    /// Asks the vehicle; false where it is not [ready](Self::is_ready) or the request is longer than a single frame.
    pub fn request(&mut self, now_us: i64, id: CanId, payload: &[u8]) -> bool {
        if !self.is_ready() || !(1..=7).contains(&payload.len()) {
            return false;
        }
        self.request = Some(Request { id, payload: payload.to_vec(), retries: 0, frames: 0, notice: None });
        self.send_request(now_us);
        true
    }

    /// How a request ended, in the order in which they were made.
    pub fn poll_end(&mut self) -> Option<RequestEnd> {
        self.ends.pop_front()
    }

    /// What to send to the adapter; empty where there is nothing.
    pub fn poll_transmit(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes what the adapter sent; calls `frame` for each frame, whose time is `wall_us`.
    pub fn handle_bytes(&mut self, now_us: i64, wall_us: i64, bytes: &[u8], mut frame: impl FnMut(CanFrame)) {
        if bytes.is_empty() || self.state == State::Hung {
            return;
        }
        self.heard_us = now_us;
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => self.end_line(now_us, wall_us, &mut frame),
                b'>' => {
                    self.end_line(now_us, wall_us, &mut frame);
                    self.end_codes(wall_us, &mut frame);
                    self.handle_prompt(now_us);
                }
                byte if self.line.len() < LINE_BYTES_MAX => self.line.push(*byte),
                _ => {}
            }
        }
        if self.line.starts_with(b"SEARCHING") || self.line.starts_with(b"BUS INIT") {
            self.is_searching = true;
        }
    }

    /// Notices a hang, and reads the voltage when it is due.
    pub fn handle_timeout(&mut self, now_us: i64) {
        if self.poll_timeout().is_none_or(|due_us| now_us < due_us) {
            return;
        }
        match self.state {
            State::Idle if self.request.is_some() => self.send_request(now_us),
            State::Idle if self.options.mode == ElmMode::Monitor => {
                self.monitor_due_us = now_us;
                self.send(now_us, Command::Monitor, "ATMA");
            }
            State::Idle => {
                self.voltage_due_us = now_us.saturating_add(VOLTAGE_INTERVAL_US);
                self.send(now_us, Command::Voltage, "ATRV");
            }
            State::Interrupted { prompted: true, .. } => {
                self.state = State::Idle;
                self.end_request(RequestEnd::Failed);
                self.set_up(now_us);
            }
            // A bus may be silent for as long as it likes.
            State::Waiting(Command::Monitor) => {}
            State::Waiting(Command::Setup(0)) => self.give_up(),
            State::Waiting(_) => {
                self.counters.interrupted += 1;
                self.state = State::Interrupted { since_us: now_us, prompted: false };
                self.line.clear();
                self.command.clear();
                self.out.extend_from_slice(b"ATI\r");
            }
            State::Interrupted { .. } => {
                self.end_request(RequestEnd::Failed);
                self.set_up(now_us);
            }
            State::Hung => {}
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<i64> {
        let last_us = self.sent_us.max(self.heard_us);
        let after = |us: i64| Some(last_us.saturating_add(us));
        match self.state {
            State::Idle if self.request.is_some() => Some(i64::MIN),
            State::Idle if self.options.mode == ElmMode::Monitor => Some(self.monitor_due_us),
            State::Idle => Some(self.voltage_due_us),
            State::Waiting(Command::Monitor) | State::Hung => None,
            State::Waiting(Command::Setup(0)) => Some(self.sent_us.saturating_add(RESET_WITHIN_US)),
            State::Waiting(_) => {
                let silence_us = if self.is_searching { SEARCH_WITHIN_US } else { ANSWER_WITHIN_US };
                after(silence_us).min(Some(self.sent_us.saturating_add(ANSWER_US_MAX)))
            }
            State::Interrupted { since_us, prompted: true } => {
                after(SETTLED_AFTER_US).min(Some(since_us.saturating_add(RESET_WITHIN_US)))
            }
            State::Interrupted { since_us, .. } => Some(since_us.saturating_add(INTERRUPT_WITHIN_US)),
        }
    }

    fn set_up(&mut self, now_us: i64) {
        self.counters.resets += 1;
        (self.dialect, self.header) = (Dialect::Unknown, None);
        self.parts = Parts::default();
        self.send(now_us, Command::Setup(0), SETUP[0]);
    }

    fn give_up(&mut self) {
        self.end_request(RequestEnd::Failed);
        self.state = State::Hung;
    }

    fn send(&mut self, now_us: i64, command: Command, text: &str) {
        self.state = State::Waiting(command);
        self.sent_us = now_us;
        self.is_searching = false;
        self.line.clear();
        self.command = text.to_owned();
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'\r');
    }

    fn send_request(&mut self, now_us: i64) {
        let Some(request) = &mut self.request else { return };
        let id = request.id;
        // To everyone is what the adapter does by itself, with the head of the protocol that it found. Protocols before CAN
        // have only that.
        let is_set = match (self.header, is_to_everyone(id)) {
            (None, true) => true,
            (Some(header), everyone) => header == id || (everyone && is_to_everyone(header)),
            (None, false) => false,
        };
        if is_set || self.dialect == Dialect::Legacy {
            return self.send_payload(now_us);
        }
        let text = match (id, self.dialect) {
            (id, Dialect::Can29) if is_to_everyone(id) => "ATSH DB33F1".to_owned(),
            (CanId::Standard(id), _) => format!("ATSH {id:03X}"),
            (CanId::Extended(id), _) => format!("ATSH {:06X}", id & 0xFF_FFFF),
        };
        self.send(now_us, Command::Header(id), &text);
    }

    fn send_payload(&mut self, now_us: i64) {
        self.codes.clear();
        let Some(request) = &mut self.request else { return };
        (request.frames, request.notice) = (0, None);
        let text: String = request.payload.iter().map(|byte| format!("{byte:02X}")).collect();
        self.parts = Parts::default();
        self.send(now_us, Command::Request, &text);
    }

    fn end_request(&mut self, end: RequestEnd) {
        if self.request.take().is_some() {
            match end {
                RequestEnd::Answered => self.counters.answered += 1,
                RequestEnd::NoData => self.counters.no_data += 1,
                RequestEnd::Failed => self.counters.failed += 1,
            }
            self.ends.push_back(end);
        }
    }

    fn end_line(&mut self, now_us: i64, wall_us: i64, frame: &mut impl FnMut(CanFrame)) {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let is_echo = !self.command.is_empty() && squeezed(&text) == squeezed(&self.command);
        if let State::Waiting(Command::Setup(at)) = self.state {
            self.handle_setup(now_us, at, &squeezed(&text));
        } else if !is_echo && !matches!(self.state, State::Interrupted { .. } | State::Hung) {
            let expects = self.request.as_ref().map(|request| expected(&request.payload)).unwrap_or_default();
            let line = line::parse(&text, self.dialect, &expects);
            self.handle_line(now_us, wall_us, line, frame);
        }
        self.line = bytes;
        self.line.clear();
    }

    fn handle_line(&mut self, now_us: i64, wall_us: i64, line: Line, frame: &mut impl FnMut(CanFrame)) {
        match (self.state, line) {
            (_, Line::Nothing) => {}
            (State::Waiting(Command::Voltage), line) => self.handle_voltage(&line),
            // Its prompt is still to come: set up before, it would be taken for the answer to the first command.
            (_, Line::Notice(Notice::Reset)) => {
                self.state = State::Interrupted { since_us: now_us, prompted: false };
            }
            (State::Waiting(Command::Header(_)), _) => {}
            (_, Line::Notice(notice)) => {
                self.counters.buffer_full += u64::from(notice == Notice::BufferFull);
                self.counters.malformed += u64::from(notice == Notice::Data);
                if notice == Notice::BufferFull {
                    self.monitor_due_us = i64::MIN;
                }
                if let Some(request) = &mut self.request {
                    request.notice = Some(notice);
                }
            }
            (State::Waiting(Command::Request | Command::Monitor), Line::Frame(id, data)) => {
                self.handle_frame(wall_us, id, &data, frame);
            }
            (State::Waiting(Command::Request), Line::Codes(id, service, codes)) => {
                self.handle_codes(id, service, &codes);
            }
            (State::Waiting(Command::Request), Line::Message(message)) => {
                self.dialect = Dialect::Headless;
                self.handle_message(wall_us, &message, frame);
            }
            (State::Waiting(Command::Request), Line::Length(size)) => {
                self.parts = Parts { size: size.min(MESSAGE_BYTES_MAX), ..Parts::default() };
            }
            (State::Waiting(Command::Request), Line::Part(number, bytes)) => {
                self.handle_part(wall_us, number, &bytes, frame);
            }
            _ => self.counters.malformed += 1,
        }
    }

    fn handle_setup(&mut self, now_us: i64, at: usize, text: &str) {
        // Its greeting answers ATZ; later it has started anew by itself.
        if at > 0 && text.starts_with("ELM3") {
            self.state = State::Interrupted { since_us: now_us, prompted: false };
        } else if SETUP.get(at) == Some(&"ATDPN")
            && let Some(dialect) = Dialect::of_protocol(text)
        {
            self.dialect = dialect;
        }
    }

    /// `12.6V`.
    fn handle_voltage(&mut self, line: &Line) {
        let volts = match line {
            Line::Text(text) => text.strip_suffix('V').and_then(|volts| volts.parse().ok()),
            _ => None,
        };
        self.voltage = volts.filter(|volts| (0.0..100.0).contains(volts));
        self.is_voltage_new = true;
    }

    /// A frame that is whole by what its first byte says is handed out.
    fn handle_frame(&mut self, wall_us: i64, id: CanId, data: &[u8], frame: &mut impl FnMut(CanFrame)) {
        let is_whole = match (data[0] >> 4, self.options.mode) {
            (_, ElmMode::Monitor) => true,
            (0, _) => data.len() > usize::from(data[0]) && data[0] != 0,
            (1, _) => data.len() == 8,
            (2, _) => data.len() >= 2,
            (3, _) => data.len() >= 3,
            _ => false,
        };
        let (true, Ok(parsed)) = (is_whole, CanFrame::new(wall_us, self.bus, id, data)) else {
            self.counters.malformed += 1;
            return;
        };
        self.counters.frames += 1;
        if let Some(request) = &mut self.request {
            request.frames += 1;
        }
        frame(parsed);
    }

    fn handle_part(&mut self, wall_us: i64, number: u8, bytes: &[u8], frame: &mut impl FnMut(CanFrame)) {
        if number != self.parts.next & 0xF || self.parts.size == 0 {
            self.counters.malformed += 1;
            self.parts = Parts::default();
            return;
        }
        self.parts.next = self.parts.next.wrapping_add(1);
        self.parts.bytes.extend_from_slice(bytes);
        if self.parts.bytes.len() >= self.parts.size {
            let Parts { size, bytes, .. } = std::mem::take(&mut self.parts);
            self.handle_message(wall_us, &bytes[..size], frame);
        }
    }

    fn handle_codes(&mut self, id: CanId, service: u8, codes: &[u8]) {
        let known = self.codes.iter_mut().find(|(of, in_service, _)| (*of, *in_service) == (id, service));
        match known {
            Some((_, _, all)) if all.len() + codes.len() <= CODE_BYTES_MAX => all.extend_from_slice(codes),
            Some(_) => self.counters.malformed += 1,
            None => self.codes.push((id, service, codes.to_vec())),
        }
    }

    /// Hands out the trouble codes of protocols before CAN as one message with a count, as with CAN.
    fn end_codes(&mut self, wall_us: i64, frame: &mut impl FnMut(CanFrame)) {
        for (id, service, codes) in std::mem::take(&mut self.codes) {
            let codes = codes.as_chunks::<2>().0.iter().filter(|code| **code != [0, 0]);
            let codes: Vec<u8> = codes.flatten().copied().collect();
            let count = u8::try_from(codes.len() / 2).unwrap_or(u8::MAX);
            for data in frames_of(&[&[service, count][..], &codes].concat()) {
                self.handle_frame(wall_us, id, &data, frame);
            }
        }
    }

    /// Makes frames of a message, as the first ECU would have sent them.
    fn handle_message(&mut self, wall_us: i64, message: &[u8], frame: &mut impl FnMut(CanFrame)) {
        let id = match self.request.as_ref().map(|request| request.id) {
            Some(CanId::Extended(_)) => CanId::Extended(0x18DA_F110),
            _ => CanId::Standard(0x7E8),
        };
        for data in frames_of(message) {
            self.handle_frame(wall_us, id, &data, frame);
        }
    }

    fn handle_prompt(&mut self, now_us: i64) {
        match self.state {
            State::Waiting(Command::Setup(at)) => match SETUP.get(at + 1) {
                Some(text) => {
                    let text = match (*text, self.options.mode) {
                        ("ATSP", _) => format!("ATSP{}", self.options.protocol),
                        ("ATCAF1", ElmMode::Monitor) => "ATCAF0".to_owned(),
                        (text, _) => text.to_owned(),
                    };
                    self.send(now_us, Command::Setup(at + 1), &text);
                }
                None => self.state = State::Idle,
            },
            State::Waiting(Command::Header(id)) => {
                self.header = Some(id);
                self.send_payload(now_us);
            }
            State::Waiting(Command::Request) => self.handle_answered(now_us),
            State::Waiting(Command::Voltage) => self.state = State::Idle,
            State::Waiting(Command::Monitor) => {
                self.state = State::Idle;
                // Where its buffer was full it goes on at once.
                if self.monitor_due_us != i64::MIN {
                    self.monitor_due_us = now_us.saturating_add(MONITOR_PAUSE_US);
                }
            }
            State::Interrupted { since_us, .. } => {
                self.state = State::Interrupted { since_us, prompted: true }
            }
            State::Idle | State::Hung => {}
        }
    }

    fn handle_answered(&mut self, now_us: i64) {
        self.state = State::Idle;
        let Some(request) = &mut self.request else { return };
        match request.notice {
            Some(Notice::Stopped) if request.retries < RETRIES_MAX => {
                request.retries += 1;
                self.send_payload(now_us);
            }
            _ if request.frames > 0 => self.end_request(RequestEnd::Answered),
            None | Some(Notice::NoData | Notice::Ok) => self.end_request(RequestEnd::NoData),
            Some(_) => self.end_request(RequestEnd::Failed),
        }
    }
}

/// Is it a functional request by ISO 15765-4?
fn is_to_everyone(id: CanId) -> bool {
    matches!(id, CanId::Standard(0x7DF) | CanId::Extended(0x18DB_33F1))
}

/// Without whitespace and zeros.
fn squeezed(text: &str) -> String {
    text.chars().filter(|char| !char.is_whitespace() && *char != '\0').collect()
}

/// What a positive answer begins with: the service and, where it has one, the parameter.
fn expected(payload: &[u8]) -> Vec<u8> {
    let mut head = payload.to_vec();
    head.truncate(if matches!(payload.first(), Some(0x03 | 0x07 | 0x0A)) { 1 } else { 2 });
    if let Some(service) = head.first_mut() {
        *service = service.saturating_add(0x40);
    }
    head
}

fn frames_of(message: &[u8]) -> Vec<Vec<u8>> {
    #[allow(clippy::cast_possible_truncation, reason = "at most 12 bits, 4 and 8 of them")]
    let (high, low) = ((message.len() >> 8) as u8, message.len() as u8);
    if message.len() <= 7 {
        return vec![[&[low][..], message].concat()];
    }
    let (first, rest) = message.split_at(6);
    let first = [&[0x10 | high & 0xF, low][..], first].concat();
    let rest = rest.chunks(7).zip((0..16u8).cycle().skip(1));
    std::iter::once(first).chain(rest.map(|(chunk, number)| [&[0x20 | number][..], chunk].concat())).collect()
}

#[cfg(test)]
mod tests;
