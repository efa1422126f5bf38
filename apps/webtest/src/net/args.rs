//! What `fvm webtest crawl` and `fvm webtest mirror` are given, and what that means.

use super::proxy::address::Network;
use super::proxy::dial::Reach;
use super::proxy::exit::Exit;
use super::proxy::record::Record;
use super::proxy::tls::{Authority, ROOTS, Servers};
use super::proxy::{Limits, Live};
use super::warc::write::Recorder;
use crate::crawl::CrawlError;
use crate::crawl::scope::Scope;
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// How bytes go out.
#[derive(Debug, Clone, Args)]
pub struct OutArgs {
    /// Go out through these proxies in turns (http://host:port, socks5://host:port)
    #[arg(long = "proxy", value_name = "URL")]
    pub proxies: Vec<Exit>,
    /// Addresses that may be reached though they are not of the internet (10.1.0.0/16); by default none of them is
    #[arg(long = "allow-address", value_name = "NETWORK")]
    pub allow: Vec<Network>,
    /// Whom servers' certificates are to be signed by: a PEM file
    #[arg(long, value_name = "FILE", default_value = ROOTS)]
    pub roots: PathBuf,
}

impl Default for OutArgs {
    fn default() -> Self {
        Self { proxies: Vec::new(), allow: Vec::new(), roots: ROOTS.into() }
    }
}

impl OutArgs {
    /// The net.
    #[must_use]
    pub fn live(&self) -> Live {
        Live::new(Reach { allow: self.allow.clone(), ..Reach::default() }, self.proxies.clone())
    }

    /// The net, recorded into a directory.
    ///
    /// # Errors
    /// When it cannot be written, or nobody is known to be trusted.
    pub fn record(&self, dir: &Path) -> Result<Record, CrawlError> {
        let servers = Servers::trusting(&self.roots)?;
        let (authority, recorder) = (Authority::new()?, Arc::new(Recorder::open(dir)?));
        Ok(Record { live: self.live(), recorder, authority, servers })
    }
}

/// `fvm webtest crawl`.
#[derive(Debug, Clone, Args)]
pub struct CrawlArgs {
    /// Where the WARC files go; a crawl that was begun there goes on
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where it begins
    #[arg(value_name = "URL", required = true)]
    pub begin: Vec<Url>,
    /// Follow links so far
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub depth: u32,
    /// Crawl these hosts too (example.org, *.example.org)
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Crawl whatever host is linked to
    #[arg(long)]
    pub any_host: bool,
    /// Only pages whose path begins so
    #[arg(long = "prefix", value_name = "PATH")]
    pub prefixes: Vec<String>,
    /// So many pages at most
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub pages: u64,
    /// So many pages of one host at most
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub pages_per_host: u64,
    /// So many MiB of one answer at most
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    pub page_mib: u64,
    /// So many MiB in all at most
    #[arg(long, value_name = "MIB", default_value_t = 16 << 10)]
    pub mib: u64,
    /// Only pages of this type (text/html)
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Pages only, without their pictures, styles and scripts
    #[arg(long)]
    pub no_parts: bool,
    /// Do not heed robots.txt: for your own sites
    #[arg(long)]
    pub no_robots: bool,
    /// Do not look for sitemaps
    #[arg(long)]
    pub no_sitemaps: bool,
    /// Milliseconds between two requests to one host
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub pause: u64,
    /// So many requests at once
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub at_once: usize,
    /// What the crawler calls itself
    #[arg(long, value_name = "TEXT")]
    pub user_agent: Option<String>,
    /// How bytes go out.
    #[command(flatten)]
    pub out: OutArgs,
}

impl CrawlArgs {
    /// How far it goes.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let usual = Scope::default();
        Scope {
            depth: self.depth,
            hosts: self.hosts.clone(),
            any_host: self.any_host,
            prefixes: self.prefixes.clone(),
            pages_per_host: self.pages_per_host,
            pages: self.pages,
            page_max_bytes: self.page_mib << 20,
            bytes: self.mib << 20,
            types: self.types.clone(),
            parts: !self.no_parts,
            robots: !self.no_robots,
            sitemaps: !self.no_sitemaps,
            pause_ms: self.pause,
            at_once: (self.at_once, usual.at_once.1),
            user_agent: self.user_agent.clone().unwrap_or(usual.user_agent),
        }
    }

    /// What a crawl may do: bytes are limited by its scope.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { vm_max_bytes: u64::MAX, ..Limits::default() }
    }
}

/// `fvm webtest mirror`.
#[derive(Debug, Clone, Args)]
pub struct MirrorArgs {
    /// A directory of WARC files
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where your own browser finds it, as its HTTP proxy
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Write the throw-away certificate of this mirror to a file, for a browser to trust; it ends with the mirror
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
}

/// How a run's VMs go out, by its parameters.
///
/// # Errors
/// When a proxy is none, or the WARC set cannot be used.
pub fn way_of(params: &crate::model::Params, out: &OutArgs) -> Result<super::proxy::Way, String> {
    use super::proxy::Way;
    let mut out = out.clone();
    for proxy in &params.proxies {
        out.proxies.push(proxy.parse::<Exit>().map_err(|e| e.to_string())?);
    }
    match &params.network {
        crate::model::Network::Live => Ok(Way::Live(out.live())),
        crate::model::Network::Record { dir } => out.record(Path::new(dir)).map(Way::Record).map_err(|e| e.to_string()),
        crate::model::Network::Replay { dir } => {
            super::mirror::way(Path::new(dir)).map(Way::Replay).map_err(|e| e.to_string())
        }
    }
}
