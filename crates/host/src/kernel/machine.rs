//! Trials of single calls, devices and what a user was given.

use super::Feature;
use super::trial::trial;
use crate::ids;
use rustix::fs::{self, Access, AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where `newuidmap` and `pasta` lie; `PATH` is not asked.
const BIN_DIRS: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];

/// All of them.
pub(super) fn features(run: &Path, root: bool) -> Vec<Feature> {
    let mut features = vec![
        trial("openat2", "reading what a VM left", "Linux 5.6 or later", openat2),
        trial("mount ids in statx", "finding hidden mounts", "Linux 5.8 or later", mount_ids),
        trial("pidfd", "watching VMs", "Linux 5.3 or later", pidfd),
        run_dir(run),
        device("/dev/ptmx", "terminals in VMs", "sudo mount -t devpts -o ptmxmode=666 devpts /dev/pts"),
        device("/dev/fuse", "later: lazy images", "sudo modprobe fuse (a container: --device /dev/fuse)"),
        device(
            "/dev/net/tun",
            "ways out of own networks, where the host does not forward",
            "sudo modprobe tun (a container: --device /dev/net/tun)",
        ),
    ];
    features.push(guard(root));
    if !root {
        features.extend([uplink(), id_ranges(rustix::process::geteuid().as_raw()), new_id_map()]);
    }
    features
}

/// Whether others can be kept from running marked files. The trial marks nothing.
fn guard(root: bool) -> Feature {
    let feature = Feature::enforced("execution guard", "marked programs run in VMs, whoever starts them");
    if !root {
        return feature
            .partly("advice only: a shell hook and file handlers, which bind nobody")
            .advise("sudo fvm guard install --book DIR guards what is marked, also by users: DIR is theirs, ~/.local/share/fvm/marks");
    }
    match fvm_sys::fanotify::Group::new() {
        Ok(_) if fvm_sys::divert::KNOWN => feature,
        Ok(_) => feature
            .partly("marked programs can only be refused on this kind of processor")
            .advise("fvm guard run --runs refuse; 'fvm run --marked' runs them in a VM"),
        Err(e) => feature
            .missing(format!("no fanotify permission events: {e}"))
            .advise("a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS, and CAP_SYS_ADMIN outside of containers"),
    }
}

fn openat2() -> Result<(), Errno> {
    fs::openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), fs::ResolveFlags::NO_SYMLINKS).map(drop)
}

fn mount_ids() -> Result<(), Errno> {
    let stat = fs::statx(CWD, "/", AtFlags::empty(), StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 { Err(Errno::OPNOTSUPP) } else { Ok(()) }
}

/// A signal through a descriptor, to the child of the trial itself.
fn pidfd() -> Result<(), Errno> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    rustix::process::pidfd_send_signal(&own, rustix::process::Signal::URG)
}

/// A device that is there and that this user may open.
fn device(name: &'static str, needed_for: &'static str, advice: &str) -> Feature {
    let feature = Feature::enforced(name, needed_for);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match fs::open(name, flags, Mode::empty()) {
        Ok(_) => feature,
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => feature.missing("not there").advise(advice),
        Err(Errno::ACCESS) => {
            let mode = std::fs::metadata(name).map(|m| m.mode() & 0o7777).unwrap_or_default();
            feature.missing(format!("not for this user (mode {mode:04o})")).advise(format!("sudo chmod 0666 {name}"))
        }
        Err(e) => feature.missing(e.to_string()).advise(advice),
    }
}

fn run_dir(run: &Path) -> Feature {
    let feature = Feature::enforced("run-time directory", "control sockets");
    match fs::accessat(CWD, crate::place::existing(run), Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => feature,
        Err(e) => {
            feature.missing(format!("{}: {e}", run.display())).advise("set XDG_RUNTIME_DIR to a directory of your own")
        }
    }
}

fn id_ranges(uid: u32) -> Feature {
    let feature = Feature::enforced("subordinate ids", "later: several users in a rootless VM (optional)");
    let name = ids::user(uid).ok().flatten().map_or_else(|| uid.to_string(), |u| u.name.to_string_lossy().into_owned());
    let advice = format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}");
    match ids::sub_ids(uid) {
        Ok((users, groups)) if !users.is_empty() && !groups.is_empty() => feature,
        Ok(_) => feature.missing("none in /etc/subuid and /etc/subgid").advise(advice),
        Err(e) => feature.missing(e.to_string()).advise("sudo chmod 0644 /etc/subuid /etc/subgid"),
    }
}

/// The program through which an ordinary user's VM reaches the outside.
fn uplink() -> Feature {
    let feature = Feature::enforced("pasta", "rootless: a network of its own (--net own)");
    let there = |name: &&str| BIN_DIRS.iter().any(|dir| Path::new(dir).join(name).exists());
    match ["pasta", "slirp4netns"].into_iter().find(there) {
        Some("pasta") => feature,
        Some(other) => feature.partly(format!("{other} is used instead")).advise("sudo apt-get install passt"),
        None => feature.missing("no pasta, nor slirp4netns").advise("sudo apt-get install passt (Fedora: passt)"),
    }
}

/// The helpers that map a range: set-user-id, or with a file capability.
fn new_id_map() -> Feature {
    let feature = Feature::enforced("newuidmap", "later: several users in a rootless VM (optional)");
    let advice = "sudo apt-get install uidmap (Fedora: shadow-utils)";
    for name in ["newuidmap", "newgidmap"] {
        let found = BIN_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
        let Some(path) = found else { return feature.missing(format!("no {name}")).advise(advice) };
        let set_id = path.metadata().is_ok_and(|m| m.mode() & 0o4000 != 0 && m.uid() == 0);
        let capable = fs::getxattr(&path, "security.capability", &mut [0u8; 64][..]).is_ok();
        if !set_id && !capable {
            let why = format!("{} has neither the set-user-id bit nor a capability", path.display());
            return feature.missing(why).advise(format!("sudo chmod u+s {}", path.display()));
        }
    }
    feature
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Level;

    #[test]
    fn a_device_that_is_not_there_has_advice() {
        assert_eq!(device("/dev/null", "", "x").level, Level::Enforced);
        let feature = device("/dev/no/such", "", "do this");
        assert_eq!((feature.level, feature.advice.as_deref()), (Level::Missing("not there".into()), Some("do this")));
    }

    #[test]
    fn a_user_without_ranges_is_told_how_to_get_some() {
        let feature = id_ranges(4_294_967_290);
        assert!(matches!(feature.level, Level::Missing(_)));
        assert!(feature.advice.unwrap().ends_with(" 4294967290"));
    }

    #[test]
    fn single_calls_work_where_tests_run() {
        for call in [openat2, mount_ids, pidfd] {
            fvm_sys::process::in_child(call).unwrap();
        }
    }
}
