//! ISO 15765-2 (ISO-TP) as a listener: messages put together from CAN and CAN FD frames, with normal addressing (also fixed
//! and mixed 29-bit ids, where the id says it all) or extended addressing (the first byte of each frame is an address).

use convoy_protocol::frame::{BusIndex, CanId};

/// Longest message followed, bytes. The 12 bits of a first frame say up to 4,095; more takes its long form.
pub const ISOTP_MESSAGE_BYTES_MAX: usize = 65_535;
/// Bytes that are set aside before they have arrived at most.
const RESERVED_BYTES_MAX: usize = 4_095;
/// Buffers kept for the next messages at most.
const SPARE_BUFFERS_MAX: usize = 8;
/// Messages followed at the same time at most; the one silent for longest makes room.
pub const ISOTP_SESSIONS_MAX: usize = 64;
/// Longest silence between consecutive frames, microseconds (N_Cr).
pub const ISOTP_N_CR_US: i64 = 1_000_000;

/// What the listener could not use, and what it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IsoTpCounters {
    /// Messages handed out, single frames included.
    pub messages: u64,
    /// Messages that took more than one frame.
    pub multi_frame: u64,
    /// Consecutive frames outside a message.
    pub orphans: u64,
    /// Messages given up: a frame out of order or cut short, silence, a new first or single frame, no room.
    pub aborted: u64,
    /// Frames with an impossible or reserved head, and messages longer than [`ISOTP_MESSAGE_BYTES_MAX`].
    pub malformed: u64,
}

/// A whole message.
#[derive(Debug, PartialEq, Eq)]
pub struct IsoTpMessage {
    /// The bus it was on.
    pub bus: BusIndex,
    /// The identifier of its frames.
    pub id: CanId,
    /// The address before its frames, with extended addressing.
    pub address: Option<u8>,
    /// The low byte of the length, then the message.
    buffer: Vec<u8>,
}

impl IsoTpMessage {
    /// The message: 1 to [`ISOTP_MESSAGE_BYTES_MAX`] bytes, without padding.
    pub fn data(&self) -> &[u8] {
        &self.buffer[1..]
    }

    /// The message behind the low byte of its length, as DBC files describe it.
    pub fn with_length(&self) -> &[u8] {
        &self.buffer
    }
}

/// Whose frames make a message.
type Sender = (BusIndex, CanId, Option<u8>);

#[derive(Debug)]
struct Session {
    sender: Sender,
    size: usize,
    /// Low 4 bits of the next consecutive frame's number.
    next: u8,
    last_us: i64,
    /// One byte more than has arrived, see [`IsoTpMessage::buffer`].
    buffer: Vec<u8>,
}

/// Puts messages together by listening alone; a frame out of order drops its message.
#[derive(Debug, Default)]
pub struct IsoTpAssembler {
    sessions: Vec<Session>,
    spare: Vec<Vec<u8>>,
    counters: IsoTpCounters,
}

impl IsoTpAssembler {
    /// Without messages under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted so far.
    pub fn counters(&self) -> IsoTpCounters {
        self.counters
    }

    /// Messages under way, at most [`ISOTP_SESSIONS_MAX`].
    pub fn open(&self) -> usize {
        self.sessions.len()
    }

    /// Takes a frame of `id`; hands out the message that it completes. `time_us` is the time of the frame, and `has_address`
    /// says that its first byte is an address (extended addressing).
    pub fn handle_frame(
        &mut self,
        time_us: i64,
        (bus, id): (BusIndex, CanId),
        has_address: bool,
        data: &[u8],
    ) -> Option<IsoTpMessage> {
        self.expire(time_us);
        let (address, data) = match data {
            [address, rest @ ..] if has_address => (Some(*address), rest),
            data => (None, data),
        };
        let sender = (bus, id, address);
        let Some(&head) = data.first() else {
            self.counters.malformed += 1;
            return None;
        };
        match head >> 4 {
            0 => self.single(sender, data),
            1 => {
                self.first(time_us, sender, data);
                None
            }
            2 => self.consecutive(time_us, sender, data),
            // Flow control belongs to the other direction.
            3 => None,
            _ => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    /// Takes a message back that is done with, so that the next one needs no new memory.
    pub fn recycle(&mut self, message: IsoTpMessage) {
        if self.spare.len() < SPARE_BUFFERS_MAX && message.buffer.capacity() <= RESERVED_BYTES_MAX + 1 {
            self.spare.push(message.buffer);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low byte of the length")]
    fn buffer(&mut self, size: usize) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve(size.min(RESERVED_BYTES_MAX) + 1);
        buffer.push(size as u8);
        buffer
    }

    fn single(&mut self, sender: Sender, data: &[u8]) -> Option<IsoTpMessage> {
        self.close(sender);
        // A CAN FD frame of more than 8 bytes has its length in the second byte.
        let (len, body) = match data {
            [0, len, body @ ..] if data.len() + usize::from(sender.2.is_some()) > 8 => {
                (usize::from(*len), body)
            }
            [head, body @ ..] => (usize::from(head & 0xF), body),
            [] => (0, data),
        };
        let Some(message) = body.get(..len).filter(|message| !message.is_empty()) else {
            self.counters.malformed += 1;
            return None;
        };
        self.counters.messages += 1;
        let mut buffer = self.buffer(len);
        buffer.extend_from_slice(message);
        Some(whole(sender, buffer))
    }

    fn first(&mut self, time_us: i64, sender: Sender, data: &[u8]) {
        self.close(sender);
        let (size, body) = match data {
            // The long form: 32 bits of length, where 12 are not enough.
            [0x10, 0, s3, s2, s1, s0, body @ ..] => {
                let size = u32::from_be_bytes([*s3, *s2, *s1, *s0]) as usize;
                (Some(size).filter(|size| *size > 4_095).unwrap_or(0), body)
            }
            [high, low, body @ ..] => (usize::from(high & 0xF) << 8 | usize::from(*low), body),
            _ => (0, data),
        };
        // What would have fitted one frame is no first frame; extended addressing leaves 7 of 8 bytes.
        let least = 7 - usize::from(sender.2.is_some());
        if data.len() <= least || size <= body.len() || size > ISOTP_MESSAGE_BYTES_MAX {
            self.counters.malformed += 1;
            return;
        }
        if self.sessions.len() >= ISOTP_SESSIONS_MAX {
            let oldest = (0..self.sessions.len()).min_by_key(|at| self.sessions[*at].last_us);
            self.abort(oldest);
        }
        let mut buffer = self.buffer(size);
        buffer.extend_from_slice(body);
        self.sessions.push(Session { sender, size, next: 1, last_us: time_us, buffer });
    }

    fn consecutive(&mut self, time_us: i64, sender: Sender, data: &[u8]) -> Option<IsoTpMessage> {
        let Some(at) = self.position(sender) else {
            self.counters.orphans += 1;
            return None;
        };
        let session = &mut self.sessions[at];
        let left = session.size + 1 - session.buffer.len();
        // Every frame but the last one is full: 7 bytes, 6 behind an address, or as many as the frame holds on CAN FD.
        let full = 7 - usize::from(sender.2.is_some());
        let body = &data[1..data.len().min(left + 1)];
        if data[0] & 0xF != session.next || (body.len() < full && body.len() < left) {
            self.abort(Some(at));
            return None;
        }
        session.buffer.extend_from_slice(body);
        session.next = (session.next + 1) & 0xF;
        session.last_us = time_us;
        if body.len() < left {
            return None;
        }
        self.counters.messages += 1;
        self.counters.multi_frame += 1;
        Some(whole(sender, self.sessions.swap_remove(at).buffer))
    }

    fn expire(&mut self, time_us: i64) {
        let is_silent = |session: &Session| time_us.saturating_sub(session.last_us) > ISOTP_N_CR_US;
        while let Some(at) = self.sessions.iter().position(is_silent) {
            self.abort(Some(at));
        }
    }

    fn position(&self, sender: Sender) -> Option<usize> {
        self.sessions.iter().position(|session| session.sender == sender)
    }

    fn close(&mut self, sender: Sender) {
        let at = self.position(sender);
        self.abort(at);
    }

    fn abort(&mut self, at: Option<usize>) {
        if let Some(at) = at {
            let Session { sender, buffer, .. } = self.sessions.swap_remove(at);
            self.recycle(whole(sender, buffer));
            self.counters.aborted += 1;
        }
    }
}

fn whole((bus, id, address): Sender, buffer: Vec<u8>) -> IsoTpMessage {
    IsoTpMessage { bus, id, address, buffer }
}
