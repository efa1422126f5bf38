use super::*;
use crate::dns::NamePattern;
use std::cell::RefCell;

struct Rules {
    allow: Vec<NamePattern>,
    deny: Vec<NamePattern>,
    learned: RefCell<Vec<String>>,
}

impl Rules {
    fn new(allow: &[&str], deny: &[&str]) -> Self {
        let patterns = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        Self { allow: patterns(allow), deny: patterns(deny), learned: RefCell::default() }
    }
}

impl Gate for Rules {
    fn allows(&self, name: &Name) -> bool {
        self.allow.iter().any(|p| p.matches(name))
    }
    fn denies(&self, name: &Name) -> bool {
        self.deny.iter().any(|p| p.matches(name))
    }
    fn learned(&self, name: &Name, addresses: &[IpAddr], hold: Duration) {
        self.learned.borrow_mut().push(format!("{name} {addresses:?} {}", hold.as_secs()));
    }
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    out.extend(name.parse::<Name>().unwrap().wire());
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out
}

/// An answer with an alias to `alias`, if there is one, and an address.
fn answer(question: &Question, alias: Option<&str>, address: [u8; 4], ttl_s: u8) -> Vec<u8> {
    let mut out = question.bytes();
    out[2] |= 0x80;
    let mut owner = question.query.name.clone();
    if let Some(alias) = alias {
        let to: Name = alias.parse().unwrap();
        out.extend(owner.wire());
        out.extend([0, 5, 0, 1, 0, 0, 0, ttl_s, 0, u8::try_from(to.wire().len()).unwrap()]);
        out.extend(to.wire());
        out[7] += 1;
        owner = to;
    }
    out.extend(owner.wire());
    out.extend([0, 1, 0, 1, 0, 0, 0, ttl_s, 0, 4]);
    out.extend(address);
    out[7] += 1;
    out
}

fn asked(rules: &Rules, name: &str) -> Question {
    match begin(&query(name, A), 77, true, &Hosts::default(), rules) {
        Step::Ask(question) => question,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_that_is_not_allowed_does_not_exist_and_nobody_is_asked() {
    let rules = Rules::new(&["*.test"], &["bad.test"]);
    for name in ["example.org", "bad.test", "test"] {
        match begin(&query(name, A), 1, true, &Hosts::default(), &rules) {
            Step::Answer(reply) => assert_eq!((reply[3] & 0xF, reply[7]), (3, 0), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn the_gate_learns_before_the_vm_does_and_an_address_holds_for_a_minute_at_least() {
    let rules = Rules::new(&["www.test"], &[]);
    let question = asked(&rules, "www.test");
    let bytes = answer(&question, Some("cdn.elsewhere"), [10, 0, 0, 1], 5);
    let Outcome::Answer(reply) = question.answered(bytes, true, &rules) else { panic!() };
    assert_eq!(reply[..2], [0x12, 0x34], "the VM's own number");
    assert_eq!(*rules.learned.borrow(), ["www.test [10.0.0.1] 60"]);
}

#[test]
fn an_alias_that_is_denied_takes_the_name_along() {
    let rules = Rules::new(&["www.test"], &["*.tracker"]);
    let question = asked(&rules, "www.test");
    let bytes = answer(&question, Some("x.tracker"), [10, 0, 0, 1], 200);
    let Outcome::Answer(reply) = question.answered(bytes, true, &rules) else { panic!() };
    assert_eq!((reply[3] & 0xF, reply[7]), (3, 0));
    assert!(rules.learned.borrow().is_empty());
}

#[test]
fn a_name_cannot_open_what_is_the_hosts_own_or_nobodys() {
    let rules = Rules::new(&["www.test"], &[]);
    for address in [[127, 0, 0, 1], [127, 1, 2, 3], [169, 254, 169, 254], [0, 0, 0, 0], [224, 0, 0, 1]] {
        let question = asked(&rules, "www.test");
        let bytes = answer(&question, None, address, 100);
        assert!(matches!(question.answered(bytes, true, &rules), Outcome::Answer(_)));
    }
    assert!(rules.learned.borrow().is_empty());
    for (text, elsewhere) in [
        ("::1", false),
        ("::", false),
        ("fe80::1", false),
        ("::ffff:127.0.0.1", false),
        ("::ffff:10.0.0.1", false),
        ("ff02::1", false),
        ("fd00::1", true),
        ("2001:db8::1", true),
        ("10.0.0.1", true),
    ] {
        assert_eq!(is_elsewhere(&text.parse().unwrap()), elsewhere, "{text}");
    }
}

#[test]
fn a_name_of_the_hosts_file_is_answered_from_it_and_announced_without_a_question() {
    let rules = Rules::new(&["local.test", "*.test"], &["no.test"]);
    let hosts =
        Hosts::parse("10.0.0.7 local.test\nfd00::7 local.test\n10.0.0.8 other.org no.test\n127.0.0.1 me.test\n");
    let Step::Answer(reply) = begin(&query("local.test", A), 1, true, &hosts, &rules) else { panic!() };
    assert_eq!((reply[3] & 0xF, reply[7]), (0, 1));
    assert_eq!(&reply[reply.len() - 4..], [10, 0, 0, 7]);
    announce(&hosts, &rules, Duration::from_secs(180));
    assert_eq!(*rules.learned.borrow(), ["local.test [10.0.0.7] 60", "local.test [10.0.0.7, fd00::7] 180"]);
}

#[test]
fn a_server_that_fails_is_not_believed_and_a_strangers_answer_is_not_the_answer() {
    let rules = Rules::new(&["www.test"], &[]);
    let question = asked(&rules, "www.test");
    let mut failed = answer(&question, None, [10, 0, 0, 1], 100);
    failed[3] |= 2;
    assert_eq!(question.answered(failed, true, &rules), Outcome::TryNext);
    let mut strange = answer(&question, None, [10, 0, 0, 1], 100);
    strange[0] ^= 1;
    assert_eq!(question.answered(strange, true, &rules), Outcome::NotIt);
    assert_eq!(question.failed()[3] & 0xF, 2);
    assert!(rules.learned.borrow().is_empty());
}
