//! Every way in which fvm can fail, as one value: what happened, the exit code, and what to do next.

use fvm_commit::CommitError;
use fvm_model::{VmName, VmPath, exit};
use fvm_vm::VmError;

/// An error of the fvm API.
#[derive(Debug, thiserror::Error)]
pub enum FvmError {
    /// A VM's life.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The host could not be looked at.
    #[error(transparent)]
    Host(#[from] fvm_host::HostError),
    /// The layers could not be read.
    #[error(transparent)]
    Scan(#[from] fvm_changes::ScanError),
    /// Layers that are shared could not be put together.
    #[error(transparent)]
    Stack(#[from] fvm_changes::StackError),
    /// A host file of several names cannot be followed into a copy.
    #[error("cannot take all of '{name}' along: it changed '{path}', which the host has under other names too")]
    Alias {
        /// The VM.
        name: VmName,
        /// The file.
        path: VmPath,
    },
    /// The behaviour log cannot be read.
    #[error(transparent)]
    Log(#[from] fvm_trace::LogError),
    /// The virus scanner that was asked for does not answer.
    #[error(transparent)]
    Clamd(#[from] fvm_analyze::clamd::ClamdError),
    /// Exceptions cannot be used.
    #[error(transparent)]
    Exceptions(#[from] fvm_analyze::ExceptionError),
    /// Sigma rules cannot be loaded.
    #[error(transparent)]
    Sigma(#[from] fvm_analyze::SigmaError),
    /// The policy demands more than there is.
    #[error("the policy of '{name}' demands the verdict 'clean', and it is '{verdict}': nothing was committed")]
    Verdict {
        /// The VM.
        name: VmName,
        /// What it is.
        verdict: fvm_model::Verdict,
    },
    /// The choice cannot be carried out.
    #[error(transparent)]
    Review(#[from] fvm_review::ReviewError),
    /// The host did not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A program of the host would write over what is committed.
    #[error("a {program} of the host has '{path}' in memory and would write over it; nothing was committed")]
    Live {
        /// The store.
        path: VmPath,
        /// What runs.
        program: &'static str,
    },
    /// A VM did not get into a file, or out of one.
    #[error("cannot {what}: {why}")]
    Archive {
        /// What was attempted, with its object.
        what: String,
        /// Why not.
        why: String,
    },
    /// The same, of the file itself.
    #[error("cannot import it: {0}")]
    Import(#[from] fvm_transfer::TransferError),
    /// Files did not get in or out of a VM.
    #[error("cannot copy '{what}': {why}")]
    Copy {
        /// From where.
        what: String,
        /// Why.
        why: String,
    },
    /// A mark could not be read, set or taken off.
    #[error("cannot {what} '{}': {errno}", .path.display())]
    Mark {
        /// What was attempted.
        what: &'static str,
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        errno: rustix::io::Errno,
    },
    /// The book of marks.
    #[error(transparent)]
    Book(#[from] fvm_marks::BookError),
    /// There are no more descriptors.
    #[error("cannot make a pipe: {0}")]
    Pipe(rustix::io::Errno),
    /// A policy makes no sense.
    #[error(transparent)]
    Policy(fvm_model::policy::PolicyError),
    /// This machine cannot keep a policy.
    #[error("the policy '{policy}' requires '{feature}', which this machine does not have: {why}")]
    Lacks {
        /// Which feature.
        feature: String,
        /// Whose.
        policy: String,
        /// Why not.
        why: String,
    },
    /// What a process of ours met that did it for this one.
    #[error("{why}")]
    There {
        /// Its whole chain of causes.
        why: String,
        /// What to do next.
        hint: Option<String>,
        /// The exit code of a command that fails with it.
        code: u8,
    },
    /// It must be stopped for this.
    #[error("'{0}' is running")]
    Running(VmName),
}

impl FvmError {
    /// The exit code of a command (other than run and exec) that fails with this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Vm(VmError::NoSuchVm(_)) => exit::NO_SUCH_VM,
            Self::Vm(VmError::Ambiguous(..)) | Self::Policy(_) => exit::USAGE,
            Self::Review(fvm_review::ReviewError::Conflicts(_))
            | Self::Commit(CommitError::HostChanged(_) | CommitError::ChangedSince { .. }) => exit::CONFLICT,
            Self::There { code, .. } => *code,
            Self::Commit(CommitError::Interrupted) | Self::Vm(VmError::Interrupted) => exit::INTERRUPTED,
            _ => exit::FAILED,
        }
    }

    /// The whole chain of causes, in words.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }

    /// What to do next, when there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Vm(VmError::NoSuchVm(_)) => Some("'fvm list' shows the VMs there are".into()),
            Self::Vm(VmError::NoSuchPool(name)) => {
                Some(format!("'fvm pool create {name}' makes it; 'fvm pool status' shows those there are"))
            }
            Self::Vm(VmError::NoPool(name)) => Some(format!("'fvm pool start {name}' starts it")),
            Self::Vm(VmError::NameTaken(name)) => Some(format!("choose another name, or 'fvm delete {name}' first")),
            Self::Vm(VmError::NotRunning(name)) => {
                Some(format!("'fvm start {name}' starts it; 'fvm run --name {name} -- CMD' runs one program in it"))
            }
            Self::Vm(VmError::UsersVm(name)) => Some(format!("'fvm export {name} FILE' takes it to a user")),
            Self::Live { .. } => Some("'wineserver -w' waits for its end, 'wineserver -k' ends it".into()),
            Self::Import(fvm_transfer::TransferError::Refused { why, .. }) if why.contains("stands for another") => {
                Some("so does one that the VM moved; '--trust' takes it, if you trust who made the archive".into())
            }
            Self::Alias { name, path } => Some(format!("'fvm commit {name} {path}' or 'fvm discard {name} {path}' first")),
            Self::Policy(_) => Some("'fvm policy list' names those there are, 'fvm policy show NAME' shows one".into()),
            Self::Lacks { .. } => Some("'fvm doctor' says what to do about it; --allow-partial starts without it".into()),
            Self::There { hint, .. } => hint.clone(),
            Self::Vm(VmError::Threads(_)) => {
                Some("a program calls Fvm::start_forker before it starts threads; what that does not cover, one with one thread does, or 'fvm serve'".into())
            }
            Self::Verdict { name, .. } => Some(format!(
                "'fvm analyze {name}' says why; exceptions can excuse what is known, 'fvm configure {name} --policy' changes the demand"
            )),
            Self::Clamd(_) => Some("is clamd running, and may you use its socket?".into()),
            Self::Running(name) | Self::Vm(VmError::Fixed { name, .. }) => Some(format!("'fvm stop {name}' first")),
            Self::Vm(VmError::BadRecord { .. }) => {
                Some("the VM's layers are untouched; restore the file from a backup, or remove the VM's directory to give it up".into())
            }
            Self::Vm(VmError::Setup { .. }) => Some("'fvm doctor' shows what this machine allows".into()),
            Self::Review(fvm_review::ReviewError::Conflicts(_)) => {
                Some("--on-conflict skip leaves these out, vm takes the VM's version, host drops the VM's, merge merges texts".into())
            }
            Self::Commit(CommitError::Unmarkable { .. }) => Some(
                "its file system keeps no attributes; '--no-mark' commits it unmarked, --except leaves it out".into(),
            ),
            Self::Mark { what: "unmark", .. } => Some("root set that mark: 'sudo fvm unmark' takes it off".into()),
            Self::Commit(CommitError::NoSuchCommit(_)) => Some("'fvm history' shows the commits there are".into()),
            Self::Commit(CommitError::ChangedSince { .. }) => {
                Some("put these back as the commit left them, or change by hand what you want to have back".into())
            }
            _ => None,
        }
    }
}
