//! Several coordinators of a job, and etcd members: leaders that are killed, members that are lost. Training goes on.
//!
//! `MEDLEY_CHAOS_KILLS` says how many leaders are killed (`make chaos`: 20), `MEDLEY_CHAOS_REPORT` where the figures go.

use medley_common::events::{Event, EventLine};
use medley_common::manifest::Manifest;
use medley_common::{environment, exit, manifest, run_directory};
use medley_integration_tests::etcd::EtcdCluster;
use medley_integration_tests::{Bench, PATIENCE, binary, text, until};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TOKEN: &str = "the token of the test's job";

/// Steps long enough to lose a few leaders in.
const SETTINGS: [&str; 3] = ["cohort.peers=3", "cohort.workers=3", "train.threads=1"];

/// Three coordinators and three workers of one job. Dropping it ends them.
struct Cohort<'a> {
    bench: &'a Bench,
    overrides: Vec<String>,
    /// Arguments of all coordinators that are started from now on.
    arguments: Vec<&'static str>,
    ports: Vec<u16>,
    coordinators: Vec<Option<Child>>,
    workers: Vec<Child>,
}

impl<'a> Cohort<'a> {
    fn start(bench: &'a Bench, etcd: &EtcdCluster, steps: u64) -> Self {
        let endpoints = etcd.endpoints().iter().map(|url| format!("\"{url}\"")).collect::<Vec<_>>().join(",");
        let mut overrides: Vec<String> = SETTINGS.iter().map(|setting| (*setting).to_owned()).collect();
        overrides.extend([
            format!("train.steps={steps}"),
            "store.kind=etcd".into(),
            format!("store.endpoints=[{endpoints}]"),
            "store.lease_ms=2000".into(),
            "store.request_ms=900".into(),
        ]);
        let sockets: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports = sockets.iter().map(|socket| socket.local_addr().expect("a bound socket").port()).collect();
        drop(sockets);
        let coordinators = vec![None, None, None];
        let mut cohort = Self { bench, overrides, arguments: Vec::new(), ports, coordinators, workers: Vec::new() };
        cohort.start_all();
        cohort
    }

    fn start_all(&mut self) {
        (0..3).for_each(|which| self.start_coordinator(which));
        let urls = self.urls();
        self.workers = (0..3).map(|slot| self.worker(slot, &urls)).collect();
    }

    fn start_coordinator(&mut self, which: usize) {
        let name = format!("c{which}");
        let listen = format!("127.0.0.1:{}", self.ports[which]);
        let log = self.log(&name);
        let mut command =
            self.bench.command(&["coordinate", "job.toml", "--name", &name, "--listen", &listen, "--out", "run"]);
        command.args(&self.arguments);
        command.args(self.overrides.iter().flat_map(|setting| ["--set", setting]));
        command.env("MEDLEY_LAUNCH_TOKEN", TOKEN).stdout(Stdio::null()).stderr(log);
        self.coordinators[which] = Some(command.spawn().expect("medley starts"));
    }

    fn worker(&self, slot: u32, urls: &str) -> Child {
        let slot = slot.to_string();
        let mut command = Command::new(binary("medley-worker"));
        command.args(["work", "--standalone", "--job", "job", "--slot", &slot, "--coordinator", urls]);
        command.env("MEDLEY_LAUNCH_TOKEN", TOKEN).current_dir(self.bench.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log(&format!("w{slot}")));
        command.spawn().expect("the worker starts")
    }

    fn log(&self, name: &str) -> std::fs::File {
        let path = self.bench.path().join(format!("{name}.log"));
        std::fs::File::options().create(true).append(true).open(path).expect("a log")
    }

    fn run(&self) -> PathBuf {
        self.bench.path().join("run")
    }

    fn events(&self) -> Vec<Event> {
        let log = std::fs::read_to_string(self.run().join(run_directory::EVENTS)).unwrap_or_default();
        log.lines().filter_map(|line| Some(serde_json::from_str::<EventLine>(line).ok()?.event)).collect()
    }

    /// The URLs of all coordinators, as workers are told them.
    fn urls(&self) -> String {
        let urls: Vec<String> = self.ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        urls.join(",")
    }

    /// The last step that some leader saw committed.
    fn step(&self) -> u64 {
        let steps = self.events().into_iter().filter_map(|event| match event {
            Event::Step(step) => Some(step.step),
            _ => None,
        });
        steps.max().unwrap_or(0)
    }

    /// Who took the lead last, and how often it has changed hands.
    fn leader(&self) -> Option<(usize, usize)> {
        let led: Vec<String> = self
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Led { coordinator, .. } => Some(coordinator),
                _ => None,
            })
            .collect();
        Some((led.last()?.trim_start_matches('c').parse().ok()?, led.len()))
    }

    /// Kills the leader, waits for the next, and starts the killed one again. Returns how long nobody led.
    fn kill_leader(&mut self) -> Duration {
        let (leader, terms) = self.leader().expect("somebody leads");
        let mut child = self.coordinators[leader].take().expect("the leader runs");
        child.kill().expect("our child can be killed");
        child.wait().expect("our child can be waited for");
        let start = Instant::now();
        until("another leader", || self.leader().is_some_and(|(_, now)| now > terms));
        let pause = start.elapsed();
        self.start_coordinator(leader);
        pause
    }

    /// Waits until all workers and some coordinator have come to a good end.
    fn finish(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for (slot, worker) in self.workers.iter_mut().enumerate() {
            let status = loop {
                if let Some(status) = worker.try_wait().expect("our child can be waited for") {
                    break status;
                }
                assert!(Instant::now() < deadline, "worker {slot} still runs");
                std::thread::sleep(Duration::from_millis(50));
            };
            let log = std::fs::read_to_string(self.bench.path().join(format!("w{slot}.log"))).unwrap_or_default();
            assert!(status.success(), "worker {slot}: {status}\n{log}");
        }
        until("the end", || self.events().iter().any(|event| matches!(event, Event::Finished { .. })));
        let events = self.events();
        let Some(Event::Finished { outcome, message, .. }) = events.last() else {
            panic!("the last event is the end: {:?}", events.last());
        };
        assert_eq!(outcome, "completed", "{message}");
    }

    /// Nobody was lost, and no generation but the first was needed: training has not stopped.
    fn assert_undisturbed(&self) {
        let events = self.events();
        let disturbed = |event: &&Event| {
            matches!(event, Event::WorkerLost { .. } | Event::Recovered { .. })
                || matches!(event, Event::Generation { generation, .. } if *generation > 1)
        };
        assert_eq!(events.iter().find(disturbed), None);
    }
}

impl Drop for Cohort<'_> {
    fn drop(&mut self) {
        for child in self.coordinators.iter_mut().flatten().chain(&mut self.workers) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Hashes of all parameters and moments of the last checkpoint.
fn hashes(run: &Path) -> Vec<(String, String)> {
    let (_, directory) = run_directory::latest_checkpoint(run).expect("a checkpoint");
    let text = std::fs::read(directory.join(manifest::FILE)).expect("a manifest");
    let manifest: Manifest = serde_json::from_slice(&text).expect("a whole manifest");
    manifest.files.into_iter().map(|file| (file.name, file.sha256)).collect()
}

fn undisturbed(bench: &Bench, steps: u64) -> Vec<(String, String)> {
    let steps = format!("train.steps={steps}");
    hashes(&bench.run("undisturbed", &[SETTINGS.as_slice(), &[&steps]].concat()))
}

fn kills() -> u32 {
    std::env::var(environment::CHAOS_KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(2)
}

#[test]
fn leaders_are_killed_and_training_does_not_notice() {
    let Some(etcd) = EtcdCluster::start() else { return };
    let bench = Bench::new(400, 300, 20);
    let kills = kills();
    let steps = 600 + 900 * u64::from(kills);
    let mut cohort = Cohort::start(&bench, &etcd, steps);
    let mut pauses = Vec::new();
    for kill in 0..kills {
        until("progress under this leader", || cohort.step() > 0 && cohort.leader().is_some());
        let before = cohort.step();
        until("a few steps", || cohort.step() > before + 10);
        pauses.push(cohort.kill_leader());
        let after = cohort.step();
        until(&format!("progress after kill {kill}"), || cohort.step() > after);
    }
    cohort.finish();
    cohort.assert_undisturbed();
    assert_eq!(hashes(&cohort.run()), undisturbed(&bench, steps), "the parameters are the undisturbed run's");
    report("coordinators", &pauses);
}

#[test]
fn etcd_members_are_lost_and_come_back_and_the_job_completes() {
    let Some(mut etcd) = EtcdCluster::start() else { return };
    let bench = Bench::new(400, 300, 20);
    let steps = 1_500;
    let mut cohort = Cohort::start(&bench, &etcd, steps);
    until("the first steps", || cohort.step() > 20);
    let member = etcd.leader();
    etcd.kill(member);
    let before = cohort.step();
    until("progress with two members", || cohort.step() > before + 20);
    etcd.launch(member);
    etcd.restart_all();
    let before = cohort.step();
    until("progress after a restart of all", || cohort.step() > before + 20);
    cohort.finish();
    cohort.assert_undisturbed();
    assert_eq!(hashes(&cohort.run()), undisturbed(&bench, steps), "the parameters are the undisturbed run's");
}

#[test]
fn a_leader_that_is_asked_to_leave_hands_the_job_on_at_once() {
    let Some(etcd) = EtcdCluster::start() else { return };
    let bench = Bench::new(400, 300, 20);
    let mut cohort = Cohort::start(&bench, &etcd, 900);
    until("the first steps", || cohort.step() > 20);
    let (leader, terms) = cohort.leader().expect("somebody leads");
    let child = cohort.coordinators[leader].take().expect("the leader runs");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("our child can be signalled");
    let output = medley_integration_tests::wait(child);
    assert!(output.status.success(), "{}", text(&output.stderr));
    until("another leader", || cohort.leader().is_some_and(|(_, now)| now > terms));
    cohort.finish();
    cohort.assert_undisturbed();
}

#[test]
fn a_worker_that_was_stopped_and_replaced_goes_on_as_a_zombie_that_is_refused() {
    let Some(etcd) = EtcdCluster::start() else { return };
    let bench = Bench::new(400, 300, 20);
    let steps = 1_200;
    let mut cohort = Cohort::start(&bench, &etcd, steps);
    until("the first steps", || cohort.step() > 20);
    let zombie = Pid::from_child(&cohort.workers[1]);
    kill_process(zombie, Signal::STOP).expect("our child can be signalled");
    let is_lost = |event: &Event| matches!(event, Event::WorkerLost { worker, .. } if worker == "worker-1");
    until("it counts as dead", || cohort.events().iter().any(is_lost));
    // Nobody launched it, so nobody ends it: its place is taken while it is stopped.
    let log = bench.path().join("w1.log");
    let said_before = std::fs::read_to_string(&log).unwrap_or_default().len();
    std::fs::rename(&log, bench.path().join("zombie.log")).expect("it has a log");
    let replacement = cohort.worker(1, &cohort.urls());
    let zombie_child = std::mem::replace(&mut cohort.workers[1], replacement);
    let is_over = |event: &Event| matches!(event, Event::Recovered { .. });
    until("training goes on without it", || cohort.events().iter().any(is_over));
    kill_process(zombie, Signal::CONT).expect("our child can be signalled");
    let output = medley_integration_tests::wait(zombie_child);
    assert!(!output.status.success());
    let log = std::fs::read_to_string(bench.path().join("zombie.log")).expect("its log");
    let errors: Vec<&str> = log[said_before..].lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains("declared dead"), "{log}");
    cohort.finish();
    let losses = cohort.events().iter().filter(|event| matches!(event, Event::WorkerLost { .. })).count();
    assert_eq!(losses, 1, "it took nobody's place");
    assert_eq!(hashes(&cohort.run()), undisturbed(&bench, steps), "the parameters are the undisturbed run's");
}

#[test]
fn a_stopped_job_goes_on_with_resume_and_its_name_belongs_to_its_configuration() {
    let Some(etcd) = EtcdCluster::start() else { return };
    let bench = Bench::new(400, 300, 20);
    let steps = 900;
    let mut cohort = Cohort::start(&bench, &etcd, steps);
    until("the first steps", || cohort.step() > 20);
    let (leader, _) = cohort.leader().expect("somebody leads");
    let id = Pid::from_child(cohort.coordinators[leader].as_ref().expect("the leader runs"));
    kill_process(id, Signal::INT).expect("our child can be signalled");
    let ends = |cohort: &mut Cohort<'_>| {
        let children = std::mem::take(&mut cohort.workers);
        children.into_iter().for_each(|child| drop(medley_integration_tests::wait(child)));
        let coordinators: Vec<Child> = cohort.coordinators.iter_mut().filter_map(Option::take).collect();
        let codes = coordinators.into_iter().map(|child| medley_integration_tests::wait(child).status.code());
        codes.collect::<Vec<_>>()
    };
    assert_eq!(ends(&mut cohort), [Some(exit::INTERRUPTED); 3], "all of them tell the same end");
    let stopped_at = cohort.step();
    assert!(stopped_at < steps);

    cohort.start_coordinator(0);
    assert_eq!(ends(&mut cohort), [Some(exit::INTERRUPTED)], "without --resume that end stands");
    cohort.overrides.push("train.batch_size=8".into());
    cohort.arguments = vec!["--resume"];
    cohort.start_coordinator(0);
    assert_eq!(ends(&mut cohort), [Some(exit::BAD_INPUT)]);
    let said = std::fs::read_to_string(bench.path().join("c0.log")).expect("a log");
    assert!(said.lines().last().is_some_and(|line| line.contains("another configuration")), "{said}");
    cohort.overrides.pop();

    cohort.start_all();
    let finished = |event: &&Event| matches!(event, Event::Finished { .. });
    until("the second end", || cohort.events().iter().filter(finished).count() == 2);
    assert_eq!(ends(&mut cohort), [Some(exit::SUCCESS); 3], "who takes over after the end does not resume once more");
    assert_eq!(cohort.step(), steps);
    assert_eq!(hashes(&cohort.run()), undisturbed(&bench, steps), "the parameters are the undisturbed run's");
}

/// Adds figures to the report of `make chaos`.
fn report(name: &str, pauses: &[Duration]) {
    let mut seconds: Vec<f64> = pauses.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let line = serde_json::json!({ "name": name, "kills": seconds.len(), "seconds_without_a_leader": seconds });
    println!("{line}");
    if let Ok(path) = std::env::var(environment::CHAOS_REPORT) {
        std::fs::write(path, line.to_string()).expect("the report can be written");
    }
}
