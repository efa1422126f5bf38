//! Classic BPF put together with labels, so that no jump is counted by hand.
//!
//! Invariant: every jump goes forward; one that is longer than the instruction can say is an error, never a wrong jump.

use crate::seccomp::Instruction;
use rustix::io::Errno;

/// A place in the program, bound once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

#[derive(Debug, Clone, Copy)]
enum Line {
    Load(u32),
    Answer(u32),
    /// Another instruction without a jump.
    Do(u16, u32),
    If {
        test: u16,
        value: u32,
        yes: Label,
        no: Label,
    },
}

/// A program in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    lines: Vec<Line>,
    /// Label → index of the line that it stands before.
    places: Vec<Option<usize>>,
}

#[allow(clippy::cast_possible_truncation, reason = "the kernel's constants are 16 bits wide")]
mod code {
    pub const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    pub const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    pub const LOAD_BYTE_BEHIND: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
    pub const LOAD_HEADER_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    pub const SHIFT_RIGHT: u16 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K) as u16;
    pub const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    pub const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    pub const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    pub const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    pub const GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    pub const ANY_OF: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
}

impl Assembler {
    /// A new label.
    pub fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// The label stands here.
    pub fn bind(&mut self, label: Label) {
        self.places[label.0] = Some(self.lines.len());
    }

    /// Loads the word at this offset of `struct seccomp_data`.
    pub fn load(&mut self, offset: u32) {
        self.lines.push(Line::Load(offset));
    }

    /// Loads the byte at this offset of a packet.
    pub fn load_byte(&mut self, offset: u32) {
        self.lines.push(Line::Do(code::LOAD_BYTE, offset));
    }

    /// Keeps the length of the IPv4 header at this offset for [`Assembler::load_byte_behind`].
    pub fn load_header_length(&mut self, offset: u32) {
        self.lines.push(Line::Do(code::LOAD_HEADER_LENGTH, offset));
    }

    /// Loads the byte so far behind that header.
    pub fn load_byte_behind(&mut self, offset: u32) {
        self.lines.push(Line::Do(code::LOAD_BYTE_BEHIND, offset));
    }

    /// Shifts what is loaded to the right.
    pub fn shift_right(&mut self, bits: u32) {
        self.lines.push(Line::Do(code::SHIFT_RIGHT, bits));
    }

    /// Keeps only these bits of what is loaded.
    pub fn and(&mut self, bits: u32) {
        self.lines.push(Line::Do(code::AND, bits));
    }

    /// Ends with this answer.
    pub fn answer(&mut self, answer: u32) {
        self.lines.push(Line::Answer(answer));
    }

    /// Whether what is loaded is `value`.
    pub fn if_equal(&mut self, value: u32, yes: Label, no: Label) {
        self.lines.push(Line::If { test: code::EQUAL, value, yes, no });
    }

    /// Whether it is more.
    pub fn if_greater(&mut self, value: u32, yes: Label, no: Label) {
        self.lines.push(Line::If { test: code::GREATER, value, yes, no });
    }

    /// Whether it is not less.
    pub fn if_greater_or_equal(&mut self, value: u32, yes: Label, no: Label) {
        self.lines.push(Line::If { test: code::GREATER_OR_EQUAL, value, yes, no });
    }

    /// Whether it has a bit of `bits`.
    pub fn if_any_of(&mut self, bits: u32, yes: Label, no: Label) {
        self.lines.push(Line::If { test: code::ANY_OF, value: bits, yes, no });
    }

    /// Goes to the label of the number that is loaded, else to `other`. `places` is sorted by number.
    pub fn search(&mut self, places: &[(u32, Label)], other: Label) {
        const FEW: usize = 4;
        if places.len() > FEW {
            let (low, high) = places.split_at(places.len() / 2);
            let (above, below) = (self.label(), self.label());
            self.if_greater_or_equal(high[0].0, above, below);
            self.bind(below);
            self.search(low, other);
            self.bind(above);
            self.search(high, other);
            return;
        }
        for (index, (number, place)) in places.iter().enumerate() {
            let next = if index + 1 == places.len() { other } else { self.label() };
            self.if_equal(*number, *place, next);
            if next != other {
                self.bind(next);
            }
        }
    }

    /// The program.
    ///
    /// # Errors
    /// `EINVAL` when a label was not bound, or a jump is too long.
    pub fn finish(self) -> Result<Vec<Instruction>, Errno> {
        let jump = |from: usize, to: Label| -> Result<u8, Errno> {
            let to = self.places[to.0].filter(|to| *to < self.lines.len()).ok_or(Errno::INVAL)?;
            to.checked_sub(from + 1).and_then(|by| u8::try_from(by).ok()).ok_or(Errno::INVAL)
        };
        let lines = self.lines.iter().enumerate();
        let instruction = |(at, line): (usize, &Line)| {
            Ok(match *line {
                Line::Load(offset) => Instruction { code: code::LOAD, jt: 0, jf: 0, k: offset },
                Line::Do(code, k) => Instruction { code, jt: 0, jf: 0, k },
                Line::Answer(answer) => Instruction { code: code::ANSWER, jt: 0, jf: 0, k: answer },
                Line::If { test, value, yes, no } => {
                    Instruction { code: test, jt: jump(at, yes)?, jf: jump(at, no)?, k: value }
                }
            })
        };
        lines.map(instruction).collect()
    }
}
