//! Tells the linker where the memories are, for the place that the program is for.

use std::path::PathBuf;

/// What is linked: `boot`, `a` or `b`.
const PLACE: &str = "CONVOY_PLACE";

/// Of a slot, its header included.
const SLOT_BYTES: u32 = 25 * 1024;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={PLACE}");
    let place = std::env::var(PLACE).unwrap_or_else(|_| "a".to_owned());
    // The layout of src/layout.rs, which says why.
    let (origin, length) = match place.as_str() {
        "boot" => (0x0000_0000, 32 * 1024),
        "a" => (0x2000_3A00, SLOT_BYTES - 512),
        "b" => (0x2000_9E00, SLOT_BYTES - 512),
        other => panic!("{PLACE} is {other:?}: boot, a or b"),
    };
    let memory = format!(
        "MEMORY\n{{\n  FLASH : ORIGIN = {origin:#010x}, LENGTH = {length}\n  RAM : ORIGIN = 0x20000040, LENGTH = 0x37C0\n}}\n"
    );
    let folder = std::env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets OUT_DIR");
    std::fs::write(folder.join("memory.x"), memory).expect("write memory.x");
    println!("cargo::rustc-link-search={}", folder.display());
    // From cortex-m-rt; it asks for memory.x.
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
}
