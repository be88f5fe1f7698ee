//! The configuration of a job: one TOML file, overrides from the command line, one validated [`RunConfig`].
//!
//! [`types`] has every key with its default; [`load()`] reads a file; [`keys`] finds the nearest known key for an
//! unknown one and the line of a key; [`validate`] refuses what cannot work. Whoever holds a [`RunConfig`] that came
//! from here need not check it again.

mod keys;
mod load;
mod types;
mod validate;

pub use load::{ConfigError, Override, identity, load, parse, to_toml};
pub use types::*;

/// The JSON schema of a configuration file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(RunConfig).to_value()
}
