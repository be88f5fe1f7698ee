//! Known keys, the nearest of them for a misspelt one, and the line on which a key stands.

use super::{Override, schema};
use std::ops::Range;
use std::sync::LazyLock;

/// Where a configuration came from, to say where its faults are.
pub struct Source<'a> {
    text: &'a str,
    origin: &'a str,
    overrides: &'a [Override],
}

impl<'a> Source<'a> {
    pub fn new(text: &'a str, origin: &'a str, overrides: &'a [Override]) -> Self {
        Self { text, origin, overrides }
    }

    /// `file:line` of a span of the text.
    pub fn place_of_span(&self, span: Option<Range<usize>>) -> String {
        match span {
            Some(span) => format!("{}:{}", self.origin, line_at(self.text, span.start)),
            None => self.origin.to_owned(),
        }
    }

    /// Where a dotted key is set: the override, `file:line`, or the file alone where the default is in force.
    pub fn place_of_key(&self, key: &str) -> String {
        let sets = |change: &&Override| {
            let rest = key.strip_prefix(change.key.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some(change) = self.overrides.iter().rev().find(sets) {
            return format!("--set {}", change.key);
        }
        let document = toml_edit::Document::parse(self.text.to_owned()).ok();
        let span = document.as_ref().and_then(|document| {
            let mut table: &dyn toml_edit::TableLike = document.as_table();
            let mut parts = key.split('.').peekable();
            loop {
                let part = parts.next()?;
                if parts.peek().is_none() {
                    return table.get_key_value(part).and_then(|(key, item)| key.span().or_else(|| item.span()));
                }
                table = table.get(part)?.as_table_like()?;
            }
        });
        self.place_of_span(span)
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// What to say after "unknown key": the nearest known key, if one is near.
pub fn suggestion(key: &str) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let nearest = known()
        .iter()
        .map(|candidate| {
            // The right name in the wrong table is the commonest slip, after a misspelling in the right one.
            let whole = strsim::damerau_levenshtein(key, candidate);
            let name = strsim::damerau_levenshtein(&last(key), &last(candidate)) + 1;
            (whole.min(name), candidate)
        })
        .min();
    match nearest {
        Some((distance, candidate)) if distance <= 2 + last(key).len() / 3 => {
            format!("; did you mean `{candidate}`?")
        }
        _ => "; `medley config schema` lists the known ones".into(),
    }
}

/// Every key that a configuration may have, dotted.
pub fn known() -> &'static [String] {
    static KNOWN: LazyLock<Vec<String>> = LazyLock::new(|| {
        let schema = schema();
        let mut keys = Vec::new();
        collect(&schema, &schema, "", &mut keys);
        keys
    });
    &KNOWN
}

fn collect(root: &serde_json::Value, node: &serde_json::Value, prefix: &str, keys: &mut Vec<String>) {
    let node = match node.get("$ref").and_then(|reference| reference.as_str()) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(node),
        None => node,
    };
    let Some(properties) = node.get("properties").and_then(|properties| properties.as_object()) else {
        return;
    };
    for (name, property) in properties {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        collect(root, property, &key, keys);
        keys.push(key);
    }
}
