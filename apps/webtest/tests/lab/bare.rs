//! The same visit by a bare browser, without a VM: what the measurement compares with.

use super::gate::{LabGate, listen};
use fvm_webtest::devtools::{Line, LineError, Message};
use fvm_webtest::model::{Observation, Params};
use fvm_webtest::net::Plug;
use fvm_webtest::observe::har::har;
use fvm_webtest::observe::page::Watch;
use fvm_webtest::store::Store;
use fvm_webtest::visit::{Browser, USER};
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Bare {
    line: Line,
    watch: Watch,
}

impl Bare {
    fn see(line: &mut Line, watch: &mut Watch, message: &Message) {
        for command in watch.see(message) {
            line.send(command.session.as_deref(), command.method, command.params);
        }
    }

    fn ask(&mut self, of_page: bool, method: &str, params: Value) -> Result<Value, LineError> {
        let page = self.watch.page().filter(|_| of_page).map(str::to_owned);
        let watch = &mut self.watch;
        let until = Instant::now() + Duration::from_secs(20);
        self.line.ask(page.as_deref(), method, params, until, |line, message| Self::see(line, watch, &message))
    }

    fn until(&mut self, is_so: impl Fn(&Watch) -> bool) {
        while !is_so(&self.watch) {
            let until = Instant::now() + Duration::from_secs(20);
            let message = self.line.next(until).expect("the browser lives").expect("it is not silent");
            Self::see(&mut self.line, &mut self.watch, &message);
        }
    }
}

/// Visits a page as a visit does that waits for nothing; milliseconds until the browser was ready.
pub fn visit(gate: &LabGate, browser: &Browser, params: &Params, url: &str, store: &dyn Store) -> f64 {
    let began = Instant::now();
    let home = tempfile::tempdir_in("/var/tmp").expect("a directory");
    std::os::unix::fs::chown(home.path(), Some(USER), Some(USER)).expect("it is given away");
    let plug: Box<dyn Plug> = listen(gate, std::net::TcpListener::bind("127.0.0.1:0").expect("a port"), 0);
    let argv = browser.command(params, Some("measured"), &*plug);
    let place = format!("--user-data-dir={}", home.path().join("profile").display());
    let mut child = Command::new(&argv[0])
        .args(&argv[1..argv.len() - 1])
        .args([&place, "about:blank"])
        .env_clear()
        .env("HOME", home.path())
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    let pipes =
        (OwnedFd::from(child.stdin.take().expect("a pipe")), OwnedFd::from(child.stdout.take().expect("a pipe")));
    let line = Line::new(File::from(pipes.0), File::from(pipes.1), None).expect("a line");
    let mut bare = Bare { line, watch: Watch::new("nonce") };
    bare.ask(false, "Browser.getVersion", json!({})).expect("a version");
    for command in bare.watch.begin("/nonexistent") {
        bare.line.send(None, command.method, command.params);
    }
    bare.until(|watch| watch.page().is_some());
    bare.ask(true, "Page.getFrameTree", json!({})).expect("a frame");
    let ready_ms = began.elapsed().as_secs_f64() * 1000.0;
    let go = bare.watch.go(url);
    bare.line.send(go.session.as_deref(), go.method, go.params);
    bare.until(Watch::is_settled);
    let frame = json!({"frameId": bare.watch.frame(), "worldName": "bare"});
    let world = bare.ask(true, "Page.createIsolatedWorld", frame).expect("a world");
    let context = &world["executionContextId"];
    for what in ["document.title", "globalThis.all = document.documentElement.outerHTML; all.length", "all"] {
        let params = json!({"expression": what, "contextId": context, "returnByValue": true});
        let said = bare.ask(true, "Runtime.evaluate", params).expect("an answer");
        store.put(said.to_string().as_bytes()).expect("stored");
    }
    let picture = json!({"format": "jpeg", "quality": 75, "optimizeForSpeed": true});
    let shown = bare.ask(true, "Page.captureScreenshot", picture).expect("a picture");
    store.put(shown["data"].as_str().expect("data").as_bytes()).expect("stored");
    bare.ask(false, "Storage.getCookies", json!({})).expect("cookies");
    let (requests, certificates) = bare.watch.requests.into_parts();
    store.put(&har(&Observation { requests, certificates, ..Observation::default() })).expect("stored");
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("it is there");
    child.wait().expect("it has ended");
    ready_ms
}
