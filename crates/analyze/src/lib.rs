//! What the behaviour log and the changes of a VM come to.
//!
//! ```text
//!   events ──► world ──► detectors ─┐
//!        └───► Sigma rules ─────────┼─► findings ─ exceptions ─► Report: verdict, findings, their files
//!   changes ─► places, contents ────┘
//! ```
//!
//! The rules: [`rules::ALL`], in words `docs/book/detections.md`. The report: `docs/spec/findings.md`.
//!
//! Invariants: reads nothing but what it is given (the events, the changes, their contents by [`Contents`]); writes nothing; over a
//! loss nothing is clean; a VM cannot make it take unbounded memory or time, for the log's size is bounded.

pub mod clamd;
pub mod detect;
pub mod exceptions;
pub mod found;
pub mod look;
pub mod packages;
pub mod rules;
pub mod sigma;
pub mod world;

pub use exceptions::{ExceptionError, Exceptions};
pub use rules::Rule;
pub use sigma::{Sigma, SigmaError};

use detect::Detector;
use detect::changes::Changes;
use detect::places::Places;
use found::{Found, Sighting, text};
use fvm_model::event::{Event, Kind};
use fvm_model::finding::{Finding, REPORT, Report, Verdict};
use fvm_model::policy::Pattern;
use fvm_model::{Change, Level, VmPath};
use fvm_trace::Integrity;
use world::World;

/// Both versions of a changed file, the host's and the VM's; `None` where there is nothing to look at.
pub type Contents<'c> = dyn FnMut(&Change) -> Option<(Vec<u8>, Vec<u8>)> + 'c;

/// What an analysis goes by.
#[derive(Debug, Default)]
pub struct Settings {
    /// Homes of the VM's users, beside root's and those in `/home`.
    pub homes: Vec<VmPath>,
    /// What the VM's policy hides from it.
    pub hidden: Vec<Pattern>,
    /// Sigma rules.
    pub sigma: Option<Sigma>,
    /// What does not count.
    pub exceptions: Exceptions,
}

/// An analysis, in the making.
#[derive(Debug)]
pub struct Analysis<'s> {
    settings: &'s Settings,
    world: World,
    places: Places,
    changes: Changes,
    detectors: Vec<Box<dyn Detector>>,
    sigma: Option<sigma::Matcher<'s>>,
    found: Found,
    level: Option<Level>,
    events: u64,
    /// Of files, by paths that are not whole, or that name other files.
    unplaced: u64,
    gaps: Vec<String>,
}

impl<'s> Analysis<'s> {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(settings: &'s Settings) -> Self {
        Self {
            settings,
            world: World::new(&settings.homes).hiding(&settings.hidden),
            places: Places::default(),
            changes: Changes::default(),
            detectors: detect::all(),
            sigma: settings.sigma.as_ref().map(sigma::Matcher::new),
            found: Found::default(),
            level: None,
            events: 0,
            unplaced: 0,
            gaps: Vec::new(),
        }
    }

    /// What the VM's layers hold, where the log has no changes of files: known before the events, as it is not told by them. Whoever
    /// made it is nobody's friend.
    pub fn hold(&mut self, changes: &[Change]) {
        changes.iter().for_each(|change| self.world.hold(change));
    }

    /// Takes an event in. All events of a log, in order.
    pub fn see(&mut self, event: &Event) {
        if event.tgid == 0 {
            if event.kind == Kind::Start {
                // What one run's log tells is not untold by the next one's, which may say less.
                self.level = self.level.max(event.args.level);
            }
            return;
        }
        self.events += 1;
        self.unplaced += u64::from(is_unplaced(event));
        self.world.enter(event);
        self.places.see(event, &self.world);
        for detector in &mut self.detectors {
            detector.see(event, &self.world, &mut self.found);
        }
        if let Some(sigma) = &mut self.sigma {
            sigma.see(event, &self.world);
        }
        self.world.leave(event);
    }

    /// Adds something that was not looked at, in printable words.
    pub fn gap(&mut self, what: String) {
        self.gaps.push(what);
    }

    /// Adds what a virus scanner said of a changed file.
    pub fn known_malware(&mut self, change: &Change, name: &str) {
        let path = change.path.as_bytes();
        let what = format!("{} is {}", text(path), text(name.as_bytes()));
        let sighting = Sighting { what, key: None, at: None, events: &[], paths: &[path] };
        self.found.add(&rules::KNOWN_MALWARE, &sighting);
    }

    /// Takes a change in. All changes of the VM, after the last event.
    pub fn change(&mut self, change: &Change, contents: &mut Contents<'_>) {
        self.places.change(change, &self.world, &mut self.found);
        for detector in &mut self.detectors {
            detector.change(change, &mut self.found);
        }
        let made = self.world.made(change.path.as_bytes());
        let packaged = made.is_some_and(|made| made.packaged);
        self.changes.look_at(change, packaged, contents, &mut self.found);
    }

    /// The report. `whole`: how whole the log is, `None` where there is none; `runs`: the VM runs.
    #[must_use]
    pub fn finish(self, whole: Option<&Integrity>, runs: bool) -> Report {
        let Self { settings, world, places, changes, mut detectors, sigma, mut found, level, events, .. } = self;
        let (unplaced, mut unseen) = (self.unplaced, self.gaps);
        for detector in &mut detectors {
            detector.end(&world, &mut found);
        }
        places.end(&mut found);
        let lost_track = world.has_lost_track();
        unseen.extend(changes.gap());
        changes.end(&mut found);
        let mut findings: Vec<Finding> = Vec::new();
        let mut excused = Vec::new();
        let sigma = sigma.map(sigma::Matcher::into_findings).unwrap_or_default();
        for finding in found.into_findings(&world).into_iter().chain(sigma) {
            let (left, out) = settings.exceptions.apply(finding);
            findings.extend(left);
            excused.extend(out);
        }
        findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.at.cmp(&b.at)).then(a.id.cmp(&b.id)));
        let mut gaps = gaps(whole, runs, level);
        if unplaced > 0 {
            gaps.push(format!(
                "{unplaced} events are of files whose paths are not whole, or of programs with mounts of their own"
            ));
        }
        if lost_track {
            gaps.push("too many files were moved about to follow them".into());
        }
        gaps.extend(unseen);
        let verdict = Verdict::of(&findings, gaps.is_empty());
        Report { version: REPORT, verdict, gaps, level, events, findings, excused }
    }
}

/// Whether nobody can say which file of the VM's it is about.
fn is_unplaced(event: &Event) -> bool {
    let names_files = matches!(
        event.kind,
        Kind::Open
            | Kind::Truncate
            | Kind::Mkdir
            | Kind::Mknod
            | Kind::Symlink
            | Kind::Link
            | Kind::Rename
            | Kind::Unlink
            | Kind::Rmdir
            | Kind::Read
    );
    names_files && (event.args.cut || event.args.foreign)
}

/// What was not seen, in words.
fn gaps(whole: Option<&Integrity>, runs: bool, level: Option<Level>) -> Vec<String> {
    let mut gaps = Vec::new();
    match whole {
        None => gaps.push("there is no behaviour log".into()),
        Some(whole) => {
            if whole.lost > 0 {
                gaps.push(format!("{} events are missing", whole.lost));
            }
            if whole.cut || (whole.is_open && !runs) {
                gaps.push("a run was cut off".into());
            }
            if whole.runs == 0 || level == Some(Level::Off) {
                gaps.push("nothing was written down".into());
            }
            if whole.without_files {
                gaps.push("what was done to files was not written down (level programs): only the changes tell".into());
            }
            gaps.extend(
                whole.blind.iter().map(|what| format!("not seen: {}", fvm_model::path::printable(what.as_bytes()))),
            );
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use detect::testing::{Story, whole};

    fn report(story: &Story, settings: &Settings, whole: Option<&Integrity>, runs: bool) -> Report {
        let mut analysis = Analysis::new(settings);
        story.events.iter().for_each(|event| analysis.see(event));
        analysis.finish(whole, runs)
    }

    #[test]
    fn what_was_not_seen_whole_is_never_clean() {
        let (story, settings) = (Story::new(), Settings::default());
        let verdict = |whole: Option<&Integrity>, runs| report(&story, &settings, whole, runs).verdict;
        assert_eq!(verdict(Some(&whole()), false), Verdict::Clean);
        assert_eq!(verdict(None, false), Verdict::Unknown);
        for broken in [
            Integrity { lost: 1, ..whole() },
            Integrity { cut: true, ..whole() },
            Integrity { is_open: true, ..whole() },
            Integrity { blind: vec!["io_uring".into()], ..whole() },
            Integrity { without_files: true, ..whole() },
            Integrity::default(),
        ] {
            assert_eq!(verdict(Some(&broken), false), Verdict::Unknown, "{broken:?}");
        }
        assert_eq!(verdict(Some(&Integrity { is_open: true, ..whole() }), true), Verdict::Clean);
    }

    #[test]
    fn where_no_event_tells_of_files_what_the_layers_hold_is_nobodys_own_and_nothing_is_clean() {
        use fvm_model::event::{Args, Phase};
        use fvm_model::{ChangeKind, FileType};
        let gdb = Change {
            path: VmPath::new("/home/a/bin/gdb").unwrap(),
            kind: ChangeKind::Created,
            file_type: FileType::File,
            base: None,
            layer: 0,
            before: None,
            after: None,
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
            origin: None,
        };
        let settings = Settings::default();
        let whole = Integrity { without_files: true, ..whole() };
        for (exe, changes, verdict) in [
            ("/home/a/bin/gdb", vec![gdb.clone()], Verdict::Suspicious),
            ("/usr/bin/gdb", vec![gdb], Verdict::Unknown),
            ("/usr/bin/gdb", vec![], Verdict::Unknown),
        ] {
            let mut story = Story::new();
            story.events[0].args.level = Some(Level::Programs);
            story.run(10, exe, &["gdb"]);
            let over = Args { pid: Some(11), flags: Some(16), ..Args::default() };
            story.event(10, Kind::Ptrace, Phase::Attempt, over);
            let mut analysis = Analysis::new(&settings);
            analysis.hold(&changes);
            story.events.iter().for_each(|event| analysis.see(event));
            let report = analysis.finish(Some(&whole), false);
            assert_eq!((report.verdict, report.level), (verdict, Some(Level::Programs)), "{exe}: {report:?}");
            assert!(report.gaps.iter().any(|gap| gap.contains("level programs")), "{:?}", report.gaps);
        }
    }

    #[test]
    fn files_that_nobody_can_place_are_a_gap() {
        use fvm_model::event::Args;
        for hide in [|args: &mut Args| args.foreign = true, |args: &mut Args| args.cut = true] {
            let mut story = Story::new();
            story.run(10, "/usr/bin/python3", &["python3"]);
            story.write(10, "/w/x");
            let verdict = |story: &Story| report(story, &Settings::default(), Some(&whole()), false).verdict;
            assert_eq!(verdict(&story), Verdict::Clean);
            hide(&mut story.events.last_mut().unwrap().args);
            assert_eq!(verdict(&story), Verdict::Unknown);
        }
    }

    #[test]
    fn a_finding_names_its_events_its_program_and_where_that_came_from() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/npm", &["npm", "install"]);
        story.run_under(11, 10, "/usr/bin/dash", &["sh", "-c", "hook"]);
        story.write(11, "/root/.config/autostart/x.desktop");
        let report = report(&story, &Settings::default(), Some(&whole()), false);
        let [finding] = report.findings.as_slice() else { panic!("{report:?}") };
        assert_eq!(
            (finding.id.as_str(), finding.events.as_slice(), report.verdict),
            ("autostart", &[6][..], Verdict::Suspicious)
        );
        assert_eq!(finding.program.as_ref().unwrap().command(), b"sh -c hook");
        assert_eq!(finding.ancestors[0].command(), b"npm install");
        assert_eq!(finding.paths[0].to_string(), "/root/.config/autostart/x.desktop");
    }

    #[test]
    fn what_a_package_manager_brings_is_its_work_unless_its_program_was_changed() {
        for (tampered, want) in [(false, 0), (true, 1)] {
            let mut story = Story::new();
            story.run(10, "/usr/bin/apt-get", &["apt-get", "install", "x"]);
            if tampered {
                story.write(10, "/usr/bin/dpkg");
            }
            story.run_under(11, 10, "/usr/bin/dpkg", &["dpkg", "--unpack", "/var/cache/apt/archives/x.deb"]);
            story.write(11, "/usr/lib/systemd/system/x.service.dpkg-new");
            story.rename(11, "/usr/lib/systemd/system/x.service.dpkg-new", "/usr/lib/systemd/system/x.service");
            let report = report(&story, &Settings::default(), Some(&whole()), false);
            assert_eq!(report.findings.len(), want, "{report:?}");
        }
    }

    #[test]
    fn an_excused_finding_does_not_count_and_is_told() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/rustup-init", &["rustup-init"]);
        story.write(10, "/root/.profile");
        let mut exceptions = Exceptions::default();
        exceptions.add("f", "[[exception]]\nrule='shell-startup'\npath=['/root/.profile']\nreason='known'\n").unwrap();
        let settings = Settings { exceptions, ..Settings::default() };
        let report = report(&story, &settings, Some(&whole()), false);
        assert_eq!((report.verdict, report.findings.len(), report.excused.len()), (Verdict::Clean, 0, 1));
    }
}
