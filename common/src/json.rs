//! What JSON and serde cannot carry by themselves: numbers that are not finite, and integer keys behind a tag.

use serde::{Deserialize, Deserializer, de::Error};
use std::collections::BTreeMap;

/// Reads a number that was not finite when it was written, and so stands as `null`, as NaN.
///
/// # Errors
/// Anything else that is not a number.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::<f64>::deserialize(deserializer).map(|number| number.unwrap_or(f64::NAN))
}

/// Reads a map by peer. serde buffers what stands behind an internal tag and then no longer takes the key `"0"`
/// for a number.
///
/// # Errors
/// A key that is not a peer's number.
pub(crate) fn by_peer<'de, D, T>(deserializer: D) -> Result<BTreeMap<u32, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    BTreeMap::<String, T>::deserialize(deserializer)?
        .into_iter()
        .map(|(key, value)| match key.parse() {
            Ok(peer) => Ok((peer, value)),
            Err(_) => Err(D::Error::custom(format!("`{key}` is not a peer's number"))),
        })
        .collect()
}
