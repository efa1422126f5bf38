//! Keyed stores: any bytes are a store or an error, never a panic; what a merge writes is read again, and merging the
//! VM's version into an unchanged host gives the VM's keys.
#![no_main]
use fvm_registry::{OnKeyConflict, Registry};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|sides: (u8, &[u8], &[u8], &[u8])| {
    let (which, base, vm, host) = sides;
    let (registry, path): (&dyn Registry, &str) = match which % 4 {
        0 => (&fvm_registry::accounts::Accounts, "/etc/passwd"),
        1 => (&fvm_registry::accounts::Accounts, "/etc/group"),
        2 => (&fvm_registry::wine::Wine, "/home/u/.wine/user.reg"),
        _ => (&fvm_registry::dconf::Dconf, "/home/u/.config/dconf/user"),
    };
    let path = Path::new(path);
    let _shown = registry.diff(path, base, vm);
    for on in [OnKeyConflict::Fail, OnKeyConflict::Vm, OnKeyConflict::Host] {
        let Ok(merged) = registry.merge(path, base, vm, host, None, on) else { continue };
        registry.diff(path, host, &merged.bytes).expect("what was written can be read");
    }
});
