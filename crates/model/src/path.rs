//! Paths as types: a host path, and a path as a VM sees it.
//!
//! ```text
//!   HostPath  /home/u/a        on the machine
//!   VmPath    /home/u/a        the same name inside a VM; a different file once the VM changed it
//! ```
//!
//! Invariants: both are absolute byte strings without `.`/`..`/empty components and without NUL. In JSON a path that
//! is UTF-8 is a string, any other is `{"hex":"2f61ff"}`, so no byte is ever lost.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Why a byte string is not a path that fvm accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("'{0}' is not an absolute path")]
    NotAbsolute(String),
    /// It has a `..` component or a NUL byte.
    #[error("'{0}' holds '..' or a NUL byte")]
    Unclean(String),
}

/// So many bytes of two paths are compared at once.
const PIECE_BYTES: usize = 64;

macro_rules! path_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(PathBuf);

        // A path here is clean, so equal paths have equal bytes: no need to take them apart, as PathBuf does. The order
        // is PathBuf's, component by component: that of the bytes, if a slash comes before all others.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                let (a, b) = (self.as_bytes(), other.as_bytes());
                let rank = |b: u8| if b == b'/' { 0 } else { b };
                // Paths that are compared often begin alike, and may be thousands of bytes long.
                let pieces = a.chunks_exact(PIECE_BYTES).zip(b.chunks_exact(PIECE_BYTES));
                let alike = pieces.take_while(|(a, b)| a == b).count() * PIECE_BYTES;
                match a[alike..].iter().zip(&b[alike..]).find(|(a, b)| a != b) {
                    Some((a, b)) => rank(*a).cmp(&rank(*b)),
                    None => a.len().cmp(&b.len()),
                }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.as_bytes() == other.as_bytes()
            }
        }

        impl Eq for $name {}

        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.as_bytes().hash(state);
            }
        }

        impl $name {
            /// Checks and normalises `path` (repeated and trailing slashes go).
            ///
            /// # Errors
            /// When it is relative, or holds `..` or NUL.
            pub fn new(path: impl AsRef<Path>) -> Result<Self, PathError> {
                clean(path.as_ref()).map(Self)
            }

            /// `/`.
            #[must_use]
            pub fn root() -> Self {
                Self(PathBuf::from("/"))
            }

            /// This path with one more component. The caller vouches that `name` is a single name.
            #[must_use]
            pub fn join(&self, name: impl AsRef<OsStr>) -> Self {
                Self(joined(&self.0, Path::new(name.as_ref())))
            }

            /// The parent; `None` at `/`.
            #[must_use]
            pub fn parent(&self) -> Option<Self> {
                let slash = self.last_slash()?;
                Some(Self(PathBuf::from(OsStr::from_bytes(&self.as_bytes()[..slash.max(1)]))))
            }

            /// The last component; empty at `/`.
            #[must_use]
            pub fn name(&self) -> &OsStr {
                self.last_slash().map_or(OsStr::new(""), |slash| OsStr::from_bytes(&self.as_bytes()[slash + 1..]))
            }

            /// Where the last component begins; `None` at `/`.
            fn last_slash(&self) -> Option<usize> {
                let bytes = self.as_bytes();
                if bytes.len() > 1 { bytes.iter().rposition(|b| *b == b'/') } else { None }
            }

            /// As a standard path.
            #[must_use]
            pub fn as_path(&self) -> &Path {
                &self.0
            }

            /// The raw bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_os_str().as_bytes()
            }

            /// Whether this is `other` or lies below it.
            #[must_use]
            pub fn is_within(&self, other: &Self) -> bool {
                self.relative_to(other).is_some()
            }

            /// The part below `base`, without a leading slash; `None` when not within.
            #[must_use]
            pub fn relative_to(&self, base: &Self) -> Option<&Path> {
                let (bytes, base) = (self.as_bytes(), base.as_bytes());
                let rest = bytes.strip_prefix(base)?;
                let below = match rest {
                    [] => rest,
                    [b'/', below @ ..] => below,
                    // Below `/`, whose slash is gone with the base.
                    _ if base == b"/" => rest,
                    _ => return None,
                };
                Some(Path::new(OsStr::from_bytes(below)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match plain(self.as_bytes()) {
                    Some(text) => f.write_str(text),
                    None => f.write_str(&printable(self.as_bytes())),
                }
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                serialize_os(self.0.as_os_str(), s)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(PathBuf::from(deserialize_os(d)?)).map_err(D::Error::custom)
            }
        }
    };
}

path_type! {
    /// A path on the host.
    HostPath
}
path_type! {
    /// A path as a program in a VM sees it.
    VmPath
}

impl HostPath {
    /// The same name, as the VM sees it: a VM's tree has the host's names.
    #[must_use]
    pub fn in_vm(&self) -> VmPath {
        VmPath(self.0.clone())
    }
}

impl VmPath {
    /// The same name on the host.
    #[must_use]
    pub fn on_host(&self) -> HostPath {
        HostPath(self.0.clone())
    }
}

fn clean(path: &Path) -> Result<PathBuf, PathError> {
    let bytes = path.as_os_str().as_bytes();
    if !path.is_absolute() {
        return Err(PathError::NotAbsolute(printable(bytes)));
    }
    // Each component taken by itself costs, and nearly all paths are clean.
    let is_clean = !bytes.contains(&0)
        && (bytes == b"/" || bytes[1..].split(|b| *b == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
    if is_clean {
        return Ok(path.to_path_buf());
    }
    if bytes.contains(&0) || path.components().any(|c| c == Component::ParentDir) {
        return Err(PathError::Unclean(printable(bytes)));
    }
    Ok(path.components().collect())
}

/// A name as text that cannot move the cursor or hide: control characters, and bytes that are not UTF-8, are escaped.
/// Names come from a hostile VM, so everything printed for people goes through here.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    if let Some(text) = plain(bytes) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_bidi_or_invisible(c) {
                out.extend(c.escape_default());
            } else if c == '\\' {
                out.push_str("\\\\");
            } else {
                out.push(c);
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

/// The text, if it is printable as it is.
fn plain(bytes: &[u8]) -> Option<&str> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    if bytes.iter().all(is_plain) { std::str::from_utf8(bytes).ok() } else { None }
}

/// As [`Path::join`], with its memory asked for once.
#[must_use]
pub fn joined(dir: &Path, name: &Path) -> PathBuf {
    let mut path = PathBuf::with_capacity(dir.as_os_str().len() + 1 + name.as_os_str().len());
    path.push(dir);
    path.push(name);
    path
}

/// Characters that reorder or hide text (bidirectional controls, zero-width, line separators).
fn is_bidi_or_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}' | '\u{180e}')
}

/// Serialises a byte string: text when it is UTF-8, `{"hex": ...}` otherwise.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_os<S: Serializer>(value: &OsStr, s: S) -> Result<S::Ok, S::Error> {
    match value.to_str() {
        Some(text) => s.serialize_str(text),
        None => Hex { hex: value.as_bytes().iter().map(|b| format!("{b:02x}")).collect() }.serialize(s),
    }
}

/// The inverse of [`serialize_os`].
///
/// # Errors
/// When the input is neither a string nor `{"hex": ...}` with an even number of hex digits.
pub fn deserialize_os<'de, D: Deserializer<'de>>(d: D) -> Result<OsString, D::Error> {
    match Text::deserialize(d)? {
        Text::Plain(text) => Ok(OsString::from(text)),
        Text::Hex(Hex { hex }) => unhex(&hex).map(OsString::from_vec).ok_or_else(|| D::Error::custom("bad hex path")),
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |d: u8| (d as char).to_digit(16);
    digits.chunks(2).map(|p| u8::try_from(value(p[0])? * 16 + value(p[1])?).ok()).collect()
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Hex(Hex),
}

#[derive(Serialize, Deserialize)]
struct Hex {
    hex: String,
}

/// `OsString` as a serde value, for `#[serde(with = "fvm_model::path::os")]`-free structs: a byte string in JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub OsString);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serialize_os(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        deserialize_os(d).map(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_standard_library() {
        let paths = ["/", "/a", "/a/b", "/ab", "/a.b", "/a\u{1}b", "/a/bc", "/\u{e4}/b", "/a b/c.d", "/...", "/a/.b"];
        for path in paths.map(|p| HostPath::new(p).unwrap()) {
            assert_eq!(path.parent().as_ref().map(HostPath::as_path), path.as_path().parent(), "{path}");
            assert_eq!(path.name(), path.as_path().file_name().unwrap_or_default(), "{path}");
            for base in paths.map(|p| HostPath::new(p).unwrap()) {
                assert_eq!(path.relative_to(&base), path.as_path().strip_prefix(base.as_path()).ok(), "{path} {base}");
                assert_eq!(path.cmp(&base), path.as_path().cmp(base.as_path()), "{path} {base}");
                assert_eq!(path.is_within(&base), path.as_path().starts_with(base.as_path()), "{path} {base}");
            }
        }
    }

    #[test]
    fn long_paths_are_in_the_order_of_the_standard_library() {
        // Alike for about as long as is compared at once, and twice that.
        let starts = [60, 61, 62, 63, 64, 65, 126, 127, 128, 129].map(|len| format!("/{}", "d".repeat(len - 1)));
        let ends = ["", "/a", "a", "/b/c", "!", "d", "/"];
        let paths: Vec<HostPath> =
            starts.iter().flat_map(|s| ends.iter().map(move |e| HostPath::new(format!("{s}{e}")).unwrap())).collect();
        for (a, b) in paths.iter().flat_map(|a| paths.iter().map(move |b| (a, b))) {
            assert_eq!(a.cmp(b), a.as_path().cmp(b.as_path()), "{a} {b}");
        }
    }

    #[test]
    fn a_path_is_normalised_and_dangerous_ones_are_refused() {
        for (input, want) in [
            ("/", Ok("/")),
            ("//a///b/", Ok("/a/b")),
            ("/a/./b", Ok("/a/b")),
            ("a", Err(())),
            ("/a/../b", Err(())),
            ("/a\0b", Err(())),
        ] {
            let got = HostPath::new(input).map(|p| p.as_path().to_owned()).map_err(|_| ());
            assert_eq!(got, want.map(PathBuf::from), "{input:?}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_survives_json() {
        let path = HostPath::new(OsStr::from_bytes(b"/a\xff\n")).unwrap();
        let json = serde_json::to_string(&path).unwrap();
        assert_eq!(json, r#"{"hex":"2f61ff0a"}"#);
        assert_eq!(serde_json::from_str::<HostPath>(&json).unwrap(), path);
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\xff\n"), "a\\u{1b}[2Jb\\xff\\n");
        assert_eq!(printable("x\u{202e}y".as_bytes()), "x\\u{202e}y");
    }
}
