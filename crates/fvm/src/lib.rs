//! fvm
