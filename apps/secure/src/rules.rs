//! What becomes of a thread that executes or opens a marked file; pure.
//!
//! ```text
//!                      in a VM            on the host
//!   executes it        allowed            redirected | refused
//!   an interpreter     allowed            redirected | refused      sh FILE, python FILE, ld.so FILE
//!     whose script it is
//!   another open of    allowed            refused | allowed         bash < FILE, source FILE, import FILE
//!     an interpreter, of what looks
//!     like a program; LD_PRELOAD
//!   any other open     allowed            allowed | refused         cat FILE, cp FILE
//! ```
//!
//! Invariant: what is not understood is treated as the worse of what it may be.

use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What is done about a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// It runs in a VM instead.
    #[default]
    Redirect,
    /// It does not run.
    Refuse,
}

/// Which reads of marked programs and scripts are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reads {
    /// None.
    Allow,
    /// Those by interpreters and by the loader of libraries, which may run what they read.
    #[default]
    Interpreters,
    /// All, of documents as well.
    Refuse,
}

/// What the guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuardPolicy {
    /// About programs and scripts that are run.
    pub run: Act,
    /// About files that are read.
    pub reads: Reads,
}

/// Programs that run what they read.
const INTERPRETERS: &[&str] = &[
    "sh",
    "bash",
    "dash",
    "ash",
    "zsh",
    "ksh",
    "mksh",
    "fish",
    "csh",
    "tcsh",
    "busybox",
    "python",
    "pypy",
    "perl",
    "ruby",
    "node",
    "nodejs",
    "deno",
    "bun",
    "php",
    "lua",
    "luajit",
    "tclsh",
    "wish",
    "Rscript",
    "guile",
    "awk",
    "gawk",
    "mawk",
    "java",
    "make",
    "pwsh",
    "ld.so",
    "ld-linux",
    "ld-linux-x86-64.so",
    "ld-linux-aarch64.so",
    "ld-musl",
];

/// Options with a value of their own, of all interpreters: taking one for too many only means that it is refused.
const VALUED: &[&str] = &[
    "-o",
    "+o",
    "-O",
    "+O",
    "-W",
    "-X",
    "-r",
    "--require",
    "--rcfile",
    "--init-file",
    "--library-path",
    "--preload",
    "--argv0",
    "--audit",
    "--inhibit-rpath",
    "-I",
];

/// Options behind which there is no script: of shells, and of others.
const SHELL_SCRIPTLESS: &[&str] = &["-c", "-s"];
const OTHER_SCRIPTLESS: &[&str] = &["-c", "-m", "-e", "-E", "--eval", "-p", "--print"];

/// Whether a program of this name runs what it reads.
#[must_use]
pub fn is_interpreter(exe: &OsStr) -> bool {
    let name = exe.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    // python3.11, lua5.4, ld-linux-x86-64.so.2, php8.2
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    INTERPRETERS.contains(&name) || INTERPRETERS.contains(&bare) || name.starts_with("ld-musl-")
}

/// Which argument of an interpreter is its script: an index into `argv`. What is doubtful is none.
#[must_use]
pub fn script(program: &OsStr, argv: &[OsString]) -> Option<usize> {
    let name = program.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    let is_shell = name.ends_with(b"sh") || name == b"busybox";
    let scriptless = if is_shell { SHELL_SCRIPTLESS } else { OTHER_SCRIPTLESS };
    let mut at = 1;
    while let Some(word) = argv.get(at).and_then(|word| word.to_str()) {
        // `sh -ec CMD` has no script either.
        let letters = word.strip_prefix('-').filter(|rest| !rest.starts_with('-') && rest.len() < 6);
        if scriptless.contains(&word) || letters.is_some_and(|rest| rest.contains('c')) {
            return None;
        }
        if word == "--" {
            at += 1;
            break;
        }
        if VALUED.contains(&word) {
            at += 2;
        } else if word.starts_with('-') || word.starts_with('+') {
            at += 1;
        } else {
            break;
        }
    }
    (at < argv.len()).then_some(at)
}

/// Whether a file is likely to be run: the beginning of its content, its mode, its name.
#[must_use]
pub fn is_program(head: &[u8], mode: u32, name: &OsStr) -> bool {
    const ENDS: &[&str] = &[
        ".sh",
        ".bash",
        ".zsh",
        ".py",
        ".pyc",
        ".pl",
        ".pm",
        ".rb",
        ".js",
        ".mjs",
        ".cjs",
        ".php",
        ".lua",
        ".tcl",
        ".r",
        ".jar",
        ".so",
        ".desktop",
        ".awk",
        ".mk",
        ".ps1",
        ".appimage",
        ".run",
        ".bin",
        ".exe",
    ];
    /// What interpreters look for by themselves.
    const NAMES: &[&str] = &[
        "makefile",
        "gnumakefile",
        "rakefile",
        "package.json",
        ".bashrc",
        ".bash_profile",
        ".bash_login",
        ".bash_logout",
        ".bash_aliases",
        ".profile",
        ".zshrc",
        ".zshenv",
        ".zprofile",
        ".zlogin",
        ".kshrc",
        ".cshrc",
        ".tcshrc",
        ".login",
    ];
    let name = name.to_string_lossy().to_ascii_lowercase();
    NAMES.contains(&name.as_str())
        || mode & 0o111 != 0
        || head.starts_with(b"#!")
        || head.starts_with(b"\x7fELF")
        || name.contains(".so.")
        || ENDS.iter().any(|end| name.ends_with(end))
}

/// The paths that the loader of libraries was told to load.
#[must_use]
pub fn preloaded(environment: &[u8]) -> Vec<OsString> {
    let texts = environment.split(|b| *b == 0);
    let values = texts.filter_map(|t| t.strip_prefix(b"LD_PRELOAD=").or_else(|| t.strip_prefix(b"LD_AUDIT=")));
    let paths = values.flat_map(|value| value.split(|b| matches!(b, b' ' | b':')));
    paths.filter(|path| !path.is_empty()).map(|path| OsStr::from_bytes(path).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_with_their_versions() {
        for name in ["/bin/sh", "/usr/bin/python3.11", "/usr/bin/lua5.4", "/lib64/ld-linux-x86-64.so.2", "busybox"] {
            assert!(is_interpreter(OsStr::new(name)), "{name}");
        }
        for name in ["/bin/cat", "/usr/bin/cp", "/usr/bin/shred", "sha256sum", "", "/usr/bin/pythonista"] {
            assert!(!is_interpreter(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn the_script_is_the_first_argument_that_is_no_option() {
        let of = |line: &str| {
            let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            script(&argv[0], &argv).map(|at| argv[at].to_string_lossy().into_owned())
        };
        assert_eq!(of("sh m.sh a"), Some("m.sh".into()));
        assert_eq!(of("bash -x -o pipefail m.sh"), Some("m.sh".into()));
        assert_eq!(of("python3 -u -W ignore m.py m2.py"), Some("m.py".into()));
        assert_eq!(of("/bin/bash -e m.sh"), Some("m.sh".into()));
        assert_eq!(of("sh -- -m.sh"), Some("-m.sh".into()));
        assert_eq!(of("ld.so --library-path /x ./m"), Some("./m".into()));
        for none in
            ["sh", "sh -s m.sh", "sh -c m.sh", "sh -ec m.sh", "python3 -m m.py", "perl -e m.pl", "sh -x", "sh --"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_a_program() {
        let name = OsStr::new;
        assert!(is_program(b"\x7fELF", 0o644, name("x")) && is_program(b"#!/bin/sh", 0o600, name("x")));
        assert!(is_program(b"", 0o700, name("x")) && is_program(b"x", 0o644, name("X.PY")));
        assert!(is_program(b"", 0o644, name("libx.so.1")) && is_program(b"all:", 0o644, name("Makefile")));
        assert!(is_program(b"x", 0o600, name(".bashrc")));
        assert!(!is_program(b"%PDF-", 0o644, name("a.pdf")) && !is_program(b"", 0o644, name("notes")));
    }

    #[test]
    fn what_is_preloaded() {
        let found = preloaded(b"A=1\0LD_PRELOAD=/a.so:b.so c.so\0XLD_PRELOAD=/n\0LD_AUDIT=/d\0");
        assert_eq!(found, ["/a.so", "b.so", "c.so", "/d"]);
    }
}
