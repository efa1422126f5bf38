//! A program in a VM that has a loopback and nothing else, and the gate as its only way out.
//!
//! ```text
//! cargo run -p fvm-webtest --example plug -- STATE RUN ALLOW PROGRAM [ARGUMENT...]
//! ```
//!
//! `ALLOW`: a network beside the internet, such as `127.0.0.0/8`, or `-`; `replay:DIR`: no net, but a WARC set. What the program prints is printed; then, as JSON, which
//! other connections it tried, and how long it took to connect the VM (`FVM_PLUG_TIMES=100`: the median of so many times).

use fvm::model::{Network, Policy};
use fvm::{Call, Fvm, NewVm, Place, Stream, Streams};
use fvm_webtest::net::Gate as _;
use fvm_webtest::net::gate::{Gateway, Helper, Options, helper};
use fvm_webtest::net::mirror;
use fvm_webtest::net::proxy::dial::Reach;
use fvm_webtest::net::proxy::{Live, Way};
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const AS_HELPER: &str = "__gate";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == AS_HELPER) {
        return helper::run();
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("plug: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[std::ffi::OsString]) -> Result<(), Box<dyn Error>> {
    let [state, run, allow, program @ ..] = args else { return Err("usage: plug STATE RUN ALLOW PROGRAM...".into()) };
    let fvm = Fvm::open(Path::new(state), Path::new(run))?;
    // Before there are threads.
    fvm.start_forker()?;
    let allow = allow.to_str().ok_or("ALLOW?")?;
    let mut reach = Reach::default();
    let way = match allow.strip_prefix("replay:") {
        Some(dir) => Way::Replay(mirror::way(Path::new(dir))?),
        None => {
            if allow != "-" {
                reach.allow.push(allow.parse()?);
            }
            Way::Live(Live::new(reach, Vec::new()))
        }
    };
    let helper = Helper { program: "/proc/self/exe".into(), args: vec![AS_HELPER.into()] };
    let gate = Gateway::start(&helper, way, Options::default())?;

    let policy = Policy { network: Network::None, ..Policy::default() };
    let new = NewVm { policy, ephemeral: true, ..NewVm::default() };
    let mut argv: Vec<_> = ["sh", "-c", "read go; exec \"$@\"", "sh"].map(Into::into).to_vec();
    argv.extend(program.iter().cloned());
    let proxy = format!("http://127.0.0.1:{}", fvm_webtest::net::gate::PROXY_PORT);
    let variables = [("PATH", "/usr/bin:/bin"), ("http_proxy", &proxy), ("https_proxy", &proxy)];
    let env = variables.map(|(name, value)| (name.into(), value.into())).to_vec();
    let call = Call { argv, env, ..Call::default() };
    let streams = Streams { input: Stream::Pipe, output: Stream::Pipe, errors: Stream::Inherit };
    let mut child = fvm.spawn(Place::New(&new), &call, streams)?;

    // Not its init, into which an ordinary user may not look.
    let is_program = |process: &fvm::Process| process.inner_pid > 1;
    let pid = loop {
        if let Some(program) = fvm.processes(&child.vm)?.iter().find(|process| is_program(process)) {
            break program.pid;
        }
        std::thread::yield_now();
    };
    let pid = u32::try_from(pid)?;
    let times = std::env::var("FVM_PLUG_TIMES").map_or(Ok(1), |times| times.parse::<usize>())?.max(1);
    let mut all = Vec::new();
    let plug = loop {
        let begun = Instant::now();
        let plug = gate.plug(pid)?;
        all.push(begun.elapsed());
        if all.len() == times {
            break plug;
        }
        drop(plug);
    };
    all.sort();
    let took = all[all.len() / 2];
    if let Some(mut input) = child.input.take() {
        input.write_all(b"go\n")?;
    }
    let mut said = Vec::new();
    if let Some(mut output) = child.output.take() {
        output.read_to_end(&mut said)?;
    }
    let ended = child.wait()?.ended;
    std::io::stdout().write_all(&said)?;
    let (foreign, refused, odd) = (plug.foreign(), plug.refused(), plug.odd());
    let begun = Instant::now();
    drop(plug);
    let report = serde_json::json!({
        "ended": format!("{ended:?}"),
        "foreign": foreign,
        "refused": refused,
        "odd": odd,
        "plug_us": took.as_micros(),
        "unplug_us": begun.elapsed().as_micros(),
    });
    println!("{report}");
    Ok(())
}
