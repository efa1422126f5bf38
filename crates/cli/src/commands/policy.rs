//! `policy list`, `show`, `check`: what VMs may use.

use crate::args::PolicyCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::{Done, dirs};
use fvm::FvmError;
use fvm::model::exit;
use fvm::model::policy::Flags;

/// `fvm policy`.
pub fn policy(out: &Output, command: &PolicyCommand) -> Done {
    let dirs = dirs::policy_dirs();
    match command {
        PolicyCommand::List => {
            let all = fvm::policies(&dirs);
            if out.json() {
                out.document(&all)?;
                return Ok(exit::DONE);
            }
            let width = all.iter().map(|p| p.name.len()).max().unwrap_or(0);
            out.write(|w| {
                for entry in &all {
                    let file = entry.file.as_ref().map(|f| f.display().to_string());
                    let about = entry.about.clone().or(file).unwrap_or_default();
                    writeln!(w, "{:width$}  {about}", entry.name)?;
                }
                Ok(())
            })?;
        }
        PolicyCommand::Show { name } => {
            let policy = fvm::policy(Some(name), &Flags::default(), &dirs)?;
            if out.json() {
                out.document(&policy)?;
            } else {
                out.write(|w| write!(w, "# {}, with all that it extends\n{}", policy.name.0, policy.to_toml()))?;
            }
        }
        PolicyCommand::Check { files } => {
            let mut wrong = 0;
            for file in files {
                // A file, whatever it is called.
                let named = if file.contains('/') { file.clone() } else { format!("./{file}") };
                match fvm::policy(Some(&named), &Flags::default(), &dirs) {
                    Ok(_) => out.say(&format!("{file}: good")),
                    Err(FvmError::Policy(error)) => {
                        wrong += 1;
                        out.failure(&Failure::usage(error.to_string(), "'fvm policy show default' shows every key"));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if wrong > 0 {
                return Ok(exit::USAGE);
            }
        }
    }
    Ok(exit::DONE)
}
