//! The jobs: a build, and an installation of packages that needs no network.
//!
//! Invariant: a script runs in the person's directory of the laboratory, and is the same in every place.

use crate::error::Error;
use crate::lab::{Person, checked};
use crate::steady::jobs as common;

/// One of them.
#[derive(Debug)]
pub(super) struct Job {
    pub name: &'static str,
    /// Run before, not measured.
    pub before: &'static str,
    script: &'static str,
    /// Makes what it works on.
    prepare: &'static str,
}

pub(super) const BUILD: Job = Job {
    name: "cargo build of fvm-model and its dependencies, without a network",
    before: "rm -rf own/target",
    script: "@cargo build --offline --quiet --manifest-path @repository/Cargo.toml -p fvm-model --target-dir own/target",
    prepare: "true",
};

/// Forty packages of twenty-five files, each with a script that is run.
pub(super) const NPM: Job = Job {
    name: "npm install of 40 packages of 25 files",
    before: "rm -rf own/app/node_modules own/app/package-lock.json own/npm",
    script: "cd own/app; npm install --offline --no-audit --no-fund --silent --cache ../npm",
    prepare: r#"
mkdir -p own/app own/tars; cd own
printf '{"name":"app","version":"1.0.0","dependencies":{' >app/package.json
n=0
while [ $n -lt 40 ]; do
    mkdir -p package/lib
    printf '{"name":"p%d","version":"1.0.0","scripts":{"postinstall":"true"}}' $n >package/package.json
    i=0
    while [ $i -lt 24 ]; do
        echo "module.exports = function f() { return $n * $i; };" >package/lib/f$i.js
        i=$((i + 1))
    done
    tar czf tars/p$n.tgz package
    rm -r package
    [ $n = 0 ] || printf , >>app/package.json
    printf '"p%d":"file:../tars/p%d.tgz"' $n $n >>app/package.json
    n=$((n + 1))
done
printf '}}\n' >>app/package.json
npm --version
"#,
};

/// With the places filled in.
pub(super) fn script(job: &Job) -> String {
    common::script(job.script)
}

/// Makes what a job works on, in the person's directory.
pub(super) fn prepare(job: &Job, person: &Person) -> Result<(), Error> {
    checked(person.command("/bin/sh").args(["-ec", job.prepare]).current_dir(&person.home)).map(drop)
}
