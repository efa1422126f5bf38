//! fvm's own rules: the one list. What each sees is decided in [`crate::detect`].
//!
//! Invariants: an id is never given to another rule, for exceptions name it; each has a program and a look-alike in
//! `testing/zoo`; `docs/book/detections.md` is made of this list.

use fvm_model::{Level, Severity};

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name: exceptions and reports use it.
    pub id: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// How bad.
    pub severity: Severity,
    /// MITRE ATT&CK.
    pub attack: &'static str,
    /// The least level of the log that shows it; `Off`: the changes alone do.
    pub level: Level,
    /// Why it matters, in plain words.
    pub words: &'static str,
}

macro_rules! rules {
    ($($name:ident $id:literal $severity:ident $attack:literal $level:ident $title:literal $words:literal;)*) => {
        $(
            #[doc = $title]
            pub static $name: Rule = Rule {
                id: $id, title: $title, severity: Severity::$severity, attack: $attack, level: Level::$level, words: $words,
            };
        )*
        /// All of them.
        pub static ALL: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    SHELL_STARTUP "shell-startup" Medium "T1546.004" Off "a shell start-up file is written"
        "Every new shell runs what stands there: the program would run again each time you open a terminal.";
    AUTOSTART "autostart" High "T1547.013" Off "a program is made to start at login"
        "What lies there is started each time somebody logs in, or is put into everybody's environment.";
    CRON "cron" High "T1053.003" Off "a timed job is made"
        "cron, at and anacron run what stands there again and again, often as root.";
    SYSTEMD_UNIT "systemd-unit" High "T1543.002" Off "a systemd unit is made or changed"
        "systemd starts units at boot, at login or by a timer: the program would come back by itself.";
    RC_SCRIPT "rc-script" High "T1037.004" Off "a boot script is made or changed"
        "rc.local and the scripts in init.d run at boot, as root.";
    LD_PRELOAD_FILE "ld-preload-file" Critical "T1574.006" Off "what the loader puts into every program is changed"
        "A library that ld.so.preload or ld.so.conf names gets into every program of the machine.";
    PAM "pam" Critical "T1556.003" Off "how people log in is changed (PAM)"
        "PAM's files decide who may log in; a changed one can let anybody in, or write down passwords.";
    AUTHORIZED_KEYS "authorized-keys" High "T1098.004" Off "who may log in by SSH is changed"
        "A key in authorized_keys, or a change of sshd's settings, opens the machine to its owner.";
    SUDOERS "sudoers" Critical "T1548.003" Off "who may become root is changed"
        "sudoers, doas.conf and polkit rules say who becomes root, and whether a password is asked for.";
    ACCOUNTS "accounts" High "T1136.001" Off "an account file is written by hand"
        "passwd, shadow and group were written by a program that is not for that.";
    ROOT_ACCOUNT "root-account" Critical "T1136.001" Off "an account with the powers of root is made"
        "An account with user id 0, or an empty password, is another way in as root.";
    UDEV_RULE "udev-rule" High "T1546.017" Off "a device rule is made or changed"
        "udev rules run programs as root when a device appears.";
    GIT_HOOK "git-hook" Medium "T1546" Off "a Git hook is written"
        "Git runs it at the next commit or checkout in that repository, as whoever works there.";
    PACKAGE_HOOK "package-hook" High "T1546.016" Off "a hook of the package manager is written"
        "apt, dpkg and dnf run it at the next installation, as root.";
    BOOT_FILE "boot-file" Critical "T1542" Off "what the machine boots is changed"
        "Kernel, initial RAM disk, boot loader or the list of kernel modules to load.";
    NAME_LOOKUP "name-lookup" Medium "T1565.001" Off "how names or certificates are trusted is changed"
        "hosts, nsswitch.conf, resolv.conf or the list of trusted authorities can send you to somebody else's server.";
    COMMAND_SHADOW "command-shadow" High "T1574.007" Off "a program is given the name of a common command"
        "It lies in a directory that is looked through first: you would start it instead of the real sudo, ssh or ls.";
    SET_UID "set-uid" High "T1548.001" Off "a program gets the set-uid or set-gid bit"
        "Whoever starts it becomes its owner; of root's it makes root.";
    FILE_CAPABILITY "file-capability" High "T1548.001" Basic "a program gets capabilities"
        "It is given a part of root's power by an attribute that 'ls' does not show.";
    SECRET_READ "secret-read" High "T1552.001" Full "a secret is read by a stranger"
        "Keys, tokens, passwords or wallets were opened by a program that they are not for.";
    BROWSER_DATA "browser-data" High "T1555.003" Full "a browser's data are read by a stranger"
        "Saved passwords, cookies and history were opened by something that is not the browser.";
    SHADOW_READ "shadow-read" High "T1003.008" Full "password hashes are read"
        "/etc/shadow was opened by a program that does not check passwords.";
    SECRET_NAMED "secret-named" Medium "T1552.001" Programs "a command names a secret"
        "A program was told, on its command line, to copy, pack or print a file with keys or passwords.";
    RANSOM_RENAME "ransom-rename" Critical "T1486" Basic "many files are given one new ending"
        "Many files of yours were renamed, or written anew and removed, all to the same new ending: as ransomware does.";
    RANSOM_CONTENT "ransom-content" Critical "T1486" Off "many files become noise"
        "Files that had a meaning were replaced by what looks encrypted.";
    RANSOM_NOTE "ransom-note" High "T1486" Off "a ransom note is left"
        "Files whose names ask to pay, decrypt or recover were put into several directories.";
    DROPPER "dropper" Medium "T1105" Basic "a program is written, made executable and started"
        "Installers do that, and it is how malware brings its next stage.";
    MEMORY_EXEC "memory-exec" High "T1620" Programs "a program runs that lies in no file"
        "It was executed from memory, so that nothing is left to look at.";
    DELETED_EXEC "deleted-exec" Medium "T1070.004" Programs "a program runs whose file is gone"
        "Its file was removed before it was executed, or at once: what ran can be looked at no more.";
    SELF_DELETE "self-delete" Medium "T1070.004" Basic "a program removes its own file"
        "What has run can be looked at no more.";
    PRELOAD "preload" High "T1574.006" Full "a library made in the VM is loaded into another program"
        "LD_PRELOAD or LD_AUDIT lets it see and change all that the program does.";
    REVERSE_SHELL "reverse-shell" Critical "T1059.004" Full "a shell takes its orders from the network"
        "Its input and output are a network connection: somebody else types.";
    PIPE_SHELL "pipe-shell" High "T1059.004" Full "a shell is joined to the network by pipes"
        "It reads its orders from a pipe, and the program at the other end talks to the network.";
    PTY_SHELL "pty-shell" High "T1059.004" Full "a shell on a terminal of its own is joined to the network"
        "The program that holds the other end of its terminal talks to the network: somebody else types.";
    BIND_SHELL "bind-shell" Critical "T1059.004" Full "a shell waits for orders on a port"
        "Whoever connects to the port gets a shell.";
    PTRACE "ptrace" High "T1055.008" Full "another process is taken over"
        "It was attached to with ptrace, by a program that is no debugger.";
    MEMORY_WRITE "memory-write" High "T1055" Full "another process's memory is written"
        "Code or data were put into another program (process_vm_writev).";
    PROC_MEM "proc-mem" High "T1055.009" Basic "another process's memory is opened for writing"
        "/proc/PID/mem lets a program change another while it runs.";
    MEMORY_READ "memory-read" Medium "T1003.007" Full "another process's memory is read"
        "Passwords and keys stand there (process_vm_readv).";
    WRITABLE_CODE "writable-code" Medium "T1620" Full "memory that is written is executed"
        "Outside of just-in-time compilers this is how unpacked code runs.";
    SETUID_ROOT "setuid-root" High "T1068" Full "an ordinary program asks to be root"
        "Only a program that has broken something can expect that to work.";
    KERNEL_MODULE "kernel-module" Critical "T1547.006" Full "code is loaded into the kernel"
        "Modules and kexec run with all power over the machine. It was refused.";
    KERNEL_BPF "kernel-bpf" Medium "T1014" Full "a program is loaded into the kernel (BPF, perf)"
        "It can watch all others, or hide something from them. It was refused.";
    KERNEL_KEYS "kernel-keys" Low "T1552" Full "the kernel's keyring is asked"
        "Keys of other programs lie there. It was refused.";
    KERNEL_HELPER "kernel-helper" Critical "T1611" Basic "a file that makes the kernel start programs is written"
        "core_pattern, modprobe, release_agent, uevent_helper and binfmt_misc are ways out of containers.";
    HANDLE_OPEN "handle-open" High "T1611" Full "files are opened by number"
        "open_by_handle_at reaches files past all directories: the classic way out of containers. It was refused.";
    DOCKER_SOCKET "docker-socket" Critical "T1610" Programs "a container engine is talked to"
        "Whoever may talk to Docker, containerd or Podman can be root on the machine.";
    MOUNT "mount" Medium "T1611" Full "a file system is mounted"
        "Programs that are no container tools seldom mount anything.";
    USERNS_MOUNT "userns-mount" High "T1611" Full "a new user namespace is used to mount"
        "The usual first step of exploits of the kernel: root's powers, in a namespace of one's own.";
    SETNS "setns" Medium "T1611" Full "another namespace is entered"
        "Programs that are no container tools have no reason to.";
    IO_URING "io-uring" Low "T1562" Full "io_uring is asked for"
        "What is done through it passes system call filters and logs by. It was refused.";
    LOG_WIPE "log-wipe" High "T1070.002" Basic "logs are removed or emptied"
        "What happened on the machine could not be told any more.";
    HISTORY_WIPE "history-wipe" Medium "T1070.003" Basic "a shell's history is removed or emptied"
        "What was typed could not be told any more.";
    TIME_STOMP "time-stomp" Medium "T1070.006" Off "a changed file is given its old time back"
        "It was changed and is made to look as if it had not been.";
    PORT_SCAN "port-scan" High "T1046" Programs "many ports of one machine are tried"
        "That is how somebody looks for a way in.";
    NETWORK_SWEEP "network-sweep" High "T1018" Programs "many machines of a private network are tried"
        "That is how somebody looks for the next machine.";
    METADATA "metadata" High "T1552.005" Programs "a cloud's metadata service is asked"
        "It hands out the machine's credentials to whoever asks.";
    MINING "mining" Critical "T1496" Programs "cryptocurrency is mined"
        "A mining pool is talked to, or a miner's command line was used.";
    DNS_FLOOD "dns-flood" Medium "T1071.004" Programs "very many names are looked up"
        "Data can be carried out in names. The log does not show the names.";
    FORGED_MARK "forged-mark" Critical "T1553" Basic "fvm's own marks are touched"
        "The attributes user.fvm.* and security.fvm.* say where a file came from; no program has any business there.";
    DISGUISE "disguise" High "T1036.008" Off "a program is named as something else"
        "Its content is a program, its name says picture, document or text.";
    KNOWN_MALWARE "known-malware" Critical "T1204.002" Off "clamd knows the file"
        "The virus scanner has a name for it.";
}

/// The rule called `id`.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    ALL.iter().copied().find(|rule| rule.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_name_of_its_own_and_says_what_it_is() {
        let mut ids: Vec<&str> = ALL.iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
        for rule in ALL {
            assert!(rule.attack.starts_with('T') && rule.words.ends_with('.'), "{}", rule.id);
            assert!(find(rule.id).is_some_and(|found| std::ptr::eq(found, *rule)));
        }
    }
}
