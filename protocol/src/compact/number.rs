//! Numbers of 64 bits as bits that are likely or not.
//!
//! First how many bits a number has, 0 to 64: one by one "more than this?", and from [`ONE_BY_ONE`] on the rest in six
//! bits. Then the bits below the leading one: two by what is expected of them, the others raw.

use super::range::{Bit, Coder};
use crate::varint::{unzigzag, zigzag};

const ONE_BY_ONE: u32 = 16;
/// Numbers of this many bits and more share what is expected of the bits below the leading one.
const LONG: usize = 15;

/// What is expected of numbers in `N` contexts.
#[derive(Debug, Clone)]
pub(super) struct Numbers<const N: usize> {
    more: [[Bit; ONE_BY_ONE as usize]; N],
    rest: [Bit; 64],
    below: [[Bit; 4]; LONG + 1],
}

impl<const N: usize> Numbers<N> {
    /// Nothing is known.
    pub(super) const NEW: Self = Self {
        more: [[Bit::NEW; ONE_BY_ONE as usize]; N],
        rest: [Bit::NEW; 64],
        below: [[Bit::NEW; 4]; LONG + 1],
    };

    /// Codes a number; `context` is less than `N`.
    #[inline(always)]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, context: usize, value: u64) -> u64 {
        let given = u64::BITS - value.leading_zeros();
        let mut bits = 0;
        for more in &mut self.more[context] {
            if !coder.bit(more, given > bits) {
                break;
            }
            bits += 1;
        }
        if bits <= 1 {
            return u64::from(bits);
        }
        if bits == ONE_BY_ONE {
            let rest = tree::<6, C>(coder, &mut self.rest, u64::from(given.saturating_sub(ONE_BY_ONE)));
            bits = (ONE_BY_ONE + rest as u32).min(u64::BITS);
        }
        self.code_below(coder, value, bits)
    }

    /// Codes the bits below the leading one of a number of `bits` bits, 2 at least.
    fn code_below<C: Coder>(&mut self, coder: &mut C, value: u64, bits: u32) -> u64 {
        let below = &mut self.below[(bits as usize).min(LONG)];
        let left = bits - 2;
        let second = coder.bit(&mut below[1], value >> left & 1 == 1);
        let top = 0b10 | u64::from(second);
        if left == 0 {
            return top;
        }
        let left = left - 1;
        let third = coder.bit(&mut below[top as usize], value >> left & 1 == 1);
        let top = top << 1 | u64::from(third);
        top << left | coder.raw(value & ((1 << left) - 1), left)
    }

    /// Codes a number that can be negative.
    #[inline(always)]
    pub(super) fn signed<C: Coder>(&mut self, coder: &mut C, context: usize, value: i64) -> i64 {
        unzigzag(self.code(coder, context, zigzag(value)))
    }
}

/// Codes the low `BITS` bits of `value`, each by what is expected after those before it; `models` has 2^`BITS`.
pub(super) fn tree<const BITS: u32, C: Coder>(coder: &mut C, models: &mut [Bit], value: u64) -> u64 {
    let mut node = 1;
    for at in (0..BITS).rev() {
        node = node << 1 | usize::from(coder.bit(&mut models[node], value >> at & 1 == 1));
    }
    (node - (1 << BITS)) as u64
}
