//! `fvm webtest crawl`, `mirror`: WARC files, made and served.

use super::{DONE, Failure, json, run, say};
use fvm_webtest::args::Global;
use fvm_webtest::crawl::{self, Progress};
use fvm_webtest::net::args::{CrawlArgs, MirrorArgs};
use fvm_webtest::net::mirror;
use fvm_webtest::net::proxy::local::Local;
use fvm_webtest::net::proxy::{Limits, Way};
use fvm_webtest::report::escape;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A flag that becomes true with the first signal.
fn stop() -> Result<Arc<AtomicBool>, Failure> {
    let (signals, stop) = (run::signals()?, Arc::new(AtomicBool::new(false)));
    let (of_thread, pause) = (Arc::clone(&stop), Duration::from_millis(50));
    let wait = move |signals: Arc<AtomicUsize>| {
        while signals.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(pause);
        }
        of_thread.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("stop".into()).spawn(move || wait(signals))?;
    Ok(stop)
}

pub fn crawl(global: &Global, args: &CrawlArgs) -> Result<u8, Failure> {
    let stop = stop()?;
    let failed = |e: crawl::CrawlError| Failure::of(e.to_string(), None);
    let record = args.out.record(&args.dir).map_err(failed)?;
    let terminal = io::stderr().is_terminal() && !global.quiet;
    let mut tell = |progress: &Progress| {
        if global.json {
            let _closed = json(progress);
        } else if terminal {
            let _closed = write!(io::stderr(), "\r\x1b[2K{}", line(progress));
        }
    };
    let told = crawl::crawl(record, &args.begin, &args.scope(), args.limits(), &stop, &mut tell).map_err(failed)?;
    if terminal && !global.json {
        let _closed = writeln!(io::stderr());
    }
    for (url, why) in told.errors.iter().take(20) {
        say(global, &format!("{}: {}", escape::terminal(url), escape::terminal(why)));
    }
    if global.json {
        json(&told)?;
    } else {
        println!("{}", line(&told));
    }
    if stop.load(Ordering::Relaxed) {
        say(global, "not done: the same command goes on");
    }
    say(
        global,
        &format!(
            "'fvm webtest import {0}' takes its pages, 'fvm webtest run --replay {0}' visits them",
            args.dir.display()
        ),
    );
    Ok(DONE)
}

fn line(told: &Progress) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mib = told.bytes as f64 / f64::from(1 << 20);
    let left_out: u64 = told.left_out.values().sum();
    format!(
        "{} pages, {} parts, {mib:.1} MiB; {} wait, {} failed, {left_out} left out",
        told.pages, told.parts, told.waiting, told.failed
    )
}

pub fn mirror(global: &Global, args: &MirrorArgs) -> Result<u8, Failure> {
    let stop = stop()?;
    let failed = |e: mirror::MirrorError| Failure::of(e.to_string(), None);
    let replay = mirror::way(&args.dir).map_err(failed)?;
    for why in &replay.set.complaints {
        say(global, &escape::terminal(why));
    }
    let certificate = replay.authority.certificate();
    // One client stands for all of a person's visits: as many bytes as they like.
    let limits = Limits { vm_max_bytes: u64::MAX, connections: 1024, ..Limits::default() };
    let mirror = Local::serve(Way::Replay(replay), args.listen, limits).map_err(|e| failed(e.into()))?;
    if let Some(file) = &args.certificate {
        let hint = "name another file with --certificate";
        std::fs::write(file, certificate)
            .map_err(|e| Failure::new(format!("cannot write {}: {e}", file.display()), hint))?;
    }
    if global.json {
        json(&serde_json::json!({"proxy": mirror.at}))?;
    } else {
        println!("HTTP proxy at {}, until it is interrupted", mirror.at);
    }
    mirror.wait(&stop);
    Ok(DONE)
}
