//! Pages that fight back: each ends as a recorded result in bounded time.

use super::gate::Wire;
use super::http::Answer;
use super::{Site, site};
use fvm_webtest::model::{CONSOLE_MAX, DIALOGS_MAX, DOWNLOADS_MAX, Kind, REDIRECTS_MAX, REQUESTS_MAX};
use std::time::Duration;

fn script(host: &str, want: Kind, script: &str) -> Site {
    site(host, want).page(format!("<!DOCTYPE html><title>{host}</title><h1>{host}</h1><script>{script}</script>"))
}

/// So often something is sent that never ends; its receiver is gone long before.
const LONG: usize = 3000;

fn head(mime: &str) -> String {
    format!("HTTP/1.1 200 Lab\r\nConnection: close\r\nContent-Type: {mime}\r\n\r\n")
}

/// Sends a beginning, and then a part again and again.
fn drip(wire: &mut dyn Wire, first: &[u8], part: &[u8], pause: Duration) {
    let mut go_on = wire.write_all(first).and_then(|()| wire.flush()).is_ok();
    let mut left = LONG;
    while go_on && left > 0 {
        std::thread::sleep(pause);
        go_on = wire.write_all(part).and_then(|()| wire.flush()).is_ok();
        left -= 1;
    }
}

/// Ends a process of the VM with init `init`, by a word of its command line, from outside.
fn kill(init: u32, word: &str, signal: rustix::process::Signal) {
    let mut below = vec![init.to_string()];
    let mut at = 0;
    while at < below.len() {
        for thread in std::fs::read_dir(format!("/proc/{}/task", below[at])).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            below.extend(children.split_ascii_whitespace().map(str::to_owned));
        }
        at += 1;
    }
    for pid in &below[1..] {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let is_main = word.is_empty() && !command.contains("--type=") && command.contains("--remote-debugging-pipe");
        if (is_main || !word.is_empty() && command.contains(word))
            && let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw)
        {
            let _gone = rustix::process::kill_process(pid, signal);
        }
    }
}

/// A page that stores without an end.
pub fn fills_the_disk() -> Site {
    let stores = "const r = indexedDB.open('x'); r.onupgradeneeded = () => r.result.createObjectStore('s'); \
        const a = new Uint8Array(1 << 21); for (let n = 0; n < a.length; n += 65536) crypto.getRandomValues(a.subarray(n, n + 65536)); \
        const put = n => { const t = r.result.transaction('s', 'readwrite'); t.objectStore('s').put(a, n); t.oncomplete = () => put(n + 1) }; \
        r.onsuccess = () => put(0)";
    script("fills-the-disk", Kind::Suspicious, stores)
}

/// All of them.
pub fn sites() -> Vec<Site> {
    let mut bad =
        site("bad-certificate", Kind::Error).https().rule("not-reached").how("not-reached").page("never seen");
    bad.bad_certificate = true;
    bad.check = |seen| seen.certificates.iter().any(|c| c.host == "bad-certificate.test" && c.error.is_some());
    vec![
        bad,
        site("loop", Kind::Error).rule("not-reached").how("not-reached").answers(|_| Answer::to(302, "/")),
        site("endless-moves", Kind::Error).rule("not-reached").how("not-reached").answers(|asked| Answer::to(302, format!("{}x", asked.path))),
        site("endless-scripts", Kind::Suspicious)
            .rule("never-stays")
            .patient()
            .answers(|asked| Answer::html(format!("<script>location = '{}x'</script>", asked.path)))
            .check(|seen| seen.redirects.len() <= REDIRECTS_MAX),
        site("endless-meta", Kind::Suspicious)
            .rule("never-stays")
            .patient()
            .answers(|asked| Answer::html(format!("<meta http-equiv=refresh content='0; url={}x'>", asked.path))),
        script("alerts", Kind::Suspicious, "for (;;) alert('again')").rule("dialogs").check(|seen| seen.fights.dialogs >= DIALOGS_MAX),
        script("questions", Kind::Suspicious, "setInterval(() => { confirm('x'); prompt('y') }, 0)").rule("dialogs").patient(),
        script("many-windows", Kind::Suspicious, "for (let n = 0; n < 50; n++) window.open('/w' + n, 'w' + n)").rule("windows"),
        script("many-prints", Kind::Clean, "for (let n = 0; n < 200; n++) window.print()").check(|seen| seen.fights.prints > 1),
        site("many-logins", Kind::Clean).answers(|asked| match asked.path.as_str() {
            "/" => Answer::html((0..30).map(|n| format!("<img src=/{n}>")).collect::<String>()),
            _ => Answer::status(401).with("WWW-Authenticate", format!("Basic realm=\"{}\"", asked.path)),
        }),
        script("pushes", Kind::Clean, "setInterval(() => { for (let n = 0; n < 100; n++) history.pushState(0, '', '/' + Math.random()) }, 0)"),
        script("large-dom", Kind::Clean, "document.body.innerHTML = ('<p>' + 'text '.repeat(200)).repeat(9e3)").check(|seen| seen.artifacts.dom.is_none() || seen.cut.iter().any(|c| c == "the DOM")).or(Kind::Suspicious),
        script("huge-dom", Kind::Suspicious, "for (;;) document.body.append(document.createElement('p'))").or(Kind::Clean),
        script("deep-dom", Kind::Suspicious, "let e = document.body; for (let n = 0; n < 5e4; n++) { const c = document.createElement('b'); e.append(c); e = c }").rule("renderer-crash").or(Kind::Clean),
        script("memory", Kind::Suspicious, "const all = []; for (;;) all.push(new Uint8Array(1 << 24).fill(all.length))").rule("memory"),
        script("heap", Kind::Suspicious, "const all = []; for (;;) all.push(new Array(1e5).fill({}))").or(Kind::Clean),
        script("spins", Kind::Suspicious, "for (;;);").rule("processor").how("never-loaded").patient(),
        script("spins-later", Kind::Suspicious, "onload = () => setTimeout(() => { for (;;); }, 0)").rule("processor").patient(),
        script("mines", Kind::Suspicious, "for (let n = 0; n < 4; n++) new Worker(URL.createObjectURL(new Blob(['for (;;);'])))").rule("processor").patient(),
        script("many-workers", Kind::Clean, "for (let n = 0; n < 300; n++) new Worker(URL.createObjectURL(new Blob(['1'])))").or(Kind::Suspicious),
        script("many-lines", Kind::Clean, "for (let n = 0; n < 20000; n++) console.log(n, 'x'.repeat(100))").check(|seen| seen.console.len() == CONSOLE_MAX),
        script("many-requests", Kind::Clean, "for (let n = 0; n < 3000; n++) fetch('/' + n).catch(() => 0)").check(|seen| seen.requests.len() <= REQUESTS_MAX).or(Kind::Suspicious),
        script("many-frames", Kind::Clean, "for (let n = 0; n < 200; n++) { const f = document.createElement('iframe'); f.src = '/f'; document.body.append(f) }").or(Kind::Suspicious),
        site("frames-in-frames", Kind::Clean).answers(|asked| Answer::html(format!("<iframe src='{}x'></iframe><iframe src='{}y'></iframe>", asked.path, asked.path))).or(Kind::Suspicious),
        site("names-hide", Kind::Clean)
            .answers(|_| Answer::html("<title>seen</title><img name=title><img name=documentElement><img name=doctype><p>all of it"))
            .check(|seen| seen.title == "seen" && seen.artifacts.dom.is_some()),
        script("closes", Kind::Clean, "window.close(); document.write('still here')"),
        script("stops-the-clock", Kind::Clean, "Object.prototype.toJSON = () => { for (;;); }; Document.prototype.createElement = null; debugger;"),
        site("automatic-file", Kind::Suspicious)
            .rule("automatic-download")
            .answers(|asked| match asked.path.as_str() {
                "/" => Answer::html("<iframe src=/get></iframe>"),
                _ => Answer::file("update.exe", "MZ\0\0 a program"),
            })
            .check(|seen| seen.downloads.len() == 1 && seen.downloads[0].automatic),
        site("clicked-file", Kind::Suspicious)
            .rule("automatic-download")
            .answers(|asked| match asked.path.as_str() {
                "/" => Answer::html("<a id=a download=x.sh href=/get>x</a><script>a.click()</script>"),
                _ => Answer::of("text/plain", "#!/bin/sh\n"),
            })
            .check(|seen| seen.downloads.len() == 1),
        script("many-files", Kind::Suspicious, "setInterval(() => { const a = document.createElement('a'); a.download = 'x'; \
                a.href = URL.createObjectURL(new Blob(['x'])); a.click() }, 1)")
            .rule("automatic-download")
            .check(|seen| seen.downloads.len() <= DOWNLOADS_MAX),
        site("endless-file", Kind::Clean).raw(|_, wire, _| {
            let head = head("application/octet-stream").replace("\r\n\r\n", "\r\nContent-Disposition: attachment; filename=x\r\n\r\n");
            drip(wire, head.as_bytes(), &[b'x'; 4096], Duration::from_millis(10));
        }),
        site("silent", Kind::Error).rule("no-answer").how("never-loaded").raw(|_, wire, _| drip(wire, b"", b"", Duration::from_millis(10))),
        site("slow-head", Kind::Error).rule("no-answer").how("never-loaded").raw(|_, wire, _| drip(wire, b"HTTP/1.1 200 Lab\r\nX: ", b"x", Duration::from_millis(10))),
        site("slow-body", Kind::Clean).how("never-loaded").raw(|_, wire, _| drip(wire, head("text/html").as_bytes(), b"<p>more", Duration::from_millis(10))),
        site("slow-image", Kind::Clean).how("never-loaded").raw(|asked, wire, _| match asked.path.as_str() {
            "/" => drop(Answer::html("<title>Slow</title><img src=/i>").send(&mut { wire })),
            _ => drip(wire, b"", b"", Duration::from_millis(10)),
        }).check(|seen| seen.title == "Slow"),
        site("endless-body", Kind::Clean).raw(|_, wire, _| drip(wire, head("text/html").as_bytes(), "<p>more</p>\n".repeat(1000).as_bytes(), Duration::from_millis(50))).or(Kind::Suspicious),
        site("hangs-up", Kind::Error).rule("not-reached").how("not-reached").raw(|_, _, _| ()),
        site("no-http", Kind::Error).rule("not-reached").or(Kind::Clean).raw(|_, wire, _| drop(wire.write_all(&[0xff; 1000]))),
        site("crashes", Kind::Suspicious).rule("renderer-crash").how("renderer-crashed").raw(|asked, wire, pid| match asked.path.as_str() {
            "/" => drop(Answer::html("<p>x<script src=/now></script>").send(&mut { wire })),
            _ => kill(pid, "--type=renderer", rustix::process::Signal::KILL),
        }),
        site("takes-the-browser-along", Kind::Suspicious).rule("browser-crash").how("browser-crashed").raw(|asked, wire, pid| match asked.path.as_str() {
            "/" => drop(Answer::html("<p>x<script src=/now></script>").send(&mut { wire })),
            _ => kill(pid, "", rustix::process::Signal::KILL),
        }),
    ]
}
