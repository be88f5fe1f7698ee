//! Who sits where in the next generation: which worker has which rank, and which peers it hosts.

use super::messages::Slot;
use super::placement::placement;
use std::collections::BTreeSet;

/// A rank's worker and peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Who.
    pub slot: Slot,
    /// Which peers, ascending.
    pub peers: Vec<u32>,
}

/// The next generation's seats, by rank.
///
/// Survivors keep their ranks, and a replacement takes the rank of the worker that it replaces, if it can the one in
/// the same slot; so the placement of a generation that lost nobody's place is that of the one before, and the run the
/// same bit for bit. Otherwise as few peers move as an even load allows.
///
/// `before` are the seats so far; `alive` who of them survives; `holders` who of these must have a seat, as they hold
/// what no other does; `idle` who has no seat; `wanted` how many seats there are to be, at most one a peer.
pub fn seats(
    before: &[Seat],
    alive: &BTreeSet<Slot>,
    holders: &BTreeSet<Slot>,
    idle: &BTreeSet<Slot>,
    peers: &BTreeSet<u32>,
    wanted: usize,
) -> Vec<Seat> {
    let wanted = wanted.min(peers.len());
    let mut idle = idle.clone();
    let mut places: Vec<(Option<Slot>, Vec<u32>)> = before
        .iter()
        .map(|seat| {
            let kept = seat.peers.iter().copied().filter(|peer| peers.contains(peer)).collect();
            (Some(seat.slot).filter(|slot| alive.contains(slot)), kept)
        })
        .collect();
    for (place, seat) in places.iter_mut().zip(before) {
        if place.0.is_none() && idle.remove(&seat.slot) {
            place.0 = Some(seat.slot);
        }
    }
    let mut occupied = places.iter().filter(|(slot, _)| slot.is_some()).count();
    for place in &mut places {
        if place.0.is_none() && occupied < wanted {
            place.0 = idle.pop_first();
            occupied += usize::from(place.0.is_some());
        }
    }
    places.retain(|(slot, _)| slot.is_some());
    let is_holder = |place: &(Option<Slot>, _)| place.0.is_some_and(|slot| holders.contains(&slot));
    let mut others = wanted.saturating_sub(places.iter().filter(|place| is_holder(place)).count());
    places.retain(|place| {
        let stays = is_holder(place) || others > 0;
        others -= usize::from(stays && !is_holder(place));
        stays
    });
    places.truncate(wanted);
    while places.len() < wanted {
        let Some(slot) = idle.pop_first() else { break };
        places.push((Some(slot), Vec::new()));
    }
    let mut seats: Vec<Seat> =
        places.into_iter().filter_map(|(slot, peers)| Some(Seat { slot: slot?, peers })).collect();
    spread(&mut seats, peers);
    seats
}

/// Gives every peer a seat, moving as few as an even load allows.
fn spread(seats: &mut [Seat], peers: &BTreeSet<u32>) {
    if seats.iter().all(|seat| seat.peers.is_empty()) {
        let all: Vec<u32> = peers.iter().copied().collect();
        let blocks = placement(all.len() as u32, seats.len() as u32);
        for (seat, block) in seats.iter_mut().zip(blocks) {
            seat.peers = block.into_iter().map(|position| all[position as usize]).collect();
        }
        return;
    }
    let seated: BTreeSet<u32> = seats.iter().flat_map(|seat| seat.peers.iter().copied()).collect();
    for peer in peers.difference(&seated) {
        if let Some(seat) = seats.iter_mut().min_by_key(|seat| seat.peers.len()) {
            seat.peers.push(*peer);
        }
    }
    loop {
        let load = |place: &usize| seats[*place].peers.len();
        let (Some(fullest), Some(emptiest)) =
            ((0..seats.len()).rev().max_by_key(load), (0..seats.len()).min_by_key(load))
        else {
            break;
        };
        if load(&fullest) <= load(&emptiest) + 1 {
            break;
        }
        let moved = seats[fullest].peers.pop().expect("the fullest seat has two peers at least");
        seats[emptiest].peers.push(moved);
    }
    seats.iter_mut().for_each(|seat| seat.peers.sort_unstable());
}

/// The rank that keeps copies of each rank's peers: the next one on another machine, so that a machine that fails takes
/// no peer with its copy, else the next one. `hosts` by rank.
pub fn buddies(hosts: &[String]) -> Vec<u32> {
    let ranks = hosts.len();
    (0..ranks)
        .map(|rank| {
            let others = || (1..ranks).map(move |step| (rank + step) % ranks);
            let elsewhere = others().find(|other| hosts[*other] != hosts[rank]);
            elsewhere.or_else(|| others().next()).unwrap_or(rank) as u32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn table(seats: &[Seat]) -> String {
        let seats = seats.iter().map(|seat| format!("w{}{:?}", seat.slot, seat.peers));
        seats.collect::<Vec<_>>().join(" ")
    }

    fn set(range: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
        range.into_iter().collect()
    }

    #[test]
    fn as_few_peers_move_as_an_even_load_allows() {
        let four = seats(&[], &set([]), &set([]), &set(0..4), &set(0..4), 4);
        assert_eq!(table(&four), "w0[0] w1[1] w2[2] w3[3]");
        type Case = (&'static str, &'static [u32], &'static [u32], u32, usize, &'static str);
        let cases: [Case; 8] = [
            ("restarted in its slot", &[0, 2, 3], &[1, 5], 4, 4, "w0[0] w1[1] w2[2] w3[3]"),
            ("a spare", &[0, 2, 3], &[5], 4, 4, "w0[0] w5[1] w2[2] w3[3]"),
            ("no replacement", &[0, 2, 3], &[], 4, 4, "w0[0, 1] w2[2] w3[3]"),
            ("one peer more", &[0, 1, 2, 3], &[], 5, 4, "w0[0, 4] w1[1] w2[2] w3[3]"),
            ("one peer and worker more", &[0, 1, 2, 3], &[4], 5, 5, "w0[0] w1[1] w2[2] w3[3] w4[4]"),
            ("fewer peers", &[0, 1, 2, 3], &[], 2, 4, "w0[0] w1[1]"),
            ("fewer workers", &[0, 1, 2, 3], &[], 4, 2, "w0[0, 2] w1[1, 3]"),
            ("all lost", &[], &[7, 8], 4, 2, "w7[0, 2] w8[1, 3]"),
        ];
        for (name, alive, idle, peers, wanted, expected) in cases {
            let found = seats(&four, &set(alive.to_vec()), &set([]), &set(idle.to_vec()), &set(0..peers), wanted);
            assert_eq!(table(&found), expected, "{name}");
        }
    }

    #[test]
    fn who_holds_what_no_other_does_keeps_its_seat_when_there_are_fewer() {
        let four = seats(&[], &set([]), &set([]), &set(0..4), &set(0..8), 4);
        let alive = set(0..4);
        let found = seats(&four, &alive, &set([3]), &set([]), &set([0, 6]), 2);
        assert_eq!(table(&found), "w0[0] w3[6]");
        let found = seats(&four, &alive, &set([2, 3]), &set([]), &set([5, 6]), 4);
        assert_eq!(table(&found), "w2[5] w3[6]");
    }

    #[test]
    fn copies_are_kept_on_another_machine_where_there_is_one() {
        let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(buddies(&hosts(&["a", "a", "b", "b"])), [2, 2, 0, 0]);
        assert_eq!(buddies(&hosts(&["a", "a", "a"])), [1, 2, 0]);
        assert_eq!(buddies(&hosts(&["a"])), [0]);
    }

    proptest! {
        #[test]
        fn every_peer_has_one_seat_and_the_load_is_even(
            sizes in prop::collection::vec(0usize..4, 0..7), dead in prop::collection::btree_set(0u32..7, 0..5),
            idle in prop::collection::btree_set(7u32..12, 0..4), peers in prop::collection::btree_set(0u32..16, 1..12),
            wanted in 1usize..9,
        ) {
            let mut next = 0;
            let before: Vec<Seat> = sizes.iter().enumerate().map(|(slot, size)| {
                let first = next;
                next += *size as u32;
                Seat { slot: slot as u32, peers: (first..next).collect() }
            }).collect();
            let alive: BTreeSet<Slot> =
                before.iter().map(|seat| seat.slot).filter(|slot| !dead.contains(slot)).collect();
            let found = seats(&before, &alive, &set([]), &idle, &peers, wanted);
            prop_assert_eq!(found.len(), wanted.min(peers.len()).min(alive.len() + idle.len()));
            let slots: BTreeSet<Slot> = found.iter().map(|seat| seat.slot).collect();
            prop_assert_eq!(slots.len(), found.len());
            prop_assert!(slots.iter().all(|slot| alive.contains(slot) || idle.contains(slot)));
            if !found.is_empty() {
                let mut seated: Vec<u32> = found.iter().flat_map(|seat| seat.peers.clone()).collect();
                seated.sort_unstable();
                prop_assert_eq!(seated, peers.into_iter().collect::<Vec<_>>());
                let load = || found.iter().map(|seat| seat.peers.len());
                prop_assert!(load().max().unwrap() - load().min().unwrap() <= 1);
            }
        }
    }
}
