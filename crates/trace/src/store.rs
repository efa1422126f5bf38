//! Writing the log of one VM: segments, a quota, what was lost.
//!
//! ```text
//!   push ─► buffer (bounded) ─ flush ─► <n>.log ── 4 MiB ──► <n+1>.log
//!                                        all together more than the quota: the oldest but the first goes
//! ```
//!
//! Invariants: memory is bounded, whatever the VM does; an event that cannot be written is counted, and its number
//! never given to another; a segment on disk never holds a torn record before a whole one.

use crate::codec::{Encoder, HEADER, end_of};
use fvm_model::event::{Args, Event, Kind, Phase, Src, Trust};
use fvm_model::path::Bytes;
use fvm_model::{Level, Timestamp};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;

/// How large the log of a VM may become, in bytes.
pub const QUOTA_BYTES: u64 = 64 << 20;
/// Longest segment, in bytes.
const SEGMENT_MAX_BYTES: usize = 4 << 20;
/// Written at the latest when so much waits.
const BUFFER_BYTES: usize = 64 << 10;

/// The log of a VM, open for writing.
#[derive(Debug)]
pub struct Store {
    dir: OwnedFd,
    vm: String,
    max_segments: usize,
    segment_max: usize,
    /// Numbers of the segments there are, oldest first.
    segments: VecDeque<u32>,
    file: Option<OwnedFd>,
    /// What is whole of it on disk.
    len: usize,
    encoder: Encoder,
    buffer: Vec<u8>,
    buffered: u64,
    /// The highest number given.
    seq: u64,
    /// Not written since the last that was.
    lost: u64,
}

/// An event of the log itself.
#[must_use]
pub fn own_event(vm: &str, ts: Timestamp, seq: u64, kind: Kind, args: Args) -> Event {
    let nothing = || Bytes(OsString::new());
    Event {
        ts,
        vm: vm.to_owned(),
        seq,
        tgid: 0,
        tid: 0,
        ppid: 0,
        sid: 0,
        start_ns: 0,
        uid: 0,
        exe: nothing(),
        comm: nothing(),
        kind,
        args,
        src: Src::Tracer,
        trust: Trust::Kernel,
        phase: Phase::Done,
    }
}

/// The name of a segment.
pub(crate) fn name_of(number: u32) -> String {
    format!("{number:08}.log")
}

/// The numbers of the segments in a directory, in order.
pub(crate) fn segments(dir: impl AsFd) -> Result<Vec<u32>, Errno> {
    let mut numbers = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let number = name.strip_suffix(b".log").filter(|digits| digits.len() == 8);
        let number = number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u32>().ok());
        numbers.extend(number.filter(|number| *number > 0));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A segment's bytes; never more than one should have.
pub(crate) fn read_segment(dir: impl AsFd, number: u32, from: u64) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::openat(dir, name_of(number), flags, Mode::empty())?;
    fs::seek(&file, SeekFrom::Start(from))?;
    let size = usize::try_from(fs::fstat(&file)?.st_size).unwrap_or(0).min(2 * SEGMENT_MAX_BYTES);
    let mut bytes = vec![0; size.saturating_sub(usize::try_from(from).unwrap_or(size))];
    let mut len = 0;
    while len < bytes.len() {
        match rustix::io::read(&file, &mut bytes[len..])? {
            0 => break,
            more => len += more,
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

impl Store {
    /// Opens the log in `dir`, to go on behind what is whole in it. The caller is the only one that writes it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(dir: OwnedFd, vm: &str, quota_bytes: u64) -> Result<Self, Errno> {
        Self::with_segments(dir, vm, quota_bytes, SEGMENT_MAX_BYTES)
    }

    fn with_segments(dir: OwnedFd, vm: &str, quota_bytes: u64, segment_max: usize) -> Result<Self, Errno> {
        let segments: VecDeque<u32> = segments(&dir)?.into();
        let max_segments = usize::try_from(quota_bytes).unwrap_or(usize::MAX) / segment_max;
        let mut store = Self {
            dir,
            vm: vm.to_owned(),
            max_segments: max_segments.max(2),
            segment_max,
            segments,
            file: None,
            len: 0,
            encoder: Encoder::default(),
            buffer: Vec::with_capacity(BUFFER_BYTES + 4096),
            buffered: 0,
            seq: 0,
            lost: 0,
        };
        store.go_on()?;
        Ok(store)
    }

    /// Finds where the last run stopped.
    fn go_on(&mut self) -> Result<(), Errno> {
        for (back, number) in self.segments.iter().rev().enumerate() {
            let found = end_of(&read_segment(&self.dir, *number, 0)?);
            if let (0, Some((end, _))) = (back, found)
                && end < self.segment_max
            {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::APPEND;
                let file = fs::openat(&self.dir, name_of(*number), flags, Mode::empty())?;
                fs::ftruncate(&file, end as u64)?;
                (self.file, self.len) = (Some(file), end);
            }
            if let Some((_, last)) = found.filter(|(_, last)| *last > 0) {
                self.seq = last;
                break;
            }
        }
        Ok(())
    }

    /// Adds an event; its number is given here.
    pub fn push(&mut self, mut event: Event) {
        if self.lost > 0 && self.buffer.is_empty() {
            self.tell_loss(event.ts);
        }
        self.seq += 1;
        event.seq = self.seq;
        self.put(&event);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    /// Adds an event of the log itself.
    pub fn push_own(&mut self, ts: Timestamp, kind: Kind, args: Args) {
        self.push(own_event(&self.vm, ts, 0, kind, args));
    }

    /// A run begins. `blind`: what it cannot see. Whether that is written: a log that does not know of a run is not to be gone on with.
    pub fn begin(&mut self, ts: Timestamp, level: Level, blind: Option<&str>) -> bool {
        let name = blind.map(|text| Bytes(text.into()));
        self.push_own(ts, Kind::Start, Args { level: Some(level), name, ..Args::default() });
        self.flush();
        self.lost == 0
    }

    /// So many events were not seen, or not kept.
    pub fn lose(&mut self, count: u64) {
        self.seq += count;
        self.lost += count;
    }

    /// Whether something waits to be written.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Says what is missing; the missing ones have their numbers already.
    fn tell_loss(&mut self, ts: Timestamp) {
        let args = Args { count: Some(self.lost), ..Args::default() };
        self.seq += 1;
        let event = own_event(&self.vm, ts, self.seq, Kind::Lost, args);
        self.lost = 0;
        self.put(&event);
    }

    fn put(&mut self, event: &Event) {
        self.encoder.encode(event, &mut self.buffer);
        self.buffered += 1;
    }

    /// Writes what waits. What cannot be written is lost, and counted.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.write().is_err() {
            // Torn, it would hide what comes behind it.
            let mended = self.file.as_ref().is_some_and(|file| fs::ftruncate(file, self.len as u64).is_ok());
            if !mended {
                self.file = None;
            }
            self.encoder = Encoder::default();
            self.lost += self.buffered;
        }
        self.buffer.clear();
        self.buffered = 0;
        if self.len >= self.segment_max || self.encoder.is_full() {
            self.file = None;
        }
        if self.file.is_none() {
            // The next segment knows nothing of what this one named.
            self.encoder = Encoder::default();
        }
    }

    fn write(&mut self) -> Result<(), Errno> {
        if self.file.is_none() {
            self.next_segment()?;
        }
        let Some(file) = &self.file else { return Err(Errno::BADF) };
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let len = rustix::io::retry_on_intr(|| rustix::io::write(file, rest))?;
            rest = &rest[len..];
        }
        self.len += self.buffer.len();
        Ok(())
    }

    fn next_segment(&mut self) -> Result<(), Errno> {
        while self.segments.len() >= self.max_segments
            && let Some(oldest) = self.segments.remove(1)
        {
            fs::unlinkat(&self.dir, name_of(oldest), AtFlags::empty())?;
        }
        let number = self.segments.back().map_or(1, |last| last + 1);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::APPEND;
        let file = fs::openat(&self.dir, name_of(number), flags, Mode::RUSR | Mode::WUSR)?;
        self.segments.push_back(number);
        rustix::io::write(&file, &HEADER)?;
        (self.file, self.len) = (Some(file), HEADER.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::event;
    use crate::log::Log;
    use std::path::Path;

    fn open(dir: &Path) -> OwnedFd {
        fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn read(dir: &Path) -> (Vec<Event>, crate::log::Integrity) {
        let mut events = Vec::new();
        let whole = Log::open(dir, "vm").unwrap().read(&mut |e| events.push(e)).unwrap();
        (events, whole)
    }

    #[test]
    fn a_second_run_goes_on_behind_what_is_whole_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(open(dir.path()), "vm", QUOTA_BYTES).unwrap();
        store.begin(Timestamp::default(), Level::Basic, None);
        store.push(event(0));
        store.flush();
        drop(store);
        let file = dir.path().join("00000001.log");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.extend([9, 0, 0, 0, 1]);
        std::fs::write(&file, bytes).unwrap();
        let mut store = Store::open(open(dir.path()), "vm", QUOTA_BYTES).unwrap();
        store.begin(Timestamp::default(), Level::Basic, Some("io_uring"));
        store.push(event(0));
        store.push_own(Timestamp::default(), Kind::End, Args::default());
        store.flush();
        let (events, whole) = read(dir.path());
        assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(whole.cut && !whole.is_open && whole.lost == 0, "{whole:?}");
        assert_eq!(whole.blind, ["io_uring"]);
    }

    #[test]
    fn a_flood_takes_no_more_than_the_quota_and_keeps_beginning_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let quota = 5 * BUFFER_BYTES as u64;
        let mut store = Store::with_segments(open(dir.path()), "vm", quota, BUFFER_BYTES).unwrap();
        store.begin(Timestamp::default(), Level::Full, None);
        for _ in 0..20_000 {
            store.push(event(0));
        }
        store.push_own(Timestamp::default(), Kind::End, Args::default());
        store.flush();
        let sizes = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
        assert!(sizes.sum::<u64>() <= quota + 2 * BUFFER_BYTES as u64);
        let (events, whole) = read(dir.path());
        assert_eq!(events.first().map(|e| e.kind), Some(Kind::Start));
        assert_eq!(events.last().map(|e| (e.kind, e.seq)), Some((Kind::End, 20_002)));
        let lost = events.iter().find(|e| e.kind == Kind::Lost).unwrap();
        assert_eq!(lost.args.count, Some(whole.lost));
        let kept = events.iter().filter(|e| e.kind != Kind::Lost).count() as u64;
        assert_eq!(kept + whole.lost, 20_002);
    }

    #[test]
    fn a_run_whose_level_has_no_changes_of_files_is_whole_and_says_so() {
        for (levels, without) in [
            (&[Level::Basic, Level::Full][..], false),
            (&[Level::Programs], true),
            (&[Level::Programs, Level::Basic], true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Store::open(open(dir.path()), "vm", QUOTA_BYTES).unwrap();
            for level in levels {
                store.begin(Timestamp::default(), *level, None);
                store.push_own(Timestamp::default(), Kind::End, Args::default());
            }
            store.flush();
            let (events, whole) = read(dir.path());
            assert_eq!(events[0].args.level, Some(levels[0]));
            assert_eq!((whole.without_files, whole.is_whole(false)), (without, true), "{levels:?}");
        }
        // What was not seen at all is told by its name.
        let dir = tempfile::tempdir().unwrap();
        Store::open(open(dir.path()), "vm", QUOTA_BYTES).unwrap().begin(
            Timestamp::default(),
            Level::Off,
            Some("a run"),
        );
        let (_, whole) = read(dir.path());
        assert!(!whole.without_files && !whole.is_whole(true));
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(open(dir.path()), "vm", QUOTA_BYTES).unwrap();
        store.begin(Timestamp::default(), Level::Basic, None);
        // A descriptor that cannot be written stands for a full disk.
        let good = store.file.replace(open(dir.path()));
        assert!(!store.begin(Timestamp::default(), Level::Basic, None), "a run that nobody will know of");
        store.file.replace(open(dir.path()));
        store.seq -= 1;
        store.lost = 0;
        (0..3).for_each(|_| store.push(event(0)));
        store.flush();
        assert!(store.file.is_none() && store.lost == 3);
        store.file = good;
        store.push(event(0));
        store.lose(2);
        store.flush();
        store.push(event(0));
        store.flush();
        let (events, whole) = read(dir.path());
        let seen: Vec<_> = events.iter().map(|e| (e.kind, e.args.count.filter(|_| e.kind == Kind::Lost))).collect();
        let (start, rename) = ((Kind::Start, None), (Kind::Rename, None));
        assert_eq!(seen, [start, (Kind::Lost, Some(3)), rename, (Kind::Lost, Some(2)), rename]);
        assert_eq!((whole.lost, whole.is_open), (5, true));
    }
}
