//! The wire, version by version: bytes that are in the field for ever, and what readers do with damaged ones.
#![cfg(all(feature = "alloc", feature = "zstd"))]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod damage;
mod link_v01;
mod link_v01_firmware;
mod v01;

/// The bytes of hex texts, one after the other.
fn bytes(parts: &[&str]) -> Vec<u8> {
    let digits = parts.concat();
    assert!(digits.len().is_multiple_of(2), "half a byte in {digits}");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
