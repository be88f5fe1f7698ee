//! Who may take part, and whether others can listen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Certificates of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SecurityConfig {
    /// Directory of certificates, made by `medley certs init`. With it every connection is encrypted, and only holders
    /// of a certificate of its authority take part; without, connections are plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
    /// Allow plain text where other machines reach `launch.listen`: for networks that are trusted altogether.
    pub plaintext: bool,
}
