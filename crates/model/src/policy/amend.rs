//! A policy that is there, changed.
//!
//! ```text
//!   stored policy ─► its text ─┐
//!   flags ─────────────────────┴─► resolve ─► changed policy      what a running VM can take over: its limits
//! ```
//!
//! Invariant: what the flags do not name stays as it is, its name too.

use super::resolve::{Flags, Source, resolve};
use super::{Network, OWN_NETWORK, Policy, PolicyError};

/// `policy` with `flags` on top; `called` names it in messages.
///
/// # Errors
/// What is wrong with the flags, or cannot be together.
pub fn amend(policy: &Policy, flags: &Flags, called: &str) -> Result<Policy, PolicyError> {
    let source = Source { file: called.to_owned(), text: policy.to_toml() };
    let with = |flags: &Flags| -> Result<Policy, PolicyError> {
        // Its text extends nothing: there is nothing to be found.
        let changed = resolve(&source, flags, &|_| Ok(None))?;
        Ok(Policy { name: policy.name.clone(), ..changed })
    };
    if with(&Flags::default())? != *policy {
        let message = format!("{called} cannot be changed in part: give a whole one with --policy");
        return Err(PolicyError { message, place: None });
    }
    let mut changed = with(flags)?;
    if flags.network.is_some_and(|network| network != Network::Own) {
        changed.requires.retain(|feature| feature != OWN_NETWORK);
    }
    Ok(changed)
}

impl Policy {
    /// What of `other` a VM that runs by this policy cannot take over, as policies call it.
    #[must_use]
    pub fn fixed_against(&self, other: &Self) -> Vec<&'static str> {
        let Self {
            // Only a name.
            name: _,
            network,
            reach,
            range,
            publish,
            files,
            devices,
            sockets,
            dbus,
            environment,
            kernel,
            trace,
            commit,
            // All of them change while a VM runs.
            limits: _,
            hostname,
            requires,
            mark,
        } = self;
        let same = [
            ("network.mode", *network == other.network),
            ("network.allow and deny", *reach == other.reach),
            ("network.range", *range == other.range),
            ("network.publish", *publish == other.publish),
            ("files", *files == other.files),
            ("devices", *devices == other.devices),
            ("sockets", *sockets == other.sockets),
            ("dbus", *dbus == other.dbus),
            ("environment", *environment == other.environment),
            ("kernel", *kernel == other.kernel),
            ("trace", *trace == other.trace),
            ("commit.verdict", *commit == other.commit),
            ("hostname", *hostname == other.hostname),
            ("requires", *requires == other.requires),
            ("mark", *mark == other.mark),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PROFILES;

    fn profile(name: &str) -> Policy {
        let profile = PROFILES.iter().find(|p| p.name == name).unwrap();
        resolve(&Source { file: name.into(), text: profile.text.into() }, &Flags::default(), &|_| Ok(None)).unwrap()
    }

    fn limit(name: &'static str, value: &str) -> Flags {
        Flags { limits: vec![(name, value.into())], ..Flags::default() }
    }

    #[test]
    fn what_flags_do_not_name_stays_in_every_profile() {
        for known in PROFILES {
            let before = profile(known.name);
            assert_eq!(amend(&before, &Flags::default(), "it").as_ref(), Ok(&before), "{}", known.name);
            let after = amend(&before, &limit("memory", "64M"), "it").unwrap();
            let limits = crate::policy::Limits { memory_bytes: Some(64 << 20), ..before.limits };
            assert_eq!(after, Policy { limits, ..before }, "{}", known.name);
        }
    }

    #[test]
    fn none_takes_a_limit_away_and_swap_goes_with_memory() {
        let mut policy = profile("default");
        for (name, value) in [("memory", "64M"), ("swap", "1G"), ("pids", "50"), ("cpus", "1.5")] {
            policy = amend(&policy, &limit(name, value), "it").unwrap();
        }
        let without = amend(&policy, &limit("pids", "none"), "it").unwrap().limits;
        assert_eq!((without.pids, without.swap_bytes, without.cpu_milli), (None, Some(1 << 30), Some(1500)));
        let without = amend(&policy, &limit("memory", "none"), "it").unwrap().limits;
        assert_eq!((without.memory_bytes, without.swap_bytes, without.pids), (None, None, Some(50)));
        assert!(amend(&profile("default"), &limit("swap", "1G"), "it").is_err(), "swap without memory");
        let wrong = amend(&policy, &limit("pids", "nothing"), "it").unwrap_err().to_string();
        assert!(wrong.contains("--pids"), "{wrong}");
    }

    #[test]
    fn lists_grow_and_shrink() {
        let hide = |text: &str| Flags { hide: vec![text.into()], ..Flags::default() };
        let more = amend(&profile("default"), &hide("/a secret"), "it").unwrap();
        assert_eq!(more.files.hide.len(), 1);
        assert_eq!(amend(&more, &hide("!/a secret"), "it").unwrap(), profile("default"));
        assert!(amend(&profile("default"), &hide("!/a secret"), "it").is_err());
    }

    #[test]
    fn another_network_needs_no_own_one() {
        let net = |network| Flags { network: Some(network), ..Flags::default() };
        let own = amend(&profile("offline"), &net(Network::Own), "it").unwrap();
        assert_eq!(own.requires, [OWN_NETWORK]);
        assert!(amend(&own, &net(Network::Host), "it").unwrap().requires.is_empty());
    }

    #[test]
    fn only_limits_can_be_taken_over_by_a_running_vm() {
        let policy = profile("default");
        let limited = amend(&policy, &limit("cpu_weight", "50"), "it").unwrap();
        assert!(policy.fixed_against(&limited).is_empty());
        let named = Policy { hostname: Some("other".into()), network: Network::None, ..limited };
        assert_eq!(policy.fixed_against(&named), ["network.mode", "hostname"]);
    }
}
