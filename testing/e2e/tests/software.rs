//! Real software in the default profile: each does in a VM what it does outside.
//!
//! ```text
//!   for each program that is installed     outside: the same script, in a directory of its own ─► what it prints
//!                                          in a VM, as root and as a user ─────────────────────► the same, and code 0
//!                                          and the analysis of what it did finds nothing
//! ```
//!
//! "Works, clean": as outside, and nothing was found, not even something of low severity. `FVM_SOFTWARE_TABLE=file` writes the table of `docs/book/software.md`. What is not installed is named, not passed over.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use std::fmt::Write as _;

/// A program, and a script that must print `good` last.
struct Case {
    name: &'static str,
    needs: &'static [&'static str],
    script: &'static str,
    root_only: bool,
}

const fn case(name: &'static str, needs: &'static [&'static str], script: &'static str) -> Case {
    Case { name, needs, script, root_only: false }
}

const fn root(name: &'static str, needs: &'static [&'static str], script: &'static str) -> Case {
    Case { name, needs, script, root_only: true }
}

const CASES: &[Case] = &[
    case("bash, job control and here-documents", &["bash"], "bash -c 'sleep 0.1 & wait; cat <<< good'"),
    case("vim", &["vim"], "echo bad > f; vim -es -u NONE -c '%s/bad/good/' -c wq f; cat f"),
    case(
        "htop",
        &["htop", "tmux"],
        "tmux -L v new-session -d -x 100 -y 30 htop; sleep 1; tmux -L v capture-pane -p | grep -q F10 && echo good; tmux -L v kill-server",
    ),
    case("tmux", &["tmux"], "tmux -L w new-session -d 'echo good > f'; sleep 1; cat f"),
    case(
        "git: init, commit, clone, gc",
        &["git"],
        "git init -q a; cd a; for i in 1 2 3; do echo $i > f$i; git add .; git -c user.name=a -c user.email=a@b commit -qm m; done; cd ..; git clone -q file://$PWD/a b; cd b; git gc -q --prune=now; git fsck 2>&1 | grep -v '^Checking'; cat f3 > /dev/null && echo good",
    ),
    case(
        "Python venv and pip, a package with dependencies from the index",
        &["python3"],
        "/usr/bin/python3 -m venv v 2> /dev/null || python3 -m venv v; v/bin/pip install -q --disable-pip-version-check requests && v/bin/python -c 'import requests, urllib3; print(\"good\")'",
    ),
    case(
        "npm install, packages with dependencies and one with a script from the registry",
        &["npm", "node"],
        "echo '{\"name\":\"a\"}' > package.json; npm install --silent --no-audit --no-fund express esbuild > log 2>&1 || cat log; node -e 'require(\"express\"); require(\"esbuild\"); console.log(\"good\")'",
    ),
    case(
        "cargo build",
        &["cargo"],
        "cargo new -q --vcs none a; cd a; cargo build -q --offline; ./target/*/debug/a > /dev/null 2>&1 || ./target/debug/a > /dev/null; echo good",
    ),
    case(
        "cargo build, with dependencies from crates.io",
        &["cargo"],
        "cargo new -q --vcs none a; cd a; cargo add -q serde --features derive; cargo add -q serde_json; cargo build -q 2> log || cat log; ls target | grep -q debug && echo good",
    ),
    case("gcc", &["gcc"], "echo 'int puts(const char*);int main(){puts(\"good\");}' > a.c; gcc -o a a.c; ./a"),
    case(
        "make -j",
        &["make"],
        "printf 'all: a b c\\na b c:\\n\\t@sleep 0.1; touch $@\\n' > Makefile; make -s -j4; ls a b c > /dev/null; echo good",
    ),
    case(
        "ssh client: a new key",
        &["ssh-keygen", "ssh"],
        "ssh-keygen -q -t ed25519 -N '' -f k; ssh -V 2>&1 | grep -q OpenSSH; test -s k.pub; echo good",
    ),
    case(
        "fakeroot and tar: building without docker",
        &["fakeroot"],
        "mkdir r; echo x > r/f; fakeroot sh -c 'chown 1:1 r/f; tar cf a.tar r; tar tvf a.tar' | grep -q 1/1; echo good",
    ),
    case(
        "gdb on a child",
        &["gdb"],
        "gdb -batch -ex run -ex 'print 1' /bin/true 2>&1 | grep -q 'exited normally'; echo good",
    ),
    case("strace on a child", &["strace"], "strace -f -o log sh -c /bin/true; grep -q execve log; echo good"),
    case("perl", &["perl"], "perl -e 'print join(\"\", map {chr} 103, 111, 111, 100), \"\\n\"'"),
    case(
        "a Java program",
        &["java", "javac"],
        "echo 'class A { public static void main(String[] a) throws Exception { Thread t = new Thread(() -> System.out.println(\"good\")); t.start(); t.join(); } }' > A.java; javac A.java; java A",
    ),
    case(
        "LibreOffice, headless",
        &["soffice"],
        "echo text > a.txt; soffice --headless --convert-to pdf a.txt > log 2>&1; head -c 4 a.pdf | grep -q PDF && echo good || cat log",
    ),
    Case {
        name: "Chromium, headless, with its own sandbox",
        needs: &["chromium"],
        script: "[ $(id -u) = 0 ] && more=--no-sandbox; echo '<p>good</p>' > a.html; timeout 60 chromium $more --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --user-data-dir=$PWD/profile --dump-dom file://$PWD/a.html 2> log | grep -o good || tail -5 log",
        root_only: false,
    },
    root("sudo", &["sudo"], "sudo -n -u nobody id -un | grep -q nobody; echo good"),
    root("su", &["su"], "su -s /bin/sh nobody -c 'id -un' | grep -q nobody; echo good"),
    root(
        "apt: a package from the mirror",
        &["apt-get"],
        "apt-get install -y -qq --reinstall hostname > log 2>&1 || cat log; dpkg -V hostname; hostname > /dev/null; echo good",
    ),
    root(
        "apt: a package with a service, a timer, triggers and a set-gid program",
        &["apt-get"],
        "apt-get install -y -qq --no-install-recommends --reinstall cron anacron man-db > log 2>&1 || cat log; dpkg -V cron; readlink /etc/systemd/system/*.wants/cron.service > /dev/null; crontab -l 2> /dev/null; dpkg -s anacron | grep -q 'ok installed' && echo good",
    ),
    root("useradd", &["useradd"], "useradd fvmsoft; id fvmsoft > /dev/null; echo good"),
];

/// The last line that a script printed, in a fresh directory; in a VM if `vm`.
fn last_line(lab: &Lab, n: usize, script: &str, vm: bool) -> String {
    let dir = lab.path(format!("{}{n}", if vm { "in" } else { "out" })).display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    lab.sh(&format!("mkdir {dir}"));
    let script = format!("cd {dir}; export HOME={dir}; {script}");
    let mut command = if vm {
        lab.fvm_command(["run", "--keep", "-n", "soft", "--trace", "full", "--", "sh", "-c", &script])
    } else {
        let mut command = lab.command("sh");
        command.args(["-c", &script]);
        command
    };
    for name in ["RUSTUP_HOME", "CARGO_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let home = std::env::var("HOME").unwrap_or_default();
    command.env("PATH", path).env("RUSTUP_HOME", format!("{home}/.rustup"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default().to_owned();
    let found = if vm { found(lab) } else { String::new() };
    match (last == "good", found.is_empty()) {
        (true, true) => last,
        (true, false) => format!("it is found: {found}"),
        (false, _) => format!("{last} {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// What the analysis finds in the VM of the last run, which is gone then: of real software, nothing.
fn found(lab: &Lab) -> String {
    let analysed = lab.fvm(["analyze", "soft"]);
    if analysed.err.contains("no VM") {
        // It has changed nothing, and nothing was found.
        return String::new();
    }
    lab.fvm(["delete", "soft"]);
    if analysed.out.starts_with("soft: clean") { String::new() } else { format!("{}{}", analysed.out, analysed.err) }
}

#[test]
fn root_and_user_real_software_works_as_outside() {
    if !is_root("root_and_user_real_software_works_as_outside") {
        return;
    }
    let labs = [(User::Root, Lab::new(User::Root)), (User::Ordinary, Lab::new(User::Ordinary))];
    let mut table = String::from("| program | root | rootless |\n|---|---|---|\n");
    let mut wrong = Vec::new();
    for (n, case) in CASES.iter().enumerate() {
        let mut cells = Vec::new();
        for (user, lab) in &labs {
            let cell = if case.root_only && *user != User::Root {
                "–".to_owned()
            } else if let Some(lacks) = case.needs.iter().find(|p| last_line_of(lab, p).is_none()) {
                format!("not tried: no {lacks}")
            } else if last_line(lab, n, case.script, true) == "good" {
                "works, clean".to_owned()
            } else {
                // Where it does not work outside either, the VM is not to blame.
                let (inside, outside) =
                    (last_line(lab, n + 1000, case.script, true), last_line(lab, n, case.script, false));
                if outside == "good" && inside != "good" {
                    wrong.push(format!("{} ({user:?}): {inside}", case.name));
                    "fails".to_owned()
                } else if inside == "good" {
                    "works, clean".to_owned()
                } else {
                    println!("{} ({user:?}) outside: {outside}", case.name);
                    "not tried: it does not work outside either".to_owned()
                }
            };
            println!("{}: {user:?}: {cell}", case.name);
            cells.push(cell);
        }
        writeln!(table, "| {} | {} | {} |", case.name, cells[0], cells[1]).unwrap();
    }
    if let Some(file) = std::env::var_os("FVM_SOFTWARE_TABLE") {
        std::fs::write(file, &table).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(table.matches("works").count() >= 10, "hardly anything is installed:\n{table}");
}

#[test]
fn the_table_of_the_book_has_a_row_for_each_program_and_none_that_fails() {
    let book = include_str!("../../../docs/book/software.md");
    // What nobody may find anything in, whatever is installed where the table is made.
    const ALWAYS: [&str; 7] = [
        "git: ",
        "Python venv and pip",
        "npm install",
        "cargo build, with",
        "apt: a package with",
        "LibreOffice",
        "Chromium",
    ];
    for case in CASES {
        let row = book.lines().find(|line| line.starts_with(&format!("| {} | ", case.name)));
        let row = row.unwrap_or_else(|| panic!("{}: FVM_SOFTWARE_TABLE writes it", case.name));
        let is_clean = row.contains(" | works, clean | ");
        let is_always = ALWAYS.iter().any(|name| case.name.starts_with(name));
        assert!(is_clean || (!is_always && row.contains("not tried: ")), "{row}");
    }
    assert!(!book.contains("fails") && !book.contains("it is found"), "{book}");
    assert_eq!(book.lines().filter(|line| line.starts_with("| ")).count(), CASES.len() + 1, "a row of no program");
}

/// Where a program lies for the laboratory's user.
fn last_line_of(lab: &Lab, program: &str) -> Option<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = lab.command("sh").env("PATH", path).args(["-c", &format!("command -v {program}")]).output().unwrap();
    found.status.success().then_some(())
}
