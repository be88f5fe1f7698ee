//! This worker's certificates, from its command line.

use medley_common::certificates::{Certificates, CertificatesError, Role};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

/// Loads a worker's certificates; none where no directory is named. What a person should know of them is logged.
///
/// # Errors
/// One line that names the file.
pub fn load(directory: Option<&Path>) -> Result<Option<Certificates>, CertificatesError> {
    let loaded = directory.map(|directory| Certificates::load(directory, Role::Worker)).transpose()?;
    for warning in loaded.iter().flat_map(Certificates::warnings) {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}

/// Refuses to listen in plain text where other machines could reach it.
///
/// # Errors
/// One line that says what would do.
pub fn check_listen(listen: &str, certificates: Option<&Certificates>, allow_plaintext: bool) -> Result<(), String> {
    if certificates.is_some() || allow_plaintext || is_local(listen) {
        return Ok(());
    }
    Err(format!(
        "--listen {listen}: other machines reach it, in plain text; give --certificates DIR (`medley certs issue --role worker`), or --plaintext on a network that you trust"
    ))
}

/// Whether all addresses that a name has are of this machine alone. One that cannot be looked up is refused elsewhere.
fn is_local(listen: &str) -> bool {
    let local = |address: IpAddr| address.to_canonical().is_loopback();
    listen.to_socket_addrs().map_or(true, |mut addresses| addresses.all(|address| local(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_on_this_machine_unless_it_is_allowed() {
        for local in ["127.0.0.1:0", "[::1]:0", "localhost:0"] {
            assert_eq!(check_listen(local, None, false), Ok(()));
        }
        for open in ["0.0.0.0:0", "[::]:0", "10.0.0.3:7000"] {
            assert!(
                check_listen(open, None, false).is_err_and(|line| line.contains(open) && line.contains("--plaintext"))
            );
            assert_eq!(check_listen(open, None, true), Ok(()));
        }
    }
}
