//! What a visit left: the VM's side, and files that were fetched, out of its layers.
//!
//! Invariant: a file that was fetched is stored under its hash and nothing else; what the page called it is a text.

use super::browser::DOWNLOADS;
use super::machine::{Machine, words};
use super::site::Visit;
use crate::model::{DOWNLOAD_MAX_BYTES, Ended, Network, Observation, REDIRECTS_MAX};
use crate::net::proxy::SAID;
use crate::observe::page::Watch;
use crate::observe::{har, vm};
use fvm::FvmError;
use sha2::{Digest, Sha256};
use std::io::Read as _;
use url::Url;

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
        seen.odd = machine.plug().odd();
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
        let is_live = self.with.params.network == Network::Live;
        if let Some(word) = by_gate(seen, &machine.plug().refused(), is_live) {
            let why = format!("the gate: {word}");
            seen.ended =
                if FAULTS_OF_OURS.contains(&word.as_str()) { Ended::Failed { why } } else { Ended::NotReached { why } };
        }
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

/// Why there was nothing of the site to be judged: it is not its fault, and another try may do.
const FAULTS_OF_OURS: [&str; 3] = ["cannot-record", "no-name-server", "too-much"];

/// What the gate answered in place of the site, if the page that was loaded is that. Said by the gate itself; a site's header alone counts
/// for nothing. `is_live`: what came by TLS is the site's alone.
fn by_gate(seen: &Observation, refused: &[(String, String)], is_live: bool) -> Option<String> {
    let page = seen.requests.iter().rfind(|request| request.kind == "Document" && request.url == seen.final_url)?;
    let said = page.response_headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(SAID)).map(|(_, word)| word)?;
    let url = Url::parse(&page.url).ok()?;
    if is_live && url.scheme() == "https" {
        return None;
    }
    let place = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
    refused.iter().any(|(at, word)| *at == place && word == said).then(|| said.clone())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Request;

    #[test]
    fn the_gates_own_page_is_not_the_sites() {
        let page = |url: &str, header: &str, word: &str| Observation {
            final_url: url.into(),
            requests: vec![Request {
                url: url.into(),
                kind: "Document".into(),
                response_headers: [(header.to_owned(), word.to_owned())].into(),
                ..Request::default()
            }],
            ..Observation::default()
        };
        let refused =
            [("a.test:80".to_owned(), "no-such-name".to_owned()), ("a.test:443".to_owned(), "tls".to_owned())];
        let by = |seen: &Observation| by_gate(seen, &refused, true);
        assert_eq!(by(&page("http://a.test/x", "Fvm-Gate", "no-such-name")), Some("no-such-name".into()));
        // A site that says so itself.
        assert_eq!(by(&page("http://b.test/", "fvm-gate", "no-such-name")), None);
        assert_eq!(by(&page("http://a.test/", "fvm-gate", "too-much")), None);
        assert_eq!(by(&page("http://a.test/", "server", "no-such-name")), None);
        // One that was not reached at first, and then forges it where the gate cannot look; where it can, it is the gate's.
        let forged = page("https://a.test/", "fvm-gate", "tls");
        assert_eq!((by(&forged), by_gate(&forged, &refused, false)), (None, Some("tls".into())));
        assert_eq!(by(&Observation::default()), None);
    }
}
