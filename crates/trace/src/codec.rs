//! Events as bytes: one segment of the log (`docs/spec/events.md`).
//!
//! ```text
//!   segment   "fvmlog" 0 version   record ...
//!   record    length u32   checksum u32   payload
//!   payload   1 process: index tgid ppid sid uid start_ns exe comm
//!             2 event:   seq ns process tid kind how argument ...
//! ```
//!
//! Invariants: no input makes the reader panic or take more memory than the input has bytes; what stands behind the first
//! record that is not whole is not read; what the writer writes, the reader reads.

use fvm_model::Timestamp;
use fvm_model::event::{Args, Event, Kind, Level, Phase, SCHEMA, Src, Trust};
use fvm_model::path::Bytes;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What a segment begins with.
#[allow(clippy::cast_possible_truncation, reason = "a small number")]
pub const HEADER: [u8; 8] = [b'f', b'v', b'm', b'l', b'o', b'g', 0, SCHEMA as u8];
/// Longest payload, in bytes.
pub const PAYLOAD_MAX: usize = 64 << 10;
/// Length and checksum.
const FRAME: usize = 8;
/// Processes that a segment can name: it is full when it names more.
const PROCESSES_MAX: usize = 1 << 16;
/// Longest arguments that are written: what is longer is cut.
const ARGV_MAX_BYTES: usize = 32 << 10;

const PROCESS: u8 = 1;
const EVENT: u8 = 2;

const NUMBER: u64 = 0;
const BYTES: u64 = 1;
const TRUE: u64 = 2;

fn checksum(payload: &[u8]) -> u32 {
    payload.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[allow(clippy::cast_possible_truncation, reason = "seven bits of it")]
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "seven bits are left")]
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Nanoseconds since 1970; 0 before that.
fn nanoseconds(ts: Timestamp) -> u64 {
    u64::try_from(ts.secs).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(ts.nanos.into())
}

fn timestamp(ns: u64) -> Timestamp {
    let nanos = u32::try_from(ns % 1_000_000_000).unwrap_or(0);
    Timestamp { secs: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX), nanos }
}

/// Who: what an event says of its process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Who {
    tgid: u32,
    ppid: u32,
    sid: u32,
    uid: u32,
    start_ns: u64,
    exe: Bytes,
    comm: Bytes,
}

impl Who {
    fn of(event: &Event) -> Option<Self> {
        let Event { tgid, ppid, sid, uid, start_ns, exe, comm, .. } = event;
        let (tgid, ppid, sid, uid, start_ns) = (*tgid, *ppid, *sid, *uid, *start_ns);
        (tgid != 0).then(|| Self { tgid, ppid, sid, uid, start_ns, exe: exe.clone(), comm: comm.clone() })
    }
}

/// Makes the bytes of one segment.
#[derive(Debug, Default)]
pub struct Encoder {
    known: HashMap<Who, u64>,
    payload: Vec<u8>,
}

impl Encoder {
    /// Whether it names as many processes as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.known.len() >= PROCESSES_MAX
    }

    /// Appends `event` to `out`.
    pub fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        let process = Who::of(event).map_or(0, |who| self.process(who, out));
        let payload = &mut self.payload;
        payload.clear();
        payload.push(EVENT);
        for number in [event.seq, nanoseconds(event.ts), process, event.tid.into()] {
            put_number(payload, number);
        }
        payload.push(event.kind.code());
        payload.push(how(event));
        put_args(payload, &event.args);
        frame(out, payload);
    }

    fn process(&mut self, who: Who, out: &mut Vec<u8>) -> u64 {
        if let Some(index) = self.known.get(&who) {
            return *index;
        }
        let index = self.known.len() as u64 + 1;
        let payload = &mut self.payload;
        payload.clear();
        payload.push(PROCESS);
        for number in [index, who.tgid.into(), who.ppid.into(), who.sid.into(), who.uid.into(), who.start_ns] {
            put_number(payload, number);
        }
        put_bytes(payload, who.exe.0.as_bytes());
        put_bytes(payload, who.comm.0.as_bytes());
        frame(out, payload);
        self.known.insert(who, index);
        index
    }
}

fn frame(out: &mut Vec<u8>, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&checksum(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

fn how(event: &Event) -> u8 {
    let src = match event.src {
        Src::Tracer => 0,
        Src::Seccomp => 1,
        Src::Procfs => 2,
        Src::Pidfd => 3,
    };
    let trust = match event.trust {
        Trust::Kernel => 0,
        Trust::Usermem => 1,
        Trust::Derived => 2,
    };
    let phase = match event.phase {
        Phase::Attempt => 0,
        Phase::Done => 1,
    };
    src | trust << 2 | phase << 4
}

fn put_args(out: &mut Vec<u8>, args: &Args) {
    let signed = |n: i32| u64::from(n.cast_unsigned());
    let numbers = [
        (1, args.flags),
        (2, args.mode.map(Into::into)),
        (3, args.uid.map(Into::into)),
        (4, args.gid.map(Into::into)),
        (5, args.port.map(Into::into)),
        (6, args.pid.map(signed)),
        (7, args.code.map(signed)),
        (8, args.signal.map(signed)),
        (9, args.count),
        (10, args.links.map(Into::into)),
        (11, args.level.map(|level| level.code().into())),
        (12, args.errno.map(signed)),
    ];
    for (tag, number) in numbers {
        if let Some(number) = number {
            put_number(out, tag << 2 | NUMBER);
            put_number(out, number);
        }
    }
    let text = |text: &Option<String>| text.as_ref().map(|t| Bytes(t.into()));
    let (family, streams) = (text(&args.family), text(&args.streams));
    let strings =
        [(32, &args.path), (33, &args.to), (35, &family), (36, &args.address), (37, &args.name), (38, &streams)];
    for (tag, bytes) in strings {
        if let Some(bytes) = bytes {
            put_number(out, tag << 2 | BYTES);
            put_bytes(out, bytes.0.as_bytes());
        }
    }
    let mut cut = args.cut;
    let mut left = ARGV_MAX_BYTES;
    for arg in &args.argv {
        let len = arg.0.len().min(left);
        cut |= len < arg.0.len();
        if left == 0 {
            cut = true;
            break;
        }
        put_number(out, 34 << 2 | BYTES);
        put_bytes(out, &arg.0.as_bytes()[..len]);
        // Empty ones take room too.
        left = left.saturating_sub(len + 4);
    }
    for (tag, is) in [(48, args.resolved), (49, args.foreign), (50, cut)] {
        if is {
            put_number(out, tag << 2 | TRUE);
        }
    }
}

/// Reads the records of one segment.
#[derive(Debug, Default)]
pub struct Decoder {
    processes: HashMap<u64, Who>,
}

/// One record taken from the front of some bytes.
#[derive(Debug)]
pub enum Taken {
    /// A record of this length in bytes, and what it says, if that is an event that this version knows.
    Record(usize, Option<Box<Event>>),
    /// There is no whole record: more may come, or the segment is torn here.
    Torn,
}

impl Decoder {
    /// Takes the record at the front of `bytes`. `vm` is whose log it is.
    pub fn take(&mut self, bytes: &[u8], vm: &str) -> Taken {
        let Some((payload, len)) = whole(bytes) else { return Taken::Torn };
        let mut rest = Rest(&payload[1..]);
        match payload[0] {
            PROCESS => {
                if let Some((index, who)) = rest.process()
                    && (self.processes.len() < PROCESSES_MAX || self.processes.contains_key(&index))
                {
                    self.processes.insert(index, who);
                }
                Taken::Record(len, None)
            }
            EVENT => Taken::Record(len, rest.event(&self.processes, vm).map(Box::new)),
            _ => Taken::Record(len, None),
        }
    }
}

/// The payload at the front, if it is whole and not empty, and the length of the record.
fn whole(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let len = usize::try_from(word(0)?).ok().filter(|len| (1..=PAYLOAD_MAX).contains(len))?;
    let payload = bytes.get(FRAME..FRAME + len)?;
    (word(4)? == checksum(payload)).then_some((payload, FRAME + len))
}

/// How far a segment is whole, and the highest number of an event in it. `None`: this version cannot go on in it.
#[must_use]
pub fn end_of(segment: &[u8]) -> Option<(usize, u64)> {
    let mut rest = segment.strip_prefix(&HEADER)?;
    let mut last = 0;
    while let Some((payload, len)) = whole(rest) {
        if payload[0] == EVENT {
            last = Rest(&payload[1..]).number().unwrap_or(0).max(last);
        }
        rest = &rest[len..];
    }
    Some((segment.len() - rest.len(), last))
}

/// What is left of a payload.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn process(&mut self) -> Option<(u64, Who)> {
        let index = self.number()?;
        let (tgid, ppid, sid, uid) = (self.small()?, self.small()?, self.small()?, self.small()?);
        let start_ns = self.number()?;
        let (exe, comm) = (owned(self.bytes()?), owned(self.bytes()?));
        Some((index, Who { tgid, ppid, sid, uid, start_ns, exe, comm }))
    }

    fn event(&mut self, processes: &HashMap<u64, Who>, vm: &str) -> Option<Event> {
        let (seq, ns, process, tid) = (self.number()?, self.number()?, self.number()?, self.small()?);
        let kind = Kind::from_code(self.byte()?)?;
        let how = self.byte()?;
        let src = [Src::Tracer, Src::Seccomp, Src::Procfs, Src::Pidfd][usize::from(how & 3)];
        let trust = *[Trust::Kernel, Trust::Usermem, Trust::Derived].get(usize::from(how >> 2 & 3))?;
        let phase = if how & 1 << 4 == 0 { Phase::Attempt } else { Phase::Done };
        let args = self.args()?;
        let nobody = || Who {
            tgid: 0,
            ppid: 0,
            sid: 0,
            uid: 0,
            start_ns: 0,
            exe: Bytes(OsString::new()),
            comm: Bytes(OsString::new()),
        };
        let who = if process == 0 { nobody() } else { processes.get(&process)?.clone() };
        let Who { tgid, ppid, sid, uid, start_ns, exe, comm } = who;
        let ts = timestamp(ns);
        let vm = vm.to_owned();
        Some(Event { ts, vm, seq, tgid, tid, ppid, sid, start_ns, uid, exe, comm, kind, args, src, trust, phase })
    }

    fn args(&mut self) -> Option<Args> {
        let mut args = Args::default();
        while !self.0.is_empty() {
            let tagged = self.number()?;
            match (tagged & 3, tagged >> 2) {
                (NUMBER, tag) => self.number().map(|number| set_number(&mut args, tag, number))?,
                (BYTES, tag) => self.bytes().map(|bytes| set_bytes(&mut args, tag, bytes))?,
                (TRUE, 48) => args.resolved = true,
                (TRUE, 49) => args.foreign = true,
                (TRUE, 50) => args.cut = true,
                (TRUE, _) => {}
                _ => return None,
            }
        }
        Some(args)
    }
}

fn owned(bytes: &[u8]) -> Bytes {
    Bytes(OsString::from_vec(bytes.to_vec()))
}

fn set_number(args: &mut Args, tag: u64, number: u64) {
    let small = u32::try_from(number).ok();
    let signed = small.map(u32::cast_signed);
    match tag {
        1 => args.flags = Some(number),
        2 => args.mode = small,
        3 => args.uid = small,
        4 => args.gid = small,
        5 => args.port = u16::try_from(number).ok(),
        6 => args.pid = signed,
        7 => args.code = signed,
        8 => args.signal = signed,
        9 => args.count = Some(number),
        10 => args.links = small,
        11 => args.level = Level::from_code(number),
        12 => args.errno = signed,
        _ => {}
    }
}

fn set_bytes(args: &mut Args, tag: u64, bytes: &[u8]) {
    let text = || Some(OsStr::from_bytes(bytes).to_string_lossy().into_owned());
    match tag {
        32 => args.path = Some(owned(bytes)),
        33 => args.to = Some(owned(bytes)),
        34 => args.argv.push(owned(bytes)),
        35 => args.family = text(),
        36 => args.address = Some(owned(bytes)),
        37 => args.name = Some(owned(bytes)),
        38 => args.streams = text(),
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An event with everything in it.
    pub fn event(seq: u64) -> Event {
        let bytes = |text: &[u8]| Some(owned(text));
        Event {
            ts: Timestamp { secs: 1_795_000_000, nanos: 123_456_789 },
            vm: "0123456789ab".into(),
            seq,
            tgid: 42,
            tid: 43,
            ppid: 7,
            sid: 5,
            start_ns: 987_654_321_000,
            uid: 1000,
            exe: Bytes("/usr/bin/sh".into()),
            comm: owned(b"s\xffh"),
            kind: Kind::Rename,
            args: Args {
                path: bytes(b"/a\nb\xff"),
                to: bytes(b"/c"),
                argv: vec![owned(b"sh"), owned(b""), owned(b"-c")],
                flags: Some(u64::MAX),
                mode: Some(0o4755),
                uid: Some(u32::MAX),
                gid: Some(0),
                family: Some("inet".into()),
                address: bytes(b"10.0.0.1"),
                port: Some(443),
                pid: Some(-1),
                code: Some(-3),
                signal: Some(9),
                name: bytes(b"user.x"),
                count: Some(3),
                streams: Some("sss".into()),
                links: Some(0),
                level: Some(Level::Full),
                errno: Some(1),
                resolved: true,
                foreign: true,
                cut: false,
            },
            src: Src::Pidfd,
            trust: Trust::Derived,
            phase: Phase::Done,
        }
    }

    fn read(mut bytes: &[u8]) -> Vec<Event> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        while let Taken::Record(len, event) = decoder.take(bytes, "0123456789ab") {
            events.extend(event.map(|e| *e));
            bytes = &bytes[len..];
        }
        events
    }

    #[test]
    fn what_is_written_is_read() {
        let log = Event { kind: Kind::Lost, tgid: 0, tid: 0, ppid: 0, sid: 0, start_ns: 0, uid: 0, ..event(2) };
        let log = Event { exe: Bytes(OsString::new()), comm: Bytes(OsString::new()), args: Args::default(), ..log };
        let other = Event { comm: Bytes("other".into()), seq: 3, ..event(3) };
        let events = [event(1), log, other, event(4)];
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        events.iter().for_each(|e| encoder.encode(e, &mut out));
        assert_eq!(read(&out), events);
        let segment: Vec<u8> = HEADER.into_iter().chain(out).collect();
        assert_eq!(end_of(&segment), Some((segment.len(), 4)));
    }

    #[test]
    fn each_level_has_the_number_that_it_always_had() {
        let start =
            |level| Event { kind: Kind::Start, args: Args { level: Some(level), ..Args::default() }, ..event(1) };
        for (level, number) in [(Level::Off, 0), (Level::Basic, 1), (Level::Full, 2), (Level::Programs, 3)] {
            let mut out = Vec::new();
            Encoder::default().encode(&start(level), &mut out);
            assert_eq!(out.last(), Some(&number), "{level}");
            assert_eq!(read(&out), [start(level)]);
        }
        let mut args = Args::default();
        set_number(&mut args, 11, 4);
        assert_eq!(args.level, None, "one of a later version");
        assert_eq!(Level::ALL.map(|level| level.name()), ["off", "programs", "basic", "full"]);
        assert!(Level::ALL.is_sorted() && Level::ALL.map(Level::sees_files) == [false, false, true, true]);
    }

    #[test]
    fn a_torn_end_costs_only_what_was_torn() {
        let (mut encoder, mut out) = (Encoder::default(), HEADER.to_vec());
        let mut ends = Vec::new();
        for seq in 1..=3 {
            encoder.encode(&event(seq), &mut out);
            ends.push(out.len());
        }
        for cut in 8..out.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(read(&out[8..cut]).len(), whole, "{cut}");
            let (end, last) = end_of(&out[..cut]).unwrap();
            assert!(end <= cut && last == whole as u64, "{cut}");
        }
        // A byte that is not what was written ends it, too.
        for at in 8..out.len() {
            let mut wrong = out.clone();
            wrong[at] ^= 0x40;
            assert!(read(&wrong[8..]).len() < 3, "{at}");
        }
        assert_eq!(end_of(b"fvmlog\0\x02"), None);
    }

    #[test]
    fn arguments_too_long_are_cut_and_said_to_be() {
        let argv = vec![owned(&[b'x'; 20 << 10]); 8];
        let long = Event { args: Args { argv, ..Args::default() }, ..event(1) };
        let many = Event { args: Args { argv: vec![owned(b""); 100_000], ..Args::default() }, ..event(2) };
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        encoder.encode(&long, &mut out);
        encoder.encode(&many, &mut out);
        let events = read(&out);
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(|e| e.args.cut && !e.args.argv.is_empty()));
    }
}
