//! Writes that happen together or not at all.

/// Conditions, and what is written if all of them hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold; none: it is always written.
    pub conditions: Vec<Condition>,
    /// In the order in which they were added; of no key twice.
    pub writes: Vec<Write>,
}

/// What a key must be for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent {
        /// The key.
        key: String,
    },
    /// The key is there, with this value.
    Equals {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
    },
}

/// What a transaction does to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets it.
    Put {
        /// The key.
        key: String,
        /// The new value.
        value: Vec<u8>,
    },
    /// Removes it, if it is there.
    Delete {
        /// The key.
        key: String,
    },
}

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if there is no such key.
    pub fn absent(mut self, key: impl Into<String>) -> Self {
        self.conditions.push(Condition::Absent { key: key.into() });
        self
    }

    /// Only if the key is there with this value.
    pub fn equals(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.conditions.push(Condition::Equals { key: key.into(), value: value.into() });
        self
    }

    /// Sets a key.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into() });
        self
    }

    /// Removes a key.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }
}

impl Condition {
    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent { key } | Self::Equals { key, .. } => key,
        }
    }

    /// Whether it holds for a key with this value.
    pub fn holds(&self, found: Option<&[u8]>) -> bool {
        match self {
            Self::Absent { .. } => found.is_none(),
            Self::Equals { value, .. } => found == Some(value),
        }
    }
}

impl Write {
    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Whether a key with this value is as the write leaves it.
    pub fn is_in_place(&self, found: Option<&[u8]>) -> bool {
        match self {
            Self::Put { value, .. } => found == Some(value),
            Self::Delete { .. } => found.is_none(),
        }
    }
}
