//! The entries of a list, judged by several threads, handed on in the order of the list.
//!
//! ```text
//!   lists ─► steps in order of their paths ─► units ──┬─► worker ─┬─► results, unit by unit in order ─► the caller
//!                                                     └─► worker ─┘
//! ```
//!
//! Invariants: what comes out, and in which order, does not depend on the number of threads; what is held at once is a
//! few units, however many entries there are; when the caller has enough, all ends. A caller that is slow makes all wait.

use crate::list::{List, Step, before};
use crate::{ScanError, layer::Found};
use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Entries that a thread takes at once.
const UNIT_STEPS: usize = 256;
/// Directories that these may lie in: each holds two descriptors.
const UNIT_DIRS: usize = 16;
/// Units on their way, those in work not counted.
const AHEAD: usize = 6;
/// More threads than this wait for each other.
const WORKERS_MAX: usize = 8;

/// The steps of one layer, with changes that stand between them.
pub(crate) struct Source<'l> {
    /// Which layer.
    pub layer: usize,
    /// What is walked.
    pub list: Option<List<'l>>,
    /// By path.
    pub extra: VecDeque<Found>,
    ahead: Option<Step>,
}

impl<'l> Source<'l> {
    pub(crate) fn new(layer: usize, list: Option<List<'l>>, extra: VecDeque<Found>) -> Self {
        Self { layer, list, extra, ahead: None }
    }

    fn pull(&mut self) -> Option<Step> {
        if let Some(step) = self.ahead.take() {
            return Some(step);
        }
        let step = self.list.as_mut().and_then(List::next);
        let Some(first) = self.extra.front() else { return step };
        let extra_first = match &step {
            None => true,
            Some(step) => step.path().is_some_and(|path| before(&first.change.path, &path).is_lt()),
        };
        if extra_first {
            self.ahead = step;
            return self.extra.pop_front().map(|found| Step::Found(Box::new(found)));
        }
        step
    }
}

/// The steps of all layers in order of their paths; `heads` is the next of each.
struct Merged<'l> {
    sources: Vec<Source<'l>>,
    heads: Vec<Option<Step>>,
}

impl<'l> Merged<'l> {
    fn new(sources: Vec<Source<'l>>) -> Self {
        let mut merged = Self { sources: Vec::new(), heads: Vec::new() };
        for mut source in sources {
            if let Some(head) = source.pull() {
                merged.sources.push(source);
                merged.heads.push(Some(head));
            }
        }
        merged
    }

    fn next(&mut self) -> Option<(usize, Step)> {
        if self.sources.len() < 2 {
            // The only one needs no comparison.
            let (source, head) = (self.sources.first_mut()?, self.heads.first_mut()?);
            return head.take().or_else(|| source.pull()).map(|step| (source.layer, step));
        }
        let mut first: Option<(usize, fvm_model::VmPath)> = None;
        for (index, head) in self.heads.iter().enumerate() {
            // What has no place goes at once.
            let Some(path) = head.as_ref().and_then(Step::path) else {
                first = Some((index, fvm_model::VmPath::root()));
                break;
            };
            if first.as_ref().is_none_or(|(_, least)| before(&path, least).is_lt()) {
                first = Some((index, path));
            }
        }
        let (index, _) = first?;
        let layer = self.sources[index].layer;
        let next = self.sources[index].pull();
        if next.is_none() {
            self.sources.remove(index);
            return self.heads.remove(index).map(|step| (layer, step));
        }
        std::mem::replace(&mut self.heads[index], next).map(|step| (layer, step))
    }

    /// As many steps as one thread takes at once; none at the end.
    fn unit(&mut self) -> Vec<(usize, Step)> {
        let mut unit = Vec::new();
        let (mut dirs, mut last) = (0, None);
        while unit.len() < UNIT_STEPS && dirs < UNIT_DIRS {
            let Some((layer, step)) = self.next() else { break };
            if let Step::Entry { at, .. } = &step {
                let this = Arc::as_ptr(at);
                if last.replace(this) != Some(this) {
                    dirs += 1;
                }
            }
            unit.push((layer, step));
        }
        unit
    }
}

/// Shows `look` every step of `sources`, on several threads, and gives what it makes of a unit to `each`, in order.
/// `look` begins with a fresh `U` per unit.
pub(crate) fn run<U: Send + Default>(
    sources: Vec<Source<'_>>,
    look: &(impl Fn(&mut U, usize, Step) + Sync),
    each: &mut dyn FnMut(U) -> Result<ControlFlow<()>, ScanError>,
) -> Result<(), ScanError> {
    let do_unit = |unit: Vec<(usize, Step)>| {
        let mut made = U::default();
        for (layer, step) in unit {
            look(&mut made, layer, step);
        }
        made
    };
    let mut merged = Merged::new(sources);
    // Few VMs have more: no thread is worth its start then.
    for _ in 0..2 {
        let unit = merged.unit();
        if unit.is_empty() {
            return Ok(());
        }
        if each(do_unit(unit))?.is_break() {
            return Ok(());
        }
    }
    let workers = workers();
    type Job<U> = (Vec<(usize, Step)>, SyncSender<U>);
    std::thread::scope(|scope| {
        let (give, take) = sync_channel::<Job<U>>(AHEAD);
        let (promise, results) = sync_channel::<Receiver<U>>(AHEAD);
        let take = Arc::new(Mutex::new(take));
        for _ in 0..workers {
            let take = Arc::clone(&take);
            scope.spawn(move || {
                loop {
                    let job = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((unit, reply)) = job else { break };
                    // The caller may have had enough.
                    let _unwanted = reply.send(do_unit(unit));
                }
            });
        }
        drop(take);
        scope.spawn(move || {
            loop {
                let unit = merged.unit();
                let (reply, result) = sync_channel(1);
                if unit.is_empty() || promise.send(result).is_err() || give.send((unit, reply)).is_err() {
                    break;
                }
            }
        });
        for result in results {
            // A thread that panicked gives nothing; the scope hands its panic on.
            let Ok(made) = result.recv() else { break };
            if each(made)?.is_break() {
                break;
            }
        }
        Ok(())
    })
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS_MAX)
}

/// What `look` makes of each, in their order; of every `worth` of them a thread, as far as there are processors.
pub(crate) fn in_order<T: Sync, R: Send>(of: &[T], worth: usize, look: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = if of.len() < 2 * worth { 1 } else { workers().min(of.len() / worth) };
    let (own, others) = of.split_at(of.len().div_ceil(threads));
    std::thread::scope(|scope| {
        let part = |part: &[T]| part.iter().map(&look).collect::<Vec<R>>();
        let others: Vec<_> = others.chunks(own.len().max(1)).map(|others| scope.spawn(move || part(others))).collect();
        let mut made = part(own);
        for other in others {
            made.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        made
    })
}

/// Gives `each` what `look` finds, in order, until it breaks. What could not be read is left to the walk to report.
pub(crate) fn sift<T: Send>(
    list: List<'_>,
    look: &(impl Fn(&Step) -> Option<T> + Sync),
    each: &mut dyn FnMut(T) -> Result<ControlFlow<()>, ScanError>,
) -> Result<(), ScanError> {
    let sources = vec![Source::new(0, Some(list), VecDeque::new())];
    run(
        sources,
        &|found: &mut Vec<Result<T, ScanError>>, _, step| match step {
            Step::Failed(e) => found.push(Err(e)),
            step => found.extend(look(&step).map(Ok)),
        },
        &mut |found| {
            for one in found {
                if each(one?)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_threads_make_is_in_order() {
        for count in [0, 1, 2, 3, 7, 64, 1000] {
            let of: Vec<usize> = (0..count).collect();
            for worth in [1, 3, 2000] {
                let made = in_order(&of, worth, |n| (*n, std::thread::current().id()));
                assert_eq!(made.iter().map(|(n, _)| *n).collect::<Vec<_>>(), of);
                let here = made.iter().filter(|(_, thread)| *thread == std::thread::current().id()).count();
                let is_shared = count >= 2 * worth && workers() > 1;
                assert!(if is_shared { here < count } else { here == count }, "{count} {worth} {here}");
            }
        }
    }
}
