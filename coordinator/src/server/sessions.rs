//! Who has joined, and the way to each worker.

use crate::cluster::{Joined, SessionNumber, Slot};
use medley_common::{hash, proto};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// Messages that may wait for a worker: assignments, requests, acknowledgements.
const OUTGOING: usize = 64;

/// Who may join.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The job.
    pub job: String,
    /// What a worker must have been given by its launcher.
    pub token: String,
    /// Slots below this may be filled.
    pub slots: u32,
    /// Workers that there are to be; bounds the connections that one machine may have.
    pub workers: u32,
    /// How often workers are told to say that they live.
    pub heartbeat: Duration,
    /// After how long a silent connection is probed, and then how long an answer may take.
    pub death: Duration,
}

/// What a worker receives.
pub type Outgoing = Result<proto::CoordinatorMessage, Status>;

/// The workers that have joined, by the name that each was given when it did.
#[derive(Debug, Default)]
pub struct Sessions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    places: HashMap<Slot, Place>,
    /// Processes that count as dead, and why: they are refused from then on.
    dismissed: HashMap<Vec<u8>, String>,
    /// Sessions opened so far.
    sessions: SessionNumber,
}

#[derive(Debug)]
struct Place {
    name: String,
    joined: proto::JoinRequest,
    session: SessionNumber,
    outgoing: Option<mpsc::Sender<Outgoing>>,
    /// The last report of this process that was passed on; `None` where an earlier coordinator had the ones before.
    received: Option<u64>,
}

/// A session that was opened.
#[derive(Debug)]
pub struct Opened {
    /// What the cluster is told of it.
    pub joined: Joined,
    /// What the worker is sent.
    pub outgoing: mpsc::Receiver<Outgoing>,
}

/// What is to be done with a numbered report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbered {
    /// It is the next one.
    New,
    /// It came before.
    Known,
    /// One before it is missing.
    Gap,
    /// The session is no longer the worker's.
    Stale,
}

impl Sessions {
    /// No critical section can panic half-way, so a poisoned lock still guards whole data.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a worker its name; returns the last report that was received from it. It takes the place of one in the same
    /// slot that has no session, or of itself.
    pub fn join(&self, name: &str, request: proto::JoinRequest) -> Result<u64, Status> {
        let mut state = self.state();
        if let Some(reason) = state.dismissed.get(&request.incarnation) {
            return Err(Status::aborted(format!("this worker was declared dead: {reason}")));
        }
        let slot = request.slot;
        let before = state.places.get(&slot);
        let is_back = before.is_some_and(|place| is_same(&place.joined, &request));
        if !is_back && before.is_some_and(|place| place.outgoing.is_some()) {
            let message = format!("slot {slot} has a worker with an open session");
            return Err(Status::already_exists(message));
        }
        // Nothing is missing from a process that was never assigned anything by anybody else.
        let at_first = Some(0).filter(|_| request.generation == 0);
        let received = before.filter(|_| is_back).map_or(at_first, |place| place.received);
        let place = Place { name: name.to_owned(), joined: request, session: 0, outgoing: None, received };
        state.places.insert(slot, place);
        Ok(received.unwrap_or(0))
    }

    /// Opens the session of a worker that has joined.
    pub fn open(&self, name: &str) -> Result<Opened, Status> {
        let mut state = self.state();
        let session = state.sessions + 1;
        let place = state
            .places
            .values_mut()
            .find(|place| place.name == name)
            .ok_or_else(|| Status::not_found("no such worker has joined; call Join first"))?;
        if place.outgoing.is_some() {
            return Err(Status::already_exists("this worker has an open session"));
        }
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        (place.outgoing, place.session) = (Some(sender), session);
        let request = &place.joined;
        let joined = Joined {
            slot: request.slot,
            session,
            process_id: request.process_id,
            incarnation: hash::hexadecimal(&request.incarnation),
            address: request.data_address.clone(),
            host: request.host.clone(),
            device: request.device.clone(),
            generation: request.generation,
        };
        state.sessions = session;
        Ok(Opened { joined, outgoing })
    }

    /// What is to be done with a report of this number; 0 is none.
    pub fn number(&self, slot: Slot, session: SessionNumber, sequence: u64) -> Numbered {
        let state = self.state();
        let Some(place) = state.places.get(&slot).filter(|place| place.session == session) else {
            return Numbered::Stale;
        };
        match (sequence, place.received) {
            (0, _) => Numbered::New,
            (known, Some(received)) if known <= received => Numbered::Known,
            (next, Some(received)) if next - 1 > received => Numbered::Gap,
            _ => Numbered::New,
        }
    }

    /// A report was passed on: only now may it be acknowledged.
    pub fn passed_on(&self, slot: Slot, session: SessionNumber, sequence: u64) {
        let mut state = self.state();
        let place = state.places.get_mut(&slot).filter(|place| place.session == session && sequence != 0);
        if let Some(place) = place {
            place.received = Some(sequence);
        }
    }

    /// The last report that was received over a session.
    pub fn received(&self, slot: Slot) -> u64 {
        self.state().places.get(&slot).and_then(|place| place.received).unwrap_or(0)
    }

    /// Sends a worker a message; whether it could be sent. A worker that does not read loses its session.
    pub fn send(&self, slot: Slot, message: proto::CoordinatorMessage) -> bool {
        let mut state = self.state();
        let Some(place) = state.places.get_mut(&slot) else {
            return false;
        };
        let sent = place.outgoing.as_ref().is_some_and(|outgoing| outgoing.try_send(Ok(message)).is_ok());
        if !sent {
            place.outgoing = None;
        }
        sent
    }

    /// Sends a message to all workers that have a session.
    pub fn send_all(&self, message: &proto::CoordinatorMessage) {
        for place in self.state().places.values() {
            if let Some(outgoing) = &place.outgoing {
                // One that does not read learns from the end of its session.
                let _ = outgoing.try_send(Ok(message.clone()));
            }
        }
    }

    /// Refuses the process in a slot from now on: it counts as dead.
    pub fn dismiss(&self, slot: Slot, reason: &str) {
        let mut state = self.state();
        if let Some(place) = state.places.remove(&slot).filter(|place| !place.joined.incarnation.is_empty()) {
            state.dismissed.insert(place.joined.incarnation, reason.to_owned());
        }
    }

    /// Closes a session: the worker sees the end of its stream.
    pub fn close(&self, slot: Slot, session: SessionNumber) {
        if let Some(place) = self.state().places.get_mut(&slot).filter(|place| place.session == session) {
            place.outgoing = None;
        }
    }

    /// Closes all sessions.
    pub fn close_all(&self) {
        for place in self.state().places.values_mut() {
            place.outgoing = None;
        }
    }
}

/// Whether two requests come from one process.
fn is_same(one: &proto::JoinRequest, other: &proto::JoinRequest) -> bool {
    !one.incarnation.is_empty() && one.incarnation == other.incarnation
}
