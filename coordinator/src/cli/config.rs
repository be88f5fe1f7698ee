//! `medley config`.

use super::{CliError, print};
use medley_common::config::{self, ConfigError, Override, RunConfig};
use medley_common::exit;
use std::path::PathBuf;

/// Check, show and describe configurations
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ConfigCommand {
    /// Check a configuration: one line that says that it is valid, or what is wrong and where
    #[command(
        after_help = "Examples:\n  medley config check my.toml\n  medley config check my.toml --set cohort.peers=8"
    )]
    Check {
        /// The configuration
        file: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Print a configuration with every default written out; without a file, the defaults
    #[command(
        after_help = "Examples:\n  medley config show > my.toml\n  medley config show my.toml --set method.alpha=0.3"
    )]
    Show {
        /// The configuration
        file: Option<PathBuf>,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Print the JSON schema of configurations: every key with its type and meaning
    #[command(after_help = "Examples:\n  medley config schema > medley.schema.json")]
    Schema,
}

const EXAMPLES: &str = "\
Examples:
  medley config check my.toml
  medley config show my.toml --set method.alpha=0.3
  medley config schema > medley.schema.json      For an editor that completes and checks TOML";

/// `--set`, wherever a configuration is read.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// Change a key of the configuration; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Overrides {
    pub fn parse(&self) -> Result<Vec<Override>, ConfigError> {
        self.set.iter().map(|text| text.parse()).collect()
    }
}

/// Runs a `medley config` command.
pub fn run(command: ConfigCommand) -> Result<i32, CliError> {
    let text = text(command).map_err(|error| CliError::bad_input(&error))?;
    print(&text)?;
    Ok(exit::SUCCESS)
}

fn text(command: ConfigCommand) -> Result<String, ConfigError> {
    Ok(match command {
        ConfigCommand::Check { file, overrides } => {
            let config = config::load(&file, &overrides.parse()?)?;
            let (method, peers) = (config.method.name, config.cohort.peers);
            format!("{}: valid ({method}, {peers} peer(s))\n", file.display())
        }
        ConfigCommand::Show { file: Some(file), overrides } => {
            config::to_toml(&config::load(&file, &overrides.parse()?)?)
        }
        ConfigCommand::Show { file: None, overrides } if overrides.set.is_empty() => {
            config::to_toml(&RunConfig::default())
        }
        ConfigCommand::Show { file: None, overrides } => {
            config::to_toml(&config::parse("", "defaults", &overrides.parse()?)?)
        }
        ConfigCommand::Schema => format!("{:#}\n", config::schema()),
    })
}
