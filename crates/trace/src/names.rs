//! Which programs a person means: by words of a command line, wildcards, a number.
//!
//! ```text
//!   npm install      what a program was called by: its name, or its script's, and what follows       is_called   commit --from
//!                    the same words anywhere in its command line                                     names       trace --process
//!   *npm*            the whole command line          42   a number
//! ```
//!
//! Invariant: a name is a program's own claim: what is decided by it compares files too ([`identity`]).

use fvm_model::event::Program;
use fvm_model::path::Bytes;
use std::os::unix::ffi::OsStrExt;

/// Whether `text`, as a person gives it, names the program: `npm install` names `/usr/bin/node /usr/bin/npm install x` and
/// `npm install x`; a text with `*` or `?` is compared with the whole command line; a number is that of the process.
#[must_use]
pub fn names(text: &str, program: &Program) -> bool {
    let command = String::from_utf8_lossy(&program.command()).into_owned();
    if text.contains(['*', '?']) {
        return wild(text.as_bytes(), command.as_bytes());
    }
    if text.parse() == Ok(program.tgid) {
        return true;
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    // Word by word: the text of a script that is an argument is one.
    let args = if program.argv.is_empty() { std::slice::from_ref(&program.exe) } else { &program.argv };
    let args: Vec<_> = args.iter().map(|arg| arg.0.to_string_lossy()).collect();
    let said: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let last = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let is_here = |at: &[&str]| {
        at.iter().zip(&words).enumerate().all(|(n, (said, word))| said == word || (n == 0 && last(said) == *word))
    };
    !words.is_empty() && said.windows(words.len()).any(is_here)
}

/// Whether `text` is what the program was called by: as [`names`], but words of its arguments do not count: only its name, or
/// that of the script which an interpreter was given, and what follows.
#[must_use]
pub fn is_called(text: &str, program: &Program) -> bool {
    if text.contains(['*', '?']) || text.parse::<u32>().is_ok() {
        return names(text, program);
    }
    let args = if program.argv.is_empty() { std::slice::from_ref(&program.exe) } else { &program.argv };
    let script = args.iter().skip(1).position(|arg| !arg.0.as_bytes().starts_with(b"-")).map(|at| at + 1);
    let begins = |at: usize| names_at(text, &args[at..]);
    begins(0) || script.is_some_and(begins)
}

/// Whether the arguments begin as `text` says.
fn names_at(text: &str, args: &[Bytes]) -> bool {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let said: Vec<_> = args.iter().take(words.len()).map(|arg| arg.0.to_string_lossy()).collect();
    let last = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    !words.is_empty()
        && said.len() == words.len()
        && said.iter().zip(&words).enumerate().all(|(n, (said, word))| said == word || (n == 0 && last(said) == *word))
}

/// What a program is, beyond what it is called: its file, and that of the script, if the text names one.
#[must_use]
pub fn identity(text: &str, program: &Program) -> (Bytes, Option<Bytes>) {
    let script = program.argv.iter().skip(1).find(|arg| !arg.0.as_bytes().starts_with(b"-"));
    let by_name = names_at(text, &program.argv);
    (program.exe.clone(), script.filter(|_| !by_name).cloned())
}

/// Whether `text` matches `pattern`, in which `*` and `?` stand for anything.
#[must_use]
pub fn wild(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}
