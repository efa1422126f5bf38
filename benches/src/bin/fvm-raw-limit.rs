//! What the kernel needs at least for the isolation of a VM: the limit that `fvm run --rm` is measured against.
//!
//! ```text
//!   --userns none                               --userns shifted
//!   vfork into the namespaces                   fork into the namespaces, and a user namespace
//!     tmpfs on /tmp, 2 directories                │ waits        parent: id maps
//!     overlay over /, proc                        │              / and the upper, as idmapped detached mounts
//!     pivot_root, detach the old root             │◄── overlay ──  the overlay over them
//!     execve                                      become user 0; attach, proc, pivot_root, detach, execve
//!   wait                                        wait
//! ```
//!
//! The two ways are those of the fvm that root runs (shifted), and the same without a user namespace. What a VM has beyond
//! that is left out on purpose: a /dev of its own, masks, limits, a system call filter, a record of the VM.
//!
//! Invariants: no system call that is not needed; mounts that served are moved into the old root, which goes as a whole,
//! because closing each of them would wait for an RCU grace period of its own. With `--upper DIR`, what is written stays in
//! `DIR/<pid>`: removing it is not the kernel's part.

use fvm_sys::mount::{MountOption, attach, clone_mount, mount_setattr_idmap, new_mount};
use fvm_sys::process::{Fork, Namespaces, Waited, clone_into, exit_now};
use fvm_sys::vfork::{execute, vfork_into, wait_with_usage};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, mkdir, mkdirat, open};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{chdir, fchdir, pivot_root};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str =
    "usage: fvm-raw-limit [--net none|host] [--upper tmpfs|DIR] [--userns shifted|none] PROGRAM ARGS...";
/// All ids of the new user namespace, where fvm puts them too.
const MAP: &[u8] = b"0 1073741824 1073741824\n";
/// User 0 of it, to the host.
const SHIFT: u32 = 0x4000_0000;

/// What was asked for.
struct Job {
    namespaces: Namespaces,
    own_net: bool,
    shifted: bool,
    /// Where the upper goes; in memory when there is none.
    upper: Option<PathBuf>,
    program: Vec<CString>,
    env: Vec<CString>,
}

/// What was attempted, and how the kernel refused.
struct Failed(&'static str, Errno);

fn main() -> ExitCode {
    let Some(job) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(125);
    };
    match if job.shifted { shifted(&job) } else { plain(&job) } {
        Ok(code) => ExitCode::from(code),
        Err(failed) => ExitCode::from(say(&failed)),
    }
}

fn parse() -> Option<Job> {
    let all = Namespaces::MOUNT.and(Namespaces::PID).and(Namespaces::IPC).and(Namespaces::UTS).and(Namespaces::CGROUP);
    let env = std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        CString::new(key.into_vec())
    });
    let env = env.collect::<Result<_, _>>().ok()?;
    let mut job = Job { namespaces: all, own_net: true, shifted: true, upper: None, program: Vec::new(), env };
    let mut words = std::env::args_os().skip(1).peekable();
    while let Some(flag) = words.next_if(|word| word.as_encoded_bytes().starts_with(b"--")) {
        let value = words.next()?;
        match (flag.to_str()?, value.to_str()) {
            ("--net", Some("none")) => job.own_net = true,
            ("--net", Some("host")) => job.own_net = false,
            ("--userns", Some("shifted")) => job.shifted = true,
            ("--userns", Some("none")) => job.shifted = false,
            ("--upper", Some("tmpfs")) => job.upper = None,
            ("--upper", _) => job.upper = Some(value.into()),
            _ => return None,
        }
    }
    job.program = words.map(|word| CString::new(word.into_vec())).collect::<Result<_, _>>().ok()?;
    if job.own_net {
        job.namespaces = job.namespaces.and(Namespaces::NET);
    }
    (!job.program.is_empty()).then_some(job)
}

fn say(Failed(what, errno): &Failed) -> u8 {
    eprintln!("fvm-raw-limit: {what}: {errno}");
    125
}

fn plain(job: &Job) -> Result<u8, Failed> {
    // In the parent: this name is the process's on the host.
    let upper = job.upper.as_deref().map(fresh).transpose()?;
    let child = || i32::from(say(&plain_child(job, upper.as_deref())));
    let pid = vfork_into(job.namespaces, child).map_err(|e| Failed("clone", e))?;
    wait(pid.as_raw_nonzero().get())
}

fn plain_child(job: &Job, upper: Option<&Path>) -> Failed {
    let enter = || {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).map_err(|e| Failed("private mounts", e))?;
        let none = MountFlags::empty();
        let data = if let Some(dir) = upper {
            let dir = dir.display();
            format!("lowerdir=/,upperdir={dir}/upper,workdir={dir}/work,volatile")
        } else {
            rustix::mount::mount("tmpfs", "/tmp", "tmpfs", none, None).map_err(|e| Failed("tmpfs", e))?;
            mkdir("/tmp/upper", Mode::from(0o755)).map_err(|e| Failed("mkdir", e))?;
            mkdir("/tmp/work", Mode::from(0o755)).map_err(|e| Failed("mkdir", e))?;
            "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work,volatile".to_owned()
        };
        let data = CString::new(data).map_err(|_| Failed("overlay", Errno::INVAL))?;
        // Over /tmp, wherever that is: the tree has to be attached somewhere before it can become the root.
        rustix::mount::mount("overlay", "/tmp", "overlay", none, Some(data.as_c_str()))
            .map_err(|e| Failed("overlay", e))?;
        chdir("/tmp").map_err(|e| Failed("chdir", e))?;
        enter_root(job)
    };
    run(job, enter())
}

fn shifted(job: &Job) -> Result<u8, Failed> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| Failed("socketpair", e))?;
    match clone_into(job.namespaces.and(Namespaces::USER), false).map_err(|e| Failed("clone", e))? {
        Fork::Child => {
            drop(ours);
            exit_now(i32::from(say(&run(job, shifted_child(job, &theirs)))))
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let pid = pid.as_raw_nonzero().get();
            // Without mounts the child reads the end of the stream, and ends.
            let mounts = build(job, pid)?;
            let fds: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
            fvm_sys::socket::send(&ours, b"g", &fds).map_err(|e| Failed("send", e))?;
            wait(pid)
        }
    }
}

/// The overlay, its lower and its upper, detached.
fn build(job: &Job, pid: i32) -> Result<[OwnedFd; 3], Failed> {
    for map in ["uid_map", "gid_map"] {
        let file = open(format!("/proc/{pid}/{map}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        file.and_then(|file| rustix::io::write(file, MAP)).map_err(|e| Failed("id map", e))?;
    }
    let users = open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failed("user namespace", e))?;
    let lower = clone_mount(CWD, Path::new("/"), false).map_err(|e| Failed("open_tree", e))?;
    mount_setattr_idmap(lower.as_fd(), users.as_fd()).map_err(|e| Failed("idmap of /", e))?;
    let upper = if let Some(dir) = &job.upper {
        clone_mount(CWD, &fresh(dir)?, false).map_err(|e| Failed("open_tree", e))?
    } else {
        let made = new_mount("tmpfs", &[], MountAttrFlags::empty()).map_err(|e| Failed("tmpfs", e.errno))?;
        for dir in ["upper", "work"] {
            mkdirat(&made, dir, Mode::from(0o755)).map_err(|e| Failed("mkdir", e))?;
        }
        made
    };
    mount_setattr_idmap(upper.as_fd(), users.as_fd()).map_err(|e| Failed("idmap of the upper", e))?;
    // Whoever mounts an overlay makes its work directory: on this layer the host's root is nobody.
    fvm_sys::ids::keep_capabilities()
        .and_then(|()| fvm_sys::ids::set_fs_ids(SHIFT, SHIFT))
        .map_err(|e| Failed("file ids", e))?;
    let by_fd = |fd: &OwnedFd, rest: &str| {
        use rustix::fd::AsRawFd;
        format!("/proc/self/fd/{}{rest}", fd.as_raw_fd())
    };
    let options = [
        MountOption::Value("lowerdir", by_fd(&lower, "")),
        MountOption::Value("upperdir", by_fd(&upper, "/upper")),
        MountOption::Value("workdir", by_fd(&upper, "/work")),
        MountOption::Flag("volatile"),
    ];
    let overlay = new_mount("overlay", &options, MountAttrFlags::empty()).map_err(|e| Failed("overlay", e.errno))?;
    Ok([overlay, lower, upper])
}

fn shifted_child(job: &Job, theirs: &OwnedFd) -> Result<(), Failed> {
    let (_, fds) = fvm_sys::socket::receive(theirs, &mut [0]).map_err(|e| Failed("receive", e))?;
    let Ok([overlay, lower, upper]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(Failed("mounts from the parent", Errno::PIPE));
    };
    let (user, group) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(group, group, group)
        .and_then(|()| rustix::thread::set_thread_groups(&[]))
        .and_then(|()| rustix::thread::set_thread_res_uid(user, user, user))
        .map_err(|e| Failed("ids", e))?;
    let at = |path: &str| open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let put = |mount: &OwnedFd, path: &str| attach(mount.as_fd(), at(path)?.as_fd());
    // See the module's invariants: into the old root, so that they go with it.
    put(&lower, "/tmp").and_then(|()| put(&upper, "/tmp")).map_err(|e| Failed("moving a layer away", e))?;
    put(&overlay, "/").map_err(|e| Failed("move_mount", e))?;
    fchdir(&overlay).map_err(|e| Failed("fchdir", e))?;
    enter_root(job)
}

/// From a process that stands in the new tree to one that has it as its root.
fn enter_root(job: &Job) -> Result<(), Failed> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "proc", "proc", flags, None).map_err(|e| Failed("proc", e))?;
    pivot_root(".", ".").map_err(|e| Failed("pivot_root", e))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(|e| Failed("umount", e))?;
    if job.own_net {
        fvm_sys::net::loopback_up().map_err(|e| Failed("loopback", e))?;
    }
    Ok(())
}

/// Becomes the program, if `entered`; what is returned is why not.
fn run(job: &Job, entered: Result<(), Failed>) -> Failed {
    if let Err(failed) = entered {
        return failed;
    }
    let args: Vec<&CStr> = job.program.iter().map(CString::as_c_str).collect();
    let env: Vec<&CStr> = job.env.iter().map(CString::as_c_str).collect();
    Failed("execve", execute(args[0], &args, &env))
}

/// A directory of this run below `dir`, with a place for an upper and its work: a work directory that was mounted volatile
/// once cannot be used again.
fn fresh(dir: &Path) -> Result<PathBuf, Failed> {
    let own = dir.join(std::process::id().to_string());
    for path in [own.clone(), own.join("upper"), own.join("work")] {
        mkdir(&path, Mode::from(0o755)).map_err(|e| Failed("mkdir", e))?;
    }
    Ok(own)
}

fn wait(pid: i32) -> Result<u8, Failed> {
    match wait_with_usage(pid).map_err(|e| Failed("wait", e))?.0 {
        Waited::Exited(code) => Ok(u8::try_from(code).unwrap_or(125)),
        Waited::Signaled(signal) | Waited::Stopped(signal) => Ok(u8::try_from(128 + signal).unwrap_or(125)),
    }
}
