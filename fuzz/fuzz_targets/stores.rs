//! Keyed stores made of well-formed parts: each part is in some of the three sides, so that merges have work to do.
#![no_main]
mod store_rules;

/// Which sides have the part; its shape; two small numbers in it.
type Part = (u8, u8, u8, u8);

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<Part>)| {
    let (which, parts) = input;
    let sides = [1, 2, 4].map(|side| {
        let mine: Vec<Part> = parts.iter().copied().filter(|part| part.0 & side != 0).collect();
        match which % 6 {
            5 => dconf(&mine),
            4 => text("WINE REGISTRY Version 2\n;; All keys relative to \\\\User\n\n", &mine, wine),
            _ => text("", &mine, account),
        }
    });
    let [base, vm, host] = &sides;
    store_rules::check(which, [base, vm, host]);
});

fn text(head: &str, parts: &[Part], line: fn(Part) -> String) -> Vec<u8> {
    (head.to_owned() + &parts.iter().map(|part| line(*part)).collect::<String>()).into_bytes()
}

fn account((_, shape, a, b): Part) -> String {
    let (name, id, list) = (a % 8, b % 4, ["", "m", "n,m", "m,n,o"][usize::from(b / 64)]);
    match shape % 12 {
        0..=4 => format!("n{name}:x:{id}:{list}:/:/bin/sh\n"),
        5 => format!("n{name}:{id}:{b}:{list}\n"),
        6 => format!("n{name}:{}:{}\n", u64::from(id) * 10, b),
        7 => format!("n{name}\n"),
        8 => "+::::::\n".into(),
        9 => format!("# {id}\n"),
        10 => format!("n{name}:x:{id}:{list}::\r\n"),
        _ => "\n".into(),
    }
}

fn wine((_, shape, a, b): Part) -> String {
    let (a, b) = (a % 6, b % 6);
    match shape % 12 {
        0 | 1 => format!("[K{a}] {b}\n#time={b}\n"),
        2 => format!("[K{a}\\\\S{b}] 1\n"),
        3 => format!("[k{a}] 1\n#link\n"),
        4 | 5 => format!("\"v{a}\"=\"{b}\"\n"),
        6 => format!("\"V{a}\"=dword:{b:08x}\n"),
        7 => format!("@=\"{b}\"\n"),
        8 => format!("\"v{a}\"=hex:01,\\\n  {b:02}\n"),
        9 => format!("[K{a} value v{b}] 1\n\n"),
        10 => format!("\"v{a} key\"=\"]\"\r\n"),
        _ => "\n".into(),
    }
}

/// A database without directories, each key with its whole name.
fn dconf(parts: &[Part]) -> Vec<u8> {
    let (mut items, mut tail) = (Vec::new(), Vec::new());
    let end_of_items = 24 + 8 + 24 * parts.len();
    let offset = |tail: &Vec<u8>| u32::try_from(end_of_items + tail.len()).expect("it is short").to_le_bytes();
    for (_, shape, a, b) in parts {
        let name = format!("/{}{}", ["d/", "", "d/e/", "\u{1}/"][usize::from(shape % 4)], a % 8);
        items.extend([[0; 4], [255; 4], offset(&tail)].concat());
        items.extend([u8::try_from(name.len()).expect("it is short"), 0, b'v', 0]);
        tail.extend(name.into_bytes());
        items.extend(offset(&tail));
        let kinds: [&[u8]; 5] = [b"\0\0s", b"\0b", b"\0as", b"\0i", b""];
        tail.extend([&[*b; 4], kinds[usize::from(shape / 4 % 5)]].concat());
        items.extend(offset(&tail));
    }
    let root_end = u32::try_from(end_of_items).expect("it is short").to_le_bytes();
    [b"GVariant".as_slice(), &[0; 8], &[24, 0, 0, 0], &root_end, &[0; 8], &items, &tail].concat()
}
