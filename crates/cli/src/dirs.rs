//! Where the state lies: the only place that reads the environment for it.

use crate::failure::Failure;
use rustix::fs::{Access, access};
use std::path::PathBuf;

/// (state directory, run-time directory).
///
/// Root: `/var/lib/fvm`, `/run/fvm`. A user: `$XDG_DATA_HOME/fvm` (or `~/.local/share/fvm`), `$XDG_RUNTIME_DIR/fvm` (or
/// `run` in the state directory). `given` (`--home`) or `FVM_HOME` replace the state directory.
pub fn dirs(given: Option<PathBuf>) -> Result<(PathBuf, PathBuf), Failure> {
    let is_root = rustix::process::geteuid().is_root();
    let from_env =
        |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || {
        from_env("XDG_DATA_HOME")
            .or_else(|| from_env("HOME").map(|home| home.join(".local/share")))
            .map(|dir| dir.join("fvm"))
            .ok_or_else(|| {
                Failure::new("cannot tell where to keep VMs: HOME is not set", "set HOME, or give --home DIR")
            })
    };
    let chosen = given.or_else(|| std::env::var_os("FVM_HOME").filter(|v| !v.is_empty()).map(PathBuf::from));
    let state = match chosen {
        Some(dir) => std::path::absolute(&dir)
            .map_err(|e| Failure::new(format!("cannot use '{}': {e}", dir.display()), "give another --home"))?,
        None if is_root => PathBuf::from("/var/lib/fvm"),
        None => home()?,
    };
    let runtime = if is_root { Some(PathBuf::from("/run")) } else { from_env("XDG_RUNTIME_DIR") };
    let run = runtime
        .filter(|dir| access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok())
        .map_or_else(|| state.join("run"), |dir| dir.join("fvm"));
    Ok((state, run))
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
