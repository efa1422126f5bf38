//! Trials of what layers need: overlayfs, the file system below it, shifted ids.
//!
//! ```text
//!   scratch/lower  scratch/layer/{upper,work}  ─ overlay, detached ─ used by descriptor, never attached anywhere
//! ```
//! The options are those with which the crate `vm` mounts.

use super::Feature;
use super::trial::{in_scratch, mapped_userns, may_mount, write};
use fvm_sys::mount::{self, MountOption};
use fvm_sys::{ids, process};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, RenameFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::path::{Path, PathBuf};

/// The name of that feature.
pub(super) const OVERLAY: &str = "overlay";

/// Where the ids of a shifted VM begin, and how many there are.
const SHIFT: u32 = 0x4000_0000;

/// Root in a user namespace or in a container has not all of root's rights.
const NOT_QUITE_ROOT: &str =
    "run fvm as root of the machine itself (a container: --privileged), or as an ordinary user";

/// All of them; those that need a place for layers are tried where the layers would go.
pub(super) fn features(home: &Path, run: &Path, root: bool) -> Vec<Feature> {
    let (overlay, place) = overlay(home, run, root);
    let at = place.as_deref().unwrap_or(home);
    vec![
        overlay,
        idmapped(root),
        shifted_layers(at, root),
        renames(at, root),
        hard_links(at, root),
        exchange(home),
        reflinks(at),
    ]
}

/// Overlayfs with layers in `home`, or else in the place that would be taken instead, which is the second result.
fn overlay(home: &Path, run: &Path, root: bool) -> (Feature, Option<PathBuf>) {
    let feature = Feature::enforced(OVERLAY, "copy-on-write");
    let works = |place: &Path| {
        in_scratch(place, || {
            may_mount(root)?;
            let overlay = scratch_overlay(root, &[])?;
            // Copies a file up, and makes one.
            append(&overlay, "file")?;
            fs::mkdirat(&overlay, "new", Mode::RWXU)
        })
    };
    let Err(at_home) = works(home) else { return (feature, Some(home.to_owned())) };
    let elsewhere = crate::choose_layers_dir(home, run).ok().filter(|place| place.dir != home);
    match elsewhere.map(|place| (works(&place.dir), place.dir)) {
        Some((Ok(()), dir)) => (
            feature
                .partly(format!("not with layers in {}: {at_home}; they go to {}", home.display(), dir.display()))
                .advise("--home DIR on ext4, xfs or btrfs keeps them over a reboot"),
            Some(dir),
        ),
        _ => (feature.missing(at_home.to_string()).advise(overlay_advice(at_home, root)), None),
    }
}

fn overlay_advice(error: Errno, root: bool) -> &'static str {
    match (error, root) {
        (Errno::NODEV, _) => "sudo modprobe overlay",
        (Errno::PERM | Errno::ACCESS, false) => {
            "needs user namespaces (see above) and Linux 5.11 or later; or run fvm as root"
        }
        (Errno::PERM | Errno::ACCESS, true) => "start the container with --privileged",
        (Errno::NOSPC | Errno::DQUOT, _) => "make room there, or use another --home DIR",
        _ => "give --home DIR on ext4, xfs, btrfs or tmpfs (for an ordinary user, tmpfs needs Linux 6.6)",
    }
}

/// Moved directories: otherwise programs get `EXDEV` and copy.
fn renames(place: &Path, root: bool) -> Feature {
    let feature = Feature::enforced("overlay renames", "moving directories in VMs");
    let tried = in_scratch(place, || {
        may_mount(root)?;
        let overlay = scratch_overlay(root, &[("redirect_dir", if root { "on" } else { "nofollow" })])?;
        fs::renameat(&overlay, "dir", &overlay, "moved")?;
        fs::statat(&overlay, "moved/in", AtFlags::SYMLINK_NOFOLLOW).map(drop)
    });
    match tried {
        Ok(()) => feature,
        Err(Errno::XDEV) => only_root(feature, root, "a directory that is moved is copied", "Linux 4.10 or later"),
        Err(e) => {
            feature.missing(e.to_string()).advise(if e == Errno::PERM { NOT_QUITE_ROOT } else { "see 'overlay'" })
        }
    }
}

/// Hard links that stay one file when it is changed.
fn hard_links(place: &Path, root: bool) -> Feature {
    let feature = Feature::enforced("overlay hard links", "files with several names");
    let tried = in_scratch(place, || {
        may_mount(root)?;
        let overlay = scratch_overlay(root, &[("index", if root { "on" } else { "off" })])?;
        append(&overlay, "file")?;
        let size = |name: &str| fs::statat(&overlay, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_size);
        if size("file")? == size("link")? { Ok(()) } else { Err(Errno::XDEV) }
    });
    match tried {
        Ok(()) => feature,
        Err(Errno::XDEV) => only_root(
            feature,
            root,
            "a changed name becomes a file of its own",
            "--home DIR on a file system with file handles: ext4, xfs, btrfs",
        ),
        Err(e) => {
            feature.missing(e.to_string()).advise(if e == Errno::PERM { NOT_QUITE_ROOT } else { "see 'overlay'" })
        }
    }
}

/// A limit that ordinary users have everywhere, and root only where something is missing.
fn only_root(feature: Feature, root: bool, why: &str, advice_for_root: &str) -> Feature {
    if root { feature.partly(why).advise(advice_for_root) } else { feature.partly(format!("only as root; {why}")) }
}

/// Shifted ids on the root file system.
fn idmapped(root: bool) -> Feature {
    let feature = Feature::enforced("idmapped mounts", "shifted ids (root)");
    if !root {
        return feature.partly("only root uses them");
    }
    let tried = process::in_child(|| idmapped_copy(Path::new("/"), mapped_userns(&shift_map())?).map(drop));
    match tried {
        Ok(()) => feature,
        Err(e) => feature.partly(format!("not on the root file system: {e}")).advise(
            "VMs run with the host's user ids: weaker, see SECURITY.md; run fvm on the machine itself, not in a \
             container",
        ),
    }
}

/// An overlay whose layers are detached idmapped mounts, made by somebody whom only those mounts know.
fn shifted_layers(place: &Path, root: bool) -> Feature {
    let feature = Feature::enforced("shifted layers", "shifted ids (root)");
    if !root {
        return feature.partly("only root uses them");
    }
    let tried = in_scratch(place, || {
        may_mount(true)?;
        make_scratch()?;
        let userns = mapped_userns(&shift_map())?;
        let lower = idmapped_copy(Path::new("lower"), userns.try_clone().map_err(|_| Errno::MFILE)?)?;
        let layer = idmapped_copy(Path::new("layer"), userns)?;
        ids::keep_capabilities()?;
        ids::set_fs_ids(SHIFT, SHIFT)?;
        let by_fd = |fd: &OwnedFd, rest: &str| format!("/proc/self/fd/{}{rest}", fd.as_raw_fd());
        let overlay = overlay_of(by_fd(&lower, ""), by_fd(&layer, "/upper"), by_fd(&layer, "/work"), true, &[])?;
        append(&overlay, "file")
    });
    match tried {
        Ok(()) => feature,
        Err(e @ (Errno::PERM | Errno::NOSPC | Errno::USERS)) => feature.missing(e.to_string()).advise(NOT_QUITE_ROOT),
        Err(e) => feature.missing(e.to_string()).advise(
            "Linux 6.15 or later with the layers on ext4, xfs, btrfs or tmpfs (see --home); or run fvm as an ordinary \
             user",
        ),
    }
}

fn shift_map() -> String {
    format!("0 {SHIFT} {SHIFT}")
}

fn idmapped_copy(path: &Path, userns: OwnedFd) -> Result<OwnedFd, Errno> {
    let copy = mount::clone_mount(CWD, path, false)?;
    mount::mount_setattr_idmap(copy.as_fd(), userns.as_fd())?;
    Ok(copy)
}

/// Makes `lower` with some content, and an empty layer, in the working directory.
fn make_scratch() -> Result<(), Errno> {
    for dir in ["lower", "lower/dir", "layer", "layer/upper", "layer/work"] {
        fs::mkdir(dir, Mode::RWXU)?;
    }
    write("lower/dir/in", "x")?;
    write("lower/file", "x")?;
    fs::link("lower/file", "lower/link")
}

fn scratch_overlay(root: bool, more: &[(&'static str, &str)]) -> Result<OwnedFd, Errno> {
    make_scratch()?;
    overlay_of("lower".into(), "layer/upper".into(), "layer/work".into(), root, more)
}

fn overlay_of(
    lower: String,
    upper: String,
    work: String,
    root: bool,
    more: &[(&'static str, &str)],
) -> Result<OwnedFd, Errno> {
    let mut options = vec![
        MountOption::Value("lowerdir", lower),
        MountOption::Value("upperdir", upper),
        MountOption::Value("workdir", work),
        MountOption::Value("metacopy", "off".into()),
        MountOption::Value("xino", "off".into()),
    ];
    options.extend(more.iter().map(|(key, value)| MountOption::Value(key, (*value).to_owned())));
    if !root {
        options.push(MountOption::Flag("userxattr"));
    }
    let made = mount::new_mount("overlay", &options, MountAttrFlags::empty()).map_err(|e| e.errno)?;
    // Overlayfs that cannot use its work directory goes on without a word.
    if fs::fstatvfs(&made)?.f_flag.contains(StatVfsMountFlags::RDONLY) { Err(Errno::ROFS) } else { Ok(made) }
}

fn append(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    let file = fs::openat(dir, name, OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, b"y").map(drop)
}

/// Two entries that change places in one step.
fn exchange(home: &Path) -> Feature {
    let feature = Feature::enforced("rename exchange", "replacing files in one step");
    let tried = in_scratch(home, || {
        fs::mkdir("a", Mode::RWXU)?;
        fs::mkdir("b", Mode::RWXU)?;
        fs::renameat_with(CWD, "a", CWD, "b", RenameFlags::EXCHANGE)
    });
    match tried {
        Ok(()) => feature,
        Err(e) => feature.missing(e.to_string()).advise("--home DIR on a local file system: ext4, xfs, btrfs, tmpfs"),
    }
}

fn reflinks(place: &Path) -> Feature {
    let feature = Feature::enforced("reflinks", "large files");
    let tried = in_scratch(place, || {
        write("a", "x")?;
        let from = fs::open("a", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let to = fs::open("b", OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
        fs::ioctl_ficlone(&to, &from)
    });
    match tried {
        Ok(()) => feature,
        Err(_) => {
            feature.partly("changed files are copied").advise("xfs or btrfs share the unchanged parts of large files")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Level;

    #[test]
    fn root_and_user_overlays_work_where_tests_run() {
        let home = tempfile::Builder::new().prefix("odd:na,me\\ \n").tempdir().unwrap();
        let found = features(home.path(), home.path(), process::is_privileged());
        assert!(!matches!(found[0].level, Level::Missing(_)), "{:?}", found[0]);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_advice_fits_the_error() {
        assert!(overlay_advice(Errno::NODEV, true).contains("modprobe"));
        assert!(overlay_advice(Errno::PERM, true).contains("--privileged"));
        assert!(overlay_advice(Errno::PERM, false).contains("5.11"));
        assert!(overlay_advice(Errno::INVAL, false).contains("--home"));
    }
}
