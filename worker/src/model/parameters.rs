//! Named parameters that live in one flat vector.

use crate::exchange::floats;
use medley_common::config::Initialization;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Kind, Tensor};

/// A parameter to be made.
#[derive(Debug, Clone)]
pub struct Specification {
    /// Its name in checkpoints.
    pub name: String,
    /// Its shape; matrices are `[outputs, inputs]`, tables `[entries, d]`.
    pub shape: Vec<i64>,
    /// Its initial value.
    pub initial: Initial,
    /// Whether weight decay applies in the released variant of AdamW (not on biases and layer norms).
    pub decays: bool,
}

/// Initial value of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Drawn as the configuration says.
    Drawn,
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
}

impl Specification {
    /// A weight matrix or table.
    pub fn matrix(name: impl Into<String>, rows: i64, columns: i64) -> Self {
        Self { name: name.into(), shape: vec![rows, columns], initial: Initial::Drawn, decays: true }
    }

    /// A bias.
    pub fn bias(name: impl Into<String>, length: i64) -> Self {
        Self { name: name.into(), shape: vec![length], initial: Initial::Zeros, decays: false }
    }

    /// Gain and bias of a layer normalisation.
    pub fn norm(name: &str, length: i64) -> [Self; 2] {
        let gain = Self { name: format!("{name}.gain"), shape: vec![length], initial: Initial::Ones, decays: false };
        [gain, Self::bias(format!("{name}.bias"), length)]
    }

    /// Number of values.
    pub fn len(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Parameters in one flat vector, with a view of each that automatic differentiation knows.
#[derive(Debug)]
pub struct Parameters {
    specifications: Vec<Specification>,
    values: Tensor,
    views: Vec<Tensor>,
}

impl Parameters {
    /// Draws initial values from a seed; the same on every device.
    pub fn draw(specifications: Vec<Specification>, how: Initialization, seed: u64, device: Device) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut values = Vec::with_capacity(specifications.iter().map(|s| s.len() as usize).sum());
        for specification in &specifications {
            let count = specification.len() as usize;
            match specification.initial {
                Initial::Zeros => values.extend(std::iter::repeat_n(0.0, count)),
                Initial::Ones => values.extend(std::iter::repeat_n(1.0, count)),
                Initial::Drawn => values.extend(drawn(how, &specification.shape, count, &mut random)),
            }
        }
        Self::from_values(specifications, &values, device)
    }

    /// Takes values over, in the order of the specifications.
    pub fn from_values(specifications: Vec<Specification>, values: &[f32], device: Device) -> Self {
        Self::over(specifications, Tensor::from_slice(values).to_device(device))
    }

    /// Parameters over a flat vector `[len]`, which is not copied.
    ///
    /// # Panics
    /// If it is shorter than the parameters.
    pub fn over(specifications: Vec<Specification>, values: Tensor) -> Self {
        let mut offset = 0;
        let views = specifications
            .iter()
            .map(|specification| {
                let view = values.narrow(0, offset, specification.len()).view(&specification.shape[..]);
                offset += specification.len();
                view.detach().set_requires_grad(true)
            })
            .collect();
        Self { specifications, values, views }
    }

    /// What the parameters are.
    pub fn specifications(&self) -> &[Specification] {
        &self.specifications
    }

    /// One parameter, by its place in the specifications.
    pub fn get(&self, index: usize) -> &Tensor {
        &self.views[index]
    }

    /// All values, `[len]`. Writing to it changes the parameters.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// All values in main memory, `[len]`.
    ///
    /// # Panics
    /// If they lie on a GPU.
    pub fn slice(&self) -> &[f32] {
        floats::slice(&self.values)
    }

    /// One parameter's values in main memory, by its place in the specifications.
    ///
    /// # Panics
    /// If they lie on a GPU.
    pub fn slice_of(&self, index: usize) -> &[f32] {
        let (start, length) = self.range(index);
        &self.slice()[start as usize..(start + length) as usize]
    }

    /// Number of values.
    pub fn len(&self) -> i64 {
        self.values.numel() as i64
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// 1 where the released AdamW decays weights, else 0; `[len]`.
    pub fn decay_mask(&self) -> Tensor {
        let parts: Vec<Tensor> = self
            .specifications
            .iter()
            .map(|s| Tensor::full([s.len()], f64::from(u8::from(s.decays)), (Kind::Float, self.values.device())))
            .collect();
        Tensor::cat(&parts, 0)
    }

    /// Takes the gradients out of the views as one flat vector, `[len]`, and clears them. Parameters that took no
    /// part have gradient 0.
    pub fn take_gradients(&mut self) -> Tensor {
        let parts: Vec<Tensor> = self
            .views
            .iter_mut()
            .zip(&self.specifications)
            .map(|(view, specification)| {
                let gradient = view.grad();
                if gradient.defined() {
                    let flat = gradient.reshape([-1]).copy();
                    view.zero_grad();
                    flat
                } else {
                    Tensor::zeros([specification.len()], (Kind::Float, self.values.device()))
                }
            })
            .collect();
        Tensor::cat(&parts, 0)
    }

    /// Where a parameter's values lie in the flat vector.
    pub fn range(&self, index: usize) -> (i64, i64) {
        let start = self.specifications[..index].iter().map(Specification::len).sum();
        (start, self.specifications[index].len())
    }
}

/// Values of a drawn matrix. For Xavier and Kaiming, a matrix `[outputs, inputs]` has fan-in `inputs`; tables are taken
/// alike.
fn drawn(how: Initialization, shape: &[i64], count: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    let (outputs, inputs) = (shape[0] as f64, shape[shape.len() - 1] as f64);
    match how {
        Initialization::TruncatedNormal => (0..count).map(|_| 0.02 * within_two_deviations(random)).collect(),
        Initialization::Xavier => uniform(count, (6.0 / (inputs + outputs)).sqrt(), random),
        Initialization::Kaiming => uniform(count, (6.0 / inputs).sqrt(), random),
    }
}

fn within_two_deviations(random: &mut ChaCha8Rng) -> f32 {
    loop {
        let value: f32 = StandardNormal.sample(random);
        if value.abs() <= 2.0 {
            return value;
        }
    }
}

fn uniform(count: usize, bound: f64, random: &mut ChaCha8Rng) -> Vec<f32> {
    (0..count).map(|_| random.random_range(-bound..bound) as f32).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn specifications() -> Vec<Specification> {
        let mut all = vec![Specification::matrix("weight", 30, 20), Specification::bias("bias", 30)];
        all.extend(Specification::norm("norm", 30));
        all
    }

    #[test]
    fn views_and_vector_are_the_same_memory() {
        let parameters = Parameters::draw(specifications(), Initialization::Xavier, 3, Device::Cpu);
        let _guard = tch::no_grad_guard();
        let _ = parameters.values().narrow(0, 600, 30).fill_(7.0);
        assert_eq!(parameters.get(1).double_value(&[29]), 7.0);
        assert_eq!(parameters.range(1), (600, 30));
    }

    #[test]
    fn gradients_come_out_flat_and_are_cleared() {
        let mut parameters = Parameters::draw(specifications(), Initialization::Kaiming, 3, Device::Cpu);
        (parameters.get(1) * 2.0).sum(Kind::Float).backward();
        let gradients = parameters.take_gradients();
        assert_eq!(gradients.double_value(&[600]), 2.0);
        assert_eq!(gradients.narrow(0, 0, 600).abs().sum(Kind::Float).double_value(&[]), 0.0);
        assert_eq!(parameters.take_gradients().abs().sum(Kind::Float).double_value(&[]), 0.0);
    }

    #[test]
    fn draws_have_the_deviation_they_should() {
        let wide = || vec![Specification::matrix("weight", 300, 200)];
        let deviation = |how| Parameters::draw(wide(), how, 1, Device::Cpu).values().std(true).double_value(&[]);
        // Cut at two deviations, the normal's own deviation shrinks by 0.8796.
        assert!((deviation(Initialization::TruncatedNormal) - 0.02 * 0.8796).abs() < 2e-4);
        assert!((deviation(Initialization::Xavier) - (2.0f64 / 500.0).sqrt()).abs() < 1e-3);
        assert!((deviation(Initialization::Kaiming) - (2.0f64 / 200.0).sqrt()).abs() < 1e-3);
    }

    #[test]
    fn peers_differ_by_their_seed_alone() {
        let draw = |seed| Parameters::draw(specifications(), Initialization::TruncatedNormal, seed, Device::Cpu);
        assert!(draw(1).values().equal(draw(1).values()));
        assert!(!draw(1).values().equal(draw(2).values()));
    }
}
