//! The candidates that are always measured: alone, bubblewrap, fvm, the limit.

use super::{Candidate, Net, Role};
use crate::error::Error;
use crate::lab::{Lab, Person, found};
use crate::machine::version;
use crate::pools::Pool;
use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;

/// More than are used in a row.
const POOL_SIZE: &str = "16";

/// The same namespaces as a VM has, and `/` read-only.
pub const BWRAP: &[&str] = &[
    "--ro-bind",
    "/",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup",
];
/// The same with an overlay, whose upper is in memory.
const BWRAP_OVERLAY: &[&str] = &[
    "--overlay-src",
    "/",
    "--tmp-overlay",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup",
];

pub(super) fn all(lab: &Lab) -> Result<Vec<Candidate>, Error> {
    let mut all = Vec::new();
    for person in lab.people() {
        all.push(Candidate::new("plain `/bin/true`", person, Net::Host, ["/bin/true"]));
        if person.is_root() {
            all.extend(limits(lab, person)?);
        }
        all.extend(bubblewrap(person));
        all.extend(fvm(lab, person));
    }
    Ok(all)
}

fn limits(lab: &Lab, root: &Person) -> Result<Vec<Candidate>, Error> {
    let uppers = root.home.join("limit");
    std::fs::create_dir(&uppers).map_err(Error::file("make", &uppers))?;
    let limit = |name: &str, net: Net, users: &str, upper: &Path| {
        let program = lab.program("fvm-raw-limit").into_os_string();
        let flags = ["--net", net.name(), "--userns", users, "--upper"].map(OsString::from);
        let words = [program].into_iter().chain(flags).chain([upper.into(), "/bin/true".into()]);
        Candidate::new(name, root, net, words)
    };
    let memory = Path::new("tmpfs");
    let with_role = |candidate: Candidate| Candidate { role: Role::Limit, ..candidate };
    let on_disk = limit("limit, upper on disk, no network", Net::None, "shifted", &uppers);
    Ok(vec![
        with_role(limit("**limit: the kernel's part alone**, host's network", Net::Host, "shifted", memory)),
        with_role(limit("**limit: the kernel's part alone**, no network", Net::None, "shifted", memory)),
        limit("limit without a user namespace, host's network", Net::Host, "none", memory),
        limit("limit without a user namespace, no network", Net::None, "none", memory),
        Candidate { scratch: Some(uppers), ..on_disk },
    ])
}

fn bubblewrap(person: &Person) -> Vec<Candidate> {
    let bwrap = |name: &str, net: Net, view: &[&str]| {
        let alone: &[&str] = if net == Net::None { &["--unshare-net"] } else { &[] };
        let words = [&["bwrap"], view, alone, &["/bin/true"]].concat();
        let lacking = found("bwrap").is_none().then(|| "bubblewrap is not installed".to_owned());
        Candidate { lacking, ..Candidate::new(name, person, net, words) }
    };
    let with_role = |role: Role, candidate: Candidate| Candidate { role, ..candidate };
    let mut all = vec![
        with_role(Role::Reference, bwrap("bwrap, / read-only, host's network", Net::Host, BWRAP)),
        with_role(Role::Again, bwrap("the same once more (noise)", Net::Host, BWRAP)),
        with_role(Role::Reference, bwrap("bwrap, / read-only, no network", Net::None, BWRAP)),
        bwrap("bwrap, overlay over /, no network", Net::None, BWRAP_OVERLAY),
    ];
    if let (Some(overlay), Some(path)) = (all.last_mut(), found("bwrap")) {
        let version = version(&path);
        if number(&version) < (0, 10) {
            overlay.lacking = Some(format!("{version} has no --overlay, which came with 0.10"));
        }
    }
    all
}

/// `bubblewrap 0.8.0` → (0, 8).
fn number(version: &str) -> (u32, u32) {
    let mut parts = version.rsplit(' ').next().unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn fvm(lab: &Lab, person: &Person) -> Vec<Candidate> {
    let fvm = |name: &str, net: Net| {
        let begin = [lab.program("fvm").into_os_string(), "--home".into(), lab.state_of(person).0.into_os_string()];
        let rest = ["run", "--rm", "--net", net.name(), "--", "/bin/true"].map(OsString::from);
        Candidate::new(name, person, net, begin.into_iter().chain(rest))
    };
    let mut all = vec![
        fvm("**fvm run --rm** --net host", Net::Host),
        fvm("**fvm run --rm** --net none", Net::None),
        fvm("**fvm run --rm**, an address of its own", Net::Own),
    ];
    // What people use: root gives addresses, a user's programs have the host's network.
    let first = if person.is_root() { Net::Own } else { Net::Host };
    all.extend([first, Net::None].map(|net| pooled(lab, person, net)));
    all
}

/// From a pool, which is being filled from now on.
fn pooled(lab: &Lab, person: &Person, net: Net) -> Candidate {
    let pool = format!("{}-{}", person.name, net.name());
    let begin = [lab.program("fvm").into_os_string(), "--home".into(), lab.state_of(person).0.into_os_string()];
    let rest = ["run", "--pool", &pool, "--rm", "--", "/bin/true"].map(OsString::from);
    let name = match net {
        Net::Host => "**fvm run --pool**, host's network",
        Net::None => "**fvm run --pool**, no network",
        Net::Own => "**fvm run --pool**, an address of its own",
    };
    let candidate = Candidate::new(name, person, net, begin.into_iter().chain(rest));
    let made = Pool::make(lab, person, &pool, &["--size", POOL_SIZE, "--net", net.name()]);
    match made.and_then(|pool| pool.wait().map(|()| pool)) {
        Ok(pool) => Candidate { pool: Some(Rc::new(pool)), ..candidate },
        Err(error) => Candidate { lacking: Some(error.to_string()), ..candidate },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(number("bubblewrap 0.8.0"), (0, 8));
        assert!(number("bubblewrap 0.11.0") > (0, 10));
        assert_eq!(number("unknown"), (0, 0));
    }
}
