//! Which processes are fvm itself still: forks of init, before they become what they were started for. What they do is not written
//! down, so nobody else may pass for one.
//!
//! ```text
//!   its program can be looked at    it is the keeper's file, and its stack begins where init's does: chosen by the kernel at
//!                                   random for each execution, inherited by a fork, not readable in the VM
//!   it may not be (a user's VM)     init may not be either, it was never executed, it is called as init is, and until now nobody
//!                                   else was seen who may not be looked at
//!   it has no path that fits        a stranger
//! ```
//!
//! Invariant: names that a process can choose never suffice; in doubt it is a stranger, and written down.

use super::proc::{self, Program, Stat};

/// What fvm's own processes are told by.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Its program, by device and inode.
    file: Option<(u64, u64)>,
    /// Init, as it was when the tracer began.
    init: Stat,
    /// Somebody else may not be looked at.
    hides: bool,
}

impl Own {
    /// Those of the VM of process `init`.
    #[must_use]
    pub fn of(init: i32) -> Self {
        let file = rustix::fs::stat("/proc/self/exe").ok().map(|stat| (stat.st_dev, stat.st_ino));
        Self { file, init: proc::stat(init).unwrap_or_default(), hides: false }
    }

    /// A stranger was seen whose program may not be looked at.
    pub fn stranger_hides(&mut self) {
        self.hides = true;
    }

    /// Whether child `pid` of init's, or of another such, is one. `init_name`: what init is called now.
    #[must_use]
    pub fn is(&self, pid: i32, program: &Program, stat: &Stat, init_name: &[u8]) -> bool {
        match program {
            Program::At(_) => {
                let file = rustix::fs::stat(format!("/proc/{pid}/exe")).ok().map(|stat| (stat.st_dev, stat.st_ino));
                file.is_some() && file == self.file && stat.image.0 != 0 && stat.image.0 == self.init.image.0
            }
            Program::Hidden => {
                let is_hidden = self.init.image == (0, 0) && stat.image == (0, 0);
                is_hidden && !self.hides && stat.never_executed && stat.comm == init_name
            }
            Program::Nameless => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_makes_nobody_fvm() {
        let stat = |image, never_executed| Stat { comm: b"fvm".to_vec(), image, never_executed, ..Stat::default() };
        let mut own = Own { file: None, init: stat((0, 0), true), hides: false };
        let is = |own: &Own, program, stat: Stat| own.is(1, &program, &stat, b"fvm");
        assert!(is(&own, Program::Hidden, stat((0, 0), true)));
        assert!(!is(&own, Program::Hidden, stat((0, 0), false)), "it was executed");
        assert!(!is(&own, Program::Hidden, stat((7, 7), true)), "it may be looked at");
        assert!(!is(&own, Program::Nameless, stat((0, 0), true)), "its path is too long");
        assert!(!own.is(1, &Program::Hidden, &stat((0, 0), true), b"init"));
        own.stranger_hides();
        assert!(!is(&own, Program::Hidden, stat((0, 0), true)), "somebody else hides as well");
        let readable = Own { file: None, init: stat((9, 9), true), hides: false };
        assert!(!is(&readable, Program::Hidden, stat((0, 0), true)), "init can be looked at");
    }

    #[test]
    fn the_same_file_executed_anew_is_a_stranger() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let (mut own, stat) = (Own::of(pid), proc::stat(pid).unwrap());
        let program = proc::program(pid);
        assert!(matches!(program, Program::At(_)));
        assert!(own.is(pid, &program, &stat, b""));
        own.init.image.0 += 1;
        assert!(!own.is(pid, &program, &stat, b""));
    }
}
