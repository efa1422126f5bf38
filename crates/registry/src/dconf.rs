//! dconf's database: one GVDB file, a hash table from paths to GVariant values.
//!
//! ```text
//!   0   "GVariant"  version=0  options=0  root {start,end}
//!       root: bloom words (n), buckets (m), bloom..., buckets..., items (24 bytes each)
//!       item: hash  parent  key_start  key_size  type 'v'|'L'  -  value {start,end}
//!       key of an item = key of its parent + its own bytes;  'L' lists the children of a directory
//! ```
//!
//! Format: `gvdb/gvdb-format.h`, `gvdb-reader.c`, `gvdb-builder.c` of the GNOME project (described here, not copied).
//! Values are kept as the bytes they are: a serialised GVariant of type `v` (child, NUL, type string).
//!
//! Invariants: little-endian files only, as on every machine fvm runs on; offsets are checked; time and memory are
//! linear in the file's length: names are at most [`MAX_NAME`] long and [`MAX_NAMES`] together, and values that lie over
//! one another, so that they are longer than the file together, are refused.

use crate::{KeyChange, KeyConflict, Merged, OnKeyConflict, Registry, RegistryError};
use fvm_model::path::printable;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The adapter.
#[derive(Debug, Clone, Copy)]
pub struct Dconf;

const SIGNATURE: &[u8] = b"GVariant";
const ITEM_BYTES: usize = 24;
const NO_PARENT: u32 = u32::MAX;
/// Longest dconf path that is believed.
const MAX_NAME: usize = 4096;
const MAX_ITEMS: usize = 1 << 20;
/// Longest that all paths of a database are together.
const MAX_NAMES: usize = 64 << 20;

/// Path → serialised value.
type Table = BTreeMap<Vec<u8>, Vec<u8>>;

fn malformed(side: &'static str, why: &str) -> RegistryError {
    RegistryError::Malformed { store: "dconf", side, why: why.into() }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, at)?).ok()
}

fn slice(bytes: &[u8], at: usize) -> Option<&[u8]> {
    bytes.get(usize_at(bytes, at)?..usize_at(bytes, at + 4)?)
}

fn parse(bytes: &[u8], side: &'static str) -> Result<Table, RegistryError> {
    if bytes.is_empty() {
        return Ok(Table::new());
    }
    if bytes.starts_with(b"raVGtnai") {
        return Err(malformed(side, "it was written on a machine of the other byte order"));
    }
    if !bytes.starts_with(SIGNATURE) || u32_at(bytes, 8) != Some(0) {
        return Err(malformed(side, "it is no GVDB file of version 0"));
    }
    items(bytes).ok_or_else(|| malformed(side, "an offset leads out of it"))?.ok_or_else(|| {
        malformed(
            side,
            "it holds a key twice, or something else than keys and directories, or more than it has room for",
        )
    })
}

/// Outer `None`: an offset is wrong. Inner `None`: not a plain key store.
fn items(bytes: &[u8]) -> Option<Option<Table>> {
    let root_start = usize_at(bytes, 16)?;
    let root = bytes.get(root_start..usize_at(bytes, 20)?)?;
    let blooms = usize_at(root, 0)? & ((1 << 27) - 1);
    let buckets = usize_at(root, 4)?;
    let first = 8_usize.checked_add(blooms.checked_mul(4)?)?.checked_add(buckets.checked_mul(4)?)?;
    let all = root.get(first..)?;
    let count = all.len() / ITEM_BYTES;
    if count > MAX_ITEMS {
        return Some(None);
    }
    let item = |i: usize| all.get(i * ITEM_BYTES..(i + 1) * ITEM_BYTES);
    let mut table = Table::new();
    let (mut names_bytes, mut values_bytes) = (0, 0);
    for i in 0..count {
        let this = item(i)?;
        match this[14] {
            b'L' => continue,
            b'v' => {}
            _ => return Some(None),
        }
        // From the leaf up to the root.
        let mut parts: Vec<&[u8]> = Vec::new();
        let (mut at, mut length) = (this, 0);
        loop {
            let start = usize_at(at, 8)?;
            let size = usize::from(u16::from_le_bytes(at.get(12..14)?.try_into().ok()?));
            let part = bytes.get(start..start.checked_add(size)?)?;
            length += part.len();
            parts.push(part);
            match u32_at(at, 4)? {
                NO_PARENT => break,
                // A ring of parents has no end.
                _ if length > MAX_NAME || parts.len() > MAX_NAME => return Some(None),
                parent => at = item(usize::try_from(parent).ok()?)?,
            }
        }
        let value = slice(bytes, usize_at_item_value(root_start, first, i)?)?;
        (names_bytes, values_bytes) = (names_bytes + length, values_bytes + value.len());
        if length > MAX_NAME || names_bytes > MAX_NAMES || values_bytes > bytes.len() {
            return Some(None);
        }
        let name: Vec<u8> = parts.iter().rev().flat_map(|p| p.iter().copied()).collect();
        if table.insert(name, value.to_vec()).is_some() {
            return Some(None);
        }
    }
    Some(Some(table))
}

/// Where in the file the value pointer of item `i` is.
fn usize_at_item_value(root_start: usize, first: usize, i: usize) -> Option<usize> {
    root_start.checked_add(first)?.checked_add(i.checked_mul(ITEM_BYTES)?)?.checked_add(16)
}

/// djb2 over signed bytes, as GVDB hashes names.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(5381_u32, |h, b| h.wrapping_mul(33).wrapping_add(i32::from(b.cast_signed()).cast_unsigned()))
}

/// The directory that a name lies in.
fn parent(name: &[u8]) -> Option<&[u8]> {
    let slash = name[..name.len().saturating_sub(1)].iter().rposition(|b| *b == b'/')?;
    Some(&name[..=slash])
}

fn write(table: &Table) -> Option<Vec<u8>> {
    // Every key, and every directory above one.
    let mut names: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
    for (name, value) in table {
        names.insert(name, Some(value));
        let mut end = name.len();
        while let Some(slash) = name[..end.saturating_sub(1)].iter().rposition(|b| *b == b'/') {
            end = slash + 1;
            names.entry(&name[..end]).or_insert(None);
        }
    }
    let buckets = names.len().max(1);
    let bucket = |name: &[u8]| usize::try_from(hash(name)).unwrap_or(0) % buckets;
    let mut order: Vec<&[u8]> = names.keys().copied().collect();
    order.sort_by_key(|name| bucket(name));
    let index: BTreeMap<&[u8], u32> =
        order.iter().enumerate().map(|(i, n)| Some((*n, u32::try_from(i).ok()?))).collect::<Option<_>>()?;
    let mut children: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
    for name in names.keys() {
        if let Some(dir) = parent(name) {
            children.entry(dir).or_default().push(index[name]);
        }
    }

    let root_start = SIGNATURE.len() + 16;
    let root_len = 8 + 4 * buckets + ITEM_BYTES * order.len();
    let mut root = Vec::with_capacity(root_len);
    // Strings and values come behind the table.
    let mut tail: Vec<u8> = Vec::new();
    let tail_start = root_start + root_len;
    let offset = |tail: &[u8]| u32::try_from(tail_start + tail.len()).ok();
    root.extend(0_u32.to_le_bytes());
    root.extend(u32::try_from(buckets).ok()?.to_le_bytes());
    let mut next = 0;
    for b in 0..buckets {
        root.extend(u32::try_from(next).ok()?.to_le_bytes());
        next += order[next..].iter().take_while(|name| bucket(name) == b).count();
    }
    for name in &order {
        let above = parent(name);
        let own = &name[above.map_or(0, <[u8]>::len)..];
        root.extend(hash(name).to_le_bytes());
        root.extend(above.map_or(NO_PARENT, |dir| index[dir]).to_le_bytes());
        root.extend(offset(&tail)?.to_le_bytes());
        root.extend(u16::try_from(own.len()).ok()?.to_le_bytes());
        tail.extend_from_slice(own);
        let (kind, align) = if names[name].is_some() { (b'v', 8) } else { (b'L', 4) };
        root.extend([kind, 0]);
        while !(tail_start + tail.len()).is_multiple_of(align) {
            tail.push(0);
        }
        root.extend(offset(&tail)?.to_le_bytes());
        match names[name] {
            Some(value) => tail.extend_from_slice(value),
            None => tail.extend(children.get(name).into_iter().flatten().flat_map(|i| i.to_le_bytes())),
        }
        root.extend(offset(&tail)?.to_le_bytes());
    }
    let mut out = SIGNATURE.to_vec();
    for number in [0, 0, root_start, root_start + root_len] {
        out.extend(u32::try_from(number).ok()?.to_le_bytes());
    }
    out.extend(root);
    out.extend(tail);
    Some(out)
}

/// A value as `dconf read` shows it, for the types that people set; others by type and bytes.
fn shown(value: &[u8]) -> String {
    let Some(nul) = value.iter().rposition(|b| *b == 0) else { return hex(value) };
    let (child, kind) = (&value[..nul], &value[nul + 1..]);
    let text = |s: &[u8]| format!("'{}'", printable(s.strip_suffix(b"\0").unwrap_or(s)));
    let number = |n: usize| -> Option<u64> {
        let mut wide = [0; 8];
        wide[..n].copy_from_slice(child.get(..n)?);
        Some(u64::from_le_bytes(wide))
    };
    let simple = match kind {
        b"s" | b"o" | b"g" => Some(text(child)),
        b"b" => child.first().map(|b| (*b != 0).to_string()),
        b"y" => number(1).map(|n| n.to_string()),
        b"q" => number(2).map(|n| n.to_string()),
        b"n" => number(2).and_then(|n| u16::try_from(n).ok()).map(|n| n.cast_signed().to_string()),
        b"u" => number(4).map(|n| format!("uint32 {n}")),
        b"i" => number(4).and_then(|n| u32::try_from(n).ok()).map(|n| n.cast_signed().to_string()),
        b"t" => number(8).map(|n| format!("uint64 {n}")),
        b"x" => number(8).map(|n| format!("int64 {}", n.cast_signed())),
        b"d" => number(8).map(|n| f64::from_bits(n).to_string()),
        b"as" => strings(child).map(|list| format!("[{}]", list.into_iter().map(text).collect::<Vec<_>>().join(", "))),
        _ => None,
    };
    simple.unwrap_or_else(|| format!("{} {}", printable(kind), hex(child)))
}

/// The elements of a serialised array of strings: the end of each is in a table at the array's end.
fn strings(array: &[u8]) -> Option<Vec<&[u8]>> {
    if array.is_empty() {
        return Some(Vec::new());
    }
    let width = match array.len() {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        _ => 4,
    };
    let read = |at: usize| {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(array.get(at..at + width)?);
        usize::try_from(u64::from_le_bytes(wide)).ok()
    };
    let table = read(array.len().checked_sub(width)?)?;
    let (mut from, mut list) = (0, Vec::new());
    for at in (table..array.len()).step_by(width) {
        let to = read(at)?;
        list.push(array.get(from..to)?);
        from = to;
    }
    Some(list)
}

fn hex(bytes: &[u8]) -> String {
    const LONGEST: usize = 100;
    let digits: String = bytes.iter().take(LONGEST).map(|b| format!("{b:02x}")).collect();
    if bytes.len() > LONGEST { format!("0x{digits}...") } else { format!("0x{digits}") }
}

fn changed<'t>(base: &'t Table, vm: &'t Table) -> Vec<&'t Vec<u8>> {
    let names: BTreeSet<&Vec<u8>> = base.keys().chain(vm.keys()).collect();
    names.into_iter().filter(|name| base.get(*name) != vm.get(*name)).collect()
}

impl Registry for Dconf {
    fn name(&self) -> &'static str {
        "dconf"
    }

    fn recognises(&self, path: &Path, bytes: &[u8]) -> bool {
        let is_user = path.ends_with("dconf/user");
        (is_user || path.parent() == Some(Path::new("/etc/dconf/db"))) && bytes.starts_with(SIGNATURE)
    }

    fn diff(&self, _: &Path, base: &[u8], vm: &[u8]) -> Result<Vec<KeyChange>, RegistryError> {
        let (base, vm) = (parse(base, "base")?, parse(vm, "VM")?);
        let change = |name: &Vec<u8>| KeyChange {
            key: printable(name),
            before: base.get(name).map(|v| shown(v)),
            after: vm.get(name).map(|v| shown(v)),
        };
        let mut changes: Vec<KeyChange> = changed(&base, &vm).into_iter().map(change).collect();
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(changes)
    }

    fn merge(
        &self,
        _: &Path,
        base: &[u8],
        vm: &[u8],
        host: &[u8],
        chosen: Option<&BTreeSet<String>>,
        on: OnKeyConflict,
    ) -> Result<Merged, RegistryError> {
        let (base, vm, now) = (parse(base, "base")?, parse(vm, "VM")?, parse(host, "host")?);
        let mut conflicts = Vec::new();
        let mut merged = now.clone();
        for name in changed(&base, &vm) {
            let key = printable(name);
            if chosen.is_some_and(|chosen| !chosen.contains(&key)) {
                continue;
            }
            let (then, theirs, ours) = (base.get(name), vm.get(name), now.get(name));
            if ours != then && ours != theirs {
                match on {
                    OnKeyConflict::Vm => {}
                    OnKeyConflict::Host => continue,
                    OnKeyConflict::Fail => {
                        let text = |value: Option<&Vec<u8>>| value.map(|v| shown(v));
                        let (base, host, vm) = (text(then), text(ours), text(theirs));
                        conflicts.push(KeyConflict { key, base, host, vm });
                        continue;
                    }
                }
            }
            match theirs {
                Some(value) => drop(merged.insert(name.clone(), value.clone())),
                None => drop(merged.remove(name)),
            }
        }
        if !conflicts.is_empty() || merged == now {
            return Ok(Merged { bytes: host.to_vec(), conflicts });
        }
        let too_large =
            || RegistryError::Unwritable { store: "dconf", why: "it is over 4 GiB, or a name over 64 KiB".into() };
        Ok(Merged { bytes: write(&merged).ok_or_else(too_large)?, conflicts })
    }
}

#[cfg(test)]
mod tests;
