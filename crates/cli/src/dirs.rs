//! Where the state lies: the only place that reads the environment for it.

use crate::failure::Failure;
use rustix::fs::{Access, access};
use std::ffi::OsString;
use std::path::PathBuf;

/// (state directory, run-time directory).
///
/// Root: `/var/lib/fvm`, `/run/fvm`. A user: `$XDG_DATA_HOME/fvm` (or `~/.local/share/fvm`), `$XDG_RUNTIME_DIR/fvm` (or
/// `run` in the state directory). `given` (`--home`) or `FVM_HOME` replace the state directory.
pub fn dirs(given: Option<PathBuf>) -> Result<(PathBuf, PathBuf), Failure> {
    let is_root = rustix::process::geteuid().is_root();
    let env = |key: &str| std::env::var_os(key);
    let state = state(given, is_root, env)?;
    let runtime = if is_root { Some(PathBuf::from("/run")) } else { absolute(env("XDG_RUNTIME_DIR")) };
    let run = runtime
        .filter(|dir| access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok())
        .map_or_else(|| state.join("run"), |dir| dir.join("fvm"));
    Ok((state, run))
}

/// A variable that names a place.
fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.filter(|value| !value.is_empty()).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The state directory. `fvm_ahead::State` finds the same.
fn state(given: Option<PathBuf>, is_root: bool, env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Failure> {
    let from_env = |key: &str| absolute(env(key));
    let home = || {
        from_env("XDG_DATA_HOME")
            .or_else(|| from_env("HOME").map(|home| home.join(".local/share")))
            .map(|dir| dir.join("fvm"))
            .ok_or_else(|| {
                Failure::new("cannot tell where to keep VMs: HOME is not set", "set HOME, or give --home DIR")
            })
    };
    let chosen = given.or_else(|| env("FVM_HOME").filter(|v| !v.is_empty()).map(PathBuf::from));
    match chosen {
        Some(dir) => std::path::absolute(&dir)
            .map_err(|e| Failure::new(format!("cannot use '{}': {e}", dir.display()), "give another --home")),
        None if is_root => Ok(PathBuf::from("/var/lib/fvm")),
        None => home(),
    }
}

/// Where fvm's settings are, the user's own first.
fn config_dirs() -> Vec<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let own = config.or_else(|| user_home().map(|home| home.join(".config"))).filter(|dir| dir.is_absolute());
    own.map(|dir| dir.join("fvm")).into_iter().chain(["/etc/fvm".into()]).collect()
}

/// Where policies are looked for, the user's own first.
pub fn policy_dirs() -> Vec<PathBuf> {
    config_dirs().into_iter().map(|dir| dir.join("policies")).collect()
}

/// What findings do not count, where no other file is given.
pub fn exception_files() -> Vec<PathBuf> {
    config_dirs().into_iter().map(|dir| dir.join("exceptions.toml")).collect()
}

/// Where the user's own settings are.
pub fn user_home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|p| p.is_absolute())
}

/// The policy of VMs for which none is given: `FVM_POLICY`.
pub fn usual_policy() -> Option<String> {
    std::env::var("FVM_POLICY").ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fvm_sys::first::Buffer;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn the_state_is_found_before_libc_has_started_where_it_is_found_afterwards() {
        let lists: [&'static [&'static str]; 13] = [
            &[],
            &["HOME=/home/a"],
            &["HOME=/home/a/", "XDG_DATA_HOME=/data"],
            &["XDG_DATA_HOME=data", "HOME=/home/a"],
            &["XDG_DATA_HOME=", "HOME=/home/a"],
            &["HOME=home"],
            &["HOME="],
            &["FVM_HOME=/f", "HOME=/home/a"],
            &["FVM_HOME=", "FVM_HOME=/late", "HOME=/home/a"],
            &["FVM_HOME=f", "HOME=/home/a"],
            &["FVM_HOMEX=/x", "FVM_HOME", "XHOME=/x", "HOME=/first", "HOME=/second"],
            &["=FVM_HOME=/x", "HOME=/home/a=b"],
            &["FVM_HOME=/f/../g"],
        ];
        for env in lists {
            for is_root in [true, false] {
                for given in [None, Some("/given")] {
                    let lookup = |key: &str| {
                        let named = env.iter().filter_map(|entry| entry.strip_prefix(key));
                        named.filter_map(|rest| rest.strip_prefix('=')).next().map(OsString::from)
                    };
                    let expected = state(given.map(PathBuf::from), is_root, lookup).ok();
                    let path = Box::new(Buffer::<4096>::new());
                    let ahead = fvm_ahead::State { given: given.map(str::as_bytes), is_root };
                    let found = ahead.path(&path, env.iter().map(|entry| entry.as_bytes()));
                    let found = found.map(|()| PathBuf::from(OsString::from_vec(path.to_vec())));
                    // One that is relative is the command's alone.
                    if env.contains(&"FVM_HOME=f") && given.is_none() {
                        assert_eq!(found, None);
                    } else {
                        assert_eq!(found, expected, "{env:?} {is_root} {given:?}");
                    }
                }
            }
        }
    }
}
