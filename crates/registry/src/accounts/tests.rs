use super::*;

fn merge(file: &str, base: &str, vm: &str, host: &str) -> Result<String, Vec<String>> {
    let path = Path::new("/etc").join(file);
    let (b, v, h) = (base.as_bytes(), vm.as_bytes(), host.as_bytes());
    let merged = Accounts.merge(&path, b, v, h, None, OnKeyConflict::Fail).unwrap();
    if merged.conflicts.is_empty() {
        return Ok(String::from_utf8(merged.bytes).unwrap());
    }
    assert_eq!(merged.bytes, h, "a conflict changes nothing");
    Err(merged.conflicts.into_iter().map(|c| format!("{}: {}", c.key, c.host.unwrap_or_default())).collect())
}

#[test]
fn entries_of_both_sides_are_there_and_contradictions_are_conflicts() {
    let base = "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n";
    let vm = "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\navahi:x:105:112::/run:/bin/false\n";
    let host = "root:x:0:0::/root:/bin/bash\ndaemon:x:1:1::/:/bin/false\nbob:x:1001:1001::/home/bob:/bin/sh\n";
    let both = "root:x:0:0::/root:/bin/bash\ndaemon:x:1:1::/:/bin/false\nbob:x:1001:1001::/home/bob:/bin/sh\n\
                avahi:x:105:112::/run:/bin/false\n";
    type Case<'c> = (&'c str, &'c str, &'c str, &'c str, Result<&'c str, &'c str>);
    let cases: [Case<'_>; 36] = [
        ("passwd", base, vm, host, Ok(both)),
        ("passwd", base, vm, "bob:x:105:9::/:/bin/sh\n", Err("user avahi: uid 105 is taken by bob")),
        ("passwd", "a:x:1:1:::\n", "a:x:1:1:::vm\n", "a:x:1:1:::host\n", Err("user a: a:x:1:1:::host")),
        ("passwd", "a:x:1:1:::\n", "", "a:x:1:1:::\nb:x:2:2:::\n", Ok("b:x:2:2:::\n")),
        ("passwd", "", "n:x:5:5:::\n", "a:x:1:1:::\n+::::::\n", Ok("a:x:1:1:::\nn:x:5:5:::\n+::::::\n")),
        ("group", "d:x:9:\n", "d:x:9:al\n", "d:x:9:bob\n", Ok("d:x:9:bob,al\n")),
        ("group", "d:x:9:a,b\n", "d:x:9:b\n", "d:x:9:a,b,c\n", Ok("d:x:9:b,c\n")),
        ("subuid", "", "v:100000:65536\n", "h:165000:10\n", Err("subuid v: 165000-165009 are taken by h")),
        ("subuid", "", "v:100000:65536\n", "h:165536:10", Ok("h:165536:10\nv:100000:65536")),
        // Bytes of the host that are no entry, and its order, stay.
        (
            "passwd",
            "a:1:1\nb:1:2\n",
            "b:1:2\na:2:1\n",
            "#c\n\nb:1:2\n q:x\na:1:1\nz",
            Ok("#c\n\nb:1:2\n q:x\na:2:1\nz"),
        ),
        ("passwd", "r:x:0:", "r:x:0:\nn:x:5:", "r:x:0:\nh:x:6:\n", Ok("r:x:0:\nh:x:6:\nn:x:5:\n")),
        ("passwd", "a:\nb:\n", "b:\na:\n", "b:", Ok("b:")),
        ("passwd", "", "", "\n", Ok("\n")),
        ("passwd", "a:x:1:1:A:/a:/sh\n", "a:x:1:1:A:/a:/zsh\n", "a:x:1:1:B:/a:/sh\n", Ok("a:x:1:1:B:/a:/zsh\n")),
        ("passwd", "a:x:1:1:A\n", "a:x:1:1:B\n", "a:x:1:1:B\nb:\n", Ok("a:x:1:1:B\nb:\n")),
        ("passwd", "a:x:1\n", "a:y:1:new\n", "a:x:2\n", Err("user a: a:x:2")),
        ("passwd", "a:x:1\n", "a:x:1\r\n", "a:x:1\nb:\n", Ok("a:x:1\r\nb:\n")),
        // Deletions.
        ("passwd", "a:x:1\nb:x:2\n", "a:x:1\n", "b:x:2\na:x:1\n", Ok("a:x:1\n")),
        ("passwd", "a:x:1\n", "", "a:x:2\n", Err("user a: a:x:2")),
        ("passwd", "a:x:1\n", "a:x:2\n", "", Err("user a: ")),
        ("passwd", "a:x:1\nb:x:3\n", "b:x:4\n", "b:x:3\n", Ok("b:x:4\n")),
        // Two lines of one name.
        ("passwd", "a:x:1\na:x:9\n", "a:x:2\na:x:9\n", "a:x:1\na:x:9\n", Ok("a:x:2\na:x:9\n")),
        ("passwd", "a:x:1\na:x:9\n", "", "a:x:1\na:x:9\n", Ok("")),
        // Ids: only those that the VM gave since.
        ("passwd", "toor:x:0:0\n", "toor:x:0:0\nr:x:0:0\n", "toor:x:0:0\n", Ok("toor:x:0:0\nr:x:0:0\n")),
        ("passwd", "a:x:5:old\n", "a:x:5:new\n", "a:x:5:old\nb:x:5:\n", Ok("a:x:5:new\nb:x:5:\n")),
        ("group", "", "d:x:1:a\n", "d:x:2:a\n", Err("group d: d:x:2:a")),
        ("group", "", "d:x:1:alice\n", "d:x:1:bob\n", Ok("d:x:1:bob,alice\n")),
        ("gshadow", "d:!:a:b\n", "d:!:a,n:b\n", "d:!:a,h:b,c\n", Ok("d:!:a,h,n:b,c\n")),
        // NIS lines are entries, and stay last.
        ("passwd", "", "+\nn:x:5:\n", "a:x:1\n", Ok("a:x:1\nn:x:5:\n+\n")),
        ("passwd", "+@g\n", "", "a:x:1\n+@g\n", Ok("a:x:1\n")),
        // An owner has many ranges.
        ("subuid", "a:1:5\n", "a:1:5\na:9:5\n", "a:1:5\nb:20:5\n", Ok("a:1:5\nb:20:5\na:9:5\n")),
        ("subuid", "a:1:5\na:9:5\n", "a:9:5\n", "a:1:5\nb:20:5\na:9:5\n", Ok("b:20:5\na:9:5\n")),
        ("subuid", "", "a:100:1\n", "b:0:1000\nc:50:1\n", Err("subuid a: 0-999 are taken by b")),
        ("subuid", "", "a:100:50\n", "a:100:50\n", Ok("a:100:50\n")),
        ("subuid", "a:1:5\na:1:5\n", "a:1:5\na:9:5\n", "a:1:5\na:1:5\n", Ok("a:1:5\na:1:5\na:9:5\n")),
        ("subuid", "a:1:5\na:9:5\n", "a:9:5\na:1:5\na:9:5\n", "a:1:5\na:9:5\n", Ok("a:1:5\na:9:5\n")),
    ];
    for (file, base, vm, host, want) in cases {
        let want = want.map(str::to_owned).map_err(|e| vec![e.to_owned()]);
        assert_eq!(merge(file, base, vm, host), want, "{file} {vm:?} {host:?}");
    }
}

#[test]
fn only_the_chosen_entry_is_brought_over() {
    let (base, vm) = (&b"a:x:1:1:::\n"[..], &b"a:x:1:1:::new\nb:x:2:2:::\nc:x:3:3:::\n"[..]);
    let chosen = BTreeSet::from(["user b".to_owned()]);
    let path = Path::new("/etc/passwd");
    let merged = Accounts.merge(path, base, vm, base, Some(&chosen), OnKeyConflict::Fail).unwrap();
    assert_eq!(merged.bytes, b"a:x:1:1:::\nb:x:2:2:::\n");
}

#[test]
fn a_password_is_never_shown_but_its_change_is() {
    let cases = [
        ("shadow", "a:$6$o:1\n", "a:$6$n:1\n", Some("a:*hidden*:1"), "a:*hidden*:1 (password changed)"),
        ("shadow", "a:$6$o:1\n", "a:$6$n:2\n", Some("a:*hidden*:1"), "a:*hidden*:2 (password changed)"),
        ("shadow", "a:$6$o:1\n", "a:!$6$o:1\n", Some("a:*hidden*:1"), "a:!*hidden*:1 (password changed)"),
        ("shadow", "a:$6$o:1\n", "a:$6$o:2\n", Some("a:*hidden*:1"), "a:*hidden*:2"),
        ("shadow-", "a:*:1\n", "a:!*:1\n", Some("a:*:1"), "a:!*:1"),
        ("gshadow", "", "a:pw::\n", None, "a:*hidden*::"),
        ("passwd", "a:x:1\n", "a:HASH:1\n", Some("a:x:1"), "a:*hidden*:1 (password changed)"),
        ("subgid-", "t:1:2\n", "t:1:2\nt:5:6\n", Some("t:1:2"), "t:1:2, t:5:6"),
    ];
    for (file, base, vm, before, after) in cases {
        let changes = Accounts.diff(&Path::new("/etc").join(file), base.as_bytes(), vm.as_bytes()).unwrap();
        let shown: Vec<_> = changes.iter().map(|c| (c.before.as_deref(), c.after.as_deref())).collect();
        assert_eq!(shown, [(before, Some(after))], "{file} {vm:?}");
    }
    let conflict = merge("shadow", "a:$6$o:1\n", "a:$6$n:1\n", "a:$6$h:1\n");
    assert_eq!(conflict, Err(vec!["shadow a: a:*hidden*:1".to_owned()]));
}

#[test]
fn keys_are_sorted_and_printable_and_comments_are_none() {
    let (base, vm) = ("b:x:1:\nc:x:2:\n#old\n", "z\x1b:x:4:\n#new\nb:x:1:\n\na:x:3:\n");
    let changes = Accounts.diff(Path::new("/etc/group"), base.as_bytes(), vm.as_bytes()).unwrap();
    let keys: Vec<&str> = changes.iter().map(|c| c.key.as_str()).collect();
    assert_eq!(keys, ["group a", "group c", r"group z\u{1b}"]);
}

#[test]
fn a_conflict_is_settled_by_choice() {
    let settle = |base: &str, vm: &str, host: &str, on| {
        let (b, v, h) = (base.as_bytes(), vm.as_bytes(), host.as_bytes());
        String::from_utf8(Accounts.merge(Path::new("/etc/passwd"), b, v, h, None, on).unwrap().bytes).unwrap()
    };
    let (vm, host) = ("a:x:5\nb:x:6\n", "h:x:5\n");
    assert_eq!(settle("", vm, host, OnKeyConflict::Vm), "h:x:5\na:x:5\nb:x:6\n");
    assert_eq!(settle("", vm, host, OnKeyConflict::Host), "h:x:5\nb:x:6\n");
    assert_eq!(settle("a:x:1\n", "a:x:2\n", "a:x:3\n", OnKeyConflict::Vm), "a:x:2\n");
    assert_eq!(settle("a:x:1\n", "a:x:2\n", "a:x:3\n", OnKeyConflict::Host), "a:x:3\n");
}

#[test]
fn a_large_file_takes_linear_time() {
    let lines = |from: usize, to: usize| (from..to).map(|n| format!("u{n}:x:{n}:0:::\n")).collect::<String>();
    let (base, vm, host) = (lines(0, 20_000), lines(10_000, 60_000), lines(0, 20_000) + &lines(70_000, 90_000));
    assert_eq!(merge("passwd", &base, &vm, &host).unwrap().lines().count(), 70_000);
    let ranges = |to: usize| (0..to).map(|n| format!("u:{n}:1\n")).collect::<String>();
    assert_eq!(merge("subuid", &ranges(2), &ranges(50_000), &ranges(3)).unwrap().lines().count(), 50_000);
}

#[test]
fn a_merge_with_an_unchanged_host_gives_the_vms_entries() {
    // A small generator: names a..h with fields that follow from the seed.
    let mut seed = 7_u64;
    let mut next = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    for _ in 0..500 {
        let mut side = || -> Vec<u8> {
            let mut text = Vec::new();
            for name in b'a'..=b'h' {
                if next(3) > 0 {
                    text.extend([name]);
                    text.extend(format!(":x:{}:{}:::\n", name, next(3)).into_bytes());
                }
            }
            text
        };
        let (base, vm) = (side(), side());
        let path = Path::new("/etc/passwd");
        let merged = Accounts.merge(path, &base, &vm, &base, None, OnKeyConflict::Fail).unwrap();
        assert_eq!(merged.conflicts, []);
        assert_eq!(Accounts.diff(path, &vm, &merged.bytes).unwrap(), [], "the entries are the VM's");
    }
}
