//! `fvm serve` over its real socket: a VM's whole life, streams, bad clients, clients and servers that go away.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod serve_client;

use fvm_kit::{Lab, User, is_root};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use serve_client::{Server, wait_for};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// Runs `body` as root and as an ordinary user.
fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

fn sh(script: &str) -> Value {
    json!(["sh", "-c", script])
}

/// What the command line prints.
fn printed(lab: &Lab, args: &[&str]) -> Value {
    let all = args.iter().chain(&["--json"]);
    serde_json::from_str(&lab.fvm(all).expect(0).out).unwrap()
}

#[test]
fn root_and_user_a_vm_lives_its_whole_life_over_the_socket() {
    as_both("root_and_user_a_vm_lives_its_whole_life_over_the_socket", |lab| {
        lab.sh("mkdir d; echo one > d/a; echo two > d/b");
        let server = Server::start(lab);
        let mut client = server.client();
        let hello = client.done("hello", json!({}));
        assert_eq!((&hello["protocol"], &hello["home"]), (&json!(1), &json!(lab.home())));
        assert!(hello["methods"].as_array().unwrap().contains(&json!("service.start")), "{hello}");

        let ran = client
            .done("run", json!({"command": sh("echo more >> d/a; rm d/b; echo new > d/c"), "keep": true, "name": "v"}));
        assert_eq!((&ran["vm"], &ran["exit"], &ran["kept"]), (&json!("v"), &json!(0), &json!(true)), "{ran}");
        assert_eq!(ran["summary"], json!({"added": 1, "modified": 1, "deleted": 1, "renamed": 0}));
        // The very objects of the command line.
        assert_eq!(client.done("list", json!({})), printed(lab, &["list"]));
        assert_eq!(client.done("inspect", json!({"name": "v"})), printed(lab, &["inspect", "v"]));
        assert_eq!(client.done("status", json!({"name": "v"})), printed(lab, &["status", "v"]));
        assert_eq!(client.done("diff", json!({"name": "v", "paths": ["d/a"]})), printed(lab, &["diff", "v", "d/a"]));
        assert_eq!(client.done("doctor", json!({}))["mode"], printed(lab, &["doctor"])["mode"]);
        let dry = client.done("commit", json!({"name": "v", "dry_run": true, "only": ["a"]}));
        assert_eq!(dry["ops"].as_array().unwrap().len(), 1, "{dry}");
        assert_eq!(lab.sh("cat d/a"), "one\n", "nothing is done by a dry run");

        let some = client.done("commit", json!({"name": "v", "except": ["b"]}));
        assert_eq!((lab.sh("cat d/*"), &some["commit"]), ("one\nmore\ntwo\nnew\n".into(), &json!(1)));
        assert_eq!(client.done("history", json!({})), printed(lab, &["history"]));
        assert_eq!(client.done("show", json!({"commit": 1}))["ops"].as_array().unwrap().len(), 2);
        assert_eq!(client.done("undo", json!({"commit": 1}))["undone"], 1);
        assert_eq!(lab.sh("cat d/*"), "one\ntwo\n");
        client.done("discard", json!({"name": "v", "paths": ["d/b"]}));
        assert_eq!(client.done("status", json!({"name": "v"}))["changes"], json!([]));

        client.done("start", json!({"name": "v"}));
        let exec =
            client.call("exec", json!({"name": "v", "command": sh("cat d/b; echo $FVM $X; exit 3"), "env": ["X=y"]}));
        assert_eq!(
            (&exec["code"], &exec["result"]["exit"], &exec["stdout"]),
            (&json!(3), &json!(3), &json!("two\nv y\n"))
        );
        assert!(exec.get("error").is_none(), "a program's failure is not fvm's: {exec}");
        client.done("suspend", json!({"names": ["v"]}));
        assert_eq!(client.done("inspect", json!({"name": "v"}))["now"], "suspended");
        client.done("resume", json!({"names": ["v"]}));
        client.done("stop", json!({"names": ["v"]}));
        client.done("copy", json!({"name": "v", "copy": "w"}));
        client.done("rename", json!({"name": "w", "new": "x"}));
        client.done("configure", json!({"name": "x", "hostname": "other"}));
        assert_eq!(client.done("inspect", json!({"name": "x"}))["policy"]["hostname"], "other");
        client.done("delete", json!({"names": ["v", "x"]}));
        assert_eq!(client.done("list", json!({})), json!([]));
        client.done("gc", json!({"keep": 0}));
        let thrown = client.done("run", json!({"command": ["true"], "rm": true}));
        assert_eq!((&thrown["kept"], client.done("list", json!({}))), (&json!(false), json!([])));
        let committed = client.done("run", json!({"command": sh("echo c > d/c"), "commit": true}));
        assert_eq!((&committed["committed"]["summary"]["added"], lab.sh("cat d/c")), (&json!(1), "c\n".into()));
    });
}

#[test]
fn root_and_user_streams_are_captured_streamed_or_passed() {
    as_both("root_and_user_streams_are_captured_streamed_or_passed", |lab| {
        let server = Server::start(lab);
        let mut client = server.client();
        client
            .send(json!({"method": "run", "params": {"command": sh("cat; echo e >&2"), "rm": true}, "input": "typed"}));
        let ran = client.line().unwrap();
        assert_eq!(
            (&ran["stdout"], &ran["stderr"], &ran["truncated"]),
            (&json!("typed"), &json!("e\n"), &json!(false))
        );
        let long = client.call("run", json!({"command": sh("head -c 3000000 /dev/zero | tr '\\0' x"), "rm": true}));
        assert_eq!((long["stdout"].as_str().unwrap().len(), &long["truncated"]), (1 << 20, &json!(true)));
        let bytes = client.call("run", json!({"command": ["printf", "\\377"], "rm": true}));
        assert_eq!(bytes["stdout"], json!({"hex": "ff"}));

        let id = client.send(json!({"method": "run", "streams": "stream",
            "params": {"command": sh("for i in $(seq 40000); do echo \"é $i\"; done; echo e >&2"), "rm": true}}));
        let (mut text, mut errors) = (String::new(), String::new());
        let last = loop {
            let line = client.line().unwrap();
            assert_eq!(line["id"], id);
            match line["event"].as_str() {
                Some("stdout") => text.push_str(line["data"].as_str().unwrap()),
                Some("stderr") => errors.push_str(line["data"].as_str().unwrap()),
                _ => break line,
            }
        };
        let expected: String = (1..=40000).map(|n| format!("é {n}\n")).collect();
        assert!(text == expected && errors == "e\n", "{} bytes", text.len());
        assert_eq!((&last["code"], last.get("stdout")), (&json!(0), None));

        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let file = std::fs::File::create(lab.path("errors")).unwrap();
        client.send_passed(
            "run",
            json!({"command": sh("cat; echo e >&2"), "rm": true}),
            [theirs.as_fd(), theirs.as_fd(), file.as_fd()],
        );
        drop(theirs);
        ours.write_all(b"through").unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let mut came = String::new();
        ours.read_to_string(&mut came).unwrap();
        assert_eq!((came.as_str(), client.line().unwrap()["code"].clone()), ("through", json!(0)));
        assert_eq!(lab.sh("cat errors"), "e\n");
        client.send(json!({"method": "run", "params": {"command": sh("cat; echo x"), "rm": true}, "streams": "null"}));
        let null = client.line().unwrap();
        assert!(null["code"] == 0 && null.get("stdout").is_none(), "{null}");
        // A terminal is one for the program, too: its own, of the same size.
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).and_then(|()| unlockpt(&ours)).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size = |rows| Winsize { ws_row: rows, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size(33)).unwrap();
        let run = client.send_passed(
            "run",
            json!({"command": sh("trap 'stty size; exit 4' WINCH; tty; stty size; while :; do sleep 0.1; done"), "rm": true}),
            [theirs.as_fd(); 3],
        );
        let mut screen = BufReader::new(std::fs::File::from(ours.try_clone().unwrap()));
        let mut lines = || {
            let mut line = String::new();
            screen.read_line(&mut line).unwrap();
            line.trim().to_owned()
        };
        assert_eq!((lines(), lines()), ("/dev/pts/0".into(), "33 99".into()));
        tcsetwinsize(&ours, size(44)).unwrap();
        client.done("signal", json!({"request": run, "signal": "WINCH"}));
        assert_eq!((lines(), client.line().unwrap()["code"].clone()), ("44 99".into(), json!(4)));
        // An archive, by the streams that it has on the command line.
        client.done("create", json!({"name": "v"}));
        let archive = std::fs::File::create(lab.path("v.fvm")).unwrap();
        let nothing = std::fs::File::open("/dev/null").unwrap();
        client.send_passed(
            "export",
            json!({"name": "v", "file": "-"}),
            [nothing.as_fd(), archive.as_fd(), nothing.as_fd()],
        );
        assert_eq!(client.line().unwrap()["code"], 0);
        let archive = std::fs::File::open(lab.path("v.fvm")).unwrap();
        client.send_passed(
            "import",
            json!({"file": "-", "name": "w"}),
            [archive.as_fd(), nothing.as_fd(), nothing.as_fd()],
        );
        assert_eq!(client.line().unwrap()["result"]["name"], "w");
    });
}

#[test]
fn root_and_user_failures_have_the_codes_of_the_command_line_a_message_and_a_hint() {
    as_both("root_and_user_failures_have_the_codes_of_the_command_line_a_message_and_a_hint", |lab| {
        lab.sh("echo host > f");
        let server = Server::start(lab);
        let mut client = server.client();
        client.done("run", json!({"command": sh("echo vm > f"), "keep": true, "name": "v"}));
        lab.sh("echo changed too > f");
        let failures = [
            ("commit", json!({"name": "v"}), 3, "the host changed too"),
            ("status", json!({"name": "nobody"}), 4, "no VM 'nobody'"),
            ("exec", json!({"name": "v", "command": ["true"]}), 125, "not running"),
            ("run", json!({"command": ["no-such-program"], "rm": true}), 127, "cannot execute"),
            ("run", json!({"command": ["/etc/passwd"], "rm": true}), 126, "cannot execute"),
            ("run", json!({"command": ["true"], "name": "bad/name"}), 2, "bad/name"),
            ("run", json!({"command": ["true"], "rm": true, "keep": true}), 2, "cannot be used"),
            ("run", json!({}), 2, "required"),
            ("undo", json!({"commit": 99}), 1, "99"),
            ("create", json!({"name": "v"}), 1, "'v'"),
            ("commit", json!({"name": "v", "interactive": true}), 2, "no parameter 'interactive'"),
            ("commit", json!({"name": "v", "home": "/tmp"}), 2, "no parameter 'home'"),
            ("shell", json!({}), 2, "no method 'shell'"),
            ("serve", json!({}), 2, "no method 'serve'"),
            ("signal", json!({"request": 1, "signal": "TERM"}), 2, "no id of a request"),
        ];
        for (method, params, code, why) in failures {
            let answer = client.call(method, params.clone());
            let error = &answer["error"];
            assert!(answer["code"] == code && error["code"] == code, "{method} {params}: {answer}");
            assert!(error["message"].as_str().unwrap().contains(why), "{method} {params}: {answer}");
        }
        assert_eq!(lab.sh("cat f"), "changed too\n");
        let conflict = client.call("commit", json!({"name": "v"}));
        assert!(conflict["error"]["hint"].as_str().unwrap().contains("--on-conflict"), "{conflict}");
        let several = client.call("delete", json!({"names": ["no1", "v", "no2"]}));
        assert!(several["code"] == 4 && several["also"][0]["message"].as_str().unwrap().contains("no2"), "{several}");
        assert_eq!(several["notices"], json!(["deleted v"]));
        let late = client.call("run", json!({"command": ["sleep", "1000"], "timeout": "100ms", "rm": true}));
        assert_eq!((&late["code"], &late["result"]["exit"]), (&json!(124), &json!(124)));
    });
}

#[test]
fn root_and_user_what_is_no_request_is_said_to_be_none_and_harms_nobody() {
    as_both("root_and_user_what_is_no_request_is_said_to_be_none_and_harms_nobody", |lab| {
        let server = Server::start(lab);
        let mut good = server.client();
        let mut client = server.client();
        for garbage in
            [&b"\n"[..], b"hello\n", b"\xff\xfe\x00\n", b"[]\n", b"{\"id\":1}\n", b"{\"id\":{},\"method\":\"list\"}\n"]
        {
            client.raw(garbage);
            let refused = client.line().unwrap();
            assert!(refused["code"] == 2 && refused["error"]["code"] == 2, "{refused}");
        }
        assert_eq!(client.done("list", json!({})), json!([]), "a line later all is well");
        // One request in single bytes, and many in one piece.
        for byte in b"{\"id\":70,\"method\":\"list\"}\n" {
            client.raw(&[*byte]);
        }
        assert_eq!(client.line().unwrap()["id"], 70);
        let many: String = (100..200).map(|id| json!({"id": id, "method": "hello"}).to_string() + "\n").collect();
        client.raw(many.as_bytes());
        assert_eq!(
            (100..200).map(|_| client.line().unwrap()["id"].as_u64().unwrap()).collect::<Vec<_>>(),
            (100..200).collect::<Vec<_>>()
        );
        // More at once than are carried out at once.
        let many: String = (0..40).map(|id| json!({"id": id, "method": "list"}).to_string() + "\n").collect();
        client.raw(many.as_bytes());
        let mut ids: Vec<_> = (0..40).map(|_| client.line().unwrap()["id"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..40).collect::<Vec<_>>());
        // One id, twice at once.
        let sleeps = json!({"id": "x", "method": "run", "params": {"command": ["sleep", "1000"], "rm": true}});
        client.raw(format!("{sleeps}\n{sleeps}\n").as_bytes());
        let refused = client.line().unwrap();
        assert!(refused["id"] == "x" && refused["error"]["message"].as_str().unwrap().contains("this id"), "{refused}");
        // A line that never ends.
        let mut endless = server.client();
        // It hangs up on us in the middle.
        let _hung_up = endless.stream.write_all(&vec![b'x'; (1 << 20) + (64 << 10)]);
        let refused = endless.end();
        assert!(
            refused.iter().all(|line| line["error"]["message"].as_str().unwrap().contains("longer")),
            "{refused:?}"
        );
        // Half a line.
        let mut half = server.client();
        half.raw(b"{\"id\":1,\"met");
        half.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let refused = half.end();
        assert!(refused.len() == 1 && refused[0]["code"] == 2, "{refused:?}");
        // Descriptors are those of the request that they are for, and nobody keeps any number of them.
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut none = server.client();
        none.send_passed("run", json!({"command": ["true"], "rm": true}), [null.as_fd(); 3]);
        assert_eq!(none.line().unwrap()["code"], 0);
        none.send(json!({"method": "run", "params": {"command": ["true"], "rm": true}, "streams": "passed"}));
        assert_eq!(none.line().unwrap()["code"], 2);
        let passed = json!({"method": "run", "params": {"command": ["true"], "rm": true}, "streams": "passed"});
        none.send_with(passed, &[null.as_fd(); 2]);
        assert_eq!(none.line().unwrap()["code"], 2);
        let said = std::fs::File::create(lab.path("said")).unwrap();
        let echo = json!({"command": ["echo", "said"], "rm": true});
        none.send_passed("run", echo, [null.as_fd(), said.as_fd(), null.as_fd()]);
        assert_eq!(none.line().unwrap()["code"], 0);
        assert_eq!(lab.sh("cat said"), "said\n", "not those that were left");
        let mut flood = server.client();
        for _ in 0..17 {
            flood.send_with(json!({"method": "hello"}), &[null.as_fd(); 3]);
        }
        let refused = flood.end().pop().unwrap();
        assert!(refused["error"]["message"].as_str().unwrap().contains("descriptors"), "{refused}");
        // Who only writes, and who is gone before the answer.
        for _ in 0..20 {
            server.client().raw(b"{\"id\":1,\"method\":\"list\"}\n{\"id\":2,\"meth");
        }
        assert_eq!(good.done("list", json!({})).as_array().unwrap().len(), 1, "the one that sleeps");
    });
}

#[test]
fn root_and_user_a_client_that_goes_away_is_a_terminal_that_closes() {
    as_both("root_and_user_a_client_that_goes_away_is_a_terminal_that_closes", |lab| {
        let server = Server::start(lab);
        let mut other = server.client();
        let mut client = server.client();
        let script = "trap 'echo hup > got; exit 0' HUP; echo ready > ready; while :; do sleep 0.1; done";
        client.send(json!({"method": "run", "params": {"command": sh(script), "name": "v", "keep": true}}));
        client.send(json!({"method": "run", "params": {"command": ["sleep", "1000"], "rm": true, "name": "thrown"}}));
        let ready = || {
            let exec = lab.fvm(["exec", "v", "test", "-e", "ready"]);
            exec.code == 0 && lab.fvm(["exec", "thrown", "true"]).code == 0
        };
        wait_for("both programs", ready);
        // One that was started has a keeper of its own, and goes on.
        other.done("create", json!({"name": "own"}));
        other.done("start", json!({"name": "own"}));
        drop(client);
        wait_for("the program's end", || other.done("inspect", json!({"name": "v"}))["now"] == "stopped");
        let paths = |status: Value| {
            let changes = status["changes"].as_array().unwrap().clone();
            changes
                .iter()
                .map(|c| c["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            paths(other.done("status", json!({"name": "v"}))),
            ["got", "ready"],
            "it was told, and what it did is kept"
        );
        wait_for("the end of the other", || other.call("inspect", json!({"name": "thrown"}))["code"] == 4);
        assert_eq!(other.done("inspect", json!({"name": "own"}))["now"], "running");
        // A client that has said all it has to say is not gone.
        let mut says = server.client();
        let id = says.send(json!({"method": "run", "params": {"command": sh("sleep 0.3; echo done"), "rm": true}}));
        says.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answers = says.end();
        assert!(answers.len() == 1 && answers[0]["id"] == id && answers[0]["stdout"] == "done\n", "{answers:?}");
    });
}

#[test]
fn root_and_user_many_clients_and_many_requests_at_once() {
    as_both("root_and_user_many_clients_and_many_requests_at_once", |lab| {
        let server = Server::start(lab);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.client();
                    let ids: Vec<u64> = (0..4)
                        .map(|m| {
                            let script = format!("echo {n}.{m}; echo {n}.{m} > made");
                            let name = format!("v{n}-{m}");
                            client.send(json!({"method": "run", "params": {"command": sh(&script), "name": name, "keep": true}}))
                        })
                        .collect();
                    for _ in &ids {
                        let answer = client.line().unwrap();
                        let m = ids.iter().position(|id| answer["id"] == *id).unwrap();
                        assert_eq!(answer["stdout"], format!("{n}.{m}\n"), "{answer}");
                        assert_eq!(answer["result"]["vm"], format!("v{n}-{m}"));
                    }
                });
            }
        });
        let mut client = server.client();
        assert_eq!(client.done("list", json!({})).as_array().unwrap().len(), 16);
        // While one runs, it can be told something, and others go on.
        let id = client.send(json!({"method": "exec", "params": {"name": "nobody", "command": ["true"]}}));
        assert_eq!(client.line().unwrap()["id"], id);
        let run = client.send(json!({"method": "run", "streams": "stream", "params": {"rm": true,
            "command": sh("trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.1; done")}}));
        assert_eq!(client.line().unwrap()["data"], "ready\n");
        client.done("signal", json!({"request": run, "signal": "USR1"}));
        let said = client.line().unwrap();
        assert_eq!(said["data"], "usr1\n", "{said}");
        assert_eq!(client.line().unwrap()["code"], 9);
    });
}

#[test]
fn root_and_user_a_server_ends_cleanly_or_leaves_what_the_next_one_can_use() {
    as_both("root_and_user_a_server_ends_cleanly_or_leaves_what_the_next_one_can_use", |lab| {
        let mut server = Server::start(lab);
        assert_eq!(server.socket.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let second = lab.fvm(["serve", "--socket", "s.sock"]).expect(1);
        assert!(second.err.contains("another 'fvm serve' serves at"), "{}", second.err);
        let mut client = server.client();
        client.done("create", json!({"name": "own"}));
        client.done("start", json!({"name": "own"}));
        let script = "trap 'echo term > got; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let id = client.send(
            json!({"method": "run", "streams": "stream", "params": {"command": sh(script), "name": "v", "keep": true}}),
        );
        assert_eq!(client.line().unwrap()["data"], "ready\n");
        server.signal(Signal::TERM);
        let answer = client.line().unwrap();
        assert!(answer["id"] == id && answer["code"] == 5, "its client hears of it: {answer}");
        assert_eq!((client.end().len(), server.ended(), server.socket.exists()), (0, Some(0), false));

        // The same, by force.
        let mut server = Server::start(lab);
        let mut client = server.client();
        let stubborn = "trap '' TERM HUP; echo ready; while :; do sleep 0.1; done";
        client.send(json!({"method": "run", "streams": "stream", "params": {"command": sh(stubborn), "name": "w", "keep": true}}));
        assert_eq!(client.line().unwrap()["data"], "ready\n");
        server.signal(Signal::KILL);
        server.ended();
        assert!(server.socket.exists(), "nobody was there to remove it");
        wait_for("the VM's end", || printed(lab, &["inspect", "w"])["now"] == "stopped");
        assert_eq!(printed(lab, &["inspect", "own"])["now"], "running", "it has a keeper of its own");
        assert_eq!(client.end().len(), 1, "what carried it out was ended");
        let next = Server::start(lab);
        assert_eq!(next.client().done("inspect", json!({"name": "w"}))["now"], "stopped");
        drop(next);
        // One that was to outlive its terminal does.
        let script = format!("trap '' HUP; exec {} --home home serve --socket s.sock", fvm_kit::binary().display());
        let mut deaf = Server::of(lab, lab.command("sh").args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap());
        deaf.signal(Signal::HUP);
        deaf.client().done("list", json!({}));
        deaf.signal(Signal::INT);
        assert_eq!(deaf.ended(), Some(0));
        // What is no socket is nobody's to remove.
        lab.sh("echo precious > s.sock");
        let refused = lab.fvm(["serve", "--socket", "s.sock"]).expect(1);
        assert!(refused.err.contains("no socket") && lab.sh("cat s.sock") == "precious\n", "{}", refused.err);
    });
}

#[test]
fn root_and_user_only_the_owner_is_served_and_no_vm() {
    as_both("root_and_user_only_the_owner_is_served_and_no_vm", |lab| {
        let server = Server::start(lab);
        if lab.user() == User::Ordinary {
            // Root can open everything, and is refused all the same.
            let mut root = UnixStream::connect(&server.socket).unwrap();
            let mut said = String::new();
            root.read_to_string(&mut said).unwrap();
            assert!(said.contains("somebody else's"), "{said}");
        } else {
            let other = Lab::new(User::Ordinary);
            let script = format!("{} {} < /dev/null", lab.path("connect").display(), server.socket.display());
            let refused = other.command("sh").args(["-c", &script]).output().unwrap();
            assert!(!refused.status.success(), "another user connected");
        }
        // A VM that was given the very socket, by somebody who did not think.
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                      s.sendall(b'{\"id\":1,\"method\":\"list\"}\\n'); print(s.makefile().readline())";
        let python = "/usr/bin/python3";
        assert!(std::path::Path::new(python).exists(), "{python} is not there");
        let socket = server.socket.to_str().unwrap();
        let shared =
            lab.fvm(["run", "--rm", "--share", lab.dir().to_str().unwrap(), "--", python, "-c", script, socket]);
        let passed = lab.fvm(["run", "--rm", "--socket", socket, "--", python, "-c", script, socket]);
        for tried in [shared, passed] {
            let why = if lab.user() == User::Root { "somebody else's" } else { "processes of VMs" };
            let is_refused = tried.out.contains(why) || tried.err.contains("Error");
            assert!(is_refused && !tried.out.contains("\"result\""), "{tried:?}");
        }
        let lists = lab.command(python).args(["-c", script, socket]).output().unwrap();
        assert!(String::from_utf8(lists.stdout).unwrap().contains("\"result\""), "the same is served outside");
    });
}

#[test]
fn root_and_user_the_python_client_of_the_book_works() {
    as_both("root_and_user_the_python_client_of_the_book_works", |lab| {
        let book = include_str!("../../../docs/book/api.md");
        let client = book.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
        let server = Server::start(lab);
        std::fs::write(lab.path("client.py"), client).unwrap();
        lab.sh("echo one > letter");
        let mut command = lab.command("/usr/bin/python3");
        command.arg("client.py").arg(&server.socket).stderr(Stdio::piped());
        let ran = fvm_kit::Ran::of(command.output().unwrap()).expect(0);
        let lines: Vec<_> = ran.out.lines().collect();
        assert_eq!(lines, ["modified letter", "committed as 1", "undone"], "{}", ran.err);
        assert_eq!(lab.sh("cat letter"), "one\n");
    });
}

#[test]
fn root_and_user_a_pool_is_made_used_and_drained_over_the_socket() {
    as_both("root_and_user_a_pool_is_made_used_and_drained_over_the_socket", |lab| {
        let server = Server::start(lab);
        let mut client = server.client();
        client.done("pool.create", json!({"name": "ready", "size": 2}));
        for n in 0..4 {
            let ran = client.call("run", json!({"pool": "ready", "command": ["echo", n.to_string()]}));
            assert_eq!(
                (&ran["code"], &ran["stdout"], &ran["result"]["exit"]),
                (&json!(0), &json!(format!("{n}\n")), &json!(0)),
                "{ran}"
            );
            assert_eq!(ran["result"]["kept"], false);
        }
        client.done("pool.drain", json!({"names": ["ready"]}));
        wait_for("the pool's end", || client.call("pool.delete", json!({"names": ["ready"]}))["code"] == 0);
    });
}
