//! Overlay's notes on the entries of a hostile layer: a redirect that is believed stays in the layer.
#![no_main]
use fvm_changes::overlay::{Origin, Redirect, parse_origin, parse_redirect};
use std::os::unix::ffi::OsStrExt;
use std::path::Component;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match parse_redirect(bytes) {
        Some(Redirect::FromRoot(path)) => {
            assert!(path.components().all(|c| matches!(c, Component::Normal(_))), "{path:?}");
            assert_eq!([b"/", path.as_os_str().as_bytes()].concat(), bytes, "it says what it said");
        }
        Some(Redirect::Sibling(name)) => {
            assert!(!name.is_empty() && name != "." && name != ".." && !name.as_bytes().contains(&b'/'), "{name:?}");
        }
        None => {}
    }
    if let Origin::Handle(handle) = parse_origin(bytes) {
        assert!(!handle.bytes.is_empty() && handle.bytes.len() < bytes.len());
    }
});
