//! Policies: any text, on any other that it extends, is a policy or an error that cannot write to the terminal, never a
//! panic; a policy survives being stored, and being shown and read again.
#![no_main]
use fvm_model::Policy;
use fvm_model::policy::{Flags, Source, resolve};

libfuzzer_sys::fuzz_target!(|parts: (&str, &str, &str)| {
    let (text, other, hidden) = parts;
    let source = |file: &str, text: &str| Source { file: file.into(), text: text.into() };
    let find = |name: &str| Ok((name == "other").then(|| source("other", other)));
    let flags = Flags { hide: vec![hidden.into()], ..Flags::default() };
    for flags in [Flags::default(), flags] {
        match resolve(&source("fuzz", text), &flags, &find) {
            Err(e) => assert!(!e.to_string().chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{e:?}"),
            Ok(policy) => {
                let json = serde_json::to_vec(&policy).expect("a policy can be written");
                assert_eq!(serde_json::from_slice::<Policy>(&json).expect("and read"), policy);
                let again = resolve(&source("fuzz", &policy.to_toml()), &Flags::default(), &find);
                assert_eq!(again.as_ref(), Ok(&policy), "{}", policy.to_toml());
            }
        }
    }
});
