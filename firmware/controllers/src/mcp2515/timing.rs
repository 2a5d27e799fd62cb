//! Bit timing of the MCP2515 (data sheet DS20001801, chapter 5).

use mcp25xx::registers::CNF;

/// The crystal at the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crystal {
    /// 8 MHz; too slow for 1 Mbit/s.
    Mhz8,
    /// 16 MHz.
    Mhz16,
}

impl Crystal {
    /// Its frequency, Hz.
    pub const fn hz(self) -> u32 {
        match self {
            Self::Mhz8 => 8_000_000,
            Self::Mhz16 => 16_000_000,
        }
    }
}

/// Sampled once and behind 13 of 16 quanta (81 %): ISO 15765-4 wants 80 %. The tables of `mcp25xx` sample three times and at 56
/// to 63 %, too early for the cable of a test beside a running vehicle.
const SIXTEEN_QUANTA: Segments = Segments { propagation: 5, phase_1: 7, phase_2: 3, jump: 2 };
/// Behind 6 of 8 quanta (75 %): the second phase has 2 at least.
const EIGHT_QUANTA: Segments = Segments { propagation: 2, phase_1: 3, phase_2: 2, jump: 1 };

/// Parts of a bit in quanta, behind the one that synchronises.
struct Segments {
    propagation: u8,
    phase_1: u8,
    phase_2: u8,
    jump: u8,
}

/// The three registers for a bit rate, bit/s; `None` where it has no divider, or too few quanta.
pub(super) const fn timing(crystal: Crystal, bitrate: u32) -> Option<CNF> {
    if bitrate == 0 || !crystal.hz().is_multiple_of(bitrate) {
        return None;
    }
    // A quantum is twice the crystal's period, times the prescaler.
    match crystal.hz() / bitrate {
        16 => Some(registers(&EIGHT_QUANTA, 1)),
        32 => Some(registers(&SIXTEEN_QUANTA, 1)),
        64 => Some(registers(&SIXTEEN_QUANTA, 2)),
        128 => Some(registers(&SIXTEEN_QUANTA, 4)),
        _ => None,
    }
}

/// Each field is one less than what it says.
const fn registers(segments: &Segments, prescaler: u8) -> CNF {
    const PHASE_2_IS_SET: u8 = 1 << 7;
    let Segments { propagation, phase_1, phase_2, jump } = segments;
    let cnf1 = (*jump - 1) << 6 | (prescaler - 1);
    let cnf2 = PHASE_2_IS_SET | (*phase_1 - 1) << 3 | (*propagation - 1);
    CNF::from_bytes([*phase_2 - 1, cnf2, cnf1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit rate and sample point (thousandths of a bit) that the registers mean, by the data sheet's fields.
    fn read(crystal: Crystal, cnf: CNF) -> (u32, u32) {
        let [cnf3, cnf2, cnf1] = cnf.into_bytes().map(u32::from);
        let field = |byte: u32, shift: u32, bits: u32| (byte >> shift & ((1 << bits) - 1)) + 1;
        let (prescaler, jump) = (field(cnf1, 0, 6), field(cnf1, 6, 2));
        let (propagation, phase_1, phase_2) = (field(cnf2, 0, 3), field(cnf2, 3, 3), field(cnf3, 0, 3));
        assert_eq!((cnf2 >> 7, cnf2 >> 6 & 1), (1, 0), "phase 2 is set, sampled once");
        assert!(propagation + phase_1 >= phase_2 && phase_2 >= 2 && phase_2 > jump, "the data sheet's rules");
        let quanta = 1 + propagation + phase_1 + phase_2;
        assert!((8..=25).contains(&quanta), "{quanta}");
        (crystal.hz() / (2 * prescaler * quanta), (1 + propagation + phase_1) * 1_000 / quanta)
    }

    #[test]
    fn registers_mean_the_bit_rate_and_sample_at_75_to_82_percent() {
        for crystal in [Crystal::Mhz8, Crystal::Mhz16] {
            for bitrate in [125_000, 250_000, 500_000, 1_000_000] {
                let Some(cnf) = timing(crystal, bitrate) else {
                    assert_eq!((crystal, bitrate), (Crystal::Mhz8, 1_000_000));
                    continue;
                };
                let (meant, sample_point) = read(crystal, cnf);
                assert_eq!(meant, bitrate);
                assert!((750..=820).contains(&sample_point), "{crystal:?} {bitrate}: {sample_point}");
            }
        }
    }

    #[test]
    fn a_bit_rate_without_a_divider_has_no_registers() {
        for bitrate in [0, 1, 33_333, 83_333, 333_333, 800_000, 2_000_000, 8_000_000, u32::MAX] {
            assert!(timing(Crystal::Mhz16, bitrate).is_none(), "{bitrate}");
        }
    }
}
