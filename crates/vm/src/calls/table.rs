//! The system calls that a VM does not get, each with its reason: the one list.
//!
//! ```text
//!   DENIED    refused whatever the arguments; a policy may open a group
//!   FAMILIES  socket(2) families that no namespace keeps apart, or that nobody needs and that had holes
//!   IOCTLS    requests that push input into, or reprogram, a terminal
//! ```
//!
//! `EPERM` is what an unprivileged program gets from the kernel for such a call, and is ready for. `ENOSYS` makes a
//! program take the older way. Calls newer than [`LAST`] give `ENOSYS`, so that nothing is open that nobody has looked at.

use rustix::io::Errno;

/// The newest call that this list was made against: `file_setattr`, Linux 6.17. The numbers since 424 are the same on
/// every architecture.
pub const LAST: u32 = 469;

/// What a policy may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Nothing opens it.
    Never,
    /// `io_uring`.
    IoUring,
    /// Tracing of the VM's own processes.
    Trace,
}

/// A refused call.
#[derive(Debug, Clone, Copy)]
pub struct Denied {
    /// Its name.
    pub name: &'static str,
    /// Its number here; `None` where this architecture has no such call.
    pub native: Option<u32>,
    /// Its number for 32-bit x86 programs.
    pub i386: Option<u32>,
    /// What the program is told.
    pub errno: Errno,
    /// What opens it.
    pub group: Group,
    /// Why.
    pub why: &'static str,
}

#[cfg(target_arch = "x86_64")]
const fn only_x86(n: u32) -> Option<u32> {
    Some(n)
}
#[cfg(not(target_arch = "x86_64"))]
const fn only_x86(_: u32) -> Option<u32> {
    None
}

const fn number(n: libc::c_long) -> Option<u32> {
    Some(n as u32)
}

const fn denied(
    name: &'static str,
    native: Option<u32>,
    i386: Option<u32>,
    errno: Errno,
    group: Group,
    why: &'static str,
) -> Denied {
    Denied { name, native, i386, errno, group, why }
}

const KEYS: &str = "keyrings are shared by user id across namespaces: a key of the host's could be found or left there";
const URING: &str = "its operations pass every filter by, and it has been the way out of many sandboxes";
const MODULES: &str = "puts code into the kernel";
const KEXEC: &str = "starts another kernel";
const CLOCK: &str = "the clock is the host's";
const SWAP: &str = "swap is the host's";
const QUOTA: &str = "quotas are the host's";
const PORTS: &str = "reaches the hardware directly";
const OLD: &str = "obsolete, and a hole wherever it still exists";
const BYPASS: &str = "reaches files by number, past every directory that hides them";
const WATCH: &str = "watches the kernel, and the host's processes with it";
const PAUSE: &str = "stops the kernel at a page of the program's choice: the usual help in exploiting races";
const LOG: &str = "the kernel's log tells about the host";
const TRACE: &str = "the policy allows no tracing";

const PERM: Errno = Errno::PERM;
const NOSYS: Errno = Errno::NOSYS;
const NEVER: Group = Group::Never;

/// Refused calls.
pub const DENIED: &[Denied] = &[
    denied("add_key", number(libc::SYS_add_key), Some(286), NOSYS, NEVER, KEYS),
    denied("request_key", number(libc::SYS_request_key), Some(287), NOSYS, NEVER, KEYS),
    denied("keyctl", number(libc::SYS_keyctl), Some(288), NOSYS, NEVER, KEYS),
    denied("open_by_handle_at", number(libc::SYS_open_by_handle_at), Some(342), PERM, NEVER, BYPASS),
    denied("bpf", number(libc::SYS_bpf), Some(357), PERM, NEVER, MODULES),
    denied("perf_event_open", number(libc::SYS_perf_event_open), Some(336), PERM, NEVER, WATCH),
    denied("userfaultfd", number(libc::SYS_userfaultfd), Some(374), PERM, NEVER, PAUSE),
    denied("io_uring_setup", number(libc::SYS_io_uring_setup), Some(425), NOSYS, Group::IoUring, URING),
    denied("io_uring_enter", number(libc::SYS_io_uring_enter), Some(426), NOSYS, Group::IoUring, URING),
    denied("io_uring_register", number(libc::SYS_io_uring_register), Some(427), NOSYS, Group::IoUring, URING),
    denied("kexec_load", number(libc::SYS_kexec_load), Some(283), PERM, NEVER, KEXEC),
    denied("kexec_file_load", number(libc::SYS_kexec_file_load), None, PERM, NEVER, KEXEC),
    denied("init_module", number(libc::SYS_init_module), Some(128), PERM, NEVER, MODULES),
    denied("finit_module", number(libc::SYS_finit_module), Some(350), PERM, NEVER, MODULES),
    denied("delete_module", number(libc::SYS_delete_module), Some(129), PERM, NEVER, MODULES),
    denied("create_module", only_x86(174), Some(127), NOSYS, NEVER, MODULES),
    denied("get_kernel_syms", only_x86(177), Some(130), NOSYS, NEVER, OLD),
    denied("query_module", only_x86(178), Some(167), NOSYS, NEVER, OLD),
    denied("quotactl", number(libc::SYS_quotactl), Some(131), PERM, NEVER, QUOTA),
    denied("quotactl_fd", Some(443), Some(443), PERM, NEVER, QUOTA),
    denied("swapon", number(libc::SYS_swapon), Some(87), PERM, NEVER, SWAP),
    denied("swapoff", number(libc::SYS_swapoff), Some(115), PERM, NEVER, SWAP),
    denied("acct", number(libc::SYS_acct), Some(51), PERM, NEVER, WATCH),
    denied("clock_settime", number(libc::SYS_clock_settime), Some(264), PERM, NEVER, CLOCK),
    denied("clock_settime64", None, Some(404), PERM, NEVER, CLOCK),
    denied("clock_adjtime", number(libc::SYS_clock_adjtime), Some(343), PERM, NEVER, CLOCK),
    denied("clock_adjtime64", None, Some(405), PERM, NEVER, CLOCK),
    denied("settimeofday", number(libc::SYS_settimeofday), Some(79), PERM, NEVER, CLOCK),
    denied("stime", None, Some(25), PERM, NEVER, CLOCK),
    denied("adjtimex", number(libc::SYS_adjtimex), Some(124), PERM, NEVER, CLOCK),
    denied("syslog", number(libc::SYS_syslog), Some(103), PERM, NEVER, LOG),
    denied("lookup_dcookie", number(libc::SYS_lookup_dcookie), Some(253), NOSYS, NEVER, OLD),
    denied("nfsservctl", number(libc::SYS_nfsservctl), Some(169), NOSYS, NEVER, OLD),
    denied("uselib", only_x86(134), Some(86), NOSYS, NEVER, OLD),
    denied("sysfs", only_x86(139), Some(135), NOSYS, NEVER, OLD),
    denied("_sysctl", only_x86(156), Some(149), NOSYS, NEVER, OLD),
    denied("bdflush", None, Some(134), NOSYS, NEVER, OLD),
    denied("vm86", None, Some(166), NOSYS, NEVER, OLD),
    denied("vm86old", None, Some(113), NOSYS, NEVER, OLD),
    denied("iopl", only_x86(172), Some(110), PERM, NEVER, PORTS),
    denied("ioperm", only_x86(173), Some(101), PERM, NEVER, PORTS),
    denied("ptrace", number(libc::SYS_ptrace), Some(26), PERM, Group::Trace, TRACE),
    denied("process_vm_readv", number(libc::SYS_process_vm_readv), Some(347), PERM, Group::Trace, TRACE),
    denied("process_vm_writev", number(libc::SYS_process_vm_writev), Some(348), PERM, Group::Trace, TRACE),
    denied("kcmp", number(libc::SYS_kcmp), Some(349), PERM, Group::Trace, TRACE),
];

/// A socket family that is refused.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its number.
    pub number: u32,
    /// Why.
    pub why: &'static str,
}

const fn family(number: libc::c_int, why: &'static str) -> Family {
    Family { number: number as u32, why }
}

const RARE: &str = "its module would be loaded into the host's kernel at the VM's word; rare, and a history of holes";

/// Families of which no socket is made.
pub const FAMILIES: &[Family] = &[
    family(libc::AF_VSOCK, "talks to the hypervisor and its machines, past the network namespace"),
    family(libc::AF_ALG, "the kernel's own ciphers: a large surface that no program needs"),
    family(libc::AF_KEY, "the kernel's own IPsec keys, by an interface of old"),
    family(libc::AF_AX25, RARE),
    family(libc::AF_NETROM, RARE),
    family(libc::AF_ROSE, RARE),
    family(libc::AF_X25, RARE),
    family(libc::AF_DECnet, RARE),
    family(libc::AF_ATMPVC, RARE),
    family(libc::AF_ATMSVC, RARE),
    family(libc::AF_APPLETALK, RARE),
    family(libc::AF_IPX, RARE),
    family(libc::AF_RDS, RARE),
    family(libc::AF_TIPC, RARE),
    family(libc::AF_LLC, RARE),
    family(libc::AF_CAN, RARE),
    family(libc::AF_PPPOX, RARE),
    family(libc::AF_IRDA, RARE),
    family(libc::AF_BLUETOOTH, "the host's radio, which is in no namespace"),
    family(libc::AF_NFC, "the host's radio, which is in no namespace"),
    family(libc::AF_ISDN, RARE),
    family(libc::AF_PHONET, RARE),
    family(libc::AF_IEEE802154, RARE),
    family(libc::AF_CAIF, RARE),
];

/// Terminal requests that are refused.
pub const IOCTLS: &[(u32, &str)] = &[
    (0x5412, "TIOCSTI types into a terminal as if its user had"),
    (0x541C, "TIOCLINUX pastes into, and reprograms, the console"),
    (0x5423, "TIOCSETD loads line disciplines into the host's kernel at the VM's word"),
];
