//! `guard`, `open`: marked files run and open in VMs.

use super::run;
use crate::args::{Guard, GuardInstall, GuardPolicyArgs, GuardRun, HookShell, Open, PolicyArgs, ReadsArg, RunsArg};
use crate::failure::Failure;
use crate::output::Output;
use crate::{Done, dirs};
use fvm::Fvm;
use fvm::model::exit;
use fvm_secure::desktop::Desktop;
use fvm_secure::guard::{Options, Tell};
use fvm_secure::{Act, GuardError, GuardPolicy, Reads, hook, status, supervise, unit};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

impl From<GuardError> for Failure {
    fn from(error: GuardError) -> Self {
        match error {
            GuardError::Fvm(error) => error.into(),
            error => Self::plain(error.to_string(), error.hint()),
        }
    }
}

/// `fvm guard`.
pub fn guard(fvm: Fvm, out: &Output, command: &Guard) -> Done {
    match command {
        Guard::Run(args) => work(fvm, out, args),
        Guard::Status => show(&fvm, out),
        Guard::Install(args) => install(&fvm, out, args),
        Guard::Uninstall(args) => {
            if args.user {
                desktop().install(&program()?, false)?;
            } else if !unit::uninstall()? {
                out.say("it is not installed");
            }
            Ok(exit::DONE)
        }
        Guard::Hook { shell } => hook(out, *shell),
        Guard::Check { file } => Ok(check(file)),
    }
}

fn program() -> Result<PathBuf, Failure> {
    Ok(std::env::current_exe()?)
}

/// How the guard is, in a line.
pub fn state(fvm: &Fvm) -> String {
    match status::read(&place(fvm)) {
        Ok(status) if status.running => format!("runs; {} files are watched", status.watched),
        _ if rustix::process::geteuid().is_root() => "does not run: 'fvm guard install', if anything is marked".into(),
        _ => "advice only, without root: 'fvm guard hook', 'fvm guard install --user'".into(),
    }
}

/// Where the guard of these VMs says how it is.
fn place(fvm: &Fvm) -> PathBuf {
    fvm.guard_dir()
}

/// The options of `fvm guard run` that say the same.
fn words(fvm: &Fvm, args: &GuardPolicyArgs) -> Vec<String> {
    let mut words = vec!["--home".into(), fvm.home().state_dir().display().to_string()];
    fn value(of: &impl clap::ValueEnum) -> String {
        of.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
    words.extend(["--runs".into(), value(&args.runs), "--reads".into(), value(&args.reads)]);
    for (option, dirs) in [("--book", &args.books), ("--watch", &args.watch)] {
        for dir in dirs {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            words.extend([option.into(), dir.display().to_string()]);
        }
    }
    words
}

fn work(fvm: Fvm, out: &Output, args: &GuardRun) -> Done {
    let dir = place(&fvm);
    if !args.worker {
        let mut worker = Command::new(program()?);
        worker.args(["guard", "run", "--worker"]).args(words(&fvm, &args.policy));
        supervise::supervise(&dir, worker, &|text| out.say(text))?;
        return Ok(exit::DONE);
    }
    // Whoever decides does not wait for whoever reads.
    let (say, said) = sync_channel::<String>(1024);
    let quiet = out.quiet();
    std::thread::spawn(move || {
        for text in said {
            if !quiet {
                let _closed = std::io::Write::write_all(&mut std::io::stderr(), format!("fvm: {text}\n").as_bytes());
            }
        }
    });
    let tell: Tell = Arc::new(move |text| drop(say.try_send(text.to_owned())));
    let policy = GuardPolicy {
        run: match args.policy.runs {
            RunsArg::Redirect => Act::Redirect,
            RunsArg::Refuse => Act::Refuse,
        },
        reads: match args.policy.reads {
            ReadsArg::Allow => Reads::Allow,
            ReadsArg::Interpreters => Reads::Interpreters,
            ReadsArg::Refuse => Reads::Refuse,
        },
    };
    let redirects = !args.cannot_redirect;
    let options = Options { policy, redirects, books: args.policy.books.clone(), watched: args.policy.watch.clone() };
    fvm_secure::guard::work(fvm, &dir, options, tell)?;
    Ok(exit::DONE)
}

fn show(fvm: &Fvm, out: &Output) -> Done {
    let status = status::read(&place(fvm))?;
    if out.json() {
        out.document(&status)?;
    } else if status.running {
        out.write(|w| {
            writeln!(w, "guard       runs, as process {}", status.worker)?;
            writeln!(
                w,
                "programs    {}",
                match (status.policy.run, status.redirects) {
                    (Act::Redirect, true) => "run in VMs",
                    (Act::Redirect, false) => "are refused: this kernel (before Linux 6.8) or machine cannot redirect",
                    (Act::Refuse, _) => "are refused",
                }
            )?;
            writeln!(
                w,
                "watched     {} ({} more than there is room for, {} cannot be)",
                status.watched, status.documents, status.unwatched
            )?;
            writeln!(w, "redirected  {}", status.redirected)?;
            writeln!(w, "refused     {} ({} because it took too long)", status.refused + status.late, status.late)?;
            writeln!(w, "allowed     {}", status.allowed)?;
            writeln!(w, "copies      {} marked", status.copies)
        })?;
    } else {
        out.write(|w| writeln!(w, "guard       does not run"))?;
    }
    Ok(if status.running { exit::DONE } else { exit::FAILED })
}

fn install(fvm: &Fvm, out: &Output, args: &GuardInstall) -> Done {
    let program = program()?;
    if args.user {
        if args.print {
            out.write(|w| write!(w, "{}", fvm_secure::desktop::entry(&program)))?;
            return Ok(exit::DONE);
        }
        for file in desktop().install(&program, true)? {
            out.say(&format!("wrote {}", file.display()));
        }
        out.say("marked documents open in VMs from the desktop; this is advice only: 'fvm doctor'");
        return Ok(exit::DONE);
    }
    let text = unit::text(&program, &words(fvm, &args.policy));
    if args.print {
        out.write(|w| write!(w, "{text}"))?;
        return Ok(exit::DONE);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(GuardError::NotRoot.into());
    }
    let (path, started) = unit::install(&program, &text)?;
    out.say(&format!("wrote {}", path.display()));
    out.say(if started { "the guard runs" } else { "systemd does not run here: it was not started" });
    Ok(exit::DONE)
}

/// `fvm guard hook`.
pub fn hook(out: &Output, shell: HookShell) -> Done {
    let shell = match shell {
        HookShell::Bash => hook::Shell::Bash,
        HookShell::Zsh => hook::Shell::Zsh,
    };
    out.write(|w| write!(w, "{}", hook::text(shell)))?;
    Ok(exit::DONE)
}

/// `fvm guard check`: fast, for a shell asks before each command.
pub fn check(file: &Path) -> u8 {
    if is_marked(file) { exit::DONE } else { exit::FAILED }
}

fn is_marked(file: &Path) -> bool {
    let has = |name: &str| rustix::fs::getxattr(file, name, &mut [0_u8; 0][..]).is_ok();
    fvm::MARK_NAMES.into_iter().any(has)
}

fn desktop() -> Desktop {
    let dir = |name: &str, usual: &str| {
        let given = std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        given.unwrap_or_else(|| dirs::user_home().unwrap_or_default().join(usual))
    };
    let shared = std::env::var("XDG_DATA_DIRS").ok().filter(|dirs| !dirs.is_empty());
    let shared = shared.unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    let data = [dir("XDG_DATA_HOME", ".local/share")].into_iter().chain(shared.split(':').map(PathBuf::from)).collect();
    Desktop { config: dir("XDG_CONFIG_HOME", ".config"), data }
}

/// `fvm open`.
pub fn open(fvm: &Fvm, out: &Output, args: &Open) -> Done {
    use std::os::unix::process::CommandExt as _;
    let file = std::path::absolute(&args.file)?;
    file.metadata().map_err(|e| Failure::new(format!("cannot open '{}': {e}", file.display()), "is it there?"))?;
    let opener = match &args.with {
        Some(program) => Some(vec![program.clone(), file.clone().into()]),
        None => desktop().opener(&file),
    };
    let words = opener.ok_or_else(|| {
        Failure::new(format!("no program is known that opens '{}'", file.display()), "name one: --with CMD")
    })?;
    if is_marked(&file) {
        return run::marked(fvm, out, &PolicyArgs::default(), &run::call(words));
    }
    let (name, rest) = words.split_first().ok_or_else(|| Failure::new("nothing to run", "--with CMD"))?;
    Err(Command::new(name).args(rest).exec().into())
}
