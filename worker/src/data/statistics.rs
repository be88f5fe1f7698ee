//! The columns of HAIL's Table 1 (PeerRec's and TiMiRec's are the same ones and the density).

use super::Dataset;
use serde::Serialize;
use std::fmt;

/// Size and shape of a dataset. Lengths are those of sequences without their last two items, as the papers have it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DatasetStatistics {
    /// Users.
    pub users: usize,
    /// Distinct items.
    pub items: usize,
    /// Interactions, held-out ones included.
    pub interactions: usize,
    /// Longest training sequence.
    pub len_max: usize,
    /// Shortest training sequence.
    pub len_min: usize,
    /// Mean length of a training sequence.
    pub len_avg: f64,
    /// Population standard deviation of that length. PeerRec's table calls it the variance.
    pub len_std: f64,
    /// Interactions per 100 pairs of user and item.
    pub density_percent: f64,
}

impl DatasetStatistics {
    /// The statistics of a dataset.
    pub fn of(dataset: &Dataset) -> Self {
        let lengths: Vec<usize> = dataset.sequences.iter().map(|s| s.len() - 2).collect();
        let users = lengths.len();
        let mean = lengths.iter().sum::<usize>() as f64 / users as f64;
        let variance = lengths.iter().map(|&length| (length as f64 - mean).powi(2)).sum::<f64>() / users as f64;
        let interactions = dataset.interactions();
        Self {
            users,
            items: dataset.items,
            interactions,
            len_max: lengths.iter().copied().max().unwrap_or(0),
            len_min: lengths.iter().copied().min().unwrap_or(0),
            len_avg: mean,
            len_std: variance.sqrt(),
            density_percent: 100.0 * interactions as f64 / (users as f64 * dataset.items as f64),
        }
    }

    /// The same with lengths rounded to the two decimals that the papers print, and density to four.
    pub fn rounded(self) -> Self {
        let round = |value: f64, digits: i32| {
            let scale = 10_f64.powi(digits);
            (value * scale).round() / scale
        };
        Self {
            len_avg: round(self.len_avg, 2),
            len_std: round(self.len_std, 2),
            density_percent: round(self.density_percent, 4),
            ..self
        }
    }
}

impl fmt::Display for DatasetStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "users            {:>12}", self.users)?;
        writeln!(f, "items            {:>12}", self.items)?;
        writeln!(f, "interactions     {:>12}", self.interactions)?;
        writeln!(f, "len max          {:>12}", self.len_max)?;
        writeln!(f, "len min          {:>12}", self.len_min)?;
        writeln!(f, "len avg          {:>12.2}", self.len_avg)?;
        writeln!(f, "len std          {:>12.2}", self.len_std)?;
        writeln!(f, "density          {:>11.4}%", self.density_percent)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use medley_common::config::DataConfig;

    #[test]
    fn lengths_are_without_the_last_two_items() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.txt");
        std::fs::write(&path, "a 1 2 3\nb 1 2 3 4 1 2\n").unwrap();
        let config = DataConfig { path, ..DataConfig::default() };
        let is = DatasetStatistics::of(&Dataset::load(&config).unwrap());
        let expected = DatasetStatistics {
            users: 2,
            items: 4,
            interactions: 9,
            len_max: 4,
            len_min: 1,
            len_avg: 2.5,
            len_std: 1.5,
            density_percent: 112.5,
        };
        assert_eq!(is, expected);
        assert_eq!(is.rounded(), expected);
        assert!(is.to_string().contains("len std                  1.50\n"));
    }
}
