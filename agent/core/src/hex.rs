//! Bytes written as hexadecimal digits, two a byte, of either case: in configurations, signal sets, and by adapters.

/// The value of one digit, 0 to 15; `None` for any other byte.
pub fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The bytes of a text; `None` where it has anything but digits, or an odd number of them.
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(nibble(*high)? << 4 | nibble(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_bytes_are_read_and_nothing_else() {
        assert_eq!(bytes("7f0A"), Some(vec![0x7F, 0x0A]));
        assert_eq!(bytes(""), Some(Vec::new()));
        for text in ["7", "7F0", "7G", "+1", " 7", "\u{e9}"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
