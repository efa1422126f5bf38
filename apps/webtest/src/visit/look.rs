//! The last look at a page: DOM, title, picture, cookies.
//!
//! ```text
//!   a world of our own in the page ── none in time: its scripts are ended, once more ──► title, DOM in parts
//!   a picture, cookies
//! ```
//!
//! Invariants: each has its time, and what cannot be had in it is not there; the page's scripts have no say in what is said of it.

use super::machine::Machine;
use super::site::{Visit, see};
use crate::devtools::{Line, LineError, Message};
use crate::model::{DOM_MAX_BYTES, Ended, LIST_MAX, Observation};
use crate::observe::bounded;
use crate::observe::page::Watch;
use base64::Engine as _;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// So long one look at a page may take: its DOM, a picture.
const LOOK_MAX: Duration = Duration::from_secs(4);
/// So many letters of a DOM come in one message.
const DOM_PART: u64 = 1 << 20;
/// Pictures: as good as needed to be looked at.
const JPEG_QUALITY: u32 = 75;

impl Visit<'_> {
    /// DOM, title, picture, cookies: each as far as it can be had in its time.
    pub(super) fn look(&self, machine: &mut Machine, watch: &mut Watch, ended: &Ended, seen: &mut Observation) {
        let params = &self.with.params;
        if *ended != Ended::RendererCrashed {
            let mut world = self.world(machine, watch, LOOK_MAX / 2);
            if world.is_none() {
                // A script that never ends is ended.
                let page = watch.page().map(str::to_owned);
                machine.line.send(page.as_deref(), "Emulation.setScriptExecutionDisabled", json!({"value": true}));
                machine.line.send(page.as_deref(), "Runtime.terminateExecution", json!({}));
                world = self.world(machine, watch, LOOK_MAX);
            }
            if let Some(world) = &world {
                seen.title = world.1.clone();
                if params.dom {
                    seen.artifacts.dom = self.dom(machine, watch, &world.0, seen);
                }
            }
            if params.screenshot {
                let until = Instant::now() + LOOK_MAX;
                let answer = ask(machine, watch, "Page.captureScreenshot", picture(), until);
                seen.artifacts.last = answer.ok().and_then(|answer| self.keep_picture(&answer));
                if params.wait_s == 0 {
                    seen.artifacts.first.clone_from(&seen.artifacts.last);
                }
            }
        }
        let until = Instant::now() + LOOK_MAX;
        let each = |machine: &mut Line, message: Message| see(machine, watch, &message);
        if let Ok(answer) = machine.line.ask(None, "Storage.getCookies", json!({}), until, each) {
            let cookies = answer.get("cookies").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let field =
                |cookie: &Value, key: &str| bounded(cookie.get(key).and_then(Value::as_str).unwrap_or_default());
            let all = cookies.iter().map(|c| (field(c, "name"), field(c, "domain"), field(c, "path")));
            seen.cookies = all.take(LIST_MAX).collect();
        }
    }

    /// A world of our own in the page, in which its scripts have no say; and the page's title.
    fn world(&self, machine: &mut Machine, watch: &mut Watch, max: Duration) -> Option<(Value, String)> {
        let until = Instant::now() + max;
        let frame = json!({"frameId": watch.frame()?, "worldName": "fvm"});
        let world = ask(machine, watch, "Page.createIsolatedWorld", frame, until).ok()?;
        let context = world.get("executionContextId")?.clone();
        // Elements with names hide what a document has, in every world: so not `document.title`.
        let own = "globalThis.own = name => Object.getOwnPropertyDescriptor(Document.prototype, name).get.call(document); \
                   own('title').slice(0, 1000)";
        let title = evaluate(machine, watch, &context, own, until)?;
        Some((context, bounded(title.as_str().unwrap_or_default())))
    }

    fn dom(&self, machine: &mut Machine, watch: &mut Watch, world: &Value, seen: &mut Observation) -> Option<String> {
        let until = Instant::now() + LOOK_MAX;
        let take = "globalThis.all = (own('doctype') ? '<!DOCTYPE ' + own('doctype').name + '>' : '') + \
                    (own('documentElement') ? own('documentElement').outerHTML : ''); all.length";
        let length = evaluate(machine, watch, world, take, until)?.as_u64()?;
        let mut dom = String::new();
        let mut at = 0;
        while at < length && dom.len() < DOM_MAX_BYTES {
            let part = format!("all.slice({at}, {})", at + DOM_PART);
            let part = evaluate(machine, watch, world, &part, until)?;
            dom.push_str(part.as_str()?);
            at += DOM_PART;
        }
        if dom.len() > DOM_MAX_BYTES || at < length {
            let mut end = DOM_MAX_BYTES.min(dom.len());
            while !dom.is_char_boundary(end) {
                end -= 1;
            }
            dom.truncate(end);
            seen.cut.push("the DOM".into());
        }
        self.keep(dom.as_bytes())
    }

    pub(super) fn keep_picture(&self, answer: &Value) -> Option<String> {
        let text = answer.get("data")?.as_str()?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        self.keep(&bytes)
    }

    pub(super) fn keep(&self, bytes: &[u8]) -> Option<String> {
        self.store.put(bytes).ok()
    }
}

pub(super) fn picture() -> Value {
    json!({"format": "jpeg", "quality": JPEG_QUALITY, "optimizeForSpeed": true})
}

/// Asks the page.
pub(super) fn ask(
    machine: &mut Machine,
    watch: &mut Watch,
    method: &str,
    params: Value,
    until: Instant,
) -> Result<Value, LineError> {
    let page = watch.page().map(str::to_owned);
    machine.line.ask(page.as_deref(), method, params, until, |line, message| see(line, watch, &message))
}

fn evaluate(machine: &mut Machine, watch: &mut Watch, world: &Value, what: &str, until: Instant) -> Option<Value> {
    let params = json!({"expression": what, "contextId": world, "returnByValue": true});
    let answer = ask(machine, watch, "Runtime.evaluate", params, until).ok()?;
    answer.pointer("/result/value").cloned()
}
