//! When the VMs that are given next look names up ([`super::super::names`]): when a pool has nothing else to do.
//!
//! Invariants: nobody's program waits for it; what is looked at here lies where only who rules the machine has directories, on file
//! systems of this machine, and is bounded in number, whatever a client names.

use super::{HELD_FROM, Keeper};
use crate::pool::member::Member;
use crate::pool::names::{PLACES_MAX, Seen};
use crate::proto::{self, Order, Program};
use crate::session;
use fvm_host::HostFacts;
use fvm_model::path::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So many of those that wait have looked names up: what they have seen takes memory.
const VMS: usize = 4;
/// When what is to be looked up has just changed on the host, so long until it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
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
        let is_near = |place: &PathBuf| {
            let on = facts.mounts.iter().filter(|on| place.starts_with(on.mount.target.as_path()));
            let on = on.max_by_key(|on| on.mount.target.as_bytes().len());
            on.is_some_and(|on| match on.mount.fs_type.as_str() {
                "ceph" => false,
                "overlay" => true,
                other => fvm_host::idmap_capable(other),
            })
        };
        let mut near: Vec<_> = self.places.iter().filter(|place| is_near(place)).cloned().collect();
        let there = near.iter().position(|place| Path::exists(place)).map_or(0, |last| last + 1);
        near.truncate(there);
        near
    }

    /// A VM was given to a program that lies in one of `places`.
    pub fn gave(&mut self, places: Vec<PathBuf>) {
        self.places = places;
    }
}

/// Where a process waits for its program, and where that is told.
fn waiting_place() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (own, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Where no other VM's builder gets it.
    Ok((rustix::io::fcntl_dupfd_cloexec(&own, HELD_FROM)?, its))
}

impl Keeper<'_> {
    /// Has those that are given next look names up, if there is nothing else to do. When to ask again.
    pub(super) fn look_ahead(&mut self) -> Option<Instant> {
        let is_busy = self.draining || !self.asked.is_empty() || self.pool.template.is_some();
        let next = self.ready.iter().take(VMS).filter(|n| match self.members.get(n) {
            Some(Member::Ready(ready)) => ready.uses == 0 && ready.names.is_none(),
            _ => false,
        });
        let next: Vec<u64> = next.copied().collect();
        if is_busy || next.is_empty() || self.members.values().any(|member| matches!(member, Member::Making(..))) {
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
        let names: Vec<Bytes> = seen.names().iter().map(|name| Bytes(name.clone().into_os_string())).collect();
        for n in next {
            if let Some(Member::Ready(ready)) = self.members.get_mut(&n) {
                let pair = waiting_place().ok();
                let (own, its) = pair.map_or((None, None), |(own, its)| (Some(own), Some(its)));
                let its: Vec<_> = its.iter().map(AsFd::as_fd).collect();
                // One that does not hear it has ended, or will be found so.
                let _unheard = proto::write_message(&ready.vm.orders, &Order::Look(names.clone()), &its);
                ready.waiting = own;
                ready.names = Some(seen.clone());
                // What fails is told when the VM is given.
                let _listed_later = ready.copies();
            }
        }
        None
    }
}
