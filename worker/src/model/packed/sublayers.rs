//! Parts of a layer: the feed-forward sublayer, and the projections to queries, keys and values.

use super::attention::sized;
use super::blocks::{Block, Place};
use super::layer::{FORWARD_OUTPUT, Layer, Tape};
use super::parameters::Gradients;
use super::passes::{AddBias, Gelu, GeluBackward, Residual, SumRows, ThroughKeep, run};
use crate::matrix::{Matrix, MatrixMut, Write, product};

impl Layer<'_> {
    /// `into = residual + dropout(FFN(hidden))`.
    pub(super) fn feed_forward(
        &self,
        hidden: &[f32],
        residual: &[f32],
        places: &[Place],
        into: &mut [f32],
        inner: &mut Vec<f32>,
    ) {
        let (w, d, count) = (&self.weights, self.dimension, places.len());
        let width = w.inner_bias.len();
        let inner = sized(inner, count * width);
        let to = &mut MatrixMut::new(inner, count, width);
        product(self.precision, to, Write::Over, Matrix::new(hidden, count, d), matrix(w.inner, width, d).transposed());
        run(Gelu { values: inner, bias: w.inner_bias });
        let to = &mut MatrixMut::new(into, count, d);
        product(
            self.precision,
            to,
            Write::Over,
            Matrix::new(inner, count, width),
            matrix(w.outer, d, width).transposed(),
        );
        let keep = self.keep.site(FORWARD_OUTPUT);
        run(Residual { sublayer: into, bias: w.outer_bias, residual, keep, places });
    }

    /// From the gradient of the sublayer's dropped-out output to that of `hidden`.
    pub(super) fn feed_forward_backward(
        &self,
        hidden: &[f32],
        gradient: &[f32],
        places: &[Place],
        gradients: &mut Gradients<'_>,
        hidden_gradient: &mut [f32],
        [branch, inner, inner_gradient]: [&mut Vec<f32>; 3],
    ) {
        let (w, d, count) = (&self.weights, self.dimension, places.len());
        let width = w.inner_bias.len();
        let branch = sized(branch, count * d);
        run(ThroughKeep {
            gradient,
            into: branch,
            sums: gradients.outer_bias,
            keep: self.keep.site(FORWARD_OUTPUT),
            places,
        });
        let (branch, hidden) = (Matrix::new(branch, count, d), Matrix::new(hidden, count, d));
        let inner = sized(inner, count * width);
        product(
            self.precision,
            &mut MatrixMut::new(inner, count, width),
            Write::Over,
            hidden,
            matrix(w.inner, width, d).transposed(),
        );
        let change = sized(inner_gradient, count * width);
        product(
            self.precision,
            &mut MatrixMut::new(change, count, width),
            Write::Over,
            branch,
            matrix(w.outer, d, width),
        );
        run(GeluBackward { values: inner, gradient: change, bias: w.inner_bias, sums: gradients.inner_bias });
        let inner = Matrix::new(inner, count, width);
        product(self.precision, &mut MatrixMut::new(gradients.outer, d, width), Write::Add, branch.transposed(), inner);
        let change = Matrix::new(change, count, width);
        product(
            self.precision,
            &mut MatrixMut::new(gradients.inner, width, d),
            Write::Add,
            change.transposed(),
            hidden,
        );
        product(
            self.precision,
            &mut MatrixMut::new(hidden_gradient, count, d),
            Write::Over,
            change,
            matrix(w.inner, width, d),
        );
    }

    /// Queries, keys and values of `projected`, `[n, d]`, onto the tape.
    pub(super) fn project(&self, projected: &[f32], block: &Block, tape: &mut Tape, gathered: &mut Vec<f32>) {
        let (d, n) = (self.dimension, block.token_places.len());
        let count = self.places(block).len();
        let [query, key_value] = split(self.weights.query_key_value, d);
        let (query_bias, key_value_bias) = self.weights.query_key_value_bias.split_at(d);
        let keys_values = sized(&mut tape.keys_values, n * 2 * d);
        let into = &mut MatrixMut::new(keys_values, n, 2 * d);
        product(
            self.precision,
            into,
            Write::Over,
            Matrix::new(projected, n, d),
            matrix(key_value, 2 * d, d).transposed(),
        );
        run(AddBias { rows: keys_values, bias: key_value_bias });
        let queries = sized(&mut tape.queries, count * d);
        let at_queries = self.at_queries(projected, block, gathered);
        let into = &mut MatrixMut::new(queries, count, d);
        product(self.precision, into, Write::Over, Matrix::new(at_queries, count, d), matrix(query, d, d).transposed());
        run(AddBias { rows: queries, bias: query_bias });
    }

    /// Adds to the gradients of the projections' weights.
    pub(super) fn project_backward(
        &self,
        projected: &[f32],
        at_queries: &[f32],
        queries_gradient: &[f32],
        keys_values_gradient: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        let d = self.dimension;
        let (n, count) = (projected.len() / d, at_queries.len() / d);
        let (query, key_value) = gradients.query_key_value.split_at_mut(d * d);
        let (query_bias, key_value_bias) = gradients.query_key_value_bias.split_at_mut(d);
        run(SumRows { rows: queries_gradient, sums: query_bias });
        run(SumRows { rows: keys_values_gradient, sums: key_value_bias });
        let change = Matrix::new(queries_gradient, count, d).transposed();
        product(
            self.precision,
            &mut MatrixMut::new(query, d, d),
            Write::Add,
            change,
            Matrix::new(at_queries, count, d),
        );
        let change = Matrix::new(keys_values_gradient, n, 2 * d).transposed();
        product(
            self.precision,
            &mut MatrixMut::new(key_value, 2 * d, d),
            Write::Add,
            change,
            Matrix::new(projected, n, d),
        );
    }
}

pub(super) fn matrix(values: &[f32], rows: usize, columns: usize) -> Matrix<'_> {
    Matrix::new(values, rows, columns)
}

/// The weights of queries `[d, d]`, and of keys and values `[2d, d]`.
pub(super) fn split(query_key_value: &[f32], d: usize) -> [&[f32]; 2] {
    let (query, key_value) = query_key_value.split_at(d * d);
    [query, key_value]
}
