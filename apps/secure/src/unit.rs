//! The guard as a service of systemd.

use crate::GuardError;
use crate::exposed::exposed;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Its name.
pub const NAME: &str = "fvm-guard.service";
/// Where an administrator's units are.
const DIR: &str = "/etc/systemd/system";

/// The unit; `fvm`: this program, `options`: those of `fvm guard run`.
#[must_use]
pub fn text(fvm: &Path, options: &[String]) -> String {
    // systemd.service(5), "Command lines": quotes, backslashes, % and $ have a meaning.
    let quoted = |word: &str| {
        let plain = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
        format!("\"{plain}\"")
    };
    let words = [fvm.display().to_string(), "guard".into(), "run".into()];
    let line: Vec<String> = words.iter().chain(options).map(|word| quoted(word)).collect();
    format!(
        "# When the guard ends, the kernel lets everything run that waits for it: it is started again at once.\n\
         [Unit]\nDescription=Files that came out of untrusted VMs run in VMs only\n\
         Documentation=man:fvm-guard(1)\nAfter=local-fs.target\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\nExecStart={}\nRestart=always\nRestartSec=100ms\nOOMScoreAdjust=-900\nLimitNOFILE=524288\n\
         NoNewPrivileges=yes\nRestrictAddressFamilies=AF_UNIX\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        line.join(" ")
    )
}

fn systemctl(words: &[&str]) -> Result<(), GuardError> {
    let failed = |why: String| GuardError::Program { program: format!("systemctl {}", words.join(" ")), why };
    let out = Command::new("systemctl").args(words).output().map_err(|e| failed(e.to_string()))?;
    let said = || fvm::model::path::printable(out.stderr.trim_ascii());
    if out.status.success() { Ok(()) } else { Err(failed(said())) }
}

/// Whether systemd runs this machine (sd_booted(3)).
fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Writes the unit of `fvm`, this program, and starts it where systemd runs. Returns its file and whether it was started.
///
/// # Errors
/// When others than root can change the program, which root then executes at every start of the machine; when the unit
/// cannot be written or started.
pub fn install(fvm: &Path, text: &str) -> Result<(PathBuf, bool), GuardError> {
    if let Some(path) = exposed(fvm) {
        return Err(GuardError::Exposed(path));
    }
    let path = Path::new(DIR).join(NAME);
    let made = std::fs::create_dir_all(DIR).and_then(|()| std::fs::write(&path, text));
    made.map_err(GuardError::io("write", &path))?;
    if is_booted() {
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", "--now", NAME])?;
    }
    Ok((path, is_booted()))
}

/// Stops it, and removes the unit; `false`: it was not there.
///
/// # Errors
/// When it cannot be stopped or removed.
pub fn uninstall() -> Result<bool, GuardError> {
    let path = Path::new(DIR).join(NAME);
    if path.symlink_metadata().is_err() {
        return Ok(false);
    }
    if is_booted() {
        systemctl(&["disable", "--now", NAME])?;
    }
    std::fs::remove_file(&path).map_err(GuardError::io("remove", &path))?;
    if is_booted() {
        systemctl(&["daemon-reload"])?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_systemd() {
        let text = text(Path::new("/opt/a b/fvm"), &["--home".into(), "/x/$y%".into()]);
        assert!(text.contains("ExecStart=\"/opt/a b/fvm\" \"guard\" \"run\" \"--home\" \"/x/$$y%%\"\n"), "{text}");
        assert!(text.contains("Restart=always\n"));
    }
}
