//! The worker processes of a measurement: started with a worker's environment, heard, and none left behind.

use super::BenchError;
use super::member::{Assignment, Message, Task};
use medley_common::environment::{CERTIFICATES, OPENMP_SPIN_COUNT, OPENMP_WAIT_POLICY};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// Longest silence of all members: reading a large file, a step of many peers on one thread, or the products.
const SILENCE: Duration = Duration::from_secs(900);

/// How long a member that has said its last may take to end.
const LEAVING: Duration = Duration::from_secs(10);

/// The turns that a waiting thread of OpenMP spins before it sleeps, as `medley run` sets them for its workers.
const SPIN_COUNT: &str = "1000";

/// Starts `workers` copies of this program, gives each its part of the task and returns what they found, by rank.
/// `progress` hears how many steps the first of them has done.
///
/// # Errors
/// The first failure that a member told, or that it ended without a result.
pub fn run<Part: DeserializeOwned>(
    task: &Task,
    workers: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Part>, BenchError> {
    let (said, heard) = channel();
    let mut members = Vec::with_capacity(workers);
    for rank in 0..workers {
        members.push(Member::start(rank, task.certificates(), said.clone())?);
    }
    drop(said);
    let mut addresses = vec![String::new(); workers];
    for _ in 0..workers {
        match hear(&heard, &mut members)? {
            (rank, Message::Listening(address)) => addresses[rank] = address,
            (rank, message) => return Err(unexpected(rank, &message)),
        }
    }
    let secret = format!("{:016x}", secret());
    for (rank, member) in members.iter_mut().enumerate() {
        let assignment = Assignment { task: task.clone(), rank, addresses: addresses.clone(), secret: secret.clone() };
        member.assign(&assignment)?;
    }
    let mut found = vec![None; workers];
    while found.iter().any(Option::is_none) {
        match hear(&heard, &mut members)? {
            (0, Message::Step(done)) => progress(done),
            (_, Message::Step(_)) => {}
            (rank, Message::Done(value)) => found[rank] = Some(value),
            (rank, message) => return Err(unexpected(rank, &message)),
        }
    }
    members.iter_mut().for_each(Member::let_go);
    let typed = |(rank, part)| {
        serde_json::from_value(part).map_err(|error| BenchError::Unintelligible { rank, line: error.to_string() })
    };
    found.into_iter().flatten().enumerate().map(typed).collect()
}

fn unexpected(rank: usize, message: &Message) -> BenchError {
    match message {
        Message::Failed { message, bad_input } => {
            BenchError::Member { rank, message: message.clone(), bad_input: *bad_input }
        }
        other => BenchError::Unintelligible { rank, line: format!("{other:?}") },
    }
}

/// The next message of any member.
fn hear(heard: &Receiver<(usize, Heard)>, members: &mut [Member]) -> Result<(usize, Message), BenchError> {
    match heard.recv_timeout(SILENCE) {
        Ok((rank, Heard::Message(message))) => Ok((rank, message)),
        Ok((rank, Heard::Nonsense(line))) => Err(BenchError::Unintelligible { rank, line }),
        Ok((rank, Heard::End)) => Err(BenchError::Ended { rank, status: members[rank].status() }),
        Err(_) => Err(BenchError::Silent(SILENCE)),
    }
}

/// Not to be guessed by another program of this machine; nothing hangs on it beyond a measurement.
fn secret() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

enum Heard {
    Message(Message),
    Nonsense(String),
    /// Only of a member that has not said its last.
    End,
}

/// A worker process. Dropping it ends it.
struct Member {
    child: Child,
    /// Held open for as long as the member is to live.
    input: Option<ChildStdin>,
}

impl Member {
    fn start(rank: usize, certificates: Option<&Path>, said: Sender<(usize, Heard)>) -> Result<Self, BenchError> {
        let program = std::env::current_exe().map_err(BenchError::system("find this program"))?;
        let mut command = Command::new(program);
        command.args(["bench", "member"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A member listens before it hears its task.
        match certificates {
            Some(directory) => command.env(CERTIFICATES, directory),
            None => command.env_remove(CERTIFICATES),
        };
        if std::env::var_os(OPENMP_SPIN_COUNT).is_none() && std::env::var_os(OPENMP_WAIT_POLICY).is_none() {
            command.env(OPENMP_SPIN_COUNT, SPIN_COUNT);
        }
        let mut child = command.spawn().map_err(BenchError::system("start a worker"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let member = Self { child, input };
        if let Some(output) = output {
            thread::Builder::new()
                .name(format!("medley-bench-{rank}"))
                .spawn(move || listen(rank, BufReader::new(output), &said))
                .map_err(BenchError::system("listen to a worker"))?;
        }
        Ok(member)
    }

    fn assign(&mut self, assignment: &Assignment) -> Result<(), BenchError> {
        let failed = || BenchError::system("tell a worker its task");
        let line = serde_json::to_string(assignment).map_err(|error| failed()(error.into()))?;
        match &mut self.input {
            Some(input) => writeln!(input, "{line}").and_then(|()| input.flush()).map_err(failed()),
            None => Ok(()),
        }
    }

    /// How it ended, for people.
    fn status(&mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Waits for the end of a member that has nothing more to say: its memory must be free before the next measurement.
    fn let_go(&mut self) {
        let started = std::time::Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < LEAVING {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // While its input is open: a member that saw it closed would complain of a launcher that is gone. Neither does
        // anything to a process that was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(rank: usize, output: impl BufRead, said: &Sender<(usize, Heard)>) {
    for line in output.lines().map_while(Result::ok) {
        let heard = match serde_json::from_str(&line) {
            Ok(message) => Heard::Message(message),
            Err(_) => Heard::Nonsense(line),
        };
        let is_last = matches!(heard, Heard::Message(Message::Done(_) | Message::Failed { .. }));
        if said.send((rank, heard)).is_err() || is_last {
            return;
        }
    }
    let _ = said.send((rank, Heard::End));
}
