#![allow(clippy::unwrap_used)]

use super::*;
use medley_common::events::{Event, StepEvent};
use medley_common::summary::{Estimate, Evaluation};
use std::collections::BTreeMap;

fn history(peers: u32, steps: u64, every: u64, value: impl Fn(u32, u64) -> f64) -> History {
    let mut history = History::default();
    for step in 1..=steps {
        let losses = (0..peers).map(|peer| {
            let total = value(peer, step);
            (peer, Losses { total, cross_entropy: 0.8 * total, ..Losses::default() })
        });
        let event = StepEvent {
            step,
            stage: if step * 2 > steps { "stage-2" } else { "stage-1" }.into(),
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            rows: 10,
            truncated_rows: 0,
            seconds: 0.1,
            bytes_sent: 0,
            losses: losses.collect(),
        };
        history.event(0.0, &Event::Step(event));
        let subjects = (0..peers).map(|peer| format!("peer-{peer}"));
        if every > 0 && step % every == 0 {
            for (at, subject) in subjects.chain(["popularity".into()]).enumerate() {
                history.event(0.0, &Event::Evaluation(evaluation(&subject, step, at as f64)));
            }
        }
    }
    history
}

fn evaluation(subject: &str, step: u64, at: f64) -> Evaluation {
    let mean = 0.2 + 0.02 * at + 0.1 * (step as f64).sqrt() / 20.0;
    let mean = if subject == "popularity" { 0.21 } else { mean };
    Evaluation {
        subject: subject.into(),
        step,
        split: "valid".into(),
        protocol: "uniform99".into(),
        candidates_hash: None,
        users: 10,
        metrics: ["HR@1", "HR@10", "NDCG@10", "MRR"]
            .map(|name| (name.into(), Estimate { mean, half_width: 0.01 }))
            .into(),
    }
}

/// Draws, and returns the files by name, every one well-formed.
fn drawn(history: &History) -> BTreeMap<String, String> {
    let config = RunConfig { name: "hail & <toys>".into(), ..RunConfig::default() };
    let run = tempfile::tempdir().unwrap();
    draw(history, &config, run.path()).unwrap();
    let Ok(entries) = std::fs::read_dir(run.path().join("plots")) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let svg = std::fs::read_to_string(entry.path()).unwrap();
            assert_well_formed(&svg);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "a coordinate is not finite");
            (entry.file_name().into_string().unwrap(), svg)
        })
        .collect()
}

/// Tags are balanced, attributes quoted, text free of `<` and bare `&`.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg.trim();
    while let Some(at) = rest.find('<') {
        let (text, from) = rest.split_at(at);
        assert!(!text.contains('>'), "stray >: {text}");
        for entity in text.split('&').skip(1) {
            let name = entity.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot", "apos"].contains(&name), "entity {name}");
        }
        let end = from.find('>').expect("a tag that ends");
        let tag = &from[1..end];
        rest = &from[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name.trim()));
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag}");
        if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(tag.split_whitespace().next().unwrap());
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}");
}

#[test]
fn a_run_has_losses_and_metrics_with_titles_axes_and_a_legend() {
    let noise = |peer: u32, step: u64| f64::from((peer * 7 + step as u32 * 31) % 17) / 40.0;
    let history = history(3, 400, 40, |peer, step| {
        5.0 + 3.0 * (-(step as f64) / 100.0).exp() + 0.1 * f64::from(peer) + noise(peer, step)
    });
    let files = drawn(&history);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["cross-entropy.svg", "loss.svg", "validation-uniform99.svg"]);
    let loss = &files["loss.svg"];
    for part in ["hail &amp; &lt;toys&gt;", "training loss", "nats per row", "step", "peer 0", "peer 2"] {
        assert!(loss.contains(part), "no {part:?}");
    }
    let validation = &files["validation-uniform99.svg"];
    for part in ["uniform99", "HR@10", "NDCG@10", "MRR", "popularity"] {
        assert!(validation.contains(part), "no {part:?}");
    }
    assert!(!loss.to_lowercase().contains("#ffffff"), "the background is transparent");
}

#[test]
fn sixty_four_peers_share_a_ramp_and_a_short_legend() {
    let history = history(64, 2000, 200, |peer, step| 4.0 + 4.0 / (1.0 + step as f64 / 50.0) + f64::from(peer) / 50.0);
    let files = drawn(&history);
    let loss = &files["loss.svg"];
    assert!(loss.matches(">\npeer ").count() + loss.matches("peer ").count() <= 20);
    assert!(loss.contains("peer 0") && loss.contains("peer 63"));
    assert!(loss.len() < 1_500_000, "{} bytes", loss.len());
}

#[test]
fn one_point_no_point_and_no_finite_point_are_drawn() {
    assert!(drawn(&history(2, 0, 0, |_, _| 0.0)).is_empty());
    let files = drawn(&history(2, 1, 1, |_, _| 3.0));
    assert!(files["loss.svg"].contains("<circle"));
    assert!(files["validation-uniform99.svg"].contains("<circle"));
    let files = drawn(&history(2, 30, 0, |_, _| f64::NAN));
    assert!(files["loss.svg"].contains("no finite value"));
    let diverging = history(2, 30, 0, |_, step| if step > 20 { f64::NAN } else { step as f64 });
    assert!(!drawn(&diverging)["loss.svg"].contains("no finite value"));
}

#[test]
fn smoothing_keeps_a_line_and_the_gaps() {
    let line: Vec<(f64, f64)> = (0..200).map(|at| (f64::from(at), 2.0 * f64::from(at))).collect();
    for (smooth, raw) in series::smooth(&line).iter().zip(&line) {
        assert!((smooth.1 - raw.1).abs() < 1e-9);
    }
    let alternating: Vec<(f64, f64)> = (0..400).map(|at| (f64::from(at), f64::from(at % 2))).collect();
    for (_, value) in &series::smooth(&alternating)[..] {
        assert!((value - 0.5).abs() < 0.2, "{value}");
    }
    let mut gap = line;
    gap[100].1 = f64::NAN;
    let smooth = series::smooth(&gap);
    assert!(smooth[100].1.is_nan() && smooth[99].1.is_finite());
    assert_eq!(series::stretches(&smooth).count(), 2);
}
