//! Faults as data: what can be done to a job on purpose, to see that it survives.
//!
//! A scenario of `medley chaos` names them; those that must strike in the middle of a worker's own work reach it in
//! [`crate::environment::FAULTS`].

use serde::{Deserialize, Serialize};
use std::fmt;

/// Something that is done to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// A worker kills itself at a certain point of a certain step.
    FailAt {
        /// The worker's rank.
        rank: u32,
        /// The step, counted from 1 as events count them.
        step: u64,
        /// Where in the step.
        #[serde(default)]
        moment: Moment,
        /// In this generation alone, so that the one that takes its place does not die of it again.
        #[serde(default = "first")]
        generation: u64,
    },
    /// SIGKILL.
    Kill {
        /// The worker's place with the launcher.
        worker: u32,
    },
    /// SIGSTOP, and SIGCONT after a while.
    StopAndContinue {
        /// The worker's place with the launcher.
        worker: u32,
        /// For how long.
        seconds: f64,
    },
    /// Nothing passes between two machines.
    Partition {
        /// Which.
        between: [Party; 2],
        /// For how long.
        seconds: f64,
    },
    /// Everything between two machines takes longer.
    Delay {
        /// Which.
        between: [Party; 2],
        /// Each way.
        milliseconds: u32,
        /// For how long.
        seconds: f64,
    },
    /// A share of the packets between two machines is lost.
    Loss {
        /// Which.
        between: [Party; 2],
        /// How many of a hundred.
        percent: f64,
        /// For how long.
        seconds: f64,
    },
    /// A worker's disk has no space left for a checkpoint.
    DiskFull {
        /// The worker's rank.
        rank: u32,
        /// The checkpoint's step, or the next one after it.
        step: u64,
    },
    /// Every file of a checkpoint takes longer.
    SlowDisk {
        /// By so much.
        milliseconds: u64,
    },
    /// The clock on the wall is set.
    ClockJump {
        /// By so much; back where it is negative.
        seconds: i64,
    },
    /// A frame between two workers arrives with a flipped bit.
    CorruptedFrame {
        /// The rank that receives it.
        rank: u32,
        /// In this step, counted from 1.
        step: u64,
        /// In this generation alone.
        #[serde(default = "first")]
        generation: u64,
    },
    /// A worker is killed in the middle of a file of a checkpoint.
    HalfWrittenCheckpoint {
        /// The worker's rank.
        rank: u32,
        /// The checkpoint's step, or the next one after it.
        step: u64,
        /// In this generation alone.
        #[serde(default = "first")]
        generation: u64,
    },
    /// SIGKILL to a member of the store's cluster, which is started again after a while.
    EtcdMemberLoss {
        /// Which, from 0.
        member: u32,
        /// After how long it is started again.
        seconds: f64,
    },
    /// SIGKILL to the coordinator that leads.
    CoordinatorKill,
}

fn first() -> u64 {
    1
}

/// Where in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Before anything of it was exchanged.
    Beginning,
    /// All that the update needs is exchanged; whether all others have it too is not known yet.
    #[default]
    Prepared,
    /// The update is applied, and nobody was told.
    Committed,
}

/// A machine of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The coordinator's.
    Coordinator,
    /// That of the worker in a place.
    Worker(u32),
}

impl Fault {
    /// Whether a worker does it to itself, as [`crate::environment::FAULTS`] tells it to.
    pub fn is_the_workers(&self) -> bool {
        matches!(
            self,
            Self::FailAt { .. }
                | Self::DiskFull { .. }
                | Self::SlowDisk { .. }
                | Self::CorruptedFrame { .. }
                | Self::HalfWrittenCheckpoint { .. }
        )
    }

    /// Its name, as a configuration spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FailAt { .. } => "fail_at",
            Self::Kill { .. } => "kill",
            Self::StopAndContinue { .. } => "stop_and_continue",
            Self::Partition { .. } => "partition",
            Self::Delay { .. } => "delay",
            Self::Loss { .. } => "loss",
            Self::DiskFull { .. } => "disk_full",
            Self::SlowDisk { .. } => "slow_disk",
            Self::ClockJump { .. } => "clock_jump",
            Self::CorruptedFrame { .. } => "corrupted_frame",
            Self::HalfWrittenCheckpoint { .. } => "half_written_checkpoint",
            Self::EtcdMemberLoss { .. } => "etcd_member_loss",
            Self::CoordinatorKill => "coordinator_kill",
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => formatter.write_str("the coordinator"),
            Self::Worker(slot) => write!(formatter, "worker {slot}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailAt { rank, step, moment, .. } => {
                let moment = match moment {
                    Moment::Beginning => "begun",
                    Moment::Prepared => "prepared",
                    Moment::Committed => "committed",
                };
                write!(formatter, "rank {rank} dies with step {step} {moment}")
            }
            Self::Kill { worker } => write!(formatter, "kill -9 worker {worker}"),
            Self::StopAndContinue { worker, seconds } => {
                write!(formatter, "SIGSTOP worker {worker}, SIGCONT after {seconds} s")
            }
            Self::Partition { between: [one, other], seconds } => {
                write!(formatter, "the link between {one} and {other} is cut for {seconds} s")
            }
            Self::Delay { between: [one, other], milliseconds, seconds } => {
                write!(formatter, "{milliseconds} ms more between {one} and {other} for {seconds} s")
            }
            Self::Loss { between: [one, other], percent, seconds } => {
                write!(formatter, "{percent} % of packets lost between {one} and {other} for {seconds} s")
            }
            Self::DiskFull { rank, step } => write!(formatter, "rank {rank}'s disk is full at step {step}"),
            Self::SlowDisk { milliseconds } => write!(formatter, "every file takes {milliseconds} ms longer"),
            Self::ClockJump { seconds } => write!(formatter, "the clock is set by {seconds} s"),
            Self::CorruptedFrame { rank, step, .. } => {
                write!(formatter, "a frame reaches rank {rank} corrupted in step {step}")
            }
            Self::HalfWrittenCheckpoint { rank, step, .. } => {
                write!(formatter, "rank {rank} dies in the middle of a file of checkpoint {step}")
            }
            Self::EtcdMemberLoss { member, seconds } => {
                write!(formatter, "etcd member {member} dies and is back after {seconds} s")
            }
            Self::CoordinatorKill => formatter.write_str("kill -9 the leading coordinator"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn faults_are_read_as_a_person_writes_them() {
        let read = |text: &str| serde_json::from_str::<Fault>(text);
        let partition = Fault::Partition { between: [Party::Coordinator, Party::Worker(2)], seconds: 10.0 };
        assert_eq!(
            read(r#"{"partition": {"between": ["coordinator", {"worker": 2}], "seconds": 10}}"#).unwrap(),
            partition
        );
        let fail = Fault::FailAt { rank: 1, step: 7, moment: Moment::Prepared, generation: 1 };
        assert_eq!(read(r#"{"fail_at": {"rank": 1, "step": 7}}"#).unwrap(), fail);
        assert_eq!(read(r#""coordinator_kill""#).unwrap(), Fault::CoordinatorKill);
        assert!(read(r#"{"kill": {"workers": 1}}"#).unwrap_err().to_string().contains("workers"));
        assert!(fail.is_the_workers() && !partition.is_the_workers());
    }
}
