//! Names from a VM: whatever the bytes, what is printed cannot move the cursor.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(!fvm_model::path::printable(bytes).chars().any(char::is_control));
});
