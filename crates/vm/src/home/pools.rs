//! Pools in the state directory: `<home>/pools/<name>/`: `pool.json`, `lock`, `socket`, `waiting/<id>`.

use super::{Home, VmLock, is_locked, lock_file, make_dir, parse, replace_file};
use crate::error::VmError;
use fvm_model::pool::PoolRecord;
use fvm_model::vm::FORMAT;
use fvm_model::{VmId, VmName};
use fvm_sys::dir::Dir;
use rustix::io::Errno;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The VMs that wait, an empty file each, in a pool's directory.
const WAITING: &str = "waiting";

impl Home {
    fn pools(&self) -> PathBuf {
        self.state_dir().join("pools")
    }

    /// `pools/<name>`.
    pub(crate) fn pool_dir(&self, name: &VmName) -> PathBuf {
        self.pools().join(name.as_str())
    }

    /// Every pool, by name; what cannot be read as an error.
    ///
    /// # Errors
    /// When `pools/` cannot be read.
    pub fn list_pools(&self) -> Result<Vec<Result<PoolRecord, VmError>>, VmError> {
        let pools = self.pools();
        let dir = match Dir::open_root(&pools) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(e) => return Err(VmError::sys("open", &pools, e)),
        };
        let mut names = dir.names().map_err(|e| VmError::sys("list", &pools, e))?;
        names.sort();
        let names = names.into_iter().filter_map(|name| name.to_str().and_then(|name| name.parse().ok()));
        Ok(names.map(|name: VmName| self.load_pool(&name)).collect())
    }

    /// Reads `pool.json`.
    ///
    /// # Errors
    /// [`VmError::NoSuchPool`]; when it is damaged, or of a newer format.
    pub fn load_pool(&self, name: &VmName) -> Result<PoolRecord, VmError> {
        let path = self.pool_dir(name).join("pool.json");
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(VmError::NoSuchPool(name.clone())),
            read => read.map_err(|e| VmError::io("read", &path, &e))?,
        };
        parse_pool(&bytes, name).map_err(|why| VmError::BadRecord { path, why })
    }

    /// Whether `pool.json` is there and nobody can read it: not even an fvm of a newer format.
    #[must_use]
    pub fn is_pool_damaged(&self, name: &VmName) -> bool {
        let Ok(bytes) = std::fs::read(self.pool_dir(name).join("pool.json")) else { return false };
        let format = serde_json::from_slice::<serde_json::Value>(&bytes).ok().and_then(|all| all["format"].as_u64());
        parse_pool(&bytes, name).is_err() && format.is_none_or(|format| format <= u64::from(FORMAT))
    }

    /// Writes `pool.json` of a pool that is not there yet; whether it was not. Of several that make it at once, one does.
    ///
    /// # Errors
    /// When it cannot be looked at or written.
    pub fn create_pool(&self, record: &PoolRecord) -> Result<bool, VmError> {
        make_dir(&self.pool_dir(&record.name))?;
        let _names = self.lock_names()?;
        match self.load_pool(&record.name) {
            Err(VmError::NoSuchPool(_)) => self.save_pool(record).map(|()| true),
            found => found.map(|_| false),
        }
    }

    /// Writes `pool.json`.
    ///
    /// # Errors
    /// When it cannot be written; the old one is then still there.
    pub fn save_pool(&self, record: &PoolRecord) -> Result<(), VmError> {
        let dir = self.pool_dir(&record.name);
        make_dir(&dir)?;
        replace_file(&dir, "pool.json", &pool_text(record)?, true)
    }

    /// Takes the lock of a pool; `None` when its keeper has it.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn try_lock_pool(&self, name: &VmName) -> Result<Option<VmLock>, VmError> {
        lock_file(&self.pool_dir(name).join("lock"))
    }

    /// Empties the list of VMs that wait in a pool whose lock the caller holds.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn clear_waiting(&self, pool: &VmName) -> Result<(), VmError> {
        let path = self.pool_dir(pool);
        let dir = Dir::open_root(&path).map_err(|e| VmError::sys("open", &path, e))?;
        dir.remove_tree(Path::new(WAITING)).map_err(|e| VmError::sys("empty", &path.join(WAITING), e))?;
        make_dir(&path.join(WAITING))
    }

    /// A VM waits in a pool from now on: commands need not look at it. Its record says so already. Without this they take longer.
    pub(crate) fn waits(&self, pool: &VmName, id: &VmId) {
        // Only the name counts: a link costs the disk no file.
        let waiting = self.pool_dir(pool).join(WAITING).join(id.as_str());
        if std::fs::hard_link(self.vm_dir(id).join("vm.json"), &waiting).is_err() {
            let _looked_at = std::fs::File::create_new(&waiting);
        }
    }

    /// It does not any more; its record will say so.
    pub(crate) fn waits_no_more(&self, pool: &VmName, id: &VmId) {
        let _not_there = std::fs::remove_file(self.pool_dir(pool).join(WAITING).join(id.as_str()));
    }

    /// The VMs that wait in pools that run: there may be thousands.
    ///
    /// # Errors
    /// When a lock cannot be looked at.
    pub(crate) fn waiting(&self) -> Result<HashSet<VmId>, VmError> {
        let mut waiting = HashSet::new();
        let Ok(pools) = Dir::open_root(&self.pools()).and_then(|dir| dir.names()) else { return Ok(waiting) };
        for pool in pools.iter().filter_map(|name| name.to_str()?.parse::<VmName>().ok()) {
            // The list of one that was killed says nothing.
            if !is_locked(&self.pool_dir(&pool).join("lock"))? {
                continue;
            }
            let names = Dir::open_root(&self.pool_dir(&pool).join(WAITING)).and_then(|dir| dir.names());
            let ids = names.into_iter().flatten().filter_map(|name| name.to_str()?.parse::<VmId>().ok());
            waiting.extend(ids);
        }
        Ok(waiting)
    }

    /// Forgets a pool whose lock the caller holds.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_pool(&self, name: &VmName, _lock: &VmLock) -> Result<(), VmError> {
        let pools = self.pools();
        let dir = Dir::open_root(&pools).map_err(|e| VmError::sys("open", &pools, e))?;
        dir.remove_tree(Path::new(name.as_str())).map_err(|e| VmError::sys("remove", &self.pool_dir(name), e))
    }
}

/// As it is written; `fvm-ahead` looks for a line of it.
pub(crate) fn pool_text(record: &PoolRecord) -> Result<Vec<u8>, VmError> {
    let mut text = serde_json::to_vec_pretty(record).map_err(|e| VmError::Internal(e.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

/// Parses `pool.json`: a newer format is refused before anything else is looked at.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_pool(bytes: &[u8], name: &VmName) -> Result<PoolRecord, String> {
    let record: PoolRecord = parse(bytes)?;
    if record.name != *name {
        return Err(format!("it says it is of pool {}", record.name));
    }
    Ok(record)
}
