//! What must hold of the losses for any logits, checked on random small cases.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{ChunkRows, Exclusivity, LossError, LossKernel, LossSpec, LossSums, SimdLevel, minimum_groups};

/// A batch of rows: `logits` is `[peers, rows, catalogue]`.
#[derive(Clone, Debug)]
struct Batch {
    peers: usize,
    catalogue: usize,
    logits: Vec<f32>,
    targets: Vec<i64>,
    weights: Vec<f32>,
    truncated: Vec<bool>,
}

impl Batch {
    fn rows(&self) -> usize {
        self.targets.len()
    }

    fn chunk(&self) -> ChunkRows<'_> {
        ChunkRows {
            targets: &self.targets,
            weights: Some(&self.weights),
            truncated: Some(&self.truncated),
            catalogue: self.catalogue,
            scale: 1.0,
        }
    }

    fn row(&self, peer: usize, row: usize) -> &[f32] {
        &self.logits[(peer * self.rows() + row) * self.catalogue..][..self.catalogue]
    }

    fn run(&self, kernel: LossKernel, spec: &LossSpec) -> (LossSums, Vec<f32>) {
        let (mut sums, mut gradients) = (LossSums::new(self.peers), self.logits.clone());
        kernel.losses_and_gradients(spec, &self.chunk(), &mut gradients, &mut sums).unwrap();
        (sums, gradients)
    }
}

fn batches(peers: impl Strategy<Value = usize>) -> impl Strategy<Value = Batch> {
    (peers, 1..6_usize, 2..40_usize).prop_flat_map(|(peers, rows, catalogue)| {
        (
            prop::collection::vec(-5.0..5.0_f32, peers * rows * catalogue),
            prop::collection::vec(0..catalogue as i64, rows),
            prop::collection::vec(prop::sample::select(vec![0.0_f32, 0.5, 1.0, 1.0]), rows),
            prop::collection::vec(any::<bool>(), rows),
        )
            .prop_map(move |(logits, targets, weights, truncated)| Batch {
                peers,
                catalogue,
                logits,
                targets,
                weights,
                truncated,
            })
    })
}

fn specs() -> impl Strategy<Value = LossSpec> {
    let exclusivity = (0.0..1.0, prop::sample::select(vec![0.0, 0.5, 1.0, 1.0, 1.7, 2.0]), 0..4_u8, any::<bool>())
        .prop_map(|(alpha, gamma, kind, zero_pow_zero)| {
            LossSpec::Exclusivity(match kind {
                0 => Exclusivity::hail(alpha, gamma),
                1 => Exclusivity::hail_released(alpha, gamma),
                2 => Exclusivity { zero_pow_zero, ..Exclusivity::peerrec_stage2(alpha, gamma) },
                _ => Exclusivity { positive_term: zero_pow_zero, ..Exclusivity::hail(alpha, gamma) },
            })
        });
    prop_oneof![
        1 => Just(LossSpec::CrossEntropy),
        1 => (0.1..0.5).prop_map(|exponent| LossSpec::ReweightedCrossEntropy { exponent }),
        1 => prop::option::of(0.0..1.0).prop_map(|alpha| LossSpec::Mutual { alpha }),
        4 => exclusivity,
    ]
}

/// Total loss of `peer` on a row in f64, from the definition, its own logits being `own` and all else constant.
fn loss(batch: &Batch, spec: &LossSpec, peer: usize, row: usize, own: &[f64]) -> f64 {
    let log_softmax = |z: &[f64]| {
        let largest = z.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let log_sum = largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
        z.iter().map(|z| z - log_sum).collect::<Vec<_>>()
    };
    let constant: Vec<Vec<f64>> = (0..batch.peers)
        .map(|peer| log_softmax(&batch.row(peer, row).iter().map(|&z| f64::from(z)).collect::<Vec<_>>()))
        .collect();
    let target = batch.targets[row] as usize;
    let own = log_softmax(own);
    let ce = -own[target];
    let others: Vec<usize> = (0..batch.peers).filter(|&other| other != peer).collect();
    let mean_over = |peers: &[usize], of: &dyn Fn(&[f64]) -> f64| {
        peers.iter().map(|&peer| of(&constant[peer])).sum::<f64>() / peers.len() as f64
    };
    match spec {
        LossSpec::ReweightedCrossEntropy { exponent } => (constant[peer][target] * exponent).exp() * ce,
        LossSpec::Mutual { alpha } if !others.is_empty() => {
            let kl = mean_over(&others, &|log_p| {
                log_p.iter().zip(&own).map(|(log_p, own)| log_p.exp() * (log_p - own)).sum()
            });
            alpha.map_or(ce + kl, |alpha| alpha * ce + (1.0 - alpha) * kl)
        }
        LossSpec::Exclusivity(spec) => {
            let truncated = batch.truncated[row];
            let ce_part = if truncated && spec.truncate_ce { 0.0 } else { ce };
            if others.is_empty() {
                return ce_part;
            }
            let ces: Vec<f64> = constant.iter().map(|log_p| -log_p[target]).collect();
            let teachers = match spec.teacher {
                super::Teacher::Mean => others,
                super::Teacher::MinimumGroup => vec![minimum_groups(&ces)[peer].unwrap()],
            };
            let kept = f64::from(u8::from(!truncated || (spec.zero_pow_zero && spec.gamma == 0.0)));
            let unlikelihood = mean_over(&teachers, &|log_p| (1.0 - log_p[target].exp()).powf(spec.gamma));
            let negative = (0..batch.catalogue).filter(|&class| class != target).map(|class| {
                let q = mean_over(&teachers, &|log_p| log_p[class].exp().powf(spec.gamma));
                -q * (-own[class].exp()).ln_1p()
            });
            let pos = if spec.positive_term { unlikelihood * ce } else { 0.0 };
            let neg = if spec.negative_term { negative.sum() } else { 0.0 };
            spec.alpha * ce_part + (1.0 - spec.alpha) * kept * (pos + neg)
        }
        _ => ce,
    }
}

fn kernels() -> impl Iterator<Item = LossKernel> {
    SimdLevel::available().iter().map(|&level| LossKernel::with_level(level).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(3),
        ..ProptestConfig::default()
    })]

    #[test]
    fn gradients_are_finite_differences_of_the_definition(batch in batches(1..5_usize), spec in specs()) {
        for kernel in kernels() {
            let (sums, gradients) = batch.run(kernel, &spec);
            for peer in 0..batch.peers {
                let mut total = 0.0;
                for row in 0..batch.rows() {
                    let weight = f64::from(batch.weights[row]);
                    let mut z: Vec<f64> = batch.row(peer, row).iter().map(|&z| f64::from(z)).collect();
                    total += weight * loss(&batch, &spec, peer, row, &z);
                    let at = (peer * batch.rows() + row) * batch.catalogue;
                    for class in 0..batch.catalogue {
                        const STEP: f64 = 1e-5;
                        let middle = z[class];
                        z[class] = middle + STEP;
                        let above = loss(&batch, &spec, peer, row, &z);
                        z[class] = middle - STEP;
                        let below = loss(&batch, &spec, peer, row, &z);
                        z[class] = middle;
                        // R-CE's weight is a constant to the gradient, as it is in `loss`.
                        let difference = weight * (above - below) / (2.0 * STEP);
                        let gradient = f64::from(gradients[at + class]);
                        prop_assert!((gradient - difference).abs() < 3e-6, "{gradient} {difference} {spec:?}");
                    }
                }
                prop_assert!((sums.peers[peer].total - total).abs() < 2e-6 + 1e-5 * total.abs());
            }
        }
    }

    #[test]
    fn gradients_of_a_row_sum_to_zero(batch in batches(1..6_usize), spec in specs()) {
        for kernel in kernels() {
            let (_, gradients) = batch.run(kernel, &spec);
            for (at, row) in gradients.chunks_exact(batch.catalogue).enumerate() {
                prop_assert!(row.iter().map(|&g| f64::from(g)).sum::<f64>().abs() < 1e-5);
                if batch.weights[at % batch.rows()] == 0.0 {
                    prop_assert!(row.iter().all(|&g| g == 0.0));
                }
            }
        }
    }

    #[test]
    fn exchanging_peers_exchanges_their_results(batch in batches(2..6_usize), spec in specs(), turn in 1..5_usize) {
        let mut turned = batch.clone();
        let by = (turn % batch.peers) * batch.rows() * batch.catalogue;
        turned.logits.rotate_left(by);
        let (sums, mut gradients) = batch.run(LossKernel::new(), &spec);
        let (turned_sums, turned_gradients) = turned.run(LossKernel::new(), &spec);
        gradients.rotate_left(by);
        for (a, b) in gradients.iter().zip(&turned_gradients) {
            prop_assert!((a - b).abs() < 2e-6);
        }
        for (peer, losses) in turned_sums.peers.iter().enumerate() {
            let before = sums.peers[(peer + turn) % batch.peers].total;
            prop_assert!((losses.total - before).abs() < 1e-5 * (1.0 + before.abs()));
        }
        prop_assert_eq!(sums.implicitly_hard_rows, turned_sums.implicitly_hard_rows);
    }

    #[test]
    fn a_single_peer_has_plain_cross_entropy(mut batch in batches(Just(1)), spec in specs()) {
        batch.truncated.fill(false);
        let reweighted = matches!(spec, LossSpec::ReweightedCrossEntropy { .. });
        let (sums, gradients) = batch.run(LossKernel::new(), &spec);
        let (plain, plain_gradients) = batch.run(LossKernel::new(), &LossSpec::CrossEntropy);
        if !reweighted {
            prop_assert_eq!(sums, plain);
            prop_assert_eq!(gradients, plain_gradients);
        }
    }

    #[test]
    fn distributions_give_what_logits_give(batch in batches(1..6_usize), spec in specs()) {
        for kernel in kernels() {
            let (sums, gradients) = batch.run(kernel, &spec);
            let mut everyone = batch.logits.clone();
            kernel.softmax(batch.catalogue, &mut everyone);
            // Two workers, hosting the even and the odd peers.
            for first in 0..2.min(batch.peers) {
                let own: Vec<usize> = (first..batch.peers).step_by(2).collect();
                let block = batch.rows() * batch.catalogue;
                let mut logits: Vec<f32> =
                    own.iter().flat_map(|peer| &batch.logits[peer * block..(peer + 1) * block]).copied().collect();
                let mut own_sums = LossSums::new(batch.peers);
                kernel
                    .losses_and_gradients_for(&spec, &batch.chunk(), &own, &mut logits, &everyone, &mut own_sums)
                    .unwrap();
                for (&peer, found) in own.iter().zip(logits.chunks_exact(block)) {
                    for (a, b) in found.iter().zip(&gradients[peer * block..]) {
                        prop_assert!((a - b).abs() < 2e-6, "{a} {b} {spec:?}");
                    }
                    let (a, b) = (own_sums.peers[peer].total, sums.peers[peer].total);
                    prop_assert!((a - b).abs() < 2e-6 + 1e-5 * b.abs());
                }
                prop_assert_eq!(own_sums.implicitly_hard_rows, sums.implicitly_hard_rows);
                prop_assert_eq!(own_sums.truncated_rows, sums.truncated_rows);
            }
        }
    }
}

/// A batch large enough for threads.
fn large() -> Batch {
    let (peers, rows, catalogue) = (3, 21, 2500);
    let wave = |at: usize| ((at * 7919 % 10_007) as f32 / 10_007.0 - 0.5) * 12.0;
    Batch {
        peers,
        catalogue,
        logits: (0..peers * rows * catalogue).map(wave).collect(),
        targets: (0..rows as i64).map(|row| row * 113 % catalogue as i64).collect(),
        weights: (0..rows).map(|row| if row == 4 { 0.0 } else { 1.0 }).collect(),
        truncated: (0..rows).map(|row| row % 7 == 2).collect(),
    }
}

#[test]
fn threads_and_chunks_do_not_change_a_bit() {
    let batch = large();
    let spec = LossSpec::Exclusivity(Exclusivity::hail(0.5, 1.0));
    let (sums, gradients) = batch.run(LossKernel::new(), &spec);
    for threads in [2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (threaded_sums, threaded) = pool.install(|| batch.run(LossKernel::new().on_threads(true), &spec));
        assert_eq!(sums, threaded_sums);
        assert!(gradients == threaded, "gradients differ on {threads} threads");
    }

    let mut chunked = LossSums::new(batch.peers);
    for row in 0..batch.rows() {
        let mut logits: Vec<f32> = (0..batch.peers).flat_map(|peer| batch.row(peer, row)).copied().collect();
        let one = row..row + 1;
        let rows = ChunkRows {
            targets: &batch.targets[one.clone()],
            weights: Some(&batch.weights[one.clone()]),
            truncated: Some(&batch.truncated[one]),
            ..batch.chunk()
        };
        LossKernel::new().losses_and_gradients(&spec, &rows, &mut logits, &mut chunked).unwrap();
        let at = row * batch.catalogue;
        assert!(logits[..batch.catalogue] == gradients[at..at + batch.catalogue], "row {row}");
    }
    assert_eq!(sums, chunked);
}

#[test]
fn cross_entropies_are_those_of_the_loss() {
    let batch = large();
    for kernel in kernels() {
        let (sums, _) = batch.run(kernel, &LossSpec::CrossEntropy);
        let mut ce = vec![0.0; batch.peers * batch.rows()];
        kernel.cross_entropies(&batch.chunk(), &batch.logits, &mut ce).unwrap();
        for (peer, ce) in ce.chunks_exact(batch.rows()).enumerate() {
            assert_eq!(ce.iter().sum::<f64>(), sums.peers[peer].ce);
            assert_eq!(ce[4], 0.0, "padding");
        }
    }
}

#[test]
fn peers_far_apart_in_scale_stay_finite() {
    // Gaps far beyond the range of e^x in f32, with the sure peer right and wrong, and a class masked by -inf.
    let mut batch = large();
    for (at, z) in batch.logits.iter_mut().enumerate() {
        *z = if at % 2500 == 5 {
            300.0
        } else if at % 2500 == 9 {
            f32::NEG_INFINITY
        } else {
            *z
        };
    }
    batch.targets[0] = 5;
    for spec in [
        LossSpec::Exclusivity(Exclusivity::hail(0.5, 1.0)),
        LossSpec::Exclusivity(Exclusivity::peerrec_stage2(0.5, 0.5)),
        LossSpec::Exclusivity(Exclusivity::hail(0.5, 0.0)),
        LossSpec::Mutual { alpha: None },
    ] {
        for kernel in kernels() {
            let (sums, gradients) = batch.run(kernel, &spec);
            assert!(gradients.iter().all(|g| g.is_finite()), "{spec:?}");
            assert!(sums.peers.iter().all(|peer| peer.total.is_finite()), "{spec:?} {sums:?}");
        }
    }
}

#[test]
fn a_logit_that_is_not_a_number_is_not_hidden() {
    let mut batch = large();
    batch.logits[77] = f32::NAN;
    for spec in
        [LossSpec::CrossEntropy, LossSpec::Exclusivity(Exclusivity::hail(0.5, 1.0)), LossSpec::Mutual { alpha: None }]
    {
        for kernel in kernels() {
            let (sums, gradients) = batch.run(kernel, &spec);
            assert!(sums.peers[0].total.is_nan(), "{spec:?}");
            assert!(gradients[0].is_nan(), "{spec:?}");
        }
    }
}

#[test]
fn bad_shapes_and_targets_are_named() {
    let mut batch = large();
    let mut sums = LossSums::new(batch.peers + 1);
    let mut logits = batch.logits.clone();
    let error = LossKernel::new()
        .losses_and_gradients(&LossSpec::CrossEntropy, &batch.chunk(), &mut logits, &mut sums)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "logits of the loss chunk has 157500 entries, but 210000 are needed ([peers, rows, catalogue])"
    );
    batch.targets[4] = -1;
    assert!(batch.chunk().targets[4] < 0, "padding's target is ignored");
    batch.run(LossKernel::new(), &LossSpec::CrossEntropy);
    batch.targets[3] = 2500;
    let error = LossKernel::new()
        .losses_and_gradients(&LossSpec::CrossEntropy, &batch.chunk(), &mut logits, &mut LossSums::new(3))
        .unwrap_err();
    assert_eq!(error, LossError::Target { row: 3, target: 2500, catalogue: 2500 });
}
