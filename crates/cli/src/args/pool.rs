//! `fvm pool`: VMs that are forked ahead.

use super::PolicyArgs;
use clap::{Args, Subcommand};

/// `fvm pool`.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool: VMs that are forked ahead, for 'fvm run --pool'
    Create(Box<PoolCreate>),
    /// Show pools: how many VMs wait, are being made, are used
    Status {
        /// Which [default: all]
        names: Vec<String>,
    },
    /// Hold another number of VMs ready
    Size {
        /// Which
        name: String,
        /// How many
        size: u32,
    },
    /// Change what the VMs of a pool may use; those that wait are made anew
    Configure(Box<PoolConfigure>),
    /// Start a pool that is not running, after a reboot for example ('fvm run --pool' does so by itself)
    Start {
        /// Which
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Throw away what waits; the pool ends with its last program
    Drain {
        /// Which
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Drain pools, and forget them
    Delete {
        /// Which
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// `fvm pool create`.
#[derive(Debug, Args)]
pub struct PoolCreate {
    /// Name of the pool
    pub name: String,
    /// How many VMs are held ready
    #[arg(long, short, default_value_t = 4)]
    pub size: u32,
    /// Copies of this stopped VM, instead of forks of the host; with its policy, unless options give another
    #[arg(long, value_name = "VM")]
    pub from: Option<String>,
    /// Hold them so that what programs change can be kept and committed, not only thrown away
    #[arg(long)]
    pub kept: bool,
    /// Give each VM out so often, with what its programs changed before, if they left nothing running [default: once]
    #[arg(long, value_name = "TIMES", default_value_t = 1, hide_default_value = true)]
    pub reuse: u32,
    /// Make at most so many in a second
    #[arg(long, value_name = "NUMBER")]
    pub per_second: Option<u32>,
    /// Make none while less memory than this is available
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub reserve: String,
    /// What the VMs may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// `fvm pool configure`.
#[derive(Debug, Args)]
pub struct PoolConfigure {
    /// Name of the pool
    pub name: String,
    /// What the VMs may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
}
