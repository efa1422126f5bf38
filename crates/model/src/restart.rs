//! What becomes of a detached program that has ended, while its VM is kept running.
//!
//! ```text
//!   no            the VM ends with it
//!   on-failure    started again after any end but exit status 0; on-failure:3: at most three times
//!   always        started again whatever its end was
//! ```
//!
//! Invariant: pure. Who waits and starts is the keeper.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// When a detached program is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// When it did not end with 0; at most so many times.
    OnFailure(Option<u32>),
    /// However it ended.
    Always,
}

impl Restart {
    /// Whether a program that was started again `restarts` times already, and has ended with this exit status, is started
    /// once more.
    #[must_use]
    pub fn applies(self, exit_status: i32, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(most) => exit_status != 0 && most.is_none_or(|most| restarts < most),
            Self::Always => true,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
pub(crate) fn is_no(restart: &Restart) -> bool {
    *restart == Restart::No
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(most)) => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
        }
    }
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' says not when to restart: use 'no', 'always', 'on-failure' or 'on-failure:3'");
        match (text, text.strip_prefix("on-failure:")) {
            ("no", _) => Ok(Self::No),
            ("always", _) => Ok(Self::Always),
            ("on-failure", _) => Ok(Self::OnFailure(None)),
            (_, Some(most)) if most.bytes().all(|b| b.is_ascii_digit()) => {
                let most: u32 = most.parse().map_err(|_| wrong())?;
                if most == 0 { Err(wrong()) } else { Ok(Self::OnFailure(Some(most))) }
            }
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Restart {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Restart> for String {
    fn from(restart: Restart) -> Self {
        restart.to_string()
    }
}

/// How long to wait before the next start: longer each time, and from the beginning after a start that lasted.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);
    /// What runs so long has not failed at once.
    const LASTED: Duration = Duration::from_secs(10);

    /// The pause after a program that ran for `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= Self::LASTED {
            self.next = Self::FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(Self::LONGEST);
        pause
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["no", "always", "on-failure", "on-failure:1", "on-failure:4294967295"] {
            let restart: Restart = text.parse().unwrap();
            assert_eq!(restart.to_string(), text);
            let json = serde_json::to_string(&restart).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Restart>(&json).unwrap(), restart);
        }
        for wrong in ["", "yes", "Always", "on-failure:", "on-failure:0", "on-failure:-1", "on-failure:+1", "always:3"]
        {
            assert!(wrong.parse::<Restart>().is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<Restart>("\"sometimes\"").is_err());
    }

    #[test]
    fn each_policy_restarts_what_it_says() {
        let table = [
            (Restart::No, [false, false, false]),
            (Restart::Always, [true, true, true]),
            (Restart::OnFailure(None), [false, true, true]),
            (Restart::OnFailure(Some(3)), [false, true, false]),
        ];
        for (restart, want) in table {
            let got = [(0, 0), (1, 2), (137, 3)].map(|(status, restarts)| restart.applies(status, restarts));
            assert_eq!(got, want, "{restart}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_again_after_ten_seconds() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..12).map(|_| backoff.after(Duration::from_secs(9)).as_millis()).collect();
        assert_eq!(pauses[..5], [100, 200, 400, 800, 1600]);
        assert_eq!(pauses[9..], [51_200, 60_000, 60_000]);
        assert_eq!(backoff.after(Duration::from_secs(10)).as_millis(), 100);
        assert_eq!(backoff.after(Duration::ZERO).as_millis(), 200);
    }
}
