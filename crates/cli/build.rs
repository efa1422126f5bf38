//! Tells the linker to lay the functions that start a VM together: `start.ld`, which `cargo xtask order` writes.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=start.ld");
    let is = |name: &str, wanted: &str| env::var(name).is_ok_and(|value| value == wanted);
    // What is built for tests is linked often, and measured never.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        let dir = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bin=fvm=-Wl,-T,{dir}/start.ld");
    }
}
