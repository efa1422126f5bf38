//! A stand-in for a user's systemd, for machines without one: it starts scopes as `systemd --user` does, with the real control
//! groups of this machine.
//!
//! ```text
//!   fvm-standin-systemd DIR GROUP...     DIR: the user's run-time directory     GROUP: a control group of the user's
//!     DIR/systemd/private    listens there, as systemd does, but hangs up
//!     unix:path=DIR/bus      owns org.freedesktop.systemd1 there
//!     DIR/calls              what it was asked, a line for each
//!   StartTransientUnit ─► GROUP/<name>/{memory.limit_in_bytes, ...}, cgroup.procs ◄─ PIDs;  empty ─► removed, as by systemd
//! ```
//!
//! It runs as the user, in the groups, which are version 1 and the user's: there a user may move the user's own processes.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zbus::connection::Builder;
use zbus::interface;
use zbus::wire::{OwnedObjectPath, OwnedVariant, Variant};

const AT: &str = "/org/freedesktop/systemd1";

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refused {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
}

#[derive(Clone)]
struct Systemd {
    dir: PathBuf,
    groups: Vec<PathBuf>,
    units: Arc<Mutex<BTreeMap<String, Vec<PathBuf>>>>,
}

/// What version 1 has for a property.
fn file_of(property: &str) -> Option<&'static str> {
    match property {
        "MemoryMax" => Some("memory.limit_in_bytes"),
        "CPUQuotaPerSecUSec" => Some("cpu.cfs_quota_us"),
        "TasksMax" => Some("pids.max"),
        _ => None,
    }
}

fn job() -> OwnedObjectPath {
    // Done already: nothing is there.
    OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap()
}

impl Systemd {
    fn log(&self, line: &str) {
        let mut file = std::fs::File::options().append(true).create(true).open(self.dir.join("calls")).unwrap();
        writeln!(file, "{line}").unwrap();
    }

    fn apply(dirs: &[PathBuf], properties: &[(String, OwnedVariant)]) {
        for (key, value) in properties {
            let (Some(file), Variant::U64(value)) = (file_of(key), Variant::from(value.clone())) else { continue };
            let text = match (file, value) {
                ("memory.limit_in_bytes" | "cpu.cfs_quota_us", u64::MAX) => "-1".into(),
                (_, u64::MAX) => "max".into(),
                // Of a period of a tenth of a second.
                ("cpu.cfs_quota_us", n) => (n / 10).to_string(),
                (_, n) => n.to_string(),
            };
            for dir in dirs.iter().filter(|dir| dir.join(file).exists()) {
                std::fs::write(dir.join(file), &text).unwrap();
            }
        }
    }

    /// Units in which nobody is go.
    fn collect(&self) {
        let is_empty = |dir: &PathBuf| std::fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|t| t.is_empty());
        self.units.lock().unwrap().retain(|name, dirs| {
            if !dirs.iter().all(is_empty) {
                return true;
            }
            dirs.iter().for_each(|dir| drop(std::fs::remove_dir(dir)));
            self.log(&format!("collected {name}"));
            false
        });
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: Vec<(String, OwnedVariant)>,
        _aux: Vec<(String, Vec<(String, OwnedVariant)>)>,
    ) -> Result<OwnedObjectPath, Refused> {
        let number = |v: &OwnedVariant| if let Variant::U64(n) = Variant::from(v.clone()) { Some(n) } else { None };
        let shown: Vec<String> = properties
            .iter()
            .filter_map(|(k, v)| Some(format!("{k}={}", number(v).filter(|n| *n != u64::MAX)?)))
            .collect();
        self.log(&format!("start {name} {mode} {}", shown.join(" ")));
        let mut units = self.units.lock().unwrap();
        if units.contains_key(name) {
            return Err(Refused::UnitExists(format!("Unit {name} was already loaded or has a fragment file.")));
        }
        let dirs: Vec<PathBuf> = self.groups.iter().map(|group| group.join(name)).collect();
        dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        Self::apply(&dirs, &properties);
        for (_, value) in properties.iter().filter(|(key, _)| key == "PIDs") {
            let Variant::Array(pids) = Variant::from(value.clone()) else { continue };
            for pid in pids.iter() {
                let Variant::U32(pid) = pid else { continue };
                dirs.iter().for_each(|dir| std::fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap());
            }
        }
        units.insert(name.to_owned(), dirs);
        Ok(job())
    }

    fn stop_unit(&self, name: &str, _mode: &str) -> Result<OwnedObjectPath, Refused> {
        self.log(&format!("stop {name}"));
        let units = self.units.lock().unwrap();
        let Some(dirs) = units.get(name) else { return Err(Refused::NoSuchUnit(format!("Unit {name} not loaded."))) };
        for pid in std::fs::read_to_string(dirs[0].join("cgroup.procs")).unwrap().lines() {
            let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        Ok(job())
    }

    fn set_unit_properties(
        &self,
        name: &str,
        _runtime: bool,
        properties: Vec<(String, OwnedVariant)>,
    ) -> Result<(), Refused> {
        let units = self.units.lock().unwrap();
        let Some(dirs) = units.get(name) else { return Err(Refused::NoSuchUnit(format!("Unit {name} not loaded."))) };
        Self::apply(dirs, &properties);
        Ok(())
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = Path::new(&args[0]).to_path_buf();
    let groups = args[1..].iter().map(PathBuf::from).collect();
    let systemd = Systemd { dir: dir.clone(), groups, units: Arc::default() };
    let collector = systemd.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(5));
            collector.collect();
        }
    });
    std::fs::create_dir_all(dir.join("systemd")).unwrap();
    let address = format!("unix:path={}", dir.join("bus").display());
    let builder = Builder::address(address.as_str()).serve_at(AT, systemd).name("org.freedesktop.systemd1");
    let _served = zbus::block_on(builder.build()).unwrap();
    let listener = UnixListener::bind(dir.join("systemd/private")).unwrap();
    println!("ready");
    listener.incoming().for_each(drop);
}
