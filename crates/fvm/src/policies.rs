//! Policies by name: built-in profiles, and files in the places that the caller gives.
//!
//! ```text
//!   untrusted          built in
//!   mine               <dir>/mine.toml, in the first directory that has it
//!   ./mine.toml        that file
//! ```
//!
//! Invariant: a built-in name always means the built-in profile: nobody can weaken `untrusted` by a file.

use crate::{Fvm, FvmError};
use fvm_model::policy::{Flags, OWN_NETWORK, PROFILES, PolicyError, Source, amend, resolve};
use fvm_model::{Network, Policy, VmRecord};
use std::io::Read;
use std::path::{Path, PathBuf};

/// More of a policy is not read; the reader then says that it is too long.
const READ_MAX_BYTES: u64 = 1 << 20;

/// A policy that can be named.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PolicyEntry {
    /// Its name.
    pub name: String,
    /// What it is for; `None` for files.
    pub about: Option<String>,
    /// Where it is; `None` for a built-in profile.
    pub file: Option<PathBuf>,
}

/// The policies there are: built-in ones first.
#[must_use]
pub fn policies(dirs: &[PathBuf]) -> Vec<PolicyEntry> {
    let built_in =
        PROFILES.iter().map(|p| PolicyEntry { name: p.name.into(), about: Some(p.about.into()), file: None });
    let mut all: Vec<PolicyEntry> = built_in.collect();
    for dir in dirs {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
        files.sort();
        for file in files {
            let Some(name) = file.file_stem().and_then(|s| s.to_str()) else { continue };
            if !all.iter().any(|p| p.name == name) {
                all.push(PolicyEntry { name: name.to_owned(), about: None, file: Some(file.clone()) });
            }
        }
    }
    all
}

/// The whole policy that `named`, a name or a file, stands for (nothing: the default), with `flags` on top.
///
/// # Errors
/// What is wrong with it, with its place.
pub fn policy(named: Option<&str>, flags: &Flags, dirs: &[PathBuf]) -> Result<Policy, FvmError> {
    // On the start path: no text is read for what most ask for. Whoever asks for a network of its own requires it, too.
    let is_plain = *flags == (Flags { network: flags.network, ..Flags::default() });
    if named.is_none() && is_plain && flags.network != Some(Network::Own) {
        let usual = Policy::default();
        return Ok(Policy { network: flags.network.unwrap_or(usual.network), ..usual });
    }
    let find = |name: &str| -> Result<Option<Source>, PolicyError> {
        if name.contains('/') || Path::new(name).extension().is_some_and(|e| e == "toml") {
            return read(Path::new(name)).map(Some);
        }
        match policies(dirs).into_iter().find(|p| p.name == name) {
            Some(PolicyEntry { file: Some(file), .. }) => read(&file).map(Some),
            _ => Ok(None),
        }
    };
    // As if a policy of one line had named it, so that both are looked for and complained about alike.
    let name = named.unwrap_or("default");
    let wrong = |what| FvmError::Policy(PolicyError { message: what, place: None });
    let found = match PROFILES.iter().find(|p| p.name == name) {
        Some(profile) => Some(Source { file: profile.name.into(), text: profile.text.into() }),
        None => find(name).map_err(FvmError::Policy)?,
    };
    let source = found.ok_or_else(|| {
        let names: Vec<String> = policies(dirs).into_iter().map(|p| p.name).collect();
        wrong(format!("there is no policy '{name}': it is one of {}, or a file", names.join(", ")))
    })?;
    resolve(&source, flags, &find).map_err(FvmError::Policy)
}

/// The policy of `record`, with `flags` on top.
///
/// # Errors
/// What is wrong with them.
pub fn amended(record: &VmRecord, flags: &Flags) -> Result<Policy, FvmError> {
    amended_policy(&record.policy, flags, &format!("the policy of '{}'", record.name))
}

/// `policy`, which is called `whose`, with `flags` on top.
///
/// # Errors
/// What is wrong with them.
pub fn amended_policy(policy: &Policy, flags: &Flags, whose: &str) -> Result<Policy, FvmError> {
    amend(policy, flags, whose).map_err(FvmError::Policy)
}

fn read(file: &Path) -> Result<Source, PolicyError> {
    let shown = file.display().to_string();
    let wrong = |why: String| PolicyError { message: format!("cannot read the policy '{shown}': {why}"), place: None };
    let opened = std::fs::File::open(file).map_err(|e| wrong(e.to_string()))?;
    let mut text = String::new();
    opened.take(READ_MAX_BYTES).read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?;
    Ok(Source { file: shown, text })
}

impl Fvm {
    /// The limits of `policy` that cannot be held on this machine, each with why.
    #[must_use]
    pub fn unenforced(&self, policy: &Policy) -> Vec<(&'static str, String)> {
        let limits = &policy.limits;
        if !limits.any() {
            return Vec::new();
        }
        if fvm_sys::process::is_privileged() {
            return fvm_vm::groups::unenforced(limits, true);
        }
        let manager = fvm_host::UserManager::find(self.home().run_dir().parent());
        fvm_vm::scope::unenforced(limits, manager.as_ref())
    }

    /// Checks that this machine has what the policy requires.
    ///
    /// # Errors
    /// [`FvmError::Lacks`] with the first feature that is missing.
    pub fn check_requirements(&self, policy: &Policy) -> Result<(), FvmError> {
        if let Some((name, why)) = self.unenforced(policy).into_iter().next() {
            return Err(FvmError::Vm(fvm_vm::VmError::Limit { what: name.into(), why }));
        }
        if policy.requires.is_empty() {
            return Ok(());
        }
        let lacks = |feature: &str, why: String| FvmError::Lacks {
            feature: feature.to_owned(),
            policy: policy.name.0.clone(),
            why,
        };
        // What most ask for has an answer of its own: trying all takes longer than a start.
        let is_own_network = |name: &String| name == OWN_NETWORK;
        if policy.requires.iter().any(is_own_network)
            && let Err((why, advice)) = fvm_host::own_network(fvm_sys::process::is_privileged())
        {
            return Err(lacks(OWN_NETWORK, format!("{why}: {advice}, or use '--net none' or '--net host'")));
        }
        if policy.requires.iter().all(is_own_network) {
            return Ok(());
        }
        crate::may_probe()?;
        let kernel = fvm_host::probe(self.home().state_dir(), self.home().run_dir());
        for wanted in &policy.requires {
            let lacks = |why| lacks(wanted, why);
            let Some(feature) = kernel.features.iter().find(|f| f.name == wanted) else {
                let who = if fvm_sys::process::is_privileged() { "root" } else { "an ordinary user" };
                return Err(lacks(format!("it is not used for VMs of {who}")));
            };
            match &feature.level {
                fvm_host::Level::Enforced => {}
                fvm_host::Level::Partly(why) | fvm_host::Level::Missing(why) => return Err(lacks(why.clone())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_policies_are_what_their_text_says() {
        for network in [None, Some(Network::Own), Some(Network::Host), Some(Network::None)] {
            let flags = Flags { network, ..Flags::default() };
            assert_eq!(
                policy(None, &flags, &[]).unwrap(),
                policy(Some("default"), &flags, &[]).unwrap(),
                "{network:?}"
            );
        }
    }
}
