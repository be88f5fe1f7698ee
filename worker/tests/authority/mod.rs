//! Certificates for tests, made as `medley certs init` makes them.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use medley_common::certificates::{Certificates, Role};
use medley_coordinator::certificates::Authority;
use tempfile::TempDir;

/// An authority of its own, with a certificate of each role.
pub fn authority() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    Authority::init(directory.path(), &[], 365, 3650).unwrap();
    directory
}

pub fn load(directory: &TempDir, role: Role) -> Certificates {
    Certificates::load(directory.path(), role).unwrap()
}
