//! What a person sees on standard error while a job runs: bars on a terminal, a line now and then elsewhere.

use super::progress::{Progress, duration};
use crate::job::Observer;
use crate::launch::Shares;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use medley_common::config::RunConfig;
use medley_common::events::{Event, StepEvent};
use medley_common::summary::Evaluation;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

/// Bars that fit on a terminal together; a larger cohort has one for all its peers.
const MOST_BARS: u32 = 16;
/// Time between lines about steps where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(5);
/// Times a second that bars are drawn.
const FRAMES: u8 = 10;

/// The place where bars are drawn, shared with whoever else writes to standard error, so that a log line does not
/// tear a bar apart.
#[derive(Debug, Clone)]
pub struct Screen(MultiProgress);

impl Screen {
    /// Standard error.
    pub fn new() -> Self {
        Self(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(FRAMES)))
    }

    /// Whether a person looks at bars here.
    pub fn is_terminal() -> bool {
        std::io::stderr().is_terminal()
    }

    /// Writes while the bars stand aside.
    pub fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.suspend(|| std::io::stderr().write_all(bytes))
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// The observer that suits standard error.
pub fn observer(config: &RunConfig, screen: &Screen) -> Box<dyn Observer> {
    if Screen::is_terminal() {
        Box::new(Bars::new(config, screen.clone()))
    } else {
        Box::new(Lines::new(config, std::io::stderr(), INTERVAL))
    }
}

/// Plain lines: one for every evaluation, checkpoint and warning, and for steps one in a while.
pub struct Lines<W> {
    progress: Progress,
    out: W,
    interval: Duration,
    last: Option<Instant>,
}

impl<W: Write> Lines<W> {
    /// Lines about steps come no sooner than `interval` after one another.
    pub fn new(config: &RunConfig, out: W, interval: Duration) -> Self {
        Self { progress: Progress::new(config), out, interval, last: None }
    }

    fn say(&mut self, line: &str) {
        // Nobody may be listening; that is no reason to stop training.
        let _ = writeln!(self.out, "{line}");
    }
}

impl<W: Write + Send> Observer for Lines<W> {
    fn event(&mut self, _time: SystemTime, event: &Event) {
        self.progress.event(event);
        if let Some(line) = line(event) {
            self.say(&line);
        }
    }

    fn progress(&mut self, step: &StepEvent) {
        self.progress.step(step);
        let is_last = self.progress.step == self.progress.total_steps;
        let is_due = self.last.is_none_or(|last| last.elapsed() >= self.interval);
        if is_due || is_last {
            self.last = Some(Instant::now());
            let Progress { step, total_steps, .. } = &self.progress;
            let losses = if self.progress.peers <= 4 {
                let peers = 0..self.progress.peers;
                let of = |peer| format!("peer {peer}: {}", self.progress.of_peer(peer));
                peers.map(of).collect::<Vec<_>>().join("; ")
            } else {
                self.progress.of_cohort()
            };
            let line = format!("step {step}/{total_steps}  {losses}  {}", self.progress.pace());
            self.say(line.trim_end());
        }
    }
}

/// A bar for each peer.
pub struct Bars {
    progress: Progress,
    screen: Screen,
    bars: Vec<ProgressBar>,
}

impl Bars {
    /// Bars that appear with the first event.
    pub fn new(config: &RunConfig, screen: Screen) -> Self {
        Self { progress: Progress::new(config), screen, bars: Vec::new() }
    }

    fn draw(&mut self) {
        let has_own = self.progress.peers <= MOST_BARS;
        while self.bars.len() < if has_own { self.progress.peers as usize } else { 1 } {
            let style = ProgressStyle::with_template("{prefix:>8} {bar:24} {pos}/{len}  {msg}")
                .expect("the template is well-formed");
            let bar = ProgressBar::new(0).with_style(style.progress_chars("━╸─"));
            let prefix = match has_own {
                true => format!("peer {}", self.bars.len()),
                false => format!("{} peers", self.progress.peers),
            };
            self.bars.push(self.screen.0.add(bar.with_prefix(prefix)));
        }
        let pace = self.progress.pace();
        for (peer, bar) in self.bars.iter().enumerate() {
            let says = match has_own {
                true => self.progress.of_peer(peer as u32),
                false => self.progress.of_cohort(),
            };
            bar.set_length(self.progress.total_steps);
            bar.set_position(self.progress.step);
            bar.set_message(format!("{says}  {pace}"));
        }
    }
}

impl Observer for Bars {
    fn event(&mut self, _time: SystemTime, event: &Event) {
        self.progress.event(event);
        // The bars show evaluations; the rest is said above them.
        if !matches!(event, Event::Evaluation(_))
            && let Some(line) = line(event)
        {
            // A terminal that is gone is no reason to stop training.
            let _ = self.screen.0.println(line);
        }
        match event {
            Event::Finished { .. } => self.bars.iter().for_each(ProgressBar::abandon),
            Event::Ready { .. } | Event::Evaluation(_) => self.draw(),
            _ => {}
        }
    }

    fn progress(&mut self, step: &StepEvent) {
        self.progress.step(step);
        self.draw();
    }
}

/// An event in a line, where it is worth one. How a job failed is said by whoever ran it.
fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::JobStarted { job, method, peers, workers, threads, cores, gpus, resumed_from, .. } => {
            let from = resumed_from.map_or(String::new(), |step| format!(", going on from step {step}"));
            let shares = Shares { peers: *peers, workers: *workers, threads: *threads, cores: *cores, gpus: *gpus };
            format!("job {job}: {method}{from}; {shares}")
        }
        Event::Ready { users, items, interactions, samples, total_steps, .. } => format!(
            "data: {users} users, {items} items, {interactions} interactions; {samples} samples an epoch, {total_steps} steps to train"
        ),
        Event::Evaluation(evaluation) => evaluation_line(evaluation),
        Event::Checkpoint { step, directory, bytes } => {
            format!("checkpoint of step {step}: {directory} ({})", size(*bytes))
        }
        Event::WorkerLost { worker, reason } => format!("lost {worker}: {reason}"),
        Event::Recovered { generation, step, replayed, seconds, .. } => {
            let again =
                if *replayed > 0 { format!(", {replayed} steps of which were taken again") } else { String::new() };
            format!(
                "training goes on after step {step}{again}, {seconds:.1} s after the loss was noticed (generation {generation})"
            )
        }
        Event::Generation { generation, placement, step } if *step > 0 => {
            let (peers, workers) = (placement.iter().map(Vec::len).sum::<usize>(), placement.len());
            format!("generation {generation} from step {step}: {peers} peers in {workers} workers")
        }
        Event::Led { coordinator, term } => format!("{coordinator} leads (term {term})"),
        Event::Warning { message } => format!("warning: {message}"),
        Event::Finished { outcome, .. } if outcome == "failed" => return None,
        Event::Finished { message, .. } => message.clone(),
        Event::Step(_) | Event::WorkerJoined { .. } | Event::WorkerCompleted { .. } | Event::Generation { .. } => {
            return None;
        }
    })
}

fn evaluation_line(evaluation: &Evaluation) -> String {
    let Evaluation { subject, step, split, protocol, .. } = evaluation;
    let metrics: Vec<String> = ["HR@1", "HR@10", "NDCG@10", "MRR"]
        .into_iter()
        .filter_map(|name| Some(format!("{name} {:.4}", evaluation.metrics.get(name)?.mean)))
        .collect();
    format!("{subject} at step {step}, {split} under {protocol}: {}", metrics.join("  "))
}

/// `512 B`, `1.5 MB`.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// What a run took, in a line for its end.
pub fn closing_line(summary: &medley_common::summary::Summary) -> String {
    format!(
        "{} steps in {} of training ({:.0} rows/s), {} of evaluation; {} sent by a worker in a step",
        summary.steps,
        duration(Duration::try_from_secs_f64(summary.train_seconds).unwrap_or_default()),
        summary.rows_per_second,
        duration(Duration::try_from_secs_f64(summary.evaluation_seconds).unwrap_or_default()),
        size(summary.bytes_exchanged_per_step as u64),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::events::Losses;
    use medley_common::summary::Estimate;
    use std::collections::BTreeMap;

    fn step(number: u64) -> StepEvent {
        StepEvent {
            step: number,
            stage: "train".into(),
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            rows: 100,
            truncated_rows: 0,
            seconds: 0.5,
            bytes_sent: 0,
            losses: BTreeMap::from([(0, Losses { total: 2.5, ..Losses::default() }), (1, Losses::default())]),
        }
    }

    fn ready(total_steps: u64) -> Event {
        Event::Ready {
            data_hash: "d".into(),
            users: 3,
            items: 4,
            interactions: 12,
            samples: 6,
            total_steps,
            shared_parameters: 1,
            private_parameters: 2,
        }
    }

    fn evaluation() -> Event {
        Event::Evaluation(Evaluation {
            subject: "peer-0".into(),
            step: 2,
            split: "valid".into(),
            protocol: "uniform99".into(),
            candidates_hash: None,
            users: 3,
            metrics: BTreeMap::from([("NDCG@10".into(), Estimate { mean: 0.25, half_width: 0.1 })]),
        })
    }

    #[test]
    fn lines_about_steps_are_rare_and_those_about_events_are_not() {
        let mut out = Vec::new();
        let mut lines = Lines::new(&RunConfig::default(), &mut out, Duration::from_secs(3600));
        let now = SystemTime::now();
        lines.event(now, &ready(100));
        for number in 1..=100 {
            lines.progress(&step(number));
            if number == 2 {
                lines.event(now, &evaluation());
                lines.event(now, &Event::Warning { message: "disk full".into() });
            }
        }
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "data: 3 users, 4 items, 12 interactions; 6 samples an epoch, 100 steps to train",
                "step 1/100  peer 0: loss 2.5000; peer 1: loss 0.0000  200 rows/s  50 s left",
                "peer-0 at step 2, valid under uniform99: NDCG@10 0.2500",
                "warning: disk full",
                "step 100/100  peer 0: loss 2.5000  NDCG@10 0.2500; peer 1: loss 0.0000  200 rows/s  0 s left",
            ]
        );
    }

    #[test]
    fn the_first_line_says_how_the_machine_is_shared() {
        let started = |resumed_from| Event::JobStarted {
            job: "a1".into(),
            version: "0".into(),
            method: "hail".into(),
            peers: 4,
            workers: 1,
            threads: 2,
            cores: 2,
            gpus: 0,
            resumed_from,
            trained_before: Default::default(),
        };
        let shares = "4 peers in 1 worker on 2 threads (2 cores; --workers and train.threads to change)";
        assert_eq!(line(&started(None)).unwrap(), format!("job a1: hail; {shares}"));
        assert_eq!(line(&started(Some(7))).unwrap(), format!("job a1: hail, going on from step 7; {shares}"));
    }

    #[test]
    fn nobody_listening_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut lines = Lines::new(&RunConfig::default(), Gone, Duration::ZERO);
        lines.event(SystemTime::now(), &ready(1));
        lines.progress(&step(1));
    }

    #[test]
    fn small_cohorts_have_a_bar_a_peer_and_large_ones_share_one() {
        for (peers, bars) in [(1, 1), (16, 16), (64, 1)] {
            let mut config = RunConfig::default();
            config.cohort.peers = peers;
            let screen = Screen(MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
            let mut shown = Bars::new(&config, screen);
            shown.event(SystemTime::now(), &ready(10));
            shown.progress(&step(3));
            assert_eq!(shown.bars.len(), bars);
            assert_eq!(shown.bars[0].position(), 3);
            assert_eq!(shown.bars[0].length(), Some(10));
            assert!(shown.bars[0].message().contains("rows/s"));
        }
    }

    #[test]
    fn times_and_sizes_are_readable() {
        for (seconds, text) in [(45, "45 s"), (130, "2 min 10 s"), (11_100, "3 h 5 min"), (187_200, "2 d 4 h")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_500_000), "1.5 MB");
    }
}
