//! The laboratory: sites of many kinds behind a gate of its own, and visits of them.

pub mod gate;
pub mod http;
