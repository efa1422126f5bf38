//! Values that stand on the command line: times and sizes.

/// A time span: `500ms`, `10s` or `10`, `1.5m`, `2h`, `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// In thousandths of a second.
    pub ms: u64,
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a time: give a number and ms, s, m, h or d, such as 10s");
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit_ms = match unit {
            "ms" => 1.0,
            "" | "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            "d" => 86400e3,
            _ => return Err(bad()),
        };
        let ms = number.parse::<f64>().map_err(|_| bad())? * unit_ms;
        // A century is for ever.
        if !(1.0..=3.2e12).contains(&ms) {
            return Err(bad());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the range just checked")]
        Ok(Self { ms: ms as u64 })
    }
}

/// A number of bytes: `512`, `20K`, `500M`, `10G`, `1T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a size: give a number and K, M, G or T, such as 500M");
        let upper = text.trim().to_ascii_uppercase();
        let digits = upper.trim_end_matches('B').trim_end_matches('I');
        let (number, shift) = match digits.char_indices().last().ok_or_else(bad)? {
            (i, 'K') => (&digits[..i], 10),
            (i, 'M') => (&digits[..i], 20),
            (i, 'G') => (&digits[..i], 30),
            (i, 'T') => (&digits[..i], 40),
            _ => (digits, 0),
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}
