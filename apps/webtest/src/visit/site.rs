//! A visitor whose browsers run in VMs, and the moments of a visit.
//!
//! ```text
//!   0 ──── ready (START_MAX) ──── loaded (load_max_s) ──── + wait_s (longer, if it spins) ──── looked at (LOOK_MAX) ──── VM looked at, gone
//!   └──────────────────────────── visit_max_s + wait_s ─────────────────────────────────────────┘
//! ```
//!
//! Invariants: every wait has an end, and all of them together one; the store has what the observation names.

use super::Visitor;
use super::admission::Admission;
use super::browser::{Browser, DOWNLOADS, HOME, Missing};
use super::disk::Disk;
use super::look::{ask, picture};
use super::machine::{self, Machine};
use super::spin::{LONGER, Looks};
use super::stock::Stock;
use crate::baseline::{Baseline, BaselineError, Key, Learnt};
use crate::devtools::{Line, LineError, Message};
use crate::model::{Ended, Observation, Params, Task, Tier};
use crate::net::{Gate, Plug};
use crate::observe::bounded;
use crate::observe::page::{Over, Watch};
use crate::store::Store;
use fvm::model::{Policy, VmPath};
use fvm::{Fvm, FvmError, NewVm, Settings};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// So long a VM and its browser may take until the first word.
const START_MAX: Duration = Duration::from_secs(30);
/// So often whoever waits looks whether the visit is still wanted.
const TURN: Duration = Duration::from_millis(100);
/// A page that went elsewhere or asked something within so long is not left yet: a slow browser shows too little of what never ends in a
/// short wait. Where even its start took long, within twice that: but no more than [`QUIET_MAX`].
const QUIET: Duration = Duration::from_secs(2);
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Why there is no visitor.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// A browser is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The policy cannot be had.
    #[error("the policy of the visits cannot be used")]
    Policy(#[source] FvmError),
    /// The baseline cannot be used.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// A parameter that no visit can have.
    #[error("these parameters cannot be visited by: {0}")]
    Params(String),
    /// A browser did not say its version in a VM.
    #[error("the browser {} does not run in a VM: {why}", file.display())]
    Browser {
        /// Its file.
        file: PathBuf,
        /// What it said.
        why: String,
    },
}

/// A browser, and what is its own.
pub(super) struct Ready {
    pub(super) browser: Browser,
    key: Key,
    agent: Option<String>,
    pub(super) baseline: Baseline,
}

/// Visits sites with browsers in VMs.
pub struct VmVisitor {
    pub(super) fvm: Arc<Fvm>,
    gate: Arc<dyn Gate>,
    pub(super) params: Params,
    shell: Option<Ready>,
    full: Option<Ready>,
    admission: Arc<Admission>,
    stock: Stock,
    pub(super) settings: Settings,
}

impl VmVisitor {
    /// A visitor for runs with these parameters. `dirs`: where policies are looked for; `learnt`: baselines, of which those of the browsers
    /// as they are now are used; `browsers`: those of this system, or others ([`Browser::find`]). Each is tried in a VM.
    ///
    /// # Errors
    /// As [`VisitError`] says. [`Fvm::start_forker`] was called before, if the program has threads.
    pub fn new(
        fvm: Arc<Fvm>,
        gate: Arc<dyn Gate>,
        params: Params,
        dirs: &[PathBuf],
        learnt: &[Learnt],
        browsers: Vec<Browser>,
    ) -> Result<Self, VisitError> {
        if params.urls_per_vm != 1 {
            let why = format!("{} sites in one VM's life: each VM visits one site", params.urls_per_vm);
            return Err(VisitError::Params(why));
        }
        let named = Some(params.policy.as_deref().unwrap_or("untrusted"));
        let base = fvm::policy(named, &fvm::model::policy::Flags::default(), dirs).map_err(VisitError::Policy)?;
        let policy = machine::policy(base, &params);
        let (mut shell, mut full) = (None, None);
        for browser in browsers {
            let ready = ready(&fvm, &policy, &params, browser, learnt)?;
            let of_tier = if ready.browser.tier == Tier::Full { &mut full } else { &mut shell };
            *of_tier = Some(ready);
        }
        let home = VmPath::new(HOME).into_iter();
        let settings = Settings { homes: home.collect(), ..Settings::default() };
        let admission = Arc::new(Admission::new(params.starts));
        let stock = Stock::new(Arc::clone(&fvm), policy, Arc::clone(&admission));
        Ok(Self { fvm, gate, params, shell, full, admission, stock, settings })
    }

    /// The browsers that a run with these parameters needs.
    ///
    /// # Errors
    /// When one is not installed; it names the package.
    pub fn browsers(tier: Tier) -> Result<Vec<Browser>, Missing> {
        let tiers = match tier {
            Tier::Auto => vec![Tier::Shell, Tier::Full],
            one => vec![one],
        };
        tiers.into_iter().map(Browser::find).collect()
    }

    /// The browsers by which baselines are kept.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        [&self.shell, &self.full].into_iter().flatten().map(|ready| ready.key.clone()).collect()
    }
}

/// Asks a browser for its version, in a VM like those of the visits.
fn ready(
    fvm: &Fvm,
    policy: &Policy,
    params: &Params,
    browser: Browser,
    learnt: &[Learnt],
) -> Result<Ready, VisitError> {
    let new = NewVm { ephemeral: true, policy: policy.clone(), ..NewVm::default() };
    let argv = vec![browser.file.clone().into(), "--version".into()];
    let wrong = |why: String| VisitError::Browser { file: browser.file.clone(), why };
    let said = fvm.run(&new, &machine::call(argv, &browser.env)).map_err(|e| wrong(e.chain()))?;
    let version = bounded(String::from_utf8_lossy(&said.output).trim());
    if version.is_empty() {
        return Err(wrong(format!("{:?}: {}", said.ended, bounded(&String::from_utf8_lossy(&said.errors)))));
    }
    let agent = params.user_agent.clone().or_else(|| Browser::usual_agent(&version));
    let key = Key { browser: version, flags: browser.flags(params) };
    let baseline = Baseline::new(&key, learnt.iter().find(|learnt| learnt.key == key))?;
    Ok(Ready { browser, key, agent, baseline })
}

impl Visitor for VmVisitor {
    fn visit(&self, task: &Task, store: &dyn Store, stop: &AtomicBool) -> Observation {
        let began = Instant::now();
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut seen = Observation {
            tier: task.tier,
            began_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            final_url: bounded(task.url.as_str()),
            ..Observation::default()
        };
        let of_tier = if task.tier == Tier::Full { &self.full } else { &self.shell };
        let done = match of_tier {
            None => Err("this worker has no browser of that tier".to_owned()),
            Some(_) if !matches!(task.url.scheme(), "http" | "https") => {
                Err(format!("'{}' is no address of the web", task.url.scheme()))
            }
            Some(ready) => {
                seen.browser = ready.key.browser.clone();
                Visit { with: self, ready, task, store, stop, began }.run(&mut seen)
            }
        };
        if let Err(why) = done {
            seen.ended = Ended::Failed { why: bounded(&why) };
        }
        seen.took_ms = began.elapsed().as_secs_f64() * 1000.0;
        seen
    }
}

/// One visit.
pub(super) struct Visit<'a> {
    pub(super) with: &'a VmVisitor,
    pub(super) ready: &'a Ready,
    task: &'a Task,
    pub(super) store: &'a dyn Store,
    stop: &'a AtomicBool,
    pub(super) began: Instant,
}

impl Visit<'_> {
    fn run(&self, seen: &mut Observation) -> Result<(), String> {
        let params = &self.with.params;
        let stopped = || "the worker is ending".to_owned();
        let admitted = self.with.admission.enter(self.stop).ok_or_else(stopped)?;
        // What it waited for its turn is not the visit's.
        let started = Instant::now();
        let all_max = Duration::from_secs(u64::from(params.visit_max_s) + u64::from(params.wait_s));
        let argv = |plug: &dyn Plug| self.ready.browser.command(params, self.ready.agent.as_deref(), plug);
        let start = |vessel| Machine::start(vessel, argv, &self.ready.browser.env, &*self.with.gate);
        let mut machine = self.with.stock.with(start)?;
        seen.vm_ms = machine.vm_ms;
        let mut watch = Watch::new(&nonce());
        let until = Instant::now() + START_MAX;
        match self.first_word(&mut machine, &mut watch, until) {
            Ok(version) => seen.browser = version,
            Err(e) => {
                let said = bounded(String::from_utf8_lossy(&machine.line.last_words()).trim());
                let _first_in = self.with.admission.enter(self.stop);
                drop(machine);
                return Err(format!("the browser did not begin: {e}: {said}"));
            }
        }
        seen.ready_ms = started.elapsed().as_secs_f64() * 1000.0;
        drop(admitted);
        let end = started + all_max;
        let ended = self.page(&mut machine, &mut watch, end, seen);
        self.gather(&mut machine, &mut watch, seen, ended)?;
        let _may_end = self.with.admission.enter(self.stop);
        drop(machine);
        Ok(())
    }

    /// Waits for the browser, and for its page.
    fn first_word(&self, machine: &mut Machine, watch: &mut Watch, until: Instant) -> Result<String, LineError> {
        let answer = machine.line.ask(None, "Browser.getVersion", json!({}), until, |_, _| ())?;
        let version = answer.get("product").and_then(Value::as_str).unwrap_or_default();
        for command in watch.begin(DOWNLOADS) {
            machine.line.send(command.session.as_deref(), command.method, command.params);
        }
        while watch.page().is_none() {
            let message = machine.line.next(until)?.ok_or(LineError::Late)?;
            answer_to(machine, watch, &message);
        }
        // Its renderer has heard of all that came before this: an address that is asked for earlier may be shown by another, which has not.
        let _frames = ask(machine, watch, "Page.getFrameTree", json!({}), until)?;
        Ok(bounded(version))
    }

    /// The page's life: load, wait, look. How it ended.
    fn page(&self, machine: &mut Machine, watch: &mut Watch, end: Instant, seen: &mut Observation) -> Ended {
        let params = &self.with.params;
        let asked = Instant::now();
        let load_end = end.min(asked + Duration::from_secs(params.load_max_s.into()));
        let go = watch.go(self.task.url.as_str());
        let navigate = machine.line.send(go.session.as_deref(), go.method, go.params);
        let (mut first, mut wait_end, mut never_loaded) = (None, None, false);
        let mut disk = Disk::new(machine.layers(), params.disk_bytes);
        let wait = Duration::from_secs(params.wait_s.into());
        let mut looks = Looks::before(machine);
        let start = Duration::from_secs_f64(seen.ready_ms / 1000.0);
        let quiet = if wait.is_zero() { wait } else { (2 * start).clamp(QUIET, QUIET_MAX) };
        let (mut stirs, mut noisy_until) = (watch.stirs(), asked);
        let mut ended = loop {
            let now = Instant::now();
            if watch.stirs() != stirs {
                (stirs, noisy_until) = (watch.stirs(), now + quiet);
            }
            if self.stop.load(Ordering::Relaxed) || now >= end {
                break Ended::TimedOut;
            }
            if disk.is_over(|| machine.taken()) {
                break Ended::DiskFull;
            }
            match watch.over {
                Some(Over::Crashed) => break Ended::RendererCrashed,
                // Until it is all there, or it is time.
                Some(Over::Download) if watch.is_fetching() && now < load_end => {}
                Some(_) => break Ended::Done,
                None => {}
            }
            if let Some(why) = watch.failed.take() {
                break Ended::NotReached { why };
            }
            if wait_end.is_none() {
                if watch.is_settled() || (watch.loaded && now >= load_end) {
                    seen.load_ms = Some(asked.elapsed().as_secs_f64() * 1000.0);
                    wait_end = Some(Instant::now() + wait);
                    if params.screenshot && params.wait_s > 0 {
                        first = Some(machine.line.send(watch.page(), "Page.captureScreenshot", picture()));
                    }
                    looks = Looks::new(machine, wait);
                } else if now >= load_end {
                    if watch.way().0.is_empty() {
                        break Ended::NeverLoaded;
                    }
                    // What it has up to now may do something: it is waited for all the same.
                    never_loaded = true;
                    wait_end = Some(now + wait);
                    looks = Looks::new(machine, wait);
                }
            }
            looks.turn(machine, now);
            if let Some(at) = wait_end
                && now >= at
                && (now >= load_end.max(at) || !self.is_on_its_way(watch))
                && (now + LONGER >= end || now >= noisy_until)
            {
                if wait.is_zero() || now + LONGER >= end || !looks.longer(machine, params.cpus) {
                    break if never_loaded { Ended::NeverLoaded } else { Ended::Done };
                }
                wait_end = Some(now + LONGER);
            }
            let moments = [Some(end), wait_end.filter(|at| *at > now), Some(now + TURN)];
            let until = moments.into_iter().flatten().min().unwrap_or(end);
            match machine.line.next(until) {
                Ok(Some(Message::Answer(of, answer))) if of == navigate => match answer {
                    Ok(answer) => watch.gone(&answer),
                    Err(refusal) => break Ended::NotReached { why: bounded(&refusal.0) },
                },
                Ok(Some(Message::Answer(of, answer))) if Some(of) == first => {
                    seen.artifacts.first = answer.ok().and_then(|answer| self.keep_picture(&answer));
                    first = None;
                }
                Ok(Some(message)) => answer_to(machine, watch, &message),
                Ok(None) => {}
                Err(_) => break Ended::BrowserCrashed,
            }
        };
        watch.fights.spun = looks.spun(machine, params.cpus);
        if ended == Ended::BrowserCrashed {
            // Whatever took its place has its time, too.
            let wait_end = wait_end.unwrap_or_else(|| Instant::now() + wait).min(end);
            while Instant::now() < wait_end && !self.stop.load(Ordering::Relaxed) {
                std::thread::sleep(TURN);
                if disk.is_over(|| machine.taken()) {
                    ended = Ended::DiskFull;
                    break;
                }
            }
        } else {
            self.look(machine, watch, &ended, seen);
        }
        ended
    }

    /// It was about to be elsewhere when its time was over.
    fn is_on_its_way(&self, watch: &Watch) -> bool {
        !watch.is_settled() && watch.over.is_none()
    }
}

/// Answers to what a page does.
pub(super) fn see(line: &mut Line, watch: &mut Watch, message: &Message) {
    for command in watch.see(message) {
        line.send(command.session.as_deref(), command.method, command.params);
    }
}

fn answer_to(machine: &mut Machine, watch: &mut Watch, message: &Message) {
    see(&mut machine.line, watch, message);
}

/// Letters that no page can guess.
fn nonce() -> String {
    let mut bytes = [0u8; 16];
    // Without it nothing but the number of calls of `print` could be forged.
    let _filled = getrandom(&mut bytes, GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
