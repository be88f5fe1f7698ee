//! MovieLens `ratings.dat`: `user::item::rating::timestamp`, in any order of time.

use super::lines::Lines;
use super::{check_id, number};
use crate::data::error::DataError;
use crate::data::interactions::{Interactions, Record};
use medley_common::config::DataConfig;

pub fn read(config: &DataConfig, into: &mut Interactions) -> Result<(), DataError> {
    let path = config.path.as_path();
    let mut lines = Lines::open(path)?;
    while let Some((line, text)) = lines.next()? {
        let mut fields = text.split("::").map(str::trim);
        let (Some(user), Some(item), Some(rating), Some(timestamp), None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(DataError::Fields {
                path: path.to_owned(),
                line,
                expected: "4 (user::item::rating::timestamp)".into(),
                found: text.split("::").count(),
            });
        };
        check_id(user, "user", line, path)?;
        check_id(item, "item", line, path)?;
        into.push(&Record {
            line,
            user,
            item,
            timestamp: Some(number(timestamp, "timestamp", line, path)?),
            rating: Some(number(rating, "rating", line, path)?),
        })?;
    }
    Ok(())
}
