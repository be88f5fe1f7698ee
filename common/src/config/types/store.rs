//! Where the coordinator keeps what must survive it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the coordinator keeps what must survive it, and how several coordinators agree on who leads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StoreConfig {
    /// What it is kept in.
    pub kind: StoreKind,
    /// With `etcd`: URLs of the cluster's members, such as `https://10.0.0.1:2379`; better all of them than one. `http` only on this
    /// machine, or with `security.plaintext`.
    pub endpoints: Vec<String>,
    /// With `etcd`: milliseconds without a renewal after which another coordinator takes the lead; whole seconds, for
    /// etcd counts in them. A leader renews when half of what remains is over.
    pub lease_ms: u64,
    /// With `etcd`: milliseconds after which a request counts as unanswered and is tried again.
    pub request_ms: u64,
    /// With `etcd`: milliseconds for which an operation is retried, at start too, before the store counts as lost.
    pub retry_ms: u64,
    /// With `etcd`: the user to log in as, where the cluster asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With `etcd`: name of the environment variable that holds the user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// With `etcd` and `https` endpoints: PEM file of the authority that signed the members' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// With `etcd` and `https` endpoints: PEM file of the certificate to show, where the cluster asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// With `etcd` and `https` endpoints: PEM file of that certificate's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Embedded,
            endpoints: Vec::new(),
            lease_ms: 3000,
            request_ms: 1000,
            retry_ms: 15_000,
            user: None,
            password_env: None,
            tls_ca: None,
            tls_certificate: None,
            tls_key: None,
        }
    }
}

/// What the coordinator's state is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// A file in the run directory, for a single coordinator.
    #[default]
    Embedded,
    /// An etcd cluster, which several coordinators share.
    Etcd,
}
