//! Host facts and policy, made into a running VM.
//!
//! ```text
//!   home        the state directory            blueprint   facts → Vec<SetupOp>, changes nothing
//!   places      a policy's patterns → paths of this host
//!   lifecycle   create, boot, run, stop        layers      upper, work, skeleton directories
//!   launch      who forks whom                 early       what init has ready before its VM is there
//!                                              executor    one loop that carries the operations out
//!   keeper      outside: socket, lock          init        PID 1 inside;  session: one program
//!   bus         message buses, made when they are first used
//!   relay       files as streams, byte by byte
//!   attach      a client's terminal            proto       what they say to each other
//!   refresh     host changes, seen by a running VM       service/  daemons, by their systemd units
//!   router      rootless: the namespace between a VM and the host's network, and who holds it
//!   stack       layers that several VMs stand on, and how a VM is copied by them
//!   pool        VMs that are forked ahead, and who holds them
//!   kept        what a keeper knows of its VM and changes live: the record, the groups
//!   limit       the time that a program gets             usage       what a VM takes of the machine
//!   groups      memory, processors, processes, devices   disk, quota  how much its changes may take
//!   scope       limits of an ordinary user's VM, by the user's systemd
//!   offspring   copies of this process that do one thing   forker  has them made for a program with threads
//!   traced      the behaviour log: init's side, and the keeper's
//!   calls       which system calls a VM has: the list, and the filter made of it
//! ```
//!
//! Invariants: only this crate starts processes; it never writes to the host outside the state and run-time
//! directories.

pub mod attach;
pub mod blueprint;
mod bus;
pub mod calls;
pub mod disk;
mod early;
mod error;
pub mod executor;
pub mod forker;
pub mod groups;
pub mod home;
mod init;
pub mod keeper;
pub mod kept;
pub mod launch;
mod layers;
pub mod lifecycle;
mod limit;
pub mod links;
pub mod offspring;
mod oom;
pub mod op;
mod pause;
mod places;
pub mod pool;
pub mod proto;
pub mod ps;
pub mod quota;
pub mod refresh;
mod relay;
pub mod router;
pub mod scope;
pub mod service;
mod session;
pub mod stack;
mod title;
mod traced;

pub mod usage;

pub use error::VmError;
pub use home::{Found, Home, VmLock};
pub use lifecycle::{Call, NewVm, Running};
pub use op::SetupOp;
pub use proto::{Step, Timeout};
