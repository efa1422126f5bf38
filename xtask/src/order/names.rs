//! From addresses to a linker script.
//!
//! ```text
//!   address ─► function ─► a name of its own: by its name without its hash     *(.text._ZN6fvm_vm6launch5begin17h*)
//!                       ├► one of many of that name: by its whole name, first ..., and all of that name, last
//!                       └► libc's: by the member of its archive                *libc.a:malloc.o(.text .text.*)
//! ```
//!
//! Invariant: a hash changes with the compiler and with how it is called; what is found by it only is no loss when it is not.

use std::collections::{BTreeMap, HashMap, HashSet};

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    address: u64,
    size: u64,
    name: String,
}

/// What `nm --print-size --numeric-sort` says of functions.
pub fn symbols(nm: &str) -> Vec<Symbol> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let size = u64::from_str_radix(words.next()?, 16).ok()?;
        let is_function = matches!(words.next()?, "t" | "T" | "w" | "W" | "i");
        is_function.then(|| words.next().map(|name| Symbol { address, size, name: name.to_owned() }))?
    };
    nm.lines().filter_map(line).collect()
}

/// Which member of the archive has each function: `nm --print-file-name`.
pub fn members(nm: &str) -> HashMap<String, String> {
    let line = |line: &str| {
        let (place, rest) = line.split_once(": ").or_else(|| line.split_once(":0"))?;
        let member = place.rsplit(':').next()?;
        let mut words = rest.split_whitespace().rev();
        let (name, kind) = (words.next()?, words.next()?);
        matches!(kind, "t" | "T" | "i" | "W").then(|| (name.to_owned(), member.to_owned()))
    };
    let mut members = HashMap::new();
    for (name, member) in nm.lines().filter_map(line) {
        members.entry(name).or_insert(member);
    }
    members
}

/// The functions in which `addresses` lie, in that order.
pub fn first_run(symbols: &[Symbol], addresses: Vec<u64>) -> Vec<Symbol> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for address in addresses {
        let after = symbols.partition_point(|symbol| symbol.address <= address);
        let Some(at) = symbols[..after].last().map(|symbol| symbol.address) else { continue };
        let first = symbols.partition_point(|symbol| symbol.address < at);
        let mut there = symbols[first..].iter().take_while(|symbol| symbol.address == at).peekable();
        let size = there.peek().map_or(0, |symbol| symbol.size.max(1));
        if address < at + size && seen.insert(at) {
            // Where the compiler found several to be the same, its section has the name of any of them.
            found.extend(there.cloned());
        }
    }
    found
}

/// A name without what changes from build to build: `*` stands for that.
fn pattern(name: &str) -> String {
    let name = name.split(".llvm.").next().unwrap_or(name);
    if let Some(hash) = name.rfind("17h")
        && name.starts_with("_ZN")
    {
        return format!("{}17h*", &name[..hash]);
    }
    if !name.starts_with("_R") {
        return name.to_owned();
    }
    // The hash of a crate: 'Cs', digits of base 62, '_'.
    let mut parts = name.split("Cs");
    let mut pattern = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_alphanumeric).count();
        match part.as_bytes().get(digits) {
            Some(b'_') => {
                pattern.push_str("Cs*");
                pattern.push_str(&part[digits..]);
            }
            _ => {
                pattern.push_str("Cs");
                pattern.push_str(part);
            }
        }
    }
    pattern + "*"
}

/// Others of the same name may come with a function that take no more room than this, in bytes.
const COMPANY_MAX_BYTES: u64 = 1024;

/// The sections in which a function of that name may lie: what is rarely called has others.
fn sections(name: &str) -> String {
    format!("*(.text.{name} .text.unlikely.{name})")
}

/// The script that lays `first` before all other functions.
pub fn script(all: &[Symbol], first: &[Symbol], members: &HashMap<String, String>) -> String {
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for symbol in all {
        *sizes.entry(pattern(&symbol.name)).or_default() += symbol.size;
    }
    let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
    for symbol in first {
        *wanted.entry(pattern(&symbol.name)).or_default() += symbol.size;
    }
    let (mut lines, mut last) = (Vec::new(), Vec::new());
    for symbol in first {
        let pattern = pattern(&symbol.name);
        let of = |counted: &BTreeMap<String, u64>| counted.get(&pattern).copied().unwrap_or_default();
        if let Some(member) = members.get(&symbol.name).filter(|_| !symbol.name.starts_with("_R")) {
            lines.push(format!("*libc.a:{member}(.text .text.*)"));
        } else if of(&sizes).saturating_sub(of(&wanted)) > COMPANY_MAX_BYTES {
            lines.push(sections(&symbol.name));
            last.push(sections(&pattern));
        } else {
            lines.push(sections(&pattern));
        }
    }
    let mut seen = HashSet::new();
    let lines = lines.into_iter().chain(last).filter(|line| seen.insert(line.clone()));
    let lines: String = lines.map(|line| format!("    {line}\n")).collect();
    format!(
        "/* Written by 'cargo xtask order': the functions that start a VM, in the order in which they are run. */\n\
         SECTIONS {{\n  .text.start : {{\n{lines}  }}\n}} INSERT BEFORE .text;\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NM: &str = "\
0000000000401000 0000000000000020 T _start
0000000000401020 0000000000000100 t _ZN6fvm_vm6launch5begin17had89c1e468549b11E
0000000000401120 0000000000000010 t _ZN4core3fmt9Formatter17h0123456789abcdefE.llvm.77
0000000000401130 0000000000002000 t _ZN4core3fmt9Formatter17h0123456789abcdeeE
0000000000403130 0000000000000008 t _RNvNtCsjrHSEGnQ3l9_3std2fsNtB5_4open
0000000000403130 0000000000000008 t _RNvNtCsjrHSEGnQ3l9_3std2fsNtB5_5again
0000000000403140 T of_no_size
0000000000403150 0000000000000040 T malloc
0000000000500000 0000000000000004 D data
";

    #[test]
    fn functions_are_laid_in_the_order_in_which_they_are_run() {
        let symbols = symbols(NM);
        assert_eq!(symbols.len(), 7);
        let found = first_run(&symbols, vec![0x40_3158, 0x40_1024, 0x40_1120, 0x40_1028, 0x40_3137, 0x99_9999]);
        let members = members("libc.a:malloc.o:0000000000000000 T malloc\nlibc.a:other.o: U malloc\n");
        let script = script(&symbols, &found, &members);
        let lines: Vec<&str> = script.lines().map(str::trim).filter(|line| line.starts_with('*')).collect();
        assert_eq!(
            lines,
            [
                "*libc.a:malloc.o(.text .text.*)",
                &sections("_ZN6fvm_vm6launch5begin17h*"),
                // Another of its name is large: that one comes last.
                &sections("_ZN4core3fmt9Formatter17h0123456789abcdefE.llvm.77"),
                &sections("_RNvNtCs*_3std2fsNtB5_4open*"),
                // Two names of one function.
                &sections("_RNvNtCs*_3std2fsNtB5_5again*"),
                &sections("_ZN4core3fmt9Formatter17h*"),
            ]
        );
        assert!(script.ends_with("} INSERT BEFORE .text;\n"), "{script}");
    }

    #[test]
    fn a_name_loses_its_hashes_and_nothing_else() {
        for (name, expected) in [
            ("malloc", "malloc"),
            ("_ZN3fvm3run17h0123456789abcdefE", "_ZN3fvm3run17h*"),
            ("_RNvCs12ab_3stdCsXY", "_RNvCs*_3stdCsXY*"),
            ("_RNvNtCsa_4core3fmt", "_RNvNtCs*_4core3fmt*"),
        ] {
            assert_eq!(pattern(name), expected);
        }
    }
}
