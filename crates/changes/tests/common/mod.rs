//! A real overlay to scan: a host tree, a VM's layer over it, and a shell in it.
//!
//! ```text
//!   <tmp>/host            lower; /host in the scripts is this directory, `cd`ed into the merged view for VM scripts
//!   <tmp>/layer/upper     what the VM did
//! ```
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_changes::{LayerView, ScanInput, scan};
use fvm_model::vm::XattrClass;
use fvm_model::{Change, ChangeKind, ChangeSet, HostPath, Layer, LayerKind, Timestamp, VmPath};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A host tree with one layer.
pub struct Overlay {
    tmp: tempfile::TempDir,
    class: XattrClass,
    forked: Timestamp,
}

/// Whether this user can mount an overlay of the class; says why not.
pub fn can(class: XattrClass) -> bool {
    let root = rustix::process::geteuid().is_root();
    let unshare = match class {
        XattrClass::Trusted if !root => false,
        XattrClass::Trusted => sh("unshare -m true").is_ok(),
        XattrClass::User => sh("unshare -Urm true").is_ok(),
    };
    if !unshare {
        eprintln!("skipped: no {class:?} overlay here (root: {root})");
    }
    unshare
}

fn sh(script: &str) -> Result<String, String> {
    let out = Command::new("sh").arg("-ec").arg(script).output().map_err(|e| e.to_string())?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if out.status.success() { Ok(text) } else { Err(text) }
}

fn now() -> Timestamp {
    let t = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp { secs: t.as_secs().try_into().unwrap(), nanos: t.subsec_nanos() }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(30));
}

impl Overlay {
    /// A host made by `script`, forked just after.
    pub fn new(class: XattrClass, script: &str) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        for dir in ["host", "layer/upper", "layer/work", "merged"] {
            std::fs::create_dir_all(tmp.path().join(dir)).unwrap();
        }
        let mut overlay = Self { tmp, class, forked: now() };
        overlay.host(script);
        pause();
        overlay.forked = now();
        pause();
        overlay
    }

    /// The temporary directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    /// Runs on the host, in the host tree.
    pub fn host(&self, script: &str) {
        pause();
        sh(&format!("cd '{}'; {script}", self.path("host").display())).unwrap();
        pause();
    }

    /// Runs in the VM, in its view of the host tree.
    pub fn vm(&self, script: &str) -> String {
        pause();
        let (unshare, options) = match self.class {
            XattrClass::Trusted => ("unshare -m", "redirect_dir=on,index=on,metacopy=off,nfs_export=off,xino=off"),
            XattrClass::User => ("unshare -Urm", "userxattr,redirect_dir=nofollow"),
        };
        let tmp = self.tmp.path().display();
        let mount = format!(
            "mount -t overlay overlay -o lowerdir={tmp}/host,upperdir={tmp}/layer/upper,workdir={tmp}/layer/work,{options} {tmp}/merged"
        );
        let inner = format!("{mount}; cd {tmp}/merged; {script}");
        let out = Command::new("sh").arg("-c").arg(format!("{unshare} sh -ec \"$0\"")).arg(&inner).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{script}\n{text}{}", String::from_utf8_lossy(&out.stderr));
        pause();
        text
    }

    /// The scan's input.
    pub fn input(&self) -> ScanInput {
        let host = HostPath::new(self.path("host")).unwrap();
        let layer = Layer { n: 0, host, kind: LayerKind::Overlay };
        ScanInput {
            known: HashMap::new(),
            layers: vec![LayerView { layer, dir: self.path("layer") }],
            class: self.class,
            forked: self.forked,
            laid: None,
            based: self.forked,
            copied: None,
            excluded: vec![],
        }
    }

    /// The changes.
    pub fn scan(&self) -> ChangeSet {
        let set = scan(&self.input()).unwrap();
        let paths: Vec<&VmPath> = set.changes.iter().map(|c| &c.path).collect();
        assert!(paths.windows(2).all(|w| w[0].as_bytes() < w[1].as_bytes()), "unsorted: {paths:?}");
        set
    }

    /// The VM path of `rel`.
    pub fn at(&self, rel: &str) -> VmPath {
        VmPath::new(self.path("host").join(rel)).unwrap()
    }

    /// The changes as short lines: `M f`, `R g<f`, with `!` for a conflict.
    pub fn lines(&self) -> Vec<String> {
        let set = self.scan();
        assert_eq!(set.warnings, Vec::<String>::new());
        set.changes.iter().map(|c| line(&self.path("host"), c)).collect()
    }
}

/// One change as a short line.
pub fn line(host: &Path, c: &Change) -> String {
    let rel = |p: &Path| p.strip_prefix(host).unwrap().to_string_lossy().into_owned();
    let meta = |m: &fvm_model::MetaDelta| {
        let flags = [(m.mode, 'm'), (m.owner, 'o'), (m.times, 't'), (m.xattrs, 'x')];
        flags.iter().filter(|f| f.0).map(|f| f.1).collect::<String>()
    };
    let path = rel(c.path.as_path());
    let base = c.base.as_ref().map(|b| rel(b.as_path())).unwrap_or_default();
    let group = c.link_group.map(|g| format!(" #{g}")).unwrap_or_default();
    let source = c.source.as_ref().map(|s| format!(" @{}", rel(s.as_path()))).unwrap_or_default();
    let bang = if c.conflict.is_some() { " !" } else { "" };
    let head = match &c.kind {
        ChangeKind::Created if base.is_empty() => format!("C {path}"),
        ChangeKind::Created => format!("C {path}={base}"),
        ChangeKind::Modified { .. } if base != path => format!("M {path}<{base}"),
        ChangeKind::Modified { .. } => format!("M {path}"),
        ChangeKind::Metadata { meta: m } => format!("A {path} {}", meta(m)),
        ChangeKind::Deleted if base != path => format!("D {path}<{base}"),
        ChangeKind::Deleted => format!("D {path}"),
        ChangeKind::Renamed { modified, meta: m } => {
            format!(
                "R {path}<{base}{}{}",
                if *modified { " +" } else { "" },
                if m.any() { format!(" {}", meta(m)) } else { String::new() }
            )
        }
        ChangeKind::Retyped { from } => format!("T {path} {from:?}"),
    };
    format!("{head}{group}{source}{bang}")
}
