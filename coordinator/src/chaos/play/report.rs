//! What a scenario showed: figures for people and programs, and the checks that failed.

use super::compare::Compared;
pub use super::injure::Record;
use crate::chaos::scenario::{Checks, Planned, Scenario};
use crate::output::table::{Style, draw};
use medley_common::faults::Fault;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Its name in the directory of a scenario.
pub const FILE: &str = "report.json";

/// How the runs ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Wall time of the undisturbed run.
    pub undisturbed_seconds: f64,
    /// Of the disturbed one.
    pub disturbed_seconds: f64,
    /// The disturbed run's outcome.
    pub outcome: String,
    /// In a line.
    pub message: String,
    /// Steps that it committed.
    pub steps: u64,
    /// Warnings that it gave.
    pub warnings: Vec<String>,
    /// How the ends of the two compare.
    pub compared: Compared,
}

/// What a scenario showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub scenario: String,
    /// What it is to show.
    pub about: String,
    /// Worker processes.
    pub workers: u32,
    /// Of all random moments.
    pub seed: u64,
    /// Cores that the runs could use.
    pub cores: usize,
    /// Every fault, and what followed.
    pub faults: Vec<Record>,
    /// Median of the seconds until a fault was noticed.
    pub median_noticed_seconds: Option<f64>,
    /// Median of the seconds to the next committed step.
    pub median_seconds: Option<f64>,
    /// The worst of them.
    pub worst_seconds: Option<f64>,
    /// Committed steps lost, over all faults.
    pub steps_lost: u64,
    /// How the runs ended.
    #[serde(flatten)]
    pub verdicts: Verdicts,
    /// The checks that failed, a line each.
    pub failed: Vec<String>,
}

impl Report {
    /// Puts a report together.
    pub fn new(scenario: &Scenario, seed: u64, faults: Vec<Record>, verdicts: Verdicts) -> Self {
        let recovered: Vec<f64> = faults.iter().filter_map(|fault| fault.recovered_seconds).collect();
        let noticed: Vec<f64> = faults.iter().filter_map(|fault| fault.noticed_seconds).collect();
        let mut report = Self {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            workers: scenario.workers,
            seed,
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            median_noticed_seconds: median(noticed),
            worst_seconds: recovered.iter().copied().reduce(f64::max),
            median_seconds: median(recovered),
            steps_lost: faults.iter().map(|fault| fault.steps_lost).sum(),
            faults,
            verdicts,
            failed: Vec::new(),
        };
        let seen = |planned: &&Planned| !matches!(planned.fault, Fault::SlowDisk { .. });
        report.failed = report.failures(&scenario.checks, scenario.events.iter().filter(seen).count());
        report
    }

    fn failures(&self, checks: &Checks, planned: usize) -> Vec<String> {
        let mut failed = Vec::new();
        let mut check = |holds: bool, otherwise: String| {
            if !holds {
                failed.push(otherwise);
            }
        };
        let Verdicts { outcome, message, compared, warnings, .. } = &self.verdicts;
        check(*outcome == checks.outcome, format!("the job ended as {outcome}, not as {}: {message}", checks.outcome));
        check(self.faults.len() == planned, format!("{} of {planned} faults were brought about", self.faults.len()));
        let differ = compared.differences.join(", ");
        check(
            compared.parameters_equal || !checks.parameters_equal,
            format!("the parameters are not the undisturbed run's: {differ} differ"),
        );
        check(compared.metrics_equal || !checks.metrics_equal, "the metrics are not the undisturbed run's".into());
        for fault in &self.faults {
            let lost = fault.steps_lost;
            let most = checks.most_steps_lost;
            check(lost <= most, format!("{}: {lost} committed steps were lost, at most {most} may be", fault.fault));
            if checks.all_noticed {
                check(fault.noticed_seconds.is_some(), format!("{}: was never noticed", fault.fault));
                check(fault.recovered_seconds.is_some(), format!("{}: no step was committed after it", fault.fault));
            }
        }
        let noticed = self.faults.iter().filter_map(|fault| fault.noticed_seconds).reduce(f64::max);
        for (name, found, bound, until) in [
            ("noticed", noticed, checks.noticed_seconds, "until the coordinator knew"),
            ("median", self.median_seconds, checks.median_seconds, "to the next committed step"),
            ("worst", self.worst_seconds, checks.worst_seconds, "to the next committed step"),
        ] {
            if let (Some(found), Some(bound)) = (found, bound) {
                check(found < bound, format!("{name}: {found:.2} s {until}, not under {bound} s"));
            }
        }
        if let Some(text) = &checks.warning {
            let given = warnings.iter().any(|warning| warning.contains(text.as_str()));
            check(given, format!("no warning says {text:?}; there were {warnings:?}"));
        }
        failed
    }

    /// Whether all checks hold.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty()
    }

    /// Writes it into the scenario's directory.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&self, out: &Path) -> io::Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(io::Error::from)?;
        std::fs::write(out.join(FILE), json + "\n")
    }

    /// For a person.
    pub fn text(&self) -> String {
        let seconds = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
        let row = |fault: &Record| {
            vec![
                fault.fault.clone(),
                fault.after_step.to_string(),
                seconds(fault.noticed_seconds),
                seconds(fault.recovered_seconds),
                fault.steps_lost.to_string(),
            ]
        };
        let rows: Vec<Vec<String>> = self.faults.iter().map(row).collect();
        let header = ["fault", "after step", "noticed s", "next step s", "steps lost"];
        let mut text = draw(&header, &rows, 1, Style::Plain) + "\n\n";
        let Verdicts { outcome, steps, compared, .. } = &self.verdicts;
        let yes = |holds: bool| if holds { "yes" } else { "no" };
        text += &format!(
            "{}: {outcome} after {steps} steps; {}, median {} s and worst {} s to the next committed step, {} committed steps lost\n\
             parameters equal the undisturbed run's bit for bit: {}; moments: {}; metrics: {}\n",
            self.scenario,
            counted(self.faults.len()),
            seconds(self.median_seconds),
            seconds(self.worst_seconds),
            self.steps_lost,
            yes(compared.parameters_equal),
            yes(compared.moments_equal),
            yes(compared.metrics_equal),
        );
        for failed in &self.failed {
            text += &format!("FAILED: {failed}\n");
        }
        text
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// `1 fault`, `2 faults`.
pub fn counted(faults: usize) -> String {
    format!("{faults} fault{}", if faults == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn verdicts(equal: bool) -> Verdicts {
        let differences = if equal { vec![] } else { vec!["peer-0.safetensors".into()] };
        let compared = Compared { parameters_equal: equal, moments_equal: equal, metrics_equal: equal, differences };
        Verdicts {
            undisturbed_seconds: 1.0,
            disturbed_seconds: 2.0,
            outcome: "completed".into(),
            message: "completed after step 9".into(),
            steps: 9,
            warnings: vec!["the disk is full".into()],
            compared,
        }
    }

    #[test]
    fn the_median_is_that_of_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn every_check_can_fail() {
        let mut scenario = Scenario::kills(1, 2, 20, 1).unwrap();
        scenario.checks.warning = Some("disk".into());
        let missing = Report::new(&scenario, 1, vec![], verdicts(true));
        assert_eq!(missing.failed, ["0 of 1 faults were brought about"]);
        let fault: Record = serde_json::from_str(
            r#"{"fault":"kill","after_step":3,"noticed_seconds":0.1,"recovered_seconds":2.0,"steps_lost":0}"#,
        )
        .unwrap();
        assert!(Report::new(&scenario, 1, vec![fault.clone()], verdicts(true)).is_good());
        let slow = Record { recovered_seconds: Some(6.5), ..fault.clone() };
        let failed = Report::new(&scenario, 1, vec![slow], verdicts(true)).failed;
        assert!(failed.len() == 2 && failed[1].starts_with("worst: 6.50 s"), "the promises of kills: {failed:?}");
        scenario.checks.noticed_seconds = Some(0.05);
        assert!(
            Report::new(&scenario, 1, vec![fault.clone()], verdicts(true)).failed[0].starts_with("noticed: 0.10 s")
        );
        scenario.checks.worst_seconds = Some(1.5);
        scenario.checks.warning = Some("flood".into());
        let mut bad = fault;
        (bad.steps_lost, bad.noticed_seconds) = (2, None);
        let report = Report::new(&scenario, 1, vec![bad], verdicts(false));
        assert_eq!(report.failed.len(), 6, "{:?}", report.failed);
        assert!(report.text().contains("FAILED: worst: 2.00 s"));
    }
}
