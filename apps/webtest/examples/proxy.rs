//! The proxy at an address of this machine, in each of its ways.
//!
//! ```text
//! cargo run -p fvm-webtest --example proxy -- ADDRESS:PORT live ALLOW
//! cargo run -p fvm-webtest --example proxy -- ADDRESS:PORT record ALLOW DIR [ROOTS]
//! cargo run -p fvm-webtest --example proxy -- ADDRESS:PORT replay DIR
//! ```
//!
//! It prints the keys that a browser is to take for good, and runs until its standard input ends. `ALLOW`: a network beside the
//! internet, such as `127.0.0.0/8`, or `-`.

use fvm_webtest::net::args::OutArgs;
use fvm_webtest::net::mirror;
use fvm_webtest::net::proxy::local::Local;
use fvm_webtest::net::proxy::{Limits, Way};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = |allow: &str, roots: Option<&str>| -> Result<OutArgs, Box<dyn Error>> {
        let mut out = OutArgs::default();
        if allow != "-" {
            out.allow.push(allow.parse()?);
        }
        if let Some(roots) = roots {
            out.roots = roots.into();
        }
        Ok(out)
    };
    let (at, way) = match args[..] {
        [at, "live", allow] => (at, Way::Live(out(allow, None)?.live())),
        [at, "record", allow, dir] => (at, Way::Record(out(allow, None)?.record(Path::new(dir))?)),
        [at, "record", allow, dir, roots] => (at, Way::Record(out(allow, Some(roots))?.record(Path::new(dir))?)),
        [at, "replay", dir] => (at, Way::Replay(mirror::way(Path::new(dir))?)),
        _ => return Err("usage: proxy ADDRESS:PORT live ALLOW | record ALLOW DIR [ROOTS] | replay DIR".into()),
    };
    let local = Local::serve(way, at.parse()?, Limits::default())?;
    println!("{} {}", local.at, local.way().keys().join(","));
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    if let Way::Record(record) = local.way() {
        record.recorder.flush()?;
    }
    Ok(())
}
