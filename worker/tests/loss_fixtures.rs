//! The loss kernels against reference values computed in float64.
//!
//! Cases are read from the small set in `tests/fixtures` (made by `examples/make_loss_fixtures.rs`), from the directory
//! in `MEDLEY_FIXTURES` if it is set, and else from the fixtures shared beside the workspace if they are there. Each
//! variant goes through every instruction set of the machine and both entries of the kernel.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use medley_worker::loss::{
    ChunkRows, Exclusivity, LossKernel, LossSpec, LossSums, RankBase, RankOver, RankRule, SimdLevel, Truncation,
    minimum_groups, truncated_rows,
};
use safetensors::SafeTensors;
use serde_json::Value;

/// Rows a chunk: small, so that most cases take several chunks.
const CHUNK: usize = 3;

struct Case {
    name: String,
    family: String,
    peers: usize,
    rows: usize,
    catalogue: usize,
    logits: Vec<f32>,
    targets: Vec<i64>,
    weights: Option<Vec<f32>>,
    row_ce: Vec<f64>,
    grad_rows: Vec<usize>,
    variants: Vec<Value>,
    tensors: Vec<u8>,
}

fn numbers<const N: usize, T>(tensors: &SafeTensors<'_>, name: &str, read: fn([u8; N]) -> T) -> Option<Vec<T>> {
    let view = tensors.tensor(name).ok()?;
    Some(view.data().chunks_exact(N).map(|bytes| read(bytes.try_into().unwrap())).collect())
}

impl Case {
    fn read(directory: &Path, entry: &Value) -> Self {
        let file = entry.as_str().or_else(|| entry["file"].as_str()).expect("an entry names its file");
        let stem = file.trim_end_matches(".safetensors").trim_end_matches(".json");
        let json = std::fs::read(directory.join(format!("{stem}.json"))).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        let bytes = std::fs::read(directory.join(format!("{stem}.safetensors"))).unwrap();
        let size = |key: &str| json[key].as_u64().unwrap() as usize;
        let (peers, rows, catalogue) = (size("T"), size("B"), size("V"));
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let weights = numbers(&tensors, "weights", f64::from_le_bytes);
        assert_eq!(weights.is_some(), json["padded"] == true, "{stem}");
        let grad_rows = numbers(&tensors, "grad_rows", i64::from_le_bytes)
            .map_or((0..rows).collect(), |kept| kept.into_iter().map(|row| row as usize).collect());
        Self {
            name: stem.to_owned(),
            family: json["family"].as_str().unwrap().to_owned(),
            peers,
            rows,
            catalogue,
            logits: numbers(&tensors, "logits", f32::from_le_bytes).unwrap(),
            targets: numbers(&tensors, "targets", i64::from_le_bytes).unwrap(),
            weights: weights.map(|weights| weights.into_iter().map(|weight| weight as f32).collect()),
            row_ce: numbers(&tensors, "row_ce", f64::from_le_bytes).unwrap(),
            grad_rows,
            variants: json["variants"].as_array().unwrap().clone(),
            tensors: bytes,
        }
    }

    fn weight_sum(&self) -> f64 {
        self.weights.as_ref().map_or(self.rows as f64, |weights| weights.iter().map(|&w| f64::from(w)).sum())
    }

    /// The rows `chunk` of all peers, as one block.
    fn chunk_of<T: Copy>(&self, all: &[T], width: usize, chunk: std::ops::Range<usize>) -> Vec<T> {
        let peers = all.chunks_exact(self.rows * width);
        peers.flat_map(|peer| &peer[chunk.start * width..chunk.end * width]).copied().collect()
    }
}

fn read_directory(directory: &Path) -> Vec<Case> {
    let index = std::fs::read(directory.join("index.json"))
        .unwrap_or_else(|error| panic!("{}: no index.json to read ({error})", directory.display()));
    let index: Value = serde_json::from_slice(&index).unwrap();
    let entries = index.as_array().or_else(|| index["cases"].as_array()).expect("index.json lists the cases");
    assert!(!entries.is_empty(), "{}: index.json lists no case", directory.display());
    entries.iter().map(|entry| Case::read(directory, entry)).collect()
}

fn method_of(variant: &Value) -> (LossSpec, Truncation) {
    let number = |key: &str| variant[key].as_f64();
    let (alpha, gamma) = (number("alpha").unwrap_or(1.0), number("gamma").unwrap_or(1.0));
    let base = if number("rank_base") == Some(0.0) { RankBase::Zero } else { RankBase::One };
    let over = if variant["rank_over"] == "slots" { RankOver::Slots } else { RankOver::Rows };
    let mut rule = RankRule::Descending { base, over };
    let spec = match variant["method"].as_str().unwrap() {
        "hail" => LossSpec::Exclusivity(Exclusivity {
            positive_term: variant["positive_term"] != false,
            negative_term: variant["negative_term"] != false,
            ..Exclusivity::hail(alpha, gamma)
        }),
        "hail_released" => {
            rule = RankRule::Released;
            LossSpec::Exclusivity(Exclusivity::hail_released(alpha, gamma))
        }
        "peerrec_stage1" => LossSpec::Mutual { alpha: None },
        "mutual_mimic" => LossSpec::Mutual { alpha: number("alpha") },
        "peerrec_stage2" => LossSpec::Exclusivity(Exclusivity {
            zero_pow_zero: number("zero_pow_zero") == Some(1.0),
            ..Exclusivity::peerrec_stage2(alpha, gamma)
        }),
        "peerrec_stage2_average" => LossSpec::Exclusivity(Exclusivity::hail(alpha, gamma)),
        "cross_entropy" => LossSpec::CrossEntropy,
        "r_ce" => LossSpec::ReweightedCrossEntropy { exponent: number("exponent").unwrap() },
        other => panic!("no method {other}"),
    };
    (spec, Truncation { beta: number("beta").unwrap_or(0.0), rule })
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    AllLogits,
    Distributions,
}

/// Runs a whole batch in chunks: sums, gradients `[T, B, V]`, truncated rows.
fn run(
    kernel: LossKernel,
    entry: Entry,
    case: &Case,
    spec: &LossSpec,
    truncation: &Truncation,
) -> (LossSums, Vec<f32>, Vec<bool>, Vec<f64>) {
    let Case { peers, rows, catalogue, .. } = *case;
    let whole =
        |range: std::ops::Range<usize>| (&case.targets[range.clone()], case.weights.as_ref().map(move |w| &w[range]));
    let chunk_rows = |range: std::ops::Range<usize>, truncated| {
        let (targets, weights) = whole(range);
        let scale = 1.0 / spec.denominator(case.weight_sum());
        ChunkRows { targets, weights, truncated, catalogue, scale }
    };
    let mut ce = vec![0.0; peers * rows];
    kernel.cross_entropies(&chunk_rows(0..rows, None), &case.logits, &mut ce).unwrap();
    let by_peer: Vec<&[f64]> = ce.chunks_exact(rows).collect();
    let truncated = truncated_rows(&by_peer, case.weights.as_deref(), rows, truncation);

    let mut sums = LossSums::new(peers);
    let mut gradients = vec![f32::NAN; peers * rows * catalogue];
    for start in (0..rows).step_by(CHUNK) {
        let range = start..rows.min(start + CHUNK);
        let rows_of_chunk = chunk_rows(range.clone(), Some(&truncated[range.clone()]));
        let mut logits = case.chunk_of(&case.logits, catalogue, range.clone());
        match entry {
            Entry::AllLogits => kernel.losses_and_gradients(spec, &rows_of_chunk, &mut logits, &mut sums).unwrap(),
            Entry::Distributions => {
                let mut everyone = logits.clone();
                kernel.softmax(catalogue, &mut everyone);
                let mut of_cohort = LossSums::new(peers);
                for (peer, own) in logits.chunks_exact_mut(range.len() * catalogue).enumerate() {
                    let mut of_peer = LossSums::new(peers);
                    kernel
                        .losses_and_gradients_for(spec, &rows_of_chunk, &[peer], own, &everyone, &mut of_peer)
                        .unwrap();
                    of_cohort.peers[peer] = of_peer.peers[peer];
                    of_cohort = LossSums { peers: of_cohort.peers, ..of_peer };
                }
                sums.merge(&of_cohort);
            }
        }
        for (peer, block) in logits.chunks_exact(range.len() * catalogue).enumerate() {
            let at = (peer * rows + range.start) * catalogue;
            gradients[at..at + block.len()].copy_from_slice(block);
        }
    }
    (sums, gradients, truncated, ce)
}

#[derive(Default)]
struct Report {
    failures: Vec<String>,
    /// Worst error as a share of what is allowed, and absolute, by family and quantity.
    worst: BTreeMap<(String, &'static str), (f64, f64)>,
    variants: usize,
}

impl Report {
    fn compare(
        &mut self,
        case: &Case,
        what: &str,
        quantity: &'static str,
        found: &[f64],
        wanted: &[f64],
        allowed: impl Fn(f64) -> f64,
    ) {
        assert_eq!(found.len(), wanted.len(), "{} {what} {quantity}", case.name);
        let (mut share, mut error) = (0.0_f64, 0.0_f64);
        for (&found, &wanted) in found.iter().zip(wanted) {
            let off = (found - wanted).abs();
            let of_allowed = off / allowed(wanted);
            share = if of_allowed.is_nan() { f64::INFINITY } else { share.max(of_allowed) };
            error = if off.is_nan() { f64::INFINITY } else { error.max(off) };
        }
        let worst = self.worst.entry((case.family.clone(), quantity)).or_default();
        *worst = (worst.0.max(share), worst.1.max(error));
        if share > 1.0 {
            self.failures
                .push(format!("{} {what} {quantity}: off by {error:e}, {share:.2} of what is allowed", case.name));
        }
    }

    fn exact(&mut self, case: &Case, what: &str, quantity: &'static str, same: bool) {
        if !same {
            self.failures.push(format!("{} {what} {quantity}: differs", case.name));
        }
    }
}

fn check(case: &Case, kernel: LossKernel, entry: Entry, variant: &Value, report: &mut Report) {
    let key = variant["key"].as_str().unwrap();
    let what = format!("{key} {} {:?} {entry:?}", variant["method"], kernel.level());
    let tensors = SafeTensors::deserialize(&case.tensors).unwrap();
    let doubles = |name: &str| numbers(&tensors, &format!("{key}.{name}"), f64::from_le_bytes);
    let (spec, truncation) = method_of(variant);
    let (sums, gradients, truncated, ce) = run(kernel, entry, case, &spec, &truncation);
    report.variants += 1;

    let loss_tolerance = |wanted: f64| 2e-6 + 1e-5 * wanted.abs();
    let real = |row: usize| case.weights.as_ref().is_none_or(|weights| weights[row] != 0.0);
    let wanted_ce: Vec<f64> =
        case.row_ce.iter().enumerate().map(|(at, &ce)| if real(at % case.rows) { ce } else { 0.0 }).collect();
    report.compare(case, &what, "row_ce", &ce, &wanted_ce, loss_tolerance);
    let means = sums.means(&spec);
    let losses = |of: fn(&medley_worker::loss::PeerLosses) -> f64| means.iter().map(of).collect::<Vec<_>>();
    report.compare(case, &what, "ce", &losses(|p| p.ce), &doubles("ce").unwrap(), loss_tolerance);
    report.compare(case, &what, "pos", &losses(|p| p.pos), &doubles("pos").unwrap(), loss_tolerance);
    report.compare(case, &what, "neg", &losses(|p| p.neg), &doubles("neg").unwrap(), loss_tolerance);
    report.compare(case, &what, "kl", &losses(|p| p.kl), &doubles("kl").unwrap(), loss_tolerance);
    report.compare(case, &what, "total", &losses(|p| p.total), &doubles("total").unwrap(), loss_tolerance);

    let wanted: Vec<bool> =
        tensors.tensor(&format!("{key}.truncated")).unwrap().data().iter().map(|&b| b != 0).collect();
    report.exact(case, &what, "truncated", wanted == truncated);
    report.exact(case, &what, "truncated_rows", sums.truncated_rows == wanted.iter().filter(|&&b| b).count() as u64);
    if let (Some(wanted), true) =
        (numbers(&tensors, &format!("{key}.group"), i64::from_le_bytes), case.family != "ties")
    {
        for row in (0..case.rows).filter(|&row| real(row)) {
            let of_row: Vec<f64> = (0..case.peers).map(|peer| ce[peer * case.rows + row]).collect();
            let groups = minimum_groups(&of_row);
            let same =
                (0..case.peers).all(|peer| groups[peer].map(|g| g as i64) == Some(wanted[peer * case.rows + row]));
            report.exact(case, &what, "group", same);
        }
    }

    // Gradients times B, by row: 1e-5 absolute, and far closer relative to the row's largest.
    let rows = case.rows as f64;
    let (wanted, norms) = (doubles("grad").unwrap(), doubles("grad_l2").unwrap());
    let row_of = |peer: usize, row: usize| -> Vec<f64> {
        let at = (peer * case.rows + row) * case.catalogue;
        gradients[at..at + case.catalogue].iter().map(|&g| rows * f64::from(g)).collect()
    };
    for (at, wanted) in wanted.chunks_exact(case.catalogue).enumerate() {
        let (peer, row) = (at / case.grad_rows.len(), case.grad_rows[at % case.grad_rows.len()]);
        let wanted: Vec<f64> = wanted.iter().map(|g| rows * g).collect();
        let found = row_of(peer, row);
        report.compare(case, &what, "grad", &found, &wanted, |_| 1e-5);
        let largest = wanted.iter().fold(0.0_f64, |largest, g| largest.max(g.abs()));
        // Where terms near 1 cancel, what is left of a row still has their last digit's error.
        report
            .compare(case, &what, "grad_relative", &found, &wanted, |_| 1e-5 * largest + 2.0 * f64::from(f32::EPSILON));
        if largest == 0.0 {
            report.exact(case, &what, "zero gradient", found.iter().all(|&g| g == 0.0));
        }
    }
    for peer in 0..case.peers {
        for row in 0..case.rows {
            let norm = row_of(peer, row).iter().map(|g| g * g).sum::<f64>().sqrt();
            let wanted = rows * norms[peer * case.rows + row];
            report.compare(case, &what, "grad_l2", &[norm], &[wanted], |wanted| 1e-5 + 1e-5 * wanted);
        }
    }
}

fn check_directory(directory: &Path) {
    let cases = read_directory(directory);
    let mut report = Report::default();
    for case in &cases {
        for &level in SimdLevel::available() {
            let kernel = LossKernel::with_level(level).unwrap();
            for variant in &case.variants {
                for entry in [Entry::AllLogits, Entry::Distributions] {
                    check(case, kernel, entry, variant, &mut report);
                }
            }
        }
    }
    println!("{}: {} cases, {} runs of variants", directory.display(), cases.len(), report.variants);
    for ((family, quantity), (share, error)) in &report.worst {
        println!("  {family:10} {quantity:14} worst error {error:9.2e}, {share:.3} of what is allowed");
    }
    let shown = report.failures.iter().take(60).cloned().collect::<Vec<_>>().join("\n");
    assert!(report.failures.is_empty(), "{} comparisons failed:\n{shown}", report.failures.len());
}

#[test]
fn own_reference_values() {
    check_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
}

#[test]
fn shared_reference_values() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let shared = std::env::var_os("MEDLEY_SHARED").map_or(shared, |shared| PathBuf::from(shared).join("fixtures"));
    match std::env::var_os("MEDLEY_FIXTURES") {
        // Cargo runs tests in the package's directory, and whoever types a relative path stands in the workspace's.
        Some(directory) => check_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(directory)),
        None if shared.is_dir() => check_directory(&shared),
        None => println!("skipped: neither MEDLEY_FIXTURES nor {} is there", shared.display()),
    }
}
