//! How long the members of a generation wait for one another while it begins.

#![allow(clippy::unwrap_used)]

mod support;

use medley_worker::collective::{AbortHandle, Collective, CollectiveError, LocalCollective, Traffic};
use medley_worker::exchange::{Exchange, Placement};
use medley_worker::train::{Entry, Material, Trainer, meeting_deadline};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Recorder, configuration, data};

/// A group of one that notes under which deadline each of its calls was made.
struct Noting {
    group: LocalCollective,
    deadline: Option<Duration>,
    of_calls: Arc<Mutex<Vec<Option<Duration>>>>,
}

impl Noting {
    fn note(&self) {
        self.of_calls.lock().unwrap().push(self.deadline);
    }
}

impl Collective for Noting {
    fn rank(&self) -> usize {
        self.group.rank()
    }
    fn world_size(&self) -> usize {
        self.group.world_size()
    }
    fn generation(&self) -> u64 {
        self.group.generation()
    }
    fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = Some(deadline);
    }
    fn all_to_all(&mut self, send: &[&[f32]], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError> {
        self.note();
        self.group.all_to_all(send, receive)
    }
    fn all_gather(&mut self, mine: &[f32], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError> {
        self.note();
        self.group.all_gather(mine, receive)
    }
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        self.note();
        self.group.all_reduce_sum(values)
    }
    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.note();
        self.group.barrier()
    }
    fn abort_handle(&self) -> AbortHandle {
        self.group.abort_handle()
    }
    fn bytes_sent(&self) -> u64 {
        self.group.bytes_sent()
    }
    fn bytes_received(&self) -> u64 {
        self.group.bytes_received()
    }
    fn take_traffic(&mut self) -> Traffic {
        self.group.take_traffic()
    }
}

#[test]
fn whoever_reads_a_checkpoint_is_waited_for_longer_than_in_a_step() {
    let directory = tempfile::tempdir().unwrap();
    let settings = ["train.steps=1", "cohort.peers=2", "exchange.deadline_seconds=7", "launch.join_ms=50000"];
    let material = Material::load(configuration(&data(directory.path()), &settings)).unwrap();
    let of_calls = Arc::default();
    let group = LocalCollective::new(1, AbortHandle::new());
    let noting = Noting { group, deadline: None, of_calls: Arc::clone(&of_calls) };
    let placement = Placement::new(vec![vec![0, 1]], 0).unwrap();
    let entry = Entry::fresh(&placement);
    let mut exchange = Exchange::new(Box::new(noting), placement, &material.config);
    let mut trainer = Trainer::new(&material, tch::Device::Cpu, directory.path());
    let mut recorder = Recorder::default();
    trainer.enter(&mut exchange, &entry, &mut recorder).unwrap();
    let of_entry = std::mem::take(&mut *of_calls.lock().unwrap());
    assert!(!of_entry.is_empty());
    assert!(of_entry.iter().all(|deadline| *deadline == Some(Duration::from_secs(43))), "{of_entry:?}");
    trainer.run(&mut exchange, &mut recorder).unwrap();
    let of_steps = of_calls.lock().unwrap();
    assert!(of_steps.iter().all(|deadline| *deadline == Some(Duration::from_secs(7))), "{of_steps:?}");
}

#[test]
fn a_rank_that_is_missed_is_named_before_the_coordinator_gives_up() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let seconds = |settings: &[&str]| meeting_deadline(&configuration(&data, settings)).as_secs_f64();
    assert_eq!(seconds(&[]), 40.0, "a minute to join, less the 20 s of the exchange");
    // However close the two are, there is time to meet, and time to say who did not come.
    assert_eq!(seconds(&["exchange.deadline_seconds=29", "launch.join_ms=31000"]), 15.5);
}
