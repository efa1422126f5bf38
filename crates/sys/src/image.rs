//! A program as a process takes it that waits for one past the stub: a piece of that process's memory, sent in one packet.
//!
//! ```text
//!   IMAGE_AT   0 argv │ 8 env │ 16 places │ 24 directory │ 32 umask │ 40 needs it │ 48 which streams come along
//!              places, null │ room for one │ argv, null │ env, null
//!              texts, each with its zero byte
//! ```
//!
//! Every address is that in the other process, so nothing is left to do there but to pass it to the kernel ([`crate::exec`]).
//!
//! Invariant: it is sent only by who rules the VM, to a process that has nothing of the VM's yet.

use crate::exec::{IMAGE_AT, IMAGE_MAX_BYTES};
use crate::spawn::Program;
use std::ffi::CStr;

/// What becomes `program` of [`crate::spawn::wait`]'s process. `streams`: which of the three come with it, in this order, as descriptors. `None`:
/// that is too long, or no such process can be here.
#[must_use]
pub fn of(program: &Program, streams: [bool; 3]) -> Option<Vec<u8>> {
    const WORD: usize = size_of::<u64>();
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    let Program { places, argv, env, directory, needs_directory, umask } = program;
    // Seven words; three lists, each with a null at its end; one word more before `argv`.
    let lists = [places, argv, env];
    let first = [7, 7 + places.len() + 2, 7 + places.len() + 2 + argv.len() + 1];
    let words = first[2] + env.len() + 1;
    let mut texts = Vec::new();
    let mut put = |text: &CStr| {
        let place = IMAGE_AT + (words * WORD + texts.len()) as u64;
        texts.extend_from_slice(text.to_bytes_with_nul());
        place
    };
    let mut image = vec![0u64; words];
    let address = |word: usize| IMAGE_AT + (word * WORD) as u64;
    image[0] = address(first[1]);
    image[1] = address(first[2]);
    image[2] = address(first[0]);
    image[3] = put(directory);
    image[4] = (*umask).into();
    image[5] = (*needs_directory).into();
    image[6] = streams.iter().rev().fold(0, |mask, is| mask << 1 | u64::from(*is));
    for (list, first) in lists.into_iter().zip(first) {
        for (word, text) in image[first..].iter_mut().zip(list) {
            *word = put(text);
        }
    }
    let mut bytes: Vec<u8> = image.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.extend(texts);
    (bytes.len() <= IMAGE_MAX_BYTES).then_some(bytes)
}
