//! Copies of host files as a VM first knew them: what a merge has for its third side.
//!
//! ```text
//!   when           which                                        why then
//!   VM is made     keyed stores (/etc/passwd, dconf, Wine)      programs on the host write them at any time
//!   after a scan   files that the VM modified and the host      from here on the host may change them
//!                  has not touched since the fork
//!   after a commit files of which only a part was committed     the rest is to be compared with the new version
//!
//!   <home>/vms/<id>/bases/<hash of the path>    {"path":...,"ino":...,"ctime":...}\n then the content
//! ```
//!
//! Invariants: a base is a convenience: without it a conflict is reported, never resolved wrongly; it is written whole
//! under another name and renamed; nothing of a VM's layers is in it; it goes with its VM.

use fvm_changes::Known;
use fvm_model::{Change, ChangeKind, FileType, Timestamp, VmPath, VmRecord};
use fvm_registry::OnKeyConflict;
use fvm_sys::dir::Dir;
use rustix::fs::{self, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest file that is kept.
const MAX_BYTES: u64 = 8 << 20;
/// Longest file that is kept after a scan, and how many: an installation changes thousands.
const SCAN_MAX_BYTES: u64 = 256 << 10;
const SCAN_MAX_FILES: usize = 200;

/// The bases of one VM.
#[derive(Debug)]
pub struct Bases {
    dir: PathBuf,
}

/// Keeps, while changes are read, the bases of what the VM modified and the host has not touched since the fork.
#[derive(Debug, Clone)]
pub struct Keeper<'b> {
    bases: &'b Bases,
    forked: Timestamp,
    left: usize,
}

impl Keeper<'_> {
    /// Whether the change is one whose base is kept.
    pub fn wants(&self, change: &Change) -> bool {
        self.left > 0
            && matches!(change.kind, ChangeKind::Modified { .. })
            && change.file_type == FileType::File
            && change.conflict.is_none()
            && change.base.as_ref() == Some(&change.path.on_host())
    }

    /// Keeps one, if it is among the first.
    pub fn keep(&mut self, path: &VmPath) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        if !self.bases.file(path).exists() {
            let _not_kept = self.bases.keep(path, Some(self.forked), SCAN_MAX_BYTES);
        }
    }
}

/// The first line of a base.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    path: VmPath,
    ino: u64,
    ctime: Timestamp,
}

impl Bases {
    /// Those in `<vm directory>/bases`.
    pub fn of(vm_dir: &Path) -> Self {
        Self { dir: vm_dir.join("bases") }
    }

    fn file(&self, path: &VmPath) -> PathBuf {
        // FNV-1a; two paths with one hash share a place, and the later one has it.
        let fnv = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        self.dir.join(format!("{:016x}", path.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, fnv)))
    }

    /// What the host's file at `path` held.
    pub fn content(&self, path: &VmPath) -> Option<Vec<u8>> {
        let (head, content) = read(&self.file(path))?;
        (head.path == *path).then_some(content)
    }

    /// Which host files were seen, in which state.
    pub fn known(&self) -> HashMap<VmPath, Known> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let head = |entry: std::fs::DirEntry| {
            let mut line = Vec::new();
            let mut file = std::io::BufReader::new(std::fs::File::open(entry.path()).ok()?);
            std::io::BufRead::read_until(&mut file, b'\n', &mut line).ok()?;
            let head: Head = serde_json::from_slice(&line).ok()?;
            Some((head.path, Known { ino: head.ino, ctime: head.ctime }))
        };
        entries.filter_map(head).collect()
    }

    /// Keeps the host's file at `path` as it is now, if it is a regular file of at most `max_bytes`, and was not changed
    /// after `until`. That it cannot be kept is no error.
    fn keep(&self, path: &VmPath, until: Option<Timestamp>, max_bytes: u64) -> Option<()> {
        let host = path.on_host();
        let rel = host.as_path().strip_prefix("/").ok()?;
        let dir = Dir::open_root(Path::new("/")).ok()?.beneath_deep(rel.parent()?).ok()?;
        let name = Path::new(rel.file_name()?);
        let look = || -> Option<(u64, Timestamp)> {
            let stat = dir.stat(name).ok()?;
            let is_file = fs::FileType::from_raw_mode(u32::from(stat.stx_mode)) == fs::FileType::RegularFile;
            let ctime = Timestamp { secs: stat.stx_ctime.tv_sec, nanos: stat.stx_ctime.tv_nsec };
            (is_file && stat.stx_size <= max_bytes).then_some((stat.stx_ino, ctime))
        };
        let before = look().filter(|(_, ctime)| until.is_none_or(|until| *ctime <= until))?;
        let mut content = Vec::new();
        let file: std::fs::File = dir.open_file(name).ok()?.into();
        file.take(max_bytes).read_to_end(&mut content).ok()?;
        if look()? != before {
            return None;
        }
        let head = Head { path: path.clone(), ino: before.0, ctime: before.1 };
        self.write(&head, &content).ok()
    }

    fn write(&self, head: &Head, content: &[u8]) -> std::io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let target = self.file(&head.path);
        let temp = target.with_extension(std::process::id().to_string());
        let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&temp)?;
        serde_json::to_writer(&mut file, head)?;
        file.write_all(b"\n")?;
        file.write_all(content)?;
        std::fs::rename(&temp, &target)
    }

    /// When the VM is made: these paths, where the host has them.
    pub fn keep_at_fork(&self, paths: &[PathBuf]) {
        for path in paths {
            // Most machines lack most of them.
            if path.symlink_metadata().is_ok_and(|m| m.len() <= MAX_BYTES && m.nlink() > 0)
                && let Ok(path) = VmPath::new(path)
            {
                let _not_kept = self.keep(&path, None, MAX_BYTES);
            }
        }
    }

    /// What keeps bases while the changes of `record` are read.
    pub fn keeper(&self, record: &VmRecord) -> Keeper<'_> {
        Keeper { bases: self, forked: record.based(), left: if record.ephemeral { 0 } else { SCAN_MAX_FILES } }
    }

    /// After a commit of a part of `path`, which took the host's file from `before` to `after`: the same part is done in
    /// the base, so that what remains is what the VM changed, and nothing that the host changed. `conflict`: the host's
    /// file was not as the VM knew it, and is not now.
    pub fn advance(&self, path: &VmPath, before: &[u8], after: &[u8], conflict: bool) {
        if !conflict {
            self.refresh(path);
            return;
        }
        let Some(base) = self.content(path) else { return };
        let advanced = match fvm_registry::recognise(path.as_path(), after) {
            Some(registry) => registry
                .merge(path.as_path(), before, after, &base, None, OnKeyConflict::Vm)
                .ok()
                .map(|merged| merged.bytes),
            None => diffy::merge_bytes(before, &base, after).ok(),
        };
        // Known under no inode: the host's file is another one.
        let head = Head { path: path.clone(), ino: 0, ctime: Timestamp::default() };
        let written = advanced.is_some_and(|content| self.write(&head, &content).is_ok());
        if !written {
            let _absent = std::fs::remove_file(self.file(path));
        }
    }

    fn refresh(&self, path: &VmPath) {
        if self.keep(path, None, MAX_BYTES).is_none() {
            let _absent = std::fs::remove_file(self.file(path));
        }
    }

    /// The VM sees the host's version of these (`None`: of everything) again: what was known of them is of the past.
    pub fn renew(&self, paths: Option<&HashSet<&VmPath>>) {
        for path in self.known().keys().filter(|path| paths.is_none_or(|paths| paths.contains(path))) {
            self.refresh(path);
        }
    }
}

fn read(path: &Path) -> Option<(Head, Vec<u8>)> {
    let file: std::fs::File =
        fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?.into();
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + (64 << 10)).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let head = serde_json::from_slice(&bytes[..end]).ok()?;
    bytes.drain(..=end);
    Some((head, bytes))
}
