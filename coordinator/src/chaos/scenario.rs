//! Scenarios: what is done to a job and when, and what must hold all the same. Faults are data; a person writes a scenario
//! as a TOML file, or has one drawn from a seed.

use medley_common::faults::Fault;
use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What is done to a job, and what must hold all the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, as reports have it.
    pub name: String,
    /// What it shows, in a sentence.
    #[serde(default)]
    pub about: String,
    /// Worker processes of the job.
    #[serde(default = "four")]
    pub workers: u32,
    /// Keys of the job's configuration, in the place of what it says: `"train.steps" = 200`.
    #[serde(default)]
    pub job: BTreeMap<String, toml::Value>,
    /// What happens, and when.
    #[serde(default)]
    pub events: Vec<Planned>,
    /// What must hold at the end.
    #[serde(default)]
    pub checks: Checks,
}

fn four() -> u32 {
    4
}

/// What Medley promises of a killed worker: seconds from its end to the next committed step, the median over several.
const MEDIAN_SECONDS: f64 = 3.0;

/// And the worst.
const WORST_SECONDS: f64 = 6.0;

/// A fault and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// Once this step is committed, at a random moment of one of the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_step: Option<u64>,
    /// So long after the first committed step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_seconds: Option<f64>,
    /// What.
    pub fault: Fault,
}

/// What must hold at the end. What is not said is not checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checks {
    /// `completed`, `failed`, ...: the job's outcome.
    pub outcome: String,
    /// The last checkpoint's parameters equal the undisturbed run's, bit for bit.
    pub parameters_equal: bool,
    /// And so do the metrics.
    pub metrics_equal: bool,
    /// Committed steps that a fault may cost.
    pub most_steps_lost: u64,
    /// Seconds from a fault until the coordinator knows of it: the worst.
    pub noticed_seconds: Option<f64>,
    /// Seconds from a fault to the next committed step: the median.
    pub median_seconds: Option<f64>,
    /// The worst of them.
    pub worst_seconds: Option<f64>,
    /// Every fault is followed by the loss of the worker that it struck.
    pub all_noticed: bool,
    /// A warning that has this in it is given.
    pub warning: Option<String>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            outcome: "completed".into(),
            parameters_equal: true,
            metrics_equal: true,
            most_steps_lost: 0,
            noticed_seconds: None,
            median_seconds: None,
            worst_seconds: None,
            all_noticed: false,
            warning: None,
        }
    }
}

/// A scenario cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Its file cannot be read.
    #[error("--scenario {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what a scenario looks like.
    #[error("{path}: {what}; configs/chaos/kill.toml is an example")]
    Form {
        /// The file and line.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// It makes no sense.
    #[error("scenario {name}: {what}")]
    Sense {
        /// The scenario.
        name: String,
        /// What is wrong, and how to mend it.
        what: String,
    },
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// One line that names the file, and the line in it where the form is wrong.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: name.clone(), source })?;
        let scenario: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let path = line.map_or(name.clone(), |line| format!("{name}:{line}"));
            ScenarioError::Form { path, what: error.message().lines().collect::<Vec<_>>().join("; ") }
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// `count` kills of random workers at random steps of a job of `steps`.
    ///
    /// # Errors
    /// Where there are not so many steps.
    pub fn kills(count: u32, workers: u32, steps: u64, seed: u64) -> Result<Self, ScenarioError> {
        let name = format!("kill-{count}");
        // The last steps are left alone, so that every recovery has a step to be measured by.
        let room = usize::try_from(steps.saturating_sub(4)).unwrap_or(usize::MAX);
        if count as usize > room {
            let what = format!("--kills {count}: a job of {steps} steps has room for {room}; train more steps");
            return Err(ScenarioError::Sense { name, what });
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut at = index::sample(&mut random, room, count as usize).into_vec();
        at.sort_unstable();
        let events = at
            .into_iter()
            .map(|step| Planned {
                at_step: Some(step as u64 + 1),
                after_seconds: None,
                fault: Fault::Kill { worker: random.random_range(0..workers) },
            })
            .collect();
        let about = format!("kill -9 one of {workers} workers, {count} times at random moments of random steps");
        Ok(Self {
            name,
            about,
            workers,
            job: BTreeMap::new(),
            events,
            checks: Checks {
                all_noticed: true,
                median_seconds: Some(MEDIAN_SECONDS),
                worst_seconds: Some(WORST_SECONDS),
                ..Checks::default()
            },
        })
    }

    /// A cohort of so many peers has no more workers than that.
    ///
    /// # Errors
    /// Where the scenario asks for more.
    pub fn check_peers(&self, peers: usize) -> Result<(), ScenarioError> {
        if self.workers as usize <= peers {
            return Ok(());
        }
        let what = format!("--workers {}: the job has {peers} peers, and a worker hosts at least one", self.workers);
        Err(ScenarioError::Sense { name: self.name.clone(), what })
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let refuse = |what: String| Err(ScenarioError::Sense { name: self.name.clone(), what });
        if self.workers == 0 {
            return refuse("workers = 0: use 1 or more".into());
        }
        for (number, planned) in (1..).zip(&self.events) {
            let name = planned.fault.name();
            if planned.at_step.is_some() && planned.after_seconds.is_some() {
                return refuse(format!("event {number} ({name}): give at_step or after_seconds, not both"));
            }
            if planned.at_step.is_none() && planned.after_seconds.is_none() && !planned.fault.is_the_workers() {
                return refuse(format!("event {number} ({name}): say when: at_step = N or after_seconds = S"));
            }
            if let Fault::Kill { worker } | Fault::StopAndContinue { worker, .. } = planned.fault
                && worker >= self.workers
            {
                return refuse(format!("event {number} ({name}): worker = {worker}: use 0 to {}", self.workers - 1));
            }
        }
        Ok(())
    }

    /// The faults that workers do to themselves.
    pub fn of_workers(&self) -> Vec<Fault> {
        self.events.iter().map(|planned| planned.fault.clone()).filter(Fault::is_the_workers).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn load(text: &str) -> Result<Scenario, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.toml");
        std::fs::write(&path, text).unwrap();
        let here = format!("{}/", directory.path().display());
        Scenario::load(&path).map_err(|error| error.to_string().replace(&here, ""))
    }

    #[test]
    fn a_scenario_reads_as_it_is_written() {
        let text = "name = \"two\"\nworkers = 3\n[job]\n\"train.steps\" = 30\n[[events]]\nat_step = 4\n\
                    fault = { kill = { worker = 2 } }\n[[events]]\nfault = { fail_at = { rank = 1, step = 9 } }\n\
                    [checks]\nworst_seconds = 6.0\n";
        let scenario = load(text).unwrap();
        assert_eq!(scenario.events[0].fault, Fault::Kill { worker: 2 });
        assert_eq!(scenario.of_workers().len(), 1);
        assert!(scenario.checks.parameters_equal);
        let again: Scenario = toml::from_str(&toml::to_string(&scenario).unwrap()).unwrap();
        assert_eq!(again, scenario);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_with_its_place() {
        for (text, says) in [
            ("name = \"x\"\nworker = 3\n", "s.toml:2: unknown field `worker`"),
            ("name = \"x\"\n[[events]]\nfault = { kill = { worker = 0 } }\n", "event 1 (kill): say when"),
            ("name = \"x\"\n[[events]]\nat_step = 1\nfault = { kill = { worker = 9 } }\n", "worker = 9: use 0 to 3"),
            ("name = \"x\"\n[[events]]\nat_step = 1\nfault = \"fire\"\n", "unknown variant `fire`"),
        ] {
            let message = load(text).unwrap_err();
            assert!(message.contains(says) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn kills_follow_from_the_seed() {
        let draw = |seed| Scenario::kills(5, 4, 40, seed).unwrap();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let steps: Vec<u64> = draw(7).events.iter().filter_map(|planned| planned.at_step).collect();
        assert!(steps.is_sorted() && steps.len() == 5 && steps.iter().all(|step| (1..=36).contains(step)));
        assert_eq!(draw(7).checks.worst_seconds, Some(6.0));
        draw(7).check_peers(4).unwrap();
        assert!(draw(7).check_peers(3).unwrap_err().to_string().contains("--workers 4: the job has 3 peers"));
        assert!(Scenario::kills(50, 4, 40, 1).unwrap_err().to_string().contains("room for 36"));
    }
}
