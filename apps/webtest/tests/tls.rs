//! TLS through a proxy that records and one that replays, with a real client (curl), a certificate authority of the test's own, and
//! servers whose certificates are good, expired, and another host's.
#![expect(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod support;

use fvm_webtest::net::mirror;
use fvm_webtest::net::proxy::Way;
use fvm_webtest::net::proxy::local::Local;
use fvm_webtest::net::proxy::tls::{Authority, pem};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use support::{names, reach, record, short};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A server with a certificate for `name`; it tells what it was asked.
fn serve(
    runtime: &tokio::runtime::Runtime,
    ca: &CertifiedIssuer<'_, KeyPair>,
    name: &str,
    expired: bool,
) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    }
    let certificate = params.signed_by(&key, ca).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let at = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
                    stream.write_all(answer.as_bytes()).await?;
                }
                #[allow(unreachable_code, reason = "it says what the block's errors are")]
                Ok::<(), std::io::Error>(())
            });
        }
    });
    at
}

fn curl(proxy: SocketAddr, trusted: &Path, urls: &[String]) -> (i32, String) {
    let out = Command::new("curl")
        .args(["-sS", "--max-time", "30", "-x", &format!("http://{proxy}"), "--cacert"])
        .arg(trusted)
        .args(urls)
        .output()
        .expect("curl is installed");
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stdout).into_owned())
}

fn authority(local: &Local) -> &Authority {
    match local.way() {
        Way::Record(record) => &record.authority,
        Way::Replay(replay) => &replay.authority,
        Way::Live(_) => panic!("it makes no certificates"),
    }
}

#[test]
fn good_sites_are_recorded_and_replayed_and_bad_ones_stay_bad() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let (roots, set, trusted) = (dir.path().join("roots.pem"), dir.path().join("set"), dir.path().join("trusted.pem"));
    std::fs::write(&roots, pem(ca.der())).unwrap();
    let hosts = ["good.test", "old.test", "other.test"];
    let at = [
        serve(&runtime, &ca, "good.test", false),
        serve(&runtime, &ca, "old.test", true),
        serve(&runtime, &ca, "somebody-else.test", false),
    ];
    let url = |n: usize, path: &str| format!("https://{}:{}{path}", hosts[n], at[n].port());
    let names = names(dir.path(), &hosts.map(String::from));

    let proxy =
        Local::serve(Way::Record(record(&set, reach(names), Some(&roots))), "127.0.0.1:0".parse().unwrap(), short())
            .unwrap();
    std::fs::write(&trusted, authority(&proxy).certificate()).unwrap();
    assert_eq!(authority(&proxy).keys().len(), 2);
    let two = [url(0, "/one?x=1"), url(0, "/two")];
    assert_eq!(curl(proxy.at, &trusted, &two), (0, "GET /one?x=1 HTTP/1.1GET /two HTTP/1.1".into()));
    // 60: the server's certificate could not be verified. What is shown is not signed by whom the client trusts.
    assert_eq!(curl(proxy.at, &trusted, &[url(1, "/")]).0, 60);
    assert_eq!(curl(proxy.at, &trusted, &[url(2, "/")]).0, 60);
    let Way::Record(recording) = proxy.way() else { panic!() };
    recording.recorder.flush().unwrap();
    drop(proxy);
    drop(runtime);

    let mirror = mirror::serve(&set, "127.0.0.1:0".parse().unwrap()).unwrap();
    // Another process, another key: the old one is trusted no more.
    assert_eq!(curl(mirror.at, &trusted, &two).0, 60);
    std::fs::write(&trusted, authority(&mirror).certificate()).unwrap();
    assert_eq!(curl(mirror.at, &trusted, &two), (0, "GET /one?x=1 HTTP/1.1GET /two HTTP/1.1".into()));
    let Way::Replay(replay) = mirror.way() else { panic!() };
    let wrong = |n: usize| replay.set.index.wrong_certificate(hosts[n], at[n].port());
    assert_eq!(wrong(0), None);
    assert!(wrong(1).is_some_and(|wrong| wrong.contains("xpired")), "{:?}", wrong(1));
    assert!(wrong(2).is_some_and(|wrong| wrong.contains("not valid for")), "{:?}", wrong(2));
}

#[test]
fn roots_that_are_not_there_name_the_package() {
    let error = fvm_webtest::net::proxy::tls::Servers::trusting(Path::new("/nowhere")).unwrap_err().to_string();
    assert!(error.contains("/nowhere") && error.contains("ca-certificates"), "{error}");
}
