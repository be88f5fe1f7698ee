//! Who has joined, and the way to each worker.

use crate::cluster::{Event, Slot};
use medley_common::proto;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// Messages that may wait for a worker. An assignment, a stop and a release are all that a life needs.
const OUTGOING: usize = 16;

/// Who may join.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The job.
    pub job: String,
    /// What a worker must have been given by its launcher.
    pub token: String,
    /// Slots `0..workers` may be filled.
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
    places: Mutex<HashMap<Slot, Place>>,
}

#[derive(Debug)]
struct Place {
    name: String,
    joined: proto::JoinRequest,
    outgoing: Option<mpsc::Sender<Outgoing>>,
}

impl Sessions {
    /// No critical section can panic half-way, so a poisoned lock still guards whole data.
    fn places(&self) -> MutexGuard<'_, HashMap<Slot, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a worker its name. It takes the place of one in the same slot that has no session.
    pub fn join(&self, name: &str, request: proto::JoinRequest) -> Result<(), Status> {
        let mut places = self.places();
        let slot = request.slot;
        if places.get(&slot).is_some_and(|place| place.outgoing.is_some()) {
            let message = format!("slot {slot} has a worker with an open session");
            return Err(Status::already_exists(message));
        }
        let place = Place { name: name.to_owned(), joined: request, outgoing: None };
        places.insert(slot, place);
        Ok(())
    }

    /// Opens the session of a worker that has joined: what the cluster is told of it, and what it is sent.
    pub fn open(&self, name: &str) -> Result<(Slot, Event, mpsc::Receiver<Outgoing>), Status> {
        let mut places = self.places();
        let place = places
            .values_mut()
            .find(|place| place.name == name)
            .ok_or_else(|| Status::not_found("no such worker has joined; call Join first"))?;
        if place.outgoing.is_some() {
            return Err(Status::already_exists("this worker has an open session"));
        }
        let (sender, receiver) = mpsc::channel(OUTGOING);
        place.outgoing = Some(sender);
        let joined = &place.joined;
        let event = Event::Joined {
            slot: joined.slot,
            process_id: joined.process_id,
            address: joined.data_address.clone(),
            device: joined.device.clone(),
        };
        Ok((joined.slot, event, receiver))
    }

    /// Sends a worker a message; whether it could be sent. A worker that does not read loses its session.
    pub fn send(&self, slot: Slot, message: proto::CoordinatorMessage) -> bool {
        let mut places = self.places();
        let Some(place) = places.get_mut(&slot) else {
            return false;
        };
        let sent = place.outgoing.as_ref().is_some_and(|outgoing| outgoing.try_send(Ok(message)).is_ok());
        if !sent {
            place.outgoing = None;
        }
        sent
    }

    /// Closes a session: the worker sees the end of its stream.
    pub fn close(&self, slot: Slot, name: &str) {
        if let Some(place) = self.places().get_mut(&slot).filter(|place| place.name == name) {
            place.outgoing = None;
        }
    }

    /// Closes all sessions.
    pub fn close_all(&self) {
        for place in self.places().values_mut() {
            place.outgoing = None;
        }
    }
}
