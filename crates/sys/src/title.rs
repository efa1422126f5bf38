//! The command line that `/proc` shows of this process, in its memory.
//!
//! ```text
//!   arg_start ─► "fvm\0run\0--rm\0...\0" ◄─ arg_end        environment ...
//!                ▲ program_invocation_name (libc), and argv[0]
//! ```
//!
//! Invariant: nothing is written but the bytes of the command line as the kernel put them there; where they are not found to be
//! that, nothing is.

use std::ffi::{OsString, c_char};
use std::os::unix::ffi::OsStrExt;

unsafe extern "C" {
    /// `argv[0]` of `main` (`program_invocation_name(3)`), unless somebody set it to something else.
    static program_invocation_name: *mut c_char;
}

/// The most that a program is given: its arguments and environment (`bprm_set_stack_limits`, fs/exec.c).
const GIVEN_MAX_BYTES: usize = 6 << 20;

/// Replaces the command line by `title`, which is cut or filled with zeros. Whether it was done: not in a process with several threads, nor
/// where the arguments do not lie as the kernel lays them.
pub fn set(title: &str) -> bool {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let expected: Vec<u8> = arguments.iter().flat_map(|word| word.as_bytes().iter().copied().chain([0])).collect();
    // SAFETY: libc sets it before `main`; a word that is read whole.
    let start = unsafe { program_invocation_name }.cast::<u8>();
    // SAFETY: it only asks.
    let end = usize::try_from(unsafe { libc::getauxval(libc::AT_EXECFN) }).unwrap_or(0);
    // The name of the executed file is the last thing that the kernel lays there: a copy of the arguments elsewhere is not what it shows.
    let given = start.addr()..end;
    let is_given = !expected.is_empty() && given.len() >= expected.len() && given.len() <= GIVEN_MAX_BYTES;
    if !is_given || !crate::process::has_one_thread() {
        return false;
    }
    for (index, byte) in expected.iter().enumerate() {
        // SAFETY: `start` lies in what the kernel gave the program, which ends at `end`, not before this byte: memory of the stack that
        // stays for the whole life of the process (`create_elf_tables`, fs/binfmt_elf.c).
        if unsafe { start.add(index).read_volatile() } != *byte {
            return false;
        }
    }
    // The last byte is zero, or the kernel would go on into the environment.
    let title = title.bytes().take(expected.len() - 1).chain(std::iter::repeat(0));
    for (index, byte) in title.take(expected.len()).enumerate() {
        // SAFETY: these are the bytes that were just read; there is one thread, so nobody reads them meanwhile.
        unsafe { start.add(index).write_volatile(byte) };
    }
    true
}

#[cfg(test)]
mod tests {
    use crate::process::{self, Fork, Waited};

    #[test]
    fn a_child_shows_another_command_line_of_the_same_length() {
        let shown = || std::fs::read("/proc/self/cmdline").unwrap_or_default();
        let before = shown();
        let child = match process::fork().expect("it can be forked") {
            Fork::Child => {
                let is_set = super::set("fvm: x") && shown().starts_with(b"fvm: x\0") && shown().len() == before.len();
                let is_rest_empty = shown().iter().skip(6).all(|byte| *byte == 0);
                let again = super::set("y");
                process::exit_now(i32::from(!is_set || !is_rest_empty || !again));
            }
            Fork::Parent(child) => child.as_raw_nonzero().get(),
        };
        assert_eq!(process::wait_blocking(child, false).expect("it ends").1, Waited::Exited(0));
        assert_eq!(shown(), before);
    }
}
