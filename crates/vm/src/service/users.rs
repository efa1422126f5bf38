//! Users and groups by the VM's own `/etc/passwd` and `/etc/group`: fvm is one static binary and asks no name service.
//!
//! Invariant: both files are the VM's: bounded, and a line that makes no sense is passed over.

use super::load::read_small;
use std::path::Path;

/// The largest passwd or group file that is looked at.
const MAX_BYTES: usize = 4 << 20;

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Number of the first group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Shell.
    pub shell: String,
}

fn lines(path: &str) -> String {
    read_small(Path::new(path), MAX_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A user by name or number.
pub fn user(reference: &str) -> Option<User> {
    parse_user(&lines("/etc/passwd"), reference)
}

/// The number of a group, by name or number.
pub fn group(reference: &str) -> Option<u32> {
    let number = || reference.parse().ok();
    parse_groups(&lines("/etc/group")).find(|(name, ..)| *name == reference).map(|(_, gid, _)| gid).or_else(number)
}

/// The name of a group.
pub fn group_name(gid: u32) -> Option<String> {
    parse_groups(&lines("/etc/group")).find(|(_, number, _)| *number == gid).map(|(name, ..)| name.to_owned())
}

/// The groups that list a user as a member.
pub fn groups_of(user: &str) -> Vec<u32> {
    let text = lines("/etc/group");
    parse_groups(&text).filter(|(.., members)| members.split(',').any(|m| m == user)).map(|(_, gid, _)| gid).collect()
}

fn parse_user(text: &str, reference: &str) -> Option<User> {
    let read = |line: &str| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let _gecos = fields.next()?;
        let (home, shell) = (fields.next()?.to_owned(), fields.next().unwrap_or_default().to_owned());
        Some(User { name: name.to_owned(), uid, gid, home, shell })
    };
    let all = || text.lines().filter_map(read);
    let number: Option<u32> = reference.parse().ok();
    all().find(|u| u.name == reference).or_else(|| all().find(|u| Some(u.uid) == number))
}

fn parse_groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        Some((name, fields.next()?.parse().ok()?, fields.next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:33::/var/www:/usr/sbin/nologin\n7:x:8:8::/:\n";
        assert_eq!(parse_user(text, "www").unwrap().uid, 33);
        assert_eq!(parse_user(text, "33").unwrap().name, "www");
        assert_eq!(parse_user(text, "7").unwrap().uid, 8, "a name goes before a number");
        assert_eq!(parse_user(text, "nobody"), None);
        let groups: Vec<_> = parse_groups("a:x:1:\nb:x:2:u,v\nc:x\n").collect();
        assert_eq!(groups, [("a", 1, ""), ("b", 2, "u,v")]);
    }
}
