//! Sigma rules from a directory, matched against events by the names that Sigma's Linux log sources have.
//!
//! ```text
//!   *.yml ─► rule ─ log source ─► bucket              event
//!   process_creation      Image CommandLine ParentImage ParentCommandLine User      exec, done
//!   file_event            TargetFilename Image                                      written
//!   file_delete, file_rename, file_access, file_change   the same                   unlink, rename, read, chmod ...
//!   network_connection    DestinationIp DestinationPort Initiated Image             connect
//!   service auditd        type=EXECVE a0 a1 ...; type=PATH name; type=SYSCALL exe   exec, written
//! ```
//!
//! Invariants: only rules of a bucket are tried on its events; a rule that cannot be read, or is of another log source, is counted
//! and named, never taken for one that did not match; regular expressions take time in proportion to the text (the crate `regex`).

use crate::found::{command, text};
use crate::world::{World, written};
use fvm_model::Severity;
use fvm_model::event::{Event, Kind, Phase};
use fvm_model::finding::{Finding, Source};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Largest rule.
const RULE_MAX_BYTES: u64 = 256 << 10;
/// Most files that are read.
const FILES_MAX: usize = 20_000;
/// How deep directories are searched.
const DEPTH_MAX: usize = 16;
/// Events that one finding names.
const EVENTS_MAX: usize = 32;
/// Files that one finding names.
const PATHS_MAX: usize = 10_000;

/// Why rules cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SigmaError {
    /// The directory cannot be read.
    #[error("cannot read the Sigma rules in {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There are too many.
    #[error("{} holds more than {FILES_MAX} files", path.display())]
    Many {
        /// Which.
        path: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bucket {
    Process,
    File,
    Delete,
    Rename,
    Access,
    Change,
    Network,
    Auditd,
}

/// Rules, by log source.
#[derive(Debug, Default)]
pub struct Sigma {
    buckets: HashMap<Bucket, Vec<sigma_rust::Rule>>,
    /// How many are tried.
    pub loaded: usize,
    /// Which are not, and why.
    pub passed_over: Vec<(PathBuf, String)>,
}

impl Sigma {
    /// Loads all rules below a directory.
    ///
    /// # Errors
    /// When it cannot be read, or holds too many files.
    pub fn load(dir: &Path) -> Result<Self, SigmaError> {
        let mut files = Vec::new();
        collect(dir, 0, &mut files)?;
        files.sort();
        let mut sigma = Self::default();
        for file in files {
            let read = || -> std::io::Result<String> {
                if file.metadata()?.len() > RULE_MAX_BYTES {
                    return Err(std::io::Error::other(format!("longer than {RULE_MAX_BYTES} bytes")));
                }
                std::fs::read_to_string(&file)
            };
            match read() {
                Ok(text) => sigma.add(&file, &text),
                Err(e) => sigma.passed_over.push((file, e.to_string())),
            }
        }
        Ok(sigma)
    }

    /// Adds a rule's text.
    pub fn add(&mut self, file: &Path, text: &str) {
        let rule = match sigma_rust::rule_from_yaml(text) {
            Ok(rule) => rule,
            Err(e) => return self.passed_over.push((file.to_owned(), e.to_string())),
        };
        let source = &rule.logsource;
        match bucket(source.category.as_deref(), source.product.as_deref(), source.service.as_deref()) {
            Ok(bucket) => {
                self.buckets.entry(bucket).or_default().push(rule);
                self.loaded += 1;
            }
            Err(why) => self.passed_over.push((file.to_owned(), why)),
        }
    }
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), SigmaError> {
    let fail = |source| SigmaError::Read { path: dir.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(fail)?);
        if kind.is_dir() && depth < DEPTH_MAX {
            collect(&path, depth + 1, files)?;
        } else if path.extension().is_some_and(|ending| ending == "yml" || ending == "yaml") {
            if files.len() == FILES_MAX {
                return Err(SigmaError::Many { path: dir.to_owned() });
            }
            files.push(path);
        }
    }
    Ok(())
}

fn bucket(category: Option<&str>, product: Option<&str>, service: Option<&str>) -> Result<Bucket, String> {
    if let Some(product) = product.filter(|product| *product != "linux") {
        return Err(format!("it is for {product}"));
    }
    match (category, service) {
        (Some("process_creation"), _) => Ok(Bucket::Process),
        (Some("file_event"), _) => Ok(Bucket::File),
        (Some("file_delete"), _) => Ok(Bucket::Delete),
        (Some("file_rename"), _) => Ok(Bucket::Rename),
        (Some("file_access"), _) => Ok(Bucket::Access),
        (Some("file_change"), _) => Ok(Bucket::Change),
        (Some("network_connection"), _) => Ok(Bucket::Network),
        (None, Some("auditd")) => Ok(Bucket::Auditd),
        _ => Err(format!(
            "its log source is not in the behaviour log: {}",
            category.or(service).unwrap_or("none is named")
        )),
    }
}

/// Matches events.
#[derive(Debug)]
pub struct Matcher<'s> {
    sigma: &'s Sigma,
    findings: Vec<Finding>,
    /// By bucket and place of the rule in it.
    by: HashMap<(Bucket, usize), usize>,
}

impl<'s> Matcher<'s> {
    /// Nothing matched yet.
    #[must_use]
    pub fn new(sigma: &'s Sigma) -> Self {
        Self { sigma, findings: Vec::new(), by: HashMap::new() }
    }

    /// Tries the rules of an event's log sources on it.
    pub fn see(&mut self, event: &Event, world: &World) {
        match (event.kind, event.phase) {
            (Kind::Exec, Phase::Done) => {
                self.try_on(Bucket::Process, &process(event, world), event, world);
                self.try_on(Bucket::Auditd, &execve(event, world), event, world);
            }
            (Kind::Connect, _) if crate::detect::network::address(event).is_some() => {
                self.try_on(Bucket::Network, &network(event, world), event, world);
            }
            (Kind::Unlink, _) => self.try_on(Bucket::Delete, &file(event, world, false), event, world),
            (Kind::Read, _) => self.try_on(Bucket::Access, &file(event, world, false), event, world),
            (Kind::Chmod | Kind::Chown | Kind::Utime | Kind::Setxattr, _) => {
                self.try_on(Bucket::Change, &file(event, world, false), event, world);
            }
            (Kind::Rename, _) => {
                self.try_on(Bucket::Rename, &file(event, world, true), event, world);
                self.try_on(Bucket::File, &file(event, world, true), event, world);
            }
            _ if written(event).is_some() => {
                self.try_on(Bucket::File, &file(event, world, event.kind == Kind::Link), event, world);
                self.try_on(Bucket::Auditd, &audited_path(event), event, world);
            }
            _ => {}
        }
    }

    fn try_on(&mut self, bucket: Bucket, fields: &sigma_rust::Event, event: &Event, world: &World) {
        let sigma = self.sigma;
        let Some(rules) = sigma.buckets.get(&bucket) else { return };
        for (n, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.is_match(fields)) {
            let index = *self.by.entry((bucket, n)).or_insert_with(|| {
                self.findings.push(begin(rule, event, world));
                self.findings.len() - 1
            });
            let finding = &mut self.findings[index];
            if finding.events.len() < EVENTS_MAX {
                finding.events.push(event.seq);
            } else {
                finding.more_events += 1;
            }
            let path = written(event).filter(|_| matches!(bucket, Bucket::File | Bucket::Rename | Bucket::Auditd));
            let path = path.and_then(|path| fvm_model::VmPath::new(Path::new(std::ffi::OsStr::from_bytes(path))).ok());
            match path.filter(|path| !finding.paths.contains(path)) {
                Some(path) if finding.paths.len() < PATHS_MAX => finding.paths.push(path),
                Some(_) => finding.paths_cut = true,
                None => {}
            }
        }
    }

    /// The findings.
    #[must_use]
    pub fn into_findings(mut self) -> Vec<Finding> {
        self.findings.iter_mut().for_each(|finding| finding.paths.sort());
        self.findings
    }
}

fn begin(rule: &sigma_rust::Rule, event: &Event, world: &World) -> Finding {
    // The crate does not give the type of a level a name.
    let level = rule.level.as_ref().map(|level| format!("{level:?}")).unwrap_or_default();
    let severity = match level.as_str() {
        "Critical" => Severity::Critical,
        "High" => Severity::High,
        "Medium" => Severity::Medium,
        _ => Severity::Low,
    };
    let technique =
        |tag: &String| tag.strip_prefix("attack.t").map(|number| format!("T{}", number.to_ascii_uppercase()));
    let attack = rule.tags.iter().flatten().find_map(technique).unwrap_or_default();
    let (program, ancestors) = match world.program(event.process(), event.seq) {
        Some((program, ancestors)) => (Some(program), ancestors),
        None => (None, Vec::new()),
    };
    let what = match (event.kind, world.process(event.process()), written(event)) {
        (Kind::Exec, Some(process), _) => format!("ran {}", command(&process.argv)),
        (_, _, Some(path)) => format!("{} {}", event.kind.name(), text(path)),
        _ => event.kind.name().to_owned(),
    };
    let printable = |words: &str| fvm_model::path::printable(words.trim().replace('\n', " ").as_bytes());
    Finding {
        id: format!("sigma:{}", printable(rule.id.as_deref().unwrap_or(&rule.title))),
        title: printable(&rule.title),
        severity,
        attack: printable(&attack),
        words: rule.description.as_deref().map(printable).unwrap_or_default(),
        what,
        events: Vec::new(),
        more_events: 0,
        paths: Vec::new(),
        paths_cut: false,
        program,
        ancestors,
        at: Some(event.ts),
        source: Source::Sigma,
        excused: None,
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn user(event: &Event) -> String {
    if event.uid == 0 { "root".into() } else { event.uid.to_string() }
}

fn process(event: &Event, world: &World) -> sigma_rust::Event {
    let mut fields = sigma_rust::Event::new();
    let own = world.process(event.process());
    fields.insert("Image", lossy(event.exe.0.as_bytes()));
    fields.insert("CommandLine", own.map(|p| lossy(&p.argv.join(&b' '))).unwrap_or_default());
    fields.insert("ProcessId", i64::from(event.tgid));
    fields.insert("User", user(event));
    fields.insert("LogonId", i64::from(event.uid));
    if let Some(parent) = own.and_then(|p| p.parent).and_then(|key| world.process(key)) {
        fields.insert("ParentImage", lossy(&parent.exe));
        fields.insert("ParentCommandLine", lossy(&parent.argv.join(&b' ')));
    }
    fields
}

fn execve(event: &Event, world: &World) -> sigma_rust::Event {
    let mut fields = sigma_rust::Event::new();
    fields.insert("type", "EXECVE");
    fields.insert("exe", lossy(event.exe.0.as_bytes()));
    for (n, arg) in world.process(event.process()).into_iter().flat_map(|p| &p.argv).enumerate() {
        fields.insert(format!("a{n}"), lossy(arg));
    }
    fields
}

fn audited_path(event: &Event) -> sigma_rust::Event {
    let mut fields = sigma_rust::Event::new();
    fields.insert("type", "PATH");
    fields.insert("name", written(event).map(lossy).unwrap_or_default());
    fields.insert("exe", lossy(event.exe.0.as_bytes()));
    fields
}

fn file(event: &Event, world: &World, to: bool) -> sigma_rust::Event {
    let mut fields = sigma_rust::Event::new();
    let bytes = |path: Option<&fvm_model::path::Bytes>| path.map(|path| lossy(path.0.as_bytes())).unwrap_or_default();
    let (path, new) = (bytes(event.args.path.as_ref()), bytes(event.args.to.as_ref()));
    if to {
        fields.insert("SourceFilename", path);
        fields.insert("TargetFilename", new);
    } else {
        fields.insert("TargetFilename", path);
    }
    fields.insert("Image", lossy(event.exe.0.as_bytes()));
    fields
        .insert("CommandLine", world.process(event.process()).map(|p| lossy(&p.argv.join(&b' '))).unwrap_or_default());
    fields.insert("User", user(event));
    fields
}

fn network(event: &Event, world: &World) -> sigma_rust::Event {
    let mut fields = sigma_rust::Event::new();
    let ip = crate::detect::network::address(event).map(|ip| ip.to_string()).unwrap_or_default();
    fields.insert("DestinationIp", ip);
    fields.insert("DestinationPort", event.args.port.map_or(0, i64::from));
    fields.insert("Initiated", "true");
    fields.insert("Image", lossy(event.exe.0.as_bytes()));
    fields
        .insert("CommandLine", world.process(event.process()).map(|p| lossy(&p.argv.join(&b' '))).unwrap_or_default());
    fields.insert("User", user(event));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::testing::Story;

    const CRONTAB: &str = "title: A crontab from a pipe\nid: 1\nlevel: medium\ntags: [attack.persistence, attack.t1053.003]\nlogsource: {product: linux, category: process_creation}\ndetection:\n  selection:\n    Image|endswith: /crontab\n    CommandLine|contains: ' -'\n  condition: selection\n";
    const FILE: &str = "title: A file in a place\nid: 2\nlevel: high\nlogsource: {product: linux, category: file_event}\ndetection:\n  selection:\n    TargetFilename|startswith: /etc/rsyslog.d/\n  condition: selection\n";
    const AUDIT: &str = "title: A word of a command\nid: 3\nlogsource: {product: linux, service: auditd}\ndetection:\n  selection:\n    type: EXECVE\n    a0: chattr\n    a1|startswith: '-i'\n  condition: selection\n";
    const OTHER: &str = "title: x\nlogsource: {product: windows, category: process_creation}\ndetection:\n  selection: {a: b}\n  condition: selection\n";

    fn run(story: &Story, sigma: &Sigma) -> Vec<Finding> {
        let (mut world, mut matcher) = (World::new(&[]), Matcher::new(sigma));
        for event in &story.events {
            world.enter(event);
            matcher.see(event, &world);
            world.leave(event);
        }
        matcher.into_findings()
    }

    #[test]
    fn rules_match_the_events_of_their_log_source() {
        let mut sigma = Sigma::default();
        for text in [CRONTAB, FILE, AUDIT, OTHER, "no: rule"] {
            sigma.add(Path::new("x.yml"), text);
        }
        assert_eq!((sigma.loaded, sigma.passed_over.len()), (3, 2), "{:?}", sigma.passed_over);
        let mut story = Story::new();
        story.run(10, "/usr/bin/dash", &["sh"]);
        story.run_under(11, 10, "/usr/bin/crontab", &["crontab", "-"]);
        story.run_under(12, 10, "/usr/bin/crontab", &["crontab"]);
        story.run_under(13, 10, "/usr/bin/chattr", &["chattr", "-i", "/x"]);
        story.write(13, "/etc/rsyslog.d/x.conf");
        story.write(13, "/etc/rsyslog.conf");
        let found = run(&story, &sigma);
        let seen: Vec<_> = found
            .iter()
            .map(|f| (f.id.as_str(), f.severity, f.attack.as_str(), f.events.len(), f.paths.len()))
            .collect();
        assert_eq!(
            seen,
            [
                ("sigma:1", Severity::Medium, "T1053.003", 1, 0),
                ("sigma:3", Severity::Low, "", 1, 0),
                ("sigma:2", Severity::High, "", 1, 1)
            ]
        );
    }

    #[test]
    fn a_directory_is_loaded_and_what_is_no_rule_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a.yml"), CRONTAB).unwrap();
        std::fs::write(dir.path().join("b.yml"), ": : no").unwrap();
        std::fs::write(dir.path().join("readme.txt"), "x").unwrap();
        let sigma = Sigma::load(dir.path()).unwrap();
        assert_eq!((sigma.loaded, sigma.passed_over.len()), (1, 1));
        assert!(Sigma::load(&dir.path().join("gone")).is_err());
    }
}
