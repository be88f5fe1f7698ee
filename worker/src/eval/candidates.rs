//! The negatives that a target is ranked among: drawn once, the same for every model, stored with their hash.

use super::{EvalError, Split};
use crate::random::{Purpose, below, stream, unit};
use medley_common::hash;
use medley_common::method::Protocol;
use rand_chacha::rand_core::RngCore;
use rayon::prelude::*;
use std::io::Write;
use std::path::Path;

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"MEDLEYC1";

/// Candidate lists of one protocol and split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    protocol: Protocol,
    split: Split,
    negatives: usize,
    /// `[users * negatives]`
    items: Vec<u32>,
    hash: String,
}

impl Candidates {
    /// Draws for every user outside the user's whole sequence (training, validation and test). The uniform protocols draw
    /// with replacement, as HAIL's released evaluator does. `popularity99` draws by training frequency without, as
    /// BERT4Rec's does, for as long as there are items that training shows and the user has not had; then it begins
    /// anew. A user's list depends on the seed, the protocol, the split, the user's items and place (and the frequencies)
    /// alone.
    ///
    /// # Errors
    /// When a user has had everything that could be drawn.
    ///
    /// # Panics
    /// If the protocol ranks all items.
    pub fn draw(
        protocol: Protocol,
        split: Split,
        sequences: &[Vec<u32>],
        items: usize,
        seed: u64,
    ) -> Result<Self, EvalError> {
        let negatives = protocol.negatives().expect("only sampled protocols have candidates");
        let weights = match protocol {
            Protocol::Popularity99 => frequencies(sequences, items, |s| Split::Valid.history(s)),
            _ => vec![1; items],
        };
        let salt = protocol.as_str().bytes().chain(split.as_str().bytes());
        let salt = salt.fold(0u64, |salt, byte| salt.wrapping_mul(257).wrapping_add(u64::from(byte)));
        let of_user = |(user, sequence): (usize, &Vec<u32>)| {
            let mut seen = sequence.clone();
            seen.sort_unstable();
            seen.dedup();
            let mut random = stream(Purpose::Candidates, seed, salt, user as u64);
            let drawn = match protocol {
                Protocol::Popularity99 => distinct(&seen, &weights, negatives, &mut random),
                _ => uniform(&seen, items, negatives, &mut random),
            };
            drawn.ok_or(EvalError::NoNegatives { user, protocol })
        };
        let drawn: Result<Vec<Vec<u32>>, EvalError> = sequences.par_iter().enumerate().map(of_user).collect();
        let drawn = drawn?.concat();
        let hash = hash::sha256(&encode(protocol, split, negatives, &drawn));
        Ok(Self { protocol, split, negatives, items: drawn, hash })
    }

    /// A user's negatives.
    pub fn of(&self, user: usize) -> &[u32] {
        &self.items[user * self.negatives..(user + 1) * self.negatives]
    }

    /// SHA-256 over protocol, split and lists.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Name of the file that keeps the lists.
    pub fn file_name(&self) -> String {
        format!("{}-{}.bin", self.protocol, self.split.as_str())
    }

    /// Writes the lists: a header with protocol, split and counts, then little-endian 32-bit item indices.
    ///
    /// # Errors
    /// Those of the file system; there is then no file of that name, or the earlier one.
    pub fn write(&self, directory: &Path) -> Result<(), EvalError> {
        let path = directory.join(self.file_name());
        let temporary = directory.join(format!(".{}.part", self.file_name()));
        let write = || {
            std::fs::create_dir_all(directory)?;
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&encode(self.protocol, self.split, self.negatives, &self.items))?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&temporary);
            EvalError::File { path: path.clone(), source }
        })
    }

    /// Reads lists that [`Candidates::write`] wrote.
    ///
    /// # Errors
    /// When the file is absent, cut short or not of this form.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let bytes = std::fs::read(path).map_err(|source| EvalError::File { path: path.to_owned(), source })?;
        decode(&bytes).map_err(|what| EvalError::Damaged { path: path.to_owned(), what })
    }
}

/// How often each item occurs in a part of the sequences.
pub fn frequencies(sequences: &[Vec<u32>], items: usize, part: impl Fn(&[u32]) -> &[u32]) -> Vec<u64> {
    let mut counts = vec![0; items];
    for sequence in sequences {
        part(sequence).iter().for_each(|item| counts[*item as usize] += 1);
    }
    counts
}

/// Draws with replacement from the items that are not among the `seen` ones, which are ascending; nothing where there
/// are none.
fn uniform(seen: &[u32], items: usize, count: usize, random: &mut impl RngCore) -> Option<Vec<u32>> {
    let open = items - seen.len();
    // An open number's item comes after as many seen ones as had no more open numbers before them.
    let open_before: Vec<usize> = seen.iter().enumerate().map(|(rank, item)| *item as usize - rank).collect();
    let item_at = |number: usize| (number + open_before.partition_point(|before| *before <= number)) as u32;
    (open > 0).then(|| (0..count).map(|_| item_at(below(random, open))).collect())
}

/// A weighted draw without replacement from the items that are not `seen` and weigh something: each waits an exponential
/// time of its weight's rate, and the first come (Efraimidis and Spirakis, 2006). Where there are too few items the list
/// begins anew; where there are none there is no list.
fn distinct(seen: &[u32], weights: &[u64], count: usize, random: &mut impl RngCore) -> Option<Vec<u32>> {
    let mut seen = seen.iter().copied().peekable();
    let mut times: Vec<(f64, u32)> = Vec::with_capacity(weights.len());
    for (item, weight) in (0..).zip(weights) {
        let is_seen = seen.next_if_eq(&item).is_some();
        if !is_seen && *weight > 0 {
            times.push((-(1.0 - unit(random)).ln() / *weight as f64, item));
        }
    }
    let earlier = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if times.len() > count {
        times.select_nth_unstable_by(count, earlier);
        times.truncate(count);
    }
    times.sort_unstable_by(earlier);
    (!times.is_empty()).then(|| times.iter().map(|(_, item)| *item).cycle().take(count).collect())
}

fn encode(protocol: Protocol, split: Split, negatives: usize, items: &[u32]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for text in [protocol.as_str(), split.as_str()] {
        bytes.push(text.len() as u8);
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&(negatives as u64).to_le_bytes());
    bytes.extend_from_slice(&(items.len() as u64).to_le_bytes());
    bytes.extend(items.iter().flat_map(|item| item.to_le_bytes()));
    bytes
}

fn decode(bytes: &[u8]) -> Result<Candidates, String> {
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
        let (taken, left) = rest.split_at_checked(count).ok_or("it is cut short")?;
        *rest = left;
        Ok(taken)
    }
    fn number(rest: &mut &[u8]) -> Result<usize, String> {
        let bytes: [u8; 8] = take(rest, 8)?.try_into().map_err(|_| "it is cut short")?;
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| "a count is too large".into())
    }
    let mut rest = bytes;
    if take(&mut rest, MAGIC.len())? != MAGIC {
        return Err("it does not begin as one".into());
    }
    let mut texts = Vec::new();
    for _ in 0..2 {
        let length = take(&mut rest, 1)?[0];
        texts.push(String::from_utf8_lossy(take(&mut rest, usize::from(length))?).into_owned());
    }
    let protocol = Protocol::ALL.into_iter().find(|p| p.as_str() == texts[0]).ok_or("its protocol is unknown")?;
    let splits = [Split::Valid, Split::Test];
    let split = splits.into_iter().find(|split| split.as_str() == texts[1]).ok_or("its split is unknown")?;
    let negatives = number(&mut rest)?;
    let count = number(&mut rest)?;
    if protocol.negatives() != Some(negatives) || count.checked_mul(4) != Some(rest.len()) || count % negatives != 0 {
        return Err("its counts and its length disagree".into());
    }
    let items = rest.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(Candidates { protocol, split, negatives, items, hash: hash::sha256(bytes) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn sequences() -> Vec<Vec<u32>> {
        (0..20u32).map(|user| (0..10).map(|place| (user * 7 + place * 3) % 40).collect()).collect()
    }

    #[test]
    fn lists_are_drawn_outside_the_whole_sequence_and_by_user() {
        let sequences = sequences();
        for protocol in [Protocol::Uniform99, Protocol::Popularity99, Protocol::Uniform1000] {
            let all = Candidates::draw(protocol, Split::Test, &sequences, 40, 1).unwrap();
            for (user, sequence) in sequences.iter().enumerate() {
                assert_eq!(all.of(user).len(), protocol.negatives().unwrap());
                assert!(all.of(user).iter().all(|item| !sequence.contains(item) && *item < 40));
            }
            assert_ne!(all, Candidates::draw(protocol, Split::Test, &sequences, 40, 2).unwrap());
            assert_ne!(all.items, Candidates::draw(protocol, Split::Valid, &sequences, 40, 1).unwrap().items);
        }
        // With uniform weights a user's list does not depend on who else there is.
        let all = Candidates::draw(Protocol::Uniform99, Split::Test, &sequences, 40, 1).unwrap();
        let fewer = Candidates::draw(Protocol::Uniform99, Split::Test, &sequences[..3], 40, 1).unwrap();
        assert_eq!(all.of(2), fewer.of(2));
    }

    #[test]
    fn popularity_draws_distinct_items_the_popular_ones_first() {
        // Training shows item 1 three times as often as item 2, and item 3 never; the last users have had neither.
        let mut sequences: Vec<Vec<u32>> = (0..300).map(|_| vec![1, 1, 1, 2, 0, 0]).collect();
        sequences.extend((0..2000).map(|_| vec![4, 4, 4]));
        let all = Candidates::draw(Protocol::Popularity99, Split::Test, &sequences, 5, 1).unwrap();
        let lists: Vec<&[u32]> = (300..2300).map(|user| all.of(user)).collect();
        assert!(lists.iter().all(|list| list[0] != list[1] && !list.contains(&3)));
        let share = lists.iter().filter(|list| list[0] == 1).count() as f64 / lists.len() as f64;
        assert!((share - 0.75).abs() < 0.03, "{share}");
    }

    #[test]
    fn a_user_who_had_everything_is_an_error_and_almost_everything_is_not() {
        let error = Candidates::draw(Protocol::Uniform99, Split::Test, &[vec![0, 1, 2]], 3, 1).unwrap_err().to_string();
        assert!(error.contains("uniform99") && error.contains("user number 0"), "{error}");
        let rare = Candidates::draw(Protocol::Uniform99, Split::Test, &[(0..5000).collect()], 5001, 1).unwrap();
        assert!(rare.of(0).iter().all(|item| *item == 5000));
    }

    #[test]
    fn files_round_trip_and_damaged_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let drawn = Candidates::draw(Protocol::Uniform99, Split::Valid, &sequences(), 40, 1).unwrap();
        drawn.write(directory.path()).unwrap();
        let path = directory.path().join("uniform99-valid.bin");
        assert_eq!(Candidates::read(&path).unwrap(), drawn);
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 7, 12, 30, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(matches!(Candidates::read(&path), Err(EvalError::Damaged { .. })));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(&bytes);
            let _ = decode(&bytes);
            let _ = decode(&with_magic);
        }
    }
}
