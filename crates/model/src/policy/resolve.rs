//! From texts and flags to one whole policy.
//!
//! ```text
//!   default ◄─ extends ─ untrusted ◄─ extends ─ mine.toml ◄─ flags
//!   scalars: the nearest wins          lists: they add up; "!x" takes x out again
//! ```
//!
//! Invariant: what contradicts itself is an error with the place of the later of the two, never a silent choice.

use super::builtin::{self, PROFILES};
use super::limits::{self, Limits};
use super::text::{ENTRIES_MAX, Place, PolicyError, Text, parse, plain_path, suggestion};
use super::{Bus, Desktop, FEATURES, Network, OWN_NETWORK, Pattern, Policy, PolicyName};
use crate::{HostPath, Level};
use std::collections::BTreeMap;
use toml::Spanned;

/// Longest chain of `extends`.
const CHAIN_MAX: usize = 16;

/// A policy's text, and what to call it in messages.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its file, or the name of a profile.
    pub file: String,
    /// TOML.
    pub text: String,
}

/// What the command line adds to a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--net`.
    pub network: Option<Network>,
    /// `--allow`.
    pub allow: Vec<String>,
    /// `--publish`.
    pub publish: Vec<String>,
    /// `--hide`.
    pub hide: Vec<String>,
    /// `--read-only`.
    pub read_only: Vec<String>,
    /// `--share`.
    pub share: Vec<String>,
    /// `--device`.
    pub devices: Vec<String>,
    /// `--socket`.
    pub sockets: Vec<String>,
    /// `--dbus`.
    pub desktop: Vec<String>,
    /// `--memory` and the like: the name in `[limits]`, and the value.
    pub limits: Vec<(&'static str, String)>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--trace`.
    pub trace: Option<Level>,
    /// `--mark`, `--no-mark`.
    pub mark: Option<bool>,
}

/// One list: text → where it came from.
#[derive(Default)]
struct List(BTreeMap<String, Option<Place>>);

impl List {
    fn add(&mut self, at: &At<'_>, entries: &[Spanned<String>]) -> Result<(), PolicyError> {
        // Before the rest has its place, each of which costs a look through the text.
        if let Some(entry) = entries.get(ENTRIES_MAX) {
            let message = format!("a list has at most {ENTRIES_MAX} entries; wildcards name many");
            return Err(PolicyError { message, place: at.place(entry) });
        }
        entries.iter().try_for_each(|entry| self.one(entry.get_ref(), at.place(entry)))
    }

    fn one(&mut self, text: &str, place: Option<Place>) -> Result<(), PolicyError> {
        match text.strip_prefix('!') {
            Some(out) if self.0.remove(out).is_none() => {
                let there: Vec<&str> = self.0.keys().map(String::as_str).collect();
                let near = suggestion(out, &there);
                let near = if near.starts_with("did you") { format!("; {near}") } else { String::new() };
                Err(PolicyError {
                    message: format!("'{text}' takes nothing out: '{out}' is not in the list{near}"),
                    place,
                })
            }
            Some(_) => Ok(()),
            None => {
                self.0.entry(text.to_owned()).or_insert(place);
                Ok(())
            }
        }
    }

    /// Each entry as what it stands for.
    fn each<T>(&self, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, PolicyError> {
        let one = |(text, place): (&String, &Option<Place>)| {
            read(text).map_err(|message| PolicyError { message, place: place.clone() })
        };
        self.0.iter().map(one).collect()
    }
}

/// A text, for places in it.
struct At<'t> {
    file: &'t str,
    text: &'t str,
}

impl At<'_> {
    fn place<T>(&self, value: &Spanned<T>) -> Option<Place> {
        Some(Place::of(self.file, self.text, &value.span()))
    }
}

/// Lists in the making.
#[derive(Default)]
struct Lists {
    /// Whether anybody says what is allowed: else everything is.
    allows: bool,
    /// Whether the command line names a network.
    asks_for_network: bool,
    allow: List,
    deny: List,
    publish: List,
    hide: List,
    read_only: List,
    share: List,
    devices: List,
    sockets: List,
    desktop: List,
    /// Where the limit of swap is said.
    swap: Option<Place>,
    environment_pass: List,
    environment_hide: List,
    requires: List,
}

/// The whole policy that `top` stands for. `find` looks for a policy by name, in the user's files; built-in profiles are
/// known here.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn resolve(
    top: &Source,
    flags: &Flags,
    find: &dyn Fn(&str) -> Result<Option<Source>, PolicyError>,
) -> Result<Policy, PolicyError> {
    let mut chain: Vec<(Source, Text)> = Vec::new();
    let mut next = Some(top.clone());
    while let Some(source) = next {
        let text = parse(&source.file, &source.text)?;
        let wanted = text.extends.as_ref().map(|e| (e.get_ref().clone(), e.span()));
        chain.push((source, text));
        let Some((source, _)) = chain.last() else { break };
        next = match wanted {
            // All stand on the default.
            None if source.file == "default" => None,
            None => builtin::source("default"),
            Some((name, span)) => {
                let place = Some(Place::of(&source.file, &source.text, &span));
                let found = match builtin::source(&name) {
                    Some(found) => Some(found),
                    None => find(&name)?,
                };
                let Some(found) = found else {
                    let names: Vec<&str> = PROFILES.iter().map(|p| p.name).collect();
                    let message = format!("there is no policy '{name}': {}", suggestion(&name, &names));
                    return Err(PolicyError { message, place });
                };
                if chain.iter().any(|(source, _)| source.file == found.file) || chain.len() >= CHAIN_MAX {
                    let mut names: Vec<&str> = chain.iter().map(|(source, _)| source.file.as_str()).collect();
                    names.push(&found.file);
                    let message = format!("a policy cannot extend itself: {}", names.join(" -> "));
                    return Err(PolicyError { message, place });
                }
                Some(found)
            }
        };
    }
    let mut policy = Policy { name: PolicyName(top.file.clone()), ..Policy::default() };
    let mut lists = Lists::default();
    lists.environment_pass.one("*", None)?;
    for (source, text) in chain.iter().rev() {
        apply(&At { file: &source.file, text: &source.text }, text, &mut policy, &mut lists)?;
    }
    with_flags(flags, &mut policy, &mut lists)?;
    finish(policy, &lists)
}

fn apply(at: &At<'_>, text: &Text, policy: &mut Policy, lists: &mut Lists) -> Result<(), PolicyError> {
    fn set<T: Copy>(to: &mut T, from: Option<T>) {
        *to = from.unwrap_or(*to);
    }
    set(&mut policy.network, text.network.mode);
    set(&mut policy.mark, text.mark);
    set(&mut policy.reach.private, text.network.private);
    if let Some(range) = &text.network.range {
        policy.range = range.get_ref().parse().map_err(|message| PolicyError { message, place: at.place(range) })?;
    }
    if let Some(allow) = &text.network.allow {
        lists.allows = true;
        lists.allow.add(at, allow)?;
    }
    lists.deny.add(at, &text.network.deny)?;
    lists.publish.add(at, &text.network.publish)?;
    set(&mut policy.trace, text.trace);
    set(&mut policy.commit.verdict, text.commit.verdict);
    set(&mut policy.dbus.session, text.dbus.session);
    set(&mut policy.dbus.system, text.dbus.system);
    let (kernel, said) = (&mut policy.kernel, &text.kernel);
    set(&mut kernel.filter, said.filter);
    set(&mut kernel.user_namespaces, said.user_namespaces);
    set(&mut kernel.trace, said.trace);
    set(&mut kernel.io_uring, said.io_uring);
    set(&mut kernel.x86_32, said.x86_32);
    for (key, amount) in text.limits.entries() {
        limit(key, &amount.get_ref().to_string(), &mut policy.limits)
            .map_err(|message| PolicyError { message, place: at.place(amount) })?;
        if key == "swap" {
            lists.swap = at.place(amount);
        }
    }
    if let Some(name) = &text.hostname {
        policy.hostname = hostname(name.get_ref()).map_err(|message| PolicyError { message, place: at.place(name) })?;
    }
    lists.requires.add(at, &text.requires)?;
    // Only whoever asks for the list has it read.
    let secret = |wanted: Option<bool>, list: &mut List, entries: fn() -> &'static [builtin::Secret]| match wanted {
        Some(true) => entries().iter().try_for_each(|e| list.one(&e.name, None)),
        Some(false) => {
            entries().iter().for_each(|e| drop(list.0.remove(&e.name)));
            Ok(())
        }
        None => Ok(()),
    };
    secret(text.files.hide_secrets, &mut lists.hide, || &builtin::secrets().files)?;
    secret(text.environment.hide_secrets, &mut lists.environment_hide, || &builtin::secrets().variables)?;
    lists.hide.add(at, &text.files.hide)?;
    lists.read_only.add(at, &text.files.read_only)?;
    lists.share.add(at, &text.files.share)?;
    lists.devices.add(at, &text.devices.pass)?;
    lists.sockets.add(at, &text.sockets.pass)?;
    lists.desktop.add(at, &text.dbus.pass)?;
    lists.environment_hide.add(at, &text.environment.hide)?;
    if let Some(pass) = &text.environment.pass {
        // What passes is narrowed by naming it, not widened.
        if !pass.iter().any(|p| p.get_ref() == "*") {
            lists.environment_pass.0.remove("*");
        }
        lists.environment_pass.add(at, pass)?;
    }
    Ok(())
}

fn with_flags(flags: &Flags, policy: &mut Policy, lists: &mut Lists) -> Result<(), PolicyError> {
    policy.network = flags.network.unwrap_or(policy.network);
    policy.trace = flags.trace.unwrap_or(policy.trace);
    policy.mark = flags.mark.unwrap_or(policy.mark);
    lists.asks_for_network = flags.network.is_some();
    if let Some(name) = &flags.hostname {
        policy.hostname =
            hostname(name).map_err(|message| PolicyError { message: format!("--hostname: {message}"), place: None })?;
    }
    for (key, value) in &flags.limits {
        limit(key, value, &mut policy.limits).map_err(|message| PolicyError {
            message: format!("--{}: {message}", key.replace('_', "-")),
            place: None,
        })?;
    }
    lists.allows |= !flags.allow.is_empty();
    for (list, entries) in [
        (&mut lists.allow, &flags.allow),
        (&mut lists.publish, &flags.publish),
        (&mut lists.hide, &flags.hide),
        (&mut lists.read_only, &flags.read_only),
        (&mut lists.share, &flags.share),
        (&mut lists.devices, &flags.devices),
        (&mut lists.sockets, &flags.sockets),
        (&mut lists.desktop, &flags.desktop),
    ] {
        entries.iter().try_for_each(|entry| list.one(entry, None))?;
    }
    Ok(())
}

fn limit(key: &str, value: &str, limits: &mut Limits) -> Result<(), String> {
    if value == limits::NONE {
        limits.clear(key);
        if key == "memory" {
            // It is what a VM may use beside memory.
            limits.clear("swap");
        }
        return Ok(());
    }
    match key {
        "memory" => limits.memory_bytes = Some(limits::memory(value)?),
        "swap" => limits.swap_bytes = Some(limits::size(value)?),
        "cpus" => limits.cpu_milli = Some(limits::cpus(value)?),
        "cpu_weight" => limits.cpu_weight = Some(limits::weight(value)?),
        "disk" => limits.disk_bytes = Some(limits::disk(value)?),
        "io_weight" => limits.io_weight = Some(limits::weight(value)?),
        _ => limits.pids = Some(limits::pids(value)?),
    }
    Ok(())
}

/// `host` is the host's own name.
fn hostname(name: &str) -> Result<Option<String>, String> {
    let good = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match name {
        "host" => Ok(None),
        _ if name.len() <= 63 && name.split('.').all(good) => Ok(Some(name.to_owned())),
        _ => Err(format!("'{name}' is no host name: letters, digits, '-' and '.', at most 63")),
    }
}

fn finish(mut policy: Policy, lists: &Lists) -> Result<Policy, PolicyError> {
    policy.reach.deny = lists.deny.each(str::parse)?;
    let allow = lists.allow.each(str::parse)?;
    policy.reach.allow = lists.allows.then_some(allow);
    policy.publish = lists.publish.each(str::parse)?;
    let pattern = |text: &str| text.parse::<Pattern>();
    policy.files.hide = lists.hide.each(pattern)?;
    policy.files.read_only = lists.read_only.each(pattern)?;
    let shared = |text: &str| {
        let path = plain_path(text)?;
        match ["/dev", "/proc", "/sys"].iter().find(|own| path.as_path().starts_with(own)) {
            Some(own) => Err(format!("'{text}' cannot be shared: a VM has a {own} of its own")),
            None => Ok(path),
        }
    };
    policy.files.share = lists.share.each(shared)?;
    let in_dev = |text: &str| {
        let dev = HostPath::new("/dev").map_err(|e| e.to_string())?;
        let path = plain_path(text)?;
        let is_in = path.is_within(&dev) && path != dev;
        if is_in { Ok(path) } else { Err(format!("'{text}' is not in /dev")) }
    };
    policy.devices = lists.devices.each(in_dev)?;
    policy.sockets = lists.sockets.each(plain_path)?;
    policy.dbus.pass = lists.desktop.each(desktop)?;
    policy.environment.pass = lists.environment_pass.each(variable)?;
    policy.environment.hide = lists.environment_hide.each(variable)?;
    policy.requires = lists.requires.each(feature)?;
    let needed = lists.asks_for_network || !policy.publish.is_empty();
    if policy.network == Network::Own && needed && !policy.requires.iter().any(|f| f == OWN_NETWORK) {
        policy.requires.push(OWN_NETWORK.into());
    }
    contradictions(&policy, lists)?;
    Ok(policy)
}

fn feature(text: &str) -> Result<String, String> {
    if FEATURES.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' is no feature that 'fvm doctor' tries: {}", suggestion(text, FEATURES)))
}

fn desktop(text: &str) -> Result<Desktop, String> {
    let found = Desktop::ALL.into_iter().find(|d| d.name() == text);
    found.ok_or_else(|| {
        format!("'{text}' is nothing that is passed: {}", suggestion(text, &Desktop::ALL.map(Desktop::name)))
    })
}

fn variable(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && !text.contains(['=', '\0']);
    if good { Ok(text.to_owned()) } else { Err(format!("'{text}' is no name of a variable, nor a pattern of such")) }
}

/// What cannot both be.
fn contradictions(policy: &Policy, lists: &Lists) -> Result<(), PolicyError> {
    let as_pattern = |path: &HostPath| path.as_path().to_str().and_then(|text| text.parse::<Pattern>().ok());
    let place = |list: &List, text: &str| list.0.get(text).cloned().flatten();
    let clash = |first: (&str, &Pattern, &List), second: (&str, &Pattern, &List)| {
        let message = format!("'{}' is to be {}, but '{}' is to be {}", second.1, second.0, first.1, first.0);
        let place = place(second.2, second.1.as_str()).or_else(|| place(first.2, first.1.as_str()));
        Err(PolicyError { message, place })
    };
    for (paths, word, list) in
        [(&policy.files.share, "shared", &lists.share), (&policy.sockets, "passed", &lists.sockets)]
    {
        for path in paths.iter().filter_map(as_pattern) {
            if let Some(hidden) = policy.files.hide.iter().find(|hidden| hidden.covers(&path)) {
                return clash(("hidden", hidden, &lists.hide), (word, &path, list));
            }
            if let Some(fixed) = policy.files.read_only.iter().find(|fixed| fixed.covers(&path)) {
                return clash(("read-only", fixed, &lists.read_only), (word, &path, list));
            }
        }
    }
    for path in policy.devices.iter().filter_map(as_pattern) {
        if let Some(hidden) = policy.files.hide.iter().find(|hidden| hidden.covers(&path)) {
            return clash(("hidden", hidden, &lists.hide), ("passed", &path, &lists.devices));
        }
    }
    if let (Some(pass), Bus::None) = (policy.dbus.pass.first(), policy.dbus.session) {
        let message = format!("'{}' is to be passed on the session bus, but there is none", pass.name());
        return Err(PolicyError { message, place: place(&lists.desktop, pass.name()) });
    }
    if let (Some(swap), None) = (policy.limits.swap_bytes, policy.limits.memory_bytes) {
        let message = format!("swap is limited to {}, but memory is not", limits::show_size(swap));
        return Err(PolicyError { message, place: lists.swap.clone() });
    }
    for hidden in &policy.files.hide {
        if policy.files.read_only.contains(hidden) {
            return clash(("hidden", hidden, &lists.hide), ("read-only", hidden, &lists.read_only));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
