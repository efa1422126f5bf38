//! What this kernel and machine can do, tried out once, and what to do about each gap (`fvm doctor`).
//!
//! ```text
//!   try in a forked child, in namespaces of its own ─► Enforced | Partly(why) | Missing(why) + advice
//! ```
//!
//! Invariants: everything is tried, nothing is concluded from a version number; a trial changes nothing that outlives
//! its child.

use fvm_sys::mount::{self, MountOption};
use fvm_sys::process::{self, Namespaces};
use rustix::fd::AsFd;
use rustix::fs::{self, CWD, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::path::Path;

/// How far a feature is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Level {
    /// Tried, and it works.
    Enforced,
    /// It works with a limit.
    Partly(String),
    /// It does not work, and why.
    Missing(String),
}

/// One feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// How far it is there.
    pub level: Level,
    /// What fvm uses it for.
    pub needed_for: &'static str,
    /// What to do about it, when something can be done.
    pub advice: Option<String>,
}

/// What this machine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// In the order of importance.
    pub features: Vec<Feature>,
}

impl Kernel {
    /// Whether a VM can be started at all.
    #[must_use]
    pub fn can_run(&self) -> bool {
        let essential = ["user namespaces", "namespaces", "overlay"];
        self.features.iter().all(|f| !essential.contains(&f.name) || !matches!(f.level, Level::Missing(_)))
    }
}

/// Tries everything out. `home` is the state directory.
#[must_use]
pub fn probe(home: &Path, run: &Path) -> Kernel {
    let root = process::is_privileged();
    let features = vec![
        user_namespaces(root),
        trial("namespaces", "everything", Some("a kernel with CONFIG_*_NS"), || new_namespaces(root)),
        overlay(home, root),
        idmapped(home, root),
        trial("openat2", "reading what a VM left", Some("Linux 5.6 or later"), openat2),
        trial("mount ids in statx", "finding hidden mounts", Some("Linux 5.8 or later"), mount_ids),
        trial("rename exchange", "replacing files in one step", None, || exchange(home)),
        reflink(home),
        trial("pidfd", "watching VMs", Some("Linux 5.3 or later"), pidfd),
        device("/dev/ptmx", "terminals in VMs", None),
        device("/dev/fuse", "later: lazy images", Some("sudo modprobe fuse")),
        device(
            "/dev/net/tun",
            "later: rootless networks of their own",
            Some("sudo modprobe tun && sudo chmod 0666 /dev/net/tun"),
        ),
        cgroups(),
        run_dir(run),
    ];
    Kernel { features }
}

fn trial(
    name: &'static str,
    needed_for: &'static str,
    advice: Option<&str>,
    body: impl FnOnce() -> Result<(), Errno>,
) -> Feature {
    let level = match process::in_child(body) {
        Ok(()) => Level::Enforced,
        Err(e) => Level::Missing(e.to_string()),
    };
    let advice = if level == Level::Enforced { None } else { advice.map(|a| format!("needs {a}")) };
    Feature { name, level, needed_for, advice }
}

fn user_namespaces(root: bool) -> Feature {
    let mut feature = trial("user namespaces", "every VM", None, || process::unshare(Namespaces::USER));
    if feature.level != Level::Enforced {
        feature.advice = Some(userns_advice(root));
    }
    feature
}

/// Why user namespaces are refused, and how to allow them: the switches that distributions have.
fn userns_advice(root: bool) -> String {
    let reads = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|t| t.trim() == value);
    if reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor restricts them (Ubuntu): run fvm as root, give it an AppArmor profile with 'userns,', or \
         'sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0'"
            .into()
    } else if reads("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "'sudo sysctl -w kernel.unprivileged_userns_clone=1' (Debian), or run fvm as root".into()
    } else if reads("/proc/sys/user/max_user_namespaces", "0") {
        "'sudo sysctl -w user.max_user_namespaces=10000'".into()
    } else if root {
        "probably a container without the right: start it with --privileged".into()
    } else {
        "a container or security module forbids them: run fvm on the machine itself, or as root".into()
    }
}

fn new_namespaces(root: bool) -> Result<(), Errno> {
    let all = Namespaces::MOUNT
        .and(Namespaces::PID)
        .and(Namespaces::IPC)
        .and(Namespaces::UTS)
        .and(Namespaces::CGROUP)
        .and(Namespaces::NET);
    process::unshare(if root { all } else { all.and(Namespaces::USER) })
}

/// Enters namespaces in which this process may mount.
fn may_mount(root: bool) -> Result<(), Errno> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    process::unshare(if root { Namespaces::MOUNT } else { Namespaces::MOUNT.and(Namespaces::USER) })?;
    if !root {
        let write = |path: &str, text: String| {
            std::fs::write(path, text).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        };
        write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        write("/proc/self/setgroups", "deny".into())?;
        write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
}

/// Makes `lower`, `upper` and `work` in a scratch directory, runs `body` in a child, and removes it again.
fn in_scratch(home: &Path, body: impl FnOnce(&Path) -> Result<(), Errno>) -> Result<(), Errno> {
    let dir = home.join(format!(".probe-{}", rustix::process::getpid().as_raw_nonzero()));
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir_all(dir.join(name)).map_err(io)?;
    }
    let result = process::in_child(|| body(&dir));
    std::fs::remove_dir_all(&dir).map_err(io)?;
    result
}

fn overlay_options(dir: &Path, root: bool) -> Vec<MountOption<'static>> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let mut options = vec![
        MountOption::Value("lowerdir", path("lower")),
        MountOption::Value("upperdir", path("upper")),
        MountOption::Value("workdir", path("work")),
    ];
    if root {
        options.extend([MountOption::Value("redirect_dir", "on".into()), MountOption::Value("index", "on".into())]);
    } else {
        options.push(MountOption::Flag("userxattr"));
    }
    options
}

fn overlay(home: &Path, root: bool) -> Feature {
    let tried = in_scratch(home, |dir| {
        may_mount(root)?;
        let made =
            mount::new_mount("overlay", &overlay_options(dir, root), MountAttrFlags::empty()).map_err(|e| e.errno)?;
        let flags = fs::fstatvfs(&made)?.f_flag;
        if flags.contains(fs::StatVfsMountFlags::RDONLY) { Err(Errno::ROFS) } else { Ok(()) }
    });
    let (level, advice) = match tried {
        Ok(()) => (Level::Enforced, None),
        Err(e) => (
            Level::Partly(format!("not with layers in {}: {e}", home.display())),
            Some(
                "layers go elsewhere (see 'layers' above); --home DIR on ext4, xfs or btrfs keeps them over a reboot"
                    .into(),
            ),
        ),
    };
    Feature { name: "overlay", level, needed_for: "copy-on-write", advice }
}

fn idmapped(home: &Path, root: bool) -> Feature {
    let name = "idmapped mounts";
    let needed_for = "shifted ids (root)";
    if !root {
        return Feature { name, level: Level::Partly("only root uses them".into()), needed_for, advice: None };
    }
    let tried = in_scratch(home, |_| {
        let (ready, made) = rustix::pipe::pipe()?;
        let child = match process::clone_into(Namespaces::USER, false)? {
            process::Fork::Child => {
                drop(made);
                let _closed = rustix::io::read(&ready, &mut [0u8][..]);
                process::exit_now(0)
            }
            process::Fork::Parent(child) => child,
        };
        let write = |file: &str| {
            std::fs::write(format!("/proc/{}/{file}", child.as_raw_nonzero()), "0 1073741824 1073741824")
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        };
        write("uid_map")?;
        write("gid_map")?;
        let userns = fs::open(
            format!("/proc/{}/ns/user", child.as_raw_nonzero()),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let copy = mount::clone_mount(CWD, Path::new("/"), false)?;
        let result = mount::mount_setattr_idmap(copy.as_fd(), userns.as_fd());
        drop(made);
        result
    });
    let (level, advice) = match tried {
        Ok(()) => (Level::Enforced, None),
        Err(e) => (
            Level::Partly(format!("not on the root file system: {e}")),
            Some("VMs run with the host's user ids: weaker, see SECURITY.md; run fvm on the machine itself, not in a container".into()),
        ),
    };
    Feature { name, level, needed_for, advice }
}

fn openat2() -> Result<(), Errno> {
    fs::openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), fs::ResolveFlags::NO_SYMLINKS).map(drop)
}

fn mount_ids() -> Result<(), Errno> {
    let stat = fs::statx(CWD, "/", fs::AtFlags::empty(), StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 { Err(Errno::OPNOTSUPP) } else { Ok(()) }
}

fn exchange(home: &Path) -> Result<(), Errno> {
    in_scratch(home, |dir| fs::renameat_with(CWD, dir.join("lower"), CWD, dir.join("upper"), RenameFlags::EXCHANGE))
}

fn reflink(home: &Path) -> Feature {
    let tried = in_scratch(home, |dir| {
        let create = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let from = fs::open(dir.join("a"), create, Mode::RUSR | Mode::WUSR)?;
        let to = fs::open(dir.join("b"), create, Mode::RUSR | Mode::WUSR)?;
        rustix::io::write(&from, b"x")?;
        fs::ioctl_ficlone(&to, &from)
    });
    let (level, advice) = match tried {
        Ok(()) => (Level::Enforced, None),
        Err(_) => (
            Level::Partly("changed files are copied".into()),
            Some("xfs or btrfs share the unchanged parts of large files".into()),
        ),
    };
    Feature { name: "reflinks", level, needed_for: "large files", advice }
}

fn pidfd() -> Result<(), Errno> {
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).map(drop)
}

fn device(name: &'static str, needed_for: &'static str, advice: Option<&str>) -> Feature {
    let level = match fs::open(name, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
    {
        Ok(_) => Level::Enforced,
        Err(Errno::NOENT | Errno::NODEV) => Level::Missing("not there".into()),
        Err(e) => Level::Missing(e.to_string()),
    };
    let advice = if level == Level::Enforced { None } else { advice.map(ToOwned::to_owned) };
    Feature { name, level, needed_for, advice }
}

fn cgroups() -> Feature {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let hybrid = Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists();
    let v1 = Path::new("/sys/fs/cgroup/memory").exists();
    let level = match (v2, hybrid, v1) {
        (true, ..) => Level::Enforced,
        (_, true, true) => Level::Partly("version 1 with a version 2 tree beside it".into()),
        (_, _, true) => Level::Partly("version 1".into()),
        _ => Level::Missing("not mounted".into()),
    };
    Feature { name: "cgroups", level, needed_for: "later: resource limits", advice: None }
}

fn run_dir(run: &Path) -> Feature {
    let writable = fs::access(run, fs::Access::WRITE_OK | fs::Access::EXEC_OK);
    let (level, advice) = match writable {
        Ok(()) => (Level::Enforced, None),
        Err(e) => (
            Level::Missing(format!("{}: {e}", run.display())),
            Some("set XDG_RUNTIME_DIR to a directory of your own".into()),
        ),
    };
    Feature { name: "run-time directory", level, needed_for: "control sockets", advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let kernel = probe(home.path(), home.path());
        assert!(kernel.features.len() > 10);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
