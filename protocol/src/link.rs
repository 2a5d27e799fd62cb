//! The serial link between dongle and agent: one message a frame, postcard + CRC-32C, COBS-stuffed, ended by 0x00.
//!
//! COBS leaves no zero inside a frame, so the decoder finds its feet at the next zero after any garbage. Each
//! side counts what it could not read; a link never reports an error upward.

use serde::{Deserialize, Serialize};

use crate::CRC32C;
use crate::frame::{BusIndex, CanFrame, CanId, FRAME_DATA_BYTES_MAX};

/// Longest postcard form of a [`Message`], bytes: a CAN FD frame with all its varints at full length.
pub const MESSAGE_BYTES_MAX: usize = FRAME_DATA_BYTES_MAX + 24;
/// Longest stuffed frame with its final zero, bytes (COBS adds one byte in 254).
pub const LINK_FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 4 + 2;

/// What travels on the link, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<'a> {
    /// Dongle to agent: a frame received on a bus.
    Frame {
        /// Microseconds since the dongle started; the agent maps them to UTC.
        uptime_us: u64,
        /// The bus it was on.
        bus: BusIndex,
        /// Its identifier.
        id: CanId,
        /// Its payload, 0 to 64 bytes.
        #[serde(borrow)]
        data: &'a [u8],
    },
    /// Dongle to agent: what was counted since it started.
    Status(LinkStatus),
    /// Agent to dongle: answer with [`Message::Pong`].
    Ping {
        /// Returned in the answer.
        nonce: u32,
    },
    /// Dongle to agent: answer to [`Message::Ping`].
    Pong {
        /// The ping's number.
        nonce: u32,
        /// Microseconds since the dongle started.
        uptime_us: u64,
    },
}

/// Counters of a dongle since it started; each wraps at 2^32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Microseconds since the dongle started.
    pub uptime_us: u64,
    /// Frames received on the buses.
    pub frames_received: u32,
    /// Frames that found the transmit queue full.
    pub frames_dropped: u32,
    /// Messages from the agent that could not be read.
    pub messages_rejected: u32,
}

/// Why a message could not be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkEncodeError {
    /// The message is longer than [`MESSAGE_BYTES_MAX`].
    #[error("message longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
}

/// Encodes a message into `out` and returns the bytes to send, the final zero included.
pub fn encode<'o>(
    message: &Message<'_>,
    out: &'o mut [u8; LINK_FRAME_BYTES_MAX],
) -> Result<&'o [u8], LinkEncodeError> {
    let mut plain = [0; MESSAGE_BYTES_MAX + 4];
    let len = postcard::to_slice(message, &mut plain[..MESSAGE_BYTES_MAX])
        .map_err(|_| LinkEncodeError::TooLong)?
        .len();
    let crc = CRC32C.checksum(&plain[..len]);
    plain[len..len + 4].copy_from_slice(&crc.to_le_bytes());
    let stuffed = cobs::try_encode(&plain[..len + 4], &mut out[..]).map_err(|_| LinkEncodeError::TooLong)?;
    let end = out.get_mut(stuffed).ok_or(LinkEncodeError::TooLong)?;
    *end = 0;
    Ok(&out[..=stuffed])
}

/// Finds messages in a stream of bytes that may begin anywhere and hold any garbage.
#[derive(Debug)]
pub struct LinkDecoder {
    buffer: [u8; LINK_FRAME_BYTES_MAX],
    len: usize,
    overrun: bool,
    rejected: u32,
}

impl Default for LinkDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl LinkDecoder {
    /// A decoder at the start of a stream.
    pub const fn new() -> Self {
        Self { buffer: [0; LINK_FRAME_BYTES_MAX], len: 0, overrun: false, rejected: 0 }
    }

    /// Stretches between two zeros that held no message: bad stuffing, CRC or content, or too long.
    pub const fn rejected(&self) -> u32 {
        self.rejected
    }

    /// Takes one byte; at the end of a frame hands out its message.
    pub fn push(&mut self, byte: u8) -> Option<Message<'_>> {
        if byte != 0 {
            match self.buffer.get_mut(self.len) {
                Some(slot) => {
                    *slot = byte;
                    self.len += 1;
                }
                None => self.overrun = true,
            }
            return None;
        }
        let (len, overrun) = (self.len, self.overrun);
        self.len = 0;
        self.overrun = false;
        if len == 0 && !overrun {
            return None;
        }
        // Counted before the borrow of the buffer begins, taken back on success.
        self.rejected = self.rejected.wrapping_add(1);
        if overrun {
            return None;
        }
        let plain_len = cobs::decode_in_place(&mut self.buffer[..len]).ok()?;
        let (body, crc) = self.buffer[..plain_len].split_last_chunk::<4>()?;
        if CRC32C.checksum(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (message, rest) = postcard::take_from_bytes::<Message<'_>>(body).ok()?;
        if !rest.is_empty() {
            return None;
        }
        self.rejected = self.rejected.wrapping_sub(1);
        Some(message)
    }
}

impl<'a> Message<'a> {
    /// The message that carries `frame`, with the dongle's own clock in place of the frame's.
    pub fn from_frame(uptime_us: u64, frame: &'a CanFrame) -> Self {
        Self::Frame { uptime_us, bus: frame.bus, id: frame.id, data: frame.data() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode_frame(uptime_us: u64, data: &[u8]) -> Vec<u8> {
        let id = CanId::Extended(0x18FE_CA00);
        let message = Message::Frame { uptime_us, bus: BusIndex(1), id, data };
        encode(&message, &mut [0; LINK_FRAME_BYTES_MAX]).unwrap().to_vec()
    }

    #[test]
    fn longest_message_fits_the_buffer() {
        let bytes = encode_frame(u64::MAX, &[0xff; 64]);
        assert!(bytes.len() <= LINK_FRAME_BYTES_MAX);
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 1);
    }

    #[test]
    fn decoder_resynchronises_after_an_overlong_stretch() {
        let mut decoder = LinkDecoder::new();
        for byte in [7; 500] {
            assert_eq!(decoder.push(byte), None);
        }
        assert_eq!(decoder.push(0), None);
        assert_eq!(decoder.rejected(), 1);
        let bytes = encode_frame(5, &[1, 2, 3]);
        let found = bytes.iter().filter(|byte| decoder.push(**byte).is_some()).count();
        assert_eq!((found, decoder.rejected()), (1, 1));
    }

    proptest! {
        #[test]
        fn any_frame_survives_garbage_before_it(
            garbage in proptest::collection::vec(any::<u8>(), 0..300),
            uptime_us: u64,
            data in proptest::collection::vec(any::<u8>(), 0..=64),
        ) {
            let mut decoder = LinkDecoder::new();
            for byte in garbage.iter().chain(&[0]) {
                decoder.push(*byte);
            }
            let bytes = encode_frame(uptime_us, &data);
            let mut found = 0;
            for byte in bytes {
                if let Some(Message::Frame { uptime_us: time, data: got, .. }) = decoder.push(byte) {
                    prop_assert_eq!((time, got), (uptime_us, &data[..]));
                    found += 1;
                }
            }
            prop_assert_eq!(found, 1);
        }
    }
}
