//! Which system calls a VM has: the filter that init puts on itself and so on all that it starts.
//!
//! ```text
//!   architecture ── another ─► ENOSYS, or the table for 32-bit x86 where the policy opens it
//!   number ── above LAST, x32 ─► ENOSYS
//!          ── refused ─► its errno         (a search tree: a handful of steps)
//!          ── socket, ioctl, clone, unshare ─► look at an argument
//!          ── any other ─► go on           (which the kernel remembers: no cost)
//! ```
//!
//! `seccompiler` neither knows that numbers can be too large (x32, and calls of the future), nor another architecture than
//! death; hence the program is put together here, and checked by running it ([`tests`]).
//!
//! Invariants: an argument is looked at only where it is a value in a register, never a pointer; the filter needs no
//! `NO_NEW_PRIVS`, for it is installed with `CAP_SYS_ADMIN` over the VM, and set-uid programs go on working in it.

pub mod table;

use fvm_model::Level;
use fvm_sys::bpf::{Assembler, Label};
use fvm_sys::seccomp::Instruction;
use fvm_trace::capture::calls::Refused;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use table::{DENIED, FAMILIES, Group, IOCTLS, LAST};

/// What a policy opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// User namespaces within the VM, as browsers' sandboxes want.
    pub user_namespaces: bool,
    /// Debuggers.
    pub trace: bool,
    /// `io_uring`.
    pub io_uring: bool,
    /// Cgroup namespaces within the VM: not where its root has the host's user id, and so owns what it then mounts.
    pub cgroup_namespaces: bool,
    /// 32-bit x86 programs. Opens the socket families too: those programs make sockets by a call that hides its arguments.
    pub x86_32: bool,
    /// What is refused whatever its arguments is refused by the tracer, which writes it down.
    pub logged: bool,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            user_namespaces: true,
            trace: true,
            io_uring: false,
            cgroup_namespaces: true,
            x86_32: false,
            logged: false,
        }
    }
}

impl From<fvm_model::policy::Kernel> for Calls {
    fn from(kernel: fvm_model::policy::Kernel) -> Self {
        Self {
            user_namespaces: kernel.user_namespaces,
            trace: kernel.trace,
            io_uring: kernel.io_uring,
            cgroup_namespaces: true,
            x86_32: kernel.x86_32,
            logged: false,
        }
    }
}

impl Calls {
    fn refuses(self, group: Group) -> bool {
        match group {
            Group::Never => true,
            Group::IoUring => !self.io_uring,
            Group::Trace => !self.trace,
        }
    }

    /// Flags of clone and unshare.
    fn refused_namespaces(self) -> u32 {
        let flag = |open: bool, flag: u32| if open { 0 } else { flag };
        flag(self.user_namespaces, CLONE_NEWUSER) | flag(self.cgroup_namespaces, CLONE_NEWCGROUP)
    }

    /// What the tracer refuses at `level`: with the filter all that it refuses whatever its arguments, and always `io_uring`,
    /// which no log sees.
    #[must_use]
    pub fn logged_at(self, level: Level, filter: bool) -> Vec<Refused> {
        if level != Level::Full {
            return Vec::new();
        }
        let told = |call: &&table::Denied| (filter && self.refuses(call.group)) || call.group == Group::IoUring;
        let refused = DENIED
            .iter()
            .filter(told)
            .filter_map(|call| Some(Refused { name: call.name, number: call.native?, errno: call.errno }));
        refused.chain(fvm_trace::capture::calls::refused_by(level).iter().copied()).collect()
    }

    /// The calls that are refused whatever their arguments.
    pub fn refused(self) -> impl Iterator<Item = &'static table::Denied> {
        DENIED.iter().filter(move |call| self.refuses(call.group))
    }
}

/// `AUDIT_ARCH_*` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7;
const I386: u32 = 0x4000_0003;

/// Offsets in `struct seccomp_data`; the lower half of a 64-bit argument on little-endian machines.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

const CLONE_NEWUSER: u32 = 0x1000_0000;
const CLONE_NEWCGROUP: u32 = 0x0200_0000;

/// Numbers of the calls whose arguments are looked at.
struct Looked {
    socket: u32,
    ioctl: u32,
    clone: u32,
    clone3: u32,
    unshare: u32,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "system call numbers")]
const HERE: Looked = Looked {
    socket: libc::SYS_socket as u32,
    ioctl: libc::SYS_ioctl as u32,
    clone: libc::SYS_clone as u32,
    clone3: libc::SYS_clone3 as u32,
    unshare: libc::SYS_unshare as u32,
};
const ON_I386: Looked = Looked { socket: 359, ioctl: 54, clone: 120, clone3: 435, unshare: 310 };

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Verdict {
    Allow,
    Fail(Errno),
}

impl Verdict {
    fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Fail(errno) => libc::SECCOMP_RET_ERRNO | errno.raw_os_error().unsigned_abs(),
        }
    }
}

/// The filter.
///
/// # Errors
/// `EINVAL` when the lists have become too long for it.
pub fn filter(calls: Calls) -> Result<Vec<Instruction>, Errno> {
    let mut asm = Assembler::default();
    let (native, other) = (asm.label(), asm.label());
    asm.load(ARCHITECTURE);
    asm.if_equal(NATIVE, native, other);
    asm.bind(native);
    let here = DENIED.iter().filter(|c| calls.refuses(c.group) && !calls.logged);
    let numbers = here.filter_map(|c| Some((c.native?, c.errno)));
    architecture(&mut asm, calls, numbers.collect(), &HERE);
    asm.bind(other);
    if calls.x86_32 && cfg!(target_arch = "x86_64") {
        let (i386, unknown) = (asm.label(), asm.label());
        asm.if_equal(I386, i386, unknown);
        asm.bind(unknown);
        asm.answer(Verdict::Fail(Errno::NOSYS).code());
        asm.bind(i386);
        let numbers = DENIED.iter().filter(|c| calls.refuses(c.group)).filter_map(|c| Some((c.i386?, c.errno)));
        architecture(&mut asm, calls, numbers.collect(), &ON_I386);
    } else {
        asm.answer(Verdict::Fail(Errno::NOSYS).code());
    }
    asm.finish()
}

/// What a leaf of the search tree stands for.
#[derive(Clone, Copy)]
enum Leaf {
    Answer(Verdict),
    Look(Label),
}

fn architecture(asm: &mut Assembler, calls: Calls, refused: Vec<(u32, Errno)>, looked: &Looked) {
    let (known, unknown) = (asm.label(), asm.label());
    asm.load(NUMBER);
    asm.if_greater(LAST, unknown, known);
    asm.bind(unknown);
    asm.answer(Verdict::Fail(Errno::NOSYS).code());
    asm.bind(known);
    let mut leaves: Vec<(u32, Leaf)> =
        refused.into_iter().map(|(n, errno)| (n, Leaf::Answer(Verdict::Fail(errno)))).collect();
    let (socket, ioctl, clone, unshare) = (asm.label(), asm.label(), asm.label(), asm.label());
    leaves.extend([(looked.socket, Leaf::Look(socket)), (looked.ioctl, Leaf::Look(ioctl))]);
    let refused = calls.refused_namespaces();
    if refused != 0 {
        leaves.extend([(looked.clone, Leaf::Look(clone)), (looked.unshare, Leaf::Look(unshare))]);
        // Its flags are in memory. The C library then takes clone.
        leaves.push((looked.clone3, Leaf::Answer(Verdict::Fail(Errno::NOSYS))));
    }
    leaves.sort_unstable_by_key(|(n, _)| *n);
    search(asm, &leaves);

    let families = FAMILIES.iter().map(|f| f.number);
    one_of(asm, socket, argument(0), families, Verdict::Fail(Errno::AFNOSUPPORT));
    one_of(asm, ioctl, argument(1), IOCTLS.iter().map(|(request, _)| *request), Verdict::Fail(Errno::PERM));
    if refused != 0 {
        for label in [clone, unshare] {
            asm.bind(label);
            asm.load(argument(0));
            let (yes, no) = (asm.label(), asm.label());
            asm.if_any_of(refused, yes, no);
            asm.bind(yes);
            asm.answer(Verdict::Fail(Errno::PERM).code());
            asm.bind(no);
            asm.answer(Verdict::Allow.code());
        }
    }
}

/// The number is loaded; finds its leaf.
fn search(asm: &mut Assembler, leaves: &[(u32, Leaf)]) {
    const FEW: usize = 4;
    if leaves.len() > FEW {
        let (low, high) = leaves.split_at(leaves.len() / 2);
        let (above, below) = (asm.label(), asm.label());
        asm.if_greater_or_equal(high[0].0, above, below);
        asm.bind(below);
        search(asm, low);
        asm.bind(above);
        search(asm, high);
        return;
    }
    for (number, leaf) in leaves {
        let next = asm.label();
        match leaf {
            Leaf::Look(label) => asm.if_equal(*number, *label, next),
            Leaf::Answer(verdict) => {
                let yes = asm.label();
                asm.if_equal(*number, yes, next);
                asm.bind(yes);
                asm.answer(verdict.code());
            }
        }
        asm.bind(next);
    }
    asm.answer(Verdict::Allow.code());
}

/// At `label`: `found` when the argument at `offset` is one of `values`.
fn one_of(asm: &mut Assembler, label: Label, offset: u32, values: impl Iterator<Item = u32>, found: Verdict) {
    asm.bind(label);
    asm.load(offset);
    let yes = asm.label();
    for value in values {
        let next = asm.label();
        asm.if_equal(value, yes, next);
        asm.bind(next);
    }
    asm.answer(Verdict::Allow.code());
    asm.bind(yes);
    asm.answer(found.code());
}

#[cfg(test)]
mod tests;
