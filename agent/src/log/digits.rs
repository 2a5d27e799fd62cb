//! Words, numbers and lengths as they stand in the lines of recordings.

use convoy_protocol::frame::{CanId, FRAME_DATA_BYTES_MAX};

use super::LineFault;

/// Digits of a fraction at most: nanoseconds.
const FRACTION_DIGITS_MAX: usize = 9;

/// How ids and data are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Hex,
    Dec,
}

/// The words of a line, between any white space.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// Digits to a number; 0 for no digits.
pub(super) fn decimal(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// `12.5` in units of 10^-`places`; digits beyond those are cut.
pub(super) fn scaled(word: &[u8], places: usize) -> Option<i64> {
    let (whole, fraction) = match word.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&word[..dot], &word[dot + 1..]),
        None if word.is_empty() => return None,
        None => (word, &b"0"[..]),
    };
    if fraction.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let kept = &fraction[..fraction.len().min(places)];
    decimal(&fraction[kept.len()..])?;
    let unit = 10i64.checked_pow(u32::try_from(places).ok()?)?;
    let scale = 10i64.checked_pow(u32::try_from(places - kept.len()).ok()?)?;
    decimal(whole)?.checked_mul(unit)?.checked_add(decimal(kept)? * scale)
}

pub(super) fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// One digit or more to a number of at most 32 bits.
pub(super) fn number(digits: &[u8], base: Base) -> Option<u32> {
    let radix = if base == Base::Hex { 16 } else { 10 };
    let value = |value: u32, digit: &u8| {
        let digit = u32::from(nibble(*digit)?);
        value.checked_mul(radix)?.checked_add((digit < radix).then_some(digit)?)
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, value) }
}

/// One byte: two hex digits, or 0 to 255.
pub(super) fn byte(word: &[u8], base: Base) -> Option<u8> {
    match (base, word.len()) {
        (Base::Hex, 2) | (Base::Dec, 1..=3) => number(word, base).and_then(|value| u8::try_from(value).ok()),
        _ => None,
    }
}

/// Exactly `len` bytes, a word each.
pub(super) fn bytes<'a>(
    words: &mut impl Iterator<Item = &'a [u8]>,
    len: usize,
    base: Base,
) -> Result<[u8; FRAME_DATA_BYTES_MAX], LineFault> {
    let mut data = [0; FRAME_DATA_BYTES_MAX];
    for slot in data.get_mut(..len).ok_or(LineFault::Length)? {
        *slot = words.next().and_then(|word| byte(word, base)).ok_or(LineFault::Bytes)?;
    }
    Ok(data)
}

/// Pairs of hex digits without anything between them; how many bytes they are, `None` for more than `out` holds.
pub(super) fn hex_pairs(digits: &[u8], out: &mut [u8]) -> Option<usize> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes = out.get_mut(..pairs.len())?;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(pairs.len())
}

/// The number of a bus, from `least` to 255.
pub(super) fn bus_number(word: &[u8], least: u8) -> Option<u8> {
    number(word, Base::Dec).and_then(|number| u8::try_from(number).ok()).filter(|number| *number >= least)
}

/// The id of so many bits; `None` where it has more.
pub(super) fn can_id(bits: u32, is_extended: bool) -> Option<CanId> {
    match u16::try_from(bits) {
        _ if is_extended => (bits <= CanId::EXTENDED_MAX).then_some(CanId::Extended(bits)),
        Ok(id) if id <= CanId::STANDARD_MAX => Some(CanId::Standard(id)),
        _ => None,
    }
}

/// A data length code: one hex digit, or 10 to 15.
pub(super) fn dlc(word: &[u8]) -> Option<u8> {
    let code = match word {
        [digit] => nibble(*digit)?,
        [b'1', digit @ b'0'..=b'5'] => digit - b'0' + 10,
        [b'0', digit @ b'0'..=b'9'] => digit - b'0',
        _ => return None,
    };
    Some(code)
}

/// Bytes in a CAN FD frame of this data length code (ISO 11898-1).
pub(super) fn fd_length(dlc: u8) -> usize {
    const BEYOND_8: [usize; 7] = [12, 16, 20, 24, 32, 48, 64];
    let dlc = usize::from(dlc);
    dlc.checked_sub(9).map_or(dlc, |beyond| BEYOND_8.get(beyond).copied().unwrap_or(FRAME_DATA_BYTES_MAX))
}

/// Bytes in a classic frame of this data length code; 9 to 15 mean 8 too.
pub(super) fn classic_length(dlc: u8) -> usize {
    usize::from(dlc.min(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_scaled_exactly_and_cut() {
        assert_eq!(scaled(b"348.161550", 6), Some(348_161_550));
        assert_eq!(scaled(b"6922.300", 3), Some(6_922_300));
        assert_eq!(scaled(b"1841", 3), Some(1_841_000));
        assert_eq!(scaled(b"0.123456789", 6), Some(123_456));
        for wrong in ["", ".", "1.", "1.1234567890", "-1.0", "1,5", "1.2.3", "99999999999999.0", "1e3"] {
            assert_eq!(scaled(wrong.as_bytes(), 6), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_stay_in_their_base_and_size() {
        assert_eq!(number(b"1FFFFFFF", Base::Hex), Some(CanId::EXTENDED_MAX));
        assert_eq!(number(b"305419896", Base::Dec), Some(0x1234_5678));
        assert_eq!((number(b"", Base::Hex), number(b"1A", Base::Dec)), (None, None));
        assert_eq!((number(b"100000000", Base::Hex), number(b"4294967296", Base::Dec)), (None, None));
        assert_eq!((byte(b"0F", Base::Hex), byte(b"255", Base::Dec)), (Some(0xF), Some(255)));
        assert_eq!([byte(b"F", Base::Hex), byte(b"0FF", Base::Hex), byte(b"256", Base::Dec)], [None; 3]);
        assert_eq!((bus_number(b"0", 0), bus_number(b"0", 1), bus_number(b"256", 0)), (Some(0), None, None));
    }

    #[test]
    fn an_id_fits_its_kind() {
        assert_eq!(can_id(0x7FF, false), Some(CanId::Standard(0x7FF)));
        assert_eq!(can_id(0x7FF, true), Some(CanId::Extended(0x7FF)));
        assert_eq!((can_id(0x800, false), can_id(0x2000_0000, true)), (None, None));
    }

    #[test]
    fn length_codes_of_both_spellings_mean_the_same_bytes() {
        assert_eq!(
            [dlc(b"0"), dlc(b"08"), dlc(b"9"), dlc(b"F"), dlc(b"15")].map(Option::unwrap),
            [0, 8, 9, 15, 15]
        );
        assert_eq!([dlc(b""), dlc(b"16"), dlc(b"40"), dlc(b"G"), dlc(b"-1")], [None; 5]);
        let lengths: Vec<usize> = (0..=16).map(fd_length).collect();
        assert_eq!(lengths, [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64, 64]);
        assert_eq!((classic_length(8), classic_length(15)), (8, 8));
    }
}
