//! Synthetic interactions on which it pays to learn order.
//!
//! `model` says how they come about; here are the options, their limits, and the file.

mod model;

use super::error::DataError;
use model::{SHORTEST, SUCCESSORS};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Size and shape of a synthetic set.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args)]
pub struct GenerateOptions {
    /// Users
    #[arg(long, default_value_t = 1500)]
    pub users: usize,
    /// Items in the catalogue
    #[arg(long, default_value_t = 600)]
    pub items: usize,
    /// Seed of every draw
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Latent interests in all
    #[arg(long, default_value_t = 12)]
    pub interests: usize,
    /// Latent interests of a user
    #[arg(long, default_value_t = 3)]
    pub interests_per_user: usize,
    /// Mean interactions of a user
    #[arg(long, default_value_t = 25)]
    pub mean_length: usize,
    /// Zipf exponent of item popularity
    #[arg(long, default_value_t = 1.2)]
    pub skew: f64,
    /// Probability that an item follows from the last one of its interest
    #[arg(long, default_value_t = 0.85)]
    pub order: f64,
    /// Probability of turning to another interest
    #[arg(long, default_value_t = 0.2)]
    pub switch: f64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            users: 1500,
            items: 600,
            seed: 1,
            interests: 12,
            interests_per_user: 3,
            mean_length: 25,
            skew: 1.2,
            order: 0.85,
            switch: 0.2,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GenerateReport {
    /// The file.
    pub file: PathBuf,
    /// Users.
    pub users: usize,
    /// Distinct items that some user has.
    pub items: usize,
    /// Interactions.
    pub interactions: usize,
    /// The seed.
    pub seed: u64,
}

/// Writes a synthetic set as `user item` lines. The file appears whole or not at all.
///
/// # Errors
/// Options that make no data; a file that exists, unless `force`; a directory that cannot be written to.
pub fn generate(path: &Path, options: &GenerateOptions, force: bool) -> Result<GenerateReport, DataError> {
    check(options)?;
    if path.exists() && !force {
        return Err(DataError::Exists { path: path.into() });
    }
    let sequences = model::sequences(options);
    write_whole(path, |file| {
        for (user, sequence) in sequences.iter().enumerate() {
            for item in sequence {
                writeln!(file, "{} {}", user + 1, item + 1)?;
            }
        }
        Ok(())
    })
    .map_err(|source| DataError::Write { path: path.into(), source })?;
    let mut seen = vec![false; options.items];
    for &item in sequences.iter().flatten() {
        seen[item] = true;
    }
    Ok(GenerateReport {
        file: path.into(),
        users: sequences.len(),
        items: seen.into_iter().filter(|&seen| seen).count(),
        interactions: sequences.iter().map(Vec::len).sum(),
        seed: options.seed,
    })
}

fn check(options: &GenerateOptions) -> Result<(), DataError> {
    let require = |holds: bool, option, problem: String| {
        if holds { Ok(()) } else { Err(DataError::Option { option, problem }) }
    };
    let GenerateOptions { users, items, interests, interests_per_user, mean_length, .. } = *options;
    let share = |value: f64| (0.0..=1.0).contains(&value);
    require(users >= 1, "users", "is 0; use 1 or more".into())?;
    require(interests >= 1, "interests", "is 0; use 1 or more".into())?;
    require(
        (1..=interests).contains(&interests_per_user),
        "interests-per-user",
        format!("is {interests_per_user}; use 1 to {interests}, which is --interests"),
    )?;
    require(mean_length >= SHORTEST, "mean-length", format!("is {mean_length}; use {SHORTEST} or more"))?;
    let per_interest = (2 * mean_length).div_ceil(interests_per_user).max(SUCCESSORS + 1);
    let least = per_interest.saturating_mul(interests);
    require(
        items >= least,
        "items",
        format!(
            "is {items}; use {least} or more, since a user has an item at most once and half of the user's interests stays unseen"
        ),
    )?;
    require(
        options.skew.is_finite() && (0.0..=10.0).contains(&options.skew),
        "skew",
        format!("is {}; use 0 to 10", options.skew),
    )?;
    require(share(options.order), "order", format!("is {}; use a probability in [0, 1]", options.order))?;
    require(share(options.switch), "switch", format!("is {}; use a probability in [0, 1]", options.switch))
}

/// Writes under a temporary name beside the file, syncs, renames; makes the folders on the way. On failure no file stays.
fn write_whole(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| File::create(&temporary))
        .and_then(|file| {
            let mut file = BufWriter::new(file);
            content(&mut file)?;
            file.into_inner()?.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first failure is the one to report; there may be nothing to remove.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests;
