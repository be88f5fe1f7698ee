//! Everything that holds for a group in plain text, for one that is encrypted: the same tests again.

#![allow(clippy::unwrap_used)]

#[path = "collective.rs"]
mod operations;
