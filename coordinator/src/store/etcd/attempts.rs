//! Asking until some member answers.
//!
//! A member that is down refuses at once, and one that hangs says nothing. So a request that is not answered soon is
//! sent again beside the first, which the client's balancing sends to another member, since it prefers those with
//! fewer requests under way. Whatever is asked here may therefore reach the cluster several times, and late.

use super::Etcd;
use etcd_client::{Client, Error};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Code;

/// After this a request that is not answered is sent again beside the first.
const BESIDE: Duration = Duration::from_millis(250);

/// Between attempts that fail at once; grows to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// Requests under way at once.
const AT_ONCE: usize = 3;

/// What was answered.
pub struct Answer<T> {
    pub value: T,
    /// Others of the same may have been carried out, or may yet be.
    pub is_repeated: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Not with these credentials.
    Refused(String),
    /// Not this, however often it is asked.
    Rejected(String),
    /// Nobody answered in time.
    Unanswered { tried: Duration, last: String },
}

impl Etcd {
    /// Asks until a member answers or `patience` is over.
    pub async fn ask<T, F>(&self, patience: Duration, request: impl Fn(Client) -> F) -> Result<Answer<T>, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        ask(self.inner.request, patience, || request(self.client.clone())).await
    }
}

/// Asks until there is an answer or `patience` is over; a request counts as unanswered after `limit`.
pub async fn ask<T, F>(limit: Duration, patience: Duration, request: impl Fn() -> F) -> Result<Answer<T>, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let begun = Instant::now();
    let end = begun + patience;
    let mut last = "no answer".to_owned();
    let mut pause = PAUSES.0;
    let mut asked = 0_u32;
    let mut next = begun;
    // Dropped with this future, and then all requests with it.
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(done) = requests.join_next() => {
                let Ok(Ok(answer)) = done else {
                    // Unanswered in time.
                    continue;
                };
                match answer {
                    Ok(value) => {
                        // Those that hang may go on until their limit: while they do, what is asked next goes to
                        // other members.
                        requests.detach_all();
                        return Ok(Answer { value, is_repeated: asked > 1 });
                    }
                    Err(error) => match classify(&error) {
                        Verdict::Passing => {
                            last = describe(&error);
                            next = next.min(Instant::now() + pause);
                            pause = (pause * 2).min(PAUSES.1);
                        }
                        Verdict::Refused => return Err(Failure::Refused(describe(&error))),
                        Verdict::Rejected => return Err(Failure::Rejected(describe(&error))),
                    },
                }
            }
            () = sleep_until(end) => return Err(Failure::Unanswered { tried: begun.elapsed(), last }),
            () = sleep_until(next), if requests.len() < AT_ONCE => {
                requests.spawn(timeout(limit, request()));
                asked += 1;
                next = Instant::now() + BESIDE;
            }
        }
    }
}

enum Verdict {
    Passing,
    Refused,
    Rejected,
}

/// Unknown errors are taken for passing ones: they end with the patience at the latest.
fn classify(error: &Error) -> Verdict {
    match error {
        Error::GRpcStatus(status) => {
            let says = |text: &str| status.message().contains(text);
            match status.code() {
                Code::PermissionDenied | Code::Unauthenticated => Verdict::Refused,
                Code::InvalidArgument if says("auth store is old") => Verdict::Passing,
                Code::InvalidArgument if says("authentication failed") || says("user name") => Verdict::Refused,
                Code::FailedPrecondition if says("authentication is not enabled") => Verdict::Refused,
                // The disk's quota is used up: nothing is written until an operator mends it.
                Code::ResourceExhausted if says("space exceeded") => Verdict::Rejected,
                Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Verdict::Rejected,
                _ => Verdict::Passing,
            }
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => Verdict::Rejected,
        _ => Verdict::Passing,
    }
}

/// What an error says, in one line: the innermost reason, which is the one that tells something.
pub fn describe(error: &Error) -> String {
    let (mut text, source): (String, Option<&dyn std::error::Error>) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), std::error::Error::source(status)),
        Error::TransportError(error) => (error.to_string(), std::error::Error::source(error)),
        other => (other.to_string(), None),
    };
    let mut source = source;
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LIMIT: Duration = Duration::from_millis(1000);

    fn status(code: Code, message: &str) -> Error {
        Error::GRpcStatus(tonic::Status::new(code, message))
    }

    #[tokio::test]
    async fn a_request_that_hangs_is_sent_again_beside_the_first() {
        let asked = Arc::new(AtomicU32::new(0));
        let begun = Instant::now();
        let answer = ask(LIMIT, Duration::from_secs(5), || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                if number < 2 {
                    std::future::pending::<()>().await;
                }
                Ok(number)
            }
        });
        let answer = answer.await.ok().unwrap();
        assert_eq!((answer.value, answer.is_repeated), (2, true));
        assert!(begun.elapsed() >= 2 * BESIDE && begun.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn patience_ends_and_the_last_reason_is_told() {
        let begun = Instant::now();
        let patience = Duration::from_millis(300);
        let answer =
            ask::<(), _>(LIMIT, patience, || async { Err(status(Code::Unavailable, "etcdserver: no leader")) });
        let failure = answer.await.err().unwrap();
        assert!(matches!(&failure, Failure::Unanswered { last, .. } if last.contains("no leader")), "{failure:?}");
        assert!(begun.elapsed() >= patience);
        let hanging = ask::<(), _>(LIMIT, patience, std::future::pending);
        assert!(matches!(hanging.await, Err(Failure::Unanswered { .. })));
    }

    #[tokio::test]
    async fn what_cannot_succeed_is_not_tried_again() {
        for (error, is_refusal) in [
            (status(Code::PermissionDenied, "etcdserver: permission denied"), true),
            (status(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"), true),
            (status(Code::InvalidArgument, "etcdserver: user name is empty"), true),
            (status(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"), false),
            (status(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), false),
        ] {
            let error = std::sync::Mutex::new(Some(error));
            let answer = ask::<(), _>(LIMIT, Duration::from_secs(5), || {
                let error = error.lock().unwrap().take().unwrap();
                async move { Err(error) }
            });
            match answer.await.err().unwrap() {
                Failure::Refused(_) => assert!(is_refusal),
                Failure::Rejected(_) => assert!(!is_refusal),
                other => panic!("{other:?}"),
            }
        }
    }
}
