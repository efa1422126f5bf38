//! A pool: VMs that are forked ahead and wait for a program (`docs/spec/state.md`, "Pools").
//!
//! ```text
//!   <home>/pools/<name>/pool.json    PoolRecord, replaced atomically
//! ```

use crate::policy::Policy;
use crate::vm::VmName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The most VMs that a pool may hold ready.
pub const SIZE_MAX: u32 = 10_000;

/// `pool.json`: what a pool is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// [`crate::vm::FORMAT`] at the time of writing. A reader refuses a larger one.
    pub format: u32,
    /// Its name, unique among pools.
    pub name: VmName,
    /// How many VMs are held ready.
    pub size: u32,
    /// What they may use.
    pub policy: Policy,
    /// A stopped VM that they are copies of; the live host where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<VmName>,
    /// Their changes lie where they last, so that they can be kept and committed; otherwise in memory if they may.
    #[serde(default)]
    pub kept: bool,
    /// How often each is used before it is thrown away. From the second time on it holds what was changed before.
    pub uses: u32,
    /// How many are made in a second at most, to spare the processors; as many as can be where it is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
    /// None is made while less memory than this is available, in bytes.
    pub reserve_bytes: u64,
    /// Directories in which their programs will work (an ordinary user's VM opens the ways to them when it is made).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<PathBuf>,
}

impl PoolRecord {
    /// Whether VMs that are ready under `self` are what `other` asks for.
    #[must_use]
    pub fn makes_the_same(&self, other: &Self) -> bool {
        (&self.policy, &self.template, self.kept, &self.reach)
            == (&other.policy, &other.template, other.kept, &other.reach)
    }
}

/// What a pool is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: VmName,
    /// How many VMs are to be ready.
    pub size: u32,
    /// How many are.
    pub ready: u32,
    /// How many are being made.
    pub making: u32,
    /// How many have a program.
    pub used: u32,
    /// How many became ready since its keeper began.
    #[serde(default)]
    pub made: u64,
    /// How many were given out since its keeper began.
    pub given: u64,
    /// How many were thrown away unused, because the host or the policy had changed or they had died.
    pub renewed: u64,
    /// The process that holds them; none: it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<i32>,
    /// It takes no more programs, and ends with its last one.
    #[serde(default)]
    pub draining: bool,
    /// Why none is being made, if one is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}
