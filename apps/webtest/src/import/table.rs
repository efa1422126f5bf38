//! CSV: a column with addresses, and perhaps `tags` (with blanks or ';' between), `priority`, `every` (seconds).
//!
//! With a first row that has a column `url`, columns are found by name; otherwise the address is in the first column, or where it is said.

use super::{Bad, Entry, LINE_MAX_BYTES};
use csv::{ByteRecord, Reader, ReaderBuilder};
use std::io::{self, Read};

/// Where the columns are.
struct Columns {
    address: usize,
    tags: Option<usize>,
    priority: Option<usize>,
    every: Option<usize>,
}

/// The entries of a table. `column` (from 1, or a name of the first row) says where the addresses are.
///
/// # Errors
/// When the first row cannot be read or has no such column.
pub fn table<R: Read>(
    text: R,
    column: Option<&str>,
) -> io::Result<impl Iterator<Item = io::Result<Result<Entry, Bad>>>> {
    let bounded = Bounded { text, run: 0, over: false };
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(bounded);
    let mut first = ByteRecord::new();
    let line = match read(&mut reader)? {
        None => 0,
        Some((line, record)) => {
            first = record;
            line
        }
    };
    let (columns, named) = columns(&first, column)?;
    let mut before = (line > 0 && !named).then_some((line, first));
    let mut over = false;
    Ok(std::iter::from_fn(move || {
        if over {
            return None;
        }
        let (line, record) = match before.take() {
            Some(first) => first,
            None => match read(&mut reader) {
                Ok(record) => record?,
                Err(e) => {
                    over = true;
                    return Some(Err(e));
                }
            },
        };
        Some(Ok(entry(line, &record, &columns)))
    }))
}

/// The next record and its first line. (A record's own position is before the empty lines before it.)
fn read<R: Read>(reader: &mut Reader<R>) -> io::Result<Option<(u64, ByteRecord)>> {
    let mut record = ByteRecord::new();
    if !reader.read_byte_record(&mut record).map_err(io::Error::other)? {
        return Ok(None);
    }
    let within = record.as_slice().iter().filter(|&&byte| byte == b'\n').count() as u64;
    Ok(Some((reader.position().line().saturating_sub(within + 1), record)))
}

fn columns(first: &ByteRecord, column: Option<&str>) -> io::Result<(Columns, bool)> {
    let find = |name: &str| {
        first.iter().position(|field| {
            String::from_utf8_lossy(field).trim_start_matches('\u{feff}').trim().eq_ignore_ascii_case(name)
        })
    };
    let address = match column {
        Some(column) => match (find(column), column.parse::<usize>()) {
            (Some(at), _) => (at, true),
            (None, Ok(number)) if number > 0 => (number - 1, find("url").is_some()),
            _ => return Err(io::Error::other(format!("the first row has no column '{column}'"))),
        },
        None => find("url").map_or((0, false), |at| (at, true)),
    };
    let of = |name| if address.1 { find(name) } else { None };
    Ok((Columns { address: address.0, tags: of("tags"), priority: of("priority"), every: of("every") }, address.1))
}

fn entry(line: u64, record: &ByteRecord, columns: &Columns) -> Result<Entry, Bad> {
    let field = |at: Option<usize>| at.and_then(|at| record.get(at)).filter(|field| !field.is_empty());
    let Some(address) = field(Some(columns.address)) else {
        let whole = String::from_utf8_lossy(record.as_slice()).into_owned();
        return Err(Bad::new(line, &whole, format!("there is nothing in column {}", columns.address + 1)));
    };
    let text = |field: &[u8]| {
        String::from_utf8(field.to_vec())
            .map_err(|_| Bad::new(line, &String::from_utf8_lossy(address), "it is not UTF-8"))
    };
    let address = text(address)?;
    let address = address.trim_start_matches('\u{feff}');
    let number = |at: Option<usize>, name: &str| match field(at) {
        None => Ok(None),
        Some(field) => text(field)?
            .parse::<i64>()
            .map(Some)
            .map_err(|_| Bad::new(line, address, format!("its '{name}' is no number"))),
    };
    let every = number(columns.every, "every")?;
    let every_s = every.map(u64::try_from).transpose();
    Ok(Entry {
        line,
        address: address.into(),
        tags: match field(columns.tags) {
            None => Vec::new(),
            Some(field) => {
                text(field)?.split([';', ' ', ',']).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
            }
        },
        priority: number(columns.priority, "priority")?,
        every_s: every_s.map_err(|_| Bad::new(line, address, "its 'every' is negative"))?,
    })
}

/// Lines as the reader counts them: all end with a line feed, the last one too. One without an end is not all memory.
struct Bounded<R> {
    text: R,
    run: usize,
    over: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.text.read(buffer)?;
            if got == 0 {
                let end = if std::mem::replace(&mut self.over, true) { None } else { buffer.first_mut() };
                return Ok(end.map_or(0, |byte| {
                    *byte = b'\n';
                    1
                }));
            }
            let mut kept = 0;
            for n in 0..got {
                let Some(&byte) = buffer.get(n).filter(|byte| **byte != b'\r') else { continue };
                if let Some(place) = buffer.get_mut(kept) {
                    *place = byte;
                }
                kept += 1;
                self.run = if byte == b'\n' { 0 } else { self.run + 1 };
                if self.run > 16 * LINE_MAX_BYTES {
                    return Err(io::Error::other(format!("a line is longer than {} bytes", 16 * LINE_MAX_BYTES)));
                }
            }
            if kept > 0 {
                return Ok(kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, column: Option<&str>) -> Vec<Result<Entry, Bad>> {
        table(text.as_bytes(), column).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn columns_are_found_by_name() {
        let all = read(
            "\u{feff}Rank,URL,tags,priority,every\n1, a.example ,x;y,7,3600\n2,\"b,c.example\",,,\n3,,x,,\n4,d.example,,high,\n5,e.example,,,-1\n6,f.example\n",
            None,
        );
        let entry = |line, address: &str| Entry { line, address: address.into(), ..Entry::default() };
        assert_eq!(
            all[0],
            Ok(Entry {
                tags: vec!["x".into(), "y".into()],
                priority: Some(7),
                every_s: Some(3_600),
                ..entry(2, "a.example")
            })
        );
        assert_eq!(all[1], Ok(entry(3, "b,c.example")));
        let bad: Vec<_> = all[2..5].iter().map(|bad| bad.as_ref().unwrap_err()).collect();
        assert_eq!(bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [4, 5, 6]);
        assert!(bad[1].why.contains("'priority' is no number"));
        assert_eq!(all[5], Ok(entry(7, "f.example")));
    }

    #[test]
    fn without_names_the_column_is_the_first_or_the_one_that_is_said() {
        assert_eq!(read("a.example,1\nb.example\n", None).len(), 2);
        let all = read("1,a.example\r\n\r\n2,b.example", Some("2"));
        let said: Vec<_> = all.iter().map(|e| e.as_ref().unwrap()).map(|e| (e.line, e.address.as_str())).collect();
        assert_eq!(said, [(1, "a.example"), (3, "b.example")]);
        assert!(table("x,y\n".as_bytes(), Some("domain")).err().unwrap().to_string().contains("no column 'domain'"));
        assert_eq!(read("x,domain\n1,a.example\n", Some("domain"))[0].as_ref().unwrap().address, "a.example");
        assert!(read("", None).is_empty());
    }

    #[test]
    fn a_line_without_an_end_is_an_error_and_not_all_memory() {
        let endless = io::Read::take(io::repeat(b'x'), 1 << 40);
        assert!(table(endless, None).err().unwrap().to_string().contains("longer"));
    }
}
