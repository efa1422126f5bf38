//! How overlayfs writes its notes on an upper entry, as pure parsers.
//!
//! ```text
//!   trusted.overlay.opaque    "y"                 nothing of the lower directory shows through
//!   trusted.overlay.redirect  "/x/y" | "y"        the lower directory lies elsewhere
//!   trusted.overlay.origin    00 fb len flags type uuid[16] handle   the lower inode it was copied from
//!   trusted.overlay.overlay.* written by the VM itself (escaped by the kernel): never believed
//! ```
//!
//! Invariants: nothing here does I/O but the `read_*` of [`Marks`]; any bytes are accepted without panic; only the class of the
//! mount is honoured (`user.overlay.*` in a root VM are the VM's own words).

use fvm_model::vm::XattrClass;
use fvm_sys::dir::Dir;
use fvm_sys::handle::FileHandle;
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// More components than any redirect that the kernel wrote can have (`PATH_MAX` / 2).
const REDIRECT_MAX_DEPTH: usize = 2048;
/// Bytes of `struct ovl_fb` before the handle.
const ORIGIN_HEAD_BYTES: usize = 21;

/// Where the lower of a moved directory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// Path from the root of the layer, without leading slash.
    FromRoot(PathBuf),
    /// Another name in the lower directory of the parent.
    Sibling(OsString),
}

impl Redirect {
    /// As the kernel writes it; [`parse_redirect`] reads it back.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::FromRoot(path) => [b"/", path.as_os_str().as_bytes()].concat(),
            Self::Sibling(name) => name.as_bytes().to_vec(),
        }
    }
}

/// What `origin` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// Not copied up: made in the VM.
    #[default]
    Absent,
    /// Copied up, from which inode is not said (rootless), or not in a form we know.
    Unnamed,
    /// Copied up from this lower inode.
    Handle(FileHandle),
}

/// Overlay's notes on one upper entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Marks {
    /// Directory: hides the lower one.
    pub opaque: bool,
    /// Directory: moved. `Err` when the bytes are not a redirect.
    pub redirect: Option<Result<Redirect, ()>>,
    /// Copied up from.
    pub origin: Origin,
}

impl Marks {
    /// Reads the notes of directory `dir` itself.
    pub(crate) fn read_dir(dir: &Dir, class: XattrClass) -> Result<Self, Errno> {
        let get = |what: &str| dir.xattr(Path::new(""), OsStr::new(&format!("{}{what}", class.prefix())));
        let opaque = get("opaque")?.is_some_and(|v| v == b"y");
        // The kernel stops at `opaque`, and rootless mounts neither write nor follow redirects.
        let redirect = match class {
            XattrClass::Trusted if !opaque => get("redirect")?.map(|v| parse_redirect(&v).ok_or(())),
            _ => None,
        };
        Ok(Self { opaque, redirect, origin: get("origin")?.map_or(Origin::Absent, |v| parse_origin(&v)) })
    }

    /// Reads `origin` of the non-directory `name` in `dir`.
    pub(crate) fn read_origin(dir: &Dir, name: &Path, class: XattrClass) -> Result<Origin, Errno> {
        Ok(dir.xattr(name, OsStr::new(origin_attr(class)))?.map_or(Origin::Absent, |v| parse_origin(&v)))
    }

    /// The same of an open file.
    pub(crate) fn read_origin_of(file: impl AsFd, class: XattrClass) -> Result<Origin, Errno> {
        let value = fvm_sys::dir::xattr_of(file, OsStr::new(origin_attr(class)))?;
        Ok(value.map_or(Origin::Absent, |v| parse_origin(&v)))
    }
}

fn origin_attr(class: XattrClass) -> &'static str {
    match class {
        XattrClass::Trusted => "trusted.overlay.origin",
        XattrClass::User => "user.overlay.origin",
    }
}

/// Whether an attribute is overlay's own, of either class, escaped or not: such are never compared nor copied.
#[must_use]
pub fn is_overlay_attr(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(XattrClass::Trusted.prefix().as_bytes()) || name.starts_with(XattrClass::User.prefix().as_bytes())
}

/// Parses `redirect`; `None` when it is not one that the kernel would write.
#[must_use]
pub fn parse_redirect(value: &[u8]) -> Option<Redirect> {
    if value.contains(&0) {
        return None;
    }
    let good = |c: &[u8]| !c.is_empty() && c != b"." && c != b".." && c.len() <= 255;
    match value.strip_prefix(b"/") {
        None => (good(value) && !value.contains(&b'/')).then(|| Redirect::Sibling(OsStr::from_bytes(value).to_owned())),
        Some(rest) => {
            let ok = rest.split(|b| *b == b'/').all(good) && rest.split(|b| *b == b'/').count() <= REDIRECT_MAX_DEPTH;
            ok.then(|| Redirect::FromRoot(PathBuf::from(OsStr::from_bytes(rest))))
        }
    }
}

/// Parses `origin`; anything but a well-formed handle says only "copied up".
#[must_use]
pub fn parse_origin(value: &[u8]) -> Origin {
    let [0, 0xfb, len, _flags, kind, ..] = value else {
        return Origin::Unnamed;
    };
    if usize::from(*len) != value.len() || value.len() <= ORIGIN_HEAD_BYTES {
        return Origin::Unnamed;
    }
    Origin::Handle(FileHandle { kind: i32::from(*kind), bytes: value[ORIGIN_HEAD_BYTES..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_that_would_leave_the_layer_is_refused() {
        for bad in ["", "/", ".", "..", "/..", "/a/../b", "a/b", "/a//b", "/a/", "a\0", "/a\0b", "../a", "/./a"] {
            assert_eq!(parse_redirect(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse_redirect(&b"/a".repeat(3000)), None);
        assert_eq!(parse_redirect(b"/a/b"), Some(Redirect::FromRoot("a/b".into())));
        for good in [&b"/a/b"[..], b"b\xff"] {
            assert_eq!(parse_redirect(good).unwrap().to_bytes(), good);
        }
        assert_eq!(parse_redirect(b"b\xff"), Some(Redirect::Sibling(OsStr::from_bytes(b"b\xff").to_owned())));
    }

    #[test]
    fn an_origin_is_a_handle_only_when_well_formed() {
        let mut good = vec![0, 0xfb, 29, 0, 1];
        good.extend([7; 16]);
        good.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(parse_origin(&good), Origin::Handle(FileHandle { kind: 1, bytes: vec![1, 2, 3, 4, 5, 6, 7, 8] }));
        for len in 0..good.len() {
            assert_eq!(parse_origin(&good[..len]), Origin::Unnamed, "{len}");
        }
        good[1] = 0;
        assert_eq!(parse_origin(&good), Origin::Unnamed);
    }

    #[test]
    fn both_classes_and_escaped_ones_are_overlays_own() {
        for own in ["trusted.overlay.opaque", "user.overlay.x", "user.overlay.overlay.opaque"] {
            assert!(is_overlay_attr(OsStr::new(own)), "{own}");
        }
        assert!(!is_overlay_attr(OsStr::new("user.overlays")));
    }
}
