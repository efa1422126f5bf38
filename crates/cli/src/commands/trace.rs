//! `trace`: what the programs of a VM did.

use crate::Done;
use crate::args::Trace;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::origin as render;
use fvm::model::event::Event;
use fvm::model::{Timestamp, VmRecord, VmState, exit};
use fvm::{Filter, Fvm, Integrity, ProcessEnded, Tree, ecs};
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often it is looked for more.
const PAUSE: Duration = Duration::from_millis(100);

/// `fvm trace`.
pub fn trace(fvm: &Fvm, out: &Output, args: &Trace) -> Done {
    let record = fvm.find(&args.name)?;
    let filter = Filter {
        kinds: args.kind.clone(),
        processes: args.process.clone(),
        paths: args.path.clone(),
        since: args.since.map(|span| before(span.ms)),
    };
    filter.check().map_err(|e| Failure::usage(e.to_string(), "for example: --kind exec --kind network"))?;
    let mut log = fvm.events(&record)?;
    let mut tree = Tree::default();
    let mut wanted: Vec<Event> = Vec::new();
    loop {
        // What was written before is there to be read after.
        let runs = fvm.state(&record)? != VmState::Stopped;
        let whole = log.read(&mut |event| {
            tree.add(&event);
            if filter.passes(&event, &tree) {
                wanted.push(event);
            }
        });
        let whole = whole.map_err(fvm::FvmError::from)?;
        if args.tree {
            print_tree(out, &tree, &wanted)?;
        } else if !print(out, args.ecs, &wanted)? {
            return Ok(exit::DONE);
        }
        wanted.clear();
        if !args.follow || !runs {
            tell(out, &record, &whole, runs);
            return Ok(exit::DONE);
        }
        std::thread::sleep(PAUSE);
    }
}

fn before(ms: u64) -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = now.saturating_sub(Duration::from_millis(ms));
    Timestamp { secs: i64::try_from(at.as_secs()).unwrap_or(i64::MAX), nanos: at.subsec_nanos() }
}

/// Whether anybody still reads.
fn print(out: &Output, ecs: bool, events: &[Event]) -> io::Result<bool> {
    let mut w = io::BufWriter::new(io::stdout().lock());
    let mut all = || -> io::Result<()> {
        for event in events {
            if ecs {
                serde_json::to_writer(&mut w, &ecs::event(event, &render::rfc3339(event.ts)))?;
                writeln!(w)?;
            } else if out.json() {
                serde_json::to_writer(&mut w, event)?;
                writeln!(w)?;
            } else {
                writeln!(w, "{}", render::event(event))?;
            }
        }
        w.flush()
    };
    match all() {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            // What is still buffered has no reader.
            let _unread = w.into_parts();
            Ok(false)
        }
        done => done.map(|()| true),
    }
}

/// The processes of which there are wanted events, and those that they came from.
fn print_tree(out: &Output, tree: &Tree, wanted: &[Event]) -> io::Result<()> {
    let mut shown = std::collections::BTreeSet::new();
    for event in wanted {
        let mut at = tree.get(event.process());
        while let Some(node) = at.filter(|node| shown.insert(node.key)) {
            at = node.parent.and_then(|parent| tree.get(parent));
        }
    }
    let last = u64::MAX;
    let walked = tree.walk();
    let nodes = walked.iter().filter(|(_, node)| shown.contains(&node.key));
    if out.json() {
        let nodes: Vec<_> = nodes
            .map(|(depth, node)| {
                let program = node.program_at(last);
                serde_json::json!({
                    "depth": depth, "tgid": node.key.tgid, "start_ns": node.key.start_ns,
                    "parent": node.parent, "by_session": node.by_session, "exe": program.exe, "argv": program.argv,
                    "first": node.first,
                    "ended": node.ended.is_some(),
                    "code": node.ended.and_then(|ended| if let ProcessEnded::Code(code) = ended { Some(code) } else { None }),
                })
            })
            .collect();
        return out.document(&nodes);
    }
    out.write(|w| {
        for (depth, node) in nodes {
            let end = match node.ended {
                None => String::new(),
                Some(ProcessEnded::Code(0)) => "  ended".into(),
                Some(ProcessEnded::Code(code)) => format!("  ended, code {code}"),
                Some(ProcessEnded::Otherwise) => "  ended by a signal".into(),
            };
            let guess = if node.by_session { "  (by its session)" } else { "" };
            writeln!(w, "{}{}{end}{guess}", "  ".repeat(*depth), render::program(&node.program_at(last)))?;
        }
        Ok(())
    })
}

fn tell(out: &Output, record: &VmRecord, whole: &Integrity, runs: bool) {
    if whole.without_files {
        let name = &record.name;
        out.say(&format!(
            "the behaviour log of {name} has no changes of files (level programs); 'fvm status {name}' shows them"
        ));
    }
    if !whole.is_whole(runs) {
        out.say(&format!("the behaviour log of {} is not whole: {}", record.name, gaps(whole)));
    }
}

/// What is missing, in words.
pub fn gaps(whole: &Integrity) -> String {
    let mut gaps = Vec::new();
    if whole.lost > 0 {
        gaps.push(format!("{} events are missing", whole.lost));
    }
    if whole.cut || whole.is_open {
        gaps.push("a run was cut off".into());
    }
    if !whole.blind.is_empty() {
        gaps.push(format!("not seen: {}", fvm::model::path::printable(whole.blind.join(", ").as_bytes())));
    }
    if whole.runs == 0 {
        gaps.push("nothing was written".into());
    }
    gaps.join("; ")
}
