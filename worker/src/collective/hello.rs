//! The first message of either side of a handshake, little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `MEDLEYDP` |
//! | 8..10 | version of the protocol |
//! | 10..12 | world size |
//! | 12..14 | rank of the sender |
//! | 14..16 | rank of the receiver |
//! | 16..24 | generation |
//! | 24..56 | nonce |
//! | 56..60 | length of the job id in bytes, then the job id in UTF-8 |

use std::io::{self, Read};

use super::formation::Membership;
use super::handshake::{HandshakeError, ONLY_ONE_SIDE, Refusal, read_array};

const MAGIC: [u8; 8] = *b"MEDLEYDP";
/// How a connection begins that is to be encrypted.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 60;
/// Longest job id on the wire, in bytes.
pub(super) const MAX_JOB_BYTES: usize = 255;

/// Who a worker is, whom it wants to talk to, and a nonce against replays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    version: u16,
    world_size: u16,
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) generation: u64,
    nonce: [u8; 32],
    job: String,
}

impl Hello {
    pub(super) fn new(membership: &Membership, destination: usize) -> io::Result<Self> {
        let narrow = |number: usize| u16::try_from(number).expect("a validated membership has at most 65535 ranks");
        Ok(Self {
            version: VERSION,
            world_size: narrow(membership.addresses.len()),
            source: narrow(membership.rank),
            destination: narrow(destination),
            generation: membership.generation,
            nonce: nonce()?,
            job: membership.job.clone(),
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.job.len());
        bytes.extend(MAGIC);
        for number in [self.version, self.world_size, self.source, self.destination] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.nonce);
        bytes.extend((self.job.len() as u32).to_le_bytes());
        bytes.extend(self.job.as_bytes());
        bytes
    }

    /// Reads a hello, giving up at the first bytes that no worker sends.
    pub(super) fn read(wire: &mut impl Read) -> Result<Self, HandshakeError> {
        let magic: [u8; 8] = read_array(wire)?;
        if magic[..2] == TLS_HANDSHAKE {
            return Err(HandshakeError::Tls(ONLY_ONE_SIDE.into()));
        }
        if magic != MAGIC {
            return Err(HandshakeError::NotAWorker);
        }
        let version = u16::from_le_bytes(read_array(wire)?);
        if version != VERSION {
            let detail = format!("it speaks version {version}, this worker {VERSION}; run the same release everywhere");
            return Err(HandshakeError::refused(Refusal::Version, detail));
        }
        let world_size = u16::from_le_bytes(read_array(wire)?);
        let source = u16::from_le_bytes(read_array(wire)?);
        let destination = u16::from_le_bytes(read_array(wire)?);
        let generation = u64::from_le_bytes(read_array(wire)?);
        let nonce = read_array(wire)?;
        let length = u32::from_le_bytes(read_array(wire)?) as usize;
        if length > MAX_JOB_BYTES {
            return Err(HandshakeError::NotAWorker);
        }
        let mut job = vec![0; length];
        wire.read_exact(&mut job)?;
        let job = String::from_utf8(job).map_err(|_| HandshakeError::NotAWorker)?;
        Ok(Self { version, world_size, source, destination, generation, nonce, job })
    }

    /// Checks all that both sides must agree on.
    pub(super) fn check(&self, own: &Membership) -> Result<(), HandshakeError> {
        if self.job != own.job {
            let detail = format!("it is of job {:?}, this worker of {:?}", self.job, own.job);
            return Err(HandshakeError::refused(Refusal::Job, detail));
        }
        if self.generation != own.generation {
            let detail = format!("it is of generation {}, this worker of {}", self.generation, own.generation);
            return Err(HandshakeError::refused(Refusal::Generation, detail));
        }
        if usize::from(self.world_size) != own.addresses.len() {
            let detail = format!("it counts {} workers, this worker {}", self.world_size, own.addresses.len());
            return Err(HandshakeError::refused(Refusal::WorldSize, detail));
        }
        if usize::from(self.destination) != own.rank {
            let detail = format!("it wants rank {}, this is rank {}", self.destination, own.rank);
            return Err(HandshakeError::refused(Refusal::Rank, detail));
        }
        Ok(())
    }

    /// Checks that a dialler is a higher rank of the group.
    pub(super) fn check_direction(&self, own: &Membership) -> Result<(), HandshakeError> {
        if self.source <= self.destination || self.source >= self.world_size {
            let detail = format!(
                "rank {} dials rank {} of {}; only higher ranks dial",
                self.source,
                own.rank,
                own.addresses.len()
            );
            return Err(HandshakeError::refused(Refusal::Rank, detail));
        }
        Ok(())
    }
}

fn nonce() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    pub(in crate::collective) fn membership(rank: usize) -> Membership {
        Membership {
            job: "toys".to_owned(),
            generation: 4,
            rank,
            addresses: vec!["127.0.0.1:1".to_owned(); 3],
            secret: b"secret".to_vec(),
        }
    }

    #[test]
    fn a_hello_of_another_group_is_refused_by_name() {
        let good = Hello::new(&membership(2), 0).unwrap();
        let check = |hello: &Hello| {
            let own = membership(0);
            match hello.check(&own).and_then(|()| hello.check_direction(&own)) {
                Ok(()) => None,
                Err(HandshakeError::Refused { refusal, .. }) => Some(refusal),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(check(&good), None);
        assert_eq!(check(&Hello { job: "games".to_owned(), ..good }), Some(Refusal::Job));
        assert_eq!(check(&Hello { generation: 3, ..good.clone() }), Some(Refusal::Generation));
        assert_eq!(check(&Hello { world_size: 4, ..good.clone() }), Some(Refusal::WorldSize));
        assert_eq!(check(&Hello { destination: 1, ..good.clone() }), Some(Refusal::Rank));
        assert_eq!(check(&Hello { source: 0, ..good.clone() }), Some(Refusal::Rank));
        assert_eq!(check(&Hello { source: 3, ..good }), Some(Refusal::Rank));
    }

    proptest! {
        #[test]
        fn hellos_survive_the_wire(
            numbers in prop::array::uniform3(any::<u16>()), generation in any::<u64>(),
            nonce in prop::array::uniform32(any::<u8>()), job in "\\PC{0,60}",
        ) {
            let [world_size, source, destination] = numbers;
            let hello = Hello { version: VERSION, world_size, source, destination, generation, nonce, job };
            let bytes = hello.encode();
            prop_assert_eq!(bytes.len(), FIXED_BYTES + hello.job.len());
            prop_assert_eq!(Hello::read(&mut bytes.as_slice()).unwrap(), hello);
            prop_assert!(Hello::read(&mut &bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), head in 0..3) {
            if head > 0 && bytes.len() > 10 {
                bytes[..8].copy_from_slice(&MAGIC);
            }
            if head > 1 && bytes.len() > 10 {
                bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
            }
            if let Ok(hello) = Hello::read(&mut bytes.as_slice()) {
                prop_assert!(bytes.starts_with(&hello.encode()));
            }
        }
    }
}
