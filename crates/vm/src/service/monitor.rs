//! The life of one service, in a process of its own: the reaper of everything below it.
//!
//! ```text
//!   conditions, directories ─► ExecCondition ─► ExecStartPre ─► ExecStart ─► (ready) ─► ExecStartPost ─► active
//!        ▲                                                                                                │ ends,
//!        └── Restart= ◄── ExecStopPost ◄── KillSignal, SIGKILL ◄── ExecStop ◄─────────────────────────────┘ or stop
//! ```
//!
//! Invariants: it waits in one place ([`Monitor::wait`]), which always listens to the manager, collects every orphan and
//! keeps deadlines; when the manager goes, the service is stopped.

use super::child::{self, Identity};
use super::load::read_small;
use super::tree;
use crate::proto;
use fvm_model::path::printable;
use fvm_model::service::ServiceState;
use fvm_service::command::{Command, Environment};
use fvm_service::restart::{End, is_clean};
use fvm_service::service::{DIRECTORY_KINDS, KillMode, NotifyAccess, Phase, ServiceType};
use fvm_service::unit::{Condition, Test};
use fvm_service::{Service, Unit, value};
use fvm_sys::process::{self, Waited};
use fvm_sys::socket;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the manager asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Stop the service, and end.
    Stop,
    /// Have it read its configuration again.
    Reload,
}

/// What a monitor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// How the service is now.
    Now {
        /// State.
        state: ServiceState,
        /// Its main process.
        main: Option<i32>,
        /// Its own words.
        text: Option<String>,
        /// Why it is so.
        why: Option<String>,
        /// Starts by itself.
        restarts: u32,
    },
    /// The attempt to start it is over; why it failed.
    Settled(Option<String>),
    /// The attempt to reload it is over; why it failed.
    Reloaded(Option<String>),
}

/// The largest of these messages.
pub const SAID_MAX_BYTES: usize = 8 << 10;

/// The longest text of a service's that is passed on.
const TEXT_MAX_CHARS: usize = 500;

/// Where notification sockets are: `/dev` is the VM's own and no part of its changes, whatever network it has.
const NOTIFY_DIR: &str = "/dev/fvm-services";

/// How often is looked for what makes no noise, while something is expected: a PID file, the end of somebody else's child.
const TICK: Duration = Duration::from_millis(50);

/// The same while nothing is.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Done,
    Deadline,
    Stop,
}

/// How an attempt to run the service went.
#[derive(Debug)]
enum Attempt {
    /// It was not to be started: a condition.
    Skipped(String),
    /// It did not come up.
    Failed(End, String),
    /// It was up, and its main process, or the last of its processes, ended.
    Ended(End),
    /// A stop was asked for; whether it had been up.
    Stopped { was_up: bool },
}

/// A monitor.
#[derive(Debug)]
pub struct Monitor {
    unit: Unit,
    vm: String,
    manager: OwnedFd,
    log: OwnedFd,
    signals: OwnedFd,
    notify: Option<(OwnedFd, PathBuf)>,
    identity: Option<Identity>,
    invocation: String,
    main: Option<i32>,
    main_end: Option<End>,
    control: Option<i32>,
    control_end: Option<End>,
    state: ServiceState,
    text: Option<String>,
    why: Option<String>,
    restarts: u32,
    ready: bool,
    stop: bool,
    reload: bool,
    settled: bool,
}

impl Monitor {
    /// For a process that was forked for this: `log` is the service's output.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(unit: Unit, vm: String, manager: OwnedFd, log: OwnedFd) -> Result<Self, Errno> {
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own))?;
        process::default_signals();
        let signals = process::signal_fd(&[Signal::CHILD.as_raw(), Signal::TERM.as_raw(), Signal::HUP.as_raw()])?;
        Ok(Self {
            unit,
            vm,
            manager,
            log,
            signals,
            notify: None,
            identity: None,
            invocation: String::new(),
            main: None,
            main_end: None,
            control: None,
            control_end: None,
            state: ServiceState::Inactive,
            text: None,
            why: None,
            restarts: 0,
            ready: false,
            stop: false,
            reload: false,
            settled: false,
        })
    }

    /// The whole life.
    pub fn live(mut self) {
        let mut starts: Vec<Instant> = Vec::new();
        loop {
            let ages: Vec<Duration> = starts.iter().map(Instant::elapsed).collect();
            if !self.service().start_limit.allows(&ages) {
                return self.end(ServiceState::Failed, Some("it was started too often (StartLimitBurst=)".into()));
            }
            starts.retain(|start| start.elapsed() < self.service().start_limit.interval);
            starts.push(Instant::now());
            let attempt = self.attempt();
            let (end, failed) = self.wind_up(&attempt);
            let state = if failed.is_some() { ServiceState::Failed } else { ServiceState::Inactive };
            let wanted = match end {
                Some(end) if !self.stop => self.restarts_after(end),
                _ => false,
            };
            let why = match attempt {
                Attempt::Skipped(why) => Some(why),
                _ => failed,
            };
            if !wanted {
                return self.end(state, why);
            }
            self.now(ServiceState::Restarting, why.clone());
            self.settle(why.filter(|_| state == ServiceState::Failed));
            let delay = self.service().restart_delay;
            if self.wait(Some(delay), true, |_| false) == Over::Stop {
                return self.end(ServiceState::Inactive, None);
            }
            self.restarts = self.restarts.saturating_add(1);
        }
    }

    fn service(&self) -> &Service {
        &self.unit.service
    }

    fn restarts_after(&self, end: End) -> bool {
        let service = self.service();
        let clean = is_clean(end, &service.success, service.kind != ServiceType::Oneshot);
        service.force.hold(end) || (!service.prevent.hold(end) && service.restart.applies(end, clean))
    }

    fn end(&mut self, state: ServiceState, why: Option<String>) {
        self.main = None;
        self.now(state, why.clone());
        self.settle(why.filter(|_| state == ServiceState::Failed));
        if let Some((_, path)) = self.notify.take() {
            let _gone = std::fs::remove_file(path);
        }
    }

    // ---- what is said to the manager

    fn say(&self, said: &Said) {
        // Without a manager the next wait ends everything.
        let _gone = proto::write_packet(&self.manager, said, &[]);
    }

    fn now(&mut self, state: ServiceState, why: Option<String>) {
        self.state = state;
        self.why = why.map(|text| text.chars().take(TEXT_MAX_CHARS).collect());
        self.tell();
    }

    fn tell(&self) {
        let main = self.main.filter(|_| self.main_end.is_none());
        let (text, why) = (self.text.clone(), self.why.clone());
        self.say(&Said::Now { state: self.state, main, text, why, restarts: self.restarts });
    }

    /// Said after the state that it is about, so that who waits for it finds that.
    fn settle(&mut self, failed: Option<String>) {
        if !self.settled {
            self.settled = true;
            self.say(&Said::Settled(failed.map(|why| why.chars().take(TEXT_MAX_CHARS).collect())));
        }
    }

    // ---- waiting

    /// Waits until `done`, for at most `limit`; `stoppable`: a request to stop ends it as well.
    fn wait(&mut self, limit: Option<Duration>, stoppable: bool, mut done: impl FnMut(&mut Self) -> bool) -> Over {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            self.collect();
            if done(self) {
                return Over::Done;
            }
            if stoppable && self.stop {
                return Over::Stop;
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Over::Deadline;
            }
            self.listen(left.map_or(IDLE_TICK, |left| left.min(TICK)));
        }
    }

    fn collect(&mut self) {
        while let Ok(Some((pid, how))) = process::wait_nonblocking(-1, false) {
            let end = match how {
                Waited::Exited(code) => End::Code(code),
                Waited::Signaled(signal) | Waited::Stopped(signal) => End::Signal(signal),
            };
            if self.main == Some(pid) {
                self.main_end = Some(end);
            }
            if self.control == Some(pid) {
                self.control_end = Some(end);
            }
        }
        // A main process that is somebody else's child is collected there: how it ended is not to be known.
        if let (Some(main), None) = (self.main, self.main_end)
            && process::kill(main, 0) == Err(Errno::SRCH)
        {
            self.main_end = Some(End::Code(0));
        }
    }

    fn listen(&mut self, limit: Duration) {
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        // A manager that is gone would be readable for ever.
        if !self.stop {
            polled.push(PollFd::new(&self.manager, PollFlags::IN));
        }
        polled.extend(self.notify.as_ref().map(|(fd, _)| PollFd::new(fd, PollFlags::IN)));
        let timeout =
            rustix::time::Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: i64::from(limit.subsec_nanos()) };
        let _interrupted = poll(&mut polled, Some(&timeout));
        let asked = !self.stop && polled.get(1).is_some_and(|p| !p.revents().is_empty());
        while let Ok(Some(signal)) = process::next_signal(&self.signals) {
            self.stop |= signal == Signal::TERM.as_raw();
        }
        if asked {
            match proto::read_packet::<Ask>(&self.manager) {
                Some((Ask::Reload, _)) => self.reload = true,
                Some((Ask::Stop, _)) | None => self.stop = true,
            }
        }
        self.hear();
    }

    /// Reads notifications.
    fn hear(&mut self) {
        let mut buffer = [0u8; 4096];
        let mut heard = false;
        while let Some((fd, _)) = &self.notify {
            let Ok((len, sender)) = socket::receive_with_sender(fd, &mut buffer) else { break };
            let counts = match self.service().notify {
                NotifyAccess::None => false,
                NotifyAccess::Main => sender.is_some() && (sender == self.main || sender == self.control),
                NotifyAccess::All => sender.is_some_and(|pid| tree::descendants().contains(&pid)),
            };
            if !counts {
                continue;
            }
            let text = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned();
            for line in text.lines() {
                match line.split_once('=') {
                    Some(("READY", "1")) => self.ready = true,
                    Some(("STATUS", text)) => self.text = Some(text.chars().take(TEXT_MAX_CHARS).collect()),
                    Some(("MAINPID", pid)) => {
                        let ours = |pid: &i32| tree::descendants().contains(pid);
                        if let Some(pid) = pid.parse().ok().filter(ours) {
                            (self.main, self.main_end) = (Some(pid), None);
                        }
                    }
                    _ => {}
                }
            }
            heard = true;
        }
        if heard {
            self.tell();
        }
    }

    // ---- programs

    fn spawn(&mut self, command: &Command, more: &[(&str, String)]) -> Result<i32, String> {
        let identity = match &self.identity {
            Some(identity) => identity.clone(),
            None => child::identity(self.service())?,
        };
        let mut variables = Environment::new();
        let mut set = |name: &str, value: String| drop(variables.insert(name.into(), value.into_bytes()));
        set("INVOCATION_ID", self.invocation.clone());
        if let Some(pid) = self.main {
            set("MAINPID", pid.to_string());
        }
        if let Some((_, path)) = &self.notify {
            set("NOTIFY_SOCKET", path.to_string_lossy().into_owned());
        }
        for (name, value) in more {
            set(name, value.clone());
        }
        let environment = child::environment(self.service(), &identity, &self.vm, &variables)?;
        let pid = child::spawn(self.service(), command, &identity, &environment, self.log.as_fd())?;
        self.identity = Some(identity);
        Ok(pid)
    }

    /// Runs the commands of a phase one after the other, each to its end.
    fn run_all(&mut self, phase: Phase, limit: Option<Duration>, more: &[(&str, String)]) -> Result<(), (End, String)> {
        for command in self.service().of(phase).to_vec() {
            self.run(phase, &command, limit, more)?;
        }
        Ok(())
    }

    fn run(
        &mut self,
        phase: Phase,
        command: &Command,
        limit: Option<Duration>,
        more: &[(&str, String)],
    ) -> Result<(), (End, String)> {
        let directive = phase.directive();
        let program = printable(&command.program);
        let pid = match self.spawn(command, more) {
            Ok(pid) => pid,
            Err(_) if command.may_fail => return Ok(()),
            Err(why) => return Err((End::Resources, format!("{directive}: {why}"))),
        };
        (self.control, self.control_end) = (Some(pid), None);
        let stopping = matches!(phase, Phase::Stop | Phase::StopPost);
        let over = self.wait(limit, !stopping, |m| m.control_end.is_some());
        let end = self.control_end.take();
        self.control = None;
        let end = match (over, end) {
            (_, Some(end)) => end,
            (Over::Stop, None) => {
                tree::signal_one(pid, Signal::TERM.as_raw());
                return Err((End::Signal(Signal::TERM.as_raw()), format!("{directive}: stopped")));
            }
            (_, None) => {
                tree::signal_one(pid, Signal::KILL.as_raw());
                End::Timeout
            }
        };
        let clean = is_clean(end, &self.service().success, false);
        if clean || (command.may_fail && end != End::Timeout) {
            Ok(())
        } else {
            Err((end, format!("{directive}: {program} {}", told(end))))
        }
    }

    // ---- the start

    fn attempt(&mut self) -> Attempt {
        self.prepare();
        match self.start() {
            Err(attempt) => attempt,
            Ok(()) => self.watch(),
        }
    }

    fn prepare(&mut self) {
        (self.main, self.main_end, self.ready, self.text, self.identity) = (None, None, false, None, None);
        self.reload = false;
        let mut random = [0u8; 16];
        let _without = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        self.invocation = random.iter().map(|b| format!("{b:02x}")).collect();
        self.now(ServiceState::Activating, None);
    }

    fn start(&mut self) -> Result<(), Attempt> {
        let resources = |why| Attempt::Failed(End::Resources, why);
        if let Some(failed) = unmet(&self.unit.conditions, false) {
            return Err(Attempt::Skipped(format!("not started: Condition… on {failed} is not met")));
        }
        if let Some(failed) = unmet(&self.unit.conditions, true) {
            return Err(resources(format!("Assert… on {failed} is not met")));
        }
        self.identity = Some(child::identity(self.service()).map_err(resources)?);
        self.make_directories().map_err(resources)?;
        if self.service().notify != NotifyAccess::None && self.notify.is_none() {
            self.notify = Some(self.notify_socket().map_err(|e| resources(format!("NOTIFY_SOCKET: {e}")))?);
        }
        let limit = self.service().start_timeout;
        match self.run_all(Phase::Condition, limit, &[]) {
            Err((End::Code(1..=254), _)) => return Err(Attempt::Skipped("not started: ExecCondition= says no".into())),
            other => other.map_err(|e| self.failed(e))?,
        }
        self.run_all(Phase::StartPre, limit, &[]).map_err(|e| self.failed(e))?;
        self.start_main(limit)?;
        self.tell();
        self.run_all(Phase::StartPost, limit, &[]).map_err(|e| self.failed(e))
    }

    fn failed(&self, (end, why): (End, String)) -> Attempt {
        if self.stop { Attempt::Stopped { was_up: false } } else { Attempt::Failed(end, why) }
    }

    fn start_main(&mut self, limit: Option<Duration>) -> Result<(), Attempt> {
        let Some(command) = self.service().of(Phase::Start).first().cloned() else { return Ok(()) };
        match self.service().kind {
            ServiceType::Oneshot => self.run_all(Phase::Start, limit, &[]).map_err(|e| self.failed(e)),
            ServiceType::Forking => {
                self.run(Phase::Start, &command, limit, &[]).map_err(|e| self.failed(e))?;
                self.find_main(limit)
            }
            ServiceType::Exec | ServiceType::Notify => {
                let started = self.spawn(&command, &[]);
                let pid = started.map_err(|why| Attempt::Failed(End::Resources, format!("ExecStart: {why}")))?;
                (self.main, self.main_end) = (Some(pid), None);
                if self.service().kind == ServiceType::Exec {
                    return Ok(());
                }
                match self.wait(limit, true, |m| m.ready || m.main_end.is_some()) {
                    Over::Done if self.ready => Ok(()),
                    Over::Stop => Err(Attempt::Stopped { was_up: false }),
                    Over::Deadline => Err(Attempt::Failed(End::Timeout, "it did not say READY=1 in time".into())),
                    Over::Done => {
                        let end = self.main_end.unwrap_or(End::Protocol);
                        Err(Attempt::Failed(
                            if end == End::Code(0) { End::Protocol } else { end },
                            format!("ExecStart: it {} before it said READY=1", told(end)),
                        ))
                    }
                }
            }
        }
    }

    /// After a daemon has forked: which process is it?
    fn find_main(&mut self, limit: Option<Duration>) -> Result<(), Attempt> {
        let Some(path) = self.service().pid_file.clone() else {
            if self.service().guess_main {
                let children = tree::children();
                self.main = children.first().copied().filter(|_| children.len() == 1);
            }
            return Ok(());
        };
        let shown = printable(&path);
        let mut found = None;
        let over = self.wait(limit, true, |_| {
            found = read_pid(&path).filter(|pid| tree::descendants().contains(pid));
            found.is_some()
        });
        match over {
            Over::Done => {
                (self.main, self.main_end) = (found, None);
                Ok(())
            }
            Over::Stop => Err(Attempt::Stopped { was_up: false }),
            Over::Deadline => {
                Err(Attempt::Failed(End::Timeout, format!("PIDFile={shown} does not name a process of the service")))
            }
        }
    }

    fn notify_socket(&self) -> Result<(OwnedFd, PathBuf), Errno> {
        match fs::mkdir(NOTIFY_DIR, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        // A unit's name can be longer than an address.
        let path = PathBuf::from(format!("{NOTIFY_DIR}/{}", rustix::process::getpid().as_raw_nonzero()));
        let _none = std::fs::remove_file(&path);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new(&path)?)?;
        // As systemd's: a program may have become any user by then; who it is, the kernel says.
        fs::chmod(&path, Mode::from_raw_mode(0o777))?;
        Ok((socket, path))
    }

    fn make_directories(&self) -> Result<(), String> {
        let Some(identity) = &self.identity else { return Ok(()) };
        for (directories, (directive, base, _)) in self.service().directories.iter().zip(DIRECTORY_KINDS) {
            for name in &directories.names {
                let owner = identity.differs.then_some((identity.user.uid, identity.gid));
                make_directory(base, name, directories.mode, owner)
                    .map_err(|e| format!("{directive}={}: {e}", printable(name)))?;
            }
        }
        Ok(())
    }

    // ---- the time between

    /// It is up: waits until it ends, or is asked to.
    fn watch(&mut self) -> Attempt {
        let oneshot = self.service().kind == ServiceType::Oneshot;
        if !oneshot {
            self.now(ServiceState::Active, None);
            self.settle(None);
            let over = loop {
                match self.wait(None, true, |m| m.reload || m.is_over()) {
                    Over::Done if self.reload => self.reload_now(),
                    over => break over,
                }
            };
            if over == Over::Stop {
                return Attempt::Stopped { was_up: true };
            }
        }
        let end = self.main_end.unwrap_or(End::Code(0));
        let clean = is_clean(end, &self.service().success, !oneshot);
        if !(clean && self.service().remain) {
            return Attempt::Ended(end);
        }
        self.now(ServiceState::Exited, None);
        self.settle(None);
        loop {
            match self.wait(None, true, |m| m.reload) {
                Over::Done => self.reload_now(),
                _ => return Attempt::Stopped { was_up: true },
            }
        }
    }

    fn is_over(&self) -> bool {
        match self.main {
            Some(_) => self.main_end.is_some(),
            // Nobody is known to be the main one: it lives as long as anyone of it.
            None => tree::descendants().is_empty(),
        }
    }

    fn reload_now(&mut self) {
        self.reload = false;
        if !self.service().reloads() {
            return self.say(&Said::Reloaded(Some("it has no ExecReload=".into())));
        }
        let before = self.state;
        self.now(ServiceState::Reloading, None);
        if let (Some(signal), Some(main)) = (self.service().reload_signal, self.main) {
            tree::signal_one(main, signal);
        }
        let limit = self.service().start_timeout;
        let done = self.run_all(Phase::Reload, limit, &[]);
        self.now(before, None);
        self.say(&Said::Reloaded(done.err().map(|(_, why)| why)));
    }

    // ---- the end

    /// Stops what is left. Returns how it ended (for `Restart=`) and why that is a failure.
    fn wind_up(&mut self, attempt: &Attempt) -> (Option<End>, Option<String>) {
        let service = self.service();
        let (stop_timeout, daemon) = (service.stop_timeout, service.kind != ServiceType::Oneshot);
        let clean = |m: &Self, end| is_clean(end, &m.service().success, daemon);
        let (end, mut failed, run_stop) = match attempt {
            Attempt::Skipped(_) => return (None, None),
            Attempt::Failed(end, why) => (Some(*end), Some(why.clone()), false),
            Attempt::Ended(end) if clean(self, *end) => (Some(*end), None, true),
            Attempt::Ended(end) => (Some(*end), Some(format!("it {}", told(*end))), false),
            Attempt::Stopped { was_up } => (None, None, *was_up),
        };
        self.now(ServiceState::Deactivating, failed.clone());
        let more = self.outcome(end, failed.is_none());
        if run_stop && let Err((_, why)) = self.run_all(Phase::Stop, stop_timeout, &more) {
            failed.get_or_insert(why);
        }
        if !self.kill() {
            failed.get_or_insert("it did not end in time and was killed (TimeoutStopSec=)".into());
        }
        // Ended by us, but not as a clean end does.
        if let (Attempt::Stopped { .. }, Some(end)) = (attempt, self.main_end)
            && !clean(self, end)
            && end != End::Signal(self.service().kill_signal)
        {
            failed.get_or_insert(format!("it {}", told(end)));
        }
        let more = self.outcome(end, failed.is_none());
        if let Err((_, why)) = self.run_all(Phase::StopPost, stop_timeout, &more) {
            failed.get_or_insert(why);
        }
        if matches!(self.service().kill_mode, KillMode::ControlGroup | KillMode::Mixed) {
            tree::signal_all(self.service().final_signal, None);
            self.wait(Some(Duration::from_secs(5)), false, |_| tree::descendants().is_empty());
        }
        self.remove_leftovers();
        (end, failed)
    }

    /// What `ExecStop=` and `ExecStopPost=` are told about the end.
    fn outcome(&self, end: Option<End>, success: bool) -> Vec<(&'static str, String)> {
        let result = if success { "success" } else { "failure" };
        let (code, status) = match self.main_end.or(end) {
            Some(End::Code(code)) => ("exited", code.to_string()),
            Some(End::Signal(signal)) => ("killed", value::signal_name(signal).trim_start_matches("SIG").to_owned()),
            _ => return vec![("SERVICE_RESULT", result.into())],
        };
        vec![("SERVICE_RESULT", result.into()), ("EXIT_CODE", code.into()), ("EXIT_STATUS", status)]
    }

    /// Ends the processes that are left, as `KillMode=` says; false when some had to be killed by force.
    fn kill(&mut self) -> bool {
        let service = self.service();
        let (mode, signal, limit) = (service.kill_mode, service.kill_signal, service.stop_timeout);
        let (last, forced, hup) = (service.final_signal, service.send_kill, service.send_hup);
        let main = self.main.filter(|_| self.main_end.is_none());
        let everyone = mode == KillMode::ControlGroup;
        if mode == KillMode::None || (main.is_none() && tree::descendants().is_empty()) {
            return true;
        }
        for signal in [Some(signal), hup.then_some(Signal::HUP.as_raw())].into_iter().flatten() {
            match main {
                _ if everyone => tree::signal_all(signal, None),
                Some(main) => tree::signal_one(main, signal),
                None => {}
            }
        }
        let gone = move |m: &mut Self| {
            let main_gone = main.is_none() || m.main_end.is_some() || !tree::descendants().contains(&main.unwrap_or(0));
            main_gone && (!everyone || tree::descendants().is_empty())
        };
        let mut in_time = self.wait(limit, false, gone) == Over::Done;
        if forced {
            let left = |m: &mut Self| {
                match (mode, main) {
                    (KillMode::Process, Some(main)) => tree::signal_one(main, last),
                    (KillMode::Process, None) => {}
                    _ => tree::signal_all(last, None),
                }
                if mode == KillMode::Process { gone(m) } else { tree::descendants().is_empty() }
            };
            // Again and again: what forks faster than it is killed gets no rest.
            in_time &= self.wait(limit.or(Some(Duration::from_secs(90))), false, left) == Over::Done;
        }
        in_time
    }

    fn remove_leftovers(&self) {
        let service = self.service();
        if let Some(path) = &service.pid_file {
            let _gone = std::fs::remove_file(OsStr::from_bytes(path));
        }
        if !service.preserve_runtime {
            let (_, base, _) = DIRECTORY_KINDS[0];
            for name in &service.directories[0].names {
                let _gone = std::fs::remove_dir_all(Path::new(base).join(OsStr::from_bytes(name)));
            }
        }
    }
}

/// How something ended, as the end of a sentence.
fn told(end: End) -> String {
    match end {
        End::Code(code) => format!("ended with status {code}"),
        End::Signal(signal) => format!("was ended by {}", value::signal_name(signal)),
        End::Timeout => "took too long".into(),
        End::Protocol => "did not keep to its Type=".into(),
        End::Resources => "could not be started".into(),
    }
}

/// Makes `base`/`name`, following no link below `base`: what is above the last name may belong to the service's user.
fn make_directory(base: &str, name: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = fs::open(base, flags, Mode::empty())?;
    for part in name.split(|b| *b == b'/') {
        match fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        dir = fs::openat(&dir, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    if let Some((uid, gid)) = owner {
        fs::fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    fs::fchmod(&dir, Mode::from_raw_mode(mode))
}

fn read_pid(path: &[u8]) -> Option<i32> {
    let text = read_small(Path::new(OsStr::from_bytes(path)), 64).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
}

/// The first condition (or assertion) that fails; of those with `|`, one has to hold.
fn unmet(conditions: &[Condition], assert: bool) -> Option<String> {
    let asked = || conditions.iter().filter(|c| c.assert == assert);
    let shown = |c: &Condition| format!("'{}{}'", if c.negated { "!" } else { "" }, printable(&c.path));
    if let Some(failed) = asked().find(|c| !c.trigger && !holds(c)) {
        return Some(shown(failed));
    }
    let trigger = asked().find(|c| c.trigger)?;
    (!asked().any(|c| c.trigger && holds(c))).then(|| shown(trigger))
}

fn holds(condition: &Condition) -> bool {
    let path = Path::new(OsStr::from_bytes(&condition.path));
    let kind = |stat: fs::Stat| FileType::from_raw_mode(stat.st_mode);
    let holds = match condition.test {
        Test::Exists => path.exists(),
        Test::Directory => path.is_dir(),
        Test::DirectoryNotEmpty => std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()),
        Test::FileNotEmpty => fs::stat(path).is_ok_and(|s| kind(s) == FileType::RegularFile && s.st_size > 0),
        Test::Executable => fs::stat(path).is_ok_and(|s| kind(s) == FileType::RegularFile && s.st_mode & 0o111 != 0),
        Test::Symlink => fs::lstat(path).is_ok_and(|s| kind(s) == FileType::Symlink),
    };
    holds != condition.negated
}
