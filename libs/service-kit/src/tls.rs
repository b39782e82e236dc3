//! TLS on both sides of a hop, by rustls, with certificates that are replaced while the process runs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::Problems;
use crate::reloaded::{Content, FileError, Reloaded};

/// HTTP/2, which gRPC needs.
const ALPN: &[u8] = b"h2";

/// A server's section `tls`: PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTlsConfig {
    /// Its certificate, and those between it and the CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CAs of its callers: they have to show a certificate. Empty: nobody has to.
    pub client_ca: PathBuf,
}

/// A caller's section `tls`: PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTlsConfig {
    /// The CAs of the servers. Empty: those of the system.
    pub ca: PathBuf,
    /// The caller's certificate, for servers that ask for one. Empty: none.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl ServerTlsConfig {
    /// Adds what is wrong with it.
    pub fn check(&self, path: &str, problems: &mut Problems) {
        for (key, file) in [("certificate", &self.certificate), ("key", &self.key)] {
            problems.require(
                !file.as_os_str().is_empty(),
                format!("{path}.{key}"),
                || "is missing: a server with TLS has a certificate and its key",
            );
        }
    }
}

impl ClientTlsConfig {
    /// Adds what is wrong with it.
    pub fn check(&self, path: &str, problems: &mut Problems) {
        let has_certificate = !self.certificate.as_os_str().is_empty();
        problems.require(
            has_certificate != self.key.as_os_str().is_empty(),
            format!("{path}.key"),
            || "is given exactly where `certificate` is",
        );
    }
}

/// What a server shows, and asks its callers for.
#[derive(Debug, Clone)]
pub struct ServerTls(Reloaded<ServerConfig>);

impl ServerTls {
    /// Reads the files, and again when they change. Must be called inside the runtime.
    ///
    /// # Errors
    /// [`FileError`] for one that cannot be used.
    pub fn load(config: &ServerTlsConfig) -> Result<Self, FileError> {
        let mut files = vec![config.certificate.clone(), config.key.clone()];
        files.extend(given(&config.client_ca));
        Reloaded::load(files, server_config).map(Self)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.now().into()
    }
}

/// Whom a caller trusts, and what it shows.
#[derive(Debug, Clone)]
pub struct ClientTls(Reloaded<ClientConfig>);

impl ClientTls {
    /// Reads the files, and again when they change. Must be called inside the runtime.
    ///
    /// # Errors
    /// [`FileError`] for one that cannot be used.
    pub fn load(config: &ClientTlsConfig) -> Result<Self, FileError> {
        let has_ca = !config.ca.as_os_str().is_empty();
        Self::read(config, move |contents| {
            let (ca, identity) = contents.split_at(usize::from(has_ca));
            let roots = match ca {
                [ca] => roots(ca)?,
                _ => system_roots()?,
            };
            let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider());
            let verifier = verifier
                .build()
                .map_err(|error| FileError::new(Path::new("CA certificates"), error))?;
            client_config(verifier, identity)
        })
    }

    /// For a probe of a server on the same machine: it takes whoever answers there. Must be called inside the runtime.
    ///
    /// # Errors
    /// As [`ClientTls::load`].
    pub fn of_a_probe(config: &ClientTlsConfig) -> Result<Self, FileError> {
        let without_ca = ClientTlsConfig {
            ca: PathBuf::new(),
            ..config.clone()
        };
        let anyone = Arc::new(Anyone(provider()));
        Self::read(&without_ca, move |identity| {
            client_config(anyone.clone(), identity)
        })
    }

    fn read(
        config: &ClientTlsConfig,
        make: impl Fn(&[Content]) -> Result<ClientConfig, FileError> + Send + 'static,
    ) -> Result<Self, FileError> {
        let files = [&config.ca, &config.certificate, &config.key];
        let files = files.into_iter().filter_map(|file| given(file));
        Reloaded::load(files.collect(), make).map(Self)
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        self.0.now().into()
    }
}

fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Of certificate, key, and the callers' CAs where they have to show a certificate.
fn server_config(contents: &[Content]) -> Result<ServerConfig, FileError> {
    let [certificate, key, ca @ ..] = contents else {
        unreachable!("a server has a certificate and a key")
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| certificate.error(error))?;
    let builder = match ca {
        [ca, ..] => {
            let callers =
                WebPkiClientVerifier::builder_with_provider(roots(ca)?.into(), provider());
            let callers = callers.build().map_err(|error| ca.error(error))?;
            builder.with_client_cert_verifier(callers)
        }
        [] => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(certificates(certificate)?, private_key(key)?)
        .map_err(|error| key.error(error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// `identity`: certificate and key, or nothing.
fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: &[Content],
) -> Result<ClientConfig, FileError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| FileError::new(Path::new("TLS"), error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        [certificate, key] => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| key.error(error))?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn certificates(content: &Content) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content.bytes).collect();
    let read = read.map_err(|error| content.error(error))?;
    if read.is_empty() {
        return Err(content.error("holds no certificate"));
    }
    Ok(read)
}

fn private_key(content: &Content) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&content.bytes).map_err(|error| content.error(error))
}

fn roots(content: &Content) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(content)? {
        let added = roots.add(certificate);
        added.map_err(|error| content.error(error))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let nowhere = Path::new("the system's CA certificates");
        return Err(FileError::new(nowhere, "none is found; name a `ca`"));
    }
    Ok(roots)
}

/// The names that a certificate is for: of hosts, in lower case, and URIs as SPIFFE's. What is neither is no name, so that none stands for
/// one of the other kind.
pub(crate) fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let hosts = certificate.valid_dns_names().map(str::to_ascii_lowercase);
    let uris = certificate.valid_uri_names().map(str::to_owned);
    hosts
        .chain(uris.filter(|uri| uri.contains("://")))
        .collect()
}

/// The name that a peer's certificate has to have, of `host`, an IP address or a name.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(ServerName::IpAddress(address.into())),
        Err(_) => ServerName::try_from(bare.to_owned())
            .map_err(|_| format!("{host} is no name of a certificate")),
    }
}

/// Trusts whoever holds the key of the certificate that it shows.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
