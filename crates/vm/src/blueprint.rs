//! From facts about the host to the list of setup operations: the plan of a VM, drawn without changing anything.
//!
//! ```text
//!   root modes   every visible host mount gets one overlay; /proc /sys /dev are the VM's own
//!   rootless     a directory without mounts below:  one overlay
//!                a directory with mounts below:     overlay over a skeleton of its names, then each child directory
//!                                                   the same way (the kernel gives EINVAL for a plain overlay there);
//!                one below that, which the user may not write: its names in the same skeleton
//! ```
//!
//! Invariants: a parent's operation stands before its children's; a layer keeps its number as long as the VM lives,
//! found again by its host path; masks come last before the user namespace, so nothing is mounted over them.

use crate::calls::Calls;
use crate::op::{Restrict, SetupOp};
use crate::places::Places;
use fvm_host::{HostFacts, Shown, VisibleMount};
use fvm_model::vm::XattrClass;
use fvm_model::{HostPath, Layer, LayerKind, Level, Mode, Network, Policy};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// First kernel id of a shifted VM, and how many it has: ids 0..2^30 inside are 2^30..2^31 outside.
pub const SHIFT: u32 = 0x4000_0000;

/// A file in a skeleton directory larger than this is shown read-only instead of being copied.
pub const SKELETON_COPY_MAX_BYTES: u64 = 16 << 20;

/// Everything that decides how a VM is built.
#[derive(Debug)]
pub struct Brief<'a> {
    /// The host.
    pub facts: &'a HostFacts,
    /// How the VM is kept apart.
    pub mode: Mode,
    /// What it may use.
    pub policy: &'a Policy,
    /// Layers it has from earlier starts.
    pub known: &'a [Layer],
    /// What it must not see.
    pub masked: &'a [HostPath],
}

/// The plan of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blueprint {
    /// All steps in order.
    pub ops: Vec<SetupOp>,
    /// The layers that the steps use, old and new, by number.
    pub layers: Vec<Layer>,
    /// What the VM will not have, in words for its user.
    pub notices: Vec<String>,
}

/// Draws the plan.
#[must_use]
pub fn draw(brief: &Brief<'_>) -> Blueprint {
    let mut pen = Pen { brief, ops: vec![SetupOp::PrivateMounts], layers: brief.known.to_vec(), notices: Vec::new() };
    match brief.mode {
        Mode::Shifted | Mode::Identity => {
            // What lies below a cover is not seen.
            let hidden = |mount: &&VisibleMount| brief.masked.iter().any(|path| mount.mount.target.is_within(path));
            for mount in brief.facts.mounts.iter().filter(|mount| !hidden(mount)) {
                pen.mount(mount);
            }
        }
        Mode::Rootless => pen.directory(&HostPath::root(), None),
    }
    let places = Places::of(brief.policy, brief.facts, brief.masked);
    pen.notices.extend(places.notices.iter().cloned());
    pen.opened(&places);
    pen.ops.extend([SetupOp::Devices, SetupOp::System]);
    pen.ops.extend(places.devices.iter().map(|path| SetupOp::Device { path: path.clone() }));
    pen.ops.extend(places.read_only.iter().map(|path| SetupOp::Freeze { target: path.in_vm() }));
    for path in places.hide.iter().chain(brief.masked) {
        let layer = pen.layer_over(path);
        pen.ops.push(SetupOp::Mask { target: path.in_vm(), layer });
    }
    pen.finish()
}

impl Blueprint {
    /// The operations that use layers, in the order in which those are made and waited for: over names last, which takes long.
    pub fn layered(&self) -> impl Iterator<Item = &SetupOp> {
        let of = |over_names| move |op: &&SetupOp| op.is_layered() && op.is_over_names() == over_names;
        self.ops.iter().filter(of(false)).chain(self.ops.iter().filter(of(true)))
    }
}

struct Pen<'a> {
    brief: &'a Brief<'a>,
    ops: Vec<SetupOp>,
    layers: Vec<Layer>,
    notices: Vec<String>,
}

impl Pen<'_> {
    fn finish(self) -> Blueprint {
        let Self { brief, mut ops, layers, notices } = self;
        let ids = &brief.facts.ids;
        let own_network = brief.policy.network != Network::Host;
        let enter = |uid_map, gid_map| SetupOp::EnterNamespaces { network: own_network, uid_map, gid_map };
        if let Some(plan) = crate::router::Plan::of(brief.policy) {
            ops.insert(0, SetupOp::Router(plan));
            ops.extend(crate::router::name_server());
        }
        // The keyring before anything else that is done in the VM: what programs inherit is theirs from then on ([`crate::early`]). An
        // ordinary user's overlays come later, and read what the keys of the host's session open.
        match brief.mode {
            Mode::Shifted => ops.extend([
                enter([0, SHIFT, SHIFT], [0, SHIFT, SHIFT]),
                SetupOp::Keyring,
                SetupOp::Proc { guarded: false },
                SetupOp::MessageQueues,
            ]),
            // Everything must be locked by the namespace that is entered after it: nothing may be mounted later.
            Mode::Identity => ops.extend([
                SetupOp::Proc { guarded: true },
                enter([0, 0, u32::MAX], [0, 0, u32::MAX]),
                SetupOp::Keyring,
            ]),
            // The namespaces come first: without them an ordinary user can mount nothing.
            Mode::Rootless => {
                ops.insert(0, enter([ids.euid, ids.euid, 1], [ids.egid, ids.egid, 1]));
                ops.extend([SetupOp::Proc { guarded: false }, SetupOp::MessageQueues]);
            }
        }
        if own_network {
            ops.push(SetupOp::OwnSystem);
        }
        ops.push(SetupOp::PivotRoot);
        if own_network {
            ops.push(SetupOp::Loopback);
        }
        ops.extend(crate::bus::Kind::wanted(&brief.policy.dbus).map(|kind| {
            let relayed = kind == crate::bus::Kind::Session && !brief.policy.dbus.pass.is_empty();
            SetupOp::Bus { kind, relayed }
        }));
        if let Some(name) = &brief.policy.hostname {
            ops.push(SetupOp::HostName { name: name.clone() });
        }
        if brief.mode == Mode::Rootless {
            ops.push(SetupOp::Keyring);
        }
        let kernel = brief.policy.kernel;
        let level = brief.policy.trace;
        let logged = level == Level::Full;
        let calls = Calls { cgroup_namespaces: brief.mode != Mode::Identity, logged, ..kernel.into() };
        if level != Level::Off {
            ops.push(SetupOp::Trace { level, calls, filter: kernel.filter });
        }
        if kernel.filter {
            // The last: it refuses what the others do.
            ops.push(SetupOp::SystemCalls { calls });
        }
        Blueprint { ops, layers, notices }
    }

    /// What of the host's own the policy lets the VM have.
    fn opened(&mut self, places: &Places) {
        let shifted = self.brief.mode == Mode::Shifted;
        for path in &places.share {
            let Some(mount) = self.mount_of(path) else { continue };
            let restrict = restrictions(mount);
            if shifted && !fvm_host::idmap_capable(&mount.mount.fs_type) {
                let fs_type = mount.mount.fs_type.clone();
                self.notices.push(format!("{path} is not shared: {fs_type} files cannot have their owners shifted"));
                continue;
            }
            self.ops.push(SetupOp::Share { path: path.clone(), idmapped: shifted, restrict });
        }
        for path in &places.sockets {
            let can_idmap = self.mount_of(path).is_some_and(|m| fvm_host::idmap_capable(&m.mount.fs_type));
            self.ops.push(SetupOp::Socket { path: path.clone(), idmapped: shifted && can_idmap });
        }
    }

    fn layer(&mut self, host: &HostPath, kind: LayerKind) -> u32 {
        if let Some(layer) = self.layers.iter().find(|l| l.host == *host && l.kind == kind) {
            return layer.n;
        }
        let n = self.layers.iter().map(|l| l.n + 1).max().unwrap_or(0);
        self.layers.push(Layer { n, host: host.clone(), kind });
        n
    }

    /// The overlay through which `path` is seen; `None` when it is in a part that is the VM's own.
    fn layer_over(&self, path: &HostPath) -> Option<(u32, HostPath)> {
        let over = self.ops.iter().rev().find_map(|op| match op {
            SetupOp::Overlay { layer, lower, .. } if path.is_within(lower) => Some((*layer, lower.clone())),
            _ => None,
        });
        over.filter(|_| !fvm_host::mounts::is_system_place(path))
    }

    fn class(&self) -> XattrClass {
        self.brief.mode.xattr_class()
    }

    /// Root modes: one host mount.
    fn mount(&mut self, visible: &VisibleMount) {
        let host = visible.mount.target.clone();
        let target = host.in_vm();
        let restrict = restrictions(visible);
        let shifted = self.brief.mode == Mode::Shifted;
        let can_idmap = fvm_host::idmap_capable(&visible.mount.fs_type);
        match visible.shown {
            Shown::Skip(_) => {}
            Shown::File => {
                let layer = self.layer(&host, LayerKind::File);
                self.ops.push(SetupOp::File { layer, source: host, target, idmapped: shifted });
            }
            Shown::Overlay if shifted && !can_idmap => {
                self.notices.push(format!(
                    "{host} is shown read-only: {} files cannot have their owners shifted",
                    visible.mount.fs_type
                ));
                self.ops.push(SetupOp::ReadOnly { source: host, target, idmapped: false, restrict });
            }
            Shown::ReadOnly if host != HostPath::root() => {
                self.ops.push(SetupOp::ReadOnly { source: host, target, idmapped: shifted && can_idmap, restrict });
            }
            Shown::Overlay | Shown::ReadOnly => {
                let layer = self.layer(&host, LayerKind::Overlay);
                let class = self.class();
                let restrict = Restrict { read_only: false, ..restrict };
                self.ops.push(SetupOp::Overlay {
                    layer,
                    lower: host,
                    target,
                    idmapped: shifted,
                    class,
                    skeleton: Vec::new(),
                    restrict,
                });
            }
        }
    }

    /// Rootless: one directory, with everything below it. `within`: the operation that makes the names around it.
    fn directory(&mut self, dir: &HostPath, within: Option<usize>) {
        let mount = self.mount_of(dir);
        let restrict = mount.map(restrictions).unwrap_or_default();
        if let Some(VisibleMount { shown: Shown::ReadOnly, mount }) =
            self.brief.facts.mounts.iter().find(|m| m.mount.target == *dir)
            && *dir != HostPath::root()
        {
            let source = mount.target.clone();
            self.ops.push(SetupOp::ReadOnly { source, target: dir.in_vm(), idmapped: false, restrict });
            return;
        }
        let enterable = may(dir, Access::EXEC_OK);
        let skeleton = self.brief.facts.has_mounts_below(dir);
        if !enterable {
            // As on the host: the user sees that it is there, and no more.
            return;
        }
        if let Some(op) = within.filter(|op| skeleton && self.is_part_of(dir, *op)) {
            if let SetupOp::Overlay { skeleton, .. } = &mut self.ops[op] {
                skeleton.push(dir.clone());
            }
            self.children(dir, op);
            return;
        }
        let kind = if skeleton { LayerKind::Skeleton } else { LayerKind::Overlay };
        let layer = self.layer(dir, kind);
        let (lower, target, class) = (dir.clone(), dir.in_vm(), self.class());
        let restrict = Restrict { read_only: false, ..restrict };
        let names = if skeleton { vec![dir.clone()] } else { Vec::new() };
        self.ops.push(SetupOp::Overlay { layer, lower, target, idmapped: false, class, skeleton: names, restrict });
        if skeleton {
            self.children(dir, self.ops.len() - 1);
        }
    }

    /// Whether the names of `dir` need no layer but that of the operation `op`: the user could commit nothing that a VM does to them.
    fn is_part_of(&self, dir: &HostPath, op: usize) -> bool {
        let SetupOp::Overlay { lower, .. } = &self.ops[op] else { return false };
        let on = |dir| self.mount_of(dir).map(|on| on.mount.id);
        // A VM that an earlier fvm made has one.
        let has_layer = self.layers.iter().any(|layer| layer.host == *dir);
        !has_layer && on(dir) == on(lower) && !may(dir, Access::WRITE_OK)
    }

    /// What is in a directory with mounts below, whose names the operation `within` makes.
    fn children(&mut self, dir: &HostPath, within: usize) {
        let copies = may(dir, Access::WRITE_OK);
        let Ok(entries) = std::fs::read_dir(dir.as_path()) else { return };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = dir.join(entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if !self.brief.facts.is_skipped(&path) {
                    self.directory(&path, Some(within));
                }
            } else if kind.is_file() && !(copies && is_small(path.as_path())) && may(&path, Access::READ_OK) {
                let (source, target) = (path.clone(), path.in_vm());
                self.ops.push(SetupOp::ReadOnly { source, target, idmapped: false, restrict: Restrict::default() });
            }
        }
    }

    /// The mount that `dir` lies on.
    fn mount_of(&self, dir: &HostPath) -> Option<&VisibleMount> {
        self.brief
            .facts
            .mounts
            .iter()
            .filter(|m| dir.is_within(&m.mount.target))
            .max_by_key(|m| m.mount.target.as_bytes().len())
    }
}

fn restrictions(visible: &VisibleMount) -> Restrict {
    let flags = &visible.mount.flags;
    Restrict { read_only: flags.read_only, nosuid: flags.nosuid, noexec: flags.noexec }
}

fn may(path: &HostPath, access: Access) -> bool {
    accessat(CWD, path.as_path(), access, AtFlags::EACCESS).is_ok()
}

/// Whether a file in a skeleton directory is copied into the skeleton (and can then be changed in the VM).
#[must_use]
pub fn is_small(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.size() <= SKELETON_COPY_MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fvm_host::{Ids, Mount, MountFlags, Shown};

    fn mount(target: &str, fs_type: &str, shown: Shown) -> VisibleMount {
        let mount = Mount {
            id: 1,
            parent: 0,
            root: b"/".to_vec(),
            target: HostPath::new(target).unwrap(),
            fs_type: fs_type.into(),
            source: Vec::new(),
            flags: MountFlags { nosuid: target == "/mnt/s", ..MountFlags::default() },
            super_read_only: false,
        };
        VisibleMount { mount, shown }
    }

    fn facts(mounts: Vec<VisibleMount>) -> HostFacts {
        let targets = mounts.iter().map(|m| m.mount.target.clone()).collect();
        let euid = rustix::process::geteuid().as_raw();
        HostFacts { mounts, targets, ids: Ids { euid, egid: euid }, root_fs_type: "ext4".into() }
    }

    fn lines(facts: &HostFacts, mode: Mode, masked: &[&str]) -> (Vec<String>, Blueprint) {
        let masked: Vec<_> = masked.iter().map(|p| HostPath::new(p).unwrap()).collect();
        let policy = Policy { network: Network::Host, ..Policy::default() };
        let drawn = draw(&Brief { facts, mode, policy: &policy, known: &[], masked: &masked });
        (drawn.ops.iter().map(ToString::to_string).collect(), drawn)
    }

    #[test]
    fn every_mask_is_locked_by_the_user_namespace_that_comes_after_it() {
        let facts = facts(vec![mount("/", "ext4", Shown::Overlay)]);
        for mode in [Mode::Shifted, Mode::Identity] {
            let (_, drawn) = lines(&facts, mode, &["/var/lib/fvm", "/run/fvm"]);
            let place = |test: &dyn Fn(&SetupOp) -> bool| drawn.ops.iter().position(test).unwrap();
            let mask = drawn.ops.iter().rposition(|op| matches!(op, SetupOp::Mask { .. })).unwrap();
            let enter = place(&|op| matches!(op, SetupOp::EnterNamespaces { .. }));
            assert!(mask < enter, "{mode:?}");
            if mode == Mode::Identity {
                assert!(place(&|op| matches!(op, SetupOp::Proc { guarded: true })) < enter, "the guards of /proc too");
            }
        }
    }

    #[test]
    fn each_host_mount_keeps_its_restrictions_and_what_cannot_be_shifted_is_read_only_and_said() {
        let mounts = vec![
            mount("/", "ext4", Shown::Overlay),
            mount("/etc/hosts", "ext4", Shown::File),
            mount("/mnt/f", "nfs4", Shown::Overlay),
            mount("/mnt/r", "ext4", Shown::ReadOnly),
            mount("/mnt/s", "tmpfs", Shown::Overlay),
            mount("/proc", "proc", Shown::Skip("own")),
        ];
        let (text, drawn) = lines(&facts(mounts), Mode::Shifted, &[]);
        assert_eq!(
            text[..6],
            [
                "make mounts private",
                "overlay over / at / (layer 0, ids shifted)",
                "private copy of the file /etc/hosts at /etc/hosts (layer 1)",
                "show /mnt/f read-only at /mnt/f",
                "show /mnt/r read-only at /mnt/r, ids shifted",
                "overlay over /mnt/s at /mnt/s (layer 2, ids shifted) nosuid",
            ]
        );
        assert_eq!(drawn.notices.len(), 1, "{:?}", drawn.notices);
    }

    #[test]
    fn a_layer_keeps_its_number_when_mounts_come_and_go() {
        let both = facts(vec![
            mount("/", "ext4", Shown::Overlay),
            mount("/a", "ext4", Shown::Overlay),
            mount("/b", "ext4", Shown::Overlay),
        ]);
        let (_, first) = lines(&both, Mode::Shifted, &[]);
        let one = facts(vec![mount("/", "ext4", Shown::Overlay), mount("/b", "ext4", Shown::Overlay)]);
        let brief =
            Brief { facts: &one, mode: Mode::Shifted, policy: &Policy::default(), known: &first.layers, masked: &[] };
        let again = draw(&brief);
        assert_eq!(again.layers, first.layers, "a layer without its mount is kept: it holds changes");
        assert!(
            again
                .ops
                .iter()
                .any(|op| matches!(op, SetupOp::Overlay { layer: 2, lower, .. } if lower.as_path() == Path::new("/b")))
        );
    }

    #[test]
    fn rootless_a_directory_with_mounts_below_is_rebuilt_from_its_names() {
        let tmp = tempfile::tempdir().unwrap();
        let base = tmp.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("with/mnt/deep")).unwrap();
        std::fs::create_dir_all(base.join("with/plain/x")).unwrap();
        std::fs::write(base.join("with/small"), "x").unwrap();
        let target = base.join("with/mnt/deep");
        let facts =
            facts(vec![mount("/", "ext4", Shown::Overlay), mount(target.to_str().unwrap(), "ext4", Shown::Overlay)]);
        let brief = Brief { facts: &facts, mode: Mode::Rootless, policy: &Policy::default(), known: &[], masked: &[] };
        let mut pen = Pen { brief: &brief, ops: Vec::new(), layers: Vec::new(), notices: Vec::new() };
        pen.directory(&HostPath::new(base.join("with")).unwrap(), None);
        let kinds: Vec<_> = pen
            .layers
            .iter()
            .map(|l| (l.host.as_path().strip_prefix(&base).unwrap().to_str().unwrap(), l.kind))
            .collect();
        assert_eq!(
            kinds,
            [
                ("with", LayerKind::Skeleton),
                ("with/mnt", LayerKind::Skeleton),
                ("with/mnt/deep", LayerKind::Overlay),
                ("with/plain", LayerKind::Overlay)
            ]
        );
    }
}
