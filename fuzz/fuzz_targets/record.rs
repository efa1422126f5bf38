//! vm.json: any bytes are a record or an error; a record survives being written and read again.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(id) = "0123456789ab".parse() else { return };
    if let Ok(record) = fvm_vm::home::parse_record(bytes, &id) {
        let text = serde_json::to_vec(&record).expect("a record can be written");
        assert_eq!(fvm_vm::home::parse_record(&text, &id), Ok(record));
    }
});
