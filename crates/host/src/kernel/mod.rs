//! What this kernel and machine can do, tried out once, and what to do about each gap (`fvm doctor`).
//!
//! ```text
//!   mod         Feature, Level, Kernel; probe: the list of trials
//!    ├ trial      a forked child, a scratch directory, namespaces in which one may mount
//!    ├ isolation  user and other namespaces, seccomp
//!    ├ layers     overlayfs and what it needs of a file system; shifted ids
//!    ├ cgroups    which version, whose, with which controllers
//!    └ machine    single calls, devices, id ranges
//!
//!   try in a forked child, in namespaces of its own ─► Enforced | Partly(why) | Missing(why) + advice
//! ```
//!
//! Invariants: what can be tried is tried, nothing is concluded from a version number; a trial changes nothing that
//! outlives its child and its scratch directory; no trial waits for anything; every gap that can be closed has advice
//! of one line.

mod cgroups;
mod isolation;
mod layers;
mod machine;
mod network;
mod trial;

use fvm_sys::process;
use std::path::Path;

/// How far a feature is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Level {
    /// Tried, and it works.
    Enforced,
    /// It works with a limit.
    Partly(String),
    /// It does not work, and why.
    Missing(String),
}

/// One feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// How far it is there.
    pub level: Level,
    /// What fvm uses it for.
    pub needed_for: &'static str,
    /// What to do about it, when something can be done.
    pub advice: Option<String>,
}

impl Feature {
    /// A feature that is there.
    fn enforced(name: &'static str, needed_for: &'static str) -> Self {
        Self { name, level: Level::Enforced, needed_for, advice: None }
    }

    fn partly(self, why: impl Into<String>) -> Self {
        Self { level: Level::Partly(why.into()), ..self }
    }

    fn missing(self, why: impl Into<String>) -> Self {
        Self { level: Level::Missing(why.into()), ..self }
    }

    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

pub use network::own_network;

/// What this machine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// In the order of importance.
    pub features: Vec<Feature>,
}

impl Kernel {
    /// Whether a VM can be started at all.
    #[must_use]
    pub fn can_run(&self) -> bool {
        let essential = [isolation::USER_NAMESPACES, isolation::NAMESPACES, layers::OVERLAY];
        self.features.iter().all(|f| !essential.contains(&f.name) || !matches!(f.level, Level::Missing(_)))
    }
}

/// Tries everything out. `home` is the state directory, `run` that of sockets; neither need be there.
#[must_use]
pub fn probe(home: &Path, run: &Path) -> Kernel {
    let root = process::is_privileged();
    let mut features = vec![isolation::user_namespaces(root), isolation::namespaces(root)];
    features.extend(layers::features(home, run, root));
    features.push(isolation::seccomp(root));
    features.push(isolation::behaviour_log(root));
    features.push(cgroups::feature(run, root));
    features.push(network::feature(root));
    features.extend(machine::features(run, root));
    Kernel { features }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let kernel = probe(home.path(), home.path());
        assert!(kernel.features.len() > 10);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_that_are_not_there_yet_are_not_made() {
        let base = tempfile::tempdir().unwrap();
        let home = base.path().join("not/yet");
        let overlay = |kernel: &Kernel| kernel.features.iter().find(|f| f.name == layers::OVERLAY).cloned();
        assert_eq!(overlay(&probe(&home, &home)), overlay(&probe(base.path(), base.path())));
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_are_unique_and_every_gap_of_what_vms_need_has_advice() {
        let home = tempfile::tempdir().unwrap();
        let features = probe(home.path(), home.path()).features;
        let mut names: Vec<_> = features.iter().map(|f| f.name).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        for feature in features {
            assert!(!matches!(feature.level, Level::Missing(_)) || feature.advice.is_some(), "{feature:?}");
            assert!(feature.level != Level::Enforced || feature.advice.is_none(), "{feature:?}");
            assert!(!feature.advice.is_some_and(|a| a.contains('\n')));
        }
    }

    #[test]
    fn policies_can_require_what_is_tried_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let mut tried: Vec<_> = probe(home.path(), home.path()).features.iter().map(|f| f.name).collect();
        let known = fvm_model::policy::FEATURES;
        assert!(tried.iter().all(|name| known.contains(name)), "{tried:?}");
        // Not tried for root, whose ids need no ranges and whose networks need no helper.
        if process::is_privileged() {
            tried.extend(["pasta", "subordinate ids", "newuidmap"]);
        }
        assert!(known.iter().all(|name| tried.contains(name)), "{tried:?}");
    }

    #[test]
    fn without_an_essential_feature_no_vm_can_run() {
        let feature = |name| Feature::enforced(name, "");
        let with = |features| Kernel { features }.can_run();
        assert!(with(vec![feature(layers::OVERLAY), feature("other").missing("")]));
        assert!(with(vec![feature(layers::OVERLAY).partly("")]));
        assert!(!with(vec![feature(layers::OVERLAY).missing("")]));
        assert!(!with(vec![feature(isolation::USER_NAMESPACES).missing("")]));
    }
}
