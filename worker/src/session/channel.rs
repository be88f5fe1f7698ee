//! The way to the coordinator: plain text, or TLS with certificates both ways.
//!
//! tonic's own TLS takes no verifier, and a coordinator's role must be checked: TLS is therefore made here, below HTTP/2,
//! by the configuration that all parties share.

use hyper_util::rt::TokioIo;
use medley_common::certificates::{Certificates, tls};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::error::Error;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

/// Why the way to the coordinator is barred.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// What is at the address cannot be reached, or is not what it should be.
    #[error("cannot reach the coordinator at {address}: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// The address cannot be one of a coordinator, or needs what was not given.
    #[error("--coordinator {address}: {reason}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong and how to mend it.
        reason: String,
    },
}

/// How a coordinator is reached. Cheap to clone.
#[derive(Clone)]
pub struct Way {
    address: String,
    endpoint: Endpoint,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Way {
    /// The way to `http://host:port`, or with certificates to `https://host:port`.
    ///
    /// # Errors
    /// [`ChannelError::Address`].
    pub fn new(address: &str, certificates: Option<&Certificates>) -> Result<Self, ChannelError> {
        let refuse = |reason: String| ChannelError::Address { address: address.to_owned(), reason };
        let uri: Uri = address.parse().map_err(|_| refuse("is no address; use https://HOST:PORT".into()))?;
        let (host, is_https) = (uri.host().unwrap_or_default(), uri.scheme_str() == Some("https"));
        let tls = match certificates {
            None if is_https => {
                return Err(refuse("takes certificates; give --certificates DIR (`medley certs issue --role worker`)".into()));
            }
            None => None,
            Some(_) if !is_https => {
                return Err(refuse("is in plain text, but --certificates is given; use https://HOST:PORT".into()));
            }
            Some(own) => {
                let config = own.client(tls::Peers::Coordinator).map_err(|error| refuse(error.to_string()))?;
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(bare).map_err(|_| refuse(format!("{host:?} is no host")))?;
                Some((config, name))
            }
        };
        // For HTTP/2 the connection is as it comes from below.
        let below = format!("http://{}", uri.authority().map_or(host, |authority| authority.as_str()));
        let endpoint = Endpoint::from_shared(below).map_err(|error| refuse(chain(&error)))?.tcp_nodelay(true);
        Ok(Self { address: address.to_owned(), endpoint, tls })
    }

    /// The same way with other settings of HTTP/2 or TCP.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        self.endpoint = change(self.endpoint);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`ChannelError::Unreachable`].
    pub async fn connect(&self) -> Result<Channel, ChannelError> {
        let connected = match &self.tls {
            None => self.endpoint.connect().await,
            Some((config, name)) => {
                let (config, name, endpoint) = (Arc::clone(config), name.clone(), self.endpoint.clone());
                let connector = tower::service_fn(move |uri: Uri| {
                    encrypt(uri, TlsConnector::from(Arc::clone(&config)), name.clone(), endpoint.get_tcp_keepalive())
                });
                self.endpoint.connect_with_connector(connector).await
            }
        };
        connected.map_err(|error| ChannelError::Unreachable { address: self.address.clone(), reason: self.reason(&error) })
    }

    /// Why a call failed, in words: a connection that the coordinator refused shows only once it is used.
    pub fn explain(&self, status: &Status) -> String {
        match find_tls(status) {
            Some(reason) => reason,
            None if status.source().is_some() => self.reason(status),
            None => status.message().to_owned(),
        }
    }

    fn reason(&self, error: &(dyn Error + 'static)) -> String {
        find_tls(error).unwrap_or_else(|| {
            let hint = if self.tls.is_none() && mentions_http2(error) {
                "; does it have certificates (--certificates)?"
            } else {
                ""
            };
            chain(error) + hint
        })
    }
}

async fn encrypt(
    uri: Uri,
    connector: TlsConnector,
    name: ServerName<'static>,
    keepalive: Option<std::time::Duration>,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    socket.set_nodelay(true)?;
    if let Some(idle) = keepalive {
        rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&socket, idle)?;
    }
    Ok(TokioIo::new(connector.connect(name, socket).await?))
}

/// What TLS says of it, where it is to blame.
fn find_tls(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(tls::explain(error));
        }
        if let Some(error) = error.downcast_ref::<io::Error>().and_then(tls::error_in) {
            return Some(tls::explain(error));
        }
        next = error.source();
    }
    None
}

fn mentions_http2(error: &(dyn Error + 'static)) -> bool {
    chain(error).contains("http2")
}

/// An error and its causes in one line, without saying anything twice.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}
