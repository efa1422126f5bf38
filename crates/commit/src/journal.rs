//! The journal of a commit on disk, and the lock that keeps commits apart.
//!
//! ```text
//!   <home>/commits/active        the number of the commit under way; absent: none
//!   <home>/commits/<n>/intent    what is going to be done, where, and which stages may lie beside their targets
//!                     /ops       one line for each op, for people
//!                     /after     what the caller has to do when the host has everything
//!                     /prepared  the program: the commit point
//!                     /state     how far it is
//!                     /area/     slots: what comes, then what went; kept for undo
//! ```
//!
//! Invariants: a file here is written whole under another name, synced, and renamed, so it is there completely or not
//! at all; `active` names a commit from before its first stage until after its last; whoever changes anything here
//! holds the lock. The format is specified in `docs/spec/commit.md`.

use crate::CommitError;
use crate::disk::Disk;
use crate::places::{Loc, MountRef};
use crate::program::{DirTime, Program};
use fvm_model::{Timestamp, VmPath};
use fvm_sys::dir::Dir;
use rustix::fd::AsFd;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// The layout of the files here.
pub const VERSION: u32 = 1;

/// Longest journal file that is read.
const MAX_BYTES: u64 = 4 << 30;

/// What a commit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "what")]
pub enum What {
    /// Changes of a VM reach the host.
    Commit {
        /// The VM's id.
        vm: String,
        /// Its name then.
        name: String,
    },
    /// A commit is taken back.
    Undo {
        /// Its number.
        of: u64,
    },
}

/// Written before anything else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Intent {
    /// [`VERSION`].
    pub version: u32,
    /// The commit's number.
    pub number: u64,
    /// What it is.
    #[serde(flatten)]
    pub what: What,
    /// When it began.
    pub started: Timestamp,
    /// The commit whose area has the slots: its own, but for an undo.
    pub area_of: u64,
    /// The mounts it works on.
    pub mounts: Vec<MountRef>,
    /// Slots that lie beside their targets.
    pub beside: Vec<Loc>,
    /// Times of the directories in which those lie.
    pub times: Vec<DirTime>,
}

/// How far a prepared commit is. One function moves it: [`Phase::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Entries that are renamed leave their places.
    Take,
    /// Everything comes to its place; metadata.
    Place,
    /// The host has everything; what is left is the caller's work, and tidying.
    Finish,
    /// Everything is over.
    Done,
    /// Something stood in the way: [`Phase::Place`] is taken back.
    UnPlace,
    /// [`Phase::Take`] is taken back.
    UnTake,
    /// The host is as it was.
    Undone,
}

impl Phase {
    /// Where it goes from here, when the phase's work succeeded or failed. `None`: it stays, to be tried again.
    pub fn next(self, succeeded: bool) -> Option<Self> {
        match (self, succeeded) {
            (Self::Take, true) => Some(Self::Place),
            (Self::Place, true) => Some(Self::Finish),
            (Self::Finish, true) => Some(Self::Done),
            (Self::Take, false) => Some(Self::UnTake),
            (Self::Place, false) => Some(Self::UnPlace),
            (Self::UnPlace, true) => Some(Self::UnTake),
            (Self::UnTake, true) => Some(Self::Undone),
            (Self::Finish | Self::UnPlace | Self::UnTake, false) | (Self::Done | Self::Undone, _) => None,
        }
    }
}

/// The file `state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How far.
    pub phase: Phase,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub finished: Option<Timestamp>,
    /// Why it cannot be undone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub final_because: Option<String>,
}

/// A line of `ops`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpLine {
    /// Its number.
    pub n: u32,
    /// Where.
    pub path: VmPath,
    /// In words.
    pub text: String,
}

/// The directory `commits/`.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    lock: PathBuf,
}

/// The lock, held: nobody else commits, undoes or cleans up.
#[derive(Debug)]
pub struct Held {
    _lock: std::fs::File,
    /// `commits/`.
    pub dir: Dir,
    path: PathBuf,
}

impl Store {
    /// The store in `dir`; commits of one user are kept apart by the file `lock`.
    pub fn new(dir: impl Into<PathBuf>, lock: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), lock: lock.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Whether a commit is under way, or was interrupted. Cheap: every command asks.
    pub fn is_active(&self) -> bool {
        self.dir.join("active").symlink_metadata().is_ok()
    }

    /// Takes the lock, making the directory if need be. `None`: somebody has it.
    ///
    /// # Errors
    /// When the directory or the lock cannot be made.
    pub fn try_hold(&self) -> Result<Option<Held>, CommitError> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |e: std::io::Error| CommitError::Journal {
                what: "open",
                path: path.clone(),
                errno: Errno::from_io_error(&e).unwrap_or(Errno::IO),
            }
        };
        let make = |dir: &Path| std::fs::DirBuilder::new().mode(0o700).recursive(true).create(dir);
        make(&self.dir).map_err(fail(&self.dir))?;
        if let Some(parent) = self.lock.parent() {
            make(parent).map_err(fail(parent))?;
        }
        let file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .mode(0o600)
            .open(&self.lock)
            .map_err(fail(&self.lock))?;
        let locked = fvm_sys::process::try_lock(&file).map_err(|errno| CommitError::Journal {
            what: "lock",
            path: self.lock.clone(),
            errno,
        })?;
        if !locked {
            return Ok(None);
        }
        let dir = Dir::open_root(&self.dir).map_err(|errno| CommitError::Journal {
            what: "open",
            path: self.dir.clone(),
            errno,
        })?;
        Ok(Some(Held { _lock: file, dir, path: self.dir.clone() }))
    }

    /// As [`Store::try_hold`], but waits for a commit that is under way; one that takes longer than a minute is an error.
    ///
    /// # Errors
    /// That, and those of [`Store::try_hold`].
    pub fn hold(&self) -> Result<Held, CommitError> {
        const TRIES: u32 = 3000;
        for _ in 0..TRIES {
            if let Some(held) = self.try_hold()? {
                return Ok(held);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Err(CommitError::Busy)
    }

    /// The numbers of all commits, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn numbers(&self) -> Result<Vec<u64>, CommitError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => {
                let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
                return Err(CommitError::Journal { what: "list", path: self.dir.clone(), errno });
            }
        };
        let mut numbers: Vec<u64> =
            entries.flatten().filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok())).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The intent of a commit.
    ///
    /// # Errors
    /// When there is no such commit, or it cannot be read.
    pub fn intent(&self, number: u64) -> Result<Intent, CommitError> {
        let dir = self.dir.join(number.to_string());
        let intent: Intent = read_at(&dir, "intent")?.ok_or(CommitError::NoSuchCommit(number))?;
        if intent.version > VERSION {
            return Err(CommitError::Newer { number, version: intent.version });
        }
        Ok(intent)
    }

    /// How far a commit is; `None` before its commit point.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn state(&self, number: u64) -> Result<Option<State>, CommitError> {
        let dir = self.dir.join(number.to_string());
        if let Some(state) = read_at::<State>(&dir, "state")? {
            return Ok(Some(state));
        }
        let is_prepared = dir.join("prepared").symlink_metadata().is_ok();
        Ok(is_prepared.then_some(State { phase: Phase::Take, finished: None, final_because: None }))
    }

    /// The program of a commit; `None` when it has none (yet, or any more).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn program(&self, number: u64) -> Result<Option<Program>, CommitError> {
        read_at(&self.dir.join(number.to_string()), "prepared")
    }

    /// What the caller of a commit has to do afterwards.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn after(&self, number: u64) -> Result<Vec<u8>, CommitError> {
        Ok(read_bytes(&self.dir.join(number.to_string()), "after")?.unwrap_or_default())
    }

    /// The ops of a commit, in words.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn ops(&self, number: u64) -> Result<Vec<OpLine>, CommitError> {
        let dir = self.dir.join(number.to_string());
        let bytes = read_bytes(&dir, "ops")?.unwrap_or_default();
        bytes
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).map_err(|e| damaged(&dir.join("ops"), &e)))
            .collect()
    }
}

impl Held {
    /// Where `commits/` is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number that `active` names.
    pub fn active(&self) -> Result<Option<u64>, CommitError> {
        read_at(&self.path, "active")
    }

    /// Writes a file in the directory of commit `number` (0: in `commits/` itself).
    pub fn write(&self, disk: &dyn Disk, number: u64, name: &str, bytes: &[u8]) -> Result<(), CommitError> {
        let path = if number == 0 { PathBuf::new() } else { PathBuf::from(number.to_string()) };
        let fail = |errno| CommitError::Journal { what: "write", path: self.path.join(&path).join(name), errno };
        let dir = self.dir.beneath(&path).map_err(fail)?;
        replace_file(disk, &dir, name, bytes).map_err(fail)
    }

    /// [`Held::write`] of a value.
    pub fn write_value<T: Serialize>(
        &self,
        disk: &dyn Disk,
        number: u64,
        name: &str,
        value: &T,
    ) -> Result<(), CommitError> {
        let bytes = serde_json::to_vec(value).map_err(|e| damaged(&self.path.join(name), &e))?;
        self.write(disk, number, name, &bytes)
    }

    /// Makes the directory of commit `number`, with its area, and says that it is under way.
    pub fn begin(&self, disk: &dyn Disk, number: u64) -> Result<(), CommitError> {
        let fail = |errno| CommitError::Journal { what: "make", path: self.path.join(number.to_string()), errno };
        let name = PathBuf::from(number.to_string());
        // First of all, so that whatever is made next is found.
        self.write_value(disk, 0, "active", &number)?;
        disk.create_dir((&self.dir, &name)).map_err(fail)?;
        let dir = self.dir.beneath(&name).map_err(fail)?;
        disk.create_dir((&dir, Path::new("area"))).map_err(fail)?;
        // The intent is written next: it must not be in a directory that the power can take away.
        disk.sync_fd(self.dir.as_fd()).map_err(fail)
    }

    /// The area of commit `number`.
    pub fn area(&self, number: u64) -> Result<Dir, CommitError> {
        let path = PathBuf::from(number.to_string()).join("area");
        self.dir.beneath(&path).map_err(|errno| CommitError::Journal {
            what: "open",
            path: self.path.join(&path),
            errno,
        })
    }

    /// No commit is under way any more.
    pub fn end(&self, disk: &dyn Disk) -> Result<(), CommitError> {
        self.remove(disk, 0, "active")?;
        let fail = |errno| CommitError::Journal { what: "sync", path: self.path.clone(), errno };
        disk.sync_fd(self.dir.as_fd()).map_err(fail)
    }

    /// Removes a file or directory of commit `number` (0: of `commits/` itself) with all below.
    pub fn remove(&self, disk: &dyn Disk, number: u64, name: &str) -> Result<(), CommitError> {
        let path = if number == 0 { PathBuf::new() } else { PathBuf::from(number.to_string()) };
        let fail = |errno| CommitError::Journal { what: "remove", path: self.path.join(&path).join(name), errno };
        let dir = self.dir.beneath(&path).map_err(fail)?;
        disk.remove_tree((&dir, Path::new(name))).map_err(fail)
    }

    /// Forgets commit `number` altogether. Whatever is there of it after a crash goes the same way.
    pub fn drop_commit(&self, disk: &dyn Disk, number: u64) -> Result<(), CommitError> {
        let dir = PathBuf::from(number.to_string());
        let fail = |errno| CommitError::Journal { what: "remove", path: self.path.join(&dir), errno };
        // The intent last: without it nobody knows what the rest is.
        if let Ok(open) = self.dir.beneath(&dir) {
            for name in ["prepared", "state", "after", "ops", "area"] {
                disk.remove_tree((&open, Path::new(name))).map_err(fail)?;
            }
        }
        disk.remove_tree((&self.dir, &dir)).map_err(fail)
    }
}

/// Writes a file so that it is there whole, and durably, or not at all.
fn replace_file(disk: &dyn Disk, dir: &Dir, name: &str, bytes: &[u8]) -> Result<(), Errno> {
    let new = PathBuf::from(format!("{name}.new"));
    disk.remove_tree((dir, &new))?;
    let file = disk.create_file((dir, &new))?;
    disk.write(&file, bytes)?;
    disk.sync_fd(file.as_fd())?;
    disk.replace((dir, &new), (dir, Path::new(name)))?;
    disk.sync_fd(dir.as_fd())
}

fn damaged(path: &Path, why: &serde_json::Error) -> CommitError {
    CommitError::Damaged { path: path.to_owned(), why: why.to_string() }
}

fn read_at<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, CommitError> {
    let Some(bytes) = read_bytes(dir, name)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(&dir.join(name), &e))
}

fn read_bytes(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, CommitError> {
    let path = dir.join(name);
    let fail = |errno| CommitError::Journal { what: "read", path: path.clone(), errno };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: std::fs::File = match fs::open(&path, flags, Mode::empty()) {
        Ok(fd) => fd.into(),
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(&file, MAX_BYTES), &mut bytes)
        .map_err(|e| fail(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
    Ok(Some(bytes))
}

/// The clock.
pub fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_ends_in_all_or_nothing() {
        for phase in [Phase::Take, Phase::Place, Phase::Finish, Phase::UnPlace, Phase::UnTake] {
            let mut at = phase;
            while let Some(next) = at.next(true) {
                at = next;
            }
            assert!(matches!(at, Phase::Done | Phase::Undone));
        }
        assert_eq!(Phase::Place.next(false), Some(Phase::UnPlace));
        assert_eq!(Phase::Finish.next(false), None, "the host has everything: there is no way back");
    }
}
