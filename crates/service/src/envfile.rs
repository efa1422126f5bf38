//! `EnvironmentFile=`: lines of `NAME=value` with a shell's quotes, and nothing of a shell's power.

use crate::limits::ENTRIES_MAX;

/// A variable.
pub type Variable = (Vec<u8>, Vec<u8>);

/// Whether `name` may be a variable's.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    let first = name.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    first && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// Reads the variables of a file. Lines that are no assignment are passed over, as systemd does.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(text: &[u8]) -> Result<Vec<Variable>, &'static str> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.trim_ascii_start();
        if matches!(rest.first(), Some(b'#' | b';')) {
            rest = after_line(rest);
            continue;
        }
        let line_end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let Some(equals) = rest[..line_end].iter().position(|b| *b == b'=') else {
            rest = after_line(rest);
            continue;
        };
        let name = rest[..equals].trim_ascii();
        let name = name.strip_prefix(b"export ").map_or(name, <[u8]>::trim_ascii_start);
        let (value, after) = value(&rest[equals + 1..])?;
        rest = after;
        if value.contains(&0) {
            return Err("a value holds a NUL byte");
        }
        if is_name(name) {
            found.push((name.to_vec(), value));
        }
        if found.len() > ENTRIES_MAX {
            return Err("it holds too many variables");
        }
    }
    Ok(found)
}

fn after_line(text: &[u8]) -> &[u8] {
    text.iter().position(|b| *b == b'\n').map_or(&[], |end| &text[end + 1..])
}

/// A value up to the end of its line, and what comes after.
fn value(text: &[u8]) -> Result<(Vec<u8>, &[u8]), &'static str> {
    let mut out = Vec::new();
    // White space at the end goes, unless it was quoted.
    let mut solid = 0;
    let mut quote: Option<u8> = None;
    let mut index = 0;
    while let Some(&byte) = text.get(index) {
        index += 1;
        let next = text.get(index).copied();
        match (byte, quote) {
            (b'\n', None) => {
                out.truncate(solid);
                return Ok((out, &text[index..]));
            }
            (b, Some(q)) if b == q => {
                quote = None;
                solid = out.len();
            }
            (b'\'' | b'"', None) => quote = Some(byte),
            (b'\\', None | Some(b'"')) => {
                match next {
                    Some(b'\n') => {}
                    Some(b) if quote.is_none() || matches!(b, b'"' | b'\\' | b'`' | b'$') => out.push(b),
                    Some(b) => out.extend([b'\\', b]),
                    None => {}
                }
                index += 1;
                solid = out.len();
            }
            (b' ' | b'\t' | b'\r', None) if out.is_empty() && solid == 0 => {}
            (b' ' | b'\t' | b'\r', None) => out.push(byte),
            (b, _) => {
                out.push(b);
                solid = out.len();
            }
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    out.truncate(solid);
    Ok((out, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_a_shell_would_without_its_power() {
        let text = br#"
# comment
A=1
B = two words   
C="a \"b\" $HOME
line2"
D='x\y'
E=a\
b
export F=f
1BAD=x
nonsense
G=
H=a"b c"d
"#;
        let got: Vec<_> = parse(text)
            .unwrap()
            .into_iter()
            .map(|(k, v)| format!("{}={}", String::from_utf8(k).unwrap(), String::from_utf8(v).unwrap()))
            .collect();
        let want = ["A=1", "B=two words", "C=a \"b\" $HOME\nline2", "D=x\\y", "E=ab", "F=f", "G=", "H=ab cd"];
        assert_eq!(got, want);
        assert!(parse(b"A='x").is_err() && parse(b"A=\0").is_err());
    }
}
