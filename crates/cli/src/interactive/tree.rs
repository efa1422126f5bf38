//! The changes as a tree of directories.
//!
//! ```text
//!   /srv/www/a        0 /srv/www/      end 4      a directory that holds nothing but one directory
//!   /srv/www/b/c      1   a                       is one row with it
//!   /srv/www/b/d      2   b/           end 4
//!                     3     c                     nodes stand in the order of the rows:
//!                     4     d                     what lies below n is n+1 .. end
//! ```
//!
//! Invariants: every change has exactly one node; building and walking need no recursion, however deep a VM's
//! directories are.

use fvm::model::path::printable;
use fvm::model::{Change, FileType};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A directory on the way to a change, a change, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, escaped; of several directories in one row, all of them.
    pub label: String,
    /// How many nodes it lies in.
    pub depth: usize,
    /// The node it lies in.
    pub parent: Option<usize>,
    /// The first node after it that does not lie in it.
    pub end: usize,
    /// The change, by its place in the change set.
    pub change: Option<usize>,
    /// Whether it is shown as a directory.
    pub is_dir: bool,
}

/// All nodes; the first is the root.
#[derive(Debug)]
pub struct Tree {
    /// In the order of the rows.
    pub nodes: Vec<Node>,
    /// The node of each change.
    pub node_of: Vec<usize>,
}

/// A node before it has its place.
#[derive(Default)]
struct Raw<'c> {
    name: &'c OsStr,
    below: Vec<usize>,
    change: Option<usize>,
}

impl Tree {
    /// The tree of `changes`.
    pub fn new(changes: &[Change]) -> Self {
        let mut raw = grow(changes);
        let mut tree = Self { nodes: Vec::with_capacity(raw.len()), node_of: vec![0; changes.len()] };
        let mut todo = vec![(0, None, 0)];
        while let Some((mut at, parent, depth)) = todo.pop() {
            let mut label = printable(raw[at].name.as_bytes());
            while let (None, [only]) = (raw[at].change, raw[at].below.as_slice()) {
                if raw[*only].change.is_some() || raw[*only].below.is_empty() {
                    break;
                }
                at = *only;
                label.push('/');
                label.push_str(&printable(raw[at].name.as_bytes()));
            }
            let below = std::mem::take(&mut raw[at].below);
            let node = tree.nodes.len();
            let change = raw[at].change;
            let is_dir = !below.is_empty() || change.is_none_or(|c| changes[c].file_type == FileType::Directory);
            tree.nodes.push(Node { label, depth, parent, end: node + 1, change, is_dir });
            if let Some(change) = change {
                tree.node_of[change] = node;
            }
            todo.extend(below.into_iter().rev().map(|child| (child, Some(node), depth + 1)));
        }
        for node in (1..tree.nodes.len()).rev() {
            let end = tree.nodes[node].end;
            if let Some(parent) = tree.nodes[node].parent {
                tree.nodes[parent].end = tree.nodes[parent].end.max(end);
            }
        }
        tree
    }

    /// Whether anything lies below.
    pub fn has_children(&self, node: usize) -> bool {
        self.nodes[node].end > node + 1
    }

    /// The changes of a node and of all below.
    pub fn changes(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        self.nodes[node..self.nodes[node].end].iter().filter_map(|n| n.change)
    }
}

/// The root and everything below, each with its children sorted by name.
fn grow(changes: &[Change]) -> Vec<Raw<'_>> {
    let mut raw = vec![Raw::default()];
    let mut known: HashMap<&Path, usize> = HashMap::from([(Path::new("/"), 0)]);
    for (i, change) in changes.iter().enumerate() {
        let path = change.path.as_path();
        let missing: Vec<&Path> = path.ancestors().take_while(|p| !known.contains_key(p)).collect();
        let mut at = path.ancestors().find_map(|p| known.get(p).copied()).unwrap_or(0);
        for new in missing.into_iter().rev() {
            let child = raw.len();
            raw.push(Raw { name: new.file_name().unwrap_or_default(), ..Raw::default() });
            raw[at].below.push(child);
            known.insert(new, child);
            at = child;
        }
        raw[at].change = Some(i);
    }
    for i in 0..raw.len() {
        let mut below = std::mem::take(&mut raw[i].below);
        below.sort_by_key(|child| raw[*child].name);
        raw[i].below = below;
    }
    raw
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use fvm::model::{ChangeKind, HostPath, Meta, MetaDelta, Timestamp, VmPath};

    /// `A /path`, with `M`, `m`, `D`, `T` the same; `!` behind it: a conflict, `#`: uncommittable; `/` at the end: a
    /// directory. Several with `;` between them.
    pub fn changes(text: &str) -> Vec<Change> {
        text.split(';').map(|line| one(line.trim())).collect()
    }

    fn one(line: &str) -> Change {
        let words: Vec<&str> = line.split(' ').collect();
        let meta = MetaDelta::default();
        let kind = match words[0] {
            "A" => ChangeKind::Created,
            "D" => ChangeKind::Deleted,
            "m" => ChangeKind::Metadata { meta: MetaDelta { mode: true, ..meta } },
            "R" => ChangeKind::Renamed { modified: false, meta },
            "T" => ChangeKind::Retyped { from: FileType::Symlink },
            _ => ChangeKind::Modified { meta },
        };
        let file_type = if words[1].ends_with('/') { FileType::Directory } else { FileType::File };
        let stat = Meta { file_type, mode: 0o644, uid: 0, gid: 0, size_bytes: 10, mtime: Timestamp::default() };
        let (created, deleted) = (kind == ChangeKind::Created, kind == ChangeKind::Deleted);
        Change {
            path: VmPath::new(words[1]).unwrap(),
            kind,
            file_type,
            base: (!created).then(|| HostPath::new(words[1]).unwrap()),
            layer: 0,
            before: (!created).then(|| stat.clone()),
            after: (!deleted).then_some(stat),
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: words.contains(&"#").then(|| "it is a socket".into()),
            conflict: words.contains(&"!").then(|| "the host changed it".into()),
            origin: None,
        }
    }

    fn rows(text: &str) -> Vec<String> {
        let tree = Tree::new(&changes(text));
        let slash = |n: &Node| if n.is_dir { "/" } else { "" };
        tree.nodes.iter().map(|n| format!("{}{}{}", "  ".repeat(n.depth), n.label, slash(n))).collect()
    }

    #[test]
    fn directories_that_hold_one_directory_share_a_row() {
        assert_eq!(
            rows("M /srv/www/b/c; M /srv/www/b/d; M /srv/www/a"),
            ["/srv/www/", "  a", "  b/", "    c", "    d"]
        );
        assert_eq!(rows("M /f"), ["/", "  f"]);
        assert_eq!(rows("A /srv/new/; A /srv/new/x"), ["/srv/", "  new/", "    x"], "a change has a row of its own");
    }

    #[test]
    fn a_name_that_sorts_between_a_directory_and_what_is_in_it_splits_nothing() {
        assert_eq!(rows("M /a-b; M /a/x; M /a/y; m /a/"), ["/", "  a/", "    x", "    y", "  a-b"]);
    }

    #[test]
    fn what_lies_below_a_node_is_one_stretch() {
        let tree = Tree::new(&changes("M /a/x; M /a/y/z; M /b"));
        assert_eq!(tree.changes(0).count(), 3);
        let a = tree.nodes.iter().position(|n| n.label == "a").unwrap();
        assert_eq!(tree.changes(a).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(tree.nodes[tree.node_of[2]].label, "b");
        assert!(!tree.has_children(tree.node_of[2]));
    }
}
