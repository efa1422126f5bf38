//! A VM's queries, name servers' answers, and the two files of the host: whatever they hold, reading them ends, and
//! what is forwarded is a query that reads as the same.
#![no_main]

use fvm_net::dns::hosts::{Hosts, Resolv};
use fvm_net::dns::message::{ADDRESSES_MAX, Query, read_answer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(query) = Query::read(data) {
        let again = Query::read(&query.forwarded(7)).expect("what we forward is a query");
        assert_eq!((&again.name, again.kind), (&query.name, query.kind));
        // The same bytes as an answer to themselves, but for the flag that makes them one.
        let mut answer = data.to_vec();
        answer[2] |= 0x80;
        let id = u16::from_be_bytes([answer[0], answer[1]]);
        if let Ok(answer) = read_answer(&answer, id, &query) {
            assert!(answer.addresses.len() <= ADDRESSES_MAX && answer.names.len() <= 18);
        }
    }
    let text = String::from_utf8_lossy(data);
    for (name, addresses) in Hosts::parse(&text).iter() {
        assert!(name.to_string().parse::<fvm_net::dns::Name>().as_ref() == Ok(name) && !addresses.is_empty());
    }
    assert!(Resolv::parse(&text, |_| Some(1)).servers.len() <= 4);
});
