//! AdamW over flat vectors, in the two variants that papers and released code mean by the name.

use crate::model::Parameters;
use medley_common::config::{OptimizerConfig, OptimizerVariant};
use tch::{Kind, Tensor};

/// Moments of one flat vector of parameters.
#[derive(Debug)]
pub struct Moments {
    /// Running mean of the gradient, `[len]`.
    pub first: Tensor,
    /// Running mean of its square, `[len]`.
    pub second: Tensor,
    decay: Tensor,
}

impl Moments {
    /// Zero moments for some parameters.
    pub fn new(parameters: &Parameters, config: &OptimizerConfig) -> Self {
        let values = parameters.values();
        let decay = match config.variant {
            OptimizerVariant::Released => parameters.decay_mask(),
            OptimizerVariant::Textbook => values.ones_like(),
        };
        Self { first: values.zeros_like(), second: values.zeros_like(), decay: decay * config.weight_decay }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let _ = self.first.zero_();
        let _ = self.second.zero_();
    }

    /// One update of `parameters` by `gradient` `[len]`; `step` counts updates since the moments were cleared, from 1.
    ///
    /// Released (BERT's optimizer.py, which HAIL's code uses): `w -= lr (m / (√v + ε) + λ w)`, no bias correction.
    /// Textbook (Loshchilov and Hutter, ICLR'19): `w -= lr (m̂ / (√v̂ + ε) + λ w)`.
    pub fn update(
        &mut self,
        parameters: &Parameters,
        gradient: &Tensor,
        learning_rate: f64,
        step: u64,
        config: &OptimizerConfig,
    ) {
        let _guard = tch::no_grad_guard();
        let _ = self.first.g_mul_scalar_(config.beta_1).g_add_(&(gradient * (1.0 - config.beta_1)));
        let _ = self.second.g_mul_scalar_(config.beta_2).g_add_(&(gradient.square() * (1.0 - config.beta_2)));
        let (first_scale, second_scale) = match config.variant {
            OptimizerVariant::Released => (1.0, 1.0),
            OptimizerVariant::Textbook => {
                let correction = |beta: f64| 1.0 / (1.0 - beta.powf(step as f64));
                (correction(config.beta_1), correction(config.beta_2))
            }
        };
        let root = (&self.second * second_scale).sqrt() + config.epsilon;
        let values = parameters.values();
        let change = (&self.first * first_scale) / root + &self.decay * values;
        let _ = values.shallow_clone().g_sub_(&(change * learning_rate));
    }
}

/// Sum of squares of a flat gradient, in float64.
pub fn squared_norm(gradient: &Tensor) -> f64 {
    gradient.square().sum(Kind::Double).double_value(&[])
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
                moments.update(&parameters, &gradient, 0.01, step as u64 + 1, &config);
            }
            let values = Vec::<f32>::try_from(parameters.values()).unwrap();
            for (value, expected) in values.iter().zip(expected([1.0, -2.0, 0.5], &gradients, &config, 0.01)) {
                assert!((f64::from(*value) - expected).abs() < 1e-6, "{variant:?}: {value} {expected}");
            }
        }
    }

    #[test]
    fn cleared_moments_are_fresh_ones() {
        let config = OptimizerConfig::default();
        let parameters =
            Parameters::draw(vec![Specification::matrix("w", 3, 3)], Initialization::Xavier, 1, Device::Cpu);
        let mut moments = Moments::new(&parameters, &config);
        moments.update(&parameters, &Tensor::ones([9], (Kind::Float, Device::Cpu)), 0.1, 1, &config);
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
