//! A random program of file operations, decided by a seed and the tree it works on: run on two equal trees it does
//! the same to both.
//!
//! ```text
//!   fvm-oracle-ops base DIR SEED            makes a tree
//!   fvm-oracle-ops run DIR SEED OPS root|user [copied]
//!   fvm-oracle-ops show DIR                  prints the tree, as it is seen where this runs
//!   fvm-oracle-ops essence DIR               the same without directories' times, and how files are stored
//! ```
//! `user`: leaves out what overlayfs does not let an ordinary user do as on a plain disk: renaming a directory of the
//! host (EXDEV), and a hard link to a file of the host (the other name would not follow). `copied`: leaves out hard links, which
//! come apart in a copy of the VM when one name is written, and sparse files, whose holes overlayfs fills when it copies them up.
#![expect(clippy::unwrap_used, reason = "test code")]

use fvm_kit::{Snapshot, splitmix};
use rustix::fs::{self as rfs, CWD, RenameFlags};
use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (mode, dir) = (args[1].as_str(), Path::new(&args[2]));
    let seed = || args[3].parse::<u64>().unwrap();
    match mode {
        "base" => base(dir, seed()),
        "essence" => Snapshot::of(dir, i64::MAX).essences().iter().for_each(|line| println!("{line}")),
        "show" => Snapshot::of(dir, i64::MAX).lines().iter().for_each(|line| println!("{line}")),
        _ => Program {
            state: seed() ^ 0x5eed,
            count: 0,
            made: Vec::new(),
            rootless: args[5] == "user",
            part: seed(),
            copied: args.get(6).is_some(),
        }
        .run(dir, args[4].parse().unwrap()),
    }
}

fn old(path: &Path, n: u64) {
    let at = rustix::fs::Timespec { tv_sec: 1_000_000_000 + n.cast_signed(), tv_nsec: 123_456_789 };
    let times = rfs::Timestamps { last_access: at, last_modification: at };
    rfs::utimensat(CWD, path, &times, rfs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn base(root: &Path, seed: u64) {
    let mut state = seed;
    let mut pick = |n: usize| usize::try_from(splitmix(&mut state) % n as u64).unwrap();
    fs::create_dir(root).unwrap();
    let mut dirs = vec![root.to_path_buf()];
    for i in 0..8 {
        let name = if i == 3 { OsStr::from_bytes(b"-d \xff\n").to_owned() } else { format!("d{i}").into() };
        let dir = dirs[pick(dirs.len())].join(name);
        fs::create_dir(&dir).unwrap();
        dirs.push(dir);
    }
    for i in 0..16 {
        let file = dirs[pick(dirs.len())].join(format!("f{i}"));
        fs::write(&file, format!("base {i}\n").repeat(pick(500))).unwrap();
        if pick(4) == 0 {
            rfs::lsetxattr(&file, "user.k0", b"base", rfs::XattrFlags::empty()).unwrap();
        }
        fs::set_permissions(&file, fs::Permissions::from_mode([0o644, 0o640, 0o755][pick(3)])).unwrap();
        old(&file, i);
    }
    for i in 0..3 {
        symlink(format!("f{i}"), dirs[pick(dirs.len())].join(format!("s{i}"))).unwrap();
    }
    rfs::mknodat(CWD, dirs[pick(dirs.len())].join("p"), rfs::FileType::Fifo, rfs::Mode::RUSR, 0).unwrap();
    sparse(&root.join("sparse"), 1 << 20).unwrap();
    for (n, dir) in dirs.iter().enumerate().rev() {
        old(dir, n as u64);
    }
}

fn sparse(path: &Path, at: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(b"end")?;
    file.set_len(at + (1 << 20))
}

struct Program {
    state: u64,
    count: u32,
    made: Vec<PathBuf>,
    rootless: bool,
    copied: bool,
    part: u64,
}

#[derive(Default)]
struct Tree {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

fn walk(dir: &Path, tree: &mut Tree) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            tree.dirs.push(entry.path());
            walk(&entry.path(), tree);
        } else if kind.is_file() {
            tree.files.push(entry.path());
        } else {
            tree.others.push(entry.path());
        }
    }
}

impl Program {
    fn pick(&mut self, n: usize) -> usize {
        usize::try_from(splitmix(&mut self.state) % n as u64).unwrap()
    }

    fn one(&mut self, from: &[PathBuf]) -> Option<PathBuf> {
        if from.is_empty() { None } else { Some(from[self.pick(from.len())].clone()) }
    }

    fn fresh(&mut self, root: &Path, dirs: &[PathBuf]) -> PathBuf {
        self.count += 1;
        // What an earlier part made may be there, even as a FIFO, for which nobody waits.
        let name = if self.copied { format!("n{}-{}", self.part, self.count) } else { format!("n{}", self.count) };
        self.one(dirs).unwrap_or_else(|| root.to_path_buf()).join(name)
    }

    fn run(&mut self, root: &Path, ops: u32) {
        for n in 0..ops {
            let mut tree = Tree::default();
            walk(root, &mut tree);
            // An operation that fails must fail on both sides: the end result tells.
            if let Some(Err(e)) = self.op(root, n, &tree) {
                println!("{n}: {:?}", e.raw_os_error());
            }
        }
    }

    fn op(&mut self, root: &Path, n: u32, tree: &Tree) -> Option<std::io::Result<()>> {
        let entries: Vec<PathBuf> = tree.files.iter().chain(&tree.others).cloned().collect();
        let both: Vec<PathBuf> = tree.files.iter().chain(&tree.dirs).cloned().collect();
        let text = format!("op {n} ");
        Some(match self.pick(25) {
            0 | 1 => {
                let path = self.fresh(root, &tree.dirs);
                self.made.push(path.clone());
                fs::write(path, text.repeat(self.pick(2000)))
            }
            2 => fs::write(self.one(&tree.files)?, text),
            3 => fs::OpenOptions::new()
                .write(true)
                .open(self.one(&tree.files)?)
                .and_then(|f| f.set_len(self.pick(50) as u64)),
            4 => fs::OpenOptions::new()
                .append(true)
                .open(self.one(&tree.files)?)
                .and_then(|mut f| f.write_all(text.as_bytes())),
            5 => fs::create_dir(self.fresh(root, &tree.dirs)),
            6 => {
                let (from, to) = (self.one(&entries)?, self.fresh(root, &tree.dirs));
                if self.made.contains(&from) {
                    self.made.push(to.clone());
                }
                fs::rename(from, to)
            }
            7 if !self.rootless => fs::rename(self.one(&tree.dirs)?, self.fresh(root, &tree.dirs)),
            8 => fs::rename(self.one(&tree.files)?, self.one(&tree.files)?),
            9 => exchange(&self.one(&entries)?, &self.one(&entries)?),
            10 if !self.rootless => exchange(&self.one(&tree.dirs)?, &self.one(&tree.dirs)?),
            11 => {
                let from = self.one(&tree.files)?;
                if self.copied || self.rootless && !self.made.contains(&from) {
                    return None;
                }
                fs::hard_link(from, self.fresh(root, &tree.dirs))
            }
            12 => symlink(format!("target {n}"), self.fresh(root, &tree.dirs)),
            13 => fs::remove_file(self.one(&entries)?),
            14 => fs::remove_dir(self.one(&tree.dirs)?),
            15 if self.pick(2) == 0 => fs::remove_dir_all(self.one(&tree.dirs)?),
            16 => fs::set_permissions(
                self.one(&tree.files)?,
                fs::Permissions::from_mode([0o600, 0o644, 0o755][self.pick(3)]),
            ),
            17 => fs::set_permissions(
                self.one(&tree.dirs)?,
                fs::Permissions::from_mode([0o700, 0o755, 0o1777][self.pick(3)]),
            ),
            18 => {
                old(&self.one(&both)?, u64::from(n) * 1000);
                Ok(())
            }
            19 => rfs::lsetxattr(
                self.one(&both)?,
                format!("user.k{}", self.pick(3)),
                text.as_bytes(),
                rfs::XattrFlags::empty(),
            )
            .map_err(Into::into),
            20 => rfs::lremovexattr(self.one(&both)?, format!("user.k{}", self.pick(3))).map_err(Into::into),
            21 if !self.copied => {
                let path = self.fresh(root, &tree.dirs);
                self.made.push(path.clone());
                sparse(&path, self.pick(1 << 20) as u64)
            }
            22 => rfs::mknodat(CWD, self.fresh(root, &tree.dirs), rfs::FileType::Fifo, rfs::Mode::RUSR, 0)
                .map_err(Into::into),
            23 => {
                let path = self.one(&tree.files)?;
                fs::remove_file(&path)
                    .and_then(|()| if self.pick(2) == 0 { fs::create_dir(path) } else { symlink("q", path) })
            }
            24 => {
                let path = self.one(&tree.dirs)?;
                fs::remove_dir_all(&path).and_then(|()| {
                    if self.pick(2) == 0 { fs::create_dir(path) } else { fs::write(path, "was a directory") }
                })
            }
            _ => return None,
        })
    }
}

fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    rfs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).map_err(Into::into)
}
