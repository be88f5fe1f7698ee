//! Losses and gradients against reference values, for every instruction set at hand and both ways in.
//!
//! `MEDLEY_FIXTURES=DIR` names a directory of cases (`index.json`, and for each case a `.json` and a `.safetensors`); by
//! default `shared/fixtures` beside the checkout where it exists. The project's own small set is checked always.

#![allow(clippy::unwrap_used)]

use medley_worker::loss::{
    Chunk, Level, LossSpec, LossSums, RankBase, RankOver, Teacher, Truncation, cross_entropies, levels,
    losses_and_gradients_at, own_losses_and_gradients_at, softmax_rows, truncated_rows,
};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Of a loss: absolute, and relative to its value.
const LOSS_TOLERANCE: (f64, f64) = (2e-6, 1e-5);
/// Of a gradient times the number of rows.
const GRADIENT_TOLERANCE: f64 = 1e-5;

#[test]
fn own_cases() {
    check_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
}

#[test]
fn given_cases() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    match std::env::var_os(medley_common::environment::FIXTURES).map(PathBuf::from) {
        Some(directory) => check_directory(&directory),
        None if beside.is_dir() => check_directory(&beside),
        None => println!("no cases given by MEDLEY_FIXTURES and none beside the checkout; skipped"),
    }
}

fn check_directory(directory: &Path) {
    let mut worst: BTreeMap<String, f64> = BTreeMap::new();
    let mut failures = Vec::new();
    let (mut cases, mut variants) = (0, 0);
    for description in descriptions(directory) {
        let case = Case::open(directory, &description);
        cases += 1;
        for variant in description["variants"].as_array().unwrap() {
            variants += 1;
            for level in levels() {
                for distributions in [false, true] {
                    let mut check = Check { worst: 0.0, failures: Vec::new() };
                    case.check(variant, level, distributions, &mut check);
                    let family = worst.entry(case.family.clone()).or_default();
                    *family = family.max(check.worst);
                    let name = format!("{} {} {level:?}, distributions {distributions}", case.name, variant["key"]);
                    failures.extend(check.failures.into_iter().map(|failure| format!("{name}: {failure}")));
                }
            }
        }
    }
    println!(
        "{}: {cases} cases, {variants} variants; worst error in units of the tolerance: {worst:?}",
        directory.display()
    );
    assert!(cases > 0, "{} holds no case", directory.display());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures[..failures.len().min(40)].join("\n"));
}

fn descriptions(directory: &Path) -> Vec<Value> {
    let read = |path: PathBuf| -> Value {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap()
    };
    let index = read(directory.join("index.json"));
    index.as_array().unwrap().iter().map(|name| read(directory.join(name.as_str().unwrap()))).collect()
}

struct Case {
    name: String,
    family: String,
    bytes: Vec<u8>,
    peers: usize,
    rows: usize,
    catalogue: usize,
    /// Rows that are no padding.
    real: Vec<usize>,
}

struct Check {
    worst: f64,
    failures: Vec<String>,
}

impl Check {
    fn near(&mut self, what: &str, value: f64, expected: f64, tolerance: f64) {
        let error = (value - expected).abs() / tolerance;
        if error > self.worst {
            self.worst = error;
        }
        if error > 1.0 || !error.is_finite() {
            self.failures.push(format!("{what}: {value:e} instead of {expected:e}, {error:.2} tolerances off"));
        }
    }
}

impl Case {
    fn open(directory: &Path, description: &Value) -> Self {
        let name = description["file"].as_str().unwrap().to_owned();
        let number = |key: &str| description[key].as_u64().unwrap() as usize;
        let bytes = std::fs::read(directory.join(&name)).unwrap();
        let mut case = Self {
            name,
            family: description["family"].as_str().unwrap().into(),
            bytes,
            peers: number("T"),
            rows: number("B"),
            catalogue: number("V"),
            real: Vec::new(),
        };
        case.real = match description["padded"].as_bool() {
            Some(true) => {
                let weights = case.doubles("weights");
                (0..case.rows).filter(|row| weights[*row] > 0.0).collect()
            }
            _ => (0..case.rows).collect(),
        };
        case
    }

    fn tensor(&self, name: &str) -> Option<(Vec<usize>, Vec<u8>)> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).ok()?;
        Some((view.shape().to_vec(), view.data().to_vec()))
    }

    fn doubles(&self, name: &str) -> Vec<f64> {
        let (_, bytes) = self.tensor(name).unwrap_or_else(|| panic!("{} has no {name}", self.name));
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        let (_, bytes) = self.tensor(name).unwrap_or_else(|| panic!("{} has no {name}", self.name));
        bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Logits of the real rows, `[T, real, V]`: padding never reaches the loss.
    fn logits(&self) -> Vec<f32> {
        let (_, bytes) = self.tensor("logits").unwrap();
        let all: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let row = |peer: usize, row: usize| &all[(peer * self.rows + row) * self.catalogue..][..self.catalogue];
        (0..self.peers).flat_map(|peer| self.real.iter().flat_map(move |r| row(peer, *r).to_vec())).collect()
    }

    fn check(&self, variant: &Value, level: Level, distributions: bool, check: &mut Check) {
        let key = variant["key"].as_str().unwrap();
        let released = variant["method"] == "hail_released";
        let targets: Vec<i64> = self.integers("targets");
        let targets: Vec<i64> = self.real.iter().map(|row| targets[*row]).collect();
        let (spec, truncation) = self.loss(variant);
        let mut logits = self.logits();
        let entropies = cross_entropies(&logits, &targets, self.peers, self.catalogue);
        // Alone, a peer has no others to agree with on what is noise.
        let truncated = match truncation.filter(|_| self.peers > 1) {
            Some(truncation) => truncated_rows(&entropies, targets.len(), &truncation),
            None => vec![false; targets.len()],
        };
        let expected: Vec<u8> = self.tensor(&format!("{key}.truncated")).unwrap().1;
        let expected: Vec<bool> = self.real.iter().map(|row| expected[*row] == 1).collect();
        if truncated != expected {
            check.failures.push(format!("truncated rows {truncated:?} instead of {expected:?}"));
            return;
        }

        // The released program divides by the count plus 1e-5.
        let rows = targets.len() as f64 + if released { 1e-5 } else { 0.0 };
        let chunk = Chunk {
            targets: &targets,
            truncated: &truncated,
            scale: 1.0 / rows,
            peers: self.peers,
            catalogue: self.catalogue,
        };
        let mut sums = LossSums::new(self.peers);
        if distributions {
            let mut everyone = logits.clone();
            softmax_rows(&mut everyone, self.catalogue);
            // One peer at a time, as if each had a worker of its own.
            let size = targets.len() * self.catalogue;
            for (peer, own) in logits.chunks_exact_mut(size).enumerate() {
                own_losses_and_gradients_at(level, &spec, &chunk, &[peer], own, &everyone, &mut sums);
            }
        } else {
            losses_and_gradients_at(level, &spec, &chunk, &mut logits, &mut sums);
        }
        self.check_losses(key, &spec, released, rows, &sums, &truncated, &entropies, check);
        self.check_gradients(key, rows, &logits, check);
    }

    #[allow(clippy::too_many_arguments)]
    fn check_losses(
        &self,
        key: &str,
        spec: &LossSpec,
        released: bool,
        rows: f64,
        sums: &LossSums,
        truncated: &[bool],
        entropies: &[f32],
        check: &mut Check,
    ) {
        for (peer, sums) in sums.peers.iter().enumerate() {
            let mut cross_entropy = sums.cross_entropy;
            if released {
                // There the reported cross-entropy leaves truncated rows out too.
                let own = &entropies[peer * truncated.len()..(peer + 1) * truncated.len()];
                let left_out = own.iter().zip(truncated).filter(|(_, truncated)| **truncated);
                cross_entropy -= left_out.map(|(entropy, _)| f64::from(*entropy)).sum::<f64>();
            }
            let alone = self.peers == 1;
            let hidden = alone || !matches!(spec, LossSpec::Exclusivity { .. });
            let components = [
                ("total", sums.total),
                ("ce", cross_entropy),
                ("pos", if hidden { 0.0 } else { sums.positive }),
                ("neg", if hidden { 0.0 } else { sums.negative }),
                ("kl", sums.divergence),
            ];
            for (name, sum) in components {
                let expected = self.doubles(&format!("{key}.{name}"))[peer];
                let tolerance = LOSS_TOLERANCE.0 + LOSS_TOLERANCE.1 * expected.abs();
                check.near(&format!("{name} of peer {peer}"), sum / rows, expected, tolerance);
            }
        }
    }

    fn check_gradients(&self, key: &str, rows: f64, gradients: &[f32], check: &mut Check) {
        let kept: Vec<usize> = match self.tensor("grad_rows") {
            Some(_) => self.integers("grad_rows").into_iter().map(|row| row as usize).collect(),
            None => (0..self.rows).collect(),
        };
        let expected = self.doubles(&format!("{key}.grad"));
        let norms = self.doubles(&format!("{key}.grad_l2"));
        let count = self.real.len();
        for peer in 0..self.peers {
            for (place, row) in self.real.iter().enumerate() {
                let mine = &gradients[(peer * count + place) * self.catalogue..][..self.catalogue];
                let norm = mine.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
                let expected_norm = norms[peer * self.rows + row];
                let tolerance = GRADIENT_TOLERANCE * (1.0 + rows * expected_norm);
                check.near("gradient norm", rows * norm, rows * expected_norm, tolerance);
                if let Some(kept_place) = kept.iter().position(|kept| kept == row) {
                    let theirs = &expected[(peer * kept.len() + kept_place) * self.catalogue..][..self.catalogue];
                    let largest = theirs.iter().map(|g| g.abs()).fold(0.0, f64::max);
                    let tolerance = GRADIENT_TOLERANCE * (rows * largest).max(1.0);
                    for (class, (mine, theirs)) in mine.iter().zip(theirs).enumerate() {
                        let what = format!("gradient of peer {peer}, row {row}, class {class}");
                        check.near(&what, rows * f64::from(*mine), rows * theirs, tolerance);
                    }
                }
            }
        }
    }

    fn loss(&self, variant: &Value) -> (LossSpec, Option<Truncation>) {
        let number = |key: &str| variant[key].as_f64();
        let (alpha, gamma) = (number("alpha"), number("gamma").unwrap_or(1.0));
        let beta = number("beta").unwrap_or(0.0);
        let method = variant["method"].as_str().unwrap();
        let exclusivity = |teacher, truncate_ce| LossSpec::Exclusivity {
            alpha: alpha.unwrap(),
            gamma,
            teacher,
            positive_term: true,
            negative_term: true,
            truncate_ce,
            zero_pow_zero: number("zero_pow_zero") == Some(1.0),
        };
        let released = method == "hail_released";
        let over_slots = released || variant["rank_over"] == "slots";
        let truncation = Truncation {
            beta,
            rank_base: if released || variant["rank_base"] == 1 { RankBase::One } else { RankBase::Zero },
            rank_over: if over_slots { RankOver::Slots(self.rows) } else { RankOver::Rows },
        };
        match method {
            "hail" => (exclusivity(Teacher::Mean, false), Some(truncation)),
            "hail_released" => (exclusivity(Teacher::Mean, true), Some(truncation)),
            "peerrec_stage1" => (LossSpec::Mutual { alpha: None }, None),
            "peerrec_stage2" => (exclusivity(Teacher::MinimumGroup, false), Some(truncation)),
            "peerrec_stage2_average" => (exclusivity(Teacher::Mean, false), Some(truncation)),
            "mutual_mimic" => (LossSpec::Mutual { alpha }, None),
            other => panic!("{}: unknown method {other}", self.name),
        }
    }
}
