//! `user item` lines in time order, separated by white space or by `data.separator`.

use super::lines::Lines;
use super::{check_id, refuse_rating_and_timestamp, separator};
use crate::data::error::DataError;
use crate::data::interactions::{Interactions, Record};
use medley_common::config::DataConfig;

pub fn read(config: &DataConfig, into: &mut Interactions) -> Result<(), DataError> {
    refuse_rating_and_timestamp(config)?;
    let separator = separator(config)?.map(char::from);
    let mut lines = Lines::open(&config.path)?;
    while let Some((line, text)) = lines.next()? {
        let (fields, count) = match separator {
            Some(separator) => first_two(text.split(separator).map(str::trim)),
            None => first_two(text.split_whitespace()),
        };
        let ([user, item], 2) = (fields, count) else {
            return Err(DataError::Fields {
                path: config.path.clone(),
                line,
                expected: "2 (user, item)".into(),
                found: count,
            });
        };
        check_id(user, "user", line, &config.path)?;
        check_id(item, "item", line, &config.path)?;
        into.push(&Record { line, user, item, timestamp: None, rating: None })?;
    }
    Ok(())
}

/// The first two fields, and how many there are in all.
fn first_two<'a>(fields: impl Iterator<Item = &'a str>) -> ([&'a str; 2], usize) {
    let mut two = [""; 2];
    let mut count = 0;
    for field in fields {
        if let Some(place) = two.get_mut(count) {
            *place = field;
        }
        count += 1;
    }
    (two, count)
}
