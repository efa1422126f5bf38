//! A VM with a browser in it: how it begins and how it ends.
//!
//! ```text
//!   Vessel: cat, as the VM's root, which waits ─► info: init's pid ─► Gate::plug(pid) ─► proxy, keys
//!                                                                                          │
//!   Line ◄─ its three streams ◄─ spawn in the VM, as nobody: sh, which becomes the browser ◄┘
//!   kill ─► wait: the VM is gone, and its layers with it (it is ephemeral)
//! ```
//!
//! Invariants: whatever becomes of it, when it is dropped its VM is gone; the VM has a way out before its browser begins; nothing that
//! the browser's user does ends the VM before it was looked at: what holds it is the VM's root's (of an ordinary user's VM, which has
//! one user, this cannot be said: there it ends, and the visit with it).

use super::browser::HOME;
use super::spin::Threads;
use crate::devtools::Line;
use crate::net::{Gate, Plug};
use fvm::model::{Level, Network, Policy, VmRecord};
use fvm::{Call, Child, Fvm, FvmError, Info, NewVm, Place, Stream, Streams, Usage};
use rustix::process::Signal;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The user that the browser is in a VM of root's: nobody on the host.
pub const USER: u32 = 64_738;

/// What holds the VM: it waits for what never comes, and ends with us.
pub const HOLDER: &str = "/bin/cat";

/// Where the browser looks for programs by name: there is no such place, nor can its user make it. A page must not be able to have
/// the desktop's handlers run by going to `mailto:` (the full browser would).
pub const NO_PLACE: &str = "/nonexistent";

/// A VM in which nothing but its holder runs.
#[derive(Debug)]
pub struct Vessel {
    fvm: Arc<Fvm>,
    holder: Option<Child>,
    /// Milliseconds that it took to start.
    vm_ms: f64,
}

/// The VM of a visit.
pub struct Machine {
    fvm: Arc<Fvm>,
    /// What holds the VM, and its browser.
    children: Option<[Child; 2]>,
    info: Info,
    plug: Box<dyn Plug>,
    /// The line to its browser.
    pub line: Line,
    /// Milliseconds until the VM was there.
    pub vm_ms: f64,
}

/// Puts what a visit needs and what it must not have on top of a policy.
#[must_use]
pub fn policy(base: Policy, params: &crate::model::Params) -> Policy {
    let mut policy = Policy { network: Network::None, hostname: Some("vm".into()), ..base };
    policy.publish.clear();
    policy.dbus.session = fvm::model::policy::Bus::None;
    policy.dbus.pass.clear();
    policy.kernel.filter = true;
    // The browser's own sandbox is made of them.
    policy.kernel.user_namespaces = true;
    if policy.trace == Level::Off || params.policy.is_none() {
        // What becomes of files is in the layers. Most of what a browser does is done to its own ones: each call would wait.
        policy.trace = Level::Programs;
    }
    let limits = &mut policy.limits;
    limits.memory_bytes = Some(params.memory_bytes);
    limits.cpu_milli = Some((params.cpus.clamp(0.05, 1000.0) * 1000.0).round() as u32);
    limits.pids = Some(u32::try_from(params.pids).unwrap_or(u32::MAX));
    policy
}

impl Vessel {
    /// Starts it.
    ///
    /// # Errors
    /// In words; nothing is left then.
    pub fn start(fvm: &Arc<Fvm>, policy: &Policy) -> Result<Self, String> {
        let began = Instant::now();
        let new = NewVm { ephemeral: true, in_memory: true, policy: policy.clone(), ..NewVm::default() };
        let hold = Call { argv: vec![HOLDER.into()], ..Call::default() };
        let streams = Streams { input: Stream::Pipe, ..Streams::default() };
        let holder = fvm.spawn(Place::New(&new), &hold, streams).map_err(|e| words("start a VM", &e))?;
        let vm_ms = began.elapsed().as_secs_f64() * 1000.0;
        Ok(Self { fvm: Arc::clone(fvm), holder: Some(holder), vm_ms })
    }
}

impl Drop for Vessel {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.take() {
            end(&self.fvm, [holder]);
        }
    }
}

impl Machine {
    /// Starts the browser in a VM, which is to say its first word yet. `argv`: its command, given its way out.
    ///
    /// # Errors
    /// In words; nothing is left then.
    pub fn start(
        mut vessel: Vessel,
        argv: impl FnOnce(&dyn Plug) -> Vec<OsString>,
        env: &[(OsString, OsString)],
        gate: &dyn Gate,
    ) -> Result<Self, String> {
        let fvm = Arc::clone(&vessel.fvm);
        let begin = |vm: &VmRecord| -> Result<(Info, Box<dyn Plug>, Child, Line), String> {
            let info = fvm.info(vm).map_err(|e| words("find the VM's processes", &e))?;
            let pid = u32::try_from(info.init).map_err(|_| "the VM has no process".to_owned())?;
            let plug = gate.plug(pid).map_err(|e| e.to_string())?;
            let streams = Streams { input: Stream::Pipe, output: Stream::Pipe, errors: Stream::Pipe };
            let call = call(argv(&*plug), env);
            let mut browser = fvm.spawn(Place::In(vm), &call, streams).map_err(|e| words("start a browser", &e))?;
            let streams = (browser.input.take(), browser.output.take(), browser.errors.take());
            let (Some(input), Some(output), errors) = streams else { return Err("the browser has no streams".into()) };
            let line =
                Line::new(input, output, errors).map_err(|e| format!("cannot open the line to the browser: {e}"))?;
            Ok((info, plug, browser, line))
        };
        // Dropped with what is left of the vessel when the browser does not start.
        let holder = vessel.holder.as_ref().ok_or_else(|| "a VM without a holder".to_owned())?;
        let (info, plug, browser, line) = begin(&holder.vm)?;
        let children = vessel.holder.take().map(|holder| [holder, browser]);
        Ok(Self { fvm, children, info, plug, line, vm_ms: vessel.vm_ms })
    }

    /// Its record.
    #[must_use]
    pub fn record(&self) -> Option<&VmRecord> {
        self.children.as_ref().map(|[holder, _]| &holder.vm)
    }

    /// Its way out.
    #[must_use]
    pub fn plug(&self) -> &dyn Plug {
        &*self.plug
    }

    /// What its threads have done up to now.
    pub(super) fn threads(&self) -> Threads {
        Threads::of(self.record().map(|record| self.fvm.process_ids(record, &self.info)).unwrap_or_default())
    }

    /// Where its layers are.
    pub(super) fn layers(&self) -> &Path {
        self.record().map_or(Path::new("/nonexistent"), |record| record.layers_dir.as_path())
    }

    /// What its layers take on the disk, in bytes.
    pub(super) fn taken(&self) -> u64 {
        self.record().map_or(0, |record| self.fvm.disk(record))
    }

    /// What it uses now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.record().map(|record| self.fvm.usage(record, &self.info)).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(children) = self.children.take() {
            end(&self.fvm, children);
        }
    }
}

/// Ends a VM, and waits until it is gone. The first is what holds it.
fn end<const N: usize>(fvm: &Fvm, children: [Child; N]) {
    let is_cut = fvm.kill(&children[0].vm).is_err();
    if is_cut {
        // Its keeper does not answer, or has ended: without it there is no VM.
        let _gone = children[0].signal(Signal::KILL);
    }
    for child in children {
        let _ended = child.wait();
    }
    if is_cut {
        // Nobody else takes away what it left; if this cannot, the next command does.
        let _left = fvm.sweep();
    }
}

/// A program as the browser's user, with nothing of ours in its environment.
#[must_use]
pub fn call(argv: Vec<OsString>, env: &[(OsString, OsString)]) -> Call {
    let own =
        [("PATH", NO_PLACE), ("HOME", HOME), ("LANG", "C.UTF-8"), ("TZ", "UTC"), ("XDG_CURRENT_DESKTOP", "X-Generic")];
    let own = own.iter().map(|(key, value)| (OsString::from(key), OsString::from(value)));
    let is_root = rustix::process::geteuid().is_root();
    Call {
        argv,
        own_env: own.chain(env.iter().cloned()).collect(),
        user: is_root.then(|| USER.to_string()),
        umask: 0o077,
        ..Call::default()
    }
}

/// An error and all that it came from.
#[must_use]
pub fn words(what: &str, error: &FvmError) -> String {
    let hint = error.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
    format!("cannot {what}: {}{hint}", error.chain())
}
