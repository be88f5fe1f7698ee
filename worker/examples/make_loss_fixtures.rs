//! Makes the reference values in `worker/tests/fixtures`: the peer losses written out from their equations in float64, with
//! gradients by libtorch's automatic differentiation. It shares no code with the kernels that it checks.
//!
//! `cargo run -p medley-worker --example make_loss_fixtures -- worker/tests/fixtures` (libtorch on the loader's path)

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use rand::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// One set of inputs.
struct Inputs {
    family: &'static str,
    peers: usize,
    rows: usize,
    catalogue: usize,
    logits: Vec<f32>,
    targets: Vec<i64>,
    weights: Option<Vec<f64>>,
}

fn inputs(family: &'static str, peers: usize, rows: usize, catalogue: usize, seed: u64) -> Inputs {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let spread = if family == "extreme" { 40.0 } else { 2.5 };
    let mut logits: Vec<f32> = (0..peers * rows * catalogue).map(|_| random.random_range(-spread..spread)).collect();
    let mut targets: Vec<i64> = (0..rows).map(|_| random.random_range(0..catalogue as i64)).collect();
    let weights = (family == "padded").then(|| (0..rows).map(|row| if row % 3 == 1 { 0.0 } else { 1.0 }).collect());
    if let Some(weights) = &weights {
        let weights: &Vec<f64> = weights;
        for (target, weight) in targets.iter_mut().zip(weights) {
            *target *= *weight as i64;
        }
    }
    for row in 0..rows {
        for peer in 0..peers {
            let of_row = &mut logits[(peer * rows + row) * catalogue..][..catalogue];
            if family == "certain" && row % peers == peer {
                // Right on even rows, wrong on odd ones.
                let class = (targets[row] as usize + row % 2) % catalogue;
                of_row[class] = 45.0;
            } else if family == "plain" && row % 2 == 0 {
                of_row[targets[row] as usize] += 3.0;
            }
        }
    }
    Inputs { family, peers, rows, catalogue, logits, targets, weights }
}

fn doubles(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

/// Rows that every peer ranks among the largest; sorted in full, by the words of the definition.
fn truncated(inputs: &Inputs, ce: &[f64], variant: &Value) -> Vec<bool> {
    let beta = variant["beta"].as_f64().unwrap_or(0.0);
    let real = |row: usize| inputs.weights.as_ref().is_none_or(|weights| weights[row] != 0.0);
    let slots = inputs.rows;
    let mut keep_count = vec![0; slots];
    if inputs.peers == 1 || beta == 0.0 {
        return vec![false; slots];
    }
    for peer in ce.chunks(slots) {
        let loss = |row: usize| if real(row) { peer[row] } else { 0.0 };
        if variant["method"] == "hail_released" {
            let mut ascending: Vec<usize> = (0..slots).collect();
            ascending.sort_by(|&a, &b| loss(a).total_cmp(&loss(b)));
            let position = (slots as f32 * (1.0 - beta) as f32) as usize;
            ascending.iter().skip(position + 1).for_each(|&row| keep_count[row] += 1);
        } else {
            let mut descending: Vec<usize> = (0..slots).filter(|&row| real(row)).collect();
            let n = if variant["rank_over"] == "slots" { slots } else { descending.len() };
            descending.sort_by(|&a, &b| loss(b).total_cmp(&loss(a)));
            let base = variant["rank_base"].as_f64().unwrap();
            for (rank, &row) in descending.iter().enumerate() {
                keep_count[row] += usize::from(rank as f64 + base < beta * n as f64);
            }
        }
    }
    keep_count.into_iter().map(|count| count == inputs.peers).collect()
}

/// Tensors of one variant by name, in the order of `ce, pos, neg, kl, total, truncated, group, grad, grad_l2`.
fn evaluate(inputs: &Inputs, variant: &Value) -> BTreeMap<String, (Vec<u8>, Dtype, Vec<usize>)> {
    let (peers, rows, classes) = (inputs.peers as i64, inputs.rows as i64, inputs.catalogue as i64);
    let number = |key: &str| variant[key].as_f64();
    let method = variant["method"].as_str().unwrap();
    let z =
        Tensor::from_slice(&inputs.logits).to_kind(Kind::Double).view([peers, rows, classes]).set_requires_grad(true);
    let targets = Tensor::from_slice(&inputs.targets);
    let index = targets.view([1, rows, 1]).expand([peers, rows, 1], false);
    let weights = match &inputs.weights {
        Some(weights) => Tensor::from_slice(weights),
        None => Tensor::ones([rows], (Kind::Double, tch::Device::Cpu)),
    };
    let one_hot = targets.one_hot(classes).to_kind(Kind::Double);

    let log_p = z.log_softmax(-1, Kind::Double);
    let ce = -log_p.gather(-1, &index, false).squeeze_dim(-1);
    // log(1 - p_k), from the sum of all exponentials but the k-th.
    let diagonal = Tensor::eye(classes, (Kind::Bool, tch::Device::Cpu));
    let without = z.unsqueeze(2).masked_fill(&diagonal, f64::NEG_INFINITY).logsumexp(&[-1_i64][..], false);
    let log_1mp = &without - z.logsumexp(&[-1_i64][..], true);
    let p = log_p.exp().detach();
    let q_target = log_1mp.exp().detach().gather(-1, &index, false).squeeze_dim(-1);

    let dropped = truncated(inputs, &doubles(&ce), variant);
    let kept = Tensor::from_slice(&dropped.iter().map(|&d| f64::from(u8::from(!d))).collect::<Vec<_>>());
    let epsilon = if method == "hail_released" { 1e-5 } else { 0.0 };
    let count = weights.sum(Kind::Double) + epsilon;
    let mean = |per_row: &Tensor| (per_row * &weights).sum_dim_intlist(&[-1_i64][..], false, Kind::Double) / &count;
    let zero = || Tensor::zeros([peers], (Kind::Double, tch::Device::Cpu));

    let (mut pos, mut neg, mut kl) = (zero(), zero(), zero());
    let mut groups: Option<Vec<i64>> = None;
    let cooperative = peers > 1;
    let mut ce_mean = mean(&ce);
    if cooperative && matches!(method, "peerrec_stage1" | "mutual_mimic") {
        let mut of_peers = Vec::new();
        for j in 0..peers {
            let mut sum = Tensor::zeros([rows], (Kind::Double, tch::Device::Cpu));
            for l in (0..peers).filter(|&l| l != j) {
                let difference = log_p.get(l).detach() - log_p.get(j);
                sum += (p.get(l) * difference).sum_dim_intlist(&[-1_i64][..], false, Kind::Double);
            }
            of_peers.push(mean(&(sum / (peers - 1) as f64)));
        }
        kl = Tensor::stack(&of_peers, 0);
    } else if cooperative && !matches!(method, "cross_entropy" | "r_ce") {
        let gamma = number("gamma").unwrap();
        let (positive, negative) = (variant["positive_term"] != false, variant["negative_term"] != false);
        if method == "hail_released" {
            ce_mean = mean(&(&ce * &kept));
        }
        let literal_power = gamma == 0.0 && number("zero_pow_zero") == Some(1.0);
        let kept = if literal_power { kept.ones_like() } else { kept };
        let ce_values = doubles(&ce);
        let (mut poses, mut negs) = (Vec::new(), Vec::new());
        let mut chosen = vec![0_i64; inputs.peers * inputs.rows];
        for j in 0..inputs.peers {
            // [rows, peers]: which peer counts how much.
            let mut choice = vec![0.0; inputs.rows * inputs.peers];
            for row in 0..inputs.rows {
                let others = (0..inputs.peers).filter(|&c| c != j);
                if method == "peerrec_stage2" {
                    let ce_of = |c: usize| ce_values[c * inputs.rows + row];
                    let group = others.reduce(|a, b| if ce_of(b) > ce_of(a) { b } else { a }).unwrap();
                    choice[row * inputs.peers + group] = 1.0;
                    chosen[j * inputs.rows + row] = group as i64;
                } else {
                    others.for_each(|c| choice[row * inputs.peers + c] = 1.0 / (inputs.peers - 1) as f64);
                }
            }
            let choice = Tensor::from_slice(&choice).view([rows, peers]).transpose(0, 1);
            let u = (q_target.pow_tensor_scalar(gamma) * &choice).sum_dim_intlist(&[0_i64][..], false, Kind::Double);
            let q =
                (p.pow_tensor_scalar(gamma) * choice.unsqueeze(-1)).sum_dim_intlist(&[0_i64][..], false, Kind::Double);
            let q: Tensor = q * (1.0 - &one_hot);
            poses.push(mean(&(&kept * u * ce.get(j as i64))));
            let terms = -(q * log_1mp.get(j as i64)).sum_dim_intlist(&[-1_i64][..], false, Kind::Double);
            negs.push(mean(&(&kept * terms)));
        }
        pos = Tensor::stack(&poses, 0) * f64::from(u8::from(positive));
        neg = Tensor::stack(&negs, 0) * f64::from(u8::from(negative));
        if method == "peerrec_stage2" {
            groups = Some(chosen);
        }
    }
    let total = match (method, number("alpha")) {
        ("r_ce", _) => mean(&(&ce * (-ce.detach() * number("exponent").unwrap()).exp())),
        _ if !cooperative => ce_mean.shallow_clone(),
        ("peerrec_stage1", _) | ("mutual_mimic", None) => &ce_mean + &kl,
        ("cross_entropy", _) => ce_mean.shallow_clone(),
        (_, alpha) => {
            let alpha = alpha.unwrap();
            alpha * &ce_mean + (1.0 - alpha) * (&pos + &neg + &kl)
        }
    };
    total.sum(Kind::Double).backward();
    let gradient = z.grad();
    let norms = gradient.norm_scalaropt_dim(2.0, &[-1_i64][..], false);

    let shape = |tensor: &Tensor| tensor.size().iter().map(|&s| s as usize).collect::<Vec<_>>();
    let f64s =
        |tensor: &Tensor| (doubles(tensor).into_iter().flat_map(f64::to_le_bytes).collect(), Dtype::F64, shape(tensor));
    let mut out = BTreeMap::new();
    for (name, tensor) in [("ce", &ce_mean), ("pos", &pos), ("neg", &neg), ("kl", &kl), ("total", &total)] {
        out.insert(name.to_owned(), f64s(&tensor.detach()));
    }
    out.insert("row_ce".into(), f64s(&ce.detach()));
    out.insert("grad".into(), f64s(&gradient));
    out.insert("grad_l2".into(), f64s(&norms));
    let flags = dropped.iter().map(|&d| u8::from(d)).collect();
    out.insert("truncated".into(), (flags, Dtype::U8, vec![inputs.rows]));
    if let Some(groups) = groups {
        let bytes = groups.into_iter().flat_map(i64::to_le_bytes).collect();
        out.insert("group".into(), (bytes, Dtype::I64, vec![inputs.peers, inputs.rows]));
    }
    out
}

fn variants() -> Vec<Value> {
    vec![
        json!({"method": "cross_entropy"}),
        json!({"method": "r_ce", "exponent": 0.2}),
        json!({"method": "hail", "alpha": 0.5, "beta": 0.0, "gamma": 1.0, "rank_base": 1}),
        json!({"method": "hail", "alpha": 0.2, "beta": 0.7, "gamma": 1.3, "rank_base": 0, "rank_over": "slots"}),
        json!({"method": "hail", "alpha": 0.0, "beta": 0.0, "gamma": 0.0, "rank_base": 1}),
        json!({"method": "hail", "alpha": 0.5, "beta": 0.0, "gamma": 1.0, "rank_base": 1, "positive_term": false}),
        json!({"method": "hail", "alpha": 0.5, "beta": 0.0, "gamma": 1.0, "rank_base": 1, "negative_term": false}),
        json!({"method": "hail_released", "alpha": 0.5, "beta": 0.7, "gamma": 1.0}),
        json!({"method": "peerrec_stage1"}),
        json!({"method": "mutual_mimic", "alpha": 0.3}),
        json!({"method": "peerrec_stage2", "alpha": 0.5, "beta": 0.7, "gamma": 1.0, "rank_base": 1}),
        json!({"method": "peerrec_stage2", "alpha": 0.4, "beta": 0.7, "gamma": 0.0, "rank_base": 0, "zero_pow_zero": 1.0}),
        json!({"method": "peerrec_stage2", "alpha": 0.4, "beta": 0.7, "gamma": 0.0, "rank_base": 0, "zero_pow_zero": 0.0}),
        json!({"method": "peerrec_stage2_average", "alpha": 0.5, "beta": 0.7, "gamma": 2.0, "rank_base": 0}),
    ]
}

fn write_case(directory: &Path, inputs: &Inputs, seed: u64) -> String {
    let Inputs { family, peers, rows, catalogue, .. } = *inputs;
    let stem = format!("{family}_T{peers}_B{rows}_V{catalogue}");
    let mut tensors = BTreeMap::new();
    let logits = inputs.logits.iter().flat_map(|z| z.to_le_bytes()).collect();
    tensors.insert("logits".to_owned(), (logits, Dtype::F32, vec![peers, rows, catalogue]));
    let targets = inputs.targets.iter().flat_map(|t| t.to_le_bytes()).collect();
    tensors.insert("targets".to_owned(), (targets, Dtype::I64, vec![rows]));
    if let Some(weights) = &inputs.weights {
        let weights = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        tensors.insert("weights".to_owned(), (weights, Dtype::F64, vec![rows]));
    }
    let mut described = Vec::new();
    for (number, mut variant) in variants().into_iter().enumerate() {
        let key = format!("v{number:02}");
        for (name, tensor) in evaluate(inputs, &variant) {
            let name = if name == "row_ce" { name } else { format!("{key}.{name}") };
            tensors.insert(name, tensor);
        }
        variant["key"] = json!(key);
        described.push(variant);
    }
    let views: BTreeMap<&String, TensorView<'_>> = tensors
        .iter()
        .map(|(name, (bytes, dtype, shape))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()))
        .collect();
    std::fs::write(directory.join(format!("{stem}.safetensors")), safetensors::serialize(views, None).unwrap())
        .unwrap();
    let case = json!({
        "file": format!("{stem}.safetensors"), "family": family, "T": peers, "B": rows, "V": catalogue,
        "seed": seed, "padded": inputs.weights.is_some(), "grad_rows": null, "float32_safe": true,
        "variants": described,
    });
    std::fs::write(directory.join(format!("{stem}.json")), serde_json::to_vec_pretty(&case).unwrap()).unwrap();
    format!("{stem}.json")
}

fn main() {
    let directory = std::env::args_os().nth(1).expect("the directory to write to");
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory).unwrap();
    let shapes =
        [("plain", 1, 3, 7), ("plain", 3, 5, 35), ("extreme", 2, 4, 19), ("certain", 4, 5, 17), ("padded", 3, 7, 9)];
    let cases: Vec<String> = (1..)
        .zip(shapes)
        .map(|(seed, (family, peers, rows, catalogue))| {
            write_case(directory, &inputs(family, peers, rows, catalogue, seed), seed)
        })
        .collect();
    std::fs::write(directory.join("index.json"), serde_json::to_vec_pretty(&cases).unwrap()).unwrap();
}
