//! What a commit does once it is prepared: the only thing that is carried out, and what the journal holds.
//!
//! ```text
//!   slot                      path                phase  turn   done when the slot
//!   .........                 /srv/a  (renamed)     0    take   holds it
//!   /srv/a's entry            /srv/b                1    put    is empty
//!   new /srv/b/f              /srv/b/f              1    swap   holds what it replaces
//!   (free)                    /srv/old (deleted)    1    take   holds it
//! ```
//!
//! Invariants: in one phase a slot is used by one step, and nobody else knows slots, so whether a step was done is
//! read from its slot alone, whatever else a crash left behind; every turn has an inverse, so a phase is undone by the
//! inverse steps from the back; metadata are set, not added to, so setting them again is harmless.

use crate::places::{Loc, Places};
use crate::{copy, marks};
use fvm_model::path::Bytes;
use fvm_model::{MetaDelta, Timestamp};
use fvm_sys::dir::Dir;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Program {
    /// Renamed entries leave their old places; then everything comes to its new one.
    pub phases: [Vec<Step>; 2],
    /// Metadata of entries that stay what they are.
    pub metas: Vec<SetMeta>,
    /// Directories' times: every entry that comes or goes touches them.
    pub times: Vec<DirTime>,
    /// Moved entries that carry overlayfs's own attributes.
    pub strips: Vec<Loc>,
}

/// One entry changes places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The op that it belongs to.
    pub n: u32,
    /// The end that only the commit knows.
    pub slot: Loc,
    /// The end that everybody knows.
    pub path: Loc,
    /// What happens.
    pub turn: Turn,
    /// What leaves `path` must still look like this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stamp: Option<Stamp>,
    /// Whether what comes is the VM's making, not an entry of the host's that only moves.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub made: bool,
    /// Modes of directories without write permission, of what comes and what goes: an ordinary user cannot move those
    /// to another directory, so they are opened up for that moment.
    #[serde(skip_serializing_if = "is_open", default)]
    pub shut: [Option<u32>; 2],
    /// Everything before must be on the disk first.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub barrier: bool,
}

/// How the two ends of a step change. Numbers are inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// From the slot to the path, which is free.
    Put(u64),
    /// From the path to the slot, which is free.
    Take(u64),
    /// Both ways.
    Swap {
        /// From the slot to the path.
        comes: u64,
        /// From the path to the slot.
        goes: u64,
    },
}

/// What an edit in place changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Length.
    pub size_bytes: u64,
    /// Last write.
    pub mtime: Timestamp,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Not begun.
    Pending,
    /// A swap without `RENAME_EXCHANGE` stopped half-way.
    Half,
    /// Done.
    Done,
    /// The slot holds something that nobody put there.
    Odd,
}

impl Turn {
    /// The turn that takes this one back.
    pub fn inverse(self) -> Self {
        match self {
            Self::Put(ino) => Self::Take(ino),
            Self::Take(ino) => Self::Put(ino),
            Self::Swap { comes, goes } => Self::Swap { comes: goes, goes: comes },
        }
    }

    /// What the inode in the slot, if any, says.
    pub fn progress(self, slot: Option<u64>) -> Progress {
        match (self, slot) {
            (Self::Put(ino), Some(now)) if now == ino => Progress::Pending,
            (Self::Put(_), None) => Progress::Done,
            (Self::Take(ino), Some(now)) if now == ino => Progress::Done,
            (Self::Take(_), None) => Progress::Pending,
            (Self::Swap { comes, .. }, Some(now)) if now == comes => Progress::Pending,
            (Self::Swap { goes, .. }, Some(now)) if now == goes => Progress::Done,
            (Self::Swap { .. }, None) => Progress::Half,
            _ => Progress::Odd,
        }
    }
}

impl Step {
    /// The step that takes this one back. What a person did to the entry since is not looked at.
    pub fn inverse(&self) -> Self {
        let [comes, goes] = self.shut;
        Self { turn: self.turn.inverse(), stamp: None, barrier: false, shut: [goes, comes], ..self.clone() }
    }
}

fn is_open(shut: &[Option<u32>; 2]) -> bool {
    *shut == [None, None]
}

/// The steps that take `phase` back.
pub fn inverse(phase: &[Step]) -> Vec<Step> {
    phase.iter().rev().map(Step::inverse).collect()
}

/// New metadata of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMeta {
    /// The op that it belongs to.
    pub n: u32,
    /// Where the entry is after the phases.
    pub at: Loc,
    /// Where it is before.
    pub was_at: Loc,
    /// Which it is.
    pub ino: u64,
    /// What it has before.
    pub before: Attrs,
    /// What it gets.
    pub after: Attrs,
}

/// Metadata; `None` is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Attrs {
    /// Owner and group.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<(u32, u32)>,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mode: Option<u32>,
    /// All attributes but overlayfs's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub xattrs: Option<Vec<(Bytes, Bytes)>>,
    /// Last change of content.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mtime: Option<Timestamp>,
}

fn as_bytes(attrs: Vec<(OsString, Vec<u8>)>) -> Vec<(Bytes, Bytes)> {
    attrs.into_iter().map(|(name, value)| (Bytes(name), Bytes(OsString::from_vec(value)))).collect()
}

impl Attrs {
    /// Those of `entry` that `which` names, and those that a change of owner takes away.
    pub fn of(entry: (&Dir, &Path), which: MetaDelta) -> Result<Self, Errno> {
        let stat = entry.0.stat(entry.1)?;
        let xattrs = || Ok::<_, Errno>(as_bytes(copy::own(entry.0.xattrs(entry.1)?)));
        Ok(Self {
            owner: which.owner.then_some((stat.stx_uid, stat.stx_gid)),
            mode: (which.owner || which.mode).then_some(u32::from(stat.stx_mode) & 0o7777),
            xattrs: if which.owner || which.xattrs { Some(xattrs()?) } else { None },
            mtime: which.times.then_some(Timestamp { secs: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec }),
        })
    }

    /// All of an open file.
    pub fn of_fd(file: BorrowedFd<'_>, stat: &rustix::fs::Stat) -> Result<Self, Errno> {
        let all = fvm_sys::dir::fd_xattrs(file)?;
        Ok(Self {
            owner: Some((stat.st_uid, stat.st_gid)),
            mode: Some(stat.st_mode & 0o7777),
            xattrs: Some(as_bytes(copy::own(all))),
            mtime: Some(Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }),
        })
    }

    /// The same, but of reserved names what `host` has: a VM has no say in those.
    pub fn with_reserved_of(mut self, host: Option<&Self>) -> Self {
        if let Some(attrs) = &mut self.xattrs {
            let reserved = |(name, _): &&(Bytes, Bytes)| marks::is_reserved(&name.0);
            attrs.retain(|attr| !reserved(&attr));
            attrs.extend(host.and_then(|host| host.xattrs.as_ref()).into_iter().flatten().filter(reserved).cloned());
            attrs.sort();
        }
        self
    }

    /// Which of them are given.
    pub fn which(&self) -> MetaDelta {
        MetaDelta {
            owner: self.owner.is_some(),
            mode: self.mode.is_some(),
            xattrs: self.xattrs.is_some(),
            times: self.mtime.is_some(),
        }
    }
}

/// The time of a directory in which entries come or go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirTime {
    /// Where it is after the phases; `None`: it is gone.
    pub at: Option<Loc>,
    /// Where it is before; `None`: it is new.
    pub was_at: Option<Loc>,
    /// Its inode; 0: not known.
    pub ino: u64,
    /// Its time before.
    pub before: Option<Timestamp>,
    /// Its time in the VM; `None`: as before.
    pub after: Option<Timestamp>,
}

impl Program {
    /// The program that takes this one back once it was carried out.
    pub fn undo(&self) -> Self {
        let swap = |m: &SetMeta| SetMeta {
            at: m.was_at.clone(),
            was_at: m.at.clone(),
            before: m.after.clone(),
            after: m.before.clone(),
            ..m.clone()
        };
        let back = |t: &DirTime| DirTime {
            at: t.was_at.clone(),
            was_at: t.at.clone(),
            before: t.after.or(t.before),
            after: t.before,
            ino: t.ino,
        };
        Self {
            phases: [inverse(&self.phases[1]), inverse(&self.phases[0])],
            metas: self.metas.iter().rev().map(swap).collect(),
            times: self.times.iter().map(back).collect(),
            strips: Vec::new(),
        }
    }

    /// Every slot.
    pub fn slots(&self) -> impl Iterator<Item = &Loc> {
        self.phases.iter().flatten().map(|step| &step.slot)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.phases.iter().all(Vec::is_empty) && self.metas.is_empty() && self.times.is_empty()
    }
}

/// What `places` has in a slot.
pub fn slot_ino(places: &Places, slot: &Loc) -> Result<Option<u64>, Errno> {
    Ok(places.look(slot)?.map(|stat| stat.stx_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_and_its_inverse_read_the_same_slot_the_other_way() {
        for turn in [Turn::Put(7), Turn::Take(7), Turn::Swap { comes: 7, goes: 8 }] {
            for slot in [None, Some(7), Some(8), Some(9)] {
                let opposite = match turn.progress(slot) {
                    Progress::Pending => Progress::Done,
                    Progress::Done => Progress::Pending,
                    same => same,
                };
                assert_eq!(turn.inverse().progress(slot), opposite, "{turn:?} {slot:?}");
            }
            assert_eq!(turn.inverse().inverse(), turn);
        }
    }
}
