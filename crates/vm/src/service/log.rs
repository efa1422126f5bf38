//! What the services of a VM printed: one file of the VM's directory, a line for each of theirs.
//!
//! ```text
//!   1795433311.077 nginx.service  the line, as it was printed
//! ```
//!
//! Invariants: a service cannot forge another's line: time and name come from the manager; the file never grows over
//! [`MAX_BYTES`], its older half goes first; a reader takes nothing in it for more than text.

use fvm_service::UnitName;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// The largest log.
pub const MAX_BYTES: u64 = 8 << 20;

/// The longest line; longer ones are split.
pub const LINE_MAX_BYTES: usize = 8 << 10;

/// How much is written at once, about.
const PART_BYTES: usize = 64 << 10;

/// The log, open for the manager.
#[derive(Debug)]
pub struct Log {
    file: OwnedFd,
    size: u64,
}

impl Log {
    /// Goes on with the log in `file`, which is open for reading and appending.
    #[must_use]
    pub fn new(file: OwnedFd) -> Self {
        let size = rustix::fs::fstat(&file).map_or(0, |s| s.st_size.cast_unsigned());
        Self { file, size }
    }

    /// Adds lines of one service. A full disk costs lines, nothing else.
    pub fn lines<'l>(&mut self, unit: &UnitName, lines: impl IntoIterator<Item = &'l [u8]>) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let head = format!("{}.{:03} {unit} ", now.tv_sec, now.tv_nsec / 1_000_000);
        let mut text = Vec::new();
        for line in lines {
            text.extend_from_slice(head.as_bytes());
            text.extend_from_slice(line);
            text.push(b'\n');
            if text.len() > PART_BYTES {
                self.write(&text);
                text.clear();
            }
        }
        self.write(&text);
    }

    fn write(&mut self, mut text: &[u8]) {
        let len = text.len() as u64;
        if self.size + len > MAX_BYTES && self.shorten().is_err() {
            return;
        }
        while let Ok(len @ 1..) = rustix::io::write(&self.file, text) {
            self.size += len as u64;
            text = &text[len..];
        }
    }

    /// Keeps the younger half.
    fn shorten(&mut self) -> Result<(), Errno> {
        let keep = MAX_BYTES / 2;
        let from = self.size.saturating_sub(keep);
        let mut young = vec![0; usize::try_from(keep).map_err(|_| Errno::FBIG)?];
        let mut got = 0;
        while got < young.len() {
            match rustix::io::pread(&self.file, &mut young[got..], from + got as u64)? {
                0 => break,
                len => got += len,
            }
        }
        young.truncate(got);
        let start = young.iter().position(|b| *b == b'\n').map_or(young.len(), |end| end + 1);
        rustix::fs::ftruncate(&self.file, 0)?;
        self.size = 0;
        let mut rest = &young[start..];
        while !rest.is_empty() {
            let len = rustix::io::write(&self.file, rest)?;
            self.size += len as u64;
            rest = &rest[len..];
        }
        Ok(())
    }
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'t> {
    /// When: seconds and milliseconds since 1970.
    pub time: (i64, u32),
    /// Whose.
    pub unit: UnitName,
    /// What was printed: any bytes.
    pub text: &'t [u8],
}

/// Reads one line; `None` when it is none.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(3, |b| *b == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let unit = std::str::from_utf8(fields.next()?).ok()?;
    let (secs, millis) = time.split_once('.')?;
    let time = (secs.parse().ok()?, millis.parse().ok().filter(|m| *m < 1000)?);
    Some(Line { time, unit: unit.parse().ok()?, text: fields.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    #[test]
    fn a_log_keeps_its_younger_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND;
        let mut log = Log::new(rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).unwrap());
        let unit: UnitName = "a.service".parse().unwrap();
        let text = vec![b'x'; LINE_MAX_BYTES];
        for n in 0..1100u32 {
            log.lines(&unit, [[n.to_string().as_bytes(), b":", &text].concat().as_slice()]);
        }
        let kept = std::fs::read(&path).unwrap();
        assert!(kept.len() as u64 <= MAX_BYTES && kept.len() as u64 > MAX_BYTES / 2, "{}", kept.len());
        let lines: Vec<_> = kept.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| parse(l).unwrap()).collect();
        assert!(lines.last().unwrap().text.starts_with(b"1099:"));
        assert!(lines.iter().all(|l| l.unit == unit));
    }

    #[test]
    fn what_is_no_line_is_none() {
        assert_eq!(parse(b"1.007 a.service x y").unwrap().text, b"x y");
        assert_eq!(parse(b"1.007 a.service ").unwrap().text, b"");
        for junk in [&b""[..], b"1 a.service x", b"1.2000 a.service x", b"1.1 a/b x", b"1.1 a.service", b"\xff.1 a x"] {
            assert_eq!(parse(junk), None);
        }
    }
}
