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
//! the entry, as for getpwnam(3), but in subuid and subgid all are, each a range.

use crate::{KeyChange, KeyConflict, Merged, OnKeyConflict, Registry, RegistryError};
use fvm_model::path::printable;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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

    /// Whether an entry is all lines of its name, each a range of ids, and not the first alone.
    fn is_ranges(self) -> bool {
        matches!(self, Self::Subuid | Self::Subgid)
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
    entries: BTreeMap<&'b [u8], Entry<'b>>,
}

struct Entry<'b> {
    /// Index of its first line.
    first: usize,
    /// Its first line; of a [`Kind::is_ranges`] file, all its lines as a set: sorted, newlines between.
    value: Cow<'b, [u8]>,
}

impl<'b> Table<'b> {
    fn parse(kind: Kind, bytes: &'b [u8]) -> Self {
        let mut lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
        if lines.last().is_some_and(|l| l.is_empty()) {
            lines.pop();
        }
        let mut entries: BTreeMap<&[u8], Entry<'_>> = BTreeMap::new();
        for (first, line) in lines.iter().enumerate() {
            let Some(name) = entry_name(line) else { continue };
            let known = entries.entry(name).or_insert(Entry { first, value: Cow::Borrowed(line) });
            if kind.is_ranges() && known.first != first {
                known.value.to_mut().extend([b"\n", *line].concat());
            }
        }
        // A set: neither their order nor a range that stands there twice is a change.
        for entry in entries.values_mut().filter(|entry| entry.value.contains(&b'\n')) {
            let set: BTreeSet<&[u8]> = lines_of(&entry.value).collect();
            let sorted = set.into_iter().collect::<Vec<_>>().join(&b'\n');
            entry.value = Cow::Owned(sorted);
        }
        Self { lines, entries }
    }

    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.entries.get(name).map(|entry| &*entry.value)
    }
}

/// The first field; `None` for comments and blank lines.
fn entry_name(line: &[u8]) -> Option<&[u8]> {
    let name = line.split(|b| *b == b':').next().unwrap_or_default();
    (!name.is_empty() && !line.starts_with(b"#")).then_some(name)
}

fn is_nis(line: &[u8]) -> bool {
    line.starts_with(b"+") || line.starts_with(b"-")
}

fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|b| *b == b':').collect()
}

/// An entry as people may see it: without its password.
fn shown(kind: Kind, value: &[u8]) -> String {
    if kind.is_ranges() {
        return value.split(|b| *b == b'\n').map(printable).collect::<Vec<_>>().join(", ");
    }
    let mut parts: Vec<String> = fields(value).into_iter().map(printable).collect();
    if let (Some(text), Some(hidden)) = (parts.get_mut(1), fields(value).get(1).and_then(|field| hidden(field))) {
        *text = hidden;
    }
    parts.join(":")
}

/// What stands for a password field that is a secret; `None` when it is none: empty, locked, or in the shadow file.
fn hidden(field: &[u8]) -> Option<String> {
    let bare = field.iter().position(|b| !matches!(b, b'!' | b'*')).map_or(&[][..], |at| &field[at..]);
    let locks = printable(&field[..field.len() - bare.len()]);
    (!bare.is_empty() && field != b"x").then(|| format!("{locks}*hidden*"))
}

/// [`shown`] for the VM's version, saying that a password which is not shown is another one.
fn shown_after(kind: Kind, before: Option<&[u8]>, after: &[u8]) -> String {
    let password = |value: &[u8]| fields(value).get(1).map(|field| field.to_vec());
    let is_hidden = |field: &Vec<u8>| hidden(field).is_some();
    let is_new = before.is_some_and(|before| password(before) != password(after));
    let note = if is_new && !kind.is_ranges() && password(after).is_some_and(|field| is_hidden(&field)) {
        " (password changed)"
    } else {
        ""
    };
    shown(kind, after) + note
}

fn key(kind: Kind, name: &[u8]) -> String {
    format!("{} {}", kind.word(), printable(name))
}

/// The names whose entries differ.
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
        let (base, vm) = (Table::parse(kind, base), Table::parse(kind, vm));
        let change = |name: &[u8]| KeyChange {
            key: key(kind, name),
            before: base.get(name).map(|value| shown(kind, value)),
            after: vm.get(name).map(|value| shown_after(kind, base.get(name), value)),
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
        let (base, vm, table) = (Table::parse(kind, base), Table::parse(kind, vm), Table::parse(kind, host));
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
        for (name, taken_by) in clashes(kind, &table, &base, &vm, &set) {
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
        if !conflicts.is_empty() || set.is_empty() {
            return Ok(Merged { bytes: host.to_vec(), conflicts });
        }
        Ok(Merged { bytes: write(kind, host, &table, &vm, &set), conflicts })
    }
}

fn kind(path: &Path) -> Result<Kind, RegistryError> {
    let why = || format!("'{}' is no account file", printable(path.as_os_str().as_encoded_bytes()));
    Kind::of(path).ok_or_else(|| RegistryError::Malformed { store: "accounts", side: "VM", why: why() })
}

/// The entry that both sides' changes give (`Some(None)`: none); `None`: they contradict each other.
fn three_way(kind: Kind, base: Option<&[u8]>, vm: Option<&[u8]>, host: Option<&[u8]>) -> Option<Option<Vec<u8>>> {
    if host == base || host == vm {
        return Some(vm.map(<[u8]>::to_vec));
    }
    let (vm, host) = (vm?, host?);
    if kind.is_ranges() {
        return Some(Some(merge_list(b'\n', base.unwrap_or_default(), vm, host)).filter(|v| !v.is_empty()));
    }
    // Both made or changed it: field by field, lists of names as sets.
    let (vm, host) = (fields(vm), fields(host));
    let base = base.map(fields).unwrap_or_default();
    if vm.len() != host.len() || (!base.is_empty() && base.len() != vm.len()) {
        return None;
    }
    let mut merged: Vec<Vec<u8>> = Vec::with_capacity(vm.len());
    for i in 0..vm.len() {
        let (b, v, h) = (base.get(i).copied(), vm.get(i).copied(), host.get(i).copied());
        if h == b || h == v {
            merged.push(v.unwrap_or_default().to_vec());
        } else if v == b {
            merged.push(h.unwrap_or_default().to_vec());
        } else if kind.lists().contains(&i) {
            merged.push(merge_list(b',', b.unwrap_or_default(), v.unwrap_or_default(), h.unwrap_or_default()));
        } else {
            return None;
        }
    }
    Some(Some(merged.join(&b':')))
}

/// The host's list, with what the VM added and without what it removed.
fn merge_list(separator: u8, base: &[u8], vm: &[u8], host: &[u8]) -> Vec<u8> {
    let split = |list: &'_ [u8]| -> Vec<Vec<u8>> {
        list.split(|b| *b == separator).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let (base, vm, host) = (split(base), split(vm), split(host));
    let set = |list: &[Vec<u8>]| -> BTreeSet<Vec<u8>> { list.iter().cloned().collect() };
    let (in_base, in_vm, in_host) = (set(&base), set(&vm), set(&host));
    let kept = host.into_iter().filter(|n| !in_base.contains(n) || in_vm.contains(n));
    let added = vm.into_iter().filter(|n| !in_base.contains(n) && !in_host.contains(n));
    kept.chain(added).collect::<Vec<_>>().join(&separator)
}

/// Entries to which the VM gave a number that another entry of the host has since, with that in words.
fn clashes<'b>(
    kind: Kind,
    host: &Table<'b>,
    base: &Table<'b>,
    vm: &Table<'b>,
    set: &HashMap<&'b [u8], Option<Vec<u8>>>,
) -> Vec<(&'b [u8], String)> {
    let mut names: Vec<&'b [u8]> = set.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| *name).collect();
    names.sort_unstable();
    // Two names that shared a number before are nobody's new conflict.
    let of_host = host.entries.iter().filter(|(name, entry)| base.get(name) != Some(&*entry.value));
    let mut found = Vec::new();
    if kind.has_id() {
        let id = |value: &[u8]| fields(value).get(2).map(|id| id.to_vec());
        let owners: HashMap<Vec<u8>, &[u8]> =
            of_host.filter_map(|(name, entry)| id(&entry.value).map(|id| (id, *name))).collect();
        for name in names {
            let given = vm.get(name).and_then(id).filter(|given| base.get(name).and_then(id).as_ref() != Some(given));
            let Some(number) = given else { continue };
            if let Some(owner) = owners.get(&number).filter(|owner| **owner != name) {
                let what = if kind == Kind::Passwd { "uid" } else { "gid" };
                found.push((name, format!("{what} {} is taken by {}", printable(&number), printable(owner))));
            }
        }
    } else if kind.is_ranges() {
        let new = |name: &[u8], value: &[u8]| -> Vec<(u64, u64)> {
            let old: HashSet<&[u8]> = base.get(name).into_iter().flat_map(lines_of).collect();
            lines_of(value).filter(|line| !old.contains(line)).filter_map(range).collect()
        };
        let mut ranges: Vec<(u64, u64, &[u8])> = of_host
            .flat_map(|(name, entry)| new(name, &entry.value).into_iter().map(|(first, last)| (first, last, *name)))
            .collect();
        ranges.sort_unstable();
        for name in names {
            let brought = vm.get(name).map(|value| new(name, value)).unwrap_or_default();
            // The host's new ranges are few; the VM's may be many.
            let overlap = brought.iter().find_map(|(first, last)| {
                ranges.iter().find(|(f, l, owner)| *owner != name && first <= l && f <= last)
            });
            if let Some((f, l, owner)) = overlap {
                found.push((name, format!("{f}-{l} are taken by {}", printable(owner))));
            }
        }
    }
    found
}

fn lines_of(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b'\n')
}

fn range(line: &[u8]) -> Option<(u64, u64)> {
    let fields = fields(line);
    let number = |i: usize| std::str::from_utf8(fields.get(i)?).ok()?.parse::<u64>().ok();
    let (first, count) = (number(1)?, number(2)?);
    Some((first, first.checked_add(count.checked_sub(1)?)?))
}

/// The host's lines with `set` put in.
fn write(kind: Kind, host: &[u8], table: &Table<'_>, vm: &Table<'_>, set: &HashMap<&[u8], Option<Vec<u8>>>) -> Vec<u8> {
    let ranges = set.iter().filter(|_| kind.is_ranges());
    let ranges: HashSet<&[u8]> = ranges.filter_map(|(_, value)| value.as_deref()).flat_map(lines_of).collect();
    let mut lines: Vec<&[u8]> = Vec::with_capacity(table.lines.len() + set.len());
    for (i, line) in table.lines.iter().enumerate() {
        let entry = entry_name(line).and_then(|name| Some((table.entries.get(name)?, set.get(name)?)));
        match entry {
            // A name that is gone is gone with all its lines.
            Some((_, None)) => {}
            Some((_, Some(_))) if kind.is_ranges() => lines.extend(ranges.get(line)),
            Some((entry, Some(new))) if entry.first == i => lines.push(new),
            _ => lines.push(line),
        }
    }
    let mut new: Vec<(usize, &[u8])> = Vec::new();
    for (name, value) in set {
        let (Some(value), Some(place)) = (value, vm.entries.get(name)) else { continue };
        match table.get(name) {
            None => new.extend(lines_of(value).map(|line| (place.first, line))),
            Some(old) if kind.is_ranges() => {
                let old: HashSet<&[u8]> = lines_of(old).collect();
                new.extend(lines_of(value).filter(|line| !old.contains(line)).map(|line| (place.first, line)));
            }
            Some(_) => {}
        }
    }
    new.sort_by_key(|(place, _)| *place);
    let (last, before): (Vec<_>, Vec<_>) = new.into_iter().map(|(_, line)| line).partition(|line| is_nis(line));
    let nis = lines.iter().position(|line| is_nis(line)).unwrap_or(lines.len());
    lines.splice(nis..nis, before);
    lines.extend(last);
    let mut bytes = lines.join(&b'\n');
    if !bytes.is_empty() && (host.is_empty() || host.ends_with(b"\n")) {
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests;
