//! The certificates of a job's parties, checked before anything begins.

use super::JobError;
use medley_common::certificates::{Certificates, Role};
use medley_common::config::SecurityConfig;

/// The coordinator's certificates, and what a person should know of them; none where the configuration names none. Those of the workers that are launched with
/// them must be usable too: they would fail one after the other otherwise, once the job has begun.
///
/// # Errors
/// [`JobError::Certificates`].
pub fn certificates(config: &SecurityConfig) -> Result<(Option<Certificates>, Vec<String>), JobError> {
    let Some(directory) = &config.certificates else {
        return Ok((None, Vec::new()));
    };
    // Workers need not be started where the coordinator was.
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
    let own = Certificates::load(&directory, Role::Coordinator)?;
    let workers = Certificates::load(&directory, Role::Worker)?;
    let warnings = own.warnings().iter().chain(workers.warnings()).cloned().collect();
    Ok((Some(own), warnings))
}
