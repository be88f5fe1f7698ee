//! Where the coordinator keeps what must survive it.
//!
//! [`Store`] and [`Leases`] are the interface, [`Transaction`] what is written, [`Watch`] how changes are heard of,
//! [`StoreError`] what can go wrong. [`Embedded`] keeps everything in one file of the run directory, [`Etcd`] in a
//! cluster that several coordinators share; [`open`] chooses by the configuration. [`JobRecord`] is what is kept of a
//! job.

mod embedded;
mod error;
mod etcd;
mod interface;
mod record;
mod room;
mod transaction;
mod watch;

pub use embedded::Embedded;
pub use error::StoreError;
pub use etcd::Etcd;
pub use interface::{Claim, Leases, Store};
pub use record::JobRecord;
pub use transaction::{Condition, Transaction, Write};
pub use watch::{Change, Watch};

use medley_common::config::{StoreConfig, StoreKind};
use std::path::Path;
use std::sync::Arc;

/// Keys with their values.
type Entries = Vec<(String, Vec<u8>)>;

/// Opens the store of a job: the embedded one at `file`, or the part of an etcd cluster that belongs to `job`.
///
/// # Errors
/// Those of [`Embedded::open`] and [`Etcd::connect`].
pub async fn open(config: &StoreConfig, file: &Path, job: &str) -> Result<Arc<dyn Leases>, StoreError> {
    Ok(match config.kind {
        StoreKind::Embedded => Arc::new(Embedded::open(file)?),
        StoreKind::Etcd => Arc::new(Etcd::connect(config, job).await?),
    })
}
