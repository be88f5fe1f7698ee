//! Who may ask a job to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Who may ask a job to stop: the first time with a checkpoint, the second time (after a second or more) at once.
#[derive(Debug, Default)]
pub enum Stops {
    /// SIGINT (Ctrl-C) and SIGTERM to this process.
    #[default]
    Signals,
    /// Whoever holds the sender; it sends the reason.
    Channel(mpsc::Receiver<String>),
}

impl Stops {
    /// The reasons, as they come. Must be called inside a runtime.
    ///
    /// # Errors
    /// Where signals cannot be listened for.
    pub(super) fn listen(self) -> std::io::Result<StopRequests> {
        let receiver = match self {
            Self::Channel(receiver) => receiver,
            Self::Signals => {
                let (sender, receiver) = mpsc::channel(4);
                let mut interrupt = signal(SignalKind::interrupt())?;
                let mut terminate = signal(SignalKind::terminate())?;
                tokio::spawn(async move {
                    loop {
                        let reason = tokio::select! {
                            _ = interrupt.recv() => "Ctrl-C",
                            _ = terminate.recv() => TERMINATED,
                            () = sender.closed() => return,
                        };
                        let _ = sender.try_send(reason.into());
                    }
                });
                receiver
            }
        };
        Ok(StopRequests { receiver })
    }
}

/// What SIGTERM asks for, in words.
pub(super) const TERMINATED: &str = "SIGTERM";

/// Requests to stop, as they come.
#[derive(Debug)]
pub(super) struct StopRequests {
    receiver: mpsc::Receiver<String>,
}

impl From<mpsc::Receiver<String>> for StopRequests {
    fn from(receiver: mpsc::Receiver<String>) -> Self {
        Self { receiver }
    }
}

impl StopRequests {
    /// The next request. Waits for ever where nobody is left to ask.
    pub async fn recv(&mut self) -> Option<String> {
        match self.receiver.recv().await {
            Some(reason) => Some(reason),
            None => std::future::pending().await,
        }
    }
}
