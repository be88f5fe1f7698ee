//! How a job shares the machine: how many workers, and how many threads each of them.

use std::fmt;

/// What is chosen, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Peers of the cohort.
    pub peers: u32,
    /// Worker processes.
    pub workers: u32,
    /// Threads of each.
    pub threads: u32,
    /// Cores that this process may use.
    pub cores: u32,
    /// GPUs that the job may use.
    pub gpus: u32,
}

/// What the user asks for; 0: leaves the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Worker processes (`cohort.workers`).
    pub workers: usize,
    /// Threads of each (`train.threads`).
    pub threads: usize,
}

/// Cores that this process may use: those it is bound to, and no more than a container's quota.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Shares {
    /// A worker for each GPU. Without one, a single worker: its threads compute all peers together, and nothing has to
    /// cross from one process to another. A worker's threads are its even share of the cores, as all compute at the
    /// same time, and one at least.
    pub fn choose(cores: usize, gpus: usize, peers: usize, asked: Asked) -> Self {
        let cores = cores.max(1);
        let workers = if asked.workers > 0 { asked.workers } else { gpus.max(1) };
        let workers = workers.min(peers).max(1);
        let threads = if asked.threads > 0 { asked.threads } else { (cores / workers).max(1) };
        let [peers, workers, threads, cores, gpus] =
            [peers, workers, threads, cores, gpus].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Self { peers, workers, threads, cores, gpus }
    }

    /// What a person should know of a choice of theirs that makes workers wait for one another.
    pub fn warning(&self) -> Option<String> {
        let Self { workers, threads, cores, .. } = *self;
        if u64::from(workers) * u64::from(threads) <= u64::from(cores) {
            return None;
        }
        let remedy = match workers > cores {
            true => format!("use --workers {cores} or fewer"),
            false => "leave train.threads at 0".to_owned(),
        };
        let takes = count(workers, "worker");
        Some(format!("{takes} on {} share {}: threads will take turns; {remedy}", self.threads(), count(cores, "core")))
    }

    fn threads(&self) -> String {
        let each = if self.workers == 1 { "" } else { " each" };
        count(self.threads, "thread") + each
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peers, workers) = (count(self.peers, "peer"), count(self.workers, "worker"));
        let cores = count(self.cores, "core");
        let gpus = if self.gpus == 0 { String::new() } else { format!(", {}", count(self.gpus, "GPU")) };
        write!(f, "{peers} in {workers} on {} ({cores}{gpus}; --workers and train.threads to change)", self.threads())
    }
}

/// `1 core`, `2 cores`.
fn count(number: u32, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Cores, GPUs, peers; workers and threads asked for; the line.
    const CHOICES: [(usize, usize, usize, [usize; 2], &str); 14] = [
        (2, 0, 4, [0, 0], "4 peers in 1 worker on 2 threads (2 cores"),
        (1, 0, 1, [0, 0], "1 peer in 1 worker on 1 thread (1 core"),
        (64, 0, 2, [0, 0], "2 peers in 1 worker on 64 threads (64 cores"),
        (8, 0, 4, [2, 0], "4 peers in 2 workers on 4 threads each (8 cores"),
        (8, 0, 3, [3, 0], "3 peers in 3 workers on 2 threads each (8 cores"),
        (2, 0, 4, [4, 0], "4 peers in 4 workers on 1 thread each (2 cores"),
        (8, 0, 4, [0, 3], "4 peers in 1 worker on 3 threads (8 cores"),
        (2, 0, 4, [2, 3], "4 peers in 2 workers on 3 threads each (2 cores"),
        (16, 4, 4, [0, 0], "4 peers in 4 workers on 4 threads each (16 cores, 4 GPUs"),
        (16, 1, 4, [0, 0], "4 peers in 1 worker on 16 threads (16 cores, 1 GPU"),
        (16, 8, 2, [0, 0], "2 peers in 2 workers on 8 threads each (16 cores, 8 GPUs"),
        (16, 2, 4, [4, 0], "4 peers in 4 workers on 4 threads each (16 cores, 2 GPUs"),
        // What a configuration refuses, and a machine that tells nothing: no division by zero.
        (8, 0, 2, [5, 0], "2 peers in 2 workers on 4 threads each (8 cores"),
        (0, 0, 0, [0, 0], "0 peers in 1 worker on 1 thread (1 core"),
    ];

    fn choose((cores, gpus, peers, [workers, threads], _): (usize, usize, usize, [usize; 2], &str)) -> Shares {
        Shares::choose(cores, gpus, peers, Asked { workers, threads })
    }

    #[test]
    fn the_machine_is_shared_as_its_line_says() {
        for case in CHOICES {
            assert_eq!(choose(case).to_string(), format!("{}; --workers and train.threads to change)", case.4));
        }
    }

    #[test]
    fn more_threads_than_cores_are_taken_with_a_warning_and_never_by_choice() {
        let warnings: Vec<String> = CHOICES.into_iter().filter_map(|case| choose(case).warning()).collect();
        assert_eq!(
            warnings,
            [
                "4 workers on 1 thread each share 2 cores: threads will take turns; use --workers 2 or fewer",
                "2 workers on 3 threads each share 2 cores: threads will take turns; leave train.threads at 0",
            ]
        );
        for cores in 1..40 {
            for gpus in 0..5 {
                for peers in 1..9 {
                    let shares = Shares::choose(cores, gpus, peers, Asked::default());
                    assert!(shares.workers >= 1 && shares.workers as usize <= peers);
                    // Only more GPUs than cores make more workers than cores.
                    assert!(shares.warning().is_none() || gpus > cores, "{shares}");
                }
            }
        }
    }
}
