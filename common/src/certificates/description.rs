//! What a certificate says, for checks and for people.

use super::{Role, URI_SCHEME};
use std::net::IpAddr;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The subject's common name, or else the whole subject.
    pub subject: String,
    /// The issuer's, likewise.
    pub issuer: String,
    /// The role; none for an authority and for what Medley did not make.
    pub role: Option<Role>,
    /// Whether it may issue others.
    pub is_authority: bool,
    /// Host names and addresses.
    pub names: Vec<String>,
    /// Valid from, in seconds since 1970.
    pub not_before: i64,
    /// Valid until, in seconds since 1970.
    pub not_after: i64,
}

impl Description {
    /// Reads a certificate's bytes (DER).
    ///
    /// # Errors
    /// What is wrong with them, for the end of a sentence.
    pub fn of(certificate: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            x509_parser::parse_x509_certificate(certificate).map_err(|error| format!("is no certificate ({error})"))?;
        if !rest.is_empty() {
            return Err("is no certificate (bytes follow it)".into());
        }
        let alternatives = certificate
            .subject_alternative_name()
            .map_err(|error| format!("has unreadable names ({error})"))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        Ok(Self {
            subject: common_name(certificate.subject()),
            issuer: common_name(certificate.issuer()),
            role: role(alternatives),
            is_authority: certificate.is_ca(),
            names: alternatives.iter().filter_map(host).collect(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Whole days from `now` until it ends; negative once it has.
    pub fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(SECONDS_OF_A_DAY)
    }

    /// The day on which it ends, `2026-05-09`, UTC.
    pub fn last_day(&self) -> String {
        day(self.not_after)
    }

    /// The day from which it is valid.
    pub fn first_day(&self) -> String {
        day(self.not_before)
    }

    /// `worker "worker of a cluster"`, for messages.
    pub fn who(&self) -> String {
        match (self.role, self.is_authority) {
            (Some(role), _) => format!("{role} {:?}", self.subject),
            (None, true) => format!("authority {:?}", self.subject),
            (None, false) => format!("{:?}, which has no role", self.subject),
        }
    }
}

const SECONDS_OF_A_DAY: i64 = 24 * 3600;

fn day(seconds: i64) -> String {
    match ASN1Time::from_timestamp(seconds) {
        Ok(time) => time.to_datetime().date().to_string(),
        Err(_) => format!("{seconds} s after 1970"),
    }
}

fn common_name(name: &x509_parser::x509::X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    common.map_or_else(|| name.to_string(), str::to_owned)
}

/// The one role among the names. Of two, neither counts: no authority of ours issues such a certificate.
fn role(names: &[GeneralName<'_>]) -> Option<Role> {
    let mut roles = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(URI_SCHEME),
        _ => None,
    });
    let role = roles.next()?.parse().ok()?;
    roles.next().is_none().then_some(role)
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// Whether a certificate's key is this one, the subject's public key as it is encoded there.
pub fn has_key(certificate: &[u8], public_key: &[u8]) -> bool {
    x509_parser::parse_x509_certificate(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().subject_public_key.data.as_ref() == public_key)
}
