//! Tells the linker where the memories of this chip are.

use std::path::PathBuf;

fn main() {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    println!("cargo::rustc-link-search={}", folder.display());
    // From cortex-m-rt; it asks for memory.x.
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
    println!("cargo::rerun-if-changed=memory.x");
    println!("cargo::rerun-if-changed=build.rs");
}
