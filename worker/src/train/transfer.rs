//! Moves states between workers: parcels of known lengths, by as few all-to-alls as a message may be long.

use super::TrainError;
use crate::collective::Collective;

/// Most floats of one message: 256 MiB, well below the largest frame.
const MOST_FLOATS: usize = 1 << 26;

/// Something for another rank. All ranks list the same parcels in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel<T> {
    /// The rank that has it.
    pub from: usize,
    /// The rank that gets it; not the same.
    pub to: usize,
    /// Floats.
    pub length: usize,
    /// What it is.
    pub what: T,
}

/// Delivers all parcels; `load` packs those of this rank. Returns what this rank got, in the order of the list.
///
/// # Errors
/// Those of `load` and of the collective.
pub fn deliver<T: Copy>(
    collective: &mut dyn Collective,
    parcels: &[Parcel<T>],
    load: impl FnMut(T) -> Result<Vec<f32>, TrainError>,
) -> Result<Vec<(T, Vec<f32>)>, TrainError> {
    deliver_in_rounds(collective, parcels, MOST_FLOATS, load)
}

fn deliver_in_rounds<T: Copy>(
    collective: &mut dyn Collective,
    parcels: &[Parcel<T>],
    most: usize,
    mut load: impl FnMut(T) -> Result<Vec<f32>, TrainError>,
) -> Result<Vec<(T, Vec<f32>)>, TrainError> {
    let (rank, workers) = (collective.rank(), collective.world_size());
    let mut outgoing = vec![Vec::new(); workers];
    for parcel in parcels.iter().filter(|parcel| parcel.from == rank) {
        let packed = load(parcel.what)?;
        assert_eq!(packed.len(), parcel.length, "a state is as long as its network's shape says");
        outgoing[parcel.to].extend(packed);
    }
    let length = |from: usize, to: usize| -> usize {
        parcels.iter().filter(|parcel| (parcel.from, parcel.to) == (from, to)).map(|parcel| parcel.length).sum()
    };
    let mut incoming: Vec<Vec<f32>> = (0..workers).map(|from| vec![0.0; length(from, rank)]).collect();
    let pairs = parcels.iter().map(|parcel| length(parcel.from, parcel.to));
    let longest = pairs.max().unwrap_or(0);
    for start in (0..longest).step_by(most) {
        let part = |length: usize| start.min(length)..(start + most).min(length);
        let send: Vec<&[f32]> = outgoing.iter().map(|all| &all[part(all.len())]).collect();
        let mut receive: Vec<&mut [f32]> = incoming
            .iter_mut()
            .map(|all| {
                let range = part(all.len());
                &mut all[range]
            })
            .collect();
        collective.all_to_all(&send, &mut receive)?;
    }
    let mut starts = vec![0; workers];
    let mine = parcels.iter().filter(|parcel| parcel.to == rank).map(|parcel| {
        let start = &mut starts[parcel.from];
        let floats = incoming[parcel.from][*start..*start + parcel.length].to_vec();
        *start += parcel.length;
        (parcel.what, floats)
    });
    Ok(mine.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::collective::{AbortHandle, Listener, Membership, Options, TcpCollective};

    type Delivered = Vec<(usize, Vec<f32>)>;

    #[test]
    fn parcels_arrive_whole_and_in_order_however_short_messages_are() {
        // (from, to, length), with several for one pair and none for another.
        let list = [(0, 1, 5), (2, 1, 1), (0, 1, 2), (1, 0, 7), (2, 0, 3)];
        let parcels: Vec<Parcel<usize>> = list
            .iter()
            .enumerate()
            .map(|(what, (from, to, length))| Parcel { from: *from, to: *to, length: *length, what })
            .collect();
        let content = |what: usize| -> Vec<f32> { (0..list[what].2).map(|i| (10 * what + i) as f32).collect() };
        let listeners: Vec<Listener> = (0..3).map(|_| Listener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().to_string()).collect();
        let got: Vec<Vec<Delivered>> = std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..3)
                .map(|rank| {
                    let (addresses, listeners, parcels) = (&addresses, &listeners, &parcels);
                    scope.spawn(move || {
                        let membership = Membership {
                            job: "test".into(),
                            generation: 1,
                            rank,
                            addresses: addresses.clone(),
                            secret: b"secret".to_vec(),
                        };
                        let options = Options::default();
                        let mut group =
                            TcpCollective::connect(&listeners[rank], &membership, &options, AbortHandle::new())
                                .unwrap();
                        let mut deliver =
                            |most| deliver_in_rounds(&mut group, parcels, most, |what| Ok(content(what))).unwrap();
                        [1, 2, 3, 100].map(&mut deliver).to_vec()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for (rank, rounds) in got.into_iter().enumerate() {
            let mine = parcels.iter().filter(|p| p.to == rank).map(|p| (p.what, content(p.what)));
            let mine: Vec<_> = mine.collect();
            assert!(rounds.iter().all(|round| *round == mine), "{rank}: {rounds:?}");
        }
    }
}
