//! What the tests share: a hermetic laboratory, two kinds of user, snapshots of trees.
//!
//! ```text
//!   Lab::new(User::Root | User::Ordinary)
//!     dir/   owned by that user, on a disk        home/  fvm's state, given with --home
//!     lab.fvm(["run", ...]) ─► Ran { code, out, err }
//!   Snapshot::of(tree) ─ differences ─► what a plain run and a commit disagree on
//! ```
//!
//! Invariants: nothing outside `dir` is written; every VM and process of a laboratory is gone when it is dropped; a
//! gate that is closed says why on standard error.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code: a failure is a failure of the test")]

mod tree;

pub use tree::{Entry, Snapshot, splitmix};

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Who runs fvm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Root.
    Root,
    /// The user `fvmtest`, made with useradd when it is not there. Tests that need it must run as root.
    Ordinary,
}

/// Whether this test process is root; when not, says that `test` is skipped.
#[must_use]
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test}: it needs root (it makes VMs as root, or a second user)");
    }
    root
}

/// Names a directory for [`scratch`]: for tests in process namespaces of their own, where process ids are used again.
pub const SCRATCH: &str = "FVM_TEST_SCRATCH";

/// Where laboratories are.
fn scratch() -> PathBuf {
    std::env::var_os(SCRATCH).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// The `fvm` binary of this build, built when it is not there yet.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // .../<target>/<profile>/deps/<test> → .../<target>/<profile>/fvm
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "fvm-cli"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "fvm cannot be built");
        let built = profile.join("fvm");
        assert!(built.exists(), "{} is not there", built.display());
        // Where an ordinary user may execute it: the build directory may lie below a closed home. One for all tests of this
        // build directory: it is large.
        let (user, place) = (rustix::process::geteuid().as_raw(), profile.metadata().unwrap().ino());
        let copy = scratch().join(format!("fvm-kit-{user}-{place}"));
        // Cargo may put an older one back: not the newer counts, but the same.
        let made = built.metadata().unwrap();
        let is_it = |old: std::fs::Metadata| {
            old.uid() == user && old.len() == made.len() && old.modified().unwrap() == made.modified().unwrap()
        };
        if !copy.symlink_metadata().is_ok_and(is_it) {
            let unready = copy.with_extension(std::process::id().to_string());
            install(&built, &unready);
            std::fs::rename(&unready, &copy).unwrap();
        }
        copy
    })
}

/// Copies a program to where everybody may execute it. By another process: a descriptor that is open for writing here
/// could be inherited by a program that another thread starts just then, and nobody could execute the copy meanwhile.
pub fn install(from: &Path, to: &Path) {
    let copied = Command::new("install").args(["-p", "-m", "755"]).arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cannot copy {} to {}", from.display(), to.display());
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128+n by signal n.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// What a finished command left.
    #[must_use]
    pub fn of(output: Output) -> Self {
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Panics with everything that was printed unless the code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

/// A place to try fvm in.
#[derive(Debug)]
pub struct Lab {
    user: User,
    dir: PathBuf,
    ids: (u32, u32),
}

impl Lab {
    /// A fresh one.
    #[must_use]
    pub fn new(user: User) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let ids = if user == User::Root { (0, 0) } else { ordinary_user() };
        let dir = scratch().join(format!("fvm-lab-{}-{n}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(ids.0), Some(ids.1)).unwrap();
        Self { user, dir, ids }
    }

    /// Whose it is.
    #[must_use]
    pub fn user(&self) -> User {
        self.user
    }

    /// Its directory, owned by its user.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// fvm's state directory.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// A command as the laboratory's user, in its directory, with a small environment and no input.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.dir)
            .env("LC_ALL", "C.UTF-8")
            // Networks have tests of their own; all others are twice as fast without one for each VM.
            .env("FVM_POLICY", "unconfined-network")
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        if self.user == User::Ordinary {
            // Root's supplementary groups go when std changes the user id.
            command.uid(self.ids.0).gid(self.ids.1);
        }
        command
    }

    /// `fvm --home <home>` with these arguments, not started yet.
    pub fn fvm_command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(binary());
        command.arg("--home").arg(self.home()).args(args);
        command
    }

    /// Runs fvm to its end.
    pub fn fvm<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        Ran::of(self.fvm_command(args).output().unwrap())
    }

    /// Runs fvm to its end, with `typed` on its standard input, which is no terminal.
    pub fn fvm_typed<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, typed: &str) -> Ran {
        let mut command = self.fvm_command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Less than a pipe holds; a command that does not read it all is no error.
        let _unread = child.stdin.take().unwrap().write_all(typed.as_bytes());
        Ran::of(child.wait_with_output().unwrap())
    }

    /// Runs a shell script as the laboratory's user; it must succeed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        Ran::of(self.command("sh").args(["-ec", script]).output().unwrap()).expect(0).out
    }

    /// Starts fvm, its output thrown away.
    pub fn spawn<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Child {
        self.fvm_command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// A number that `fvm inspect` shows.
    #[must_use]
    pub fn number(&self, vm: &str, key: &str) -> Option<i32> {
        let json = self.fvm(["inspect", vm]).out;
        let rest = json.split(&format!("\"{key}\": ")).nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let names = self.fvm(["list"]).out;
        let names: Vec<&str> = names.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
        if !names.is_empty() {
            self.fvm(["delete", "--force"].into_iter().chain(names));
        }
        let pools = std::fs::read_dir(self.home().join("pools")).into_iter().flatten().flatten();
        let pools: Vec<_> = pools.map(|pool| pool.file_name()).collect();
        if !pools.is_empty() {
            self.fvm(["pool", "delete"].map(Into::into).into_iter().chain(pools));
        }
        // Directories that their owner closed, and what a cleaner is still removing: root removes all, in a while.
        for _ in 0..50 {
            match std::fs::remove_dir_all(&self.dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(std::time::Duration::from_millis(20))
                }
                _ => break,
            }
        }
    }
}

/// (uid, gid) of `fvmtest`.
fn ordinary_user() -> (u32, u32) {
    let look = || {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|l| l.starts_with("fvmtest:"))?.to_owned();
        let mut fields = line.split(':').skip(2).map(|f| f.parse::<u32>().unwrap());
        Some((fields.next()?, fields.next()?))
    };
    static MADE: OnceLock<(u32, u32)> = OnceLock::new();
    *MADE.get_or_init(|| {
        look().unwrap_or_else(|| {
            let made = Command::new("useradd").args(["--no-create-home", "--shell", "/bin/sh", "fvmtest"]).status();
            // Another test process may have been faster.
            look().unwrap_or_else(|| panic!("useradd fvmtest: {made:?}"))
        })
    })
}
