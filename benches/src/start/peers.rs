//! Peers that Debian has, with the command lines that work on Debian 12 (`benches/README.md` has what they need).
//!
//! Invariant: each gets what it asks for of this machine, and is told to do no more than the others: one `/bin/true`, in
//! namespaces of its own, no network, all its state in the laboratory.

use super::{Candidate, Net};
use crate::error::Error;
use crate::lab::{Lab, Person, checked, found};
use crate::measure::Surroundings;
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;

/// Program, Debian package; a package that is not there cannot be installed from Debian.
const PROGRAMS: &[(&str, Option<&str>)] = &[
    ("unshare", Some("util-linux")),
    ("crun", Some("crun")),
    ("runc", Some("runc")),
    ("podman", Some("podman")),
    ("firejail", Some("firejail")),
    ("systemd-nspawn", Some("systemd-container")),
    // What podman needs for a user.
    ("newuidmap", Some("uidmap")),
    ("try", None),
];

pub(super) fn all(lab: &Lab) -> Result<Vec<Candidate>, Error> {
    let refused = if lab.strongest().is_root() { install() } else { None };
    let mut all = Vec::new();
    for person in lab.people() {
        if person.is_root() {
            all.push(oci(lab, person, "crun")?);
            all.push(oci(lab, person, "runc")?);
            all.push(nspawn(person)?);
        }
        all.push(unshare(person));
        all.push(firejail(person));
        all.push(podman(person));
        all.push(Candidate::new("try (binpash)", person, Net::Host, ["try", "-n", "/bin/true"]));
    }
    for candidate in &mut all {
        let program = candidate.words[0].to_string_lossy().into_owned();
        if candidate.lacking.is_none() && found(&program).is_none() {
            candidate.lacking = Some(missing(&program, refused.as_deref()));
        }
    }
    Ok(all)
}

fn missing(program: &str, refused: Option<&str>) -> String {
    match PROGRAMS.iter().find(|(name, _)| *name == program) {
        Some((_, Some(package))) => {
            let why = refused.map(|said| format!(": {said}")).unwrap_or_default();
            format!("the package {package} is not installed{why}")
        }
        _ => "not in the path, and not in Debian".to_owned(),
    }
}

/// Installs what is missing; what apt said when it could not.
fn install() -> Option<String> {
    let lacking = |(name, _): &&(&str, Option<&str>)| found(name).is_none();
    let packages: Vec<&str> = PROGRAMS.iter().filter(lacking).filter_map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return None;
    }
    eprintln!("fvm-bench: installing {}", packages.join(" "));
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
    checked(apt.env("DEBIAN_FRONTEND", "noninteractive")).err().map(|error| error.to_string())
}

/// crun, runc: their bundle's root is an overlay that the clock includes.
fn oci(lab: &Lab, root: &Person, runtime: &str) -> Result<Candidate, Error> {
    let bundle = root.home.join(runtime);
    for dir in [bundle.clone(), bundle.join("layers"), bundle.join("rootfs")] {
        std::fs::create_dir(&dir).map_err(Error::file("make", &dir))?;
    }
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|name| json!({"type": name}));
    let config = json!({
        "ociVersion": "1.0.0",
        "process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/usr/bin:/bin"]},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {"namespaces": namespaces},
    });
    let path = bundle.join("config.json");
    std::fs::write(&path, config.to_string()).map_err(Error::file("write", &path))?;
    let state = lab.path(format!("root/{runtime}-state"));
    let words = [runtime.into(), "--root".into(), state.into_os_string(), "run".into(), "fvm-bench".into()];
    let candidate = Candidate::new(&format!("{runtime} and an overlay, no network"), root, Net::None, words);
    Ok(Candidate { dir: bundle.clone(), surroundings: Surroundings::Bundle(bundle), ..candidate })
}

/// It refuses `/` under that name.
fn nspawn(root: &Person) -> Result<Candidate, Error> {
    let place: PathBuf = root.home.join("nspawn");
    std::fs::create_dir(&place).map_err(Error::file("make", &place))?;
    let flags = ["--volatile=overlay", "--register=no", "--keep-unit", "--private-network", "--as-pid2", "/bin/true"];
    let begin = ["systemd-nspawn".into(), "-q".into(), "-D".into(), place.clone().into_os_string()];
    let words = begin.into_iter().chain(flags.map(Into::into));
    let candidate = Candidate::new("systemd-nspawn --volatile=overlay, no network", root, Net::None, words);
    Ok(Candidate { surroundings: Surroundings::BoundRoot(place), ..candidate })
}

fn unshare(person: &Person) -> Candidate {
    let users: &[&str] = if person.is_root() { &[] } else { &["-U", "-r"] };
    let words =
        [&["unshare", "-m", "-p", "-f", "-i", "-u", "-n", "-C", "--mount-proc"], users, &["/bin/true"]].concat();
    Candidate::new("unshare(1), the namespaces alone, no network", person, Net::None, words)
}

/// Debian's is built without overlays.
fn firejail(person: &Person) -> Candidate {
    let words = ["firejail", "--quiet", "--noprofile", "--net=none", "--read-only=/", "/bin/true"];
    let candidate = Candidate::new("firejail, / read-only, no network", person, Net::None, words);
    // Only root can give it mounts of its own.
    let is_root = rustix::process::geteuid().is_root();
    Candidate { surroundings: if is_root { Surroundings::OwnMounts } else { Surroundings::Host }, ..candidate }
}

/// With runc: crun refuses machines that have both kinds of control groups. The limits are stated because the default ones
/// are above what an unprivileged root may set.
fn podman(person: &Person) -> Candidate {
    let state = ["--root", "--runroot"]
        .into_iter()
        .flat_map(|flag| [flag.into(), person.home.join(format!("podman{flag}")).into_os_string()]);
    let flags = ["--runtime", "runc", "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024"];
    let rest = ["--ulimit", "nproc=4096:4096", "--rootfs", "/:O", "/bin/true"];
    let words = ["podman".into()].into_iter().chain(state).chain(flags.map(Into::into)).chain(rest.map(Into::into));
    Candidate::new("podman run --rootfs /:O, no network", person, Net::None, words)
}
