//! What reaches for other processes, namespaces and the kernel.
//!
//! Most of it is refused by every VM, or has no power there: what is found here is that somebody tried.

use super::Detector;
use crate::found::{Found, text};
use crate::rules;
use crate::world::{World, path_of, written};
use fvm_model::event::{Event, Kind, Phase, ProcessKey};
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

/// Debuggers: other processes are their work.
const DEBUGGERS: &[&str] = &[
    "gdb*",
    "lldb*",
    "strace",
    "ltrace",
    "rr",
    "valgrind*",
    "perf",
    "delve",
    "dlv",
    "radare2",
    "r2",
    "frida*",
    "py-spy",
    "bpftrace",
    "gcore",
    "reptyr",
    "crash*",
    "chrome_crashpad*",
    "apport*",
    "criu",
    "proot",
    "systemd-coredump",
    "fakeroot-ng",
    "uftrace",
    "eu-stack",
    "pstack",
];
/// Makers of containers and sandboxes.
const SANDBOXES: &[&str] = &[
    "bwrap",
    "podman",
    "buildah",
    "docker*",
    "containerd*",
    "runc",
    "crun",
    "youki",
    "conmon",
    "flatpak*",
    "snap*",
    "firejail",
    "lxc*",
    "systemd*",
    "newuidmap",
    "newgidmap",
    "slirp4netns",
    "pasta*",
    "passt*",
    "fuse-overlayfs",
    "rootlesskit",
    "nsjail",
    "chromium*",
    "chrome*",
    "firefox*",
    "electron*",
    "WebKit*",
    "ip",
    "nsenter",
    "fvm",
    "apptainer",
    "singularity",
    "unshare",
    "mmdebstrap",
    "debootstrap",
    "sbuild",
    "fusermount*",
    "mount.*",
];
/// Programs that make code while they run.
const JITS: &[&str] = &[
    "node*",
    "deno",
    "bun",
    "java*",
    "jshell",
    "kotlin*",
    "gradle*",
    "mvn*",
    "mono*",
    "dotnet",
    "luajit*",
    "chromium*",
    "chrome*",
    "firefox*",
    "thunderbird*",
    "soffice*",
    "wine*",
    "qemu-*",
    "julia",
    "ruby*",
    "php*",
    "guile*",
    "sbcl",
    "pypy*",
    "erl*",
    "beam*",
    "racket",
    "gjs*",
    "electron*",
    "code*",
    "R",
    "ghc*",
    "valgrind*",
    "WebKit*",
    "npm*",
    "npx*",
    "yarn*",
    "pnpm*",
    "Xorg",
    "Xwayland",
    "gnome-shell",
    "pwsh",
    "gdb*",
    "qmlscene",
    "octave*",
    "postgres",
    "oosplash",
];
const URING_USERS: &[&str] = &[
    "node*",
    "npm*",
    "npx*",
    "deno",
    "bun",
    "qemu-*",
    "postgres",
    "mariadbd",
    "mysqld",
    "fio",
    "nginx",
    "samba*",
    "smbd",
    "scylla",
    "tigerbeetle",
];

/// Files by which the kernel is told to start programs.
const HELPERS: &[&[u8]] = &[
    b"/proc/sys/kernel/core_pattern",
    b"/proc/sys/kernel/modprobe",
    b"/proc/sys/kernel/hotplug",
    b"/sys/kernel/uevent_helper",
    b"/proc/sys/fs/binfmt_misc/register",
    b"/proc/sysrq-trigger",
    b"/proc/sys/kernel/usermodehelper/bset",
    b"/sys/kernel/security/apparmor/.load",
];

/// `PTRACE_ATTACH`, `SEIZE`, and what writes: `POKETEXT`, `POKEDATA`, `POKEUSER`, `SETREGS`, `SETREGSET`.
const TAKES_OVER: &[u64] = &[16, 0x4206, 4, 5, 6, 13, 0x4205];
/// `CLONE_NEWUSER`.
const NEW_USER: u64 = 0x1000_0000;
/// `MS_UNBINDABLE | MS_PRIVATE | MS_SLAVE | MS_SHARED`: how mounts spread, nothing is mounted.
const SPREAD: u64 = 0b1111 << 17;

/// Looks at the kernel.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Who made a user namespace, and by which event.
    users: HashMap<ProcessKey, u64>,
    /// Who was root once.
    roots: HashSet<ProcessKey>,
}

impl Kernel {
    /// Whether the process gave root up: it may see whether it is rid of it. So does apt.
    fn was_root(&self, key: ProcessKey, world: &World) -> bool {
        let exe = |key| world.process(key).map(|process| process.exe.as_slice());
        world.line(key).take(2).any(|(of, _)| self.roots.contains(&of) && exe(of) == exe(key))
    }

    fn refused(event: &Event, world: &World, found: &mut Found) {
        let (key, name) = (event.process(), event.args.name.as_ref().map(|name| name.0.as_bytes()).unwrap_or_default());
        let (rule, known): (_, &[&str]) = match name {
            b"init_module" | b"finit_module" | b"delete_module" | b"create_module" | b"kexec_load"
            | b"kexec_file_load" => (&rules::KERNEL_MODULE, &[]),
            b"bpf" | b"perf_event_open" => (
                &rules::KERNEL_BPF,
                &["perf", "systemd*", "ip", "tc", "bpftool", "bpftrace", "rr", "runc", "crun", "podman", "gdb*"],
            ),
            b"keyctl" | b"add_key" | b"request_key" => (
                &rules::KERNEL_KEYS,
                &[
                    "sudo",
                    "su",
                    "login",
                    "systemd*",
                    "runc",
                    "crun",
                    "podman",
                    "docker*",
                    "keyctl",
                    "sshd",
                    "cryptsetup",
                    "sssd*",
                    "fscrypt",
                    "flatpak*",
                    "bwrap",
                    "chromium*",
                    "chrome*",
                    "cron",
                    "runuser",
                    "krb5*",
                    "kinit",
                    "klist",
                ],
            ),
            b"open_by_handle_at" => (&rules::HANDLE_OPEN, &["systemd*", "udevadm", "criu", "xfs_*"]),
            b"io_uring_setup" => (&rules::IO_URING, URING_USERS),
            b"ptrace" => (&rules::PTRACE, DEBUGGERS),
            b"process_vm_writev" => (&rules::MEMORY_WRITE, DEBUGGERS),
            b"process_vm_readv" => (&rules::MEMORY_READ, DEBUGGERS),
            _ => return,
        };
        if !world.is_one_of(key, known) {
            found.event(rule, event, format!("asked for {}, which was refused", text(name)), &[]);
        }
    }

    fn mounts(&mut self, event: &Event, world: &World, found: &mut Found) {
        let key = event.process();
        let name = event.args.name.as_ref().map(|name| name.0.as_bytes()).unwrap_or_default();
        // A new mount; not taking one away, nor making one to look at.
        if !matches!(name, b"mount" | b"move_mount")
            || (name == b"mount" && event.args.flags.is_some_and(|flags| flags & SPREAD != 0))
        {
            return;
        }
        let where_to = event.args.path.as_ref().map(|path| text(path.0.as_bytes())).unwrap_or_default();
        let maker = world.line(key).find_map(|(key, _)| self.users.get(&key).map(|seq| (key, *seq)));
        if let Some((of, seq)) = maker {
            if world.is_one_of(of, SANDBOXES) && !world.is_one_of(of, &["unshare"]) {
                return;
            }
            let what = format!("made a user namespace and mounted on {where_to} in it");
            let sighting = crate::found::Sighting {
                what,
                key: Some(key),
                at: Some(event.ts),
                events: &[seq, event.seq],
                paths: &[],
            };
            found.add(&rules::USERNS_MOUNT, &sighting);
        } else if !world.is_one_of(key, SANDBOXES) {
            found.event(&rules::MOUNT, event, format!("mounted on {where_to}"), &[]);
        }
    }
}

fn opens(event: &Event, world: &World, found: &mut Found) {
    let Some(path) = written(event) else { return };
    let key = event.process();
    if HELPERS.contains(&path) || path.ends_with(b"/release_agent") {
        found.event(&rules::KERNEL_HELPER, event, format!("opened {} for writing", text(path)), &[path]);
    }
    let of = path.strip_prefix(b"/proc/").and_then(|rest| rest.strip_suffix(b"/mem"));
    let number = of.map(|rest| rest.split(|b| *b == b'/').next().unwrap_or(rest));
    if let Some(number) = number.and_then(|number| std::str::from_utf8(number).ok()?.parse::<u32>().ok())
        && number != event.tgid
        && number != event.tid
        && !world.is_one_of(key, DEBUGGERS)
    {
        found.event(&rules::PROC_MEM, event, format!("opened {} for writing", text(path)), &[]);
    }
}

impl Detector for Kernel {
    fn see(&mut self, event: &Event, world: &World, found: &mut Found) {
        let key = event.process();
        let is_other = event.args.pid.is_some_and(|pid| {
            pid > 0 && i64::from(pid) != i64::from(event.tgid) && i64::from(pid) != i64::from(event.tid)
        });
        let of = || event.args.pid.unwrap_or(0);
        if event.uid == 0 && self.roots.len() < 100_000 {
            self.roots.insert(key);
        }
        match (event.kind, event.phase) {
            (Kind::Ptrace, _)
                if is_other
                    && event.args.flags.is_some_and(|request| TAKES_OVER.contains(&request))
                    && !world.is_one_of(key, DEBUGGERS) =>
            {
                found.event(&rules::PTRACE, event, format!("took over process {}", of()), &[]);
            }
            (Kind::MemoryWrite, _) if is_other && !world.is_one_of(key, DEBUGGERS) => {
                found.event(&rules::MEMORY_WRITE, event, format!("wrote into process {}", of()), &[]);
            }
            (Kind::MemoryRead, _) if is_other && !world.is_one_of(key, DEBUGGERS) => {
                found.event(&rules::MEMORY_READ, event, format!("read the memory of process {}", of()), &[]);
            }
            (Kind::Protect, _) if !world.is_one_of(key, JITS) => {
                found.event(&rules::WRITABLE_CODE, event, "made memory both writable and executable".into(), &[]);
            }
            (Kind::Setuid, _) if event.uid != 0 && event.args.uid == Some(0) && !self.was_root(key, world) => {
                found.event(&rules::SETUID_ROOT, event, format!("user {} asked to be root", event.uid), &[]);
            }
            (Kind::Refused, _) => Self::refused(event, world, found),
            (Kind::Unshare, _)
                if event.args.flags.is_some_and(|flags| flags & NEW_USER != 0) && self.users.len() < 100_000 =>
            {
                self.users.entry(key).or_insert(event.seq);
            }
            (Kind::Mount, _) => self.mounts(event, world, found),
            (Kind::Setns, _) if !world.is_one_of(key, SANDBOXES) || world.is_one_of(key, &["nsenter"]) => {
                found.event(&rules::SETNS, event, "entered another namespace".into(), &[]);
            }
            (Kind::Exec, Phase::Done)
                if world.is_one_of(key, &["insmod"])
                    || (world.process(key).is_some_and(|p| crate::world::name_of(&p.file) == b"insmod")) =>
            {
                let argv = world.process(key).map(|process| crate::found::command(&process.argv)).unwrap_or_default();
                found.event(&rules::KERNEL_MODULE, event, format!("ran {argv}"), &[]);
            }
            (Kind::Open, _) => opens(event, world, found),
            (Kind::Mknod, _) => {
                // A device node of a disk is the disk.
                if let (Some(path), Some(mode)) = (path_of(event, event.args.path.as_ref()), event.args.mode)
                    && mode & 0o170_000 == 0o060_000
                {
                    found.event(&rules::KERNEL_HELPER, event, format!("made the block device {}", text(path)), &[path]);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::Story;
    use fvm_model::event::{Args, Kind, Phase};
    use fvm_model::path::Bytes;

    fn named(name: &str) -> Args {
        Args { name: Some(Bytes(name.into())), ..Args::default() }
    }

    #[test]
    fn strangers_are_found_and_those_whose_work_it_is_are_not() {
        for (exe, want) in [
            ("/usr/bin/python3.11", vec!["io-uring", "kernel-bpf", "memory-write", "ptrace", "writable-code"]),
            ("/usr/bin/gdb", vec!["io-uring", "memory-write"]),
        ] {
            let mut story = Story::new();
            story.run(10, exe, &["x"]);
            let of = |pid, flags| Args { pid: Some(pid), flags: Some(flags), ..Args::default() };
            story.event(10, Kind::Ptrace, Phase::Attempt, of(11, 16));
            story.event(10, Kind::Ptrace, Phase::Attempt, of(0, 0));
            story.event(10, Kind::MemoryWrite, Phase::Attempt, of(10, 0));
            story.event(10, Kind::Refused, Phase::Attempt, named("bpf"));
            story.event(10, Kind::Refused, Phase::Attempt, named("io_uring_setup"));
            story.event(10, Kind::Refused, Phase::Attempt, named("acct"));
            story.event(10, Kind::Protect, Phase::Attempt, named("mmap"));
            if want.contains(&"memory-write") {
                // A library in a debugger is the debugger no more.
                story.write(10, "/tmp/l.so");
                let exe = if exe.ends_with("gdb") { exe } else { "/usr/bin/x" };
                story.run_preloaded(10, 0, exe, "LD_PRELOAD=/tmp/l.so");
                story.event(10, Kind::MemoryWrite, Phase::Attempt, of(11, 0));
            }
            let mut want: Vec<&str> = want;
            want.push("preload");
            want.sort_unstable();
            assert_eq!(story.ids(), want, "{exe}");
        }
    }

    #[test]
    fn a_mount_in_a_user_namespace_is_found_and_how_mounts_spread_is_not() {
        let mount = |flags| Args { flags: Some(flags), path: Some(Bytes("/mnt".into())), ..named("mount") };
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.event(10, Kind::Mount, Phase::Attempt, mount(1 << 18 | 1 << 14));
        assert_eq!(story.ids(), [""; 0]);
        story.event(10, Kind::Unshare, Phase::Attempt, Args { flags: Some(0x1002_0000), ..Args::default() });
        story.run_under(11, 10, "/usr/bin/dash", &["sh"]);
        story.event(11, Kind::Mount, Phase::Attempt, mount(0));
        assert_eq!(story.ids(), ["userns-mount"]);
    }

    #[test]
    fn an_ordinary_program_that_asks_to_be_root_is_found_and_one_that_was_root_is_not() {
        let root = Args { uid: Some(0), ..Args::default() };
        let mut story = Story::new();
        story.run(10, "/usr/bin/apt-get", &["apt-get"]);
        for event in &mut story.events {
            event.uid = 0;
        }
        story.event(10, Kind::Setuid, Phase::Attempt, root.clone());
        assert_eq!(story.ids(), [""; 0]);
        story.run(11, "/usr/bin/python3", &["python3"]);
        story.event(11, Kind::Setuid, Phase::Attempt, root);
        assert_eq!(story.ids(), ["setuid-root"]);
    }

    #[test]
    fn files_that_reach_the_kernel_or_other_processes() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.write(10, "/proc/10/mem");
        story.write(10, "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(story.ids(), [""; 0]);
        story.write(10, "/proc/11/mem");
        story.write(10, "/proc/sys/kernel/core_pattern");
        assert_eq!(story.ids(), ["kernel-helper", "proc-mem"]);
    }
}
