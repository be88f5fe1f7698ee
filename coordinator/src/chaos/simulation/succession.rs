//! A coordinator dies and another takes over, as `job::lead` has it.

use super::process::ProcessId;
use super::queue::{MILLISECOND, SECOND, Time};
use super::world::{Happening, World};
use crate::cluster::{Cluster, Resume};
use rand::Rng;
use std::time::Duration;

/// What workers are given to return beyond the time after which they notice that nobody leads.
const GRACE: Time = 5 * SECOND;

/// How long a worker takes to look for the next coordinator.
const LOOKS: [Time; 2] = [100 * MILLISECOND, 1_000 * MILLISECOND];

impl World {
    /// The coordinator is dead, and what it knew and had not kept is lost.
    pub(super) fn lose_coordinator(&mut self, time: Time) {
        if self.outcome.is_some() || self.now < self.leaderless_until {
            return;
        }
        self.term += 1;
        self.trace.note(self.now, || format!("the coordinator dies for {time} us"));
        self.leaderless_until = self.now + time;
        self.paused_until = self.now;
        for waiting in std::mem::take(&mut self.waiting) {
            self.missed(waiting);
        }
        self.places.clear();
        for id in 0..self.processes.len() {
            let process = &mut self.processes[id];
            (process.known_session, process.received, process.suspension_read) = (None, 0, 0);
            // Who counted as dead for it is not known to the next.
            process.is_dismissed = false;
            if process.session.take().is_some() && process.is_alive() {
                self.looks(id);
            }
        }
        self.queue.push(self.leaderless_until, Happening::Succeeds { term: self.term });
    }

    /// What would have reached the coordinator.
    pub(super) fn missed(&mut self, happening: Happening) {
        match happening {
            Happening::Join { process } => self.looks(process),
            Happening::Tick | Happening::Fault(_) => self.queue.push(self.leaderless_until, happening),
            // It may have been done with it just before.
            Happening::Committed { commit, term } => self.checkpoint_written(&commit, term),
            _ => {}
        }
    }

    fn looks(&mut self, id: ProcessId) {
        let at = self.now.max(self.leaderless_until) + self.random.random_range(LOOKS[0]..LOOKS[1]);
        self.queue.push(at, Happening::Join { process: id });
    }

    /// Another coordinator begins with what was kept, and with the newest checkpoint that it finds.
    pub(super) fn succeed(&mut self, term: u64) {
        if term != self.term || self.outcome.is_some() {
            return;
        }
        let mut settings = self.schedule.settings.clone();
        let newest = self.checkpoints.iter().max_by_key(|(_, snapshot)| snapshot.step);
        settings.resume = newest.map(|(directory, snapshot)| Resume {
            step: snapshot.step,
            directory: directory.clone(),
            data_hash: "d".into(),
            peers: snapshot.peers.keys().copied().collect(),
        });
        let death = settings.death.as_micros() as Time;
        self.term_began = self.now;
        self.cluster = match &self.kept {
            Some(kept) => {
                settings.generation = kept.generation + 1;
                Cluster::adopt(settings, kept, Duration::from_micros(GRACE + 6 * death))
            }
            None => Cluster::new(settings),
        };
        self.trace.note(self.now, || format!("coordinator {term} takes over"));
    }
}
