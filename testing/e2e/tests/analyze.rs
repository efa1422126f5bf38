//! What a VM did, judged: verdicts, what a commit leaves out for them, and a package that does more than it says.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root};
use serde_json::Value;

/// npm where it is installed; else a stand-in that does what matters here: unpacks the package and runs its script.
fn npm(lab: &Lab) -> String {
    let found = lab.command("sh").args(["-c", "command -v npm && command -v node"]).output().unwrap();
    if found.status.success() {
        return "npm install --offline --no-audit --no-fund --silent ../evil-1.0.0.tgz".into();
    }
    eprintln!("npm is not installed: a stand-in unpacks the package and runs its script");
    let script = "mkdir -p node_modules/evil && tar xzf ../evil-1.0.0.tgz -C node_modules/evil --strip-components 1 && \
                  cd node_modules/evil && sh hook.sh";
    std::fs::write(lab.path("standin-npm"), script).unwrap();
    "sh ../standin-npm".into()
}

/// A package whose script makes itself start at login, and reads a key.
fn pack(lab: &Lab) {
    lab.sh(
        r#"mkdir -p package project .ssh
           echo 'a fake key' > .ssh/id_rsa
           echo '{"name":"evil","version":"1.0.0","scripts":{"postinstall":"sh hook.sh"}}' > package/package.json
           echo 'module.exports = 1' > package/index.js
           printf 'mkdir -p ~/.config/autostart\nprintf "[Desktop Entry]\\nExec=true\\n" > ~/.config/autostart/helper.desktop\nread key < ~/.ssh/id_rsa\n' > package/hook.sh
           tar czf evil-1.0.0.tgz package
           echo '{"name":"p","version":"1.0.0"}' > project/package.json"#,
    );
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {} {}", ran.out, ran.err))
}

fn rules(report: &Value) -> Vec<String> {
    let mut ids: Vec<String> =
        report["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    ids
}

#[test]
fn root_and_user_a_package_is_committed_without_what_its_script_did_beside() {
    if !is_root("root_and_user_a_package_is_committed_without_what_its_script_did_beside") {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        pack(&lab);
        let install = format!("cd {}/project && {}", lab.dir().display(), npm(&lab));
        let ran = lab.fvm(["run", "-n", "n", "--keep", "--policy", "untrusted", "--", "sh", "-c", &install]).expect(0);
        // One screen.
        for words in [
            "n: malicious: ",
            "start at login",
            "secret is read",
            "id_rsa",
            "helper.desktop",
            "a commit leaves out",
            "next: ",
        ] {
            assert!(ran.err.contains(words), "{words}: {}", ran.err);
        }
        assert!(ran.err.lines().count() <= 24, "{}", ran.err);
        // The key was not to be had. What is left out stands before all else, and a new directory is one line.
        assert!(ran.err.contains("tried to read") && ran.err.contains("id_rsa, which the policy hides"), "{}", ran.err);
        let shown = ran.err.lines().skip_while(|line| !line.contains(" added, ")).skip(1);
        let marked: Vec<&str> = shown.take_while(|line| line.starts_with("fvm:   ! A  ")).collect();
        // The directories that were made for nothing else, and the file.
        assert!(marked.len() == 3 && marked[2].ends_with("/.config/autostart/helper.desktop"), "{}", ran.err);
        let modules = |line: &str| line.contains("/node_modules/ and ") && line.ends_with(" in it");
        assert!(ran.err.lines().any(modules) && !ran.err.contains("node_modules/evil"), "{}", ran.err);
        let report = json(&lab.fvm(["analyze", "n", "--json"]).expect(5));
        assert_eq!(rules(&report), ["autostart", "secret-read"], "{report}");
        assert_eq!(report["gaps"], serde_json::json!([]));
        let by = report["findings"][0]["ancestors"].to_string();
        assert!(by.contains("install") || by.contains("standin-npm"), "{by}");
        let status = lab.fvm(["status", "n", "--by", "process"]).expect(0).out;
        assert!(status.contains("! high: a program is made to start at login (autostart)"), "{status}");
        // The package without the rest.
        let committed = lab.fvm(["commit", "n"]).expect(0).err;
        let (module, helper) =
            (lab.path("project/node_modules/evil/index.js"), lab.path(".config/autostart/helper.desktop"));
        assert!(module.exists() && !lab.path(".config/autostart").exists(), "{committed}");
        let hint = format!("name it: 'fvm commit n {}'", helper.display());
        assert!(committed.contains(&hint), "{committed}");
        assert!(committed.contains("left out: ") && committed.contains("'fvm analyze n'"), "{committed}");
        let number = committed.split("'fvm undo ").nth(1).and_then(|rest| rest.split('\'').next()).unwrap().to_owned();
        lab.fvm(["undo", &number]).expect(0);
        assert!(!module.exists() && !lab.path(".config/autostart").exists());
        // What is named is asked for.
        lab.fvm(["commit", "n", lab.path(".config").to_str().unwrap()]).expect(0);
        assert!(!helper.exists());
        lab.fvm(["commit", "n", helper.to_str().unwrap()]).expect(0);
        assert!(helper.exists());
    }
}

#[test]
fn a_vm_of_which_something_was_left_out_is_kept() {
    let lab = Lab::new(User::Root);
    let script = format!("cd {}; echo x > .bashrc; echo y > other", lab.dir().display());
    let ran = lab.fvm(["run", "--commit", "--trace", "full", "--", "sh", "-c", &script]).expect(0);
    assert!(ran.err.contains("is kept, with what was left out"), "{}", ran.err);
    assert!(lab.path("other").exists() && !lab.path(".bashrc").exists());
    assert_eq!(lab.fvm(["list"]).out.lines().count(), 2);
    // Where nobody asks for a verdict, or there is no log to judge by, nothing is left out.
    for (level, name) in [("basic", ".profile"), ("off", ".zshrc")] {
        let script = format!("echo x > {}/{name}", lab.dir().display());
        let ran = lab.fvm(["run", "--commit", "--trace", level, "--", "sh", "-c", &script]).expect(0);
        assert!(lab.path(name).exists() && !ran.err.contains("left out"), "{}", ran.err);
    }
}

#[test]
fn a_vm_of_the_default_policy_is_judged_when_somebody_asks() {
    let lab = Lab::new(User::Root);
    let script = format!("cd {}; echo x > .bashrc; echo y > other", lab.dir().display());
    let ran = lab.fvm(["run", "-n", "d", "--keep", "--", "sh", "-c", &script]).expect(0);
    assert!(!ran.err.contains("suspicious"), "{}", ran.err);
    let risk = "(shell-startup)";
    for view in [&["status", "d"][..], &["status", "d", "--by", "process"]] {
        let plain = lab.fvm(view).expect(0).out;
        assert!(plain.contains(".bashrc") && !plain.contains(risk) && !plain.contains("analysis"), "{plain}");
        let judged = lab.fvm(view.iter().copied().chain(["--analyze"])).expect(0).out;
        assert!(judged.contains(risk) && judged.contains("\nanalysis: suspicious: 1 finding"), "{judged}");
    }
    let (plain, judged) =
        (json(&lab.fvm(["status", "d", "--json"])), json(&lab.fvm(["status", "d", "--json", "--analyze"])));
    assert!(plain.get("analysis").is_none(), "{plain}");
    assert_eq!(rules(&judged["analysis"]), ["shell-startup"]);
    assert_eq!((&plain["changes"], &plain["summary"]), (&judged["changes"], &judged["summary"]));
    lab.fvm(["commit", "d", "--analyze", "--dry-run"]).expect(0);
    let asked = lab.fvm(["commit", "d", "--analyze"]).expect(0);
    assert!(asked.err.contains("left out: ") && lab.path("other").exists() && !lab.path(".bashrc").exists());
    let unasked = lab.fvm(["commit", "d"]).expect(0);
    assert!(!unasked.err.contains("left out") && lab.path(".bashrc").exists(), "{}", unasked.err);
}

#[test]
fn a_policy_can_demand_a_clean_verdict() {
    let lab = Lab::new(User::Root);
    std::fs::write(lab.path("strict.toml"), "extends = 'unconfined-network'\n[commit]\nverdict = 'clean'\n").unwrap();
    let run = |name: &str, level: &str, script: &str| {
        let script = format!("cd {}; {script}", lab.dir().display());
        lab.fvm([
            "run",
            "-n",
            name,
            "--keep",
            "--policy",
            "./strict.toml",
            "--trace",
            level,
            "--",
            "sh",
            "-c",
            &script,
        ])
        .expect(0);
    };
    run("good", "basic", "echo x > good");
    assert!(lab.fvm(["analyze", "good"]).expect(0).out.starts_with("good: clean: 0 findings"));
    lab.fvm(["commit", "good"]).expect(0);
    run("bad", "basic", "echo x > .bashrc; echo x > bad");
    let refused = lab.fvm(["commit", "bad", lab.path("bad").to_str().unwrap()]).expect(1);
    assert!(refused.err.contains("demands the verdict 'clean', and it is 'suspicious'"), "{}", refused.err);
    // What was not written down is unknown.
    run("blind", "off", "echo x > blind");
    lab.fvm(["analyze", "blind"]).expect(6);
    let refused = lab.fvm(["commit", "blind"]).expect(1);
    assert!(refused.err.contains("it is 'unknown'"), "{}", refused.err);
    assert!(lab.path("good").exists() && !lab.path("bad").exists() && !lab.path("blind").exists());
    // An exception excuses what is known.
    let path = lab.path(".bashrc").display().to_string();
    let text = format!("[[exception]]\nrule = 'shell-startup'\npath = ['{path}']\nreason = 'mine'\n");
    std::fs::write(lab.path("known.toml"), text).unwrap();
    let known = lab.path("known.toml").display().to_string();
    let analysed = lab.fvm(["analyze", "bad", "--exceptions", &known]).expect(0);
    assert!(
        analysed.out.contains("clean: 0 findings, 1 excused") && analysed.out.contains(": mine"),
        "{}",
        analysed.out
    );
    lab.fvm(["commit", "bad", "--exceptions", &known]).expect(0);
    assert!(lab.path(".bashrc").exists());
    std::fs::write(lab.path("empty.toml"), "[[exception]]\nrule = 'cron'\nreason = 'x'\n").unwrap();
    lab.fvm(["analyze", "bad", "--exceptions", lab.path("empty.toml").to_str().unwrap()]).expect(1);
}

#[test]
fn sigma_rules_are_loaded_from_a_directory() {
    let lab = Lab::new(User::Root);
    std::fs::create_dir(lab.path("sigma")).unwrap();
    let rule = "title: A tool for hiding\nid: 11111111-2222-3333-4444-555555555555\nlevel: high\ntags: [attack.t1564]\n\
                logsource: {product: linux, category: process_creation}\ndetection:\n  selection:\n    Image|endswith: /true\n    \
                CommandLine|contains: hide-me\n  condition: selection\n";
    std::fs::write(lab.path("sigma/a.yml"), rule).unwrap();
    std::fs::write(lab.path("sigma/b.yml"), rule.replace("linux", "windows")).unwrap();
    let sigma = lab.path("sigma").display().to_string();
    lab.fvm(["run", "-n", "s", "--keep", "--", "sh", "-c", "/bin/true hide-me; /bin/true"]).expect(0);
    let ran = lab.fvm(["analyze", "s", "--json", "--sigma", &sigma]).expect(5);
    assert!(ran.err.contains("1 Sigma rules; 1 are passed over"), "{}", ran.err);
    let report = json(&ran);
    assert_eq!(rules(&report), ["sigma:11111111-2222-3333-4444-555555555555"]);
    assert_eq!(
        (&report["findings"][0]["attack"], &report["findings"][0]["source"]),
        (&"T1564".into(), &"sigma".into())
    );
    assert_eq!(report["findings"][0]["events"].as_array().unwrap().len(), 1);
    lab.fvm(["analyze", "s"]).expect(0);
    lab.fvm(["analyze", "s", "--sigma", "/nowhere"]).expect(1);
}
