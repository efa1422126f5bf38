//! What a pool's keeper does for clients: those of the pool, and those of its VMs.
//!
//! ```text
//!   connect ─ greet ─ something to hear ─┬─ serve: take ─► asked ─ satisfy ─► give ─► client: finish, done, gone
//!                                        └─ request: of a VM, as any keeper
//! ```
//!
//! Invariants: nobody waits for a client that says nothing; whoever has left gets no VM.

use super::super::member::{Member, Over, Ready, Used, Visitor, Waiting, What};
use super::super::{Answer, Ask, Wanted};
use super::ahead::Ahead;
use super::{Keeper, SETTLED, SILENCE, accept, watch_on};
use crate::home::Home;
use crate::keeper::{self, Control, STOP_MARGIN_MS};
use crate::layers;
use crate::lifecycle::{self, dress};
use crate::proto::{self, Order, Program, Request};
use crate::session;
use fvm_model::Timestamp;
use fvm_model::pool::PoolStatus;
use fvm_model::vm::Given;
use rustix::event::epoll;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// As long as it takes somebody who has connected to say what was ready to be said.
const AT_ONCE: Duration = Duration::from_micros(100);

/// A VM that is given next, as it was just now.
#[derive(Debug)]
pub(super) struct Looked {
    n: u64,
    /// Before it was looked at.
    now: Timestamp,
    /// Whether what it was given that is not the host's is as the host has it.
    is_current: bool,
}

impl Keeper<'_> {
    /// Somebody has connected, to this pool or to a VM: is heard when there is something to hear, so that nobody waits for another.
    pub(super) fn greet(&mut self, client: OwnedFd, member: Option<u64>) {
        let n = self.next;
        self.next += 1;
        self.watch(client.as_fd(), What::Client, n);
        self.visitors.insert(n, Visitor { client, member, until: Instant::now() + SILENCE });
    }

    /// The same of somebody who comes to the pool. Most have spoken by now, or do so as soon as they may: those are not watched first.
    /// While they still put together what to say, the next VM is looked at: whatever they have done before they came, that sees.
    pub(super) fn welcome(&mut self, client: OwnedFd) {
        let next = self.ready.front().and_then(|n| self.members.get(n));
        // Where nobody else answers for what is looked at.
        let is_listed = matches!(next, Some(Member::Ready(ready)) if ready.copies.is_some());
        self.looked = if is_listed { self.look() } else { None };
        if has(&client, PollFlags::IN, AT_ONCE) {
            self.serve(client)
        } else {
            self.greet(client, None)
        }
        self.looked = None;
    }

    /// Forgets those who came and for whom `is_over` is true.
    pub(super) fn hang_up(&mut self, is_over: impl Fn(&Visitor) -> bool) {
        let over = self.visitors.extract_if(|_, visitor| is_over(visitor));
        for (_, Visitor { client, .. }) in over {
            let _not_watched = epoll::delete(&self.epoll, &client);
        }
    }

    /// A client that says what it wants.
    fn serve(&mut self, client: OwnedFd) {
        let Some((ask, fds)) = keeper::hear::<Ask>(&client) else { return };
        let answer = match ask {
            Ask::Take(wanted) => {
                let refused = match (self.draining, wanted.keep && !self.pool.kept) {
                    (true, _) => "it is being drained",
                    (_, true) => "its VMs cannot be kept: make one with 'fvm pool create --kept'",
                    _ => {
                        self.asked.push_back((client, *wanted, fds));
                        self.satisfy();
                        return;
                    }
                };
                Answer::Refused(refused.into())
            }
            Ask::Status => Answer::Status(Box::new(self.status())),
            Ask::Become(pool) => match self.home.save_pool(&pool) {
                Ok(()) => {
                    let renew = !self.pool.makes_the_same(&pool);
                    self.pool = *pool;
                    self.pace.forgive();
                    self.shrink(if renew { 0 } else { self.pool.size as usize });
                    Answer::Done
                }
                Err(e) => Answer::Refused(e.to_string()),
            },
            Ask::Drain => {
                self.drain();
                Answer::Done
            }
            Ask::Finish | Ask::Done { .. } => Answer::Refused("this connection has no VM".into()),
        };
        let _left = proto::write_message(&client, &answer, &[]);
    }

    fn status(&self) -> PoolStatus {
        let count = |of: fn(&Member) -> bool| {
            u32::try_from(self.members.values().filter(|member| of(member)).count()).unwrap_or(u32::MAX)
        };
        PoolStatus {
            name: self.pool.name.clone(),
            size: self.pool.size,
            ready: u32::try_from(self.ready.len()).unwrap_or(u32::MAX),
            making: count(|member| matches!(member, Member::Making(..))),
            used: count(|member| matches!(member, Member::Used(..))),
            made: self.made,
            given: self.given,
            renewed: self.renewed,
            keeper: Some(rustix::process::getpid().as_raw_nonzero().get()),
            draining: self.draining,
            trouble: self.trouble.clone().filter(|_| self.ready.len() < self.pool.size as usize),
        }
    }

    /// Looks at the VM that is given next: what is not as the host is thrown away.
    fn look(&mut self) -> Option<Looked> {
        while let Some(n) = self.ready.front().copied() {
            // Before anything is looked at: what the host changes from now on is new to the VM.
            let now = lifecycle::timestamp(self.clock.now());
            if let Some(Member::Ready(ready)) = self.members.get_mut(&n) {
                // Killed while it waited: the rest follows.
                let has_ended = keeper::ends_within(&ready.vm, 0);
                if !has_ended && ready.is_as_the_host() {
                    return Some(Looked { n, now, is_current: ready.is_current() });
                }
                if !has_ended {
                    self.end(n);
                }
            }
            self.ready.pop_front();
        }
        None
    }

    /// Gives what is ready to those that wait.
    pub(super) fn satisfy(&mut self) {
        while !self.asked.is_empty() {
            let Some(looked) = self.looked.take().or_else(|| self.look()) else { return };
            let Some((client, wanted, fds)) = self.asked.pop_front() else { return };
            // It does not want its program started any more.
            if has(&client, PollFlags::RDHUP, Duration::ZERO) {
                continue;
            }
            self.ready.pop_front();
            if let Some(Member::Ready(ready)) = self.members.remove(&looked.n) {
                self.give(looked, *ready, client, wanted, &fds);
            }
        }
    }

    fn give(&mut self, looked: Looked, mut ready: Ready, client: OwnedFd, wanted: Wanted, fds: &[OwnedFd]) {
        let Looked { n, now, is_current } = looked;
        let Wanted { mut program, name, keep } = wanted;
        let refuse = |why: &dyn std::fmt::Display| {
            let _left = proto::write_message(&client, &Answer::Refused(why.to_string()), &[]);
        };
        let id = ready.kept.look(|record| record.id.clone());
        let fresh = is_current && self.pool.template.is_none();
        if ready.uses == 0 && !is_current {
            for skeleton in &ready.vm.skeletons {
                // What it cannot be given it has as it was, and that counts as old.
                let _as_it_was = layers::update_skeleton(&skeleton.dir, &skeleton.names);
            }
        }
        let names = name.as_ref().map(|name| {
            let names = self.home.lock_names()?;
            self.home.free_name(Some(name), &id).map(|_| names)
        });
        let names = match names.transpose() {
            Ok(names) => names,
            Err(e) => {
                refuse(&e);
                self.members.insert(n, Member::Ready(Box::new(ready)));
                self.ready.push_front(n);
                return;
            }
        };
        let given = fresh.then_some(Given { at: now, laid: ready.laid });
        if let Err(e) = ready.kept.move_to(None, name.as_ref(), keep, given) {
            refuse(&e);
            self.members.insert(n, Member::Ready(Box::new(ready)));
            // Nobody knows how far that came.
            self.end(n);
            return;
        }
        drop(names);
        let called = ready.kept.look(|record| {
            dress(&mut program, record);
            record.name.clone()
        });
        let begun = match begin(&mut ready, &program, fds) {
            Ok(begun) => begun,
            Err(e) => {
                refuse(&e);
                self.members.insert(n, Member::Ready(Box::new(ready)));
                self.end(n);
                return;
            }
        };
        let told = match (begun, &ready.waiting, fds) {
            (Begun::Posted(message), Some(waiting), [_, streams @ ..]) => {
                let streams: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
                Some(fvm_sys::socket::send(&waiting.told, &message, &streams))
            }
            _ => None,
        };
        // From here on beside the program.
        if let Some(Err(e)) = &told {
            refuse(e);
        }
        // They have said all that they are there for.
        (ready.copies, ready.names) = (None, None);
        let given = Instant::now();
        self.pace.gave(given);
        self.given += 1;
        self.ahead.gave(Ahead::places(&program));
        ready.uses += 1;
        // Of many a program that nobody knows by name nobody ever asks: it ends before. Nor is its client in a hurry, who need not even
        // wake this process, with another use or the VM itself to wait for.
        let settles = if keep || name.is_some() { given } else { given + SETTLED };
        let unheard = settles > given && self.pool.uses == 1 && !self.pool.kept;
        if !unheard {
            self.watch(client.as_fd(), What::Client, n);
        }
        let used = Used {
            unwatched: told.is_some() && program.timeout.is_none(),
            ready,
            unheard,
            control: None,
            client,
            ending: false,
            heard: false,
            wanted: false,
            touched: false,
            enders: Vec::new(),
            until: None,
            settles: Some(settles),
        };
        self.members.insert(n, Member::Used(Box::new(used)));
        if told.is_some_and(|told| told.is_err()) {
            return self.end(n);
        }
        if settles == given {
            self.settle(n);
        }
        // One that is known by name is there when that is said.
        if let Some(Member::Used(used)) = self.members.get(&n) {
            let _left = proto::write_message(&used.client, &Answer::Taken { id, name: called }, &[]);
        }
    }

    /// Makes a VM that was given out one like any other: found, and reached.
    pub(super) fn settle(&mut self, n: u64) {
        let Some(Member::Used(used)) = self.members.get_mut(&n) else { return };
        if std::mem::take(&mut used.unheard) {
            if has(&used.client, PollFlags::IN | PollFlags::RDHUP, Duration::ZERO) {
                return self.client(n);
            }
            watch_on(&self.epoll, used.client.as_fd(), What::Client, n);
        }
        if used.settles.take().is_none() {
            return;
        }
        if std::mem::take(&mut used.unwatched) {
            // Whoever asked may have something to say to it. That init has just ended is seen soon.
            let _ended = watch(&used.ready);
        }
        let record = used.ready.kept.record();
        self.home.waits_no_more(&self.pool.name, &record.id);
        let saved = used.ready.kept.save();
        let control = Control::open(&self.home, &record.id).ok();
        if let Some(control) = &control {
            self.watch(control.listener(), What::Control, n);
        }
        if let Some(Member::Used(used)) = self.members.get_mut(&n) {
            used.control = control;
        }
        if saved.is_err() {
            // Nobody would find it, so nobody could end it.
            self.end(n);
        }
    }

    /// What a client says of its VM.
    pub(super) fn client(&mut self, n: u64) {
        if let Some(Visitor { client, member, .. }) = self.visitors.remove(&n) {
            self.forget(client.as_fd());
            return match member {
                None => self.serve(client),
                Some(member) => self.request(member, client),
            };
        }
        if let Some(Member::Over(_)) = self.members.get(&n) {
            return self.over(n);
        }
        let Some(Member::Used(used)) = self.members.get_mut(&n) else { return };
        used.heard = true;
        let again = match keeper::hear::<Ask>(&used.client) {
            Some((Ask::Finish, _)) => {
                used.wanted = true;
                None
            }
            Some((Ask::Done { nobody_left }, _)) => Some(nobody_left),
            _ => None,
        };
        // It is not asked again.
        let _not_watched = epoll::delete(&self.epoll, &used.client);
        if used.wanted {
            // The client reads its record.
            self.settle(n);
        } else {
            used.settles = None;
        }
        let Some(Member::Used(used)) = self.members.get_mut(&n) else { return };
        let fit = again == Some(true) && used.ready.uses < self.pool.uses && !self.draining;
        let record = used.ready.kept.record();
        let fit = fit && !used.ending && !used.touched && record.ephemeral != self.pool.kept;
        // Its name is free again.
        let name = Home::made_up_name(&record.id).ok();
        if fit && used.ready.kept.move_to(Some(&self.pool.name), name.as_ref(), self.pool.kept, None).is_ok() {
            // Who called the VM meant the one that had that program.
            self.hang_up(|visitor| visitor.member == Some(n));
            if let Some(Member::Used(used)) = self.members.remove(&n) {
                used.control().into_iter().for_each(|control| self.forget(control));
                let Used { ready, unwatched, .. } = *used;
                if unwatched {
                    // Whatever its client said of it, it may run on.
                    let _ended = watch(&ready);
                }
                self.members.insert(n, Member::Ready(Box::new(ready)));
                self.home.waits(&self.pool.name, &record.id);
                self.ready.push_front(n);
                self.satisfy();
            }
            return;
        }
        self.end(n);
    }

    /// The client of a VM that has ended says what it wants, or has hung up.
    fn over(&mut self, n: u64) {
        let Some(Member::Over(over)) = self.members.remove(&n) else { return };
        self.forget(over.client.as_fd());
        match keeper::hear::<Ask>(&over.client) {
            Some((Ask::Finish, _)) => give_back(&over),
            _ => self.leave(*over),
        }
    }

    /// A VM that has ended and that its client does not want.
    pub(super) fn leave(&mut self, Over { record, lock, .. }: Over) {
        if record.ephemeral {
            self.throw_away(record, &lock);
        }
    }

    /// Somebody at a VM's control socket.
    pub(super) fn control(&mut self, n: u64) {
        let Some(Member::Used(used)) = self.members.get_mut(&n) else { return };
        if let Some(client) = used.control().and_then(accept) {
            self.greet(client, Some(n));
        }
    }

    /// What is asked of a VM.
    fn request(&mut self, n: u64, client: OwnedFd) {
        let Some((request, fds)) = keeper::hear::<Request>(&client) else { return };
        let Some(Member::Used(used)) = self.members.get_mut(&n) else { return };
        used.touched |= !matches!(request, Request::Info);
        match request {
            Request::Stop { grace_ms } => {
                used.ending = true;
                let vm = &used.ready.vm;
                let _it_ran = vm.pause.lock().unwrap_or_else(std::sync::PoisonError::into_inner).resume(vm);
                let asked = proto::write_message(&vm.orders, &Order::Stop { grace_ms }, &[]);
                used.enders.push(client);
                let grace = Duration::from_millis(grace_ms.saturating_add(STOP_MARGIN_MS));
                used.until = Some(Instant::now() + grace);
                if asked.is_err() {
                    self.end(n);
                }
            }
            Request::Kill => {
                used.enders.push(client);
                self.end(n);
            }
            request => keeper::reply(&client, request, &fds, &used.ready.vm, &used.ready.kept),
        }
    }
}

/// How a VM starts a program.
enum Begun {
    /// Init does.
    Ordered,
    /// The process that waits for one, once it is told this; init knows who asks.
    Posted(Vec<u8>),
}

/// Has a VM start a program: by the process that waits for one, if that can be this one's, or by init.
fn begin(ready: &mut Ready, program: &Program, fds: &[OwnedFd]) -> Result<Begun, Errno> {
    if ready.uses == 0
        && ready.has_waiting() == Some(true)
        && let (Some(Waiting { post, room_bytes, .. }), [session, ..]) = (&ready.waiting, fds)
        && let Some(message) = session::message(program).filter(|message| message.len() <= *room_bytes)
        && session::post(post, session.as_fd(), program.timeout).is_ok()
    {
        // From here on init may say how it ended, so that nobody else can have that program. Its time runs.
        return if program.timeout.is_some() { watch(ready) } else { Ok(()) }.map(|()| Begun::Posted(message));
    }
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    proto::write_message(&ready.vm.orders, &Order::Start(program.clone()), &fds).map(|()| Begun::Ordered)
}

/// Has init watch a program that it did not start.
fn watch(ready: &Ready) -> Result<(), Errno> {
    proto::write_message(&ready.vm.orders, &Order::Watch, &[])
}

/// The VM is its client's now, to be looked at and thrown away or kept.
pub(super) fn give_back(over: &Over) {
    let _left = proto::write_message(&over.client, &Answer::Finished, &[over.lock.as_fd()]);
}

/// Whether that is so of a client within so long: it has spoken, or has hung up.
fn has(client: &OwnedFd, what: PollFlags, within: Duration) -> bool {
    let mut polled = [PollFd::new(client, what)];
    poll(&mut polled, Some(&keeper::timespec(within))).is_ok_and(|_| !polled[0].revents().is_empty())
}
