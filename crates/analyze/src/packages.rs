//! Whether what a package manager writes is what it should bring: by which archives it was given.
//!
//! ```text
//!   dpkg --unpack /var/cache/apt/archives/x.deb      loaded there by apt itself, which checked its signature
//!   dpkg --recursive /tmp/apt-dpkg-install-x         only links that apt made, to such archives
//!   dpkg -i /tmp/evil.deb, rpm -i, pacman -U, apk    anybody's package: its files are judged like anybody's
//!   update-alternatives, deb-systemd-helper          for a package manager that is trusted; by themselves they write what they are told
//! ```
//!
//! Invariant: once an archive of unknown origin was unpacked, nothing that packages' scripts do is taken for a package manager's.

use crate::world::{World, path_of};
use fvm_model::event::{Event, Kind, ProcessKey};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

/// What unpacks packages. Their scripts are programs of their own, and are judged.
const UNPACKERS: &[&str] = &["dpkg", "rpm", "pacman", "apk"];
/// What packages' scripts call to bring their files in.
const HELPERS: &[&str] = &[
    "dpkg-divert",
    "update-alternatives",
    "deb-systemd-helper",
    "deb-systemd-invoke",
    "update-rc.d",
    "systemd-sysusers",
    "ucf",
    "dpkg-maintscript-helper",
];
/// What loads packages and checks who signed them.
const LOADERS: &[&str] =
    &["apt", "apt-get", "aptitude", "unattended-upgr*", "http", "https", "store", "mirror*", "_apt"];
const ARCHIVE: &[u8] = b"/var/cache/apt/archives/";
const LINKS: &[u8] = b"/apt-dpkg-install-";
/// Links of apt's that are remembered.
const LINKS_MAX: usize = 100_000;

/// What is known of packages.
#[derive(Debug, Default)]
pub struct Packages {
    /// Links that apt made for dpkg, and what they hold.
    links: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Somebody unpacked an archive of unknown origin.
    strange: bool,
}

impl Packages {
    /// Looks at an event, after the processes have changed.
    pub fn see(&mut self, event: &Event, world: &World) {
        if event.kind == Kind::Symlink
            && let Some(path) = path_of(event, event.args.path.as_ref())
            && path.windows(LINKS.len()).any(|part| part == LINKS)
            && (self.links.len() < LINKS_MAX || self.links.contains_key(path))
        {
            let to = event.args.to.as_ref().map(|to| to.0.as_bytes().to_vec());
            let is_apts = world.is_one_of(event.process(), LOADERS);
            self.links.insert(path.to_vec(), to.filter(|_| is_apts));
        }
        if event.kind == Kind::Exec && world.is_one_of_packages(event.process(), UNPACKERS) {
            self.strange |= !self.is_known(event.process(), world);
        }
    }

    /// Whether the process brings in what a package holds, and nobody else's package was.
    #[must_use]
    pub fn is_bringing(&self, key: ProcessKey, world: &World) -> bool {
        if self.strange {
            return false;
        }
        if world.is_one_of_packages(key, UNPACKERS) {
            return self.is_known(key, world);
        }
        let above = || world.line(key).skip(1).any(|(key, _)| world.is_one_of_packages(key, UNPACKERS));
        world.is_one_of_packages(key, HELPERS) && above()
    }

    /// Whether all archives that it was given are known.
    fn is_known(&self, key: ProcessKey, world: &World) -> bool {
        let Some(process) = world.process(key) else { return false };
        let args = || process.argv.iter().skip(1).map(Vec::as_slice);
        let ends = |ending: &[u8]| args().any(|arg| arg.ends_with(ending));
        match crate::world::name_of(&process.file) {
            b"dpkg" => {
                let is_told = world.line(key).skip(1).any(|(of, process)| {
                    world.is_one_of(of, LOADERS) && process.argv.iter().skip(1).any(|arg| is_strange(arg))
                });
                let mut is_tree = false;
                !is_told
                    && args().all(|arg| {
                        let is_below = std::mem::replace(&mut is_tree, matches!(arg, b"-R" | b"--recursive"));
                        let is_archive = is_below || arg.ends_with(b".deb");
                        !is_archive || self.is_archived(arg, world) || self.are_linked(arg, world)
                    })
            }
            b"rpm" => !ends(b".rpm"),
            b"pacman" => !args().any(|arg| arg.starts_with(b"-U") || arg == b"--upgrade"),
            b"apk" => !ends(b".apk") && !args().any(|arg| arg == b"--allow-untrusted"),
            _ => false,
        }
    }

    fn is_archived(&self, path: &[u8], world: &World) -> bool {
        let is_plain = path.starts_with(ARCHIVE) && !path.windows(4).any(|part| part == b"/../");
        is_plain && world.made(path).is_none_or(|made| made.is_one_of(LOADERS))
    }

    /// Whether below `dir` there are only links that apt made, to what it has loaded.
    fn are_linked(&self, dir: &[u8], world: &World) -> bool {
        let below = [dir, b"/"].concat();
        let mut links = self.links.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below)).peekable();
        links.peek().is_some()
            && links.all(|(_, to)| to.as_ref().is_some_and(|to| self.is_archived(to, world)))
            && !world.made_below(&below).any(|path| !self.links.contains_key(path))
    }
}

/// Whether an argument of apt's can make it take what nobody signed, or from elsewhere.
fn is_strange(arg: &[u8]) -> bool {
    let is_setting = arg.windows(2).any(|part| part == b"::");
    let harmless: &[&[u8]] = &[b"dpkg::options::", b"apt::install-", b"acquire::retries", b"dpkg::use-pty", b"quiet"];
    let lower = arg.to_ascii_lowercase();
    let lower = lower.strip_prefix(b"-o").unwrap_or(&lower);
    let is_harmless = harmless.iter().any(|known| lower.trim_ascii_start().starts_with(known));
    let words: &[&[u8]] =
        &[b"-c", b"--config-file", b"--allow-unauthenticated", b"--force-yes", b"--allow-insecure-repositories"];
    (is_setting && !is_harmless)
        || arg.ends_with(b".deb")
        || words.iter().any(|word| arg == *word || (arg.starts_with(word) && arg.get(word.len()) == Some(&b'=')))
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::Story;

    /// What is found when dpkg, told by `apt`, unpacks with these arguments a package that has a unit.
    fn found(apt: &[&str], before: impl Fn(&mut Story), dpkg: &[&str]) -> Vec<String> {
        let mut story = Story::new();
        story.run(10, "/usr/bin/apt-get", apt);
        before(&mut story);
        story.run_under(11, 10, "/usr/bin/dpkg", dpkg);
        let unit = "/usr/lib/systemd/system/x.service";
        story.write(11, &format!("{unit}.dpkg-new"));
        story.rename(11, &format!("{unit}.dpkg-new"), unit);
        story.ids()
    }

    const INSTALL: &[&str] = &["apt-get", "-y", "-o", "Dpkg::Options::=--force-confold", "install", "x"];
    const NONE: [String; 0] = [];

    fn linked(to: &'static str) -> impl Fn(&mut Story) {
        move |story| {
            story.run_under(12, 10, "/usr/lib/apt/methods/http", &["/usr/lib/apt/methods/http"]);
            story.write(12, "/var/cache/apt/archives/partial/x.deb");
            story.rename(10, "/var/cache/apt/archives/partial/x.deb", "/var/cache/apt/archives/x.deb");
            story.symlink(10, "/tmp/apt-dpkg-install-abc/0-x.deb", to);
        }
    }

    #[test]
    fn what_apt_loaded_itself_is_a_package() {
        let archive = "/var/cache/apt/archives/x.deb";
        assert_eq!(found(INSTALL, |_| (), &["dpkg", "--unpack", archive]), NONE);
        let tree = &["dpkg", "--unpack", "--recursive", "/tmp/apt-dpkg-install-abc"];
        assert_eq!(found(INSTALL, linked(archive), tree), NONE);
        assert_eq!(found(INSTALL, |_| (), &["dpkg", "--configure", "--pending"]), NONE);
    }

    #[test]
    fn anybodys_package_is_judged_like_anybody() {
        let unit = ["systemd-unit"];
        let tree = &["dpkg", "--unpack", "--recursive", "/tmp/apt-dpkg-install-abc"];
        for (apt, dpkg) in [
            (INSTALL, &["dpkg", "-i", "/tmp/evil.deb"][..]),
            (INSTALL, &["dpkg", "-i", "evil.deb"]),
            (INSTALL, &["dpkg", "-i", "/var/cache/apt/archives/../../../tmp/evil.deb"]),
            (INSTALL, tree),
            (&["apt-get", "install", "/tmp/evil.deb"], &["dpkg", "--unpack", "/var/cache/apt/archives/x.deb"]),
            (
                &["apt-get", "-o", "Dir::Etc::SourceList=/tmp/l", "install", "x"],
                &["dpkg", "--unpack", "/var/cache/apt/archives/x.deb"],
            ),
        ] {
            assert_eq!(found(apt, |_| (), dpkg), unit, "{apt:?} {dpkg:?}");
        }
        assert_eq!(found(INSTALL, linked("/tmp/evil.deb"), tree), unit);
        let swapped = |story: &mut Story| {
            story.run_under(20, 0, "/usr/bin/cp", &["cp", "evil.deb", "/var/cache/apt/archives/x.deb"]);
            story.write(20, "/var/cache/apt/archives/x.deb");
        };
        assert_eq!(found(INSTALL, swapped, &["dpkg", "--unpack", "/var/cache/apt/archives/x.deb"]), unit);
    }

    #[test]
    fn helpers_are_trusted_below_a_package_manager_only() {
        let helped = |above: Option<&[&str]>| {
            let mut story = Story::new();
            if let Some(argv) = above {
                story.run(10, "/usr/bin/dpkg", argv);
            } else {
                story.run(10, "/usr/bin/dash", &["sh"]);
            }
            story.run_under(11, 10, "/usr/bin/deb-systemd-helper", &["deb-systemd-helper", "enable", "x.service"]);
            story.write(11, "/etc/systemd/system/x.service");
            story.ids()
        };
        assert_eq!(helped(Some(&["dpkg", "--configure", "x"])), NONE);
        assert_eq!(helped(Some(&["dpkg", "-i", "/tmp/x.deb"])), ["systemd-unit"]);
        assert_eq!(helped(None), ["systemd-unit"]);
    }
}
