//! `medley-worker work`: join, hear the assignment, meet the others, train, report.

use crate::collective::{AbortHandle, Collective, Listener, LocalCollective, Membership, Options, TcpCollective};
use crate::data::Dataset;
use crate::device;
use crate::exchange::{Exchange, Placement};
use crate::session::{Session, watch};
use crate::train::{Reporter, TrainError, Trainer};
use medley_common::config::{self, RunConfig};
use medley_common::proto;
use medley_common::proto::worker_message::Body as Report;
use medley_common::run_directory;
use std::path::Path;
use std::time::{Duration, Instant};

/// Join a coordinator and train what it assigns.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the coordinator listens, for example `http://127.0.0.1:7070`.
    #[arg(long)]
    coordinator: String,
    /// The job to join.
    #[arg(long)]
    job: String,
    /// Which of the launcher's places this process fills.
    #[arg(long, default_value_t = 0)]
    slot: u32,
    /// Threads for computing.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Address on which the other workers reach this one; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Proof of having been launched by this coordinator.
    #[arg(long, env = medley_common::environment::LAUNCH_TOKEN, hide_env_values = true, default_value = "")]
    token: String,
    /// Live on when standard input ends: for workers that people start by hand.
    #[arg(long)]
    standalone: bool,
}

/// How long a worker waits for its assignment: the coordinator's own bound on joining ends the job sooner.
const ASSIGNMENT_DEADLINE: Duration = Duration::from_secs(600);

/// How long a worker whose work is done waits for the others' end: their evaluations may take long, and the coordinator,
/// which hears of any that dies, ends the session and with it this wait.
const RELEASE_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// How long a worker that failed waits for the coordinator to have heard of it.
const FAILURE_DEADLINE: Duration = Duration::from_secs(3);

/// How long step records may wait to be sent together.
const REPORT_EVERY: Duration = Duration::from_millis(50);

pub fn run(arguments: &Arguments) -> Result<(), TrainError> {
    if !arguments.standalone {
        watch::end_with_launcher();
    }
    use_threads(arguments.threads);
    let listener = Listener::bind(&*arguments.listen)?;
    let session = Session::join(&arguments.coordinator, introduction(arguments, &listener), arguments.standalone)?;
    let outcome = take_part(&session, &listener, arguments.slot);
    match outcome {
        Ok(()) => {
            session.close();
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "this worker's part failed");
            session.report(Report::Failed(proto::Failed {
                message: error.to_string(),
                bad_input: error.is_bad_input(),
                because_of_rank: error.because_of_rank().map_or(-1, |rank| rank as i32),
            }));
            // The report must leave before this process does: the coordinator answers it by ending the session.
            if let Err(error) = session.released(FAILURE_DEADLINE) {
                tracing::debug!(%error, "leaving");
            }
            session.close();
            Err(error)
        }
    }
}

/// Gives libtorch's pool and that of our own loops as many threads each. They use the same cores one after the other: the
/// training thread waits for either, no loop of ours calls libtorch, and idle threads of both soon sleep.
pub fn use_threads(threads: usize) {
    let threads = threads.max(1);
    tch::set_num_threads(threads as i32);
    tch::set_num_interop_threads(1);
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        tracing::warn!(%error, "the loss uses its default threads");
    }
}

fn introduction(arguments: &Arguments, listener: &Listener) -> proto::JoinRequest {
    proto::JoinRequest {
        job: arguments.job.clone(),
        version: medley_common::VERSION.into(),
        token: arguments.token.clone(),
        slot: arguments.slot,
        data_address: listener.local_addr().to_string(),
        device: device::offered().into(),
        memory_bytes: total_memory_bytes(),
        process_id: std::process::id(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().into(),
    }
}

fn total_memory_bytes() -> u64 {
    let information = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = information.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn take_part(session: &Session, listener: &Listener, slot: u32) -> Result<(), TrainError> {
    let assignment = session.assignment(ASSIGNMENT_DEADLINE)?;
    let config = config::parse(&assignment.config, "the assignment", &[])?;
    let device = device::choose(config.train.device, slot)?;
    device::check_precision(config.train.precision, device)?;
    tracing::info!(rank = assignment.rank, workers = assignment.members.len(), ?device, "assigned");
    let dataset = Dataset::load(&config.data)?;
    let exchange = meet(session, listener, &assignment, &config)?;
    let run_directory = Path::new(&assignment.run_directory);
    let mut trainer = Trainer::new(&config, &dataset, exchange, device, run_directory)?;
    if !assignment.checkpoint.is_empty() {
        trainer.restore(&run_directory::place(run_directory, &assignment.checkpoint))?;
    }
    let mut reporter = ToCoordinator { session, waiting: Vec::new(), sent: Instant::now() };
    let completed = trainer.run(&mut reporter)?;
    reporter.flush();
    session.report(Report::Completed(completed));
    session.released(RELEASE_DEADLINE)?;
    Ok(())
}

/// Forms the group of this generation.
fn meet(
    session: &Session,
    listener: &Listener,
    assignment: &proto::Assignment,
    config: &RunConfig,
) -> Result<Exchange, TrainError> {
    let members = &assignment.members;
    let ranks = members.iter().map(|member| member.peers.clone()).collect();
    let placement = Placement::new(ranks, assignment.rank as usize).map_err(TrainError::Input)?;
    let abort = AbortHandle::new();
    session.on_loss(abort.clone());
    let collective: Box<dyn Collective> = if members.len() == 1 {
        Box::new(LocalCollective::new(session.generation(), abort))
    } else {
        let membership = Membership {
            job: assignment.job.clone(),
            generation: session.generation(),
            rank: assignment.rank as usize,
            addresses: members.iter().map(|member| member.address.clone()).collect(),
            secret: assignment.secret.clone(),
        };
        let options = Options {
            deadline: Duration::from_secs_f64(config.exchange.deadline_seconds),
            connect_deadline: Duration::from_millis(config.launch.join_ms),
            ..Options::default()
        };
        Box::new(TcpCollective::connect(listener, &membership, &options, abort)?)
    };
    Ok(Exchange::new(collective, placement, config))
}

/// Reports over the session; step records travel together when steps are short.
struct ToCoordinator<'a> {
    session: &'a Session,
    waiting: Vec<proto::StepRecord>,
    sent: Instant,
}

impl ToCoordinator<'_> {
    fn flush(&mut self) {
        if !self.waiting.is_empty() {
            let steps = std::mem::take(&mut self.waiting);
            self.session.report(Report::Steps(proto::StepReport { steps }));
        }
        self.sent = Instant::now();
    }
}

impl Reporter for ToCoordinator<'_> {
    fn ready(&mut self, ready: proto::Ready) {
        self.session.report(Report::Ready(ready));
    }

    fn step(&mut self, record: proto::StepRecord) {
        self.session.set_step(record.step);
        self.waiting.push(record);
        if self.sent.elapsed() >= REPORT_EVERY {
            self.flush();
        }
    }

    fn evaluation(&mut self, evaluation: proto::Evaluation) {
        self.flush();
        self.session.report(Report::Evaluation(evaluation));
    }

    fn shards(&mut self, shards: proto::ShardsWritten) {
        self.flush();
        self.session.report(Report::Shards(shards));
    }

    fn shards_failed(&mut self, failed: proto::ShardsFailed) {
        tracing::warn!(step = failed.step, cause = %failed.message, "a checkpoint was not written");
        self.flush();
        self.session.report(Report::ShardsFailed(failed));
    }

    fn stop_requested(&self) -> bool {
        self.session.stop_requested()
    }
}
