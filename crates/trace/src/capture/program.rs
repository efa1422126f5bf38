//! The filter in the kernel: which calls wait for the tracer.
//!
//! ```text
//!   architecture ── another ─► go on (the VM's own filter refuses it, unless the policy opens it)
//!   number ── not captured ─► go on          ── refused ─► wait
//!          ── captured ─► when? ── always ─► wait
//!                               ── bits of an argument ─► wait | go on
//!          ── clone3 ─► ENOSYS: programs take clone, whose flags are in a register
//! ```
//!
//! Invariant: a call that another filter of the VM refuses never waits: the kernel takes the sternest answer.

use super::calls::{Call, Refused, UNSEEN_CLONE, When};
use fvm_model::Level;
use fvm_model::event::Kind;
use fvm_sys::bpf::{Assembler, Label};
use fvm_sys::seccomp::Instruction;
use rustix::io::Errno;

/// `AUDIT_ARCH_*` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7;

/// Offsets in `struct seccomp_data`, little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
fn low(argument: u8) -> u32 {
    16 + 8 * u32::from(argument)
}

/// The program for `level`. `links`: hard links wait at every level, for some are answered ([`super::LinkRule`]).
///
/// # Errors
/// `EINVAL` when it has become too long.
pub fn filter(level: Level, refused: &[Refused], links: bool) -> Result<Vec<Instruction>, Errno> {
    let mut asm = Assembler::default();
    let (native, other) = (asm.label(), asm.label());
    asm.load(ARCHITECTURE);
    asm.if_equal(NATIVE, native, other);
    asm.bind(other);
    asm.answer(libc::SECCOMP_RET_ALLOW);
    asm.bind(native);
    asm.load(NUMBER);
    let mut places: Vec<(u32, Label, When)> = Vec::new();
    for call in super::calls::all() {
        let when = when(call, level, refused, links);
        if when != When::Never {
            places.push((call.number, asm.label(), when));
        }
    }
    places.extend(refused.iter().map(|call| (call.number, asm.label(), When::Always)));
    if !refused.iter().any(|call| call.number == UNSEEN_CLONE) {
        places.push((UNSEEN_CLONE, asm.label(), When::Never));
    }
    places.sort_unstable_by_key(|(number, ..)| *number);
    // Jumps are short: the tree is cut into pieces, each with its leaves behind it.
    const PIECE: usize = 16;
    for piece in places.chunks(PIECE) {
        let (here, after) = (asm.label(), asm.label());
        let end = asm.label();
        let above = piece.last().map_or(0, |(number, ..)| *number);
        asm.if_greater(above, after, here);
        asm.bind(here);
        let tree: Vec<(u32, Label)> = piece.iter().map(|(number, label, _)| (*number, *label)).collect();
        asm.search(&tree, end);
        for (number, label, when) in piece {
            asm.bind(*label);
            if *number == UNSEEN_CLONE && *when == When::Never {
                asm.answer(libc::SECCOMP_RET_ERRNO | Errno::NOSYS.raw_os_error().unsigned_abs());
            } else {
                leaf(&mut asm, *when);
            }
        }
        asm.bind(end);
        asm.answer(libc::SECCOMP_RET_ALLOW);
        asm.bind(after);
    }
    asm.answer(libc::SECCOMP_RET_ALLOW);
    asm.finish()
}

fn when(call: &Call, level: Level, refused: &[Refused], links: bool) -> When {
    match call.kind {
        _ if refused.iter().any(|r| r.number == call.number) => When::Never,
        Kind::Link if links => When::Always,
        _ => call.when(level),
    }
}

fn leaf(asm: &mut Assembler, when: When) {
    let (yes, no) = (asm.label(), asm.label());
    match when {
        When::Never | When::Always => asm.answer(libc::SECCOMP_RET_USER_NOTIF),
        When::Any(argument, bits) => {
            asm.load(low(argument));
            asm.if_any_of(bits, yes, no);
        }
        When::Both(argument, one, other) => {
            asm.load(low(argument));
            let second = asm.label();
            asm.if_any_of(one, second, no);
            asm.bind(second);
            asm.if_any_of(other, yes, no);
        }
        When::AnyOrNone(argument, any, none) => {
            asm.load(low(argument));
            let second = asm.label();
            asm.if_any_of(any, yes, second);
            asm.bind(second);
            asm.if_any_of(none, no, yes);
        }
        When::Given(argument) => {
            asm.load(low(argument));
            let high = asm.label();
            asm.if_equal(0, high, yes);
            asm.bind(high);
            asm.load(low(argument) + 4);
            asm.if_equal(0, no, yes);
        }
    }
    if !matches!(when, When::Never | When::Always) {
        asm.bind(yes);
        asm.answer(libc::SECCOMP_RET_USER_NOTIF);
        asm.bind(no);
        asm.answer(libc::SECCOMP_RET_ALLOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::calls::refused_by;
    use fvm_model::event::Group;

    /// What the kernel would answer.
    fn run(program: &[Instruction], arch: u32, number: libc::c_long, arguments: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[..4].copy_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        for (at, argument) in arguments.iter().enumerate() {
            data[16 + 8 * at..24 + 8 * at].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut loaded) = (0usize, 0u32);
        loop {
            let line = program[at];
            at += 1;
            let class = u32::from(line.code) & 0x07;
            if class == libc::BPF_LD {
                let from = line.k as usize;
                loaded = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            } else if class == libc::BPF_RET {
                return line.k;
            } else {
                let yes = match u32::from(line.code) & 0xf0 {
                    libc::BPF_JEQ => loaded == line.k,
                    libc::BPF_JGT => loaded > line.k,
                    libc::BPF_JGE => loaded >= line.k,
                    libc::BPF_JSET => loaded & line.k != 0,
                    other => panic!("{other}"),
                };
                at += usize::from(if yes { line.jt } else { line.jf });
            }
        }
    }

    const WAIT: u32 = libc::SECCOMP_RET_USER_NOTIF;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn writes_wait_and_reads_do_not() {
        let program = filter(Level::Basic, &[], false).unwrap();
        let openat = |flags: i32| run(&program, NATIVE, libc::SYS_openat, [0, 0, flags as u64, 0, 0, 0]);
        assert_eq!(openat(libc::O_RDONLY | libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_PATH), ALLOW);
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_RDONLY | libc::O_TRUNC, libc::O_TMPFILE | 2]
        {
            assert_eq!(openat(flags), WAIT, "{flags:x}");
        }
        let sendto = |address: u64| run(&program, NATIVE, libc::SYS_sendto, [3, 1, 1, 0, address, 0]);
        assert_eq!((sendto(0), sendto(8), sendto(1 << 40)), (ALLOW, WAIT, WAIT));
        let fchmod = |mode: u64| run(&program, NATIVE, libc::SYS_fchmod, [3, mode, 0, 0, 0, 0]);
        assert_eq!((fchmod(0o644), fchmod(0o755), fchmod(0o4644)), (ALLOW, WAIT, WAIT));
        assert_eq!(run(&program, 0x4000_0003, libc::SYS_execve, [0; 6]), ALLOW);
        let clone = |flags: i32| run(&program, NATIVE, libc::SYS_clone, [flags as u64, 0, 0, 0, 0, 0]);
        assert_eq!((clone(libc::SIGCHLD), clone(libc::CLONE_PARENT | libc::SIGCHLD)), (ALLOW, WAIT));
        let unseen = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(run(&program, NATIVE, libc::SYS_clone3, [1, 88, 0, 0, 0, 0]), unseen);
    }

    #[test]
    fn each_call_waits_at_its_levels_and_no_other_call_does() {
        let refused = [Refused { name: "bpf", number: libc::SYS_bpf as u32, errno: Errno::PERM }];
        let with_level: Vec<Refused> = refused.iter().chain(refused_by(Level::Full)).copied().collect();
        for (level, refused) in [(Level::Programs, &[][..]), (Level::Basic, &[]), (Level::Full, with_level.as_slice())]
        {
            let program = filter(level, refused, false).unwrap();
            for number in 0..500 {
                let call = super::super::calls::all().find(|c| c.number == number);
                let told = refused.iter().any(|r| r.number == number);
                let when = call.map_or(When::Never, |c| c.when(level));
                let waits = told || when != When::Never;
                let all = run(&program, NATIVE, number.into(), [u64::MAX; 6]);
                assert_eq!(all == WAIT, waits, "{level} {number}");
                let nothing = run(&program, NATIVE, number.into(), [0; 6]);
                let waits = told || matches!(when, When::Always | When::AnyOrNone(..));
                assert_eq!(nothing == WAIT, waits, "{level} {number}");
            }
        }
    }

    #[test]
    fn at_programs_what_is_done_to_files_does_not_wait_and_all_else_does_as_at_basic() {
        let program = filter(Level::Programs, &[], false).unwrap();
        let with_links = filter(Level::Programs, &[], true).unwrap();
        let mut waits = Vec::new();
        for call in super::super::calls::all() {
            let of_files = call.kind.group() == Group::File;
            assert_eq!(call.when(Level::Programs), if of_files { When::Never } else { call.when(Level::Basic) });
            let run = |program| run(program, NATIVE, call.number.into(), [u64::MAX; 6]);
            assert_eq!(run(&with_links) == WAIT, run(&program) == WAIT || call.kind == Kind::Link, "{}", call.name);
            waits.extend((run(&program) == WAIT).then_some(call.name));
        }
        waits.sort_unstable();
        let want = "bind chroot clone connect execve execveat exit exit_group listen pivot_root process_vm_writev ptrace sendto \
                    setns setsid unshare";
        assert_eq!(waits.join(" "), want);
        let openat = |flags: i32| run(&program, NATIVE, libc::SYS_openat, [0, 0, flags as u64, 0, 0, 0]);
        assert_eq!((openat(libc::O_RDWR | libc::O_CREAT), openat(libc::O_RDONLY)), (ALLOW, ALLOW));
        let ptrace = |request: u64| run(&program, NATIVE, libc::SYS_ptrace, [request, 1, 0, 0, 0, 0]);
        assert_eq!((ptrace(16), ptrace(0x4206), ptrace(0)), (WAIT, WAIT, ALLOW));
        let unseen = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(run(&program, NATIVE, libc::SYS_clone3, [1, 88, 0, 0, 0, 0]), unseen);
    }

    #[test]
    fn no_number_stands_twice() {
        let mut numbers: Vec<u32> = super::super::calls::all().map(|c| c.number).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }
}
