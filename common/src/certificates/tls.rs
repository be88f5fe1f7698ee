//! TLS 1.3 between parties of a cluster, certificates shown and roles checked both ways.

use super::description::Description;
use super::{Certificates, Role};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, RootCertStore, ServerConfig, SignatureScheme,
};
use std::path::Path;
use std::sync::Arc;

/// Whom a connection is opened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// A coordinator, whose certificate must be for the host that was dialled.
    Coordinator,
    /// Another worker. Its host is not checked: which address a worker has on a given day no certificate can
    /// foresee, and the handshake inside the connection proves its rank by the secret of the generation.
    Workers,
}

impl Peers {
    fn role(self) -> Role {
        match self {
            Self::Coordinator => Role::Coordinator,
            Self::Workers => Role::Worker,
        }
    }
}

pub(super) fn server(own: &Certificates, accepts: &'static [Role]) -> Result<Arc<ServerConfig>, Error> {
    let verifier = Clients { inner: client_verifier(own)?, accepts };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(own.chain(), own.key())?;
    // Every handshake shows certificates anew, so that one that has ended does not live on in a ticket.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

pub(super) fn client(own: &Certificates, peers: Peers) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Servers { roots: Arc::clone(own.roots()), provider: provider(), peers };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(own.chain(), own.key())?;
    config.resumption = Resumption::disabled();
    config.enable_sni = peers == Peers::Coordinator;
    Ok(Arc::new(config))
}

/// Checks a party's own certificate as the others will.
pub(super) fn check_own(own: &Certificates) -> Result<(), Error> {
    match own.role() {
        Role::Coordinator | Role::Worker => {
            let chain = own.chain();
            let certificate = ParsedCertificate::try_from(&chain[0])?;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                own.roots(),
                &chain[1..],
                UnixTime::now(),
                ring::default_provider().signature_verification_algorithms.all,
            )?;
        }
        Role::Client => {
            let chain = own.chain();
            client_verifier(own)?.verify_client_cert(&chain[0], &chain[1..], UnixTime::now())?;
        }
    }
    client(own, Peers::Coordinator).map(|_| ())
}

fn client_verifier(own: &Certificates) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(Arc::clone(own.roots()), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// AES-128 first: its strength is enough for what lives as long as a job, and it is the fastest where it counts, in the
/// exchange.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// Checks certificates of whoever connects.
#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    accepts: &'static [Role],
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        check_role(end_entity, self.accepts)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Checks certificates of whoever is connected to.
#[derive(Debug)]
struct Servers {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    peers: Peers,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        check_role(end_entity, &[self.peers.role()])?;
        if self.peers == Peers::Coordinator {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Never asked for: no configuration of ours speaks TLS 1.2.
        Err(Error::General("TLS 1.3 is needed".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate of our authority that does not give the role that its place needs.
#[derive(Debug, thiserror::Error)]
#[error("its certificate is of {who}, where role {needed} is needed")]
struct WrongRole {
    who: String,
    needed: String,
}

fn check_role(certificate: &CertificateDer<'_>, accepted: &[Role]) -> Result<(), Error> {
    let description = Description::of(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    if description.role.is_some_and(|role| accepted.contains(&role)) {
        return Ok(());
    }
    let needed: Vec<&str> = accepted.iter().map(|role| role.as_str()).collect();
    let wrong = WrongRole { who: description.who(), needed: needed.join(" or ") };
    Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
}

/// The TLS error in an I/O error, where there is one.
pub fn error_in(error: &std::io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())
}

/// Whether an error says that one of the two certificates is refused.
pub fn is_refusal(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => true,
        Error::AlertReceived(alert) => refused_by_peer(*alert).is_some(),
        _ => false,
    }
}

/// Whether a refused certificate may be taken later as it is: clocks that are not set yet, as after a start, are set soon.
pub(super) fn is_of_validity(error: &Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        Error::InvalidCertificate(fault) => {
            matches!(fault, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
        }
        Error::AlertReceived(alert) => *alert == AlertDescription::CertificateExpired,
        _ => false,
    }
}

/// What the other end thinks of our certificate, by the alert that it sent.
fn refused_by_peer(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA => "it does not know the authority of this side's certificate",
        AlertDescription::CertificateExpired => {
            "it finds this side's certificate expired or not valid yet; compare the clocks"
        }
        AlertDescription::CertificateRequired => "it asks for a certificate; this side showed none",
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            "it refused this side's certificate: its role or its host is not what is needed there"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::DecryptError => "it refused this side's certificate",
        _ => return None,
    })
}

/// A TLS error in words, about the other end: for the end of a sentence.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => match fault {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is of another authority".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired; issue it again by `medley certs issue`".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; compare the clocks".into()
            }
            CertificateError::NotValidForNameContext { expected, presented } => format!(
                "its certificate is not for {}, but for {}; issue it with `--name {0}`",
                expected.to_str(),
                presented.join(", ")
            ),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "its certificate is not meant for this side of a connection".into()
            }
            CertificateError::Other(other) => other.to_string(),
            other => format!("its certificate is not to be trusted ({other:?})"),
        },
        Error::NoCertificatesPresented => "it showed no certificate".into(),
        Error::AlertReceived(alert) => match refused_by_peer(*alert) {
            Some(text) => text.into(),
            None => format!("it ended the encrypted connection ({alert:?})"),
        },
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            "it does not speak TLS; give certificates to both sides, or to none".into()
        }
        Error::PeerIncompatible(_) => "it does not speak TLS 1.3 as this side does".into(),
        Error::DecryptError => "what it sent cannot be decrypted; it was corrupted or forged on the way".into(),
        other => other.to_string(),
    }
}

/// A TLS error in words, about this party's own certificate.
pub(super) fn explain_own(error: &Error, authority: &Path) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("none of the authorities in {} issued it", authority.display())
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "it has expired".into()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "it is not valid yet; is the clock right?".into()
        }
        other => other.to_string(),
    }
}

/// Checks that a certificate is for a host, a name or an address.
///
/// # Errors
/// What is wrong, for the end of a sentence.
pub fn check_host(own: &Certificates, host: &str) -> Result<(), String> {
    let name = ServerName::try_from(host).map_err(|_| format!("{host:?} is no host name"))?;
    let chain = own.chain();
    let certificate = ParsedCertificate::try_from(&chain[0]).map_err(|error| error.to_string())?;
    verify_server_name(&certificate, &name).map_err(|_| {
        format!(
            "is for {}, not for {host}; issue it again by `medley certs issue --role {} --name {host}`",
            own.description().names.join(", "),
            own.role()
        )
    })
}
