//! The TCP collective over loopback, a thread per rank: results, traffic, misuse and failures.

#![allow(clippy::unwrap_used)]

mod collective_group;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use collective_group::*;
use medley_worker::collective::{
    AbortHandle, Collective, CollectiveError, HEADER_BYTES, Listener, Membership, Options, TcpCollective, Traffic,
    shard,
};

const WORLD_SIZES: [usize; 5] = [1, 2, 3, 5, 8];

/// Values whose sum depends on the order of the addends.
fn addends(rank: usize, length: usize) -> Vec<f32> {
    let value = |index: usize| {
        let noise = (index * 7919 + rank * 104_729) % 1_000_003;
        (noise as f32 - 500_000.0) * 10f32.powi((noise % 9) as i32 - 4)
    };
    (0..length).map(value).collect()
}

fn add(sum: &mut [f32], addends: &[f32]) {
    sum.iter_mut().zip(addends).for_each(|(sum, addend)| *sum += addend);
}

fn sum_in_rank_order(world_size: usize, length: usize) -> Vec<f32> {
    let mut sum = addends(0, length);
    (1..world_size).for_each(|rank| add(&mut sum, &addends(rank, length)));
    sum
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

// Results.

#[test]
fn operations_give_what_a_local_computation_gives() {
    for world_size in WORLD_SIZES {
        // Some parts are empty, and what goes one way is not as long as what comes back.
        let length = |from: usize, to: usize| (from * 31 + to * 17) % 5 * 13;
        run(world_size, |mut group| {
            let rank = group.rank();
            assert_eq!((group.world_size(), group.generation()), (world_size, 7));
            for round in 0..3 {
                let received = all_to_all(&mut group, length).unwrap();
                let gathered = all_gather(&mut group, |from| from * round).unwrap();
                for from in 0..world_size {
                    assert_eq!(received[from], part(from, rank, length(from, rank)));
                    assert_eq!(gathered[from], part(from, 0, from * round));
                }
                group.barrier().unwrap();
                for length in [0, 1, world_size - 1, world_size, 1_000, 1_001] {
                    let mut values = addends(rank, length);
                    group.all_reduce_sum(&mut values).unwrap();
                    assert_eq!(bits(&values), bits(&sum_in_rank_order(world_size, length)));
                }
            }
        });
    }
}

#[test]
fn the_values_of_these_tests_show_another_order_of_summation() {
    let mut backwards = addends(2, 1_000);
    add(&mut backwards, &addends(1, 1_000));
    add(&mut backwards, &addends(0, 1_000));
    assert_ne!(bits(&backwards), bits(&sum_in_rank_order(3, 1_000)));
}

#[test]
fn everybody_can_send_more_than_the_sockets_hold_at_once() {
    const FLOATS: usize = 2 << 20; // 8 MiB a link
    run(3, |mut group| {
        let rank = group.rank();
        let received = all_to_all(&mut group, |_, _| FLOATS).unwrap();
        for (from, received) in received.iter().enumerate() {
            assert!(*received == part(from, rank, FLOATS));
        }
        let mut values = addends(rank, 3 * FLOATS);
        group.all_reduce_sum(&mut values).unwrap();
        assert!(bits(&values) == bits(&sum_in_rank_order(3, 3 * FLOATS)));
    });
}

#[test]
fn barrier_lets_nobody_through_before_all_have_come() {
    let entered = Gate::default();
    let passed = Gate::default();
    run(3, |mut group| {
        if group.rank() == 0 {
            entered.wait_for(2);
            assert_eq!(passed.count(), 0);
        } else {
            entered.arrive();
        }
        group.barrier().unwrap();
        passed.arrive();
    });
    assert_eq!(passed.count(), 3);
}

// Traffic.

#[test]
fn traffic_is_the_least_possible() {
    const FLOATS: usize = 1_200;
    let float_bytes = |floats: usize| 4 * floats as u64;
    for world_size in WORLD_SIZES {
        let others = world_size as u64 - 1;
        let headers = others * HEADER_BYTES as u64;
        run(world_size, |mut group| {
            let rank = group.rank();
            all_to_all(&mut group, |_, _| FLOATS).unwrap();
            let bytes = headers + others * float_bytes(FLOATS);
            assert_eq!(group.take_traffic(), Traffic { sent: bytes, received: bytes });

            all_gather(&mut group, |from| from * 10).unwrap();
            let all: usize = (0..world_size).map(|from| from * 10).sum();
            let sent = headers + others * float_bytes(rank * 10);
            let received = headers + float_bytes(all - rank * 10);
            assert_eq!(group.take_traffic(), Traffic { sent, received });

            group.barrier().unwrap();
            assert_eq!(group.take_traffic(), Traffic { sent: headers, received: headers });

            let mut values = addends(rank, FLOATS * world_size);
            group.all_reduce_sum(&mut values).unwrap();
            let bytes = 2 * headers + 2 * others * float_bytes(values.len()) / world_size as u64;
            assert_eq!(group.take_traffic(), Traffic { sent: bytes, received: bytes });

            let mut values = addends(rank, 1_001);
            group.all_reduce_sum(&mut values).unwrap();
            let own = shard(1_001, world_size, rank).len();
            let sent = 2 * headers + float_bytes(1_001 - own) + others * float_bytes(own);
            assert_eq!(group.take_traffic().sent, sent);

            assert_eq!(group.take_traffic(), Traffic::default());
            assert_eq!(group.bytes_sent() > 0, world_size > 1);
            assert_eq!(group.bytes_received() > 0, world_size > 1);
        });
    }
}

// Misuse.

#[test]
fn arguments_that_do_not_fit_are_refused_and_the_group_stays_usable() {
    run(2, |mut group| {
        let mut room = [0.0; 3];
        let refused = |result: Result<(), CollectiveError>| {
            assert!(matches!(result, Err(CollectiveError::Argument(_))), "{result:?}");
        };
        refused(group.all_to_all(&[&[1.0]], &mut [&mut room]));
        refused(group.all_gather(&[1.0], &mut [&mut room[..2], &mut []]));
        group.barrier().unwrap();
    });
}

#[test]
fn memberships_and_ports_that_cannot_be_are_refused() {
    let (listeners, addresses) = listeners(1);
    let base = membership(0, &addresses);
    for wrong in [
        Membership { rank: 1, ..base.clone() },
        Membership { job: String::new(), ..base.clone() },
        Membership { secret: Vec::new(), ..base },
    ] {
        let error = connect_as(&listeners[0], &wrong).unwrap_err();
        assert!(matches!(error, CollectiveError::Argument(_)), "{error}");
    }
    let _group = connect(&listeners[0], 0, &addresses).unwrap();
    let second = connect(&listeners[0], 0, &addresses).unwrap_err();
    assert!(matches!(second, CollectiveError::Argument(_)), "{second}");
    let taken = Listener::bind(addresses[0].as_str()).unwrap_err();
    assert!(matches!(taken, CollectiveError::Listen { .. }), "{taken}");
    assert!(taken.to_string().contains(&addresses[0]));
}

#[test]
fn messages_above_the_limit_are_not_even_sent() {
    let (listeners, addresses) = listeners(2);
    let options = Options { max_frame_bytes: 400, ..Options::default() };
    each_rank(2, |rank| {
        let member = membership(rank, &addresses);
        let mut group = TcpCollective::connect(&listeners[rank], &member, &options, AbortHandle::new()).unwrap();
        let error = all_gather(&mut group, |_| 101).unwrap_err();
        assert!(error.to_string().contains("max_frame_bytes"), "{error}");
        all_gather(&mut group, |_| 100).unwrap();
    });
}

#[test]
fn ranks_in_different_calls_are_told_so() {
    let errors = run(2, |mut group| {
        let error = match group.rank() {
            0 => group.barrier().unwrap_err(),
            _ => group.all_reduce_sum(&mut [1.0, 2.0]).unwrap_err(),
        };
        assert_eq!(group.barrier().unwrap_err().to_string(), error.to_string(), "repeated later");
        error
    });
    // One of the two may see the other leave before it reads the wrong frame.
    let told = |error: &CollectiveError| {
        matches!(error, CollectiveError::Protocol { what, .. }
            if what.contains("barrier #1") && what.contains("all_reduce_sum (addends) #1"))
    };
    assert!(errors.iter().any(told), "{errors:?}");
}

#[test]
fn lengths_that_differ_from_the_expected_are_refused() {
    let failures = run(2, |mut group| {
        let mut room = [0.0; 2];
        let done = match group.rank() {
            0 => group.all_to_all(&[&[], &[]], &mut [&mut [], &mut room]),
            _ => group.all_to_all(&[&[1.0; 3], &[]], &mut [&mut [], &mut []]),
        };
        done.err()
    });
    let told = matches!(&failures[0], Some(CollectiveError::Protocol { rank: 1, what })
        if what.contains("12 bytes where 8 are expected"));
    assert!(told, "{failures:?}");
}

// Failures.

#[test]
fn an_absent_peer_ends_the_formation_at_its_deadline() {
    for (absent, present) in [(0, 1), (1, 0)] {
        let (mut listeners, addresses) = listeners(2);
        drop(listeners.remove(absent));
        let connect_deadline = Duration::from_millis(300);
        let options = Options { connect_deadline, ..Options::default() };
        let member = membership(present, &addresses);
        let started = Instant::now();
        let error = TcpCollective::connect(&listeners[0], &member, &options, AbortHandle::new()).unwrap_err();
        assert!(
            matches!(error, CollectiveError::Deadline { rank, operation: "connect", waited, .. }
                if rank == absent && waited >= connect_deadline),
            "{error}"
        );
        assert!(started.elapsed() < AT_ONCE);
    }
}

#[test]
fn a_peer_that_does_not_call_ends_the_wait_at_its_deadline() {
    let done = Gate::default();
    run(2, |mut group| {
        if group.rank() == 1 {
            return done.wait_for(1);
        }
        let deadline = Duration::from_millis(300);
        group.set_deadline(deadline);
        let started = Instant::now();
        let error = group.barrier().unwrap_err();
        assert!(started.elapsed() >= deadline && started.elapsed() < AT_ONCE);
        assert!(matches!(error, CollectiveError::Deadline { rank: 1, operation: "barrier", .. }), "{error}");
        group.set_deadline(LONG);
        assert_eq!(group.barrier().unwrap_err().to_string(), error.to_string(), "repeated at once");
        done.arrive();
    });
}

#[test]
fn a_rank_that_goes_is_noticed_by_all_at_once() {
    const FLOATS: usize = 4 << 20;
    let started = Instant::now();
    let errors = run(4, |mut group| {
        group.barrier().unwrap();
        if group.rank() == 2 {
            return None; // Leaves while the others send and wait.
        }
        let error = all_to_all(&mut group, |_, _| FLOATS).unwrap_err();
        assert_eq!(group.barrier().unwrap_err().to_string(), error.to_string());
        Some(error)
    });
    assert!(started.elapsed() < AT_ONCE);
    let lost: Vec<usize> = errors
        .iter()
        .flatten()
        .map(|error| match error {
            CollectiveError::PeerLost { rank, .. } => *rank,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(lost.len(), 3);
    assert!(lost.contains(&2), "whoever fails first names the one that left: {lost:?}");
}

#[test]
fn a_rank_may_leave_as_soon_as_its_last_call_is_done() {
    for _ in 0..20 {
        run(4, |mut group| {
            let mut values = addends(group.rank(), 50_000);
            group.all_reduce_sum(&mut values).unwrap();
            assert!(bits(&values) == bits(&sum_in_rank_order(4, 50_000)));
        });
    }
}

#[test]
fn abort_ends_pending_and_later_calls() {
    let started = Instant::now();
    let done = Gate::default();
    let (sender, handle) = mpsc::channel::<AbortHandle>();
    thread::scope(|scope| {
        scope.spawn(move || handle.recv().unwrap().abort("rank 5 was declared dead"));
        run(2, |mut group| {
            if group.rank() == 1 {
                return done.wait_for(1);
            }
            sender.send(group.abort_handle()).unwrap();
            for _ in 0..2 {
                match group.barrier().unwrap_err() {
                    CollectiveError::Aborted { reason } => {
                        assert_eq!(reason, "rank 5 was declared dead");
                    }
                    other => panic!("{other}"),
                }
            }
            done.arrive();
        });
    });
    assert!(started.elapsed() < AT_ONCE);
}

#[test]
fn abort_ends_a_large_send_that_nobody_takes() {
    let started = Instant::now();
    let done = Gate::default();
    run(2, |mut group| {
        if group.rank() == 1 {
            return done.wait_for(1);
        }
        let handle = group.abort_handle();
        thread::scope(|scope| {
            let pending = scope.spawn(|| all_to_all(&mut group, |_, _| 8 << 20));
            handle.abort("enough");
            let error = pending.join().unwrap().unwrap_err();
            assert!(matches!(error, CollectiveError::Aborted { .. }), "{error}");
        });
        drop(group);
        done.arrive();
    });
    assert!(started.elapsed() < AT_ONCE);
}

#[test]
fn abort_ends_a_formation_and_frees_the_port() {
    let (listeners, addresses) = listeners(3);
    let abort = AbortHandle::new();
    let started = Instant::now();
    thread::scope(|scope| {
        let member = membership(1, &addresses);
        let (listener, handle) = (&listeners[1], abort.clone());
        let pending = scope.spawn(move || TcpCollective::connect(listener, &member, &Options::default(), handle));
        abort.abort("the membership changed");
        let error = pending.join().unwrap().unwrap_err();
        assert!(matches!(error, CollectiveError::Aborted { .. }), "{error}");
    });
    assert!(started.elapsed() < AT_ONCE);
    connect(&listeners[1], 0, &addresses[1..2]).unwrap();
}

#[test]
fn the_next_generation_forms_on_the_same_ports() {
    let (listeners, addresses) = listeners(3);
    for generation in 1..4 {
        each_rank(3, |rank| {
            let member = Membership { generation, ..membership(rank, &addresses) };
            let mut group = connect_as(&listeners[rank], &member).unwrap();
            let mut values = [rank as f32];
            group.all_reduce_sum(&mut values).unwrap();
            assert_eq!(values, [3.0]);
        });
    }
}

#[test]
fn a_worker_that_is_ahead_waits_for_the_others() {
    let (listeners, addresses) = listeners(2);
    let next = |rank: usize| {
        let member = Membership { generation: 8, ..membership(rank, &addresses) };
        connect_as(&listeners[rank], &member).unwrap().barrier().unwrap();
    };
    // Rank 0 may still be in a group of generation 7 when rank 1 dials for generation 8.
    let old = connect(&listeners[0], 0, &addresses[..1]).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| next(1));
        drop(old);
        next(0);
    });
}
