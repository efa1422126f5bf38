//! A VM with a browser in it: how it begins and how it ends.
//!
//! ```text
//!   spawn(sh) ─► info: init's pid ─► Gate::plug(pid) ─► proxy and keys to sh, which becomes the browser ─► Line
//!   kill ─► wait: the VM is gone, and its layers with it (it is ephemeral)
//! ```
//!
//! Invariants: whatever becomes of it, when it is dropped its VM is gone; the VM has a loopback and nothing else before its browser
//! begins.

use super::browser::HOME;
use crate::devtools::Line;
use crate::net::{Gate, Plug};
use fvm::model::{Level, Network, Policy, VmRecord};
use fvm::{Call, Child, Fvm, FvmError, Info, NewVm, Place, Stream, Streams, Usage};
use rustix::process::Signal;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Instant;

/// The user that the browser is in a VM of root's: nobody on the host.
pub const USER: u32 = 64_738;

/// The VM of a visit.
pub struct Machine {
    fvm: Arc<Fvm>,
    child: Option<Child>,
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
        policy.trace = Level::Basic;
    }
    let limits = &mut policy.limits;
    limits.memory_bytes = Some(params.memory_bytes);
    limits.cpu_milli = Some((params.cpus.clamp(0.05, 1000.0) * 1000.0).round() as u32);
    limits.pids = Some(u32::try_from(params.pids).unwrap_or(u32::MAX));
    policy
}

impl Machine {
    /// Starts a VM and its browser, which is to say its first word yet.
    ///
    /// # Errors
    /// In words; nothing is left then.
    pub fn start(
        fvm: &Arc<Fvm>,
        policy: &Policy,
        argv: Vec<OsString>,
        env: &[(OsString, OsString)],
        gate: &dyn Gate,
    ) -> Result<Self, String> {
        let began = Instant::now();
        let new = NewVm { ephemeral: true, policy: policy.clone(), ..NewVm::default() };
        let call = call(argv, env);
        let streams = Streams { input: Stream::Pipe, output: Stream::Pipe, errors: Stream::Pipe };
        let child = fvm.spawn(Place::New(&new), &call, streams).map_err(|e| words("start a VM", &e))?;
        let vm_ms = began.elapsed().as_secs_f64() * 1000.0;
        match Self::connect(fvm, child, gate) {
            Ok(mut machine) => {
                machine.vm_ms = vm_ms;
                Ok(machine)
            }
            Err((child, why)) => {
                end(fvm, child);
                Err(why)
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "the child is to be ended by the caller")]
    fn connect(fvm: &Arc<Fvm>, mut child: Child, gate: &dyn Gate) -> Result<Self, (Child, String)> {
        let info = match fvm.info(&child.vm) {
            Ok(info) => info,
            Err(e) => return Err((child, words("find the VM's processes", &e))),
        };
        let plug = match u32::try_from(info.init).map(|pid| gate.plug(pid)) {
            Ok(Ok(plug)) => plug,
            Ok(Err(e)) => return Err((child, e.to_string())),
            Err(_) => return Err((child, "the VM has no process".into())),
        };
        let (Some(input), Some(output)) = (child.input.take(), child.output.take()) else {
            return Err((child, "the VM has no streams".into()));
        };
        let mut line = match Line::new(input, output, child.errors.take()) {
            Ok(line) => line,
            Err(e) => return Err((child, format!("cannot open the line to the browser: {e}"))),
        };
        line.send_raw(format!("{}\n{}\n", plug.proxy(), plug.keys().join(",")).as_bytes());
        Ok(Self { fvm: Arc::clone(fvm), child: Some(child), info, plug, line, vm_ms: 0.0 })
    }

    /// Its record.
    #[must_use]
    pub fn record(&self) -> Option<&VmRecord> {
        self.child.as_ref().map(|child| &child.vm)
    }

    /// Its way out.
    #[must_use]
    pub fn plug(&self) -> &dyn Plug {
        &*self.plug
    }

    /// What it uses now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.record().map(|record| self.fvm.usage(record, &self.info)).unwrap_or_default()
    }

    /// Lets none of its processes run any more. That it could not be done is no error: it ends soon anyway.
    pub fn freeze(&self) {
        if let Some(record) = self.record() {
            let _runs_on = self.fvm.suspend(record);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(&self.fvm, child);
        }
    }
}

/// Ends a VM, and waits until it is gone.
fn end(fvm: &Fvm, child: Child) {
    if fvm.kill(&child.vm).is_err() {
        // Its keeper does not answer, or has ended: without it there is no VM.
        let _gone = child.signal(Signal::KILL);
    }
    let _ended = child.wait();
}

/// A program as the browser's user, with nothing of ours in its environment.
#[must_use]
pub fn call(argv: Vec<OsString>, env: &[(OsString, OsString)]) -> Call {
    let own = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", HOME),
        ("LANG", "C.UTF-8"),
        ("TZ", "UTC"),
        ("XDG_CURRENT_DESKTOP", "X-Generic"),
    ];
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
