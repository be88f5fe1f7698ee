//! AdamW over flat vectors, in the two variants that papers and released code mean by the name.
//!
//! Parameters in main memory are updated by `fused`, one pass over slices; those of a GPU by tensors.

mod fused;

use crate::exchange::floats::{slice, slice_mut};
use crate::model::Parameters;
use fused::{Coefficients, Span, Vectors};
use medley_common::config::{OptimizerConfig, OptimizerVariant};
use tch::{Device, Kind, Tensor};

/// Moments of one flat vector of parameters.
#[derive(Debug)]
pub struct Moments {
    /// Running mean of the gradient, `[len]`.
    pub first: Tensor,
    /// Running mean of its square, `[len]`.
    pub second: Tensor,
    form: Form,
}

/// How an update is computed, with the weight decay as that takes it.
#[derive(Debug)]
enum Form {
    /// By slices in main memory.
    Fused(Vec<Span>),
    /// By tensors on any device; the decay of every value, `[len]`.
    Tensors(Tensor),
}

impl Form {
    fn of(parameters: &Parameters, config: &OptimizerConfig) -> Self {
        match parameters.values().device() {
            Device::Cpu => Self::fused(parameters, config),
            _ => Self::tensors(parameters, config),
        }
    }

    fn fused(parameters: &Parameters, config: &OptimizerConfig) -> Self {
        let is_textbook = config.variant == OptimizerVariant::Textbook;
        let decays = |specification: &crate::model::Specification| is_textbook || specification.decays;
        Self::Fused(fused::spans(parameters.specifications(), decays, config.weight_decay))
    }

    fn tensors(parameters: &Parameters, config: &OptimizerConfig) -> Self {
        let decay = match config.variant {
            OptimizerVariant::Released => parameters.decay_mask(),
            OptimizerVariant::Textbook => parameters.values().ones_like(),
        };
        Self::Tensors(decay * config.weight_decay)
    }
}

impl Moments {
    /// Zero moments for some parameters.
    pub fn new(parameters: &Parameters, config: &OptimizerConfig) -> Self {
        Self::in_form(Form::of(parameters, config), parameters)
    }

    /// Moments `[len]` that are there already, which are not copied.
    pub fn over(parameters: &Parameters, config: &OptimizerConfig, first: Tensor, second: Tensor) -> Self {
        Self { first, second, form: Form::of(parameters, config) }
    }

    fn in_form(form: Form, parameters: &Parameters) -> Self {
        let values = parameters.values();
        Self { first: values.zeros_like(), second: values.zeros_like(), form }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let _ = self.first.zero_();
        let _ = self.second.zero_();
    }

    /// One update of `parameters` by `gradient` `[len]` times `clip` ([`clip_factor`]); `step` counts updates since the
    /// moments were cleared, from 1.
    ///
    /// Released (BERT's optimizer.py, which HAIL's code uses): `w -= lr (m / (√v + ε) + λ w)`, no bias correction.
    /// Textbook (Loshchilov and Hutter, ICLR'19): `w -= lr (m̂ / (√v̂ + ε) + λ w)`.
    pub fn update(
        &mut self,
        parameters: &Parameters,
        gradient: &Tensor,
        clip: f64,
        learning_rate: f64,
        step: u64,
        config: &OptimizerConfig,
    ) {
        let correction = match config.variant {
            OptimizerVariant::Released => [1.0, 1.0],
            OptimizerVariant::Textbook => {
                [config.beta_1, config.beta_2].map(|beta| 1.0 / (1.0 - beta.powf(step as f64)))
            }
        };
        match &self.form {
            Form::Fused(spans) => {
                let coefficients = Coefficients {
                    clip: clip as f32,
                    first: [config.beta_1 as f32, (1.0 - config.beta_1) as f32],
                    second: [config.beta_2 as f32, (1.0 - config.beta_2) as f32],
                    correction: correction.map(|factor| factor as f32),
                    epsilon: config.epsilon as f32,
                    learning_rate: learning_rate as f32,
                };
                // A handle of the same storage: what is written is the parameters themselves.
                let mut values = parameters.values().shallow_clone();
                assert!(are_apart([&values, &self.first, &self.second, gradient]), "a gradient has its own memory");
                let vectors = Vectors {
                    values: slice_mut(&mut values),
                    first: slice_mut(&mut self.first),
                    second: slice_mut(&mut self.second),
                    gradient: slice(gradient),
                };
                fused::update(vectors, spans, &coefficients);
            }
            Form::Tensors(decay) => {
                let _guard = tch::no_grad_guard();
                let gradient = gradient * clip;
                let _ = self.first.g_mul_scalar_(config.beta_1).g_add_(&(&gradient * (1.0 - config.beta_1)));
                let _ = self.second.g_mul_scalar_(config.beta_2).g_add_(&(gradient.square() * (1.0 - config.beta_2)));
                let root = (&self.second * correction[1]).sqrt() + config.epsilon;
                let values = parameters.values();
                let change = (&self.first * correction[0]) / root + decay * values;
                let _ = values.shallow_clone().g_sub_(&(change * learning_rate));
            }
        }
    }
}

/// Whether no two of these vectors share memory, as slices of them must not.
fn are_apart(vectors: [&Tensor; 4]) -> bool {
    let mut ranges = vectors.map(|vector| {
        let start = vector.data_ptr() as usize;
        (start, start + vector.numel() * size_of::<f32>())
    });
    ranges.sort_unstable();
    ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

/// Sum of squares of a flat gradient, in float64.
pub fn squared_norm(gradient: &Tensor) -> f64 {
    match gradient.device() {
        Device::Cpu => fused::squared_norm(slice(gradient)),
        _ => gradient.square().sum(Kind::Double).double_value(&[]),
    }
}

/// The factor that brings a gradient of this norm down to `clip_norm`; 1 where it is shorter or clipping is off.
pub fn clip_factor(norm: f64, clip_norm: f64) -> f64 {
    if clip_norm > 0.0 && norm > clip_norm { clip_norm / norm } else { 1.0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::Specification;
    use medley_common::config::Initialization;
    use tch::Device;

    fn parameters() -> Parameters {
        let specifications = vec![Specification::matrix("weight", 1, 2), Specification::bias("bias", 1)];
        Parameters::from_values(specifications, &[1.0, -2.0, 0.5], Device::Cpu)
    }

    /// Scalar AdamW, written out.
    fn expected(values: [f64; 3], gradients: &[[f64; 3]], config: &OptimizerConfig, learning_rate: f64) -> [f64; 3] {
        let mut result = values;
        for (i, value) in result.iter_mut().enumerate() {
            let (mut m, mut v) = (0.0, 0.0);
            for (step, gradient) in gradients.iter().enumerate() {
                m = config.beta_1 * m + (1.0 - config.beta_1) * gradient[i];
                v = config.beta_2 * v + (1.0 - config.beta_2) * gradient[i] * gradient[i];
                let power = step as i32 + 1;
                let (m, v, decays) = match config.variant {
                    OptimizerVariant::Released => (m, v, i != 2),
                    OptimizerVariant::Textbook => {
                        (m / (1.0 - config.beta_1.powi(power)), v / (1.0 - config.beta_2.powi(power)), true)
                    }
                };
                let decay = if decays { config.weight_decay * *value } else { 0.0 };
                *value -= learning_rate * (m / (v.sqrt() + config.epsilon) + decay);
            }
        }
        result
    }

    #[test]
    fn both_variants_follow_their_formula() {
        let gradients = [[0.3, -0.1, 2.0], [0.1, 0.4, -1.0], [-0.2, 0.0, 0.5]];
        for variant in [OptimizerVariant::Released, OptimizerVariant::Textbook] {
            let config = OptimizerConfig { variant, weight_decay: 0.1, ..OptimizerConfig::default() };
            let parameters = parameters();
            let mut moments = Moments::new(&parameters, &config);
            for (step, gradient) in gradients.iter().enumerate() {
                let gradient = Tensor::from_slice(gradient).to_kind(Kind::Float);
                moments.update(&parameters, &gradient, 1.0, 0.01, step as u64 + 1, &config);
            }
            let values = Vec::<f32>::try_from(parameters.values()).unwrap();
            for (value, expected) in values.iter().zip(expected([1.0, -2.0, 0.5], &gradients, &config, 0.01)) {
                assert!((f64::from(*value) - expected).abs() < 1e-6, "{variant:?}: {value} {expected}");
            }
        }
    }

    #[test]
    fn slices_and_tensors_give_the_same_update() {
        let specifications = || {
            vec![
                Specification::matrix("weight", 211, 190),
                Specification::bias("bias", 101),
                Specification::matrix("table", 97, 33),
            ]
        };
        for variant in [OptimizerVariant::Released, OptimizerVariant::Textbook] {
            let config = OptimizerConfig { variant, weight_decay: 0.1, ..OptimizerConfig::default() };
            let draw = || Parameters::draw(specifications(), Initialization::Xavier, 5, Device::Cpu);
            let both = [draw(), draw()];
            let mut moments = [
                Moments::in_form(Form::fused(&both[0], &config), &both[0]),
                Moments::in_form(Form::tensors(&both[1], &config), &both[1]),
            ];
            tch::manual_seed(1);
            for step in 1..=4 {
                let gradient = Tensor::randn([both[0].len()], (Kind::Float, Device::Cpu));
                for (parameters, moments) in both.iter().zip(&mut moments) {
                    moments.update(parameters, &gradient, 0.7, 0.01, step, &config);
                }
            }
            let [left, right] = &moments;
            for (left, right) in
                [(both[0].values(), both[1].values()), (&left.first, &right.first), (&left.second, &right.second)]
            {
                let difference = (left - right).abs().max().double_value(&[]);
                assert!(difference <= 1e-7, "{variant:?}: {difference:e}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "its own memory")]
    fn a_gradient_in_the_memory_of_the_parameters_is_refused() {
        let (config, parameters) = (OptimizerConfig::default(), parameters());
        Moments::new(&parameters, &config).update(&parameters, parameters.values(), 1.0, 0.1, 1, &config);
    }

    #[test]
    fn cleared_moments_are_fresh_ones() {
        let config = OptimizerConfig::default();
        let parameters =
            Parameters::draw(vec![Specification::matrix("w", 3, 3)], Initialization::Xavier, 1, Device::Cpu);
        let mut moments = Moments::new(&parameters, &config);
        moments.update(&parameters, &Tensor::ones([9], (Kind::Float, Device::Cpu)), 1.0, 0.1, 1, &config);
        moments.clear();
        assert_eq!(squared_norm(&moments.first) + squared_norm(&moments.second), 0.0);
    }

    #[test]
    fn clipping_shortens_long_gradients_only() {
        assert_eq!(clip_factor(10.0, 5.0), 0.5);
        assert_eq!(clip_factor(4.0, 5.0), 1.0);
        assert_eq!(clip_factor(10.0, 0.0), 1.0);
    }
}
