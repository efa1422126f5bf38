//! Documents: which program opens a file, and a handler that opens marked ones in a VM.
//!
//! ```text
//!   a.pdf ─ globs2 ─► application/pdf ─ mimeapps.list, mimeinfo.cache ─► evince.desktop ─ Exec ─► evince a.pdf
//! ```
//!
//! Formats: shared-mime-info, MIME applications associations, desktop entries (freedesktop.org).
//!
//! Invariants: pure but for [`Desktop`], which reads the files named in its directories; our own handler never opens a file
//! with itself.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Our handler.
pub const ID: &str = "fvm-open.desktop";
/// Types that our handler can be the usual program for.
pub const TYPES: &[&str] = &[
    "application/pdf",
    "application/zip",
    "application/rtf",
    "application/msword",
    "application/vnd.ms-excel",
    "application/vnd.ms-powerpoint",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "application/vnd.oasis.opendocument.text",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.oasis.opendocument.presentation",
    "image/svg+xml",
    "text/html",
    "application/x-shellscript",
    "application/x-desktop",
    "application/java-archive",
];

/// The text of our handler; `fvm`: this program.
#[must_use]
pub fn entry(fvm: &Path) -> String {
    let program = fvm.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!(
        "[Desktop Entry]\nType=Application\nName=Open safely\nComment=Files that came out of untrusted VMs open in a VM\n\
         Exec=\"{program}\" open %f\nTerminal=false\nNoDisplay=true\nMimeType={};\n",
        TYPES.join(";")
    )
}

/// A section of a text as the desktop writes them: keys and values.
fn section<'t>(text: &'t str, name: &str) -> BTreeMap<&'t str, &'t str> {
    let mut within = false;
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            within = head == name;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| within && !line.starts_with('#')) {
            found.entry(key.trim()).or_insert(value.trim());
        }
    }
    found
}

/// The programs for a type that such a text names, the usual ones first.
fn handlers(text: &str, mime: &str) -> Vec<String> {
    let of = |name| section(text, name).get(mime).map(|value| value.to_string()).unwrap_or_default();
    let all = ["Default Applications", "Added Associations", "MIME Cache"].map(of).join(";");
    all.split(';').map(str::trim).filter(|id| !id.is_empty() && *id != ID).map(ToOwned::to_owned).collect()
}

/// The type of a file by its name, from the text of `globs2`.
fn mime_of(globs: &str, name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let mut best: Option<(u32, usize, &str)> = None;
    for line in globs.lines().filter(|line| !line.starts_with('#')) {
        let mut parts = line.splitn(4, ':');
        let (Some(weight), Some(mime), Some(glob)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let Ok(weight) = weight.parse::<u32>() else { continue };
        let matches = match glob.strip_prefix('*') {
            Some(end) => lower.ends_with(&end.to_lowercase()),
            None => lower == glob.to_lowercase(),
        };
        if matches && best.is_none_or(|(w, len, _)| (weight, glob.len()) > (w, len)) {
            best = Some((weight, glob.len(), mime));
        }
    }
    best.map(|(.., mime)| mime.to_owned())
}

/// The words by which a desktop entry opens a file; `None` when it is none that does.
fn command(text: &str, file: &OsStr) -> Option<Vec<OsString>> {
    let keys = section(text, "Desktop Entry");
    let mut words = Vec::new();
    let mut given = false;
    for word in words_of(keys.get("Exec")?)? {
        match word.as_str() {
            "%f" | "%F" | "%u" | "%U" => {
                given = true;
                words.push(file.to_owned());
            }
            "%i" | "%c" | "%k" | "%d" | "%D" | "%n" | "%N" | "%v" | "%m" => {}
            _ => words.push(word.replace("%%", "%").into()),
        }
    }
    (given && words.len() > 1).then_some(words)
}

/// The words of an `Exec` line: quoted ones keep their blanks.
fn words_of(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quoted, mut open) = (Vec::new(), String::new(), false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                open = true;
            }
            '\\' if quoted => word.push(chars.next()?),
            ' ' if !quoted => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            c => word.push(c),
        }
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    (!quoted).then_some(words)
}

/// `mimeapps.list` with our handler as the usual one for [`TYPES`], the others behind it; or without it.
#[must_use]
pub fn associate(text: &str, with: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut within = false;
    let (mut end, mut there) = (0, false);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            within = trimmed == "[Default Applications]";
            there |= within;
        }
        match trimmed.split_once('=').filter(|_| within) {
            Some((key, value)) => {
                let rest: Vec<&str> = value.split(';').filter(|id| !id.is_empty() && *id != ID).collect();
                let ours = with && TYPES.contains(&key.trim());
                if ours {
                    seen.extend(TYPES.iter().find(|t| **t == key.trim()));
                }
                let all: Vec<&str> = ours.then_some(ID).into_iter().chain(rest).collect();
                if !all.is_empty() {
                    lines.push(format!("{}={};", key.trim(), all.join(";")));
                }
            }
            None => lines.push(line.to_owned()),
        }
        if within {
            end = lines.len();
        }
    }
    if with {
        if !there {
            lines.push("[Default Applications]".into());
            end = lines.len();
        }
        for mime in TYPES.iter().filter(|t| !seen.contains(t)) {
            lines.insert(end, format!("{mime}={ID};"));
            end += 1;
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The directories of a user's desktop, the user's own first.
#[derive(Debug, Clone)]
pub struct Desktop {
    /// `$XDG_CONFIG_HOME`.
    pub config: PathBuf,
    /// `$XDG_DATA_HOME`, then `$XDG_DATA_DIRS`.
    pub data: Vec<PathBuf>,
}

impl Desktop {
    /// The words by which a file would be opened on the host; `None`: nothing is known that does.
    #[must_use]
    pub fn opener(&self, file: &Path) -> Option<Vec<OsString>> {
        let read = |path: PathBuf| std::fs::read_to_string(path).ok();
        let name = file.file_name()?.to_string_lossy().into_owned();
        let globs = self.data.iter().filter_map(|dir| read(dir.join("mime/globs2")));
        let mime = globs.into_iter().find_map(|text| mime_of(&text, &name)).unwrap_or_else(|| "text/plain".into());
        let lists = [self.config.join("mimeapps.list")].into_iter().chain(
            self.data
                .iter()
                .flat_map(|dir| ["mimeapps.list", "mimeinfo.cache"].map(|f| dir.join("applications").join(f))),
        );
        let ids = lists.filter_map(read).flat_map(|text| handlers(&text, &mime)).collect::<Vec<_>>();
        let entry = |id: &String| {
            self.data
                .iter()
                .find_map(|dir| read(dir.join("applications").join(Path::new(OsStr::from_bytes(id.as_bytes())))))
        };
        ids.iter().filter(|id| !id.contains('/')).filter_map(entry).find_map(|text| command(&text, file.as_os_str()))
    }

    /// Makes our handler the usual one, or not any more. Returns the files written.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn install(&self, fvm: &Path, with: bool) -> Result<Vec<PathBuf>, crate::GuardError> {
        let io = |what, path: &Path| crate::GuardError::io(what, path.to_owned());
        let Some(data) = self.data.first() else { return Ok(Vec::new()) };
        let (place, list) = (data.join("applications").join(ID), self.config.join("mimeapps.list"));
        let old = std::fs::read_to_string(&list).unwrap_or_default();
        if with {
            let dir = data.join("applications");
            std::fs::create_dir_all(&dir).map_err(io("make", &dir))?;
            std::fs::create_dir_all(&self.config).map_err(io("make", &self.config))?;
            std::fs::write(&place, entry(fvm)).map_err(io("write", &place))?;
        }
        let new = list.with_extension(format!("fvm-{}", std::process::id()));
        if with || !old.is_empty() {
            let replaced = std::fs::write(&new, associate(&old, with)).and_then(|()| std::fs::rename(&new, &list));
            replaced.map_err(io("write", &list))?;
        }
        if !with && place.exists() {
            std::fs::remove_file(&place).map_err(io("remove", &place))?;
        }
        Ok(vec![place, list])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_comes_from_the_longest_heaviest_name() {
        let globs =
            "# x\n50:application/gzip:*.gz\n50:application/x-compressed-tar:*.tar.gz\n60:text/x-make:makefile\n";
        assert_eq!(mime_of(globs, "A.TAR.GZ").as_deref(), Some("application/x-compressed-tar"));
        assert_eq!(mime_of(globs, "Makefile").as_deref(), Some("text/x-make"));
        assert_eq!(mime_of(globs, "x"), None);
    }

    #[test]
    fn a_line_becomes_words() {
        let of =
            |exec: &str| command(&format!("[Desktop Entry]\nExec={exec}\n[Other]\nExec=no %f\n"), OsStr::new("/a b"));
        assert_eq!(of("evince %U").unwrap(), ["evince", "/a b"]);
        assert_eq!(of("\"/opt/a b/x\" --pct 5%% %i %f").unwrap(), ["/opt/a b/x", "--pct", "5%", "/a b"]);
        assert_eq!(of("evince"), None);
        assert_eq!(of("\"open %f"), None);
    }

    #[test]
    fn our_handler_comes_and_goes_and_the_others_stay() {
        let old = "[Added Associations]\nx/y=z.desktop;\n[Default Applications]\napplication/pdf=evince.desktop\nx/y=z.desktop;\n";
        let with = associate(old, true);
        assert!(with.contains("application/pdf=fvm-open.desktop;evince.desktop;\n"), "{with}");
        assert!(with.contains("text/html=fvm-open.desktop;\n"));
        assert_eq!(associate(&with, true), with);
        assert_eq!(handlers(&with, "application/pdf"), ["evince.desktop"], "never itself");
        let without = associate(&with, false);
        assert!(!without.contains(ID) && without.contains("application/pdf=evince.desktop;\n"), "{without}");
        assert!(without.contains("[Added Associations]\nx/y=z.desktop;\n"));
        assert!(associate("", true).starts_with("[Default Applications]\n"));
    }
}
