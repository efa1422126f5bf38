//! How much of the machine a VM may use.
//!
//! ```text
//!   memory = "2G"   bytes, or with K, M, G, T: times 1024 each      cpus = 1.5   one and a half processors' time
//!   disk = "10G"    what its changes may take                      io_weight = 50   half of what others get
//! ```

use serde::{Deserialize, Serialize};

/// Limits of a VM; `None`: as much as the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory, in bytes: files that it holds in memory too.
    pub memory_bytes: Option<u64>,
    /// Swap space beside it, in bytes. None, when memory is limited and this is not said.
    pub swap_bytes: Option<u64>,
    /// Processor time, in thousandths of a processor.
    pub cpu_milli: Option<u32>,
    /// Share of the processors when they are short; 100 is that of others. 1 to 10000.
    pub cpu_weight: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// What its changes may take on the disk, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Share of the disks when they are busy; 100 is that of others. 1 to 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u32>,
}

/// Takes a limit away, in the place of its value.
pub const NONE: &str = "none";

/// Least memory with which a VM starts.
pub const MEMORY_MIN_BYTES: u64 = 4 << 20;
/// Least disk: a file system has room for itself and something else in it.
pub const DISK_MIN_BYTES: u64 = 16 << 20;

impl Limits {
    /// Whether anything is limited.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether anything is limited that control groups limit.
    #[must_use]
    pub fn wants_groups(&self) -> bool {
        Self { disk_bytes: None, ..*self }.any()
    }

    /// Takes one away, by its name in a policy.
    pub fn clear(&mut self, name: &str) {
        match name {
            "memory" => self.memory_bytes = None,
            "swap" => self.swap_bytes = None,
            "cpus" => self.cpu_milli = None,
            "cpu_weight" => self.cpu_weight = None,
            "pids" => self.pids = None,
            "disk" => self.disk_bytes = None,
            "io_weight" => self.io_weight = None,
            _ => {}
        }
    }

    /// What each is called in a policy, and its value as written there, where there is one.
    #[must_use]
    pub fn entries(&self) -> [(&'static str, Option<String>); 7] {
        [
            ("memory", self.memory_bytes.map(show_size)),
            ("swap", self.swap_bytes.map(show_size)),
            ("cpus", self.cpu_milli.map(|milli| format!("{}", f64::from(milli) / 1000.0))),
            ("cpu_weight", self.cpu_weight.map(|n| n.to_string())),
            ("pids", self.pids.map(|n| n.to_string())),
            ("disk", self.disk_bytes.map(show_size)),
            ("io_weight", self.io_weight.map(|n| n.to_string())),
        ]
    }
}

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Bytes as the largest unit that loses nothing.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(name, shift)| format!("{}{name}", bytes >> shift))
}

/// Reads a size.
///
/// # Errors
/// What is wrong with it.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size: bytes, or a number with K, M, G or T, such as 512M");
    let (digits, shift) = match text.chars().last() {
        Some(last) if last.is_ascii_digit() => (text, 0),
        Some(last) => {
            let unit = UNITS.iter().find(|(name, _)| last.eq_ignore_ascii_case(name));
            (&text[..text.len() - last.len_utf8()], unit.ok_or_else(wrong)?.1)
        }
        None => return Err(wrong()),
    };
    let number: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit())).ok_or_else(wrong)?;
    number.checked_mul(1 << shift).filter(|n| i64::try_from(*n).is_ok()).ok_or_else(|| format!("'{text}' is too large"))
}

/// Reads an amount of memory.
///
/// # Errors
/// What is wrong with it.
pub fn memory(text: &str) -> Result<u64, String> {
    at_least(text, MEMORY_MIN_BYTES)
}

/// Reads an amount of disk.
///
/// # Errors
/// What is wrong with it.
pub fn disk(text: &str) -> Result<u64, String> {
    at_least(text, DISK_MIN_BYTES)
}

fn at_least(text: &str, least_bytes: u64) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes < least_bytes {
        Err(format!("'{text}' is too little: a VM needs {} to start", show_size(least_bytes)))
    } else {
        Ok(bytes)
    }
}

/// Reads a number of processors.
///
/// # Errors
/// What is wrong with it.
pub fn cpus(text: &str) -> Result<u32, String> {
    let wrong = || format!("'{text}' is no number of processors: from 0.01 to 1000, such as 1.5");
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number: f64 = text.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
    if !(0.01..=1000.0).contains(&number) {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range, by the check above")]
    let milli = (number * 1000.0).round() as u32;
    Ok(milli)
}

/// Reads a share, of the processors or the disks.
///
/// # Errors
/// What is wrong with it.
pub fn weight(text: &str) -> Result<u32, String> {
    count(text, 1, 10_000)
}

/// Reads a number of processes.
///
/// # Errors
/// What is wrong with it.
pub fn pids(text: &str) -> Result<u32, String> {
    // Init, a program, a monitor, a service's manager.
    count(text, 4, 4 << 20)
}

fn count(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|n| (min..=max).contains(n) && text.bytes().all(|b| b.is_ascii_digit()));
    number.ok_or_else(|| format!("'{text}' is no number from {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::{Limits, cpus, disk, memory, pids, show_size, size};

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [("0", 0), ("7", 7), ("1K", 1024), ("512m", 512 << 20), ("2G", 2 << 30), ("3T", 3 << 40)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size(&show_size(bytes)), Ok(bytes), "{text}");
        }
        for wrong in ["", "K", "1X", "-1", "+1", "1.5G", "1 G", "1GB", "99999999999T", "ä", "1ä"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(memory("1M").is_err() && disk("8M").is_err() && disk("1G") == Ok(1 << 30));
        let disk = Limits { disk_bytes: Some(1 << 30), ..Limits::default() };
        assert!(disk.any() && !disk.wants_groups(), "a disk is no matter of control groups");
    }

    #[test]
    fn processors_are_thousandths() {
        assert_eq!([cpus("1.5"), cpus("2"), cpus("0.01")], [Ok(1500), Ok(2000), Ok(10)]);
        for wrong in ["", "0", "-1", "1e3", "nan", "inf", "2000", "1,5"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
        assert!(pids("3").is_err() && pids("64").is_ok());
    }
}
