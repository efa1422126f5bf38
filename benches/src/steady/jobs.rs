//! The jobs: what people do all day on a machine, as shell scripts that leave things as they found them.
//!
//! Invariant: a script runs in the person's directory of the laboratory, and is the same in every place.

use crate::args::Options;
use crate::error::Error;
use crate::lab::{Lab, Person, checked};
use std::path::PathBuf;

/// One of them.
#[derive(Debug)]
pub(super) struct Job {
    pub name: &'static str,
    /// Run before, not measured.
    pub before: Option<&'static str>,
    pub script: &'static str,
}

pub(super) const ALL: &[Job] = &[
    Job {
        name: "cargo build of fvm-model, without a network",
        before: Some("rm -rf own/target"),
        script: "@cargo build --offline --quiet --manifest-path @repository/Cargo.toml -p fvm-model --target-dir own/target",
    },
    Job { name: "make -j2 of 120 C files", before: None, script: "make -C tree -j2 -B" },
    Job {
        name: "git status of 5,000 files, five times",
        before: None,
        script: "cd repository; for i in 1 2 3 4 5; do git status --short; done",
    },
    Job { name: "grep -r over /usr/include", before: None, script: "grep -r nowhere-to-be-found /usr/include || true" },
    Job { name: "a walk: find /usr -type f", before: None, script: "find /usr -type f || true" },
    Job {
        name: "the same, with the data of each file's inode",
        before: None,
        script: "find /usr -type f -size +1c || true",
    },
    Job { name: "tar of /usr/share/doc to nowhere", before: None, script: "tar -C /usr/share -cf - doc | cat" },
    Job {
        name: "2,000 files written, read, removed",
        before: None,
        script: "mkdir own/m; cd own/m; i=0; while [ $i -lt 2000 ]; do echo x > f$i; i=$((i+1)); done; cat f*; rm -r ../m",
    },
    Job {
        name: "500 processes of the shell",
        before: None,
        script: "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done",
    },
];

/// With the places filled in.
pub(crate) fn script(template: &str) -> String {
    let repository = Options::repository().canonicalize().unwrap_or_else(|_| Options::repository().into());
    template.replace("@repository", &quoted(&repository)).replace("@cargo", &cargo())
}

/// The cargo that runs this, with its compiler and its downloads: a person of the laboratory has another HOME.
fn cargo() -> String {
    let Some(cargo) = std::env::var_os("CARGO").map(PathBuf::from) else { return "cargo".to_owned() };
    let rustc = cargo.with_file_name("rustc");
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"))).unwrap_or_default();
    format!("RUSTC={} CARGO_HOME={} {}", quoted(&rustc), quoted(&home), quoted(&cargo))
}

fn quoted(path: &std::path::Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

/// Makes what the jobs work on, in the person's directory.
pub(super) fn prepare(lab: &Lab, person: &Person) -> Result<(), Error> {
    // Half compiler, half small processes and headers.
    const TREE: &str = r#"
mkdir tree repository
i=0
while [ $i -lt 120 ]; do
    printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\nint f%d(int a){char b[64];snprintf(b,64,"%%d",a);return (int)strlen(b)+getpid()%%%d;}\n' $i $((i + 1)) >tree/f$i.c
    i=$((i + 1))
done
printf 'O=$(patsubst %%.c,%%.o,$(wildcard *.c))\nall: $(O)\n\tar rcs libf.a $(O)\n%%.o: %%.c\n\tgcc -O1 -c -o $@ $<\n' >tree/Makefile
"#;
    const REPOSITORY: &str = "cd repository; if command -v git; then git init -q .; git add .; \
        git -c user.name=bench -c user.email=bench@localhost commit -q -m files; fi";
    let shell = |script: &str| checked(person.command("/bin/sh").args(["-ec", script]).current_dir(&person.home));
    shell(TREE)?;
    let files = person.home.join("repository");
    checked(person.command(lab.program("fvm-bench-inside")).arg("fill").arg(files).args(["5000", "200"]))?;
    shell(REPOSITORY).map(drop)
}
