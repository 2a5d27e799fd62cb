//! The dongle's logic: CAN frames onto the serial link, losses counted, the agent's messages answered.
//!
//! ```text
//! CAN driver -> handle_can_frame / handle_frame -\
//! UART in    -> handle_byte (Ping -> Pong)        -> queue of link bytes -> poll_transmit -> UART out
//! timer      -> handle_timeout (Status)          -/
//! ```
//!
//! Nothing here does I/O, allocates, blocks or reads a clock: the board's main loop brings bytes and the time since
//! the start in microseconds. Broken input is counted with its reason, never an error and never a panic.
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

use convoy_protocol::frame::{BusIndex, CanId, FRAME_DATA_BYTES_MAX};
use convoy_protocol::link::{self, LINK_FRAME_BYTES_MAX, LinkDecoder, LinkStatus, Message};
use embedded_can::Id;
use heapless::Deque;

/// Default size of the transmit queue, bytes: about 150 classic frames, 20 ms of a full 500 kbit/s bus.
pub const QUEUE_BYTES_DEFAULT: usize = 4_096;
/// Room in the queue that frames leave to answers and status, bytes: one of each at full length.
pub const CONTROL_BYTES_RESERVED: usize = 64;
/// Time between two [`Message::Status`], microseconds.
pub const STATUS_PERIOD_US: u64 = 1_000_000;

/// What the dongle counted since it started; each counter wraps at 2^32.
///
/// `frames_received` = frames queued + `frames_dropped` + `frames_refused`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Data frames received on the buses.
    pub frames_received: u32,
    /// Data frames that found the queue full.
    pub frames_dropped: u32,
    /// Data frames of more than 64 bytes.
    pub frames_refused: u32,
    /// Remote frames, which the link does not carry.
    pub frames_remote: u32,
    /// Stretches from the agent that held no message, and messages that only a dongle sends.
    pub messages_rejected: u32,
    /// Answers that found the queue full.
    pub pongs_dropped: u32,
    /// Status messages that found the queue full; the next one says what they would have said.
    pub statuses_dropped: u32,
}

/// A dongle with a transmit queue of `QUEUE_BYTES`; less than [`LINK_FRAME_BYTES_MAX`] +
/// [`CONTROL_BYTES_RESERVED`] holds no CAN FD frame and is refused at compile time.
#[derive(Debug)]
pub struct Dongle<const QUEUE_BYTES: usize = QUEUE_BYTES_DEFAULT> {
    queue: Deque<u8, QUEUE_BYTES>,
    decoder: LinkDecoder,
    counters: Counters,
    /// Messages that could be read, but that the agent has no business to send.
    unexpected: u32,
    next_status_us: u64,
}

impl<const QUEUE_BYTES: usize> Dongle<QUEUE_BYTES> {
    /// A dongle that starts now; the first status is due a period later.
    pub fn new(now_us: u64) -> Self {
        const {
            assert!(QUEUE_BYTES >= LINK_FRAME_BYTES_MAX + CONTROL_BYTES_RESERVED, "queue holds no frame");
        }
        Self {
            queue: Deque::new(),
            decoder: LinkDecoder::new(),
            counters: Counters::default(),
            unexpected: 0,
            next_status_us: now_us.saturating_add(STATUS_PERIOD_US),
        }
    }

    /// Takes a frame of any CAN driver; a remote frame is counted and left out.
    pub fn handle_can_frame<F: embedded_can::Frame>(&mut self, now_us: u64, bus: BusIndex, frame: &F) {
        if frame.is_remote_frame() {
            count(&mut self.counters.frames_remote);
            return;
        }
        let id = match frame.id() {
            Id::Standard(id) => CanId::Standard(id.as_raw()),
            Id::Extended(id) => CanId::Extended(id.as_raw()),
        };
        self.handle_frame(now_us, bus, id, frame.data());
    }

    /// Takes a data frame of 0 to 64 bytes, received at `now_us`. Where the queue is full, the newest is dropped:
    /// what is queued keeps its order and its time.
    pub fn handle_frame(&mut self, now_us: u64, bus: BusIndex, id: CanId, data: &[u8]) {
        count(&mut self.counters.frames_received);
        if data.len() > FRAME_DATA_BYTES_MAX {
            count(&mut self.counters.frames_refused);
            return;
        }
        let message = Message::Frame { uptime_us: now_us, bus, id, data };
        if !self.queue(&message, CONTROL_BYTES_RESERVED) {
            count(&mut self.counters.frames_dropped);
        }
    }

    /// Takes a byte from the agent, received at `now_us`.
    pub fn handle_byte(&mut self, now_us: u64, byte: u8) {
        match self.decoder.push(byte) {
            Some(Message::Ping { nonce }) => {
                let is_queued = self.queue(&Message::Pong { nonce, uptime_us: now_us }, 0);
                if !is_queued {
                    count(&mut self.counters.pongs_dropped);
                }
            }
            Some(Message::Frame { .. } | Message::Status(_) | Message::Pong { .. }) => {
                count(&mut self.unexpected);
            }
            None => {}
        }
    }

    /// Queues a status when one is due; call it at [`Self::poll_timeout`] or at any time.
    pub fn handle_timeout(&mut self, now_us: u64) {
        if now_us < self.next_status_us {
            return;
        }
        // From now on, not from the missed time: a dongle that slept sends one status, not a burst.
        self.next_status_us = now_us.saturating_add(STATUS_PERIOD_US);
        let counters = self.counters();
        let status = LinkStatus {
            uptime_us: now_us,
            frames_received: counters.frames_received,
            frames_dropped: counters.frames_dropped,
            messages_rejected: counters.messages_rejected,
        };
        if !self.queue(&Message::Status(status), 0) {
            count(&mut self.counters.statuses_dropped);
        }
    }

    /// When [`Self::handle_timeout`] has something to do, microseconds since the start.
    pub fn poll_timeout(&self) -> u64 {
        self.next_status_us
    }

    /// Moves the next bytes for the agent into `out` and returns how many; 0 when there are none. Messages may be
    /// cut anywhere: the link is a stream.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> usize {
        let mut len = 0;
        for slot in out {
            let Some(byte) = self.queue.pop_front() else { break };
            *slot = byte;
            len += 1;
        }
        len
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        let messages_rejected = self.decoder.rejected().wrapping_add(self.unexpected);
        Counters { messages_rejected, ..self.counters }
    }

    /// Queues the whole message if it leaves `reserved` bytes free; else nothing of it.
    fn queue(&mut self, message: &Message<'_>, reserved: usize) -> bool {
        let mut buffer = [0; LINK_FRAME_BYTES_MAX];
        let Ok(bytes) = link::encode(message, &mut buffer) else { return false };
        if self.queue.len() + bytes.len() + reserved > QUEUE_BYTES {
            return false;
        }
        bytes.iter().all(|byte| self.queue.push_back(*byte).is_ok())
    }
}

fn count(counter: &mut u32) {
    *counter = counter.wrapping_add(1);
}

#[cfg(test)]
mod tests;
