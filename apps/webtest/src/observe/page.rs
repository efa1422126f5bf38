//! What a page does, by the browser's messages, and what is answered to it: a state machine without I/O.
//!
//! ```text
//!   Message ─► Watch::see ─► commands (session, method, parameters)
//!                 ├ sessions: the page, its windows, frames of other sites, workers
//!                 ├ chain of addresses, requests, console, downloads, fights
//!                 └ over: why the visit is to be ended before its time
//! ```
//!
//! Invariants: one event makes at most a handful of commands; whatever a page does, what is kept of it is bounded by the constants
//! of [`crate::model`].

use super::requests::{Requests, text};
use super::{Cut, bounded, put};
use crate::devtools::{Event, Message};
use crate::model::{
    CONSOLE_MAX, DIALOGS_MAX, DOWNLOAD_MAX_BYTES, DOWNLOADS_MAX, Download, Fights, POPUPS_MAX, REDIRECTS_MAX,
    TARGETS_MAX,
};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Pages of the browser's own, which it shows to nobody, but has.
const INTERNAL: &[&str] = &["chrome:", "chrome-untrusted:", "chrome-extension:", "devtools:"];

/// Something to be sent to the browser.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// To whom.
    pub session: Option<String>,
    /// What.
    pub method: &'static str,
    /// The rest.
    pub params: Value,
}

/// Why a visit is over before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// More dialogs than are answered.
    Dialogs,
    /// It never stays.
    Redirects,
    /// The page is no page, but a file to be kept.
    Download,
    /// The page's renderer died.
    Crashed,
}

/// A file that is being fetched, or was.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// The browser's name for it, under which it lies in the VM.
    pub guid: String,
    /// What is known of it.
    pub download: Download,
    /// It is all there.
    pub is_whole: bool,
    /// It will never be.
    pub is_cancelled: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Page,
    Window,
    Other,
}

/// The state.
#[derive(Debug, Default)]
pub struct Watch {
    /// The name by which the page's call of `print` is told; nobody can guess it.
    bell: String,
    sessions: HashMap<String, Target>,
    main: Option<String>,
    frame: Option<String>,
    asked: Option<String>,
    /// Where it was, in order.
    chain: Vec<String>,
    /// Where it is.
    url: String,
    is_committed: bool,
    is_loading: bool,
    /// Its load event came.
    pub loaded: bool,
    /// It could not be loaded: why.
    pub failed: Option<String>,
    /// The visit is over.
    pub over: Option<Over>,
    /// How the page fights.
    pub fights: Fights,
    /// Lines of the console.
    pub console: Vec<String>,
    /// Files.
    pub fetched: Vec<Fetched>,
    /// Requests.
    pub requests: Requests,
    /// What was left out.
    pub cut: Cut,
    targets: u32,
    windows: u32,
    /// Bytes of all downloads.
    bytes: u64,
}

impl Watch {
    /// Nothing seen yet. `nonce`: letters and digits that nobody can guess.
    #[must_use]
    pub fn new(nonce: &str) -> Self {
        Self { bell: format!("_{nonce}"), ..Self::default() }
    }

    /// What is to be said to a browser first.
    #[must_use]
    pub fn begin(&self, downloads: &str) -> Vec<Command> {
        let behavior = json!({"behavior": "allowAndName", "downloadPath": downloads, "eventsEnabled": true});
        vec![
            command(None, "Browser.setDownloadBehavior", behavior),
            command(None, "Target.setAutoAttach", auto_attach()),
        ]
    }

    /// The conversation with the page, once there is one.
    #[must_use]
    pub fn page(&self) -> Option<&str> {
        self.main.as_deref()
    }

    /// The page's frame, once it is known.
    #[must_use]
    pub fn frame(&self) -> Option<&str> {
        self.frame.as_deref()
    }

    /// The page is asked for.
    #[must_use]
    pub fn go(&mut self, url: &str) -> Command {
        self.asked = Some(url.to_owned());
        self.is_loading = true;
        command(self.main.clone(), "Page.navigate", json!({"url": url}))
    }

    /// The answer to that came.
    pub fn gone(&mut self, answer: &Value) {
        if self.frame.is_none() {
            self.frame = answer.get("frameId").and_then(Value::as_str).map(str::to_owned);
        }
        let why = text(answer, "/errorText");
        if why == "net::ERR_ABORTED" && (answer.get("isDownload") == Some(&true.into()) || !self.fetched.is_empty()) {
            self.over.get_or_insert(Over::Download);
        } else if !why.is_empty() && self.failed.is_none() && !self.loaded && why != "net::ERR_ABORTED" {
            self.failed = Some(bounded(why));
        }
    }

    /// It has loaded, and is not about to be elsewhere.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.loaded && !self.is_loading
    }

    /// How often it went elsewhere or asked something: as long as this grows, it is not quiet.
    #[must_use]
    pub fn stirs(&self) -> u32 {
        self.fights.navigations.saturating_add(self.fights.dialogs)
    }

    /// Where it is, and where it was before.
    #[must_use]
    pub fn way(&self) -> (String, Vec<String>) {
        let before = match self.chain.split_last() {
            Some((last, before)) if *last == self.url => before.to_vec(),
            _ => self.chain.clone(),
        };
        let last = if self.url.is_empty() { self.chain.last().cloned().unwrap_or_default() } else { self.url.clone() };
        (last, before)
    }

    /// Takes a message in; what is to be sent for it.
    pub fn see(&mut self, message: &Message) -> Vec<Command> {
        let Message::Event(event) = message else { return Vec::new() };
        let Event { session, method, params } = event;
        let is_main = session.is_some() && *session == self.main;
        match method.as_str() {
            "Target.attachedToTarget" => self.attached(params),
            "Target.detachedFromTarget" => {
                self.sessions.remove(text(params, "/sessionId"));
                Vec::new()
            }
            "Inspector.targetCrashed" => {
                if is_main {
                    self.over.get_or_insert(Over::Crashed);
                }
                Vec::new()
            }
            "Page.javascriptDialogOpening" => self.dialog(session.clone(), params),
            "Page.frameNavigated" if is_main => {
                self.navigated(params);
                self.redirected()
            }
            "Page.frameStartedLoading" | "Page.frameRequestedNavigation" if is_main => {
                self.is_loading |= self.is_of_page(text(params, "/frameId"));
                Vec::new()
            }
            // Who goes elsewhere while it loads, and does not come there, has no load event.
            "Page.frameStoppedLoading" if is_main && self.is_of_page(text(params, "/frameId")) => self.came(),
            "Page.loadEventFired" if is_main => self.came(),
            "Runtime.bindingCalled" => {
                self.fights.prints += u32::from(text(params, "/name") == self.bell);
                Vec::new()
            }
            "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                self.line(method, params);
                Vec::new()
            }
            "Browser.downloadWillBegin" => self.download(params),
            "Browser.downloadProgress" => self.progress(params),
            method => {
                let is_document = text(params, "/type") == "Document" && method == "Network.requestWillBeSent";
                self.requests.see(session.as_deref(), method, params, &mut self.cut);
                self.fights.logins = self.requests.logins;
                if is_main && is_document && self.is_of_page(text(params, "/frameId")) {
                    self.passed(text(params, "/request/url"));
                    return self.redirected();
                }
                Vec::new()
            }
        }
    }

    fn came(&mut self) -> Vec<Command> {
        self.loaded |= self.is_committed;
        self.is_loading &= !self.is_committed;
        Vec::new()
    }

    fn is_of_page(&self, frame: &str) -> bool {
        self.frame.as_deref().is_none_or(|main| main == frame)
    }

    fn passed(&mut self, url: &str) {
        let url = bounded(url);
        if self.chain.last() != Some(&url) && self.chain.len() <= REDIRECTS_MAX {
            self.chain.push(url);
        }
    }

    fn navigated(&mut self, params: &Value) {
        let frame = params.get("frame").unwrap_or(&Value::Null);
        if frame.get("parentId").is_some() || self.asked.is_none() {
            return;
        }
        self.frame = Some(text(frame, "/id").to_owned());
        let unreachable = text(frame, "/unreachableUrl");
        self.url = bounded(if unreachable.is_empty() { text(frame, "/url") } else { unreachable });
        if self.loaded {
            self.fights.navigations += 1;
        }
        self.is_committed = true;
        self.passed(&self.url.clone());
    }

    /// A page that never stays is stopped.
    fn redirected(&mut self) -> Vec<Command> {
        let moves = u32::try_from(self.chain.len()).unwrap_or(u32::MAX).max(self.fights.navigations);
        if moves as usize <= REDIRECTS_MAX || self.over.is_some() {
            return Vec::new();
        }
        self.over = Some(Over::Redirects);
        let main = self.main.clone();
        vec![
            command(main.clone(), "Emulation.setScriptExecutionDisabled", json!({"value": true})),
            command(main, "Page.stopLoading", json!({})),
        ]
    }

    fn attached(&mut self, params: &Value) -> Vec<Command> {
        let (id, kind) = (text(params, "/sessionId"), text(params, "/targetInfo/type"));
        let target = text(params, "/targetInfo/targetId");
        let session = Some(id.to_owned());
        let resume = command(session.clone(), "Runtime.runIfWaitingForDebugger", json!({}));
        let url = text(params, "/targetInfo/url");
        if INTERNAL.iter().any(|scheme| url.starts_with(scheme)) {
            return vec![resume];
        }
        self.targets += 1;
        let is_first = kind == "page" && self.main.is_none() && matches!(url, "" | "about:blank");
        let is_window = kind == "page" && self.main.is_some();
        if is_window {
            self.fights.popups += 1;
            self.windows += 1;
        }
        self.fights.workers += u32::from(kind.ends_with("worker"));
        if is_window && self.windows > POPUPS_MAX || self.targets > TARGETS_MAX {
            if is_window {
                // It shares a renderer with the page, which waits as long as it waits.
                return vec![command(None, "Target.closeTarget", json!({"targetId": target})), resume];
            }
            self.cut.one("frames and workers");
            return vec![resume];
        }
        let kind = if is_first {
            self.main = session.clone();
            Target::Page
        } else if is_window {
            Target::Window
        } else {
            Target::Other
        };
        let has_document = kind != Target::Other || text(params, "/targetInfo/type") == "iframe";
        self.sessions.insert(id.to_owned(), kind);
        let mut commands = vec![command(session.clone(), "Network.enable", bodies())];
        if has_document {
            let script = json!({"source": script(&self.bell)});
            commands.extend([
                command(session.clone(), "Page.enable", json!({})),
                command(session.clone(), "Inspector.enable", json!({})),
                command(session.clone(), "Log.enable", json!({})),
                command(session.clone(), "Runtime.addBinding", json!({"name": self.bell})),
                command(session.clone(), "Page.addScriptToEvaluateOnNewDocument", script),
                command(session.clone(), "Target.setAutoAttach", auto_attach()),
            ]);
        }
        commands.push(command(session.clone(), "Runtime.enable", json!({})));
        commands.push(resume);
        commands
    }

    fn dialog(&mut self, session: Option<String>, params: &Value) -> Vec<Command> {
        self.fights.dialogs += 1;
        if self.fights.dialogs <= DIALOGS_MAX {
            let what = format!("{}: {}", text(params, "/type"), text(params, "/message"));
            put(&mut self.console, CONSOLE_MAX, bounded(&what), &mut self.cut, "lines of the console");
        }
        let answer = command(session.clone(), "Page.handleJavaScriptDialog", json!({"accept": true}));
        if self.fights.dialogs < DIALOGS_MAX {
            return vec![answer];
        }
        self.over.get_or_insert(Over::Dialogs);
        vec![
            command(session.clone(), "Runtime.terminateExecution", json!({})),
            command(session, "Emulation.setScriptExecutionDisabled", json!({"value": true})),
            answer,
        ]
    }

    fn line(&mut self, method: &str, params: &Value) {
        if self.console.len() >= CONSOLE_MAX {
            self.cut.one("lines of the console");
            return;
        }
        let said = match method {
            "Runtime.consoleAPICalled" => {
                let mut said = text(params, "/type").to_owned();
                let args = params.get("args").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                for arg in args.iter().take(20) {
                    said.push_str(if said.contains(':') { " " } else { ": " });
                    match arg.get("value") {
                        Some(Value::String(word)) => said.push_str(&bounded(word)),
                        Some(other) if !other.is_object() && !other.is_array() => said.push_str(&other.to_string()),
                        _ => said.push_str(&bounded(text(arg, "/description"))),
                    }
                }
                said
            }
            "Runtime.exceptionThrown" => {
                let of_error = text(params, "/exceptionDetails/exception/description");
                let plain = text(params, "/exceptionDetails/text");
                format!("exception: {}", if of_error.is_empty() { plain } else { of_error })
            }
            _ => format!(
                "{}: {} {}",
                text(params, "/entry/level"),
                text(params, "/entry/text"),
                text(params, "/entry/url")
            ),
        };
        self.console.push(bounded(&said));
    }

    fn download(&mut self, params: &Value) -> Vec<Command> {
        let (guid, url) = (text(params, "/guid"), text(params, "/url"));
        let is_asked = self.asked.as_deref().is_some_and(|asked| !self.is_committed && !asked.is_empty());
        if self.fetched.len() >= DOWNLOADS_MAX {
            self.cut.one("downloads");
            let none = json!({"behavior": "deny", "eventsEnabled": true});
            return vec![
                command(None, "Browser.setDownloadBehavior", none),
                command(None, "Browser.cancelDownload", json!({"guid": guid})),
            ];
        }
        if is_asked {
            self.over.get_or_insert(Over::Download);
        }
        let download = Download {
            url: bounded(url),
            name: bounded(text(params, "/suggestedFilename")),
            automatic: !is_asked,
            ..Download::default()
        };
        self.fetched.push(Fetched { guid: guid.to_owned(), download, ..Fetched::default() });
        Vec::new()
    }

    fn progress(&mut self, params: &Value) -> Vec<Command> {
        let guid = text(params, "/guid");
        let Some(fetched) = self.fetched.iter_mut().find(|fetched| fetched.guid == guid) else { return Vec::new() };
        let now = params.get("receivedBytes").and_then(Value::as_f64).unwrap_or_default() as u64;
        self.bytes += now.saturating_sub(fetched.download.bytes);
        fetched.download.bytes = fetched.download.bytes.max(now);
        fetched.is_whole = text(params, "/state") == "completed";
        fetched.is_cancelled = text(params, "/state") == "canceled";
        if self.bytes > DOWNLOAD_MAX_BYTES && text(params, "/state") == "inProgress" {
            self.cut.one("downloads");
            return vec![command(None, "Browser.cancelDownload", json!({"guid": guid}))];
        }
        Vec::new()
    }

    /// A file is still on its way, or about to be.
    #[must_use]
    pub fn is_fetching(&self) -> bool {
        let is_announced = self.over == Some(Over::Download) && self.fetched.is_empty();
        is_announced || self.fetched.iter().any(|fetched| !fetched.is_whole && !fetched.is_cancelled)
    }
}

fn command(session: Option<String>, method: &'static str, params: Value) -> Command {
    Command { session, method, params }
}

/// Whatever a page opens or starts waits until it is watched.
fn auto_attach() -> Value {
    json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true})
}

/// Nothing of the contents is kept in the browser for us.
fn bodies() -> Value {
    json!({"maxTotalBufferSize": 1, "maxResourceBufferSize": 1, "maxPostDataSize": 0})
}

/// Tells of `print`, which a browser without a head does not, and leaves no name behind.
fn script(bell: &str) -> String {
    format!(
        "(() => {{ const ring = globalThis.{bell}; delete globalThis.{bell}; \
         if (ring) window.print = function print() {{ ring(''); }}; }})()"
    )
}

#[cfg(test)]
mod tests;
