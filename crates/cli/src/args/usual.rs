//! Reads the usual `run` and `exec` lines without clap.
//!
//! ```text
//!   fvm [--home DIR] run [--rm --net none -e A=B ...] [--] CMD ...   ─► read here, in microseconds
//!   anything else, and anything amiss                              ─► None: clap reads it, and says what is wrong
//! ```
//!
//! clap describes some forty options before it looks at the first word: 0.3 ms, a tenth of the whole start of a VM.
//!
//! Invariant: what is read here is what clap would have read; the test asks both.

use super::{Cli, Command, Exec, Global, ProgramArgs, Run, Span};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;

/// The default of `--kill-after`, in thousandths of a second.
const KILL_AFTER_MS: u64 = 10_000;

/// The command line `args`, if it is a usual one.
pub fn read(args: &[OsString]) -> Option<Cli> {
    let mut line = Line { words: args.get(1..)?.iter(), given: Given::default() };
    let Next::Word(name) = line.options(Of::All)? else { return None };
    match name.to_str()? {
        "run" => line.run(),
        "exec" => line.exec(),
        _ => None,
    }
}

/// What options said so far.
#[derive(Default)]
struct Given {
    json: bool,
    home: Option<PathBuf>,
    quiet: bool,
    verbose: bool,
    rm: bool,
    keep: bool,
    name: Option<String>,
    policy: Option<String>,
    pool: Option<String>,
    net: Option<fvm::model::Network>,
    user: Option<String>,
    workdir: Option<OsString>,
    env: Vec<OsString>,
}

struct Line<'a> {
    words: std::slice::Iter<'a, OsString>,
    given: Given,
}

impl Line<'_> {
    fn run(mut self) -> Option<Cli> {
        let first = self.options(Of::Run)?;
        let command = self.command(first)?;
        let Given { json, home, quiet, verbose, rm, keep, name, policy, pool, net, user, workdir, env } = self.given;
        // Only one of them can be meant.
        if rm && keep {
            return None;
        }
        let policy = super::PolicyArgs { policy, net, ..Default::default() };
        let program = program(user, workdir, env);
        let run = Run {
            name,
            pool,
            rm,
            keep,
            commit: false,
            detach: false,
            marked: false,
            restart: None,
            policy,
            program,
            command,
        };
        Some(Cli { global: Global { json, home, quiet, verbose }, command: Command::Run(run) })
    }

    fn exec(mut self) -> Option<Cli> {
        let Next::Word(name) = self.options(Of::Exec)? else { return None };
        let name = name.to_str()?.to_owned();
        let first = self.options(Of::Exec)?;
        let command = self.command(first)?;
        let Given { json, home, quiet, verbose, user, workdir, env, .. } = self.given;
        let exec = Exec { name, program: program(user, workdir, env), command };
        Some(Cli { global: Global { json, home, quiet, verbose }, command: Command::Exec(exec) })
    }

    /// Takes options up to the first word that is none. `None`: not usual. `of`: whose options they
    /// may be.
    fn options(&mut self, of: Of) -> Option<Next> {
        let (makes, runs) = (of == Of::Run, of != Of::All);
        loop {
            let word = self.words.next()?;
            let bytes = word.as_encoded_bytes();
            if bytes == b"--" {
                return Some(Next::Rest);
            }
            if bytes.is_empty() {
                return None;
            }
            if bytes[0] != b'-' {
                return Some(Next::Word(word.clone()));
            }
            let text = word.to_str()?;
            let (option, attached) = match text.split_once('=') {
                Some((option, value)) if text.starts_with("--") => (option, Some(value)),
                Some(_) => return None,
                None => (text, None),
            };
            let flag = match option {
                "--json" => Some(&mut self.given.json),
                "--quiet" | "-q" => Some(&mut self.given.quiet),
                "--verbose" | "-v" => Some(&mut self.given.verbose),
                "--rm" if makes => Some(&mut self.given.rm),
                "--keep" if makes => Some(&mut self.given.keep),
                _ => None,
            };
            if let Some(flag) = flag {
                if std::mem::replace(flag, true) || attached.is_some() {
                    return None;
                }
                continue;
            }
            let value = match attached {
                Some(value) => OsStr::new(value),
                None => self.words.next()?,
            };
            if value.is_empty() || value.as_encoded_bytes()[0] == b'-' {
                return None;
            }
            match option {
                "--name" | "-n" if makes => once(&mut self.given.name, value)?,
                "--policy" | "-p" if makes => once(&mut self.given.policy, value)?,
                "--pool" if makes => once(&mut self.given.pool, value)?,
                "--net" if makes => once(&mut self.given.net, value)?,
                "--home" => once(&mut self.given.home, value)?,
                "--user" | "-u" if runs => once(&mut self.given.user, value)?,
                "--workdir" | "-w" if runs && self.given.workdir.is_none() => {
                    self.given.workdir = Some(value.to_owned())
                }
                "--env" | "-e" if runs => self.given.env.push(value.to_owned()),
                _ => return None,
            }
        }
    }

    fn command(&self, first: Next) -> Option<Vec<OsString>> {
        let rest = self.words.as_slice();
        let command = match first {
            Next::Rest => rest.to_vec(),
            // What a later '--' means is clap's to say.
            Next::Word(_) if rest.iter().any(|word| word == "--") => return None,
            Next::Word(word) => [&[word], rest].concat(),
        };
        (!command.is_empty()).then_some(command)
    }
}

/// Whose options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Those that every command takes.
    All,
    /// Those of a program.
    Exec,
    /// And those of a new VM.
    Run,
}

/// What ends the options.
enum Next {
    /// `--`: all that follows is no option.
    Rest,
    /// The first word of the command, or the name of a VM.
    Word(OsString),
}

/// Sets what may be given once.
fn once<T: FromStr>(place: &mut Option<T>, value: &OsStr) -> Option<()> {
    let value = value.to_str()?.parse().ok()?;
    place.replace(value).is_none().then_some(())
}

fn program(user: Option<String>, workdir: Option<OsString>, env: Vec<OsString>) -> ProgramArgs {
    let workdir = workdir.map(Into::into);
    ProgramArgs { user, workdir, env, timeout: None, kill_after: Span { ms: KILL_AFTER_MS } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const WORDS: [&str; 36] = [
        "--",
        "--rm",
        "--keep",
        "--commit",
        "--net",
        "none",
        "--net=host",
        "--net=mars",
        "--name",
        "a",
        "-n",
        "--policy",
        "--pool",
        "--home",
        "-p",
        "untrusted",
        "--user",
        "-u",
        "me",
        "-w",
        "/",
        "--workdir=/tmp",
        "-e",
        "A=1",
        "--env",
        "--json",
        "-q",
        "-qv",
        "-v",
        "--rm=yes",
        "--timeout",
        "10s",
        "true",
        "-x",
        "",
        "--help",
    ];

    /// Random numbers that are the same each time (xorshift64).
    fn next(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state >> 33).unwrap()
    }

    #[test]
    fn what_is_read_here_is_what_clap_reads() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let mut usual = 0;
        for round in 0..6000 {
            let command = if round % 2 == 0 { "run" } else { "exec" };
            let mut line: Vec<OsString> = vec!["fvm".into()];
            let first = [&[][..], &["-q"], &["--home", "/x"], &["--home=/y", "--json"], &["--rm"]];
            line.extend(first[next(&mut state) % first.len()].iter().map(OsString::from));
            line.push(command.into());
            for _ in 0..next(&mut state) % 8 {
                line.push(WORDS[next(&mut state) % WORDS.len()].into());
            }
            if next(&mut state).is_multiple_of(2) {
                line.extend(["true".into(), "-x".into()]);
            }
            let Some(read) = read(&line) else { continue };
            usual += 1;
            let clap = Cli::try_parse_from(&line).map_err(|e| e.to_string());
            assert_eq!(Ok(format!("{read:?}")), clap.map(|cli| format!("{cli:?}")), "{line:?}");
        }
        assert!(usual > 300, "{usual} lines were usual");
    }

    #[test]
    fn what_is_read_before_libc_has_started_is_what_is_read_here() {
        const GROUPS: [&[&str]; 14] = [
            &["run"],
            &["run"],
            &["--rm"],
            &["--rm"],
            &["--pool", "p"],
            &["--pool", "p"],
            &["--home", "/x"],
            &["--"],
            &["true"],
            &["-x"],
            &["--pool", "p/.."],
            &["--pool=p"],
            &["--home", "x"],
            &["", "--pool", ".p"],
        ];
        let mut state = 0x2545_f491_4f6c_dd1d;
        let mut read_there = 0;
        for _ in 0..30_000 {
            let mut line: Vec<&'static str> = vec!["fvm"];
            let mut groups: Vec<&[&str]> = vec![&["run"], &["--rm"], &["--pool", "p"]];
            for _ in 0..next(&mut state) % 4 {
                groups.push(GROUPS[next(&mut state) % GROUPS.len()]);
            }
            if next(&mut state).is_multiple_of(4) {
                groups.push(std::slice::from_ref(&WORDS[next(&mut state) % WORDS.len()]));
            }
            for index in (1..groups.len()).rev() {
                groups.swap(index, next(&mut state) % (index + 1));
            }
            line.extend(groups.concat());
            line.extend([&["true"][..], &["--", "true"], &[]][next(&mut state) % 3]);
            let words: Vec<&'static [u8]> = line.iter().map(|word| word.as_bytes()).collect();
            let words: &'static [&'static [u8]] = Box::leak(words.into_boxed_slice());
            let Some(ahead) = fvm_ahead::read(words.iter().copied()) else { continue };
            read_there += 1;
            let args: Vec<OsString> = line.iter().map(OsString::from).collect();
            let Some(Cli { global, command: Command::Run(run) }) = read(&args) else {
                panic!("{line:?} is not usual here");
            };
            let text = |bytes: &[u8]| OsString::from(std::str::from_utf8(bytes).unwrap());
            assert_eq!(run.pool.clone().map(OsString::from), Some(text(ahead.pool)), "{line:?}");
            assert_eq!(global.home.clone(), ahead.home.map(|home| text(home).into()), "{line:?}");
            assert_eq!(run.command, ahead.command.map(text).collect::<Vec<_>>(), "{line:?}");
            let (pool, command) = (run.pool.clone(), run.command.clone());
            assert_eq!(run.rm, ahead.is_thrown_away, "{line:?}");
            let only = line_of(pool.as_deref().unwrap_or_default(), run.rm, global.home.as_deref(), &command);
            let plain = read(&only).expect("it is usual");
            assert_eq!(format!("{:?}", Cli { global, command: Command::Run(run) }), format!("{plain:?}"), "{line:?}");
        }
        assert!(read_there > 300, "{read_there} lines were read");
    }

    /// `fvm run` of a pool, with nothing else.
    fn line_of(pool: &str, rm: bool, home: Option<&std::path::Path>, command: &[OsString]) -> Vec<OsString> {
        let home = home.map(|home| ["--home".into(), home.into()]).into_iter().flatten();
        let options = ["run"].into_iter().chain(rm.then_some("--rm")).chain(["--pool", pool, "--"]).map(OsString::from);
        ["fvm".into()].into_iter().chain(home).chain(options).chain(command.iter().cloned()).collect()
    }

    #[test]
    fn the_lines_that_people_write_are_usual() {
        for line in [
            "run --rm --net none -- /bin/true -x --help",
            "run --rm true",
            "run -n build-1 --policy untrusted -e A=B -w /tmp make -j2",
            "exec build-1 -- ls -l",
            "--home /x exec build-1 ls",
            "exec -u me build-1 ls -l",
        ] {
            let args: Vec<OsString> = ["fvm"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
            assert!(read(&args).is_some(), "{line}");
        }
    }
}
