//! `medley coordinate`: one of several coordinators of a job whose workers are started elsewhere.

use super::config::Overrides;
use super::run::{Plan, keep_findable, leave, recording_observers};
use super::{CliError, logging, print};
use crate::job::{self, Candidacy, Outcome, Stops};
use crate::output::history::{History, Recorder};
use crate::output::read::Run;
use crate::output::table;
use crate::output::terminal::Screen;
use medley_common::config::{self, Override};
use medley_common::{environment, exit};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Coordinate a job, taking turns with other coordinators
///
/// For clusters: workers are started by somebody else (`medley-worker work --standalone`, with the addresses of all
/// coordinators), and several coordinators share an etcd store (`store.kind` of the configuration) and the run directory. One
/// leads; when it dies another takes over once its lease has run out, and training does not stop meanwhile. SIGTERM hands the job
/// on to another coordinator; Ctrl-C stops it with a checkpoint.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CoordinateArgs {
    /// The configuration, a TOML file; the same for all coordinators of the job
    config: PathBuf,
    /// The job, by which coordinators and workers find each other; by default the configuration's name
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// This coordinator's name, for people; by default the host's and the process's number
    #[arg(long)]
    name: Option<String>,
    /// Where to listen (launch.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where workers reach this coordinator, where that is not the address that it listens on
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The token that workers show; by default the first leader draws one, and `medley scale` finds it in the run directory
    #[arg(long, env = environment::LAUNCH_TOKEN, hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
    /// The run directory (output.directory), which all coordinators and workers share; by default runs/NAME
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the job from its last checkpoint where it has ended; workers are to be started anew, with the new token
    #[arg(long)]
    resume: bool,
    /// Print nothing but the result
    #[arg(long)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  export MEDLEY_LAUNCH_TOKEN=$(openssl rand -hex 32)                        The same everywhere
  medley certs init --out DIR --name 10.0.0.1 --name 10.0.0.2               Once; security.certificates = \"DIR\"
  medley coordinate job.toml --job job --listen 10.0.0.1:7070 --out /shared/job     On one machine
  medley coordinate job.toml --job job --listen 10.0.0.2:7070 --out /shared/job     On another
  medley-worker work --standalone --job job --slot 0 --listen 10.0.0.3:0 --certificates DIR \\
      --coordinator https://10.0.0.1:7070,https://10.0.0.2:7070                     On each machine with a GPU
  medley coordinate job.toml --job job --listen 10.0.0.1:7070 --out /shared/job --resume

Exit codes: those of `medley run`; 0 as well for one that handed the job on.";

/// Runs `medley coordinate`.
pub fn run(arguments: &CoordinateArgs) -> Result<i32, CliError> {
    let plan = plan(arguments)?;
    let screen = Screen::new();
    logging::start(&plan.directory, &screen, arguments.quiet);
    let candidacy = Candidacy {
        job: arguments.job.clone().unwrap_or_else(|| plan.config.name.clone()),
        name: arguments.name.clone().unwrap_or_else(name),
        url: arguments.url.clone(),
        token: arguments.token.clone(),
        resume: arguments.resume,
        config: plan.config.clone(),
        run_directory: plan.directory.clone(),
    };
    let observers = |_: &Path| recording_observers(&plan, &Recorder::new(history(&plan)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(exit::FAILURE, &format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(job::lead(candidacy, Stops::Signals, observers));
    let outcome = outcome.map_err(|error| CliError::new(error.exit_code(), &error))?;
    conclude(arguments, &plan, &outcome)
}

/// What is left and shown at the end. Each coordinator that sees it does the same.
fn conclude(arguments: &CoordinateArgs, plan: &Plan, outcome: &Outcome) -> Result<i32, CliError> {
    if outcome.outcome == "left" {
        if !arguments.quiet {
            let _ = writeln!(std::io::stderr(), "{}", outcome.message);
        }
        return Ok(outcome.exit_code);
    }
    let summary = leave(plan, &history(plan), None);
    print(&table::of_summary(&summary))?;
    match outcome.exit_code {
        exit::SUCCESS | exit::INTERRUPTED => Ok(outcome.exit_code),
        exit_code => Err(CliError::new(exit_code, &outcome.message)),
    }
}

fn plan(arguments: &CoordinateArgs) -> Result<Plan, CliError> {
    let mut overrides = arguments.overrides.parse().map_err(|error| CliError::bad_input(&error))?;
    overrides.extend(arguments.listen.clone().map(|listen| Override::new("launch.listen", listen)));
    let out = arguments.out.as_ref().map(|out| out.display().to_string());
    overrides.extend(out.map(|out| Override::new("output.directory", out)));
    let mut config = config::load(&arguments.config, &overrides).map_err(|error| CliError::bad_input(&error))?;
    keep_findable(&mut config)?;
    let directory = config.output.directory.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    Ok(Plan { config, directory, resume: false })
}

/// What the run directory says so far: other coordinators may have written to it.
fn history(plan: &Plan) -> History {
    Run::read(&plan.directory).map(|run| run.history()).unwrap_or_default()
}

fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}
