//! What TLS is made of: the server's certificate, the fleet's authority, and what it has revoked.

use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// PEM texts.
#[derive(Debug, Clone, Copy)]
pub struct TlsPem<'a> {
    /// The server's certificate chain.
    pub certificate: &'a str,
    /// Its private key.
    pub key: &'a str,
    /// The authorities that vehicles' certificates come from.
    pub vehicle_ca: &'a str,
    /// Their lists of revoked certificates. Once there is one, every authority must have one.
    pub revoked: Option<&'a str>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No PEM, or not of the kind that is needed.
    #[error("cannot read the {what}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// Key and certificate do not fit, or one is of an unknown kind.
    #[error("certificate or key cannot be used")]
    Unusable(#[from] rustls::Error),
    /// No authority, or a list of revoked certificates that cannot be used.
    #[error("authority or list of revoked certificates cannot be used")]
    Verifier(#[from] VerifierBuilderError),
}

/// One generation of TLS settings.
pub struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl ServerTls {
    /// Reads the texts. The cryptography is ring's, chosen here and not for the whole process.
    pub fn new(pem: TlsPem<'_>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in all::<CertificateDer<'_>>("authority of the vehicles", pem.vehicle_ca)? {
            roots.add(certificate)?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        if let Some(revoked) = pem.revoked {
            let lists = all::<CertificateRevocationListDer<'_>>("list of revoked certificates", revoked)?;
            builder = builder.with_crls(lists).enforce_revocation_expiration();
        }
        let verifier = builder.build()?;
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())
            .map_err(|source| TlsError::Pem { what: "private key", source })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(all("certificate of the server", pem.certificate)?, key)?;
        // A resumed session would not show its certificate again: a revoked one could come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), verifier })
    }
}

fn all<T: PemObject>(what: &'static str, text: &str) -> Result<Vec<T>, TlsError> {
    let read: Result<Vec<_>, _> = T::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(found) if found.is_empty() => Err(TlsError::Pem { what, source: pem::Error::NoItemsFound }),
        read => read.map_err(|source| TlsError::Pem { what, source }),
    }
}
