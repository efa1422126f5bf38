//! The laboratory: sites of many kinds behind a gate of its own, what is expected of each, and visits of them.

pub mod attacks;
pub mod bare;
pub mod benign;
pub mod fighters;
pub mod gate;
pub mod http;

use fvm_webtest::model::{Ended, Kind, Observation};
use gate::{Sites, Wire};
use http::{Answer, Asked};
use std::collections::HashMap;

type Serve = Box<dyn Fn(&Asked, &mut dyn Wire, u32) + Send + Sync>;
type Check = fn(&Observation) -> bool;

/// A site, and what is expected of its visit.
pub struct Site {
    pub host: String,
    pub url: String,
    pub want: Kind,
    /// Or this: it depends on the browser's version, or on how fast the machine is.
    pub or: Option<Kind>,
    /// It has to be left alone longer than others.
    pub is_patient: bool,
    /// A rule that must be among the reasons.
    pub rule: Option<&'static str>,
    /// How it must end, if that is certain.
    pub how: Option<&'static str>,
    /// What else must be seen.
    pub check: Check,
    pub bad_certificate: bool,
    serve: Serve,
}

/// A site at `http://<host>.test/`.
pub fn site(host: &str, want: Kind) -> Site {
    let host = format!("{host}.test");
    Site {
        url: format!("http://{host}/"),
        host,
        want,
        or: None,
        is_patient: false,
        rule: None,
        how: None,
        check: |_| true,
        bad_certificate: false,
        serve: Box::new(|_, _, _| ()),
    }
}

impl Site {
    /// Whether it is called so.
    pub fn is(&self, name: &str) -> bool {
        self.host.strip_suffix(".test") == Some(name)
    }

    pub fn https(mut self) -> Self {
        self.url = self.url.replace("http:", "https:");
        self
    }

    /// Is expected to be `kind`, too, and then for whatever reason.
    pub fn or(mut self, kind: Kind) -> Self {
        self.or = Some(kind);
        self
    }

    pub fn patient(mut self) -> Self {
        self.is_patient = true;
        self
    }

    pub fn rule(mut self, rule: &'static str) -> Self {
        self.rule = Some(rule);
        self
    }

    pub fn how(mut self, how: &'static str) -> Self {
        self.how = Some(how);
        self
    }

    pub fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// All bytes are its own affair.
    pub fn raw(mut self, serve: impl Fn(&Asked, &mut dyn Wire, u32) + Send + Sync + 'static) -> Self {
        self.serve = Box::new(serve);
        self
    }

    /// An answer for each request.
    pub fn answers(self, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        self.raw(move |asked, mut wire, _| drop(answer(asked).send(&mut wire)))
    }

    /// One page, and nothing else.
    pub fn page(self, html: impl Into<String>) -> Self {
        let html = html.into();
        self.answers(move |asked| if asked.path == "/" { Answer::html(html.as_str()) } else { Answer::status(404) })
    }
}

/// How a visit ended, as the table says it.
pub fn how(seen: &Observation) -> &'static str {
    match &seen.ended {
        Ended::Done => "done",
        Ended::NeverLoaded => "never-loaded",
        Ended::TimedOut => "timed-out",
        Ended::NotReached { .. } => "not-reached",
        Ended::RendererCrashed => "renderer-crashed",
        Ended::BrowserCrashed => "browser-crashed",
        Ended::OutOfMemory => "out-of-memory",
        Ended::DiskFull => "disk-full",
        Ended::Failed { .. } => "failed",
    }
}

/// All of them, by name.
#[derive(Default)]
pub struct Net(pub HashMap<String, Site>);

impl Net {
    pub fn of(sites: Vec<Site>) -> Self {
        Self(sites.into_iter().map(|site| (site.host.clone(), site)).collect())
    }
}

impl Sites for Net {
    fn answer(&self, asked: &Asked, client: &mut dyn Wire, pid: u32) {
        // A name that nobody has is a connection that ends.
        if let Some(site) = self.0.get(&asked.host) {
            (site.serve)(asked, client, pid);
        }
    }

    fn has_bad_certificate(&self, host: &str) -> bool {
        self.0.get(host).is_some_and(|site| site.bad_certificate)
    }
}
