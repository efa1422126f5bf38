use super::*;

const BASE: &str = "WINE REGISTRY Version 2\n;; All keys relative to \\\\User\n\n#arch=win64\n\n\
    [Control Panel\\\\Desktop] 1700000000\n#time=1da\n\"Wallpaper\"=\"old\"\n\"Long\"=hex:01,02,\\\n  03\n\n\
    [Software\\\\Gone] 1700000000\n#time=1da\n@=\"x\"\n\n\
    [Software\\\\Wine] 1700000000\n#time=1da\n\"Version\"=\"win10\"\n\n";

fn merge(vm: &str, host: &str, chosen: Option<&[&str]>) -> Merged {
    let chosen = chosen.map(|keys| keys.iter().map(|k| (*k).to_owned()).collect());
    let path = Path::new("/home/u/.wine/user.reg");
    Wine.merge(path, BASE.as_bytes(), vm.as_bytes(), host.as_bytes(), chosen.as_ref(), OnKeyConflict::Fail).unwrap()
}

fn vm() -> String {
    // Wine writes all times anew.
    BASE.replace("1700000000", "1800000000")
        .replace("1da", "1db")
        .replace("  03", "  04")
        .replace("[Software\\\\Gone] 1800000000\n#time=1db\n@=\"x\"\n\n", "")
        + "[Software\\\\New] 1800000000\n#time=1db\n\"Bar\"=dword:00000001\n\n"
}

#[test]
fn keys_and_values_are_named_as_people_name_them_and_times_are_no_change() {
    let changes = Wine.diff(Path::new("/p/user.reg"), BASE.as_bytes(), vm().as_bytes()).unwrap();
    let keys: Vec<&str> = changes.iter().map(|c| c.key.as_str()).collect();
    let want = [
        r"HKCU\Control Panel\Desktop value Long",
        r"HKCU\Software\Gone key",
        r"HKCU\Software\Gone value (default)",
        r"HKCU\Software\New key",
        r"HKCU\Software\New value Bar",
    ];
    assert_eq!(keys, want);
    assert_eq!(
        (changes[0].before.as_deref(), changes[0].after.as_deref()),
        (Some("hex:01,02,03"), Some("hex:01,02,04"))
    );
}

#[test]
fn only_what_is_chosen_changes_and_the_rest_is_byte_for_byte_the_hosts() {
    let host = BASE.replace("\"old\"", "\"host's\"");
    let merged = merge(&vm(), &host, Some(&[r"HKCU\Software\New value Bar"]));
    let new = "[Software\\\\New] 1800000000\n#time=1db\n\"Bar\"=dword:00000001\n\n";
    assert_eq!(String::from_utf8(merged.bytes).unwrap(), host.clone() + new);
    let all = merge(&vm(), &host, None);
    let want = host.replace("  03", "  04").replace("[Software\\\\Gone] 1700000000\n#time=1da\n@=\"x\"\n\n", "") + new;
    assert_eq!(String::from_utf8(all.bytes).unwrap(), want);
}

#[test]
fn a_value_that_both_sides_changed_is_a_conflict() {
    let host = BASE.replace("  03", "  05").replace("@=\"x\"", "@=\"y\"");
    let merged = merge(&vm(), &host, None);
    let keys: Vec<&str> = merged.conflicts.iter().map(|c| c.key.as_str()).collect();
    let want =
        [r"HKCU\Control Panel\Desktop value Long", r"HKCU\Software\Gone key", r"HKCU\Software\Gone value (default)"];
    assert_eq!(keys, want);
    assert_eq!(merged.bytes, host.as_bytes());
}

#[test]
fn hostile_text_is_read_to_its_end() {
    for text in
        ["WINE REGISTRY Version 2\n[", "WINE REGISTRY Version 2\n[a]\n\"", "WINE REGISTRY Version 2\n[a]\n\"x\"=\\"]
    {
        let _either = Wine.diff(Path::new("/p/user.reg"), BASE.as_bytes(), text.as_bytes());
    }
    assert!(Wine.diff(Path::new("/p/user.reg"), b"nonsense", b"").is_err());
}

fn sides(texts: [&str; 3], chosen: Option<&str>, on: OnKeyConflict) -> Result<String, String> {
    let head = "WINE REGISTRY Version 2\n\n";
    let [base, vm, host] = texts.map(|text| format!("{head}{text}"));
    let chosen = chosen.map(|key| BTreeSet::from([key.to_owned()]));
    let (b, v, h) = (base.as_bytes(), vm.as_bytes(), host.as_bytes());
    let merged = Wine.merge(Path::new("/p/user.reg"), b, v, h, chosen.as_ref(), on).unwrap();
    let out = String::from_utf8(merged.bytes).unwrap();
    if merged.conflicts.is_empty() {
        return Ok(out.strip_prefix(head).unwrap().to_owned());
    }
    assert_eq!(out, host, "a conflict changes nothing");
    Err(merged.conflicts.into_iter().map(|c| c.key).collect::<Vec<_>>().join("; "))
}

#[test]
fn three_hives_become_one() {
    let a = "[A] 1\n#time=1\n\"b\"=\"1\"\n\"d\"=\"1\"\n\n[C] 1\n\"x\"=\"1\"\n";
    let crlf = "[A] 1\r\n\"x\"=\"1\"\r\n\r\n[B] 1\r\n";
    for (what, files, want) in [
        ("nothing", [a, a, crlf], Ok(crlf)),
        ("a value", [a, &a.replace("\"b\"=\"1\"", "\"b\"=\"2\""), a], Ok(&*a.replace("\"b\"=\"1\"", "\"b\"=\"2\""))),
        (
            "lines with CR",
            ["[A] 1\n", "[A] 1\n\"y\"=\"1\"\n", crlf],
            Ok("[A] 1\r\n\"x\"=\"1\"\r\n\"y\"=\"1\"\n\r\n[B] 1\r\n"),
        ),
        (
            "a value of several lines less",
            [
                "[A] 1\n\"a\"=hex:1,\\\n  2\n\"b\"=\"1\"\n",
                "[A] 1\n\"b\"=\"1\"\n",
                "[A] 1\n\"h\"=\"1\"\n\"a\"=hex:1,\\\n  2\n\"b\"=\"1\"\n",
            ],
            Ok("[A] 1\n\"h\"=\"1\"\n\"b\"=\"1\"\n"),
        ),
        ("both the same value", ["", "[A] 1\n@=\"1\"\n", "[A] 9\n@=\"1\"\n"], Ok("[A] 9\n@=\"1\"\n")),
        (
            "both another value",
            ["[A] 1\n@=\"1\"\n", "[A] 1\n@=\"2\"\n", "[A] 1\n@=\"3\"\n"],
            Err(r"HKCU\A value (default)"),
        ),
        (
            "new keys at the end",
            ["", "[Y] 1\n\n[Z] 1\n", "[A] 1\n@=\"1\"\n"],
            Ok("[A] 1\n@=\"1\"\n\n[Y] 1\n\n[Z] 1\n\n"),
        ),
        ("a key less", [a, "[C] 1\n\"x\"=\"1\"\n", a], Ok("[C] 1\n\"x\"=\"1\"\n")),
        (
            "a key less, with a value of the host",
            [a, "[C] 1\n\"x\"=\"1\"\n", &a.replace("\"d\"", "\"own\"")],
            Err(r"HKCU\A key"),
        ),
        (
            "a key less, with noise of the host",
            ["[A] 1\n\"DriverDateData\"=hex:1\n", "", "[A] 1\n\"DriverDateData\"=hex:2\n"],
            Ok(""),
        ),
        (
            "a value for a key that the host deleted",
            ["[A] 1\n", "[A] 1\n@=\"1\"\n", "[B] 1\n"],
            Err(r"HKCU\A value (default)"),
        ),
        (
            "one key twice on the host",
            ["[A] 1\n@=\"1\"\n", "[A] 1\n@=\"2\"\n", "[A] 1\n\"h\"=\"0\"\n\n[B] 1\n\n[A] 1\n@=\"1\"\n"],
            Ok("[A] 1\n\"h\"=\"0\"\n@=\"2\"\n\n[B] 1\n\n"),
        ),
    ] {
        assert_eq!(sides(files, None, OnKeyConflict::Fail), want.map(str::to_owned).map_err(str::to_owned), "{what}");
    }
}

#[test]
fn a_conflict_is_settled_by_choice() {
    use OnKeyConflict::{Host, Vm};
    let files = ["[A] 1\n@=\"1\"\n\n[B] 1\n", "[A] 1\n@=\"2\"\n", "[A] 1\n@=\"3\"\n\n[B] 1\n\"h\"=\"1\"\n"];
    assert_eq!(sides(files, None, Vm).unwrap(), "[A] 1\n@=\"2\"\n\n");
    assert_eq!(sides(files, None, Host).unwrap(), files[2]);
    let default = Some(r"HKCU\A value (default)");
    assert_eq!(sides(files, default, Vm).unwrap(), "[A] 1\n@=\"2\"\n\n[B] 1\n\"h\"=\"1\"\n");
}

#[test]
fn an_absent_hive_is_made() {
    let vm = "WINE REGISTRY Version 2\n\n[A] 1\n@=\"1\"\n\n[B] 1\n\n";
    let merged = Wine.merge(Path::new("/p/user.reg"), b"", vm.as_bytes(), b"", None, OnKeyConflict::Fail).unwrap();
    assert_eq!(String::from_utf8(merged.bytes).unwrap(), vm);
}

#[test]
fn no_two_keys_have_one_name() {
    let text = "WINE REGISTRY Version 2\n[A value x] 1\n[A] 1\n\"x key\"=\"1\"\n[A value value] 1\n[A] 1\n\"value key\"=\"\"\n[A value] 1\n\"value x\"=\"\"\n\
        [A] 1\n\"value value x\"=\"\"\n@=\"\"\n\"(default)\"=\"\"\n[E\\\\u{1b}] 1\n[E\x1b] 1\n[E\\\\\x1b] 1\n[E\\x1b] 1\n";
    let changes = Wine.diff(Path::new("/p/user.reg"), b"", text.as_bytes()).unwrap();
    let keys: BTreeSet<&str> = changes.iter().map(|c| c.key.as_str()).collect();
    assert_eq!(keys.len(), changes.len(), "{changes:#?}");
}

#[test]
fn what_wine_would_not_write_is_refused() {
    for text in [
        "[A\n",
        "[A] 1\nx\n",
        "[A] 1\n\"x\"\n",
        "[A] 1\n\"x\n",
        "[A] 1\n@=hex:1,\\\n",
        "[A] 1\n@=hex:1,\\\n[B] 1\n",
        "[A] 1\n@=hex:1,\\",
    ] {
        let got = Wine.diff(Path::new("/p/user.reg"), b"", format!("WINE REGISTRY Version 2\n\n{text}").as_bytes());
        assert!(matches!(got, Err(RegistryError::Malformed { side: "VM", .. })), "{text:?}: {got:?}");
    }
}

#[test]
fn many_keys_take_linear_time() {
    let keys = |range: std::ops::Range<usize>| {
        range.map(|n| format!("[K{n:05}\\\\S] 1\n\"v\"=\"{n}\"\n\n")).collect::<String>()
    };
    let (base, vm, host) = (keys(0..10_000), keys(5_000..30_000), keys(0..10_000) + &keys(40_000..50_000));
    let merged = sides([&base, &vm, &host], None, OnKeyConflict::Fail).unwrap();
    assert_eq!(merged.lines().filter(|line| line.starts_with('[')).count(), 35_000);
}
