use super::*;

fn source(text: &str) -> Source {
    Source { file: "mine.toml".into(), text: text.into() }
}

fn nothing(_: &str) -> Result<Option<Source>, PolicyError> {
    Ok(None)
}

fn of(text: &str) -> Result<Policy, String> {
    resolve(&source(text), &Flags::default(), &nothing).map_err(|e| e.to_string())
}

fn wrong(text: &str) -> String {
    of(text).unwrap_err()
}

#[test]
fn every_profile_is_a_policy_and_the_first_is_the_default() {
    for profile in PROFILES {
        let source = builtin::source(profile.name).unwrap();
        let policy = resolve(&source, &Flags::default(), &nothing).unwrap();
        assert_eq!(policy.name.0, profile.name);
        if profile.name == "default" {
            assert_eq!(policy, Policy::default());
        }
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy, "{}", profile.name);
        let text = Source { file: policy.name.0.clone() + "-again", text: policy.to_toml() };
        let again = resolve(&text, &Flags::default(), &nothing).unwrap();
        assert_eq!(Policy { name: policy.name.clone(), ..again }, policy, "{}", text.text);
    }
}

#[test]
fn what_strangers_should_not_read_is_hidden_from_them() {
    let secrets = builtin::secrets();
    assert!(secrets.files.len() > 100 && secrets.variables.len() > 20, "the list cannot be read");
    let untrusted = of("extends = 'untrusted'").unwrap();
    for secret in &secrets.files {
        let pattern: Pattern = secret.name.parse().unwrap();
        assert!(untrusted.files.hide.contains(&pattern) && !secret.why.is_empty(), "{pattern}");
    }
    assert!(!untrusted.environment.passes(b"GITHUB_TOKEN") && untrusted.environment.passes(b"PATH"));
    let browser = of("extends = 'browser'").unwrap();
    let hides = |policy: &Policy, name: &str| policy.files.hide.iter().any(|p| p.as_str() == name);
    assert!(!hides(&browser, "~/.mozilla") && hides(&browser, "~/.ssh"));
}

#[test]
fn the_example_in_the_book_is_a_policy_and_has_every_key() {
    let book = include_str!("../../../../../docs/book/policy.md");
    let example = book.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    of(example).unwrap();
    for line in Policy::default().to_toml().lines().filter(|line| !line.is_empty()) {
        let key = line.split(" = ").next().unwrap();
        assert!(example.lines().any(|l| l == key || l.starts_with(&format!("{key} = "))), "{key} is not in the book");
    }
    for profile in PROFILES {
        assert!(book.contains(&format!("| `{}` |", profile.name)), "{}", profile.name);
    }
}

#[test]
fn a_policy_of_an_older_fvm_is_still_one() {
    let old: Policy = serde_json::from_str(r#"{"network":"none"}"#).unwrap();
    // Nobody who made it asked for a log.
    assert_eq!(old, Policy { network: Network::None, trace: crate::Level::Off, ..Policy::default() });
}

#[test]
fn lists_add_up_and_an_exclamation_mark_takes_out() {
    let policy = of("extends='untrusted'\n[files]\nhide=['!~/.ssh','/srv/secret']\nshare=['/srv/out']").unwrap();
    let hidden: Vec<&str> = policy.files.hide.iter().map(Pattern::as_str).collect();
    assert!(hidden.contains(&"/srv/secret") && !hidden.contains(&"~/.ssh") && hidden.contains(&"~/.gnupg"));
    let none = of("extends='untrusted'\n[files]\nhide_secrets=false\n[environment]\nhide_secrets=false").unwrap();
    assert!(none.files.hide.is_empty() && none.environment.passes(b"A_TOKEN"));
    let few = of("[environment]\npass=['PATH','LC_*']").unwrap();
    assert!(few.environment.passes(b"LC_ALL") && !few.environment.passes(b"HOME"));
}

#[test]
fn flags_stand_above_the_text() {
    let flags = Flags {
        network: Some(Network::Host),
        hide: vec!["~/x".into()],
        share: vec!["/srv/a".into()],
        hostname: Some("host".into()),
        ..Flags::default()
    };
    let policy = resolve(&builtin::source("untrusted").unwrap(), &flags, &nothing).unwrap();
    assert_eq!((policy.network, policy.hostname.as_deref()), (Network::Host, None));
    assert!(policy.files.share.len() == 1 && policy.files.hide.iter().any(|p| p.as_str() == "~/x"));
}

#[test]
fn each_error_has_its_place_and_says_what_to_do() {
    assert_eq!(
        wrong("\n[files]\nhid = ['~/.ssh']"),
        "mine.toml:3:1: unknown key 'hid': did you mean 'hide'?\n  3 | hid = ['~/.ssh']\n    | ^^^"
    );
    assert_eq!(
        wrong("[kernel]\ntrace = 'no'"),
        "mine.toml:2:9: invalid type: string \"no\", expected a boolean\n  2 | trace = 'no'\n    |         ^^^^"
    );
    let cases = [
        ("zzzzzz = 1", "1:1: unknown key 'zzzzzz': it is one of extends,"),
        ("[network]\nmode = 'hots'", "2:8: 'hots' is not a network; use 'own', 'host' or 'none'"),
        ("[network]\nallow = ['a..b:80']", "2:10: 'a..b' is not a host name"),
        ("[network]\npublish = ['0:80']", "2:12: '0:80' is not a port, nor two as HOST:VM"),
        ("[dbus]\nsession = 'privat'", "unknown value 'privat': did you mean 'private'?"),
        ("extends = 'untrustd'", "1:11: there is no policy 'untrustd': did you mean 'untrusted'?"),
        ("[files]\nhide = ['a/b']", "2:9: 'a/b' is neither absolute nor below '~/'"),
        ("[files]\nhide = ['/a/../b']", "'/a/../b' leaves by '..' what it names"),
        ("[limits]\nmemory = '2X'", "2:10: '2X' is no size: bytes, or a number with K, M, G or T, such as 512M"),
        ("[limits]\nmemory = true", "expected a number, or a text such as \"512M\""),
        ("[limits]\nswap = '1G'", "swap is limited to 1G, but memory is not"),
        ("[limits]\nmemroy = '1G'", "did you mean 'memory'?"),
        ("[limits]\ncpus = 0", "'0' is no number of processors"),
        ("[files]\nshare = ['/a/*']", "'/a/*' may not have wildcards"),
        ("[files]\nshare = ['/']", "'/' is everything"),
        ("[devices]\npass = ['/etc/x']", "'/etc/x' is not in /dev"),
        ("[files]\nhide = ['/srv']\nshare = ['/srv/a']", "3:10: '/srv/a' is to be shared, but '/srv' is to be hidden"),
        ("[files]\nread_only = ['/srv']\nshare = ['/srv']", "'/srv' is to be shared, but '/srv' is to be read-only"),
        ("[files]\nread_only = ['/srv']\nhide = ['/srv']", "'/srv' is to be read-only, but '/srv' is to be hidden"),
        (
            "[files]\nhide = ['/run']\n[sockets]\npass = ['/run/x']",
            "4:9: '/run/x' is to be passed, but '/run' is to be",
        ),
        (
            "[dbus]\nsession = 'none'\npass = ['open-uri']",
            "3:9: 'open-uri' is to be passed on the session bus, but there is none",
        ),
        ("[dbus]\npass = ['opne-uri']", "did you mean 'open-uri'?"),
        ("[files]\nshare = ['/proc/self']", "2:10: '/proc/self' cannot be shared: a VM has a /proc of its own"),
        (
            "[files]\nhide = ['/dev/dri']\n[devices]\npass = ['/dev/dri/card0']",
            "4:9: '/dev/dri/card0' is to be passed, but '/dev/dri' is to be hidden",
        ),
        ("[files]\nhide = ['!/srv']", "2:9: '!/srv' takes nothing out: '/srv' is not in the list"),
        (
            "extends = 'untrusted'\n[files]\nhide = ['!~/.sssh']",
            "'!~/.sssh' takes nothing out: '~/.sssh' is not in the list; did you mean '~/.ssh'?",
        ),
        (
            "requires = ['openat2', 'overlayfs']",
            "1:24: 'overlayfs' is no feature that 'fvm doctor' tries: did you mean 'overlay'?",
        ),
        ("hostname = 'a b'", "1:12: 'a b' is no host name"),
        ("[environment]\nhide = ['A=B']", "2:9: 'A=B' is no name of a variable"),
        ("[files\nhide = []", "1:7: "),
        ("a = ", "1:"),
    ];
    for (text, want) in cases {
        let got = wrong(text);
        assert!(got.starts_with("mine.toml:") && got.contains(want), "{text}\n{got}");
    }
}

#[test]
fn a_policy_that_extends_itself_is_told_with_the_whole_chain() {
    let find = |name: &str| {
        let other = match name {
            "a" => "b",
            _ => "a",
        };
        Ok(Some(Source { file: name.to_owned(), text: format!("extends = '{other}'") }))
    };
    let error = resolve(&source("extends = 'a'"), &Flags::default(), &find).unwrap_err();
    assert_eq!(error.message, "a policy cannot extend itself: mine.toml -> a -> b -> a");
    let place = error.place.unwrap();
    assert_eq!((place.file.as_str(), place.line), ("b", 1));
}

#[test]
fn what_an_error_shows_is_short_and_cannot_write_to_the_terminal() {
    let said = wrong("[files]\nhide = ['\u{202e}x', \"a\\u001b[2J\\n\"]");
    assert!(!said.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{said:?}");
    assert_eq!(said.lines().count(), 3, "{said}");
    let said = wrong(&format!("[files]\nhide = [{}'bad', '/b']", "'/a', ".repeat(500)));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("mine.toml:2:3009: 'bad' is neither") && said.len() < 500, "{said}");
    assert_eq!(lines[1].find("'bad'"), lines[2].find("^^^^^"), "{said}");
    assert!(wrong(&format!("'{}' = 1", "a\u{301}".repeat(50_000))).len() < 5000);
}

#[test]
fn a_list_without_end_is_refused_before_it_costs_anything() {
    let text = format!("[files]\nhide = [{}]", "'/a',".repeat(50_000));
    assert!(wrong(&text).contains("a list has at most 1000 entries"));
}

#[test]
fn a_damaged_policy_is_an_error_or_a_policy_that_survives_being_written() {
    // A fixed row of numbers: a failure comes again.
    let mut state = 4u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let all: Vec<char> = PROFILES.iter().flat_map(|p| p.text.chars()).chain("!~*?/.'\"[]=\n\\é\0".chars()).collect();
    for _ in 0..200 {
        let mut text: Vec<char> = PROFILES[next(PROFILES.len())].text.chars().collect();
        for _ in 0..=next(3) {
            let at = next(text.len());
            match next(3) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, all[next(all.len())]),
                _ => text[at] = all[next(all.len())],
            }
        }
        let text: String = text.into_iter().collect();
        let Ok(policy) = of(&text) else { continue };
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy, "{text}");
        assert_eq!(of(&policy.to_toml()).as_ref(), Ok(&policy), "{text}");
    }
}

#[test]
fn no_text_makes_the_reader_panic() {
    for text in
        ["\u{feff}", "[", "é = 1\n\u{1f980}=", "\t\thide = 1", "a='''\n\n\n", "\0", "[files]\nhide=['\\u0000/x']"]
    {
        let _either = of(text);
    }
    assert!(of(&"#".repeat(300 << 10)).is_err());
}
