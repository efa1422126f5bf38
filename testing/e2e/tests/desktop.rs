//! The relay to the host's desktop: what a policy passes arrives, labelled and checked, and nothing else does.
//!
//! ```text
//!   this test ── serves as a desktop would ──► a bus of its own, the "host's" ◄── relay ◄── the VM's bus ◄── gdbus
//! ```
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use zbus::wire::{OwnedVariant, Variant};
use zbus::{Connection, interface};

type Seen = Arc<Mutex<Vec<String>>>;

struct FakeNotifications(Seen);

#[interface(name = "org.freedesktop.Notifications")]
impl FakeNotifications {
    #[allow(clippy::too_many_arguments, reason = "the interface is given")]
    fn notify(
        &self,
        app: &str,
        replaces: u32,
        icon: &str,
        summary: &str,
        body: &str,
        actions: Vec<String>,
        hints: HashMap<String, OwnedVariant>,
        time: i32,
    ) -> u32 {
        let mut hints: Vec<String> =
            hints.iter().map(|(key, value)| format!("{key}={:?}", Variant::from(value.clone()))).collect();
        hints.sort();
        let call = format!("{app}|{replaces}|{icon}|{summary}|{body}|{actions:?}|{hints:?}|{time}");
        self.0.lock().unwrap().push(call);
        41
    }

    fn close_notification(&self, id: u32) {
        self.0.lock().unwrap().push(format!("close {id}"));
    }
}

struct FakePortal(Seen);

#[interface(name = "org.freedesktop.portal.OpenURI")]
impl FakePortal {
    #[zbus(name = "OpenURI")]
    fn open_uri(&self, window: &str, uri: &str, options: HashMap<String, OwnedVariant>) -> zbus::wire::OwnedObjectPath {
        let options: Vec<String> =
            options.iter().map(|(key, value)| format!("{key}={:?}", Variant::from(value.clone()))).collect();
        self.0.lock().unwrap().push(format!("open {window}|{uri}|{options:?}"));
        zbus::wire::OwnedObjectPath::try_from("/org/freedesktop/portal/desktop/request/1/secret").unwrap()
    }
}

/// Something that nobody passes.
struct FakeSystemd(Seen);

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl FakeSystemd {
    fn start_transient_unit(&self, name: &str) {
        self.0.lock().unwrap().push(format!("unit {name}"));
    }
}

/// A session bus with a desktop on it.
struct Host {
    daemon: Child,
    address: String,
    seen: Seen,
    _desktop: Connection,
}

impl Host {
    fn new(lab: &Lab) -> Self {
        let socket = lab.path("host-bus");
        let config = format!(
            "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN' \
             'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'>\n<busconfig><type>session</type>\
             <listen>unix:path={}</listen><policy context='default'><allow user='*'/><allow own='*'/>\
             <allow send_destination='*'/><allow receive_sender='*'/></policy></busconfig>",
            socket.display()
        );
        std::fs::write(lab.path("bus.conf"), config).unwrap();
        let mut command = lab.command("dbus-daemon");
        command.arg("--nofork").arg("--print-address").arg("--config-file").arg(lab.path("bus.conf"));
        let mut daemon = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        let seen = Seen::default();
        let desktop = zbus::block_on(
            zbus::connection::Builder::address(address.as_str())
                .serve_at("/org/freedesktop/Notifications", FakeNotifications(seen.clone()))
                .serve_at("/org/freedesktop/portal/desktop", FakePortal(seen.clone()))
                .serve_at("/org/freedesktop/systemd1", FakeSystemd(seen.clone()))
                .name("org.freedesktop.Notifications")
                .name("org.freedesktop.portal.Desktop")
                .name("org.freedesktop.systemd1")
                .build(),
        )
        .unwrap();
        Self { daemon, address, seen, _desktop: desktop }
    }

    /// What a script in a VM printed, and what the desktop saw of it.
    fn run(&self, lab: &Lab, options: &[&str], script: &str) -> (Ran, Vec<String>) {
        let mut words = vec!["run", "--rm", "--net", "none", "--name", "demo"];
        words.extend(options);
        words.extend(["--", "sh", "-c", script]);
        let mut command = lab.fvm_command(words);
        let ran = Ran::of(command.env("DBUS_SESSION_BUS_ADDRESS", &self.address).output().unwrap());
        (ran, std::mem::take(&mut self.seen.lock().unwrap()))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _gone = self.daemon.kill();
        let _gone = self.daemon.wait();
    }
}

const NOTIFY: &str = "gdbus call --session --dest org.freedesktop.Notifications \
    --object-path /org/freedesktop/Notifications --method org.freedesktop.Notifications.Notify";
const OPEN: &str = "gdbus call --session --dest org.freedesktop.portal.Desktop \
    --object-path /org/freedesktop/portal/desktop --method org.freedesktop.portal.OpenURI.OpenURI ''";

fn as_both(test: &str, body: impl Fn(&Lab, &Host)) {
    if !is_root(test) {
        return;
    }
    if ["/usr/bin/dbus-daemon", "/usr/bin/gdbus"].iter().any(|p| !std::path::Path::new(p).exists()) {
        eprintln!("skipped: {test}: dbus-daemon or gdbus (Debian: libglib2.0-bin) is not installed");
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        body(&lab, &Host::new(&lab));
    }
}

#[test]
fn root_and_user_a_notification_arrives_labelled_and_tame_needs_gdbus() {
    as_both("root_and_user_a_notification_arrives_labelled_and_tame_needs_gdbus", |lab, host| {
        let wild = format!(
            "{NOTIFY} Bank 999 /etc/passwd 'Your bank' '<img src=\"file:///x\"/>& more' '[\"a\", \"b\"]' \
             '{{\"urgency\": <byte 2>, \"image-path\": <\"/etc/passwd\">, \"sound-file\": <\"/x\">}}' 600000"
        );
        let close = "gdbus call --session --dest org.freedesktop.Notifications \
            --object-path /org/freedesktop/Notifications --method org.freedesktop.Notifications.CloseNotification";
        let again = format!("{NOTIFY} x 41 '' again '' '[]' '{{}}' 0");
        let script = format!("{close} 41; {wild}; {again}; {close} 41; {close} 7");
        let (ran, seen) = host.run(lab, &["--dbus", "notifications"], &script);
        let first = "fvm|0||[VM demo] Your bank|&lt;img src=\"file:///x\"/&gt;&amp; more|[]|[\"urgency=U8(1)\"]|30000";
        let second = "fvm|41||[VM demo] again||[]|[\"urgency=U8(1)\"]|-1";
        assert_eq!(seen, [first, second, "close 41"], "{} {}", ran.out, ran.err);
        assert!(ran.out.contains("(uint32 41,)"), "{}", ran.out);

        let flood = format!("for i in $(seq 30); do {NOTIFY} x 0 '' $i '' '[]' '{{}}' 0; done");
        let (ran, seen) = host.run(lab, &["--dbus", "notifications"], &flood);
        assert!(seen.len() < 25 && ran.err.contains("LimitsExceeded"), "{} {}", seen.len(), ran.err);
    });
}

#[test]
fn root_and_user_only_web_addresses_are_opened_and_only_after_asking_needs_gdbus() {
    as_both("root_and_user_only_web_addresses_are_opened_and_only_after_asking_needs_gdbus", |lab, host| {
        let script = format!(
            "{OPEN} https://example.org/a '{{\"ask\": <false>}}'; {OPEN} file:///etc/passwd '{{}}'; {OPEN} 'https://a b' '{{}}'"
        );
        let (ran, seen) = host.run(lab, &["--dbus", "open-uri"], &script);
        assert_eq!(seen, ["open |https://example.org/a|[\"ask=Bool(true)\"]"], "{} {}", ran.out, ran.err);
        assert!(
            !ran.out.contains("secret") && ran.err.contains("only http, https and mailto"),
            "{} {}",
            ran.out,
            ran.err
        );
    });
}

#[test]
fn root_and_user_nothing_else_reaches_the_hosts_bus_needs_gdbus() {
    as_both("root_and_user_nothing_else_reaches_the_hosts_bus_needs_gdbus", |lab, host| {
        let unit = "gdbus call --session --dest org.freedesktop.systemd1 --object-path /org/freedesktop/systemd1 \
            --method org.freedesktop.systemd1.Manager.StartTransientUnit x";
        // By name, and by way of the relay itself.
        let through =
            "--object-path /org/freedesktop/systemd1 --method org.freedesktop.systemd1.Manager.StartTransientUnit x";
        let script = format!(
            "{unit}; gdbus call --session --dest org.freedesktop.Notifications {through}; \
             python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); print('CONNECTED')\"; \
             {OPEN} https://example.org '{{}}'; echo END",
            lab.path("host-bus").display()
        );
        let (ran, seen) = host.run(lab, &["--dbus", "notifications"], &script);
        assert!(ran.out.ends_with("END\n") && !ran.out.contains("CONNECTED"), "{} {}", ran.out, ran.err);
        assert_eq!(seen, Vec::<String>::new());

        // Nothing is passed unless it is asked for.
        let (ran, seen) = host.run(lab, &[], &format!("{NOTIFY} x 0 '' x '' '[]' '{{}}' 0; {OPEN} https://x '{{}}'"));
        assert_eq!(seen, Vec::<String>::new(), "{} {}", ran.out, ran.err);

        // A bus that is not there is said.
        let ran = lab.fvm(["run", "--rm", "--net", "none", "--dbus", "notifications", "--", "echo", "ran"]).expect(0);
        assert!(ran.out == "ran\n" && ran.err.contains("DBUS_SESSION_BUS_ADDRESS is not set"), "{}", ran.err);
        let ran = lab.fvm(["run", "--rm", "--dbus", "notification", "--", "true"]).expect(2);
        assert!(ran.err.contains("did you mean 'notifications'?"), "{}", ran.err);
    });
}
