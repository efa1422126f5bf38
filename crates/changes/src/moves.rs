//! Which directories of an upper were moved, and from where.
//!
//! ```text
//!   upper b  redirect = "/a" ─► moved[b] = a, claimed[a] = b
//! ```
//!
//! Invariants: one host directory is claimed by at most one upper directory; a redirect is followed only to a directory
//! of the layer's own mount, beneath its root, through no link.

use crate::layer::LayerScan;
use crate::lower::DIR_MAX_ENTRIES;
use crate::overlay::{Marks, Redirect};
use crate::walk::{PATH_MAX_BYTES, Pending};
use std::path::{Path, PathBuf};

impl LayerScan<'_> {
    /// Pass 1: where moved directories came from. Rootless overlays never move directories.
    pub(crate) fn find_moves(&mut self) {
        if !self.trusted() {
            return;
        }
        let mut pending = vec![Pending { rel: PathBuf::new(), lower: Some(PathBuf::new()), opaque: false }];
        while let Some(at) = pending.pop() {
            // What cannot be read is reported by pass 2.
            let Ok(dir) = self.upper.beneath_deep(&at.rel) else {
                continue;
            };
            let Ok(entries) = dir.entries(DIR_MAX_ENTRIES) else {
                continue;
            };
            for (name, kind) in entries {
                if !matches!(kind, rustix::fs::FileType::Directory | rustix::fs::FileType::Unknown) {
                    continue;
                }
                let rel = at.rel.join(&name);
                if rel.as_os_str().len() > PATH_MAX_BYTES || self.is_foreign(&rel) {
                    continue;
                }
                let Ok(child) = dir.beneath(Path::new(&name)) else {
                    continue;
                };
                let marks = Marks::read_dir(&child, self.input.class).unwrap_or_default();
                drop(child);
                let by_name = at.lower.as_ref().map(|l| l.join(&name));
                let lower = match marks.redirect {
                    None => by_name,
                    Some(Err(())) => {
                        self.warn(&rel, "its redirect is not one that the kernel writes; read as a new directory");
                        self.lost.insert(rel.clone());
                        None
                    }
                    Some(Ok(redirect)) => self.follow(&rel, &at, redirect, by_name),
                };
                pending.push(Pending { rel, lower: if marks.opaque { None } else { lower }, opaque: false });
            }
        }
        // Moved away and back into a replaced directory: pass 2 compares that by path anyway.
        let home = |rel: &PathBuf, lower: &PathBuf| {
            rel == lower && !rel.ancestors().skip(1).any(|a| self.claimed.contains_key(a) || self.moved.contains_key(a))
        };
        let back: Vec<PathBuf> = self.moved.iter().filter(|(r, l)| home(r, l)).map(|(r, _)| r.clone()).collect();
        for rel in back {
            self.moved.remove(&rel);
            self.claimed.remove(&rel);
            self.at_home.insert(rel);
        }
    }

    fn follow(&mut self, rel: &Path, at: &Pending, redirect: Redirect, by_name: Option<PathBuf>) -> Option<PathBuf> {
        let lower = match redirect {
            Redirect::FromRoot(path) => Some(path),
            Redirect::Sibling(name) => at.lower.as_ref().map(|l| l.join(name)),
        };
        let there = lower.filter(|l| !self.lower.is_excluded(l) && matches!(self.lower.open(l), Ok(Some(_))));
        let Some(lower) = there else {
            self.lost.insert(rel.to_path_buf());
            return None;
        };
        if Some(&lower) == by_name.as_ref() {
            return Some(lower);
        }
        if self.claimed.contains_key(&lower) {
            self.warn(rel, "two directories say that they were moved from one place; read as a new one");
            return None;
        }
        self.claimed.insert(lower.clone(), rel.to_path_buf());
        self.moved.insert(rel.to_path_buf(), lower.clone());
        Some(lower)
    }
}
