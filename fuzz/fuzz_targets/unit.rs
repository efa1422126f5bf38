//! Units: any bytes are a unit or an error with its place, never a panic; what is read stays within its bounds, and so does
//! everything that is made of it.
#![no_main]
use fvm_service::limits::{VALUE_MAX_BYTES, WORDS_MAX};
use fvm_service::service::Phase;
use fvm_service::{Facts, Fragment, Unit, UnitName, UnitSet, envfile};

libfuzzer_sys::fuzz_target!(|parts: (&str, &[u8], &[u8], &[u8])| {
    let (name, main, drop_in, variables) = parts;
    let environment = envfile::parse(variables).unwrap_or_default().into_iter().collect();
    let name = UnitName::typed(name).unwrap_or_else(|_| UnitName::typed("a@b").expect("a name"));
    let fragment = |text: &[u8]| Fragment { file: "f".into(), text: text.to_vec() };
    match Unit::parse(&name, &[fragment(main), fragment(drop_in)], &Facts::default()) {
        Err(e) => assert!(!e.to_string().chars().any(char::is_control), "{e:?}"),
        Ok(unit) => {
            for command in Phase::ALL.iter().flat_map(|phase| unit.service.of(*phase)) {
                let Ok(words) = command.arguments(&environment) else { continue };
                assert!(words.len() <= WORDS_MAX + 1 && words.iter().map(Vec::len).sum::<usize>() <= 2 * VALUE_MAX_BYTES);
            }
            let mut set = UnitSet::default();
            set.add(unit);
            let wanted = [name];
            for absent in set.needed(&wanted).unwrap_or_default() {
                set.absent(absent);
            }
            let _planned = set.plan(&wanted);
        }
    }
});
