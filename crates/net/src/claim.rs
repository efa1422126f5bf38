//! A loopback address of the host for one VM, where nobody assigns addresses and no daemon remembers them.
//!
//! ```text
//!   id ── hash ──► 127.1.x.y ── bind "\0fvm-127.1.x.y" ── taken? the next one
//! ```
//!
//! An abstract socket has the three properties that a claim needs: one holder at a time among all users, the same
//! scope as the loopback address itself (the network namespace), and an end that comes with the holder's, however he
//! dies.
//!
//! Invariant: whoever holds a [`Claim`] is the only fvm that does for its address.

use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use std::net::Ipv4Addr;

/// Addresses that can be claimed: 127.1.0.1 to 127.1.255.254, without those that end in 0 or 255.
const ADDRESSES: u32 = 256 * 254;
/// Addresses that are tried, from the VM's own on.
const TRIES: u32 = 4096;

/// An address that is this process's, as long as it holds this.
#[derive(Debug)]
pub struct Claim {
    /// The address.
    pub address: Ipv4Addr,
    /// The socket that nobody else can bind.
    held: OwnedFd,
}

impl Claim {
    /// Claims an address for the VM `id`: the same as last time, if nobody has it.
    ///
    /// # Errors
    /// `EADDRINUSE` when thousands are taken; the kernel's others.
    pub fn new(id: &str) -> Result<Self, Errno> {
        let first = preferred(id);
        for address in (0..TRIES).map(|n| address((first + n) % ADDRESSES)) {
            let held = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            match bind(&held, &SocketAddrUnix::new_abstract_name(format!("fvm-{address}").as_bytes())?) {
                Ok(()) => return Ok(Self { address, held }),
                Err(Errno::ADDRINUSE) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Errno::ADDRINUSE)
    }
}

impl AsRawFd for Claim {
    fn as_raw_fd(&self) -> RawFd {
        self.held.as_raw_fd()
    }
}

impl Claim {
    /// The same claim once more: it is given back when both are gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        Ok(Self { address: self.address, held: rustix::io::fcntl_dupfd_cloexec(&self.held, 3)? })
    }
}

fn address(n: u32) -> Ipv4Addr {
    let [_, _, _, low] = (n % 254 + 1).to_be_bytes();
    let [_, _, _, high] = (n / 254).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// FNV-1a: spreads ids; nothing depends on its being hard to guess.
fn preferred(id: &str) -> u32 {
    id.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) % ADDRESSES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_have_two_addresses_and_one_that_comes_again_has_its_own() {
        let one = Claim::new("test-of-claims").unwrap();
        let two = Claim::new("test-of-claims").unwrap();
        assert_ne!(one.address, two.address);
        let had = one.address;
        drop(one);
        assert_eq!(Claim::new("test-of-claims").unwrap().address, had);
    }

    #[test]
    fn every_address_is_in_the_range_and_none_ends_as_networks_or_broadcasts_do() {
        for n in (0..ADDRESSES).step_by(7).chain([0, 253, 254, ADDRESSES - 1]) {
            let [a, b, _, d] = address(n).octets();
            assert!((a, b) == (127, 1) && (1..=254).contains(&d), "{n}");
        }
        assert_eq!(address(ADDRESSES - 1), Ipv4Addr::new(127, 1, 255, 254));
    }
}
