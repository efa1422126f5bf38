//! Runs setup operations, one after the other, in whatever process and namespaces the caller is.
//!
//! ```text
//!   Site { root: where the tree is put together, layers_dir, idmap, ids of the VM's root }
//!     for op in ops { op ─► mounts }          the only loop
//! ```
//!
//! Invariants: the tree under `root` is partly the work of a hostile VM (its upper layers), so every mount point in
//! it is reached beneath `root` without following a symlink; a mount that overlayfs quietly made read-only is an
//! error; nothing is decided here that is not in the operation.

mod cover;
mod kernel;
mod overlays;

use crate::op::{Restrict, SetupOp};
use crate::scope::Gate;
use crate::traced::Traced;
use fvm_model::vm::XattrClass;
use fvm_model::{HostPath, Mode, VmPath};
use fvm_sys::beside::Network;
use fvm_sys::dir::Dir;
use fvm_sys::mount::{self, MountError, MountOption};
use fvm_sys::seccomp::Instruction;
use fvm_sys::{ids, net};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::net::RecvFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StepError {
    /// The step, in words.
    pub step: String,
    /// Why, and what to do.
    pub why: String,
}

/// Where and for whom a VM's tree is built.
#[derive(Debug)]
pub struct Site {
    /// An empty directory of the VM.
    pub root: PathBuf,
    /// `layers/`.
    pub layers_dir: PathBuf,
    /// Layers that it shares, topmost first.
    pub below: Vec<PathBuf>,
    /// By what the VM's loopback address on the host is found again.
    pub name: String,
    /// How the VM is kept apart.
    pub mode: Mode,
    /// The VM's user namespace, for shifted layers.
    pub idmap: Option<OwnedFd>,
    /// Never to be kept: skip syncing.
    pub volatile: bool,
    /// The home's run-time directory, where the routers of root's VMs are found.
    pub run_dir: PathBuf,
    /// Sockets of the VM's message buses.
    pub buses: Vec<(crate::bus::Kind, OwnedFd)>,
    /// A connection to the session bus, for the relay.
    pub bus_client: Option<OwnedFd>,
    /// Where the process that becomes init enters the VM's control groups.
    pub doors: Vec<OwnedFd>,
    /// The most processes, where that is not a matter of control groups.
    pub pids: Option<u32>,
    /// The soft limit of open files, where the keeper has raised its own.
    pub files: Option<u64>,
    /// Whoever starts the builder has many more descriptors, all with higher numbers.
    pub held_above: bool,
    /// Where an ordinary user's init is put into the scope that limits it.
    pub gate: Option<Gate>,
    /// Overlays that stand below others: nobody but init, which refreshes them, has them.
    pub inner: Vec<OwnedFd>,
    /// Whether what programs do is captured.
    pub traced: Option<Traced>,
    /// The assembled tree, once its root is mounted.
    tree: Option<OwnedFd>,
    /// Overlays that were made before their places, by layer.
    ahead: Option<HashMap<u32, OwnedFd>>,
    /// An empty file system.
    cover: Option<OwnedFd>,
    /// It is mounted somewhere.
    is_covered: bool,
    /// Whoever builds waits here for a byte before each layer: they are made meanwhile.
    pub layers_to_come: Option<OwnedFd>,
    /// What init did and made while others built: its loopback interface is up, its filter.
    pub has_loopback: bool,
    /// Where the builder says that it has set that interface up; nobody else says anything there.
    pub loopback_to_come: Option<OwnedFd>,
    /// Where its network is still being made.
    pub network: Option<Network>,
    /// Its network is not only that.
    pub has_network: bool,
    filter: Option<Vec<Instruction>>,
    /// What was needed once. To give a mount back that is nowhere takes the kernel a grace period of RCU: not now.
    spent: Vec<OwnedFd>,
}

impl Site {
    /// A place to build in.
    #[must_use]
    pub fn new(name: String, root: PathBuf, layers_dir: PathBuf, mode: Mode, volatile: bool) -> Self {
        Self {
            root,
            layers_dir,
            below: Vec::new(),
            name,
            mode,
            idmap: None,
            volatile,
            run_dir: PathBuf::new(),
            buses: Vec::new(),
            bus_client: None,
            doors: Vec::new(),
            pids: None,
            files: None,
            gate: None,
            inner: Vec::new(),
            traced: None,
            tree: None,
            ahead: None,
            cover: None,
            is_covered: false,
            layers_to_come: None,
            has_loopback: false,
            loopback_to_come: None,
            network: None,
            has_network: false,
            held_above: false,
            filter: None,
            spent: Vec::new(),
        }
    }

    /// Runs one operation. [`SetupOp::EnterNamespaces`] is not one of them: it is done by [`crate::launch`].
    ///
    /// # Errors
    /// [`StepError`] with the operation in words.
    pub fn execute(&mut self, op: &SetupOp) -> Result<(), StepError> {
        self.run(op).map_err(|e| self.step_error(op, &e))
    }

    fn step_error(&self, op: &SetupOp, error: &MountError) -> StepError {
        StepError { step: op.to_string(), why: explain(error, op, self.mode) }
    }

    fn run(&mut self, op: &SetupOp) -> Result<(), MountError> {
        match op {
            SetupOp::PrivateMounts => {
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                mount_change("/", private)?;
            }
            SetupOp::Overlay { layer, target, .. } => {
                let made = match &mut self.ahead {
                    Some(ahead) if !op.is_over_names() => ahead.remove(layer),
                    _ => self.overlay(op)?,
                };
                if let Some(made) = made {
                    self.place(&made, target)?;
                }
            }
            SetupOp::ReadOnly { source, target, idmapped, restrict } => {
                let restrict = Restrict { read_only: true, ..*restrict };
                let opened = match self.clone_or_open(source.as_path(), *idmapped) {
                    Err(e) if is_gone(&e, source) => return Ok(()),
                    opened => opened?,
                };
                // Where overlayfs takes it, the VM's inodes are its own: no socket, FIFO, lock or watch is the host's. It takes no
                // file, and to let go of what it did not take costs a grace period of RCU.
                let is_dir = fs::FileType::from_raw_mode(fs::fstat(&opened)?.st_mode) == fs::FileType::Directory;
                let overlay = if is_dir { self.read_only_overlay(&opened, restrict).ok() } else { None };
                let shown = match overlay {
                    Some(overlay) => overlay,
                    None => {
                        let copy = self.clone_host(source.as_path(), *idmapped)?;
                        mount::add_attributes(copy.as_fd(), attributes(restrict), false)?;
                        copy
                    }
                };
                self.spent.push(opened);
                self.place(&shown, target)?;
            }
            SetupOp::File { layer, target, idmapped, .. } => {
                self.await_layer();
                let file = self.layers_dir.join(layer.to_string()).join("file");
                let copy = self.clone_host(&file, *idmapped)?;
                self.place(&copy, target)?;
            }
            SetupOp::Share { path, idmapped, restrict } => {
                let copy = match self.clone_host(path.as_path(), *idmapped) {
                    Err(e) if is_gone(&e, path) => return Ok(()),
                    copy => copy?,
                };
                let attrs = attributes(Restrict { nosuid: true, ..*restrict });
                mount::add_attributes(copy.as_fd(), attrs, false)?;
                self.place(&copy, &path.in_vm())?;
            }
            SetupOp::Socket { path, idmapped } => {
                let copy = match self.clone_host(path.as_path(), *idmapped) {
                    Err(e) if is_gone(&e, path) => return Ok(()),
                    copy => copy?,
                };
                self.place(&copy, &path.in_vm())?;
            }
            SetupOp::Freeze { target } => self.freeze(target)?,
            SetupOp::Devices => self.devices()?,
            SetupOp::Device { path } => self.device(path)?,
            SetupOp::Bus { kind, relayed } => {
                self.buses.push((*kind, kind.open()?));
                if *relayed {
                    self.bus_client = Some(kind.connect()?);
                }
            }
            SetupOp::HostName { name } => rustix::system::sethostname(name.as_bytes())?,
            SetupOp::System => {
                // An ordinary user cannot split a mount from those locked on top of it.
                let recursive = self.mode == Mode::Rootless;
                let copy = mount::clone_mount(CWD, Path::new("/sys"), recursive)?;
                let attrs = attributes(Restrict { read_only: true, nosuid: true, noexec: true });
                mount::add_attributes(copy.as_fd(), attrs, recursive)?;
                self.place(&copy, &vm("/sys"))?;
                if recursive && let Ok(point) = mount::mount_point(self.tree()?, Path::new("sys/fs/cgroup")) {
                    mount::attach(empty_directory()?.as_fd(), point.as_fd())?;
                }
            }
            // The kernel shows the interfaces of whose network mounts it. Where it does not let the VM mount one, the
            // host's stays.
            SetupOp::OwnSystem => {
                self.enter_network()?;
                let attrs = attributes(Restrict { read_only: true, nosuid: true, noexec: true });
                if let Ok(system) = mount::new_mount("sysfs", &[], attrs) {
                    self.place(&system, &vm("/sys"))?;
                }
            }
            SetupOp::Mask { target, layer } => self.mask(target, layer.as_ref())?,
            SetupOp::Proc { guarded } => self.proc(*guarded)?,
            SetupOp::EnterNamespaces { .. } => return Err(Errno::INVAL.into()),
            // Made beside the VM, by whoever starts init.
            SetupOp::Router(_) => {}
            SetupOp::NameServer { target, text } => self.name_server(target, text)?,
            SetupOp::MessageQueues => {
                let queues = mount::new_mount(
                    "mqueue",
                    &[],
                    attributes(Restrict { nosuid: true, noexec: true, ..Restrict::default() }),
                )?;
                self.place(&queues, &vm("/dev/mqueue"))?;
            }
            SetupOp::PivotRoot => self.pivot()?,
            SetupOp::Loopback => {
                self.enter_network()?;
                // If it has been said. Else the kernel lets one after the other do it, and the second has nothing to do.
                let said =
                    |from| rustix::net::recv(from, &mut [0u8][..], RecvFlags::DONTWAIT).is_ok_and(|(_, len)| len > 0);
                self.has_loopback |= self.loopback_to_come.take().is_some_and(said);
                if !self.has_loopback {
                    net::loopback_up()?;
                }
            }
            SetupOp::Keyring => match ids::new_session_keyring() {
                Err(Errno::NOSYS) | Ok(()) => {}
                Err(e) => return Err(e.into()),
            },
            SetupOp::Trace { level, calls, filter } => {
                // As where there is no tracer (init's [`crate::init::Served::links`]).
                let links = self.mode == Mode::Rootless;
                self.traced = Some(Traced::begin(*level, &calls.logged_at(*level, *filter), links));
            }
            SetupOp::SystemCalls { calls } => {
                // Without a tracer the filter refuses what that would have.
                let logged = calls.logged && matches!(self.traced, Some(Traced::Yes { .. }));
                let made = self.filter.take().filter(|_| logged == calls.logged);
                let calls = crate::calls::Calls { logged, ..*calls };
                fvm_sys::seccomp::install(&made.map_or_else(|| crate::calls::filter(calls), Ok)?)?;
            }
        }
        Ok(())
    }

    /// Enters the network namespace that is made beside this.
    fn enter_network(&mut self) -> Result<(), Errno> {
        let Some(made) = self.network.take().map(Network::take).transpose()? else { return Ok(()) };
        self.has_loopback = made.has_loopback;
        move_into_link_name_space(made.namespace.as_fd(), Some(LinkNameSpaceType::Network))
    }

    /// Waits until the next layer is there. Without it there is nothing to do, and whoever makes them says why.
    fn await_layer(&self) {
        if let Some(made) = &self.layers_to_come
            && rustix::io::read(made, &mut [0u8][..]) != Ok(1)
        {
            fvm_sys::process::exit_now(1)
        }
    }

    /// Makes what one of `ops` will install.
    ///
    /// # Errors
    /// When the filter would be too long.
    pub fn prepare_filter<'a>(&mut self, ops: impl IntoIterator<Item = &'a SetupOp>) -> Result<(), Errno> {
        for op in ops {
            if let SetupOp::SystemCalls { calls } = op {
                self.filter = Some(crate::calls::filter(*calls)?);
            }
        }
        Ok(())
    }

    /// The filter that one of `ops` will install, none if they install none; `None`: it was not prepared.
    pub fn prepared_filter(&self, ops: &[SetupOp]) -> Option<Vec<Instruction>> {
        let is_filtered = ops.iter().any(|op| matches!(op, SetupOp::SystemCalls { .. }));
        if is_filtered { self.filter.clone() } else { Some(Vec::new()) }
    }

    fn tree(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.tree.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    /// The uppers of a layer, its own first.
    fn uppers(&self, layer: u32) -> impl Iterator<Item = PathBuf> {
        let shared = self.below.iter().map(move |dir| dir.join(layer.to_string()).join("upper"));
        [self.layers_dir.join(layer.to_string()).join("upper")].into_iter().chain(shared.filter(|upper| upper.exists()))
    }

    /// A directory as a layer of an overlay: a detached idmapped copy of its mount, or just itself.
    fn clone_or_open(&self, path: &Path, idmapped: bool) -> Result<OwnedFd, MountError> {
        if idmapped { self.clone_host(path, true) } else { Ok(open_path(path)?) }
    }

    fn clone_host(&self, path: &Path, idmapped: bool) -> Result<OwnedFd, MountError> {
        let copy = mount::clone_mount(CWD, path, false)?;
        if idmapped {
            let userns = self.idmap.as_ref().ok_or(Errno::BADF)?;
            mount::mount_setattr_idmap(copy.as_fd(), userns.as_fd())?;
        }
        Ok(copy)
    }

    /// Attaches a detached mount at its place in the tree. A place that the VM itself removed stays removed.
    fn place(&mut self, made: &OwnedFd, target: &VmPath) -> Result<(), MountError> {
        if *target == VmPath::root() {
            mount::attach(made.as_fd(), open_path(&self.root)?.as_fd())?;
            self.tree = Some(open_path(&self.root)?);
            return Ok(());
        }
        let relative = target.relative_to(&VmPath::root()).ok_or(Errno::INVAL)?;
        match mount::mount_point(self.tree()?, relative) {
            Ok(point) => Ok(mount::attach(made.as_fd(), point.as_fd())?),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !is_essential(target) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// A file of the VM's own that names its name server, in the place of the host's.
    fn name_server(&self, target: &VmPath, text: &str) -> Result<(), MountError> {
        const NAME: &str = ".resolv.conf";
        let relative = target.relative_to(&VmPath::root()).ok_or(Errno::INVAL)?;
        let point = match mount::mount_point(self.tree()?, relative) {
            Ok(point) => point,
            // The VM made something else of it: then that is what it wants.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let dev = mount::mount_point(self.tree()?, Path::new("dev"))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = fs::openat(&dev, NAME, flags, FileMode::from_raw_mode(0o644))?;
        rustix::io::write(&file, text.as_bytes())?;
        let copy = mount::clone_mount(dev.as_fd(), Path::new(NAME), false)?;
        Ok(mount::attach(copy.as_fd(), point.as_fd())?)
    }

    /// What is at `target`, with all that is mounted below, on top of itself, read-only. The VM cannot have changed
    /// anything there: it was read-only from its first start on.
    fn freeze(&self, target: &VmPath) -> Result<(), MountError> {
        let relative = target.relative_to(&VmPath::root()).ok_or(Errno::INVAL)?;
        let point = match mount::mount_point(self.tree()?, relative) {
            Ok(point) => point,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let copy = mount::clone_mount(point.as_fd(), Path::new(""), true)?;
        mount::add_attributes(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, true)?;
        Ok(mount::attach(copy.as_fd(), point.as_fd())?)
    }

    fn pivot(&mut self) -> Result<(), MountError> {
        let tree = self.tree.take().ok_or(Errno::BADF)?;
        rustix::process::fchdir(&tree)?;
        if self.mode != Mode::Rootless {
            // The tree came locked into this namespace, and a locked mount cannot become the root: put a copy of it
            // on top of itself, whose own top is free while everything in it stays locked.
            let copy = mount::clone_mount(CWD, Path::new("."), true)?;
            mount::attach(copy.as_fd(), tree.as_fd())?;
            rustix::process::fchdir(&copy)?;
        }
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        Ok(())
    }

    /// The assembled tree, to be handed to the process that will live in it.
    ///
    /// # Errors
    /// When its root was not mounted.
    pub fn assembled(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.tree()
    }

    /// Puts this process, and so all that it starts, under the VM's limits.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter_limits(&mut self) -> Result<(), Errno> {
        for door in std::mem::take(&mut self.doors) {
            rustix::io::write(&door, b"0")?;
        }
        if self.gate.take().is_some() {
            // The namespace that it was cloned into has the keeper's group as its root.
            fvm_sys::process::unshare(fvm_sys::process::Namespaces::CGROUP)?;
        }
        if let Some(most) = self.pids {
            let limit = rustix::process::Rlimit { current: Some(most.into()), maximum: Some(most.into()) };
            rustix::process::setrlimit(rustix::process::Resource::Nproc, limit)?;
        }
        if let Some(soft) = self.files {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            let limit = rustix::process::Rlimit { current: Some(soft), ..limit };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
        }
        Ok(())
    }

    /// Takes the working directory as the tree: a new mount namespace has other mounts than the one that the tree was
    /// built in, and only the working directory follows into it by itself, whatever the path to it forbids.
    ///
    /// # Errors
    /// The kernel's.
    pub fn adopt_working_directory(&mut self) -> Result<(), Errno> {
        self.tree = Some(open_path(Path::new("."))?);
        Ok(())
    }
}

/// A cover for a directory.
fn empty_directory() -> Result<OwnedFd, MountError> {
    mount::new_mount(
        "tmpfs",
        &[MountOption::Value("size", "4k".into()), MountOption::Value("mode", "0555".into())],
        attributes(Restrict { read_only: true, nosuid: true, noexec: true }),
    )
}

fn vm(path: &'static str) -> VmPath {
    VmPath::new(path).unwrap_or_else(|_| VmPath::root())
}

/// Without these nothing works: their absence is an error, not a thing to pass over.
fn is_essential(target: &VmPath) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|p| target.as_path() == Path::new(p))
}

/// The host removed it after the plan was drawn (a temporary directory, say): then there is nothing to show.
fn is_gone(error: &MountError, host: &HostPath) -> bool {
    error.errno == Errno::NOENT && fs::lstat(host.as_path()).is_err_and(|e| e == Errno::NOENT)
}

/// Whether the directory `below` is still the host's own in a VM with this `upper`: no directory on the way was
/// removed, replaced or renamed. Overlayfs marks those in the upper layer, where the VM cannot write by itself.
fn is_where_it_was(upper: &Path, below: &Path, class: XattrClass) -> Result<bool, Errno> {
    let mut dir = Dir::open_root(upper)?;
    for name in below.components() {
        let name: &Path = name.as_ref();
        let Some(stat) = dir.stat_opt(name)? else { return Ok(true) };
        if u32::from(stat.stx_mode) & 0o170_000 != 0o040_000 {
            return Ok(false);
        }
        for mark in ["redirect", "opaque"] {
            if dir.xattr(name, OsStr::new(&format!("{}{mark}", class.prefix())))?.is_some() {
                return Ok(false);
            }
        }
        dir = dir.beneath(name)?;
    }
    Ok(true)
}

/// Whether the VM has a file of its own at `below`.
fn is_own_file(upper: &Path, below: &Path) -> Result<bool, Errno> {
    let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else { return Ok(false) };
    let dir = match Dir::open_root(upper)?.beneath_deep(parent) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        dir => dir?,
    };
    let stat = dir.stat_opt(Path::new(name))?;
    Ok(stat.is_some_and(|s| fs::FileType::from_raw_mode(s.stx_mode.into()) == fs::FileType::RegularFile))
}

fn attributes(restrict: Restrict) -> MountAttrFlags {
    let mut attrs = MountAttrFlags::MOUNT_ATTR_NODEV;
    for (set, flag) in [
        (restrict.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (restrict.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (restrict.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ] {
        if set {
            attrs |= flag;
        }
    }
    attrs
}

/// Whether `fd` is the root of an overlay.
#[must_use]
pub fn is_overlay_root(fd: &OwnedFd) -> bool {
    const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
    const MOUNT_ROOT: fs::StatxAttributes = fs::StatxAttributes::MOUNT_ROOT;
    fs::fstatfs(fd).is_ok_and(|s| s.f_type == OVERLAYFS_SUPER_MAGIC)
        && fs::statx(fd, "", AtFlags::EMPTY_PATH, fs::StatxFlags::empty())
            .is_ok_and(|s| s.stx_attributes.contains(MOUNT_ROOT))
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::PATH | OFlags::CLOEXEC, FileMode::empty())
}

fn explain(error: &MountError, op: &SetupOp, mode: Mode) -> String {
    let hint = match (op, error.errno) {
        (SetupOp::Overlay { .. }, Errno::STALE) => {
            "; the host directory was replaced since the VM was made: commit or discard from a new VM"
        }
        (SetupOp::Overlay { .. }, Errno::BUSY) => "; another VM or mount uses this layer",
        (SetupOp::Overlay { .. }, Errno::INVAL | Errno::OPNOTSUPP) => {
            "; see 'fvm doctor' for what this file system can do"
        }
        (_, Errno::PERM | Errno::ACCESS) if mode == Mode::Rootless => {
            "; see 'fvm doctor' for what this kernel lets a user do"
        }
        _ => "",
    };
    format!("{error}{hint}")
}
