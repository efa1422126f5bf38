//! One place where attacks are tried: outside, or VMs of one mode, each with its victims on the host.
//!
//! ```text
//!   host     victims (the laboratory's user) ──ready WORDS──┐                 ┌─► check WORDS, after an `ask`
//!   place    sh: attack after attack, in one `fvm exec` ◄───┘── reached | refused | absent | ask
//!   outside  the same shell script without `fvm exec`
//! ```
//!
//! Between VMs the victims and checks are in a VM of their own. Container mode is fvm as root in a mount namespace whose `/` is an overlay, as in a container.
//!
//! Invariants: descriptor 9 is open on a secret wherever fvm is called; every process that is started here is ended by
//! its id.

use crate::attack::{Attack, Control, Net, Start};
use crate::suite::program;
use crate::verdict::Verdict;
use fvm_kit::{Lab, User};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Where attacks are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On the host itself: the control.
    Outside,
    /// In a VM of root's: a shifted user namespace.
    Root,
    /// In a VM of an ordinary user's.
    Rootless,
    /// In a VM of root's in a container: the host's own user ids.
    Container,
    /// In a VM of root's, with victims in another one.
    Neighbour,
    /// In a VM of an ordinary user's, with victims in another one of the same user.
    RootlessNeighbour,
}

impl Place {
    /// All, the control first.
    pub const ALL: [Self; 6] =
        [Self::Outside, Self::Root, Self::Rootless, Self::Container, Self::Neighbour, Self::RootlessNeighbour];

    /// Those where the host is attacked.
    pub const WITH_HOST: [Self; 4] = [Self::Outside, Self::Root, Self::Rootless, Self::Container];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Root => "root mode",
            Self::Rootless => "rootless mode",
            Self::Container => "container mode",
            Self::Neighbour => "another VM",
            Self::RootlessNeighbour => "another VM, rootless",
        }
    }

    /// Whether the victims are in a VM as well.
    #[must_use]
    pub fn is_between_vms(self) -> bool {
        matches!(self, Self::Neighbour | Self::RootlessNeighbour)
    }

    fn is_rootless(self) -> bool {
        matches!(self, Self::Rootless | Self::RootlessNeighbour)
    }

    fn mode(self) -> &'static str {
        match self {
            Self::Outside | Self::Root | Self::Neighbour => "shifted",
            Self::Rootless | Self::RootlessNeighbour => "rootless",
            Self::Container => "identity",
        }
    }
}

/// Where victims work, and attacks and checks begin: a directory without a mount below it.
const WORK: &str = "work";
/// The VM in which the victims are, between VMs.
const NEIGHBOUR: &str = "neighbour";
/// Longest that all attacks of one place may take together.
const LIMIT_SECS: u32 = 240;
/// Opens a descriptor that nobody inside may have, and becomes the command.
const WITH_A_SECRET: &str = "cd \"$0\" && exec 9<secret && exec \"$@\"";

/// A place with all that attacks find there.
#[derive(Debug)]
pub struct Stage {
    place: Place,
    lab: Lab,
    workshop: PathBuf,
    container: Option<Child>,
    /// Environment of attacks and checks.
    environment: String,
}

impl Stage {
    /// Makes the laboratory; the VMs are made when there are victims.
    #[must_use]
    pub fn set(place: Place, workshop: &Path) -> Self {
        let user = if place.is_rootless() { User::Ordinary } else { User::Root };
        let lab = Lab::new(user);
        lab.sh("mkdir work shelf work/input; cd work; echo lure > lure; chmod 755 lure; umask 077
                printf the-secret-of-the-host > secret; printf the-secret-of-the-host > input-file; echo x > ../one; echo y > ../two");
        fvm_kit::install(fvm_kit::binary(), &lab.path("fvm"));
        // A user's own fvm belongs to that user.
        let owner = std::os::unix::fs::MetadataExt::uid(&lab.dir().metadata().unwrap());
        std::os::unix::fs::chown(lab.path("fvm"), Some(owner), None).unwrap();
        // A set-user-id program of root's, and what only that may read.
        let suid =
            "install -m 4755 /bin/cat work/become-root; umask 077; printf the-secret-of-the-host > work/only-for-root";
        let installed = Command::new("sh").args(["-ec", suid]).current_dir(lab.dir()).status().unwrap();
        assert!(installed.success(), "cannot install a set-user-id program");
        // A file that is a mount point, as /etc/hosts is in containers.
        let bound = Command::new("mount").arg("--bind").args([lab.path("one"), lab.path("two")]).status().unwrap();
        assert!(bound.success(), "cannot bind a file");
        // A read-only mount of the host's, as of an image or another machine's files.
        let shelf = lab.path("shelf");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "mode=777", "none"]).arg(&shelf).status();
        assert!(mounted.unwrap().success(), "cannot mount at {}", shelf.display());
        let container = (place == Place::Container).then(|| enter_container(&lab));
        Self { place, lab, workshop: workshop.into(), container, environment: String::new() }
    }

    /// Tries all of them.
    #[must_use]
    pub fn run<'a>(mut self, tasks: &[(&'a str, &'static Attack)]) -> BTreeMap<&'a str, Verdict> {
        if self.place.is_between_vms() {
            self.start(NEIGHBOUR, Net::None);
        }
        let mut verdicts = BTreeMap::new();
        let mut victims = BTreeMap::new();
        for (id, attack) in tasks {
            match self.victim(id) {
                _ if self.place == Place::Outside && attack.is_by_construction() => {
                    verdicts.insert(*id, Verdict::NotRun(attack.reason()));
                }
                Ok(victim) => drop(victims.insert(*id, victim)),
                Err(verdict) => drop(verdicts.insert(*id, verdict)),
            }
        }
        let shelf = self.lab.path("shelf");
        let closed = Command::new("mount").args(["-o", "remount,ro"]).arg(&shelf).status().unwrap();
        assert!(closed.success(), "cannot make {} read-only", shelf.display());

        for (vm, net) in [("open", Net::Host), ("shut", Net::None)] {
            let here: Vec<_> = tasks
                .iter()
                .filter(|(id, attack)| victims.contains_key(id) && (attack.net == net))
                .map(|(id, attack)| (*id, *attack, victims[id].words.as_str()))
                .collect();
            self.start(vm, net);
            for (id, verdict) in self.attack(vm, &here) {
                let answer = if verdict == Verdict::Ask { self.check(id, &victims[id].words) } else { verdict };
                verdicts.insert(id, answer);
            }
        }
        verdicts
    }

    /// Starts the victim of an attack and waits until it is ready.
    fn victim(&self, id: &str) -> Result<Victim, Verdict> {
        let words = [program(&self.workshop, id).display().to_string(), "victim".into()];
        let mut command = self.beside(&words);
        // A group of its own, which attacks on groups may hit.
        command.stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let victim = |words: &str| Ok(Victim { child, words: words.trim().to_owned() });
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("ready", words) => victim(words),
            ("none", _) => victim(""),
            ("absent:", why) => Err(Verdict::Absent(why.to_owned())),
            _ => Err(Verdict::Broken(format!("its victim said '{}'", line.trim()))),
        }
    }

    /// Starts a VM and learns what attacks on fvm need to know.
    fn start(&mut self, vm: &str, net: Net) {
        let net = match net {
            Net::Host => "host",
            Net::None => "none",
        };
        for args in [vec!["create", "--net", net, vm], vec!["start", vm]] {
            let output = self.on_host(&self.fvm(&args)).output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let json = text(&self.on_host(&self.fvm(&["inspect", vm])).output().unwrap());
        let field = |key: &str| {
            let rest = json.split(&format!("\"{key}\": ")).nth(1).unwrap_or_default();
            rest.split([',', '\n']).next().unwrap_or_default().trim_matches('"').to_owned()
        };
        assert_eq!(field("mode"), self.place.mode(), "{json}");
        let (keeper, init) = (field("keeper_pid"), field("init_pid"));
        assert!(keeper.parse::<u32>().is_ok() && init.parse::<u32>().is_ok(), "{json}");
        let run = if self.place.is_rootless() { self.lab.home().join("run") } else { "/run/fvm".into() };
        self.environment = format!(
            "export ESCAPE_LAB={} ESCAPE_HOME={} ESCAPE_SOCKET={}/{}.sock ESCAPE_KEEPER={keeper} ESCAPE_INIT={init} \
             ESCAPE_SHELF={}\n",
            self.lab.path(WORK).display(),
            self.lab.home().display(),
            run.display(),
            field("id"),
            self.lab.path("shelf").display(),
        );
    }

    /// Tries `tasks` (id, attack, words) in `vm`, or outside.
    fn attack<'a>(&self, vm: &str, tasks: &[(&'a str, &'static Attack, &str)]) -> Vec<(&'a str, Verdict)> {
        let call = |id: &str, attack: &Attack, words: &str| {
            let wrap = match (self.place, attack.control) {
                (Place::Outside, Control::InNamespaces(flags)) => {
                    format!("unshare {flags} -- sh -c '\"$@\"; exit $?' sh ")
                }
                (Place::Outside, Control::AsUser) => {
                    "setpriv --reuid=fvmtest --regid=fvmtest --clear-groups -- ".into()
                }
                _ => String::new(),
            };
            format!("one {id} {wrap}{} attack {words}\n", program(&self.workshop, id).display())
        };
        let mut script = format!(
            "{}T=$(mktemp -p .)\n\
             one() {{ id=$1; shift; timeout -s KILL 10 \"$@\" >$T 2>&1; echo \"@ $id $? $(head -n 1 $T)\"; }}\n",
            self.environment
        );
        let head = script.clone();
        for (id, attack, words) in tasks.iter().filter(|(_, attack, _)| attack.start == Start::Plain) {
            script.push_str(&call(id, attack, words));
        }
        let mut said = text(&self.sh(vm, &script).stdin(Stdio::null()).output().unwrap());
        for (id, attack, words) in tasks {
            let script = format!("{head}{}", call(id, attack, words));
            match attack.start {
                Start::Plain => {}
                Start::WithInput(file) => {
                    let input = File::open(self.lab.path(WORK).join(file)).unwrap();
                    said.push_str(&text(&self.sh(vm, &script).stdin(input).output().unwrap()));
                }
                Start::WhileWeRunItsProgram => said.push_str(&self.lured(vm, &script)),
            }
        }
        let mut verdicts: BTreeMap<&str, Verdict> = BTreeMap::new();
        for line in said.lines().filter_map(|l| l.strip_prefix("@ ")) {
            let mut fields = line.splitn(3, ' ');
            let (Some(id), Some(code)) = (fields.next(), fields.next()) else { continue };
            verdicts.insert(id, Verdict::of(fields.next().unwrap_or_default(), code.parse().unwrap_or(-1)));
        }
        let lost = || Verdict::Broken(format!("no answer at all; the last lines: {}", tail(&said)));
        tasks.iter().map(|(id, ..)| (*id, verdicts.remove(id).unwrap_or_else(lost))).collect()
    }

    /// An attack that waits for the host's user to run the program `lure`, which it has replaced in the VM.
    fn lured(&self, vm: &str, script: &str) -> String {
        let mut waiting = self.sh(vm, script).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lure = self.lab.path(WORK).join("lure").display().to_string();
        while waiting.try_wait().unwrap().is_none() {
            let args = if self.place == Place::Outside { vec!["doctor"] } else { vec!["exec", vm, &lure, "doctor"] };
            drop(self.on_host(&self.fvm(&args)).stdin(Stdio::null()).output().unwrap());
        }
        text(&waiting.wait_with_output().unwrap())
    }

    fn check(&self, id: &str, words: &str) -> Verdict {
        let script = format!("{}exec {} check {words}", self.environment, program(&self.workshop, id).display());
        let output = self.beside(&["sh".into(), "-c".into(), script]).output().unwrap();
        Verdict::of(text(&output).lines().next().unwrap_or_default(), output.status.code().unwrap_or(-1))
    }

    /// A command where the victims are.
    fn beside(&self, words: &[String]) -> Command {
        if self.place.is_between_vms() {
            let mut all = self.fvm(&["exec", NEIGHBOUR]);
            all.extend_from_slice(words);
            return self.on_host(&all);
        }
        let mut command = self.lab.command(&words[0]);
        command.args(&words[1..]).current_dir(self.lab.path(WORK));
        command
    }

    /// A shell with `script` in `vm`, or outside.
    fn sh(&self, vm: &str, script: &str) -> Command {
        let shell = ["timeout", "-s", "KILL", &LIMIT_SECS.to_string(), "sh", "-c", script].map(str::to_owned);
        if self.place == Place::Outside {
            return self.on_host(&shell);
        }
        let mut args = self.fvm(&["exec", vm]);
        args.extend(shell);
        self.on_host(&args)
    }

    /// `fvm --home ... <args>`.
    fn fvm(&self, args: &[&str]) -> Vec<String> {
        let mut words = vec![self.lab.path("fvm").display().to_string(), "--home".into()];
        words.push(self.lab.home().display().to_string());
        words.extend(args.iter().map(|&a| a.to_owned()));
        words
    }

    /// A command on the host (in container mode: in the container), with the secret open at descriptor 9.
    fn on_host(&self, words: &[String]) -> Command {
        let mut command = match &self.container {
            Some(container) => {
                let mut command = self.lab.command("nsenter");
                command.arg("-m").args(["-t", &container.id().to_string(), "sh"]);
                command
            }
            None => self.lab.command("sh"),
        };
        command.args(["-c", WITH_A_SECRET]).arg(self.lab.path(WORK)).args(words);
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for vm in ["open", "shut", NEIGHBOUR] {
            drop(self.on_host(&self.fvm(&["delete", "--force", vm])).stderr(Stdio::null()).status());
        }
        if let Some(container) = &mut self.container {
            end(container);
        }
        let mut unmount = Command::new("umount");
        drop(unmount.arg("-l").args([self.lab.path("shelf"), self.lab.path("two")]).stderr(Stdio::null()).status());
    }
}

/// A process on the host that is attacked.
struct Victim {
    child: Child,
    words: String,
}

impl Drop for Victim {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    if let Ok(id) = i32::try_from(child.id())
        && let Some(pid) = Pid::from_raw(id)
        && child.try_wait().is_ok_and(|ended| ended.is_none())
    {
        let _ended = kill_process(pid, Signal::TERM).and_then(|()| kill_process(pid, Signal::CONT));
    }
    drop(child.wait());
}

/// A process in a mount namespace whose `/` is an overlay of the host's, with the host's other mounts in their places.
fn enter_container(lab: &Lab) -> Child {
    let mut script = String::from(
        "set -e; mount -t tmpfs none \"$1\"; cd \"$1\"; mkdir upper work root\n\
         mount -t overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work none root\n",
    );
    for dir in ["dev", "proc", "sys", "run", "tmp", "var/tmp"] {
        // Writing to a string cannot fail.
        let _fits = writeln!(script, "mount --rbind /{dir} root/{dir}");
    }
    script.push_str("cd root; pivot_root . mnt; umount -l /mnt; echo ready; exec sleep 900\n");
    lab.sh("mkdir container");
    let mut command = lab.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(lab.path("container"));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "cannot make a container");
    child
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|l| !l.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}
