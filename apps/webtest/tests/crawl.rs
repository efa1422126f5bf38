//! A crawl of very many sites that the test's server makes up, and the visit of all their pages from the mirror, with no server.
//!
//! `FVM_CRAWL_SITES=237` and `FVM_CRAWL_PAGES=20` make it the whole; how quick it was is printed.
#![expect(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod support;

use fvm_webtest::crawl::scope::{Out, Scope};
use fvm_webtest::crawl::{CrawlError, Progress, crawl};
use fvm_webtest::net::mirror;
use fvm_webtest::net::proxy::Limits;
use fvm_webtest::net::proxy::names::Names;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use support::{Asked, Server, ask, names, reach, record, respond};
use url::Url;

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

fn host(n: usize) -> String {
    format!("site{n}.test")
}

/// Page `page` of site `site`: a tree within the site, one link to another site, parts, and traps.
fn page(site: usize, page: usize, sites: usize, pages: usize, port: u16) -> String {
    let mut html = format!("<!doctype html><title>{site}/{page}</title><link rel=stylesheet href=/style.css>");
    for child in [2 * page + 1, 2 * page + 2].into_iter().filter(|child| *child < pages) {
        let _ok = write!(html, "<a href='/p{child}?from={page}#x'>{child}</a><a href=/p{child}>{child}</a>");
    }
    let other = (site * 7 + page + 1) % sites;
    let _ok = write!(html, "<a href=http://{}:{port}/>elsewhere</a><a href=/private/{page}>private</a>", host(other));
    let _ok = write!(html, "<img src=/dot.png?{page}><a href=http://outside.test/>out</a>");
    html + &format!("<p>{}</p>", format!("words of {site} and {page} ").repeat(60))
}

struct Sites {
    server: Server,
    /// How often each address was asked for.
    asked: Arc<Mutex<HashMap<String, u32>>>,
}

fn sites(sites: usize, pages: usize) -> Sites {
    let asked: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let count = Arc::clone(&asked);
    let server = Server::new(move |asked: &Asked, stream| {
        let port = stream.local_addr().unwrap().port();
        *count.lock().unwrap().entry(format!("{}{}", asked.host(), asked.path)).or_default() += 1;
        let site: usize = asked.host().trim_start_matches("site").trim_end_matches(".test").parse().unwrap_or(0);
        let html = [("Content-Type", "text/html; charset=utf-8")];
        let path = asked.path.split('?').next().unwrap();
        match path {
            "/" => respond(stream, "200 OK", &html, page(site, 0, sites, pages, port).as_bytes()),
            "/robots.txt" => {
                let text =
                    format!("User-agent: *\nDisallow: /private/\nSitemap: http://{}:{port}/map.xml\n", asked.host());
                respond(stream, "200 OK", &[], text.as_bytes());
            }
            "/map.xml" => {
                let text =
                    format!("<urlset><url><loc>http://{}:{port}/only-in-the-map</loc></url></urlset>", asked.host());
                respond(stream, "200 OK", &[("Content-Type", "text/xml")], text.as_bytes());
            }
            "/only-in-the-map" => respond(stream, "302 Found", &[("Location", "/moved")], b""),
            "/moved" => respond(stream, "200 OK", &html, b"here now"),
            "/style.css" => respond(stream, "200 OK", &[("Content-Type", "text/css")], b"body{background:url(bg.png)}"),
            "/bg.png" | "/dot.png" => respond(stream, "200 OK", &[("Content-Type", "image/png")], &[7; 300]),
            path => match path.strip_prefix("/p").and_then(|n| n.parse().ok()).filter(|n| *n < pages) {
                Some(n) => respond(stream, "200 OK", &html, page(site, n, sites, pages, port).as_bytes()),
                None => respond(stream, "404 Not Found", &html, b"no"),
            },
        }
    });
    Sites { server, asked }
}

fn scope() -> Scope {
    Scope { depth: 30, hosts: vec!["*.test".into()], pause_ms: 0, at_once: (32, 4), ..Scope::default() }
}

fn quiet(_: &Progress) {}

#[test]
fn every_page_of_every_site_is_crawled_once_and_visited_from_the_mirror() {
    let (count, pages) = (number("FVM_CRAWL_SITES", 24), number("FVM_CRAWL_PAGES", 10));
    let sites = sites(count, pages);
    let port = sites.server.at.port();
    let dir = tempfile::tempdir().unwrap();
    let hosts: Vec<String> = (0..count).map(host).collect();
    let set = dir.path().join("set");
    let record = record(&set, reach(names(dir.path(), &hosts)), None);
    let begin = [Url::parse(&format!("http://{}:{port}/", host(0))).unwrap()];
    let limits = Limits { vm_max_bytes: u64::MAX, ..Limits::default() };
    let mut told = 0;
    let began = std::time::Instant::now();
    let done = crawl(record, &begin, &scope(), limits, &AtomicBool::new(false), &mut |_| told += 1).unwrap();
    let seconds = began.elapsed().as_secs_f64();

    let asked = sites.asked.lock().unwrap().clone();
    for site in 0..count {
        for n in 0..pages {
            let path = if n == 0 { "/".into() } else { format!("/p{n}") };
            assert_eq!(asked.get(&format!("{}{path}", host(site))), Some(&1), "site {site} {path}");
        }
        for part in ["/style.css", "/bg.png", "/dot.png?0", "/robots.txt"] {
            assert_eq!(asked.get(&format!("{}{part}", host(site))), Some(&1), "site {site} {part}");
        }
    }
    assert!(!asked.keys().any(|address| address.contains("/private/")), "robots.txt is not heeded");
    // Where it began, the sitemap is read, and what it names is followed to where it went.
    assert_eq!(asked.get("site0.test/moved"), Some(&1));
    assert_eq!(asked.get("site1.test/only-in-the-map"), None);
    assert_eq!(done.left_out.get(&Out::Robots), Some(&((count * pages) as u64)));
    assert_eq!((done.failed, done.errors.len()), (1, 1), "outside.test is nowhere: {:?}", done.errors);
    // Each page, and each but the root with a query; the sitemap's two.
    let expected = count * (pages + pages - 1) + 2;
    assert_eq!((done.pages, done.waiting), (expected as u64, 0));
    println!(
        "crawled {} pages and {} parts in {seconds:.1} s: {:.0} pages/s",
        done.pages,
        done.parts,
        done.pages as f64 / seconds
    );

    // Nothing answers any more but the mirror.
    let before = sites.server.asked();
    let began = std::time::Instant::now();
    let mirror = mirror::serve(&set, "127.0.0.1:0".parse().unwrap()).unwrap();
    let opened = began.elapsed().as_secs_f64();
    for site in 0..count {
        for n in 0..pages {
            let path = if n == 0 { "/".into() } else { format!("/p{n}") };
            let got = ask(mirror.at, "GET", &format!("http://{}:{port}{path}", host(site)), &[], b"").unwrap();
            assert_eq!((got.status, got.said()), (200, None));
            assert_eq!(got.body, page(site, n, count, pages, port).as_bytes(), "site {site} {path}");
        }
    }
    let all = count * pages;
    println!("opened in {opened:.2} s, visited {all} pages at {:.0}/s", all as f64 / began.elapsed().as_secs_f64());
    assert_eq!(sites.server.asked(), before);
}

#[test]
fn a_crawl_that_was_stopped_goes_on_and_fetches_nothing_again() {
    let (count, pages) = (6, 15);
    let sites = sites(count, pages);
    let port = sites.server.at.port();
    let dir = tempfile::tempdir().unwrap();
    let hosts: Vec<String> = (0..count).map(host).collect();
    let set = dir.path().join("set");
    let begin = [Url::parse(&format!("http://{}:{port}/", host(0))).unwrap()];
    let limits = Limits::default();
    let mut runs = 0;
    loop {
        let stop = AtomicBool::new(false);
        // The server sees how far it is; each run gets some pages further.
        let record = record(&set, reach(names(dir.path(), &hosts)), None);
        let (before, asked) = (sites.server.asked(), Arc::clone(&sites.server.asked));
        let done = std::thread::scope(|scope| {
            let crawling =
                scope.spawn(|| crawl(record, &begin, &self::scope(), limits.clone(), &stop, &mut quiet).unwrap());
            while !crawling.is_finished() && asked.load(Ordering::Relaxed) < before + 90 {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            crawling.join().unwrap()
        });
        runs += 1;
        assert!(runs < 100, "it gets nowhere");
        if sites.server.asked() < before + 90 && done.waiting == 0 {
            break;
        }
    }
    assert!(runs > 1);
    let set = fvm_webtest::net::warc::read::Set::open(&set).unwrap();
    let found = |address: &str| set.index.iter().filter(|entry| entry.url == address).count();
    for site in 0..count {
        for n in 1..pages {
            let address = format!("http://{}:{port}/p{n}", host(site));
            assert!(found(&address) >= 1, "{address} is lost");
        }
    }
    let other = Scope { depth: 1, ..scope() };
    let again = crawl(
        record(set_path(dir.path()).as_path(), reach(Names::default()), None),
        &begin,
        &other,
        limits,
        &AtomicBool::new(false),
        &mut quiet,
    );
    assert!(matches!(again, Err(CrawlError::OtherScope(_))));
}

/// What is set when an address is asked for.
type StopAt = Arc<Mutex<Option<(&'static str, Arc<AtomicBool>)>>>;

/// A site of one page without links, and a sitemap that names others.
fn mapped(pages: usize, stop_at: StopAt) -> Sites {
    let asked: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let count = Arc::clone(&asked);
    let server = Server::new(move |asked: &Asked, stream| {
        let port = stream.local_addr().unwrap().port();
        *count.lock().unwrap().entry(asked.path.clone()).or_default() += 1;
        if let Some((path, stop)) = &*stop_at.lock().unwrap()
            && *path == asked.path
        {
            stop.store(true, Ordering::SeqCst);
            // Until the crawl has seen that, nothing of it is to be there.
            std::thread::sleep(std::time::Duration::from_millis(1500));
        }
        let xml = |of: String| format!("<x>{of}</x>");
        let loc = |path: &str| format!("<loc>http://site0.test:{port}{path}</loc>");
        let (kind, body) = match asked.path.as_str() {
            "/robots.txt" => ("text/plain", format!("Sitemap: http://site0.test:{port}/maps.xml\n")),
            "/maps.xml" => ("text/xml", xml(format!("<sitemapindex>{}</sitemapindex>", loc("/map.xml")))),
            "/map.xml" => ("text/xml", xml((0..pages).map(|n| loc(&format!("/m{n}"))).collect())),
            "/" => ("text/html", "<p>nothing".into()),
            path if path.starts_with("/m") => ("text/html", "<p>here".into()),
            _ => return respond(stream, "404 Not Found", &[], b""),
        };
        respond(stream, "200 OK", &[("Content-Type", kind)], body.as_bytes());
    });
    Sites { server, asked }
}

#[test]
fn pages_that_only_a_sitemap_names_are_not_forgotten_by_a_crawl_that_goes_on() {
    let pages = 20;
    let stop_at = StopAt::default();
    let sites = mapped(pages, Arc::clone(&stop_at));
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    let begin = [Url::parse(&format!("http://{}:{}/", host(0), sites.server.at.port())).unwrap()];
    let scope = Scope { at_once: (4, 1), ..scope() };
    // Ended before the sitemap of sitemaps has come; before the sitemap has; in the midst of its pages; not at all.
    for at in [Some("/maps.xml"), Some("/map.xml"), Some("/m0"), None] {
        let stop = Arc::new(AtomicBool::new(false));
        *stop_at.lock().unwrap() = at.map(|path| (path, Arc::clone(&stop)));
        let record = record(&set, reach(names(dir.path(), &[host(0)])), None);
        crawl(record, &begin, &scope, Limits::default(), &stop, &mut quiet).unwrap();
        assert_eq!(stop.load(Ordering::SeqCst), at.is_some(), "{at:?} was not asked for");
    }
    let asked = sites.asked.lock().unwrap();
    for n in 0..pages {
        assert!(asked.contains_key(&format!("/m{n}")), "/m{n} was forgotten");
    }
    // What was being fetched when it ended is fetched again, what had come is not: the first page goes beside the sitemaps.
    assert_eq!((asked["/maps.xml"], asked["/map.xml"]), (2, 2));
    assert!(asked["/"] <= 3, "{asked:?}");
    assert!(asked.iter().all(|(path, times)| !path.starts_with("/m") || *times <= 2), "{asked:?}");
}

#[test]
fn who_did_not_answer_is_asked_once_more_by_a_crawl_that_goes_on() {
    let server = Server::new(|asked: &Asked, stream| {
        let port = stream.local_addr().unwrap().port();
        let link = format!("<a href=http://late.test:{port}/>late</a><img src=http://late.test:{port}/part>");
        let html = [("Content-Type", "text/html")];
        match (asked.host(), asked.path.as_str()) {
            (_, "/robots.txt") => respond(stream, "404 Not Found", &[], b""),
            ("site0.test", _) => respond(stream, "200 OK", &html, link.as_bytes()),
            _ => respond(stream, "200 OK", &html, b"<a href=/more>more</a>"),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    let begin = [Url::parse(&format!("http://{}:{}/", host(0), server.at.port())).unwrap()];
    let scope = Scope { sitemaps: false, ..scope() };
    let run = |hosts: &[String]| {
        let record = record(&set, reach(names(dir.path(), hosts)), None);
        crawl(record, &begin, &scope, Limits::default(), &AtomicBool::new(false), &mut quiet).unwrap()
    };
    let first = run(&[host(0)]);
    assert_eq!((first.pages, first.parts, first.failed), (1, 0, 2));
    let second = run(&[host(0), "late.test".into()]);
    assert_eq!((second.pages, second.parts, second.failed, second.resumed), (3, 1, 0, 1));
    let third = run(&[host(0), "late.test".into()]);
    assert_eq!((third.pages, third.parts, third.failed, third.resumed), (3, 1, 0, 3), "what came is done");
}

#[test]
fn what_is_packed_counts_as_what_it_is_unpacked_to() {
    let packed = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packer, &[b' '; 2 << 20]).unwrap();
        packer.finish().unwrap()
    };
    assert!(packed.len() < 10_000);
    let server = Server::new(move |asked: &Asked, stream| {
        let html = ("Content-Type", "text/html");
        match asked.path.as_str() {
            "/" => {
                let links: String = (0..20).map(|n| format!("<a href=/b{n}>{n}</a>")).collect();
                respond(stream, "200 OK", &[html], links.as_bytes());
            }
            _ => respond(stream, "200 OK", &[html, ("Content-Encoding", "gzip")], &packed),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let begin = [Url::parse(&format!("http://{}:{}/", host(0), server.at.port())).unwrap()];
    let mut n = 0;
    let mut run = |bytes: u64, page_max_bytes: u64| {
        n += 1;
        let scope = Scope { bytes, page_max_bytes, robots: false, sitemaps: false, at_once: (1, 1), ..scope() };
        let set = dir.path().join(n.to_string());
        let record = record(&set, reach(names(dir.path(), &[host(0)])), None);
        let done = crawl(record, &begin, &scope, Limits::default(), &AtomicBool::new(false), &mut quiet).unwrap();
        (done, std::fs::read_to_string(set.join("crawl.jsonl")).unwrap())
    };
    let (done, _) = run(5 << 20, 16 << 20);
    assert_eq!((done.pages, done.left_out.get(&Out::Bytes)), (1 + 3, Some(&17)), "{done:?}");
    let (done, log) = run(5 << 20, 1 << 20);
    assert_eq!((done.pages, done.left_out.get(&Out::Bytes)), (1 + 5, Some(&15)), "{done:?}");
    assert_eq!(log.matches("once it is unpacked").count(), 5);
}

fn set_path(dir: &std::path::Path) -> std::path::PathBuf {
    dir.join("set")
}

#[test]
fn limits_hold_and_are_told() {
    let sites = sites(3, 20);
    let port = sites.server.at.port();
    let dir = tempfile::tempdir().unwrap();
    let hosts: Vec<String> = (0..3).map(host).collect();
    let begin = [Url::parse(&format!("http://{}:{port}/", host(0))).unwrap()];
    let mut n = 0;
    let mut run = |scope: &Scope| {
        n += 1;
        let record = record(&dir.path().join(n.to_string()), reach(names(dir.path(), &hosts)), None);
        crawl(record, &begin, scope, Limits::default(), &AtomicBool::new(false), &mut quiet).unwrap()
    };
    let plain = Scope { parts: false, sitemaps: false, robots: false, at_once: (4, 1), ..scope() };
    let done = run(&Scope { depth: 0, ..plain.clone() });
    assert_eq!((done.pages, done.parts, done.left_out.contains_key(&Out::Depth)), (1, 0, true));
    let done = run(&Scope { hosts: Vec::new(), prefixes: vec!["/".into()], ..plain.clone() });
    assert_eq!((done.pages, done.left_out.contains_key(&Out::Host)), (39 + 20, true));
    let done = run(&Scope { pages: 10, at_once: (1, 1), ..plain.clone() });
    assert_eq!((done.pages, done.left_out.contains_key(&Out::Pages)), (10, true));
    let done = run(&Scope { bytes: 5_000, at_once: (1, 1), ..plain.clone() });
    assert!(done.left_out.contains_key(&Out::Bytes) && done.bytes < 10_000);
    let done = run(&Scope { page_max_bytes: 500, ..plain.clone() });
    assert_eq!(done.pages, 1, "a page that is cut leads nowhere that was not read");
    let done = run(&Scope { types: vec!["text/plain".into()], ..plain });
    assert_eq!(done.pages, 1);
    let nowhere = record(&dir.path().join("x"), reach(Names::default()), None);
    let error = crawl(nowhere, &[], &scope(), Limits::default(), &AtomicBool::new(false), &mut quiet).unwrap_err();
    assert!(matches!(error, CrawlError::Nowhere));
}
