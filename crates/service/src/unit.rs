//! A unit: its main file and its drop-ins, read one after the other.
//!
//! ```text
//!   /lib/systemd/system/nginx.service          [Unit] [Service] [Install]
//!   /etc/systemd/system/nginx.service.d/*.conf   the same sections: single values are replaced, lists grow, and an
//!                                              empty value empties a list
//! ```
//!
//! Invariant: a directive is carried out, or stands in [`Unit::ignored`], or has nothing to do with how a service runs
//! ([`SILENT`]).

use crate::command::Command;
use crate::error::{At, UnitError};
use crate::limits::{DROP_INS_MAX, ENTRIES_MAX, FILE_MAX_BYTES};
use crate::name::UnitName;
use crate::restart::{Restart, Statuses};
use crate::service::{
    DIRECTORY_KINDS, Directories, EnvironmentFile, KillMode, Limit, NotifyAccess, Open, Phase, Service, ServiceType,
    Stream, WorkingDirectory,
};
use crate::specifier::{self, Facts};
use crate::syntax::{self, Entry};
use crate::value::{self, Counted};
use crate::words;
use std::collections::BTreeSet;
use std::time::Duration;

/// One file of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Its name, for errors.
    pub file: String,
    /// Its content.
    pub text: Vec<u8>,
}

/// A directive that is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Its name.
    pub key: String,
    /// Where.
    pub at: At,
}

/// A condition (`ConditionPathExists=`, ...) or an assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub test: Test,
    /// The file.
    pub path: Vec<u8>,
    /// It must not hold (`!`).
    pub negated: bool,
    /// One of those with `|` is enough.
    pub trigger: bool,
    /// A failed assertion is an error, a failed condition is none.
    pub assert: bool,
}

/// What a [`Condition`] asks of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// It is there.
    Exists,
    /// It is a directory.
    Directory,
    /// It is a directory with entries.
    DirectoryNotEmpty,
    /// It is a file with content.
    FileNotEmpty,
    /// It is a file that can be executed.
    Executable,
    /// It is a symlink.
    Symlink,
}

const TESTS: &[(&str, Test)] = &[
    ("PathExists", Test::Exists),
    ("PathIsDirectory", Test::Directory),
    ("DirectoryNotEmpty", Test::DirectoryNotEmpty),
    ("FileNotEmpty", Test::FileNotEmpty),
    ("FileIsExecutable", Test::Executable),
    ("PathIsSymbolicLink", Test::Symlink),
];

/// Directives that do not change how a service runs.
const SILENT: &[&str] = &[
    "Documentation",
    "SourcePath",
    "DefaultDependencies",
    "RefuseManualStart",
    "RefuseManualStop",
    "CollectMode",
    "SyslogIdentifier",
    "SyslogFacility",
    "SyslogLevel",
    "SyslogLevelPrefix",
    "Slice",
    "StandardInput",
    "RestartMode",
];

const LIMITS: &[(&str, Counted)] = &[
    ("CPU", Counted::Seconds),
    ("FSIZE", Counted::Bytes),
    ("DATA", Counted::Bytes),
    ("STACK", Counted::Bytes),
    ("CORE", Counted::Bytes),
    ("RSS", Counted::Bytes),
    ("NOFILE", Counted::Plain),
    ("AS", Counted::Bytes),
    ("NPROC", Counted::Plain),
    ("MEMLOCK", Counted::Bytes),
    ("LOCKS", Counted::Plain),
    ("SIGPENDING", Counted::Plain),
    ("MSGQUEUE", Counted::Bytes),
    ("NICE", Counted::Plain),
    ("RTPRIO", Counted::Plain),
    ("RTTIME", Counted::Microseconds),
];

/// A unit that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: UnitName,
    /// `Description=`.
    pub description: String,
    /// `Requires=`, `Requisite=`, `BindsTo=`: started too, and needed.
    pub requires: BTreeSet<UnitName>,
    /// `Wants=`, `Upholds=`: started too if they can be.
    pub wants: BTreeSet<UnitName>,
    /// `After=`.
    pub after: BTreeSet<UnitName>,
    /// `Before=`.
    pub before: BTreeSet<UnitName>,
    /// `Conflicts=`: stopped before it starts.
    pub conflicts: BTreeSet<UnitName>,
    /// `PartOf=`, `BindsTo=`, `Requires=`: it is stopped with these.
    pub stops_with: BTreeSet<UnitName>,
    /// Conditions and assertions.
    pub conditions: Vec<Condition>,
    /// What it does.
    pub service: Service,
    /// What is not carried out.
    pub ignored: Vec<Ignored>,
}

impl Unit {
    /// Reads a service's files: the main one first, then its drop-ins.
    ///
    /// # Errors
    /// The first fault, with file and line.
    pub fn parse(name: &UnitName, fragments: &[Fragment], facts: &Facts) -> Result<Self, UnitError> {
        let mut reader = Reader {
            facts,
            unit: Self {
                name: name.clone(),
                description: String::new(),
                requires: BTreeSet::new(),
                wants: BTreeSet::new(),
                after: BTreeSet::new(),
                before: BTreeSet::new(),
                conflicts: BTreeSet::new(),
                stops_with: BTreeSet::new(),
                conditions: Vec::new(),
                service: Service::default(),
                ignored: Vec::new(),
            },
            start_timeout_given: false,
            notify_given: false,
        };
        if fragments.len() > DROP_INS_MAX + 1 {
            return Err(UnitError::Service { unit: name.clone(), why: "it has too many drop-ins" });
        }
        if fragments.iter().map(|f| f.text.len()).sum::<usize>() > 2 * FILE_MAX_BYTES {
            return Err(UnitError::Service { unit: name.clone(), why: "its files are too large for a unit" });
        }
        let mut count = 0;
        for fragment in fragments {
            let entries = syntax::parse(&fragment.file, &fragment.text)?;
            count += entries.len();
            if count > ENTRIES_MAX {
                return Err(UnitError::Service { unit: name.clone(), why: "it has too many assignments" });
            }
            for entry in &entries {
                reader.take(entry).map_err(|why| UnitError::Value {
                    at: entry.at.clone(),
                    key: entry.key.clone(),
                    value: entry.value.chars().take(200).collect(),
                    why,
                })?;
            }
        }
        reader.finish()
    }

    /// The names of the directives that are not carried out, each once.
    #[must_use]
    pub fn ignored_keys(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        self.ignored.iter().map(|i| i.key.as_str()).filter(|key| seen.insert(*key)).collect()
    }
}

struct Reader<'f> {
    facts: &'f Facts,
    unit: Unit,
    start_timeout_given: bool,
    notify_given: bool,
}

type Taken = Result<(), String>;

impl Reader<'_> {
    fn take(&mut self, entry: &Entry) -> Taken {
        let (key, value) = (entry.key.as_str(), entry.value.as_str());
        let known = match entry.section.as_str() {
            // How a unit is enabled, and what others keep in its file.
            "Install" => true,
            section if section.starts_with("X-") => true,
            _ if key.starts_with("X-") || SILENT.contains(&key) => true,
            "Unit" => self.unit_directive(key, value)?,
            "Service" => {
                self.exec_directive(key, value)?
                    || self.service_directive(key, value)?
                    || self.environment_directive(key, value)?
                    || self.process_directive(key, value)?
            }
            _ => false,
        };
        if !known {
            self.unit.ignored.push(Ignored { key: entry.key.clone(), at: entry.at.clone() });
        }
        Ok(())
    }

    fn unit_directive(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "Description" => self.unit.description = self.text(value)?,
            "Requires" | "BindsTo" => {
                self.merge(|unit| &mut unit.requires, value)?;
                self.unit.stops_with.extend(self.names(value)?);
            }
            "Requisite" => self.merge(|unit| &mut unit.requires, value)?,
            "Wants" | "Upholds" => self.merge(|unit| &mut unit.wants, value)?,
            "After" => self.merge(|unit| &mut unit.after, value)?,
            "Before" => self.merge(|unit| &mut unit.before, value)?,
            "Conflicts" => self.merge(|unit| &mut unit.conflicts, value)?,
            "PartOf" => self.merge(|unit| &mut unit.stops_with, value)?,
            "StartLimitInterval" | "StartLimitIntervalSec" => self.start_interval(value)?,
            "StartLimitBurst" => self.unit.service.start_limit.burst = number(value)?,
            _ => return self.condition(key, value),
        }
        Ok(true)
    }

    fn condition(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let (assert, name) = match (key.strip_prefix("Condition"), key.strip_prefix("Assert")) {
            (Some(name), _) => (false, name),
            (None, Some(name)) => (true, name),
            (None, None) => return Ok(false),
        };
        let Some((_, test)) = TESTS.iter().find(|(known, _)| *known == name) else { return Ok(false) };
        if value.is_empty() {
            self.unit.conditions.retain(|c| c.assert != assert);
            return Ok(true);
        }
        let (trigger, value) = value.strip_prefix('|').map_or((false, value), |rest| (true, rest));
        let (negated, value) = value.strip_prefix('!').map_or((false, value), |rest| (true, rest));
        let path = self.path(value)?;
        self.unit.conditions.push(Condition { test: *test, path, negated, trigger, assert });
        Ok(true)
    }

    fn exec_directive(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let Some(phase) = Phase::ALL.into_iter().find(|phase| phase.directive() == key) else { return Ok(false) };
        let commands = Command::parse(value, &self.unit.name, self.facts)?;
        let list = &mut self.unit.service.commands[phase as usize];
        if value.is_empty() {
            list.clear();
        }
        list.extend(commands);
        Ok(true)
    }

    fn service_directive(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let service = &mut self.unit.service;
        match key {
            "Type" => {
                service.kind = match value {
                    "simple" | "exec" | "idle" | "dbus" => ServiceType::Exec,
                    "forking" => ServiceType::Forking,
                    "notify" | "notify-reload" => ServiceType::Notify,
                    "oneshot" => ServiceType::Oneshot,
                    _ => return Err("it is not a type of service".into()),
                };
                if value == "notify-reload" {
                    service.reload_signal.get_or_insert(1);
                }
                // Told, because its start does not wait for the name.
                return Ok(value != "dbus");
            }
            "RemainAfterExit" => service.remain = value::switch(value)?,
            "GuessMainPID" => service.guess_main = value::switch(value)?,
            "PIDFile" => {
                let path = self.expand(value)?;
                let absolute = if path.starts_with(b"/") { path } else { [b"/run/".as_slice(), &path].concat() };
                self.unit.service.pid_file = (!value.is_empty()).then_some(absolute);
            }
            "KillMode" => {
                service.kill_mode = match value {
                    "control-group" => KillMode::ControlGroup,
                    "mixed" => KillMode::Mixed,
                    "process" => KillMode::Process,
                    "none" => KillMode::None,
                    _ => return Err("it is not a kill mode".into()),
                }
            }
            "KillSignal" => service.kill_signal = value::signal(value)?,
            "FinalKillSignal" => service.final_signal = value::signal(value)?,
            "ReloadSignal" => service.reload_signal = Some(value::signal(value)?),
            "SendSIGKILL" => service.send_kill = value::switch(value)?,
            "SendSIGHUP" => service.send_hup = value::switch(value)?,
            "NotifyAccess" => {
                self.notify_given = true;
                service.notify = match value {
                    "none" => NotifyAccess::None,
                    "main" => NotifyAccess::Main,
                    "exec" | "all" => NotifyAccess::All,
                    _ => return Err("it is not none, main, exec or all".into()),
                }
            }
            "TimeoutStartSec" => {
                service.start_timeout = timeout(value)?;
                self.start_timeout_given = true;
            }
            "TimeoutStopSec" => service.stop_timeout = timeout(value)?,
            "TimeoutSec" => {
                service.start_timeout = timeout(value)?;
                service.stop_timeout = service.start_timeout;
                self.start_timeout_given = true;
            }
            "Restart" => {
                service.restart = match value {
                    "no" => Restart::No,
                    "always" => Restart::Always,
                    "on-success" => Restart::OnSuccess,
                    "on-failure" => Restart::OnFailure,
                    "on-abnormal" => Restart::OnAbnormal,
                    "on-abort" => Restart::OnAbort,
                    "on-watchdog" => Restart::OnWatchdog,
                    _ => return Err("it is not a restart policy".into()),
                }
            }
            "RestartSec" => service.restart_delay = value::span(value)?.unwrap_or(Duration::MAX),
            "SuccessExitStatus" => statuses(&mut service.success, value)?,
            "RestartPreventExitStatus" => statuses(&mut service.prevent, value)?,
            "RestartForceExitStatus" => statuses(&mut service.force, value)?,
            // Where older units have them.
            "StartLimitInterval" | "StartLimitIntervalSec" => self.start_interval(value)?,
            "StartLimitBurst" => service.start_limit.burst = number(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn environment_directive(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "Environment" => {
                if value.is_empty() {
                    self.unit.service.environment.clear();
                }
                for word in words::split(value.as_bytes())? {
                    let word = specifier::expand(&word, &self.unit.name, self.facts)?;
                    let equals = word.iter().position(|b| *b == b'=').ok_or("it is no NAME=value")?;
                    let (name, value) = (word[..equals].to_vec(), word[equals + 1..].to_vec());
                    if !crate::envfile::is_name(&name) {
                        return Err("this is no variable's name".into());
                    }
                    self.unit.service.environment.insert(name, value);
                }
            }
            "EnvironmentFile" => {
                let (optional, path) = value.strip_prefix('-').map_or((false, value), |path| (true, path));
                if value.is_empty() {
                    self.unit.service.environment_files.clear();
                } else {
                    let path = self.path(path)?;
                    self.unit.service.environment_files.push(EnvironmentFile { path, optional });
                }
            }
            "UnsetEnvironment" => self.unit.service.unset.extend(words::split(value.as_bytes())?),
            "WorkingDirectory" => {
                let (optional, path) = value.strip_prefix('-').map_or((false, value), |path| (true, path));
                let path = match path {
                    "" => {
                        self.unit.service.cwd = None;
                        return Ok(true);
                    }
                    "~" => None,
                    path => Some(self.path(path)?),
                };
                self.unit.service.cwd = Some(WorkingDirectory { path, optional });
            }
            "StandardOutput" => self.unit.service.output = self.stream(value)?,
            "StandardError" => self.unit.service.error = self.stream(value)?,
            _ => return self.directory_directive(key, value),
        }
        Ok(true)
    }

    fn directory_directive(&mut self, key: &str, value: &str) -> Result<bool, String> {
        if key == "RuntimeDirectoryPreserve" {
            self.unit.service.preserve_runtime = value == "restart" || value::switch(value)?;
            return Ok(true);
        }
        let Some(index) =
            DIRECTORY_KINDS.iter().position(|(name, ..)| key.strip_suffix("Mode").unwrap_or(key) == *name)
        else {
            return Ok(false);
        };
        if key.ends_with("Mode") {
            self.unit.service.directories[index].mode = value::mode(value)?;
            return Ok(true);
        }
        let mut names = Vec::new();
        for word in words::split(value.as_bytes())? {
            let name = specifier::expand(&word, &self.unit.name, self.facts)?;
            // A link to it, which newer units may ask for, is not made.
            let name = name.split(|b| *b == b':').next().unwrap_or_default().to_vec();
            let clean = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
            if !name.split(|b| *b == b'/').all(clean) {
                return Err("it is not a relative path without '..'".into());
            }
            names.push(name);
        }
        let list: &mut Directories = &mut self.unit.service.directories[index];
        if value.is_empty() {
            list.names.clear();
        }
        list.names.extend(names);
        Ok(true)
    }

    fn process_directive(&mut self, key: &str, value: &str) -> Result<bool, String> {
        if let Some((resource, counted)) = key.strip_prefix("Limit").and_then(|n| LIMITS.iter().find(|(l, _)| *l == n))
        {
            let (soft, hard) = value::limit(value, *counted)?;
            self.unit.service.limits.retain(|l| l.resource != *resource);
            self.unit.service.limits.push(Limit { resource, soft, hard });
            return Ok(true);
        }
        match key {
            "User" => self.unit.service.user = self.optional(value)?,
            "Group" => self.unit.service.group = self.optional(value)?,
            "SupplementaryGroups" => {
                if value.is_empty() {
                    self.unit.service.groups.clear();
                }
                for word in value.split_whitespace() {
                    let group = self.text(word)?;
                    self.unit.service.groups.push(group);
                }
            }
            "UMask" => self.unit.service.umask = value::mode(value)? & 0o777,
            "Nice" => self.unit.service.nice = Some(within(value, -20, 19)?),
            "OOMScoreAdjust" => self.unit.service.oom_score = Some(within(value, -1000, 1000)?),
            "NoNewPrivileges" => self.unit.service.no_new_privileges = value::switch(value)?,
            // Switched off is what they are here.
            "DynamicUser"
            | "PrivateTmp"
            | "PrivateDevices"
            | "PrivateNetwork"
            | "ProtectKernelTunables"
            | "ProtectKernelModules"
            | "ProtectControlGroups"
            | "RestrictRealtime"
            | "ProtectSystem"
            | "ProtectHome" => {
                return Ok(value::switch(value) == Ok(false));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(mut self) -> Result<Unit, UnitError> {
        let service = &mut self.unit.service;
        let starts = service.of(Phase::Start).len();
        let why = if service.kind == ServiceType::Oneshot {
            if !self.start_timeout_given {
                service.start_timeout = None;
            }
            match (starts, service.restart) {
                (0, _) if service.of(Phase::Stop).is_empty() => Some("it has neither ExecStart= nor ExecStop="),
                (_, Restart::Always | Restart::OnSuccess) => Some("Restart= cannot be this with Type=oneshot"),
                _ => None,
            }
        } else {
            match starts {
                0 if service.remain && !service.of(Phase::Stop).is_empty() => None,
                0 => Some("it has no ExecStart="),
                1 => None,
                _ => Some("more than one ExecStart= needs Type=oneshot"),
            }
        };
        if service.kind == ServiceType::Notify && (!self.notify_given || service.notify == NotifyAccess::None) {
            service.notify = NotifyAccess::Main;
        }
        match why {
            Some(why) => Err(UnitError::Service { unit: self.unit.name, why }),
            None => Ok(self.unit),
        }
    }

    /// An empty value empties the list.
    fn merge(&mut self, list: fn(&mut Unit) -> &mut BTreeSet<UnitName>, value: &str) -> Taken {
        let names = self.names(value)?;
        let list = list(&mut self.unit);
        if value.is_empty() {
            list.clear();
        }
        list.extend(names);
        Ok(())
    }

    fn start_interval(&mut self, value: &str) -> Taken {
        self.unit.service.start_limit.interval = value::span(value)?.unwrap_or(Duration::MAX);
        Ok(())
    }

    fn stream(&self, value: &str) -> Result<Stream, String> {
        let file = |path: &str, how| self.path(path).map(|path| Stream::File { path, how });
        Ok(match value.split_once(':') {
            Some(("file", path)) => file(path, Open::Keep)?,
            Some(("append", path)) => file(path, Open::Append)?,
            Some(("truncate", path)) => file(path, Open::Truncate)?,
            None if value == "null" => Stream::Null,
            None if value == "inherit" => Stream::Inherit,
            // The journal, the console, a terminal: here, the log.
            _ => Stream::Log,
        })
    }

    fn expand(&self, value: &str) -> Result<Vec<u8>, String> {
        specifier::expand(value.as_bytes(), &self.unit.name, self.facts)
    }

    fn text(&self, value: &str) -> Result<String, String> {
        String::from_utf8(self.expand(value)?).map_err(|_| "it is not UTF-8 text".into())
    }

    fn optional(&self, value: &str) -> Result<Option<String>, String> {
        Ok(Some(self.text(value)?).filter(|text| !text.is_empty()))
    }

    fn path(&self, value: &str) -> Result<Vec<u8>, String> {
        let path = self.expand(value)?;
        if path.starts_with(b"/") { Ok(path) } else { Err("it is not an absolute path".into()) }
    }

    fn names(&self, value: &str) -> Result<BTreeSet<UnitName>, String> {
        value.split_whitespace().map(|word| self.text(word)?.parse().map_err(|e: UnitError| e.to_string())).collect()
    }
}

/// Zero, too, is for ever.
fn timeout(value: &str) -> Result<Option<Duration>, String> {
    Ok(value::span(value)?.filter(|span| !span.is_zero()))
}

fn number(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| "it is not a number".into())
}

fn within(value: &str, least: i32, most: i32) -> Result<i32, String> {
    let number = value.parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("it is not a number from {least} to {most}"))
}

fn statuses(list: &mut Statuses, value: &str) -> Taken {
    if value.is_empty() {
        *list = Statuses::default();
    }
    for word in value.split_whitespace() {
        match word.parse() {
            Ok(code @ 0..=255) => list.codes.push(code),
            Ok(_) => return Err("an exit status is a number from 0 to 255".into()),
            Err(_) => list.signals.push(value::signal(word)?),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
