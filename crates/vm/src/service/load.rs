//! Reads units as the VM sees them: `UNIT`, its template, `UNIT.d/*.conf`, `UNIT.wants/`, `UNIT.requires/`.
//!
//! ```text
//!   --unit-dir  >  /etc/systemd/system  >  /run/systemd/system  >  /usr/local/lib/…  >  /lib/…  >  /usr/lib/systemd/system
//!   the first file of the name counts; drop-ins of all directories count, sorted by name, the first of a name
//! ```
//!
//! Runs in the VM only.
//!
//! Invariants: what is not a regular file is not read and never waited for; everything is bounded.

use super::users;
use fvm_model::path::Bytes;
use fvm_service::limits::{DROP_INS_MAX, FILE_MAX_BYTES};
use fvm_service::{Facts, Fragment, Unit, UnitKind, UnitName, UnitSet};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where units are, the strongest first.
const DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// The most names that a directory is asked for.
const NAMES_MAX: usize = 8192;

/// Directories of units, the strongest first.
#[derive(Debug, Clone)]
pub struct Places(Vec<PathBuf>);

/// A regular file of at most `max` bytes.
///
/// # Errors
/// The kernel's; `EFBIG` when it is larger, `EINVAL` when it is something else.
pub fn read_small(path: &Path, max: usize) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut text = Vec::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match rustix::io::read(&file, &mut buffer[..]) {
            Ok(0) => return Ok(text),
            Ok(len) => text.extend_from_slice(&buffer[..len]),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        if text.len() > max {
            return Err(Errno::FBIG);
        }
    }
}

/// What specifiers stand for in this VM.
pub fn facts() -> Facts {
    let line = |path: &str| {
        let text = read_small(Path::new(path), 4096).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let uid = rustix::process::geteuid().as_raw();
    let user = users::user(&uid.to_string()).unwrap_or_default();
    let gid = rustix::process::getegid().as_raw();
    let names = rustix::system::uname();
    Facts {
        user: if user.name.is_empty() { uid.to_string() } else { user.name },
        uid,
        group: users::group_name(gid).unwrap_or_else(|| gid.to_string()),
        gid,
        home: if user.home.is_empty() { "/".into() } else { user.home },
        shell: if user.shell.is_empty() { "/bin/sh".into() } else { user.shell },
        host_name: names.nodename().to_string_lossy().into_owned(),
        machine_id: line("/etc/machine-id"),
        boot_id: line("/proc/sys/kernel/random/boot_id").replace('-', ""),
        kernel: names.release().to_string_lossy().into_owned(),
    }
}

impl Places {
    /// `extra`, then where systemd looks.
    #[must_use]
    pub fn new(extra: &[Bytes]) -> Self {
        let extra = extra.iter().map(|dir| PathBuf::from(&dir.0)).filter(|dir| dir.is_absolute());
        Self(extra.chain(DIRECTORIES.iter().map(PathBuf::from)).collect())
    }

    /// A unit's own name: where it is a link to another unit's file, that one's.
    pub fn canonical(&self, name: &UnitName) -> UnitName {
        let Some(path) = self.file_of(name) else { return name.clone() };
        let Ok(real) = path.canonicalize() else { return name.clone() };
        let target: Option<UnitName> = real.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        let target = target.and_then(|t| t.with_instance(name.instance().unwrap_or_default()).ok());
        target.filter(|t| t.kind() == name.kind() && !t.is_template()).unwrap_or_else(|| name.clone())
    }

    /// Where a unit's main file is: its own or its template's.
    fn file_of(&self, name: &UnitName) -> Option<PathBuf> {
        let named =
            |name: &UnitName| self.0.iter().map(|dir| dir.join(name.as_str())).find(|path| fs::lstat(path).is_ok());
        named(name).or_else(|| named(&name.template()?))
    }

    /// Loads a unit; `None` when there is none.
    ///
    /// # Errors
    /// In words.
    pub fn load(&self, name: &UnitName, facts: &Facts) -> Result<Option<Unit>, String> {
        if name.kind() == UnitKind::Other {
            return Err("fvm runs services only".into());
        }
        if name.is_template() {
            return Err(format!("it is a template: name an instance, such as {}@x", name.prefix()));
        }
        let Some(path) = self.file_of(name) else { return Ok(None) };
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        if fs::stat(&path).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice) {
            return Err(format!("it is masked ({})", shown(&path)));
        }
        let read = |path: &Path| match read_small(path, FILE_MAX_BYTES) {
            Ok(text) => Ok(Fragment { file: shown(path), text }),
            Err(e) => Err(format!("cannot read {}: {e}", shown(path))),
        };
        let main = read(&path)?;
        if main.text.is_empty() {
            return Err(format!("it is masked ({} is empty)", shown(&path)));
        }
        let mut fragments = vec![main];
        for drop_in in self.drop_ins(name) {
            fragments.push(read(&drop_in)?);
        }
        let mut unit = Unit::parse(name, &fragments, facts).map_err(|e| e.to_string())?;
        unit.wants.extend(self.linked(name, "wants"));
        unit.requires.extend(self.linked(name, "requires"));
        for names in [&mut unit.requires, &mut unit.wants, &mut unit.after, &mut unit.before] {
            *names = std::mem::take(names).into_iter().map(|n| self.canonical(&n)).filter(|n| n != name).collect();
        }
        Ok(Some(unit))
    }

    /// `wanted` and all that it needs, and what could not be loaded of what is merely wanted.
    ///
    /// # Errors
    /// (which unit, why): one that was named, or that one of them requires.
    pub fn load_all(&self, wanted: &[UnitName], facts: &Facts) -> Result<(UnitSet, Vec<String>), (UnitName, String)> {
        let mut set = UnitSet::default();
        let mut notices = Vec::new();
        let first = |e: &dyn std::fmt::Display| (wanted.first().cloned(), e.to_string());
        loop {
            let needed = match set.needed(wanted) {
                Ok(needed) => needed,
                Err(e) => {
                    let (name, why) = first(&e);
                    return name.map_or(Ok((set, notices)), |name| Err((name, why)));
                }
            };
            if needed.is_empty() {
                return Ok((set, notices));
            }
            for name in needed {
                match self.load(&name, facts) {
                    Ok(Some(unit)) => set.add(unit),
                    Ok(None) if wanted.contains(&name) => return Err((name, "there is no such unit".into())),
                    Ok(None) => set.absent(name),
                    Err(why) if wanted.contains(&name) => return Err((name, why)),
                    Err(why) => {
                        notices.push(format!("{name}: {why}"));
                        set.absent(name);
                    }
                }
            }
        }
    }

    /// Names of the services that there are.
    pub fn all(&self) -> BTreeSet<UnitName> {
        let services = |name: &UnitName| name.kind() == UnitKind::Service && !name.is_template();
        let of = |dir: &Path| names(dir).into_iter().filter_map(|n| n.parse().ok()).filter(services);
        let found: BTreeSet<UnitName> = self.0.iter().flat_map(|dir| of(dir).collect::<Vec<_>>()).collect();
        found.into_iter().filter(|name| self.canonical(name) == *name).collect()
    }

    /// The description of a unit, as far as it can be told.
    pub fn description(&self, name: &UnitName, facts: &Facts) -> String {
        self.load(name, facts).ok().flatten().map(|unit| unit.description).unwrap_or_default()
    }

    fn drop_ins(&self, name: &UnitName) -> Vec<PathBuf> {
        let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
        for of in [Some(name.clone()), name.template()].into_iter().flatten() {
            for dir in &self.0 {
                let dir = dir.join(format!("{of}.d"));
                for file in names(&dir).into_iter().filter(|f| f.ends_with(".conf")) {
                    let path = dir.join(&file);
                    found.entry(file).or_insert(path);
                }
            }
        }
        // A drop-in is taken out of use by a link to /dev/null.
        let is_file = |path: &PathBuf| {
            fs::stat(path).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile && s.st_size > 0)
        };
        found.into_values().filter(is_file).take(DROP_INS_MAX + 1).collect()
    }

    /// Names in `UNIT.wants/` and the like.
    fn linked(&self, name: &UnitName, kind: &str) -> BTreeSet<UnitName> {
        let of = |dir: &PathBuf| names(&dir.join(format!("{name}.{kind}")));
        self.0.iter().flat_map(of).filter_map(|n| n.parse().ok()).collect()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().take(NAMES_MAX).filter_map(|e| e.file_name().into_string().ok()).collect()
}
