//! An adaptive binary range coder: what every bit of the columns goes through.
//!
//! Encoder and decoder are two [`Coder`]s, so that the layout is written once: a function over `C: Coder` passes what
//! it has and goes on with what comes back. From an encoder that is what it passed, from a decoder what was read.
//!
//! Coding a bit splits the range in the ratio that its [`Bit`] expects; the lower part stands for a set bit. Below
//! 2^24 the range is widened by a byte of output. Carries run back through the bytes that are written.

use alloc::vec::Vec;

const RANGE_MIN: u32 = 1 << 24;
/// What a [`Bit`] has seen counts up to here: one more changes what it expects by 1.5 % at least.
const SEEN_MAX: u8 = 63;
/// Bytes that [`Encoder::finish`] leaves out at most, and that a decoder reads beyond the end.
const LEFT_OUT_MAX: usize = 4;
/// Bits of [`Coder::raw`] that one split takes at most.
const RAW_BITS: u32 = 8;

/// 65,536 / (seen + 2): how far one bit moves what is expected.
const STEPS: [u16; SEEN_MAX as usize + 1] = {
    let mut steps = [0; SEEN_MAX as usize + 1];
    let mut seen = 0;
    while seen < steps.len() {
        steps[seen] = ((1 << 16) / (seen + 2)) as u16;
        seen += 1;
    }
    steps
};

/// What is expected of one bit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bit {
    /// Probability that it is set, of 65,536.
    set: u16,
    seen: u8,
}

impl Bit {
    /// Nothing is known.
    pub(super) const NEW: Self = Self { set: 1 << 15, seen: 0 };

    #[inline(always)]
    fn learn(&mut self, bit: bool) {
        let step = u32::from(STEPS[usize::from(self.seen & SEEN_MAX)]);
        if bit {
            self.set += ((u32::from(u16::MAX - self.set) * step) >> 16) as u16;
        } else {
            self.set -= ((u32::from(self.set) * step) >> 16) as u16;
        }
        self.seen = (self.seen + 1).min(SEEN_MAX);
    }
}

/// One side of the wire.
pub(super) trait Coder {
    /// Is it given the values, or does it find them?
    const ENCODES: bool;
    /// Codes a bit as `model` expects it, which learns from it.
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool;
    /// Codes the low `count` bits of `value`, at most 64, each as likely set as not.
    fn raw(&mut self, value: u64, count: u32) -> u64;
}

/// Writes.
#[derive(Debug)]
pub(super) struct Encoder {
    bytes: Vec<u8>,
    low: u32,
    range: u32,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), low: 0, range: u32::MAX }
    }

    #[inline(always)]
    fn raise(&mut self, by: u32) {
        let (low, is_carry) = self.low.overflowing_add(by);
        self.low = low;
        if is_carry {
            self.carry();
        }
    }

    #[cold]
    fn carry(&mut self) {
        for byte in self.bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return;
            }
        }
    }

    #[inline(always)]
    fn widen(&mut self) {
        while self.range < RANGE_MIN {
            self.bytes.push((self.low >> 24) as u8);
            self.low <<= 8;
            self.range <<= 8;
        }
    }

    /// The bytes, of the last ones as few as a decoder needs that reads zeros after them.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for count in 0..LEFT_OUT_MAX {
            let below = u32::MAX >> (8 * count);
            let up = self.low.wrapping_neg() & below;
            if up < self.range {
                self.raise(up);
                self.bytes.extend_from_slice(&self.low.to_be_bytes()[..count]);
                return self.bytes;
            }
        }
        self.bytes.extend_from_slice(&self.low.to_be_bytes());
        self.bytes
    }
}

impl Coder for Encoder {
    const ENCODES: bool = true;

    #[inline(always)]
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool {
        let set = (self.range >> 16) * u32::from(model.set);
        if bit {
            self.range = set;
        } else {
            self.raise(set);
            self.range -= set;
        }
        model.learn(bit);
        self.widen();
        bit
    }

    fn raw(&mut self, value: u64, count: u32) -> u64 {
        let mut left = count;
        while left > 0 {
            let take = left.min(RAW_BITS);
            left -= take;
            self.range >>= take;
            self.raise(self.range * ((value >> left) as u32 & ((1 << take) - 1)));
            self.widen();
        }
        value
    }
}

/// Reads any bytes: reading never fails, what they say can be checked with [`Decoder::is_beyond`].
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where in the range the bytes point, counted from its lower end.
    code: u32,
    range: u32,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { bytes, at: 0, code: 0, range: u32::MAX };
        for _ in 0..size_of::<u32>() {
            decoder.next();
        }
        decoder
    }

    #[inline(always)]
    fn next(&mut self) {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.code = self.code << 8 | u32::from(byte);
        self.at += 1;
    }

    #[inline(always)]
    fn widen(&mut self) {
        while self.range < RANGE_MIN {
            self.range <<= 8;
            self.next();
        }
    }

    /// Has it read more than an encoder leaves out?
    pub(super) const fn is_beyond(&self) -> bool {
        self.at > self.bytes.len() + LEFT_OUT_MAX
    }

    /// Has it read everything, and no more?
    pub(super) const fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len() && !self.is_beyond()
    }
}

impl Coder for Decoder<'_> {
    const ENCODES: bool = false;

    #[inline(always)]
    fn bit(&mut self, model: &mut Bit, _: bool) -> bool {
        let set = (self.range >> 16) * u32::from(model.set);
        let bit = self.code < set;
        if bit {
            self.range = set;
        } else {
            self.code -= set;
            self.range -= set;
        }
        model.learn(bit);
        self.widen();
        bit
    }

    fn raw(&mut self, _: u64, count: u32) -> u64 {
        let (mut value, mut left) = (0, count);
        while left > 0 {
            let take = left.min(RAW_BITS);
            left -= take;
            self.range >>= take;
            // The division leaves a rest of the range, in which only foreign bytes can point.
            let part = (self.code / self.range).min((1 << take) - 1);
            self.code -= part * self.range;
            value = value << take | u64::from(part);
            self.widen();
        }
        value
    }
}
