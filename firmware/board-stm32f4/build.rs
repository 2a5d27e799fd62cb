//! Tells the linker where the memories are, for the place that the program is for.

use std::path::PathBuf;

/// What is linked: `boot`, `a` or `b`.
const PLACE: &str = "CONVOY_PLACE";

/// Of a slot, and of its header.
const SLOT_BYTES: u32 = 128 * 1024;
const HEADER_BYTES: u32 = 512;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={PLACE}");
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
    println!("cargo::rustc-link-search={}", folder.display());
    // From cortex-m-rt; it asks for memory.x.
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
    // Pages have no meaning here; with them the linker puts its own header before a slot's image, where there is room for it.
    println!("cargo::rustc-link-arg-bins=--nmagic");
}
