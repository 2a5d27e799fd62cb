//! COBS, which leaves no zero in a packet. Ours and not the `cobs` crate's, because the compiler cannot prove that crate's decoder
//! free of panics, and the dongle's image has none; the tests hold it to that crate, byte for byte.

use core::cell::Cell;

/// A block of this code holds 254 bytes, and no zero follows it.
const CODE_MAX: u8 = 0xFF;

/// Stuffs `plain` into `out` and returns the length, without a final zero; `None` where it does not fit.
pub fn encode(plain: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut code_at, mut code, mut len) = (0, 1, 1);
    for byte in plain {
        // Only now, because no block follows a full one at the end.
        if code == CODE_MAX {
            *out.get_mut(code_at)? = code;
            (code_at, code, len) = (len, 1, len + 1);
        }
        if *byte == 0 {
            *out.get_mut(code_at)? = code;
            (code_at, code, len) = (len, 1, len + 1);
        } else {
            *out.get_mut(len)? = *byte;
            (code, len) = (code + 1, len + 1);
        }
    }
    *out.get_mut(code_at)? = code;
    Some(len)
}

/// Puts what was stuffed, without its final zero, in place of it, and returns the length; `None` where a block is cut short
/// or a zero is in a block's place.
pub fn decode_in_place(bytes: &mut [u8]) -> Option<usize> {
    // What is plain is never longer than what was read of the stuffed bytes, so it overwrites none that is still to come.
    let cells = Cell::from_mut(bytes).as_slice_of_cells();
    let (mut from, mut to) = (cells.iter(), cells.iter());
    while let Some(code) = from.next() {
        let code = code.get();
        for _ in 0..code.checked_sub(1)? {
            to.next()?.set(from.next()?.get());
        }
        if code != CODE_MAX && from.len() > 0 {
            to.next()?.set(0);
        }
    }
    cells.len().checked_sub(to.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stuffed(plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; cobs::max_encoding_length(plain.len())];
        let len = encode(plain, &mut out).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn full_blocks_and_what_lies_beside_them_are_as_in_the_crate() {
        for len in 0..=1_100 {
            let mut plain = vec![1; len];
            assert_eq!(stuffed(&plain), cobs::encode_vec(&plain), "{len}");
            plain.push(0);
            assert_eq!(stuffed(&plain), cobs::encode_vec(&plain), "{len} and a zero");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for plain in [&[][..], &[0, 0], &[1, 2], &[1; 254], &[1; 255]] {
            let mut out = vec![0; stuffed(plain).len() - 1];
            assert_eq!(encode(plain, &mut out), None);
        }
    }

    #[test]
    fn a_zero_in_a_blocks_place_and_a_block_that_is_cut_short_are_refused() {
        assert_eq!(decode_in_place(&mut [2, 7, 0]), None);
        assert_eq!(decode_in_place(&mut [3, 7]), None);
        assert_eq!(decode_in_place(&mut []), Some(0));
    }

    proptest! {
        #[test]
        fn stuffing_is_that_of_the_crate_and_comes_back(
            plain in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>(), Just(1u8)], 0..700),
        ) {
            let mut out = stuffed(&plain);
            prop_assert_eq!(&out, &cobs::encode_vec(&plain));
            let len = decode_in_place(&mut out).unwrap();
            prop_assert_eq!(&out[..len], &plain[..]);
        }

        #[test]
        fn any_bytes_are_taken_or_refused_as_by_the_crate(
            bytes in proptest::collection::vec(prop_oneof![1u8..=255, 1u8..=6], 1..700),
        ) {
            let (mut ours, mut theirs) = (bytes.clone(), bytes);
            let (len, expected) = (decode_in_place(&mut ours), cobs::decode_in_place(&mut theirs).ok());
            prop_assert_eq!(len, expected);
            if let Some(len) = len {
                prop_assert_eq!(&ours[..len], &theirs[..len]);
            }
        }
    }
}
