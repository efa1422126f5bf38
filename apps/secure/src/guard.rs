//! The worker: decides about every thread that executes or opens a watched file.
//!
//! ```text
//!   main thread     next ─► one thread for each that waits, at most so many; the others queue
//!     its thread    /proc ─► rules ─► allow | refuse | redirect       (turns: fair among users)
//!   deadlines       whoever waited for too long is refused
//!   heart           the main thread did not turn for long: this process ends, and the kernel lets everybody go on
//!   watch           marks files (another thread)
//! ```
//!
//! Invariants: the main thread reads the events and asks whose they are, so no disk and no lock keeps it; it opens no watched file,
//! and what other threads of this process open is allowed at once; each that waits is answered exactly once, or when this
//! process ends, by the kernel.

use crate::redirect::{Redirected, redirect};
use crate::status::{self, Status};
use crate::task::{Call, FileId, Own, Task};
use crate::turns::Turns;
use crate::watch::Watch;
use crate::{Act, GuardError, GuardPolicy, Reads, rules};
use fvm::Fvm;
use fvm_sys::divert::{self, Environment, Program};
use fvm_sys::fanotify::{Asked, Group};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Nobody waits for longer.
const DEADLINE: Duration = Duration::from_secs(1);
/// The main thread turns at least so often.
const TURN: Duration = Duration::from_millis(500);
/// When it did not for so long, the process ends.
const HEART: Duration = Duration::from_secs(3);

/// What a guard needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it does.
    pub policy: GuardPolicy,
    /// Whether this kernel lets a waiting thread be redirected.
    pub redirects: bool,
    /// The directories of other books of marks, such as those of users.
    pub books: Vec<PathBuf>,
    /// Directories below which copies are looked for.
    pub watched: Vec<PathBuf>,
}

/// Something to tell.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// What all threads share.
pub(crate) struct Shared {
    pub group: Group,
    pub policy: GuardPolicy,
    redirects: bool,
    pub tell: Tell,
    pub status: Mutex<Status>,
    own: Own,
    waiting: Mutex<HashMap<RawFd, Instant>>,
    turns: Mutex<Turns<Asked>>,
    /// When the main thread turned last, in milliseconds since the beginning.
    turned_ms: AtomicU64,
    begun: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works until a signal ends it; `dir`: where it says how it is.
///
/// # Errors
/// When it cannot begin, or the kernel stops telling.
pub fn work(fvm: Fvm, dir: &Path, options: Options, tell: Tell) -> Result<(), GuardError> {
    if !rustix::process::geteuid().is_root() {
        return Err(GuardError::NotRoot);
    }
    // The supervisor's own are blocked in whatever it starts.
    fvm_sys::process::unblock_signals(&[&crate::supervise::ENDING[..], &[libc::SIGCHLD]].concat());
    // Half a guard would let others wait for the rest of it.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        die();
    }));
    // Whoever waits does not wait for a dump of our memory as well.
    let _dumped = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // Nobody starts it again, and it is in nobody's way.
    let _same = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // It may have died before that.
    if !status::is_held(dir) {
        return Err(GuardError::Alone);
    }
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let all = rustix::process::Rlimit { current: files, maximum: files };
    let _fewer = rustix::process::setrlimit(rustix::process::Resource::Nofile, all);
    let path = std::env::current_exe().map_err(GuardError::io("find", "/proc/self/exe"))?;
    let id = FileId::at(Path::new("/proc/self/exe")).map_err(GuardError::Kernel)?;
    let status = Status {
        running: true,
        worker: std::process::id().cast_signed(),
        supervisor: rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()),
        policy: options.policy,
        redirects: divert::KNOWN && options.redirects,
        ..Status::default()
    };
    let shared = Arc::new(Shared {
        group: Group::new().map_err(GuardError::Kernel)?,
        policy: options.policy,
        redirects: divert::KNOWN && options.redirects,
        tell,
        status: Mutex::new(status),
        own: Own { path, id },
        waiting: Mutex::default(),
        turns: Mutex::default(),
        turned_ms: AtomicU64::new(0),
        begun: Instant::now(),
    });
    let start = |name: &str, body: Box<dyn FnOnce() + Send>| {
        let started = std::thread::Builder::new().name(name.into()).spawn(body);
        started.map(drop).map_err(GuardError::io("start", format!("thread {name}")))
    };
    let (of, dir) = (Arc::clone(&shared), dir.to_owned());
    start("deadlines", Box::new(move || deadlines(&of, &dir)))?;
    let watch = Watch::new(Arc::clone(&shared), fvm, &options)?;
    start("watch", Box::new(move || watch.run()))?;
    events(&shared)
}

/// Ends this process at once: the kernel lets everybody go on.
fn die() -> ! {
    let _dead = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

fn events(shared: &Arc<Shared>) -> Result<(), GuardError> {
    let turn_ms = i64::try_from(TURN.as_millis()).unwrap_or(500);
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: turn_ms * 1_000_000 };
    loop {
        let now_ms = u64::try_from(shared.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        shared.turned_ms.store(now_ms, Ordering::Relaxed);
        match poll(&mut [PollFd::new(&shared.group, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(GuardError::Kernel(e)),
        }
        let next = match shared.group.next() {
            Ok(next) => next,
            Err(e @ Errno::PROTO) => return Err(GuardError::Kernel(e)),
            // It could not open the file for us, as when there are too many: it refused that one, and says why. No reason to
            // let all others go.
            Err(e) => {
                locked(&shared.status).refused += 1;
                (shared.tell)(&format!("refused: the kernel cannot ask about it: {e}"));
                continue;
            }
        };
        for asked in next {
            // Its own threads look at marked files, too.
            if Path::new(&format!("/proc/self/task/{}", asked.tid)).exists() {
                let _gone = shared.group.answer(asked.file.as_raw_fd(), true);
                continue;
            }
            locked(&shared.waiting).insert(asked.file.as_raw_fd(), Instant::now());
            locked(&shared.turns).push(Task::owner(asked.tid), asked);
            employ(shared);
        }
    }
}

/// Starts a thread for the next one whose turn it is, if there is one.
fn employ(shared: &Arc<Shared>) {
    let Some((owner, asked)) = locked(&shared.turns).next() else { return };
    let of = Arc::clone(shared);
    // Not in the thread's own hands until it is there: what is dropped unanswered waits, and its number is given to another.
    let slot = Arc::new(Mutex::new(Some(asked)));
    let taken = Arc::clone(&slot);
    let started = std::thread::Builder::new().name("decide".into()).spawn(move || {
        let asked = locked(&taken).take();
        if let Some(asked) = asked {
            decide(&of, asked);
        }
        locked(&of.turns).done(owner);
        // A new thread: the kernel lets go what this one traces when it ends.
        employ(&of);
    });
    if started.is_err() {
        let asked = locked(&slot).take();
        if let Some(asked) = asked {
            let file = asked.file.as_raw_fd();
            if locked(&shared.waiting).remove(&file).is_some() {
                let _gone = shared.group.answer(file, false);
                locked(&shared.status).late += 1;
            }
        }
        locked(&shared.turns).done(owner);
    }
}

/// Refuses whoever waited too long, looks after the main thread, and says how the guard is.
fn deadlines(shared: &Shared, dir: &Path) {
    const LOOK: Duration = Duration::from_millis(50);
    let mut told = Status::default();
    loop {
        std::thread::sleep(LOOK);
        let turned = Duration::from_millis(shared.turned_ms.load(Ordering::Relaxed));
        if shared.begun.elapsed().saturating_sub(turned) > HEART {
            die();
        }
        let mut late = 0;
        locked(&shared.waiting).retain(|file, since| {
            let in_time = since.elapsed() < DEADLINE;
            if !in_time {
                late += 1;
                let _gone = shared.group.answer(*file, false);
            }
            in_time
        });
        {
            let waiting = locked(&shared.waiting);
            locked(&shared.turns).retain(|asked| waiting.contains_key(&asked.file.as_raw_fd()));
        }
        let now = {
            let mut status = locked(&shared.status);
            status.late += late;
            status.clone()
        };
        if now != told {
            // Nobody's life depends on it.
            let _unwritten = status::write(dir, &now);
            told = now;
        }
    }
}

enum Verdict {
    Allow,
    Refuse(String),
    Redirect(Box<Program>),
}

/// Answers one that waits.
fn decide(shared: &Shared, asked: Asked) {
    let file = asked.file.as_raw_fd();
    // Whoever takes it out of the table answers.
    let answer = |allow| {
        let mine = locked(&shared.waiting).remove(&file).is_some();
        if mine {
            let _gone = shared.group.answer(file, allow);
        }
        mine
    };
    let place = std::fs::read_link(format!("/proc/self/fd/{file}")).unwrap_or_default();
    let shown = fvm::model::path::printable(place.as_os_str().as_encoded_bytes());
    let (task, verdict) = match Task::of(asked.tid) {
        Ok(task) => {
            let verdict = judge(shared, &task, &asked, &place);
            (Some(task), verdict.unwrap_or_else(|e| Verdict::Refuse(format!("it cannot be looked at: {e}"))))
        }
        Err(e) => (None, Verdict::Refuse(format!("it cannot be looked at: {e}"))),
    };
    let count = |of: &dyn Fn(&mut Status) -> &mut u64| *of(&mut locked(&shared.status)) += 1;
    let pid = task.as_ref().map_or(asked.tid, |task| task.pid);
    match (verdict, task) {
        (Verdict::Allow, _) => {
            answer(true);
            count(&|s| &mut s.allowed);
        }
        (Verdict::Redirect(program), Some(task)) => {
            match redirect(&task, &program, Instant::now() + DEADLINE, || answer(false)) {
                Redirected::Done => {
                    count(&|s| &mut s.redirected);
                    (shared.tell)(&format!("process {pid}: {shown} runs in a VM"));
                }
                Redirected::Refused(errno @ (Errno::TIMEDOUT | Errno::CANCELED)) => {
                    // Whoever was quicker counted it.
                    if errno == Errno::TIMEDOUT {
                        count(&|s| &mut s.late);
                    }
                    (shared.tell)(&format!("process {pid}: {shown} refused: to take it to a VM took too long"));
                }
                Redirected::Refused(errno) => {
                    count(&|s| &mut s.refused);
                    (shared.tell)(&format!("process {pid}: {shown} refused: it could not be taken to a VM: {errno}"));
                }
            }
        }
        (Verdict::Refuse(why), _) => {
            answer(false);
            count(&|s| &mut s.refused);
            (shared.tell)(&format!("process {pid}: {shown} refused: {why}"));
        }
        (Verdict::Redirect(_), None) => drop(answer(false)),
    }
    // Not before: its number names the event.
    drop(asked);
}

fn judge(shared: &Shared, task: &Task, asked: &Asked, place: &Path) -> Result<Verdict, Errno> {
    if task.in_vm(&shared.own) {
        return Ok(Verdict::Allow);
    }
    let file = FileId::of(&asked.file)?;
    if asked.executes {
        return executed(shared, task, file, place);
    }
    let (program, id) = task.program()?;
    let call = task.call()?;
    if shared.own.is(id) || call == Call::OpenToWrite {
        return Ok(Verdict::Allow);
    }
    let refused = |why: &str| Ok(Verdict::Refuse(why.into()));
    if shared.policy.reads == Reads::Refuse {
        return refused("marked files are not read on the host");
    }
    if shared.policy.reads == Reads::Interpreters {
        let preloaded = rules::preloaded(&task.environment()?);
        if preloaded.iter().any(|path| task.file(path) == Ok(file)) {
            return refused("it would be loaded into a program of the host");
        }
    }
    if !rules::is_interpreter(&program) {
        return Ok(Verdict::Allow);
    }
    let argv = task.arguments()?;
    let is_script = rules::script(&program, &argv).filter(|at| task.file(&argv[*at]) == Ok(file)).is_some();
    match (is_script, shared.policy.run) {
        (true, Act::Redirect) if call == Call::Open => {
            let interpreter = interpreter(task, &program, id, argv.first());
            let words = [interpreter].into_iter().chain(argv.into_iter().skip(1));
            let environment = Environment::Texts(task.environment_texts()?);
            instead(shared, task, words.collect(), environment)
        }
        (true, _) => refused("marked scripts run in VMs only"),
        (false, _) if shared.policy.reads == Reads::Interpreters && is_program(&asked.file, place) => {
            refused("an interpreter would read it")
        }
        (false, _) => Ok(Verdict::Allow),
    }
}

/// Whether a file looks like what is run: what a script reads besides may be anything.
fn is_program(file: &OwnedFd, place: &Path) -> bool {
    let mut head = [0; 4];
    // What cannot be read here may be one.
    let Ok(len) = rustix::io::pread(file, &mut head[..], 0) else { return true };
    let mode = rustix::fs::fstat(file).map_or(0o777, |stat| stat.st_mode);
    rules::is_program(&head[..len], mode, place.file_name().unwrap_or_default())
}

/// One that executes the file itself.
fn executed(shared: &Shared, task: &Task, file: FileId, place: &Path) -> Result<Verdict, Errno> {
    if shared.policy.run == Act::Refuse {
        return Ok(Verdict::Refuse("marked programs run in VMs only".into()));
    }
    let Call::Exec { file: called, is_path, argv, environment } = task.call()? else {
        return Ok(Verdict::Refuse("it is executed in a way that is not known".into()));
    };
    // The kernel opens the loader and the interpreter of another program in the same call, when it is too late to stop it:
    // it holds a lock then that whoever traces it needs.
    if task.file(&called) != Ok(file) {
        return Ok(Verdict::Refuse("it is part of another program, or not reached by a path that is known".into()));
    }
    // What leads through a process means something else to another one.
    let inner = [&b"/proc/"[..], b"/dev/"].iter().any(|dir| called.as_encoded_bytes().starts_with(dir));
    let program = if is_path && !inner {
        called
    } else if task.file(place.as_os_str()) == Ok(file) {
        place.as_os_str().to_owned()
    } else {
        return Ok(Verdict::Refuse("it is not reached by a path".into()));
    };
    // By name alone it would be looked for in PATH.
    let program = if program.as_encoded_bytes().contains(&b'/') {
        program
    } else {
        let mut here = OsString::from("./");
        here.push(program);
        here
    };
    let words = [program].into_iter().chain(task.texts(argv)?.into_iter().skip(1)).collect();
    instead(shared, task, words, Environment::At(environment))
}

/// What runs `words` in a VM, if this task may run that.
fn instead(shared: &Shared, task: &Task, words: Vec<OsString>, environment: Environment) -> Result<Verdict, Errno> {
    if let Some(why) = task.untouchable() {
        return Ok(Verdict::Refuse(why.into()));
    }
    if !shared.redirects {
        return Ok(Verdict::Refuse("programs cannot be redirected on this kernel or kind of machine".into()));
    }
    if !task.file(shared.own.path.as_os_str()).is_ok_and(|fvm| shared.own.is(fvm)) {
        return Ok(Verdict::Refuse("it sees another file system, without fvm".into()));
    }
    let argv = ["fvm", "run", "--marked", "--"].map(OsString::from).into_iter().chain(words).collect();
    Ok(Verdict::Redirect(Box::new(Program { path: shared.own.path.clone().into(), argv, environment })))
}

/// An interpreter by a name under which a VM finds the same one: what it is called may decide what it does.
fn interpreter(task: &Task, program: &OsStr, id: FileId, called: Option<&OsString>) -> OsString {
    let base = |path: &OsStr| Path::new(path).file_name().map(OsStr::to_owned);
    let called = called.filter(|called| base(called) != base(program));
    let places = called.into_iter().flat_map(|called| {
        let dirs: &[&str] =
            if called.as_encoded_bytes().contains(&b'/') { &[""] } else { &["/usr/local/bin", "/usr/bin", "/bin"] };
        dirs.iter().map(move |dir| Path::new(dir).join(called).into_os_string())
    });
    places.into_iter().find(|place| task.file(place) == Ok(id)).unwrap_or_else(|| program.to_owned())
}
