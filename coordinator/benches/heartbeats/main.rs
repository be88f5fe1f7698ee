//! Heartbeats of many simulated workers against a real coordinator: `make bench-heartbeats`.
//!
//! This process is the coordinator (`coordinate`): its server, its state machine and its event log, on tokio's threads as in
//! `medley run`. The workers (`simulate`) are gRPC clients in processes of their own on the same machine, each with a connection of
//! its own over loopback, and take their share of its cores. What they do is in `load`.
//!
//! *Handling* is measured on every heartbeat and report of steps while all workers are there: from the moment at which tonic has
//! decoded the message until the state machine has applied it and everything that it asks for is done, the wait in the channel
//! between them included. *One way* is measured on the reports of steps, which carry the time at which the worker handed them
//! to its gRPC client: it includes the client, loopback, HTTP/2 and decoding. The protocol has no echo.

mod coordinate;
mod figures;
mod load;
mod simulate;

use clap::Parser;
use coordinate::Coordinator;
use load::{Load, Said};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// What is promised of the handling of heartbeats.
const P99_MS: f64 = 10.0;

/// Measures how long a coordinator takes to handle the heartbeats of many workers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Simulated workers
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    workers: u32,
    /// Seconds to measure for
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Milliseconds between a worker's heartbeats
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    heartbeat_ms: u64,
    /// Milliseconds between its reports of steps
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    step_ms: u64,
    /// Let all workers speak at the same moments
    #[arg(long)]
    aligned: bool,
    /// Processes that the workers are spread over
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Simulate workers FIRST..END at URL, with TOKEN: how this program starts itself
    #[arg(long, hide = true, num_args = 4, value_names = ["URL", "TOKEN", "FIRST", "END"])]
    simulate: Vec<String>,
    /// What cargo says to benchmarks
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn load(&self) -> Load {
        Load {
            workers: self.workers,
            heartbeat: Duration::from_millis(self.heartbeat_ms),
            step: Duration::from_millis(self.step_ms),
            steps: (self.seconds * 1000).div_ceil(self.step_ms),
            is_aligned: self.aligned,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let [url, token, first, end] = arguments.simulate.as_slice() {
        return simulate_here(url, token, [first, end], arguments.load());
    }
    let directory = std::env::temp_dir().join(format!("medley-heartbeats-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the event log");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (handled, said) = runtime.block_on(async {
        let coordinator = Coordinator::listen(arguments.load()).await;
        let workers = start_workers(&coordinator, &arguments);
        let handled = coordinator.run(&directory).await;
        let said = tokio::task::spawn_blocking(|| said_by(workers)).await.expect("no panic");
        (handled, said)
    });
    // Nothing of it is needed.
    let _ = std::fs::remove_dir_all(&directory);
    let figures = figures::of(&handled, said, arguments.load());
    if arguments.json {
        println!("{figures:#}");
    } else {
        println!("{}", figures::table(&figures));
    }
    let p99 = figures["handling"]["p99"].as_f64().unwrap_or(f64::INFINITY);
    if p99 >= P99_MS {
        eprintln!("heartbeats: the p99 of handling is {p99:.3} ms, not under {P99_MS} ms");
        return ExitCode::FAILURE;
    }
    // A figure of a job that did not go well is none.
    if handled.lost == 0 && handled.outcome.exit_code == medley_common::exit::SUCCESS && said == handled.said {
        return ExitCode::SUCCESS;
    }
    eprintln!("heartbeats: {} workers lost, {}; said {said:?}", handled.lost, handled.outcome.message);
    ExitCode::FAILURE
}

fn simulate_here(url: &str, token: &str, slots: [&String; 2], load: Load) -> ExitCode {
    let [first, end] = slots.map(|slot| slot.parse::<u32>().expect("a slot"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let said = runtime.block_on(simulate::simulate(url, token, first..end, load));
    println!("{} {}", said.heartbeats, said.steps);
    ExitCode::SUCCESS
}

fn start_workers(coordinator: &Coordinator, arguments: &Arguments) -> Vec<std::process::Child> {
    let program = std::env::current_exe().expect("this program");
    let start = |number: u32| {
        let slot = |number: u32| u64::from(number) * u64::from(arguments.workers) / u64::from(arguments.processes);
        let mut command = Command::new(&program);
        command.arg("--simulate").args([&coordinator.url, &coordinator.token]);
        command.args([slot(number), slot(number + 1)].map(|slot| slot.to_string()));
        command.args(["--workers".to_owned(), arguments.workers.to_string()]);
        command.args(["--seconds".to_owned(), arguments.seconds.to_string()]);
        command.args(["--heartbeat-ms".to_owned(), arguments.heartbeat_ms.to_string()]);
        command.args(["--step-ms".to_owned(), arguments.step_ms.to_string()]);
        command.args(arguments.aligned.then_some("--aligned"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process of workers")
    };
    (0..arguments.processes).map(start).collect()
}

fn said_by(workers: Vec<std::process::Child>) -> Said {
    let mut all = Said::default();
    for process in workers {
        let output = process.wait_with_output().expect("a process of workers ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
        // A process that failed has said why on standard error, and its sum is missing from the total.
        let (heartbeats, steps) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        all += Said { heartbeats, steps };
    }
    all
}
