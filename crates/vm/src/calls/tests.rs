//! The filter, run by an interpreter of the few instructions that it uses, against the lists.

use super::*;
use std::collections::HashSet;

/// Runs the program as the kernel would.
fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        16.. => {
            let arg = args[((offset - 16) / 8) as usize];
            if (offset - 16).is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
        _ => panic!("offset {offset}"),
    };
    let (mut at, mut loaded) = (0, 0);
    loop {
        let i = program[at];
        at += 1;
        let test = match u32::from(i.code) & 0xf7 {
            0x20 => {
                loaded = word(i.k);
                continue;
            }
            0x06 => return i.k,
            0x15 => loaded == i.k,
            0x25 => loaded > i.k,
            0x35 => loaded >= i.k,
            0x45 => loaded & i.k != 0,
            other => panic!("code {other:#x}"),
        };
        at += usize::from(if test { i.jt } else { i.jf });
    }
}

fn every() -> impl Iterator<Item = Calls> {
    (0..32).map(|n| Calls {
        user_namespaces: n & 1 != 0,
        trace: n & 2 != 0,
        io_uring: n & 4 != 0,
        x86_32: n & 8 != 0,
        cgroup_namespaces: n & 16 != 0,
        logged: false,
    })
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn fails(errno: Errno) -> u32 {
    Verdict::Fail(errno).code()
}

#[test]
fn every_number_gets_what_the_list_says() {
    for calls in every() {
        let program = filter(calls).unwrap();
        let tables = [(NATIVE, true), (I386, calls.x86_32 && cfg!(target_arch = "x86_64"))];
        for (arch, is_open) in tables {
            for number in (0..1200).chain([0x4000_0000, 0x4000_0000 | 16, u32::MAX]) {
                let listed = DENIED
                    .iter()
                    .find(|c| calls.refuses(c.group) && Some(number) == if arch == NATIVE { c.native } else { c.i386 });
                let clone3 = if arch == NATIVE { HERE.clone3 } else { ON_I386.clone3 };
                let want = match listed {
                    _ if !is_open || number > LAST => fails(Errno::NOSYS),
                    Some(call) => fails(call.errno),
                    None if number == clone3 && calls.refused_namespaces() != 0 => fails(Errno::NOSYS),
                    None => ALLOW,
                };
                assert_eq!(run(&program, arch, number, [0; 6]), want, "{calls:?} {arch:#x} {number}");
            }
        }
        assert_eq!(run(&program, 0x4000_0028, 1, [0; 6]), fails(Errno::NOSYS), "another architecture");
    }
}

#[test]
fn arguments_are_looked_at_by_the_half_that_the_kernel_takes() {
    let program = filter(Calls { user_namespaces: false, ..Calls::default() }).unwrap();
    let call = |number, args: [u64; 2]| run(&program, NATIVE, number, [args[0], args[1], 0, 0, 0, 0]);
    for (family, want) in
        [(libc::AF_INET, ALLOW), (libc::AF_NETLINK, ALLOW), (libc::AF_VSOCK, fails(Errno::AFNOSUPPORT))]
    {
        assert_eq!(call(HERE.socket, [family as u64, 1]), want);
    }
    for request in [0x5412, 0xffff_ffff_0000_5412, 0x541c] {
        assert_eq!(call(HERE.ioctl, [0, request]), fails(Errno::PERM), "{request:#x}");
    }
    assert_eq!(call(HERE.ioctl, [0, 0x5401]), ALLOW);
    for number in [HERE.clone, HERE.unshare] {
        assert_eq!(call(number, [u64::from(CLONE_NEWUSER) | 0x11, 0]), fails(Errno::PERM));
        assert_eq!(call(number, [0x11, 0]), ALLOW);
        let no_cgroups = filter(Calls { cgroup_namespaces: false, ..Calls::default() }).unwrap();
        let with = |flags: u32| run(&no_cgroups, NATIVE, number, [u64::from(flags), 0, 0, 0, 0, 0]);
        assert_eq!((with(CLONE_NEWCGROUP), with(CLONE_NEWUSER)), (fails(Errno::PERM), ALLOW));
        assert_eq!(run(&filter(Calls::default()).unwrap(), NATIVE, number, [u64::MAX; 6]), ALLOW);
    }
}

#[test]
fn no_call_is_listed_twice_and_each_has_a_reason() {
    let mut names = HashSet::new();
    let (mut native, mut i386) = (HashSet::new(), HashSet::new());
    for call in DENIED {
        assert!(names.insert(call.name) && call.why.len() > 10, "{}", call.name);
        assert!(
            call.native.is_none_or(|n| native.insert(n)) && call.i386.is_none_or(|n| i386.insert(n)),
            "{}",
            call.name
        );
        assert!(call.native.or(call.i386).is_none_or(|n| n <= LAST));
    }
}
