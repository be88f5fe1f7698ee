//! The certificates of a job's parties, checked before anything begins.

use super::JobError;
use medley_common::certificates::{Certificates, Role};
use medley_common::config::SecurityConfig;

/// The coordinator's certificates, and what a person should know of them; none where the configuration names none.
///
/// # Errors
/// [`JobError::Certificates`].
pub fn certificates(config: &SecurityConfig) -> Result<(Option<Certificates>, Vec<String>), JobError> {
    let Some(own) = load(config, Role::Coordinator)? else {
        return Ok((None, Vec::new()));
    };
    let warnings = own.warnings().to_vec();
    Ok((Some(own), warnings))
}

/// Checks the certificates of the workers that are to be launched, which would fail one after the other otherwise, once the
/// job has begun. Says what a person should know of them.
///
/// # Errors
/// [`JobError::Certificates`].
pub fn check_workers(config: &SecurityConfig) -> Result<Vec<String>, JobError> {
    Ok(load(config, Role::Worker)?.map(|workers| workers.warnings().to_vec()).unwrap_or_default())
}

fn load(config: &SecurityConfig, role: Role) -> Result<Option<Certificates>, JobError> {
    let Some(directory) = &config.certificates else {
        return Ok(None);
    };
    // Workers need not be started where the coordinator was.
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
    Ok(Some(Certificates::load(&directory, role)?))
}
