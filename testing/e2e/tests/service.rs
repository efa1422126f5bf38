//! `fvm service`: systemd units in a VM without systemd.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

const USERS: [User; 2] = [User::Root, User::Ordinary];

/// A running VM with units of the test's own, in a directory of the laboratory.
struct Services {
    lab: Lab,
}

impl Services {
    fn new(user: User, units: &[(&str, &str)]) -> Self {
        let lab = Lab::new(user);
        lab.sh("mkdir units");
        for (name, text) in units {
            let text = text.replace("@LAB@", &lab.dir().display().to_string());
            let path = lab.path("units").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        lab.fvm(["create", "v", "--net", "none"]).expect(0);
        lab.fvm(["start", "v"]).expect(0);
        Self { lab }
    }

    fn service(&self, args: &[&str]) -> Ran {
        let places = self.lab.path("units").display().to_string();
        let (verb, rest) = args.split_first().unwrap();
        let places = if *verb == "logs" { vec![] } else { vec!["--unit-dir", &places] };
        self.lab.fvm([&["service", verb, "v"], rest, &places].concat())
    }

    /// The state column of a unit.
    fn state(&self, unit: &str) -> String {
        let shown = self.service(&["status", unit]);
        let line = shown.out.lines().find(|l| l.starts_with(unit)).unwrap_or_else(|| panic!("{shown:?}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}: {}", self.service(&["logs"]).out);
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// What a file of the laboratory holds in the VM.
    fn file(&self, name: &str) -> String {
        self.lab.fvm(["exec", "v", "cat", name]).out
    }
}

#[test]
fn root_and_user_a_service_runs_on_after_the_command() {
    if !is_root("root_and_user_a_service_runs_on_after_the_command") {
        return;
    }
    for user in USERS {
        let units = [(
            "plain.service",
            "[Unit]\nDescription=Plain\u{1b}[2J thing\nWants=a.socket network.target gone.service\nAfter=network.target\n\
             [Service]\nExecStart=/bin/sh -c 'echo hello; echo \"\\033[2J\" >&2; exec sleep 1000'\nPrivateTmp=yes\n\
             SystemCallFilter=x\nPrivateTmp=yes\nSystemCallFilter=y\nMadeUp=1\n",
        )];
        let v = Services::new(user, &units);
        let started = v.service(&["start", "plain"]).expect(0);
        assert_eq!(started.out, "");
        let want = "fvm: note: plain.service: fvm does not carry out: PrivateTmp, SystemCallFilter, MadeUp\n\
                    fvm: note: asked for by these units, and no services, so not run: a.socket, network.target\n\
                    fvm: plain.service is active\n";
        assert_eq!(started.err, want);
        v.until("it prints", || v.service(&["logs", "plain"]).out.contains("hello"));
        let shown = v.service(&["status"]).expect(0);
        assert!(shown.out.contains("Plain\\u{1b}[2J thing") && !shown.out.contains('\u{1b}'), "{shown:?}");
        let logs = v.service(&["logs", "plain.service"]).expect(0).out;
        assert!(logs.contains("plain.service: hello\n") && !logs.contains('\u{1b}'), "{logs:?}");
        assert_eq!(v.service(&["logs", "other"]).expect(0).out, "");
        let json = v.lab.fvm(["--json", "service", "status", "v", "plain"]).expect(0).out;
        assert!(json.contains("\"state\": \"active\"") && json.contains("\"unit\": \"plain.service\""), "{json}");
        assert!(v.lab.fvm(["status", "v"]).expect(0).out.contains("nothing changed"), "nothing of fvm's is a change");
        assert!(v.service(&["start", "plain"]).expect(0).err.ends_with("plain.service is active\n"));
        v.service(&["stop", "plain"]).expect(0);
        assert_eq!(v.state("plain.service"), "inactive");
        v.service(&["status", "plain"]).expect(1);
        let processes = v.lab.fvm(["ps", "v"]).expect(0).out;
        assert!(!processes.contains("sleep"), "{processes}");
        let listed = v.service(&["list"]).expect(0).out;
        assert!(listed.contains("plain.service"), "{listed}");
        v.lab.fvm(["stop", "v"]).expect(0);
        assert!(v.service(&["logs", "plain"]).expect(0).out.contains("hello"), "the log outlives the VM's run");
        let refused = v.service(&["start", "plain"]).expect(1).err;
        assert!(refused.contains("'v' is not running"), "{refused}");
    }
}

#[test]
fn root_and_user_every_type_of_service_starts() {
    if !is_root("root_and_user_every_type_of_service_starts") {
        return;
    }
    let notify = "import os, socket, time\n\
        time.sleep(0.3)\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.connect(os.environ['NOTIFY_SOCKET'])\n\
        s.send(b'READY=1\\nSTATUS=all is well')\n\
        open('ready', 'w').close()\n\
        time.sleep(1000)\n";
    for user in USERS {
        let units = [
            ("notify.py", notify),
            (
                "notify.service",
                "[Service]\nType=notify\nWorkingDirectory=@LAB@\nExecStart=/usr/bin/python3 @LAB@/units/notify.py\n",
            ),
            ("mute.service", "[Service]\nType=notify\nExecStart=/bin/sleep 1000\nTimeoutStartSec=1\n"),
            ("early.service", "[Service]\nType=notify\nExecStart=/bin/true\n"),
            (
                "forks.service",
                "[Service]\nType=forking\nPIDFile=@LAB@/forks.pid\n\
                 ExecStart=/bin/sh -c '(sleep 1000 & echo $! > @LAB@/forks.pid) & sleep 0.2'\n",
            ),
            ("guess.service", "[Service]\nType=forking\nExecStart=/bin/sh -c 'sleep 1001 & exit 0'\n"),
            (
                "liar.service",
                "[Service]\nType=forking\nPIDFile=@LAB@/liar.pid\nTimeoutStartSec=1\nExecStart=/bin/sh -c 'echo 1 > @LAB@/liar.pid; sleep 1002 &'\n",
            ),
            (
                "once.service",
                "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo 1 >> @LAB@/once'\n\
                 ExecStart=/bin/sh -c 'echo 2 >> @LAB@/once'\nExecStop=/bin/sh -c 'echo 3 >> @LAB@/once'\n",
            ),
            ("task.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n"),
            ("wrong.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 7'\n"),
            ("absent.service", "[Service]\nExecStart=/no/such/program\n"),
        ];
        let v = Services::new(user, &units);
        v.service(&["start", "notify"]).expect(0);
        v.lab.fvm(["exec", "v", "test", "-e", "ready"]).expect(0);
        let shown = v.service(&["status", "notify"]).expect(0).out;
        assert!(shown.contains("all is well"), "{shown}");
        for (unit, why) in [
            ("mute", "it did not say READY=1 in time"),
            ("early", "ended with status 0 before it said READY=1"),
            ("liar", "liar.pid does not name a process of the service"),
            ("wrong", "ExecStart: /bin/sh ended with status 7"),
            ("absent", "cannot execute the program for /no/such/program: No such file or directory"),
        ] {
            let failed = v.service(&["start", unit]).expect(1).err;
            assert!(failed.contains(why), "{unit}: {failed}");
            assert_eq!(v.state(&format!("{unit}.service")), "failed");
        }
        v.service(&["start", "forks", "guess", "once", "task"]).expect(0);
        assert_eq!(v.file("once"), "1\n2\n");
        assert_eq!(v.state("once.service"), "exited");
        assert_eq!(v.state("task.service"), "inactive");
        let pid = v.file("forks.pid");
        let shown = v.service(&["status", "forks", "guess"]).expect(0).out;
        assert!(shown.lines().any(|l| l.starts_with("forks") && l.contains(&format!(" {} ", pid.trim()))), "{shown}");
        let processes = v.lab.fvm(["ps", "v"]).expect(0).out;
        assert!(processes.contains("sleep 1000") && processes.contains("sleep 1001"), "{processes}");
        assert!(!processes.contains("sleep 1002"), "what did not come up is gone: {processes}");
        v.service(&["stop", "forks", "guess", "once", "notify"]).expect(0);
        assert_eq!(v.file("once"), "1\n2\n3\n");
        let processes = v.lab.fvm(["ps", "v"]).expect(0).out;
        assert!(!processes.contains("sleep"), "{processes}");
    }
}

#[test]
fn root_and_user_commands_run_in_their_order_with_their_variables() {
    if !is_root("root_and_user_commands_run_in_their_order_with_their_variables") {
        return;
    }
    for user in USERS {
        let units = [
            ("say", "#!/bin/sh\necho \"$@\" >> @LAB@/order\n"),
            ("vars", "FROM_FILE=\"a b\"\n# no\nBOTH=file\n"),
            (
                "order@.service",
                "[Service]\nEnvironment=BOTH=unit \"TWO=x y\"\nEnvironmentFile=@LAB@/units/vars\n\
                 EnvironmentFile=-@LAB@/units/none\nUnsetEnvironment=HOME\n\
                 ExecStartPre=-/bin/false\nExecStartPre=@LAB@/units/say pre %i $FROM_FILE ${FROM_FILE} $TWO\n\
                 ExecStart=@/bin/sh shell -c 'echo $0 $BOTH $PATH \"home=$HOME\" $FVM >> @LAB@/order; \\\n\
                 trap \"echo hup >> @LAB@/order\" HUP; while :; do sleep 0.05; done'\n\
                 ExecStartPost=:@LAB@/units/say post $BOTH %%\n\
                 ExecReload=/bin/kill -HUP $MAINPID\nExecReload=@LAB@/units/say reload\n\
                 ExecStop=@LAB@/units/say stop %n ; @LAB@/units/say stop2\n\
                 ExecStopPost=@LAB@/units/say after ${SERVICE_RESULT} ${EXIT_CODE} ${EXIT_STATUS}\n",
            ),
            ("order@x.service.d/more.conf", "[Service]\nExecStartPost=@LAB@/units/say from-the-drop-in\n"),
            (
                "refused.service",
                "[Service]\nExecStartPre=/bin/sh -c 'exit 3'\nExecStart=/bin/sleep 1003\n\
                 ExecStop=@LAB@/units/say never\nExecStopPost=@LAB@/units/say post-of-refused\n",
            ),
            ("skipped.service", "[Unit]\nConditionPathExists=@LAB@/none\n[Service]\nExecStart=/bin/sleep 1004\n"),
            ("broken.service", "[Service]\nExecStart=/bin/true\nUMask=x\n"),
        ];
        let v = Services::new(user, &units);
        v.service(&["start", "order@x"]).expect(0);
        v.until("it runs", || v.file("order").contains("shell"));
        v.service(&["reload", "order@x"]).expect(0);
        v.until("it was reloaded", || v.file("order").contains("hup"));
        v.service(&["stop", "order@x"]).expect(0);
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let order = v.file("order");
        let mut lines: Vec<&str> = order.lines().collect();
        lines.sort_unstable();
        let shell = format!("shell file {path} home= v");
        let mut want = vec![
            "pre x a b a b x y",
            shell.as_str(),
            "post $BOTH %",
            "from-the-drop-in",
            "hup",
            "reload",
            "stop order@x.service",
            "stop2",
            "after success killed TERM",
        ];
        assert_eq!(order.lines().next(), Some(want[0]));
        assert_eq!(order.lines().last(), want.last().copied());
        want.sort_unstable();
        assert_eq!(lines, want, "{order}");
        let failed = v.service(&["start", "refused"]).expect(1).err;
        assert!(failed.contains("refused.service: ExecStartPre: /bin/sh ended with status 3"), "{failed}");
        assert!(v.file("order").ends_with("post-of-refused\n") && !v.file("order").contains("never"));
        assert!(v.service(&["start", "skipped"]).expect(0).err.contains("is inactive (not started: Condition"));
        let failed = v.service(&["start", "broken"]).expect(1).err;
        assert!(failed.contains("units/broken.service:3: UMask=x: it is not an octal mode"), "{failed}");
        for (unit, why) in [
            ("none", "none.service: there is no such unit"),
            ("order@", "it is a template"),
            ("x.socket", "fvm runs services only"),
            ("a/b", "'a/b' is not a unit's name"),
        ] {
            let failed = v.service(&["start", unit]).expect(1).err;
            assert!(failed.contains(why), "{failed}");
        }
    }
}

#[test]
fn root_and_user_what_ends_is_started_again_as_its_policy_says() {
    if !is_root("root_and_user_what_ends_is_started_again_as_its_policy_says") {
        return;
    }
    for user in USERS {
        let units = [
            (
                "twice.service",
                "[Service]\nRestart=on-failure\nRestartSec=50ms\n\
                 ExecStart=/bin/sh -c 'echo x >> @LAB@/twice; [ $(wc -l < @LAB@/twice) -ge 3 ] && exec sleep 1000; exit 1'\n",
            ),
            ("well.service", "[Service]\nRestart=on-failure\nExecStart=/bin/sh -c 'sleep 0.2; exit 0'\n"),
            (
                "prevented.service",
                "[Service]\nRestart=always\nRestartPreventExitStatus=9\nExecStart=/bin/sh -c 'sleep 0.2; exit 9'\n",
            ),
            (
                "too-often.service",
                "[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=60\n[Service]\nRestart=always\nRestartSec=10ms\n\
                 ExecStart=/bin/sh -c 'echo x >> @LAB@/often; exit 1'\n",
            ),
        ];
        let v = Services::new(user, &units);
        v.service(&["start", "twice", "well", "too-often", "prevented"]).expect(0);
        v.until("started thrice", || v.file("twice").lines().count() == 3 && v.state("twice.service") == "active");
        let json = v.lab.fvm(["--json", "service", "status", "v", "twice"]).expect(0).out;
        assert!(json.contains("\"restarts\": 2"), "{json}");
        v.until("a good end is the end", || v.state("well.service") == "inactive");
        v.until("prevented", || v.state("prevented.service") == "failed");
        v.until("given up", || v.state("too-often.service") == "failed");
        assert_eq!(v.file("often").lines().count(), 3);
        let shown = v.service(&["status", "too-often"]).expect(1).out;
        assert!(shown.contains("it was started too often"), "{shown}");
        // A killed one as well.
        let json = v.lab.fvm(["--json", "service", "status", "v", "twice"]).out;
        let pid = json.split("\"main_pid\": ").nth(1).unwrap().split(',').next().unwrap().to_owned();
        v.lab.fvm(["exec", "v", "kill", "-9", &pid]).expect(0);
        v.until("started again", || v.file("twice").lines().count() == 4 && v.state("twice.service") == "active");
    }
}

#[test]
fn root_and_user_a_stop_ends_every_process() {
    if !is_root("root_and_user_a_stop_ends_every_process") {
        return;
    }
    for user in USERS {
        let units = [
            (
                "stubborn.service",
                "[Service]\nTimeoutStopSec=1\n\
                 ExecStart=/bin/sh -c 'trap \"\" TERM; setsid sh -c \"trap \\'\\' TERM; (setsid sleep 2001 &) ; sleep 2002\" & \
                 while :; do sleep 2003; done'\n",
            ),
            (
                "signal.service",
                "[Service]\nKillSignal=SIGUSR1\nKillMode=mixed\nSuccessExitStatus=5\n\
                 ExecStart=/bin/sh -c 'trap \"echo usr1 > @LAB@/signal; exit 5\" USR1; sleep 2004 & while :; do sleep 0.05; done'\n",
            ),
            ("last.service", "[Service]\nExecStart=/bin/sleep 2005\nExecStop=/bin/sh -c 'echo stopped > @LAB@/last'\n"),
        ];
        let v = Services::new(user, &units);
        v.service(&["start", "stubborn", "signal", "last"]).expect(0);
        v.until("all run", || (2001..=2005).all(|n| v.lab.fvm(["ps", "v"]).out.contains(&format!("sleep {n}"))));
        let start = Instant::now();
        v.service(&["stop", "stubborn"]).expect(0);
        assert!(start.elapsed() >= Duration::from_millis(900));
        let shown = v.service(&["status", "stubborn"]).expect(1).out;
        assert!(shown.contains("it did not end in time and was killed"), "{shown}");
        v.service(&["stop", "signal"]).expect(0);
        assert_eq!((v.state("signal.service").as_str(), v.file("signal").as_str()), ("inactive", "usr1\n"));
        let processes = v.lab.fvm(["ps", "v"]).expect(0).out;
        assert!((2001..=2004).all(|n| !processes.contains(&format!("sleep {n}"))), "{processes}");
        // The VM's own stop lets services stop as they want to.
        v.lab.fvm(["stop", "v"]).expect(0);
        v.lab.fvm(["start", "v"]).expect(0);
        assert_eq!(v.file("last"), "stopped\n");
    }
}

#[test]
fn root_and_user_dependencies_are_started_in_order() {
    if !is_root("root_and_user_dependencies_are_started_in_order") {
        return;
    }
    let chain = |head: &str, name: &str| {
        format!(
            "[Unit]\n{head}\n[Service]\nExecStartPre=/bin/sh -c 'echo {name} >> @LAB@/order'\nExecStart=/bin/sleep 1000\n"
        )
    };
    let units = [
        ("web.service", chain("Requires=db.service\nWants=cache.service\nAfter=db.service cache.service", "web")),
        ("db.service", chain("Before=cache.service", "db")),
        ("cache.service", chain("", "cache")),
        ("rival.service", chain("Conflicts=web.service", "rival")),
        ("a.service", chain("Requires=b.service\nAfter=b.service", "a")),
        ("b.service", chain("Requires=c.service\nAfter=c.service", "b")),
        ("c.service", chain("After=a.service", "c")),
        ("needs.service", chain("Requires=none.service", "needs")),
        ("fails.service", "[Service]\nExecStart=/no/program\n".to_owned()),
        ("after.service", chain("Requires=fails.service\nAfter=fails.service", "after")),
    ];
    for user in USERS {
        let units: Vec<_> = units.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let v = Services::new(user, &units);
        v.service(&["start", "web"]).expect(0);
        assert_eq!(v.file("order"), "db\ncache\nweb\n");
        let stopped = v.service(&["stop", "db"]).expect(0).err;
        assert!(stopped.contains("web.service is inactive"), "what requires it stops as well: {stopped}");
        assert_eq!(v.state("cache.service"), "active");
        v.service(&["start", "web"]).expect(0);
        v.service(&["start", "rival"]).expect(0);
        assert_eq!((v.state("web.service").as_str(), v.state("rival.service").as_str()), ("inactive", "active"));
        for (unit, why) in [
            ("a", "these units wait for each other (After=, Before=): a.service, b.service, c.service"),
            ("needs", "needs.service requires none.service, and there is no such unit"),
            ("after", "after.service: not started, because fails.service was not"),
        ] {
            let failed = v.service(&["start", unit]).expect(1).err;
            assert!(failed.contains(why), "{failed}");
        }
        assert!(!v.file("order").contains("after") && !v.file("order").contains("needs"));
    }
}

#[test]
fn root_a_service_has_its_user_its_directories_and_its_limits() {
    if !is_root("root_a_service_has_its_user_its_directories_and_its_limits") {
        return;
    }
    let show = "#!/bin/sh\nid -u; id -g; id -G; umask; ulimit -n; pwd; echo $RUNTIME_DIRECTORY $STATE_DIRECTORY\n\
        stat -c '%U %a' /run/mine /var/lib/mine /var/cache/mine /var/log/mine\n\
        grep -E 'CapEff|NoNewPrivs' /proc/self/status\necho $USER $HOME; ls -l /proc/self/fd | wc -l\n";
    let unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nUser=daemon\nGroup=nogroup\nSupplementaryGroups=adm\n\
        UMask=027\nLimitNOFILE=77:99\nWorkingDirectory=/usr\nRuntimeDirectory=mine\nStateDirectory=mine\nCacheDirectory=mine\n\
        LogsDirectory=mine\nStateDirectoryMode=0700\nNoNewPrivileges=yes\nStandardOutput=file:@LAB@/shown\n\
        ExecStartPre=+/bin/sh -c 'id -u > @LAB@/privileged'\nExecStart=/bin/sh @LAB@/units/show\n";
    let v = Services::new(User::Root, &[("show", show), ("mine.service", unit)]);
    v.service(&["start", "mine"]).expect(0);
    let id = |what: &str, name: &str| v.lab.sh(&format!("getent {what} {name} | cut -d: -f3")).trim().to_owned();
    let (daemon, nogroup, adm) = (id("passwd", "daemon"), id("group", "nogroup"), id("group", "adm"));
    let shown = v.file("shown");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..2], [daemon.as_str(), nogroup.as_str()], "{shown}");
    assert!(lines[2].split(' ').any(|g| g == adm), "{shown}");
    assert_eq!(lines[3..7], ["0027", "77", "/usr", "/run/mine /var/lib/mine"], "{shown}");
    assert_eq!(lines[7..11], ["daemon 755", "daemon 700", "daemon 755", "daemon 755"], "{shown}");
    assert!(lines[11].ends_with("0000000000000000") && lines[12].ends_with('1'), "{shown}");
    assert!(lines[13].starts_with("daemon /"), "{shown}");
    // total, 0, 1, 2 and the listing's own.
    assert_eq!(lines[14], "5", "no descriptor leaks: {shown}");
    assert_eq!(v.file("privileged"), "0\n");
    v.service(&["stop", "mine"]).expect(0);
    v.lab.fvm(["exec", "v", "test", "!", "-e", "/run/mine", "-a", "-d", "/var/lib/mine"]).expect(0);
    // Units where systemd has them, made in the VM.
    let make = "mkdir -p /etc/systemd/system/own@.service.d /run/systemd/system\n\
        printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/echo %%p %%i %%I %%H %%t\\n' > /run/systemd/system/own@.service\n\
        printf '[Service]\\nExecStartPost=/bin/echo drop %%i\\n' > /etc/systemd/system/own@.service.d/x.conf\n\
        ln -s own@.service /etc/systemd/system/alias@.service; ln -s /dev/null /etc/systemd/system/masked.service\n\
        mkfifo /etc/systemd/system/fifo.service";
    v.lab.fvm(["exec", "v", "sh", "-ec", make]).expect(0);
    v.service(&["start", "own@a-b"]).expect(0);
    let logs = v.service(&["logs", "own@a-b"]).expect(0).out;
    let host = v.lab.fvm(["exec", "v", "uname", "-n"]).out;
    assert!(logs.contains(&format!(": own a-b a/b {} /run\n", host.trim())) && logs.contains(": drop a-b\n"), "{logs}");
    assert!(v.service(&["start", "masked"]).expect(1).err.contains("it is masked"));
    assert!(v.service(&["start", "fifo"]).expect(1).err.contains("cannot read /etc/systemd/system/fifo.service"));
}

#[test]
fn root_a_user_that_is_not_there_is_told() {
    if !is_root("root_a_user_that_is_not_there_is_told") {
        return;
    }
    let units = [("u.service", "[Service]\nUser=nobody-here\nExecStart=/bin/true\n")];
    let v = Services::new(User::Root, &units);
    assert!(v.service(&["start", "u"]).expect(1).err.contains("User=nobody-here: there is no such user in the VM"));
    let units = [("u.service", "[Service]\nUser=root\nExecStart=/bin/true\n")];
    let v = Services::new(User::Ordinary, &units);
    assert!(v.service(&["start", "u"]).expect(1).err.contains("a rootless VM has only user"));
}

#[test]
fn root_and_user_a_noisy_service_fills_no_disk_and_a_dead_manager_is_replaced() {
    if !is_root("root_and_user_a_noisy_service_fills_no_disk_and_a_dead_manager_is_replaced") {
        return;
    }
    for user in USERS {
        let units = [
            ("noisy.service", "[Service]\nExecStart=/bin/sh -c 'yes | head -c 30000000; echo end; exec sleep 3001'\n"),
            ("calm.service", "[Service]\nExecStart=/bin/sleep 3002\n"),
        ];
        let v = Services::new(user, &units);
        v.service(&["start", "noisy", "calm"]).expect(0);
        v.until("it is done", || v.service(&["logs", "noisy", "-n", "1"]).out.ends_with("noisy.service: end\n"));
        let id = v.lab.fvm(["inspect", "v"]).out.split("\"id\": \"").nth(1).unwrap()[..12].to_owned();
        let log = v.lab.home().join("vms").join(id).join("services.log");
        assert!(std::fs::metadata(log).unwrap().len() <= 8 << 20);
        // The manager is the first process of fvm's in the VM after init: its end is the end of its services, in order.
        let processes = v.lab.fvm(["ps", "v"]).expect(0).out;
        let manager =
            processes.lines().find(|l| l.contains("fvm: init")).unwrap().split_whitespace().next().unwrap().to_owned();
        // It holds a file of the host: nobody in the VM gets at it.
        for reach in ["ls /proc/$0/fd/", "readlink /proc/$0/fd/0", "cat /proc/$0/environ", "ls /proc/$0/root/"] {
            assert_ne!(v.lab.fvm(["exec", "v", "sh", "-c", reach, &manager]).code, 0, "{user:?}: {reach}");
        }
        v.lab.fvm(["exec", "v", "kill", "-9", &manager]).expect(0);
        v.until("all ended", || !v.lab.fvm(["ps", "v"]).out.contains("sleep 300"));
        v.service(&["start", "calm"]).expect(0);
        assert_eq!(v.state("calm.service"), "active");
    }
}

#[test]
fn root_two_web_servers_on_one_port_in_two_vms_needs_apt() {
    const NAME: &str = "root_two_web_servers_on_one_port_in_two_vms_needs_apt";
    if !is_root(NAME) {
        return;
    }
    let lab = Lab::new(User::Root);
    // A VM with the host's network loads the packages; those without network install them.
    let load = "command -v apt-get curl >/dev/null && mkdir -p debs/partial && (apt-get -q update || true) \
        && apt-get -q -y -o Dir::Cache::archives=$PWD/debs --download-only install nginx apache2";
    let loaded = lab.fvm(["run", "--keep", "--name", "load", "--", "sh", "-c", load]);
    if loaded.code != 0 {
        eprintln!("skipped: {NAME}: no packages to be had by apt-get: {}", loaded.err.lines().last().unwrap_or(""));
        return;
    }
    lab.fvm(["commit", "load", "debs"]).expect(0);
    for (vm, package, server) in [("web-n", "nginx", "nginx"), ("web-p", "apache2", "Apache")] {
        lab.fvm(["create", vm, "--net", "none"]).expect(0);
        lab.fvm(["start", vm]).expect(0);
        // As on a host that runs systemd and has no policy against starting services.
        let install = format!(
            "rm -f /usr/sbin/policy-rc.d; mkdir -p /run/systemd/system; export DEBIAN_FRONTEND=noninteractive\n\
             apt-get -q -y -o Dir::Cache::archives=$PWD/debs --no-download install {package}"
        );
        lab.fvm(["exec", vm, "sh", "-c", &install]).expect(0);
        lab.fvm(["service", "start", vm, package]).expect(0);
        let head = lab.fvm(["exec", vm, "curl", "-sSI", "http://localhost/"]).expect(0).out;
        assert!(head.contains(&format!("Server: {server}")), "{head}");
    }
    for (vm, package, server) in [("web-n", "nginx", "nginx"), ("web-p", "apache2", "Apache")] {
        lab.fvm(["service", "reload", vm, package]).expect(0);
        lab.fvm(["service", "restart", vm, package]).expect(0);
        let head = lab.fvm(["exec", vm, "curl", "-sSI", "http://localhost/"]).expect(0).out;
        assert!(head.contains(&format!("Server: {server}")), "{head}");
        lab.fvm(["service", "stop", vm, package]).expect(0);
        lab.fvm(["exec", vm, "curl", "-sSI", "http://localhost/"]).expect(7);
    }
}
