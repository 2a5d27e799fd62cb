//! What bxCAN, the controller inside many of ST's microcontrollers, is to be given (reference manual RM0090, chapter 32): bit
//! timings and filter banks. Boards write it into the registers.

use convoy_dongle::Filter;
use heapless::Vec;

/// Filter banks of a chip with two controllers, all given to the first.
pub const BANKS_MAX: usize = 28;

const STANDARD_BITS: u32 = 0x7FF;
const EXTENDED_BITS: u32 = 0x1FFF_FFFF;

/// A filter bank with masks. Data and remote frames both pass: the dongle counts the latter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bank {
    /// One filter of 32 bits, or two of 16.
    pub is_wide: bool,
    /// What the bank's two registers hold.
    pub registers: [u32; 2],
}

impl Bank {
    /// Lets every frame through.
    const EVERYTHING: Self = Self { is_wide: true, registers: [0, 0] };

    /// Extended frames that equal `id` in the bits of `mask`.
    const fn extended((id, mask): (u32, u32)) -> Self {
        const IS_EXTENDED: u32 = 1 << 2;
        let id = (id & EXTENDED_BITS) << 3 | IS_EXTENDED;
        let mask = (mask & EXTENDED_BITS) << 3 | IS_EXTENDED;
        Self { is_wide: true, registers: [id, mask] }
    }

    /// Standard frames of one filter or of the other.
    const fn standard(first: (u32, u32), second: (u32, u32)) -> Self {
        Self { is_wide: false, registers: [half(first), half(second)] }
    }
}

/// The mask above the identifier, with the bit that says that it is a standard one.
const fn half((id, mask): (u32, u32)) -> u32 {
    const IS_EXTENDED: u32 = 1 << 3;
    ((mask & STANDARD_BITS) << 5 | IS_EXTENDED) << 16 | (id & STANDARD_BITS) << 5
}

/// Banks that let every frame through that one of `filters` wants: those alone if they fit, else, and without a filter, every
/// frame.
pub fn banks(filters: &[Filter]) -> Vec<Bank, BANKS_MAX> {
    chosen(filters).filter(|banks| !banks.is_empty()).unwrap_or_else(|| {
        let mut banks = Vec::new();
        // There is room for one.
        let _ = banks.push(Bank::EVERYTHING);
        banks
    })
}

fn chosen(filters: &[Filter]) -> Option<Vec<Bank, BANKS_MAX>> {
    let mut banks = Vec::new();
    // A standard filter that waits for a second to share its bank.
    let mut waiting = None;
    for filter in filters {
        if filter.is_extended() {
            banks.push(Bank::extended(filter.bits())).ok()?;
        } else if let Some(first) = waiting.take() {
            banks.push(Bank::standard(first, filter.bits())).ok()?;
        } else {
            waiting = Some(filter.bits());
        }
    }
    if let Some(last) = waiting {
        banks.push(Bank::standard(last, last)).ok()?;
    }
    Some(banks)
}

/// The bits of the register BTR that make the bit rate (bit/s) from the controller's clock (Hz), sampled as near to 80 % of a
/// bit as can be (ISO 15765-4), never before; `None` where no divider gives it exactly with 8 to 21 quanta.
pub const fn bit_timing(clock_hz: u32, bitrate: u32) -> Option<u32> {
    if bitrate == 0 || !clock_hz.is_multiple_of(bitrate) {
        return None;
    }
    let cycles = clock_hz / bitrate;
    // The more quanta, the nearer the sample point.
    let mut quanta = 21;
    while quanta >= 8 {
        let prescaler = cycles / quanta;
        if cycles.is_multiple_of(quanta) && prescaler >= 1 && prescaler <= 1_024 {
            // A fifth, rounded down; the first segment then has 16 at most, as the register.
            let after = quanta / 5;
            let before = quanta - 1 - after;
            let jump = if after < 4 { after } else { 4 };
            return Some((jump - 1) << 24 | (after - 1) << 20 | (before - 1) << 16 | (prescaler - 1));
        }
        quanta -= 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit rate and sample point (thousandths of a bit) that the register means.
    fn read(clock_hz: u32, register: u32) -> (u32, u32) {
        let field = |shift: u32, bits: u32| (register >> shift & ((1 << bits) - 1)) + 1;
        let (prescaler, before, after, jump) = (field(0, 10), field(16, 4), field(20, 3), field(24, 2));
        assert!(jump <= after, "a jump beyond the sample point");
        (clock_hz / (prescaler * (1 + before + after)), (1 + before) * 1_000 / (1 + before + after))
    }

    #[test]
    fn a_bit_timing_means_its_bit_rate_and_samples_at_80_to_88_percent() {
        for clock_hz in [16_000_000, 36_000_000, 42_000_000, 45_000_000, 48_000_000] {
            for bitrate in [50_000, 100_000, 125_000, 250_000, 500_000, 1_000_000] {
                let register = bit_timing(clock_hz, bitrate).unwrap();
                let (meant, sample_point) = read(clock_hz, register);
                assert_eq!(meant, bitrate, "{clock_hz}");
                assert!((800..=880).contains(&sample_point), "{clock_hz} {bitrate}: {sample_point}");
            }
        }
    }

    #[test]
    fn a_bit_rate_without_a_divider_has_no_timing() {
        for bitrate in [0, 33_333, 83_333, 800_000 + 1, 10_000_000, u32::MAX] {
            assert_eq!(bit_timing(42_000_000, bitrate), None, "{bitrate}");
        }
    }
}
