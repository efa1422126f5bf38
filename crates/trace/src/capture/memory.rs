//! Strings, arguments and addresses in the memory of a process whose call waits.
//!
//! Invariants: bounded, whatever the process says; what cannot be read is said to be cut, never made up.

use fvm_model::path::Bytes;
use fvm_sys::peek::read_memory;
use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStringExt;

/// Longest path, with its end (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Longest name.
const NAME_MAX: usize = 256;
/// Most arguments of a program that are read, and the bytes that they may have.
const ARGS_MAX: usize = 256;
const ARGS_MAX_BYTES: usize = 16 << 10;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    /// The bytes, without the end.
    pub bytes: Vec<u8>,
    /// They are not all of it.
    pub cut: bool,
}

/// The memory of one thread.
#[derive(Debug)]
pub struct Memory {
    pid: i32,
    /// What was read last: arguments lie side by side.
    at: u64,
    block: Vec<u8>,
    /// Pointers to variables.
    table: Vec<u8>,
}

impl Memory {
    /// That of thread `pid`.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        Self { pid, at: 0, block: Vec::new(), table: Vec::new() }
    }

    /// A path.
    #[must_use]
    pub fn path(&self, address: u64) -> Text {
        self.string(address, PATH_MAX)
    }

    /// A short name.
    #[must_use]
    pub fn name(&self, address: u64) -> Text {
        self.string(address, NAME_MAX)
    }

    fn string(&self, address: u64, max: usize) -> Text {
        let mut buffer = [0u8; PATH_MAX];
        let read = read_memory(self.pid, address, &mut buffer[..max]).unwrap_or(0);
        match buffer[..read].iter().position(|b| *b == 0) {
            Some(len) => Text { bytes: buffer[..len].to_vec(), cut: false },
            None => Text { bytes: buffer[..read].to_vec(), cut: true },
        }
    }

    /// So many bytes, as far as they are there.
    #[must_use]
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = read_memory(self.pid, address, &mut bytes).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    /// A program's arguments, and whether there are more of them.
    #[must_use]
    pub fn argv(&mut self, address: u64) -> (Vec<Bytes>, bool) {
        if address == 0 {
            return (Vec::new(), false);
        }
        let table = self.bytes(address, (ARGS_MAX + 1) * 8);
        let pointers = table.chunks_exact(8).map(|p| u64::from_le_bytes(p.try_into().unwrap_or_default()));
        let (mut args, mut left) = (Vec::new(), ARGS_MAX_BYTES);
        for pointer in pointers {
            if pointer == 0 {
                return (args, false);
            }
            if args.len() == ARGS_MAX || left == 0 {
                return (args, true);
            }
            let mut arg = self.near(pointer);
            if arg.bytes.len() > left {
                arg.bytes.truncate(left);
                arg.cut = true;
            }
            left -= arg.bytes.len();
            args.push(Bytes(OsString::from_vec(arg.bytes)));
            if arg.cut {
                return (args, true);
            }
        }
        // The table ended where nothing could be read.
        (args, true)
    }

    /// Those of a program's variables that begin with one of `names` (each with its `=`) and are not empty, one behind another; and
    /// whether there may be more.
    #[must_use]
    pub fn variables(&mut self, address: u64, names: &[&[u8]]) -> (Vec<u8>, bool) {
        /// So many are looked at, and so long each and all that is kept may be.
        const VARIABLES_MAX: usize = 4096;
        let mut found: Vec<u8> = Vec::new();
        let mut at = address;
        for n in 0..VARIABLES_MAX {
            const TABLE: usize = 512;
            if n % TABLE == 0 {
                self.table = self.bytes(at, TABLE * 8);
                at = at.wrapping_add((TABLE * 8) as u64);
            }
            let place = n % TABLE * 8;
            let Some(pointer) = self.table.get(place..place + 8) else { return (found, address != 0) };
            let pointer = u64::from_le_bytes(pointer.try_into().unwrap_or_default());
            if pointer == 0 {
                return (found, false);
            }
            let text = self.near(pointer);
            if names.iter().any(|name| text.bytes.starts_with(name) && text.bytes.len() > name.len()) {
                if !found.is_empty() {
                    found.push(b' ');
                }
                found.extend_from_slice(&text.bytes);
                if found.len() > PATH_MAX {
                    found.truncate(PATH_MAX);
                    return (found, true);
                }
            }
        }
        (found, true)
    }

    /// A string that may be in the block that was read last.
    fn near(&mut self, address: u64) -> Text {
        for _ in 0..2 {
            let from = address.checked_sub(self.at).and_then(|from| usize::try_from(from).ok());
            let known = from.and_then(|from| self.block.get(from..)).unwrap_or(&[]);
            if let Some(len) = known.iter().position(|b| *b == 0) {
                return Text { bytes: known[..len].to_vec(), cut: false };
            }
            (self.at, self.block) = (address, self.bytes(address, ARGS_MAX_BYTES));
        }
        Text { bytes: self.block.clone(), cut: true }
    }
}

/// A socket address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Address {
    /// `inet`, `inet6`, `unix`, `netlink`, or the number.
    pub family: String,
    /// What it says.
    pub address: Option<Vec<u8>>,
    /// The port.
    pub port: Option<u16>,
}

/// What `struct sockaddr` says; `None` when it is too short to say a family.
#[must_use]
pub fn address(bytes: &[u8]) -> Option<Address> {
    let (family, rest) = bytes.split_at_checked(2)?;
    let family = i32::from(u16::from_ne_bytes(family.try_into().ok()?));
    let port = rest.get(..2).and_then(|p| p.try_into().ok()).map(u16::from_be_bytes);
    let text = |text: String| Some(text.into_bytes());
    Some(match family {
        libc::AF_INET => {
            let ip = rest.get(2..6).and_then(|a| <[u8; 4]>::try_from(a).ok());
            Address { family: "inet".into(), address: ip.and_then(|ip| text(Ipv4Addr::from(ip).to_string())), port }
        }
        libc::AF_INET6 => {
            let ip = rest.get(6..22).and_then(|a| <[u8; 16]>::try_from(a).ok());
            Address { family: "inet6".into(), address: ip.and_then(|ip| text(Ipv6Addr::from(ip).to_string())), port }
        }
        libc::AF_UNIX => {
            let name = match rest {
                // Abstract: its length is that of the address.
                [0, name @ ..] if !name.is_empty() => Some([b"@", name].concat()),
                [] | [0] => None,
                path => path.split(|b| *b == 0).next().map(<[u8]>::to_vec),
            };
            Address { family: "unix".into(), address: name, port: None }
        }
        libc::AF_NETLINK => Address { family: "netlink".into(), ..Address::default() },
        other => Address { family: other.to_string(), ..Address::default() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    fn own() -> Memory {
        Memory::of(rustix::process::getpid().as_raw_nonzero().get())
    }

    #[test]
    fn the_longest_path_is_read_and_a_longer_one_is_cut() {
        let long = CString::new([b"/\n".repeat(2047), vec![b'x']].concat()).unwrap();
        assert_eq!(long.as_bytes().len(), 4095);
        let text = own().path(long.as_ptr() as u64);
        assert!(text.bytes == long.as_bytes() && !text.cut);
        let longer = CString::new([b'a'; 5000]).unwrap();
        let text = own().path(longer.as_ptr() as u64);
        assert!(text.bytes.len() == 4096 && text.cut);
        assert_eq!(own().path(8), Text { bytes: Vec::new(), cut: true });
    }

    #[test]
    fn arguments_are_read_wherever_they_lie() {
        let strings: Vec<CString> = ["sh", "", "-c", "echo"].map(|s| CString::new(s).unwrap()).into();
        let mut table: Vec<*const libc::c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        table.push(std::ptr::null());
        let (args, cut) = own().argv(table.as_ptr() as u64);
        let args: Vec<&[u8]> = args.iter().map(|a| a.0.as_bytes()).collect();
        assert_eq!((args, cut), (vec![&b"sh"[..], b"", b"-c", b"echo"], false));
        let endless = vec![strings[0].as_ptr(); 1000];
        let (args, cut) = own().argv(endless.as_ptr() as u64);
        assert_eq!((args.len(), cut), (ARGS_MAX, true));
        assert_eq!(own().argv(16), (Vec::new(), true));
    }

    #[test]
    fn all_variables_that_load_something_are_read_however_many_stand_before_them() {
        let names: &[&[u8]] = &[b"LD_PRELOAD=", b"LD_AUDIT="];
        let read = |many: usize| {
            let filler = (0..many).map(|n| format!("FILLER{n}=x"));
            let all = filler.chain(["LD_PRELOAD=/a".into(), "LD_AUDIT=".into(), "LD_AUDIT=/b".into()]);
            let strings: Vec<CString> = all.map(|text| CString::new(text).unwrap()).collect();
            let mut table: Vec<*const libc::c_char> = strings.iter().map(|s| s.as_ptr()).collect();
            table.push(std::ptr::null());
            own().variables(table.as_ptr() as u64, names)
        };
        let found = b"LD_PRELOAD=/a LD_AUDIT=/b".to_vec();
        assert_eq!((read(0), read(2000)), ((found.clone(), false), (found, false)));
        assert!(read(5000).1, "there may be more");
        assert_eq!(own().variables(0, names), (Vec::new(), false));
        assert_eq!(own().variables(16, names), (Vec::new(), true));
    }

    #[test]
    fn addresses_are_told() {
        let inet = [2, 0, 1, 187, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let want = Address { family: "inet".into(), address: Some(b"10.0.0.1".to_vec()), port: Some(443) };
        assert_eq!(address(&inet), Some(want));
        let inet6 = [vec![10, 0, 0, 80, 0, 0, 0, 0], vec![0; 15], vec![1], vec![0; 4]].concat();
        let want = Address { family: "inet6".into(), address: Some(b"::1".to_vec()), port: Some(80) };
        assert_eq!(address(&inet6), Some(want));
        let unix = |name: &[u8]| address(&[&[1, 0][..], name].concat()).unwrap().address;
        assert_eq!(unix(b"/run/x\0\0"), Some(b"/run/x".to_vec()));
        assert_eq!(unix(b"\0abc"), Some(b"@abc".to_vec()));
        assert_eq!((unix(b""), address(b"\x01")), (None, None));
        assert_eq!(address(&[2, 0, 1]).unwrap().port, None);
    }
}
