//! The browser of a tier: its file, its arguments, what it is called.
//!
//! ```text
//!   sh: makes its streams descriptors 3 and 4, and becomes
//!   /usr/lib/chromium/chromium-headless-shell  lean flags  --remote-debugging-pipe  --user-data-dir=<HOME>/profile
//! ```
//!
//! Invariants: the browser's own sandbox is never switched off; it opens no port; all that it asks of the net goes to the proxy, what
//! is meant for its own loopback too.

use crate::model::{Params, Tier};
use crate::net::Plug;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Home of the browser's user in a VM.
pub const HOME: &str = "/tmp/fvm-visit";
/// Where downloads are put, in a VM.
pub const DOWNLOADS: &str = "/tmp/fvm-visit/downloads";

/// Where browsers are looked for, and the package of Debian's that has them.
const PLACES: [(Tier, &[&str], &str); 2] = [
    (Tier::Shell, &["/usr/lib/chromium/chromium-headless-shell"], "chromium-headless-shell"),
    (Tier::Full, &["/usr/lib/chromium/chromium", "/opt/google/chrome/chrome"], "chromium"),
];

/// Its input and output are pipes that become the descriptors 3 and 4, on which the browser is talked to.
pub const BEGIN: &str = "exec 3<&0 4>&1 </dev/null >/dev/null; exec \"$@\"";

/// The arguments that make it small and keep it from what nobody asked for.
const LEAN: &[&str] = &[
    "--remote-debugging-pipe",
    "--in-process-gpu",
    "--disable-software-rasterizer",
    "--renderer-process-limit=2",
    "--enable-features=NetworkServiceInProcess2",
    "--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider,InterestFeedContentSuggestions",
    "--disable-blink-features=AutomationControlled",
    "--disable-quic",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--proxy-bypass-list=<-loopback>",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--disable-background-networking",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--disable-breakpad",
    "--metrics-recording-only",
    "--password-store=basic",
    "--use-mock-keychain",
    "--mute-audio",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
];

/// A browser is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no browser at {place}: install the package '{package}'")]
pub struct Missing {
    /// Where it was looked for.
    pub place: String,
    /// The package that has it.
    pub package: &'static str,
}

/// A browser that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Browser {
    /// Which.
    pub tier: Tier,
    /// Its file.
    pub file: PathBuf,
    /// Variables that it gets beside the usual ones.
    pub env: Vec<(OsString, OsString)>,
}

impl Browser {
    /// The browser of `tier`, which is not [`Tier::Auto`], where this system has it.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn find(tier: Tier) -> Result<Self, Missing> {
        let (_, places, package) = PLACES[usize::from(tier == Tier::Full)];
        match places.iter().find(|place| Path::new(place).is_file()) {
            Some(place) => Ok(Self { tier, file: (*place).into(), env: Vec::new() }),
            None => Err(Missing { place: places.join(" or "), package }),
        }
    }

    /// What is executed in the VM. `user_agent`: what it calls itself.
    #[must_use]
    pub fn command(&self, params: &Params, user_agent: Option<&str>, plug: &dyn Plug) -> Vec<OsString> {
        let mut argv: Vec<OsString> = ["/bin/sh", "-c", BEGIN, "sh"].map(Into::into).into();
        argv.push(self.file.clone().into());
        argv.extend(self.flags(params).into_iter().map(Into::into));
        argv.push(format!("--user-data-dir={HOME}/profile").into());
        argv.extend(user_agent.map(|agent| format!("--user-agent={agent}").into()));
        argv.push(format!("--proxy-server={}", plug.proxy()).into());
        let keys = plug.keys();
        if !keys.is_empty() {
            argv.push(format!("--ignore-certificate-errors-spki-list={}", keys.join(",")).into());
        }
        argv.push("about:blank".into());
        argv
    }

    /// Its arguments, as far as they decide what it does by itself: with its version they name a baseline.
    #[must_use]
    pub fn flags(&self, params: &Params) -> Vec<String> {
        let mut flags: Vec<String> = LEAN.iter().map(|flag| (*flag).to_owned()).collect();
        if self.tier == Tier::Full {
            flags.push("--headless=new".into());
            // The shell blocks none either: what a page opens is watched, and counted.
            flags.push("--disable-popup-blocking".into());
        }
        let (width, height) = params.viewport;
        flags.push(format!("--window-size={width},{height}"));
        flags
    }

    /// What a person's browser of this version calls itself. `version`: what `--version` printed.
    #[must_use]
    pub fn usual_agent(version: &str) -> Option<String> {
        let major = version.split_ascii_whitespace().find_map(|word| {
            let (major, rest) = word.split_once('.')?;
            (rest.contains('.') && major.bytes().all(|b| b.is_ascii_digit())).then_some(major)
        })?;
        let system = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)";
        Some(format!("{system} Chrome/{major}.0.0.0 Safari/537.36"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Foreign;

    struct Nowhere;

    impl Plug for Nowhere {
        fn proxy(&self) -> String {
            "127.0.0.1:1".into()
        }

        fn keys(&self) -> Vec<String> {
            vec!["a".into(), "b".into()]
        }

        fn foreign(&self) -> Vec<Foreign> {
            Vec::new()
        }

        fn exit(&self) -> Option<String> {
            None
        }
    }

    #[test]
    fn the_sandbox_stays_and_no_port_is_opened() {
        for tier in [Tier::Shell, Tier::Full] {
            let browser = Browser { tier, file: "/x".into(), env: Vec::new() };
            let command = browser.command(&Params::default(), Some("me"), &Nowhere);
            let text: Vec<&str> = command.iter().filter_map(|word| word.to_str()).collect();
            assert!(!text.iter().any(|word| word.contains("sandbox") || word.contains("debugging-port")), "{text:?}");
            for word in ["--user-agent=me", "--window-size=1280,800", "--proxy-server=127.0.0.1:1"] {
                assert!(text.contains(&word), "{word}");
            }
            assert!(text.contains(&"--ignore-certificate-errors-spki-list=a,b"));
        }
    }

    #[test]
    fn both_show_the_windows_that_a_page_opens() {
        let blocks = |tier| {
            let flags = Browser { tier, file: "/x".into(), env: Vec::new() }.flags(&Params::default());
            !flags.contains(&"--disable-popup-blocking".to_owned())
        };
        // The shell has nothing that would block them.
        assert!(blocks(Tier::Shell) && !blocks(Tier::Full));
    }

    #[test]
    fn what_it_calls_itself_has_its_major_version_and_nothing_else_of_it() {
        let agent = Browser::usual_agent("Chromium 156.0.8078.108 built on Debian").unwrap();
        assert!(agent.ends_with(" Chrome/156.0.0.0 Safari/537.36"), "{agent}");
        for odd in ["", "Chromium", "x.y.z", "Chromium 156"] {
            assert_eq!(Browser::usual_agent(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_missing_browser_names_its_package() {
        let missing = Missing { place: "/x".into(), package: "chromium" };
        assert!(missing.to_string().contains("package 'chromium'"));
    }
}
