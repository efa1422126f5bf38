//! The names of one directory, in the order in which what they stand for is listed.
//!
//! ```text
//!   bytes    a . a / a - b . g o n e ...        entries   (at, length, kind)...
//!
//!   order    a        Directory   the entry itself
//!            a-b      Entry, File '-' stands before '/'
//!            a/       Below       what the directory holds
//!            gone     Missing     only the host has it, and the VM's directory hides that
//! ```
//!
//! Invariants: the order is that of the bytes of whole paths, so a directory's content is not always next to it; about
//! 16 bytes per name beyond the name itself, so that a directory of a million entries fits.

use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything but a directory.
    Entry,
    /// The same, and a regular file when it was listed.
    File,
    /// A directory.
    Directory,
    /// What a directory holds.
    Below,
    /// An entry of the host's that the VM's directory hides.
    Missing,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    at: u32,
    len: u16,
    kind: Kind,
}

/// Names with what they stand for.
#[derive(Debug, Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl Names {
    /// Adds a name; a directory twice, for itself and for what it holds.
    pub(crate) fn push(&mut self, name: &OsStr, kind: Kind) -> Result<(), Errno> {
        self.put(name.as_bytes(), kind)?;
        if kind == Kind::Directory {
            self.put(name.as_bytes(), Kind::Below)?;
            self.bytes.push(b'/');
            if let Some(last) = self.places.last_mut() {
                last.len += 1;
            }
        }
        Ok(())
    }

    fn put(&mut self, name: &[u8], kind: Kind) -> Result<(), Errno> {
        let at = u32::try_from(self.bytes.len()).map_err(|_| Errno::TOOBIG)?;
        let len = u16::try_from(name.len()).ok().filter(|len| *len < u16::MAX).ok_or(Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.places.push(Place { at, len, kind });
        Ok(())
    }

    /// Puts them in order, and gives back what memory is not used.
    pub(crate) fn sort(&mut self) {
        let bytes = &self.bytes;
        self.places.sort_unstable_by(|a, b| slice(bytes, *a).cmp(slice(bytes, *b)));
    }

    /// Whether the name is among these, which are in order.
    pub(crate) fn contains(&self, name: &OsStr) -> bool {
        self.places.binary_search_by(|place| slice(&self.bytes, *place).cmp(name.as_bytes())).is_ok()
    }

    /// The one at `index`: without the slash, whatever it stands for.
    pub(crate) fn get(&self, index: usize) -> Option<(&OsStr, Kind)> {
        let place = *self.places.get(index)?;
        let bytes = slice(&self.bytes, place);
        let name = if place.kind == Kind::Below { &bytes[..bytes.len() - 1] } else { bytes };
        Some((OsStr::from_bytes(name), place.kind))
    }
}

fn slice(bytes: &[u8], place: Place) -> &[u8] {
    &bytes[place.at as usize..place.at as usize + usize::from(place.len)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_directory_holds_stands_where_whole_paths_put_it() {
        let mut names = Names::default();
        for (name, kind) in [
            ("b", Kind::Entry),
            ("a.c", Kind::Entry),
            ("a", Kind::Directory),
            ("a-b", Kind::Directory),
            ("a0", Kind::Missing),
        ] {
            names.push(OsStr::new(name), kind).unwrap();
        }
        names.sort();
        let got: Vec<_> = (0..).map_while(|i| names.get(i)).map(|(n, k)| (n.to_str().unwrap(), k)).collect();
        assert_eq!(
            got,
            [
                ("a", Kind::Directory),
                ("a-b", Kind::Directory),
                ("a-b", Kind::Below),
                ("a.c", Kind::Entry),
                ("a", Kind::Below),
                ("a0", Kind::Missing),
                ("b", Kind::Entry),
            ]
        );
        assert!(names.contains(OsStr::new("a0")) && !names.contains(OsStr::new("a.")));
    }
}
