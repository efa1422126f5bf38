//! How much of a VM's unit files is taken: more is an error, not a longer wait.

/// Bytes of one unit file, drop-in or environment file.
pub const FILE_MAX_BYTES: usize = 256 << 10;
/// Drop-ins of one unit.
pub const DROP_INS_MAX: usize = 64;
/// Assignments of one unit, all files together.
pub const ENTRIES_MAX: usize = 4096;
/// Words of one line.
pub const WORDS_MAX: usize = 4096;
/// Units that one start may need.
pub const UNITS_MAX: usize = 256;
/// Bytes that one value may grow to when its specifiers or variables are replaced.
pub const VALUE_MAX_BYTES: usize = 128 << 10;
