use super::*;

/// A query for `name`, with an OPT record if asked.
fn query(name: &str, kind: u16, edns: bool) -> Vec<u8> {
    let name: Name = name.parse().unwrap();
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    out.extend(name.wire());
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    if edns {
        out.extend([0, 0, 41, 0x20, 0, 0, 0, 0x80, 0, 0, 0]);
    }
    out
}

fn record(out: &mut Vec<u8>, name: &str, kind: u16, ttl: u32, data: &[u8]) {
    out.extend(name.parse::<Name>().unwrap().wire());
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out.extend(ttl.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out[7] += 1;
}

fn answer_to(query: &Query, id: u16) -> Vec<u8> {
    let mut out = query.reply(Code::Done, &[], 0);
    out[..2].copy_from_slice(&id.to_be_bytes());
    out
}

#[test]
fn what_is_forwarded_is_written_by_us_and_nothing_else_of_the_query_survives() {
    let mut bytes = query("Mirror.Test", A, true);
    bytes[12 + 1] = b'M';
    bytes.extend(b"smuggled");
    let query = Query::read(&bytes).unwrap();
    let sent = query.forwarded(0xBEEF);
    assert_eq!(&sent[..12], [0xBE, 0xEF, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(&sent[12..25], b"\x06Mirror\x04test\0");
    assert_eq!(&sent[25..], [0, 1, 0, 1, 0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
    assert_eq!(query.room(), 4096);
}

#[test]
fn what_is_no_question_is_dropped_or_answered_with_what_is_wrong() {
    let good = query("a.test", A, false);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        match Query::read(&bytes) {
            Ok(_) => 99,
            Err(Rejected::Silently) => 98,
            Err(Rejected::With(reply)) => reply[3] & 0xF,
        }
    };
    assert_eq!(with(&|_| {}), 99);
    assert_eq!(with(&|b| b.truncate(11)), 98, "no header");
    assert_eq!(with(&|b| b[2] |= 0x80), 98, "an answer");
    assert_eq!(with(&|b| b[2] |= 0x28), 4, "an update");
    assert_eq!(with(&|b| b[5] = 2), 1, "two questions");
    assert_eq!(with(&|b| b[7] = 1), 1, "answers in a query");
    assert_eq!(with(&|b| b.truncate(20)), 1, "cut off");
    assert_eq!(with(&|b| b[12] = 0xC0), 1, "a pointer into the header");
    assert_eq!(with(&|b| b[21] = 252), 4, "a whole zone");
    assert_eq!(with(&|b| b[23] = 3), 4, "another class");
    assert_eq!(with(&|b| b[11] = 1), 1, "a record that is not there");
}

#[test]
fn an_answer_teaches_the_addresses_of_the_name_over_its_aliases_and_no_others() {
    let query = Query::read(&query("www.test", A, false)).unwrap();
    let mut bytes = answer_to(&query, 7);
    record(&mut bytes, "other.test", A, 9, &[10, 0, 0, 9]);
    record(&mut bytes, "cdn.test", A, 300, &[10, 0, 0, 1]);
    record(&mut bytes, "www.test", CNAME, 60, "cdn.test".parse::<Name>().unwrap().wire());
    record(&mut bytes, "cdn.test", A, 300, &[10, 0, 0, 2]);
    record(&mut bytes, "cdn.test", 99, 1, b"anything");
    let answer = read_answer(&bytes, 7, &query).unwrap();
    let names: Vec<_> = answer.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["www.test", "cdn.test"]);
    assert_eq!(answer.addresses, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
    assert_eq!(answer.ttl_s, 60);
}

#[test]
fn aliases_in_a_circle_end() {
    let query = Query::read(&query("a.test", A, false)).unwrap();
    let mut bytes = answer_to(&query, 7);
    record(&mut bytes, "a.test", CNAME, 60, "b.test".parse::<Name>().unwrap().wire());
    record(&mut bytes, "b.test", CNAME, 60, "a.test".parse::<Name>().unwrap().wire());
    assert_eq!(read_answer(&bytes, 7, &query).unwrap().names.len(), 2);
}

#[test]
fn another_questions_answer_and_a_malformed_one_are_none() {
    let asked = Query::read(&query("a.test", A, false)).unwrap();
    let other = Query::read(&query("b.test", A, false)).unwrap();
    let good = answer_to(&asked, 7);
    assert!(read_answer(&good, 7, &asked).is_ok());
    assert!(read_answer(&good, 8, &asked).is_err(), "another number");
    assert!(read_answer(&answer_to(&other, 7), 7, &asked).is_err(), "another name");
    assert!(read_answer(&query("a.test", A, false), 7, &asked).is_err(), "a query");
    let mut short = good.clone();
    record(&mut short, "a.test", A, 1, &[10, 0, 0]);
    assert!(read_answer(&short, 7, &asked).is_err(), "an address of three bytes");
    let mut cut = good;
    record(&mut cut, "a.test", A, 1, &[10, 0, 0, 1]);
    cut.pop();
    assert!(read_answer(&cut, 7, &asked).is_err(), "cut off");
    cut[2] |= 2;
    assert!(read_answer(&cut, 7, &asked).unwrap().truncated, "cut off, and said so");
}

#[test]
fn an_answer_too_long_for_udp_says_so() {
    let query = Query::read(&query("a.test", AAAA, false)).unwrap();
    let many: Vec<IpAddr> = (0..64).map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into()).collect();
    let long = query.reply(Code::Done, &many, 5);
    let short = query.fitted(long.clone());
    assert!(long.len() > 512 && short.len() < 512 && short[2] & 2 != 0 && short[7] == 0);
    assert!(read_answer(&long, 0x1234, &query).is_ok_and(|a| a.addresses == many && a.ttl_s == 5));
}

#[test]
fn no_bytes_whatever_make_a_reader_fail_otherwise_than_by_saying_so() {
    // Every cut and every single changed byte of a message that has all there is, as query and as answer.
    let query = Query::read(&query("www.test", A, true)).unwrap();
    let mut whole = answer_to(&query, 7);
    record(&mut whole, "www.test", CNAME, 60, "cdn.test".parse::<Name>().unwrap().wire());
    record(&mut whole, "cdn.test", A, 300, &[10, 0, 0, 1]);
    for end in 0..=whole.len() {
        let _any = read_answer(&whole[..end], 7, &query);
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF] {
            let mut changed = whole.clone();
            changed[at] = value;
            if let Ok(answer) = read_answer(&changed, 7, &query) {
                assert!(answer.addresses.len() <= ADDRESSES_MAX && answer.names[0] == query.name);
            }
            if let Ok(read) = Query::read(&changed) {
                assert!(Query::read(&read.forwarded(1)).is_ok_and(|again| again.name == read.name));
            }
        }
    }
}

#[test]
fn random_changes_of_messages_are_read_within_bounds() {
    let query = Query::read(&query("www.test", A, true)).unwrap();
    let mut whole = answer_to(&query, 7);
    for n in 0..20 {
        record(&mut whole, "www.test", CNAME, 60, "cdn.test".parse::<Name>().unwrap().wire());
        record(&mut whole, "cdn.test", A, n, &[10, 0, 0, 1]);
    }
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..50_000 {
        let mut changed = whole.clone();
        for _ in 0..=random(6) {
            let at = random(changed.len());
            // Pointers are where readers go astray.
            changed[at] = if random(2) == 0 {
                0xC0 | u8::try_from(random(64)).unwrap()
            } else {
                u8::try_from(random(256)).unwrap()
            };
        }
        changed.truncate(changed.len() - random(40));
        if let Ok(answer) = read_answer(&changed, 7, &query) {
            assert!(answer.names.len() <= 18 && answer.addresses.len() <= ADDRESSES_MAX);
        }
        changed[2] &= 0x7F;
        if let Ok(read) = Query::read(&changed) {
            assert_eq!(Query::read(&read.forwarded(1)).map(|again| again.name), Ok(read.name.clone()));
        }
    }
}
