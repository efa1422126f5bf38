//! One line of `ExecStart=` and its relatives.
//!
//! ```text
//!   -@/bin/sh name -c 'echo $1'      prefixes  - failure is no failure   @ the next word is argv[0]
//!                                              : no variables            + ! !! with full privileges
//! ```

use crate::limits::{VALUE_MAX_BYTES, WORDS_MAX};
use crate::name::UnitName;
use crate::specifier::{self, Facts};
use crate::words::{self, Word};
use std::collections::BTreeMap;

/// Variables by name.
pub type Environment = BTreeMap<Vec<u8>, Vec<u8>>;

/// A program to execute.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// `-`: its failure is none.
    pub may_fail: bool,
    /// `+`, `!`: not as the service's user.
    pub privileged: bool,
    /// `:`: `$` is an ordinary character.
    pub literal: bool,
    /// A path, or a name to look up.
    pub program: Word,
    /// `argv`, beginning with its own name.
    pub argv: Vec<Word>,
}

impl Command {
    /// Reads one value, which may hold several commands, separated by ` ; `.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str, unit: &UnitName, facts: &Facts) -> Result<Vec<Self>, String> {
        let mut commands = Vec::new();
        // A semicolon that stands alone separates; quoted or escaped it does not, so that is looked at first.
        for part in separated(text) {
            let words = words::split(part.as_bytes())?;
            let mut command = Self::default();
            let mut words = words.into_iter();
            let Some(first) = words.next() else { continue };
            let mut first = first.as_slice();
            let mut named = false;
            while let Some((prefix, rest)) = first.split_first() {
                match prefix {
                    b'-' => command.may_fail = true,
                    b'@' => named = true,
                    b':' => command.literal = true,
                    b'+' | b'!' => command.privileged = true,
                    _ => break,
                }
                first = rest;
            }
            command.program = specifier::expand(first, unit, facts)?;
            if command.program.is_empty() || command.program.ends_with(b"/") {
                return Err("it names no program".into());
            }
            if !command.program.starts_with(b"/") && command.program.contains(&b'/') {
                return Err("the program is neither an absolute path nor a name".into());
            }
            let name = if named {
                let given = words.next().ok_or("'@' asks for a second word")?;
                specifier::expand(&given, unit, facts)?
            } else {
                command.program.clone()
            };
            command.argv.push(name);
            for word in words {
                command.argv.push(specifier::expand(&word, unit, facts)?);
            }
            if command.argv.iter().map(Vec::len).sum::<usize>() > VALUE_MAX_BYTES {
                return Err("it grows too long".into());
            }
            commands.push(command);
        }
        Ok(commands)
    }

    /// `argv` with the variables of `environment` put in: a word that is `$NAME` becomes the words of its value, `${NAME}`
    /// inside a word becomes the value, `$$` is `$`.
    ///
    /// # Errors
    /// When it grows too long.
    pub fn arguments(&self, environment: &Environment) -> Result<Vec<Word>, &'static str> {
        if self.literal {
            return Ok(self.argv.clone());
        }
        let mut arguments = Vec::new();
        let mut size_bytes = 0;
        for (index, word) in self.argv.iter().enumerate() {
            match word.strip_prefix(b"$") {
                _ if index == 0 => arguments.push(word.clone()),
                Some(name) if crate::envfile::is_name(name) => {
                    let value = environment.get(name).map_or(&[][..], Vec::as_slice);
                    let words = words::split(value).unwrap_or_else(|_| vec![value.to_vec()]);
                    size_bytes += value.len();
                    arguments.extend(words);
                }
                _ => {
                    let word = braces(word, environment).ok_or(TOO_LONG)?;
                    size_bytes += word.len();
                    arguments.push(word);
                }
            }
            if arguments.len() > WORDS_MAX || size_bytes > VALUE_MAX_BYTES {
                return Err(TOO_LONG);
            }
        }
        Ok(arguments)
    }
}

const TOO_LONG: &str = "the arguments grow too long";

/// `None`: it grows too long.
fn braces(word: &[u8], environment: &Environment) -> Option<Word> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after.first()) {
            (b'$', Some(b'$')) => {
                out.push(b'$');
                rest = &after[1..];
            }
            (b'$', Some(b'{')) => match after.iter().position(|b| *b == b'}') {
                Some(end) if crate::envfile::is_name(&after[1..end]) => {
                    out.extend(environment.get(&after[1..end]).into_iter().flatten());
                    rest = &after[end + 1..];
                }
                _ => out.push(byte),
            },
            _ => out.push(byte),
        }
        if out.len() > VALUE_MAX_BYTES {
            return None;
        }
    }
    Some(out)
}

/// Parts between semicolons that stand alone outside quotes; `\;` alone is an argument `;`.
fn separated(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    let mut chars = text.chars().peekable();
    let mut alone = true;
    while let Some(c) = chars.next() {
        let blank_follows = chars.peek().is_none_or(|next| next.is_ascii_whitespace());
        let Some(part) = parts.last_mut() else { break };
        match (c, quote) {
            ('\\', None) if alone && chars.peek() == Some(&';') => {
                chars.next();
                part.push(';');
            }
            ('\\', _) => {
                part.push(c);
                part.extend(chars.next());
            }
            (c, Some(q)) if c == q => {
                quote = None;
                part.push(c);
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                part.push(c);
            }
            (';', None) if alone && blank_follows => parts.push(String::new()),
            _ => part.push(c),
        }
        alone = quote.is_none() && c.is_ascii_whitespace();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Command>, String> {
        Command::parse(text, &"u@i.service".parse().unwrap(), &Facts::default())
    }

    fn texts(words: &[Word]) -> Vec<String> {
        words.iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect()
    }

    #[test]
    fn prefixes_and_separators_are_read() {
        let commands = parse(r#"-@/bin/sh me -c 'a ; b' \; c ; :+x %i"#).unwrap();
        assert_eq!(commands.len(), 2);
        assert!(commands[0].may_fail && !commands[0].literal && !commands[0].privileged);
        assert_eq!(commands[0].program, b"/bin/sh");
        assert_eq!(texts(&commands[0].argv), ["me", "-c", "a ; b", ";", "c"]);
        assert!(commands[1].literal && commands[1].privileged);
        assert_eq!(texts(&commands[1].argv), ["x", "i"]);
        for bad in ["-", "@/bin/x", "a/b", "'", "/bin/"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn variables_cannot_grow_without_end() {
        let environment: Environment = [(b"A".to_vec(), vec![b'x'; 100_000])].into_iter().collect();
        let command = &parse(&format!("/p {}", "${A}".repeat(20_000))).unwrap()[0];
        assert_eq!(command.arguments(&environment), Err(TOO_LONG));
    }

    #[test]
    fn variables_are_replaced_as_systemd_does() {
        let environment: Environment = [("A", "x 'y z'"), ("E", "")]
            .into_iter()
            .map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()))
            .collect();
        let command = &parse("/p $A ${A} a$A b${A}c $E ${E} $NONE $$A $$ ${1} ${").unwrap()[0];
        assert_eq!(
            texts(&command.arguments(&environment).unwrap()),
            ["/p", "x", "y z", "x 'y z'", "a$A", "bx 'y z'c", "", "$A", "$", "${1}", "${"]
        );
        let literal = &parse(":/p $A").unwrap()[0];
        assert_eq!(texts(&literal.arguments(&environment).unwrap()), ["/p", "$A"]);
    }
}
