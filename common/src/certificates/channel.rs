//! The way to the coordinator: plain text, or TLS with certificates both ways.
//!
//! tonic's own TLS takes no verifier, and a coordinator's role must be checked: TLS is therefore made here, below HTTP/2,
//! by the configuration that all parties share.

use super::watched::{Verdict, Watched};
use super::{Certificates, tls};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;
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
    verdict: Verdict,
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
                return Err(refuse(
                    "takes certificates; give --certificates DIR (`medley certs issue --role worker`)".into(),
                ));
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
        Ok(Self { address: address.to_owned(), endpoint, tls, verdict: Verdict::default() })
    }

    /// The same way with other settings of HTTP/2 or TCP.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        self.endpoint = change(self.endpoint);
        self
    }

    /// The address, as given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connects.
    ///
    /// # Errors
    /// [`ChannelError::Unreachable`].
    pub async fn connect(&self) -> Result<Channel, ChannelError> {
        self.verdict.clear();
        let connected = match &self.tls {
            None => self.endpoint.connect().await,
            Some((config, name)) => {
                let (config, name, verdict) = (Arc::clone(config), name.clone(), self.verdict.clone());
                let keepalive = self.endpoint.get_tcp_keepalive();
                let connector = tower::service_fn(move |uri: Uri| {
                    encrypt(uri, TlsConnector::from(Arc::clone(&config)), name.clone(), keepalive, verdict.clone())
                });
                self.endpoint.connect_with_connector(connector).await
            }
        };
        connected
            .map_err(|error| ChannelError::Unreachable { address: self.address.clone(), reason: self.reason(&error) })
    }

    /// Whether the last connection failed because one end does not take the other's certificate.
    pub fn is_distrusted(&self) -> bool {
        self.verdict.is_refusal()
    }

    /// Whether it did so for a reason that lasts: not where clocks may be at fault, which are set soon after a machine starts.
    pub fn is_distrusted_for_good(&self) -> bool {
        self.verdict.is_final()
    }

    /// Why a call failed, in words: a connection that the coordinator refused shows only once it is used.
    pub fn explain(&self, status: &Status) -> String {
        // What the coordinator itself answers has no cause below it.
        if status.source().is_some() { self.reason(status) } else { status.message().to_owned() }
    }

    fn reason(&self, error: &(dyn Error + 'static)) -> String {
        self.verdict.explain().unwrap_or_else(|| {
            let hint = if self.tls.is_none() && chain(error).contains("http2") {
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
    keepalive: Option<Duration>,
    verdict: Verdict,
) -> io::Result<TokioIo<Watched>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    socket.set_nodelay(true)?;
    if let Some(idle) = keepalive {
        rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&socket, idle)?;
    }
    let stream = connector.connect(name, socket).await.inspect_err(|error| verdict.note(error))?;
    Ok(TokioIo::new(Watched { stream, verdict }))
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
