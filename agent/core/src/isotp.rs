//! ISO 15765-2 (ISO-TP) as a listener: messages of up to 4,095 bytes from CAN frames, normal addressing.

use convoy_protocol::frame::{BusIndex, CanId};

/// Longest message followed, bytes: the 12-bit length of a first frame.
pub const ISOTP_MESSAGE_BYTES_MAX: usize = 4_095;
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

#[derive(Debug)]
struct Session {
    bus: BusIndex,
    id: CanId,
    size: usize,
    /// Low 4 bits of the next consecutive frame's number.
    next: u8,
    last_us: i64,
    data: Vec<u8>,
}

/// Puts messages together by listening alone; a frame out of order drops its message.
#[derive(Debug, Default)]
pub struct IsoTpAssembler {
    sessions: Vec<Session>,
    finished: Vec<u8>,
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

    /// Takes a frame; hands out the message that it completes. `time_us` is the time of the frame.
    pub fn handle_frame(&mut self, time_us: i64, bus: BusIndex, id: CanId, data: &[u8]) -> Option<&[u8]> {
        self.expire(time_us);
        let Some(&head) = data.first() else {
            self.counters.malformed += 1;
            return None;
        };
        match head >> 4 {
            0 => self.single(bus, id, data),
            1 => {
                self.first(time_us, bus, id, data);
                None
            }
            2 => self.consecutive(time_us, bus, id, data),
            // Flow control belongs to the other direction.
            3 => None,
            _ => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    fn single(&mut self, bus: BusIndex, id: CanId, data: &[u8]) -> Option<&[u8]> {
        self.close(bus, id);
        // A CAN FD frame of more than 8 bytes has its length in the second byte.
        let (len, body) = match data {
            [0, len, body @ ..] if data.len() > 8 => (usize::from(*len), body),
            [head, body @ ..] => (usize::from(head & 0xF), body),
            [] => (0, data),
        };
        match body.get(..len).filter(|message| !message.is_empty()) {
            Some(message) => {
                self.counters.messages += 1;
                self.finished.clear();
                self.finished.extend_from_slice(message);
                Some(&self.finished)
            }
            None => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    fn first(&mut self, time_us: i64, bus: BusIndex, id: CanId, data: &[u8]) {
        self.close(bus, id);
        let [high, low, body @ ..] = data else {
            self.counters.malformed += 1;
            return;
        };
        let size = usize::from(high & 0xF) << 8 | usize::from(*low);
        // Also refuses the 32-bit length, whose 12 bits are zero, and what would have fitted one frame.
        if body.len() < 6 || size <= body.len() {
            self.counters.malformed += 1;
            return;
        }
        if self.sessions.len() >= ISOTP_SESSIONS_MAX {
            let oldest = (0..self.sessions.len()).min_by_key(|at| self.sessions[*at].last_us);
            self.abort(oldest);
        }
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(body);
        self.sessions.push(Session { bus, id, size, next: 1, last_us: time_us, data: bytes });
    }

    fn consecutive(&mut self, time_us: i64, bus: BusIndex, id: CanId, data: &[u8]) -> Option<&[u8]> {
        let Some(at) = self.position(bus, id) else {
            self.counters.orphans += 1;
            return None;
        };
        let session = &mut self.sessions[at];
        let left = session.size - session.data.len();
        // Every frame but the last one is full: 7 bytes, or as many as the frame holds on CAN FD.
        let body = &data[1..data.len().min(left + 1)];
        if data[0] & 0xF != session.next || (body.len() < 7 && body.len() < left) {
            self.abort(Some(at));
            return None;
        }
        session.data.extend_from_slice(body);
        session.next = (session.next + 1) & 0xF;
        session.last_us = time_us;
        if session.data.len() < session.size {
            return None;
        }
        self.counters.messages += 1;
        self.counters.multi_frame += 1;
        self.finished = self.sessions.swap_remove(at).data;
        Some(&self.finished)
    }

    fn expire(&mut self, time_us: i64) {
        let before = self.sessions.len();
        self.sessions.retain(|session| time_us.saturating_sub(session.last_us) <= ISOTP_N_CR_US);
        self.counters.aborted += (before - self.sessions.len()) as u64;
    }

    fn position(&self, bus: BusIndex, id: CanId) -> Option<usize> {
        self.sessions.iter().position(|session| (session.bus, session.id) == (bus, id))
    }

    fn close(&mut self, bus: BusIndex, id: CanId) {
        let at = self.position(bus, id);
        self.abort(at);
    }

    fn abort(&mut self, at: Option<usize>) {
        if let Some(at) = at {
            self.sessions.swap_remove(at);
            self.counters.aborted += 1;
        }
    }
}
