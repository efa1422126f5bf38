//! One captured call after another: look, answer, write down.
//!
//! ```text
//!   receive ─► caller? ─► arguments ─► still waits? ─► answer ─► (open: settled before the next call)
//!                │ exec: argv      │ exit: children are noted, the image is looked at
//! ```
//!
//! Invariants: between a call's reception and its answer nothing is waited for; what was read counts only if the call still
//! waited afterwards; whoever makes a call that is refused by number is refused, whatever else fails.

use super::LinkRule;
use super::calls::{self, Call, Field, File, More, Refused, When};
use super::memory::{Address, Memory, address};
use super::place::{self, Mounts, Named};
use super::process::{Caller, Process, Processes, Renewed};
use super::secret;
use crate::store::Store;
use fvm_model::Timestamp;
use fvm_model::event::{Args, Event, Kind, Level, Phase, Src, Trust};
use fvm_model::path::Bytes;
use fvm_sys::seccomp::{self, Answer};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Longest socket address (`struct sockaddr_storage`).
const ADDRESS_MAX: usize = 128;

/// The tracer's work.
#[derive(Debug)]
pub struct Look {
    listener: OwnedFd,
    root: OwnedFd,
    mounts: Mounts,
    store: Option<Store>,
    processes: Processes,
    vm: String,
    level: Level,
    calls: HashMap<u32, &'static Call>,
    refused: HashMap<u32, Refused>,
    links: Option<LinkRule>,
    /// Somebody has another root, or other mounts: paths alone say nothing.
    moved: bool,
    /// The last call, let go, not written down yet.
    open: Option<Open>,
}

/// A call that was let go.
#[derive(Debug)]
struct Open {
    event: Event,
    file: Option<Named>,
    to: Option<Named>,
    is_text: bool,
}

/// What one call gave.
struct Seen {
    args: Args,
    trust: Trust,
    file: Option<Named>,
    to: Option<Named>,
}

impl Look {
    /// Nothing seen yet.
    pub fn new(
        (listener, root, mounts): (OwnedFd, OwnedFd, Mounts),
        store: Option<Store>,
        processes: Processes,
        vm: String,
        level: Level,
        refused: Vec<Refused>,
        links: Option<LinkRule>,
    ) -> Self {
        let calls = calls::all().map(|call| (call.number, call)).collect();
        let refused = refused.into_iter().map(|call| (call.number, call)).collect();
        Self { listener, root, mounts, store, processes, vm, level, calls, refused, links, moved: false, open: None }
    }

    /// Where calls wait.
    pub fn listener(&self) -> &OwnedFd {
        &self.listener
    }

    /// The VM's mounts; they have changed when this has something urgent to say.
    pub fn mounts(&self) -> &OwnedFd {
        self.mounts.table()
    }

    /// They have changed.
    pub fn look_at_mounts(&mut self) {
        self.mounts.look();
    }

    /// The log ends well.
    pub fn end(&mut self) {
        self.settle_all();
        self.sweep();
        if let Some(store) = &mut self.store {
            store.push_own(now(), Kind::End, Args::default());
            store.flush();
        }
    }

    /// Whether something is to be written soon.
    pub fn is_dirty(&self) -> bool {
        self.open.is_some() || self.store.as_ref().is_some_and(Store::is_dirty) || self.processes.has_stale()
    }

    /// Whether there are processes that may end.
    pub fn knows_any(&self) -> bool {
        self.processes.count() > 0
    }

    /// Takes and answers one call.
    pub fn one(&mut self) {
        self.settle();
        // Its process died meanwhile.
        let Ok(call) = seccomp::next(&self.listener) else { return };
        let Ok(tid) = i32::try_from(call.pid) else { return self.answer(call.id, Answer::GoOn) };
        if let Some(refused) = self.refused.get(&call.number).copied() {
            return self.refuse(call.id, tid, &refused);
        }
        let Some(what) = self.calls.get(&call.number).copied() else { return self.answer(call.id, Answer::GoOn) };
        if matches!(what.kind, Kind::Link) && self.fails_link(call.id, tid) {
            return;
        }
        // It waited for another's sake.
        if what.when(self.level) == When::Never {
            return self.answer(call.id, Answer::GoOn);
        }
        if !self.moved && opens_no_secret(what, &call.arguments, tid) {
            return self.answer(call.id, Answer::GoOn);
        }
        let Caller::Known { pid, tid: inside } = self.processes.caller(tid) else {
            return self.answer(call.id, Answer::GoOn);
        };
        let ts = now();
        self.tell_dropped();
        // While it waits it is what it was when it made the call; afterwards it may be another program.
        self.renew(pid, ts);
        self.processes.goes_on(pid, inside);
        match what.more {
            // What it is now is seen for the last time.
            More::Exit { thread } => return self.exit(call.id, what, (pid, inside), call.arguments[0], thread, ts),
            More::Sibling if call.arguments[0] & calls::SIBLING != 0 => self.processes.makes_sibling(pid),
            _ => {}
        }
        let Some(process) = self.processes.get(pid) else { return self.answer(call.id, Answer::GoOn) };
        let seen = see(what, &call.arguments, tid, process);
        let waits = seccomp::still_waits(&self.listener, call.id);
        self.answer(call.id, Answer::GoOn);
        // Its process died: another may have been looked at.
        if !waits {
            return;
        }
        let is_ours = self.processes.get(pid).is_some_and(|process| process.ours);
        let moves = matches!(what.more, More::Argv(_) | More::Moves);
        let is_own = seen.args.pid.is_some_and(|to| i64::from(to) == i64::from(self.number(pid)));
        if is_ours || (what.more == More::ToOthers && is_own) {
            if moves {
                self.moves(pid, inside, what);
            }
            return;
        }
        self.moved |= matches!(what.kind, Kind::Chroot | Kind::Setns | Kind::Unshare);
        let Seen { mut args, trust, file, to } = seen;
        let is_foreign = self.processes.get(pid).is_some_and(|process| process.foreign);
        args.foreign = is_foreign && (file.is_some() || to.is_some());
        let mut kind = what.kind;
        if kind == Kind::Open && args.flags.is_some_and(|flags| !calls::writes(flags)) {
            kind = Kind::Read;
            let of_no_use = args.flags.is_some_and(calls::gives_no_content);
            if of_no_use || file.as_ref().is_none_or(|file| !secret::may_be(file.text())) {
                return;
            }
        }
        // Below the full level only who controls whom counts.
        let is_detail = kind == Kind::Ptrace && !args.flags.is_some_and(calls::takes_over);
        if is_detail && self.level < Level::Full {
            return;
        }
        let event = self.event(pid, inside, ts, kind, args, (Src::Seccomp, trust, Phase::Attempt));
        let is_text = what.kind == Kind::Symlink;
        self.open = event.map(|event| Open { event, file, to, is_text });
        if moves {
            self.settle();
            self.moves(pid, inside, what);
        }
    }

    /// What is known of the process may not be so any more.
    fn moves(&mut self, pid: i32, tid: u32, what: &Call) {
        match what.more {
            More::Argv(_) => self.processes.asks(pid, tid),
            _ => {
                // Its threads may have different mounts and roots from here on.
                let splits = matches!(what.kind, Kind::Chroot | Kind::Setns | Kind::Unshare);
                if splits && !self.processes.is_alone(pid) {
                    self.processes.scatter(pid);
                }
                self.processes.mark_stale(pid);
            }
        }
    }

    /// Where more live at once than can be known, who made whom is lost.
    fn tell_dropped(&mut self) {
        let dropped = self.processes.take_dropped();
        if let (1.., Some(store)) = (dropped, &mut self.store) {
            store.lose(dropped);
        }
    }

    fn answer(&self, id: u64, answer: Answer) {
        // Whoever died needs none.
        let _died = seccomp::answer(&self.listener, id, answer);
    }

    fn refuse(&mut self, id: u64, tid: i32, refused: &Refused) {
        let caller = self.processes.caller(tid);
        self.answer(id, Answer::Fail(refused.errno));
        if let Caller::Known { pid, tid: inside } = caller {
            let name = Some(Bytes(refused.name.into()));
            let args = Args { name, errno: Some(refused.errno.raw_os_error()), ..Args::default() };
            let how = (Src::Seccomp, Trust::Kernel, Phase::Attempt);
            self.renew(pid, now());
            if let Some(event) = self.event(pid, inside, now(), Kind::Refused, args, how) {
                self.push(event);
            }
        }
    }

    /// Whether a link was refused for the good of its program.
    fn fails_link(&self, id: u64, tid: i32) -> bool {
        let comm = || super::proc::read(&format!("/proc/{tid}/comm"), 64).unwrap_or_default();
        let errno = self.links.and_then(|links| links(comm().trim_ascii_end()));
        if let Some(errno) = errno {
            self.answer(id, Answer::Fail(errno));
        }
        errno.is_some()
    }

    fn exit(&mut self, id: u64, what: &Call, (pid, inside): (i32, u32), code: u64, thread: bool, ts: Timestamp) {
        self.processes.note_children(pid);
        self.renew(pid, ts);
        let ends = !thread || self.processes.is_alone(pid);
        let waits = seccomp::still_waits(&self.listener, id);
        let ours = self.processes.get(pid).is_none_or(|process| process.ours);
        #[allow(clippy::cast_possible_truncation, reason = "the kernel keeps a byte of it")]
        let args = Args { code: Some((code & 0xff) as i32), ..Args::default() };
        let how = (Src::Seccomp, Trust::Kernel, Phase::Attempt);
        let event = self.event(pid, inside, ts, what.kind, args, how).filter(|_| ends && waits && !ours);
        self.answer(id, Answer::GoOn);
        self.write_noted(ts);
        if let Some(event) = event {
            self.push(event);
        }
        if ends && waits {
            // Of its other threads nothing more is heard, or they are looked up anew.
            let _ended = self.processes.forget(pid);
        }
    }

    /// Writes down the call that was let go.
    fn settle(&mut self) {
        let Some(Open { mut event, file, to, is_text }) = self.open.take() else { return };
        self.write_noted(event.ts);
        let root = (!event.args.foreign).then_some(&self.root);
        let cached = self.mounts.may_wait();
        let (mut named, mut resolved) = (false, true);
        let mut take = |path: place::Path, is_file: bool| {
            event.args.cut |= path.cut;
            if is_file {
                named = true;
                resolved &= path.resolved;
            }
            path.bytes
        };
        event.args.path = file.map(|file| take(file.find(root, cached), true)).or(event.args.path.take());
        event.args.to =
            to.map(|to| if is_text { take(to.into_text(), false) } else { take(to.find(root, cached), true) });
        event.args.resolved = named && resolved;
        if event.kind == Kind::Read
            && !event.args.path.as_ref().is_some_and(|path| secret::is_secret(path.0.as_bytes()))
        {
            return;
        }
        self.push(event);
    }

    /// The same, and all that is not known yet of processes that executed something.
    pub fn settle_all(&mut self) {
        self.settle();
        for pid in self.processes.stale() {
            self.renew(pid, now());
        }
        if let Some(store) = &mut self.store {
            store.flush();
        }
    }

    /// Looks again at a process that may be another program.
    fn renew(&mut self, pid: i32, ts: Timestamp) {
        let Renewed::Executed(links) = self.processes.renew(pid) else { return };
        let Some(process) = self.processes.get(pid) else { return };
        let streams = (self.level == Level::Full).then(|| streams(pid));
        let args = Args {
            path: Some(process.exe.clone()),
            links,
            streams,
            resolved: !process.foreign,
            foreign: process.foreign,
            ..Args::default()
        };
        let how = (Src::Procfs, Trust::Kernel, Phase::Done);
        let tid = process.key.tgid;
        if let Some(event) = self.event(pid, tid, ts, Kind::Exec, args, how) {
            self.push(event);
        }
    }

    /// Writes down processes that were met on the way.
    fn write_noted(&mut self, ts: Timestamp) {
        for pid in self.processes.take_noted() {
            let tid = self.number(pid);
            let how = (Src::Procfs, Trust::Kernel, Phase::Done);
            let ours = self.processes.get(pid).is_none_or(|process| process.ours);
            if let Some(event) = self.event(pid, tid, ts, Kind::Fork, Args::default(), how).filter(|_| !ours) {
                self.push(event);
            }
        }
    }

    /// Finds the processes that were killed.
    pub fn sweep(&mut self) {
        for (_, process) in self.processes.take_ended() {
            if process.ours {
                continue;
            }
            let how = (Src::Pidfd, Trust::Kernel, Phase::Done);
            let event = of(&process, &self.vm, process.key.tgid, now(), Kind::Exit, Args::default(), how);
            self.push(event);
        }
    }

    fn number(&self, pid: i32) -> u32 {
        self.processes.get(pid).map_or(0, |process| process.key.tgid)
    }

    fn event(&self, pid: i32, tid: u32, ts: Timestamp, kind: Kind, args: Args, how: How) -> Option<Event> {
        self.processes.get(pid).map(|process| of(process, &self.vm, tid, ts, kind, args, how))
    }

    fn push(&mut self, event: Event) {
        if let Some(store) = &mut self.store {
            store.push(event);
        }
    }
}

type How = (Src, Trust, Phase);

fn of(process: &Process, vm: &str, tid: u32, ts: Timestamp, kind: Kind, args: Args, (src, trust, phase): How) -> Event {
    Event {
        ts,
        vm: vm.to_owned(),
        seq: 0,
        tgid: process.key.tgid,
        tid,
        ppid: process.ppid,
        sid: process.sid,
        start_ns: process.key.start_ns,
        uid: process.uid,
        exe: process.exe.clone(),
        comm: process.comm.clone(),
        kind,
        args,
        src,
        trust,
        phase,
    }
}

/// Whether a call opens for reading what nobody is to hear of, as its absolute path says: most of what programs do. Who it was
/// is not looked up.
fn opens_no_secret(what: &Call, arguments: &[u64; 6], tid: i32) -> bool {
    let (File::Path(index, _) | File::At(_, index, _)) = what.file else { return false };
    if what.open_flags(arguments).is_none_or(calls::writes) {
        return false;
    }
    let text = Memory::of(tid).path(arguments[usize::from(index)]);
    // What leads through links of the process's own is looked up while it waits.
    let is_own = [&b"/proc/"[..], b"/dev/"].iter().any(|place| text.bytes.starts_with(place));
    !text.cut && !is_own && text.bytes.starts_with(b"/") && !secret::may_be(&text.bytes)
}

/// Reads the arguments of a call that waits.
fn see(what: &Call, arguments: &[u64; 6], tid: i32, process: &Process) -> Seen {
    let mut memory = Memory::of(tid);
    let mut args = Args::default();
    let argument = |index: u8| arguments[usize::from(index)];
    for (field, index) in what.fields {
        let value = argument(*index);
        #[allow(clippy::cast_possible_truncation, reason = "the kernel takes an int")]
        let low = value as u32;
        match field {
            Field::Flags => args.flags = Some(value),
            Field::Mode => args.mode = Some(low),
            Field::Uid => args.uid = Some(low),
            Field::Gid => args.gid = Some(low),
            Field::Pid => args.pid = Some(low.cast_signed()),
            Field::Signal => args.signal = Some(low.cast_signed()),
        }
    }
    let file = place::read(what.file, arguments, tid, process, &memory);
    let to = place::read(what.to, arguments, tid, process, &memory);
    let mut from_memory = file.is_some() || to.is_some();
    match what.more {
        More::Argv(index) => {
            let (argv, cut) = memory.argv(argument(index));
            (args.argv, args.cut) = (argv, cut);
            let (loaded, more) =
                memory.variables(argument(index + 1), &[b"LD_PRELOAD=", b"LD_AUDIT=", b"LD_LIBRARY_PATH="]);
            args.cut |= more;
            args.name = (!loaded.is_empty()).then(|| Bytes(OsString::from_vec(loaded)));
            from_memory = true;
        }
        More::Name(index) => {
            let name = memory.name(argument(index));
            (args.name, args.cut) = (Some(Bytes(OsString::from_vec(name.bytes))), name.cut);
            from_memory = true;
        }
        More::Address(at, len) => {
            let len = usize::try_from(argument(len)).unwrap_or(ADDRESS_MAX).min(ADDRESS_MAX);
            let bytes = memory.bytes(argument(at), len);
            args.cut = bytes.len() < len;
            if let Some(Address { family, address, port }) = address(&bytes) {
                args.family = Some(family);
                args.address = address.map(|text| Bytes(OsString::from_vec(text)));
                args.port = port;
            }
            from_memory = true;
        }
        More::OpenHow(index) => {
            let how = memory.bytes(argument(index), 16);
            let word = |at: usize| Some(u64::from_le_bytes(how.get(at..at + 8)?.try_into().ok()?));
            args.flags = word(0);
            args.mode = word(8).and_then(|mode| u32::try_from(mode).ok());
            args.cut = args.flags.is_none();
        }
        More::CallName => args.name = Some(Bytes(what.name.into())),
        More::Nothing | More::Exit { .. } | More::Moves | More::ToOthers | More::Sibling => {}
    }
    let trust = if from_memory { Trust::Usermem } else { Trust::Kernel };
    Seen { args, trust, file, to }
}

/// What descriptors 0, 1, 2 are.
fn streams(pid: i32) -> String {
    let kind = |fd: i32| match super::proc::link(pid, &format!("fd/{fd}")).as_deref() {
        None => '-',
        Some(link) if link.starts_with(b"socket:") => socket(pid, fd),
        Some(link) if link.starts_with(b"pipe:") => 'p',
        Some(link) if link.starts_with(b"/dev/pts/") || link.starts_with(b"/dev/tty") => 't',
        Some(link) if link.starts_with(b"/") => 'f',
        Some(_) => 'o',
    };
    (0..3).map(kind).collect()
}

/// Whether a socket is of the network.
fn socket(pid: i32, fd: i32) -> char {
    let mut protocol = [0u8; 32];
    // The kernel names the protocol of every socket so.
    let path = format!("/proc/{pid}/fd/{fd}");
    match rustix::fs::getxattr(path, "system.sockprotoname", &mut protocol) {
        Ok(len) if protocol[..len].starts_with(b"UNIX") => 's',
        Ok(_) => 'n',
        Err(_) => 's',
    }
}

pub(super) fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}
