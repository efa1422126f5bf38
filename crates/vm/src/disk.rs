//! How much a VM's changes may take on the disk: a file system of that size, or a limit that the keeper watches.
//!
//! ```text
//!   <home>/vms/<id>/disk.img     root: ext4 in a file of that size      more than it holds is refused inside (ENOSPC)
//!   <home>/vms/<id>/disk.lock    held while its device is looked for, or it is copied
//!   <home>/vms/<id>/disk/        where it is mounted, but in no namespace of the host's
//!       layers/<n>/upper work/
//!
//!   elsewhere: the keeper watches a limit ([`crate::quota`])
//! ```
//!
//! A process that needs the layers mounts the image for itself, in a mount namespace of its own that follows the host's. So
//! nothing is to be cleaned up: with the last such process, and the VM, the kernel gives mount and loop device back.
//!
//! The image takes its place on the host's disk at once: one that found no room later would lose what the VM's programs were told is
//! written.
//!
//! Invariants: an image has one loop device at any moment, whoever mounts it; an image is not copied while it is mounted; a VM
//! writes the file system through the kernel only, never the image.

use crate::error::VmError;
use crate::home::Home;
use fvm_model::policy::limits::show_size;
use fvm_model::{HostPath, Mode, Policy, VmId, VmRecord};
use fvm_sys::loopdev::Loop;
use fvm_sys::mount::{self, MountOption};
use fvm_sys::process::{self, Namespaces};
use rustix::fd::AsFd;
use rustix::fs::{self, AtFlags, FlockOperation, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// What is left of a full file system, at most: programs write in pieces, and the last that fits leaves something.
const FULL_BYTES: u64 = 16 << 20;
/// The same of a small one: the whole by this.
const FULL_PART: u64 = 64;

/// The mounts that a process sees: those of the namespace in which it was when it opened this.
const MOUNTS: &str = "/proc/thread-self/mountinfo";

fn image(home: &Home, id: &VmId) -> PathBuf {
    home.vm_dir(id).join("disk.img")
}

fn place(home: &Home, id: &VmId) -> PathBuf {
    home.vm_dir(id).join("disk")
}

/// Where the layers of a VM with an image lie.
#[must_use]
pub fn layers_dir(home: &Home, id: &VmId) -> PathBuf {
    place(home, id).join("layers")
}

/// Whether the layers of a VM lie in an image.
#[must_use]
pub fn has(home: &Home, record: &VmRecord) -> bool {
    record.layers_dir.as_path().starts_with(place(home, &record.id))
}

/// Whether a VM that is made now gets an image.
#[must_use]
pub fn wants(mode: Mode, policy: &Policy) -> bool {
    policy.limits.disk_bytes.is_some() && mode != Mode::Rootless && why_not().is_none()
}

/// Why no VM can have an image here.
#[must_use]
pub fn why_not() -> Option<String> {
    if !process::is_privileged() {
        Some("an ordinary user cannot mount a disk".into())
    } else if let Err(e) = fvm_sys::loopdev::available() {
        Some(format!("there are no loop devices here ({e})"))
    } else {
        tool("mkfs.ext4").is_none().then(|| "there is no 'mkfs.ext4' (package e2fsprogs)".into())
    }
}

fn tool(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
}

/// What is wrong with a VM's disk, in words.
fn fail(what: &str) -> impl Fn(String) -> VmError {
    move |why| VmError::Limit { what: format!("disk: {what}"), why }
}

/// Runs one of the programs that make, check and grow file systems. `code_max`: the highest exit status that is good.
fn run(name: &str, args: &[&str], on: &Path, code_max: i32) -> Result<(), VmError> {
    let fail = fail(name);
    let tool = tool(name).ok_or_else(|| fail("it is not installed (package e2fsprogs)".into()))?;
    let mut command = Command::new(tool);
    // Not to be ended by a key that is meant for the VM's program.
    command.args(args).arg(on).env_clear().current_dir("/").stdin(Stdio::null()).process_group(0);
    let done = command.output().map_err(|e| fail(e.to_string()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.code().is_some_and(|code| code <= code_max) {
        Ok(())
    } else {
        Err(fail(format!("{}: {}", done.status, said.trim())))
    }
}

/// Makes the image of a new VM.
///
/// # Errors
/// When it cannot be made; what there is of it goes with the VM's directory.
pub fn make(home: &Home, record: &VmRecord) -> Result<(), VmError> {
    let Some(bytes) = record.policy.limits.disk_bytes else { return Ok(()) };
    let path = image(home, &record.id);
    let io = |what| move |e: Errno| VmError::sys(what, &image(home, &record.id), e);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = fs::open(&path, flags, FileMode::RUSR | FileMode::WUSR).map_err(io("create"))?;
    reserve(&file, &path, bytes)?;
    // What is thrown away anyway needs no journal. No room for root alone: the VM's root is not the host's.
    let journal = if record.ephemeral { "^has_journal" } else { "has_journal" };
    let lazily = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";
    run("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", journal, "-E", lazily], &path, 0)?;
    if !record.ephemeral {
        fs::fsync(&file).map_err(io("sync"))?;
    }
    make_place(home, &record.id)
}

/// Gives a file `bytes` of the disk, for good. Where there is no room for all, none is taken: `fallocate(2)` keeps what it got.
fn reserve(file: impl AsFd, path: &Path, bytes: u64) -> Result<(), VmError> {
    let before = fs::fstat(&file).map_err(|e| VmError::sys("look at", path, e))?.st_size;
    fs::fallocate(&file, fs::FallocateFlags::empty(), 0, bytes).map_err(|e| {
        // Beyond what it was there is nothing yet.
        let _stays = fs::ftruncate(&file, before.cast_unsigned());
        let why = match e {
            Errno::OPNOTSUPP => "this file system reserves no space; use another --home".to_owned(),
            e => e.to_string(),
        };
        fail(&format!("reserve {} in {}", show_size(bytes), path.display()))(why)
    })
}

fn make_place(home: &Home, id: &VmId) -> Result<(), VmError> {
    let place = place(home, id);
    fs::mkdir(&place, FileMode::RWXU).map_err(|e| VmError::sys("create", &place, e))
}

/// Makes the layers of `record` reachable for this process, where they lie in an image: from then on the calling thread, and
/// those that it starts, are in a mount namespace of their own, which follows what the host mounts.
///
/// # Errors
/// When the image cannot be mounted.
pub fn reach(home: &Home, record: &VmRecord) -> Result<(), VmError> {
    if !has(home, record) || is_reached(home, record) {
        return Ok(());
    }
    let _lock = lock(home, &record.id)?;
    let (path, file) = open(home, &record.id)?;
    let device = device(&file).map_err(|e| VmError::sys("take a loop device for", &path, e))?;
    mount_at(home, record, &device)
}

/// The lock of the disk is held.
fn mount_at(home: &Home, record: &VmRecord, device: &Loop) -> Result<(), VmError> {
    // One thread alone would see it.
    if !process::has_one_thread() {
        return Err(VmError::Threads("look at a VM with a limit of disk"));
    }
    let (place, fail) = (place(home, &record.id), fail("mount it"));
    let said = |e: Errno| fail(e.to_string());
    if HOST_MOUNTS.get().is_none() {
        let table = File::open(MOUNTS).map_err(|e| VmError::io("open", Path::new(MOUNTS), &e))?;
        let _another_was_quicker = HOST_MOUNTS.set(table);
    }
    process::unshare(Namespaces::MOUNT).map_err(said)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(said)?;
    let source = MountOption::Value("source", device.path.display().to_string());
    let options = [source, MountOption::Value("errors", "remount-ro".into())];
    let quiet = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mounted = mount::new_mount("ext4", &options, quiet).map_err(|e| fail(e.to_string()))?;
    let target = fs::open(&place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty());
    mount::attach(mounted.as_fd(), target.map_err(|e| VmError::sys("open", &place, e))?.as_fd()).map_err(said)?;
    fs::chmod(&place, FileMode::RWXU).map_err(|e| VmError::sys("set the mode of", &place, e))
}

/// The mount table of the host, as it was entered from: opened before the first mount namespace of this process's own.
static HOST_MOUNTS: OnceLock<File> = OnceLock::new();

/// A mount point that the host has and this process not, or the other way round: where mounts are private, those that the host makes
/// after [`reach`] are not followed.
#[must_use]
pub fn strayed() -> Option<HostPath> {
    let host = HOST_MOUNTS.get()?;
    let targets = |file: &File| -> Option<BTreeSet<HostPath>> {
        let (mut file, mut table) = (file, Vec::new());
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut table)).ok()?;
        Some(fvm_host::parse(&table).ok()?.into_iter().map(|mount| mount.target).collect())
    };
    let (host, own) = (targets(host)?, targets(&File::open(MOUNTS).ok()?)?);
    let is_disk = |path: &&HostPath| {
        let path = path.as_path();
        path.file_name() == Some(OsStr::new("disk")) && path.parent().is_some_and(|vm| vm.join("disk.img").exists())
    };
    host.symmetric_difference(&own).find(|path| !is_disk(path)).cloned()
}

/// Whether this process sees it.
fn is_reached(home: &Home, record: &VmRecord) -> bool {
    let stat = fs::statx(fs::CWD, place(home, &record.id), AtFlags::empty(), fs::StatxFlags::empty());
    stat.is_ok_and(|s| s.stx_attributes.contains(fs::StatxAttributes::MOUNT_ROOT))
}

/// Before the VM is removed: its directory can then be.
pub fn leave(home: &Home, record: &VmRecord) {
    if has(home, record) && is_reached(home, record) {
        // Otherwise it goes with this process.
        let _stays = unmount(place(home, &record.id), UnmountFlags::DETACH);
    }
}

fn open(home: &Home, id: &VmId) -> Result<(PathBuf, File), VmError> {
    let path = image(home, id);
    let file = File::options().read(true).write(true).open(&path).map_err(|e| VmError::io("open", &path, &e))?;
    Ok((path, file))
}

/// While it is held, nobody else looks for the device of an image, or gives it one.
fn lock(home: &Home, id: &VmId) -> Result<File, VmError> {
    let path = home.vm_dir(id).join("disk.lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = fs::open(&path, flags, FileMode::RUSR | FileMode::WUSR).map_err(|e| VmError::sys("open", &path, e))?;
    fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| VmError::sys("lock", &path, e))?;
    Ok(file.into())
}

fn device(file: &File) -> Result<Loop, Errno> {
    Loop::of(file)?.map_or_else(|| Loop::attach(file), Ok)
}

/// Copies the image of a stopped VM, whose lock the caller holds, for `to`.
///
/// # Errors
/// [`VmError::Busy`] while another command looks at it, and when it cannot be copied.
pub fn copy(home: &Home, from: &VmRecord, to: &VmRecord) -> Result<(), VmError> {
    let _lock = lock(home, &from.id)?;
    let (path, file) = open(home, &from.id)?;
    await_unmounted(home, from, &file)?;
    let len = file.metadata().map_err(|e| VmError::io("look at", &path, &e))?.len();
    drop(copy_image(&file, &image(home, &to.id), len)?);
    make_place(home, &to.id)?;
    match to.policy.limits.disk_bytes {
        Some(bytes) if bytes != len => grow(home, to, bytes, false),
        _ => Ok(()),
    }
}

/// Waits until nobody has the image of a stopped VM mounted. The caller holds the lock of the disk, so nobody will.
fn await_unmounted(home: &Home, record: &VmRecord, file: &File) -> Result<(), VmError> {
    const TRIES: u32 = 100;
    leave(home, record);
    // Whoever had it mounted may be gone, and its device on its way.
    for _ in 0..TRIES {
        let path = || image(home, &record.id);
        if Loop::of(file).map_err(|e| VmError::sys("look for the loop device of", &path(), e))?.is_none() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(VmError::Busy(record.name.clone()))
}

/// How large the image of a VM is.
#[must_use]
pub fn size(home: &Home, record: &VmRecord) -> Option<u64> {
    if has(home, record) { image(home, &record.id).metadata().ok().map(|meta| meta.len()) } else { None }
}

/// What the image of a VM takes on the host's disk, in bytes.
#[must_use]
pub fn taken(home: &Home, record: &VmRecord) -> Option<u64> {
    let meta = if has(home, record) { image(home, &record.id).metadata().ok() } else { None };
    meta.map(|meta| meta.blocks().saturating_mul(512))
}

/// Makes the image of a VM larger. `runs`: the VM has it mounted; else the caller holds the VM's lock.
///
/// # Errors
/// When it would become smaller, or cannot grow: it is as large as before then.
pub fn grow(home: &Home, record: &VmRecord, bytes: u64, runs: bool) -> Result<(), VmError> {
    let fail = fail("resize it");
    let _lock = lock(home, &record.id)?;
    let (path, file) = open(home, &record.id)?;
    let len = file.metadata().map_err(|e| VmError::io("look at", &path, &e))?.len();
    if bytes < len {
        let why = format!("it has {} and cannot become smaller: 'fvm create' makes one with less", show_size(len));
        return Err(fail(why));
    }
    if !runs {
        await_unmounted(home, record, &file)?;
        return replace_by_larger(home, &record.id, &file, len, bytes);
    }
    let device = device(&file).map_err(|e| VmError::sys("take a loop device for", &path, e))?;
    let size_device = || device.grow().map_err(|e| VmError::sys("size the loop device of", &path, e));
    reserve(&file, &path, bytes)?;
    size_device()?;
    if !is_reached(home, record) {
        mount_at(home, record, &device)?;
    }
    // Whatever becomes of that, the file stays longer: how far the file system has grown only the kernel knows.
    run("resize2fs", &[], &device.path, 0).map_err(|e| match e {
        VmError::Limit { why, .. } => fail(format!("{why}; it can grow while the VM is stopped")),
        other => other,
    })
}

/// On a copy: a file system that was being resized when the power went is none any more.
fn replace_by_larger(home: &Home, id: &VmId, file: &File, len: u64, bytes: u64) -> Result<(), VmError> {
    let new = home.vm_dir(id).join("disk.img.new");
    let resized = copy_image(file, &new, len).and_then(|copy| {
        reserve(&copy, &new, bytes)?;
        // One that was not unmounted (power cut) has its journal to be read first; 1: it was mended.
        run("e2fsck", &["-fp"], &new, 1)?;
        run("resize2fs", &[], &new, 0)?;
        fs::fsync(&copy).map_err(|e| VmError::sys("sync", &new, e))?;
        std::fs::rename(&new, image(home, id)).map_err(|e| VmError::io("replace", &image(home, id), &e))
    });
    if resized.is_err() {
        let _stays = std::fs::remove_file(&new);
    }
    resized
}

fn copy_image(file: &File, to: &Path, len: u64) -> Result<File, VmError> {
    // What a killed command left is not a whole one.
    let _none = std::fs::remove_file(to);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let new = fs::open(to, flags, FileMode::RUSR | FileMode::WUSR).map_err(|e| VmError::sys("create", to, e))?;
    fvm_sys::copy::content(file.as_fd(), new.as_fd(), len).map_err(|e| VmError::sys("copy to", to, e))?;
    reserve(&new, to, len)?;
    fs::fsync(&new).map_err(|e| VmError::sys("sync", to, e))?;
    Ok(new.into())
}

/// Changes the limit of a stopped VM, whose lock the caller holds.
///
/// # Errors
/// When its disk would become smaller, or cannot grow.
pub fn resize(home: &Home, record: &VmRecord, after: Option<u64>) -> Result<(), VmError> {
    match after {
        _ if !has(home, record) || after == record.policy.limits.disk_bytes => Ok(()),
        Some(bytes) => grow(home, record, bytes, false),
        None => Err(stays()),
    }
}

/// Why a limit cannot be taken away.
#[must_use]
pub fn stays() -> VmError {
    fail("take the limit away")("its changes lie in a file system of that size; it can become larger".into())
}

/// What a VM's disk says about its limit, in words, once the VM has ended.
#[must_use]
pub fn reached(home: &Home, record: &VmRecord) -> Option<String> {
    let limit = record.policy.limits.disk_bytes.filter(|_| has(home, record) && is_reached(home, record))?;
    let place = place(home, &record.id);
    let synced = fs::open(&place, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
        .and_then(|dir| if record.ephemeral { Ok(()) } else { fs::syncfs(&dir) });
    let stat = fs::statvfs(&place).ok()?;
    if synced.is_err() || stat.f_flag.contains(fs::StatVfsMountFlags::RDONLY) {
        return Some("the host's disk failed below its own: what it wrote last may be lost (see 'dmesg')".into());
    }
    let is_full = stat.f_bavail.saturating_mul(stat.f_frsize) < FULL_BYTES.min(limit / FULL_PART)
        || (stat.f_files > 0 && stat.f_favail == 0);
    is_full.then(|| format!("its disk of {} is full", show_size(limit)))
}

/// What a user of `record` has to know about its limit.
#[must_use]
pub fn notice(home: &Home, record: &VmRecord) -> Option<String> {
    record.policy.limits.disk_bytes.filter(|_| !has(home, record))?;
    let why = why_not().unwrap_or_else(|| "the VM was made without one".into());
    Some(format!("its disk limit is watched, and passed for a moment before the VM is ended: {why}"))
}
