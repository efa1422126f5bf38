//! The mount table: `/proc/self/mountinfo` as bytes → mounts → what a VM shows of each.
//!
//! ```text
//!   36 35 98:0 /root /mnt/a\040b rw,noatime shared:1 master:2 - ext4 /dev/sda rw,errors=continue
//!   id parent dev root target    mount options  optional ...    - type source super options
//! ```
//! (`proc_pid_mountinfo(5)`; `\ooo` is an octal-escaped byte.)
//!
//! Invariants: [`parse`] does no I/O; a mount that is covered by another is not shown; a path below `/proc`, `/sys`
//! or `/dev`, or on a pseudo file system, is never looked at; looking at a mount asks no server.

use fvm_model::HostPath;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::os::unix::ffi::OsStringExt;

/// More mounts than this are not believed.
const MOUNTS_MAX: usize = 100_000;

/// What the kernel appends to a path whose last name is gone. No path of a file has two slashes in a row.
const DELETED: &[u8] = b"//deleted";

/// A line that is not a mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the mount table is not understood: {why}")]
pub struct MountInfoError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// Restrictions of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountFlags {
    /// `ro`
    pub read_only: bool,
    /// `nosuid`
    pub nosuid: bool,
    /// `nodev`
    pub nodev: bool,
    /// `noexec`
    pub noexec: bool,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number for it.
    pub id: u64,
    /// The mount it stands on.
    pub parent: u64,
    /// Which directory of the file system is mounted.
    pub root: Vec<u8>,
    /// Where.
    pub target: HostPath,
    /// File system type, subtype included (`fuse.sshfs`).
    pub fs_type: String,
    /// Device or other source.
    pub source: Vec<u8>,
    /// Restrictions of this mount.
    pub flags: MountFlags,
    /// The file system itself is read-only.
    pub super_read_only: bool,
}

/// What a VM does with a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A copy-on-write view.
    Overlay,
    /// As it is: nothing could be written there anyway.
    ReadOnly,
    /// The mount point is a file: a private copy.
    File,
    /// Not at all, and why.
    Skip(&'static str),
}

/// A mount that is not covered by another, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleMount {
    /// The mount.
    pub mount: Mount,
    /// What a VM does with it.
    pub shown: Shown,
}

/// File systems that are no files of anybody's: the VM has its own or none.
const PSEUDO: &[(&str, &str)] = &[
    ("proc", "the VM has its own"),
    ("sysfs", "shown read-only"),
    ("devtmpfs", "the VM has its own /dev"),
    ("devpts", "the VM has its own terminals"),
    ("mqueue", "the VM has its own"),
    ("cgroup", "the kernel's"),
    ("cgroup2", "the kernel's"),
    ("debugfs", "the kernel's"),
    ("tracefs", "the kernel's"),
    ("securityfs", "the kernel's"),
    ("selinuxfs", "the kernel's"),
    ("pstore", "the kernel's"),
    ("efivarfs", "the firmware's"),
    ("bpf", "the kernel's"),
    ("configfs", "the kernel's"),
    ("fusectl", "the kernel's"),
    ("binfmt_misc", "the kernel's"),
    ("hugetlbfs", "memory, not files"),
    ("rpc_pipefs", "the kernel's"),
    ("nfsd", "the kernel's"),
    ("nsfs", "a namespace, not files"),
    ("autofs", "mounted on demand on the host"),
    ("ramfs", "credentials of services"),
    ("fuse.portal", "a service of the session"),
    ("fuse.gvfsd-fuse", "a service of the session"),
    ("fuse.lxcfs", "views of /proc"),
];

/// Parses a mount table.
///
/// # Errors
/// The first line that is not a mount.
pub fn parse(bytes: &[u8]) -> Result<Vec<Mount>, MountInfoError> {
    let mut mounts = Vec::new();
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let error = |why| MountInfoError { line: index + 1, why };
        if mounts.len() == MOUNTS_MAX {
            return Err(error("there are too many"));
        }
        mounts.extend(parse_line(line).map_err(error)?);
    }
    Ok(mounts)
}

/// `None` for a mount whose target is gone or outside our root: nobody can reach it.
fn parse_line(line: &[u8]) -> Result<Option<Mount>, &'static str> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = |why| fields.next().ok_or(why);
    let id = number(next("no id")?)?;
    let parent = number(next("no parent id")?)?;
    next("no device")?;
    let root = unescape(next("no root")?);
    let target = unescape(next("no mount point")?);
    let options = next("no options")?;
    // Optional fields, up to the lone hyphen.
    while next("no separator")? != b"-" {}
    let fs_type = String::from_utf8_lossy(&unescape(next("no type")?)).into_owned();
    let source = unescape(next("no source")?);
    let super_options = next("no super options")?;
    if target.ends_with(DELETED) {
        return Ok(None);
    }
    // What was mounted has lost its name, but is there as before: a container's /etc/hosts after its source was
    // replaced.
    let root = root.strip_suffix(DELETED).map_or_else(|| root.clone(), <[u8]>::to_vec);
    let Ok(target) = HostPath::new(std::ffi::OsString::from_vec(target)) else { return Ok(None) };
    let has = |options: &[u8], name: &[u8]| options.split(|b| *b == b',').any(|o| o == name);
    let flags = MountFlags {
        read_only: has(options, b"ro"),
        nosuid: has(options, b"nosuid"),
        nodev: has(options, b"nodev"),
        noexec: has(options, b"noexec"),
    };
    let super_read_only = has(super_options, b"ro");
    Ok(Some(Mount { id, parent, root, target, fs_type, source, flags, super_read_only }))
}

fn number(text: &[u8]) -> Result<u64, &'static str> {
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or("an id is not a number")
}

/// Turns `\ooo` back into bytes; anything else stays as it is.
fn unescape(text: &[u8]) -> Vec<u8> {
    if !text.contains(&b'\\') {
        return text.to_vec();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Decides what a VM shows of each mount; parents before children.
#[must_use]
pub fn visible(mounts: Vec<Mount>) -> Vec<VisibleMount> {
    let mut mounts = mounts;
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    // One stands on the other: an automount point and what was mounted there, for one. Only the topmost is shown.
    let same_target = mounts.chunk_by(|a, b| a.target == b.target);
    let covered: Vec<bool> =
        same_target.flat_map(|stack| stack.iter().map(|m| stack.iter().any(|above| above.parent == m.id))).collect();
    mounts.into_iter().zip(covered).filter(|(_, covered)| !covered).filter_map(|(mount, _)| look(mount)).collect()
}

/// Why a VM does not show a mount, where its type or its place tells; nothing is looked at.
fn skipped(mount: &Mount) -> Option<&'static str> {
    // Whatever the machine runs from (a live system: ramfs) is its files.
    if mount.target == HostPath::root() {
        return None;
    }
    match PSEUDO.iter().find(|(fs_type, _)| *fs_type == mount.fs_type) {
        Some((_, why)) => Some(why),
        None => is_system_place(&mount.target).then_some("the VM has its own here"),
    }
}

fn look(mount: Mount) -> Option<VisibleMount> {
    if let Some(why) = skipped(&mount) {
        return Some(VisibleMount { mount, shown: Shown::Skip(why) });
    }
    // DONT_SYNC: what is known here is enough; a server that is gone must not hold up the start of a VM.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = match statx(CWD, mount.target.as_path(), flags, StatxFlags::TYPE | StatxFlags::MNT_ID) {
        Ok(stat) => stat,
        // Covered by another mount, or in a place that this user may not enter.
        Err(_) => return None,
    };
    if stat.stx_mnt_id != mount.id {
        return None;
    }
    let shown = if u32::from(stat.stx_mode) & 0o170_000 != 0o040_000 {
        Shown::File
    } else if mount.flags.read_only || mount.super_read_only {
        Shown::ReadOnly
    } else {
        Shown::Overlay
    };
    Some(VisibleMount { mount, shown })
}

/// Places where a VM has its own files or a read-only view.
#[must_use]
pub fn is_system_place(path: &HostPath) -> bool {
    ["/proc", "/sys", "/dev"].iter().any(|place| path.as_path().starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn one(line: &[u8]) -> Mount {
        parse(line).unwrap().pop().unwrap()
    }

    #[test]
    fn names_with_blanks_newlines_and_foreign_bytes_are_decoded() {
        let mount = one(b"36 35 98:0 / /a\\040b\\012c\\011d\\134e\xff rw,nosuid - ext4 /dev/x\\040y rw\n");
        assert_eq!(mount.target, HostPath::new(OsStr::from_bytes(b"/a b\nc\td\\e\xff")).unwrap());
        assert_eq!(mount.source, b"/dev/x y");
        assert!(mount.flags.nosuid && !mount.flags.read_only && !mount.super_read_only);
    }

    #[test]
    fn optional_fields_come_in_any_number() {
        for middle in ["", "shared:1 ", "shared:1 master:2 propagate_from:3 unbindable "] {
            let mount = one(format!("1 0 0:1 / / ro {middle}- overlay overlay ro,lowerdir=/l").as_bytes());
            assert_eq!((mount.fs_type.as_str(), mount.super_read_only), ("overlay", true));
        }
    }

    #[test]
    fn a_line_that_is_no_mount_is_named() {
        for (bytes, line) in
            [(&b"1 0 0:1 / / rw - a b c\nx"[..], 2), (b"1 0 0:1 / / rw", 1), (b"1 0 0:1 / / rw -", 1), (b"a b", 1)]
        {
            assert_eq!(parse(bytes).unwrap_err().line, line);
        }
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(parse(b"\n\n").unwrap(), []);
    }

    #[test]
    fn deleted_and_unreachable_mount_points_are_passed_over() {
        assert_eq!(parse(b"1 0 0:1 / /x//deleted rw - a b c\n2 0 0:1 / nowhere rw - a b c").unwrap(), []);
    }

    #[test]
    fn a_mount_whose_source_was_deleted_is_still_there() {
        let mount = one(b"64 63 8:1 /docker/hosts//deleted /etc/hosts rw,relatime - ext4 /dev/sda1 rw");
        assert_eq!((mount.root.as_slice(), mount.target.as_bytes()), (&b"/docker/hosts"[..], &b"/etc/hosts"[..]));
    }

    #[test]
    fn a_very_long_line_is_a_mount() {
        let lower = "/layer:".repeat(20_000);
        let mount = one(format!("1 0 0:1 / / rw - overlay overlay rw,lowerdir={lower},ro").as_bytes());
        assert!(mount.super_read_only);
        let deep = "/d".repeat(50_000);
        assert_eq!(one(format!("1 0 0:1 / {deep} rw - ext4 /dev/a rw").as_bytes()).target.as_bytes(), deep.as_bytes());
    }

    #[test]
    fn numbers_and_names_that_no_kernel_writes_are_refused_or_passed_over() {
        for line in ["-1 0 0:1 / / rw - a b c", "18446744073709551616 0 0:1 / / rw - a b c", "x 0 0:1 / / rw - a b c"] {
            assert_eq!(parse(line.as_bytes()).unwrap_err().why, "an id is not a number", "{line}");
        }
        for target in ["/a/../b", "/a\\000b", ""] {
            assert_eq!(parse(format!("1 0 0:1 / {target} rw - a b c").as_bytes()).unwrap(), [], "{target}");
        }
    }

    #[test]
    fn pseudo_file_systems_and_system_places_are_told_without_a_look() {
        for (fs_type, target) in
            [("proc", "/p"), ("cgroup2", "/x"), ("autofs", "/net"), ("nfs4", "/dev/x"), ("ext4", "/sys")]
        {
            let line = format!("1 0 0:1 / {target} rw - {fs_type} none rw");
            assert!(skipped(&one(line.as_bytes())).is_some(), "{line}");
        }
        assert_eq!(skipped(&one(b"1 0 0:1 / /devices rw - ext4 none rw")), None);
        assert_eq!(skipped(&one(b"1 0 0:1 / / rw - ramfs none rw")), None, "a live system");
    }

    #[test]
    fn a_mount_point_that_is_gone_is_not_shown() {
        assert_eq!(visible(parse(b"1 0 0:1 / /no/such/place rw - ext4 /dev/a rw").unwrap()), []);
        // There, but the mount of another number lies on it.
        assert_eq!(visible(parse(b"999999 0 0:1 / / rw - ext4 /dev/a rw").unwrap()), []);
    }

    #[test]
    fn only_the_topmost_of_stacked_mounts_is_shown() {
        let table = b"2 1 0:1 / /dev/b rw - autofs systemd-1 rw\n1 0 0:1 / /dev rw - devtmpfs none rw\n\
            3 2 0:2 / /dev/b rw - vfat /dev/sda1 rw";
        let shown: Vec<u64> = visible(parse(table).unwrap()).iter().map(|m| m.mount.id).collect();
        assert_eq!(shown, [1, 3]);
    }

    /// As root, or where users may have namespaces: mounts of its own, in a child.
    #[test]
    fn root_real_mounts_are_shown_as_they_are() {
        use fvm_sys::process::{self, Namespaces};
        use rustix::mount::{MountFlags as Flags, MountPropagationFlags as Change, mount, mount_bind, mount_change};
        if !process::is_privileged() {
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let base = tmp.path().canonicalize().unwrap();
        process::in_child(|| {
            process::unshare(Namespaces::MOUNT)?;
            mount_change("/", Change::PRIVATE | Change::REC)?;
            let tmpfs = |name: &str, flags| {
                std::fs::create_dir_all(base.join(name)).unwrap();
                mount("t", base.join(name), "tmpfs", flags, None)
            };
            tmpfs("stack", Flags::empty())?;
            tmpfs("stack", Flags::RDONLY)?;
            tmpfs("over", Flags::empty())?;
            tmpfs("over/hidden", Flags::empty())?;
            tmpfs("over", Flags::NOSUID)?;
            tmpfs("a b\nc\\", Flags::empty())?;
            for name in ["source", "file"] {
                std::fs::write(base.join(name), name).unwrap();
            }
            mount_bind(base.join("source"), base.join("file"))?;
            std::fs::remove_file(base.join("source")).unwrap();
            let shown: Vec<_> = visible(parse(&std::fs::read("/proc/self/mountinfo").unwrap()).unwrap())
                .into_iter()
                .filter_map(|m| Some((m.mount.target.as_path().strip_prefix(&base).ok()?.to_owned(), m.shown)))
                .collect();
            let expected = [
                ("a b\nc\\", Shown::Overlay),
                ("file", Shown::File),
                ("over", Shown::Overlay),
                ("stack", Shown::ReadOnly),
            ];
            let same = shown.iter().map(|(path, shown)| (path.to_str().unwrap(), *shown)).eq(expected);
            if same { Ok(()) } else { Err(rustix::io::Errno::BADMSG) }
        })
        .unwrap();
    }

    #[test]
    fn backslashes_that_escape_nothing_stay() {
        assert_eq!(unescape(b"\\400\\9\\04\\"), b"\\400\\9\\04\\");
        assert_eq!(unescape(b"\\377"), b"\xff");
    }

    #[test]
    fn this_machine_has_a_root_and_its_own_proc_is_not_shown() {
        let table = visible(parse(&std::fs::read("/proc/self/mountinfo").unwrap()).unwrap());
        assert_eq!(table[0].mount.target, HostPath::root());
        assert!(matches!(table[0].shown, Shown::Overlay | Shown::ReadOnly));
        assert!(table.iter().filter(|m| m.mount.fs_type == "proc").all(|m| matches!(m.shown, Shown::Skip(_))));
    }
}
