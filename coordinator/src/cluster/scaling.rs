//! Requests for another T: which make sense, and what they change.

use super::cohort::NewPeer;
use super::machine::{Cluster, State};
use super::messages::{Action, Scale};

/// More peers than this no job has.
const MOST_PEERS: u32 = 4096;

impl Cluster {
    /// What a request would do, in one line; in one line as well, why it makes no sense.
    ///
    /// # Errors
    /// The reason, naming the argument at fault.
    pub fn check_scale(&self, scale: &Scale) -> Result<String, String> {
        let Scale { peers, workers, new_peers } = *scale;
        let now = self.cohort.peers_after(self.steps.committed());
        let rows = self.ready.as_ref().map(|ready| ready.fewest_rows).filter(|rows| *rows > 0).unwrap_or(u64::MAX);
        if matches!(self.state, State::Settling { .. } | State::Ended) || self.stop.is_some() {
            return Err("the job is about to end".into());
        }
        if self.cohort.peers < 2 {
            return Err("--peers: this job's method trains one network; only mutual methods change T".into());
        }
        if !(2..=MOST_PEERS).contains(&peers) {
            return Err(format!("--peers {peers}: use 2 to {MOST_PEERS}; alone, a peer has nobody to learn from"));
        }
        if u64::from(peers) > rows {
            return Err(format!("--peers {peers}: a batch may have only {rows} rows, fewer than one a peer"));
        }
        if let Some(workers) = workers.filter(|workers| *workers == 0 || *workers > peers) {
            return Err(format!("--workers {workers}: use 1 to {peers}; a worker hosts at least one peer"));
        }
        if let Some(NewPeer::CopyOf { peer, noise }) = new_peers {
            if !self.active().contains(&peer) {
                return Err(format!(
                    "--copy-of {peer}: there is no such peer now; they are numbered from 0 to {}",
                    now - 1
                ));
            }
            if !(0.0..=1.0).contains(&noise) {
                return Err(format!("--noise {noise}: use a share in [0, 1]"));
            }
        }
        let by = workers.map_or(String::new(), |workers| format!(" on {workers} workers"));
        let step = self.steps.committed();
        Ok(format!("from {now} to {peers} peers{by} at the next step boundary (step {step} is committed)"))
    }

    /// Does what was asked for as soon as the workers can agree on a step.
    pub(super) fn scale_requested(&mut self, scale: Scale, actions: &mut Vec<Action>) {
        if self.check_scale(&scale).is_err() {
            return;
        }
        self.cohort.change(self.steps.committed(), scale.peers);
        let workers = scale.workers.unwrap_or(self.wanted_workers).max(1);
        for slot in self.wanted_workers..workers {
            if !self.workers.contains_key(&slot) {
                self.recoveries.fill(slot, self.now);
            }
        }
        self.wanted_workers = workers;
        self.cohort.new_peers = scale.new_peers.unwrap_or(self.cohort.new_peers);
        actions.push(Action::Keep(self.kept()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Cluster, tables};
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_in_one_line_that_names_the_argument() {
        let cluster = Cluster::new(tables::settings(3));
        let scale = Scale { peers: 4, workers: None, new_peers: None };
        assert!(cluster.check_scale(&scale).unwrap().contains("from 3 to 4 peers"));
        let copy_of = |peer, noise| Some(NewPeer::CopyOf { peer, noise });
        for (request, says) in [
            (Scale { peers: 1, ..scale }, "--peers 1"),
            (Scale { peers: 5000, ..scale }, "--peers 5000"),
            (Scale { workers: Some(5), ..scale }, "--workers 5"),
            (Scale { workers: Some(0), ..scale }, "--workers 0"),
            (Scale { new_peers: copy_of(9, 0.1), ..scale }, "--copy-of 9"),
        ] {
            let refused = cluster.check_scale(&request).unwrap_err();
            assert!(refused.starts_with(says) && !refused.contains('\n'), "{refused}");
        }
        assert!(Cluster::new(tables::settings(1)).check_scale(&scale).unwrap_err().contains("one network"));
    }
}
