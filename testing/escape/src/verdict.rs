//! What one run of an attack said. Pure.

/// What came of an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It learned or changed something of the host's.
    Reached,
    /// It did not, and why.
    Refused(String),
    /// There is nothing to attack here, and why.
    Absent(String),
    /// Only a look on the host can tell.
    Ask,
    /// It did not say anything that it may say.
    Broken(String),
    /// Not run, and why that is no loss.
    NotRun(&'static str),
}

impl Verdict {
    /// From the first line that a program printed and its exit code.
    #[must_use]
    pub fn of(line: &str, code: i32) -> Self {
        /// As shells count: 128 and the signal.
        const ENDED_BY_SIGSYS: i32 = 128 + 31;
        let line = line.trim();
        let after = |word: &str| line.strip_prefix(word).map(|rest| rest.trim().to_owned());
        match (line, code) {
            ("reached", 0) => Self::Reached,
            ("ask", 0) => Self::Ask,
            (_, 0) => after("refused:")
                .map(Self::Refused)
                .or_else(|| after("absent:").map(Self::Absent))
                .unwrap_or_else(|| Self::Broken(format!("it said '{line}'"))),
            (_, ENDED_BY_SIGSYS) => Self::Refused("ended by SIGSYS".into()),
            _ => Self::Broken(format!("it ended with {code} and said '{line}'")),
        }
    }

    /// One word, and the reason if it is no matter of course.
    #[must_use]
    pub fn word(&self) -> String {
        match self {
            Self::Reached => "reached".into(),
            Self::Refused(_) => "refused".into(),
            Self::Absent(why) => format!("absent: {why}"),
            Self::Ask => "unanswered".into(),
            Self::Broken(why) => format!("broken: {why}"),
            Self::NotRun(why) => format!("by construction: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agreed_words_are_answers() {
        for (line, code, verdict) in [
            ("reached\n", 0, Verdict::Reached),
            ("ask", 0, Verdict::Ask),
            ("refused: open: no", 0, Verdict::Refused("open: no".into())),
            ("absent: none", 0, Verdict::Absent("none".into())),
            ("", 159, Verdict::Refused("ended by SIGSYS".into())),
        ] {
            assert_eq!(Verdict::of(line, code), verdict);
        }
        for (line, code) in [("", 0), ("reached", 1), ("reachedx", 0), ("broken: x", 1), ("", 137), ("", 139)] {
            assert!(matches!(Verdict::of(line, code), Verdict::Broken(_)), "{line} {code}");
        }
    }
}
