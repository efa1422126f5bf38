//! Starting one program in a VM, with or without a terminal of its own.
//!
//! ```text
//!   no terminal   init ── spawn ► program       own session; streams as passed ([`fvm_sys::spawn`])
//!         asked ahead  └─ wait ─►  ···  program    the same; what it is to become comes from the keeper ([`crate::pool`])
//!                      └─ fork ─►               the same, as a user of the VM: that is looked up, in the VM's files
//!   terminal      init ── fork ─► monitor       session leader on the VM's own pty, relays job control
//!                                   └ fork ─► program   own process group in the foreground
//! ```
//!
//! The monitor exists so that Ctrl-Z works: the kernel lets a process group stop only if its leader's parent is in
//! the same session. It tells the client, which suspends itself on the host, and resumes the program when the client
//! comes back.
//!
//! Invariants: the program gets descriptors 0, 1, 2 and no other; default signals; an unblocked mask; nothing in the VM is
//! ever a process whose executable is the host's fvm ([`fvm_sys::exec`]).

use crate::limit::Limit;
use crate::proto::{self, Program, Status, Step, Timeout, WindowSize, Word};
use crate::service::users;
use fvm_model::path::Bytes;
use fvm_sys::exec::Stub;
use fvm_sys::process::{self, Fork, Waited};
use fvm_sys::seccomp::Instruction;
use fvm_sys::spawn::{NOT_EXECUTED, Started, Until, step};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::borrow::Cow;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A process that init has to watch.
#[derive(Debug)]
pub struct Child {
    /// Its number.
    pub pid: i32,
    /// Where it says why it could not execute its program; `None` for a monitor, which reports by itself.
    pub report: Option<OwnedFd>,
    /// To be kept until it has ended.
    pub memory: Option<Started>,
}

/// Why a child that has ended did not execute its program, if it did not.
#[must_use]
pub fn not_executed(report: &OwnedFd) -> Option<(Step, i32)> {
    let mut said_bytes = [0u8; 5];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    // Somebody in the VM may hold the other end of it: never wait.
    let mut polled = [PollFd::new(report, PollFlags::IN)];
    let said = poll(&mut polled, Some(&now)).is_ok_and(|n| n > 0) && polled[0].revents().contains(PollFlags::IN);
    let mut read = || rustix::io::read(report, &mut said_bytes[..]);
    let length = match said.then(&mut read) {
        // It was told what it did not read any more: this comes before what it said.
        Some(Err(Errno::CONNRESET)) => read().unwrap_or(0),
        read => read.and_then(Result::ok).unwrap_or(0),
    };
    let [a, b, c, d, step] = said_bytes;
    let step = match (length, step) {
        // The stub says no more than why ([`fvm_sys::exec`]).
        (4, _) => Step::Execute,
        (5, step::USER) => Step::User,
        (5, step::DIRECTORY) => Step::Directory,
        (5, _) => Step::Execute,
        _ => return None,
    };
    Some((step, i32::from_le_bytes([a, b, c, d])))
}

/// Starts `program`; returns the process that init has to watch.
///
/// # Errors
/// When there is no terminal or process to be had.
pub fn start(
    program: Program,
    session: &OwnedFd,
    streams: [Option<OwnedFd>; 3],
    stub: Option<&Stub>,
) -> Result<Child, Errno> {
    match (program.terminal, stub) {
        (Some(size), _) => start_on_terminal(&program, session, streams, size),
        (None, Some(stub)) if program.user.is_none() => spawn(&program, &streams, stub),
        (None, _) => start_plain(&program, streams),
    }
}

/// Without a copy of init.
fn spawn(program: &Program, streams: &[Option<OwnedFd>; 3], stub: &Stub) -> Result<Child, Errno> {
    let [Some(input), Some(output), Some(errors)] = streams.each_ref().map(Option::as_ref) else {
        return Err(Errno::BADF);
    };
    let (result, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let program = in_words(program)?;
    let started = fvm_sys::spawn::start(program, [input, output, errors], report.as_fd(), stub)?;
    Ok(Child { pid: started.pid(), report: Some(result), memory: Some(started) })
}

/// The stub uses the descriptors below.
const FROM_LEAST: i32 = 5;

/// A process whose program comes from `from` when it is known ([`message`]). `null`: its streams, as far as that brings none.
///
/// # Errors
/// When there is none to be had.
pub fn wait(null: &[OwnedFd; 3], from: &OwnedFd, stub: &Stub) -> Result<Child, Errno> {
    let lift = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, FROM_LEAST);
    let (result, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let [input, output, errors] = null;
    let (input, output, errors) = (lift(input)?, lift(output)?, lift(errors)?);
    let (report, from) = (lift(&report)?, lift(from)?);
    let started = fvm_sys::spawn::wait([&input, &output, &errors], report.as_fd(), stub, from.as_fd(), Until::Wanted)?;
    Ok(Child { pid: started.pid(), report: Some(result), memory: Some(started) })
}

/// The same before the VM is there, with the filter that the caller puts on itself later: it is told, all of its streams too, by where it
/// reports.
///
/// # Errors
/// When there is none to be had.
pub fn wait_ahead(stub: &Stub, filter: Vec<Instruction>) -> Result<Child, Errno> {
    let (to, from) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let from = rustix::io::fcntl_dupfd_cloexec(from, FROM_LEAST)?;
    let started = fvm_sys::spawn::wait([&from; 3], from.as_fd(), stub, from.as_fd(), Until::Made(filter))?;
    Ok(Child { pid: started.pid(), report: Some(to), memory: Some(started) })
}

/// What init says where a keeper will name who asks for a program, when a process waits for that.
pub const WAITS: &[u8] = b"!";

/// Whether init has said so, since this was asked last.
///
/// # Errors
/// When there is no such process, and will be none.
pub fn waits(post: &OwnedFd) -> Result<bool, Errno> {
    match recv(post, &mut [0u8], RecvFlags::DONTWAIT) {
        Ok((said, _)) if said == WAITS.len() => Ok(true),
        Ok(_) => Err(Errno::PIPE),
        Err(Errno::AGAIN) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Names who asks for the program that a process which waits will now be told. Init is not woken: it reads this when the program has
/// ended, or an order comes ([`crate::proto::Order::Watch`]).
///
/// # Errors
/// When the process has ended (`EPIPE`): it must be told nothing then.
pub fn post(to: &OwnedFd, session: BorrowedFd<'_>, timeout: Option<Timeout>) -> Result<(), Errno> {
    proto::write_packet(to, &timeout, &[session])
}

/// What was said there, if anything was. To init alone.
pub fn posted(from: &OwnedFd) -> Option<(OwnedFd, Option<Timeout>)> {
    let mut said = [0; 256];
    let (len, fds) = fvm_sys::socket::receive_now(from, &mut said).ok()?;
    let timeout = serde_json::from_slice(said.get(..len)?).ok()?;
    Some((fds.into_iter().next()?, timeout))
}

/// What such a process is told; the passed streams come with it. `None`: `program` cannot be its.
#[must_use]
pub fn message(program: &Program) -> Option<Vec<u8>> {
    image(program, program.passed)
}

/// The same when all of its streams come with it, those that are nothing, too.
#[must_use]
pub fn whole_message(program: &Program) -> Option<Vec<u8>> {
    image(program, [true; 3])
}

fn image(program: &Program, streams: [bool; 3]) -> Option<Vec<u8>> {
    let is_plain = program.terminal.is_none() && program.user.is_none();
    let has_all = program.passed.iter().zip(program.null).all(|(passed, null)| *passed != null);
    if !is_plain || !has_all {
        return None;
    }
    fvm_sys::image::of(&in_words(program).ok()?, streams)
}

/// As the kernel takes it.
fn in_words(program: &Program) -> Result<fvm_sys::spawn::Program, Errno> {
    let Program { argv, env, cwd, umask, cwd_required, own_env, .. } = program;
    let mut env = Cow::Borrowed(env.as_slice());
    if !own_env.is_empty() {
        set_all(env.to_mut(), own_env.clone());
    }
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
    let path = env.iter().find(|(key, _)| key.0 == "PATH").map(|(_, value)| value.0.as_os_str());
    let places = argv.first().map(|name| places(&name.0, path)).ok_or(Errno::INVAL)?;
    let variable = |(name, value): &(Bytes, Bytes)| text(&[name.0.as_bytes(), b"=", value.0.as_bytes()].concat());
    Ok(fvm_sys::spawn::Program {
        places: places.iter().map(|place| text(place.as_bytes())).collect::<Result<_, _>>()?,
        argv: argv.iter().map(|word| text(word.0.as_bytes())).collect::<Result<_, _>>()?,
        env: env.iter().map(variable).collect::<Result<_, _>>()?,
        directory: text(cwd.0.as_bytes())?,
        needs_directory: *cwd_required,
        umask: *umask,
    })
}

fn start_plain(program: &Program, streams: [Option<OwnedFd>; 3]) -> Result<Child, Errno> {
    let (result, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    match process::fork()? {
        Fork::Parent(pid) => Ok(Child { pid: pid.as_raw_nonzero().get(), report: Some(result), memory: None }),
        Fork::Child => {
            let _already = rustix::process::setsid();
            execute(program, &report, &streams, None)
        }
    }
}

fn start_on_terminal(
    program: &Program,
    session: &OwnedFd,
    streams: [Option<OwnedFd>; 3],
    size: WindowSize,
) -> Result<Child, Errno> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master).or_else(|e| if e == Errno::NOTTY { Err(e) } else { Ok(()) })?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let terminal = open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size)?;
    match process::fork()? {
        Fork::Parent(monitor) => {
            let pid = monitor.as_raw_nonzero().get();
            let _hung_up = proto::write_packet(session, &Status::Started { pid }, &[master.as_fd()]);
            Ok(Child { pid, report: None, memory: None })
        }
        Fork::Child => {
            drop(master);
            let code = i32::from(monitor(program, session, &streams, &terminal).is_err());
            process::exit_now(code)
        }
    }
}

fn monitor(
    program: &Program,
    session: &OwnedFd,
    streams: &[Option<OwnedFd>; 3],
    terminal: &OwnedFd,
) -> Result<(), Errno> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(terminal)?;
    let signals = process::signal_fd(&[Signal::CHILD.as_raw(), Signal::TTOU.as_raw()])?;
    let (result, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let pid = match process::fork()? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let own = rustix::process::getpid();
            // TTOU is blocked: a background process may take the foreground.
            let front = || if program.background { Ok(()) } else { rustix::termios::tcsetpgrp(terminal, own) };
            if rustix::process::setpgid(None, None).and_then(|()| front()).is_err() {
                process::exit_now(NOT_EXECUTED);
            }
            execute(program, &report, streams, Some(terminal))
        }
    };
    drop(report);
    let raw = pid.as_raw_nonzero().get();
    let mut client_here = true;
    let mut limit = Limit::of(program.timeout);
    loop {
        let mut polled = vec![PollFd::new(&signals, PollFlags::IN)];
        if client_here {
            polled.push(PollFd::new(session, PollFlags::IN));
        }
        let left = limit.due().map(|due| due.saturating_duration_since(std::time::Instant::now()));
        let left = left.map(|left| rustix::time::Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        if limit.act(raw) {
            let _hung_up = proto::write_packet(session, &Status::TimedOut, &[]);
        }
        let spoken = polled.get(1).is_some_and(|p| !p.revents().is_empty());
        while process::next_signal(&signals)?.is_some() {}
        while let Some((_, how)) = process::wait_nonblocking(raw, true)? {
            let status = match how {
                Waited::Exited(code) => Status::Exited(code),
                Waited::Signaled(signal) => Status::Signaled(signal),
                Waited::Stopped(signal) => {
                    let _hung_up = proto::write_packet(session, &Status::Stopped(signal), &[]);
                    continue;
                }
            };
            if let Some((step, errno)) = not_executed(&result) {
                let _hung_up = proto::write_packet(session, &Status::NotExecuted { step, errno }, &[]);
            }
            let _hung_up = proto::write_packet(session, &status, &[]);
            return Ok(());
        }
        if spoken {
            match proto::read_packet::<Word>(session) {
                Some((Word::Continue, _)) => resume(terminal, pid),
                Some((Word::Signal(signal), _)) => {
                    let _ended = process::kill(-raw, signal);
                }
                None => {
                    client_here = false;
                    let _ended = process::kill(-raw, Signal::HUP.as_raw())
                        .and_then(|()| process::kill(-raw, Signal::CONT.as_raw()));
                }
            }
        }
    }
}

fn resume(terminal: &OwnedFd, pid: rustix::process::Pid) {
    let _hung_up = rustix::termios::tcsetpgrp(terminal, pid);
    let _ended = process::kill(-pid.as_raw_nonzero().get(), Signal::CONT.as_raw());
}

/// The child: becomes the program, or reports why not and ends.
fn execute(program: &Program, report: &OwnedFd, streams: &[Option<OwnedFd>; 3], terminal: Option<&OwnedFd>) -> ! {
    let (step, error) = become_program(program, report, streams, terminal);
    let [a, b, c, d] = error.raw_os_error().to_le_bytes();
    let step = match step {
        Step::Execute => step::EXECUTE,
        Step::User => step::USER,
        Step::Directory => step::DIRECTORY,
    };
    let _hung_up = rustix::io::write(report, &[a, b, c, d, step]);
    process::exit_now(NOT_EXECUTED)
}

fn become_program(
    program: &Program,
    report: &OwnedFd,
    streams: &[Option<OwnedFd>; 3],
    terminal: Option<&OwnedFd>,
) -> (Step, Errno) {
    let failed = |error| (Step::Execute, error);
    for (target, stream) in (0..).zip(streams) {
        let Some(source) = stream.as_ref().or(terminal) else { continue };
        if let Err(e) = process::install_stdio(source.as_raw_fd(), target) {
            return failed(e);
        }
    }
    process::close_all_but(&[report.as_raw_fd()]);
    rustix::process::umask(Mode::from_raw_mode(program.umask));
    let mut env = program.env.clone();
    if let Some(reference) = &program.user {
        match become_user(reference) {
            Ok(own) => set_all(&mut env, own),
            Err(e) => return (Step::User, e),
        }
    }
    set_all(&mut env, program.own_env.clone());
    match rustix::process::chdir(program.cwd.0.as_os_str()) {
        Ok(()) => {}
        Err(e) if program.cwd_required => return (Step::Directory, e),
        Err(_) => {
            if let Err(e) = rustix::process::chdir("/") {
                return failed(e);
            }
        }
    }
    // Init's actions are the defaults.
    process::unblock_all_signals();
    let Some(name) = program.argv.first() else { return failed(Errno::INVAL) };
    let path = match find(&name.0, &env) {
        Ok(path) => path,
        Err(e) => return failed(e),
    };
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
    let argv = program.argv.iter().map(|a| text(a.0.as_bytes())).collect::<Result<Vec<_>, _>>();
    let variable = |(k, v): &(Bytes, Bytes)| text(&[k.0.as_bytes(), b"=", v.0.as_bytes()].concat());
    let env = env.iter().map(variable).collect::<Result<Vec<_>, _>>();
    match (text(path.as_bytes()), argv, env) {
        (Ok(path), Ok(argv), Ok(env)) => failed(fvm_sys::exec::execute(&path, &argv, &env, report.as_fd())),
        _ => failed(Errno::INVAL),
    }
}

/// Becomes a user of the VM; what its environment says of it. `ENOENT`: there is none.
fn become_user(reference: &str) -> Result<Vec<(Bytes, Bytes)>, Errno> {
    let number =
        || reference.parse().ok().map(|uid| users::User { uid, gid: uid, home: "/".into(), ..Default::default() });
    let user = users::user(reference).or_else(number).ok_or(Errno::NOENT)?;
    if rustix::process::geteuid().as_raw() != user.uid {
        let mut groups = users::groups_of(&user.name);
        groups.push(user.gid);
        // What it writes to is its own, as after a login.
        for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            if rustix::termios::isatty(stream) {
                let _stays = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(user.uid)), None);
            }
        }
        fvm_sys::ids::become_user(user.uid, user.gid, &groups)?;
    }
    let text = |name: &str, value: String| (Bytes(name.into()), Bytes(value.into()));
    let shell = if user.shell.is_empty() { "/bin/sh".to_owned() } else { user.shell };
    Ok(vec![text("HOME", user.home), text("USER", user.name.clone()), text("LOGNAME", user.name), text("SHELL", shell)])
}

/// Sets variables, replacing those of the same name.
fn set_all(env: &mut Vec<(Bytes, Bytes)>, own: Vec<(Bytes, Bytes)>) {
    for (name, value) in own {
        env.retain(|(other, _)| other.0 != name.0);
        env.push((name, value));
    }
}

/// Where the program called `name` may lie, as `execvp(3)` looks for it in the program's own `PATH`.
pub(crate) fn places(name: &OsStr, path: Option<&OsStr>) -> Vec<OsString> {
    if name.as_bytes().contains(&b'/') {
        return vec![name.to_owned()];
    }
    if name.is_empty() {
        return Vec::new();
    }
    let dirs = path.unwrap_or(OsStr::new("/bin:/usr/bin")).as_bytes().split(|b| *b == b':');
    let dirs = dirs.map(|dir| if dir.is_empty() { &b"."[..] } else { dir });
    dirs.map(|dir| OsString::from_vec([dir, b"/", name.as_bytes()].concat())).collect()
}

/// The `PATH` of a program.
pub(crate) fn path_of(env: &[(Bytes, Bytes)]) -> Option<&OsStr> {
    env.iter().find(|(key, _)| key.0 == "PATH").map(|(_, value)| value.0.as_os_str())
}

/// Where it lies.
fn find(name: &OsStr, env: &[(Bytes, Bytes)]) -> Result<OsString, Errno> {
    let path = path_of(env);
    if name.as_bytes().contains(&b'/') {
        return Ok(name.to_owned());
    }
    let mut error = Errno::NOENT;
    for candidate in places(name, path) {
        let is_file = std::fs::metadata(&candidate).is_ok_and(|m| m.is_file());
        match accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) if is_file => return Ok(candidate),
            Ok(()) | Err(Errno::ACCESS) => error = Errno::ACCESS,
            Err(_) => {}
        }
    }
    Err(error)
}
