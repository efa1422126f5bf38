//! Pages that attack nobody: what the web is made of, and things that only look odd.

use super::http::Answer;
use super::{Site, site};
use fvm_webtest::model::{Kind, Observation};
use std::path::{Path, PathBuf};

const PIXEL: &str = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";

fn clean(host: &str) -> Site {
    site(host, Kind::Clean).how("done")
}

fn script(host: &str, script: &str) -> Site {
    clean(host).page(format!("<!DOCTYPE html><title>{host}</title><h1>{host}</h1><script>{script}</script>"))
}

fn has_line(seen: &Observation, line: &str) -> bool {
    seen.console.iter().any(|said| said.contains(line))
}

/// One site of each kind.
pub fn sites() -> Vec<Site> {
    vec![
        clean("plain").page("<!DOCTYPE html><title>Plain</title><p>Text.").check(|seen| {
            seen.title == "Plain" && seen.requests[0].url == "http://plain.test/" && seen.artifacts.dom.is_some() && seen.artifacts.har.is_some()
        }),
        clean("empty").answers(|_| Answer::html("")),
        clean("text").answers(|_| Answer::of("text/plain", "just text\n".repeat(100))),
        clean("json").answers(|_| Answer::of("application/json", "{\"a\": [1, 2, 3]}")),
        clean("svg").answers(|_| {
            Answer::of("image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg'><circle r='9' cx='9' cy='9'/></svg>")
        }),
        clean("assets")
            .answers(|asked| match asked.path.as_str() {
                "/" => Answer::html(
                    "<link rel=stylesheet href=/a.css><script src=/a.js></script><img src=/a.svg><img src=/missing.png><p>x",
                ),
                "/a.css" => Answer::of("text/css", "p { color: green; background: url(/b.svg) } @import url(/b.css);"),
                "/a.js" => Answer::js("console.log('script ran')"),
                "/a.svg" | "/b.svg" => Answer::of("image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
                _ => Answer::status(404),
            })
            .check(|seen| seen.requests.len() >= 5 && has_line(seen, "script ran")),
        clean("forms").page("<form action=/x method=post><input name=a><input type=password><input type=file><button>Go</button></form>"),
        clean("tables").page(format!("<table>{}</table>", "<tr><td>1<td>2<td>3</tr>".repeat(2000))),
        clean("frames")
            .answers(|asked| match asked.path.as_str() {
                "/" => Answer::html("<iframe src=/in></iframe><iframe src=http://plain.test/></iframe><iframe srcdoc='<p>x'></iframe>"),
                _ => Answer::html("<p>inner"),
            })
            .check(|seen| seen.requests.iter().any(|request| request.url == "http://plain.test/")),
        clean("moved")
            .answers(|asked| match asked.path.as_str() {
                "/" => Answer::to(301, "/a"),
                "/a" => Answer::to(302, "/b"),
                "/b" => Answer::to(307, "http://plain.test/"),
                _ => Answer::status(404),
            })
            .check(|seen| {
                let way = ["http://moved.test/", "http://moved.test/a", "http://moved.test/b"];
                seen.final_url == "http://plain.test/" && seen.redirects == way
            }),
        clean("moved-by-script")
            .page("<script>location = 'http://plain.test/'</script>")
            .check(|seen| seen.final_url == "http://plain.test/" && seen.title == "Plain"),
        clean("moved-by-meta")
            .page("<meta http-equiv=refresh content='0; url=http://plain.test/'>")
            .check(|seen| seen.final_url == "http://plain.test/"),
        script("single-page", "for (let n = 0; n < 30; n++) history.pushState({}, '', '/p' + n); document.title = 'app'")
            .check(|seen| seen.title == "app"),
        script("timers", "let n = 0; const t = setInterval(() => { if (++n > 50) clearInterval(t) }, 1)"),
        script("fetches", "Promise.all([1,2,3].map(n => fetch('/' + n))).then(() => console.log('fetched'))"),
        script(
            "storage",
            "document.cookie = 'a=b; path=/'; localStorage.x = 'y'; sessionStorage.x = 'y'; \
             const open = indexedDB.open('db', 1); open.onupgradeneeded = () => open.result.createObjectStore('s')",
        )
        .check(|seen| seen.cookies == [("a".to_owned(), "storage.test".to_owned(), "/".to_owned())]),
        script(
            "canvas",
            "const c = document.createElement('canvas'); document.body.append(c); const x = c.getContext('2d'); \
             for (let n = 0; n < 500; n++) x.fillRect(n, n, 9, 9); c.toDataURL(); c.getContext('webgl')",
        ),
        script("exception", "throw new Error('a mistake of its own')").check(|seen| has_line(seen, "a mistake of its own")),
        script("one-alert", "alert('hello')").check(|seen| seen.fights.dialogs == 1 && has_line(seen, "hello")),
        script("one-question", "console.log('said ' + confirm('sure?') + prompt('who?'))")
            .check(|seen| seen.fights.dialogs == 2 && has_line(seen, "said true")),
        script("opens-windows", "for (let n = 0; n < 3; n++) window.open('/w' + n, 'w' + n, 'width=300,height=200'); document.title = 'opened'")
            .check(|seen| seen.fights.popups == 3 && seen.title == "opened"),
        script("prints", "window.print()").check(|seen| seen.fights.prints == 1),
        script("worker", "new Worker(URL.createObjectURL(new Blob(['postMessage(1)'])))").check(|seen| seen.fights.workers == 1),
        script("leaves", "onbeforeunload = e => { e.preventDefault(); return 'stay' }; setTimeout(() => location = 'http://plain.test/', 0)"),
        script("asks-rights", "navigator.geolocation.getCurrentPosition(() => 0, () => 0); Notification.requestPermission()"),
        script("own-ports", "[22, 80, 8080].map(port => fetch(`http://127.0.0.1:${port}/`, {mode: 'no-cors'}).catch(() => 0))"),
        script("peers", "const p = new RTCPeerConnection({iceServers: [{urls: 'stun:10.1.2.3:3478'}]}); p.createDataChannel('x'); \
                p.createOffer().then(o => p.setLocalDescription(o)).catch(() => 0)"),
        script("other-protocols", "location = 'mailto:a@b.test'; location = 'foo:bar'; location = 'chrome://crash'"),
        script("socket", "new WebSocket('ws://socket.test/x').onerror = () => console.log('no socket')"),
        script("web-assembly", "WebAssembly.instantiate(new Uint8Array([0,97,115,109,1,0,0,0])).then(() => console.log('ran'))"),
        script("long-texts", "document.title = 'x'.repeat(9e6); console.log('y'.repeat(1e6)); location.hash = 'z'.repeat(1e6)")
            .check(|seen| seen.title.len() <= 4096 && seen.console.iter().all(|line| line.len() <= 4096)),
        clean("not-found").answers(|_| Answer::status(404)),
        clean("broken").answers(|_| Answer::status(500)),
        // The full browser shows a page of its own instead.
        clean("password")
            .or(Kind::Error)
            .answers(|_| Answer::status(401).with("WWW-Authenticate", "Basic realm=\"x\""))
            .check(|seen| seen.fights.logins >= 1),
        clean("encrypted")
            .https()
            .page("<title>Safe</title>")
            .check(|seen| seen.title == "Safe" && seen.certificates.iter().any(|c| c.host == "encrypted.test" && c.error.is_none())),
        clean("service-worker")
            .https()
            .answers(|asked| match asked.path.as_str() {
                "/" => Answer::html(
                    "<script>navigator.serviceWorker.register('/w.js').then(() => navigator.serviceWorker.ready)\
                     .then(() => console.log('registered'))</script>",
                ),
                _ => Answer::js("self.onfetch = () => 0"),
            })
            .check(|seen| seen.fights.workers >= 1),
        clean("a-file")
            .answers(|_| Answer::file("../../etc/cron.d/x", "#!/bin/sh\necho\n"))
            .check(|seen| {
                let [file] = seen.downloads.as_slice() else { return false };
                !file.automatic && file.sha256.is_some() && file.mime.as_deref() == Some("text/x-shellscript") && file.bytes == 15
            }),
    ]
}

/// Pages made by program, of many kinds, each another.
pub fn made(n: usize) -> Site {
    let text =
        |words: usize| -> String { (0..words).map(|w| format!("word{} ", (w * 7919 + n * 104_729) % 1000)).collect() };
    let body = match n % 10 {
        0 => format!("<h1>{n}</h1><p>{}</p><p>{}</p>", text(200), text(100)),
        1 => format!(
            "<ul>{}</ul>",
            (0..n % 90 + 10).map(|i| format!("<li><a href=/{i}>{}</a>", text(3))).collect::<String>()
        ),
        2 => format!(
            "<script>for (let i = 0; i < {}; i++) {{ const e = document.createElement('p'); e.textContent = i; document.body.append(e) }}</script>",
            n + 50
        ),
        3 => format!(
            "<style>p {{ animation: a 1s infinite }} @keyframes a {{ from {{ opacity: 0 }} }}</style><p>{}",
            text(50)
        ),
        4 => format!(
            "<script>document.cookie = 'n={n}'; localStorage.n = {n}; fetch('/data').then(r => r.text())</script>{}",
            text(20)
        ),
        5 => format!("<form><input value={n}><select>{}</select></form>", "<option>x".repeat(n % 50)),
        6 => format!(
            "<img src='{PIXEL}'><canvas id=c></canvas><script>c.getContext('2d').fillText('{n}', 9, 9)</script>"
        ),
        7 => format!(
            "<iframe srcdoc='<p>{n}'></iframe><script>new Worker(URL.createObjectURL(new Blob(['1'])))</script>"
        ),
        8 => format!(
            "<script>history.replaceState(0, '', '/r{n}'); document.title = 'r{n}'; console.warn('{n}')</script>"
        ),
        _ => format!("<table>{}</table>", format!("<tr><td>{n}<td>{}</tr>", text(2)).repeat(n % 200 + 5)),
    };
    site(&format!("made{n}"), Kind::Clean).how("done").answers(move |asked| match asked.path.as_str() {
        "/" => Answer::html(format!("<!DOCTYPE html><title>{n}</title>{body}")),
        _ => Answer::of("application/json", "[]"),
    })
}

/// Documentation that is installed here: at most `most` pages, each with what lies beside it.
pub fn installed(most: usize) -> Vec<Site> {
    let mut places: Vec<PathBuf> =
        vec!["/usr/share/doc".into(), "/usr/share/gtk-doc".into(), "/usr/share/javascript".into()];
    if let Ok(sysroot) = std::process::Command::new("rustc").args(["--print", "sysroot"]).output() {
        let root = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
        places.push(Path::new(&root).join("share/doc/rust/html/book"));
        places.push(Path::new(&root).join("share/doc/rust/html/core"));
    }
    let mut pages = Vec::new();
    for place in places {
        let most = (pages.len() + most / 2).min(most);
        collect(&place, most, 0, &mut pages);
    }
    let of = |(n, file): (usize, PathBuf)| {
        let dir = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut site = site(&format!("doc{n}"), Kind::Clean).how("done").answers(move |asked| {
            let path = asked.path.split(['?', '#']).next().unwrap_or_default();
            let is_plain = path.split('/').all(|part| part != "..");
            match std::fs::read(dir.join(path.trim_start_matches('/'))) {
                Ok(bytes) if is_plain => Answer::of(mime(path), bytes),
                _ => Answer::status(404),
            }
        });
        site.url.push_str(&name);
        site
    };
    pages.into_iter().enumerate().map(of).collect()
}

fn collect(dir: &Path, most: usize, depth: usize, pages: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let is_plain = path.file_name().is_some_and(|n| {
            n.to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_graphic() && b != b'%' && b != b'#' && b != b'?'))
        });
        if pages.len() >= most || !is_plain {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 6 => collect(&path, most, depth + 1, pages),
            Ok(kind) if kind.is_file() && path.extension().is_some_and(|e| e == "html" || e == "htm") => {
                pages.push(path)
            }
            _ => {}
        }
    }
}

fn mime(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html" | "htm") => "text/html",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("png") => "image/png",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
