//! Who is who in a cluster: certificates of a private authority, and TLS that checks the role they give.
//!
//! 1. [`Role`] here: what a certificate lets its holder be, and the names of files in a directory of certificates.
//! 2. [`description`]: what a certificate says, read from its bytes.
//! 3. [`load`]: one party's certificate, key and authorities from a directory, refused where they do not fit together.
//! 4. [`tls`]: TLS 1.3 for either end of a connection, and what its errors mean in words.
//! 5. [`channel`]: the way to a coordinator, in plain text or encrypted; `watched` remembers why one was closed.
//!
//! Invariants:
//! - Both ends of every connection show a certificate of the same authority, and each checks the role of the other.
//! - A certificate has one role. Extended key usage alone cannot tell a worker, which serves other workers, from a
//!   coordinator; the role is therefore a name of its own, `medley://role/worker`, among the subject's.
//! - Private keys are never printed.

pub mod channel;
pub mod description;
pub mod load;
pub mod tls;
mod watched;

pub use description::Description;
pub use load::{Certificates, CertificatesError};

use std::fmt;
use std::str::FromStr;

/// Certificates of the authorities that a party trusts, PEM; several while one replaces the other.
pub const AUTHORITY: &str = "authority.pem";

/// The authority's private key, needed to issue certificates and by no running process.
pub const AUTHORITY_KEY: &str = "authority.key";

/// Days before its end from which a certificate is warned about.
pub const EXPIRY_WARNING_DAYS: i64 = 30;

/// What a certificate lets its holder be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Serves workers and clients, and leads a job.
    Coordinator,
    /// Joins a coordinator, and exchanges with other workers.
    Worker,
    /// Asks a coordinator from the command line.
    Client,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Coordinator, Self::Worker, Self::Client];

    /// As written in file names and certificates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Client => "client",
        }
    }

    /// The name that carries the role in a certificate.
    pub fn uri(self) -> String {
        format!("{URI_SCHEME}{}", self.as_str())
    }

    /// The file of the certificate in a directory of certificates.
    pub fn certificate_file(self) -> String {
        format!("{}.pem", self.as_str())
    }

    /// The file of the private key beside it.
    pub fn key_file(self) -> String {
        format!("{}.key", self.as_str())
    }
}

/// How the names begin that carry roles.
const URI_SCHEME: &str = "medley://role/";

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is no role; use coordinator, worker or client"))
    }
}
