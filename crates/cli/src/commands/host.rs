//! `doctor`, `completions`: this machine.

use crate::Done;
use crate::output::Output;
use crate::render;
use clap::CommandFactory;
use fvm::model::{Mode, exit};
use fvm::{Fvm, Level};

/// `fvm completions`.
pub fn completions(shell: clap_complete::Shell, out: &Output) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::args::Cli::command(), "fvm", &mut script);
    out.write(|w| w.write_all(&script))?;
    Ok(exit::DONE)
}

/// `fvm doctor`.
pub fn doctor(fvm: &Fvm, out: &Output, verbose: bool) -> Done {
    let (kernel, mode, place) = fvm.doctor()?;
    let guard = super::guard::state(fvm);
    if out.json() {
        let place = match &place {
            Ok(place) => serde_json::json!({ "dir": place.dir, "why": place.why }),
            Err(why) => serde_json::json!({ "missing": why }),
        };
        let features: Vec<_> = kernel
            .features
            .iter()
            .map(|f| {
                let (level, reason) = match &f.level {
                    Level::Enforced => ("enforced", None),
                    Level::Partly(why) => ("partly", Some(why)),
                    Level::Missing(why) => ("missing", Some(why)),
                };
                serde_json::json!({ "name": f.name, "level": level, "reason": reason, "needed_for": f.needed_for, "advice": f.advice })
            })
            .collect();
        out.document(&serde_json::json!({ "mode": mode, "layers": place, "guard": guard, "features": features }))?;
        return Ok(exit::DONE);
    }
    out.write(|w| {
        let described = match mode {
            Mode::Shifted => "root, with a shifted user namespace (strongest)",
            Mode::Identity => {
                "root in a container: the host's root file system is an overlay, so user ids are not shifted"
            }
            Mode::Rootless => "rootless: as an ordinary user, without privileges",
        };
        writeln!(w, "mode     {described}")?;
        match &place {
            Ok(place) => writeln!(w, "layers   {} ({})", place.dir.display(), place.why)?,
            Err(why) => writeln!(w, "layers   nowhere: {why}")?,
        }
        writeln!(w, "guard    {guard}")?;
        for router in fvm.routers() {
            writeln!(w, "router   {}: serves {} VMs", router.name, router.vms)?;
        }
        writeln!(w)?;
        let mut table = vec![["FEATURE".into(), "LEVEL".into(), "NEEDED FOR".into()]];
        for feature in &kernel.features {
            let level = match &feature.level {
                Level::Enforced => "ok".to_owned(),
                Level::Partly(why) => format!("partly: {why}"),
                Level::Missing(why) => format!("missing: {why}"),
            };
            table.push([feature.name.to_owned(), level, feature.needed_for.to_owned()]);
        }
        render::table(w, &table)?;
        let gaps: Vec<_> = kernel.features.iter().filter(|f| verbose || !matches!(f.level, Level::Enforced)).collect();
        for feature in gaps {
            if let Some(advice) = &feature.advice {
                writeln!(w, "\n{}: {advice}", feature.name)?;
            }
        }
        Ok(())
    })?;
    Ok(exit::DONE)
}
