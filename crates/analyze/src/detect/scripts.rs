//! What packages' scripts do that comes to no more than what the package could have brought itself.
//!
//! ```text
//!   dpkg    writes /usr/lib/systemd/system/x.service                    unpacked
//!   postinst ─► ... ─► systemctl   links x.service into wants/          enables what was unpacked: nothing
//!                      chmod       gives an unpacked file a mode        nothing
//!                      systemctl   links a unit of the script's own     found
//! ```
//!
//! Invariant: it is the file that counts, and that it came in a package of known origin ([`crate::packages`]): a script gains
//! nothing by calling the same helpers for files of its own, or for those that the machine had before.

use crate::world::{Proc, World, name_of, path_of};
use fvm_model::event::{Event, Kind, ProcessKey};
use std::os::unix::ffi::OsStrExt;

/// Whether the file lies here as a package manager unpacked it.
fn is_unpacked(world: &World, path: &[u8]) -> bool {
    let is = |path: &[u8]| world.made(path).is_some_and(|made| made.packaged);
    // '/lib' is '/usr/lib' by now, and texts of links say the older name.
    is(path) || (path.starts_with(b"/lib/") && is(&[b"/usr", path].concat()))
}

/// Whether a package manager started it, or what it came from.
fn is_of_a_package(world: &World, key: ProcessKey) -> bool {
    world.line(key).any(|(key, _)| world.is_packager(key))
}

/// Whether a package's script merely enables a unit of a package: by a link to what was unpacked.
pub fn enables_unpacked(event: &Event, world: &World) -> bool {
    let is_link = event.kind == Kind::Symlink && path_of(event, event.args.path.as_ref()).is_some();
    let unit = event.args.to.as_ref().map(|to| to.0.as_bytes()).unwrap_or_default();
    is_link && is_of_a_package(world, event.process()) && is_unpacked(world, unit)
}

/// Whether a package's script gives a mode to what was unpacked.
pub fn gives_mode(event: &Event, world: &World, path: &[u8]) -> bool {
    is_of_a_package(world, event.process()) && is_unpacked(world, path)
}

/// Whether, for a package's script, one of those writes that may (`known`), or somebody copies what `ucf` tells him.
pub fn writes_settings(world: &World, key: ProcessKey, known: &[&str]) -> bool {
    let of_ucf = || world.line(key).nth(1).is_some_and(|(maker, _)| world.is_one_of_packages(maker, &["ucf"]));
    is_of_a_package(world, key) && (world.is_one_of_packages(key, known) || of_ucf())
}

/// Whether it is a Perl script of the machine's own: looking a user up, Perl reads the passwords too, wanted or not.
pub fn looks_users_up(world: &World, key: ProcessKey) -> bool {
    let is_script = |process: &Proc| {
        process.file != process.exe && name_of(&process.exe).starts_with(b"perl") && process.file.starts_with(b"/usr/")
    };
    world.is_own(key).is_some() && world.process(key).is_some_and(is_script)
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::Story;

    const UNIT: &str = "/usr/lib/systemd/system/x.service";
    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/x.service";

    /// dpkg (11, in the session of the shell 10) unpacked a unit and a program, and runs a script (12) which runs `exe` (13).
    fn configuring(exe: &str) -> Story {
        let mut story = Story::new();
        story.run(10, "/usr/bin/dash", &["sh"]);
        story.run_under(11, 10, "/usr/bin/dpkg", &["dpkg", "--configure", "--pending"]);
        for file in [UNIT, "/usr/bin/x"] {
            let new = format!("{file}.dpkg-new");
            story.write(11, &new);
            story.rename(11, &new, file);
        }
        story.write(11, "/var/lib/dpkg/info/x.postinst");
        story.run_under(12, 11, "/var/lib/dpkg/info/x.postinst", &["x.postinst", "configure"]);
        story.run_under(13, 12, exe, &["x"]);
        story
    }

    #[test]
    fn a_script_enables_what_was_unpacked_and_nothing_of_its_own() {
        let mut story = configuring("/usr/bin/systemctl");
        story.symlink(13, WANTS, "/lib/systemd/system/x.service");
        assert_eq!(story.ids(), [""; 0]);
        // A unit that was there before.
        let mut story = configuring("/usr/bin/systemctl");
        story.symlink(13, WANTS, "/lib/systemd/system/ssh.service");
        assert_eq!(story.ids(), ["systemd-unit"]);
        // One that was changed after it was unpacked: link and unit.
        let mut story = configuring("/usr/bin/systemctl");
        story.write(12, UNIT);
        story.symlink(13, WANTS, UNIT);
        assert_eq!(story.ids(), ["systemd-unit"; 2]);
        // Not by a package's script.
        let mut story = configuring("/usr/bin/systemctl");
        story.run(20, "/usr/bin/systemctl", &["systemctl", "enable", "x"]);
        story.symlink(20, WANTS, UNIT);
        assert_eq!(story.ids(), ["systemd-unit"]);
        // Not by what calls itself dpkg.
        let mut story = configuring("/usr/bin/systemctl");
        story.write(12, "/w/dpkg");
        story.run_under(20, 0, "/w/dpkg", &["dpkg"]);
        story.symlink(20, WANTS, UNIT);
        assert_eq!(story.ids(), ["systemd-unit"]);
    }

    #[test]
    fn a_script_gives_modes_to_what_was_unpacked_only() {
        for (file, id) in [("/usr/bin/x", None), ("/usr/bin/bash", Some("set-uid")), ("/usr/bin/y", Some("set-uid"))] {
            let mut story = configuring("/usr/bin/chmod");
            // Written by the script.
            story.write(12, "/usr/bin/y");
            story.chmod(13, file, 0o4755);
            assert_eq!(story.ids(), id.into_iter().collect::<Vec<_>>(), "{file}");
        }
        let mut story = configuring("/usr/bin/chmod");
        story.run_under(20, 10, "/usr/bin/chmod", &["chmod"]);
        story.chmod(20, "/usr/bin/x", 0o4755);
        assert_eq!(story.ids(), ["set-uid"]);
    }

    #[test]
    fn a_helper_may_have_its_file_copied() {
        for (helper, id) in [("/usr/bin/ucf", None), ("/usr/bin/dash", Some("authorized-keys"))] {
            let mut story = configuring(helper);
            story.run_under(14, 13, "/usr/bin/cp", &["cp", "a", "/etc/ssh/sshd_config"]);
            story.write(14, "/etc/ssh/sshd_config");
            assert_eq!(story.ids(), id.into_iter().collect::<Vec<_>>(), "{helper}");
        }
        // Of no package.
        let mut story = Story::new();
        story.run(10, "/usr/bin/ucf", &["ucf"]);
        story.run_under(14, 10, "/usr/bin/cp", &["cp", "a", "/etc/ssh/sshd_config"]);
        story.write(14, "/etc/ssh/sshd_config");
        assert_eq!(story.ids(), ["authorized-keys"]);
    }

    #[test]
    fn a_package_manager_that_replaced_itself_is_one_and_what_a_script_made_of_it_is_none() {
        let mut story = configuring("/usr/bin/dash");
        for file in ["/usr/bin/dpkg", "/usr/sbin/pam-auth-update"] {
            story.write(11, &format!("{file}.dpkg-new"));
            story.rename(11, &format!("{file}.dpkg-new"), file);
        }
        story.chmod(11, "/usr/bin/dpkg", 0o755);
        story.run_under(20, 10, "/usr/bin/dpkg", &["dpkg", "--configure", "y"]);
        story.write(20, "/etc/cron.d/y");
        story.run_under(21, 20, "/usr/sbin/pam-auth-update", &["pam-auth-update"]);
        story.write(21, "/etc/pam.d/common-auth");
        assert_eq!(story.ids(), [""; 0]);
        // It may write, not read: reading is nothing that a package could have brought.
        story.write(11, "/usr/bin/ssh");
        story.run_under(22, 20, "/usr/bin/ssh", &["ssh"]);
        story.read(22, "/root/.ssh/id_rsa");
        assert_eq!(story.ids(), ["secret-read"]);
        let mut story = configuring("/usr/bin/dash");
        story.write(12, "/usr/bin/dpkg");
        story.run_under(20, 10, "/usr/bin/dpkg", &["dpkg", "--configure", "y"]);
        story.write(20, "/etc/cron.d/y");
        assert_eq!(story.ids(), ["cron"]);
    }

    #[test]
    fn perl_scripts_of_the_machine_look_users_up_and_others_do_not() {
        for (script, id) in [
            ("/usr/share/debconf/frontend", None),
            ("/usr/bin/perl", Some("shadow-read")),
            ("/tmp/x.pl", Some("shadow-read")),
            ("/w/x.pl", Some("shadow-read")),
        ] {
            let mut story = Story::new();
            story.write(9, "/usr/share/made.pl");
            story.run_script(10, "/usr/bin/perl", script);
            story.read(10, "/etc/shadow");
            assert_eq!(story.ids(), id.into_iter().collect::<Vec<_>>(), "{script}");
        }
        let mut story = Story::new();
        story.write(9, "/usr/share/made.pl");
        story.run_script(10, "/usr/bin/perl", "/usr/share/made.pl");
        story.read(10, "/etc/shadow");
        assert_eq!(story.ids(), ["shadow-read"]);
    }
}
