//! Who can change a program that everybody is made to execute.
//!
//! Invariant: what is said to be root's alone can be replaced by root alone, by its path as it is: no directory on the way is
//! anybody else's to write, but those in which nobody replaces what is another's (sticky, as `/tmp`).

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The first place on the way to `program` that others than root can change; `None`: there is none.
pub(crate) fn exposed(program: &Path) -> Option<PathBuf> {
    let Ok(real) = program.canonicalize() else { return Some(program.to_owned()) };
    real.ancestors().find(|at| at.symlink_metadata().map_or(true, |meta| is_others(&meta))).map(Path::to_owned)
}

fn is_others(meta: &std::fs::Metadata) -> bool {
    const OF_GROUP: u32 = 0o020;
    const OF_ALL: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let by_group = meta.mode() & OF_GROUP != 0 && meta.gid() != 0;
    let written = meta.mode() & OF_ALL != 0 || by_group;
    meta.uid() != 0 || written && !(meta.is_dir() && meta.mode() & STICKY != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    #[test]
    fn root_what_others_can_replace_is_found() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: root_what_others_can_replace_is_found: it needs root");
            return;
        }
        // Its parents are root's, or sticky.
        let top = tempfile::tempdir_in("/var/tmp").unwrap();
        let (dir, program) = (top.path().join("bin"), top.path().join("bin/fvm"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(&program, "").unwrap();
        assert_eq!(exposed(&program), None);
        for (mode, group, of_others) in
            [(0o777, 0, true), (0o775, 1234, true), (0o775, 0, false), (0o1777, 1234, false)]
        {
            std::fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            chown(&dir, None, Some(group)).unwrap();
            assert_eq!(exposed(&program), of_others.then(|| dir.clone()), "{mode:o} {group}");
        }
        std::fs::set_permissions(&program, Permissions::from_mode(0o757)).unwrap();
        assert_eq!(exposed(&program), Some(program.clone()));
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        chown(&program, Some(1234), None).unwrap();
        assert_eq!(exposed(&program), Some(program.clone()));
        std::fs::remove_file(&program).unwrap();
        assert_eq!(exposed(&program), Some(program));
    }
}
