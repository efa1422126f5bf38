//! `analyze`: what a VM did, judged; and the same for `status`, `commit` and the end of `run`.

use super::changes;
use crate::args::{AnalysisArgs, Analyze};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::findings as render;
use crate::{Done, dirs};
use fvm::model::path::printable;
use fvm::model::{Change, Verdict, VmPath, VmRecord, exit};
use fvm::{Findings, Fvm, FvmError, Settings, Sigma};
use std::path::Path;

/// Largest exceptions file.
const EXCEPTIONS_MAX_BYTES: u64 = 1 << 20;

/// `fvm analyze`.
pub fn analyze(fvm: &Fvm, out: &Output, args: &Analyze) -> Done {
    let record = fvm.find(&args.name)?;
    let (changes, warnings) = changes::read_all(fvm, out, &record)?;
    let found = findings(fvm, out, &record, &mut changes.iter(), &warnings, &args.analysis)?;
    if out.json() {
        out.document(&found.report)?;
    } else {
        out.write(|w| render::report(w, &record, &found.report))?;
    }
    Ok(match found.report.verdict {
        Verdict::Clean => exit::DONE,
        Verdict::Suspicious | Verdict::Malicious => exit::FOUND,
        Verdict::Unknown => exit::UNSEEN,
    })
}

/// Judges what a VM did, as the options say.
pub fn findings(
    fvm: &Fvm,
    out: &Output,
    record: &VmRecord,
    changes: &mut dyn Iterator<Item = Change>,
    warnings: &[String],
    args: &AnalysisArgs,
) -> Result<Findings, Failure> {
    let mut settings = settings(fvm, out, args)?;
    settings.hidden.clone_from(&record.policy.files.hide);
    let what = format!("looking at what {} did", record.name);
    Ok(out.during(&what, || fvm.analyze(record, changes, warnings, &settings, args.clamd.as_deref()))?)
}

fn settings(fvm: &Fvm, out: &Output, args: &AnalysisArgs) -> Result<Settings, Failure> {
    let mut settings = Settings { homes: fvm.homes(), ..Settings::default() };
    settings.homes.extend(dirs::user_home().and_then(|home| VmPath::new(home).ok()));
    if let Some(dir) = &args.sigma {
        let sigma = Sigma::load(dir).map_err(FvmError::from)?;
        if sigma.loaded == 0 {
            let next = "give a directory with Sigma rules for Linux, such as rules/linux of SigmaHQ/sigma";
            return Err(Failure::new(format!("no rule in '{}' can be used", dir.display()), next));
        }
        let over = sigma.passed_over.len();
        if over > 0 {
            let (file, why) = &sigma.passed_over[0];
            let (name, why) = (printable(file.as_os_str().as_encoded_bytes()), printable(why.as_bytes()));
            out.say(&format!("{} Sigma rules; {over} are passed over, such as {name}: {why}", sigma.loaded));
        }
        settings.sigma = Some(sigma);
    }
    let usual: Vec<_> = dirs::exception_files().into_iter().filter(|file| file.exists()).collect();
    let files = if args.exceptions.is_empty() { &usual } else { &args.exceptions };
    for file in files {
        let text = read(file).map_err(|e| {
            Failure::new(
                format!("cannot read the exceptions in '{}': {e}", file.display()),
                "give another --exceptions FILE",
            )
        })?;
        let name = printable(file.as_os_str().as_encoded_bytes());
        settings.exceptions.add(&name, &text).map_err(FvmError::from)?;
    }
    Ok(settings)
}

fn read(file: &Path) -> std::io::Result<String> {
    if file.metadata()?.len() > EXCEPTIONS_MAX_BYTES {
        return Err(std::io::Error::other(format!("it has more than {EXCEPTIONS_MAX_BYTES} bytes")));
    }
    std::fs::read_to_string(file)
}
