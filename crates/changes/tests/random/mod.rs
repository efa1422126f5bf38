//! Random scripts for a VM, or its host.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

/// A step of a random walk (xorshift64).
pub fn next(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state % below as u64).unwrap()
}

/// A shell script of so many steps in a small tree; those that cannot be done fail.
pub fn any_script(state: &mut u64, steps: usize) -> String {
    let path = |state: &mut u64| {
        let depth = 1 + next(state, 3);
        (0..depth).map(|_| ["a", "b", "c"][next(state, 3)]).collect::<Vec<_>>().join("/")
    };
    let mut script = String::new();
    for step in 0..steps {
        let (from, to) = (path(state), path(state));
        let line = match next(state, 10) {
            0 => format!("mkdir -p {from}"),
            1 | 2 => format!("echo {step} > {from}"),
            3 => format!("echo {step} >> {from}"),
            4 => format!("rm -r {from}"),
            5 | 6 => format!("mv -T {from} {to}"),
            7 => format!("ln {from} {to}"),
            8 => format!("chmod 7{}0 {from}", next(state, 8)),
            _ => format!("ln -s {step} {from}"),
        };
        script.push_str(&format!("{line} || true\n"));
    }
    script
}
