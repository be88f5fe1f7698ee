//! Candidates, ranks and metrics of a dataset under all configured protocols.

use super::baselines::Baseline;
use super::{Candidates, EvalError, Split, metrics, rank_full, rank_full_unseen, rank_sampled};
use medley_common::method::{MethodName, Protocol};
use medley_common::summary::Evaluation;
use rayon::prelude::*;
use std::path::Path;

/// Evaluates models on a dataset.
#[derive(Debug)]
pub struct Evaluator<'a> {
    protocols: Vec<Protocol>,
    sequences: &'a [Vec<u32>],
    items: usize,
    candidates: Vec<(Protocol, Split, Candidates)>,
}

impl<'a> Evaluator<'a> {
    /// An evaluator, with the candidates of both splits drawn; `sequences` are the whole ones.
    ///
    /// # Errors
    /// Those of [`Candidates::draw`].
    pub fn new(
        protocols: Vec<Protocol>,
        sequences: &'a [Vec<u32>],
        items: usize,
        seed: u64,
    ) -> Result<Self, EvalError> {
        let mut candidates = Vec::new();
        for protocol in protocols.iter().filter(|protocol| protocol.negatives().is_some()) {
            for split in [Split::Valid, Split::Test] {
                let drawn = Candidates::draw(*protocol, split, sequences, items, seed)?;
                candidates.push((*protocol, split, drawn));
            }
        }
        Ok(Self { protocols, sequences, items, candidates })
    }

    fn of(&self, protocol: Protocol, split: Split) -> Option<&Candidates> {
        let found = self.candidates.iter().find(|(p, s, _)| (*p, *s) == (protocol, split));
        found.map(|(_, _, candidates)| candidates)
    }

    /// Collects a model's ranks on a split.
    pub fn tally(&self, split: Split) -> Tally<'_> {
        let of = |protocol: &Protocol| (*protocol, self.of(*protocol, split), Vec::new());
        let protocols = self.protocols.iter().map(of).collect();
        Tally { sequences: self.sequences, items: self.items, split, protocols }
    }

    /// Evaluates a baseline on a split, unless `stop` says before the end that it is not wanted any more.
    ///
    /// # Errors
    /// Those of `stop`; never for a baseline's own scores, which are numbers.
    pub fn baseline<E: From<EvalError>>(
        &self,
        method: MethodName,
        split: Split,
        stop: &dyn Fn() -> Result<bool, E>,
    ) -> Result<Option<Vec<Evaluation>>, E> {
        let baseline = Baseline::new(method, split, self.sequences, self.items);
        let mut tally = self.tally(split);
        let users: Vec<usize> = (0..self.sequences.len()).collect();
        let mut row = Vec::with_capacity(self.items);
        for users in users.chunks(256) {
            if stop()? {
                return Ok(None);
            }
            let mut scores = Vec::with_capacity(users.len() * self.items);
            for user in users {
                baseline.scores(&self.sequences[*user], &mut row);
                scores.extend_from_slice(&row);
            }
            tally.add_batch(users, &scores)?;
        }
        Ok(Some(tally.finish(method.as_str(), 0)))
    }

    /// Writes all candidates.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, directory: &Path) -> Result<(), EvalError> {
        self.candidates.iter().try_for_each(|(_, _, candidates)| candidates.write(directory))
    }
}

/// The ranks of one model on one split.
#[derive(Debug)]
pub struct Tally<'a> {
    sequences: &'a [Vec<u32>],
    items: usize,
    split: Split,
    /// Each protocol, its candidates where it has some, and the ranks so far.
    protocols: Vec<(Protocol, Option<&'a Candidates>, Vec<f64>)>,
}

impl Tally<'_> {
    /// Ranks the targets of some users; `scores` is `[users, V]`.
    ///
    /// # Errors
    /// When a score is not a number.
    ///
    /// # Panics
    /// If the lengths disagree.
    pub fn add_batch(&mut self, users: &[usize], scores: &[f32]) -> Result<(), EvalError> {
        assert_eq!(scores.len(), users.len() * self.items, "scores are [users, V]");
        let rows: Vec<(usize, &[f32])> = users.iter().copied().zip(scores.chunks_exact(self.items)).collect();
        // A sum is finite only where every score is: cheaper than looking at each.
        let broken = |(_, scores): &&(usize, &[f32])| !scores.iter().map(|score| score * 0.0).sum::<f32>().eq(&0.0);
        if let Some((user, _)) = rows.par_iter().find_first(broken) {
            return Err(EvalError::NotFinite { user: *user });
        }
        for (protocol, candidates, ranks) in &mut self.protocols {
            let (split, sequences) = (self.split, self.sequences);
            ranks.par_extend(rows.par_iter().map(|(user, scores)| {
                let target = split.target(&sequences[*user]);
                match protocol {
                    Protocol::Full => rank_full(scores, target),
                    Protocol::FullUnseen => rank_full_unseen(scores, target, split.history(&sequences[*user])),
                    _ => {
                        let candidates = candidates.expect("an evaluator has candidates of every sampled protocol");
                        rank_sampled(scores, target, candidates.of(*user))
                    }
                }
            }));
        }
        Ok(())
    }

    /// Metrics under every protocol.
    pub fn finish(self, subject: &str, step: u64) -> Vec<Evaluation> {
        let evaluation = |(protocol, candidates, ranks): (Protocol, Option<&Candidates>, Vec<f64>)| Evaluation {
            subject: subject.into(),
            step,
            split: self.split.as_str().into(),
            protocol: protocol.as_str().into(),
            candidates_hash: candidates.map(|candidates| candidates.hash().to_owned()),
            users: ranks.len() as u64,
            metrics: metrics(&ranks),
        };
        self.protocols.into_iter().map(evaluation).collect()
    }
}
