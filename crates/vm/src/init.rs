//! PID 1 of a VM: starts the programs it is asked to, reaps every process, ends with its keeper.
//!
//! ```text
//!   keeper ── orders ──► init ── spawn ─► program                   (no terminal: init watches it itself)
//!     └────── its program ────── wait ──► program                   (asked ahead: the keeper tells it what it is to become, and init, at a post, who asks)
//!                          ├──── fork ──► monitor ── fork ──► program   (terminal: crate::session)
//!                          └──── fork ──► manager of the services         (when first asked: crate::service)
//! ```
//!
//! Invariants: one thread, one loop; it holds no descriptor but its own and the VM's
//! overlays; it trusts its keeper and nobody in the VM;
//! when the orders end, so does it, and the kernel ends the VM's other processes with it.

use crate::bus::Bus;
use crate::early::{Ahead, Early};
use crate::limit::Limit;
use crate::links;
use crate::pause;
use crate::proto::{self, Order, Program, Status, Word};
use crate::refresh::Held;
use crate::service;
use crate::session::{self, Child};
use fvm_model::path::Bytes;
use fvm_sys::exec::Stub;
use fvm_sys::process::{self, Waited};
use fvm_sys::spawn::{NOT_EXECUTED, Started};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, fstat, makedev, open, stat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// A program that init watches.
struct Watched {
    pid: i32,
    session: OwnedFd,
    /// Where it says why it was not executed; `None`: it has a monitor that reports for it.
    report: Option<OwnedFd>,
    /// The client has hung up.
    alone: bool,
    /// Kept by the monitor where it has one.
    limit: Limit,
    /// Until it has ended.
    _memory: Option<Started>,
    /// The same, where it waited.
    _ways: Option<[OwnedFd; 2]>,
}

/// A process that waits for its program.
struct Waiting {
    child: Child,
    /// Where the keeper says who asks, before it tells the program. Nobody is woken by that: this process has nothing to do for a
    /// program that has just begun, and would only take the processor from it.
    post: OwnedFd,
    /// Where it is told: kept, so that the process need not wait for the end of a socket when it becomes its program.
    from: OwnedFd,
}

/// What programs are started with.
struct Tools {
    null: Option<OwnedFd>,
    stub: Option<Stub>,
}

/// What init serves.
pub struct Served<'a> {
    /// Where orders come from.
    pub orders: &'a OwnedFd,
    /// For [`Order::Refresh`].
    pub overlays: &'a Held,
    /// Hard links need care here ([`crate::links`]).
    pub links: bool,
}

/// Serves until the keeper goes or says stop. `ready`: called once, when the first program, if that was ordered already, is on its
/// way: whoever hears of it would only take a processor from it before; and what is done there is beside it. `null`: the VM's `/dev/null`,
/// where it was opened already.
pub fn serve(served: &Served<'_>, buses: Vec<Bus>, early: Early, null: Option<OwnedFd>, ready: impl FnOnce()) -> ! {
    let code = i32::from(run(served, buses, early, null, ready).is_err());
    process::exit_now(code)
}

fn run(
    served: &Served<'_>,
    mut buses: Vec<Bus>,
    early: Early,
    null: Option<OwnedFd>,
    ready: impl FnOnce(),
) -> Result<(), Errno> {
    let Served { orders, overlays, links } = *served;
    let Early { signals, stub, first, builder, ahead, .. } = early;
    let tools = Tools { null: null.or_else(open_nothing), stub };
    // Without it everything works but what it is for.
    let links = if links { links::watch().ok() } else { None };
    let mut watched: Vec<Watched> = Vec::new();
    let mut waiting: Option<Waiting> = None;
    let mut unbegun = None;
    match first {
        None => {}
        Some((Order::Start(program), fds)) => match ahead.map(|ahead| tell_ahead(ahead, &program, &fds, &tools)) {
            None => watched.extend(start(program, fds, &tools)),
            Some(None) => unbegun = Some((program, fds)),
            Some(Some(child)) => {
                let session = fds.into_iter().next().ok_or(Errno::BADMSG)?;
                watched.push(Watched::of(child, session, program.timeout));
            }
        },
        Some(_) => return Err(Errno::BADMSG),
    }
    drop(builder);
    ready();
    // The process that waited for it is gone, and this one has its filter only now.
    if let Some((program, fds)) = unbegun {
        watched.extend(start(program, fds, &tools));
    }
    let mut services = service::Door::default();
    let mut over = Vec::new();
    let mut stopped = std::collections::BTreeSet::new();
    let mut deadline: Option<Instant> = None;
    // While it is set, the VM's services are being stopped in order; everything else waits for them.
    let mut services_until: Option<Instant> = None;
    loop {
        let limits = watched.iter().filter_map(|w| w.limit.due());
        let until = [deadline, services_until].into_iter().flatten().chain(limits).min();
        let ready = wait_for_work(orders, &signals, links.as_ref(), &watched, &buses, until)?;
        let Ready { order: order_ready, signal: signal_ready, sessions: session_ready, .. } = ready;
        if let (true, Some(listener)) = (ready.link, &links) {
            links::serve(listener);
        }
        buses.iter_mut().zip(&ready.buses).filter(|(_, ready)| **ready).for_each(|(bus, _)| bus.start());
        if signal_ready {
            // Whoever waits for the end of what has ended hears of it first. The signal is one, however many have.
            reap(&mut watched, &mut waiting, &mut services, &mut buses, &mut over);
            let _one = process::next_signal(&signals)?;
            let any_left = reap(&mut watched, &mut waiting, &mut services, &mut buses, &mut over);
            if deadline.is_some() && !any_left {
                return Ok(());
            }
        }
        if services_until.is_some_and(|until| Instant::now() >= until || !services.is_open()) {
            services_until = None;
            end_all();
        }
        if deadline.is_some_and(|d| Instant::now() >= d) {
            return Ok(());
        }
        for entry in &mut watched {
            if entry.limit.act(entry.pid) {
                let _hung_up = proto::write_packet(&entry.session, &Status::TimedOut, &[]);
            }
        }
        for (index, entry) in watched.iter_mut().enumerate() {
            if session_ready.get(index).copied().unwrap_or(false) {
                listen(entry);
            }
        }
        if order_ready {
            let order = proto::read_message::<Order>(orders);
            watched.extend(begun(&mut waiting));
            match order {
                Ok(Some((Order::Start(program), fds))) => {
                    send_away(waiting.take());
                    watched.extend(start(program, fds, &tools));
                }
                // That is all it is for.
                Ok(Some((Order::Watch, _))) => {}
                Ok(Some((Order::Stop { grace_ms }, _))) => {
                    deadline = Some(Instant::now() + Duration::from_millis(grace_ms));
                    if services.stop_all() {
                        services_until = Some(Instant::now() + Duration::from_millis(grace_ms / 4 * 3));
                    } else {
                        end_all();
                    }
                    if !reap(&mut watched, &mut waiting, &mut services, &mut buses, &mut over) {
                        return Ok(());
                    }
                }
                Ok(Some((Order::Service(request), fds))) => services.pass(&request, &fds),
                Ok(Some((Order::Look(names), fds))) => {
                    for Bytes(name) in names {
                        let _absent = stat(name);
                    }
                    send_away(waiting.take());
                    // Without one, programs are started as ever.
                    if let Ok([from, post]) = <[OwnedFd; 2]>::try_from(fds) {
                        waiting = wait(from, post, &tools);
                    }
                }
                Ok(Some((Order::Refresh, fds))) => fds.iter().take(1).for_each(|answer| overlays.refresh(answer)),
                Ok(Some((Order::Pause, fds))) => {
                    stopped = pause::stop_all();
                    say_done(&fds);
                }
                Ok(Some((Order::Continue, fds))) => {
                    pause::continue_all(&std::mem::take(&mut stopped));
                    say_done(&fds);
                }
                Ok(None) => return Ok(()),
                Err(_) => return Err(Errno::BADMSG),
            }
        }
    }
}

fn say_done(fds: &[OwnedFd]) {
    // Whoever waited and left does not need it.
    let _left = fds.first().map(|fd| rustix::io::write(fd, b"!"));
}

/// Asks every process to end.
fn end_all() {
    // Paused ones must wake to see it.
    let _none = process::kill(-1, Signal::TERM.as_raw()).and_then(|()| process::kill(-1, Signal::CONT.as_raw()));
}

/// What there is to do.
struct Ready {
    order: bool,
    signal: bool,
    link: bool,
    sessions: Vec<bool>,
    buses: Vec<bool>,
}

/// Sleeps until there is something to do.
fn wait_for_work(
    orders: &OwnedFd,
    signals: &OwnedFd,
    links: Option<&OwnedFd>,
    watched: &[Watched],
    buses: &[Bus],
    deadline: Option<Instant>,
) -> Result<Ready, Errno> {
    let mut polled = vec![PollFd::new(orders, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
    polled.extend(watched.iter().filter(|w| listens(w)).map(|w| PollFd::new(&w.session, PollFlags::IN)));
    polled.extend(links.map(|fd| PollFd::new(fd, PollFlags::IN)));
    polled.extend(buses.iter().filter_map(Bus::waits_for).map(|fd| PollFd::new(fd, PollFlags::IN)));
    let timeout = deadline.map(|d| {
        let left = d.saturating_duration_since(Instant::now());
        rustix::time::Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) }
    });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(e) => return Err(e),
    }
    let ready = |p: &PollFd<'_>| !p.revents().is_empty();
    let (order, signal) = (ready(&polled[0]), ready(&polled[1]));
    let mut rest = polled[2..].iter();
    let sessions = watched.iter().map(|w| listens(w) && rest.next().is_some_and(ready)).collect();
    let link = links.is_some() && rest.next().is_some_and(ready);
    let buses = buses.iter().map(|b| b.waits_for().is_some() && rest.next().is_some_and(ready)).collect();
    Ok(Ready { order, signal, link, sessions, buses })
}

fn listens(entry: &Watched) -> bool {
    entry.report.is_some() && !entry.alone
}

impl Watched {
    fn of(child: Child, session: OwnedFd, timeout: Option<proto::Timeout>) -> Self {
        let Child { pid, report, memory } = child;
        let limit = Limit::of(timeout.filter(|_| report.is_some()));
        Self { pid, session, report, alone: false, limit, _memory: memory, _ways: None }
    }
}

/// So many programs that have ended are kept until the next has: who hears of an end mostly waits for this processor, and to close what
/// was theirs takes as long as to tell.
const OVER_MAX: usize = 4;

/// Collects everything that ended; tells the sessions. Whether any child is left.
fn reap(
    watched: &mut Vec<Watched>,
    waiting: &mut Option<Waiting>,
    services: &mut service::Door,
    buses: &mut [Bus],
    over: &mut Vec<(Watched, Waited)>,
) -> bool {
    let mut ended = Vec::new();
    let any_left = loop {
        match process::wait_nonblocking(-1, false) {
            Ok(Some((pid, how))) => {
                services.ended(pid);
                buses.iter_mut().for_each(|bus| bus.ended(pid, how));
                // Afterwards its number may be another's.
                if waiting.as_ref().is_some_and(|it| it.child.pid == pid) {
                    ended.extend(begun(waiting).map(|entry| (entry, how)));
                    // Nobody's, if it was told nothing: the keeper sees that it cannot be told any more.
                    *waiting = None;
                }
                let Some(index) = watched.iter().position(|w| w.pid == pid) else { continue };
                ended.push((watched.swap_remove(index), how));
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    ended.iter().for_each(|(entry, how)| tell(entry, *how, !any_left));
    if !ended.is_empty() {
        // One that was killed may not have taken what was on its way to it: streams, whose other ends wait.
        ended.retain(|(_, how)| matches!(how, Waited::Exited(_)));
        ended.truncate(OVER_MAX);
        *over = ended;
    }
    any_left
}

/// Tells a session how its program ended.
fn tell(entry: &Watched, how: Waited, nobody_left: bool) {
    let status = match how {
        // A monitor that ends well has reported already.
        Waited::Exited(0) if entry.report.is_none() => return,
        Waited::Exited(code) => Status::Exited(code),
        Waited::Signaled(signal) | Waited::Stopped(signal) => Status::Signaled(signal),
    };
    let is_odd = matches!(how, Waited::Exited(NOT_EXECUTED));
    let said = entry.report.as_ref().filter(|_| is_odd).and_then(session::not_executed);
    let not_executed = said.map(|(step, errno)| Status::NotExecuted { step, errno });
    if let (true, None, Status::Exited(code)) = (nobody_left, not_executed, status) {
        let _hung_up = proto::write_packet(&entry.session, &Status::Last(code), &[]);
        return;
    }
    let nobody_left = nobody_left.then_some(Status::NobodyLeft);
    for status in nobody_left.into_iter().chain(not_executed).chain([status]) {
        let _hung_up = proto::write_packet(&entry.session, &status, &[]);
    }
}

fn listen(entry: &mut Watched) {
    match proto::read_packet::<Word>(&entry.session) {
        Some((Word::Signal(signal), _)) => {
            let _ended = process::kill(entry.pid, signal);
        }
        Some((Word::Continue, _)) => {
            let _ended = process::kill(entry.pid, Signal::CONT.as_raw());
        }
        None => {
            // The client is gone: what a closed terminal would do.
            entry.alone = true;
            let _ended = process::kill(entry.pid, Signal::HUP.as_raw());
        }
    }
}

/// The VM's `/dev/null`. Opened before anything of the VM runs: later, what has that name may be anything, init's own memory too.
pub(crate) fn open_nothing() -> Option<OwnedFd> {
    let opened = open("/dev/null", OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    fstat(&opened).is_ok_and(|stat| stat.st_rdev == makedev(1, 3)).then_some(opened)
}

/// `null` once more, or, where there is none, a pipe with nobody at its other end.
fn nothing(null: Option<&OwnedFd>, input: bool) -> Result<OwnedFd, Errno> {
    if let Some(null) = null {
        return rustix::io::fcntl_dupfd_cloexec(null, 3);
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok(if input { read } else { write })
}

/// Has a process wait for its program, and says so.
fn wait(from: OwnedFd, post: OwnedFd, tools: &Tools) -> Option<Waiting> {
    let stream = |input| nothing(tools.null.as_ref(), input).ok();
    let null = [stream(true)?, stream(false)?, stream(false)?];
    let child = session::wait(&null, &from, tools.stub.as_ref()?).ok()?;
    // One that is gone is no reason not to serve the next.
    let _left = rustix::io::write(&post, session::WAITS);
    Some(Waiting { child, post, from })
}

/// The process that waited, if it has a program by now.
fn begun(waiting: &mut Option<Waiting>) -> Option<Watched> {
    let (session, timeout) = session::posted(&waiting.as_ref()?.post)?;
    waiting.take().map(|Waiting { child, post, from }| {
        let mut watched = Watched::of(child, session, timeout);
        watched._ways = Some([post, from]);
        watched
    })
}

/// Ends a process whose program will not come. Until it has ended, which is at once, it would count as one that is left.
fn send_away(waiting: Option<Waiting>) {
    if let Some(Waiting { child, .. }) = waiting {
        let _ended = process::kill(child.pid, Signal::KILL.as_raw());
        let _collected = process::wait_blocking(child.pid, false);
    }
}

/// Has the process that waits for the first program become that, if it still can.
fn tell_ahead(ahead: Ahead, program: &Program, fds: &[OwnedFd], tools: &Tools) -> Option<Child> {
    let nulls = [0, 1, 2].map(|index| program.null[index].then(|| nothing(tools.null.as_ref(), index == 0).ok()));
    let mut passed = fds.iter().skip(1);
    let [input, output, errors] =
        nulls.each_ref().map(|null| null.as_ref().map_or_else(|| passed.next(), Option::as_ref));
    ahead.tell([input?, output?, errors?])
}

/// Starts a program; a failure is told to its session.
fn start(program: Program, fds: Vec<OwnedFd>, tools: &Tools) -> Option<Watched> {
    let mut passed = fds.into_iter();
    let session = passed.next()?;
    let mut streams = program.passed.map(|is| if is { passed.next() } else { None });
    let nulls = streams.iter_mut().enumerate().filter(|(index, _)| program.null[*index]);
    let null = tools.null.as_ref();
    let opened =
        nulls.into_iter().try_for_each(|(index, stream)| nothing(null, index == 0).map(|fd| *stream = Some(fd)));
    let timeout = program.timeout;
    match opened.and_then(|()| session::start(program, &session, streams, tools.stub.as_ref())) {
        Ok(child) => Some(Watched::of(child, session, timeout)),
        Err(e) => {
            tell_failed(&session, e);
            None
        }
    }
}

fn tell_failed(session: &OwnedFd, error: Errno) {
    let failed = Status::NotExecuted { step: proto::Step::Execute, errno: error.raw_os_error() };
    let _hung_up = proto::write_packet(session, &failed, &[]);
}
