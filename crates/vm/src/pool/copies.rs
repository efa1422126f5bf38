//! What of a VM that waits is not the host's as it is now, but was copied for it: looked at when the VM is given.
//!
//! ```text
//!   files with a private copy; directories with mounts below, and what lies directly in them ─ still older than the VM?
//! ```
//!
//! Invariant: only of a VM in which nothing has run yet. What is listed here stays the same as long as [`Copies::are_current`]: a
//! directory in which a name comes or goes is younger than the VM from then on.

use fvm_model::{HostPath, Layer, LayerKind, Timestamp};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Their names, mostly listed while the VM waits.
#[derive(Debug)]
pub(super) struct Copies(Vec<PathBuf>);

impl Copies {
    /// Those of a VM with these layers. `names`: the directories of which it has the names. `None`: there are more than `most`.
    pub fn list<'a>(layers: &[Layer], names: impl IntoIterator<Item = &'a HostPath>, most: usize) -> Option<Self> {
        let files = layers.iter().filter(|layer| layer.kind == LayerKind::File);
        let mut copied: Vec<PathBuf> = files.map(|layer| layer.host.as_path().to_owned()).collect();
        for dir in names {
            copied.push(dir.as_path().to_owned());
            let files = std::fs::read_dir(dir.as_path()).into_iter().flatten().flatten();
            let files = files.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir()));
            copied.extend(files.map(|entry| entry.path()).take(most.saturating_sub(copied.len()).saturating_add(1)));
            if copied.len() > most {
                return None;
            }
        }
        Some(Self(copied))
    }

    /// Whether the host still has what was copied for the VM when it was made, and under the same names. All else the VM sees as it is
    /// now. `since`: before the copies were made.
    pub fn are_current(&self, since: Timestamp) -> bool {
        self.0.iter().all(|path| {
            path.symlink_metadata().is_ok_and(|meta| {
                // Within the same tick of the clock nobody knows.
                (meta.ctime(), meta.ctime_nsec()) < (since.secs, i64::from(since.nanos))
            })
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
    fn what_the_host_changed_of_what_was_copied_is_seen() {
        let top = std::env::temp_dir().join(format!("fvm-copies-{}", std::process::id()));
        let host = top.join("host");
        std::fs::create_dir_all(host.join("names/below")).unwrap();
        for file in ["file", "names/inside", "names/below/deep"] {
            std::fs::write(host.join(file), "").unwrap();
        }
        let at = |name: &str| HostPath::new(host.join(name)).unwrap();
        let layers = [
            Layer { n: 0, host: at("names"), kind: LayerKind::Skeleton },
            Layer { n: 1, host: at("file"), kind: LayerKind::File },
        ];
        let within = |most| Copies::list(&layers, [&at("names")], most);
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
        std::fs::remove_dir_all(&top).unwrap();
    }
}
