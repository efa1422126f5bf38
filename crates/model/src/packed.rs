//! Very many changes in little memory: about 25 bytes for a created file beyond its own name.
//!
//! ```text
//!   record   tag  layer  shared  length  path[shared..]  [before]  [after]      most changes
//!            255  length  JSON                                                  all others
//!
//!   tag      bit 0-1 created, deleted, modified, metadata; 2 base is path; 3 before; 4 after
//!            then, for the last two kinds, a byte of what differs
//!   shared   so many bytes of the path are those of the change before
//!   before   type  mode  uid  gid  size  seconds  nanoseconds       numbers of 7 bits per byte, the low ones first
//! ```
//!
//! Invariants: what is read is what was written, in that order; only in memory, never on disk: no version, no check.

use crate::change::{Change, ChangeKind, FileType, Meta, MetaDelta, Summary};
use crate::path::VmPath;
use crate::time::Timestamp;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Records lie in blocks of this size: a single vector would be copied as it grows.
const BLOCK_BYTES: usize = 1 << 20;
const JSON: u8 = 255;
const TYPES: [FileType; 7] = [
    FileType::File,
    FileType::Directory,
    FileType::Symlink,
    FileType::Fifo,
    FileType::Socket,
    FileType::CharDevice,
    FileType::BlockDevice,
];

/// Changes, in the order in which they were added.
#[derive(Debug, Default)]
pub struct PackedChanges {
    blocks: Vec<Vec<u8>>,
    /// The path of the last one.
    last: Vec<u8>,
    count: usize,
    summary: Summary,
}

impl PackedChanges {
    /// Adds one.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which does not happen.
    pub fn push(&mut self, change: &Change) -> Result<(), serde_json::Error> {
        let mut record = Vec::with_capacity(64);
        if !self.encode(change, &mut record) {
            record = serde_json::to_vec(change)?;
            let mut head = vec![JSON];
            put(&mut head, record.len() as u64);
            record.splice(0..0, head);
        }
        self.last.clear();
        self.last.extend_from_slice(change.path.as_bytes());
        match self.blocks.last_mut() {
            Some(block) if block.len() + record.len() <= BLOCK_BYTES => block.extend_from_slice(&record),
            _ => {
                let mut block = Vec::with_capacity(BLOCK_BYTES.max(record.len()));
                block.extend_from_slice(&record);
                self.blocks.push(block);
            }
        }
        self.count += 1;
        self.summary.add(change);
        Ok(())
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many of each kind.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// All of them again.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { blocks: self.blocks.iter(), rest: &[], last: Vec::new() }
    }

    /// False when the short form does not hold the change.
    fn encode(&self, change: &Change, out: &mut Vec<u8>) -> bool {
        let Change { path, kind, file_type, base, layer, before, after, .. } = change;
        let rare = change.target.is_some()
            || change.link_group.is_some()
            || change.link_host.is_some()
            || change.source.is_some()
            || change.uncommittable.is_some()
            || change.conflict.is_some()
            || change.origin.is_some();
        if rare || base.as_ref().is_some_and(|base| base.as_bytes() != path.as_bytes()) {
            return false;
        }
        let (kind, delta) = match kind {
            ChangeKind::Created => (0, None),
            ChangeKind::Deleted => (1, None),
            ChangeKind::Modified { meta } => (2, Some(meta)),
            ChangeKind::Metadata { meta } => (3, Some(meta)),
            ChangeKind::Renamed { .. } | ChangeKind::Retyped { .. } => return false,
        };
        let flag = |set: bool, bit: u8| u8::from(set) << bit;
        out.push(kind | flag(base.is_some(), 2) | flag(before.is_some(), 3) | flag(after.is_some(), 4));
        if let Some(meta) = delta {
            out.push(flag(meta.mode, 0) | flag(meta.owner, 1) | flag(meta.times, 2) | flag(meta.xattrs, 3));
        }
        put_type(out, *file_type);
        put(out, u64::from(*layer));
        let path = path.as_bytes();
        let shared = path.iter().zip(&self.last).take_while(|(a, b)| a == b).count();
        put(out, shared as u64);
        put(out, (path.len() - shared) as u64);
        out.extend_from_slice(&path[shared..]);
        for meta in [before, after].into_iter().flatten() {
            put_type(out, meta.file_type);
            put(out, u64::from(meta.mode));
            put(out, u64::from(meta.uid));
            put(out, u64::from(meta.gid));
            put(out, meta.size_bytes);
            put(out, meta.mtime.secs.cast_unsigned());
            put(out, u64::from(meta.mtime.nanos));
        }
        true
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_type(out: &mut Vec<u8>, file_type: FileType) {
    out.push(TYPES.iter().position(|one| *one == file_type).unwrap_or_default() as u8);
}

/// Reads them one after the other.
#[derive(Debug)]
pub struct Iter<'p> {
    blocks: std::slice::Iter<'p, Vec<u8>>,
    rest: &'p [u8],
    last: Vec<u8>,
}

impl Iterator for Iter<'_> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        if self.rest.is_empty() {
            self.rest = self.blocks.next()?;
        }
        let change = self.decode()?;
        self.last.clear();
        self.last.extend_from_slice(change.path.as_bytes());
        Some(change)
    }
}

impl<'p> Iter<'p> {
    fn bytes(&mut self, len: usize) -> Option<&'p [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    }

    fn short(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn file_type(&mut self) -> Option<FileType> {
        TYPES.get(usize::from(self.byte()?)).copied()
    }

    fn meta(&mut self) -> Option<Meta> {
        Some(Meta {
            file_type: self.file_type()?,
            mode: self.short()?,
            uid: self.short()?,
            gid: self.short()?,
            size_bytes: self.number()?,
            mtime: Timestamp { secs: self.number()?.cast_signed(), nanos: self.short()? },
        })
    }

    fn decode(&mut self) -> Option<Change> {
        let tag = self.byte()?;
        if tag == JSON {
            let len = self.length()?;
            return serde_json::from_slice(self.bytes(len)?).ok();
        }
        let has = |bit: u8| tag >> bit & 1 == 1;
        let delta = if tag & 3 >= 2 { self.byte()? } else { 0 };
        let differs = |bit: u8| delta >> bit & 1 == 1;
        let meta = MetaDelta { mode: differs(0), owner: differs(1), times: differs(2), xattrs: differs(3) };
        let kind = match tag & 3 {
            0 => ChangeKind::Created,
            1 => ChangeKind::Deleted,
            2 => ChangeKind::Modified { meta },
            _ => ChangeKind::Metadata { meta },
        };
        let (file_type, layer) = (self.file_type()?, self.short()?);
        let (shared, len) = (self.length()?, self.length()?);
        let mut path = self.last.get(..shared)?.to_vec();
        path.extend_from_slice(self.bytes(len)?);
        let path = VmPath::new(Path::new(OsStr::from_bytes(&path))).ok()?;
        let before = if has(3) { Some(self.meta()?) } else { None };
        let after = if has(4) { Some(self.meta()?) } else { None };
        let base = has(2).then(|| path.on_host());
        Some(Change {
            origin: None,
            path,
            kind,
            file_type,
            base,
            layer,
            before,
            after,
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{Bytes, HostPath};

    /// Numbers that look random.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }

        fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
            (self.roll(3) > 0).then(|| value(self))
        }

        fn meta(&mut self) -> Meta {
            Meta {
                file_type: TYPES[self.roll(7) as usize],
                mode: self.roll(0o10000) as u32,
                uid: [0, 1000, u32::MAX][self.roll(3) as usize],
                gid: self.roll(70_000) as u32,
                size_bytes: [0, 127, 128, u64::MAX][self.roll(4) as usize],
                mtime: Timestamp {
                    secs: [0, -1, i64::MIN, i64::MAX, 1_795_427_999][self.roll(5) as usize],
                    nanos: 999_999_999,
                },
            }
        }

        fn path(&mut self) -> VmPath {
            let names: [&[u8]; 5] = [b"a", b"bb", b"a-", b"\xff\n", b"a very long name, as some are"];
            let mut path = VmPath::root();
            for _ in 0..=self.roll(4) {
                path = path.join(OsStr::from_bytes(names[self.roll(5) as usize]));
            }
            path
        }

        fn change(&mut self) -> Change {
            let bit = |dice: &mut Self| dice.roll(2) == 1;
            let meta = MetaDelta { mode: bit(self), owner: bit(self), times: bit(self), xattrs: bit(self) };
            let kind = match self.roll(6) {
                0 => ChangeKind::Created,
                1 => ChangeKind::Deleted,
                2 => ChangeKind::Modified { meta },
                3 => ChangeKind::Metadata { meta },
                4 => ChangeKind::Renamed { modified: bit(self), meta },
                _ => ChangeKind::Retyped { from: TYPES[self.roll(7) as usize] },
            };
            let path = self.path();
            let base = match self.roll(3) {
                0 => None,
                1 => Some(path.on_host()),
                _ => Some(HostPath::root().join("elsewhere")),
            };
            let rare = self.roll(4) == 0;
            Change {
                origin: None,
                kind,
                base,
                file_type: TYPES[self.roll(7) as usize],
                layer: self.roll(300) as u32,
                before: self.maybe(Self::meta),
                after: self.maybe(Self::meta),
                target: self.maybe(|_| Bytes("to\u{1b}".into())).filter(|_| rare),
                link_group: self.maybe(|dice| dice.roll(9) as u32).filter(|_| rare),
                link_host: self.maybe(|_| HostPath::root().join("h")).filter(|_| rare),
                source: self.maybe(Self::path).filter(|_| rare),
                uncommittable: self.maybe(|_| "why".to_owned()).filter(|_| rare),
                conflict: self.maybe(|_| "what".to_owned()).filter(|_| rare),
                path,
            }
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let mut dice = Dice(7);
        let changes: Vec<Change> = (0..50_000).map(|_| dice.change()).collect();
        let mut packed = PackedChanges::default();
        for change in &changes {
            packed.push(change).unwrap();
        }
        assert!(packed.blocks.len() > 1);
        assert_eq!((packed.len(), packed.summary()), (changes.len(), Summary::of(&changes)));
        assert!(packed.iter().eq(changes));
        assert_eq!(PackedChanges::default().iter().next(), None);
    }

    #[test]
    fn a_created_file_takes_little() {
        let mut packed = PackedChanges::default();
        let mut dice = Dice(1);
        let after = Some(Meta {
            file_type: FileType::File,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            size_bytes: 5000,
            mtime: Timestamp { secs: 1_795_427_999, nanos: 123_456_789 },
        });
        let mut change = Change { kind: ChangeKind::Created, base: None, before: None, after, ..dice.change() };
        (change.target, change.link_group, change.link_host) = (None, None, None);
        (change.source, change.uncommittable, change.conflict) = (None, None, None);
        let mut record = Vec::new();
        for n in 0..1000 {
            change.path = VmPath::new(format!("/srv/some/directory/file-{n:06}")).unwrap();
            record.clear();
            assert!(packed.encode(&change, &mut record));
            assert!(n == 0 || record.len() <= 32, "{}", record.len());
            packed.push(&change).unwrap();
        }
    }
}
