//! A place to measure in: the binaries where everybody may execute them, and the people who run them.
//!
//! ```text
//!   /var/tmp/fvm-bench-PID/
//!     bin/         fvm, fvm-raw-limit, fvm-bench-inside, fvm-bench-api: copies, so that a process of ours is known by its /proc/PID/exe
//!     root/        HOME of root; root/state: fvm's --home
//!     user/        the same of the ordinary user, owned by him
//! ```
//!
//! Invariants: the ordinary user is the caller when he is not root, otherwise `fvmbench` or `fvmtest`, or, when neither is
//! there, `fvmbench`, made with useradd and removed again; when the laboratory is dropped, every pool and VM in it is deleted first; one
//! that was left by a benchmark that was killed is dropped by the next.

use crate::args::Options;
use crate::error::Error;
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const USER: &str = "fvmbench";
/// Who may be there already, and then serves as well: the tests' user.
const USERS: [&str; 2] = [USER, "fvmtest"];
/// How long fvm's cleaners may take.
const REMOVED_WITHIN: Duration = Duration::from_secs(60);
/// Of a laboratory's directory, before the process that made it.
const NAME: &str = "fvm-bench-";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Somebody who runs programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// `root` or `user`: as in the tables.
    pub name: &'static str,
    uid: u32,
    gid: u32,
    /// His directory in the laboratory.
    pub home: PathBuf,
}

impl Person {
    /// Whether it is root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// A command that he runs, with a small environment, no input, and its output thrown away.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH).env("HOME", &self.home).env("LC_ALL", "C.UTF-8").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Also for root: std then starts every program the same way, by fork and exec.
        command.uid(self.uid).gid(self.gid);
        command
    }
}

/// The laboratory.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    people: Vec<Person>,
    made_user: bool,
}

impl Lab {
    /// A fresh one.
    ///
    /// # Errors
    /// When it cannot be made, or the binaries are not there.
    pub fn new(options: &Options) -> Result<Self, Error> {
        sweep(&options.dir);
        let dir = options.dir.join(format!("{NAME}{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(Error::file("make", &dir))?;
        // From here on Drop cleans up.
        let mut lab = Self { dir, people: Vec::new(), made_user: false };
        open_to_all(&lab.dir)?;
        lab.install(options)?;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if uid == 0 {
            lab.invite("root", 0, 0)?;
            let (uid, gid) = lab.ordinary_user()?;
            lab.invite("user", uid, gid)?;
        } else {
            lab.invite("user", uid, gid)?;
        }
        Ok(lab)
    }

    fn install(&self, options: &Options) -> Result<(), Error> {
        let bin = self.path("bin");
        std::fs::create_dir(&bin).map_err(Error::file("make", &bin))?;
        open_to_all(&bin)?;
        let here = std::env::current_exe().map_err(Error::file("find", Path::new("this program")))?;
        let beside = |name: &str| here.with_file_name(name);
        for (name, from) in [
            ("fvm", options.fvm.clone().unwrap_or_else(|| beside("fvm"))),
            ("fvm-raw-limit", beside("fvm-raw-limit")),
            ("fvm-bench-inside", beside("fvm-bench-inside")),
            ("fvm-bench-api", beside("fvm-bench-api")),
        ] {
            if !from.exists() {
                let what = format!("{} is not there", from.display());
                let hint = "cargo build --release -p fvm-cli -p fvm-benches, or give --fvm PATH".to_owned();
                return Err(Error::Missing { what, hint });
            }
            let to = bin.join(name);
            std::fs::copy(&from, &to).map_err(Error::file("copy", &from))?;
            open_to_all(&to)?;
        }
        Ok(())
    }

    fn invite(&mut self, name: &'static str, uid: u32, gid: u32) -> Result<(), Error> {
        let home = self.path(name);
        std::fs::create_dir(&home).map_err(Error::file("make", &home))?;
        chown(&home, Some(uid), Some(gid)).map_err(Error::file("give away", &home))?;
        self.people.push(Person { name, uid, gid, home });
        Ok(())
    }

    fn ordinary_user(&mut self) -> Result<(u32, u32), Error> {
        if let Some(ids) = USERS.into_iter().find_map(ids_of) {
            return Ok(ids);
        }
        checked(Command::new("useradd").args(["--no-create-home", "--shell", "/bin/sh", USER]))?;
        self.made_user = true;
        ids_of(USER).ok_or_else(|| Error::Missing { what: format!("no user {USER}"), hint: "see useradd(8)".into() })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// One of our programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// Root, if we are root, and the ordinary user.
    #[must_use]
    pub fn people(&self) -> &[Person] {
        &self.people
    }

    /// Whoever has the most rights here.
    #[must_use]
    pub fn strongest(&self) -> &Person {
        // `new` invites somebody or fails.
        &self.people[0]
    }

    /// `fvm --home HOME` with these arguments, run by `person`.
    pub fn fvm_command<A: AsRef<OsStr>>(&self, person: &Person, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = person.command(self.program("fvm"));
        command.arg("--home").arg(person.home.join("state")).args(args);
        command
    }

    /// Runs fvm to its end; what it printed.
    ///
    /// # Errors
    /// When it did not succeed.
    pub fn fvm<A: AsRef<OsStr>>(&self, person: &Person, args: impl IntoIterator<Item = A>) -> Result<String, Error> {
        checked(&mut self.fvm_command(person, args))
    }

    /// Where fvm has the state of `person`, and what only matters while something runs (as it finds them itself).
    #[must_use]
    pub fn state_of(&self, person: &Person) -> (PathBuf, PathBuf) {
        let state = person.home.join("state");
        let run = if person.is_root() { "/run/fvm".into() } else { state.join("run") };
        (state, run)
    }

    /// Deletes every pool of `person`, whoever made it.
    ///
    /// # Errors
    /// When fvm did not succeed.
    pub fn delete_pools(&self, person: &Person) -> Result<(), Error> {
        let list = self.fvm(person, ["pool", "status"])?;
        // What is wrong with a pool stands below it, indented.
        let names: Vec<&str> =
            list.lines().filter_map(|line| line.split("  ").next()).filter(|n| !n.is_empty()).collect();
        if names.is_empty() {
            return Ok(());
        }
        self.fvm(person, ["pool", "delete"].iter().chain(&names)).map(drop)
    }

    /// Deletes every VM of `person`.
    ///
    /// # Errors
    /// When fvm did not succeed.
    pub fn delete_all(&self, person: &Person) -> Result<(), Error> {
        let list = self.fvm(person, ["list"])?;
        let names: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        // A command line is finite.
        for some in names.chunks(500) {
            self.fvm(person, ["delete", "--force"].iter().chain(some))?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let has_fvm = self.program("fvm").exists();
        for person in self.people.iter().filter(|_| has_fvm) {
            if let Err(error) = self.delete_pools(person).and_then(|()| self.delete_all(person)) {
                eprintln!("fvm-bench: cannot delete all VMs: {error}");
            }
        }
        // Peers leave mounts on the host.
        for place in crate::census::mounts_below(&self.dir) {
            crate::measure::unmount_leftovers(&place);
        }
        // What a cleaner of fvm is still removing may vanish under the walk, or be closed to all but the cleaner.
        let began = Instant::now();
        while let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
            && began.elapsed() < REMOVED_WITHIN
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.dir.exists() {
            eprintln!("fvm-bench: {} could not be removed", self.dir.display());
        }
        if self.made_user
            && let Err(error) = checked(Command::new("userdel").arg(USER))
        {
            eprintln!("fvm-bench: {error}");
        }
    }
}

/// Runs a command to its end; what it printed.
///
/// # Errors
/// When it did not succeed; what it said is in the error.
pub fn checked(command: &mut Command) -> Result<String, Error> {
    let shown = shown(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let out = command.output().map_err(|e| Error::Program { command: shown.clone(), reason: e.to_string() })?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(Error::Program { command: shown, reason: reason(&out) })
}

/// A command as an error names it: its first words, without the environment.
#[must_use]
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = [program].into_iter().chain(command.get_args()).map(OsStr::to_string_lossy);
    words.collect::<Vec<_>>().join(" ").chars().take(120).collect()
}

/// Status of what failed, and the line that says why.
#[must_use]
pub fn reason(out: &Output) -> String {
    let code = out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0));
    let said = String::from_utf8_lossy(&out.stderr);
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    // Hints and usage may follow what says why.
    let why = lines.clone().find(|line| line.to_lowercase().contains("error"));
    let said = why.or_else(|| lines.next_back()).unwrap_or("it said nothing");
    let said: String = said.chars().take(240).collect();
    format!("exit status {code}: {said}")
}

/// The program of this name in the path, if there is one.
#[must_use]
pub fn found(name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
}

/// Drops the laboratories of processes that are no more.
fn sweep(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(NAME)?.parse::<u32>().ok());
        // Nobody else's: another user could have made it to have his files removed, or his fvm run.
        let ours =
            entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == rustix::process::geteuid().as_raw());
        if !ours || maker.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
            continue;
        }
        eprintln!("fvm-bench: removing what is left in {}", entry.path().display());
        let person = |name: &'static str| {
            let home = entry.path().join(name);
            let data = home.metadata().ok()?;
            Some(Person { name, uid: data.uid(), gid: data.gid(), home })
        };
        let people = ["root", "user"].into_iter().filter_map(person).collect();
        drop(Lab { dir: entry.path(), people, made_user: false });
    }
}

fn open_to_all(path: &Path) -> Result<(), Error> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(Error::file("open", path))
}

fn ids_of(user: &str) -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = passwd.lines().find(|line| line.split(':').next() == Some(user))?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
