//! Tells the linker where the memories are, for the place that the program is for, and the boot loader whose signatures it trusts.

use std::path::PathBuf;

/// What is linked: `boot`, `a` or `b`.
const PLACE: &str = "CONVOY_PLACE";
/// The public key, 64 hexadecimal digits; for `boot` only.
const KEY: &str = "CONVOY_FIRMWARE_KEY";

/// Of a slot, and of its header.
const SLOT_BYTES: u32 = 128 * 1024;
const HEADER_BYTES: u32 = 512;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={PLACE}");
    println!("cargo::rerun-if-env-changed={KEY}");
    let place = std::env::var(PLACE).unwrap_or_else(|_| "a".to_owned());
    // The layout of src/layout.rs, which says why.
    let (origin, length) = match place.as_str() {
        "boot" => (0x0800_0000, 32 * 1024),
        "a" => (0x0802_0000 + HEADER_BYTES, SLOT_BYTES - HEADER_BYTES),
        "b" => (0x0804_0000 + HEADER_BYTES, SLOT_BYTES - HEADER_BYTES),
        other => panic!("{PLACE} is {other:?}: boot, a or b"),
    };
    // The 64 KiB of CCM at 0x10000000 stay unused: the DMA cannot reach them.
    let memory = format!(
        "MEMORY\n{{\n  FLASH : ORIGIN = {origin:#010x}, LENGTH = {length}\n  RAM : ORIGIN = 0x20000000, LENGTH = 128K\n}}\n"
    );
    let folder = std::env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets OUT_DIR");
    std::fs::write(folder.join("memory.x"), memory).expect("write memory.x");
    std::fs::write(folder.join("key.rs"), key()).expect("write key.rs");
    println!("cargo::rustc-link-search={}", folder.display());
    // From cortex-m-rt; it asks for memory.x.
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
    // Pages have no meaning here; with them the linker puts its own header before a slot's image, where there is room for it.
    println!("cargo::rustc-link-arg-bins=--nmagic");
}

/// The key as an expression of Rust.
fn key() -> String {
    let Ok(key) = std::env::var(KEY) else {
        return format!("compile_error!(\"{KEY} is not set: cargo xtask firmware sets it\")");
    };
    let bytes: Option<Vec<u8>> =
        (0..key.len()).step_by(2).map(|at| u8::from_str_radix(key.get(at..at + 2)?, 16).ok()).collect();
    let bytes = bytes
        .filter(|bytes| bytes.len() == 32)
        .unwrap_or_else(|| panic!("{KEY} is not 64 hexadecimal digits"));
    format!("{bytes:?}")
}
