//! What certificates say, in plain words.

use super::MakeError;
use medley_common::certificates::load::{certificates, expiry_warning, now};
use medley_common::certificates::{Certificates, Description, Role};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What is shown, and what a person should do about it.
#[derive(Debug, Default)]
pub struct Shown {
    /// The certificates.
    pub text: String,
    /// One line each.
    pub warnings: Vec<String>,
}

/// Describes every certificate of a directory, or of one file.
///
/// # Errors
/// [`MakeError`] where there is none, or a file holds something else.
pub fn show(path: &Path) -> Result<Shown, MakeError> {
    let files = if path.is_dir() { certificate_files(path)? } else { vec![path.to_owned()] };
    if files.is_empty() {
        let message = "holds no certificate (*.pem); `medley certs init` makes some".into();
        return Err(MakeError::Unfit { path: path.to_owned(), message });
    }
    let mut shown = Shown::default();
    for file in files {
        describe(&file, &mut shown)?;
    }
    if path.is_dir() {
        shown.warnings.extend(faults(path));
    }
    Ok(shown)
}

fn certificate_files(directory: &Path) -> Result<Vec<PathBuf>, MakeError> {
    let unreadable = |source| MakeError::Unreadable { path: directory.to_owned(), source, remedy: "" };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn describe(path: &Path, shown: &mut Shown) -> Result<(), MakeError> {
    let unfit = |message: String| MakeError::Unfit { path: path.to_owned(), message };
    let remedy = "; `medley certs init` makes certificates";
    let pem = std::fs::read(path).map_err(|source| MakeError::Unreadable { path: path.to_owned(), source, remedy })?;
    for certificate in certificates(&pem).map_err(unfit)? {
        let said = Description::of(&certificate).map_err(unfit)?;
        let names = if said.names.is_empty() { "none".into() } else { said.names.join(", ") };
        let days = said.days_left(now());
        let left = if days < 0 { "over".into() } else { format!("{days} days left") };
        let text = format!(
            "{}\n  {}, issued by {:?}\n  role: {}\n  hosts: {names}\n  valid from {} until {} ({left})\n",
            path.display(),
            said.who(),
            said.issuer,
            role(&said),
            said.first_day(),
            said.last_day(),
        );
        shown.text += &text;
        shown.warnings.extend(expiry_warning(path, &said));
        if days < 0 {
            let mut line = format!("{}: ended on {}", path.display(), said.last_day());
            let _ = write!(line, "; nobody accepts it any more, issue it again by `medley certs issue`");
            shown.warnings.push(line);
        }
    }
    Ok(())
}

fn role(said: &Description) -> String {
    match said.role {
        Some(Role::Coordinator) => "coordinator: may lead jobs, which workers and clients then trust".into(),
        Some(Role::Worker) => {
            "worker: may join a coordinator that its launch token fits, and meet other workers".into()
        }
        Some(Role::Client) => "client: may ask a coordinator from the command line".into(),
        None if said.is_authority => "authority: issues the certificates of a cluster".into(),
        None => "none: Medley accepts it nowhere".into(),
    }
}

/// What would keep the certificates of a directory from being used.
fn faults(directory: &Path) -> Vec<String> {
    let there = Role::ALL.into_iter().filter(|role| directory.join(role.certificate_file()).is_file());
    let mut faults = Vec::new();
    for role in there {
        match Certificates::load(directory, role) {
            // Expiry is told of every file already.
            Ok(loaded) => faults.extend(loaded.warnings().iter().filter(|line| line.contains("chmod")).cloned()),
            Err(error) => faults.push(error.to_string()),
        }
    }
    faults
}
