//! The manager of a VM's services: takes requests, starts a monitor for each service, holds their status and their log.
//!
//! ```text
//!   request ─► job: steps ─► one at a time: Start(unit) | Stop(unit) | Reload(unit)
//!                              └─ over when the unit's monitor says so, or ends ─► answer
//! ```
//!
//! Invariants: one thread, one loop, no blocking but on the loop: a job is data that is moved on by what monitors say, so a
//! status can be asked for while something starts.

use super::load::{self, Places};
use super::log::{LINE_MAX_BYTES, Log};
use super::monitor::{Ask, Monitor, SAID_MAX_BYTES, Said};
use super::{ANSWER_MAX_BYTES, REQUEST_MAX_BYTES};
use crate::proto;
use fvm_model::Timestamp;
use fvm_model::service::{ServiceAction, ServiceAnswer, ServiceFailure, ServiceRequest, ServiceState, ServiceStatus};
use fvm_service::{Facts, Unit, UnitKind, UnitName, UnitSet};
use fvm_sys::process::{self, Fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long a client may take to take its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// The longest text in an answer.
const TEXT_MAX_CHARS: usize = 2000;

/// Units that the manager remembers at most.
const SERVICES_MAX: usize = 1024;

/// A service that was started at some time.
#[derive(Debug)]
struct Entry {
    status: ServiceStatus,
    unit: Unit,
    monitor: Option<(i32, OwnedFd)>,
    /// When it was started, among the others.
    serial: u64,
    settled: Option<Option<String>>,
    reloaded: Option<Option<String>>,
}

/// The output of a service.
#[derive(Debug)]
struct Output {
    unit: UnitName,
    pipe: OwnedFd,
    line: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Step {
    Start(UnitName),
    Stop(UnitName),
    Reload(UnitName),
}

#[derive(Debug)]
struct Job {
    answer: OwnedFd,
    vm: String,
    places: Places,
    set: UnitSet,
    steps: VecDeque<Step>,
    current: Option<Step>,
    shown: Vec<UnitName>,
    failed: BTreeSet<UnitName>,
    said: ServiceAnswer,
}

#[derive(Debug)]
struct Manager {
    services: BTreeMap<UnitName, Entry>,
    outputs: Vec<Output>,
    jobs: Vec<Job>,
    log: Option<Log>,
    serial: u64,
    stopping: bool,
}

/// Serves until init goes, or asks for the end.
///
/// # Errors
/// The kernel's.
pub fn serve(orders: OwnedFd) -> Result<(), Errno> {
    process::default_signals();
    let signals = process::signal_fd(&[Signal::CHILD.as_raw(), Signal::TERM.as_raw(), Signal::HUP.as_raw()])?;
    let mut manager = Manager {
        services: BTreeMap::new(),
        outputs: Vec::new(),
        jobs: Vec::new(),
        log: None,
        serial: 0,
        stopping: false,
    };
    let mut buffer = vec![0u8; REQUEST_MAX_BYTES];
    loop {
        let ready = manager.wait(&orders, &signals)?;
        while let Some(signal) = process::next_signal(&signals)? {
            manager.stopping |= signal == Signal::TERM.as_raw();
        }
        while let Ok(Some(_)) = process::wait_nonblocking(-1, false) {}
        manager.read_outputs(&ready.outputs);
        for name in ready.monitors {
            manager.hear(&name, &mut buffer);
        }
        if manager.stopping && manager.stop_everything() {
            return Ok(());
        }
        if ready.order {
            match proto::read_packet_within::<ServiceRequest>(&orders, &mut buffer) {
                Some((request, fds)) => manager.take(&request, fds),
                None => return Ok(()),
            }
        }
        manager.advance();
    }
}

struct Ready {
    order: bool,
    monitors: Vec<UnitName>,
    outputs: Vec<bool>,
}

impl Manager {
    fn wait(&self, orders: &OwnedFd, signals: &OwnedFd) -> Result<Ready, Errno> {
        let monitors = || self.services.iter().filter_map(|(name, e)| e.monitor.as_ref().map(|(_, fd)| (name, fd)));
        let mut polled = vec![PollFd::new(orders, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        polled.extend(monitors().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)));
        polled.extend(self.outputs.iter().map(|o| PollFd::new(&o.pipe, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        let mut ready = polled.iter().map(|p| !p.revents().is_empty());
        let order = ready.next().unwrap_or(false);
        let _signals = ready.next();
        let monitors = monitors().filter(|_| ready.next().unwrap_or(false)).map(|(name, _)| name.clone()).collect();
        Ok(Ready { order, monitors, outputs: ready.collect() })
    }

    // ---- the log

    fn read_outputs(&mut self, ready: &[bool]) {
        let log = &mut self.log;
        let mut ready = ready.iter();
        self.outputs.retain_mut(|output| {
            if !ready.next().copied().unwrap_or(false) {
                return true;
            }
            let mut buffer = [0u8; 64 << 10];
            let got = match rustix::io::read(&output.pipe, &mut buffer[..]) {
                Err(Errno::INTR | Errno::AGAIN) => return true,
                Ok(len) => len,
                Err(_) => 0,
            };
            output.line.extend_from_slice(&buffer[..got]);
            let (lines, taken) = whole_lines(&output.line, got == 0);
            log.iter_mut().for_each(|log| log.lines(&output.unit, lines.iter().copied()));
            output.line.drain(..taken);
            got > 0
        });
    }

    fn note(&mut self, unit: &UnitName, text: &str) {
        if let Some(log) = &mut self.log {
            log.lines(unit, [format!("fvm: {text}").as_bytes()]);
        }
    }

    // ---- monitors

    fn hear(&mut self, name: &UnitName, buffer: &mut [u8]) {
        let Some(entry) = self.services.get_mut(name) else { return };
        let Some((_, socket)) = &entry.monitor else { return };
        let most = buffer.len().min(SAID_MAX_BYTES);
        match proto::read_packet_within::<Said>(socket, &mut buffer[..most]) {
            Some((Said::Now { state, main, text, why, restarts }, _)) => {
                let changed = entry.status.state != state;
                if changed {
                    entry.status.since = Some(now());
                }
                entry.status = ServiceStatus {
                    state,
                    main_pid: main,
                    text,
                    why: why.clone(),
                    restarts,
                    unit: std::mem::take(&mut entry.status.unit),
                    description: std::mem::take(&mut entry.status.description),
                    since: entry.status.since,
                };
                if changed {
                    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                    self.note(name, &format!("{state}{why}"));
                }
            }
            Some((Said::Settled(failed), _)) => entry.settled = Some(failed),
            Some((Said::Reloaded(failed), _)) => entry.reloaded = Some(failed),
            None => {
                entry.monitor = None;
                if !matches!(entry.status.state, ServiceState::Inactive | ServiceState::Failed) {
                    entry.status.state = ServiceState::Failed;
                    entry.status.main_pid = None;
                    entry.status.since = Some(now());
                    entry.status.why = Some("its monitor was killed".into());
                }
            }
        }
    }

    fn spawn(&mut self, unit: Unit, vm: &str) -> Result<(), Errno> {
        let name = unit.name.clone();
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (pipe, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let pid = match process::fork()? {
            Fork::Parent(pid) => pid.as_raw_nonzero().get(),
            Fork::Child => {
                process::close_all_but(&[theirs.as_raw_fd(), output.as_raw_fd()]);
                let monitor = Monitor::new(unit, vm.to_owned(), theirs, output);
                let code = i32::from(monitor.map(Monitor::live).is_err());
                process::exit_now(code)
            }
        };
        drop((theirs, output));
        rustix::io::ioctl_fionbio(&pipe, true)?;
        self.serial += 1;
        let status = ServiceStatus {
            unit: name.to_string(),
            description: unit.description.clone(),
            state: ServiceState::Activating,
            since: Some(now()),
            ..ServiceStatus::default()
        };
        self.outputs.push(Output { unit: name.clone(), pipe, line: Vec::new() });
        let entry =
            Entry { status, unit, monitor: Some((pid, ours)), serial: self.serial, settled: None, reloaded: None };
        self.services.insert(name, entry);
        Ok(())
    }

    fn ask(&self, name: &UnitName, ask: Ask) {
        if let Some((_, socket)) = self.services.get(name).and_then(|e| e.monitor.as_ref()) {
            // One that is gone is heard of soon.
            let _gone = proto::write_packet(socket, &ask, &[]);
        }
    }

    fn lives(&self, name: &UnitName) -> bool {
        self.services.get(name).is_some_and(|e| e.monitor.is_some())
    }

    /// Running services among `names` and all that stop with them, the youngest first.
    fn with_dependents(&self, names: &[UnitName]) -> Vec<UnitName> {
        let mut chosen: BTreeSet<&UnitName> = names.iter().collect();
        loop {
            let more = |(name, e): (&'_ UnitName, &Entry)| {
                e.monitor.is_some() && !chosen.contains(name) && e.unit.stops_with.iter().any(|s| chosen.contains(s))
            };
            let Some(next) = self.services.iter().find(|(n, e)| more((n, e))).map(|(name, _)| name) else { break };
            chosen.insert(next);
        }
        let mut running: Vec<_> = chosen
            .into_iter()
            .filter_map(|n| self.services.get(n).filter(|e| e.monitor.is_some()).map(|e| (e.serial, n)))
            .collect();
        running.sort_unstable_by(|a, b| b.cmp(a));
        running.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// Stops all, the youngest first, one after the other; true when none is left.
    fn stop_everything(&mut self) -> bool {
        let all: Vec<UnitName> = self.services.keys().cloned().collect();
        match self.with_dependents(&all).first() {
            None => true,
            Some(name) => {
                if self.services.get(name).is_some_and(|e| e.status.state != ServiceState::Deactivating) {
                    self.ask(name, Ask::Stop);
                }
                false
            }
        }
    }

    // ---- requests

    fn take(&mut self, request: &ServiceRequest, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let (Some(answer), Some(log)) = (fds.next(), fds.next()) else { return };
        self.log = Some(Log::new(log));
        // A client that does not listen must not stop everybody else.
        let _unlimited = set_socket_timeout(&answer, Timeout::Send, Some(ANSWER_WAIT));
        let mut job = Job {
            answer,
            vm: request.vm.clone(),
            places: Places::new(&request.places),
            set: UnitSet::default(),
            steps: VecDeque::new(),
            current: None,
            shown: Vec::new(),
            failed: BTreeSet::new(),
            said: ServiceAnswer::default(),
        };
        let mut names = Vec::new();
        for text in &request.units {
            match UnitName::typed(text) {
                Ok(name) if name.kind() == UnitKind::Other => job.fail(&name, "fvm runs services only"),
                Ok(name) => names.push(job.places.canonical(&name)),
                Err(e) => job.said.failures.push(ServiceFailure { unit: text.clone(), why: e.to_string() }),
            }
        }
        job.shown.clone_from(&names);
        let facts = load::facts();
        match request.action {
            ServiceAction::Start => self.plan_start(&mut job, &names, &facts),
            ServiceAction::Stop => self.plan_stop(&mut job, &names, &facts),
            ServiceAction::Restart => {
                let stopped = self.with_dependents(&names);
                job.steps.extend(stopped.iter().cloned().map(Step::Stop));
                let again: Vec<UnitName> =
                    names.iter().cloned().chain(stopped.into_iter().filter(|n| !names.contains(n))).collect();
                job.shown.clone_from(&again);
                self.plan_start(&mut job, &again, &facts);
            }
            ServiceAction::Reload => {
                for name in names {
                    if self.lives(&name) {
                        job.steps.push_back(Step::Reload(name));
                    } else {
                        job.fail(&name, "it does not run");
                    }
                }
            }
            ServiceAction::Status => self.look(&mut job, names, &facts),
            ServiceAction::List if !names.is_empty() => self.look(&mut job, names, &facts),
            ServiceAction::List => {
                job.shown = job.places.all().into_iter().chain(self.services.keys().cloned()).collect();
                job.shown.sort();
                job.shown.dedup();
                for name in job.shown.clone() {
                    let status = self.status(&job.places, &name, &facts);
                    job.said.services.push(status);
                }
                job.shown.clear();
            }
        }
        self.jobs.push(job);
    }

    fn plan_start(&mut self, job: &mut Job, names: &[UnitName], facts: &Facts) {
        let (set, notices) = match job.places.load_all(names, facts) {
            Ok(loaded) => loaded,
            Err((unit, why)) => return job.fail(&unit, &why),
        };
        job.said.notices.extend(notices);
        let plan = match set.plan(names) {
            Ok(plan) => plan,
            Err(e) => {
                let all = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return job.said.failures.push(ServiceFailure { unit: all, why: e.to_string() });
            }
        };
        for name in &plan.order {
            let Some(unit) = set.get(name) else { continue };
            let ignored = unit.ignored_keys();
            if !ignored.is_empty() {
                job.said.notices.push(format!("{name}: fvm does not carry out: {}", ignored.join(", ")));
            }
            for enemy in unit.conflicts.iter().filter(|c| self.lives(c)) {
                job.steps.push_back(Step::Stop(enemy.clone()));
            }
            job.steps.push_back(Step::Start(name.clone()));
            if !job.shown.contains(name) {
                job.shown.push(name.clone());
            }
        }
        if !plan.not_run.is_empty() {
            let all = plan.not_run.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            job.said.notices.push(format!("asked for by these units, and no services, so not run: {all}"));
        }
        job.set = set;
    }

    fn plan_stop(&mut self, job: &mut Job, names: &[UnitName], facts: &Facts) {
        for name in names.iter().filter(|n| !self.services.contains_key(*n)) {
            match job.places.load(name, facts) {
                Ok(Some(_)) => {}
                Ok(None) => job.fail(name, "there is no such unit"),
                Err(why) => job.fail(name, &why),
            }
        }
        let stopped = self.with_dependents(names);
        job.shown.extend(stopped.iter().filter(|n| !names.contains(n)).cloned());
        job.steps.extend(stopped.into_iter().map(Step::Stop));
    }

    fn look(&mut self, job: &mut Job, names: Vec<UnitName>, facts: &Facts) {
        if names.is_empty() {
            job.shown = self.services.keys().cloned().collect();
            return;
        }
        for name in names.iter().filter(|n| !self.services.contains_key(*n)) {
            match job.places.load(name, facts) {
                Ok(Some(_)) => {}
                Ok(None) => job.fail(name, "there is no such unit"),
                Err(why) => job.fail(name, &why),
            }
        }
    }

    fn status(&self, places: &Places, name: &UnitName, facts: &Facts) -> ServiceStatus {
        self.services.get(name).map_or_else(
            || ServiceStatus {
                unit: name.to_string(),
                description: places.description(name, facts),
                ..ServiceStatus::default()
            },
            |entry| entry.status.clone(),
        )
    }

    // ---- jobs

    fn advance(&mut self) {
        let mut jobs = std::mem::take(&mut self.jobs);
        jobs.retain_mut(|job| !self.move_on(job));
        self.jobs = jobs;
    }

    /// Does as many steps as can be done; true when the job is over and answered.
    fn move_on(&mut self, job: &mut Job) -> bool {
        loop {
            if let Some(step) = &job.current {
                match self.result(step) {
                    None => return false,
                    Some(failed) => {
                        let (Step::Start(name) | Step::Stop(name) | Step::Reload(name)) = step.clone();
                        if let Some(why) = failed {
                            job.fail(&name, &why);
                        }
                        job.current = None;
                    }
                }
            }
            match job.steps.pop_front() {
                Some(step) => self.begin(job, step),
                None => {
                    self.answer(job);
                    return true;
                }
            }
        }
    }

    fn begin(&mut self, job: &mut Job, step: Step) {
        match &step {
            Step::Stop(name) => self.ask(name, Ask::Stop),
            Step::Reload(name) => {
                if let Some(entry) = self.services.get_mut(name) {
                    entry.reloaded = None;
                }
                self.ask(name, Ask::Reload);
            }
            Step::Start(name) => {
                let Some(unit) = job.set.get(name).cloned() else { return };
                if let Some(missing) = unit.requires.iter().find(|r| job.failed.contains(*r)) {
                    let why = format!("not started, because {missing} was not");
                    return job.fail(name, &why);
                }
                if self.lives(name) {
                    // Started by another job, or before: its end is ours.
                } else if self.stopping || (self.services.len() >= SERVICES_MAX && !self.services.contains_key(name)) {
                    return job.fail(name, "no more services can be started now");
                } else if let Err(e) = self.spawn(unit, &job.vm) {
                    return job.fail(name, &format!("cannot start its monitor: {e}"));
                }
            }
        }
        job.current = Some(step);
    }

    /// Whether a step is over, and why it failed.
    fn result(&self, step: &Step) -> Option<Option<String>> {
        let (Step::Start(name) | Step::Stop(name) | Step::Reload(name)) = step;
        let Some(entry) = self.services.get(name) else { return Some(None) };
        let gone = entry.monitor.is_none();
        match step {
            Step::Stop(_) => gone.then_some(None),
            Step::Start(_) if gone && entry.settled.is_none() => Some(entry.status.why.clone()),
            Step::Start(_) => entry.settled.clone(),
            Step::Reload(_) if gone && entry.reloaded.is_none() => Some(Some("it ended meanwhile".into())),
            Step::Reload(_) => entry.reloaded.clone(),
        }
    }

    fn answer(&mut self, job: &mut Job) {
        let facts = load::facts();
        for name in std::mem::take(&mut job.shown) {
            let failed_before = job.said.failures.iter().any(|f| f.unit == name.as_str());
            if self.services.contains_key(&name) || !failed_before {
                job.said.services.push(self.status(&job.places, &name, &facts));
            }
        }
        shorten(&mut job.said);
        let _client_left = proto::write_message(&job.answer, &job.said, &[]);
    }
}

impl Job {
    fn fail(&mut self, name: &UnitName, why: &str) {
        self.failed.insert(name.clone());
        self.said.failures.push(ServiceFailure { unit: name.to_string(), why: why.to_owned() });
    }
}

/// The lines that are whole, or too long, and how many bytes they take; at the end, what is left as well.
fn whole_lines(text: &[u8], at_end: bool) -> (Vec<&[u8]>, usize) {
    let (mut lines, mut taken) = (Vec::new(), 0);
    while let Some(rest) = text.get(taken..).filter(|rest| !rest.is_empty()) {
        let end = rest.iter().take(LINE_MAX_BYTES + 1).position(|b| *b == b'\n');
        let (len, skip) = match end {
            Some(end) => (end, 1),
            None if rest.len() > LINE_MAX_BYTES => (LINE_MAX_BYTES, 0),
            None if at_end => (rest.len(), 0),
            None => break,
        };
        lines.push(&rest[..len]);
        taken += len + skip;
    }
    (lines, taken)
}

/// Keeps an answer within what a client takes: texts first, then how many there are.
fn shorten(said: &mut ServiceAnswer) {
    let clip = |text: &mut String| {
        if let Some((end, _)) = text.char_indices().nth(TEXT_MAX_CHARS) {
            text.truncate(end);
        }
    };
    said.notices.iter_mut().for_each(clip);
    said.failures.iter_mut().for_each(|f| clip(&mut f.why));
    said.services.iter_mut().for_each(|s| clip(&mut s.description));
    let fits = |said: &ServiceAnswer| serde_json::to_vec(said).map_or(0, |text| text.len()) <= ANSWER_MAX_BYTES;
    while !fits(said) {
        let longest = said.services.len().max(said.failures.len()).max(said.notices.len());
        said.services.truncate(longest / 2);
        said.failures.truncate(longest / 2);
        said.notices.truncate(longest / 2);
        said.notices.push("there is more than can be shown".into());
        if longest < 4 {
            return;
        }
    }
}

fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_split_into_lines() {
        assert_eq!(whole_lines(b"a\n\nb", false), (vec![&b"a"[..], b""], 3));
        assert_eq!(whole_lines(b"a\nb", true), (vec![&b"a"[..], b"b"], 3));
        assert_eq!(whole_lines(b"", true), (vec![], 0));
        let long = vec![b'x'; LINE_MAX_BYTES + 5];
        assert_eq!(whole_lines(&long, false), (vec![&long[..LINE_MAX_BYTES]], LINE_MAX_BYTES));
    }

    #[test]
    fn an_answer_never_grows_over_what_a_client_takes() {
        let status =
            |n: usize| ServiceStatus { unit: n.to_string(), why: Some("x".repeat(900)), ..ServiceStatus::default() };
        let mut said = ServiceAnswer {
            services: (0..9000).map(status).collect(),
            notices: vec!["\u{1}".repeat(100_000); 300],
            failures: Vec::new(),
        };
        shorten(&mut said);
        assert!(serde_json::to_vec(&said).unwrap().len() <= ANSWER_MAX_BYTES);
        assert!(!said.services.is_empty() && said.notices.last().unwrap().contains("more than can be shown"));
    }
}
