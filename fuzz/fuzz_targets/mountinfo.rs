//! The mount table: any bytes are mounts or an error, never a panic; what is parsed has clean, absolute targets.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for mount in fvm_host::parse(bytes).unwrap_or_default() {
        assert!(fvm_model::HostPath::new(mount.target.as_path()).is_ok());
    }
});
