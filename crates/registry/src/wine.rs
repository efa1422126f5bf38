//! The registry of a Wine prefix: three text files, rewritten whole by wineserver.
//!
//! ```text
//!   WINE REGISTRY Version 2
//!   ;; All keys relative to \\User\\S-1-5-21-0-0-0-1000
//!
//!   [Software\\Foo] 1700000000            HKCU\Software\Foo key
//!   #time=1da17e1c7a5e5c0
//!   "Bar"="text"                          HKCU\Software\Foo value Bar
//!   @=dword:00000001                      HKCU\Software\Foo value (default)
//!   "Long"=hex:01,02,\                    a value goes on after a backslash at the end of its line
//!     03
//! ```
//!
//! Format: Wine's `server/registry.c`, `save_registry`. Line-preserving: what is not changed keeps its bytes.
//!
//! Invariants: times of keys, and values that every start of Wine writes, are no change; a line that Wine would not
//! write is an error, so no key is written anew without it; every key and value has a name of its own.

use crate::{KeyChange, KeyConflict, Merged, OnKeyConflict, Registry, RegistryError};
use fvm_model::path::printable;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The adapter.
#[derive(Debug, Clone, Copy)]
pub struct Wine;

const HEADER: &[u8] = b"WINE REGISTRY Version 2";
/// Values that Wine writes at every start.
const NOISE: [&[u8]; 2] = [b"\"DriverDateData\"", b"\"LastSystemTime\""];

/// A registry key with its values. All slices are of the file, with their newlines.
#[derive(Debug, Default)]
struct Key<'b> {
    /// The `[...]` line and the `#` lines after it.
    head: &'b [u8],
    /// Name (with its quotes, or `@`) → the whole text of the value.
    values: BTreeMap<&'b [u8], &'b [u8]>,
    /// The names in the order of the file.
    order: Vec<&'b [u8]>,
}

/// A file.
struct Hive<'b> {
    /// Everything before the first key.
    preamble: &'b [u8],
    keys: BTreeMap<&'b [u8], Key<'b>>,
    /// The whole text, key by key: path, where it begins, where it ends.
    sections: Vec<(&'b [u8], usize, usize)>,
}

impl<'b> Hive<'b> {
    fn parse(bytes: &'b [u8], side: &'static str) -> Result<Self, RegistryError> {
        let malformed = |why: &str| RegistryError::Malformed { store: "wine", side, why: why.into() };
        let mut hive = Self { preamble: &[], keys: BTreeMap::new(), sections: Vec::new() };
        if bytes.is_empty() {
            return Ok(hive);
        }
        if !bytes.starts_with(HEADER) {
            return Err(malformed("it does not begin with 'WINE REGISTRY Version 2'"));
        }
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            let line = line_at(bytes, &mut at);
            if line.starts_with(b"[") {
                let end = line.iter().rposition(|b| *b == b']').ok_or_else(|| malformed("a key has no ']'"))?;
                let path = &line[1..end];
                let head_end = after_marks(bytes, &mut at);
                // Of a key that stands there twice, the first head and the values of both.
                let fresh = || Key { head: &bytes[start..head_end], ..Key::default() };
                hive.keys.entry(path).or_insert_with(fresh);
                hive.close(start);
                hive.sections.push((path, start, bytes.len()));
                continue;
            }
            let Some((path, ..)) = hive.sections.last() else {
                hive.preamble = &bytes[..at];
                continue;
            };
            if trimmed(line).is_empty() {
                continue;
            }
            let name = value_name(line).ok_or_else(|| malformed("a line is neither a key nor a value"))?;
            // The value goes on while its lines end with a backslash.
            let mut last = line;
            while trimmed(last).ends_with(b"\\") {
                last = line_at(bytes, &mut at);
                if !last.starts_with(b" ") {
                    return Err(malformed("a value ends in the middle"));
                }
            }
            if let Some(key) = hive.keys.get_mut(path)
                && key.values.insert(name, &bytes[start..at]).is_none()
            {
                key.order.push(name);
            }
        }
        Ok(hive)
    }

    fn close(&mut self, end: usize) {
        if let Some(last) = self.sections.last_mut() {
            last.2 = end;
        }
    }

    fn value(&self, path: &[u8], name: &[u8]) -> Option<&'b [u8]> {
        self.keys.get(path)?.values.get(name).copied()
    }
}

fn line_at<'b>(bytes: &'b [u8], at: &mut usize) -> &'b [u8] {
    let start = *at;
    *at = bytes[start..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| start + n + 1);
    &bytes[start..*at]
}

/// Passes `#time`, `#class`, `#link`; returns where they end.
fn after_marks(bytes: &[u8], at: &mut usize) -> usize {
    while bytes[*at..].starts_with(b"#") {
        line_at(bytes, at);
    }
    *at
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").map_or(line, |l| l.strip_suffix(b"\r").unwrap_or(l))
}

/// `"Name"` or `@` of a value's first line.
fn value_name(line: &[u8]) -> Option<&[u8]> {
    if line.starts_with(b"@=") {
        return Some(&line[..1]);
    }
    if !line.starts_with(b"\"") {
        return None;
    }
    let mut escaped = false;
    for (i, b) in line.iter().enumerate().skip(1) {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return (line.get(i + 1) == Some(&b'=')).then(|| &line[..=i]),
            _ => {}
        }
    }
    None
}

/// What differs: a value, or with `None` the key itself.
type Place<'b> = (&'b [u8], Option<&'b [u8]>);

fn changed<'b>(base: &Hive<'b>, vm: &Hive<'b>) -> Vec<Place<'b>> {
    let mut places = Vec::new();
    let paths: BTreeSet<&[u8]> = base.keys.keys().chain(vm.keys.keys()).copied().collect();
    for path in paths {
        let (old, new) = (base.keys.get(path), vm.keys.get(path));
        if old.is_some() != new.is_some() {
            places.push((path, None));
        }
        let names = |key: Option<&Key<'b>>| key.map(|k| k.order.clone()).unwrap_or_default();
        let all: BTreeSet<&[u8]> = names(old).into_iter().chain(names(new)).collect();
        let differs = |name: &&&[u8]| base.value(path, name) != vm.value(path, name) && !NOISE.contains(*name);
        places.extend(all.iter().filter(differs).map(|name| (path, Some(*name))));
    }
    places
}

fn hive_name(path: &Path) -> Option<&'static str> {
    match path.file_name()?.to_str()? {
        "system.reg" => Some("HKLM"),
        "user.reg" => Some("HKCU"),
        "userdef.reg" => Some("HKU\\.Default"),
        _ => None,
    }
}

/// Registry text as people write it: a separator is one backslash. What would then look like an escape begins with two.
fn text(raw: &[u8]) -> String {
    printable(raw)
        .replace("\\\\\\\\", "\0")
        .replace("\0x", "\\\\\\\\x")
        .replace("\0u{", "\\\\\\\\u{")
        .replace('\0', "\\")
}

/// `HIVE\path key` or `HIVE\path value name`. A path in which ` value ` could be taken for that word has `\u{20}value` there.
fn key_text(hive: &str, (path, name): Place<'_>) -> String {
    let what = match name {
        None => "key".to_owned(),
        Some(b"@") => "value (default)".to_owned(),
        Some(b"\"(default)\"") => "value \\u{28}default)".to_owned(),
        Some(name) => format!("value {}", text(name.get(1..name.len() - 1).unwrap_or(name))),
    };
    // Twice: two such words share the blank between them.
    let escaped = |path: String| path.replace(" value ", "\\u{20}value ");
    let path = escaped(escaped(text(path) + " "));
    format!("{hive}\\{path}{what}")
}

fn shown(hive: &Hive<'_>, (path, name): Place<'_>) -> Option<String> {
    let Some(name) = name else { return hive.keys.get(path).map(|_| "present".to_owned()) };
    let value = hive.value(path, name)?;
    let joined: Vec<&[u8]> = value.split(|b| *b == b'\n').map(|l| trimmed(l).trim_ascii()).collect();
    let whole = joined.iter().map(|l| l.strip_suffix(b"\\").unwrap_or(l)).collect::<Vec<_>>().concat();
    let after_name = whole.get(name.len() + 1..).unwrap_or_default();
    const LONGEST: usize = 400;
    let cut = &after_name[..after_name.len().min(LONGEST)];
    Some(if cut.len() < after_name.len() { format!("{}...", printable(cut)) } else { printable(cut) })
}

impl Registry for Wine {
    fn name(&self) -> &'static str {
        "wine"
    }

    fn recognises(&self, path: &Path, bytes: &[u8]) -> bool {
        hive_name(path).is_some() && bytes.starts_with(HEADER)
    }

    fn diff(&self, path: &Path, base: &[u8], vm: &[u8]) -> Result<Vec<KeyChange>, RegistryError> {
        let hive = hive_name(path).unwrap_or("HKLM");
        let (base, vm) = (Hive::parse(base, "base")?, Hive::parse(vm, "VM")?);
        let change =
            |place| KeyChange { key: key_text(hive, place), before: shown(&base, place), after: shown(&vm, place) };
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
        let hive = hive_name(path).unwrap_or("HKLM");
        let (base, vm, now) = (Hive::parse(base, "base")?, Hive::parse(vm, "VM")?, Hive::parse(host, "host")?);
        let mut conflicts = Vec::new();
        let mut edits: BTreeMap<&[u8], Edit<'_>> = BTreeMap::new();
        for place in changed(&base, &vm) {
            let key = key_text(hive, place);
            if chosen.is_some_and(|chosen| !chosen.contains(&key)) {
                continue;
            }
            if !agrees(&base, &vm, &now, place) {
                match on {
                    OnKeyConflict::Vm => {}
                    OnKeyConflict::Host => continue,
                    OnKeyConflict::Fail => {
                        let (base, host, vm) = (shown(&base, place), shown(&now, place), shown(&vm, place));
                        let host =
                            if place.1.is_none() { Some("the host has other values in it".into()) } else { host };
                        conflicts.push(KeyConflict { key, base, host, vm });
                        continue;
                    }
                }
            }
            let edit = edits.entry(place.0).or_default();
            match place.1 {
                None if vm.keys.contains_key(place.0) => edit.create = true,
                None => edit.remove = true,
                Some(name) => drop(edit.values.insert(name, vm.value(place.0, name))),
            }
        }
        if !conflicts.is_empty() {
            return Ok(Merged { bytes: host.to_vec(), conflicts });
        }
        Ok(Merged { bytes: write(host, &now, &vm, &edits), conflicts })
    }
}

/// Whether the host has the base's version of the place, or the VM's.
fn agrees(base: &Hive<'_>, vm: &Hive<'_>, host: &Hive<'_>, (path, name): Place<'_>) -> bool {
    if let Some(name) = name {
        let (then, theirs, now) = (base.value(path, name), vm.value(path, name), host.value(path, name));
        let is_gone = base.keys.contains_key(path) && !host.keys.contains_key(path);
        return now == theirs || (now == then && !is_gone);
    }
    match (vm.keys.get(path), host.keys.get(path)) {
        (Some(_), _) | (None, None) => true,
        // Removing the key takes only values away that the VM saw.
        (None, Some(key)) => {
            let is_known = |name: &&[u8]| NOISE.contains(name) || host.value(path, name) == base.value(path, name);
            key.order.iter().all(is_known)
        }
    }
}

/// What happens to one key of the host.
#[derive(Debug, Default)]
struct Edit<'b> {
    create: bool,
    remove: bool,
    values: BTreeMap<&'b [u8], Option<&'b [u8]>>,
}

fn write(host: &[u8], now: &Hive<'_>, vm: &Hive<'_>, edits: &BTreeMap<&[u8], Edit<'_>>) -> Vec<u8> {
    let mut out = if host.is_empty() { vm.preamble.to_vec() } else { Vec::with_capacity(host.len() + 256) };
    out.extend_from_slice(now.sections.first().map_or(host, |first| &host[..first.1]));
    // Key by key: an edited one is written anew, once, all else is copied.
    let mut written = BTreeSet::new();
    for (path, from, to) in &now.sections {
        match (edits.get(path), now.keys.get(path)) {
            (Some(edit), Some(key)) => {
                if !edit.remove && written.insert(path) {
                    write_key(&mut out, key, edit, blank_tail(&host[*from..*to]));
                }
            }
            _ => out.extend_from_slice(&host[*from..*to]),
        }
    }
    for (path, edit) in edits.iter().filter(|(path, edit)| !now.keys.contains_key(*path) && !edit.remove) {
        // A value of a new key brings the key along.
        let brings = edit.create || edit.values.values().any(Option::is_some);
        if let (true, Some(key)) = (brings, vm.keys.get(path)) {
            if !out.ends_with(b"\n\n") {
                out.extend_from_slice(if out.ends_with(b"\n") { b"\n" } else { b"\n\n" });
            }
            let empty = Key { head: key.head, ..Key::default() };
            write_key(&mut out, &empty, edit, b"\n");
        }
    }
    out
}

/// The blank lines at the end of a key's text.
fn blank_tail(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |i| i + 1);
    let newline = text[end..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| end + n + 1);
    &text[newline..]
}

fn write_key(out: &mut Vec<u8>, key: &Key<'_>, edit: &Edit<'_>, tail: &[u8]) {
    out.extend_from_slice(key.head);
    for name in &key.order {
        match (edit.values.get(name), key.values.get(name)) {
            (Some(Some(new)), _) => out.extend_from_slice(new),
            (Some(None), _) => {}
            (None, Some(old)) => out.extend_from_slice(old),
            (None, None) => {}
        }
    }
    for (name, new) in &edit.values {
        if let (false, Some(new)) = (key.values.contains_key(name), new) {
            out.extend_from_slice(new);
        }
    }
    out.extend_from_slice(tail);
}

#[cfg(test)]
mod tests;
