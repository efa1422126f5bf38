//! When the VMs that are given next look names up ([`super::super::names`]): when a pool has nothing else to do.
//!
//! In each of them a process begins to wait for its program, too ([`crate::session::wait`]), and what the VM was given that is not the
//! host's is listed ([`crate::pool::copies`]).
//!
//! Invariants: nobody's program waits for more of it than one VM's; what is looked at lies on file systems of this machine and is bounded
//! in number, whatever a client names: programs where only who rules the machine has directories.

use super::{HELD_FROM, Keeper};
use crate::pool::member::{Member, Waiting};
use crate::pool::names::{PLACES_MAX, Seen};
use crate::proto::{self, Order, Program};
use crate::session;
use fvm_host::HostFacts;
use fvm_model::path::Bytes;
use fvm_model::{HostPath, LayerKind, VmRecord};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So many of those that wait have looked names up: what they have seen takes memory.
const VMS: usize = 4;
/// Of more copies the list is made when a VM is given: it takes memory, too.
const COPIES_MAX: usize = 1024;
/// When what is to be looked up has just changed on the host, so long until it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// So long a process takes at most, mostly, until it waits for its program.
const SOON: Duration = Duration::from_millis(1);
/// Later than that it is asked for when it is wanted.
const ASKED: Duration = Duration::from_millis(20);
/// Where programs lie whose names are looked up: whoever else has directories there rules the machine.
const SYSTEM: [&str; 3] = ["/usr", "/bin", "/sbin"];

/// What is looked up next.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where the program of the VM that was given last may lie: the next one is often the same.
    places: Vec<PathBuf>,
    again: Option<Instant>,
}

impl Ahead {
    /// Where a program's name may mean it.
    pub fn places(program: &Program) -> Vec<PathBuf> {
        let Some(Bytes(name)) = program.argv.first() else { return Vec::new() };
        let places = session::places(name, session::path_of(&program.env)).into_iter().map(PathBuf::from);
        let is_system = |place: &PathBuf| SYSTEM.iter().any(|dir| place.starts_with(dir));
        let is_plain = |place: &PathBuf| place.components().all(|part| part != std::path::Component::ParentDir);
        places.filter(|place| is_system(place) && is_plain(place)).take(PLACES_MAX).collect()
    }

    /// Those of them that are looked at: up to the first that is there, if no other machine has to answer.
    fn near(&self, facts: &HostFacts) -> Vec<PathBuf> {
        let mut near: Vec<_> = self.places.iter().filter(|place| is_near(facts, place)).cloned().collect();
        let there = near.iter().position(|place| Path::exists(place)).map_or(0, |last| last + 1);
        near.truncate(there);
        near
    }

    /// A VM was given to a program that lies in one of `places`.
    pub fn gave(&mut self, places: Vec<PathBuf>) {
        self.places = places;
    }
}

/// Whether it lies on a file system of this machine's: of no other one somebody else answers, perhaps never, or knows of changes that
/// are not seen here yet.
fn is_near(facts: &HostFacts, place: &Path) -> bool {
    let on = facts.mounts.iter().filter(|on| place.starts_with(on.mount.target.as_path()));
    let on = on.max_by_key(|on| on.mount.target.as_bytes().len());
    on.is_some_and(|on| match on.mount.fs_type.as_str() {
        "ceph" => false,
        "overlay" => true,
        other => fvm_host::idmap_capable(other),
    })
}

/// What leads to a process that will wait for its program, and the other ends.
fn ways() -> Result<(Waiting, [OwnedFd; 2]), Errno> {
    let way = || {
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Where no other VM's builder gets it.
        Ok::<_, Errno>((rustix::io::fcntl_dupfd_cloexec(&own, HELD_FROM)?, other))
    };
    let ((told, its), (post, inits)) = (way()?, way()?);
    // `unix_dgram_sendmsg`
    let room_bytes = rustix::net::sockopt::socket_send_buffer_size(&told)?.saturating_sub(32);
    Ok((Waiting { told, post, waits: false, asked_until: Instant::now() + ASKED, room_bytes }, [its, inits]))
}

impl Keeper<'_> {
    /// Has those that are given next look names up, if there is nothing else to do. When to ask again.
    pub(super) fn look_ahead(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut begin = self.ready.iter().take(VMS).filter(|n| match self.members.get_mut(n) {
            Some(Member::Ready(ready)) if ready.waiting.as_ref().is_some_and(|waiting| now < waiting.asked_until) => {
                ready.has_waiting().is_none()
            }
            _ => false,
        });
        let soon = begin.next().map(|_| now + SOON);
        self.look_at_next().into_iter().chain(soon).min()
    }

    fn look_at_next(&mut self) -> Option<Instant> {
        let is_busy = self.draining || !self.asked.is_empty() || self.pool.template.is_some();
        let mut next = self.ready.iter().take(VMS).filter(|n| match self.members.get(n) {
            Some(Member::Ready(ready)) => ready.uses == 0 && ready.names.is_none(),
            _ => false,
        });
        let next = next.next().copied()?;
        if is_busy || self.members.values().any(|member| matches!(member, Member::Making(..))) {
            return None;
        }
        let now = Instant::now();
        if let Some(at) = [self.pace.calm(), self.ahead.again].into_iter().flatten().max().filter(|at| *at > now) {
            return Some(at);
        }
        let Some(seen) = Seen::look(&self.ahead.near(&self.facts)) else {
            self.ahead.again = Some(now + AGAIN);
            return self.ahead.again;
        };
        if let Some(Member::Ready(ready)) = self.members.get_mut(&next) {
            let names = seen.names().iter().map(|name| Bytes(name.clone().into_os_string())).collect();
            let (own, others) = ways().ok().unzip();
            let others: Vec<_> = others.iter().flatten().map(AsFd::as_fd).collect();
            // One that does not hear it has ended, or will be found so.
            let _unheard = proto::write_message(&ready.vm.orders, &Order::Look(names), &others);
            (ready.waiting, ready.names) = (own, Some(seen));
            let names = ready.vm.skeletons.iter().flat_map(|skeleton| &skeleton.names);
            let is_near = |host: &HostPath| is_near(&self.facts, host.as_path());
            let files = |record: &VmRecord| {
                record.layers.iter().filter(|layer| layer.kind == LayerKind::File).all(|layer| is_near(&layer.host))
            };
            if { names }.all(is_near) && ready.kept.look(files) {
                // What fails is told when the VM is given.
                let _later = ready.list_copies(COPIES_MAX);
            }
        }
        // The next one when those have been heard who came meanwhile.
        Some(now)
    }
}
