//! Which units a start needs, and in which order.
//!
//! ```text
//!   wanted ─ Requires, Wants ─► all that is needed ─ After, Before ─► order
//!                                 └─ not a service, or not there ─► told, or an error if it is required
//! ```
//!
//! Invariant: pure; the caller loads what [`UnitSet::needed`] asks for and comes back until it asks for nothing.

use crate::error::PlanError;
use crate::limits::UNITS_MAX;
use crate::name::{UnitKind, UnitName};
use crate::unit::Unit;
use std::collections::{BTreeMap, BTreeSet};

/// What the caller found.
#[derive(Debug, Clone, Default)]
pub struct UnitSet {
    units: BTreeMap<UnitName, Unit>,
    absent: BTreeSet<UnitName>,
}

/// What a start does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPlan {
    /// Services, in the order in which they are started.
    pub order: Vec<UnitName>,
    /// What is asked for and is no service: fvm runs none of it.
    pub not_run: BTreeSet<UnitName>,
}

impl UnitSet {
    /// Adds a unit.
    pub fn add(&mut self, unit: Unit) {
        self.units.insert(unit.name.clone(), unit);
    }

    /// Notes that there is no such unit.
    pub fn absent(&mut self, name: UnitName) {
        self.absent.insert(name);
    }

    /// A unit.
    #[must_use]
    pub fn get(&self, name: &UnitName) -> Option<&Unit> {
        self.units.get(name)
    }

    /// Services that are asked for and were neither added nor noted as absent.
    ///
    /// # Errors
    /// When they become too many.
    pub fn needed(&self, wanted: &[UnitName]) -> Result<BTreeSet<UnitName>, PlanError> {
        let asked = wanted.iter().chain(self.units.values().flat_map(|u| u.requires.iter().chain(&u.wants)));
        let new = |name: &&UnitName| {
            name.kind() == UnitKind::Service && !self.units.contains_key(*name) && !self.absent.contains(*name)
        };
        let needed: BTreeSet<UnitName> = asked.filter(new).cloned().collect();
        if self.units.len() + needed.len() > UNITS_MAX { Err(PlanError::TooMany(UNITS_MAX)) } else { Ok(needed) }
    }

    /// The order in which everything that `wanted` needs is started.
    ///
    /// # Errors
    /// When something required is not there, or units wait for each other.
    pub fn plan(&self, wanted: &[UnitName]) -> Result<StartPlan, PlanError> {
        let mut not_run = BTreeSet::new();
        let mut chosen: BTreeMap<&UnitName, &Unit> = BTreeMap::new();
        let mut pending: Vec<&UnitName> = wanted.iter().collect();
        while let Some(name) = pending.pop() {
            if chosen.contains_key(name) {
                continue;
            }
            if name.kind() == UnitKind::Other {
                not_run.insert(name.clone());
                continue;
            }
            let unit = self.units.get(name).ok_or_else(|| PlanError::NotLoaded(name.clone()))?;
            chosen.insert(name, unit);
            if let Some(missing) = unit.requires.iter().find(|r| self.absent.contains(*r)) {
                return Err(PlanError::Missing { unit: missing.clone(), by: name.clone() });
            }
            pending.extend(unit.requires.iter().chain(&unit.wants).filter(|n| !self.absent.contains(*n)));
        }
        Ok(StartPlan { order: order(&chosen)?, not_run })
    }
}

/// Kahn's algorithm. What is no service stands in the order too, as a meeting point: `a` after `x.target` and `b` before it
/// means `a` after `b`.
fn order(chosen: &BTreeMap<&UnitName, &Unit>) -> Result<Vec<UnitName>, PlanError> {
    let mut waits: BTreeMap<&UnitName, BTreeSet<&UnitName>> = BTreeMap::new();
    let takes_part = |name: &UnitName| name.kind() == UnitKind::Other || chosen.contains_key(name);
    for (&name, unit) in chosen {
        waits.entry(name).or_default();
        for other in unit.after.iter().filter(|o| takes_part(o) && *o != name) {
            waits.entry(name).or_default().insert(other);
            waits.entry(other).or_default();
        }
        for other in unit.before.iter().filter(|o| takes_part(o) && *o != name) {
            waits.entry(other).or_default().insert(name);
        }
    }
    // What is required goes first where nothing else is said.
    for (&name, unit) in chosen {
        for other in unit.requires.iter().filter(|o| chosen.contains_key(o) && *o != name) {
            if !reaches(&waits, other, name) {
                waits.entry(name).or_default().insert(other);
            }
        }
    }
    let mut order = Vec::new();
    while !waits.is_empty() {
        let Some(next) = waits.iter().find(|(_, on)| on.is_empty()).map(|(name, _)| *name) else {
            let stuck = waits.keys().filter(|n| n.kind() == UnitKind::Service && reaches(&waits, n, n));
            return Err(PlanError::Cycle(stuck.map(|n| (*n).clone()).collect()));
        };
        waits.remove(next);
        for on in waits.values_mut() {
            on.remove(next);
        }
        if chosen.contains_key(next) {
            order.push(next.clone());
        }
    }
    Ok(order)
}

/// Whether `from` waits for `to`, in one step or more.
fn reaches(waits: &BTreeMap<&UnitName, BTreeSet<&UnitName>>, from: &UnitName, to: &UnitName) -> bool {
    let mut seen = BTreeSet::new();
    let mut pending: Vec<&UnitName> = waits.get(from).into_iter().flatten().copied().collect();
    while let Some(name) = pending.pop() {
        if name == to {
            return true;
        }
        if seen.insert(name) {
            pending.extend(waits.get(name).into_iter().flatten());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facts, Fragment};

    fn set(units: &[(&str, &str)]) -> UnitSet {
        let mut set = UnitSet::default();
        for (name, head) in units {
            let text = format!("[Unit]\n{head}\n[Service]\nExecStart=/bin/true\n").into_bytes();
            let fragment = Fragment { file: (*name).into(), text };
            set.add(Unit::parse(&UnitName::typed(name).unwrap(), &[fragment], &Facts::default()).unwrap());
        }
        set
    }

    fn name(text: &str) -> UnitName {
        UnitName::typed(text).unwrap()
    }

    fn ordered(set: &UnitSet, wanted: &str) -> String {
        let plan = set.plan(&[name(wanted)]).unwrap();
        plan.order.iter().map(UnitName::stem).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_needed_is_started_in_order() {
        let set = set(&[
            ("web", "Requires=db.service\nWants=cache.service x.target\nAfter=cache.service net.target"),
            ("db", ""),
            ("cache", "After=db.service\nBefore=net.target"),
            ("unrelated", "Before=web.service"),
        ]);
        assert_eq!(ordered(&set, "web"), "db cache web");
        let plan = set.plan(&[name("web")]).unwrap();
        assert_eq!(plan.not_run.into_iter().map(|n| n.to_string()).collect::<Vec<_>>(), ["x.target"]);
        assert_eq!(ordered(&set, "db"), "db");
    }

    #[test]
    fn a_target_is_a_meeting_point() {
        let set = set(&[("b", "Wants=a.service\nBefore=x.target"), ("a", "After=x.target")]);
        assert_eq!(ordered(&set, "b"), "b a");
    }

    #[test]
    fn what_is_missing_matters_only_when_required() {
        let mut wants = set(&[("a", "Wants=gone.service")]);
        assert_eq!(wants.needed(&[name("a")]).unwrap().into_iter().collect::<Vec<_>>(), [name("gone")]);
        wants.absent(name("gone"));
        assert!(wants.needed(&[name("a")]).unwrap().is_empty());
        assert_eq!(ordered(&wants, "a"), "a");
        let mut requires = set(&[("a", "Requires=gone.service")]);
        requires.absent(name("gone"));
        let error = requires.plan(&[name("a")]).unwrap_err().to_string();
        assert_eq!(error, "a.service requires gone.service, and there is no such unit");
    }

    #[test]
    fn a_cycle_names_its_units() {
        let set = set(&[
            ("a", "Wants=b.service d.service\nAfter=b.service"),
            ("b", "Wants=c.service\nAfter=c.service"),
            ("c", "After=a.service"),
            ("d", "After=a.service"),
        ]);
        let PlanError::Cycle(names) = set.plan(&[name("a")]).unwrap_err() else { panic!("no cycle") };
        assert_eq!(names, [name("a"), name("b"), name("c")]);
        let fine = super::tests::set(&[("x", "Requires=y.service"), ("y", "Requires=x.service")]);
        assert_eq!(ordered(&fine, "x"), "y x", "requiring each other is no order");
    }
}
