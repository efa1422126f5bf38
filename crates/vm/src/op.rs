//! The sandbox as data: every step that turns a process into a VM, in order, printable (`fvm explain`).
//!
//! ```text
//!             Shifted             Identity             Rootless
//!   builder:  PrivateMounts       (init does           (init does
//!             Overlay /  ...       everything)          everything)
//!             ReadOnly, File
//!             Device tree, System
//!             Mask  <home> <run>
//!   ───────── EnterNamespaces ─── after Proc, Mask ─── first of all ───
//!   init:     Keyring             Keyring
//!             Proc                                     Proc
//!             PivotRoot, Loopback                      PivotRoot, Loopback, Keyring
//!             SystemCalls
//! ```
//!
//! Invariants: [`SetupOp`] holds no descriptor and no secret; a mask stands before the user namespace is entered, so
//! that the kernel locks it and the VM's root cannot take it away; planning changes nothing ([`crate::build`]). What is
//! told to the kernel of a process, not of its mounts, comes before all else of init's, but for the filter ([`crate::early`]).

use crate::calls::Calls;
use crate::calls::table::FAMILIES;
use fvm_model::vm::XattrClass;
use fvm_model::{HostPath, Level, VmPath};
use serde::Serialize;
use std::fmt;

/// Restrictions of a host mount that its counterpart in the VM keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub struct Restrict {
    /// Read-only.
    pub read_only: bool,
    /// Set-uid programs run as themselves.
    pub nosuid: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

/// One step of building a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum SetupOp {
    /// Leave the host's mount propagation.
    PrivateMounts,
    /// A copy-on-write view of a host directory.
    Overlay {
        /// `layers/<layer>`.
        layer: u32,
        /// What is seen through it.
        lower: HostPath,
        /// Where it stands in the VM.
        target: VmPath,
        /// Ids shifted into the VM's range.
        idmapped: bool,
        /// Where overlayfs keeps its notes.
        class: XattrClass,
        /// If there are any, lower is `layers/<layer>/skeleton`, made from the names in these directories: `lower`, and those below it
        /// that have no layer of their own, parents first.
        skeleton: Vec<HostPath>,
        /// What the host's mount forbids.
        restrict: Restrict,
    },
    /// A host directory or file, shown but not writable.
    ReadOnly {
        /// The source.
        source: HostPath,
        /// Where it stands in the VM.
        target: VmPath,
        /// Ids shifted into the VM's range.
        idmapped: bool,
        /// What the host's mount forbids.
        restrict: Restrict,
    },
    /// A private copy of a host file that is itself a mount point.
    File {
        /// `layers/<layer>/file`.
        layer: u32,
        /// The original.
        source: HostPath,
        /// Where it stands in the VM.
        target: VmPath,
        /// Ids shifted into the VM's range.
        idmapped: bool,
    },
    /// The host's own directory or file: what is written there is written to the host.
    Share {
        /// The source, and its place in the VM.
        path: HostPath,
        /// Ids shifted into the VM's range.
        idmapped: bool,
        /// What the host's mount forbids.
        restrict: Restrict,
    },
    /// A socket of the host's: what listens there can be talked to.
    Socket {
        /// The source, and its place in the VM.
        path: HostPath,
        /// Ids shifted into the VM's range.
        idmapped: bool,
    },
    /// What is in the VM so far cannot be changed there.
    Freeze {
        /// The directory or file.
        target: VmPath,
    },
    /// A `/dev` of its own: harmless nodes, terminals, shared memory.
    Devices,
    /// A device of the host's.
    Device {
        /// Its node, or a directory of such.
        path: HostPath,
    },
    /// `/sys`, read-only.
    System,
    /// `/sys` of its own network, read-only.
    OwnSystem,
    /// Nothing to see here: fvm's own state, and what the policy hides.
    Mask {
        /// Covered: a directory by an empty, read-only file system, anything else by an empty file that nobody may read.
        target: VmPath,
        /// The layer through which it would be seen, and the directory that this stands over.
        layer: Option<(u32, HostPath)>,
    },
    /// `/proc` of the VM's own processes.
    Proc {
        /// Cover what of it could change the kernel (needed only where the VM's root has the host's user id).
        guarded: bool,
    },
    /// Become the VM's user in its own namespaces.
    EnterNamespaces {
        /// A network namespace too.
        network: bool,
        /// Id maps, as `inside outside count`.
        uid_map: [u32; 3],
        /// The same for groups.
        gid_map: [u32; 3],
    },
    /// A network of its own behind a router namespace, which holds the rules.
    Router(crate::router::Plan),
    /// A file that names the VM's name server.
    NameServer {
        /// Where programs look.
        target: VmPath,
        /// What it says.
        text: String,
    },
    /// The VM's tree becomes `/`; the host's is gone.
    PivotRoot,
    /// POSIX message queues of its own.
    MessageQueues,
    /// Its own loopback interface, up.
    Loopback,
    /// A message bus of its own.
    Bus {
        /// Which.
        kind: crate::bus::Kind,
        /// A relay outside is among its clients.
        relayed: bool,
    },
    /// What the VM calls its machine.
    HostName {
        /// The name.
        name: String,
    },
    /// An empty session keyring.
    Keyring,
    /// These system calls wait for the tracer from here on, where the kernel can do that ([`fvm_trace::capture`]).
    Trace {
        /// How much is captured.
        level: Level,
        /// What the policy opens: the rest of what is refused by number is refused by the tracer, if all is captured.
        calls: Calls,
        /// Whether anything is refused.
        filter: bool,
    },
    /// Only these system calls from here on ([`crate::calls`]).
    SystemCalls {
        /// What the policy opens.
        calls: Calls,
    },
}

impl fmt::Display for Restrict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (set, name) in [(self.read_only, " read-only"), (self.nosuid, " nosuid"), (self.noexec, " noexec")] {
            if set {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

impl SetupOp {
    /// Whether it needs a layer.
    #[must_use]
    pub fn is_layered(&self) -> bool {
        matches!(self, Self::Overlay { .. } | Self::File { .. })
    }

    /// Whether it is an overlay over a skeleton.
    #[must_use]
    pub fn is_over_names(&self) -> bool {
        matches!(self, Self::Overlay { skeleton, .. } if !skeleton.is_empty())
    }
}

impl fmt::Display for SetupOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapped = |yes: &bool| if *yes { ", ids shifted" } else { "" };
        match self {
            Self::PrivateMounts => f.write_str("make mounts private"),
            Self::Overlay { layer, lower, target, idmapped, skeleton, restrict, .. } => {
                f.write_str(if skeleton.is_empty() { "overlay over " } else { "overlay over the names of " })?;
                write!(f, "{lower}")?;
                skeleton.iter().skip(1).try_for_each(|below| write!(f, ", {below}"))?;
                write!(f, " at {target} (layer {layer}{}){restrict}", mapped(idmapped))
            }
            Self::ReadOnly { source, target, idmapped, restrict } => {
                write!(f, "show {source} read-only at {target}{}{restrict}", mapped(idmapped))
            }
            Self::File { layer, source, target, .. } => {
                write!(f, "private copy of the file {source} at {target} (layer {layer})")
            }
            Self::Share { path, idmapped, restrict } => {
                write!(f, "share {path} with the host: writes go through{}{restrict}", mapped(idmapped))
            }
            Self::Socket { path, .. } => write!(f, "pass the host's socket {path}"),
            Self::Freeze { target } => write!(f, "make {target} read-only"),
            Self::Device { path } => write!(f, "pass the host's device {path}"),
            Self::Bus { kind, relayed: false } => write!(f, "own {} bus, started when it is first used", kind.name()),
            Self::Bus { kind, relayed: true } => {
                write!(f, "own {} bus, with a relay to the host's desktop", kind.name())
            }
            Self::HostName { name } => write!(f, "call the machine {name}"),
            Self::Devices => f.write_str("own /dev: null zero full random urandom tty, own terminals, own /dev/shm"),
            Self::System => f.write_str("show /sys read-only"),
            Self::OwnSystem => f.write_str("show /sys with its own network's interfaces, read-only"),
            Self::Mask { target, .. } => write!(f, "hide {target}"),
            Self::Proc { guarded: false } => f.write_str("own /proc"),
            Self::Proc { guarded: true } => f.write_str("own /proc, with its kernel settings read-only"),
            Self::EnterNamespaces { network, uid_map, gid_map } => {
                let net = if *network { " net" } else { "" };
                write!(f, "enter namespaces: user mount pid ipc uts cgroup{net} (uids {uid_map:?}, gids {gid_map:?})")
            }
            Self::Router(plan) => plan.fmt(f),
            Self::NameServer { target, .. } => write!(f, "name its name server in {target}"),
            Self::PivotRoot => f.write_str("make it the root; let go of the host's"),
            Self::MessageQueues => f.write_str("own message queues at /dev/mqueue"),
            Self::Loopback => f.write_str("set the loopback interface up"),
            Self::Keyring => f.write_str("empty session keyring"),
            Self::Trace { level, .. } => write!(f, "write down what programs do ({level})"),
            Self::SystemCalls { calls } => {
                write!(f, "refuse {} system calls, those newer than fvm", calls.refused().count())?;
                for (closed, what) in
                    [(!calls.x86_32, "those of 32-bit programs"), (!calls.user_namespaces, "new user namespaces")]
                {
                    if closed {
                        write!(f, ", {what}")?;
                    }
                }
                write!(f, ", {} socket families, input into terminals", FAMILIES.len())
            }
        }
    }
}
