//! `user item item ...` lines in time order, separated by white space. A user may have several lines.

use super::lines::Lines;
use super::{check_id, refuse_rating_and_timestamp};
use crate::data::error::DataError;
use crate::data::interactions::{Interactions, Record};
use medley_common::config::DataConfig;

pub fn read(config: &DataConfig, into: &mut Interactions) -> Result<(), DataError> {
    refuse_rating_and_timestamp(config)?;
    let mut lines = Lines::open(&config.path)?;
    while let Some((line, text)) = lines.next()? {
        let mut fields = text.split_whitespace();
        let user = fields.next().unwrap_or_default();
        check_id(user, "user", line, &config.path)?;
        let mut items = fields.peekable();
        if items.peek().is_none() {
            return Err(DataError::Fields {
                path: config.path.clone(),
                line,
                expected: "at least 2 (user, item, ...)".into(),
                found: 1,
            });
        }
        for item in items {
            check_id(item, "item", line, &config.path)?;
            into.push(&Record { line, user, item, timestamp: None, rating: None })?;
        }
    }
    Ok(())
}
