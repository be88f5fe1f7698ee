//! What a worker process of a measurement does: it says where it listens, hears its task, meets the others, measures, and
//! says what it found. It speaks JSON, a line a message, over standard input and output.

use super::exchange::{self, ExchangeSettings};
use super::loss::{self, LossSettings};
use super::settings::StepSettings;
use super::{BenchError, step};
use crate::certificates;
use crate::cli::use_threads;
use crate::collective::{AbortHandle, Collective, Listener, LocalCollective, Membership, Options, TcpCollective};
use crate::session::watch;
use crate::train::TrainError;
use medley_common::environment;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the group tells a member, once.
#[derive(Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// What to measure.
    pub task: Task,
    /// Which member this is.
    pub rank: usize,
    /// Where every member listens.
    pub addresses: Vec<String>,
    /// The secret of this measurement.
    pub secret: String,
}

/// What is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Steps of a cohort.
    Step(StepSettings),
    /// The loss.
    Loss(LossSettings),
    /// The collectives.
    Exchange(ExchangeSettings),
}

impl Task {
    /// The certificates by which members encrypt what they exchange; none: plain text.
    pub fn certificates(&self) -> Option<&Path> {
        match self {
            Self::Exchange(settings) => settings.certificates.as_deref(),
            Self::Step(_) | Self::Loss(_) => None,
        }
    }
}

/// What a member says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// Where it listens.
    Listening(String),
    /// So many steps are done.
    Step(usize),
    /// What it measured.
    Done(serde_json::Value),
    /// Why it could not.
    Failed {
        /// One line.
        message: String,
        /// Whether the settings are at fault.
        bad_input: bool,
    },
}

/// Longest wait for the others, inside a collective call and for them to appear. A step of many peers on one thread, or
/// reading a large file, takes a while.
const DEADLINE: Duration = Duration::from_secs(600);

/// Tells the group how far a measurement is.
pub struct Announce<'a>(&'a mut dyn Write);

impl Announce<'_> {
    /// So many steps are done. That nobody listens any more is noticed elsewhere.
    pub fn step(&mut self, done: usize) {
        say(self.0, &Message::Step(done));
    }
}

/// Runs the member's part; its failure is told to the group, and to nobody else.
pub fn run() -> Result<(), BenchError> {
    let mut output = std::io::stdout().lock();
    let message = match take_part(&mut output) {
        Ok(found) => Message::Done(found),
        Err(error) => Message::Failed { message: error.to_string(), bad_input: error.is_bad_input() },
    };
    say(&mut output, &message);
    Ok(())
}

fn take_part(output: &mut dyn Write) -> Result<serde_json::Value, BenchError> {
    let certificates = std::env::var_os(environment::CERTIFICATES).map(PathBuf::from);
    let certificates = certificates::load(certificates.as_deref()).map_err(TrainError::from)?;
    let listener = Listener::bind_with("127.0.0.1:0", certificates.as_ref())?;
    say(output, &Message::Listening(listener.local_addr().to_string()));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(BenchError::system("hear the task"))?;
    let assignment: Assignment = serde_json::from_str(&line)
        .map_err(|_| BenchError::Unintelligible { rank: 0, line: line.trim().to_owned() })?;
    watch::end_with_launcher();
    let announce = &mut Announce(output);
    let found = match &assignment.task {
        Task::Step(settings) => {
            use_threads(settings.threads);
            serde_json::to_value(step::measure(settings, meet(&listener, &assignment)?, announce)?)
        }
        Task::Loss(settings) => {
            use_threads(settings.threads);
            serde_json::to_value(loss::measure(settings)?)
        }
        Task::Exchange(settings) => {
            serde_json::to_value(exchange::measure(settings, meet(&listener, &assignment)?, announce)?)
        }
    };
    found.map_err(|error| BenchError::System { what: "write the result", source: error.into() })
}

/// Forms the group.
fn meet(listener: &Listener, assignment: &Assignment) -> Result<Box<dyn Collective>, BenchError> {
    let abort = AbortHandle::new();
    if assignment.addresses.len() == 1 {
        return Ok(Box::new(LocalCollective::new(1, abort)));
    }
    let membership = Membership {
        job: "bench".into(),
        generation: 1,
        rank: assignment.rank,
        addresses: assignment.addresses.clone(),
        secret: assignment.secret.clone().into_bytes(),
    };
    let options = Options { deadline: DEADLINE, connect_deadline: DEADLINE, ..Options::default() };
    Ok(Box::new(TcpCollective::connect(listener, &membership, &options, abort)?))
}

fn say(output: &mut dyn Write, message: &Message) {
    if let Ok(text) = serde_json::to_string(message) {
        // A reader that is gone ends this process by other means.
        let _ = writeln!(output, "{text}").and_then(|()| output.flush());
    }
}
