//! What can go wrong with a VM, as values.

use fvm_model::{IllegalEvent, VmName};
use rustix::io::Errno;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A system call on one of fvm's own files failed.
    #[error("cannot {what} {}: {errno}", .path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// Nothing is called that.
    #[error("there is no VM '{0}'")]
    NoSuchVm(String),
    /// More than one id begins like that.
    #[error("'{0}' could mean {1} VMs: give more of the id, or the name")]
    Ambiguous(String, usize),
    /// Names are unique.
    #[error("there already is a VM '{0}'")]
    NameTaken(VmName),
    /// Root is more in an ordinary user's VM than that user: a root whose identity is the host's, with nothing locked.
    #[error("'{0}' is an ordinary user's VM: root can review and commit it, but not start it")]
    UsersVm(VmName),
    /// `vm.json` or `format` cannot be used.
    #[error("cannot use {}: {why}", .path.display())]
    BadRecord {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The state does not allow it.
    #[error("'{name}': {source}")]
    State {
        /// Which VM.
        name: VmName,
        /// What was asked, and the state.
        source: IllegalEvent,
    },
    /// Another fvm command holds the VM.
    #[error("'{0}' is in use by another fvm command")]
    Busy(VmName),
    /// A signal came before its program was there.
    #[error("interrupted while the VM was being built")]
    Interrupted,
    /// Another fvm command changed it since it was looked up.
    #[error("'{0}' was changed by another fvm command just now; try again")]
    Changed(VmName),
    /// It must be stopped for this.
    #[error("'{name}' is running: this of its policy cannot be changed now: {what}; nothing was changed")]
    Fixed {
        /// Which VM.
        name: VmName,
        /// What, as policies call it.
        what: String,
    },
    /// It must run for this.
    #[error("'{0}' is not running")]
    NotRunning(VmName),
    /// A step of building the sandbox failed.
    #[error("cannot start the VM: {step}: {why}")]
    Setup {
        /// The step, as `fvm explain` prints it.
        step: String,
        /// Why it failed.
        why: String,
    },
    /// The keeper did not answer, or not as agreed.
    #[error("the keeper of '{name}' does not answer: {why}")]
    Keeper {
        /// Which VM.
        name: VmName,
        /// What happened.
        why: String,
    },
    /// The keeper answered that it could not do it.
    #[error("'{name}': {why}")]
    Refused {
        /// Which VM.
        name: VmName,
        /// In words.
        why: String,
    },
    /// No pool is called that.
    #[error("there is no pool '{0}'")]
    NoSuchPool(VmName),
    /// Nobody holds VMs ready for it.
    #[error("the pool '{0}' is not running")]
    NoPool(VmName),
    /// Its keeper cannot, or will not.
    #[error("the pool '{name}': {why}")]
    Pool {
        /// Which.
        name: VmName,
        /// In words.
        why: String,
    },
    /// The host's desktop cannot be asked for anything.
    #[error("the VM cannot ask the host's desktop for what its policy passes (session bus: {address}): {why}")]
    Desktop {
        /// The host's session bus.
        address: String,
        /// Why it was not reached.
        why: String,
    },
    /// The VM cannot be limited as its policy says.
    #[error("cannot limit the VM ({what}): {why}")]
    Limit {
        /// The limit.
        what: String,
        /// Why not.
        why: String,
    },
    /// A process with several threads cannot do this itself.
    #[error("cannot {0} from a process with several threads")]
    Threads(&'static str),
    /// This process sees other mounts than the host has by now.
    #[error(
        "the host mounted or unmounted something at {0} while this command looked at the VM's disk: nothing was committed; commit again"
    )]
    Strayed(fvm_model::HostPath),
    /// The facts about the host could not be collected.
    #[error(transparent)]
    Host(#[from] fvm_host::HostError),
    /// A call that cannot fail did.
    #[error("cannot {0}: {1}")]
    Sys(&'static str, Errno),
    /// A bug in fvm.
    #[error("internal error: {0}")]
    Internal(String),
}
