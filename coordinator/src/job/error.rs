//! Why a job could not begin.

use crate::checkpoint::CheckpointError;
use crate::launch::LaunchError;
use crate::server::ServerError;
use crate::store::StoreError;
use medley_common::certificates::CertificatesError;
use medley_common::config::ConfigError;
use medley_common::exit;
use std::path::PathBuf;

/// Why a job could not begin: one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The run directory is there already.
    #[error("{0} exists; go on with it by --resume {0}, or name another one")]
    Exists(PathBuf),
    /// Nothing can be written there.
    #[error("cannot write to the run directory {path}: {source}; name another one")]
    Unwritable {
        /// The run directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing to resume.
    #[error("{0}: there is no run to resume here (no run.toml); start one without --resume")]
    NoRun(PathBuf),
    /// The configuration that the run directory keeps is no longer readable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The worker binary, or its check of configuration and data.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The listening address.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The certificates.
    #[error("security.certificates: {0}")]
    Certificates(#[from] CertificatesError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The checkpoint to resume from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Several coordinators need a store that they share.
    #[error(
        "store.kind: is \"embedded\", which one coordinator keeps for itself; several of a job need \"etcd\" and store.endpoints"
    )]
    NotShared,
    /// The run directory holds another job's run.
    #[error("{0}: holds the run of another job, or of another configuration; name another directory")]
    OtherRun(PathBuf),
    /// The store holds a job of the same name with another configuration.
    #[error(
        "--job: a job {0:?} was begun with another configuration; coordinate it with that one, or name another by --job (or the configuration's name)"
    )]
    OtherJob(String),
    /// A store that only `medley coordinate` uses.
    #[error("store.kind: \"etcd\" is for medley coordinate; leave it out for medley run, which keeps its own store")]
    Shared,
    /// Nobody could know where this coordinator listens before it does.
    #[error(
        "launch.listen: is \"{0}\", but workers must know the port of each coordinator beforehand; name one by --listen, such as 127.0.0.1:7070"
    )]
    AnyPort(String),
    /// No random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(std::io::Error),
    /// No signal handlers.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

impl JobError {
    /// One of `medley_common::exit`.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exists(_)
            | Self::Unwritable { .. }
            | Self::NoRun(_)
            | Self::Config(_)
            | Self::NotShared
            | Self::OtherRun(_)
            | Self::OtherJob(_)
            | Self::Shared
            | Self::AnyPort(_)
            | Self::Server(_)
            | Self::Certificates(_)
            | Self::Checkpoint(_)
            | Self::Store(
                StoreError::InUse { .. }
                | StoreError::BadRecord { .. }
                | StoreError::Setting { .. }
                | StoreError::NoAnswer { .. }
                | StoreError::Refused { .. },
            ) => exit::BAD_INPUT,
            Self::Launch(error) => error.exit_code(),
            Self::Store(_) | Self::Random(_) | Self::Signals(_) => exit::FAILURE,
        }
    }
}
