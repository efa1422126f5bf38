//! Pools: VMs that are forked ahead and wait, parked, for a program.
//!
//! ```text
//!   <home>/pools/<name>/pool.json   what it is to be
//!   <home>/pools/<name>/lock        held by its keeper, who listens at
//!   <home>/pools/<name>/socket
//!   <home>/vms/<id>/                a VM that waits: its record says in which pool
//!
//!   client ── Ask::Take(program) + session, streams ──► keeper ── Order::Start ──► init of the oldest that is ready
//!      │                                                 │ └─ or the session to its post, and the program to the process that waits for it there
//!      │◄───────── Answer::Taken(id, name) ──────────────┤
//!      │ ... attach to the session ...                    │ meanwhile it is a VM like any other: exec, ps, stop
//!      ├── Ask::Finish ──────────────────────────────────►│ ends it; Answer::Finished + the VM's lock: the client's now
//!      └── hangs up ──────────────────────────────────────┴ ends it, and throws it away unless it is to be kept
//! ```
//!
//! A process that waited began when the pool was filled, and says so to who asks when it began (`ps -o lstart`).
//!
//! Invariants: a VM that waits is nobody's: when the keeper dies, however, its VMs die with it, and the next command
//! sweeps them; a VM is given to one client at a time; a VM that was given keeps no trace of its pool.

mod child;
mod copies;
mod keeper;
mod member;
mod names;
mod refill;

pub use child::{PoolChild, spawn};
pub use keeper::{Make, detach};

use crate::attach::{self, Ended, Streams};
use crate::error::VmError;
use crate::home::{Home, VmLock};
use crate::lifecycle::{self, Call};
use crate::proto::{self, Program};
use fvm_model::pool::{PoolRecord, PoolStatus};
use fvm_model::{VmId, VmName, VmRecord};
use fvm_sys::first::Left;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What is asked of a pool's keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// A VM for a program; descriptors as in [`crate::proto::Order::Start`].
    Take(Box<Wanted>),
    /// To the connection of a `Take`: its program has ended. The VM is the client's, stopped.
    Finish,
    /// The same: the client has no more use for it, and, if so, nothing but init runs in it.
    Done { nobody_left: bool },
    /// How is it?
    Status,
    /// Be this from now on.
    Become(Box<PoolRecord>),
    /// Throw away what waits, give out no more, and end with the last one that is used.
    Drain,
}

/// A program that wants a VM.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// With the whole environment of its caller.
    pub program: Program,
    /// What the VM is to be called; it keeps what it has otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<VmName>,
    /// It stays when the client goes.
    #[serde(default, skip_serializing_if = "proto::is_default")]
    pub keep: bool,
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Taken {
        id: VmId,
        name: VmName,
    },
    /// With the VM's lock.
    Finished,
    Status(Box<PoolStatus>),
    Done,
    Refused(String),
}

/// A VM out of a pool, with a program of the caller's. Ended when dropped.
#[derive(Debug)]
pub struct Taken {
    home: Home,
    keeper: OwnedFd,
    /// Identity.
    pub id: VmId,
    /// Name.
    pub name: VmName,
}

impl Taken {
    fn hear(home: &Home, pool: &VmName, keeper: OwnedFd) -> Result<Self, VmError> {
        match hear(&keeper, pool)? {
            Answer::Taken { id, name } => Ok(Self { home: home.clone(), keeper, id, name }),
            _ => Err(VmError::Pool { name: pool.clone(), why: "it answered something else".into() }),
        }
    }

    /// The caller needs the VM no more. `nobody_left`: nothing but its init runs in it, so that the pool may give it out again.
    pub fn done(self, nobody_left: bool) {
        // That the client is gone says the rest. A keeper that is gone has taken the VM along.
        if nobody_left {
            let _gone = proto::write_message(&self.keeper, &Ask::Done { nobody_left }, &[]);
        }
    }

    /// Ends the VM: nothing of it runs any more. It is the caller's from now on, to be looked at, committed or deleted.
    ///
    /// # Errors
    /// [`VmError::Keeper`] when the pool's keeper died meanwhile.
    pub fn finish(self) -> Result<(VmRecord, VmLock), VmError> {
        let broken = |why: &dyn std::fmt::Display| VmError::Keeper { name: self.name.clone(), why: why.to_string() };
        proto::write_message(&self.keeper, &Ask::Finish, &[]).map_err(|e| broken(&e))?;
        match proto::read_message::<Answer>(&self.keeper) {
            Ok(Some((Answer::Finished, mut fds))) if !fds.is_empty() => {
                let record = self.home.load(&self.id)?;
                Ok((record, VmLock::of(fds.swap_remove(0))))
            }
            Ok(Some((Answer::Refused(why), _))) => Err(VmError::Refused { name: self.name.clone(), why }),
            Ok(_) => Err(broken(&"it hung up")),
            Err(e) => Err(broken(&e)),
        }
    }
}

/// Has a VM of the pool run the program of `call` on this process's own streams, and waits for the program's end.
///
/// # Errors
/// [`VmError::NoPool`] when it has no keeper; when it cannot make a VM.
pub fn run(
    home: &Home,
    pool: &VmName,
    call: &Call,
    name: Option<&VmName>,
    keep: bool,
) -> Result<(Ended, bool, Taken), VmError> {
    let keeper = connect(home, pool)?;
    let signals = attach::Held::take()?;
    let mut taken = None;
    let attached = lifecycle::on_own_streams(call, &signals, |program, fds| {
        taken = Some(take(home, pool, keeper, Wanted { program, name: name.cloned(), keep }, fds)?);
        Ok(())
    })?;
    let taken = taken.ok_or_else(|| VmError::Internal("a program that nobody started".into()))?;
    drop(signals);
    Ok((attached.ended, attached.nobody_left, taken))
}

/// The same of a program that was asked for before libc had started, by what the command `fvm-ahead` wrote: what of a call it asks is
/// said there.
///
/// # Errors
/// As [`run`].
pub fn resume(
    home: &Home,
    pool: &VmName,
    Left { asked, session, mask }: Left,
) -> Result<(Ended, bool, Taken), VmError> {
    let signals = attach::Held::since(mask)?;
    let taken = Taken::hear(home, pool, asked)?;
    // None of them is a terminal.
    let streams = Streams { is_terminal: [false; 3], terminal: None };
    let attached = attach::attach(&session, &signals, streams, None, None);
    let attached = attached.map_err(|e| VmError::Sys("wait for the program", e))?;
    Ok((attached.ended, attached.nobody_left, taken))
}

fn take(home: &Home, pool: &VmName, keeper: OwnedFd, wanted: Wanted, fds: &[BorrowedFd<'_>]) -> Result<Taken, VmError> {
    tell(&keeper, pool, &Ask::Take(Box::new(wanted)), fds)?;
    Taken::hear(home, pool, keeper)
}

fn talk(keeper: &OwnedFd, pool: &VmName, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<Answer, VmError> {
    tell(keeper, pool, ask, fds)?;
    hear(keeper, pool)
}

fn tell(keeper: &OwnedFd, pool: &VmName, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<(), VmError> {
    proto::write_message(keeper.as_fd(), ask, fds).or_else(|e| amiss(pool, e))
}

fn hear(keeper: &OwnedFd, pool: &VmName) -> Result<Answer, VmError> {
    let broken = |why: String| VmError::Pool { name: pool.clone(), why };
    match proto::await_answer(keeper).and_then(|()| proto::read_message_alone::<Answer>(keeper, || Ok(()))) {
        Ok(Some((Answer::Refused(why), _))) => Err(broken(why)),
        Ok(Some((answer, _))) => Ok(answer),
        Ok(None) => Err(broken("its keeper hung up".into())),
        Err(e) => amiss(pool, e),
    }
}

fn amiss<T>(pool: &VmName, e: Errno) -> Result<T, VmError> {
    match e {
        // It ended before it read what was asked.
        Errno::CONNRESET | Errno::PIPE => Err(VmError::NoPool(pool.clone())),
        e => Err(VmError::Pool { name: pool.clone(), why: e.to_string() }),
    }
}

fn connect(home: &Home, pool: &VmName) -> Result<OwnedFd, VmError> {
    match crate::keeper::dial(&home.pool_dir(pool), SOCKET) {
        Ok(socket) => Ok(socket),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Err(VmError::NoPool(pool.clone())),
        Err(e) => Err(VmError::Pool { name: pool.clone(), why: e.to_string() }),
    }
}

/// Where a pool's keeper listens, in the pool's directory: several state directories may share one for sockets.
pub(crate) const SOCKET: &str = "socket";

/// How a pool is; one without a keeper as such.
///
/// # Errors
/// When its keeper does not answer.
pub fn status(home: &Home, record: &PoolRecord) -> Result<PoolStatus, VmError> {
    match connect(home, &record.name).and_then(|keeper| talk(&keeper, &record.name, &Ask::Status, &[])) {
        Ok(Answer::Status(status)) => Ok(*status),
        Ok(_) => Err(VmError::Pool { name: record.name.clone(), why: "it answered something else".into() }),
        Err(VmError::NoPool(_)) => Ok(PoolStatus {
            name: record.name.clone(),
            size: record.size,
            ready: 0,
            making: 0,
            used: 0,
            made: 0,
            given: 0,
            renewed: 0,
            keeper: None,
            draining: false,
            trouble: None,
        }),
        Err(e) => Err(e),
    }
}

/// Makes a pool something else, at once if it has a keeper.
///
/// # Errors
/// When it cannot be written.
pub fn change(home: &Home, record: &PoolRecord) -> Result<(), VmError> {
    let become_this = Ask::Become(Box::new(record.clone()));
    match connect(home, &record.name).and_then(|keeper| talk(&keeper, &record.name, &become_this, &[])) {
        Err(VmError::NoPool(_)) => home.save_pool(record),
        done => done.map(drop),
    }
}

/// Ends a pool's keeper: what waits is thrown away, what is used goes on until its end. Returns at once.
///
/// # Errors
/// When the keeper does not answer. One that has none is drained.
pub fn drain(home: &Home, pool: &VmName) -> Result<(), VmError> {
    match connect(home, pool).and_then(|keeper| talk(&keeper, pool, &Ask::Drain, &[])) {
        Err(VmError::NoPool(_)) => Ok(()),
        done => done.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Call;
    use fvm_sys::first::{Buffer, Stream};
    use std::ffi::OsString;

    fn message(argv: &'static [&str], env: &'static [&str], cwd: &str, streams: [Stream; 3]) -> Option<Vec<u8>> {
        let (to, path) = (Box::new(fvm_ahead::Message::new()), Box::new(Buffer::<4096>::new()));
        path.extend(cwd.as_bytes())?;
        let words = |words: &'static [&str]| words.iter().map(|word| word.as_bytes());
        fvm_ahead::write(&to, words(argv), words(env), &path, streams, 0o27)?;
        Some(to.to_vec())
    }

    #[test]
    fn what_is_asked_before_libc_has_started_is_what_would_be_asked_afterwards() {
        let env: &[&str] = &["A=b=c", "QUOTED=\"a\\b\"\t\n", "EMPTY=", "=C:=odd", "NONE", "", "PATH=/bin:/usr/bin"];
        let pairs =
            [("A", "b=c"), ("QUOTED", "\"a\\b\"\t\n"), ("EMPTY", ""), ("=C:", "odd"), ("PATH", "/bin:/usr/bin")];
        let argv: &[&str] = &["sh", "-c", "echo \"$1\" ~", "", "a b"];
        for (streams, passed, null) in [
            ([Stream::Null, Stream::Through, Stream::Through], [false, true, true], [true, false, false]),
            ([Stream::Through, Stream::Null, Stream::Null], [true, false, false], [false, true, true]),
            ([Stream::Through; 3], [true; 3], [false; 3]),
        ] {
            let call = Call {
                argv: argv.iter().map(OsString::from).collect(),
                env: pairs.map(|(key, value)| (key.into(), value.into())).to_vec(),
                cwd: "/some \"where\"".into(),
                umask: 0o27,
                ..Call::default()
            };
            let mut program = call.undressed(&Streams { is_terminal: [false; 3], terminal: None });
            (program.passed, program.null) = (passed, null);
            let ask = Ask::Take(Box::new(Wanted { program, name: None, keep: false }));
            let text = serde_json::to_vec(&ask).unwrap();
            let expected = [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], &text].concat();
            let got = message(argv, env, "/some \"where\"", streams).expect("it is usual");
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
        }
        assert_eq!(fvm_ahead::FORWARDED.to_vec(), attach::forwarded());
    }

    #[test]
    fn what_is_said_and_heard_without_libc_is_what_is_said_with_it() {
        fn json(value: &impl Serialize) -> String {
            serde_json::to_string(value).unwrap()
        }
        let framed = |text: String| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
        assert_eq!(framed(json(&Ask::Done { nobody_left: true })), fvm_ahead::DONE);
        let taken = Answer::Taken { id: "0123456789ab".parse().unwrap(), name: "a".parse().unwrap() };
        assert!(json(&taken).as_bytes().starts_with(fvm_ahead::TAKEN));
        let last = |text: &str| {
            let packet = Buffer::<64>::new();
            packet.extend(text.as_bytes()).unwrap();
            fvm_ahead::last(&packet)
        };
        for code in [0, 1, 9, 10, 127, 255] {
            assert_eq!(last(&json(&proto::Status::Last(code))), u8::try_from(code).ok());
        }
        use proto::Status::{Exited, Last, NobodyLeft, Signaled};
        for other in [Last(256), Last(-1), Exited(1), Signaled(9), NobodyLeft] {
            assert_eq!(last(&json(&other)), None, "{other:?}");
        }
        for other in ["{\"Last\":}", "{\"Last\":1", "}", "", "{\"Last\":1}}"] {
            assert_eq!(last(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_record_of_a_pool_says_in_one_way_that_its_vms_are_thrown_away() {
        let says = |kept| {
            let record = PoolRecord {
                format: fvm_model::vm::FORMAT,
                name: "p".parse().unwrap(),
                size: 1,
                policy: fvm_model::Policy::default(),
                template: None,
                kept,
                uses: 1,
                per_second: None,
                reserve_bytes: 0,
                reach: vec!["/a\n  \"kept\": false,".into()],
            };
            let text = crate::home::pool_text(&record).unwrap();
            assert!(text.starts_with(fvm_ahead::RECORD_BEGINS));
            assert_eq!(format!("{}\n", record.format).as_bytes(), fvm_ahead::FORMAT);
            text.windows(fvm_ahead::NOT_KEPT.len()).any(|part| part == fvm_ahead::NOT_KEPT)
        };
        assert!(says(false) && !says(true));
    }

    #[test]
    fn what_is_not_plain_or_too_long_is_not_asked_before_libc_has_started() {
        let through = [Stream::Through; 3];
        let long: &'static str = Box::leak("x".repeat(fvm_ahead::MESSAGE_MAX_BYTES).into_boxed_str());
        let long: &'static [&str] = Box::leak(Box::new([long]));
        assert!(message(&["true"], &[], "/", through).is_some());
        for (argv, env, cwd, streams) in [
            (&["\u{e4}"][..], &[][..], "/", through),
            (&["a\u{1}"], &[], "/", through),
            (&["a\u{7f}"], &[], "/", through),
            (&["true"], &["A=\u{e4}"], "/", through),
            (&["true"], &[], "/\r", through),
            (&["true"], &[], "/", [Stream::Through, Stream::Other, Stream::Null]),
            (long, &[], "/", through),
        ] {
            assert_eq!(message(argv, env, cwd, streams), None, "{cwd:?} {streams:?}");
        }
    }
}
