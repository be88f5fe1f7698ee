//! The parameters of a layer where they lie in an encoder's flat vector, and their gradients likewise.

/// The parameters of a layer or, as `W = &mut [f32]`, their gradients; in the order of the flat vector.
#[derive(Clone, Copy)]
pub struct Parts<W> {
    pub query_key_value: W,
    pub query_key_value_bias: W,
    pub output: W,
    pub output_bias: W,
    pub attention_gain: W,
    pub attention_bias: W,
    pub inner: W,
    pub inner_bias: W,
    pub outer: W,
    pub outer_bias: W,
    pub forward_gain: W,
    pub forward_bias: W,
}

pub type Weights<'a> = Parts<&'a [f32]>;
pub type Gradients<'a> = Parts<&'a mut [f32]>;

impl<W> Parts<W> {
    /// Takes the parts in order from something that hands out so many values.
    pub fn take(dimension: usize, inner: usize, mut next: impl FnMut(usize) -> W) -> Self {
        let d = dimension;
        Self {
            query_key_value: next(3 * d * d),
            query_key_value_bias: next(3 * d),
            output: next(d * d),
            output_bias: next(d),
            attention_gain: next(d),
            attention_bias: next(d),
            inner: next(inner * d),
            inner_bias: next(inner),
            outer: next(d * inner),
            outer_bias: next(d),
            forward_gain: next(d),
            forward_bias: next(d),
        }
    }
}
