//! What a visit did to its VM: files outside the browser's own places, programs that are not the browser's, ports, findings, downloads.
//!
//! ```text
//!   behaviour log ─► Programs ─► ran, listened          two are ours, once each: what holds the VM, and a shell that becomes the
//!                                                       browser; beside them only the browser's own file counts as the browser
//!   layers ────────► wrote                              less the globs of the baseline
//!   both ──────────► findings (fvm analyze)             their paths are the persistent ones
//! ```
//!
//! Invariants: programs are never learnt: a baseline knows of files only; a log that is not whole, up to the moment in which it is read,
//! is said to be so.

use super::{Cut, bounded, put};
use crate::baseline::Baseline;
use crate::model::{Foreign, LIST_MAX, Observation, PATHS_MAX, Ran, Wrote};
use crate::visit::{BEGIN, DOWNLOADS, HOLDER, NO_PLACE, words};
use fvm::model::event::{Event, Kind, Phase, ProcessKey};
use fvm::model::path::{Bytes, printable};
use fvm::model::{Change, ChangeKind, FileType, VmRecord};
use fvm::{Fvm, Settings, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// So many events are named for one program.
const EVENTS_MAX: usize = 10;
/// Programs that belong to a browser beside its own file, in the same directory.
const HELPERS: &[&str] = &["chrome_crashpad_handler"];

/// The programs of a log that are not the browser's, and where something listened.
#[derive(Debug)]
pub struct Programs<'b> {
    browser: &'b Path,
    tree: Tree,
    /// The process that holds the VM.
    holder: Option<ProcessKey>,
    /// The process that is a shell, and then the browser.
    main: Option<ProcessKey>,
    /// How many programs that was.
    of_main: u32,
    /// The file of each process's program.
    is: BTreeMap<ProcessKey, Bytes>,
    /// What was asked for, and was not seen yet.
    asked: BTreeMap<ProcessKey, Event>,
    found: BTreeMap<(String, String), Ran>,
    bound: BTreeMap<ProcessKey, String>,
    listened: BTreeSet<String>,
    /// Connections that were asked for, where the protocol is of the net.
    connected: BTreeSet<(String, String)>,
}

impl<'b> Programs<'b> {
    /// None seen yet. `browser`: its file.
    #[must_use]
    pub fn new(browser: &'b Path) -> Self {
        Self {
            browser,
            tree: Tree::default(),
            holder: None,
            main: None,
            of_main: 0,
            is: BTreeMap::new(),
            asked: BTreeMap::new(),
            found: BTreeMap::new(),
            bound: BTreeMap::new(),
            listened: BTreeSet::new(),
            connected: BTreeSet::new(),
        }
    }

    /// Takes an event in.
    pub fn see(&mut self, event: &Event) {
        self.tree.add(event);
        let key = event.process();
        match (event.kind, event.phase) {
            (Kind::Exec, Phase::Attempt) => {
                // They are executed before there is a page, which could have others like them executed.
                let argv: Vec<&OsStr> = event.args.argv.iter().map(|word| word.0.as_os_str()).collect();
                match argv.as_slice() {
                    [program] if *program == HOLDER && self.holder.is_none() => self.holder = Some(key),
                    [_, _, script, ..] if *script == BEGIN && self.main.is_none() => self.main = Some(key),
                    _ => {}
                }
                self.of_main += u32::from(Some(key) == self.main);
                if self.asked.len() < LIST_MAX {
                    self.asked.insert(key, event.clone());
                }
            }
            (Kind::Exec, Phase::Done) => {
                let was = self.is.insert(key, event.exe.clone());
                // A second look at the same program, which was asked for once.
                if self.asked.remove(&key).is_none() && was.as_ref() == Some(&event.exe) {
                    return;
                }
                let program = self.tree.get(key).map(|node| node.program_at(event.seq));
                let command = program.map_or_else(Vec::new, |program| program.command());
                self.ran(key, event.seq, event.exe.0.as_bytes(), &command);
            }
            (Kind::Bind, _) if is_inet(event) => {
                self.bound.insert(key, place(event));
            }
            (Kind::Listen, _) => {
                // Of Unix sockets no place was noted.
                if let Some(place) = self.bound.get(&key)
                    && self.listened.len() < LIST_MAX
                {
                    let who = printable(event.exe.0.as_bytes());
                    self.listened.insert(bounded(&format!("{place} ({who})")));
                }
            }
            (Kind::Connect | Kind::Send, _) if is_inet(event) && self.connected.len() < LIST_MAX => {
                let who = bounded(&printable(event.exe.0.as_bytes()));
                let to = place(event);
                let is_look = event.kind == Kind::Connect && self.is_browser(&who) && is_look_for_route(&to);
                if !is_look {
                    self.connected.insert((who, to));
                }
            }
            _ => {}
        }
    }

    /// A process became a program.
    fn ran(&mut self, key: ProcessKey, seq: u64, exe: &[u8], command: &[u8]) {
        let command = bounded(&printable(command));
        if self.is_own(key, Path::new(OsStr::from_bytes(exe)), &command) || self.found.len() >= LIST_MAX {
            return;
        }
        let exe = bounded(&printable(exe));
        let parent = self.tree.ancestors(key, seq).first().map(|of| bounded(&printable(of.exe.0.as_bytes())));
        let ran = self.found.entry((exe.clone(), command.clone()));
        let ran = ran.or_insert_with(|| Ran { exe, command, parent, events: Vec::new() });
        if ran.events.len() < EVENTS_MAX {
            ran.events.push(seq);
        }
    }

    /// What was asked for, and did not come to be seen: it failed, or the VM ended first. The browser does not ask for others either.
    fn end(&mut self) {
        for (key, event) in std::mem::take(&mut self.asked) {
            let asked = event.args.path.as_ref().map_or(&b""[..], |path| path.0.as_bytes());
            // The browser has no other place to look for programs by name, and there are none.
            if asked.strip_prefix(NO_PLACE.as_bytes()).is_some_and(|rest| rest.starts_with(b"/")) {
                continue;
            }
            let exe = if asked == b"/proc/self/exe" { event.exe.0.as_bytes() } else { asked };
            let command: Vec<&[u8]> = event.args.argv.iter().map(|word| word.0.as_bytes()).collect();
            self.ran(key, event.seq, exe, &command.join(&b' '));
        }
    }

    /// Whether a program is what a visit starts, or the browser starting a process of its own kind.
    fn is_own(&self, key: ProcessKey, exe: &Path, command: &str) -> bool {
        let is_main = Some(key) == self.main;
        if Some(key) == self.holder || is_main && self.of_main == 1 {
            return true;
        }
        if exe == self.browser {
            return is_main && self.of_main == 2 || command.contains(" --type=");
        }
        exe.parent() == self.browser.parent()
            && exe.file_name().is_some_and(|name| HELPERS.iter().any(|helper| name == *helper))
    }

    /// Whether `exe` is the browser's file.
    fn is_browser(&self, exe: &str) -> bool {
        Path::new(exe) == self.browser
    }

    /// Programs that are not the browser's, ports, and connections to other places than `proxy` by whomsoever.
    fn into_parts(mut self, proxy: &str) -> (Vec<Ran>, Vec<String>, Vec<Foreign>) {
        self.end();
        let mut foreign = Vec::new();
        for (program, to) in &self.connected {
            if !(self.is_browser(program) && to == proxy) {
                foreign.push(Foreign {
                    protocol: String::new(),
                    to: to.clone(),
                    program: Some(program.clone()),
                    began: String::new(),
                });
            }
        }
        (self.found.into_values().collect(), self.listened.into_iter().collect(), foreign)
    }
}

/// The browser's ways of asking whether there is a route, and from which address: a datagram socket is connected to a name server of
/// Google's, and nothing is sent (`net/dns/host_resolver_manager.cc`, `services/network/p2p/socket_manager.cc`). What is sent all the same
/// is seen by the gate.
fn is_look_for_route(to: &str) -> bool {
    to == "8.8.8.8:53" || to.starts_with("[2001:4860:4860::8888]:")
}

fn is_inet(event: &Event) -> bool {
    event.args.family.as_deref().is_some_and(|family| family.starts_with("inet"))
}

fn place(event: &Event) -> String {
    let address = event.args.address.as_ref().map(|a| printable(a.0.as_bytes())).unwrap_or_default();
    let port = event.args.port.unwrap_or_default();
    bounded(&if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
}

/// A VM that a visit was in, and what is the browser's own in it.
#[derive(Debug)]
pub struct Side<'a> {
    /// Where it is kept.
    pub fvm: &'a Fvm,
    /// Its record.
    pub record: &'a VmRecord,
    /// The browser's file.
    pub browser: &'a Path,
    /// What the browser writes by itself.
    pub baseline: &'a Baseline,
    /// How its log is judged.
    pub settings: &'a Settings,
    /// Where the browser's proxy is, as the VM sees it.
    pub proxy: &'a str,
}

impl Side<'_> {
    /// Looks at the VM, which need not have ended, and puts what is found into `seen`, where what the gate saw is already.
    ///
    /// # Errors
    /// In words, when its log or its layers cannot be read.
    pub fn look(&self, seen: &mut Observation, cut: &mut Cut) -> Result<(), String> {
        // What was done a moment ago is in its tracer's memory. Of one that has ended all is written.
        let is_settled = self.fvm.settle_log(self.record).is_ok();
        let mut programs = Programs::new(self.browser);
        let log = self.fvm.events(self.record).and_then(|mut log| Ok(log.read(&mut |event| programs.see(&event))?));
        let whole = log.map_err(|e| words("read the behaviour log", &e))?;
        seen.lost_events = whole.lost + u64::from(!whole.is_whole(is_settled));
        let (ran, listened, foreign) = programs.into_parts(self.proxy);
        (seen.ran, seen.listened) = (ran, listened);
        for one in foreign {
            match seen.foreign.iter_mut().find(|other| other.to == one.to) {
                Some(same) => same.program = same.program.take().or(one.program),
                None => put(&mut seen.foreign, LIST_MAX, one, cut, "connections"),
            }
        }
        let mut set = self.fvm.changes(self.record).map_err(|e| words("read the VM's changes", &e))?;
        set.changes.retain(|change| !self.is_own(change));
        if let Ok(Some((origins, _))) = self.fvm.origins(self.record) {
            for change in &mut set.changes {
                change.origin = origins.of(change).map(Box::new);
            }
        }
        let found = self.fvm.analyze(self.record, &mut set.changes.iter().cloned(), &set.warnings, self.settings, None);
        let found = found.map_err(|e| words("judge the log", &e))?;
        let mut persistent = BTreeSet::new();
        for finding in &found.report.findings {
            persistent.extend(finding.paths.iter().map(|path| path.as_bytes().to_vec()));
            let what = bounded(&printable(finding.what.as_bytes()));
            let one = (finding.id.clone(), finding.severity.to_string(), what);
            put(&mut seen.findings, LIST_MAX, one, cut, "findings");
        }
        for change in &set.changes {
            let is_persistent = persistent.contains(change.path.as_bytes());
            put(&mut seen.wrote, PATHS_MAX, wrote(change, is_persistent), cut, "changed files");
        }
        Ok(())
    }

    fn is_own(&self, change: &Change) -> bool {
        let path = change.path.as_bytes();
        let is_dir = change.file_type == FileType::Directory;
        let in_downloads = path.strip_prefix(DOWNLOADS.as_bytes());
        match in_downloads {
            Some(b"") => is_dir,
            Some(rest) => is_download(rest),
            None => self.baseline.covers(path, is_dir),
        }
    }
}

/// Whether a file below the place of downloads has a name that the browser gives: whole, or on its way. More of them may be there than
/// it told of.
fn is_download(rest: &[u8]) -> bool {
    let name = rest.strip_prefix(b"/").unwrap_or_default();
    let name = name.strip_suffix(b".crdownload").unwrap_or(name);
    name.len() == 36 && name.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
}

fn wrote(change: &Change, persistent: bool) -> Wrote {
    let what = match &change.kind {
        ChangeKind::Created => "created",
        ChangeKind::Modified { .. } => "modified",
        ChangeKind::Metadata { .. } => "metadata",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Renamed { .. } => "renamed",
        ChangeKind::Retyped { .. } => "retyped",
    };
    Wrote {
        path: bounded(&printable(change.path.as_bytes())),
        what: what.into(),
        persistent,
        by: change.origin.as_ref().map(|origin| bounded(&printable(&origin.program.command()))),
    }
}
