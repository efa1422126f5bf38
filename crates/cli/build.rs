//! Tells the linker where the program begins, before libc (`fvm_sys::first`), and to lay the functions that start a VM together:
//! `start.ld`, which `cargo xtask order` writes. With `FVM_ORDER=0` in the environment not the latter: mold, for one, takes no such
//! script.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=start.ld");
    println!("cargo::rerun-if-env-changed=FVM_ORDER");
    let is = |name: &str, wanted: &str| env::var(name).is_ok_and(|value| value == wanted);
    let is_gnu = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    // A static program that is to be moved does that in libc: what comes before it would find no constant.
    let lists = |name: &str, wanted: &str| {
        env::var(name).is_ok_and(|list| list.split([',', '\u{1f}']).any(|one| one.ends_with(wanted)))
    };
    let is_in_place =
        !lists("CARGO_CFG_TARGET_FEATURE", "crt-static") || lists("CARGO_ENCODED_RUSTFLAGS", "relocation-model=static");
    if is_gnu && is_in_place && is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        println!("cargo::rustc-link-arg-bin=fvm=-Wl,-e,fvm_begin");
    }
    // What is built for tests is linked often, and measured never.
    if !is("FVM_ORDER", "0") && is("PROFILE", "release") && is_gnu {
        let dir = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        // Not by '-Wl,', which ends at a comma of the path.
        println!("cargo::rustc-link-arg-bin=fvm=-T{dir}/start.ld");
    }
}
