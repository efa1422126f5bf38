//! `fvm webtest run`, `worker`: a [`Runner`], its signals, and who visits.

use super::progress::Shown;
use super::{DONE, FAILED, Failure, places, say};
use crate::visitor::{self, Parts};
use fvm_webtest::args::{Global, Here, Run, Work};
use fvm_webtest::db::{self, Chosen, Queue, Versions};
use fvm_webtest::report;
use fvm_webtest::runner::{self, Finished, Runner, Times};
use fvm_webtest::store::Store;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// An idle worker asks so often for work.
const IDLE: Duration = Duration::from_secs(2);

pub fn run(global: &Global, args: &Run) -> Result<u8, Failure> {
    // First, while there is one thread: see [`visitor::Parts`].
    let parts = if args.begin { None } else { Some(Parts::new(global)?) };
    let signals = signals()?;
    let queue = places::db(global, false)?;
    let run = match &args.resume {
        Some(id) => {
            let id = if id == "last" { None } else { Some(id.parse().map_err(|_| no_run(id))?) };
            queue.run(id)?
        }
        None => {
            let (params, chosen) = match args.like {
                Some(id) => {
                    let like = queue.run(Some(id))?;
                    (like.params, like.chosen)
                }
                None => {
                    let chosen = Chosen { tags: args.tag.clone(), due: args.due, limit: args.limit };
                    (args.visits.params(), chosen)
                }
            };
            // What cannot visit begins no run.
            let browser = parts.as_ref().map(|parts| parts.browser(&params)).transpose()?;
            queue.begin(&params, &versions(browser), &chosen)?
        }
    };
    let Some(parts) = parts else {
        println!("{}", run.id);
        return Ok(DONE);
    };
    if run.ended_ms.is_some() {
        say(global, &format!("run {} has ended: each of its {} sites has a result", run.id, run.total));
        return Ok(DONE);
    }
    let store = places::store(global)?;
    let finished = work(global, &parts, &*queue, &*store, &run, &args.here, &signals)?;
    say(global, &report::speed(&*queue, &run)?.line());
    match finished {
        Finished::Done => {
            say(global, &format!("run {} is done: 'fvm webtest report --run {} --to DIR' shows it", run.id, run.id));
            Ok(DONE)
        }
        Finished::Stopped => {
            say(global, &format!("run {} is not done: 'fvm webtest run --resume {}' goes on", run.id, run.id));
            Ok(FAILED)
        }
    }
}

fn no_run(id: &str) -> Failure {
    Failure::new(format!("'{id}' is no number of a run"), "'fvm webtest status' lists the runs")
}

pub fn worker(global: &Global, args: &Work) -> Result<u8, Failure> {
    let parts = Parts::new(global)?;
    let signals = signals()?;
    let queue = places::db(global, false)?;
    let store = places::store(global)?;
    let stopped = || signals.load(Ordering::Relaxed) > 0;
    loop {
        let open = open(&*queue, args.run)?;
        let idle = open.is_empty();
        for run in open {
            let finished = work(global, &parts, &*queue, &*store, &run, &args.here, &signals)?;
            if finished == Finished::Done {
                say(global, &format!("run {} is done", run.id));
            }
            if stopped() {
                say(global, "stopped");
                return Ok(DONE);
            }
        }
        if idle && args.until_done {
            return Ok(DONE);
        }
        let began = std::time::Instant::now();
        while idle && began.elapsed() < IDLE && !stopped() {
            std::thread::sleep(Duration::from_millis(100));
        }
        if stopped() {
            return Ok(DONE);
        }
    }
}

/// Runs that are open, the oldest first; of a database that is away for a moment none.
fn open(queue: &dyn Queue, only: Option<i64>) -> Result<Vec<db::Run>, Failure> {
    let runs = match queue.runs() {
        Err(e) if e.passes() => return Ok(Vec::new()),
        runs => runs?,
    };
    Ok(runs.into_iter().rev().filter(|run| run.ended_ms.is_none() && only.is_none_or(|id| id == run.id)).collect())
}

fn work(
    global: &Global,
    parts: &Parts,
    queue: &dyn Queue,
    store: &dyn Store,
    run: &db::Run,
    here: &Here,
    signals: &AtomicUsize,
) -> Result<Finished, Failure> {
    let machine = runner::machine();
    let concurrent = here
        .concurrent
        .or(run.params.concurrent)
        .unwrap_or_else(|| runner::concurrent(&run.params, machine))
        .min(u32::try_from(run.total).unwrap_or(u32::MAX));
    let buried = runner::bury_the_dead(queue, run)?;
    if buried.queued + buried.dead > 0 {
        say(global, &format!("{} sites of workers that ended are queued again", buried.queued));
    }
    let visitor = visitor::visitor(parts, &run.params, &here.out)?;
    let runner = Runner {
        queue,
        store,
        visitor: &*visitor.visits,
        judge: &*visitor.judges,
        run,
        me: runner::worker(run, concurrent, machine.cores),
        times: Times {
            lease: Duration::from_secs(here.lease.max(1)),
            drain: Duration::from_secs(here.drain),
            ..Times::default()
        },
    };
    let many = || u32::try_from(signals.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
    let finished = runner.work(&many, &Shown::new(global));
    drop(visitor);
    // Also of one that still was ending when this began.
    parts.sweep();
    Ok(finished?)
}

/// Counts SIGINT and SIGTERM.
pub fn signals() -> Result<Arc<AtomicUsize>, Failure> {
    let count = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM] {
        let count = Arc::clone(&count);
        install(signal, count).map_err(|e| Failure::new(format!("cannot handle signal {signal}: {e}"), "try again"))?;
    }
    Ok(count)
}

fn install(signal: i32, count: Arc<AtomicUsize>) -> std::io::Result<()> {
    // A thread of its own: a handler that does more than a flag's worth is unsafe.
    let mut arrivals = signal_hook::iterator::Signals::new([signal])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in arrivals.forever() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    Ok(())
}

fn versions(browser: Option<String>) -> Versions {
    Versions {
        fvm: env!("CARGO_PKG_VERSION").into(),
        browser,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    }
}
