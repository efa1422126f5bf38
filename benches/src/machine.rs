//! What it ran on, and how quiet that was.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Facts, read once when a benchmark begins.
#[derive(Debug, Clone)]
pub struct Machine {
    kernel: String,
    processor: String,
    processors: usize,
    memory_mib: u64,
    file_system: String,
    load_before: f64,
    fvm: String,
    commit: String,
}

impl Machine {
    /// Of this machine; `dir` is where the laboratory lies, `fvm` what is measured.
    #[must_use]
    pub fn look(dir: &Path, fvm: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: meminfo_kib("MemTotal") / 1024,
            file_system: file_system(&read("/proc/self/mountinfo"), dir),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            fvm: version(fvm),
            commit: said(Command::new("git").args([
                "-C",
                env!("CARGO_MANIFEST_DIR"),
                "describe",
                "--always",
                "--dirty",
            ])),
        }
    }

    /// How many processors this process may use.
    #[must_use]
    pub fn processors(&self) -> usize {
        self.processors
    }

    /// In one sentence.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { kernel, processor, processors, memory_mib, file_system, load_before, fvm, commit } = self;
        let gib = (memory_mib + 512) / 1024;
        let mut line = format!(
            "{fvm} ({commit}), kernel {kernel}, {processors} processors ({processor}), {gib} GiB, {file_system}; load before: \
             {load_before:.2}."
        );
        if *load_before > 0.3 {
            line.push_str(" **The machine was not quiet: these numbers are worth little.**");
        }
        line
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "kernel": self.kernel, "processor": self.processor, "processors": self.processors,
            "memory_mib": self.memory_mib, "file_system": self.file_system, "load_before": self.load_before,
            "fvm": self.fvm, "commit": self.commit,
        })
    }
}

/// A number of `/proc/meminfo`.
#[must_use]
pub fn meminfo_kib(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    value.and_then(|kib| kib.trim().parse().ok()).unwrap_or(0)
}

/// What a program calls itself: the first line of `--version`.
#[must_use]
pub fn version(program: &Path) -> String {
    said(Command::new(program).arg("--version"))
}

fn said(command: &mut Command) -> String {
    let out = command.output().map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    out.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// The type of the file system that `dir` lies on: the deepest mount point above it, the last one of several.
fn file_system(mountinfo: &str, dir: &Path) -> String {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        Some((Path::new(place.split(' ').nth(4)?), what.split(' ').next()?))
    });
    let above = mounts.filter(|(place, _)| dir.starts_with(place));
    above.max_by_key(|(place, _)| place.components().count()).map_or("unknown", |(_, what)| what).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_is_the_file_system() {
        let mountinfo = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /var/tmp rw shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(file_system(mountinfo, Path::new("/var/tmp/x")), "tmpfs");
        assert_eq!(file_system(mountinfo, Path::new("/var/tmpx")), "ext4");
        assert_eq!(file_system("", Path::new("/")), "unknown");
    }
}
