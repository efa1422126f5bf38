//! Which directories of an upper were moved, and from where; and what else a first look at the names tells.
//!
//! ```text
//!   upper b  redirect = "/a" ─► moved[b] = a, claimed[a] = b
//!   a whiteout, a replaced directory, a file where the host has a directory ─► something may be gone
//!   one inode number twice ─► hard links
//! ```
//!
//! Invariants: one host directory is claimed by at most one upper directory; a redirect is followed only to a directory
//! of the layer's own mount, beneath its root, through no link. Only names are read, and 8 bytes per file are kept: all
//! later passes that this finds needless are saved. Directories are listed by several threads at once, and what they tell is taken in one
//! order.

use crate::compare::is_whiteout;
use crate::layer::{Layer, Notes};
use crate::lower::DIR_MAX_ENTRIES;
use crate::overlay::{Marks, Redirect};
use crate::pipeline::in_order;
use crate::walk::PATH_MAX_BYTES;
use rustix::fs::FileType;
use std::collections::HashSet;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// So many directories are listed at once; fewer where those before had so many in them that too many would be held.
const BATCH_DIRS: usize = 256;
const BATCH_BELOW: usize = 64 << 10;
/// Fewer are not worth a thread.
const THREAD_DIRS: usize = 32;

/// What the names tell.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Something of the host's may be gone from its place.
    pub removals: bool,
    /// Inode numbers of files, each once per name.
    inodes: Vec<u64>,
    /// The numbers in directories are not those of the inodes.
    odd: bool,
}

impl Survey {
    fn add(&mut self, other: Self) {
        self.removals |= other.removals;
        self.odd |= other.odd;
        self.inodes.extend(other.inodes);
    }

    /// The inodes with several names, and those of `others` that have one; `None`: any may.
    pub(crate) fn several(mut self, others: &HashSet<u64>) -> Option<HashSet<u64>> {
        if self.odd {
            return None;
        }
        self.inodes.sort_unstable();
        let twice = self.inodes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let wanted = others.iter().copied().filter(|ino| self.inodes.binary_search(ino).is_ok());
        Some(twice.chain(wanted).collect())
    }
}

/// A directory of the upper.
struct Place {
    rel: PathBuf,
    /// Its host directory, from the root of the lower.
    lower: Option<PathBuf>,
}

/// What it holds.
struct Listed {
    survey: Survey,
    /// The host has such a directory.
    in_host: bool,
    below: Vec<(PathBuf, Marks)>,
}

impl Layer<'_> {
    /// Where moved directories came from. Rootless overlays never move directories.
    pub(crate) fn find_moves(&mut self) -> Survey {
        let mut survey = Survey::default();
        let mut notes = std::mem::take(&mut self.notes);
        let mut pending = vec![Place { rel: PathBuf::new(), lower: Some(PathBuf::new()) }];
        let mut batch_dirs = BATCH_DIRS;
        while !pending.is_empty() {
            let batch = pending.split_off(pending.len().saturating_sub(batch_dirs));
            let before = pending.len();
            let listed = in_order(&batch, THREAD_DIRS, |at| self.list(at));
            // What cannot be read is reported by the walk.
            for (at, Listed { survey: found, in_host, below }) in
                batch.iter().zip(listed).filter_map(|(at, l)| Some((at, l?)))
            {
                survey.add(found);
                for (rel, marks) in below {
                    survey.removals |= marks.opaque;
                    let by_name = match rel.file_name() {
                        Some(name) if in_host => at.lower.as_ref().map(|lower| lower.join(name)),
                        _ => None,
                    };
                    let lower = match marks.redirect {
                        None => by_name,
                        Some(Err(())) => {
                            let what = "its redirect is not one that the kernel writes; read as a new directory";
                            self.warn(&mut notes, &rel, what);
                            self.lost.insert(rel.clone());
                            None
                        }
                        Some(Ok(redirect)) => self.follow(&rel, at, redirect, by_name, &mut notes),
                    };
                    pending.push(Place { rel, lower: lower.filter(|_| !marks.opaque) });
                }
            }
            let each = (pending.len() - before).div_ceil(batch.len());
            batch_dirs = (BATCH_BELOW / each.max(1)).clamp(1, BATCH_DIRS);
        }
        // Moved away and back into a replaced directory: the walk compares that by path anyway.
        let home = |rel: &PathBuf, lower: &PathBuf| {
            rel == lower && !rel.ancestors().skip(1).any(|a| self.claimed.contains_key(a) || self.moved.contains_key(a))
        };
        let back: Vec<PathBuf> = self.moved.iter().filter(|(r, l)| home(r, l)).map(|(r, _)| r.clone()).collect();
        for rel in back {
            self.moved.remove(&rel);
            self.claimed.remove(&rel);
            self.at_home.insert(rel);
        }
        self.above_moved = self.moved.keys().flat_map(|rel| rel.ancestors().skip(1)).map(Path::to_path_buf).collect();
        self.notes = notes;
        survey
    }

    /// What a directory holds; `None`: it cannot be opened.
    fn list(&self, at: &Place) -> Option<Listed> {
        let dir = self.upper.beneath_deep(&at.rel).ok()?;
        let in_host = at.lower.as_ref().is_some_and(|lower| !matches!(self.lower.open(lower), Ok(None)));
        let mut survey = Survey::default();
        let (mut dirs, mut count, mut probe) = (Vec::new(), 0, true);
        let listed = dir.each_entry(|name, kind, ino| {
            count += 1;
            if count > DIR_MAX_ENTRIES {
                return ControlFlow::Break(());
            }
            if matches!(kind, FileType::Directory | FileType::Unknown) {
                dirs.push(name.to_owned());
            }
            if kind == FileType::Directory {
                return ControlFlow::Continue(());
            }
            survey.inodes.push(ino);
            if probe || kind != FileType::RegularFile {
                probe = false;
                let stat = dir.stat(Path::new(name));
                survey.odd |= !stat.as_ref().is_ok_and(|stat| stat.stx_ino == ino);
                survey.removals |= stat.is_ok_and(|stat| is_whiteout(&stat));
            }
            survey.removals |= in_host || kind == FileType::Unknown;
            ControlFlow::Continue(())
        });
        if listed.is_err() {
            dirs.clear();
        }
        let below = |name: OsString| {
            let rel = at.rel.join(&name);
            if rel.as_os_str().len() > PATH_MAX_BYTES || self.is_foreign(&rel) {
                return None;
            }
            let child = dir.beneath(Path::new(&name)).ok()?;
            Some((rel, Marks::read_dir(&child, self.input.class).unwrap_or_default()))
        };
        Some(Listed { survey, in_host, below: dirs.into_iter().filter_map(below).collect() })
    }

    fn follow(
        &mut self,
        rel: &Path,
        at: &Place,
        redirect: Redirect,
        by_name: Option<PathBuf>,
        notes: &mut Notes,
    ) -> Option<PathBuf> {
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
            let what = "two directories say that they were moved from one place; read as a new one";
            self.warn(notes, rel, what);
            return None;
        }
        self.claimed.insert(lower.clone(), rel.to_path_buf());
        self.moved.insert(rel.to_path_buf(), lower.clone());
        Some(lower)
    }
}
