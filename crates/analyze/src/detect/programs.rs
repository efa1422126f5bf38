//! What is executed: droppers, programs in memory, shells whose orders come from the network, libraries put into others.
//!
//! ```text
//!   write /tmp/x ─ chmod +x ─ execute, all by one family of processes           dropper
//!   /memfd:x, links 0                                                          memory-exec
//!   sh, descriptors 0 and 1 are network sockets                                reverse-shell; the family listens: bind-shell
//!   sh, 0 and 1 are pipes, and whoever made it talks to the network            pipe-shell
//!   sh begins a session on a terminal, its maker has none and talks            pty-shell
//! ```

use super::Detector;
use crate::found::{Found, Sighting, command, text};
use crate::rules;
use crate::world::{Made, Proc, World, name_of};
use fvm_model::event::{Event, Kind, Phase, ProcessKey};
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

/// Whose work it is to make programs, or to bring them where they belong.
const MAKERS: &[&str] = &[
    "ld",
    "ld.*",
    "gold",
    "mold",
    "collect2",
    "gcc*",
    "g++*",
    "cc*",
    "clang*",
    "*-ld",
    "rustc",
    "cargo",
    "rustup",
    "go",
    "link",
    "lld",
    "rust-lld",
    "install",
    "dpkg",
    "rpm",
    "pip*",
    "npm*",
    "node",
    "yarn*",
    "pnpm*",
    "git",
    "meson",
    "cmake",
    "ninja",
    "make",
    "tar",
    "objcopy",
    "strip",
    "patchelf",
    "x86_64-linux-gnu-*",
    "aarch64-linux-gnu-*",
    "ccache",
    "as",
    "libtool",
    "javac",
    "java",
    "ghc*",
    "ocaml*",
    "zig",
];
const SHELLS: &[&[u8]] =
    &[b"sh", b"bash", b"dash", b"zsh", b"ash", b"ksh", b"mksh", b"fish", b"busybox", b"csh", b"tcsh", b"rbash"];

/// Who gives shells terminals, for people who are elsewhere or at another window.
const TERMINALS: &[&str] = &[
    "sshd*",
    "mosh-server",
    "tmux*",
    "screen*",
    "dtach",
    "abduco",
    "ttyd",
    "wetty",
    "code*",
    "gnome-terminal*",
    "konsole*",
    "xterm*",
    "alacritty",
    "kitty",
    "foot*",
    "wezterm*",
    "xfce4-terminal*",
    "tilix",
    "terminator",
    "emacs*",
    "vim*",
    "nvim",
    "jupyter*",
    "login",
    "script",
    "expect",
    "su",
    "sudo",
    "runuser",
    "fvm",
    "x-terminal-emul*",
    "urxvt*",
    "rxvt*",
    "st",
];

/// A shell whose orders come through pipes, or a terminal.
#[derive(Debug)]
struct Piped {
    rule: &'static crate::rules::Rule,
    key: ProcessKey,
    seq: u64,
    parent: ProcessKey,
    is_interactive: bool,
    what: String,
}

/// Looks at programs.
#[derive(Debug, Default)]
pub struct Programs {
    piped: Vec<Piped>,
    told: HashSet<ProcessKey>,
    /// Who talked to the network, and by which event.
    talked: HashMap<ProcessKey, u64>,
}

fn is_shell(process: &Proc) -> bool {
    SHELLS.contains(&name_of(&process.exe))
}

/// Whether a shell was given no script: its orders come from its input.
fn takes_orders(process: &Proc) -> bool {
    process.argv.iter().skip(1).all(|arg| {
        arg.starts_with(b"-") && !arg.starts_with(b"--") && !arg.contains(&b'c')
            || arg == b"--login"
            || arg == b"--norc"
            || arg == b"--noprofile"
    })
}

impl Programs {
    fn executed(&mut self, event: &Event, world: &World, found: &mut Found) {
        let key = event.process();
        let Some(process) = world.process(key) else { return };
        let exe = event.exe.0.as_bytes();
        let of_vm: &[&[u8]] = if world.made(exe).is_some() { &[exe] } else { &[] };
        if event.args.links == Some(0) {
            let is_memory = exe.starts_with(b"/memfd:");
            // Container tools execute a copy of themselves so.
            let usual = is_memory
                && [&b"/memfd:runc"[..], b"/memfd:crun", b"/memfd:systemd"].iter().any(|name| exe.starts_with(name));
            let rule = if is_memory { &rules::MEMORY_EXEC } else { &rules::DELETED_EXEC };
            if !usual {
                found.event(rule, event, format!("ran {}: {}", text(exe), command(&process.argv)), &[]);
            }
        }
        self.dropped(event, world, process, found);
        if !is_shell(process) {
            return;
        }
        let streams = event.args.streams.as_deref().unwrap_or_default().as_bytes();
        let what = || format!("{} with network sockets for input and output", command(&process.argv));
        if streams.starts_with(b"nn") {
            let listens = world.line(key).take(4).find_map(|(_, process)| process.listened);
            let rule = if listens.is_some() { &rules::BIND_SHELL } else { &rules::REVERSE_SHELL };
            let events: Vec<u64> = listens.into_iter().chain([event.seq]).collect();
            found.add(
                rule,
                &Sighting { what: what(), key: Some(key), at: Some(event.ts), events: &events, paths: of_vm },
            );
        } else if streams.starts_with(b"pp")
            && takes_orders(process)
            && let Some(parent) = process.parent
        {
            let is_interactive = process.argv.iter().skip(1).any(|arg| arg.starts_with(b"-") && arg.contains(&b'i'));
            let what = format!("{} with pipes for input and output", command(&process.argv));
            if self.piped.len() < 10_000 {
                self.piped.push(Piped { rule: &rules::PIPE_SHELL, key, seq: event.seq, parent, is_interactive, what });
            }
        } else if streams.starts_with(b"tt")
            && takes_orders(process)
            && event.sid == event.tgid
            && let Some(parent) = process.parent
            && !world.line(parent).take(2).any(|(key, _)| world.is_one_of(key, TERMINALS))
        {
            let what = format!("{} on a terminal of its own", command(&process.argv));
            if self.piped.len() < 10_000 {
                self.piped.push(Piped {
                    rule: &rules::PTY_SHELL,
                    key,
                    seq: event.seq,
                    parent,
                    is_interactive: false,
                    what,
                });
            }
        }
    }

    /// Written, made executable and started by one family.
    fn dropped(&self, event: &Event, world: &World, process: &Proc, found: &mut Found) {
        let path = process.file.as_slice();
        let Some(made @ Made { by, seq, executable: Some((chmod, marker, _)), .. }) = world.made(path) else { return };
        let family = |key: ProcessKey| {
            world.line(key).take(3).any(|(key, _)| world.line(event.process()).take(6).any(|(own, _)| own == key))
        };
        let below_maker = |key| world.line(key).skip(1).take(2).any(|(key, _)| world.is_one_of(key, MAKERS));
        let of_makers = made.is_one_of(MAKERS) || made.is_executable_by(MAKERS);
        if made.packaged || of_makers || below_maker(*by) || below_maker(*marker) || !family(*by) || !family(*marker) {
            return;
        }
        let what = format!("ran {}, written and made executable before", text(path));
        let key = Some(event.process());
        let severity = if world.line(*by).take(2).any(|(_, p)| p.connected.is_some()) {
            fvm_model::Severity::High
        } else {
            rules::DROPPER.severity
        };
        found.add_as(
            &rules::DROPPER,
            severity,
            &Sighting { what, key, at: Some(event.ts), events: &[*seq, *chmod, event.seq], paths: &[path] },
        );
    }

    fn preloads(event: &Event, world: &World, found: &mut Found) {
        let Some(variable) = event.args.name.as_ref().map(|name| name.0.as_bytes()) else { return };
        let Some(library) = world.library_of_vm(variable) else { return };
        let argv: Vec<Vec<u8>> = event.args.argv.iter().map(|arg| arg.0.as_bytes().to_vec()).collect();
        let of_makers = world.made(library).is_some_and(|made| made.is_one_of(&["fakeroot", "dpkg"]));
        if !of_makers {
            found.event(
                &rules::PRELOAD,
                event,
                format!("started {} with {}", command(&argv), text(variable)),
                &[library],
            );
        }
    }
}

impl Detector for Programs {
    fn see(&mut self, event: &Event, world: &World, found: &mut Found) {
        match (event.kind, event.phase) {
            (Kind::Exec, Phase::Attempt) => Self::preloads(event, world, found),
            (Kind::Exec, Phase::Done) => self.executed(event, world, found),
            (Kind::Connect, _) if super::network::is_outside(event) => {
                self.talked.entry(event.process()).or_insert(event.seq);
            }
            _ => {}
        }
    }

    fn end(&mut self, world: &World, found: &mut Found) {
        for piped in &self.piped {
            let by_parent = world.line(piped.parent).take(2).find_map(|(key, _)| self.talked.get(&key));
            // 'sh -i < fifo | nc': whoever was started beside it.
            let beside = || {
                let is_beside = |key: &ProcessKey| {
                    *key != piped.key && world.process(*key).is_some_and(|p| p.parent == Some(piped.parent))
                };
                self.talked.iter().find(|(key, _)| piped.is_interactive && is_beside(key)).map(|(_, seq)| seq)
            };
            let Some(seq) = by_parent.or_else(beside) else { continue };
            if self.told.insert(piped.key) {
                let (what, at) = (piped.what.clone(), world.began(piped.key));
                found.add(
                    piped.rule,
                    &Sighting { what, key: Some(piped.key), at, events: &[piped.seq, *seq], paths: &[] },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::Story;

    #[test]
    fn a_program_that_is_written_made_executable_and_started_is_found_and_a_compiled_one_is_not() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/dash", &["sh", "-c", "..."]);
        story.run_under(11, 10, "/usr/bin/curl", &["curl", "-o", "/tmp/x"]);
        story.write(11, "/tmp/x");
        story.run_under(12, 10, "/usr/bin/chmod", &["chmod", "+x", "/tmp/x"]);
        story.chmod(12, "/tmp/x", 0o755);
        story.run_under(13, 10, "/tmp/x", &["/tmp/x"]);
        assert_eq!(story.ids(), ["dropper"]);
        let mut story = Story::new();
        story.run(10, "/usr/bin/dash", &["sh", "-c", "..."]);
        story.run_under(11, 10, "/usr/bin/ld", &["ld", "-o", "/w/a"]);
        story.write(11, "/w/a");
        story.chmod(11, "/w/a", 0o755);
        story.run_under(13, 10, "/w/a", &["/w/a"]);
        assert_eq!(story.ids(), [""; 0]);
    }

    #[test]
    fn a_shell_on_the_network_is_found_and_one_on_a_terminal_or_a_socket_pair_is_not() {
        for (streams, id) in
            [("nnn", Some("reverse-shell")), ("sss", None), ("ttt", None), ("ppp", None), ("fnn", None)]
        {
            let mut story = Story::new();
            story.run(10, "/usr/bin/python3", &["python3"]);
            story.run_with(11, 10, "/usr/bin/bash", &["bash", "-i"], streams);
            assert_eq!(story.ids(), id.into_iter().collect::<Vec<_>>(), "{streams}");
        }
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.listen(10);
        story.run_with(11, 10, "/usr/bin/bash", &["bash", "-i"], "nnn");
        assert_eq!(story.ids(), ["bind-shell"]);
    }

    #[test]
    fn a_shell_on_a_terminal_of_its_own_is_found_where_its_maker_talks_to_the_network() {
        for (maker, talks, is_leader, id) in [
            ("/usr/bin/python3", true, true, Some("pty-shell")),
            ("/usr/bin/socat", true, true, Some("pty-shell")),
            ("/usr/bin/python3", false, true, None),
            ("/usr/bin/python3", true, false, None),
            ("/usr/sbin/sshd", true, true, None),
        ] {
            let mut story = Story::new();
            story.run(10, maker, &["x"]);
            if talks {
                story.connect(10, "198.51.100.7", 443);
            }
            story.run_with(11, 10, "/usr/bin/bash", &["bash"], "ttt");
            let done = story.events.last_mut().unwrap();
            done.sid = if is_leader { done.tgid } else { 10 };
            assert_eq!(story.ids(), id.into_iter().collect::<Vec<_>>(), "{maker} {talks} {is_leader}");
        }
    }

    #[test]
    fn a_shell_behind_pipes_is_found_only_where_its_maker_talks_to_the_network_and_gives_it_no_script() {
        for (argv, talks, id) in [
            (&["sh"][..], true, Some("pipe-shell")),
            (&["sh", "-i"], true, Some("pipe-shell")),
            (&["sh", "-c", "make"], true, None),
            (&["sh", "build.sh"], true, None),
            (&["sh"], false, None),
        ] {
            let mut story = Story::new();
            story.run(10, "/usr/bin/python3", &["python3"]);
            if talks {
                story.connect(10, "198.51.100.7", 443);
            }
            story.run_with(11, 10, "/usr/bin/dash", argv, "ppp");
            assert_eq!(story.ids(), id.into_iter().collect::<Vec<_>>(), "{argv:?} {talks}");
        }
    }

    #[test]
    fn what_runs_from_memory_or_with_a_library_of_the_vms_is_found() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.run_in_memory(11, 10, "/memfd:x");
        story.write(10, "/tmp/x.so");
        story.run_preloaded(12, 10, "/usr/bin/id", "LD_PRELOAD=/tmp/x.so");
        story.run_preloaded(13, 10, "/usr/bin/id", "LD_PRELOAD=/usr/lib/libfakeroot.so");
        assert_eq!(story.ids(), ["memory-exec", "preload"]);
    }
}
