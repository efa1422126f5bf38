//! The content of a file copied: shared where the file system can, without its holes otherwise.
//!
//! Invariant: memory use does not depend on the file's size; a file that shrinks meanwhile ends the copy, it is no error.

use rustix::fd::BorrowedFd;
use rustix::fs::{self, SeekFrom};
use rustix::io::Errno;

/// The most that one `copy_file_range` is asked for.
const CHUNK_BYTES: u64 = 64 << 20;

/// Fills `to`, which is empty: shares the blocks where the file system can, else copies what is not a hole.
///
/// # Errors
/// The kernel's.
pub fn content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    // Below this, sharing blocks takes longer than copying, if there are no holes to keep.
    const SMALL_BYTES: u64 = 32 << 10;
    if len <= SMALL_BYTES && u64::try_from(fs::fstat(from)?.st_blocks).is_ok_and(|blocks| blocks * 512 >= len) {
        return by_hand(from, to, 0, len);
    }
    if fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    fs::ftruncate(to, len)?;
    let mut at = 0;
    while at < len {
        let start = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start.min(len),
            // Only a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(_) => at,
        };
        let end = fs::seek(from, SeekFrom::Hole(start)).map_or(len, |end| end.min(len));
        range(from, to, start, end)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let want = usize::try_from((end - read_at).min(CHUNK_BYTES)).map_err(|_| Errno::OVERFLOW)?;
        match fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            // It shrank meanwhile.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return by_hand(from, to, read_at, end);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mut at: u64, end: u64) -> Result<(), Errno> {
    const BUFFER_BYTES: u64 = 1 << 20;
    let mut buffer = vec![0u8; usize::try_from((end - at).min(BUFFER_BYTES)).map_err(|_| Errno::OVERFLOW)?];
    while at < end {
        let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let got = match rustix::io::pread(from, &mut buffer[..want], at) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        let mut written = 0;
        while written < got {
            written += rustix::io::pwrite(to, &buffer[written..got], at + written as u64)?;
        }
        at += got as u64;
    }
    Ok(())
}
