//! How two workers convince each other that they belong to the same group, before any frame flows.
//!
//! ```text
//! dialler                                   acceptor
//!   hello (who I am, whom I want, nonce) →
//!                                         ←  verdict, then its own hello when the verdict is "accepted"
//!   proof                                →
//!                                         ←  verdict, then its own proof when the verdict is "accepted"
//! ```
//!
//! A proof is HMAC-SHA-256 under the secret of the generation over the prover's role and both hellos, so it holds for
//! these two ranks, this generation and these nonces only; the acceptor proves nothing to a stranger. The secret
//! keeps strangers out and generations apart. With certificates all of it travels inside TLS, which encrypts and signs
//! what flows (`stream`); without, the network between the workers is trusted neither to listen nor to alter packets,
//! and accidental corruption is what the frames' checksums are for.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use medley_common::certificates::tls;
use sha2::{Digest, Sha256};

use super::formation::Membership;
use super::hello::Hello;
use super::stream::{Stream, Timed};

const PROOF_BYTES: usize = 32;
const ACCEPTED: u8 = 0;
/// The first byte of an alert of TLS: no verdict of ours.
const TLS_ALERT: u8 = 0x15;

/// Why a worker does not let another one in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The acceptor does not (yet) form a group; worth another try.
    NotReady = 1,
    /// Another version of this protocol.
    Version = 2,
    /// Another job.
    Job = 3,
    /// Another generation; worth another try for the newer of the two.
    Generation = 4,
    /// Another idea of the number of workers.
    WorldSize = 5,
    /// A rank out of range, a connection meant for another rank, or one dialled from the lower rank to the higher.
    Rank = 6,
    /// A rank that is connected already.
    Duplicate = 7,
    /// No knowledge of the generation's secret.
    Secret = 8,
}

impl Refusal {
    const ALL: [Self; 8] = [
        Self::NotReady,
        Self::Version,
        Self::Job,
        Self::Generation,
        Self::WorldSize,
        Self::Rank,
        Self::Duplicate,
        Self::Secret,
    ];
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotReady => "not forming a group at the moment",
            Self::Version => "another version of the exchange protocol",
            Self::Job => "another job",
            Self::Generation => "another generation",
            Self::WorldSize => "another world size",
            Self::Rank => "a rank that does not belong there",
            Self::Duplicate => "a rank that is connected already",
            Self::Secret => "not the secret of this generation",
        })
    }
}

/// Why a handshake failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed, closed or fell silent.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// One of the two certificates is not to be trusted, or gives another role.
    #[error("{0}")]
    Certificate(String),
    /// The connection could not be encrypted, or no longer.
    #[error("{0}")]
    Tls(String),
    /// The other end does not speak this protocol.
    #[error("what is at the other end is no worker's data port")]
    NotAWorker,
    /// This worker refuses the other one.
    #[error("refused it for {refusal}: {detail}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// The two values that differ.
        detail: String,
    },
    /// The other worker refuses this one.
    #[error("it refused this worker for {refusal} (it is at generation {generation})")]
    RefusedByPeer {
        /// Why.
        refusal: Refusal,
        /// The generation that the other worker forms or formed, 0 for none.
        generation: u64,
    },
}

impl HandshakeError {
    pub(super) fn refused(refusal: Refusal, detail: impl Into<String>) -> Self {
        Self::Refused { refusal, detail: detail.into() }
    }

    /// Whether dialling again may succeed: the other end may still be starting, or may still be in the generation
    /// before `generation`.
    pub(super) fn is_worth_another_try(&self, generation: u64) -> bool {
        match self {
            Self::Io(_) | Self::Tls(_) | Self::NotAWorker => true,
            Self::Refused { .. } | Self::Certificate(_) => false,
            Self::RefusedByPeer { refusal, generation: theirs } => match refusal {
                Refusal::NotReady => true,
                Refusal::Generation => *theirs < generation,
                _ => false,
            },
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if let Some(error) = tls::error_in(&error) {
            let reason = tls::explain(error);
            return if tls::is_refusal(error) { Self::Certificate(reason) } else { Self::Tls(reason) };
        }
        Self::Io(Arc::new(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, "it fell silent during the handshake")
            }
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection during the handshake")
            }
            _ => error,
        }))
    }
}

/// Dials as `membership`'s rank; the other end must be `target`.
pub(super) fn dial(
    stream: &Stream,
    membership: &Membership,
    target: usize,
    until: Instant,
) -> Result<(), HandshakeError> {
    let mut wire = stream.until(until);
    let mine = Hello::new(membership, target)?;
    wire.write_all(&mine.encode())?;
    read_verdict(&mut wire)?;
    let theirs = Hello::read(&mut wire)?;
    theirs.check(membership)?;
    if usize::from(theirs.source) != target {
        return Err(HandshakeError::refused(Refusal::Rank, format!("rank {} answers there", theirs.source)));
    }
    wire.write_all(&proof(&membership.secret, Role::Dialler, &mine, &theirs))?;
    read_verdict(&mut wire)?;
    let theirs_proven: [u8; PROOF_BYTES] = read_array(&mut wire)?;
    if !equal(&theirs_proven, &proof(&membership.secret, Role::Acceptor, &mine, &theirs)) {
        return Err(HandshakeError::refused(Refusal::Secret, "it cannot prove that it knows the secret"));
    }
    Ok(())
}

/// Accepts whoever belongs to `membership`, none when no group forms. `admit` is asked once the dialler has proven who
/// it is, and takes its rank or refuses it as a duplicate. Returns the dialler's rank.
pub(super) fn accept(
    stream: &Stream,
    membership: Option<&Membership>,
    until: Instant,
    admit: impl FnOnce(usize) -> bool,
) -> Result<usize, HandshakeError> {
    let mut wire = stream.until(until);
    let theirs = match Hello::read(&mut wire) {
        Err(error @ HandshakeError::Refused { .. }) => return refuse(&mut wire, membership, error),
        other => other?,
    };
    let Some(membership) = membership else {
        let error = HandshakeError::refused(Refusal::NotReady, format!("it wants generation {}", theirs.generation));
        return refuse(&mut wire, None, error);
    };
    if let Err(error) = theirs.check(membership).and_then(|()| theirs.check_direction(membership)) {
        return refuse(&mut wire, Some(membership), error);
    }
    let rank = usize::from(theirs.source);
    let mine = Hello::new(membership, rank)?;
    let mut answer = vec![ACCEPTED];
    answer.extend(mine.encode());
    wire.write_all(&answer)?;
    let proven: [u8; PROOF_BYTES] = read_array(&mut wire)?;
    if !equal(&proven, &proof(&membership.secret, Role::Dialler, &theirs, &mine)) {
        let error = HandshakeError::refused(Refusal::Secret, format!("it claims to be rank {rank}"));
        return refuse(&mut wire, Some(membership), error);
    }
    if !admit(rank) {
        let error = HandshakeError::refused(Refusal::Duplicate, format!("rank {rank} or its group is taken"));
        return refuse(&mut wire, Some(membership), error);
    }
    let mut answer = vec![ACCEPTED];
    answer.extend(proof(&membership.secret, Role::Acceptor, &theirs, &mine));
    // The rank is taken now: should this answer not arrive, the link breaks and its group with it.
    let _ = wire.write_all(&answer);
    Ok(rank)
}

/// Tells the dialler why it is refused, and passes the reason on.
fn refuse(
    wire: &mut Timed<'_>,
    membership: Option<&Membership>,
    error: HandshakeError,
) -> Result<usize, HandshakeError> {
    if let HandshakeError::Refused { refusal, .. } = &error {
        let mut answer = vec![*refusal as u8];
        answer.extend(membership.map_or(0, |membership| membership.generation).to_le_bytes());
        // A dialler that does not wait for its refusal is refused all the same.
        let _ = wire.write_all(&answer);
    }
    Err(error)
}

pub(super) fn read_verdict(wire: &mut impl Read) -> Result<(), HandshakeError> {
    let [verdict] = read_array(wire)?;
    if verdict == ACCEPTED {
        return Ok(());
    }
    if verdict == TLS_ALERT {
        return Err(HandshakeError::Tls(ONLY_ONE_SIDE.into()));
    }
    let refusal = Refusal::ALL.iter().find(|refusal| **refusal as u8 == verdict).ok_or(HandshakeError::NotAWorker)?;
    let generation = u64::from_le_bytes(read_array(wire)?);
    Err(HandshakeError::RefusedByPeer { refusal: *refusal, generation })
}

/// What is wrong where one of two workers has certificates.
pub(super) const ONLY_ONE_SIDE: &str =
    "it speaks TLS, and this worker has no certificates; give --certificates to all workers, or to none";

#[derive(Clone, Copy)]
enum Role {
    Dialler,
    Acceptor,
}

fn proof(secret: &[u8], role: Role, dialler: &Hello, acceptor: &Hello) -> [u8; PROOF_BYTES] {
    let role: &[u8] = match role {
        Role::Dialler => b"dialler",
        Role::Acceptor => b"acceptor",
    };
    hmac_sha256(secret, &[role, &dialler.encode(), &acceptor.encode()])
}

/// HMAC (RFC 2104) with SHA-256 over the concatenated pieces.
fn hmac_sha256(key: &[u8], pieces: &[&[u8]]) -> [u8; 32] {
    const BLOCK_BYTES: usize = 64;
    let mut block = [0; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36));
    for piece in pieces {
        inner.update(piece);
    }
    Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c)).chain_update(inner.finalize()).finalize().into()
}

/// Compares in a time that does not depend on where the first difference is.
fn equal(left: &[u8; PROOF_BYTES], right: &[u8; PROOF_BYTES]) -> bool {
    std::hint::black_box(left.iter().zip(right).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

pub(super) fn read_array<const N: usize>(wire: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    wire.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::collective::hello::tests::membership;

    #[test]
    fn hmac_gives_the_published_values() {
        // RFC 4231, test cases 2 and 6.
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac_sha256(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"])),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn a_proof_is_bound_to_secret_role_and_both_hellos() {
        let [one, two] = [Hello::new(&membership(1), 0).unwrap(), Hello::new(&membership(0), 1).unwrap()];
        let genuine = proof(b"secret", Role::Dialler, &one, &two);
        assert!(equal(&genuine, &proof(b"secret", Role::Dialler, &one, &two)));
        let fresh = Hello::new(&membership(1), 0).unwrap();
        assert_ne!(fresh, one, "every hello has a nonce of its own");
        for other in [
            proof(b"secreT", Role::Dialler, &one, &two),
            proof(b"secret", Role::Acceptor, &one, &two),
            proof(b"secret", Role::Dialler, &two, &one),
            proof(b"secret", Role::Dialler, &fresh, &two),
        ] {
            assert!(!equal(&genuine, &other));
        }
    }

    #[test]
    fn only_passing_troubles_are_tried_again() {
        let refused = |refusal, generation| HandshakeError::RefusedByPeer { refusal, generation };
        assert!(HandshakeError::from(io::Error::from(io::ErrorKind::ConnectionRefused)).is_worth_another_try(4));
        assert!(refused(Refusal::NotReady, 0).is_worth_another_try(4));
        assert!(refused(Refusal::Generation, 3).is_worth_another_try(4));
        assert!(!refused(Refusal::Generation, 5).is_worth_another_try(4));
        assert!(!refused(Refusal::Secret, 4).is_worth_another_try(4));
    }
}
