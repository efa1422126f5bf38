//! One program of a service: its user, its environment, its limits, its start.
//!
//! ```text
//!   monitor ─ fork ─► child: session, streams, limits, user, directory ─ exec ─► program
//!      ◄───────────────── (step, error) when that fails; nothing when it is executed ──┘
//! ```
//!
//! Invariants: the program gets descriptors 0, 1, 2 and no other, default signals and an unblocked mask; a step that fails
//! is told by name.

use super::load::read_small;
use super::users::{self, User};
use fvm_service::command::{Command, Environment};
use fvm_service::envfile;
use fvm_service::limits::FILE_MAX_BYTES;
use fvm_service::service::{DIRECTORY_KINDS, Open, Service, Stream};
use fvm_sys::process::Fork;
use fvm_sys::{ids, process};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where programs are looked up, and what they get as `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a child may take to execute its program: it opens files that the VM prepared.
const EXEC_TIMEOUT_S: i64 = 30;

/// As whom a service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: User,
    /// The group.
    pub gid: u32,
    /// All others.
    pub groups: Vec<u32>,
    /// It is somebody else than the VM's own user.
    pub differs: bool,
}

/// As whom `service` runs, by the VM's own files.
///
/// # Errors
/// In words.
pub fn identity(service: &Service) -> Result<Identity, String> {
    let (own_uid, own_gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let own = || {
        let unnamed = User { uid: own_uid, gid: own_gid, home: "/".into(), ..User::default() };
        users::user(&own_uid.to_string()).unwrap_or(unnamed)
    };
    let user = match &service.user {
        None => own(),
        Some(name) => users::user(name).ok_or_else(|| format!("User={name}: there is no such user in the VM"))?,
    };
    let group = |name: &String| users::group(name).ok_or_else(|| format!("there is no group '{name}' in the VM"));
    let gid = match &service.group {
        None if user.uid == own_uid => own_gid,
        None => user.gid,
        Some(name) => group(name)?,
    };
    let mut groups = service.groups.iter().map(group).collect::<Result<Vec<_>, _>>()?;
    let differs = user.uid != own_uid || gid != own_gid || !groups.is_empty();
    if differs && own_uid != 0 {
        return Err(format!("it wants another user or group, and a rootless VM has only user {own_uid}"));
    }
    if service.user.is_some() {
        groups.extend(users::groups_of(&user.name));
    }
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { user, gid, groups, differs })
}

/// The variables of a program of `service`: what everyone gets, its own, those of its files, `more`.
///
/// # Errors
/// In words.
pub fn environment(
    service: &Service,
    identity: &Identity,
    vm: &str,
    more: &Environment,
) -> Result<Environment, String> {
    let mut variables = Environment::new();
    let mut set = |name: &str, value: &[u8]| drop(variables.insert(name.as_bytes().to_vec(), value.to_vec()));
    set("PATH", PATH.as_bytes());
    set("FVM", vm.as_bytes());
    set("SYSTEMD_OFFLINE", b"1");
    let user = &identity.user;
    for (name, value) in [("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name), ("SHELL", &user.shell)] {
        if !value.is_empty() && (service.user.is_some() || name == "HOME") {
            set(name, value.as_bytes());
        }
    }
    for (directories, (_, base, variable)) in service.directories.iter().zip(DIRECTORY_KINDS) {
        let paths: Vec<_> = directories.names.iter().map(|name| [base.as_bytes(), b"/", name].concat()).collect();
        if !paths.is_empty() {
            set(variable, &paths.join(&b':'));
        }
    }
    variables.extend(service.environment.clone());
    for file in &service.environment_files {
        let shown = fvm_model::path::printable(&file.path);
        match read_small(Path::new(OsStr::from_bytes(&file.path)), FILE_MAX_BYTES) {
            Ok(text) => variables.extend(envfile::parse(&text).map_err(|e| format!("{shown}: {e}"))?),
            Err(_) if file.optional => {}
            Err(e) => return Err(format!("cannot read {shown}: {e}")),
        }
    }
    variables.extend(more.clone());
    for name in &service.unset {
        variables.remove(name);
    }
    Ok(variables)
}

/// Starts `command`. Returns when its program is executed.
///
/// # Errors
/// In words: the step that failed, and why.
pub fn spawn(
    service: &Service,
    command: &Command,
    identity: &Identity,
    environment: &Environment,
    log: BorrowedFd<'_>,
) -> Result<i32, String> {
    let program = fvm_model::path::printable(&command.program);
    let arguments = command.arguments(environment).map_err(|e| format!("{program}: {e}"))?;
    let failed = |step: &str, e: Errno| format!("cannot {step} for {program}: {e}");
    let (result, report) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed("make a pipe", e))?;
    match process::fork().map_err(|e| failed("fork", e))? {
        Fork::Child => {
            let started = Start { service, command, identity, environment, log, report: &report };
            let (step, error) = started.become_program(&arguments);
            let mut said = vec![step as u8];
            said.extend(error.raw_os_error().to_le_bytes());
            let _monitor_is_gone = rustix::io::write(&report, &said);
            process::exit_now(203)
        }
        Fork::Parent(pid) => {
            drop(report);
            let pid = pid.as_raw_nonzero().get();
            let mut said = [0u8; 5];
            let timeout = rustix::time::Timespec { tv_sec: EXEC_TIMEOUT_S, tv_nsec: 0 };
            let mut polled = [PollFd::new(&result, PollFlags::IN)];
            let in_time = poll(&mut polled, Some(&timeout)).is_ok_and(|n| n > 0);
            let len = if in_time { rustix::io::read(&result, &mut said[..]).unwrap_or(0) } else { usize::MAX };
            if len == 0 {
                return Ok(pid);
            }
            super::tree::signal_one(pid, rustix::process::Signal::KILL.as_raw());
            let _collected = process::wait_blocking(pid, false);
            // The stub says just the number: it only executes.
            let (step, errno) = match len {
                5 => (Step::ALL.get(usize::from(said[0])).map_or("start", |s| s.text()), &said[1..]),
                4 => (Step::Execute.text(), &said[..4]),
                _ => return Err(failed("start", Errno::TIMEDOUT)),
            };
            let errno = errno.iter().rev().fold(0i32, |number, byte| number << 8 | i32::from(*byte));
            Err(failed(step, Errno::from_raw_os_error(errno)))
        }
    }
}

/// What a child does before it is the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Streams,
    Limits,
    User,
    Directory,
    Privileges,
    Execute,
}

impl Step {
    const ALL: [Self; 6] = [Self::Streams, Self::Limits, Self::User, Self::Directory, Self::Privileges, Self::Execute];

    fn text(self) -> &'static str {
        match self {
            Self::Streams => "open the streams (StandardOutput=, StandardError=)",
            Self::Limits => "set the limits (Limit…=)",
            Self::User => "become the user (User=, Group=)",
            Self::Directory => "enter the directory (WorkingDirectory=)",
            Self::Privileges => "give up privileges (NoNewPrivileges=)",
            Self::Execute => "execute the program",
        }
    }
}

struct Start<'a> {
    service: &'a Service,
    command: &'a Command,
    identity: &'a Identity,
    environment: &'a Environment,
    log: BorrowedFd<'a>,
    report: &'a OwnedFd,
}

impl Start<'_> {
    fn become_program(&self, arguments: &[Vec<u8>]) -> (Step, Errno) {
        let prepare = || -> Result<(), (Step, Errno)> {
            let at = |step| move |e| (step, e);
            let _leader = rustix::process::setsid();
            self.streams().map_err(at(Step::Streams))?;
            process::close_all_but(&[self.report.as_raw_fd()]);
            self.limits().map_err(at(Step::Limits))?;
            rustix::process::umask(Mode::from_raw_mode(self.service.umask));
            let identity = self.identity;
            if identity.differs && !self.command.privileged {
                ids::become_user(identity.user.uid, identity.gid, &identity.groups).map_err(at(Step::User))?;
            }
            self.directory().map_err(at(Step::Directory))?;
            if self.service.no_new_privileges {
                rustix::thread::set_no_new_privs(true).map_err(at(Step::Privileges))?;
            }
            Ok(())
        };
        if let Err(failed) = prepare() {
            return failed;
        }
        process::default_signals();
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
        let argv = arguments.iter().map(|a| text(a)).collect::<Result<Vec<_>, _>>();
        let variable = |(k, v): (&Vec<u8>, &Vec<u8>)| text(&[k.as_slice(), b"=", v].concat());
        let env = self.environment.iter().map(variable).collect::<Result<Vec<_>, _>>();
        let error = match (text(&self.command.program), argv, env) {
            (Ok(path), Ok(argv), Ok(env)) => fvm_sys::exec::execute(&path, &argv, &env, self.report.as_fd()),
            _ => Errno::INVAL,
        };
        (Step::Execute, error)
    }

    fn streams(&self) -> Result<(), Errno> {
        let null = fs::open("/dev/null", OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let open = |path: &[u8], how: Open| {
            let more = match how {
                Open::Keep => OFlags::empty(),
                Open::Append => OFlags::APPEND,
                Open::Truncate => OFlags::TRUNC,
            };
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOCTTY | OFlags::CLOEXEC | more;
            fs::open(OsStr::from_bytes(path), flags, Mode::from_raw_mode(0o644))
        };
        process::install_stdio(null.as_raw_fd(), 0)?;
        for (target, stream) in [(1, &self.service.output), (2, &self.service.error)] {
            match stream {
                Stream::Log => process::install_stdio(self.log.as_raw_fd(), target)?,
                Stream::Inherit if target == 2 => {
                    process::install_stdio(1, 2)?;
                }
                Stream::Null | Stream::Inherit => process::install_stdio(null.as_raw_fd(), target)?,
                Stream::File { path, how } => process::install_stdio(open(path, *how)?.as_raw_fd(), target)?,
            }
        }
        Ok(())
    }

    fn limits(&self) -> Result<(), Errno> {
        for limit in &self.service.limits {
            let Some(resource) = resource(limit.resource) else { continue };
            match rustix::process::setrlimit(resource, Rlimit { current: limit.soft, maximum: limit.hard }) {
                // Only the host's root may raise a hard limit: as near as can be, as systemd does it.
                Err(Errno::PERM) => {
                    let most = rustix::process::getrlimit(resource).maximum;
                    let near = |wish: Option<u64>| wish.into_iter().chain(most).min();
                    let nearest = Rlimit { current: near(limit.soft), maximum: near(limit.hard) };
                    rustix::process::setrlimit(resource, nearest)?;
                }
                other => other?,
            }
        }
        if let Some(nice) = self.service.nice
            && rustix::process::setpriority_process(None, nice).is_err()
        {
            self.remark("Nice= was refused: the VM may not do that");
        }
        if let Some(score) = self.service.oom_score
            && std::fs::write("/proc/self/oom_score_adj", score.to_string()).is_err()
        {
            self.remark("OOMScoreAdjust= was refused: the VM may not do that");
        }
        Ok(())
    }

    /// A line of our own in the service's log.
    fn remark(&self, text: &str) {
        let _nobody_reads = rustix::io::write(rustix::stdio::stderr(), format!("fvm: {text}\n").as_bytes());
    }

    fn directory(&self) -> Result<(), Errno> {
        let Some(wanted) = &self.service.cwd else { return rustix::process::chdir("/") };
        let path = wanted.path.as_deref().unwrap_or(self.identity.user.home.as_bytes());
        match rustix::process::chdir(OsStr::from_bytes(path)) {
            Err(_) if wanted.optional => rustix::process::chdir("/"),
            other => other,
        }
    }
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "CPU" => Resource::Cpu,
        "FSIZE" => Resource::Fsize,
        "DATA" => Resource::Data,
        "STACK" => Resource::Stack,
        "CORE" => Resource::Core,
        "RSS" => Resource::Rss,
        "NOFILE" => Resource::Nofile,
        "AS" => Resource::As,
        "NPROC" => Resource::Nproc,
        "MEMLOCK" => Resource::Memlock,
        "LOCKS" => Resource::Locks,
        "SIGPENDING" => Resource::Sigpending,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        _ => return None,
    })
}
