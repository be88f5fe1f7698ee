//! From a file and overrides to a validated configuration.

use super::{RunConfig, keys, validate};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What is wrong with a configuration: always one line with the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: cannot read the configuration: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{place}: {message}")]
    Malformed {
        /// `file:line`, or the override.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// A key that nothing reads.
    #[error("{place}: unknown key `{key}`{suggestion}")]
    UnknownKey {
        /// `file:line`, or the override.
        place: String,
        /// The key.
        key: String,
        /// "; did you mean ...", or where to find the known ones.
        suggestion: String,
    },
    /// A value that cannot work.
    #[error("{place}: {message}")]
    Invalid {
        /// `file:line: key`, or the key alone.
        place: String,
        /// What is wrong and how to mend it.
        message: String,
    },
    /// An override that is not `key=value`.
    #[error("--set {text}: expected key=value, for example --set method.alpha=0.3")]
    Override {
        /// As given.
        text: String,
    },
}

/// `key=value` from the command line; the value is TOML, or else taken as a string.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Dotted key.
    pub key: String,
    /// Value.
    pub value: toml::Value,
    /// The value as it was typed, for keys that take a string which looks like something else: `--set name=2026`.
    typed: Option<String>,
}

impl Override {
    /// An override made by a flag of its own.
    pub fn new(key: &str, value: impl Into<toml::Value>) -> Self {
        Self { key: key.into(), value: value.into(), typed: None }
    }
}

impl Override {
    /// Whether a configuration takes this value for this key.
    fn fits(&self) -> bool {
        let mut alone = toml::Table::new();
        insert(&mut alone, self).is_ok() && alone.try_into::<RunConfig>().is_ok()
    }

    /// The override with its value as a string, where the key takes that and not what the value looks like.
    fn fitted(&self) -> Self {
        let as_string =
            self.typed.as_ref().map(|typed| Self { value: toml::Value::String(typed.clone()), ..self.clone() });
        match as_string {
            Some(change) if !self.fits() && change.fits() => change,
            _ => self.clone(),
        }
    }
}

impl FromStr for Override {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let malformed = || ConfigError::Override { text: plain(text) };
        let (key, value) = text.split_once('=').ok_or_else(malformed)?;
        let key = key.trim();
        if key.is_empty() || key.split('.').any(str::is_empty) {
            return Err(malformed());
        }
        let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
            .ok()
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"));
        Ok(Self {
            key: key.into(),
            value: parsed.unwrap_or_else(|| toml::Value::String(value.trim().into())),
            typed: Some(value.trim().into()),
        })
    }
}

/// Reads and validates a configuration file.
///
/// # Errors
/// One line that names file, line or key.
pub fn load(path: &Path, overrides: &[Override]) -> Result<RunConfig, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(&text, &path.display().to_string(), overrides)
}

/// Parses and validates a configuration; `origin` names it in messages.
///
/// # Errors
/// One line that names file, line or key.
pub fn parse(text: &str, origin: &str, overrides: &[Override]) -> Result<RunConfig, ConfigError> {
    let source = keys::Source::new(text, origin, overrides);
    let mut table: toml::Table = toml::from_str(text).map_err(|error| ConfigError::Malformed {
        place: source.place_of_span(error.span()),
        message: one_line(error.message()),
    })?;
    // The file by itself first, so that a wrong type is reported with its line.
    deserialize::<RunConfig>(text).map_err(|error| ConfigError::Malformed {
        place: source.place_of_span(error.span()),
        message: one_line(error.message()),
    })?;
    let known = keys::known();
    for change in overrides {
        if !known.contains(&change.key) {
            return Err(ConfigError::UnknownKey {
                place: format!("--set {}", plain(&change.key)),
                suggestion: keys::suggestion(&change.key),
                key: plain(&change.key),
            });
        }
        insert(&mut table, &change.fitted())?;
    }
    let mut unknown = Vec::new();
    let config: RunConfig = serde_ignored::deserialize(table, |path| unknown.push(path.to_string()))
        .map_err(|error| malformed_override(overrides, &error))?;
    if let Some(key) = unknown.into_iter().next() {
        let place = source.place_of_key(&key);
        return Err(ConfigError::UnknownKey { place, suggestion: keys::suggestion(&key), key: plain(&key) });
    }
    validate::check(&config).map_err(|fault| ConfigError::Invalid {
        place: format!("{}: {}", source.place_of_key(fault.key), fault.key),
        message: plain(&fault.message),
    })?;
    Ok(config)
}

/// The hash of all that can change what is learned: of two runs with the same, neither paths, threads, processes nor
/// what is written and shown need agree.
pub fn identity(config: &RunConfig) -> String {
    let defaults = RunConfig::default();
    let mut essence = config.clone();
    essence.name.clear();
    essence.data.path.clone_from(&defaults.data.path);
    essence.cohort.workers = defaults.cohort.workers;
    essence.train.threads = defaults.train.threads;
    essence.train.device = defaults.train.device;
    essence.train.precision = defaults.train.precision;
    essence.train.checkpoint_every = defaults.train.checkpoint_every;
    essence.exchange = defaults.exchange;
    essence.output = defaults.output;
    essence.launch = defaults.launch;
    essence.recovery = defaults.recovery;
    essence.store = defaults.store;
    essence.security = defaults.security;
    crate::hash::sha256(to_toml(&essence).as_bytes())
}

/// The configuration as TOML, with every default written out.
pub fn to_toml(config: &RunConfig) -> String {
    toml::to_string(config).expect("a configuration has string keys and representable values only")
}

fn deserialize<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, toml::de::Error> {
    toml::from_str(text)
}

/// Sets a dotted key, creating the tables on its way.
fn insert(table: &mut toml::Table, change: &Override) -> Result<(), ConfigError> {
    let mut parts: Vec<&str> = change.key.split('.').collect();
    let last = parts.pop().ok_or_else(|| ConfigError::Override { text: change.key.clone() })?;
    let mut here = table;
    // A known key's tables are tables, unless another override made one a value.
    for part in parts {
        here = here.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new())).as_table_mut().ok_or_else(
            || ConfigError::Malformed {
                place: format!("--set {}", change.key),
                message: format!("`{part}` is a value, not a table"),
            },
        )?;
    }
    here.insert(last.into(), change.value.clone());
    Ok(())
}

/// After the file alone has passed, a failing type can only come from an override: find which.
fn malformed_override(overrides: &[Override], error: &toml::de::Error) -> ConfigError {
    let culprit = overrides.iter().find(|change| !change.fitted().fits());
    ConfigError::Malformed {
        place: culprit.map_or_else(|| "--set".into(), |change| format!("--set {}", change.key)),
        message: one_line(error.message()),
    }
}

/// Text of the user in a message: line ends and other control characters, which TOML can spell, as TOML spells them.
fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut plain, character| {
        match character {
            character if character.is_control() => plain.extend(character.escape_debug()),
            character => plain.push(character),
        }
        plain
    })
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}
