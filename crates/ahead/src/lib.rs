//! `fvm run [--rm] --pool P -- CMD`: the whole client of a pool, before libc has started.
//!
//! ```text
//!   kernel ─► ask ── Ask::Take(program) + session, streams ──► the pool's keeper ─► init ─► program
//!              │◄─────────────────────────── Last(code) ── session ────────────────┘
//!              ├─ as it mostly ends: Ask::Done ─► keeper; exit(code)
//!              └─ a signal, or anything else ─► libc, the command, which goes on from there
//! ```
//!
//! libc's start, and what a command looks at first, take a client longer than all that it is there for, and the processor
//! that its program is to have.
//!
//! Invariants: what is asked here is what the command would ask, else nothing is asked: a line or an environment that is not
//! usual, a stream that must be copied, a commit that was interrupted, a pool without a keeper are the command's. No descriptor
//! of a file goes to a VM. Nothing is printed, nothing fails; what has not been read here is there for the command. It runs as
//! [`fvm_sys::first`] says: no allocation, and nothing that becomes a call of libc's.
#![no_std]

use fvm_sys::first::{self, Buffer, Fd, Line, Stream};

/// The largest message, in bytes: what is longer is sent as usual.
pub const MESSAGE_MAX_BYTES: usize = 48 << 10;

/// The longest path, with its zero byte (`PATH_MAX`).
const PATH_MAX_BYTES: usize = 4096;

/// The longest file that is read, in bytes.
const FILE_MAX_BYTES: usize = 16 << 10;

/// What the state directory's `format` says: `fvm_model::vm::FORMAT`.
pub const FORMAT: &[u8] = b"1\n";

/// Around the code of a program that has ended and left nobody but init: `fvm_vm::proto::Status::Last`.
pub const LAST: [&[u8]; 2] = [br#"{"Last":"#, b"}"];

/// How the keeper's answer begins when it has given a VM, behind its length: `fvm_vm::pool::Answer::Taken`.
pub const TAKEN: &[u8] = br#"{"Taken":{"#;

/// What the record of a pool says whose VMs are always thrown away: `fvm_model::pool::PoolRecord`, printed. No text in it can hold
/// this, for there a line's end is escaped, and nothing within something else, for that stands further in.
pub const NOT_KEPT: &[u8] = b"\n  \"kept\": false,";

/// How the record begins, of the one format that is known here.
pub const RECORD_BEGINS: &[u8] = b"{\n  \"format\": 1,";

/// The client needs its VM no more: `Ask::Done`, with its length.
pub const DONE: &[u8] = b"\x1d\0\0\0{\"Done\":{\"nobody_left\":true}}";

/// The signals that are the program's from before it may run: those of `fvm_vm::attach::forwarded`.
pub const FORWARDED: [i32; 7] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// The length of a message, little endian, and the message.
pub type Message = Buffer<MESSAGE_MAX_BYTES>;

/// Asks, if the line of this process is such a one. What came of it is [`first::found`].
pub fn ask(line: Line) {
    // Given up halfway, everything is as it was: what was opened is closed, and the keeper sees that whoever asked has gone.
    let _asked = try_to(line);
}

fn try_to(Line { argv, env }: Line) -> Option<()> {
    static MESSAGE: Message = Buffer::new();
    static PATH: Buffer<PATH_MAX_BYTES> = Buffer::new();
    static FILE: Buffer<FILE_MAX_BYTES> = Buffer::new();
    let usual = read(argv)?;
    let streams = [first::stream(0), first::stream(1), first::stream(2)];
    first::working_directory(&PATH)?;
    write(&MESSAGE, usual.command, env, &PATH, streams, first::umask())?;
    State { given: usual.home, is_root: first::is_root() }.path(&PATH, env)?;
    let state = PATH.len();
    let within = |name: &[u8]| {
        PATH.cut(state);
        PATH.extend(name)
    };
    within(b"/format")?;
    first::read_file(&PATH, &FILE)?;
    if FILE.len() != FORMAT.len() || !holds(&FILE, 0, FORMAT) {
        return None;
    }
    within(b"/commits/active")?;
    if !first::is_missing(&PATH) {
        return None;
    }
    within(b"/pools/")?;
    PATH.extend(usual.pool)?;
    let pool = PATH.len();
    if !usual.is_thrown_away {
        // What became of one that may be kept is the command's to ask.
        PATH.extend(b"/pool.json")?;
        first::read_file(&PATH, &FILE)?;
        if !holds(&FILE, 0, RECORD_BEGINS) || !(0..FILE.len()).any(|at| holds(&FILE, at, NOT_KEPT)) {
            return None;
        }
        PATH.cut(pool);
    }
    let (session, theirs) = first::pair()?;
    let signals = first::signals(&FORWARDED)?;
    // The keeper wakes up when somebody connects, and had better find what is asked of it. Until then a signal is this process's: a
    // keeper that does not take anybody in is waited for.
    let keeper = first::connect(&PATH, c"socket")?;
    let before = first::hold(&FORWARDED);
    let [input, output, errors] = streams;
    let passed = [input == Stream::Through, output == Stream::Through, errors == Stream::Through];
    let Some(()) = first::send(&keeper, &MESSAGE, &theirs, passed) else {
        first::release(before);
        return None;
    };
    drop(theirs);
    if let Some(code) = attend(&session, &signals)
        && has_taken(&keeper).is_some()
    {
        // A keeper that is gone has taken the VM along.
        let _gone = first::say(&keeper, DONE);
        first::exit(code);
    }
    first::leave(keeper, session, before);
    Some(())
}

/// Waits for the end of a program whose VM ends with it: its code. What else comes is not read.
fn attend(session: &Fd, signals: &Fd) -> Option<u8> {
    static PACKET: Buffer<64> = Buffer::new();
    if !first::await_before(session, signals) {
        return None;
    }
    first::receive(session, &PACKET, true)?;
    last(&PACKET)
}

/// The code of a program that has ended and left nobody, if that is what a packet says.
#[must_use]
pub fn last<const N: usize>(packet: &Buffer<N>) -> Option<u8> {
    let [before, behind] = LAST;
    let end = packet.len().checked_sub(behind.len())?;
    if !holds(packet, 0, before) || !holds(packet, end, behind) {
        return None;
    }
    let mut code = None;
    for digit in first::bytes_from(packet, before.len()).take(end - before.len()) {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        code = Some(code.unwrap_or(0u8).checked_mul(10)?.checked_add(digit)?);
    }
    code
}

/// Takes the keeper's answer, if it gave a VM. Unread, it would count as an error where the connection ends.
fn has_taken(keeper: &Fd) -> Option<()> {
    static ANSWER: Buffer<512> = Buffer::new();
    first::receive(keeper, &ANSWER, true)?;
    if ANSWER.len() == 512 || !holds(&ANSWER, 4, TAKEN) {
        return None;
    }
    first::receive(keeper, &ANSWER, false)
}

/// Whether `text` is in it at `at`.
fn holds<const N: usize>(buffer: &Buffer<N>, at: usize, text: &[u8]) -> bool {
    buffer.len() >= at + text.len() && first::bytes_from(buffer, at).zip(text).all(|(a, b)| a == *b)
}

/// A line that is read here.
#[derive(Debug, Clone, Copy)]
pub struct Usual<Words> {
    /// `--home`.
    pub home: Option<&'static [u8]>,
    /// `--rm`.
    pub is_thrown_away: bool,
    /// `--pool`.
    pub pool: &'static [u8],
    /// The program and its arguments, which have been looked at.
    pub command: Words,
}

/// Reads `fvm [--home DIR] run [--rm] --pool P [--] CMD...`, in any order of its options. `None`: it is another line.
#[must_use]
pub fn read<Words: Iterator<Item = &'static [u8]> + Clone>(mut words: Words) -> Option<Usual<Words>> {
    words.next()?;
    let (mut home, mut pool, mut is_run, mut is_thrown_away) = (None, None, false, false);
    loop {
        let command = words.clone();
        let word = words.next()?;
        if !is_run && is(word, b"run") {
            is_run = true;
        } else if is(word, b"--home") && home.is_none() {
            let path = words.next()?;
            if *path.first()? != b'/' {
                return None;
            }
            home = Some(path);
        } else if is_run && is(word, b"--rm") && !is_thrown_away {
            is_thrown_away = true;
        } else if is_run && is(word, b"--pool") && pool.is_none() {
            pool = Some(words.next().filter(|name| is_name(name))?);
        } else {
            let (command, is_plain) = if is(word, b"--") { (words.clone(), true) } else { (command, false) };
            let mut rest = command.clone();
            let name = rest.next()?;
            // What a later '--' means, or a name that looks like an option, or is none, is the command's to say.
            let is_odd = !is_plain && (*name.first()? == b'-' || rest.any(|word| is(word, b"--")));
            return if is_odd { None } else { Some(Usual { home, is_thrown_away, pool: pool?, command }) };
        }
    }
}

/// As names of pools are.
fn is_name(name: &[u8]) -> bool {
    let mut all = name.iter();
    name.len() <= 63
        && all.next().is_some_and(u8::is_ascii_alphanumeric)
        && all.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Without what the standard library compares with, which is libc's.
fn is(word: &[u8], other: &[u8]) -> bool {
    word.len() == other.len() && starts_with(word, other)
}

fn starts_with(word: &[u8], with: &[u8]) -> bool {
    word.len() >= with.len() && word.iter().zip(with).all(|(a, b)| a == b)
}

/// Where the state lies.
#[derive(Debug, Clone, Copy)]
pub struct State {
    /// `--home`.
    pub given: Option<&'static [u8]>,
    /// Who asks.
    pub is_root: bool,
}

impl State {
    /// Writes the state directory's path. `None`: it cannot be told here.
    #[must_use]
    pub fn path<const N: usize>(self, path: &Buffer<N>, env: impl Iterator<Item = &'static [u8]>) -> Option<()> {
        path.clear();
        if let Some(given) = self.given {
            return path.extend(given);
        }
        let (mut own, mut data, mut home) = (None, None, None);
        for entry in env {
            for (name, place) in [(&b"FVM_HOME="[..], &mut own), (b"XDG_DATA_HOME=", &mut data), (b"HOME=", &mut home)]
            {
                // The first of a name counts.
                if starts_with(entry, name) && place.is_none() {
                    *place = Some(entry.split_at_checked(name.len())?.1);
                }
            }
        }
        let is_absolute = |dir: &&[u8]| dir.first().is_some_and(|byte| *byte == b'/');
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            // One that is relative is the command's.
            return path.extend(Some(own).filter(is_absolute)?);
        }
        if self.is_root {
            return path.extend(b"/var/lib/fvm");
        }
        if let Some(data) = data.filter(is_absolute) {
            path.extend(data)?;
        } else {
            path.extend(home.filter(is_absolute)?)?;
            path.extend(b"/.local/share")?;
        }
        path.extend(b"/fvm")
    }
}

/// Writes the message: `Ask::Take` of `fvm_vm::pool`, of a VM without a name of its own that is thrown away. `None`: it is too long, or
/// something in it is not plain text, or a stream is not handed over as it is.
#[must_use]
pub fn write<const N: usize>(
    to: &Message,
    command: impl Iterator<Item = &'static [u8]>,
    env: impl Iterator<Item = &'static [u8]>,
    cwd: &Buffer<N>,
    streams: [Stream; 3],
    umask: u32,
) -> Option<()> {
    to.clear();
    // The length, once it is known.
    to.extend(&[0; 4])?;
    to.extend(br#"{"Take":{"program":{"argv":["#)?;
    let mut is_first = true;
    for word in command {
        between(to, &mut is_first)?;
        text(to, word.iter().copied())?;
    }
    to.extend(br#"],"env":["#)?;
    let mut is_first = true;
    for entry in env {
        // The first byte may be a '=' of the name.
        let Some(at) = entry.iter().skip(1).position(|byte| *byte == b'=') else { continue };
        between(to, &mut is_first)?;
        to.push(b'[')?;
        text(to, entry.iter().copied().take(at + 1))?;
        to.push(b',')?;
        text(to, entry.iter().copied().skip(at + 2))?;
        to.push(b']')?;
    }
    to.extend(br#"],"cwd":"#)?;
    text(to, first::bytes_from(cwd, 0))?;
    to.extend(br#","passed":"#)?;
    flags(to, streams, Stream::Through)?;
    let [input, output, errors] = streams;
    if input == Stream::Null || output == Stream::Null || errors == Stream::Null {
        to.extend(br#","null":"#)?;
        flags(to, streams, Stream::Null)?;
    }
    to.extend(br#","umask":"#)?;
    first::decimal(to, umask)?;
    to.extend(b"}}}")?;
    let len = to.len().checked_sub(4)?;
    let mut rest = len;
    for index in 0..4 {
        to.set(index, (rest & 0xff) as u8);
        rest >>= 8;
    }
    Some(())
}

fn between(to: &Message, is_first: &mut bool) -> Option<()> {
    if *is_first {
        *is_first = false;
        return Some(());
    }
    to.push(b',')
}

/// As `serde_json` writes what is plain text. `None`: it is not.
fn text(to: &Message, bytes: impl Iterator<Item = u8>) -> Option<()> {
    to.push(b'"')?;
    for byte in bytes {
        match byte {
            b'"' | b'\\' => to.extend(&[b'\\', byte])?,
            b'\n' => to.extend(b"\\n")?,
            b'\t' => to.extend(b"\\t")?,
            b' '..=b'~' => to.push(byte)?,
            _ => return None,
        }
    }
    to.push(b'"')
}

fn flags(to: &Message, streams: [Stream; 3], which: Stream) -> Option<()> {
    let [input, output, errors] = streams;
    let mut is_first = true;
    to.push(b'[')?;
    for stream in [input, output, errors] {
        between(to, &mut is_first)?;
        if stream == Stream::Other {
            return None;
        }
        to.extend(if stream == which { b"true" } else { b"false" })?;
    }
    to.push(b']')
}
