//! The account files: one entry a line, fields between colons, the first one the name.
//!
//! ```text
//!   passwd  avahi:x:105:112:Avahi daemon:/run/avahi:/usr/sbin/nologin     user avahi
//!   group   docker:x:998:alice,bob                                        group docker      members merged as a set
//!   shadow  avahi:!:20000::::::                                           shadow avahi      password never shown
//!   subuid  alice:100000:65536                                            subuid alice      ranges must not overlap
//! ```
//!
//! Formats: passwd(5), group(5), shadow(5), gshadow(5), subuid(5).
//!
//! Invariants: the host's lines keep their order and bytes; the VM's new entries come after them, but before NIS lines
//! (`+`, `-`); an id that the host gave to another name meanwhile is a conflict; of two lines with one name the first is
//! the entry, as for getpwnam(3).

use crate::{KeyChange, KeyConflict, Merged, OnKeyConflict, Registry, RegistryError};
use fvm_model::path::printable;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// The files, in `/etc`.
pub const NAMES: [&str; 6] = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];

/// The adapter.
#[derive(Debug, Clone, Copy)]
pub struct Accounts;

/// Which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Passwd,
    Group,
    Shadow,
    Gshadow,
    Subuid,
    Subgid,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let dir = path.parent()?;
        let name = path.file_name()?.to_str()?;
        // `passwd-` is the version before the last change, kept by the shadow tools.
        let kind = match name.strip_suffix('-').unwrap_or(name) {
            "passwd" => Self::Passwd,
            "group" => Self::Group,
            "shadow" => Self::Shadow,
            "gshadow" => Self::Gshadow,
            "subuid" => Self::Subuid,
            "subgid" => Self::Subgid,
            _ => return None,
        };
        (dir == Path::new("/etc")).then_some(kind)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Passwd => "user",
            Self::Group => "group",
            Self::Shadow => "shadow",
            Self::Gshadow => "gshadow",
            Self::Subuid => "subuid",
            Self::Subgid => "subgid",
        }
    }

    /// The field that is a secret.
    fn is_secret(self) -> bool {
        matches!(self, Self::Shadow | Self::Gshadow)
    }

    /// The fields that are lists of names, merged as sets.
    fn lists(self) -> &'static [usize] {
        match self {
            Self::Group => &[3],
            Self::Gshadow => &[2, 3],
            _ => &[],
        }
    }

    /// The number that belongs to one name only.
    fn has_id(self) -> bool {
        matches!(self, Self::Passwd | Self::Group)
    }
}

/// A file, by entry.
struct Table<'b> {
    lines: Vec<&'b [u8]>,
    /// Name → index of its first line.
    entries: BTreeMap<&'b [u8], usize>,
}

impl<'b> Table<'b> {
    fn parse(bytes: &'b [u8]) -> Self {
        let mut lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
        if lines.last().is_some_and(|l| l.is_empty()) {
            lines.pop();
        }
        let mut entries = BTreeMap::new();
        for (i, line) in lines.iter().enumerate() {
            let name = line.split(|b| *b == b':').next().unwrap_or_default();
            if !name.is_empty() && !is_nis(line) && !line.starts_with(b"#") {
                entries.entry(name).or_insert(i);
            }
        }
        Self { lines, entries }
    }

    fn get(&self, name: &[u8]) -> Option<&'b [u8]> {
        self.entries.get(name).map(|i| self.lines[*i])
    }
}

fn is_nis(line: &[u8]) -> bool {
    line.starts_with(b"+") || line.starts_with(b"-")
}

fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|b| *b == b':').collect()
}

fn shown(kind: Kind, line: &[u8]) -> String {
    if !kind.is_secret() {
        return printable(line);
    }
    let mut parts: Vec<String> = fields(line).into_iter().map(printable).collect();
    if let Some(secret) = parts.get_mut(1) {
        let is_locked = secret.is_empty() || secret.starts_with('*') || secret.starts_with('!');
        if !is_locked {
            *secret = "*hidden*".into();
        }
    }
    parts.join(":")
}

fn key(kind: Kind, name: &[u8]) -> String {
    format!("{} {}", kind.word(), printable(name))
}

/// The names whose lines differ.
fn changed<'b>(base: &Table<'b>, vm: &Table<'b>) -> BTreeSet<&'b [u8]> {
    let names = base.entries.keys().chain(vm.entries.keys());
    names.filter(|name| base.get(name) != vm.get(name)).copied().collect()
}

impl Registry for Accounts {
    fn name(&self) -> &'static str {
        "accounts"
    }

    fn recognises(&self, path: &Path, bytes: &[u8]) -> bool {
        Kind::of(path).is_some() && !bytes.contains(&0)
    }

    fn diff(&self, path: &Path, base: &[u8], vm: &[u8]) -> Result<Vec<KeyChange>, RegistryError> {
        let kind = kind(path)?;
        let (base, vm) = (Table::parse(base), Table::parse(vm));
        let change = |name: &[u8]| {
            let (before, mut after) = (base.get(name).map(|l| shown(kind, l)), vm.get(name).map(|l| shown(kind, l)));
            if before == after {
                after = after.map(|text| format!("{text} (password changed)"));
            }
            KeyChange { key: key(kind, name), before, after }
        };
        let mut changes: Vec<KeyChange> = changed(&base, &vm).into_iter().map(change).collect();
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(changes)
    }

    fn merge(
        &self,
        path: &Path,
        base: &[u8],
        vm: &[u8],
        host: &[u8],
        chosen: Option<&BTreeSet<String>>,
        on: OnKeyConflict,
    ) -> Result<Merged, RegistryError> {
        let kind = kind(path)?;
        let (base, vm, table) = (Table::parse(base), Table::parse(vm), Table::parse(host));
        let mut conflicts = Vec::new();
        let mut set: HashMap<&[u8], Option<Vec<u8>>> = HashMap::new();
        for name in changed(&base, &vm) {
            if chosen.is_some_and(|chosen| !chosen.contains(&key(kind, name))) {
                continue;
            }
            let (then, theirs, now) = (base.get(name), vm.get(name), table.get(name));
            match three_way(kind, then, theirs, now) {
                Some(result) => {
                    set.insert(name, result);
                }
                None if on == OnKeyConflict::Vm => {
                    set.insert(name, theirs.map(<[u8]>::to_vec));
                }
                None if on == OnKeyConflict::Host => {}
                None => conflicts.push(KeyConflict {
                    key: key(kind, name),
                    base: then.map(|l| shown(kind, l)),
                    host: now.map(|l| shown(kind, l)),
                    vm: theirs.map(|l| shown(kind, l)),
                }),
            }
        }
        for (name, taken_by) in clashes(kind, &table, &base, &set) {
            match on {
                OnKeyConflict::Vm => {}
                OnKeyConflict::Host => {
                    set.remove(name);
                }
                OnKeyConflict::Fail => conflicts.push(KeyConflict {
                    key: key(kind, name),
                    base: base.get(name).map(|l| shown(kind, l)),
                    host: Some(taken_by),
                    vm: vm.get(name).map(|l| shown(kind, l)),
                }),
            }
        }
        if !conflicts.is_empty() {
            return Ok(Merged { bytes: host.to_vec(), conflicts });
        }
        Ok(Merged { bytes: write(host, &table, &vm, &set), conflicts })
    }
}

fn kind(path: &Path) -> Result<Kind, RegistryError> {
    let why = || format!("'{}' is no account file", printable(path.as_os_str().as_encoded_bytes()));
    Kind::of(path).ok_or_else(|| RegistryError::Malformed { store: "accounts", side: "VM", why: why() })
}

/// The line that both sides' changes give (`Some(None)`: no line); `None`: they contradict each other.
fn three_way(kind: Kind, base: Option<&[u8]>, vm: Option<&[u8]>, host: Option<&[u8]>) -> Option<Option<Vec<u8>>> {
    if host == base || host == vm {
        return Some(vm.map(<[u8]>::to_vec));
    }
    // Both made or changed it: field by field, lists of names as sets.
    let (vm, host) = (fields(vm?), fields(host?));
    let base = base.map(fields).unwrap_or_default();
    let length = vm.len().max(host.len());
    let mut merged: Vec<Vec<u8>> = Vec::with_capacity(length);
    for i in 0..length {
        let (b, v, h) = (base.get(i).copied(), vm.get(i).copied(), host.get(i).copied());
        if h == b || h == v {
            merged.push(v.unwrap_or_default().to_vec());
        } else if v == b {
            merged.push(h.unwrap_or_default().to_vec());
        } else if kind.lists().contains(&i) {
            merged.push(members(b.unwrap_or_default(), v.unwrap_or_default(), h.unwrap_or_default()));
        } else {
            return None;
        }
    }
    Some(Some(merged.join(&b':')))
}

/// The host's list, with what the VM added and without what it removed.
fn members(base: &[u8], vm: &[u8], host: &[u8]) -> Vec<u8> {
    let split = |list: &'_ [u8]| -> Vec<Vec<u8>> {
        list.split(|b| *b == b',').filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let (base, vm, host) = (split(base), split(vm), split(host));
    let set = |list: &[Vec<u8>]| -> BTreeSet<Vec<u8>> { list.iter().cloned().collect() };
    let (in_base, in_vm, in_host) = (set(&base), set(&vm), set(&host));
    let kept = host.into_iter().filter(|n| !in_base.contains(n) || in_vm.contains(n));
    let added = vm.into_iter().filter(|n| !in_base.contains(n) && !in_host.contains(n));
    kept.chain(added).collect::<Vec<_>>().join(&b',')
}

/// Entries that bring a number which another entry of the host has since, with that in words.
fn clashes<'b>(
    kind: Kind,
    host: &Table<'b>,
    base: &Table<'b>,
    set: &HashMap<&'b [u8], Option<Vec<u8>>>,
) -> Vec<(&'b [u8], String)> {
    let brings = |name: &&'b [u8]| set.get(*name).and_then(Option::as_ref);
    let mut found = Vec::new();
    let mut names: Vec<&'b [u8]> = set.keys().copied().collect();
    names.sort_unstable();
    if kind.has_id() {
        let id = |line: &[u8]| fields(line).get(2).map(|id| id.to_vec());
        let mut owners: HashMap<Vec<u8>, &[u8]> = HashMap::new();
        for (name, i) in &host.entries {
            // Two names that shared a number before are nobody's new conflict.
            if let Some(id) = id(host.lines[*i]).filter(|_| host.get(name) != base.get(name)) {
                owners.insert(id, name);
            }
        }
        for name in &names {
            let Some(number) = brings(name).and_then(|line| id(line)) else { continue };
            if let Some(owner) = owners.get(&number).filter(|owner| *owner != name) {
                let what = if kind == Kind::Passwd { "uid" } else { "gid" };
                found.push((*name, format!("{what} {} is taken by {}", printable(&number), printable(owner))));
            }
        }
    }
    if matches!(kind, Kind::Subuid | Kind::Subgid) {
        let mut ranges: Vec<(u64, u64, &[u8])> = host
            .entries
            .iter()
            .filter(|(name, _)| host.get(name) != base.get(name))
            .filter_map(|(name, i)| range(host.lines[*i]).map(|(first, last)| (first, last, *name)))
            .collect();
        ranges.sort_unstable();
        for name in &names {
            let Some((first, last)) = brings(name).and_then(|line| range(line)) else { continue };
            // The host's new entries are few; the VM's may be many.
            let overlap = ranges.iter().find(|(f, l, owner)| owner != name && first <= *l && *f <= last);
            if let Some((f, l, owner)) = overlap {
                found.push((*name, format!("{f}-{l} are taken by {}", printable(owner))));
            }
        }
    }
    found
}

fn range(line: &[u8]) -> Option<(u64, u64)> {
    let fields = fields(line);
    let number = |i: usize| std::str::from_utf8(fields.get(i)?).ok()?.parse::<u64>().ok();
    let (first, count) = (number(1)?, number(2)?);
    Some((first, first.checked_add(count.checked_sub(1)?)?))
}

/// The host's lines with `set` put in.
fn write(host: &[u8], table: &Table<'_>, vm: &Table<'_>, set: &HashMap<&[u8], Option<Vec<u8>>>) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = Vec::with_capacity(table.lines.len() + set.len());
    for (i, line) in table.lines.iter().enumerate() {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        let is_entry = table.entries.get(name) == Some(&i);
        match set.get(name).filter(|_| is_entry) {
            Some(Some(new)) => lines.push(new),
            Some(None) => {}
            None => lines.push(line),
        }
    }
    let nis = lines.iter().position(|line| is_nis(line)).unwrap_or(lines.len());
    let mut new: Vec<(usize, &[u8])> = set
        .iter()
        .filter(|(name, _)| !table.entries.contains_key(*name))
        .filter_map(|(name, line)| Some((*vm.entries.get(*name)?, line.as_deref()?)))
        .collect();
    new.sort_unstable();
    lines.splice(nis..nis, new.into_iter().map(|(_, line)| line));
    let mut bytes = lines.join(&b'\n');
    if !bytes.is_empty() && (host.is_empty() || host.ends_with(b"\n")) {
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(file: &str, base: &str, vm: &str, host: &str) -> Result<String, Vec<String>> {
        let path = Path::new("/etc").join(file);
        let (b, v, h) = (base.as_bytes(), vm.as_bytes(), host.as_bytes());
        let merged = Accounts.merge(&path, b, v, h, None, OnKeyConflict::Fail).unwrap();
        if merged.conflicts.is_empty() {
            return Ok(String::from_utf8(merged.bytes).unwrap());
        }
        assert_eq!(merged.bytes, h, "a conflict changes nothing");
        Err(merged.conflicts.into_iter().map(|c| format!("{}: {}", c.key, c.host.unwrap_or_default())).collect())
    }

    #[test]
    fn entries_of_both_sides_are_there_and_contradictions_are_conflicts() {
        let base = "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n";
        let vm = "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\navahi:x:105:112::/run:/bin/false\n";
        let host = "root:x:0:0::/root:/bin/bash\ndaemon:x:1:1::/:/bin/false\nbob:x:1001:1001::/home/bob:/bin/sh\n";
        let both = "root:x:0:0::/root:/bin/bash\ndaemon:x:1:1::/:/bin/false\nbob:x:1001:1001::/home/bob:/bin/sh\n\
                    avahi:x:105:112::/run:/bin/false\n";
        type Case<'c> = (&'c str, &'c str, &'c str, &'c str, Result<&'c str, &'c str>);
        let cases: [Case<'_>; 9] = [
            ("passwd", base, vm, host, Ok(both)),
            ("passwd", base, vm, "bob:x:105:9::/:/bin/sh\n", Err("user avahi: uid 105 is taken by bob")),
            ("passwd", "a:x:1:1:::\n", "a:x:1:1:::vm\n", "a:x:1:1:::host\n", Err("user a: a:x:1:1:::host")),
            ("passwd", "a:x:1:1:::\n", "", "a:x:1:1:::\nb:x:2:2:::\n", Ok("b:x:2:2:::\n")),
            ("passwd", "", "n:x:5:5:::\n", "a:x:1:1:::\n+::::::\n", Ok("a:x:1:1:::\nn:x:5:5:::\n+::::::\n")),
            ("group", "d:x:9:\n", "d:x:9:al\n", "d:x:9:bob\n", Ok("d:x:9:bob,al\n")),
            ("group", "d:x:9:a,b\n", "d:x:9:b\n", "d:x:9:a,b,c\n", Ok("d:x:9:b,c\n")),
            ("subuid", "", "v:100000:65536\n", "h:165000:10\n", Err("subuid v: 165000-165009 are taken by h")),
            ("subuid", "", "v:100000:65536\n", "h:165536:10", Ok("h:165536:10\nv:100000:65536")),
        ];
        for (file, base, vm, host, want) in cases {
            let want = want.map(str::to_owned).map_err(|e| vec![e.to_owned()]);
            assert_eq!(merge(file, base, vm, host), want, "{file} {vm:?} {host:?}");
        }
    }

    #[test]
    fn only_the_chosen_entry_is_brought_over() {
        let (base, vm) = (&b"a:x:1:1:::\n"[..], &b"a:x:1:1:::new\nb:x:2:2:::\nc:x:3:3:::\n"[..]);
        let chosen = BTreeSet::from(["user b".to_owned()]);
        let path = Path::new("/etc/passwd");
        let merged = Accounts.merge(path, base, vm, base, Some(&chosen), OnKeyConflict::Fail).unwrap();
        assert_eq!(merged.bytes, b"a:x:1:1:::\nb:x:2:2:::\n");
    }

    #[test]
    fn a_password_is_never_shown() {
        let changes = Accounts.diff(Path::new("/etc/shadow"), b"a:$6$old:1:\n", b"a:$6$new:1:\nb:!:1:\n").unwrap();
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].before.as_deref(), Some("a:*hidden*:1:"));
        assert_eq!(changes[0].after.as_deref(), Some("a:*hidden*:1: (password changed)"));
        assert_eq!(changes[1].after.as_deref(), Some("b:!:1:"));
    }

    #[test]
    fn a_merge_with_an_unchanged_host_gives_the_vms_entries() {
        // A small generator: names a..h with fields that follow from the seed.
        let mut seed = 7_u64;
        let mut next = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..500 {
            let mut side = || -> Vec<u8> {
                let mut text = Vec::new();
                for name in b'a'..=b'h' {
                    if next(3) > 0 {
                        text.extend([name]);
                        text.extend(format!(":x:{}:{}:::\n", name, next(3)).into_bytes());
                    }
                }
                text
            };
            let (base, vm) = (side(), side());
            let path = Path::new("/etc/passwd");
            let merged = Accounts.merge(path, &base, &vm, &base, None, OnKeyConflict::Fail).unwrap();
            assert_eq!(merged.conflicts, []);
            assert_eq!(Accounts.diff(path, &vm, &merged.bytes).unwrap(), [], "the entries are the VM's");
        }
    }
}
