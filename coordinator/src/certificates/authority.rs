//! Making an authority, and certificates of it.

use super::{MakeError, files};
use crate::random;
use medley_common::certificates::load::{certificates, now};
use medley_common::certificates::{AUTHORITY, AUTHORITY_KEY, Description, Role, description};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::ServerName;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an authority lives by default, in days: ten years.
pub const AUTHORITY_DAYS: u32 = 3650;

/// How long a certificate lives by default, in days.
pub const DAYS: u32 = 365;

/// Clocks of a cluster may differ: a certificate is valid from so long before it was made.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(3600);

/// Every coordinator's certificate is for these beside its own names: workers that it launches reach it there.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What is issued.
#[derive(Debug, Clone)]
pub struct Order {
    /// What the holder may be.
    pub role: Role,
    /// Host names and addresses.
    pub names: Vec<String>,
    /// Days of validity, from now.
    pub days: u32,
}

/// An authority with its private key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// As in `authority.pem`.
    pem: String,
    not_after: i64,
}

/// A certificate and its key, PEM.
struct Issued {
    certificate: String,
    key: String,
}

impl Authority {
    /// Makes an authority and a certificate of each role in a new or empty place. `names` are those under which
    /// workers on other machines reach the coordinator. Returns the files.
    ///
    /// # Errors
    /// [`MakeError`]; nothing is left behind then.
    pub fn init(directory: &Path, names: &[String], days: u32, authority_days: u32) -> Result<Vec<PathBuf>, MakeError> {
        check_days(days, "--days")?;
        check_days(authority_days, "--authority-days")?;
        let (authority, key) = Self::make(authority_days)?;
        let mut contents = vec![
            files::NewFile::public(directory.join(AUTHORITY), authority.pem.clone()),
            files::NewFile::private(directory.join(AUTHORITY_KEY), key),
        ];
        for role in Role::ALL {
            let names = if role == Role::Coordinator { names.to_vec() } else { Vec::new() };
            contents.extend(authority.files(directory, &Order { role, names, days })?);
        }
        files::write_all(directory, &contents)
    }

    fn make(days: u32) -> Result<(Self, String), MakeError> {
        let key = KeyPair::generate()?;
        // Authorities that follow one another are told apart by their names.
        let mark = random::hex(4).map_err(|error| MakeError::Argument(format!("no random bytes: {error}")))?;
        let mut params = validity(CertificateParams::default(), i64::from(days) * SECONDS_OF_A_DAY);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("medley authority {mark}"));
        // It issues certificates of parties, and no other authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        let text = key.serialize_pem();
        let not_after = params.not_after.unix_timestamp();
        Ok((Self { issuer: Issuer::new(params, key), pem, not_after }, text))
    }

    /// Reads an authority with its key. Of several authorities in `authority.pem`, the one that the key belongs to
    /// issues.
    ///
    /// # Errors
    /// [`MakeError`] where a file is missing or the two do not fit.
    pub fn open(directory: &Path) -> Result<Self, MakeError> {
        let read = |name: &str, remedy| {
            let path = directory.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok((path, text)),
                Err(source) => Err(MakeError::Unreadable { path, source, remedy }),
            }
        };
        let (path, pem) = read(AUTHORITY, "; `medley certs init` makes an authority")?;
        let (key_path, key) = read(AUTHORITY_KEY, "; issue certificates where the authority's key is kept")?;
        let key = KeyPair::from_pem(&key)
            .map_err(|error| MakeError::Unfit { path: key_path.clone(), message: format!("holds no key ({error})") })?;
        let unfit = |message: String| MakeError::Unfit { path: path.clone(), message };
        let all = certificates(pem.as_bytes()).map_err(unfit)?;
        let own = all.iter().find(|certificate| description::has_key(certificate, key.public_key_raw()));
        let own = own.ok_or_else(|| unfit(format!("holds no authority whose key is {}", key_path.display())))?;
        let said = Description::of(own).map_err(unfit)?;
        if !said.is_authority {
            return Err(unfit(format!("holds the certificate of {}, which may issue none", said.who())));
        }
        if said.days_left(now()) < 0 {
            return Err(unfit(format!("ended on {}; make a new authority by `medley certs init`", said.last_day())));
        }
        Ok(Self { issuer: Issuer::from_ca_cert_der(own, key)?, pem, not_after: said.not_after })
    }

    /// Issues a certificate into a directory, together with the authorities where they are not there yet. Returns
    /// the files.
    ///
    /// # Errors
    /// [`MakeError`]; nothing is left behind then.
    pub fn issue(&self, directory: &Path, order: &Order) -> Result<Vec<PathBuf>, MakeError> {
        check_days(order.days, "--days")?;
        let mut contents = Vec::from(self.files(directory, order)?);
        let authority = directory.join(AUTHORITY);
        match std::fs::read_to_string(&authority) {
            Ok(there) if there == self.pem => {}
            Ok(_) => {
                let message = "is another authority's; name a directory of its own by --out".into();
                return Err(MakeError::Unfit { path: authority, message });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                contents.push(files::NewFile::public(authority, self.pem.clone()));
            }
            Err(source) => return Err(MakeError::Unreadable { path: authority, source, remedy: "" }),
        }
        files::write_all(directory, &contents)
    }

    fn files(&self, directory: &Path, order: &Order) -> Result<[files::NewFile; 2], MakeError> {
        let issued = self.sign(order)?;
        Ok([
            files::NewFile::public(directory.join(order.role.certificate_file()), issued.certificate),
            files::NewFile::private(directory.join(order.role.key_file()), issued.key),
        ])
    }

    fn sign(&self, order: &Order) -> Result<Issued, MakeError> {
        let key = KeyPair::generate()?;
        // What outlives its authority is refused once that one has ended: it had better say so itself.
        let seconds = (i64::from(order.days) * SECONDS_OF_A_DAY).min(self.not_after - now());
        let mut params = validity(CertificateParams::default(), seconds);
        params.distinguished_name = rcgen::DistinguishedName::new();
        let subject = match order.names.first() {
            Some(name) => format!("medley {} {name}", order.role),
            None => format!("medley {}", order.role),
        };
        params.distinguished_name.push(DnType::CommonName, subject);
        params.subject_alt_names = names(order)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match order.role {
            Role::Coordinator => vec![ExtendedKeyUsagePurpose::ServerAuth],
            // A worker answers those that dial it, and dials others.
            Role::Worker => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

const SECONDS_OF_A_DAY: i64 = 24 * 3600;

fn check_days(days: u32, flag: &str) -> Result<(), MakeError> {
    if (1..=36_500).contains(&days) {
        Ok(())
    } else {
        Err(MakeError::Argument(format!("{flag}: is {days}; use 1 to 36500 days")))
    }
}

/// Valid from now, for so many seconds.
fn validity(mut params: CertificateParams, lifetime: i64) -> CertificateParams {
    let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let now = rcgen::date_time_ymd(1970, 1, 1) + seconds(now());
    params.not_before = now - CLOCK_DIFFERENCE;
    params.not_after = now + seconds(lifetime);
    params
}

/// The role, then hosts, each once.
fn names(order: &Order) -> Result<Vec<SanType>, MakeError> {
    let mut hosts: Vec<&str> = order.names.iter().map(String::as_str).collect();
    if order.role == Role::Coordinator {
        hosts.extend(LOOPBACK);
    }
    let mut names = vec![SanType::URI(order.role.uri().try_into()?)];
    for host in hosts {
        let refused = || {
            MakeError::Argument(format!(
                "--name {host}: is neither a host name nor an address, such as node-3 or 10.0.0.3"
            ))
        };
        let name = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                ServerName::try_from(host).map_err(|_| refused())?;
                SanType::DnsName(host.try_into().map_err(|_| refused())?)
            }
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}
