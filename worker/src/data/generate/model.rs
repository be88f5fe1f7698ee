//! The generative model. All of it is drawn from one seed:
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

use super::GenerateOptions;
use crate::random::{self, Purpose};
use rand_chacha::ChaCha8Rng;

/// Likely successors of an item.
pub const SUCCESSORS: usize = 4;
/// How likely each of them is, against the others.
const SUCCESSOR_SHARES: [f64; SUCCESSORS] = [0.5, 0.25, 0.15, 0.1];
/// Fewest interactions of a user: after the split, three still train.
pub const SHORTEST: usize = 5;

/// The items of each user, in order: a function of the options alone.
pub fn sequences(options: &GenerateOptions) -> Vec<Vec<usize>> {
    let catalogue = Catalogue::draw(options);
    (0..options.users)
        .map(|user| {
            let rng = random::stream(Purpose::SyntheticUser, options.seed, 0, user as u64);
            User::draw(options, &catalogue, rng).sequence(options)
        })
        .collect()
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
        let mut catalogue = Self { interests, sums, successors: vec![[0; SUCCESSORS]; options.items] };
        for interest in 0..options.interests {
            for place in 0..catalogue.interests[interest].len() {
                let item = catalogue.interests[interest][place];
                catalogue.successors[item] = catalogue.draw_successors(interest, item, &mut rng);
            }
        }
        catalogue
    }

    fn draw_successors(&self, interest: usize, item: usize, rng: &mut ChaCha8Rng) -> [usize; SUCCESSORS] {
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
    sums.partition_point(|&sum| sum <= point).min(sums.len() - 1)
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
        let unseen = interests.iter().map(|&interest| catalogue.interests[interest].len()).collect();
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
        let unseen: Vec<usize> =
            self.catalogue.interests[interest].iter().copied().filter(|&item| !self.seen[item]).collect();
        unseen[random::below(&mut self.rng, unseen.len())]
    }
}

/// An exponential draw with mean 1.
fn exponential(rng: &mut ChaCha8Rng) -> f64 {
    -(1.0 - random::unit(rng)).ln()
}
