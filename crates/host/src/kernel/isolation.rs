//! Trials of what keeps a VM apart: namespaces and seccomp.

use super::Feature;
use super::trial::{may_mount, trial};
use fvm_sys::process::{self, Namespaces};
use fvm_sys::seccomp;
use rustix::io::Errno;

/// The name of that feature.
pub(super) const USER_NAMESPACES: &str = "user namespaces";
/// The name of that feature.
pub(super) const NAMESPACES: &str = "namespaces";

/// Switches by which distributions refuse user namespaces: file, the value that refuses, what to do.
const SWITCHES: &[(&str, &str, &str)] = &[
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts them (Ubuntu): run fvm as root, give it an AppArmor profile with 'userns,', or \
         'sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0'",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "'sudo sysctl -w kernel.unprivileged_userns_clone=1' (Debian), or run fvm as root",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "'sudo sysctl -w user.max_user_namespaces=10000'"),
];

/// User namespaces, with rights in them: AppArmor lets one be made, and gives nothing in it.
pub(super) fn user_namespaces(root: bool) -> Feature {
    let feature = Feature::enforced(USER_NAMESPACES, "every VM");
    let tried = process::in_child(|| if root { process::unshare(Namespaces::USER) } else { may_mount(false) });
    let Err(e) = tried else { return feature };
    let read = |path: &str| std::fs::read_to_string(path).ok();
    feature.missing(e.to_string()).advise(advice(e, root, read))
}

/// Why user namespaces are refused, and how to allow them.
fn advice(error: Errno, root: bool, read: impl Fn(&str) -> Option<String>) -> &'static str {
    // Root passes all switches but the limit.
    let asked = |path: &str| !root || path.ends_with("max_user_namespaces");
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
    if let Some((.., advice)) = SWITCHES.iter().find(|(path, value, _)| asked(path) && is(path, value)) {
        return advice;
    }
    match (error, root) {
        (Errno::INVAL | Errno::NOSYS, _) => "a kernel with CONFIG_USER_NS=y",
        (Errno::NOSPC | Errno::USERS, _) => {
            "too many are in use, or nested: 'sudo sysctl -w user.max_user_namespaces=100000'"
        }
        (_, true) => "a container without the right, or a chroot: start the container with --privileged",
        (_, false) => "a container or security module forbids them: run fvm on the machine itself, or as root",
    }
}

/// The other namespaces of a VM, together; when that fails, one by one.
pub(super) fn namespaces(root: bool) -> Feature {
    const EACH: [(&str, &str, Namespaces); 6] = [
        ("mount", "CONFIG_NAMESPACES", Namespaces::MOUNT),
        ("pid", "CONFIG_PID_NS", Namespaces::PID),
        ("ipc", "CONFIG_IPC_NS", Namespaces::IPC),
        ("uts", "CONFIG_UTS_NS", Namespaces::UTS),
        ("cgroup", "CONFIG_CGROUPS", Namespaces::CGROUP),
        ("net", "CONFIG_NET_NS", Namespaces::NET),
    ];
    let with_user = |namespaces: Namespaces| if root { namespaces } else { namespaces.and(Namespaces::USER) };
    let feature = Feature::enforced(NAMESPACES, "every VM");
    let all = EACH.iter().fold(Namespaces::NONE, |all, (.., one)| all.and(*one));
    let Err(e) = process::in_child(|| process::unshare(with_user(all))) else { return feature };
    let without: Vec<_> =
        EACH.iter().filter(|(.., one)| process::in_child(|| process::unshare(with_user(*one))).is_err()).collect();
    let names: Vec<_> = without.iter().map(|(name, ..)| *name).collect();
    if without.is_empty() || without.len() == EACH.len() {
        let advice = if root { "start the container with --privileged" } else { "see 'user namespaces'" };
        return feature.missing(e.to_string()).advise(advice);
    }
    let configs: Vec<_> = without.iter().map(|(_, config, _)| *config).collect();
    feature
        .missing(format!("no namespaces of {}: {e}", names.join(", ")))
        .advise(format!("a kernel with {}", configs.join(", ")))
}

/// Filters whose calls another process answers: a VM's hard links.
pub(super) fn seccomp(root: bool) -> Feature {
    trial(
        "seccomp notification",
        "hard links in VMs",
        "a kernel (5.5 or later) or container with seccomp filters",
        || {
            may_mount(root)?;
            seccomp::watch(seccomp::LINK_CALLS).map(drop)
        },
    )
}

/// Which engine writes down what programs do: notification, which sees a path before the kernel does.
pub(super) fn behaviour_log(root: bool) -> Feature {
    let feature = trial(
        "behaviour log",
        "'fvm trace', who made a change",
        "a kernel (5.5 or later) or container with seccomp filters; a VM within a VM has none",
        || {
            may_mount(root)?;
            let listener = seccomp::watch(seccomp::LINK_CALLS)?;
            // Without it a call costs several times as much.
            match seccomp::take_turns(&listener) {
                Ok(()) => Ok(()),
                Err(_) => Err(Errno::NOTTY),
            }
        },
    );
    match feature.level {
        super::Level::Missing(_)
            if process::in_child(|| may_mount(root).and_then(|()| seccomp::watch(seccomp::LINK_CALLS).map(drop)))
                .is_ok() =>
        {
            Feature::enforced(feature.name, feature.needed_for)
                .partly("by seccomp notification, slow on this kernel (before 6.6)")
        }
        super::Level::Enforced => {
            feature.partly("by seccomp notification; BPF LSM is not built in: paths can be changed after the look")
        }
        _ => feature,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_the_switch_that_refuses() {
        let on = |file: &'static str, value: &'static str| {
            move |path: &str| Some(if path.ends_with(file) { format!("{value}\n") } else { "7\n".into() })
        };
        let table = [
            ("apparmor_restrict_unprivileged_userns", "1", false, "apparmor_restrict_unprivileged_userns=0"),
            ("unprivileged_userns_clone", "0", false, "unprivileged_userns_clone=1"),
            ("max_user_namespaces", "0", false, "max_user_namespaces=10000"),
            ("max_user_namespaces", "0", true, "max_user_namespaces=10000"),
            ("apparmor_restrict_unprivileged_userns", "1", true, "--privileged"),
            ("apparmor_restrict_unprivileged_userns", "0", false, "as root"),
        ];
        for (file, value, root, expected) in table {
            let said = advice(Errno::PERM, root, on(file, value));
            assert!(said.contains(expected), "{file}={value} root={root}: {said}");
        }
        assert!(advice(Errno::INVAL, false, |_| None).contains("CONFIG_USER_NS"));
        assert!(advice(Errno::NOSPC, true, |_| None).contains("max_user_namespaces"));
    }
}
