//! A real clamd, with a database of our own: no signature is downloaded. Skipped, with the reason, where clamd is not installed.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// EICAR's test string, in two halves: this file is no test file of theirs.
const EICAR: (&str, &str) = (r"X5O!P%@AP[4\PZX54(P^)7CC)7}$", "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*");

/// A clamd that is ours, and ends with the test.
struct Clamd {
    child: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Clamd {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Starts one, or says why not.
fn clamd(test: &str) -> Option<Clamd> {
    let program =
        ["/usr/sbin/clamd", "/usr/local/sbin/clamd", "/usr/bin/clamd"].into_iter().find(|p| Path::new(p).exists());
    let Some(program) = program else {
        eprintln!("skipped: {test}: clamd is not installed (Debian: clamav-daemon)");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("db");
    std::fs::create_dir(&database).unwrap();
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    // Name:type (0: any):offset (*: anywhere):bytes.
    let signature = format!("Fvm.Own.Eicar:0:*:{}{}\n", hex(EICAR.0), hex(EICAR.1));
    std::fs::write(database.join("own.ndb"), signature).unwrap();
    let socket = dir.path().join("clamd.sock");
    let log = dir.path().join("log");
    let text = format!(
        "DatabaseDirectory {}\nLocalSocket {}\nForeground yes\nLogFile {}\nStreamMaxLength 1M\nUser root\n",
        database.display(),
        socket.display(),
        log.display()
    );
    let config = dir.path().join("clamd.conf");
    std::fs::write(&config, text).unwrap();
    let child =
        Command::new(program).arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let clamd = Clamd { child, socket, _dir: dir };
    let began = Instant::now();
    while std::os::unix::net::UnixStream::connect(&clamd.socket).is_err() {
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(began.elapsed() < Duration::from_secs(60), "clamd does not come up: {}", said());
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(clamd)
}

#[test]
fn clamd_root_names_malware_of_a_vm_and_what_it_cannot_scan_is_a_gap() {
    let test = "clamd_root_names_malware_of_a_vm_and_what_it_cannot_scan_is_a_gap";
    if !fvm_kit::is_root(test) {
        return;
    }
    let Some(clamd) = clamd(test) else { return };
    let lab = Lab::new(User::Root);
    let socket = clamd.socket.to_str().unwrap().to_owned();
    let analysed = |vm: &str| {
        let ran = lab.fvm(["analyze", vm, "--json", "--clamd", &socket]);
        (serde_json::from_str::<Value>(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.err)), ran.code)
    };
    lab.fvm(["run", "--keep", "--name", "good", "--", "sh", "-c", "echo good > good"]).expect(0);
    let (report, code) = analysed("good");
    assert_eq!((&report["verdict"], code), (&"clean".into(), 0), "{report}");

    // Put together in the VM; deep in a file too, beyond one piece of the stream.
    let script = format!(
        "printf '%s%s' '{0}' '{1}' > evil; head -c 200000 /dev/zero > deep; printf '%s%s' '{0}' '{1}' >> deep; echo good > good",
        EICAR.0, EICAR.1
    );
    lab.fvm(["run", "--keep", "--name", "bad", "--", "sh", "-c", &script]).expect(0);
    let (report, code) = analysed("bad");
    assert_eq!((&report["verdict"], code), (&"malicious".into(), 5), "{report}");
    let findings = report["findings"].as_array().unwrap();
    let malware: Vec<&Value> = findings.iter().filter(|finding| finding["id"] == "known-malware").collect();
    let paths: Vec<&str> =
        malware.iter().flat_map(|f| f["paths"].as_array().unwrap()).map(|path| path.as_str().unwrap()).collect();
    assert!(paths.iter().any(|path| path.ends_with("/evil")), "{report}");
    assert!(paths.iter().any(|path| path.ends_with("/deep")) && !paths.iter().any(|path| path.ends_with("/good")));
    assert!(malware[0]["what"].as_str().unwrap().contains("Fvm.Own.Eicar"), "{report}");

    // Longer than this clamd takes: nobody may call that clean.
    lab.fvm(["run", "--keep", "--name", "long", "--", "sh", "-c", "head -c 3000000 /dev/zero > long"]).expect(0);
    let (report, code) = analysed("long");
    assert_eq!((&report["verdict"], code), (&"unknown".into(), 6), "{report}");
    drop(clamd);
    let gone = lab.fvm(["analyze", "good", "--clamd", &socket]);
    assert!(gone.code != 0 && gone.err.contains("clamd"), "{}", gone.err);
}
