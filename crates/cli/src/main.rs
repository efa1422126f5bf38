//! The `fvm` command.
#![cfg_attr(not(test), no_main)]

#[cfg(not(test))]
fvm_sys::entry!(fvm_ahead::ask, fvm_cli::main);
