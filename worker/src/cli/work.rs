//! `medley-worker work`: join, and in one generation after the other meet the others, train, report.

use crate::certificates;
use crate::collective::{AbortHandle, Collective, Listener, LocalCollective, Membership, Options, TcpCollective};
use crate::device;
use crate::exchange::{Exchange, Placement};
use crate::faults;
use crate::session::{self, Order, Session, SessionError, watch};
use crate::train::{Ending, Entry, Material, Reporter, TrainError, Trainer, meeting_deadline};
use medley_common::config::{self, RunConfig};
use medley_common::proto;
use medley_common::proto::worker_message::Body as Report;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Join a coordinator and train what it assigns.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the coordinator listens, for example `http://127.0.0.1:7070`; several, separated by commas, where several
    /// wait to lead.
    #[arg(long, value_delimiter = ',', required = true)]
    coordinator: Vec<String>,
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
    /// The run's run.toml: its data is loaded while the assignment is awaited. The assignment's configuration counts.
    #[arg(long)]
    config: Option<PathBuf>,
    /// How long training goes on without a coordinator, and one is looked for.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience_seconds: u64,
    /// Directory with worker.pem, worker.key and authority.pem: encrypts all connections; see `medley certs --help`.
    #[arg(long, value_name = "DIR", env = medley_common::environment::CERTIFICATES)]
    certificates: Option<std::path::PathBuf>,
    /// Listen in plain text where other machines reach it, on a network that is trusted altogether.
    #[arg(long)]
    plaintext: bool,
}

/// How long a worker waits for an assignment. It may be idle for as long as a training lasts: as a spare, after a change of
/// T, or while the coordinator's store does not answer. The wait ends sooner by the coordinator's own bounds (it dismisses or
/// releases whoever is not needed), and by the session's patience where there is no coordinator.
const ASSIGNMENT_DEADLINE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a worker whose work is done waits for the others' end: their evaluations may take long, and the coordinator,
/// which hears of any that dies, abandons the generation and with it this wait.
const RELEASE_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// How long a worker that failed waits for the coordinator to have heard of it.
const FAILURE_DEADLINE: Duration = Duration::from_secs(3);

/// How long step records may wait to be sent together.
const REPORT_EVERY: Duration = Duration::from_millis(50);

pub fn run(arguments: &Arguments) -> Result<(), TrainError> {
    faults::read().map_err(|error| TrainError::Input(error.to_string()))?;
    if !arguments.standalone {
        watch::end_with_launcher();
    }
    use_threads(arguments.threads);
    let certificates = certificates::load(arguments.certificates.as_deref())?;
    certificates::check_listen(&arguments.listen, certificates.as_ref(), arguments.plaintext)
        .map_err(TrainError::Input)?;
    let listener = Listener::bind_with(&*arguments.listen, certificates.as_ref())?;
    let settings = session::Settings {
        addresses: arguments.coordinator.clone(),
        patience: Duration::from_secs(arguments.patience_seconds),
        probes: arguments.standalone || arguments.coordinator.len() > 1,
        certificates,
    };
    let session = Session::join(&settings, introduction(arguments, &listener)?)?;
    let outcome = take_part(&session, &listener, arguments);
    if let Err(error) = &outcome {
        tracing::error!(%error, "this worker's part failed");
        session.report(Report::Failed(proto::Failed {
            message: error.to_string(),
            bad_input: error.is_bad_input(),
            is_final: error.is_final(),
        }));
        session.settle(FAILURE_DEADLINE);
    }
    session.close();
    outcome
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

fn introduction(arguments: &Arguments, listener: &Listener) -> Result<proto::JoinRequest, SessionError> {
    Ok(proto::JoinRequest {
        job: arguments.job.clone(),
        version: medley_common::VERSION.into(),
        token: arguments.token.clone(),
        slot: arguments.slot,
        data_address: listener.local_addr().to_string(),
        device: device::offered().into(),
        memory_bytes: total_memory_bytes(),
        process_id: std::process::id(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().into(),
        incarnation: session::incarnation()?,
        ..proto::JoinRequest::default()
    })
}

fn total_memory_bytes() -> u64 {
    let information = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = information.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A generation to take part in.
struct Assigned {
    generation: u64,
    assignment: Box<proto::Assignment>,
}

/// All generations of this process, until it is released.
fn take_part(session: &Session, listener: &Listener, arguments: &Arguments) -> Result<(), TrainError> {
    let early = arguments.config.as_deref().and_then(load_early);
    let Some(first) = next(session, ASSIGNMENT_DEADLINE)? else {
        return Ok(());
    };
    let config = config::parse(&first.assignment.config, "the assignment", &[])?;
    let device = device::choose(config.train.device, arguments.slot)?;
    device::check_precision(config.train.precision, device)?;
    let material = match early {
        Some(material) if material.config == config => material,
        _ => Material::load(config)?,
    };
    let mut trainer = Trainer::new(&material, device, Path::new(&first.assignment.run_directory));
    let mut assigned = Some(first);
    while let Some(Assigned { generation, assignment }) = assigned {
        if config::parse(&assignment.config, "the assignment", &[])? != material.config {
            return Err(TrainError::Assignment("its configuration is not the one that the training began with".into()));
        }
        tracing::info!(generation, rank = assignment.rank, workers = assignment.members.len(), ?device, "assigned");
        let mut reporter = ToCoordinator { session, waiting: Vec::new(), sent: Instant::now() };
        let outcome = train(session, listener, &assignment, generation, &mut trainer, &mut reporter);
        reporter.flush();
        assigned = match outcome {
            Ok(Ending::Completed(completed)) => {
                session.report(Report::Completed(completed));
                match after_completion(session, generation)? {
                    After::Released => None,
                    After::Assigned(assigned) => Some(assigned),
                    After::Aborted(reason) => suspended(session, trainer.suspended(&reason, None))?,
                }
            }
            Ok(Ending::Paused(reason)) => {
                let held = proto::Suspended { is_pause: true, ..trainer.suspended(reason, None) };
                suspended(session, held)?
            }
            Err(error) if error.is_of_the_group() => {
                tracing::warn!(generation, %error, "left the generation");
                suspended(session, trainer.suspended(&error.to_string(), error.because_of_rank()))?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// Loads what the run's configuration names before anybody asks for it. What is wrong with it is told when it is needed.
fn load_early(path: &Path) -> Option<Material> {
    let begun = Instant::now();
    let loaded = config::load(path, &[]).map_err(TrainError::from).and_then(Material::load);
    match loaded {
        Ok(material) => {
            tracing::debug!(seconds = begun.elapsed().as_secs_f64(), "the data is there");
            Some(material)
        }
        Err(error) => {
            tracing::debug!(%error, "nothing loaded ahead of the assignment");
            None
        }
    }
}

/// Reports what is still there, and waits for what the coordinator makes of it.
fn suspended(session: &Session, held: proto::Suspended) -> Result<Option<Assigned>, TrainError> {
    session.report(Report::Suspended(held));
    next(session, ASSIGNMENT_DEADLINE)
}

/// The next assignment; nothing where the worker is released instead.
fn next(session: &Session, deadline: Duration) -> Result<Option<Assigned>, TrainError> {
    let until = Instant::now() + deadline;
    loop {
        match session.order("assignment", until.saturating_duration_since(Instant::now())) {
            Ok(Order::Assignment { generation, assignment }) if generation > session.generation() => {
                return Ok(Some(Assigned { generation, assignment }));
            }
            Ok(Order::Release) => return Ok(None),
            // Of a generation that this worker has left, or never entered.
            Ok(Order::Abort { .. } | Order::Assignment { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

enum After {
    Released,
    Assigned(Assigned),
    Aborted(String),
}

/// What becomes of a worker whose work is done.
fn after_completion(session: &Session, of: u64) -> Result<After, SessionError> {
    let until = Instant::now() + RELEASE_DEADLINE;
    loop {
        match session.order("release", until.saturating_duration_since(Instant::now()))? {
            Order::Release => return Ok(After::Released),
            Order::Assignment { generation, assignment } if generation > of => {
                return Ok(After::Assigned(Assigned { generation, assignment }));
            }
            Order::Abort { generation, reason } if generation == of => return Ok(After::Aborted(reason)),
            Order::Abort { .. } | Order::Assignment { .. } => {}
        }
    }
}

/// One generation: meets the others, takes over what it begins with, trains.
fn train(
    session: &Session,
    listener: &Listener,
    assignment: &proto::Assignment,
    generation: u64,
    trainer: &mut Trainer<'_>,
    reporter: &mut ToCoordinator<'_>,
) -> Result<Ending, TrainError> {
    let abort = AbortHandle::new();
    session.enter(generation, assignment.rank, &abort);
    faults::enter(generation, assignment.rank);
    let entry = Entry::of(assignment)?;
    let mut exchange = meet(listener, assignment, generation, trainer.config(), abort)?;
    trainer.enter(&mut exchange, &entry, reporter)?;
    session.set_step(trainer.step());
    trainer.run(&mut exchange, reporter)
}

/// Forms the group of a generation.
fn meet(
    listener: &Listener,
    assignment: &proto::Assignment,
    generation: u64,
    config: &RunConfig,
    abort: AbortHandle,
) -> Result<Exchange, TrainError> {
    let members = &assignment.members;
    let ranks = members.iter().map(|member| member.peers.clone()).collect();
    let buddies = members.iter().map(|member| member.buddy as usize).collect();
    let placement =
        Placement::with_buddies(ranks, buddies, assignment.rank as usize).map_err(TrainError::Assignment)?;
    let collective: Box<dyn Collective> = if members.len() == 1 {
        Box::new(LocalCollective::new(generation, abort))
    } else {
        let membership = Membership {
            job: assignment.job.clone(),
            generation,
            rank: assignment.rank as usize,
            addresses: members.iter().map(|member| member.address.clone()).collect(),
            secret: assignment.secret.clone(),
        };
        let options = Options {
            deadline: Duration::from_secs_f64(config.exchange.deadline_seconds),
            connect_deadline: meeting_deadline(config),
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
        self.flush();
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

    fn pause_requested(&self) -> Option<proto::Pause> {
        self.session.pause_requested()
    }
}
