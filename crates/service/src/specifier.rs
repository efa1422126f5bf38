//! `%` specifiers (`systemd.unit(5)`), replaced from facts about the VM.

use crate::limits::VALUE_MAX_BYTES;
use crate::name::{UnitName, unescape};
use fvm_model::path::printable;

/// What specifiers stand for; the caller reads it in the VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The VM's own user: root, or in a rootless VM its one user.
    pub user: String,
    /// Its number.
    pub uid: u32,
    /// Its group.
    pub group: String,
    /// Its number.
    pub gid: u32,
    /// Its home directory.
    pub home: String,
    /// Its shell.
    pub shell: String,
    /// Host name.
    pub host_name: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The kernel's release.
    pub kernel: String,
}

/// Replaces every specifier of `text`.
///
/// # Errors
/// What is wrong, in words.
pub fn expand(text: &[u8], unit: &UnitName, facts: &Facts) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
        } else {
            match bytes.next() {
                Some(b'%') | None => out.push(b'%'),
                Some(letter) => out.extend(one(letter, unit, facts)?),
            }
        }
        if out.len() > VALUE_MAX_BYTES {
            return Err("it grows too long".into());
        }
    }
    if out.contains(&0) { Err("it holds a NUL byte".into()) } else { Ok(out) }
}

fn one(letter: u8, unit: &UnitName, facts: &Facts) -> Result<Vec<u8>, String> {
    let instance = unit.instance().unwrap_or_default();
    let last = |text: &str| text.rsplit('-').next().unwrap_or_default().to_owned();
    let text = match letter {
        b'n' => unit.as_str().to_owned(),
        b'N' => unit.stem().to_owned(),
        b'p' => unit.prefix().to_owned(),
        b'P' => return Ok(unescape(unit.prefix())),
        b'i' => instance.to_owned(),
        b'I' => return Ok(unescape(instance)),
        b'j' => last(unit.prefix()),
        b'J' => return Ok(unescape(&last(unit.prefix()))),
        b'f' => {
            let path = unescape(unit.instance().unwrap_or_else(|| unit.prefix()));
            return Ok([b"/".as_slice(), &path].concat());
        }
        b'u' => facts.user.clone(),
        b'U' => facts.uid.to_string(),
        b'g' => facts.group.clone(),
        b'G' => facts.gid.to_string(),
        b'h' => facts.home.clone(),
        b's' => facts.shell.clone(),
        b't' => "/run".into(),
        b'S' => "/var/lib".into(),
        b'C' => "/var/cache".into(),
        b'L' => "/var/log".into(),
        b'E' => "/etc".into(),
        b'T' => "/tmp".into(),
        b'V' => "/var/tmp".into(),
        b'H' => facts.host_name.clone(),
        b'l' => facts.host_name.split('.').next().unwrap_or_default().to_owned(),
        b'm' => facts.machine_id.clone(),
        b'b' => facts.boot_id.clone(),
        b'v' => facts.kernel.clone(),
        other => return Err(format!("%{} is not supported", printable(&[other]))),
    };
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifiers_are_replaced() {
        let unit: UnitName = "a-b@c\\x2dd-e.service".parse().unwrap();
        let facts = Facts { user: "u".into(), uid: 7, home: "/h".into(), host_name: "m.x".into(), ..Facts::default() };
        let text = b"%n|%N|%p|%i|%I|%j|%u|%U|%h|%t|%S|%H|%l|%%|%f|100%";
        let want = "a-b@c\\x2dd-e.service|a-b@c\\x2dd-e|a-b|c\\x2dd-e|c-d/e|b|u|7|/h|/run|/var/lib|m.x|m|%|/c-d/e|100%";
        assert_eq!(String::from_utf8(expand(text, &unit, &facts).unwrap()).unwrap(), want);
        assert_eq!(expand(b"%Z", &unit, &facts).unwrap_err(), "%Z is not supported");
        assert!(expand(&b"%n".repeat(100_000), &unit, &facts).is_err());
    }
}
