//! SHA-256 of files: what a copy shares with its original.

use rustix::fd::AsFd;
use rustix::io::{self, Errno};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// What is read at once.
const BLOCK_BYTES: usize = 128 << 10;

/// The SHA-256 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Of no bytes at all.
    pub const OF_NOTHING: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae,
        0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err("a hash is 64 digits of 0-9 and a-f"),
        };
        let bytes = text.as_bytes();
        let mut hash = [0; 32];
        if bytes.len() != 64 {
            return Err("a hash is 64 digits of 0-9 and a-f");
        }
        for (to, pair) in hash.iter_mut().zip(bytes.chunks_exact(2)) {
            *to = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(hash))
    }
}

/// The hash of an open file from its beginning, and how many bytes that were. The file's own position stays.
///
/// # Errors
/// The kernel's.
pub fn hash_of(file: impl AsFd) -> Result<(Hash, u64), Errno> {
    let mut block = vec![0; BLOCK_BYTES];
    let (mut hasher, mut at) = (Sha256::new(), 0);
    loop {
        match io::pread(&file, &mut block[..], at) {
            Ok(0) => return Ok((Hash(hasher.finalize().into()), at)),
            Ok(len) => {
                hasher.update(&block[..len]);
                at += len as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_and_nothing_else_does() {
        let hash = Hash([0xa5; 32]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for wrong in ["", "a5", &"g".repeat(64), &"A5".repeat(32), &"a".repeat(65)] {
            assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_hash_is_that_of_the_standard() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(hash_of(&file).unwrap(), (Hash::OF_NOTHING, 0));
        rustix::io::write(&file, b"abc").unwrap();
        let (hash, len) = hash_of(&file).unwrap();
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(len, 3);
    }
}
