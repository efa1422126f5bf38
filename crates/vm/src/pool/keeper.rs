//! A pool's keeper: one process that holds all of its VMs, those that wait and those that have a program.
//!
//! ```text
//!            ┌──────────── one loop over one epoll ─────────────┐
//!   clients, visitors of VMs ─► clients         the host's mounts ─► what waits is made anew
//!                                                init ended ─► thrown away, or the client's
//!   refill (crate::pool::refill) ─► launch::begin, never waited for
//! ```
//!
//! Invariants: one thread (it forks); nothing of a VM is waited for: whoever asked for an end is answered when it has come;
//! it holds the pool's lock, and when it dies its VMs' inits die (`PR_SET_PDEATHSIG`).

mod ahead;
mod clients;

use self::ahead::Ahead;
use super::member::{Member, Over, Ready, Used, Visitor, What};
use super::refill::{self, Count, Next, Pace};
use super::{Answer, SOCKET, Wanted};
use crate::error::VmError;
use crate::home::{Home, VmLock};
use crate::keeper::{self, Control};
use crate::lifecycle::{self, Caller, Up};
use crate::proto::{self, Reply};
use crate::router::Guard;
use fvm_host::HostFacts;
use fvm_model::VmRecord;
use fvm_model::pool::PoolRecord;
use fvm_sys::clock::Clock;
use fvm_sys::process::{self, Fork};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Makes the next VM of a pool, with its record and lock, not started.
pub type Make<'a> = &'a mut dyn FnMut(&PoolRecord, &HostFacts) -> Result<(VmRecord, VmLock), VmError>;

/// Tokens that are no member's.
const LISTENER: u64 = 0;
const MOUNTS: u64 = 1;
const SIGNALS: u64 = 2;
/// Several mounts are made one after the other.
const SETTLE: Duration = Duration::from_millis(200);
/// A VM that has no name of its own is found and reached so long after it was given out, if it is still there: most programs have ended
/// by then, and none has to share a processor with it.
const SETTLED: Duration = Duration::from_millis(5);
/// So often it is seen that somebody removed the pool's files.
const STILL_THERE: Duration = Duration::from_secs(20);
/// So long somebody who has connected has to say something.
const SILENCE: Duration = Duration::from_secs(1);
/// From this number on are the descriptors of VMs that are there: what is forked to make another needs lower ones only, and
/// copies no more.
const HELD_FROM: i32 = 1024;
/// So much later than it is a file may be stamped: some file systems count in whole seconds.
const STAMP_SECS: i64 = 1;
/// How many events are taken at once.
const EVENTS: usize = 64;

/// Starts the keeper of `pool`, in a process of its own, and returns when it can be asked.
///
/// # Errors
/// [`VmError::Pool`] when it has one already, or cannot be kept.
pub fn detach(home: &Home, pool: &PoolRecord, make: Make<'_>) -> Result<(), VmError> {
    if !process::has_one_thread() {
        return Err(VmError::Threads("start a pool"));
    }
    let failed = |why: String| VmError::Pool { name: pool.name.clone(), why };
    let Some(lock) = home.try_lock_pool(&pool.name)? else { return Err(failed("it is running already".into())) };
    let facts = fvm_host::collect()?;
    let control = Control::named(&home.pool_dir(&pool.name), SOCKET.into())?;
    match process::fork().map_err(|e| VmError::Sys("start a pool's keeper", e))? {
        Fork::Parent(_) => {
            // The keeper's now. Held here too, its end would not be seen by those who wait for its answer.
            control.leave();
            Ok(())
        }
        Fork::Child => {
            let _leader = rustix::process::setsid();
            let _root = rustix::process::chdir("/");
            if let Ok(null) = fs::open("/dev/null", OFlags::RDWR, FileMode::empty()) {
                for target in 0..3 {
                    let _still_open = process::install_stdio(null.as_raw_fd(), target);
                }
            }
            // Who started it may hold what others wait for: ends of pipes, locks.
            let [listener, dir] = control.as_raw_fds();
            process::close_all_but(&[listener, dir, lock.as_fd().as_raw_fd()]);
            let ran =
                Keeper::new(home.clone(), pool.clone(), facts, control, lock, make).and_then(|mut keeper| keeper.run());
            process::exit_now(i32::from(ran.is_err()))
        }
    }
}

struct Keeper<'a> {
    home: Home,
    pool: PoolRecord,
    facts: HostFacts,
    make: Make<'a>,
    control: Control,
    epoll: OwnedFd,
    signals: OwnedFd,
    mounts: OwnedFd,
    members: HashMap<u64, Member>,
    ready: VecDeque<u64>,
    next: u64,
    /// Clients that wait for a VM, the first that came first.
    asked: VecDeque<(OwnedFd, Wanted, Vec<OwnedFd>)>,
    /// The VM that is given next, while somebody is taken in.
    looked: Option<clients::Looked>,
    /// Those who have not yet said anything; their numbers are no member's.
    visitors: HashMap<u64, Visitor>,
    /// Processes that have built VMs, or clean up, and end.
    helpers: Vec<Pid>,
    /// One of them empties the trash.
    cleaner: Option<Pid>,
    dirty: bool,
    pace: Pace,
    /// When to look at the host's mounts again.
    look: Option<Instant>,
    ahead: Ahead,
    /// When to look whether the pool is still there.
    exists: Instant,
    made: u64,
    given: u64,
    renewed: u64,
    draining: bool,
    trouble: Option<String>,
    /// The soft limit of open files that VMs get.
    files: Option<u64>,
    clock: Clock,
    _lock: VmLock,
}

fn sys(what: &'static str) -> impl FnOnce(Errno) -> VmError {
    move |e| VmError::Sys(what, e)
}

impl<'a> Keeper<'a> {
    fn new(
        home: Home,
        pool: PoolRecord,
        facts: HostFacts,
        control: Control,
        lock: VmLock,
        make: Make<'a>,
    ) -> Result<Self, VmError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(sys("wait for many things"))?;
        let signals = process::signal_fd(&[Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD].map(Signal::as_raw));
        let signals = signals.map_err(sys("take signals"))?;
        let mounts = fs::open("/proc/self/mounts", OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty());
        let mounts = mounts.map_err(sys("watch the host's mounts"))?;
        let watch = |fd: BorrowedFd<'_>, token, flags| epoll::add(&epoll, fd, EventData::new_u64(token), flags);
        watch(control.listener(), LISTENER, EventFlags::IN).map_err(sys("wait for clients"))?;
        watch(signals.as_fd(), SIGNALS, EventFlags::IN).map_err(sys("wait for signals"))?;
        // Level-triggered it would be said again and again: PRI stays until the file is read.
        watch(mounts.as_fd(), MOUNTS, EventFlags::PRI | EventFlags::ERR | EventFlags::ET)
            .map_err(sys("watch the host's mounts"))?;
        Ok(Self {
            home,
            pool,
            facts,
            make,
            control,
            epoll,
            signals,
            mounts,
            members: HashMap::new(),
            ready: VecDeque::new(),
            next: 0,
            asked: VecDeque::new(),
            looked: None,
            visitors: HashMap::new(),
            helpers: Vec::new(),
            cleaner: None,
            dirty: false,
            pace: Pace::default(),
            look: None,
            ahead: Ahead::default(),
            exists: Instant::now() + STILL_THERE,
            made: 0,
            given: 0,
            renewed: 0,
            draining: false,
            trouble: None,
            files: raise_files(),
            clock: Clock::new(),
            _lock: lock,
        })
    }

    fn run(&mut self) -> Result<(), VmError> {
        self.home.clear_waiting(&self.pool.name)?;
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            self.tidy();
            if self.draining && self.members.is_empty() {
                return self.home.empty_trash();
            }
            let due = self.refill().into_iter().chain(self.look_ahead()).min();
            let until = self.members.values().filter_map(|member| match member {
                Member::Used(used) => used.until.into_iter().chain(used.settles).min(),
                _ => None,
            });
            let silent = self.visitors.values().map(|visitor| visitor.until);
            let due =
                until.chain(silent).chain(due).chain(self.look).chain((!self.draining).then_some(self.exists)).min();
            let left = due.map(|due| keeper::timespec(due.saturating_duration_since(Instant::now())));
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(VmError::Sys("wait", e)),
            }
            for event in &events {
                self.handle(event.data.u64());
            }
            self.on_time();
        }
    }

    fn handle(&mut self, token: u64) {
        match (token, What::of_token(token)) {
            (LISTENER, _) => {
                if let Some(client) = accept(self.control.listener()) {
                    self.welcome(client);
                }
            }
            (MOUNTS, _) => {
                // Reading it is what takes the word back.
                let _again = rustix::fs::seek(&self.mounts, fs::SeekFrom::Start(0));
                let _read = rustix::io::read(&self.mounts, &mut [0u8; 64][..]);
                self.look = Some(Instant::now() + SETTLE);
            }
            (SIGNALS, _) => {
                while let Ok(Some(signal)) = process::next_signal(&self.signals) {
                    if signal != Signal::CHILD.as_raw() {
                        self.drain();
                    }
                }
            }
            (_, Some((n, What::Progress))) => self.progress(n),
            (_, Some((n, What::Init))) => self.ended(n),
            (_, Some((n, What::Control))) => self.control(n),
            (_, Some((n, What::Client))) => self.client(n),
            _ => {}
        }
    }

    fn watch(&self, fd: BorrowedFd<'_>, what: What, n: u64) {
        watch_on(&self.epoll, fd, what, n);
    }

    /// Before `fd` is closed: a child that was forked just now may have it too, and the kernel would go on to tell of it.
    fn forget(&self, fd: BorrowedFd<'_>) {
        let _not_watched = epoll::delete(&self.epoll, fd);
    }

    /// Begins to make a VM, if it is time. When to ask again.
    fn refill(&mut self) -> Option<Instant> {
        loop {
            if self.draining {
                return None;
            }
            let now = Instant::now();
            let making = self.members.values().filter(|member| matches!(member, Member::Making(..))).count();
            let back = self.members.values().filter(|member| match member {
                Member::Used(used) => used.ready.uses < self.pool.uses && !used.ending,
                _ => false,
            });
            let count = Count { ready: self.ready.len(), making, back: back.count(), asked: self.asked.len() };
            match self.pace.next(&self.pool, count, now) {
                Next::Never => return None,
                Next::At(at) => return Some(at),
                Next::Now => {}
            }
            let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
            if refill::available_bytes(&meminfo).is_some_and(|bytes| bytes < self.pool.reserve_bytes) {
                self.in_trouble("less memory is available than is to be left to others (--reserve)".into());
                self.pace.lacks_memory(now);
                continue;
            }
            match self.begin() {
                Ok(()) => self.pace.made(now),
                Err(e) => self.failed(&e),
            }
        }
    }

    fn begin(&mut self) -> Result<(), VmError> {
        let (record, lock) = (self.make)(&self.pool, &self.facts)?;
        let (reach, files) = (self.pool.reach.clone(), self.files);
        let caller = Caller { reach, host_bus: None, files, holds_many: true };
        let begun = match lifecycle::begin(&self.home, &self.facts, record.clone(), &caller, None) {
            Ok(begun) => begun,
            Err(e) => {
                self.throw_away(record, &lock);
                return Err(e);
            }
        };
        let n = self.next;
        self.next += 1;
        self.watch(begun.pending.progress(), What::Progress, n);
        self.members.insert(n, Member::Making(Box::new(begun), lock));
        Ok(())
    }

    fn failed(&mut self, error: &VmError) {
        self.pace.failed(Instant::now());
        self.in_trouble(error.to_string());
    }

    /// None can be made now: whoever waits for one would wait in vain.
    fn in_trouble(&mut self, why: String) {
        if self.ready.is_empty() {
            for (client, ..) in self.asked.drain(..) {
                let _left = proto::write_message(&client, &Answer::Refused(why.clone()), &[]);
            }
        }
        self.trouble = Some(why);
    }

    fn progress(&mut self, n: u64) {
        let Some(Member::Making(begun, _)) = self.members.get_mut(&n) else { return };
        let told = begun.pending.listen();
        if matches!(told, Ok(false)) {
            return;
        }
        let Some(Member::Making(begun, lock)) = self.members.remove(&n) else { return };
        self.forget(begun.pending.progress());
        let record = begun.record();
        match told.and_then(|_| begun.up()) {
            Ok(Up { mut vm, kept, .. }) => {
                let mut laid = lifecycle::timestamp(self.clock.now());
                laid.secs += STAMP_SECS;
                let mut lock = lock;
                lock.lift(HELD_FROM);
                vm.lift(HELD_FROM);
                self.helpers.extend(vm.take_makers().into_pids());
                self.watch(vm.pidfd.as_fd(), What::Init, n);
                self.members.insert(n, Member::Ready(Box::new(Ready::new(vm, kept, lock, laid))));
                self.ready.push_back(n);
                self.home.waits(&self.pool.name, &record.id);
                self.made += 1;
                self.trouble = None;
                self.pace.succeeded();
                self.satisfy();
                // It was made smaller meanwhile.
                self.shrink(self.pool.size.max(1) as usize);
            }
            Err(e) => {
                self.throw_away(record, &lock);
                self.failed(&e);
            }
        }
    }

    /// Ends a VM's init; the rest follows when it has ended.
    fn end(&mut self, n: u64) {
        let vm = match self.members.get_mut(&n) {
            Some(Member::Ready(ready)) => &ready.vm,
            Some(Member::Used(used)) => {
                used.ending = true;
                &used.ready.vm
            }
            _ => return,
        };
        let _ended = rustix::process::pidfd_send_signal(&vm.pidfd, Signal::KILL);
        vm.pause.lock().unwrap_or_else(std::sync::PoisonError::into_inner).let_go();
    }

    /// Init has ended.
    fn ended(&mut self, n: u64) {
        let Some(member) = self.members.remove(&n) else { return };
        let (ready, used) = match member {
            Member::Ready(ready) => {
                self.ready.retain(|other| *other != n);
                self.renewed += 1;
                (*ready, None)
            }
            Member::Used(used) => {
                used.control().into_iter().for_each(|control| self.forget(control));
                let Used { ready, client, heard, unheard, wanted, enders, settles, .. } = *used;
                if settles.is_some() {
                    // Its client may want it.
                    self.home.waits_no_more(&self.pool.name, &ready.kept.record().id);
                    let _as_it_was = ready.kept.save();
                }
                if unheard {
                    self.watch(client.as_fd(), What::Client, n);
                }
                (ready, Some((client, heard, wanted, enders)))
            }
            other @ (Member::Making(..) | Member::Over(_)) => return drop(self.members.insert(n, other)),
        };
        let Ready { mut vm, kept, lock, .. } = ready;
        self.forget(vm.pidfd.as_fd());
        let _collected = process::wait_nonblocking(vm.init.as_raw_nonzero().get(), false);
        let also = crate::disk::reached(&self.home, &kept.record());
        // This process outlives many VMs: it collects all that was theirs.
        self.helpers.extend(vm.guard.take().and_then(Guard::end));
        drop(vm);
        let record = kept.close(also);
        let mut enders = Vec::new();
        match (record, used) {
            // It never was anybody's.
            (Ok(record), None) => self.throw_away(record, &lock),
            (Ok(record), Some((client, heard, wanted, asked))) => {
                enders = asked;
                let over = Over { record, lock, client };
                match (heard, wanted) {
                    (false, _) => drop(self.members.insert(n, Member::Over(Box::new(over)))),
                    (true, true) => clients::give_back(&over),
                    (true, false) => self.leave(over),
                }
            }
            (Err(_), used) => {
                if let Some((client, _, _, asked)) = used {
                    self.forget(client.as_fd());
                    enders = asked;
                }
            }
        }
        for ender in enders {
            let _left = proto::write_message(&ender, &Reply::Done, &[]);
        }
    }

    fn throw_away(&mut self, mut record: VmRecord, lock: &VmLock) {
        self.home.waits_no_more(&self.pool.name, &record.id);
        // What stays is swept by the next command: nobody holds it.
        let _stays = lifecycle::delete(&self.home, &mut record, lock);
        self.dirty = true;
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        self.hang_up(|visitor| visitor.until <= now);
        if self.exists <= now {
            self.exists = now + STILL_THERE;
            if matches!(self.home.load_pool(&self.pool.name), Err(VmError::NoSuchPool(_))) {
                self.drain();
            }
        }
        let late: Vec<u64> = self
            .members
            .iter_mut()
            .filter_map(|(n, member)| match member {
                Member::Used(used) if used.until.is_some_and(|until| until <= now) => {
                    used.until = None;
                    Some(*n)
                }
                _ => None,
            })
            .collect();
        late.into_iter().for_each(|n| self.end(n));
        let unsettled = self.members.iter().filter(|(_, member)| match member {
            Member::Used(used) => used.settles.is_some_and(|settles| settles <= now),
            _ => false,
        });
        let unsettled: Vec<u64> = unsettled.map(|(n, _)| *n).collect();
        unsettled.into_iter().for_each(|n| self.settle(n));
        if self.look.is_some_and(|look| look <= now) {
            self.look = None;
            match fvm_host::collect() {
                Ok(facts) if facts.mounts == self.facts.mounts && facts.targets == self.facts.targets => {}
                Ok(facts) => {
                    self.facts = facts;
                    self.shrink(0);
                }
                Err(e) => self.trouble = Some(e.to_string()),
            }
        }
    }

    /// Throws away what waits, but for `keep` of them.
    fn shrink(&mut self, keep: usize) {
        let (ready, making): (Vec<u64>, Vec<u64>) = (
            self.ready.iter().skip(keep).copied().collect(),
            self.members.iter().filter(|(_, m)| matches!(m, Member::Making(..))).map(|(n, _)| *n).collect(),
        );
        self.ready.truncate(keep);
        ready.into_iter().for_each(|n| self.end(n));
        // What is being made was planned for what was.
        for n in making.into_iter().filter(|_| keep == 0) {
            if let Some(Member::Making(begun, lock)) = self.members.remove(&n) {
                let record = begun.record();
                drop(begun);
                self.throw_away(record, &lock);
            }
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        self.shrink(0);
        for (client, ..) in self.asked.drain(..) {
            let _left = proto::write_message(&client, &Answer::Refused("it is being drained".into()), &[]);
        }
    }

    /// Collects helpers that have ended, and has what was thrown away removed by one of them.
    fn tidy(&mut self) {
        let is_over = |pid: &Pid| !matches!(process::wait_nonblocking(pid.as_raw_nonzero().get(), false), Ok(None));
        self.helpers.retain(|pid| !is_over(pid));
        if self.cleaner.as_ref().is_some_and(is_over) {
            self.cleaner = None;
        }
        if self.dirty && self.cleaner.is_none() {
            self.dirty = false;
            match process::fork() {
                Ok(Fork::Parent(pid)) => self.cleaner = Some(pid),
                Ok(Fork::Child) => {
                    process::close_all_but(&[]);
                    process::exit_now(i32::from(self.home.empty_trash().is_err()))
                }
                // The next that is thrown away tries again.
                Err(_) => self.dirty = true,
            }
        }
    }
}

fn watch_on(epoll: &OwnedFd, fd: BorrowedFd<'_>, what: What, n: u64) {
    // Without memory for it, the VM is given to nobody, or its end is seen late.
    let _unseen = epoll::add(epoll, fd, EventData::new_u64(what.token(n)), EventFlags::IN);
}

/// Takes a client in, if there is one, and room for it.
fn accept(listener: BorrowedFd<'_>) -> Option<OwnedFd> {
    let accepted = accept_with(listener, SocketFlags::CLOEXEC);
    if matches!(accepted, Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) {
        // It goes on to be there: what ends meanwhile makes room.
        std::thread::sleep(Duration::from_millis(10));
    }
    accepted.ok()
}

/// Lets this process open as many files as it may: three for each VM, and two where a process waits. The soft limit that there was, if it was changed.
fn raise_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let before = limit.current?;
    let raised =
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    raised.is_ok().then_some(before)
}
