//! The group of one worker.

use std::time::Duration;

use super::{AbortHandle, Collective, CollectiveError, Traffic, check_parts};

/// A group with one rank: every operation is a local copy, and nothing is sent.
#[derive(Debug)]
pub struct LocalCollective {
    generation: u64,
    abort: AbortHandle,
}

impl LocalCollective {
    /// The group of one for the given generation.
    pub fn new(generation: u64, abort: AbortHandle) -> Self {
        Self { generation, abort }
    }
}

impl Collective for LocalCollective {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn set_deadline(&mut self, _deadline: Duration) {}

    fn all_to_all(&mut self, send: &[&[f32]], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError> {
        let mine = send.first().copied().unwrap_or_default();
        check_parts("all_to_all", 1, mine, send.len(), receive, 0)?;
        self.abort.check()?;
        receive[0].copy_from_slice(mine);
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError> {
        check_parts("all_gather", 1, mine, 1, receive, 0)?;
        self.abort.check()?;
        receive[0].copy_from_slice(mine);
        Ok(())
    }

    fn all_reduce_sum(&mut self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        self.abort.check()
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.abort.check()
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn bytes_sent(&self) -> u64 {
        0
    }

    fn bytes_received(&self) -> u64 {
        0
    }

    fn take_traffic(&mut self) -> Traffic {
        Traffic::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_copy_and_an_abort_stops_them() {
        let mut group = LocalCollective::new(3, AbortHandle::new());
        let mut out = [0.0; 2];
        group.all_to_all(&[&[1.0, 2.0]], &mut [&mut out]).expect("all_to_all");
        assert_eq!(out, [1.0, 2.0]);
        group.all_gather(&[3.0, 4.0], &mut [&mut out]).expect("all_gather");
        assert_eq!(out, [3.0, 4.0]);
        group.all_reduce_sum(&mut out).expect("all_reduce_sum");
        assert_eq!(out, [3.0, 4.0]);
        assert!(matches!(group.all_gather(&[1.0], &mut [&mut out]), Err(CollectiveError::Argument(_))));
        assert!(matches!(group.all_to_all(&[], &mut []), Err(CollectiveError::Argument(_))));
        assert_eq!(group.take_traffic(), Traffic::default());
        group.abort_handle().abort("enough");
        assert!(matches!(group.barrier(), Err(CollectiveError::Aborted { .. })));
    }
}
