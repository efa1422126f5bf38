//! What a browser does to a VM by itself, learnt from benign pages: which of its own files it writes outside of its profile.
//!
//! ```text
//!   visits of benign pages ─► paths of each ─► names that differ from run to run become `*` ─► in most of the runs? ─► a glob
//!   Baseline { browser, version, flags, globs }      one for each browser, version and set of flags
//! ```
//!
//! Invariants: programs are never learnt, nor what starts by itself: nobody can teach a baseline an attack's; a glob names at least the
//! place where it begins (never `/**`); a baseline holds only for the browser, version and flags that it was learnt with.

use crate::model::Observation;
use crate::visit::HOME;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where the browser is told to keep its own, where its libraries do, and what it calls its temporary files: always its own.
const OWN: &[&str] = &[
    "/tmp/fvm-visit/profile/**",
    "/tmp/fvm-visit/.local/share/pki/**",
    "/tmp/fvm-visit/.pki/**",
    "/tmp/.org.chromium.Chromium.*",
    "/tmp/org.chromium.Chromium.*",
    "/tmp/org.chromium.Chromium.*/Singleton*",
    "/tmp/fvm-visit/.config/chromium/Crash Reports/**",
    "/tmp/fvm-visit/.cache/dconf/**",
];
/// Beginnings of globs that are never learnt: nobody's own places.
const NEVER: &[&str] =
    &["/", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/root", "/opt", "/home", "/var/spool"];
/// A path must be written in so many of ten runs.
const OF_TEN: usize = 6;

/// What it holds for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The browser and its version, as it says.
    pub browser: String,
    /// Its flags.
    pub flags: Vec<String>,
}

/// A baseline, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Learnt {
    /// What it holds for.
    pub key: Key,
    /// How many visits it was learnt from.
    pub runs: usize,
    /// Paths that the browser writes by itself; `*` within a name, `**` for all below.
    pub globs: Vec<String>,
}

/// A baseline, to be compared with.
#[derive(Debug, Clone)]
pub struct Baseline {
    globs: GlobSet,
    /// Directories of the browser's home that stand above a glob: that they were made says nothing.
    above: Vec<String>,
}

/// Why a baseline cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// A glob is none, or too wide.
    #[error("the baseline's glob '{0}' cannot be used: it must name a place and be a glob")]
    Glob(String),
    /// It is another browser's.
    #[error("the baseline is that of '{of}', and the browser is '{is}': learn it anew (fvm webtest baseline)")]
    Other {
        /// Whose it is.
        of: String,
        /// What is used.
        is: String,
    },
}

impl Baseline {
    /// What is the browser's own without anything learnt, and what was learnt of the browser `key`.
    ///
    /// # Errors
    /// When it is another's, or one of its globs cannot be used.
    pub fn new(key: &Key, learnt: Option<&Learnt>) -> Result<Self, BaselineError> {
        if let Some(other) = learnt.filter(|learnt| learnt.key != *key) {
            return Err(BaselineError::Other { of: other.key.browser.clone(), is: key.browser.clone() });
        }
        let learnt = learnt.map_or(&[][..], |learnt| &learnt.globs);
        let (mut set, mut above) = (GlobSetBuilder::new(), Vec::new());
        for glob in OWN.iter().copied().chain(learnt.iter().map(String::as_str)) {
            let wrong = || BaselineError::Glob(glob.to_owned());
            if is_too_wide(glob) {
                return Err(wrong());
            }
            set.add(GlobBuilder::new(glob).literal_separator(true).build().map_err(|_| wrong())?);
            let dirs = Path::new(glob).ancestors().skip(1).filter_map(Path::to_str);
            above.extend(dirs.filter(|dir| dir.starts_with(HOME) && !dir.contains('*')).map(str::to_owned));
        }
        let globs = set.build().map_err(|e| BaselineError::Glob(e.to_string()))?;
        Ok(Self { globs, above })
    }

    /// Whether the browser by itself changes this path.
    #[must_use]
    pub fn covers(&self, path: &[u8], is_directory: bool) -> bool {
        self.globs.is_match(OsStr::from_bytes(path))
            || is_directory && self.above.iter().any(|dir| dir.as_bytes() == path)
    }
}

/// Whether a glob covers what is nobody's own place.
fn is_too_wide(glob: &str) -> bool {
    let fixed = glob.split(['*', '?', '[', '{', '\\']).next().unwrap_or_default();
    // The last directory that it names whole.
    let dir = &fixed[..fixed.rfind('/').unwrap_or(0)];
    let dir = if dir.is_empty() { "/" } else { dir };
    !glob.starts_with('/')
        || NEVER.iter().any(|never| dir == *never || *never != "/" && dir.starts_with(&format!("{never}/")))
}

/// Learns from visits of benign pages with one browser; what is not in most of them is not learnt. Returns it, and what was left out.
#[must_use]
pub fn learn(key: Key, visits: &[Observation]) -> (Learnt, Vec<String>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for visit in visits {
        let mut of_visit: Vec<String> =
            visit.wrote.iter().filter(|wrote| !wrote.persistent).map(|wrote| general(&wrote.path)).collect();
        of_visit.sort();
        of_visit.dedup();
        for path in of_visit {
            *seen.entry(path).or_default() += 1;
        }
    }
    let (mut globs, mut left) = (Vec::new(), Vec::new());
    for (path, count) in seen {
        let is_usual = count * 10 >= visits.len() * OF_TEN;
        if is_usual && !is_too_wide(&path) { globs.push(path) } else { left.push(path) }
    }
    (Learnt { key, runs: visits.len(), globs }, left)
}

/// A path with what differs from run to run taken out of its names: the six letters of `mkdtemp`, and numbers.
fn general(path: &str) -> String {
    let names: Vec<String> = path.split('/').map(general_name).collect();
    names.join("/")
}

fn general_name(name: &str) -> String {
    // Characters that mean something in a glob mean themselves here.
    let plain: String = name.chars().map(|c| if "*?[]{}\\!".contains(c) { '?' } else { c }).collect();
    let (head, tail) =
        plain.rsplit_once(['.', '-', '_']).map_or(("", plain.as_str()), |(head, tail)| (&plain[..=head.len()], tail));
    let is_drawn = tail.len() == 6
        && tail.bytes().all(|b| b.is_ascii_alphanumeric())
        && tail.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let is_number = tail.len() >= 2 && tail.bytes().all(|b| b.is_ascii_digit());
    if !head.is_empty() && (is_drawn || is_number) { format!("{head}*") } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Wrote;

    fn visit(paths: &[&str]) -> Observation {
        let wrote =
            |path: &&str| Wrote { path: (*path).into(), persistent: path.contains("autostart"), ..Wrote::default() };
        Observation { wrote: paths.iter().map(wrote).collect(), ..Observation::default() }
    }

    #[test]
    fn what_most_runs_wrote_is_learnt_and_what_starts_by_itself_never() {
        let autostart = "/tmp/fvm-visit/.config/autostart/x.desktop";
        let visits = [
            visit(&["/tmp/other.Chromium.aB3dE6", "/tmp/other.Chromium.aB3dE6/x", autostart, "/etc/passwd"]),
            visit(&["/tmp/other.Chromium.zz9yX1", autostart, "/etc/passwd", "/tmp/once"]),
            visit(&["/tmp/other.Chromium.Q1w2E3", autostart, "/etc/passwd"]),
        ];
        let (learnt, left) = learn(Key::default(), &visits);
        assert_eq!(learnt.globs, ["/tmp/other.Chromium.*"]);
        assert_eq!(left, ["/etc/passwd", "/tmp/once", "/tmp/other.Chromium.*/x"]);
        let baseline = Baseline::new(&Key::default(), Some(&learnt)).unwrap();
        for (path, want) in [
            ("/tmp/other.Chromium.abcdef", true),
            ("/tmp/other.Chromium.abcdef/y", false),
            ("/tmp/other.Chromiumx", false),
            ("/tmp/fvm-visit/profile/Default/Cookies", true),
            ("/tmp/fvm-visit/profile.old", false),
            (autostart, false),
            ("/etc/passwd", false),
        ] {
            assert_eq!(baseline.covers(path.as_bytes(), false), want, "{path}");
        }
        assert!(baseline.covers(b"/tmp/fvm-visit", true) && !baseline.covers(b"/tmp/fvm-visit", false));
        assert!(!baseline.covers(b"/tmp/\xff", false));
    }

    #[test]
    fn a_glob_that_covers_all_is_refused_and_so_is_another_browsers_baseline() {
        for glob in ["/**", "/*/x", "**", "tmp/x", "/etc/x", "/usr/lib/**", "/home/*/x", "/tmp/[", "/root/.config/**"] {
            let learnt = Learnt { globs: vec![glob.into()], ..Learnt::default() };
            assert!(Baseline::new(&Key::default(), Some(&learnt)).is_err(), "{glob}");
        }
        let other = Key { browser: "Chromium 1".into(), flags: Vec::new() };
        let error = Baseline::new(&other, Some(&Learnt::default())).unwrap_err();
        assert!(matches!(error, BaselineError::Other { .. }), "{error}");
    }

    #[test]
    fn a_name_that_means_something_in_a_glob_is_no_glob() {
        let odd = "/tmp/a*[b]{c}\\d";
        let (learnt, _) = learn(Key::default(), &[visit(&[odd])]);
        let baseline = Baseline::new(&Key::default(), Some(&learnt)).unwrap();
        assert!(baseline.covers(odd.as_bytes(), false) && !baseline.covers(b"/tmp/axyz", false));
    }
}
