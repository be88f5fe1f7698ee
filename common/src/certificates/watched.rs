//! An encrypted connection that remembers what TLS said of it: HTTP/2, which it is handed to, passes on the words alone.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use super::tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What TLS said last of any connection of a way.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<rustls::Error>>>);

impl Verdict {
    /// In words, if there is one.
    pub(super) fn explain(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(tls::explain)
    }

    /// Whether it is about a certificate.
    pub(super) fn is_refusal(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(tls::is_refusal)
    }

    /// Whether it is about a certificate, and no further attempt will change it.
    pub(super) fn is_final(&self) -> bool {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.as_ref().is_some_and(|error| tls::is_refusal(error) && !tls::is_of_validity(error))
    }

    /// Forgets what was said of earlier connections.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn note(&self, error: &io::Error) {
        if let Some(error) = tls::error_in(error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
    }
}

/// The connection.
pub(super) struct Watched {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) verdict: Verdict,
}

impl Watched {
    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &outcome {
            self.verdict.note(error);
        }
        outcome
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(outcome)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.note(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{AlertDescription, CertificateError, Error};

    #[test]
    fn a_clock_may_be_set_and_an_authority_stays_what_it_is() {
        let cases = [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), [true, true]),
            (Error::AlertReceived(AlertDescription::UnknownCA), [true, true]),
            (Error::NoCertificatesPresented, [true, true]),
            (Error::InvalidCertificate(CertificateError::NotValidYet), [true, false]),
            (Error::InvalidCertificate(CertificateError::Expired), [true, false]),
            (Error::AlertReceived(AlertDescription::CertificateExpired), [true, false]),
            (Error::AlertReceived(AlertDescription::InternalError), [false, false]),
            (Error::DecryptError, [false, false]),
        ];
        for (error, expected) in cases {
            let verdict = Verdict::default();
            assert!(!verdict.is_refusal() && !verdict.is_final());
            verdict.note(&io::Error::other(error.clone()));
            assert_eq!([verdict.is_refusal(), verdict.is_final()], expected, "{error}");
        }
    }
}
