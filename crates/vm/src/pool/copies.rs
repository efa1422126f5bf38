//! What of a VM that waits is not the host's as it is now, but was copied or made for it: looked at when the VM is given.
//!
//! ```text
//!   copied   files with a private copy; directories with mounts below, and what lies directly in them ─ still older than the VM?
//!   made     the directories of its uppers ─► the time of now, so that none is older than the fork
//! ```
//!
//! Invariant: only of a VM in which nothing has run yet. What is listed here stays the same as long as [`Copies::are_current`]: a
//! directory in which a name comes or goes is younger than the VM from then on.

use crate::error::VmError;
use fvm_model::{HostPath, Layer, LayerKind, Timestamp};
use rustix::fs::{self, AtFlags, CWD};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Both, mostly listed while the VM waits: of an ordinary user's dozen layers the list takes four times as long as what is done with it.
#[derive(Debug)]
pub(super) struct Copies {
    copied: Vec<PathBuf>,
    made: Vec<PathBuf>,
}

impl Copies {
    /// Those of a VM with these layers. `names`: the directories of which it has the names. `None`: there are more than `most`.
    ///
    /// # Errors
    /// When a layer's directory cannot be read.
    pub fn list<'a>(
        layers_dir: &Path,
        layers: &[Layer],
        names: impl IntoIterator<Item = &'a HostPath>,
        most: usize,
    ) -> Result<Option<Self>, VmError> {
        let files = layers.iter().filter(|layer| layer.kind == LayerKind::File);
        let mut copied: Vec<PathBuf> = files.map(|layer| layer.host.as_path().to_owned()).collect();
        for dir in names {
            copied.push(dir.as_path().to_owned());
            let files = std::fs::read_dir(dir.as_path()).into_iter().flatten().flatten();
            let files = files.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir()));
            copied.extend(files.map(|entry| entry.path()).take(most.saturating_sub(copied.len()).saturating_add(1)));
            if copied.len() > most {
                return Ok(None);
            }
        }
        let mut made = Vec::new();
        for layer in layers.iter().filter(|layer| layer.kind != LayerKind::File) {
            let mut dirs = vec![layers_dir.join(layer.n.to_string()).join("upper")];
            while let Some(dir) = dirs.pop() {
                let entries = std::fs::read_dir(&dir).map_err(|e| VmError::io("read", &dir, &e))?;
                let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                dirs.extend(below.map(|entry| entry.path()));
                made.push(dir);
            }
        }
        Ok(Some(Self { copied, made }))
    }

    /// Whether the host still has what was copied for the VM when it was made, and under the same names. All else the VM sees as it is
    /// now. `since`: before the copies were made.
    pub fn are_current(&self, since: Timestamp) -> bool {
        self.copied.iter().all(|path| {
            path.symlink_metadata().is_ok_and(|meta| {
                // Within the same tick of the clock nobody knows.
                (meta.ctime(), meta.ctime_nsec()) < (since.secs, i64::from(since.nanos))
            })
        })
    }

    /// Gives the directories that were made the time of now: one that is older than the fork counts as one whose time the VM has set.
    ///
    /// # Errors
    /// The kernel's.
    pub fn renew(&self) -> Result<(), VmError> {
        let now = fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
        let times = fs::Timestamps { last_access: now, last_modification: now };
        self.made.iter().try_for_each(|dir| {
            fs::utimensat(CWD, dir, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| VmError::sys("set the times of", dir, e))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        crate::lifecycle::settled()
    }

    #[test]
    fn what_the_host_changed_of_what_was_copied_is_seen_and_what_was_made_gets_the_time_of_now() {
        let top = std::env::temp_dir().join(format!("fvm-copies-{}", std::process::id()));
        let (host, layers_dir) = (top.join("host"), top.join("layers"));
        std::fs::create_dir_all(host.join("names/below")).unwrap();
        std::fs::create_dir_all(layers_dir.join("0/upper/a/b")).unwrap();
        std::fs::create_dir_all(layers_dir.join("1")).unwrap();
        for file in ["file", "names/inside", "names/below/deep"] {
            std::fs::write(host.join(file), "").unwrap();
        }
        let at = |name: &str| HostPath::new(host.join(name)).unwrap();
        let layers = [
            Layer { n: 0, host: at("names"), kind: LayerKind::Skeleton },
            Layer { n: 1, host: at("file"), kind: LayerKind::File },
        ];
        let within = |most| Copies::list(&layers_dir, &layers, [&at("names")], most).unwrap();
        let list = || within(usize::MAX).unwrap();
        // The file, the directory, what is in it.
        assert!(within(3).is_some() && within(2).is_none());
        let remake = |file: &str| {
            std::fs::remove_file(host.join(file)).unwrap();
            std::fs::write(host.join(file), "").unwrap();
        };
        let changes: [(&str, bool, &dyn Fn()); 7] = [
            ("nothing", true, &|| {}),
            ("below a directory", true, &|| remake("names/below/deep")),
            ("the file", false, &|| std::fs::write(host.join("file"), "2").unwrap()),
            ("a file of the names'", false, &|| std::fs::write(host.join("names/inside"), "2").unwrap()),
            ("a new name", false, &|| std::fs::write(host.join("names/new"), "").unwrap()),
            ("a name that is gone", false, &|| std::fs::remove_file(host.join("names/new")).unwrap()),
            ("the file is gone", false, &|| std::fs::remove_file(host.join("file")).unwrap()),
        ];
        for (what, stays, change) in changes {
            let (before, since) = (list(), now());
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            assert_eq!(before.are_current(since), stays, "{what}");
            // Listed afterwards it is no other.
            assert_eq!(list().are_current(since), stays, "{what}");
        }
        let old = fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let old = fs::Timestamps { last_access: old, last_modification: old };
        let dirs = ["0/upper", "0/upper/a", "0/upper/a/b"].map(|dir| layers_dir.join(dir));
        dirs.iter().for_each(|dir| fs::utimensat(CWD, dir, &old, AtFlags::SYMLINK_NOFOLLOW).unwrap());
        list().renew().unwrap();
        assert!(dirs.iter().all(|dir| dir.symlink_metadata().unwrap().mtime() > 1));
        std::fs::remove_dir_all(&top).unwrap();
    }
}
