//! A point in time as the kernel stamps it.

use serde::{Deserialize, Serialize};

/// Seconds and nanoseconds since 1970 (UTC), as in `struct statx_timestamp`. Ordered by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Timestamp {
    /// Whole seconds; negative before 1970.
    pub secs: i64,
    /// 0..1_000_000_000.
    pub nanos: u32,
}
