//! The hostile VM: what a program inside must not be able to do. All of it is in `tests/`.
