//! Values of directives: switches, times, modes, signals, limits.

use std::time::Duration;

/// `yes`, `no` and their friends.
///
/// # Errors
/// What is wrong, in words.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Ok(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Ok(false),
        _ => Err("it is neither yes nor no".into()),
    }
}

/// A time span such as `90`, `1min 30s`, `500ms`, `infinity` (`None`).
///
/// # Errors
/// What is wrong, in words.
pub fn span(text: &str) -> Result<Option<Duration>, String> {
    let bad = || "it is not a time: such as 90, 1min 30s, 500ms, infinity".to_owned();
    if text == "infinity" {
        return Ok(None);
    }
    let mut rest = text.trim();
    let mut sum = 0f64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" | "s" | "sec" | "second" | "seconds" => 1.0,
            "us" | "usec" | "µs" | "μs" => 1e-6,
            "ms" | "msec" => 1e-3,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 604_800.0,
            "M" | "month" | "months" => 2_629_800.0,
            "y" | "year" | "years" => 31_557_600.0,
            _ => return Err(bad()),
        };
        sum += number * unit;
        rest = rest[letters..].trim_start();
    }
    // More than a century is for ever.
    if sum > 3.2e9 { Ok(None) } else { Duration::try_from_secs_f64(sum).map(Some).map_err(|_| bad()) }
}

/// An octal file mode.
///
/// # Errors
/// What is wrong, in words.
pub fn mode(text: &str) -> Result<u32, String> {
    let value = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
    value.ok_or_else(|| "it is not an octal mode such as 0755".into())
}

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// A signal by name (`SIGTERM`, `TERM`) or number, as Linux numbers them on x86 and ARM.
///
/// # Errors
/// What is wrong, in words.
pub fn signal(text: &str) -> Result<i32, String> {
    let bad = || "it is not a signal".to_owned();
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    if let Some(offset) = name.strip_prefix("RTMIN") {
        // The C library keeps two of the kernel's for itself.
        let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().map_err(|_| bad())? };
        return (0..=30).contains(&offset).then_some(34 + offset).ok_or_else(bad);
    }
    text.parse().ok().filter(|n| (1..=64).contains(n)).ok_or_else(bad)
}

/// The name of a signal, for people.
#[must_use]
pub fn signal_name(number: i32) -> String {
    let known = SIGNALS.iter().find(|(_, n)| *n == number);
    known.map_or_else(|| format!("signal {number}"), |(name, _)| format!("SIG{name}"))
}

/// What a resource limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Bytes: `K`, `M`, `G`, `T` may follow.
    Bytes,
    /// Seconds: a time span.
    Seconds,
    /// Microseconds: a time span.
    Microseconds,
    /// Things.
    Plain,
}

/// Soft and hard limit: `1024`, `1024:4096`, `infinity`. `None`: no limit.
///
/// # Errors
/// What is wrong, in words.
pub fn limit(text: &str, counted: Counted) -> Result<(Option<u64>, Option<u64>), String> {
    let one = |text: &str| -> Result<Option<u64>, String> {
        if text == "infinity" {
            return Ok(None);
        }
        let bad = || "it is not a limit such as 1024, 1024:4096, 1G, infinity".to_owned();
        match counted {
            Counted::Plain => text.parse().map(Some).map_err(|_| bad()),
            Counted::Bytes => bytes(text).map(Some).ok_or_else(bad),
            Counted::Seconds => Ok(span(text)?.map(|d| d.as_secs() + u64::from(d.subsec_nanos() > 0))),
            Counted::Microseconds if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map(Some).map_err(|_| bad())
            }
            Counted::Microseconds => Ok(span(text)?.and_then(|d| u64::try_from(d.as_micros()).ok())),
        }
    };
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let (soft, hard) = (one(soft.trim())?, one(hard.trim())?);
    match (soft, hard) {
        (Some(s), Some(h)) if s > h => Err("the soft limit is above the hard one".into()),
        (None, Some(_)) => Err("the soft limit is above the hard one".into()),
        both => Ok(both),
    }
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        b'B' => (&text[..text.len() - 1], 0),
        _ => (text, 0),
    };
    digits.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, want) in [
            ("90", Some(90_000)),
            ("1min 30s", Some(90_000)),
            ("1.5s", Some(1_500)),
            ("500ms", Some(500)),
            ("2h5m", Some(7_500_000)),
            ("infinity", None),
            ("99999999999y", None),
            ("0", Some(0)),
        ] {
            assert_eq!(span(text).unwrap().map(|d| d.as_millis()), want, "{text}");
        }
        for text in ["", "x", "5 parsec", "-3", "1..2", "s"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals_modes_and_limits_are_read() {
        assert_eq!((signal("SIGQUIT"), signal("USR1"), signal("15")), (Ok(3), Ok(10), Ok(15)));
        assert_eq!(signal("RTMIN+3"), Ok(37));
        assert!(signal("99").is_err() && signal("SIGNONE").is_err() && signal("RTMIN+99").is_err());
        assert_eq!((mode("0755"), mode("02775")), (Ok(0o755), Ok(0o2775)));
        assert!(mode("9").is_err() && mode("777777").is_err());
        assert_eq!(limit("1024:4096", Counted::Plain), Ok((Some(1024), Some(4096))));
        assert_eq!(limit("infinity", Counted::Bytes), Ok((None, None)));
        assert_eq!(limit("2G", Counted::Bytes), Ok((Some(2 << 30), Some(2 << 30))));
        assert_eq!(limit("1min", Counted::Seconds), Ok((Some(60), Some(60))));
        assert!(limit("5:4", Counted::Plain).is_err() && limit("99999999999T", Counted::Bytes).is_err());
        assert_eq!((switch("Yes"), switch("off")), (Ok(true), Ok(false)));
    }
}
