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
//! Invariant: times of keys, and values that every start of Wine writes, are no change.

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
    order: Vec<&'b [u8]>,
}

impl<'b> Hive<'b> {
    fn parse(bytes: &'b [u8], side: &'static str) -> Result<Self, RegistryError> {
        let malformed = |why: &str| RegistryError::Malformed { store: "wine", side, why: why.into() };
        let mut hive = Self { preamble: &[], keys: BTreeMap::new(), order: Vec::new() };
        if bytes.is_empty() {
            return Ok(hive);
        }
        if !bytes.starts_with(HEADER) {
            return Err(malformed("it does not begin with 'WINE REGISTRY Version 2'"));
        }
        let mut at = 0;
        let mut current: Option<(&[u8], Key<'_>)> = None;
        while at < bytes.len() {
            let start = at;
            let line = line_at(bytes, &mut at);
            if line.starts_with(b"[") {
                let end = line.iter().rposition(|b| *b == b']').ok_or_else(|| malformed("a key has no ']'"))?;
                hive.close(current.take());
                let head_end = after_marks(bytes, &mut at);
                current = Some((&line[1..end], Key { head: &bytes[start..head_end], ..Key::default() }));
                continue;
            }
            let Some((_, key)) = &mut current else {
                hive.preamble = &bytes[..at];
                continue;
            };
            let Some(name) = value_name(line) else { continue };
            // The value goes on while its lines end with a backslash.
            let mut last = line;
            while trimmed(last).ends_with(b"\\") && at < bytes.len() {
                last = line_at(bytes, &mut at);
            }
            if key.values.insert(name, &bytes[start..at]).is_none() {
                key.order.push(name);
            }
        }
        hive.close(current);
        Ok(hive)
    }

    fn close(&mut self, key: Option<(&'b [u8], Key<'b>)>) {
        if let Some((path, key)) = key
            && self.keys.insert(path, key).is_none()
        {
            self.order.push(path);
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

/// Registry text as people write it: a separator is one backslash.
fn text(raw: &[u8]) -> String {
    printable(raw).replace("\\\\\\\\", "\\")
}

fn key_text(hive: &str, (path, name): Place<'_>) -> String {
    let what = match name {
        None => "key".to_owned(),
        Some(b"@") => "value (default)".to_owned(),
        Some(name) => format!("value {}", text(name.get(1..name.len() - 1).unwrap_or(name))),
    };
    format!("{hive}\\{} {what}", text(path))
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
        let now = host.value(path, name);
        return now == base.value(path, name) || now == vm.value(path, name);
    }
    match (vm.keys.get(path), host.keys.get(path)) {
        (Some(_), _) | (None, None) => true,
        // Removing the key takes only values away that the VM saw.
        (None, Some(key)) => key.order.iter().all(|name| host.value(path, name) == base.value(path, name)),
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
    // The host's text, key by key: an edited key is written anew, all else is copied.
    let mut at = 0;
    let mut current: Option<(&[u8], usize)> = None;
    let mut starts = Vec::new();
    while at < host.len() {
        let start = at;
        let line = line_at(host, &mut at);
        if line.starts_with(b"[")
            && let Some(end) = line.iter().rposition(|b| *b == b']')
        {
            if let Some((path, from)) = current.replace((&line[1..end], start)) {
                starts.push((path, from, start));
            } else {
                out.extend_from_slice(&host[..start]);
            }
        }
    }
    match current {
        Some((path, from)) => starts.push((path, from, host.len())),
        None => out.extend_from_slice(host),
    }
    for (path, from, to) in starts {
        match edits.get(path) {
            None => out.extend_from_slice(&host[from..to]),
            Some(edit) if edit.remove => {}
            Some(edit) => {
                if let Some(key) = now.keys.get(path) {
                    write_key(&mut out, key, edit, blank_tail(&host[from..to]));
                }
            }
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
mod tests {
    use super::*;

    const BASE: &str = "WINE REGISTRY Version 2\n;; All keys relative to \\\\User\n\n#arch=win64\n\n\
        [Control Panel\\\\Desktop] 1700000000\n#time=1da\n\"Wallpaper\"=\"old\"\n\"Long\"=hex:01,02,\\\n  03\n\n\
        [Software\\\\Gone] 1700000000\n#time=1da\n@=\"x\"\n\n\
        [Software\\\\Wine] 1700000000\n#time=1da\n\"Version\"=\"win10\"\n\n";

    fn merge(vm: &str, host: &str, chosen: Option<&[&str]>) -> Merged {
        let chosen = chosen.map(|keys| keys.iter().map(|k| (*k).to_owned()).collect());
        let path = Path::new("/home/u/.wine/user.reg");
        Wine.merge(path, BASE.as_bytes(), vm.as_bytes(), host.as_bytes(), chosen.as_ref(), OnKeyConflict::Fail).unwrap()
    }

    fn vm() -> String {
        // Wine writes all times anew.
        BASE.replace("1700000000", "1800000000")
            .replace("1da", "1db")
            .replace("  03", "  04")
            .replace("[Software\\\\Gone] 1800000000\n#time=1db\n@=\"x\"\n\n", "")
            + "[Software\\\\New] 1800000000\n#time=1db\n\"Bar\"=dword:00000001\n\n"
    }

    #[test]
    fn keys_and_values_are_named_as_people_name_them_and_times_are_no_change() {
        let changes = Wine.diff(Path::new("/p/user.reg"), BASE.as_bytes(), vm().as_bytes()).unwrap();
        let keys: Vec<&str> = changes.iter().map(|c| c.key.as_str()).collect();
        let want = [
            r"HKCU\Control Panel\Desktop value Long",
            r"HKCU\Software\Gone key",
            r"HKCU\Software\Gone value (default)",
            r"HKCU\Software\New key",
            r"HKCU\Software\New value Bar",
        ];
        assert_eq!(keys, want);
        assert_eq!(
            (changes[0].before.as_deref(), changes[0].after.as_deref()),
            (Some("hex:01,02,03"), Some("hex:01,02,04"))
        );
    }

    #[test]
    fn only_what_is_chosen_changes_and_the_rest_is_byte_for_byte_the_hosts() {
        let host = BASE.replace("\"old\"", "\"host's\"");
        let merged = merge(&vm(), &host, Some(&[r"HKCU\Software\New value Bar"]));
        let new = "[Software\\\\New] 1800000000\n#time=1db\n\"Bar\"=dword:00000001\n\n";
        assert_eq!(String::from_utf8(merged.bytes).unwrap(), host.clone() + new);
        let all = merge(&vm(), &host, None);
        let want =
            host.replace("  03", "  04").replace("[Software\\\\Gone] 1700000000\n#time=1da\n@=\"x\"\n\n", "") + new;
        assert_eq!(String::from_utf8(all.bytes).unwrap(), want);
    }

    #[test]
    fn a_value_that_both_sides_changed_is_a_conflict() {
        let host = BASE.replace("  03", "  05").replace("@=\"x\"", "@=\"y\"");
        let merged = merge(&vm(), &host, None);
        let keys: Vec<&str> = merged.conflicts.iter().map(|c| c.key.as_str()).collect();
        let want = [
            r"HKCU\Control Panel\Desktop value Long",
            r"HKCU\Software\Gone key",
            r"HKCU\Software\Gone value (default)",
        ];
        assert_eq!(keys, want);
        assert_eq!(merged.bytes, host.as_bytes());
    }

    #[test]
    fn hostile_text_is_read_to_its_end() {
        for text in
            ["WINE REGISTRY Version 2\n[", "WINE REGISTRY Version 2\n[a]\n\"", "WINE REGISTRY Version 2\n[a]\n\"x\"=\\"]
        {
            let _either = Wine.diff(Path::new("/p/user.reg"), BASE.as_bytes(), text.as_bytes());
        }
        assert!(Wine.diff(Path::new("/p/user.reg"), b"nonsense", b"").is_err());
    }
}
