//! Files that start programs, or that decide who may what: whoever writes them.
//!
//! ```text
//!   ~/.bashrc            below any home            the program that a place is for may:
//!   /etc/cron.d/*        * one name                  crontab writes /var/spool/cron
//!   /etc/systemd/**      all below                   dpkg what packages bring
//! ```
//!
//! Invariants: the events say who, the changes what is there: a place that changed without an event is found as well; a program
//! may write its place only while it is the machine's own, untouched.

use super::scripts;
use crate::found::{Found, Sighting, text};
use crate::rules::{self, Rule};
use crate::world::{World, written};
use fvm_model::event::{Event, ProcessKey};
use fvm_model::{Change, ChangeKind, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Places of one rule.
struct Kind {
    rule: &'static Rule,
    places: &'static [&'static str],
    /// Who may write them, beside package managers.
    known: &'static [&'static str],
}

const KINDS: &[Kind] = &[
    Kind {
        rule: &rules::SHELL_STARTUP,
        places: &[
            "~/.bashrc",
            "~/.bash_profile",
            "~/.bash_login",
            "~/.bash_logout",
            "~/.bash_aliases",
            "~/.profile",
            "~/.zshrc",
            "~/.zshenv",
            "~/.zprofile",
            "~/.zlogin",
            "~/.zlogout",
            "~/.kshrc",
            "~/.cshrc",
            "~/.tcshrc",
            "~/.login",
            "~/.config/fish/config.fish",
            "~/.config/fish/conf.d/*",
            "~/.pam_environment",
            "/etc/profile",
            "/etc/profile.d/**",
            "/etc/bash.bashrc",
            "/etc/bashrc",
            "/etc/zsh/**",
            "/etc/environment",
            "/etc/fish/**",
            "/etc/csh.*",
            "/etc/skel/**",
        ],
        known: &[],
    },
    Kind {
        rule: &rules::AUTOSTART,
        places: &[
            "~/.config/autostart/**",
            "~/.config/autostart-scripts/**",
            "~/.config/environment.d/**",
            "~/.xinitrc",
            "~/.xprofile",
            "~/.xsession",
            "~/.xsessionrc",
            "~/.config/plasma-workspace/**",
            "~/.kde/Autostart/**",
            "~/.config/openbox/autostart",
            "~/.config/i3/config",
            "~/.config/sway/config",
            "~/.config/hypr/**",
            "~/.local/share/dbus-1/services/**",
            "/etc/xdg/autostart/**",
            "/etc/environment.d/**",
            "/usr/lib/environment.d/**",
            "/etc/X11/Xsession.d/**",
            "/etc/X11/xinit/**",
            "/usr/share/dbus-1/system-services/**",
            "/etc/update-motd.d/**",
        ],
        known: &[],
    },
    Kind {
        rule: &rules::CRON,
        places: &[
            "/etc/crontab",
            "/etc/anacrontab",
            "/etc/cron.d/**",
            "/etc/cron.hourly/**",
            "/etc/cron.daily/**",
            "/etc/cron.weekly/**",
            "/etc/cron.monthly/**",
            "/var/spool/cron/**",
            "/var/spool/at/**",
            "/var/spool/anacron/**",
        ],
        known: &["anacron", "atd", "cron"],
    },
    Kind {
        rule: &rules::SYSTEMD_UNIT,
        places: &[
            "/etc/systemd/**",
            "/lib/systemd/system/**",
            "/usr/lib/systemd/**",
            "/usr/local/lib/systemd/**",
            "/run/systemd/system/**",
            "/lib/systemd/user/**",
            "~/.config/systemd/**",
            "~/.local/share/systemd/user/**",
        ],
        known: &[],
    },
    Kind {
        rule: &rules::RC_SCRIPT,
        places: &[
            "/etc/rc.local",
            "/etc/rc.d/**",
            "/etc/init.d/**",
            "/etc/init/**",
            "/etc/inittab",
            "/etc/rc?.d/**",
            "/etc/network/if-*.d/**",
            "/etc/dhcp/dhclient-exit-hooks.d/**",
            "/etc/NetworkManager/dispatcher.d/**",
        ],
        known: &[],
    },
    Kind {
        rule: &rules::LD_PRELOAD_FILE,
        places: &["/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d/**"],
        known: &[],
    },
    Kind {
        rule: &rules::PAM,
        places: &[
            "/etc/pam.d/**",
            "/etc/pam.conf",
            "/etc/security/**",
            "/lib/x86_64-linux-gnu/security/**",
            "/usr/lib/x86_64-linux-gnu/security/**",
            "/usr/lib/aarch64-linux-gnu/security/**",
            "/usr/lib64/security/**",
            "/usr/lib/security/**",
        ],
        known: &["pam-auth-update", "authselect"],
    },
    Kind {
        rule: &rules::AUTHORIZED_KEYS,
        places: &[
            "~/.ssh/authorized_keys",
            "~/.ssh/authorized_keys2",
            "~/.ssh/rc",
            "~/.ssh/environment",
            "~/.ssh/config",
            "/etc/ssh/sshd_config",
            "/etc/ssh/sshd_config.d/**",
            "/etc/ssh/authorized_keys/**",
            "~/.rhosts",
            "/etc/hosts.equiv",
        ],
        known: &[],
    },
    Kind {
        rule: &rules::SUDOERS,
        places: &[
            "/etc/sudoers",
            "/etc/sudoers.d/**",
            "/etc/doas.conf",
            "/etc/polkit-1/**",
            "/usr/share/polkit-1/rules.d/**",
        ],
        known: &["visudo"],
    },
    Kind {
        rule: &rules::ACCOUNTS,
        places: &["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid"],
        known: &[
            "useradd",
            "usermod",
            "userdel",
            "groupadd",
            "groupmod",
            "groupdel",
            "passwd",
            "chpasswd",
            "newusers",
            "gpasswd",
            "chage",
            "chfn",
            "chsh",
            "pwck",
            "grpck",
            "pwconv",
            "grpconv",
            "vipw",
            "vigr",
            "adduser",
            "addgroup",
            "deluser",
            "delgroup",
            "systemd-sysusers",
            "systemd-homed",
            "base-passwd",
            "update-passwd",
        ],
    },
    Kind {
        rule: &rules::UDEV_RULE,
        places: &["/etc/udev/**", "/usr/lib/udev/rules.d/**", "/lib/udev/rules.d/**", "/run/udev/rules.d/**"],
        known: &[],
    },
    Kind {
        rule: &rules::PACKAGE_HOOK,
        places: &[
            "/etc/apt/apt.conf",
            "/etc/apt/apt.conf.d/**",
            "/etc/apt/sources.list",
            "/etc/apt/sources.list.d/**",
            "/etc/apt/trusted.gpg.d/**",
            "/etc/dpkg/**",
            "/etc/yum.repos.d/**",
            "/etc/dnf/plugins/**",
            "/etc/pacman.d/hooks/**",
            "/etc/yum/pluginconf.d/**",
        ],
        known: &["add-apt-repository"],
    },
    Kind {
        rule: &rules::BOOT_FILE,
        places: &[
            "/boot/**",
            "/etc/default/grub",
            "/etc/default/grub.d/**",
            "/etc/grub.d/**",
            "/etc/modules",
            "/etc/modules-load.d/**",
            "/etc/modprobe.d/**",
            "/etc/initramfs-tools/**",
            "/etc/dracut.conf.d/**",
            "/lib/modules/**",
            "/usr/lib/modules/**",
            "/usr/lib/modules-load.d/**",
        ],
        known: &[
            "update-initramfs",
            "mkinitramfs",
            "grub-mkconfig",
            "update-grub",
            "depmod",
            "kmod",
            "linux-update-symlinks",
            "dracut",
        ],
    },
    Kind {
        rule: &rules::NAME_LOOKUP,
        places: &[
            "/etc/hosts",
            "/etc/nsswitch.conf",
            "/etc/resolv.conf",
            "/usr/local/share/ca-certificates/**",
            "/etc/pki/ca-trust/source/anchors/**",
            "/etc/ca-certificates.conf",
        ],
        known: &["resolvconf", "systemd-resolved", "dhclient-script", "NetworkManager", "update-ca-certificates"],
    },
];

/// Commands whose names nobody else has a reason to take.
const COMMANDS: &[&str] = &[
    "sudo",
    "su",
    "doas",
    "ssh",
    "scp",
    "sftp",
    "ssh-add",
    "ls",
    "cat",
    "cp",
    "mv",
    "rm",
    "ps",
    "top",
    "id",
    "who",
    "w",
    "login",
    "passwd",
    "bash",
    "sh",
    "zsh",
    "git",
    "gpg",
    "gpg2",
    "docker",
    "podman",
    "kubectl",
    "curl",
    "wget",
    "systemctl",
    "apt",
    "apt-get",
    "dpkg",
    "env",
    "find",
    "grep",
    "netstat",
    "ss",
    "lsof",
    "mount",
    "pkexec",
];

/// What was seen at one place.
#[derive(Debug)]
struct Seen {
    rule: &'static Rule,
    key: ProcessKey,
    seq: u64,
    at: Timestamp,
    /// What came of it, as far as the changes say.
    became: Option<&'static str>,
}

/// Looks at places.
#[derive(Debug)]
pub struct Places {
    index: Index,
    /// Written by somebody who may not.
    seen: BTreeMap<Vec<u8>, Seen>,
    /// Written by whoever may.
    allowed: BTreeSet<Vec<u8>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { index: Index::new(), seen: BTreeMap::new(), allowed: BTreeSet::new() }
    }
}

/// By first name: of which kind, and all names.
type ByFirst = HashMap<&'static [u8], Vec<(usize, Vec<&'static [u8]>)>>;

/// The places by their first name.
#[derive(Debug)]
struct Index {
    home: ByFirst,
    root: ByFirst,
}

impl Index {
    fn new() -> Self {
        let mut index = Self { home: HashMap::new(), root: HashMap::new() };
        for (n, kind) in KINDS.iter().enumerate() {
            for place in kind.places {
                let names: Vec<&[u8]> = place.split('/').skip(1).map(str::as_bytes).collect();
                let map = if place.starts_with('~') { &mut index.home } else { &mut index.root };
                map.entry(names[0]).or_default().push((n, names));
            }
        }
        index
    }

    fn find(map: &ByFirst, below: &[u8]) -> Option<usize> {
        let names: Vec<&[u8]> = below.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
        let places = map.get(names.first()?)?;
        places.iter().find(|(_, pattern)| matches(pattern, &names)).map(|(n, _)| *n)
    }

    /// A place that lies below `below`, or right there.
    fn around(map: &ByFirst, below: &[u8]) -> Option<usize> {
        let names: Vec<&[u8]> = below.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
        let places = map.get(names.first()?)?;
        let holds = |pattern: &[&[u8]]| {
            pattern.len() > names.len() && pattern.iter().zip(&names).all(|(p, n)| fvm_trace::origin::wild(p, n))
        };
        places.iter().find(|(_, pattern)| holds(pattern)).map(|(n, _)| *n)
    }
}

fn matches(pattern: &[&[u8]], names: &[&[u8]]) -> bool {
    match pattern.split_last() {
        Some((last, front)) if *last == b"**" => {
            names.len() > front.len() && front.iter().zip(names).all(|(p, n)| fvm_trace::origin::wild(p, n))
        }
        _ => pattern.len() == names.len() && pattern.iter().zip(names).all(|(p, n)| fvm_trace::origin::wild(p, n)),
    }
}

/// What a place is: its rule, and who may write it.
fn place_of(index: &Index, world: &World, path: &[u8]) -> Option<(&'static Rule, &'static [&'static str])> {
    let at_home = world.below_home(path);
    let found = at_home.and_then(|below| Index::find(&index.home, below)).or_else(|| Index::find(&index.root, path));
    if let Some(kind) = found.map(|n| &KINDS[n]) {
        return Some((kind.rule, kind.known));
    }
    let hook = path.windows(12).position(|part| part == b"/.git/hooks/").map(|at| &path[at + 12..]);
    if hook.is_some_and(|hook| !hook.is_empty() && !hook.ends_with(b".sample")) {
        return Some((&rules::GIT_HOOK, &["git", "git-*", "pre-commit", "husky", "lefthook"]));
    }
    let below_bin = at_home.and_then(|below| below.strip_prefix(b".local/bin/").or(below.strip_prefix(b"bin/")));
    let name = below_bin.or_else(|| path.strip_prefix(b"/usr/local/bin/").or(path.strip_prefix(b"/usr/local/sbin/")));
    name.filter(|name| COMMANDS.iter().any(|command| command.as_bytes() == *name))
        .map(|_| (&rules::COMMAND_SHADOW, &[][..]))
}

/// The rule of a place that lies below `path`: whoever puts a link or a whole directory there fills it.
fn rule_around(index: &Index, world: &World, path: &[u8]) -> Option<&'static Rule> {
    let at_home = world.below_home(path);
    let found =
        at_home.and_then(|below| Index::around(&index.home, below)).or_else(|| Index::around(&index.root, path));
    found.map(|n| KINDS[n].rule)
}

impl Places {
    /// Looks at one event.
    pub fn see(&mut self, event: &Event, world: &World) {
        let Some(path) = written(event) else { return };
        let Some((rule, known)) = place_of(&self.index, world, path) else { return };
        let key = event.process();
        let is_unit = std::ptr::eq(rule, &raw const rules::SYSTEMD_UNIT);
        let enables = || is_unit && scripts::enables_unpacked(event, world);
        let may = world.is_packager(key) || world.is_one_of(key, known) || scripts::writes_settings(world, key, known);
        if may || enables() {
            self.allowed.insert(path.to_vec());
            return;
        }
        let seen = Seen { rule, key, seq: event.seq, at: event.ts, became: None };
        self.seen.entry(path.to_vec()).or_insert(seen);
    }

    /// Looks at one change, when there are no more events.
    pub fn change(&mut self, change: &Change, world: &World, found: &mut Found) {
        let path = change.path.as_bytes();
        if let Some(seen) = self.seen.get_mut(path) {
            seen.became = Some(match change.kind {
                ChangeKind::Created => "made",
                ChangeKind::Deleted => "wrote, and there is no more,",
                _ => "changed",
            });
            return;
        }
        let is_there = !matches!(change.kind, ChangeKind::Deleted | ChangeKind::Metadata { .. });
        let is_file = change.file_type != fvm_model::FileType::Directory;
        // What comes along with it is no change of its own.
        let is_whole_dir = !is_file && matches!(change.kind, ChangeKind::Renamed { .. });
        if (change.file_type == fvm_model::FileType::Symlink || is_whole_dir)
            && !self.allowed.contains(path)
            && let Some(rule) = rule_around(&self.index, world, path)
        {
            let how = if is_whole_dir { "is a directory that was moved there" } else { "leads elsewhere now" };
            let what = format!("{} {how}", text(path));
            found.add(rule, &Sighting { what, key: None, at: None, events: &[], paths: &[path] });
            return;
        }
        if !is_there || !is_file || self.allowed.contains(path) {
            return;
        }
        if let Some((rule, _)) = place_of(&self.index, world, path) {
            let what = format!("{} was changed; the log does not show by whom", text(path));
            found.add(rule, &Sighting { what, key: None, at: None, events: &[], paths: &[path] });
        }
    }

    /// Says what was found.
    pub fn end(self, found: &mut Found) {
        for (path, seen) in &self.seen {
            let what = match seen.became {
                Some(became) => format!("{became} {}", text(path)),
                None => format!("tried to write {}: it is as it was", text(path)),
            };
            let (key, at, events) = (Some(seen.key), Some(seen.at), &[seen.seq][..]);
            found.add(seen.rule, &Sighting { what, key, at, events, paths: &[path] });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule_at(path: &str) -> Option<&'static str> {
        let world = World::new(&[fvm_model::VmPath::new("/srv/me").unwrap()]);
        place_of(&Index::new(), &world, path.as_bytes()).map(|(rule, _)| rule.id)
    }

    #[test]
    fn a_place_that_is_led_elsewhere_or_moved_in_whole_is_found() {
        use fvm_model::{FileType, MetaDelta, VmPath};
        let renamed = || ChangeKind::Renamed { modified: false, meta: MetaDelta::default() };
        let ids = |path: &str, kind: ChangeKind, file_type| {
            let (world, mut found, mut places) = (World::new(&[]), Found::default(), Places::default());
            let change = Change {
                path: VmPath::new(path).unwrap(),
                kind,
                file_type,
                base: None,
                layer: 0,
                before: None,
                after: None,
                target: None,
                link_group: None,
                link_host: None,
                source: None,
                uncommittable: None,
                conflict: None,
                origin: None,
            };
            places.change(&change, &world, &mut found);
            places.end(&mut found);
            found.into_findings(&world).into_iter().map(|finding| finding.id).collect::<Vec<_>>()
        };
        assert_eq!(ids("/etc/cron.d", ChangeKind::Created, FileType::Symlink), ["cron"]);
        assert_eq!(ids("/home/a/.config/autostart", renamed(), FileType::Directory), ["autostart"]);
        assert_eq!(ids("/root/.ssh", ChangeKind::Created, FileType::Symlink), ["authorized-keys"]);
        assert_eq!(ids("/home/a/.config/autostart", ChangeKind::Created, FileType::Directory), [""; 0]);
        assert_eq!(ids("/home/a/src/autostart", ChangeKind::Created, FileType::Symlink), [""; 0]);
        assert_eq!(ids("/home/a/old", renamed(), FileType::Directory), [""; 0]);
    }

    #[test]
    fn places_are_known_and_their_neighbours_are_not() {
        for (path, rule) in [
            ("/root/.bashrc", Some("shell-startup")),
            ("/home/a/.bashrc", Some("shell-startup")),
            ("/srv/me/.config/autostart/x.desktop", Some("autostart")),
            ("/srv/other/.bashrc", None),
            ("/home/a/src/.bashrc", None),
            ("/home/a/.config/autostart", None),
            ("/etc/cron.d/x", Some("cron")),
            ("/etc/crontab.bak", None),
            ("/var/spool/cron/crontabs/root", Some("cron")),
            ("/usr/lib/systemd/system/x.service", Some("systemd-unit")),
            ("/etc/rc5.d/S01x", Some("rc-script")),
            ("/etc/ld.so.cache", None),
            ("/etc/ld.so.preload", Some("ld-preload-file")),
            ("/etc/passwd-", None),
            ("/etc/passwd", Some("accounts")),
            ("/w/p/.git/hooks/pre-commit", Some("git-hook")),
            ("/w/p/.git/hooks/pre-commit.sample", None),
            ("/home/a/.local/bin/sudo", Some("command-shadow")),
            ("/home/a/.local/bin/pip", None),
            ("/usr/local/bin/ls", Some("command-shadow")),
            ("/usr/bin/ls", None),
        ] {
            assert_eq!(rule_at(path), rule, "{path}");
        }
    }
}
