//! Events of a log that somebody made up, judged and put together: who made what, what is found, who started whom.
#![no_main]

use fvm_analyze::{Analysis, Settings};
use fvm_model::{Change, ChangeKind, FileType, VmPath};
use fvm_trace::codec::{Decoder, HEADER, Taken};
use fvm_trace::{Integrity, Origins};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes.strip_prefix(&HEADER).unwrap_or(bytes);
    let (mut decoder, mut origins, settings) = (Decoder::default(), Origins::default(), Settings::default());
    let mut analysis = Analysis::new(&settings);
    let mut paths = Vec::new();
    while let Taken::Record(len, event) = decoder.take(rest, "0123456789ab") {
        if let Some(event) = event {
            origins.add(&event);
            analysis.see(&event);
            paths.extend(event.path().into_iter().chain(event.to()).take(64 - paths.len().min(64)));
        }
        rest = &rest[len..];
    }
    paths.extend(VmPath::new("/a"));
    for path in paths {
        let change = Change {
            path,
            kind: ChangeKind::Created,
            file_type: FileType::File,
            base: None,
            layer: 0,
            before: None,
            after: None,
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
            origin: None,
        };
        let is_by = origins.is_by(&change, &|_| true);
        // What is somebody's alone has a maker.
        assert!(!is_by || origins.of(&change).is_some());
        analysis.change(&change, &mut |_| Some((Vec::new(), bytes.to_vec())));
    }
    let report = analysis.finish(Some(&Integrity { runs: 1, ..Integrity::default() }), false);
    let _json = serde_json::to_string(&report);
});
