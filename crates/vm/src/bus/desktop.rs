//! What the relay serves on a VM's session bus, and what it asks of the host's in return.
//!
//! ```text
//!   Notify(app, replaces, icon, title, body, actions, hints, time)
//!     └─► Notify("fvm", own id or 0, "", "[VM demo] title", body without markup, none, urgency at most normal, ≤ 30 s)
//!   OpenURI(window, uri, options)
//!     └─► http, https, mailto only: OpenURI("", uri, {ask: true}): the host's user is asked
//! ```
//!
//! Invariants: texts are bounded and have neither markup nor control characters; a VM closes or replaces only its own
//! notifications; calls beyond a rate are refused.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use zbus::wire::{OwnedObjectPath, Variant};
use zbus::{Connection, fdo, interface};

/// Longest title, in characters.
const TITLE_MAX: usize = 120;
/// Longest text, in characters.
const BODY_MAX: usize = 1000;
/// Longest address, in bytes.
const URI_MAX_BYTES: usize = 2048;
/// Longest time that a notification stays.
const SHOWN_MAX_MS: i32 = 30_000;
/// So many notifications are remembered as the VM's own.
const OWN_MAX: usize = 256;

/// What is put before everything that a VM shows.
pub(super) fn label(vm: &str) -> String {
    format!("[VM {vm}]")
}

/// `text` in one or more lines that are only text.
fn plain(text: &str, max: usize, lines: bool) -> String {
    let tame = |c: char| match c {
        '\n' if lines => '\n',
        // What moves the cursor or turns text around.
        c if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
        {
            ' '
        }
        c => c,
    };
    text.chars().take(max).map(tame).collect()
}

/// The same for a place where servers read markup.
fn unmarked(text: &str) -> String {
    let mut out = String::new();
    for c in plain(text, BODY_MAX, true).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

/// Why an address is not opened; `None` when it is.
fn unwanted(uri: &str) -> Option<String> {
    let known = ["http://", "https://", "mailto:"];
    if uri.len() > URI_MAX_BYTES {
        return Some(format!("the address is longer than {URI_MAX_BYTES} bytes"));
    }
    if !uri.bytes().all(|b| b.is_ascii_graphic()) {
        return Some("the address has characters that no address has".into());
    }
    let starts = |scheme: &&str| uri.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    (!known.iter().any(starts)).then(|| "only http, https and mailto are opened".into())
}

/// How often: `burst` at once, then one in `each`.
#[derive(Debug)]
struct Rate {
    burst: u32,
    each: Duration,
    state: Mutex<(u32, Instant)>,
}

impl Rate {
    fn new(burst: u32, each: Duration) -> Self {
        Self { burst, each, state: Mutex::new((burst, Instant::now())) }
    }

    fn take(&self, now: Instant) -> fdo::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = *state;
        let more = now.saturating_duration_since(since).as_nanos() / self.each.as_nanos().max(1);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let (left, since) = if left.saturating_add(more) >= self.burst {
            (self.burst, now)
        } else {
            (left + more, since + self.each * more)
        };
        *state = (left.saturating_sub(1), since);
        if left == 0 { Err(fdo::Error::LimitsExceeded("too many; wait a little".into())) } else { Ok(()) }
    }
}

/// `org.freedesktop.Notifications` for a VM.
#[derive(Debug)]
pub(super) struct Notifications {
    label: String,
    host: Connection,
    own: Mutex<BTreeSet<u32>>,
    rate: Rate,
}

const NOTIFICATIONS: &str = "org.freedesktop.Notifications";
const NOTIFICATIONS_AT: &str = "/org/freedesktop/Notifications";

impl Notifications {
    pub(super) fn new(label: String, host: Connection) -> Self {
        Self { label, host, own: Mutex::default(), rate: Rate::new(5, Duration::from_secs(1)) }
    }

    fn is_own(&self, id: u32) -> bool {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn remember(&self, id: u32) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() >= OWN_MAX {
            // Servers count upwards.
            own.pop_first();
        }
        own.insert(id);
    }
}

#[interface(name = "org.freedesktop.Notifications")]
impl Notifications {
    #[allow(clippy::too_many_arguments, reason = "the interface is given")]
    async fn notify(
        &self,
        _app_name: &str,
        replaces_id: u32,
        _app_icon: &str,
        summary: &str,
        body: &str,
        _actions: Vec<&str>,
        hints: HashMap<&str, Variant<'_>>,
        expire_timeout: i32,
    ) -> fdo::Result<u32> {
        self.rate.take(Instant::now())?;
        let title = format!("{} {}", self.label, plain(summary, TITLE_MAX, false));
        let urgency = match hints.get("urgency") {
            Some(Variant::U8(0)) => 0u8,
            _ => 1,
        };
        let hints = HashMap::from([("urgency", Variant::U8(urgency))]);
        let replaces = if self.is_own(replaces_id) { replaces_id } else { 0 };
        let none: Vec<&str> = Vec::new();
        let time = if expire_timeout <= 0 { -1 } else { expire_timeout.min(SHOWN_MAX_MS) };
        let call = ("fvm", replaces, "", title.as_str(), unmarked(body), none, hints, time);
        let reply = self
            .host
            .call_method(Some(NOTIFICATIONS), NOTIFICATIONS_AT, Some(NOTIFICATIONS), "Notify", &call)
            .await
            .map_err(refused)?;
        let id: u32 = reply.body().deserialize().map_err(refused)?;
        self.remember(id);
        Ok(id)
    }

    async fn close_notification(&self, id: u32) -> fdo::Result<()> {
        self.rate.take(Instant::now())?;
        if self.is_own(id) {
            self.host
                .call_method(Some(NOTIFICATIONS), NOTIFICATIONS_AT, Some(NOTIFICATIONS), "CloseNotification", &id)
                .await
                .map_err(refused)?;
        }
        Ok(())
    }

    fn get_capabilities(&self) -> Vec<&'static str> {
        vec!["body"]
    }

    fn get_server_information(&self) -> (&'static str, &'static str, &'static str, &'static str) {
        ("fvm", "fvm", env!("CARGO_PKG_VERSION"), "1.2")
    }
}

/// `org.freedesktop.portal.OpenURI` for a VM.
#[derive(Debug)]
pub(super) struct OpenUri {
    host: Connection,
    rate: Rate,
}

impl OpenUri {
    pub(super) fn new(host: Connection) -> Self {
        Self { host, rate: Rate::new(3, Duration::from_secs(5)) }
    }
}

#[interface(name = "org.freedesktop.portal.OpenURI")]
impl OpenUri {
    #[zbus(name = "OpenURI")]
    async fn open_uri(
        &self,
        _parent_window: &str,
        uri: &str,
        _options: HashMap<&str, Variant<'_>>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.rate.take(Instant::now())?;
        if let Some(why) = unwanted(uri) {
            return Err(fdo::Error::InvalidArgs(why));
        }
        let options = HashMap::from([("ask", Variant::Bool(true))]);
        let (desktop, at) = ("org.freedesktop.portal.Desktop", "/org/freedesktop/portal/desktop");
        let portal = Some("org.freedesktop.portal.OpenURI");
        self.host.call_method(Some(desktop), at, portal, "OpenURI", &("", uri, options)).await.map_err(refused)?;
        // The host's request is none of the VM's business: what its user chose is not told.
        OwnedObjectPath::try_from("/org/freedesktop/portal/desktop/request/fvm/1").map_err(refused)
    }

    #[zbus(property, name = "version")]
    fn version(&self) -> u32 {
        1
    }
}

/// The host's answer is not passed on: it may name programs and files.
fn refused<E>(_why: E) -> fdo::Error {
    fdo::Error::Failed("the host's desktop did not do it".into())
}

#[cfg(test)]
mod tests {
    use super::{BODY_MAX, Rate, plain, unmarked, unwanted};
    use std::time::{Duration, Instant};

    #[test]
    fn texts_are_only_text() {
        assert_eq!(plain("a\x1b[31mb\nc\u{202e}d", 99, false), "a [31mb c d");
        assert_eq!(plain("a\nb", 99, true), "a\nb");
        assert_eq!(plain("ääää", 2, false), "ää");
        assert_eq!(unmarked("<img src='file:///x'>&"), "&lt;img src='file:///x'&gt;&amp;");
        assert_eq!(unmarked(&"x".repeat(5000)).len(), BODY_MAX);
    }

    #[test]
    fn only_web_and_mail_addresses_are_opened() {
        for good in ["https://example.org/a?b#c", "HTTP://x", "mailto:a@b"] {
            assert_eq!(unwanted(good), None, "{good}");
        }
        for bad in [
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http:/x",
            "ssh://x",
            "",
            "https://a b",
            "https://ä",
            "https://x\n--help",
            "-h",
            "data:text/html,x",
            "vnc://x",
            "smb://x/y",
        ] {
            assert!(unwanted(bad).is_some(), "{bad}");
        }
        assert!(unwanted(&format!("https://{}", "x".repeat(4000))).is_some());
    }

    #[test]
    fn a_burst_then_one_in_a_while() {
        let rate = Rate::new(2, Duration::from_secs(5));
        let start = Instant::now() + Duration::from_secs(60);
        let at = |secs: u64| rate.take(start + Duration::from_secs(secs)).is_ok();
        assert_eq!([at(0), at(0), at(0), at(4), at(6), at(6), at(100)], [true, true, false, false, true, false, true]);
    }
}
