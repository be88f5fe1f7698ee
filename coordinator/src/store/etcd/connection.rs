//! From a configuration to a cluster that answers.

use super::attempts::{Failure, ask};
use super::{Etcd, Inner};
use crate::store::StoreError;
use etcd_client::{Certificate, Client, ConnectOptions, Error, GetOptions, Identity, TlsOptions};
use medley_common::config::StoreConfig;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between probes of a connection that says nothing: no more often than etcd allows by default
/// (`--grpc-keepalive-min-time`, 5 s), which closes connections that do.
const PROBE: Duration = Duration::from_secs(6);

pub async fn connect(config: &StoreConfig, job: &str) -> Result<Etcd, StoreError> {
    let request = Duration::from_millis(config.request_ms);
    let retry = Duration::from_millis(config.retry_ms);
    let options = options(config, request)?;
    let endpoints = config.endpoints.join(", ");
    let prefix = format!("/medley/{job}/");
    let connected = ask(request, retry, || {
        let (endpoints, options, prefix) = (config.endpoints.clone(), options.clone(), prefix.clone());
        async move {
            let client = Client::connect(endpoints, Some(options)).await?;
            // Connecting alone asks nothing of a cluster without users.
            client.kv_client().get(prefix, Some(GetOptions::new().with_prefix().with_count_only())).await?;
            Ok::<_, Error>(client)
        }
    });
    let client = match connected.await {
        Ok(answer) => answer.value,
        Err(Failure::Unanswered { tried, last }) => {
            return Err(StoreError::NoAnswer { endpoints, seconds: tried.as_secs_f64().round(), last });
        }
        Err(Failure::Refused(message)) => return Err(StoreError::Refused { endpoints, message }),
        Err(Failure::Rejected(message)) => return Err(StoreError::Rejected { endpoints, message }),
    };
    Ok(Etcd { client, inner: Arc::new(Inner { endpoints, prefix, request, retry }) })
}

fn options(config: &StoreConfig, request: Duration) -> Result<ConnectOptions, StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(request)
        .with_keep_alive(PROBE, request)
        // A member that is cut off from the others says so, instead of keeping streams open that tell nothing.
        .with_require_leader(true)
        // Members forget who logged in when they restart.
        .with_auto_token_refresh(true);
    if let (Some(user), Some(variable)) = (&config.user, &config.password_env) {
        let password = std::env::var(variable).map_err(|_| StoreError::Setting {
            key: "store.password_env",
            message: format!("the environment has no {variable}; set it to the password of the etcd user {user}"),
        })?;
        options = options.with_user(user, password);
    }
    if let Some(authority) = &config.tls_ca {
        let authority = Certificate::from_pem(pem("store.tls_ca", authority)?);
        let mut tls = TlsOptions::new().ca_certificate(authority);
        if let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_key) {
            let certificate = pem("store.tls_certificate", certificate)?;
            tls = tls.identity(Identity::from_pem(certificate, pem("store.tls_key", key)?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

fn pem(key: &'static str, path: &Path) -> Result<Vec<u8>, StoreError> {
    let unusable = |why: &str| StoreError::Setting {
        key,
        message: format!("cannot use {}: {why}; name a PEM file", path.display()),
    };
    let text = std::fs::read(path).map_err(|error| unusable(&error.to_string()))?;
    match text.windows(11).any(|part| part == b"-----BEGIN ") {
        true => Ok(text),
        false => Err(unusable("it is not in PEM form")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::config::StoreKind;
    use std::time::Instant;

    fn config(retry_ms: u64) -> StoreConfig {
        // Nobody listens on port 1.
        let endpoints = vec!["http://127.0.0.1:1".to_owned()];
        StoreConfig { kind: StoreKind::Etcd, endpoints, retry_ms, ..StoreConfig::default() }
    }

    async fn fault(config: &StoreConfig) -> String {
        let message = Etcd::connect(config, "j").await.err().unwrap().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_answer_is_one_line_after_the_patience() {
        let begun = Instant::now();
        let message = fault(&config(1000)).await;
        assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(20));
        for part in ["store.endpoints", "within 1 s", "http://127.0.0.1:1", "refused", "start the cluster"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[tokio::test]
    async fn settings_that_cannot_be_used_are_named_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let not_pem = directory.path().join("ca.pem");
        std::fs::write(&not_pem, "MII").unwrap();
        let absent = directory.path().join("absent.pem");
        for (config, says) in [
            (StoreConfig { tls_ca: Some(absent), ..config(60_000) }, "store.tls_ca: cannot use "),
            (StoreConfig { tls_ca: Some(not_pem), ..config(60_000) }, "not in PEM form"),
            (
                StoreConfig {
                    user: Some("u".into()),
                    password_env: Some("MEDLEY_NO_SUCH_VARIABLE".into()),
                    ..config(60_000)
                },
                "store.password_env: the environment has no MEDLEY_NO_SUCH_VARIABLE",
            ),
        ] {
            let message = fault(&config).await;
            assert!(message.contains(says), "{message}");
        }
    }
}
