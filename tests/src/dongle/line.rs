//! A serial line: the dongle's end with its two small buffers, a wire in each direction, and what a bad day does to them.

use std::collections::VecDeque;

use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write, WriteReady};

use crate::dice::Dice;

/// Bytes that the dongle's end holds for sending at most.
pub const SEND_BYTES_MAX: usize = 64;
/// Bytes that the dongle's end holds until they are read at most.
pub const READ_BYTES_MAX: usize = 256;

/// Bytes came faster than they were read.
#[derive(Debug, Clone, Copy)]
pub struct Overrun;

impl embedded_io::Error for Overrun {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

/// The dongle's end.
#[derive(Debug, Default)]
pub struct Uart {
    pub(super) sending: VecDeque<u8>,
    pub(super) received: VecDeque<u8>,
    has_overrun: bool,
}

impl Uart {
    pub(super) fn hear(&mut self, byte: u8) {
        if self.received.len() < READ_BYTES_MAX {
            self.received.push_back(byte);
        } else {
            self.has_overrun = true;
        }
    }
}

impl ErrorType for Uart {
    type Error = Overrun;
}

impl Read for Uart {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Overrun> {
        if std::mem::take(&mut self.has_overrun) {
            return Err(Overrun);
        }
        let len = into.len().min(self.received.len());
        for (slot, byte) in into.iter_mut().zip(self.received.drain(..len)) {
            *slot = byte;
        }
        Ok(len)
    }
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Overrun> {
        Ok(self.has_overrun || !self.received.is_empty())
    }
}

impl Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Overrun> {
        let len = bytes.len().min(SEND_BYTES_MAX - self.sending.len());
        self.sending.extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> Result<(), Overrun> {
        Ok(())
    }
}

impl WriteReady for Uart {
    fn write_ready(&mut self) -> Result<bool, Overrun> {
        Ok(self.sending.len() < SEND_BYTES_MAX)
    }
}

/// One direction of the wire.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Bytes of a thousand to which something happens, until then.
    pub(super) noise: (u64, u64),
    /// Nothing moves until then.
    pub(super) stalled_until_us: u64,
    /// Every byte goes missing until then.
    pub(super) missing_until_us: u64,
    /// Bytes that come from nowhere, before any other.
    pub(super) garbage: VecDeque<u8>,
}

impl Wire {
    const fn is_stalled(&self, now_us: u64) -> bool {
        now_us < self.stalled_until_us
    }

    /// Carries what it can in a step, `bytes` at most: what comes from nowhere, then what was sent.
    pub(super) fn step(
        &mut self,
        now_us: u64,
        bytes: usize,
        sent: &mut VecDeque<u8>,
        dice: &mut Dice,
        mut out: impl FnMut(u8),
    ) {
        if self.is_stalled(now_us) {
            return;
        }
        for _ in 0..bytes {
            if let Some(byte) = self.garbage.pop_front() {
                out(byte);
            } else if let Some(byte) = sent.pop_front() {
                self.carry(now_us, byte, dice, &mut out);
            }
        }
    }

    /// Carries a byte, or makes something else of it.
    fn carry(&self, now_us: u64, byte: u8, dice: &mut Dice, out: &mut impl FnMut(u8)) {
        if now_us < self.missing_until_us {
            return;
        }
        let (permille, until_us) = self.noise;
        if now_us >= until_us || !dice.is_hit(permille) {
            out(byte);
            return;
        }
        match dice.below(5) {
            0 | 1 => out(byte ^ 1 << dice.below(8)),
            2 => {}
            3 => {
                out(byte);
                out(dice.byte());
            }
            _ => (0..dice.below(20)).for_each(|_| out(dice.byte())),
        }
    }
}
