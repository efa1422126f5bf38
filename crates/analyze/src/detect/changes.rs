//! What the changes show without any event: contents, modes, times.
//!
//! ```text
//!   set-uid bits ─ root accounts ─ files that became noise ─ ransom notes ─ old times on new contents ─ programs under other names
//! ```
//!
//! Invariant: contents come from a hostile VM: never executed, never parsed by more than a look at their first bytes, lines or
//! frequencies; bounded by whoever gives them.

use super::files::MANY;
use crate::found::{Found, Sighting, text};
use crate::rules;
use crate::world::name_of;
use crate::{Contents, look};
use fvm_model::{Change, ChangeKind, FileType};
use std::collections::{BTreeMap, BTreeSet};

/// Files whose content is looked at.
const LOOKED_AT_MAX: usize = 20_000;

fn seen<'s>(what: String, paths: &'s [&'s [u8]]) -> Sighting<'s> {
    Sighting { what, key: None, at: None, events: &[], paths }
}

/// Looks at one change after another.
#[derive(Debug)]
pub struct Changes {
    noise: Vec<Vec<u8>>,
    notes: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    left: usize,
    /// Files that nobody looked into.
    unseen: u64,
}

impl Default for Changes {
    fn default() -> Self {
        Self { noise: Vec::new(), notes: BTreeMap::new(), left: LOOKED_AT_MAX, unseen: 0 }
    }
}

impl Changes {
    /// At one. `packaged`: a package manager wrote it.
    pub fn look_at(&mut self, change: &Change, packaged: bool, contents: &mut Contents<'_>, found: &mut Found) {
        let path = change.path.as_bytes();
        if matches!(change.kind, ChangeKind::Deleted) || change.file_type != FileType::File {
            return;
        }
        let Some(after) = &change.after else { return };
        let before = change.before.as_ref().map_or(0, |before| before.mode);
        let power = |mode: u32| mode & 0o4000 != 0 || mode & 0o2010 == 0o2010;
        if power(after.mode) && !power(before) && !packaged && !found.has(&rules::SET_UID, &change.path) {
            found.add(&rules::SET_UID, &seen(format!("{} has mode {:o}", text(path), after.mode), &[path]));
        }
        if !packaged {
            old_time(change, found);
        }
        if is_note(name_of(path)) && matches!(change.kind, ChangeKind::Created) {
            self.notes.entry(name_of(path).to_vec()).or_default().push(path.to_vec());
        }
        let same = matches!(change.kind, ChangeKind::Metadata { .. } | ChangeKind::Renamed { modified: false, .. });
        if same {
            return;
        }
        // However many files a VM puts before them.
        let is_account = matches!(path, b"/etc/passwd" | b"/etc/shadow");
        if self.left == 0 && !is_account {
            self.unseen += 1;
            return;
        }
        self.left = self.left.saturating_sub(1);
        let Some((old, new)) = contents(change) else {
            self.unseen += 1;
            return;
        };
        if !matches!(change.kind, ChangeKind::Created) && look::became_noise(&old, &new) {
            self.noise.push(path.to_vec());
        }
        if let Some(what) = look::disguise(path, &new) {
            found.add(&rules::DISGUISE, &seen(format!("{} is {what}", text(path)), &[path]));
        }
        if is_account {
            for account in look::root_accounts(path, &old, &new) {
                found.add(&rules::ROOT_ACCOUNT, &seen(format!("{}: {}", text(path), text(&account)), &[path]));
            }
        }
    }

    /// What was not looked at, in words.
    #[must_use]
    pub fn gap(&self) -> Option<String> {
        (self.unseen > 0).then(|| format!("{} changed files were not looked into", self.unseen))
    }

    /// When there are no more.
    pub fn end(self, found: &mut Found) {
        if self.noise.len() >= MANY {
            let what = format!("{} files were replaced by what looks encrypted", self.noise.len());
            let paths: Vec<&[u8]> = self.noise.iter().map(Vec::as_slice).collect();
            found.add(&rules::RANSOM_CONTENT, &seen(what, &paths));
        }
        for (name, paths) in &self.notes {
            let paths: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
            let dirs: BTreeSet<&[u8]> = paths.iter().map(|path| crate::world::dir_of(path)).collect();
            if dirs.len() >= 3 {
                let what = format!("{} was put into {} directories", text(name), dirs.len());
                found.add(&rules::RANSOM_NOTE, &seen(what, &paths));
            }
        }
    }
}

/// Other content, and to the nanosecond the time of the old.
fn old_time(change: &Change, found: &mut Found) {
    let (Some(before), Some(after)) = (&change.before, &change.after) else { return };
    let is_other = matches!(change.kind, ChangeKind::Modified { .. } | ChangeKind::Renamed { modified: true, .. });
    // Without nanoseconds, or in the same moment, it may be an archive's.
    if is_other && before.mtime == after.mtime && after.mtime.nanos != 0 {
        let path = change.path.as_bytes();
        found.add(&rules::TIME_STOMP, &seen(format!("{} has other content and the same time", text(path)), &[path]));
    }
}

/// Whether a file's name asks to pay.
fn is_note(name: &[u8]) -> bool {
    let lower = name.to_ascii_lowercase();
    let has = |word: &str| lower.windows(word.len()).any(|window| window == word.as_bytes());
    let is_text = [".txt", ".html", ".hta", ".md", ".htm"].iter().any(|end| lower.ends_with(end.as_bytes()));
    let asks = has("decrypt")
        || has("ransom")
        || has("recover_")
        || has("_recover")
        || has("recover-")
        || has("restore_files")
        || has("restore-my-files");
    is_text && (asks || has("your_files") || has("your files"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use fvm_model::{HostPath, Meta, MetaDelta, Timestamp, VmPath};

    fn meta(mode: u32, nanos: u32) -> Meta {
        Meta { file_type: FileType::File, mode, uid: 0, gid: 0, size_bytes: 1, mtime: Timestamp { secs: 5, nanos } }
    }

    fn change(path: &str, kind: ChangeKind, before: Option<Meta>, after: Meta) -> Change {
        Change {
            path: VmPath::new(path).unwrap(),
            kind,
            file_type: FileType::File,
            base: before.as_ref().map(|_| HostPath::new(path).unwrap()),
            layer: 0,
            before,
            after: Some(after),
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
            origin: None,
        }
    }

    const MODIFIED: ChangeKind =
        ChangeKind::Modified { meta: MetaDelta { mode: false, owner: false, times: false, xattrs: false } };

    fn ids(changes: Vec<Change>, mut contents: impl FnMut(&Change) -> Option<(Vec<u8>, Vec<u8>)>) -> Vec<String> {
        let (world, mut found) = (World::new(&[]), Found::default());
        let mut look = Changes::default();
        changes.iter().for_each(|change| look.look_at(change, false, &mut contents, &mut found));
        look.end(&mut found);
        let mut ids: Vec<String> = found.into_findings(&world).into_iter().map(|f| f.id).collect();
        ids.sort();
        ids
    }

    fn random(n: usize, mut seed: u64) -> Vec<u8> {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn many_files_that_became_noise_are_found_and_a_few_or_archives_are_not() {
        let files = |n: usize, ending: &str| -> Vec<Change> {
            (0..n)
                .map(|n| change(&format!("/w/{n}.{ending}"), MODIFIED, Some(meta(0o644, 1)), meta(0o644, 2)))
                .collect()
        };
        let text = "what somebody wrote and wants to keep. ".repeat(100).into_bytes();
        let noise = |_: &Change| Some((text.clone(), random(4000, 7)));
        assert_eq!(ids(files(MANY, "txt"), noise), ["ransom-content"]);
        assert_eq!(ids(files(MANY - 1, "txt"), noise), [""; 0]);
        assert_eq!(ids(files(MANY, "txt"), |_| Some((text.clone(), text.clone()))), [""; 0]);
        let zip = |_: &Change| Some((text.clone(), [b"PK\x03\x04".to_vec(), random(4000, 9)].concat()));
        assert_eq!(ids(files(MANY, "txt"), zip), [""; 0]);
    }

    #[test]
    fn what_was_not_looked_into_is_said_and_accounts_always_are() {
        let (world, mut found) = (World::new(&[]), Found::default());
        let mut look = Changes { left: 1, ..Changes::default() };
        let mut see = |path: &str, content: Option<&'static [u8]>| {
            let contents = &mut |_: &Change| content.map(|new| (Vec::new(), new.to_vec()));
            let before = (path == "/etc/passwd").then(|| meta(0o644, 1));
            let kind = if before.is_some() { MODIFIED } else { ChangeKind::Created };
            look.look_at(&change(path, kind, before, meta(0o644, 2)), false, contents, &mut found);
        };
        see("/a", Some(b""));
        see("/b", Some(b""));
        see("/etc/passwd", Some(b"x:x:0:0::/:/bin/sh\n"));
        see("/etc/shadow", None);
        assert_eq!(look.gap().as_deref(), Some("2 changed files were not looked into"));
        let ids: Vec<String> = found.into_findings(&world).into_iter().map(|f| f.id).collect();
        assert_eq!(ids, ["root-account"]);
    }

    #[test]
    fn modes_times_notes_and_disguises() {
        let created = |path: &str, mode| change(path, ChangeKind::Created, None, meta(mode, 1));
        assert_eq!(ids(vec![created("/w/s", 0o4755)], |_| None), ["set-uid"]);
        let same = change("/w/f", MODIFIED, Some(meta(0o644, 3)), meta(0o644, 3));
        assert_eq!(ids(vec![same], |_| None), ["time-stomp"]);
        let notes = ["/a", "/b", "/c"].map(|dir| created(&format!("{dir}/HOW_TO_DECRYPT.txt"), 0o644));
        assert_eq!(ids(notes.to_vec(), |_| None), ["ransom-note"]);
        let elf = |_: &Change| Some((Vec::new(), b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec()));
        assert_eq!(ids(vec![created("/w/photo.jpg", 0o644)], elf), ["disguise"]);
        assert_eq!(ids(vec![created("/w/program", 0o755)], elf), [""; 0]);
        let passwd = |_: &Change| {
            Some((b"root:x:0:0::/:/bin/sh\n".to_vec(), b"root:x:0:0::/:/bin/sh\nr00t:x:0:0::/:/bin/sh\n".to_vec()))
        };
        assert_eq!(
            ids(vec![change("/etc/passwd", MODIFIED, Some(meta(0o644, 1)), meta(0o644, 2))], passwd),
            ["root-account"]
        );
    }
}
