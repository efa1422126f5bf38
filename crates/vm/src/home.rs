//! The state directory: where VMs live, how they are found, created, locked and removed (`docs/spec/state.md`).
//!
//! ```text
//!   <home>/format                 "1\n"
//!   <home>/vms/<id>/vm.json       VmRecord, replaced atomically
//!   <home>/vms/<id>/lock          held (OFD lock) by whoever runs, commits or deletes the VM
//!   <home>/vms/<id>/root/         empty: where the VM's tree is put together, in its own mount namespace
//!   <home>/vms/<id>/layers/<n>/   upper/ work/ (skeleton/, file)
//!   <home>/vms/<id>/output.log    what a detached program printed
//!   <home>/vms/<id>/services.log  what its services printed
//!   <home>/vms/.trash-<id>        being removed
//!   <home>/shared/<id>.<dir>/<n>/ layers that several VMs stand on (`stack`)
//!   <run>/<id>.sock               the keeper's control socket
//! ```
//!
//! Invariants: "running" is not stored: it is the lock, which the kernel gives back when its holder dies. A directory
//! in `vms/` without a lock holder that is ephemeral, half-built or half-deleted is rubbish, and [`Home::sweep`]
//! removes it. A directory that cannot be read is reported, never removed.

mod pools;
mod sweep;

pub use pools::parse_pool;
#[cfg(test)]
pub(crate) use pools::pool_text;

use crate::error::VmError;
use fvm_model::vm::FORMAT;
use fvm_model::{HostPath, VmId, VmName, VmRecord, VmState};
use fvm_sys::dir::Dir;
use fvm_sys::process;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The state directory and the run-time directory.
#[derive(Debug, Clone)]
pub struct Home {
    state: PathBuf,
    run: PathBuf,
}

/// A VM's lock, held until dropped.
#[derive(Debug)]
pub struct VmLock(File);

impl VmLock {
    /// A lock that another process gave away, with its open file.
    pub(crate) fn of(file: OwnedFd) -> Self {
        Self(file.into())
    }

    /// Gives its descriptor a number of at least `least`.
    pub(crate) fn lift(&mut self, least: i32) {
        if let Ok(lifted) = rustix::io::fcntl_dupfd_cloexec(&self.0, least) {
            self.0 = lifted.into();
        }
    }

    /// To be given to another process, which then holds it too.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        AsFd::as_fd(&self.0)
    }
}

/// One entry of `vms/`.
#[derive(Debug)]
pub enum Found {
    /// A readable VM, and whether somebody holds its lock.
    Vm(Box<VmRecord>, bool),
    /// A directory whose record cannot be used, and why.
    Broken(String, VmError),
}

impl Home {
    /// Uses `state` and `run`, creating them (mode 0700) and the `format` file when they do not exist.
    ///
    /// # Errors
    /// When a directory cannot be made, or the format is newer than this program's.
    pub fn open(state: &Path, run: &Path) -> Result<Self, VmError> {
        let home = Self { state: absolute(state)?, run: absolute(run)? };
        let format = home.state.join("format");
        match std::fs::read(&format) {
            Ok(text) => check_format(&format, &text)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                make_dir(&home.state.join("vms"))?;
                replace_file(&home.state, "format", format!("{FORMAT}\n").as_bytes(), true)?;
            }
            Err(e) => return Err(VmError::io("read", &format, &e)),
        }
        Ok(home)
    }

    /// The state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The run-time directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// What every VM must not see: the state and run-time directories, and layers that lie elsewhere.
    #[must_use]
    pub fn masked(&self, record: &VmRecord) -> Vec<HostPath> {
        let mut paths: Vec<HostPath> = [self.state.as_path(), self.run.as_path()]
            .into_iter()
            .chain(
                (!record.layers_dir.as_path().starts_with(&self.state))
                    .then(|| record.layers_dir.as_path())
                    .and_then(Path::parent),
            )
            .filter_map(|p| HostPath::new(p).ok())
            .collect();
        paths.sort();
        // One cover hides everything below it.
        paths.dedup_by(|below, above| below.is_within(above));
        paths
    }

    /// `vms/<id>`.
    #[must_use]
    pub fn vm_dir(&self, id: &VmId) -> PathBuf {
        self.state.join("vms").join(id.as_str())
    }

    /// Where each builder puts its VM's files together, in a mount namespace of its own: the directory itself stays empty, and all
    /// use the one. One more for each VM was a quarter of what making and removing it wrote to the disk.
    #[must_use]
    pub fn tree_dir(&self) -> PathBuf {
        self.state.join("vms/.tree")
    }

    /// Where the behaviour log of a VM lies.
    #[must_use]
    pub fn events_dir(&self, id: &VmId) -> PathBuf {
        self.vm_dir(id).join("events")
    }

    /// Where the program output of a detached VM goes.
    #[must_use]
    pub fn output_log(&self, id: &VmId) -> PathBuf {
        self.vm_dir(id).join("output.log")
    }

    /// Where the output of a VM's services goes.
    #[must_use]
    pub fn services_log(&self, id: &VmId) -> PathBuf {
        self.vm_dir(id).join("services.log")
    }

    /// The directory of layer `n`.
    #[must_use]
    pub fn layer_dir(record: &VmRecord, n: u32) -> PathBuf {
        record.layers_dir.as_path().join(n.to_string())
    }

    /// Every VM but those that wait in a pool, sorted by name; unreadable ones last.
    ///
    /// # Errors
    /// When `vms/` cannot be read.
    pub fn list(&self) -> Result<Vec<Found>, VmError> {
        self.list_but(&self.waiting()?)
    }

    /// The same with them.
    ///
    /// # Errors
    /// As [`Home::list`].
    pub(crate) fn list_all(&self) -> Result<Vec<Found>, VmError> {
        self.list_but(&HashSet::new())
    }

    /// The ids of all VMs but `waiting`, in no order.
    fn ids_but(&self, waiting: &HashSet<VmId>) -> Result<Vec<VmId>, VmError> {
        let vms = self.state.join("vms");
        let dir = Dir::open_root(&vms).map_err(|e| VmError::sys("open", &vms, e))?;
        let names = dir.names().map_err(|e| VmError::sys("list", &vms, e))?;
        let ids = names.iter().filter_map(|name| name.to_str()?.parse::<VmId>().ok());
        Ok(ids.filter(|id| !waiting.contains(id)).collect())
    }

    fn list_but(&self, waiting: &HashSet<VmId>) -> Result<Vec<Found>, VmError> {
        let mut found = Vec::new();
        for id in self.ids_but(waiting)? {
            match self.load(&id) {
                Ok(record) => {
                    let locked = self.is_locked(&id)?;
                    found.push(Found::Vm(Box::new(record), locked));
                }
                // Deleted between the listing and the look, or not made yet.
                Err(_) if !self.vm_dir(&id).exists() || self.is_unborn(&id) => {}
                Err(e) => found.push(Found::Broken(id.to_string(), e)),
            }
        }
        found.sort_by(|a, b| match (a, b) {
            (Found::Vm(a, _), Found::Vm(b, _)) => a.name.cmp(&b.name),
            (Found::Broken(a, _), Found::Broken(b, _)) => a.cmp(b),
            (Found::Vm(..), Found::Broken(..)) => std::cmp::Ordering::Less,
            (Found::Broken(..), Found::Vm(..)) => std::cmp::Ordering::Greater,
        });
        Ok(found)
    }

    /// The VM that `reference` means: its name, its id, or an unambiguous beginning of its id, of four characters at least: a short
    /// name that is mistyped shall not be another VM.
    ///
    /// # Errors
    /// [`VmError::NoSuchVm`], [`VmError::Ambiguous`], or the error of the record when the one meant is unreadable.
    pub fn find(&self, reference: &str) -> Result<VmRecord, VmError> {
        const PREFIX_MIN: usize = 4;
        let is_prefix = |id: &str| reference.len() >= PREFIX_MIN && id.starts_with(reference);
        // As `save` writes it: what does not hold it is not parsed.
        let quoted = format!("\"{reference}\"");
        let mut by_prefix = Vec::new();
        for id in self.ids_but(&self.waiting()?)? {
            let meant = is_prefix(id.as_str());
            let found = self.read_record(&id).and_then(|bytes| {
                let named = bytes.windows(quoted.len()).any(|part| part == quoted.as_bytes());
                (meant || named).then(|| self.parsed(&bytes, &id)).transpose()
            });
            match found {
                // One that waits in a pool is nobody's.
                Ok(Some(record)) if record.state == VmState::Deleting || record.pool.is_some() => {}
                Ok(Some(record)) if record.name.as_str() == reference => return Ok(record),
                Ok(Some(record)) if meant => by_prefix.push(Ok(record)),
                Ok(_) => {}
                // Deleted between the listing and the look, or not made yet.
                Err(_) if !meant || !self.vm_dir(&id).exists() || self.is_unborn(&id) => {}
                Err(error) => by_prefix.push(Err(error)),
            }
        }
        if by_prefix.len() > 1 {
            return Err(VmError::Ambiguous(reference.to_owned(), by_prefix.len()));
        }
        by_prefix.pop().unwrap_or_else(|| Err(VmError::NoSuchVm(fvm_model::path::printable(reference.as_bytes()))))
    }

    /// Reads `vm.json` of `id`.
    ///
    /// # Errors
    /// When it is missing, damaged, or of a newer format.
    pub fn load(&self, id: &VmId) -> Result<VmRecord, VmError> {
        self.parsed(&self.read_record(id)?, id)
    }

    fn read_record(&self, id: &VmId) -> Result<Vec<u8>, VmError> {
        let path = self.vm_dir(id).join("vm.json");
        std::fs::read(&path).map_err(|e| VmError::io("read", &path, &e))
    }

    fn parsed(&self, bytes: &[u8], id: &VmId) -> Result<VmRecord, VmError> {
        parse_record(bytes, id).map_err(|why| VmError::BadRecord { path: self.vm_dir(id).join("vm.json"), why })
    }

    /// Writes `vm.json`. `durable`: synced to disk before it counts.
    ///
    /// # Errors
    /// When it cannot be written; the old one is then still there.
    pub fn save(&self, record: &VmRecord, durable: bool) -> Result<(), VmError> {
        let mut text = serde_json::to_vec_pretty(record).map_err(|e| VmError::Internal(e.to_string()))?;
        text.push(b'\n');
        replace_file(&self.vm_dir(&record.id), "vm.json", &text, durable)
    }

    /// Makes the directory of a new VM and takes its lock. Nothing is found under its name until [`Home::save`].
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_dir(&self, id: &VmId) -> Result<VmLock, VmError> {
        let dir = self.vm_dir(id);
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                make_dir(&self.state.join("vms"))?;
                make_dir(&dir)?;
            }
            Err(e) => return Err(VmError::io("create", &dir, &e)),
            Ok(()) => {}
        }
        let tree = self.tree_dir();
        if !tree.exists() {
            make_dir(&tree)?;
        }
        self.try_lock(id)?.ok_or_else(|| VmError::Internal(format!("a new VM's lock is held: {id}")))
    }

    /// Takes the lock of a VM; `None` when somebody has it, or the VM is gone.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn try_lock(&self, id: &VmId) -> Result<Option<VmLock>, VmError> {
        match lock_file(&self.vm_dir(id).join("lock")) {
            Err(VmError::Io { errno: Errno::NOENT, .. }) => Ok(None),
            other => other,
        }
    }

    /// Whether somebody holds the lock of a VM: it runs, or is being committed or deleted.
    ///
    /// # Errors
    /// When the lock file cannot be read.
    pub fn is_locked(&self, id: &VmId) -> Result<bool, VmError> {
        is_locked(&self.vm_dir(id).join("lock"))
    }

    /// A name that no VM has: `given`, or one made from the id.
    ///
    /// # Errors
    /// When `given` is taken.
    pub fn free_name(&self, given: Option<&VmName>, id: &VmId) -> Result<VmName, VmError> {
        match given {
            None => Self::made_up_name(id),
            Some(name) => match self.find(name.as_str()) {
                Err(VmError::NoSuchVm(_)) => Ok(name.clone()),
                Ok(record) if record.name == *name => Err(VmError::NameTaken(name.clone())),
                // The beginning of some id: not that VM's name.
                Ok(_) | Err(VmError::Ambiguous(..)) => Ok(name.clone()),
                Err(e) => Err(e),
            },
        }
    }

    /// The name of a VM that was given none.
    ///
    /// # Errors
    /// Never: an id begins with letters that a name may hold.
    pub fn made_up_name(id: &VmId) -> Result<VmName, VmError> {
        let short: String = id.as_str().chars().take(8).collect();
        format!("vm-{short}").parse().map_err(|e| VmError::Internal(format!("{e}")))
    }

    /// Serialises creation under a name: held while a name is looked up and taken.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn lock_names(&self) -> Result<VmLock, VmError> {
        let path = self.state.join("vms/.names");
        let file = open_lock(&path)?;
        fs::flock(&file, fs::FlockOperation::LockExclusive).map_err(|e| VmError::sys("lock", &path, e))?;
        Ok(VmLock(file))
    }
}

fn open_lock(path: &Path) -> Result<File, VmError> {
    let mode = Mode::RUSR | Mode::WUSR;
    fs::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, mode)
        .map(File::from)
        .map_err(|e| VmError::sys("open", path, e))
}

fn is_locked(path: &Path) -> Result<bool, VmError> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => process::is_locked(&file).map_err(|e| VmError::sys("query lock of", path, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(VmError::io("open", path, &e)),
    }
}

fn lock_file(path: &Path) -> Result<Option<VmLock>, VmError> {
    let file = open_lock(path)?;
    Ok(process::try_lock(&file).map_err(|e| VmError::sys("lock", path, e))?.then_some(VmLock(file)))
}

fn absolute(path: &Path) -> Result<PathBuf, VmError> {
    let made = make_dir(path);
    path.canonicalize().map_err(|e| made.err().unwrap_or_else(|| VmError::io("find", path, &e)))
}

fn make_dir(path: &Path) -> Result<(), VmError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| VmError::io("create", path, &e))
}

fn check_format(path: &Path, text: &[u8]) -> Result<(), VmError> {
    let version = std::str::from_utf8(text).ok().and_then(|t| t.trim().parse::<u32>().ok());
    match version {
        Some(v) if v <= FORMAT => Ok(()),
        Some(v) => Err(VmError::BadRecord { path: path.into(), why: newer(v) }),
        None => Err(VmError::BadRecord { path: path.into(), why: "it holds no version number".into() }),
    }
}

fn newer(version: u32) -> String {
    format!("it has format {version}, and this fvm reads up to {FORMAT}: use a newer fvm")
}

/// Parses `vm.json`: a newer format is refused before anything else is looked at.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_record(bytes: &[u8], id: &VmId) -> Result<VmRecord, String> {
    let record: VmRecord = parse(bytes)?;
    if record.id != *id {
        return Err(format!("it says it is of VM {}", record.id));
    }
    Ok(record)
}

/// A record, once its format is known to be one that this program knows.
fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|e| format!("it is damaged: {e}"))?;
    if head.format > FORMAT {
        return Err(newer(head.format));
    }
    serde_json::from_slice(bytes).map_err(|e| format!("it is damaged: {e}"))
}

/// Replaces `dir/name` by `bytes`, so that a reader, or a power cut, finds the old content or the new.
fn replace_file(dir: &Path, name: &str, bytes: &[u8], durable: bool) -> Result<(), VmError> {
    // A name of this process's own: twenty first commands may make the same file at once.
    let (target, temp) = (dir.join(name), dir.join(format!(".{name}.{}.new", std::process::id())));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temp)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&temp, &target)?;
        if durable {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|e| VmError::io("write", &target, &e))
}

impl VmError {
    pub(crate) fn io(what: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::sys(what, path, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    pub(crate) fn sys(what: &'static str, path: &Path, errno: Errno) -> Self {
        Self::Io { what, path: path.to_owned(), errno }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fvm_model::{Layer, LayerKind, Mode, Policy, Timestamp};

    fn record(id: &str, name: &str) -> VmRecord {
        VmRecord {
            format: FORMAT,
            id: id.parse().unwrap(),
            name: name.parse().unwrap(),
            state: VmState::Stopped,
            ephemeral: false,
            forked: Timestamp::default(),
            mode: Mode::Shifted,
            uid: 0,
            policy: Policy::default(),
            layers_dir: HostPath::new("/nowhere").unwrap(),
            layers: vec![Layer { n: 0, host: HostPath::root(), kind: LayerKind::Overlay }],
            below: Vec::new(),
            imported: None,
            given: None,
            copied: None,
            reached: Vec::new(),
            restart: fvm_model::Restart::No,
            restarts: 0,
            last_exit: None,
            pool: None,
        }
    }

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("state"), &dir.path().join("run")).unwrap();
        (dir, home)
    }

    #[test]
    fn a_vm_is_found_by_name_and_by_the_beginning_of_its_id() {
        let (_dir, home) = home();
        for (id, name) in [("aaaaaaaaaaaa", "one"), ("aaaaaaaaaabb", "two"), ("cccccccccccc", "aaaa")] {
            let record = record(id, name);
            let _lock = home.create_dir(&record.id).unwrap();
            home.save(&record, true).unwrap();
        }
        assert_eq!(home.find("two").unwrap().id.as_str(), "aaaaaaaaaabb");
        assert_eq!(home.find("cccc").unwrap().name.as_str(), "aaaa");
        assert!(matches!(home.find("ccc"), Err(VmError::NoSuchVm(_))), "too short to be meant");
        assert_eq!(home.find("aaaa").unwrap().id.as_str(), "cccccccccccc", "a name goes before a prefix");
        assert!(matches!(home.find("aaaaa"), Err(VmError::Ambiguous(_, 2))));
        assert!(matches!(home.find(""), Err(VmError::NoSuchVm(_))));
        assert!(matches!(
            home.free_name(Some(&"one".parse().unwrap()), &"dddddddddddd".parse().unwrap()),
            Err(VmError::NameTaken(_))
        ));
    }

    #[test]
    fn a_damaged_or_newer_record_is_reported_and_never_swept() {
        let (_dir, home) = home();
        for (id, text) in [("aaaaaaaaaaaa", "{"), ("bbbbbbbbbbbb", r#"{"format": 99}"#), ("cccccccccccc", "")] {
            let id = id.parse().unwrap();
            drop(home.create_dir(&id).unwrap());
            std::fs::write(home.vm_dir(&id).join("vm.json"), text).unwrap();
        }
        home.sweep().unwrap();
        let found = home.list().unwrap();
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|f| matches!(f, Found::Broken(..))));
        let why = home.find("bbbb").unwrap_err().to_string();
        assert!(why.contains("format 99"), "{why}");
    }

    #[test]
    fn what_nobody_holds_and_nobody_may_keep_is_swept() {
        let (_dir, home) = home();
        let mut ephemeral = record("aaaaaaaaaaaa", "e");
        ephemeral.ephemeral = true;
        let held = home.create_dir(&ephemeral.id).unwrap();
        home.save(&ephemeral, false).unwrap();
        let mut half = record("bbbbbbbbbbbb", "h");
        half.state = VmState::Deleting;
        drop(home.create_dir(&half.id).unwrap());
        home.save(&half, true).unwrap();
        assert_eq!(home.sweep().unwrap(), 1, "only the one that nobody holds");
        drop(held);
        // What another test has forked meanwhile may hold it, too, until it ends.
        let swept = (0..1000).find_map(|_| match home.sweep().unwrap() {
            0 => {
                std::thread::sleep(std::time::Duration::from_millis(10));
                None
            }
            count => Some(count),
        });
        assert_eq!(swept, Some(1));
        assert!(home.list().unwrap().is_empty());
    }

    #[test]
    fn a_sweep_removes_what_was_killed_before_its_record_with_its_layers_in_memory() {
        let Some(place) = fvm_host::memory_layers_dir() else {
            eprintln!(
                "skipped: a_sweep_removes_what_was_killed_before_its_record_with_its_layers_in_memory: no room in /dev/shm"
            );
            return;
        };
        let (_dir, home) = home();
        let (young, old): (VmId, VmId) = ("cccccccccccc".parse().unwrap(), "dddddddddddd".parse().unwrap());
        let layers = [&young, &old].map(|id| place.join(id.as_str()));
        for (id, layers) in [&young, &old].into_iter().zip(&layers) {
            drop(home.create_dir(id).unwrap());
            std::fs::create_dir_all(layers.join("0/upper")).unwrap();
        }
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        std::fs::File::open(home.vm_dir(&old)).unwrap().set_modified(long_ago).unwrap();
        let began = std::time::Instant::now();
        // What another test has forked meanwhile may hold it, too, until it ends.
        while home.vm_dir(&old).exists() && began.elapsed().as_secs() < 10 {
            home.sweep().unwrap();
        }
        let left = layers.each_ref().map(|layers| layers.exists());
        std::fs::remove_dir_all(&layers[0]).unwrap();
        assert_eq!((left, home.vm_dir(&young).exists(), home.vm_dir(&old).exists()), ([true, false], true, false));
    }

    #[test]
    fn a_newer_state_directory_is_refused() {
        let (dir, _home) = home();
        std::fs::write(dir.path().join("state/format"), "2\n").unwrap();
        let error = Home::open(&dir.path().join("state"), &dir.path().join("run")).unwrap_err().to_string();
        assert!(error.contains("use a newer fvm"), "{error}");
    }
}
