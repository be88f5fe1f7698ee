//! The coordinator's edge: sessions, the launcher, and the thread that commits checkpoints, as `server`, `launch` and
//! `job` have them.

use super::exchange::Group;
use super::lineage::Snapshot;
use super::process::ProcessId;
use super::queue::{MILLISECOND, SECOND, Time};
use super::schedule::{Fault, Restarts};
use super::world::{Happening, Order, World};
use crate::cluster::{Action, Assignment, Commit, Event, Report, Slot};
use rand::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;

impl World {
    /// A report arrives; one that came before is not passed on.
    pub(super) fn received(&mut self, id: ProcessId, session: u64, sequence: u64) {
        let process = &mut self.processes[id];
        if process.known_session != Some(session) || sequence <= process.received {
            return;
        }
        let Some(first) = process.unacknowledged.front().map(|report| report.sequence) else { return };
        let place = sequence.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        let Some(numbered) = place.and_then(|place| process.unacknowledged.get(place)).cloned() else {
            return;
        };
        process.received = sequence;
        let (slot, generation, report) = (process.slot, numbered.generation, numbered.report);
        if matches!(report, Report::Suspended(_)) && !process.is_dismissed {
            process.suspension_read = generation;
        }
        self.tell(Event::Reported { slot, session, generation, report });
    }

    /// A worker learns which of its reports no other coordinator will need.
    pub(super) fn acknowledge(&mut self, id: ProcessId) {
        let process = &mut self.processes[id];
        if self.cluster.has_settled_reports(process.slot) {
            let received = process.received;
            process.unacknowledged.retain(|report| report.sequence > received);
        }
    }

    pub(super) fn session_seen(&mut self, id: ProcessId, session: u64) {
        let process = &mut self.processes[id];
        if process.known_session == Some(session) {
            process.known_session = None;
        }
        let slot = process.slot;
        self.tell(Event::SessionLost { slot, session, reason: "the connection failed: reset".into() });
    }

    pub(super) fn exit_seen(&mut self, id: ProcessId) {
        let process = &self.processes[id];
        let slot = process.slot;
        if !process.is_dismissed {
            let status = "by signal 9 (SIGKILL)".into();
            self.tell(Event::Exited { slot, process_id: id as u32 + 1, status, last_words: None });
        }
    }

    /// Does what the cluster asks for.
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Assign { slot, assignment } => {
                self.assigning(slot, &assignment);
                self.order(slot, Order::Assign(assignment));
            }
            Action::SendStop { slot, generation, .. } => self.order(slot, Order::Stop { generation }),
            Action::Abort { slot, generation, .. } => self.order(slot, Order::Abort { generation }),
            Action::Pause { slot, generation, checkpoint } => {
                self.order(slot, Order::Pause { generation, checkpoint });
            }
            Action::Dismiss { slot, .. } => self.dismiss(slot),
            Action::Start { slot } => {
                let at = self.now + self.random.random_range(1..50) * MILLISECOND;
                if self.schedule.restarts == Restarts::ByLauncher {
                    self.queue.push(at, Happening::Launched { slot });
                }
            }
            Action::CommitCheckpoint(commit) => {
                let at = self.now + self.random.random_range(1..300) * MILLISECOND;
                self.stage(&commit);
                self.queue.push(at, Happening::Committed { commit, term: self.term });
            }
            // Nobody in a simulation fails to write.
            Action::DiscardCheckpoint { .. } => {}
            Action::Finish(outcome) => self.outcome = Some(outcome),
            Action::Keep(kept) => {
                let before = std::mem::replace(&mut self.checks.kept, kept.generation);
                self.checks.check(before <= kept.generation, || format!("generation {before} was kept before"));
                self.kept = Some(kept);
                if let Some(time) = self.dies_keeping.take() {
                    self.lose_coordinator(time);
                }
            }
            Action::Record(_) | Action::Progress(_) | Action::KillAll => {}
        }
    }

    fn order(&mut self, slot: Slot, order: Order) {
        let Some(&id) = self.places.get(&slot) else { return };
        let Some(session) = self.processes[id].known_session else { return };
        let at = self.soon().max(self.processes[id].last_down).max(self.processes[id].cut_until);
        self.processes[id].last_down = at;
        self.queue.push(at, Happening::Down { process: id, session, order });
    }

    fn dismiss(&mut self, slot: Slot) {
        let Some(id) = self.places.remove(&slot) else { return };
        let process = &mut self.processes[id];
        process.is_dismissed = true;
        process.suspension_read = 0;
        let session = process.known_session.take();
        // Only the launcher can end it; elsewhere it goes on as a zombie until it comes back and is refused.
        if self.schedule.restarts == Restarts::ByLauncher {
            self.end(id, true);
        } else if session.is_some() && self.processes[id].is_alive() {
            let at = self.soon();
            self.processes[id].session = None;
            self.queue.push(at + 100 * MILLISECOND, Happening::Join { process: id });
        }
    }

    /// The first assignment of a generation founds its exchange.
    fn assigning(&mut self, slot: Slot, assignment: &Assignment) {
        self.checks.assigning(slot, assignment);
        let generation = assignment.generation;
        if self.groups.contains_key(&generation) {
            return;
        }
        let members: Vec<ProcessId> = assignment.members.iter().filter_map(|member| number(&member.address)).collect();
        self.checks.check(members.len() == assignment.members.len(), || {
            format!("generation {generation} has members without an address")
        });
        let Some(begins) = self.beginning(assignment, &members) else { return };
        let before = self.groups.values().next_back().and_then(|group| group.after(begins.step).cloned());
        self.checks.begins(generation, &begins, before);
        let group = Group::new(members, assignment.clone(), Rc::new(begins));
        self.groups.insert(generation, group);
        self.groups.retain(|other, _| other + 3 > generation);
        self.queue.push(self.now + SECOND / 4, Happening::Watch { generation });
    }

    /// A checkpoint's files are staged as they were reported; files of an earlier attempt at the same step are gone.
    fn stage(&mut self, commit: &Commit) {
        self.staged.retain(|(step, _), _| *step != commit.step);
        for file in &commit.files {
            let state = u64::from_str_radix(&file.sha256, 16).unwrap_or_default();
            let twice = self.staged.insert((commit.step, file.name.clone()), state).is_some();
            let (name, step) = (&file.name, commit.step);
            self.checks.check(!twice, || format!("{name} is in the checkpoint of step {step} twice"));
        }
    }

    /// The thread that commits checkpoints has verified the files and put the manifest in place, or has failed.
    pub(super) fn checkpoint_written(&mut self, commit: &Commit, term: u64) {
        let step = commit.step;
        if term != self.term && self.random.random_bool(0.5) {
            // Its thread ended with the coordinator.
            return;
        }
        if std::mem::take(&mut self.commit_fails) {
            self.trace.note(self.now, || format!("the checkpoint of step {step} cannot be committed"));
            return self.tell(Event::CheckpointFailed { step, message: "no space left on device".into() });
        }
        let state = |name: &str| self.staged.get(&(step, name.to_owned())).copied();
        let mut peers = BTreeMap::new();
        for file in &commit.files {
            if let Some(peer) = file.name.strip_prefix("peer-").and_then(|peer| peer.parse().ok()) {
                peers.insert(peer, state(&file.name).unwrap_or_default());
            }
        }
        let shared = state("shared").unwrap_or_default();
        let snapshot = Snapshot { step, shared, peers };
        self.checks.checkpoint(&snapshot, commit);
        let directory = format!("checkpoints/step-{step}");
        self.checkpoints.insert(directory.clone(), Rc::new(snapshot));
        if term != self.term {
            return;
        }
        self.tell(Event::CheckpointCommitted { step, directory, bytes: 8 });
    }

    /// Something befalls the job.
    pub(super) fn befall(&mut self, fault: Fault) {
        self.trace.note(self.now, || format!("fault: {fault:?}"));
        let in_slot = |slot: &Slot| self.places.get(slot).copied().filter(|id| self.processes[*id].is_alive());
        match fault {
            Fault::Kill { slot } => {
                if let Some(id) = in_slot(&slot) {
                    self.end(id, true);
                }
            }
            Fault::KillAt { .. } => self.traps.push(fault),
            Fault::HostDies { host } => {
                for id in 0..self.processes.len() {
                    if self.processes[id].host == host && self.processes[id].is_alive() {
                        self.end(id, false);
                        // Who started it there learns in the end.
                        let at = self.now + self.random.random_range(SECOND..4 * SECOND);
                        self.queue.push(at, Happening::ExitSeen { process: id });
                    }
                }
            }
            Fault::Freeze { slot, time } => {
                if let Some(id) = in_slot(&slot) {
                    let until = self.now + time;
                    self.processes[id].frozen_until = until;
                    self.queue.push(until, Happening::Thaws { process: id });
                }
            }
            Fault::SessionBreaks { slot } => {
                if let Some(id) = in_slot(&slot) {
                    let at = self.soon();
                    self.break_session(id, at);
                }
            }
            Fault::CutOff { slot, time } => {
                if let Some(id) = in_slot(&slot) {
                    let until = self.now + time;
                    self.processes[id].cut_until = until;
                    if time > SECOND && self.random.random_bool(0.7) {
                        let at = self.now + self.random.random_range(SECOND / 2..2 * SECOND);
                        self.break_session(id, at);
                    }
                }
            }
            Fault::Cut { between, time } => {
                let (now, until) = (self.now, self.now + time);
                self.cuts.retain(|(_, until)| *until > now);
                if between[0] != between[1] {
                    self.cuts.push((between, until));
                }
            }
            Fault::Slow { slot, factor } => {
                if let Some(id) = in_slot(&slot) {
                    self.processes[id].slowness = factor;
                }
            }
            Fault::CoordinatorPauses { time } => {
                self.paused_until = self.paused_until.max(self.now + time);
                self.queue.push(self.paused_until, Happening::Resumes);
            }
            Fault::CoordinatorDies { time, keeping: true } => self.dies_keeping = Some(time),
            Fault::CoordinatorDies { time, keeping: false } => self.lose_coordinator(time),
            Fault::Fails { slot, bad_input, is_final } => {
                if let Some(id) = in_slot(&slot) {
                    self.report(id, Report::Failed { message: "a file is broken".into(), bad_input, is_final });
                    let at: Time = self.now + 20 * MILLISECOND;
                    self.queue.push(at, Happening::Crashes { process: id });
                }
            }
            Fault::CrashLoop { slot } => {
                self.loops.insert(slot);
                if let Some(id) = in_slot(&slot) {
                    self.end(id, true);
                }
            }
            Fault::CommitFails => self.commit_fails = true,
            Fault::Stop => self.tell(Event::StopRequested { reason: "somebody".into() }),
            Fault::Scale(scale) => self.tell(Event::ScaleRequested(scale)),
        }
    }
}

/// The process behind an address.
fn number(address: &str) -> Option<ProcessId> {
    address.strip_prefix('p')?.parse().ok()
}
