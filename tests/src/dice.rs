//! Numbers that a seed makes.

/// SplitMix64: a crate's generator may be another in its next version, and a seed that was printed would mean something else.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed makes the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub const fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.any() % end
    }

    /// A number from `from` on, below `end`.
    pub const fn between(&mut self, from: u64, end: u64) -> u64 {
        from + self.below(end - from)
    }

    /// Any byte.
    pub const fn byte(&mut self) -> u8 {
        self.any().to_le_bytes()[0]
    }

    /// True so many times in a thousand.
    pub const fn is_hit(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }
}
