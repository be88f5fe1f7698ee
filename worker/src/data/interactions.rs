//! What readers fill line by line: interned users and items, and who had what when.

use super::error::DataError;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Most distinct users, or items: padding and mask need a number each in 32 bits.
const MOST_NAMES: u32 = u32::MAX - 2;

/// One line of a file.
pub struct Record<'a> {
    pub line: u64,
    pub user: &'a str,
    pub item: &'a str,
    pub timestamp: Option<f64>,
    pub rating: Option<f64>,
}

/// The interactions of a file, in file order. Either all of them have a timestamp or none has.
pub struct Interactions {
    path: PathBuf,
    min_rating: Option<f64>,
    users: Names,
    items: Names,
    first_lines: Vec<u64>,
    pairs: Vec<(u32, u32)>,
    timestamps: Vec<f64>,
    rated_lower: usize,
}

/// Interactions sorted into one sequence a user. Users and items are in the order of their first appearance.
pub struct Grouped {
    pub user_names: Vec<String>,
    pub item_names: Vec<String>,
    /// Item indices of each user, in time order.
    pub sequences: Vec<Vec<u32>>,
    /// The line that first names each user.
    pub first_lines: Vec<u64>,
    /// Interactions left out for their rating.
    pub rated_lower: usize,
}

impl Interactions {
    pub fn new(path: &Path, min_rating: Option<f64>) -> Self {
        Self {
            path: path.to_owned(),
            min_rating,
            users: Names::new("user"),
            items: Names::new("item"),
            first_lines: Vec::new(),
            pairs: Vec::new(),
            timestamps: Vec::new(),
            rated_lower: 0,
        }
    }

    /// Takes one interaction, unless it is rated too low.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), DataError> {
        if let (Some(least), Some(rating)) = (self.min_rating, record.rating)
            && rating < least
        {
            self.rated_lower += 1;
            return Ok(());
        }
        let user = self.users.index(record.user, record.line, &self.path)?;
        let item = self.items.index(record.item, record.line, &self.path)?;
        if user as usize == self.first_lines.len() {
            self.first_lines.push(record.line);
        }
        self.pairs.push((user, item));
        self.timestamps.extend(record.timestamp);
        Ok(())
    }

    /// Interactions seen, the ones rated too low included.
    pub fn seen(&self) -> usize {
        self.pairs.len() + self.rated_lower
    }

    /// One sequence a user. A user's interactions of one time keep their order in the file.
    pub fn group(self) -> Grouped {
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        if self.timestamps.len() == self.pairs.len() {
            let times = &self.timestamps;
            order.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
        }
        let mut lengths = vec![0; self.users.names.len()];
        for &(user, _) in &self.pairs {
            lengths[user as usize] += 1;
        }
        let mut sequences: Vec<Vec<u32>> = lengths.into_iter().map(Vec::with_capacity).collect();
        for index in order {
            let (user, item) = self.pairs[index];
            sequences[user as usize].push(item);
        }
        Grouped {
            user_names: self.users.names,
            item_names: self.items.names,
            sequences,
            first_lines: self.first_lines,
            rated_lower: self.rated_lower,
        }
    }
}

/// Strings numbered in the order in which they first come.
struct Names {
    what: &'static str,
    names: Vec<String>,
    indices: HashMap<String, u32>,
    // Files list a user's lines together as a rule, which spares most look-ups.
    last: u32,
    most: u32,
}

impl Names {
    fn new(what: &'static str) -> Self {
        Self { what, names: Vec::new(), indices: HashMap::new(), last: 0, most: MOST_NAMES }
    }

    fn index(&mut self, name: &str, line: u64, path: &Path) -> Result<u32, DataError> {
        if self.names.get(self.last as usize).is_some_and(|last| last == name) {
            return Ok(self.last);
        }
        self.last = match self.indices.get(name) {
            Some(&index) => index,
            None => self.add(name, line, path)?,
        };
        Ok(self.last)
    }

    fn add(&mut self, name: &str, line: u64, path: &Path) -> Result<u32, DataError> {
        if name.is_empty() {
            return Err(DataError::EmptyId { path: path.to_owned(), line, what: self.what });
        }
        let index = u32::try_from(self.names.len())
            .ok()
            .filter(|&index| index < self.most)
            .ok_or_else(|| DataError::TooMany { path: path.to_owned(), line, what: self.what, limit: self.most })?;
        self.names.push(name.to_owned());
        self.indices.insert(name.to_owned(), index);
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record<'a>(line: u64, user: &'a str, item: &'a str, timestamp: Option<f64>) -> Record<'a> {
        Record { line, user, item, timestamp, rating: None }
    }

    #[test]
    fn times_sort_within_a_user_and_ties_keep_the_order_of_the_file() {
        let mut interactions = Interactions::new(Path::new("f"), None);
        for (line, (user, item, time)) in
            [("b", "x", 5.0), ("a", "y", 9.0), ("b", "z", -1.0), ("b", "y", 5.0)].into_iter().enumerate()
        {
            interactions.push(&record(line as u64 + 1, user, item, Some(time))).unwrap();
        }
        let grouped = interactions.group();
        assert_eq!(grouped.user_names, ["b", "a"]);
        assert_eq!(grouped.item_names, ["x", "y", "z"]);
        assert_eq!(grouped.sequences, [vec![2, 0, 1], vec![1]]);
        assert_eq!(grouped.first_lines, [1, 2]);
    }

    #[test]
    fn more_names_than_numbers_are_refused() {
        let mut names = Names::new("item");
        names.most = 2;
        assert_eq!(names.index("a", 1, Path::new("f")).unwrap(), 0);
        assert_eq!(names.index("b", 2, Path::new("f")).unwrap(), 1);
        assert_eq!(names.index("a", 3, Path::new("f")).unwrap(), 0);
        let error = names.index("c", 4, Path::new("f")).unwrap_err().to_string();
        assert_eq!(error, "f:4: id overflow: more than 2 distinct items; split the file or remove rare ones");
    }
}
