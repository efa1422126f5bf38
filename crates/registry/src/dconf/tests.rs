use super::*;

fn store(entries: &[(&str, &str)]) -> Vec<u8> {
    let value = |text: &str| [text.as_bytes(), b"\0\0s"].concat();
    write(&entries.iter().map(|(k, v)| (k.as_bytes().to_vec(), value(v))).collect()).unwrap()
}

#[test]
fn keys_of_both_sides_are_there_and_contradictions_are_conflicts() {
    let path = Path::new("/home/u/.config/dconf/user");
    let base = store(&[("/a/x", "1"), ("/a/y", "1"), ("/z", "1")]);
    let vm = store(&[("/a/x", "vm"), ("/a/y", "vm"), ("/b/new", "vm")]);
    let host = store(&[("/a/x", "1"), ("/a/y", "host"), ("/z", "1"), ("/c", "host")]);
    assert!(Dconf.recognises(path, &vm));
    let keys: Vec<KeyChange> = Dconf.diff(path, &base, &vm).unwrap();
    let shown: Vec<String> =
        keys.iter().map(|c| format!("{} {:?} {:?}", c.key, c.before.as_deref(), c.after.as_deref())).collect();
    let want = [
        r#"/a/x Some("'1'") Some("'vm'")"#,
        r#"/a/y Some("'1'") Some("'vm'")"#,
        r#"/b/new None Some("'vm'")"#,
        r#"/z Some("'1'") None"#,
    ];
    assert_eq!(shown, want);
    let merged = Dconf.merge(path, &base, &vm, &host, None, OnKeyConflict::Fail).unwrap();
    assert_eq!(merged.conflicts.len(), 1);
    assert_eq!((merged.conflicts[0].key.as_str(), merged.bytes == host), ("/a/y", true));
    let chosen = BTreeSet::from(["/a/x".to_owned(), "/z".to_owned()]);
    let merged = Dconf.merge(path, &base, &vm, &host, Some(&chosen), OnKeyConflict::Fail).unwrap();
    let want = store(&[("/a/x", "vm"), ("/a/y", "host"), ("/c", "host")]);
    assert_eq!(parse(&merged.bytes, "host").unwrap(), parse(&want, "host").unwrap());
}

#[test]
fn damaged_files_are_errors_not_panics() {
    let good = store(&[("/a/x", "1"), ("/b/y", "2")]);
    for cut in 0..good.len() {
        let _either = parse(&good[..cut], "VM");
    }
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _either = parse(&bad, "VM");
        }
    }
    assert!(parse(b"nonsense", "VM").is_err());
}

#[test]
fn a_file_that_says_more_than_it_holds_is_refused() {
    let good = store(&[("/a", "1"), ("/b", "2"), ("/c", "3")]);
    // Header, table head, buckets for "/", "/a", "/b", "/c"; then their items.
    let items = 24 + 8 + 4 * 4;
    let item = |n: usize| items + n * ITEM_BYTES;
    let keys: Vec<usize> = (0..4).filter(|n| good[item(*n) + 14] == b'v').collect();
    // One name twice.
    let mut twice = good.clone();
    let name = good[item(keys[0]) + 8..][..4].to_vec();
    twice[item(keys[1]) + 8..][..4].copy_from_slice(&name);
    assert!(parse(&twice, "VM").is_err());
    // Every value is nearly the whole file.
    let mut wide = good.clone();
    for key in &keys {
        wide[item(*key) + 16..][..4].copy_from_slice(&[0; 4]);
    }
    assert!(parse(&wide, "VM").is_err());
    // A ring of parents.
    let mut ring = good.clone();
    for n in 0..4_u8 {
        ring[item(usize::from(n)) + 4..][..4].copy_from_slice(&[(n + 1) % 4, 0, 0, 0]);
    }
    assert!(parse(&ring, "VM").is_err());
    assert!(parse(b"raVGtnai\0\0\0\0", "VM").is_err(), "the other byte order");
}

#[test]
fn an_empty_file_is_an_empty_database() {
    let path = Path::new("/home/u/.config/dconf/user");
    let one = store(&[("/a", "1")]);
    let merge = |base: &[u8], vm: &[u8], host: &[u8]| {
        Dconf.merge(path, base, vm, host, None, OnKeyConflict::Fail).unwrap().bytes
    };
    assert_eq!(merge(b"", &one, b""), one);
    assert_eq!(parse(&merge(&one, b"", &one), "host").unwrap(), Table::new());
    assert_eq!(Dconf.diff(path, &one, b"").unwrap()[0].before.as_deref(), Some("'1'"));
}

#[test]
fn conflicts_are_settled_by_choice_and_equal_values_are_none() {
    let path = Path::new("/home/u/.config/dconf/user");
    let base = store(&[("/a/x", "1"), ("/a/y", "1"), ("/b", "1")]);
    let vm = store(&[("/a/x", "2"), ("/b", "2"), ("/new/deep/er", "2")]);
    let host = store(&[("/a/x", "1"), ("/a/y", "3"), ("/b", "2"), ("/own", "3")]);
    let merge = |chosen: Option<&str>, on| {
        let chosen = chosen.map(|key| BTreeSet::from([key.to_owned()]));
        Dconf.merge(path, &base, &vm, &host, chosen.as_ref(), on).unwrap()
    };
    let conflict = KeyConflict { key: "/a/y".into(), base: Some("'1'".into()), host: Some("'3'".into()), vm: None };
    assert_eq!(merge(None, OnKeyConflict::Fail).conflicts, [conflict]);
    let (x, b, new, own) = (("/a/x", "2"), ("/b", "2"), ("/new/deep/er", "2"), ("/own", "3"));
    assert_eq!(merge(None, OnKeyConflict::Vm).bytes, store(&[x, b, new, own]));
    assert_eq!(merge(None, OnKeyConflict::Host).bytes, store(&[x, ("/a/y", "3"), b, new, own]));
    assert_eq!(merge(Some("/b"), OnKeyConflict::Fail).bytes, host, "nothing to do");
}

/// Runs `dconf` on a database; `None` where there is none.
fn dconf(bytes: &[u8], arguments: &[&str]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let (database, profile) = (folder.path().join("db"), folder.path().join("profile"));
    std::fs::write(&database, bytes).unwrap();
    std::fs::write(&profile, format!("user-db:fvm-none\nfile-db:{}\n", database.display())).unwrap();
    let out = std::process::Command::new("dconf")
        .args(arguments)
        .env("DCONF_PROFILE", &profile)
        .env("XDG_CONFIG_HOME", folder.path())
        .env("XDG_RUNTIME_DIR", folder.path())
        .output()
        .ok()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn dconf_reads_a_merged_database() {
    let vm = store(&[("/org/new/name", "b"), ("/org/x/d", "b")]);
    let host = store(&[("/org/x/e", "a"), ("/top", "a")]);
    let path = Path::new("/home/u/.config/dconf/user");
    let merged = Dconf.merge(path, b"", &vm, &host, None, OnKeyConflict::Fail).unwrap().bytes;
    let Some(dump) = dconf(&merged, &["dump", "/"]) else {
        eprintln!("skipped: dconf_reads_a_merged_database: there is no dconf here");
        return;
    };
    assert_eq!(dump, "[/]\ntop='a'\n\n[org/new]\nname='b'\n\n[org/x]\nd='b'\ne='a'\n");
    assert_eq!(dconf(&merged, &["read", "/org/x/d"]).as_deref(), Some("'b'\n"));
    assert_eq!(dconf(&merged, &["list", "/org/"]).as_deref(), Some("new/\nx/\n"));
}

#[test]
fn values_are_shown_as_dconf_shows_them() {
    let table: [(&[u8], &str); 6] = [
        (b"Sans 10\0\0s", "'Sans 10'"),
        (b"\x01\0b", "true"),
        (b"\x05\0\0\0\0i", "5"),
        (b"\xff\xff\xff\xff\0i", "-1"),
        (b"a\0bc\0\x02\x05\0as", "['a', 'bc']"),
        (b"\x01\x02\0(yy)", "(yy) 0x0102"),
    ];
    for (value, want) in table {
        assert_eq!(shown(value), want);
    }
}
