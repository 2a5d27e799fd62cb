//! The vehicle identification number: compared inside the vehicle, never sent.

use std::fmt;

/// Characters of a VIN.
pub const VIN_LEN: usize = 17;

/// A VIN by ISO 3779: 17 digits and capital letters without I, O and Q.
///
/// It is personal data: it has no `Display`, its `Debug` shows no character, and no output of the core holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Vin([u8; VIN_LEN]);

/// Why a text is not a VIN. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseVinError {
    /// Wrong number of characters.
    #[error("a VIN has {VIN_LEN} characters, got {0}")]
    Length(usize),
    /// A character that ISO 3779 does not allow.
    #[error("character {0} of the VIN is not a digit or a capital letter other than I, O and Q")]
    Character(usize),
}

impl Vin {
    /// Reads 17 ASCII bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseVinError> {
        let vin: [u8; VIN_LEN] = bytes.try_into().map_err(|_| ParseVinError::Length(bytes.len()))?;
        let allowed = |byte: &u8| matches!(byte, b'0'..=b'9' | b'A'..=b'Z') && !b"IOQ".contains(byte);
        match vin.iter().position(|byte| !allowed(byte)) {
            Some(at) => Err(ParseVinError::Character(at + 1)),
            None => Ok(Self(vin)),
        }
    }
}

impl std::str::FromStr for Vin {
    type Err = ParseVinError;
    fn from_str(text: &str) -> Result<Self, ParseVinError> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Debug for Vin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vin(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vin_has_17_allowed_characters_and_prints_none_of_them() {
        let text = "X".repeat(VIN_LEN);
        let vin: Vin = text.parse().unwrap();
        assert_eq!(format!("{vin:?}"), "Vin(..)");
        assert_eq!("X".repeat(16).parse::<Vin>(), Err(ParseVinError::Length(16)));
        assert_eq!(text.replacen('X', "O", 1).parse::<Vin>(), Err(ParseVinError::Character(1)));
        assert_eq!(text.to_lowercase().parse::<Vin>(), Err(ParseVinError::Character(1)));
    }
}
