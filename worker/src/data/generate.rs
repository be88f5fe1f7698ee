//! Synthetic interactions on which it pays to learn order.
//!
//! The model, all of it drawn from one seed:
//! 1. Items have a popularity rank r = 0, 1, ... and weight (r + 1)^−`skew` (Zipf). Item r belongs to interest
//!    r mod `interests`, so that all interests have popular and rare items.
//! 2. Each item has [`SUCCESSORS`] likely successors, drawn by weight from its interest, which follow it with the
//!    probabilities [`SUCCESSOR_SHARES`]: a Markov chain within each interest.
//! 3. A user has `interests_per_user` interests with Dirichlet(1) shares, and a length of 5 plus an exponential draw.
//! 4. Before each item the user turns, with probability `switch`, to an interest drawn by share. Then with probability
//!    `order` comes a successor of the last item *in that interest*, however long ago that was, and otherwise any of
//!    its items by weight. A user has an item at most once.
//!
//! So popularity alone ranks poorly, the last item does well while an interest lasts, and whoever remembers
//! where each interest was left does better still.

use super::error::DataError;
use super::random::{self, Purpose};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Likely successors of an item.
pub const SUCCESSORS: usize = 4;
/// How likely each of them is, against the others.
pub const SUCCESSOR_SHARES: [f64; SUCCESSORS] = [0.5, 0.25, 0.15, 0.1];
/// Fewest interactions of a user: after the split, three still train.
const SHORTEST: usize = 5;

/// Size and shape of a synthetic set.
#[derive(Debug, Clone, PartialEq, clap::Args)]
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
pub fn generate(
    path: &Path,
    options: &GenerateOptions,
    force: bool,
) -> Result<GenerateReport, DataError> {
    check(options)?;
    if path.exists() && !force {
        return Err(DataError::Exists { path: path.into() });
    }
    let sequences = sequences(options);
    write_whole(path, |file| {
        for (user, sequence) in sequences.iter().enumerate() {
            for item in sequence {
                writeln!(file, "{} {}", user + 1, item + 1)?;
            }
        }
        Ok(())
    })
    .map_err(|source| DataError::Write {
        path: path.into(),
        source,
    })?;
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
        if holds {
            Ok(())
        } else {
            Err(DataError::Option { option, problem })
        }
    };
    let GenerateOptions {
        users,
        items,
        interests,
        interests_per_user,
        mean_length,
        ..
    } = *options;
    let share = |value: f64| (0.0..=1.0).contains(&value);
    require(users >= 1, "users", "is 0; use 1 or more".into())?;
    require(interests >= 1, "interests", "is 0; use 1 or more".into())?;
    require(
        (1..=interests).contains(&interests_per_user),
        "interests-per-user",
        format!("is {interests_per_user}; use 1 to {interests}, which is --interests"),
    )?;
    require(
        mean_length >= SHORTEST,
        "mean-length",
        format!("is {mean_length}; use {SHORTEST} or more"),
    )?;
    let per_interest = (2 * mean_length)
        .div_ceil(interests_per_user)
        .max(SUCCESSORS + 1);
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
    require(
        share(options.order),
        "order",
        format!("is {}; use a probability in [0, 1]", options.order),
    )?;
    require(
        share(options.switch),
        "switch",
        format!("is {}; use a probability in [0, 1]", options.switch),
    )
}

/// Items by interest, and what follows what.
struct Catalogue {
    /// Items of each interest.
    interests: Vec<Vec<usize>>,
    /// Running sums of the weights of those items.
    sums: Vec<Vec<f64>>,
    /// Likely successors of each item.
    successors: Vec<[usize; SUCCESSORS]>,
}

impl Catalogue {
    fn draw(options: &GenerateOptions) -> Self {
        let mut rng = random::stream(Purpose::SyntheticItems, options.seed, 0, 0);
        // Numbers in the file say nothing about popularity: rank r is item by_rank[r].
        let mut by_rank: Vec<usize> = (0..options.items).collect();
        random::shuffle_first(&mut by_rank, options.items, &mut rng);
        let mut interests = vec![Vec::new(); options.interests];
        let mut sums = vec![Vec::new(); options.interests];
        let mut totals = vec![0.0; options.interests];
        for (rank, &item) in by_rank.iter().enumerate() {
            let interest = rank % options.interests;
            totals[interest] += ((rank + 1) as f64).powf(-options.skew);
            interests[interest].push(item);
            sums[interest].push(totals[interest]);
        }
        let mut catalogue = Self {
            interests,
            sums,
            successors: vec![[0; SUCCESSORS]; options.items],
        };
        for interest in 0..options.interests {
            for place in 0..catalogue.interests[interest].len() {
                let item = catalogue.interests[interest][place];
                catalogue.successors[item] = catalogue.draw_successors(interest, item, &mut rng);
            }
        }
        catalogue
    }

    fn draw_successors(
        &self,
        interest: usize,
        item: usize,
        rng: &mut ChaCha8Rng,
    ) -> [usize; SUCCESSORS] {
        // Places not drawn yet hold the item itself, so it is never its own successor.
        let mut successors = [item; SUCCESSORS];
        for place in 0..SUCCESSORS {
            let mut next = item;
            while successors.contains(&next) {
                next = self.draw_item(interest, rng);
            }
            successors[place] = next;
        }
        successors
    }

    /// An item of an interest, by weight.
    fn draw_item(&self, interest: usize, rng: &mut ChaCha8Rng) -> usize {
        self.interests[interest][draw_by_sums(&self.sums[interest], rng)]
    }
}

/// An index, by weights that are given as running sums.
fn draw_by_sums(sums: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let total = sums.last().copied().unwrap_or(0.0);
    let point = random::unit(rng) * total;
    sums.partition_point(|&sum| sum <= point)
        .min(sums.len() - 1)
}

fn sequences(options: &GenerateOptions) -> Vec<Vec<usize>> {
    let catalogue = Catalogue::draw(options);
    (0..options.users)
        .map(|user| {
            let rng = random::stream(Purpose::SyntheticUser, options.seed, 0, user as u64);
            User::draw(options, &catalogue, rng).sequence(options)
        })
        .collect()
}

/// A user on the way through the catalogue.
struct User<'a> {
    catalogue: &'a Catalogue,
    rng: ChaCha8Rng,
    interests: Vec<usize>,
    /// Running sums of the shares of those interests.
    shares: Vec<f64>,
    /// Last item in each of them.
    last: Vec<Option<usize>>,
    /// Items not yet had, of each of them.
    unseen: Vec<usize>,
    seen: Vec<bool>,
}

impl<'a> User<'a> {
    fn draw(options: &GenerateOptions, catalogue: &'a Catalogue, mut rng: ChaCha8Rng) -> Self {
        let mut interests: Vec<usize> = (0..options.interests).collect();
        random::shuffle_first(&mut interests, options.interests_per_user, &mut rng);
        interests.truncate(options.interests_per_user);
        let mut total = 0.0;
        let shares = interests
            .iter()
            .map(|_| {
                total += exponential(&mut rng);
                total
            })
            .collect();
        let unseen = interests
            .iter()
            .map(|&interest| catalogue.interests[interest].len())
            .collect();
        Self {
            catalogue,
            rng,
            last: vec![None; interests.len()],
            interests,
            shares,
            unseen,
            seen: vec![false; options.items],
        }
    }

    fn sequence(mut self, options: &GenerateOptions) -> Vec<usize> {
        let beyond = (options.mean_length - SHORTEST) as f64 * exponential(&mut self.rng);
        let most = self.unseen.iter().sum::<usize>() / 2;
        let length = (SHORTEST + beyond.round() as usize).min(most);
        let mut current = draw_by_sums(&self.shares, &mut self.rng);
        (0..length)
            .map(|_| {
                if random::unit(&mut self.rng) < options.switch {
                    current = draw_by_sums(&self.shares, &mut self.rng);
                }
                while self.unseen[current] == 0 {
                    current = (current + 1) % self.interests.len();
                }
                self.next_item(current, options.order)
            })
            .collect()
    }

    fn next_item(&mut self, current: usize, order: f64) -> usize {
        let follows = random::unit(&mut self.rng) < order;
        let item = self.last[current]
            .filter(|_| follows)
            .and_then(|last| self.successor(last))
            .unwrap_or_else(|| self.any_unseen(self.interests[current]));
        self.last[current] = Some(item);
        self.unseen[current] -= 1;
        self.seen[item] = true;
        item
    }

    fn successor(&mut self, item: usize) -> Option<usize> {
        let mut total = 0.0;
        let (candidates, sums): (Vec<usize>, Vec<f64>) = self.catalogue.successors[item]
            .iter()
            .zip(SUCCESSOR_SHARES)
            .filter(|&(&next, _)| !self.seen[next])
            .map(|(&next, share)| {
                total += share;
                (next, total)
            })
            .unzip();
        (!candidates.is_empty()).then(|| candidates[draw_by_sums(&sums, &mut self.rng)])
    }

    /// An item by weight that the user has not had; of the unseen ones alike after many draws in vain.
    fn any_unseen(&mut self, interest: usize) -> usize {
        for _ in 0..64 {
            let item = self.catalogue.draw_item(interest, &mut self.rng);
            if !self.seen[item] {
                return item;
            }
        }
        let unseen: Vec<usize> = self.catalogue.interests[interest]
            .iter()
            .copied()
            .filter(|&item| !self.seen[item])
            .collect();
        unseen[random::below(&mut self.rng, unseen.len())]
    }
}

/// An exponential draw with mean 1.
fn exponential(rng: &mut ChaCha8Rng) -> f64 {
    -(1.0 - random::unit(rng)).ln()
}

/// Writes under a temporary name beside the file, syncs, renames. On failure nothing stays.
fn write_whole(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = File::create(&temporary)
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn is_a_function_of_its_options() {
        let options = GenerateOptions {
            users: 50,
            ..GenerateOptions::default()
        };
        let base = sequences(&options);
        assert_eq!(base, sequences(&options));
        assert_ne!(
            base,
            sequences(&GenerateOptions {
                seed: 2,
                ..options.clone()
            })
        );
        assert_eq!(
            base[..20],
            sequences(&GenerateOptions {
                users: 20,
                ..options
            })[..]
        );
    }

    #[test]
    fn has_the_shape_asked_for() {
        let sequences = sequences(&GenerateOptions::default());
        assert_eq!(sequences.len(), 1500);
        let total: usize = sequences.iter().map(Vec::len).sum();
        let mean = total as f64 / 1500.0;
        assert!((mean - 25.0).abs() < 2.0, "{mean}");
        for sequence in &sequences {
            assert!(sequence.len() >= SHORTEST);
            let distinct: HashSet<usize> = sequence.iter().copied().collect();
            assert_eq!(distinct.len(), sequence.len());
        }
        let mut counts = vec![0_usize; 600];
        for &item in sequences.iter().flatten() {
            counts[item] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let head: usize = counts[..60].iter().sum();
        assert!(
            4 * head > total,
            "a tenth of the items has {head} of {total}"
        );
    }

    /// HR@10 of the last items, each ranked among 99 that the user has not had.
    fn hit_rate(
        sequences: &[Vec<usize>],
        items: usize,
        score: impl Fn(usize, usize) -> f64,
    ) -> f64 {
        let hits = sequences
            .iter()
            .enumerate()
            .filter(|(user, sequence)| {
                let mut rng = random::stream(Purpose::SyntheticUser, 99, 1, *user as u64);
                let target = sequence[sequence.len() - 1];
                let last = sequence[sequence.len() - 2];
                let mut negatives = Vec::new();
                while negatives.len() < 99 {
                    let item = random::below(&mut rng, items);
                    if !sequence.contains(&item) {
                        negatives.push(item);
                    }
                }
                let goal = score(last, target);
                let above = negatives
                    .iter()
                    .filter(|&&item| score(last, item) >= goal)
                    .count();
                above < 10
            })
            .count();
        hits as f64 / sequences.len() as f64
    }

    #[test]
    fn the_last_item_tells_far_more_than_popularity() {
        let options = GenerateOptions::default();
        let sequences = sequences(&options);
        let mut popularity = vec![0.0; options.items];
        let mut follows = vec![vec![0.0; options.items]; options.items];
        for sequence in &sequences {
            let training = &sequence[..sequence.len() - 1];
            for &item in training {
                popularity[item] += 1.0;
            }
            for pair in training.windows(2) {
                follows[pair[0]][pair[1]] += 1.0;
            }
        }
        let popular = hit_rate(&sequences, options.items, |_, item| popularity[item]);
        let markov = hit_rate(&sequences, options.items, |last, item| {
            follows[last][item] + 1e-6 * popularity[item]
        });
        println!("HR@10 under uniform99: popularity {popular:.3}, first-order lookup {markov:.3}");
        assert!(popular < 0.45, "{popular}");
        assert!(markov > popular + 0.3, "{markov} against {popular}");
    }

    #[test]
    fn writes_whole_files_and_replaces_none_unasked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made.txt");
        let options = GenerateOptions {
            users: 10,
            ..GenerateOptions::default()
        };
        let report = generate(&path, &options, false).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), report.interactions);
        assert!(matches!(
            generate(
                &path,
                &GenerateOptions {
                    seed: 3,
                    ..options.clone()
                },
                false
            ),
            Err(DataError::Exists { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        generate(
            &path,
            &GenerateOptions {
                seed: 3,
                ..options.clone()
            },
            true,
        )
        .unwrap();
        assert_ne!(fs::read_to_string(&path).unwrap(), text);
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let nowhere = directory.path().join("no/such/made.txt");
        assert!(matches!(
            generate(&nowhere, &options, false),
            Err(DataError::Write { .. })
        ));
        assert!(write_whole(&path, |_| Err(io::Error::other("disk full"))).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn options_that_make_no_data_are_named() {
        let bad = |change: fn(&mut GenerateOptions)| {
            let mut options = GenerateOptions::default();
            change(&mut options);
            check(&options).unwrap_err().to_string()
        };
        assert!(bad(|o| o.users = 0).starts_with("--users is 0;"));
        assert!(bad(|o| o.interests = 0).starts_with("--interests is 0;"));
        assert!(
            bad(|o| o.interests_per_user = 13)
                .starts_with("--interests-per-user is 13; use 1 to 12")
        );
        assert!(bad(|o| o.mean_length = 4).starts_with("--mean-length is 4; use 5"));
        assert!(bad(|o| o.items = 100).starts_with("--items is 100; use 204 or more"));
        assert!(bad(|o| o.skew = f64::NAN).starts_with("--skew is NaN;"));
        assert!(bad(|o| o.order = 1.5).starts_with("--order is 1.5;"));
        assert!(bad(|o| o.switch = -0.1).starts_with("--switch is -0.1;"));
        // The smallest catalogue allowed does not run dry.
        let tight = GenerateOptions {
            items: 204,
            skew: 3.0,
            users: 100,
            ..GenerateOptions::default()
        };
        assert_eq!(sequences(&tight).len(), 100);
    }
}
