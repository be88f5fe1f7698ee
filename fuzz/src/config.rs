//! A configuration file, and overrides after it, each behind a zero byte.

use crate::one_line::assert_one_line;
use medley_common::config::{self, Override};

/// What a person passes on a command line, at most.
const MOST_OVERRIDES: usize = 8;

/// Parses the input; what is accepted must survive being written and read again.
pub fn check(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let mut overrides = Vec::new();
    for part in parts.take(MOST_OVERRIDES) {
        match part.parse::<Override>() {
            Ok(change) => overrides.push(change),
            Err(error) => assert_one_line(&error),
        }
    }
    let config = match config::parse(file, "job.toml", &overrides) {
        Ok(config) => config,
        Err(error) => {
            assert_one_line(&error);
            return false;
        }
    };
    let written = config::to_toml(&config);
    match config::parse(&written, "run.toml", &[]) {
        Ok(again) => assert_eq!(again, config, "changed by being written and read:\n{written}"),
        Err(error) => panic!("what was accepted is refused once written: {error}\n{written}"),
    }
    assert_eq!(config::identity(&config).len(), 64);
    true
}
