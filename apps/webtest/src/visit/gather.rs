//! What a visit left: the VM's side, and files that were fetched, out of its layers.
//!
//! Invariant: a file that was fetched is stored under its hash and nothing else; what the page called it is a text.

use super::browser::DOWNLOADS;
use super::machine::{Machine, words};
use super::site::Visit;
use crate::model::{DOWNLOAD_MAX_BYTES, Ended, Observation, REDIRECTS_MAX};
use crate::observe::page::Watch;
use crate::observe::{har, vm};
use fvm::FvmError;
use sha2::{Digest, Sha256};
use std::io::Read as _;

impl Visit<'_> {
    /// What the VM shows, and all that the page did, into the observation; the VM does not run any more.
    pub(super) fn gather(
        &self,
        machine: &mut Machine,
        watch: &mut Watch,
        seen: &mut Observation,
        ended: Ended,
    ) -> Result<(), String> {
        let usage = machine.usage();

        (seen.cpu_ms, seen.memory_bytes) = (usage.cpu_us as f64 / 1000.0, usage.memory_peak_bytes);
        let is_out_of_memory = usage.memory_kills.unwrap_or(0) > 0;
        seen.exit = machine.plug().exit();
        seen.foreign = machine.plug().foreign();
        let is_through = matches!(ended, Ended::Done | Ended::NotReached { .. });
        seen.ended = if is_out_of_memory && !is_through { Ended::OutOfMemory } else { ended };
        let record = machine.record().ok_or("the VM is gone")?.clone();
        let proxy = machine.plug().proxy();
        let mut cut = std::mem::take(&mut watch.cut);
        let with = self.with;
        self.downloads(&record, watch, seen)?;
        let side = vm::Side {
            fvm: &with.fvm,
            record: &record,
            browser: &self.ready.browser.file,
            baseline: &self.ready.baseline,
            settings: &with.settings,
            proxy: &proxy,
        };
        side.look(seen, &mut cut)?;
        let (url, redirects) = watch.way();
        if !url.is_empty() {
            seen.final_url = url;
        }
        seen.redirects = redirects.into_iter().take(REDIRECTS_MAX).collect();
        (seen.requests, seen.certificates) = std::mem::take(&mut watch.requests).into_parts();
        seen.console = std::mem::take(&mut watch.console);
        seen.fights = std::mem::take(&mut watch.fights);
        seen.fights.swelled = is_out_of_memory;
        if machine.line.too_long() > 0 {
            seen.cut.push(format!("messages of the browser: {} more", machine.line.too_long()));
        }
        seen.cut.extend(cut.words());
        seen.took_ms = self.began.elapsed().as_secs_f64() * 1000.0;
        seen.artifacts.har = self.keep(&har::har(seen));
        Ok(())
    }

    /// Files that were fetched, out of the VM's layers into the store.
    fn downloads(
        &self,
        record: &fvm::model::VmRecord,
        watch: &mut Watch,
        seen: &mut Observation,
    ) -> Result<(), String> {
        if watch.fetched.is_empty() {
            return Ok(());
        }
        let failed = |e: FvmError| words("read what was downloaded", &e);
        let input = self.with.fvm.scan_input(record).map_err(failed)?;
        let set = self.with.fvm.changes(record).map_err(failed)?;
        for fetched in watch.fetched.clone() {
            let path = format!("{DOWNLOADS}/{}", fetched.guid);
            let mut download = fetched.download;
            let change = set.changes.iter().find(|change| change.path.as_bytes() == path.as_bytes());
            if let Some(file) = change.and_then(|change| fvm::open_after(&input, change).ok()) {
                let mut bytes = Vec::new();
                let mut file = std::fs::File::from(file).take(DOWNLOAD_MAX_BYTES);
                if fetched.is_whole && file.read_to_end(&mut bytes).is_ok() {
                    download.bytes = bytes.len() as u64;
                    download.mime = Some(mime(&bytes).to_owned());
                    let name: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                    download.sha256 = self.keep(&bytes).filter(|kept| *kept == name);
                }
            }
            seen.downloads.push(download);
        }
        Ok(())
    }
}

/// What a file is by its content.
fn mime(bytes: &[u8]) -> &'static str {
    match infer::get(bytes) {
        Some(kind) => kind.mime_type(),
        None if bytes.starts_with(b"#!") => "text/x-script",
        None if std::str::from_utf8(&bytes[..bytes.len().min(4096)]).is_ok() => "text/plain",
        None => "application/octet-stream",
    }
}
