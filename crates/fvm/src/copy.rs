//! Files in and out of a running VM.
//!
//! ```text
//!   out   tar in the VM, as the VM sees its files ── pipe ──► fvm_transfer::unpack ──► host
//!   in    host ──► fvm_transfer::pack ── pipe ──► tar in the VM
//! ```
//!
//! Invariant: what the VM's tar says and sends is the VM's: bytes that are checked, and text that is shown in part.

use crate::marks::Marking;
use crate::{Call, Ended, Fvm, FvmError};
use fvm_commit::Marks as _;
use fvm_model::path::printable;
use fvm_model::{VmPath, VmRecord};
use fvm_sys::dir::Dir;
use fvm_transfer::{Limits, Seal, TransferError, TreeWriter};
use fvm_vm::lifecycle::{self, Piped};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// As much of a complaint is shown.
const COMPLAINT_MAX_BYTES: u64 = 2000;
/// So long after its end it may still come.
const COMPLAINT_MAX: Duration = Duration::from_secs(1);

/// Marks what comes out of a VM.
#[derive(Debug)]
struct Sealing {
    marking: Rc<Marking>,
    at: PathBuf,
}

impl Seal for Sealing {
    fn seal(&mut self, path: &Path, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let len = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
        if !self.marking.concerns(len) {
            return Ok(());
        }
        let full = if path.as_os_str().is_empty() { self.at.clone() } else { self.at.join(path) };
        match self.marking.of(full.as_os_str().as_bytes(), file, None, None)? {
            Some(mark) => fvm_marks::set(file, &mark),
            None => Ok(()),
        }
    }
}

/// A program in the VM.
struct Tar {
    piped: Piped,
    complaint: Receiver<String>,
}

impl Tar {
    /// Waits for its end, which must be a good one.
    fn wait(self) -> Result<(), String> {
        match self.piped.wait() {
            Ended::Exited(0) => Ok(()),
            Ended::NotExecuted(_, errno) => {
                Err(format!("the VM has no 'tar' to do it with: {}", Errno::from_raw_os_error(errno)))
            }
            Ended::Lost => Err("the VM ended meanwhile".into()),
            // Whoever else holds the pipe is not waited for.
            _ => Err(self.complaint.recv_timeout(COMPLAINT_MAX).unwrap_or_default()),
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

/// Directory and name.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

impl Fvm {
    fn tar(&self, record: &VmRecord, call: Call, input: OwnedFd, output: OwnedFd) -> Result<Tar, FvmError> {
        let (errors, theirs) = pipe().map_err(FvmError::Pipe)?;
        let streams = [input.as_fd(), output.as_fd(), theirs.as_fd()];
        let piped = lifecycle::exec_piped(&self.home, record, &call, streams)?;
        let (said, complaint) = std::sync::mpsc::channel();
        drop(std::thread::spawn(move || {
            let (mut text, mut errors) = (Vec::new(), File::from(errors));
            let _partly = errors.by_ref().take(COMPLAINT_MAX_BYTES).read_to_end(&mut text);
            let _nobody_asks = said.send(printable(text.trim_ascii()));
            // Nor is it kept from going on by what nobody reads.
            let _closed = std::io::copy(&mut errors, &mut std::io::sink());
        }));
        Ok(Tar { piped, complaint })
    }

    /// Copies `from` of a running VM, with all below it, to the host: into `to` if that is a directory, else as `to`.
    /// The copy belongs to the caller and has no set-id bits. `as_caller` says with which variables. Returns what was left
    /// out, in words.
    ///
    /// # Errors
    /// When it does not run, or something cannot be read or written; a part may have been copied by then.
    pub fn copy_out(
        &self,
        record: &VmRecord,
        from: &VmPath,
        to: &Path,
        as_caller: &Call,
    ) -> Result<Vec<String>, FvmError> {
        let shown = format!("{}:{from}", record.name);
        let failed = |why: String| FvmError::Copy { what: shown.clone(), why };
        let (dir, name) = split(from.as_path()).ok_or_else(|| failed("name a file or directory in it".into()))?;
        let (above, new) = if to.is_dir() {
            (to, name)
        } else {
            split(to).ok_or_else(|| failed(format!("'{}' has no name", to.display())))?
        };
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let top = std::fs::canonicalize(above)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
            .and_then(|above| Dir::open_root(&above))
            .map_err(|e| failed(format!("cannot open '{}': {e}", above.display())))?;
        let mut dotted = OsString::from("./");
        dotted.push(name);
        let words = [OsStr::new("tar"), OsStr::new("-C"), dir.as_os_str(), OsStr::new("-cf"), OsStr::new("-"), &dotted];
        let call = Call { argv: words.map(Into::into).to_vec(), cwd: "/".into(), ..as_caller.clone() };
        let (stream, output) = pipe().map_err(FvmError::Pipe)?;
        let (nothing, _) = pipe().map_err(FvmError::Pipe)?;
        let tar = self.tar(record, call, nothing, output)?;
        let marking = Rc::new(self.marking(record, record.policy.mark)?);
        let at = std::path::absolute(above.join(new)).map_err(|e| failed(e.to_string()))?;
        let sealing = Sealing { marking: Rc::clone(&marking), at };
        let writer = TreeWriter::new(top, new, Limits::default()).sealed(Box::new(sealing));
        let unpacked = fvm_transfer::unpack(File::from(stream), name, writer);
        // Whatever came says so itself; its copies are known by the book.
        marking.keep().map_err(failed)?;
        if marking.any() {
            self.tell_guard();
        }
        match unpacked {
            Ok(remarks) => tar.wait().map(|()| remarks).map_err(failed),
            // It ended early: it says why.
            Err(TransferError::Stream(why)) => Err(failed(tar.wait().err().filter(|w| !w.is_empty()).unwrap_or(why))),
            Err(e) => Err(failed(e.to_string())),
        }
    }

    /// Copies `from` of the host, with all below it, into a running VM: into `to` if that is a directory there, else as
    /// `to`.
    ///
    /// # Errors
    /// As [`Fvm::copy_out`].
    pub fn copy_in(&self, record: &VmRecord, from: &Path, to: &VmPath, as_caller: &Call) -> Result<(), FvmError> {
        let failed = |why: String| FvmError::Copy { what: from.display().to_string(), why };
        let from_real = std::path::absolute(from).map_err(|e| failed(e.to_string()))?;
        let (_, name) = split(&from_real).ok_or_else(|| failed("name a file or directory".into()))?;
        from.symlink_metadata().map_err(|e| failed(e.to_string()))?;
        let test = [OsStr::new("test"), OsStr::new("-d"), to.as_path().as_os_str()];
        let call = |words: &[&OsStr]| Call {
            argv: words.iter().map(|word| (*word).to_owned()).collect(),
            cwd: "/".into(),
            ..as_caller.clone()
        };
        let nothing = || pipe().map_err(FvmError::Pipe);
        let (input, output) = (nothing()?.0, nothing()?.1);
        let is_dir =
            lifecycle::exec_piped(&self.home, record, &call(&test), [input.as_fd(), output.as_fd(), output.as_fd()])?
                .wait()
                == Ended::Exited(0);
        let (dir, name) = if is_dir {
            (to.as_path(), name)
        } else {
            split(to.as_path()).ok_or_else(|| failed(format!("'{to}' has no name")))?
        };
        let words = ["tar", "-C"].map(OsStr::new).into_iter().chain([dir.as_os_str()]);
        let words: Vec<&OsStr> = words.chain(["-xpof", "-"].map(OsStr::new)).collect();
        let (input, stream) = nothing()?;
        let tar = self.tar(record, call(&words), input, output)?;
        let packed = fvm_transfer::pack(&from_real, Path::new(name), File::from(stream));
        match (packed, tar.wait()) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(e @ TransferError::Io { .. }), _) => Err(failed(e.to_string())),
            (_, Err(why)) if !why.is_empty() => Err(failed(why)),
            (Err(e), _) => Err(failed(e.to_string())),
            (Ok(()), Err(_)) => Err(failed("the VM did not take all of it".into())),
        }
    }
}

/// Whether an argument of `fvm cp` names a file of a VM's, as `VM:PATH`; both parts.
#[must_use]
pub fn in_vm(argument: &OsStr) -> Option<(&str, &Path)> {
    let bytes = argument.as_bytes();
    let colon = bytes.iter().position(|b| *b == b':')?;
    let name = std::str::from_utf8(&bytes[..colon]).ok()?;
    (!name.is_empty() && !name.contains('/')).then(|| (name, Path::new(OsStr::from_bytes(&bytes[colon + 1..]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vms_file_is_told_from_a_hosts() {
        let of = |text: &'static str| in_vm(OsStr::new(text));
        assert_eq!(of("v:/etc/x:y"), Some(("v", Path::new("/etc/x:y"))));
        assert_eq!(of("v:x"), Some(("v", Path::new("x"))));
        for host in ["/etc/a:b", "./a:b", "a", ":x", ""] {
            assert_eq!(of(host), None, "{host}");
        }
    }
}
