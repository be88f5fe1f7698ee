//! A message between two ranks: a fixed header, then floats, little-endian both.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `MDLF` |
//! | 4..6 | kind: which message of which operation |
//! | 6..8 | source rank |
//! | 8..16 | job: the first 8 bytes of the SHA-256 of the job id |
//! | 16..24 | generation |
//! | 24..32 | sequence number of the collective call within the group |
//! | 32..40 | payload length in bytes |
//! | 40..44 | CRC-32C of the payload |
//! | 44..48 | CRC-32C of bytes 0..44 |

/// Bytes of framing that every message carries before its payload.
pub const HEADER_BYTES: usize = 48;

const MAGIC: [u8; 4] = *b"MDLF";
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

/// Which message of which operation a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    AllToAll = 1,
    AllGather = 2,
    /// First half of the all-reduce: a rank's addend for the receiver's slice.
    ReduceScatter = 3,
    /// Second half of the all-reduce: the sender's slice of the sum.
    ReduceGather = 4,
    Barrier = 5,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::AllToAll, Self::AllGather, Self::ReduceScatter, Self::ReduceGather, Self::Barrier];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllToAll => "all_to_all",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "all_reduce_sum (addends)",
            Self::ReduceGather => "all_reduce_sum (sums)",
            Self::Barrier => "barrier",
        }
    }
}

/// The decoded header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub source: u16,
    pub job: u64,
    pub generation: u64,
    pub sequence: u64,
    /// Payload length in bytes.
    pub length: u64,
    /// CRC-32C of the payload.
    pub checksum: u32,
}

/// Why 48 bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("a frame does not begin with the magic bytes; the stream is corrupted")]
    Magic,
    #[error("a frame header fails its checksum; it was corrupted on the way")]
    Checksum,
    #[error("a frame is of unknown kind {0}; the worker is of another version")]
    Kind(u16),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[6..8].copy_from_slice(&self.source.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.job.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.length.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        if bytes[0..4] != MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc32c::crc32c(&bytes[..CHECKED_BYTES]).to_le_bytes() != bytes[CHECKED_BYTES..] {
            return Err(HeaderError::Checksum);
        }
        let kind = u16::from_le_bytes(field(bytes, 4));
        Ok(Self {
            kind: *Kind::ALL.iter().find(|known| **known as u16 == kind).ok_or(HeaderError::Kind(kind))?,
            source: u16::from_le_bytes(field(bytes, 6)),
            job: u64::from_le_bytes(field(bytes, 8)),
            generation: u64::from_le_bytes(field(bytes, 16)),
            sequence: u64::from_le_bytes(field(bytes, 24)),
            length: u64::from_le_bytes(field(bytes, 32)),
            checksum: u32::from_le_bytes(field(bytes, 40)),
        })
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], start: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[start + index])
}

/// What a rank expects next from another one; all of it must hold before a payload is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub kind: Kind,
    pub sequence: u64,
    /// Payload length in bytes.
    pub length: u64,
}

/// What all frames from one rank have in common, whatever the call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub source: u16,
    pub job: u64,
    pub generation: u64,
    /// Largest payload accepted, in bytes.
    pub limit: u64,
}

impl Origin {
    /// Checks what can be checked before the receiver has said what it expects.
    pub(super) fn check(&self, header: &Header) -> Result<(), String> {
        if header.job != self.job {
            return Err("a frame is of another job".to_owned());
        }
        if header.generation != self.generation {
            return Err(format!("a frame is of generation {}, the group of {}", header.generation, self.generation));
        }
        if header.source != self.source {
            return Err(format!("a frame claims to come from rank {}", header.source));
        }
        if header.length > self.limit {
            return Err(format!(
                "a frame claims {} bytes, above the limit of {} (max_frame_bytes)",
                header.length, self.limit
            ));
        }
        Ok(())
    }
}

impl Expected {
    /// Checks a header against the call in progress.
    pub(super) fn check(&self, header: &Header) -> Result<(), String> {
        if (header.kind, header.sequence) != (self.kind, self.sequence) {
            return Err(format!(
                "it is in {} #{}, this rank in {} #{}; all ranks must make the same calls",
                header.kind.name(),
                header.sequence,
                self.kind.name(),
                self.sequence
            ));
        }
        if header.length != self.length {
            return Err(format!(
                "{} #{}: it sends {} bytes where {} are expected",
                self.kind.name(),
                self.sequence,
                header.length,
                self.length
            ));
        }
        Ok(())
    }
}

/// Bytes that `floats` floats take on the wire.
pub(super) fn payload_bytes(floats: usize) -> u64 {
    floats as u64 * size_of::<f32>() as u64
}

/// Writes a whole frame into `frame`, whose `header.length` and `header.checksum` are filled in here.
pub(super) fn encode(frame: &mut Vec<u8>, mut header: Header, payload: &[f32]) {
    frame.resize(HEADER_BYTES + size_of_val(payload), 0);
    let (head, body) = frame.split_at_mut(HEADER_BYTES);
    for (bytes, value) in body.as_chunks_mut::<4>().0.iter_mut().zip(payload) {
        *bytes = value.to_le_bytes();
    }
    header.length = body.len() as u64;
    header.checksum = crc32c::crc32c(body);
    head.copy_from_slice(&header.encode());
}

/// Chooses among free buffers, given by their capacities (none for one in use), the smallest that holds `bytes`, or
/// else the largest: calls of the same size then find their buffers again without growing others.
pub(super) fn best_fit(capacities: impl IntoIterator<Item = Option<usize>>, bytes: usize) -> Option<usize> {
    let free = capacities.into_iter().enumerate().filter_map(|(index, capacity)| Some((index, capacity?)));
    let badness = |capacity: usize| {
        if capacity >= bytes { (false, capacity) } else { (true, usize::MAX - capacity) }
    };
    free.min_by_key(|&(_, capacity)| badness(capacity)).map(|(index, _)| index)
}

/// Copies a payload into floats of the same number.
pub(super) fn copy_floats(payload: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(payload.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

/// Adds a payload to floats of the same number.
pub(super) fn add_floats(payload: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(payload.as_chunks::<4>().0) {
        *value += f32::from_le_bytes(*bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_header() -> impl Strategy<Value = Header> {
        let numbers = (any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        (0..Kind::ALL.len(), numbers).prop_map(|(kind, (source, job, generation, sequence, length, checksum))| Header {
            kind: Kind::ALL[kind],
            source,
            job,
            generation,
            sequence,
            length,
            checksum,
        })
    }

    proptest! {
        #[test]
        fn headers_survive_the_wire(header in any_header()) {
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn a_flipped_bit_in_a_header_is_seen(header in any_header(), bit in 0..HEADER_BYTES * 8) {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in prop::array::uniform32(any::<u8>()), seal in any::<bool>()) {
            let mut header = [0; HEADER_BYTES];
            header[..32].copy_from_slice(&bytes);
            bytes.reverse();
            header[16..].copy_from_slice(&bytes);
            if seal {
                // Past magic and checksum, so that the fields behind them are reached too.
                header[..4].copy_from_slice(&MAGIC);
                let checksum = crc32c::crc32c(&header[..CHECKED_BYTES]);
                header[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
            }
            match Header::decode(&header) {
                Ok(decoded) => prop_assert_eq!(decoded.encode(), header),
                Err(HeaderError::Kind(_)) => prop_assert!(seal),
                Err(_) => prop_assert!(!seal),
            }
        }

        #[test]
        fn floats_survive_the_wire_bit_for_bit(bits in prop::collection::vec(any::<u32>(), 0..200)) {
            let floats: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
            let header = Header {
                kind: Kind::AllToAll, source: 1, job: 2, generation: 3, sequence: 4, length: 0, checksum: 0,
            };
            let mut frame = vec![7; 300];
            encode(&mut frame, header, &floats);
            let (head, body) = frame.split_at(HEADER_BYTES);
            let decoded = Header::decode(head.try_into().expect("48 bytes")).expect("a header");
            prop_assert_eq!(decoded.length, payload_bytes(floats.len()));
            prop_assert_eq!(decoded.checksum, crc32c::crc32c(body));
            let mut out = vec![0.0; floats.len()];
            copy_floats(body, &mut out);
            prop_assert_eq!(out.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), bits);
        }
    }

    #[test]
    fn buffers_are_chosen_by_fit() {
        assert_eq!(best_fit([], 5), None);
        assert_eq!(best_fit([None, Some(1), Some(3)], 5), Some(2));
        assert_eq!(best_fit([Some(9), None, Some(6), Some(1)], 5), Some(2));
    }

    #[test]
    fn headers_of_another_call_or_peer_are_refused() {
        let origin = Origin { source: 2, job: 7, generation: 5, limit: 100 };
        let expected = Expected { kind: Kind::AllGather, sequence: 9, length: 40 };
        let good =
            Header { kind: Kind::AllGather, source: 2, job: 7, generation: 5, sequence: 9, length: 40, checksum: 0 };
        assert_eq!(origin.check(&good), Ok(()));
        assert_eq!(expected.check(&good), Ok(()));
        for (wrong, word) in [
            (Header { job: 8, ..good }, "job"),
            (Header { generation: 4, ..good }, "generation 4"),
            (Header { source: 3, ..good }, "rank 3"),
            (Header { length: 101, ..good }, "limit"),
        ] {
            assert!(origin.check(&wrong).expect_err("refused").contains(word));
        }
        for (wrong, word) in [
            (Header { kind: Kind::Barrier, ..good }, "barrier #9"),
            (Header { sequence: 8, ..good }, "#8"),
            (Header { length: 44, ..good }, "44 bytes"),
        ] {
            assert!(expected.check(&wrong).expect_err("refused").contains(word));
        }
    }
}
