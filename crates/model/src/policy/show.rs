//! A whole policy as the text that would make it.

use super::{Bus, Policy};
use std::fmt::Write as _;

impl Policy {
    /// TOML: reading it back gives the same policy, but for its name.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| {
            let mut out = String::from("\"");
            for c in text.chars() {
                match c {
                    '"' | '\\' => out.extend(['\\', c]),
                    c if c.is_control() => {
                        let _infallible = write!(out, "\\u{:04X}", u32::from(c));
                    }
                    c => out.push(c),
                }
            }
            out.push('"');
            out
        };
        let list = |entries: &mut dyn Iterator<Item = String>| {
            let entries: Vec<String> = entries.map(|e| quoted(&e)).collect();
            if entries.len() < 4 {
                format!("[{}]", entries.join(", "))
            } else {
                format!("[\n    {},\n]", entries.join(",\n    "))
            }
        };
        let paths = |paths: &[crate::HostPath]| list(&mut paths.iter().map(|p| p.as_path().display().to_string()));
        let bus = |bus: Bus| match bus {
            Bus::None => "none",
            Bus::Private => "private",
        };
        let allow = self.reach.allow.as_ref();
        let allow = allow.map(|allow| list(&mut allow.iter().map(ToString::to_string)));
        let (files, kernel, environment) = (&self.files, &self.kernel, &self.environment);
        let limits: String = self
            .limits
            .entries()
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!("{name} = {}\n", quoted(&value))))
            .collect();
        let limits = if limits.is_empty() { limits } else { format!("\n[limits]\n{limits}") };
        format!(
            "hostname = {}\nrequires = {}\ntrace = {}\nmark = {}\n\n[network]\nmode = {}\n{}deny = {}\nprivate = {}\nrange = {}\npublish = {}\n\n\
             [files]\nhide = {}\nread_only = {}\nshare = {}\n\n[devices]\npass = {}\n\n[sockets]\npass = {}\n\n\
             [dbus]\nsession = {}\nsystem = {}\npass = {}\n\n[environment]\npass = {}\nhide = {}\n\n\
             [kernel]\nfilter = {}\nuser_namespaces = {}\ntrace = {}\nio_uring = {}\nx86_32 = {}\n\n[commit]\nverdict = {}\n{limits}",
            quoted(self.hostname.as_deref().unwrap_or("host")),
            list(&mut self.requires.iter().cloned()),
            quoted(self.trace.name()),
            self.mark,
            quoted(&self.network.to_string()),
            allow.map_or_else(String::new, |allow| format!("allow = {allow}\n")),
            list(&mut self.reach.deny.iter().map(ToString::to_string)),
            self.reach.private,
            quoted(&self.range.to_string()),
            list(&mut self.publish.iter().map(ToString::to_string)),
            list(&mut files.hide.iter().map(ToString::to_string)),
            list(&mut files.read_only.iter().map(ToString::to_string)),
            paths(&files.share),
            paths(&self.devices),
            paths(&self.sockets),
            quoted(bus(self.dbus.session)),
            quoted(bus(self.dbus.system)),
            list(&mut self.dbus.pass.iter().map(|p| p.name().to_owned())),
            list(&mut environment.pass.iter().cloned()),
            list(&mut environment.hide.iter().cloned()),
            kernel.filter,
            kernel.user_namespaces,
            kernel.trace,
            kernel.io_uring,
            kernel.x86_32,
            quoted(self.commit.verdict.name()),
        )
    }
}
