//! What becomes of a service that ended (`Restart=`, the table of `systemd.service(5)`).

use std::time::Duration;

/// How a service, or one of its commands, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It took too long.
    Timeout,
    /// It did not speak as its type asks: no PID file, no notification.
    Protocol,
    /// It could not be started at all: a directory, a user, a file of variables.
    Resources,
}

/// `Restart=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Whatever happened.
    Always,
    /// After a clean end.
    OnSuccess,
    /// After anything but a clean end.
    OnFailure,
    /// After a signal or a timeout.
    OnAbnormal,
    /// After a signal that no clean end has.
    OnAbort,
    /// After a watchdog's bite; fvm has none, so never.
    OnWatchdog,
}

/// Codes and signals of `SuccessExitStatus=` and its relatives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statuses {
    /// Exit codes.
    pub codes: Vec<i32>,
    /// Signals.
    pub signals: Vec<i32>,
}

impl Statuses {
    /// Whether `end` is one of them.
    #[must_use]
    pub fn hold(&self, end: End) -> bool {
        match end {
            End::Code(code) => self.codes.contains(&code),
            End::Signal(signal) => self.signals.contains(&signal),
            End::Timeout | End::Protocol | End::Resources => false,
        }
    }
}

/// HUP, INT, PIPE, TERM: a daemon that ends by one of these ended well.
const CLEAN_SIGNALS: [i32; 4] = [1, 2, 13, 15];

/// Whether `end` counts as success. `daemon`: it is not `Type=oneshot`, for which a signal is never clean.
#[must_use]
pub fn is_clean(end: End, success: &Statuses, daemon: bool) -> bool {
    let usual = match end {
        End::Code(code) => code == 0,
        End::Signal(signal) => daemon && CLEAN_SIGNALS.contains(&signal),
        End::Timeout | End::Protocol | End::Resources => false,
    };
    usual || success.hold(end)
}

impl Restart {
    /// Whether a service that ended like this is started again. `clean` as [`is_clean`] says.
    #[must_use]
    pub fn applies(self, end: End, clean: bool) -> bool {
        match self {
            Self::No | Self::OnWatchdog => false,
            Self::Always => true,
            Self::OnSuccess => clean,
            Self::OnFailure => !clean,
            Self::OnAbnormal => !clean && matches!(end, End::Signal(_) | End::Timeout),
            Self::OnAbort => !clean && matches!(end, End::Signal(_)),
        }
    }
}

/// `StartLimitIntervalSec=`, `StartLimitBurst=`: starts that are too many in too short a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartLimit {
    /// Within this time; zero: no limit.
    pub interval: Duration,
    /// This many.
    pub burst: u32,
}

impl Default for StartLimit {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), burst: 5 }
    }
}

impl StartLimit {
    /// Whether there may be one more start now, after those whose ages are given.
    #[must_use]
    pub fn allows(self, ages: &[Duration]) -> bool {
        let recent = ages.iter().filter(|age| **age < self.interval).count();
        self.interval.is_zero() || u32::try_from(recent).is_ok_and(|n| n < self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_manual_holds() {
        let ends = [End::Code(0), End::Signal(15), End::Code(3), End::Signal(11), End::Timeout];
        let table: &[(Restart, [bool; 5])] = &[
            (Restart::No, [false, false, false, false, false]),
            (Restart::Always, [true, true, true, true, true]),
            (Restart::OnSuccess, [true, true, false, false, false]),
            (Restart::OnFailure, [false, false, true, true, true]),
            (Restart::OnAbnormal, [false, false, false, true, true]),
            (Restart::OnAbort, [false, false, false, true, false]),
            (Restart::OnWatchdog, [false; 5]),
        ];
        for (restart, want) in table {
            let got = ends.map(|end| restart.applies(end, is_clean(end, &Statuses::default(), true)));
            assert_eq!(got, *want, "{restart:?}");
        }
        let own = Statuses { codes: vec![3], signals: vec![] };
        assert!(is_clean(End::Code(3), &own, true) && !is_clean(End::Signal(15), &own, false));
    }

    #[test]
    fn starts_are_limited_within_their_interval() {
        let limit = StartLimit { interval: Duration::from_secs(10), burst: 2 };
        let s = Duration::from_secs;
        assert!(limit.allows(&[]) && limit.allows(&[s(1)]) && limit.allows(&[s(11), s(1)]));
        assert!(!limit.allows(&[s(1), s(2)]));
        assert!(StartLimit { interval: s(0), burst: 1 }.allows(&[s(0), s(0)]));
    }
}
