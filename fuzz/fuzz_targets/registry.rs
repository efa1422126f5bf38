//! Keyed stores: any bytes are a store or an error, never a panic, and what holds for every merge holds for it.
#![no_main]
mod store_rules;

libfuzzer_sys::fuzz_target!(|sides: (u8, &[u8], &[u8], &[u8])| {
    let (which, base, vm, host) = sides;
    store_rules::check(which, [base, vm, host]);
});
