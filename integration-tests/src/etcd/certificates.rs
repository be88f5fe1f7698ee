//! A private authority and what it signs, for members that speak TLS.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};

/// PEM files.
pub struct Certificates {
    /// The authority.
    pub authority: PathBuf,
    /// A certificate of 127.0.0.1, for members and for whoever connects to them.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// An authority that has signed nothing.
    pub another_authority: PathBuf,
}

impl Certificates {
    /// Makes them in a directory.
    pub(super) fn make(directory: &Path) -> Self {
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("the cluster's directory is writable");
            path
        };
        let (authority, issuer) = self::authority();
        let (another, _) = self::authority();
        let key = KeyPair::generate().expect("a key can be made");
        let parameters = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address is a name");
        let certificate = parameters.signed_by(&key, &issuer).expect("the authority signs");
        Self {
            authority: write("authority.pem", authority),
            certificate: write("certificate.pem", certificate.pem()),
            key: write("key.pem", key.serialize_pem()),
            another_authority: write("another.pem", another),
        }
    }
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key can be made");
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).expect("an authority signs itself");
    (certificate.pem(), Issuer::new(parameters, key))
}
