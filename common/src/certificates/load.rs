//! One party's certificate, key and authorities from a directory.

use super::description::Description;
use super::tls::{self, Peers};
use super::{AUTHORITY, EXPIRY_WARNING_DAYS, Role};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a directory of certificates cannot be used: one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A file is not there or cannot be read.
    #[error("{path}: cannot read it: {source}; `medley certs init --out {}` makes certificates", directory.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The directory that was named.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should, or does not fit the others.
    #[error("{path}: {message}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong and how to mend it.
        message: String,
    },
}

/// What a party shows of itself, and whom it trusts. Cheap to clone.
#[derive(Clone)]
pub struct Certificates {
    parts: Arc<Parts>,
}

struct Parts {
    directory: PathBuf,
    role: Role,
    description: Description,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    warnings: Vec<String>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Certificates")
            .field("directory", &self.parts.directory)
            .field("description", &self.parts.description)
            .finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the authorities, and the certificate and key of a role, from a directory made by `medley certs init`.
    /// Everything that would fail at the first connection fails here: an authority that did not issue the
    /// certificate, a key of another one, another role, a validity that is over.
    ///
    /// # Errors
    /// [`CertificatesError`].
    pub fn load(directory: &Path, role: Role) -> Result<Self, CertificatesError> {
        let read = |name: &str| -> Result<(PathBuf, Vec<u8>), CertificatesError> {
            let path = directory.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => Ok((path, bytes)),
                Err(source) => Err(CertificatesError::Unreadable { path, directory: directory.to_owned(), source }),
            }
        };
        let (authority_path, authority) = read(AUTHORITY)?;
        let (path, certificate) = read(&role.certificate_file())?;
        let (key_path, key) = read(&role.key_file())?;
        let roots = Arc::new(roots(&authority).map_err(|message| unfit(&authority_path, message))?);
        let chain = certificates(&certificate).map_err(|message| unfit(&path, message))?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|error| unfit(&key_path, format!("holds no private key in PEM ({error})")))?;
        let description = Description::of(&chain[0]).map_err(|message| unfit(&path, message))?;
        if description.role != Some(role) {
            return Err(unfit(
                &path,
                format!(
                    "is of {}, where role {role} is needed; `medley certs issue --role {role}` makes one",
                    description.who()
                ),
            ));
        }
        let mut warnings = Vec::new();
        warnings.extend(expiry_warning(&path, &description));
        warnings.extend(mode_warning(&key_path));
        let certificates = Self {
            parts: Arc::new(Parts { directory: directory.to_owned(), role, description, roots, chain, key, warnings }),
        };
        let remedy = |error: &rustls::Error| match error {
            rustls::Error::InconsistentKeys(_) => unfit(
                &key_path,
                format!("is not the key of {}; put the pair of one `medley certs` back", path.display()),
            ),
            error => unfit(
                &path,
                format!(
                    "cannot be used: {}; issue it again by `medley certs issue --role {role}`",
                    tls::explain_own(error, &authority_path)
                ),
            ),
        };
        tls::check_own(&certificates).map_err(|error| remedy(&error))?;
        Ok(certificates)
    }

    /// The directory that they came from.
    pub fn directory(&self) -> &Path {
        &self.parts.directory
    }

    /// The role that this party has.
    pub fn role(&self) -> Role {
        self.parts.role
    }

    /// What this party's certificate says.
    pub fn description(&self) -> &Description {
        &self.parts.description
    }

    /// What a person should know: a certificate that soon ends, a key that others may read.
    pub fn warnings(&self) -> &[String] {
        &self.parts.warnings
    }

    /// TLS for connections that this party accepts from parties of these roles.
    ///
    /// # Errors
    /// None for certificates that were loaded; rustls' own otherwise.
    pub fn server(&self, accepts: &'static [Role]) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
        tls::server(self, accepts)
    }

    /// TLS for connections that this party opens.
    ///
    /// # Errors
    /// As [`Certificates::server`].
    pub fn client(&self, peers: Peers) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
        tls::client(self, peers)
    }

    pub(super) fn roots(&self) -> &Arc<RootCertStore> {
        &self.parts.roots
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.parts.chain.clone()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        self.parts.key.clone_key()
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The certificates of a PEM file; at least one.
///
/// # Errors
/// What is wrong, for the end of a sentence.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| format!("is no PEM file ({error})"))?;
    if certificates.is_empty() { Err("holds no certificate in PEM".into()) } else { Ok(certificates) }
}

/// One line where a certificate ends soon.
pub fn expiry_warning(path: &Path, description: &Description) -> Option<String> {
    let days = description.days_left(now());
    (0..EXPIRY_WARNING_DAYS).contains(&days).then(|| {
        format!(
            "{}: ends on {}, in {days} day(s); issue it again by `medley certs issue`",
            path.display(),
            description.last_day()
        )
    })
}

/// One line where others than the owner of a key may read it.
fn mode_warning(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        format!("{}: others on this machine may read this private key (mode {mode:03o}); chmod 600 it", path.display())
    })
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        let description = Description::of(&certificate)?;
        if !description.is_authority {
            return Err(format!("holds the certificate of {}, which is no authority", description.who()));
        }
        roots.add(certificate).map_err(|error| format!("holds an authority that cannot be used ({error})"))?;
    }
    Ok(roots)
}

fn unfit(path: &Path, message: String) -> CertificatesError {
    CertificatesError::Unfit { path: path.to_owned(), message }
}
