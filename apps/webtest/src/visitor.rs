//! Who visits: browsers in VMs, behind a gate.
//!
//! ```text
//!  Parts (one thread): fvm, its forker ─┐
//!  parameters of a run ─────────────────┴─► Pair: VmVisitor over a Gateway, verdict::judge with each browser's baseline
//! ```

use crate::cli::{Failure, places};
use fvm::Fvm;
use fvm_webtest::args::{Global, Out};
use fvm_webtest::baseline::{Baseline, Key, Learnt};
use fvm_webtest::model::{Observation, Params, Verdict};
use fvm_webtest::net::args::{OutArgs, way_of};
use fvm_webtest::net::gate::{Gateway, Helper, Options};
use fvm_webtest::verdict;
use fvm_webtest::visit::{Visitor, VmVisitor};
use std::fs::DirEntry;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The one argument by which this program knows that it is the gate's helper.
pub const AS_HELPER: &str = "__gate";

/// What is made while there is one thread: fvm copies a process only then.
pub struct Parts {
    fvm: Arc<Fvm>,
    vms: PathBuf,
}

/// Who visits, and what is said of what was seen.
pub struct Pair {
    /// Visits.
    pub visits: Box<dyn Visitor>,
    /// Judges.
    pub judges: Box<dyn Fn(&Observation) -> Verdict + Sync>,
    /// The browsers, by which baselines are kept.
    pub keys: Vec<Key>,
}

impl Parts {
    /// Opens fvm and starts the process that makes its VMs.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let (home, run) = places::fvm_dirs(global)?;
        let failed = |e: fvm::FvmError| Failure::of(e.chain(), e.hint());
        let fvm = Fvm::open(&home, &run).map_err(failed)?;
        fvm.start_forker().map_err(failed)?;
        let parts = Self { fvm: Arc::new(fvm), vms: home.join("vms") };
        parts.sweep();
        Ok(parts)
    }

    /// Removes VMs of workers that were killed, and waits a little for those that are being removed: whoever does that ends with this
    /// program. What is left then the next command removes.
    pub fn sweep(&self) {
        let began = Instant::now();
        loop {
            let is_swept = self.fvm.sweep().is_ok();
            if !is_swept || !self.is_removing() || began.elapsed() > Duration::from_secs(5) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether a VM is being removed (docs/spec/state.md: `.trash-<id>`).
    fn is_removing(&self) -> bool {
        let is_trash = |entry: &DirEntry| {
            entry.file_name().as_encoded_bytes().starts_with(b".trash-")
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        };
        std::fs::read_dir(self.vms.as_path())
            .is_ok_and(|mut all| all.any(|entry| entry.is_ok_and(|entry| is_trash(&entry))))
    }

    /// The browser of a run with these parameters: that it is there.
    pub fn browser(&self, params: &Params) -> Result<String, Failure> {
        let browsers = VmVisitor::browsers(params.tier).map_err(missing)?;
        Ok(browsers.iter().map(|browser| browser.file.display().to_string()).collect::<Vec<_>>().join(", "))
    }
}

fn missing(e: impl std::fmt::Display) -> Failure {
    Failure::new(
        e.to_string(),
        "'apt-get install chromium-headless-shell' (--tier shell), 'apt-get install chromium' (--tier full)",
    )
}

/// Browsers in VMs, as these parameters want them.
pub fn visitor(parts: &Parts, params: &Params, out: &Out) -> Result<Pair, Failure> {
    let learnt: Vec<Learnt> = places::baselines()?;
    let browsers = VmVisitor::browsers(params.tier).map_err(missing)?;
    let (fvm, gate) = (Arc::clone(&parts.fvm), Arc::new(gate(params, out)?));
    let visits =
        VmVisitor::new(fvm, gate, params.clone(), &places::policy_dirs(), &learnt, browsers).map_err(failed)?;
    let keys = visits.keys();
    // What was seen names the browser, and that its baseline.
    let mut baselines = Vec::new();
    for key in &keys {
        let own = Baseline::new(key, learnt.iter().find(|learnt| learnt.key == *key)).map_err(failed)?;
        baselines.push((key.browser.clone(), own));
    }
    let none = Baseline::new(&Key::default(), None).map_err(failed)?;
    let judges = move |seen: &Observation| {
        let own = baselines.iter().find(|(browser, _)| *browser == seen.browser).map_or(&none, |(_, own)| own);
        verdict::judge(seen, own)
    };
    Ok(Pair { visits: Box::new(visits), judges: Box::new(judges), keys })
}

/// The way out of the VMs.
fn gate(params: &Params, out: &Out) -> Result<Gateway, Failure> {
    let out = OutArgs { proxies: Vec::new(), allow: out.allow.clone(), roots: out.roots.clone() };
    let way = way_of(params, &out).map_err(|e| Failure::new(e, "see --record, --replay, --proxy, --allow-address"))?;
    let helper = Helper { program: "/proc/self/exe".into(), args: vec![AS_HELPER.into()] };
    Gateway::start(&helper, way, Options::default()).map_err(failed)
}

/// With the whole chain of causes.
fn failed(e: impl std::error::Error) -> Failure {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    Failure::new(text, "'fvm webtest doctor' and 'fvm doctor' say what is missing")
}
