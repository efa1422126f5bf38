//! VMs that leave a state directory as one file, and come into another.
//!
//! ```text
//!   export   changes ─► manifest: the record, and what of the host the changes stand on ─► + layers ─► file
//!   import   file ─► manifest ─► layers below a VM that is being built ─► compared with this host ─► a VM, stopped
//! ```
//!
//! What this host has otherwise than the one the VM comes from is kept in `vms/<id>/unlike`, a JSON list of paths: a change that
//! stands on one of those is a conflict.
//!
//! The behaviour log comes along, guarded as all of the archive is by its sums. Who made the archive may have made the log up: unless
//! the caller trusts it, it says itself that it knows nothing of what was before, and so does that of a VM without one.
//!
//! Invariants: an archive is a stranger's: its policy opens nothing of this host, and its directories stand for no others, unless
//! the caller trusts it; until the last byte is read and compared, there is no VM.

use crate::{Fvm, FvmError, NewVm, facts};
use fvm_changes::ScanInput;
use fvm_model::path::{Bytes, printable};
use fvm_model::policy::{Flags, amend};
use fvm_model::vm::{FORMAT, XattrClass};
use fvm_model::{
    Change, ChangeKind, FileType, HostPath, LayerKind, Mode, Network, Policy, Timestamp, VmName, VmPath, VmRecord,
    VmState,
};
use fvm_sys::dir::Dir;
use fvm_transfer::{ArchiveReader, ArchiveWriter, MANIFEST, Owners, TransferError};
use fvm_vm::{VmError, VmLock, disk, lifecycle};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::Path;

/// The version of the manifest: 2 where the behaviour log comes along.
const MANIFEST_FORMAT: u32 = 2;
/// More layers no VM has.
const LAYERS_MAX: u32 = 100_000;
/// Directories and files of a VM's that go with it, beside its layers.
const COMPANIONS: [&str; 4] = ["bases", "events", "output.log", "services.log"];
/// More than a log of this machine's can be, in bytes.
const LOG_MAX_BYTES: u64 = 2 * fvm_trace::QUOTA_BYTES;

/// Where a VM was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As `/etc/os-release` says it.
    pub system: String,
    /// The release of its kernel.
    pub kernel: String,
    /// Its processor.
    pub architecture: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    fvm: String,
    exported: Timestamp,
    machine: Machine,
    vm: VmRecord,
    /// What of the host the changes stand on.
    base: Vec<Base>,
}

/// An entry of the host, as far as a change depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Base {
    path: HostPath,
    /// Its type; absent: there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file_type: Option<FileType>,
    /// Of a regular file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Of a symlink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Bytes>,
    /// The host had changed it since the VM was forked: it is not what the change stands on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    changed: bool,
}

/// A VM that came.
#[derive(Debug)]
pub struct Imported {
    /// Its record.
    pub record: VmRecord,
    /// Where it was made.
    pub machine: Machine,
    /// What this host has otherwise, of what its changes stand on.
    pub unlike: Vec<HostPath>,
    /// What of its policy was left out.
    pub closed: Vec<&'static str>,
}

fn machine() -> Machine {
    let uname = rustix::system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    Machine {
        system: name.unwrap_or("unknown").trim_matches('"').to_owned(),
        kernel: text(uname.release()),
        architecture: text(uname.machine()),
    }
}

/// What the host has at `path` now.
fn base(path: &HostPath) -> Base {
    let nothing = Base { path: path.clone(), file_type: None, sha256: None, target: None, changed: false };
    let (Some(above), Some(name)) = (path.as_path().parent(), path.as_path().file_name()) else { return nothing };
    let rel = above.strip_prefix("/").unwrap_or(above);
    let Ok(dir) = Dir::open_root(Path::new("/")).and_then(|root| root.beneath_deep(rel)) else { return nothing };
    let name = Path::new(name);
    let Ok(stat) = dir.stat(name) else { return nothing };
    let mut found = nothing;
    match rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()) {
        rustix::fs::FileType::RegularFile => {
            found.file_type = Some(FileType::File);
            // What cannot be read has no sum, and is equal to nothing that has.
            found.sha256 = dir.open_file(name).ok().and_then(|file| {
                let (mut sum, mut file) = (Sha256::new(), std::fs::File::from(file));
                let mut buffer = vec![0; 128 << 10];
                loop {
                    match file.read(&mut buffer).ok()? {
                        0 => break,
                        len => sum.update(&buffer[..len]),
                    }
                }
                Some(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
            });
        }
        rustix::fs::FileType::Directory => found.file_type = Some(FileType::Directory),
        rustix::fs::FileType::Symlink => {
            found.file_type = Some(FileType::Symlink);
            found.target = dir.read_link(name).ok().map(Bytes);
        }
        rustix::fs::FileType::Fifo => found.file_type = Some(FileType::Fifo),
        rustix::fs::FileType::Socket => found.file_type = Some(FileType::Socket),
        _ => found.file_type = Some(FileType::CharDevice),
    }
    found
}

/// What `change` stands on: the entry that it changes, and what is where it brings one.
fn bases_of(change: &Change) -> impl Iterator<Item = Base> {
    let changed = change.base.as_ref().filter(|_| change.kind != ChangeKind::Created);
    let here = change.path.on_host();
    let also = (changed != Some(&here)).then_some(here);
    let conflict = change.conflict.is_some();
    changed.cloned().into_iter().chain(also).map(move |path| Base { changed: conflict, ..base(&path) })
}

impl Fvm {
    /// Writes a stopped VM, with all that it holds, to `out`. Returns what was left out, in words.
    ///
    /// # Errors
    /// When it runs, or something cannot be read or written.
    pub fn export(&self, record: &VmRecord, out: impl Write) -> Result<Vec<String>, FvmError> {
        let _lock = self.lock(record)?;
        let failed = |why: String| FvmError::Archive { what: format!("export '{}'", record.name), why };
        let changes = self.changes(record)?;
        if let Some(alias) = changes.changes.iter().find_map(|change| change.source.clone()) {
            return Err(FvmError::Alias { name: record.name.clone(), path: alias });
        }
        if let Some(warning) = changes.warnings.first() {
            return Err(failed(format!("not all that it holds can be read: {warning}")));
        }
        let input = self.scan_input(record)?;
        let manifest = Manifest {
            format: if self.home.events_dir(&record.id).is_dir() { MANIFEST_FORMAT } else { 1 },
            fvm: env!("CARGO_PKG_VERSION").into(),
            exported: lifecycle::now(),
            machine: machine(),
            vm: VmRecord { below: Vec::new(), layers_dir: HostPath::root(), ephemeral: false, ..record.clone() },
            base: changes.changes.iter().flat_map(bases_of).collect(),
        };
        let text = serde_json::to_vec(&manifest).map_err(|e| failed(e.to_string()))?;
        self.write(record, &input, &text, out).map_err(|e| failed(e.to_string()))
    }

    fn write(
        &self,
        record: &VmRecord,
        input: &ScanInput,
        manifest: &[u8],
        out: impl Write,
    ) -> Result<Vec<String>, TransferError> {
        let open = |path: &Path| {
            let path_shown = path.display().to_string();
            Dir::open_root(path).map_err(|errno| TransferError::Io { what: "open", path: path_shown, errno })
        };
        let mut archive = ArchiveWriter::new(out)?;
        archive.bytes(MANIFEST, manifest)?;
        archive.directory_of("layers")?;
        for view in &input.layers {
            let what = if view.layer.kind == LayerKind::File { "file" } else { "upper" };
            let place = format!("layers/{}", view.layer.n);
            archive.directory_of(&place)?;
            archive.tree(&Path::new(&place).join(what), &open(&view.dir)?, Path::new(what))?;
        }
        let own = open(&self.home.vm_dir(&record.id))?;
        for name in COMPANIONS.map(Path::new) {
            if own.stat(name).is_ok() {
                archive.tree(name, &own, name)?;
            }
        }
        Ok(archive.finish()?.1)
    }

    /// Makes a VM of what [`Fvm::export`] wrote. `policy`: instead of its own. `trust`: its own policy may open what it opened
    /// there, and its directories may stand for others, as moved ones do.
    ///
    /// # Errors
    /// When the archive is damaged, or of a VM that cannot be here, or the name is taken: there is no VM then.
    pub fn import(
        &self,
        archive: impl Read,
        name: Option<&VmName>,
        policy: Option<Policy>,
        trust: bool,
    ) -> Result<Imported, FvmError> {
        let failed = |why: String| FvmError::Archive { what: "import it".into(), why };
        let mut made: Option<(VmRecord, VmLock)> = None;
        let restored = ArchiveReader::new(archive).map_err(|e| failed(e.to_string()))?.restore(|text| {
            let manifest = read_manifest(text)?;
            let (draft, closed, owners) = self.prepare(&manifest, policy, trust)?;
            let lock = self.home.create_dir(&draft.id)?;
            self.home.save(&draft, false)?;
            let (draft, _) = made.insert((draft, lock));
            let dir = match draft.layers_dir.as_path().parent().filter(|_| disk::has(&self.home, draft)) {
                // Its disk is full where it would be full anyway.
                Some(dir) => {
                    disk::make(&self.home, draft)?;
                    disk::reach(&self.home, draft)?;
                    dir.to_owned()
                }
                None => self.home.vm_dir(&draft.id),
            };
            let top = Dir::open_root(&dir).map_err(|errno| VmError::Io { what: "open", path: dir, errno })?;
            Ok::<_, FvmError>(((manifest, closed), top, owners))
        });
        let finished = match (restored, made.as_ref()) {
            (Ok((manifest, closed)), Some((draft, _))) => self.finish(manifest, closed, draft, name, trust),
            (Err(e), _) => Err(e),
            (Ok(_), None) => Err(failed("it has no manifest".into())),
        };
        if let (Err(_), Some((draft, lock))) = (&finished, made) {
            self.delete_locked(draft, &lock)?;
        }
        finished
    }

    /// The record of the VM that it becomes, as one that is being built.
    fn prepare(
        &self,
        manifest: &Manifest,
        policy: Option<Policy>,
        trust: bool,
    ) -> Result<(VmRecord, Vec<&'static str>, Owners), FvmError> {
        let failed = |why: &str| FvmError::Archive { what: format!("import '{}'", manifest.vm.name), why: why.into() };
        let facts = facts()?;
        let here = lifecycle::mode_for(&facts);
        let mode = match (manifest.vm.mode, here) {
            (Mode::Rootless, _) => Mode::Rootless,
            (_, Mode::Rootless) => return Err(failed("it is a VM of root's: only root can import it")),
            (_, here) => here,
        };
        let mut closed = Vec::new();
        let policy = policy.unwrap_or_else(|| {
            if trust { manifest.vm.policy.clone() } else { close(&manifest.vm.policy, &mut closed) }
        });
        // As if it had been written here: what no policy can say is not taken from a file either.
        let policy = amend(&policy, &Flags::default(), "its policy")
            .map_err(|e| failed(&format!("{e}; give another with --policy")))?;
        let draft = lifecycle::draft(&self.home, &facts, &NewVm { policy, ..NewVm::default() })?;
        let dir = self.home.vm_dir(&draft.id).join("layers");
        if draft.layers_dir.as_path() != dir && !disk::has(&self.home, &draft) {
            return Err(failed("this state directory cannot hold a VM's layers itself: use --home with one on a disk"));
        }
        let mut numbers = HashSet::new();
        let is_good = |n: u32| n < LAYERS_MAX && numbers.insert(n);
        if !manifest.vm.layers.iter().map(|layer| layer.n).all(is_good) {
            return Err(failed("the numbers of its layers cannot be"));
        }
        let now = lifecycle::now();
        let class = mode.xattr_class();
        let me = (facts.ids.euid, facts.ids.egid);
        let owners = Owners { all: (class == XattrClass::User).then_some(me), class, moves: trust };
        let layers = manifest.vm.layers.clone();
        let state = VmState::Building;
        let VmRecord { forked, given, restart, .. } = manifest.vm;
        let imported = Some(now);
        Ok((
            VmRecord { mode, state, layers, forked, given, imported, copied: imported, restart, ..draft },
            closed,
            owners,
        ))
    }

    /// Compares what its changes stand on with this host, and makes it a VM that can be found.
    fn finish(
        &self,
        manifest: Manifest,
        closed: Vec<&'static str>,
        draft: &VmRecord,
        name: Option<&VmName>,
        trust: bool,
    ) -> Result<Imported, FvmError> {
        let unlike = |was: &&Base| was.changed || Base { changed: false, ..(*was).clone() } != base(&was.path);
        let unlike: Vec<HostPath> = manifest.base.iter().filter(unlike).map(|was| was.path.clone()).collect();
        self.note_unlike(draft, &unlike)?;
        self.take_companions(draft)?;
        self.take_log(draft, trust)?;
        // The places that overlayfs works in.
        for layer in draft.layers.iter().filter(|layer| layer.kind != LayerKind::File) {
            let dir = draft.layers_dir.as_path().join(layer.n.to_string());
            if dir.join("upper").exists() {
                let work = dir.join("work");
                rustix::fs::mkdir(&work, rustix::fs::Mode::RWXU).map_err(|errno| VmError::Io {
                    what: "create",
                    path: work,
                    errno,
                })?;
            }
        }
        let _names = self.home.lock_names()?;
        let name = self.home.free_name(Some(name.unwrap_or(&manifest.vm.name)), &draft.id)?;
        let record = VmRecord { name, state: VmState::Stopped, ..draft.clone() };
        self.home.save(&record, true)?;
        Ok(Imported { record, machine: manifest.machine, unlike, closed })
    }

    /// What was restored beside the layers of a VM with an image, into its directory.
    fn take_companions(&self, draft: &VmRecord) -> Result<(), FvmError> {
        let Some(from) = draft.layers_dir.as_path().parent().filter(|_| disk::has(&self.home, draft)) else {
            return Ok(());
        };
        let to = self.home.vm_dir(&draft.id);
        for name in COMPANIONS {
            let (from, to) = (from.join(name), to.join(name));
            if from.is_dir() {
                crate::stack::create(&to)?;
                for entry in std::fs::read_dir(&from).into_iter().flatten().flatten() {
                    crate::stack::copy_file(&entry.path(), &to.join(entry.file_name()))?;
                }
            } else if from.exists() {
                crate::stack::copy_file(&from, &to)?;
            }
            crate::stack::remove(&from)?;
        }
        Ok(())
    }

    /// The log that came with the archive, as one of this machine's.
    fn take_log(&self, draft: &VmRecord, trust: bool) -> Result<(), FvmError> {
        let dir = self.home.events_dir(&draft.id);
        let has_log = dir.is_dir();
        if has_log {
            let mut left = LOG_MAX_BYTES;
            let failed = |why: &str| FvmError::Archive { what: "import its log".into(), why: why.into() };
            let own = |path: &Path, mode: u32| {
                let mode = rustix::fs::Mode::from_raw_mode(mode);
                let me = (rustix::process::geteuid(), rustix::process::getegid());
                rustix::fs::chown(path, Some(me.0), Some(me.1))
                    .and_then(|()| rustix::fs::chmod(path, mode))
                    .map_err(|errno| VmError::Io { what: "own", path: path.to_owned(), errno })
            };
            own(&dir, 0o700)?;
            for entry in std::fs::read_dir(&dir).map_err(|_| failed("it cannot be read"))?.flatten() {
                own(&entry.path(), 0o600)?;
                let size = entry.metadata().map_err(|_| failed("it cannot be read"))?.len();
                left = left.checked_sub(size).ok_or_else(|| failed("it is larger than a log can be"))?;
            }
        }
        if has_log && trust {
            return Ok(());
        }
        let what = if has_log { "another machine's log" } else { "what another machine did" };
        Ok(lifecycle::note_unseen(&self.home, draft, what)?)
    }

    /// Paths of the host that are not what the VM's changes stand on.
    ///
    /// # Errors
    /// When the list is there and cannot be read: then nobody knows.
    pub(crate) fn unlike(&self, record: &VmRecord) -> Result<HashSet<HostPath>, FvmError> {
        let path = self.home.vm_dir(&record.id).join("unlike");
        let bad = |why: String| FvmError::from(VmError::BadRecord { path: path.clone(), why });
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| bad(format!("it is damaged: {e}"))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
            Err(e) => Err(bad(e.to_string())),
        }
    }

    fn note_unlike(&self, record: &VmRecord, paths: &[HostPath]) -> Result<(), FvmError> {
        let (file, new) =
            (self.home.vm_dir(&record.id).join("unlike"), self.home.vm_dir(&record.id).join("unlike.new"));
        let io = |e: std::io::Error| {
            let errno = rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO);
            FvmError::from(VmError::Io { what: "write", path: file.clone(), errno })
        };
        if paths.is_empty() {
            return match std::fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(e)),
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec(paths).map_err(|e| VmError::Internal(e.to_string()))?;
        let write = || -> std::io::Result<()> {
            std::fs::write(&new, text)?;
            std::fs::File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &file)?;
            std::fs::File::open(self.home.vm_dir(&record.id))?.sync_all()
        };
        write().map_err(io)
    }

    /// What was committed, the host has as the VM has it. `None`: everything was.
    pub(crate) fn forget_unlike(&self, record: &VmRecord, paths: Option<&HashSet<&VmPath>>) -> Result<(), FvmError> {
        let unlike = self.unlike(record)?;
        if unlike.is_empty() {
            return Ok(());
        }
        let stays = |path: &&HostPath| paths.is_some_and(|paths| !paths.contains(&path.in_vm()));
        self.note_unlike(record, &unlike.iter().filter(stays).cloned().collect::<Vec<_>>())
    }
}

/// The policy without what it opens of the host that it is on; `closed` says what that was.
fn close(policy: &Policy, closed: &mut Vec<&'static str>) -> Policy {
    let usual = Policy::default();
    let mut own = policy.clone();
    let mut reset = |what: &'static str, is_open: bool, close: &mut dyn FnMut(&mut Policy)| {
        if is_open {
            closed.push(what);
            close(&mut own);
        }
    };
    reset("the host's network", policy.network == Network::Host, &mut |p| p.network = usual.network);
    reset("shared directories", !policy.files.share.is_empty(), &mut |p| p.files.share.clear());
    reset("devices", !policy.devices.is_empty(), &mut |p| p.devices.clear());
    reset("sockets of the host's services", !policy.sockets.is_empty(), &mut |p| p.sockets.clear());
    reset("what it may ask of the desktop", !policy.dbus.pass.is_empty(), &mut |p| p.dbus.pass.clear());
    reset("environment variables", policy.environment != usual.environment, &mut |p| {
        p.environment = usual.environment.clone()
    });
    reset("what it may ask of the kernel", policy.kernel != usual.kernel, &mut |p| p.kernel = usual.kernel);
    reset("what it may reach", policy.reach != usual.reach, &mut |p| p.reach = usual.reach.clone());
    reset("ports on the host", !policy.publish.is_empty(), &mut |p| p.publish.clear());
    reset("the range of its addresses", policy.range != usual.range, &mut |p| p.range = usual.range);
    // It opens nothing, and a stranger's files are what marks are for.
    own.mark = true;
    own
}

fn read_manifest(text: &[u8]) -> Result<Manifest, FvmError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
        vm: VmHead,
    }
    #[derive(Deserialize)]
    struct VmHead {
        format: u32,
    }
    let failed = |why: String| FvmError::Archive { what: "import it".into(), why };
    // What it quotes is the archive's.
    let damaged =
        |e: serde_json::Error| failed(format!("its manifest cannot be read: {}", printable(e.to_string().as_bytes())));
    let head: Head = serde_json::from_slice(text).map_err(damaged)?;
    if head.format > MANIFEST_FORMAT || head.vm.format > FORMAT {
        return Err(failed("a newer fvm wrote it: use that".into()));
    }
    let mut manifest: Manifest = serde_json::from_slice(text).map_err(damaged)?;
    for said in [&mut manifest.machine.system, &mut manifest.machine.kernel, &mut manifest.machine.architecture] {
        *said = printable(said.as_bytes());
    }
    let name = &mut manifest.vm.policy.name.0;
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)) {
        *name = "imported".into();
    }
    Ok(manifest)
}
