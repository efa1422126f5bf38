//! A tree of the host's becomes a tar stream.
//!
//! Invariant: no link is followed; what is read is what the caller may read.

use crate::TransferError;
use rustix::io::Errno;
use std::io::Write;
use std::path::Path;

/// Writes `path`, and what is below it, as `name`.
///
/// # Errors
/// When something cannot be read, or the stream not be written.
pub fn pack(path: &Path, name: &Path, stream: impl Write) -> Result<(), TransferError> {
    let fail = |e: std::io::Error| match Errno::from_io_error(&e) {
        Some(errno) if errno != Errno::PIPE => TransferError::io("read", path, errno),
        _ => TransferError::stream(&e),
    };
    let mut builder = tar::Builder::new(stream);
    builder.follow_symlinks(false);
    // The form that every tar reads.
    builder.sparse(false);
    if path.symlink_metadata().map_err(fail)?.is_dir() {
        builder.append_dir_all(name, path).map_err(fail)?;
    } else {
        builder.append_path_with_name(path, name).map_err(fail)?;
    }
    builder.into_inner().and_then(|mut stream| stream.flush()).map_err(fail)
}
