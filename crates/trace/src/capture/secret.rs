//! Which opens for reading are written down: those of what strangers should not read, by the built-in list of policies.
//!
//! ```text
//!   /root/.ssh/id_rsa          ~/.ssh         names one after another, anywhere: whose home it is does not matter
//!   /etc/shadow                /etc/shadow    from the root
//! ```
//!
//! Invariant: a path that the list names is never passed over for its length; what lies where only the machine's own programs
//! are ([`may_be`]) is not looked up.

use fvm_model::policy::{Pattern, secrets};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The list, by the first name of each pattern.
#[derive(Default)]
struct List {
    /// Below a home.
    homes: HashMap<Vec<u8>, Vec<Vec<String>>>,
    /// The same, where the first name has wildcards.
    wild: Vec<Vec<String>>,
    /// From the root.
    rooted: HashMap<Vec<u8>, Vec<Vec<String>>>,
}

fn list() -> &'static List {
    static LIST: OnceLock<List> = OnceLock::new();
    LIST.get_or_init(|| {
        let mut list = List::default();
        for secret in &secrets().files {
            let Ok(pattern) = secret.name.parse::<Pattern>() else { continue };
            let names: Vec<String> = pattern.names().map(str::to_owned).collect();
            let Some(first) = names.first() else { continue };
            match (pattern.is_in_home(), Pattern::is_wild(first)) {
                (true, true) => list.wild.push(names),
                (true, false) => list.homes.entry(first.clone().into_bytes()).or_default().push(names),
                (false, _) => list.rooted.entry(first.clone().into_bytes()).or_default().push(names),
            }
        }
        list
    })
}

/// Whether the file at an absolute path should not be read by strangers.
#[must_use]
pub fn is_secret(path: &[u8]) -> bool {
    let list = list();
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
    let is = |names: &[&[u8]], pattern: &[String]| {
        names.len() >= pattern.len()
            && pattern.iter().zip(names).all(|(pattern, name)| {
                pattern.as_bytes() == *name || (Pattern::is_wild(pattern) && Pattern::name_matches(pattern, name))
            })
    };
    let rooted = names.first().and_then(|first| list.rooted.get(*first));
    rooted.into_iter().flatten().any(|pattern| is(&names, pattern))
        || (0..names.len()).any(|at| {
            let rest = &names[at..];
            list.homes.get(rest[0]).into_iter().flatten().chain(&list.wild).any(|pattern| is(rest, pattern))
        })
}

/// Whether an open of `text`, before links are followed, may be one of a secret.
#[must_use]
pub fn may_be(text: &[u8]) -> bool {
    /// Only whoever may change the machine makes links here.
    const SYSTEM: [&[u8]; 7] = [b"/usr/", b"/lib", b"/proc/", b"/sys/", b"/dev/", b"/bin/", b"/etc/ld.so."];
    let leaves = text.windows(4).any(|part| part == b"/../") || text.ends_with(b"/..");
    // `/proc/self/root`, `cwd`, `fd`: from there on it is another path.
    let leads_out = |text: &[u8]| text.windows(4).any(|part| matches!(part, b"/roo" | b"/cwd" | b"/fd/"));
    let is_proc = text.starts_with(b"/proc/") && leads_out(text);
    leaves || is_proc || !SYSTEM.iter().any(|place| text.starts_with(place)) || is_secret(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_should_not_read_is_known_in_every_home() {
        for path in ["/root/.ssh/id_rsa", "/home/a/.aws/credentials", "/srv/x/.netrc", "/etc/shadow", "/root/k.kdbx"] {
            assert!(is_secret(path.as_bytes()) && may_be(path.as_bytes()), "{path}");
        }
        assert!(is_secret(b"/etc/ssh/ssh_host_rsa_key"));
        for path in ["/root/.sshx", "/etc/shadows", "/etc/passwd", "/home/a/ssh", "/a/.config/gh-x", "/", ""] {
            assert!(!is_secret(path.as_bytes()), "{path}");
        }
        assert!(!may_be(b"/usr/lib/libc.so.6") && may_be(b"/usr/../root/.ssh/id_rsa") && may_be(b"/tmp/x"));
        assert!(may_be(b"/proc/self/root/etc/shadow") && !may_be(b"/proc/self/maps"));
    }
}
