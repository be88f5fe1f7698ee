//! A connection that was let in: the bytes of a worker or client, and who it is.

use super::door::Place;
use medley_common::certificates::Role;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::transport::server::Connected;

/// Who is at the other end. A request has it among its extensions.
#[derive(Debug, Clone)]
pub struct Party {
    /// Where.
    pub address: SocketAddr,
    /// The role that its certificate gives; `None` without certificates, where nobody has any.
    pub role: Option<Role>,
}

impl Party {
    /// Refuses who has another role. Without certificates there are none, and everybody passes.
    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    pub fn require<T>(request: &tonic::Request<T>, needed: Role) -> Result<(), Status> {
        let Some(party) = request.extensions().get::<Self>() else {
            return Err(Status::internal("a request without a connection"));
        };
        match party.role {
            Some(role) if role != needed => {
                tracing::warn!(peer = %party.address, "refused a request: it is of role {role}, not {needed}");
                Err(Status::permission_denied(format!(
                    "its certificate is of role {role}; this takes role {needed} (`medley certs issue --role {needed}`)"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// The bytes as they are, or encrypted.
#[derive(Debug)]
pub enum Line {
    /// Plain text.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that has proven what it must before it is served.
#[derive(Debug)]
pub struct Connection {
    pub line: Line,
    /// What was read of it before it was let in, and is read again by who serves it.
    pub read_ahead: Vec<u8>,
    pub party: Party,
    /// Given back when the connection ends.
    pub _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Party;

    fn connect_info(&self) -> Party {
        self.party.clone()
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.line).poll_read(context, buffer);
        }
        let taken = self.read_ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.read_ahead[..taken]);
        self.read_ahead.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Line::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Line::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.line {
            Line::Plain(stream) => stream.is_write_vectored(),
            Line::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_flush(context),
            Line::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Line::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
