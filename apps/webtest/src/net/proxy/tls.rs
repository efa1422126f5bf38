//! TLS at both ends of a proxy that records or replays.
//!
//! ```text
//!   browser ── certificate of the host, made here, ──► proxy ── verified, and what was wrong kept ──► server
//!              with the trusted key or the other
//! ```
//!
//! The browser is told to take one key for good (`--ignore-certificate-errors-spki-list`), for all hosts. A host whose own certificate
//! was not good gets a certificate with another key, of which the browser was told nothing: it then says what it would have said.
//!
//! Invariants: keys live in memory only, and are made anew by each process; nothing but a browser that was given them by its command
//! line takes them for good; a server's certificate is always looked at, and what is wrong with it is never lost.

use super::Refusal;
use crate::net::GateError;
use crate::net::warc::write::Shown;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Where Debian's `ca-certificates` has whom to trust.
pub const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// So many hosts' certificates are kept.
const HOSTS_MAX: usize = 10_000;
const HTTP_1: &[u8] = b"http/1.1";

/// What this end shows to browsers.
pub struct Authority {
    good: Signer,
    bad: Signer,
    configs: Mutex<HashMap<(String, bool), Arc<ServerConfig>>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// Whoever signs, and the one key of all that it signs.
struct Signer {
    issuer: CertifiedIssuer<'static, KeyPair>,
    leaf: KeyPair,
}

/// Browsers take no certificate that holds for very long.
fn for_a_while(params: &mut CertificateParams) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + 60 * DAY).into());
}

impl Signer {
    fn new(name: &str) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        for_a_while(&mut params);
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?, leaf: KeyPair::generate()? })
    }

    fn config(&self, host: &str) -> Result<ServerConfig, String> {
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(|e| e.to_string())?;
        params.distinguished_name.push(DnType::CommonName, "fvm throw-away certificate");
        for_a_while(&mut params);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.leaf, &self.issuer).map_err(|e| e.to_string())?;
        let chain = vec![certificate.der().clone(), self.issuer.der().clone()];
        let key = PrivateKeyDer::try_from(self.leaf.serialize_der()).map_err(str::to_owned)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|e| e.to_string())?;
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Authority {
    /// New keys.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new() -> Result<Self, GateError> {
        let make = |name: &str| {
            Signer::new(name).map_err(|e| GateError { what: "make throw-away keys".into(), why: e.to_string() })
        };
        let good = make("fvm throw-away authority")?;
        Ok(Self { good, bad: make("fvm: the site's own certificate was not good")?, configs: Mutex::default() })
    }

    /// SHA-256 of the public keys that a browser is to take for good, base64.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let hash = |key: &KeyPair| super::base64(&Sha256::digest(key.subject_public_key_info()));
        vec![hash(&self.good.leaf), hash(self.good.issuer.key())]
    }

    /// The certificate of whoever signs, as PEM: for a person's own browser, which is to trust it for a while.
    #[must_use]
    pub fn certificate(&self) -> String {
        pem(self.good.issuer.der())
    }

    /// Begins TLS with a browser that means `host`.
    ///
    /// # Errors
    /// When the browser does not want it.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: S,
        host: &str,
        is_good: bool,
    ) -> Result<tokio_rustls::server::TlsStream<S>, Refusal> {
        let config = self.config(host, is_good).map_err(Refusal::Tls)?;
        TlsAcceptor::from(config).accept(io).await.map_err(|e| Refusal::Tls(e.to_string()))
    }

    fn config(&self, host: &str, is_good: bool) -> Result<Arc<ServerConfig>, String> {
        let key = (host.to_owned(), is_good);
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(&key) {
            return Ok(Arc::clone(config));
        }
        if configs.len() >= HOSTS_MAX {
            configs.clear();
        }
        let signer = if is_good { &self.good } else { &self.bad };
        let config = Arc::new(signer.config(host)?);
        configs.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

/// A certificate as text (RFC 7468).
#[must_use]
pub fn pem(der: &[u8]) -> String {
    let text = super::base64(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Begins TLS with servers, whoever they are, and says what is wrong with them.
#[derive(Debug)]
pub struct Servers {
    verifier: Arc<WebPkiServerVerifier>,
}

impl Servers {
    /// Those whom the certificates in a PEM file have signed are good.
    ///
    /// # Errors
    /// When the file cannot be read, or holds none.
    pub fn trusting(roots: &Path) -> Result<Self, GateError> {
        let failed = |why: String| GateError {
            what: format!("read whom to trust from {}", roots.display()),
            why: format!("{why}; on Debian it comes with the package ca-certificates"),
        };
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(roots).map_err(|e| failed(e.to_string()))? {
            // Of so many some are always too old to be understood.
            drop(certificate.map(|certificate| store.add(certificate)));
        }
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
        Ok(Self { verifier: built.map_err(|e| failed(e.to_string()))? })
    }

    /// Begins TLS with the server `host` at the other end.
    ///
    /// # Errors
    /// When it speaks no TLS that is understood. That its certificate is not good is none: it is told.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: S,
        host: &str,
        port: u16,
    ) -> Result<(TlsStream<S>, Shown), Refusal> {
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|_| Refusal::Tls("this is no host's name".into()))?;
        let noting = Arc::new(Noting { verifier: Arc::clone(&self.verifier), wrong: Mutex::default() });
        let failed = |e: Error| Refusal::Tls(e.to_string());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&noting) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        // Each connection says for itself whether the certificate is good.
        config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, io).await;
        let stream = stream.map_err(|e| Refusal::Tls(e.to_string()))?;
        let der = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let wrong = noting.wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
        let der = der.map(|der| der.to_vec()).unwrap_or_default();
        Ok((stream, Shown { host: host.to_owned(), port, wrong, der }))
    }
}

/// Verifies as always, and goes on with what is wrong kept.
#[derive(Debug)]
struct Noting {
    verifier: Arc<WebPkiServerVerifier>,
    wrong: Mutex<Option<String>>,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if let Err(e) = verified {
            *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
