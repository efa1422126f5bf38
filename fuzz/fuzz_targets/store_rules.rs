//! What holds for every keyed store, whatever its bytes.

use fvm_registry::{OnKeyConflict, Registry};
use std::collections::BTreeSet;
use std::path::Path;

/// The store that number `which` stands for, and a path of it.
pub fn store(which: u8) -> (&'static dyn Registry, &'static Path) {
    let (store, path): (&dyn Registry, &str) = match which % 6 {
        0 => (&fvm_registry::accounts::Accounts, "/etc/passwd"),
        1 => (&fvm_registry::accounts::Accounts, "/etc/group"),
        2 => (&fvm_registry::accounts::Accounts, "/etc/shadow"),
        3 => (&fvm_registry::accounts::Accounts, "/etc/subuid"),
        4 => (&fvm_registry::wine::Wine, "/home/u/.wine/user.reg"),
        _ => (&fvm_registry::dconf::Dconf, "/home/u/.config/dconf/user"),
    };
    (store, Path::new(path))
}

/// Compares and merges the base, the VM's side and the host's.
pub fn check(which: u8, [base, vm, host]: [&[u8]; 3]) {
    let (store, path) = store(which);
    let Ok(changes) = store.diff(path, base, vm) else { return };
    let keys: Vec<&str> = changes.iter().map(|c| c.key.as_str()).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "one key, one name: {keys:?}");
    for change in &changes {
        let texts = [Some(&change.key), change.before.as_ref(), change.after.as_ref()];
        assert!(!texts.into_iter().flatten().any(|text| text.chars().any(char::is_control)), "{change:?}");
        assert!(change.before.is_some() || change.after.is_some(), "{change:?}");
    }
    assert_eq!(store.diff(path, vm, vm), Ok(vec![]), "nothing differs from itself");

    // Over an unchanged host the VM's version comes, whole.
    let all = store.merge(path, base, vm, base, None, OnKeyConflict::Fail).expect("both sides can be read");
    assert_eq!(all.conflicts, []);
    assert_eq!(store.diff(path, vm, &all.bytes), Ok(vec![]), "what was written is what the VM has");

    for on in [OnKeyConflict::Fail, OnKeyConflict::Vm, OnKeyConflict::Host] {
        let Ok(merged) = store.merge(path, base, vm, host, None, on) else { return };
        let none = store.merge(path, base, vm, host, Some(&BTreeSet::new()), on).expect("it could be read");
        assert_eq!((none.bytes.as_slice(), none.conflicts.len()), (host, 0), "nothing chosen, nothing done");
        let same = store.merge(path, base, base, host, None, on).expect("it could be read");
        assert_eq!((same.bytes.as_slice(), same.conflicts.len()), (host, 0), "the VM changed nothing");
        if !merged.conflicts.is_empty() {
            assert_eq!((merged.bytes.as_slice(), on), (host, OnKeyConflict::Fail), "a conflict changes nothing");
            continue;
        }
        store.diff(path, host, &merged.bytes).expect("what was written can be read");
        let again = store.merge(path, base, vm, &merged.bytes, None, on).expect("what was written can be merged");
        if again.conflicts.is_empty() {
            assert_eq!(again.bytes, merged.bytes, "a merge that was done has nothing to do");
        }
    }
}
