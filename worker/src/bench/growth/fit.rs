//! Constants from measurements of small cohorts, by least squares over relative errors.

use super::Point;
use super::model::{Cohort, Constants};
use crate::bench::exchange::{ExchangeResult, Operation};

/// The largest cohort that constants are fitted to.
pub const FITTED_PEERS: usize = 2;

/// Shorter parts of a step count as this long: errors are relative.
const LEAST_MS: f64 = 0.001;

/// Fits the constants of a machine with so many cores to the points with at most [`FITTED_PEERS`] peers, and to what the
/// collectives alone took between two workers.
pub fn constants(points: &[Point], exchange: &ExchangeResult, cores: usize) -> Constants {
    let small: Vec<_> = points
        .iter()
        .filter(|point| point.settings.peers <= FITTED_PEERS)
        .filter_map(|point| point.found.as_ref().map(|found| (point.cohort(cores), found)))
        .collect();
    // Each part of a step is fitted to what it consists of; the exchange is measured by itself.
    let turned = |cohort: &Cohort| cohort.operations().map(|operations| operations * cohort.turns());
    let encoder = least_squares(small.iter().map(|(cohort, found)| {
        let [linear, attention, _] = turned(cohort);
        (vec![linear, attention], (found.split_ms.encoder + found.split_ms.backward).max(LEAST_MS) / 1e3)
    }));
    let loss = least_squares(
        small.iter().map(|(cohort, found)| (vec![turned(cohort)[2]], found.split_ms.loss.max(LEAST_MS) / 1e3)),
    );
    let fixed = least_squares(small.iter().map(|(cohort, found)| {
        (vec![cohort.turns()], (found.split_ms.data + found.split_ms.optimizer).max(LEAST_MS) / 1e3)
    }));
    let memory = least_squares(small.iter().map(|(cohort, found)| {
        let hosted = cohort.hosted() as f64;
        let bytes = found.peak_rss_mb * f64::from(1 << 20) - cohort.parameter_bytes() - cohort.row_bytes();
        (vec![1.0, hosted * cohort.work.tokens as f64], bytes.max(1.0))
    }));
    let (call_s, byte_s) = exchange_costs(exchange);
    Constants {
        linear_s: encoder[0],
        attention_s: encoder[1],
        prediction_s: loss[0],
        fixed_s: fixed[0],
        byte_s,
        call_s,
        message_s: 0.0,
        process_bytes: memory[0],
        token_bytes: memory[1],
    }
}

/// Seconds of an empty all-to-all, taken for any call, and seconds per byte of a large one.
fn exchange_costs(exchange: &ExchangeResult) -> (f64, f64) {
    let cases = || exchange.cases.iter().filter(|case| case.operation == Operation::AllToAll);
    let smallest = cases().min_by_key(|case| case.bytes).map_or(0.0, |case| case.time_us / 1e6);
    let sent = |bytes: usize| bytes as f64 * Operation::AllToAll.sent_share(exchange.workers);
    let largest = cases().max_by_key(|case| case.bytes);
    (smallest, largest.map_or(0.0, |case| case.time_us / 1e6 / sent(case.bytes)))
}

/// The factors, none negative, with which the terms of each observation add up to its value, with the least sum of squared
/// relative errors. Terms that would need a negative factor are left out, the worst first.
pub fn least_squares(observations: impl Iterator<Item = (Vec<f64>, f64)>) -> Vec<f64> {
    // Dividing an observation by its value makes the errors relative.
    let rows: Vec<Vec<f64>> =
        observations.map(|(terms, value)| terms.into_iter().map(|term| term / value).collect()).collect();
    let count = rows.first().map_or(0, Vec::len);
    // Columns of like size keep the elimination exact: operations count in 10¹⁰, constants in ones.
    let scales: Vec<f64> = (0..count)
        .map(|column| rows.iter().map(|row| row[column].abs()).fold(0.0, f64::max).max(f64::MIN_POSITIVE))
        .collect();
    let mut kept: Vec<usize> = (0..count).collect();
    loop {
        let factors = solve(&rows, &scales, &kept);
        match kept.iter().zip(&factors).enumerate().min_by(|a, b| a.1.1.total_cmp(b.1.1)) {
            Some((place, (_, factor))) if *factor < 0.0 => {
                kept.remove(place);
            }
            _ => {
                let mut all = vec![0.0; count];
                for (column, factor) in kept.iter().zip(factors) {
                    all[*column] = factor / scales[*column];
                }
                return all;
            }
        }
    }
}

/// Least squares of some columns against 1, by the normal equations; scaled factors.
fn solve(rows: &[Vec<f64>], scales: &[f64], columns: &[usize]) -> Vec<f64> {
    let n = columns.len();
    let term = |row: &[f64], place: usize| row[columns[place]] / scales[columns[place]];
    let mut matrix = vec![vec![0.0; n + 1]; n];
    for row in rows {
        for (i, equation) in matrix.iter_mut().enumerate() {
            for (j, cell) in equation[..n].iter_mut().enumerate() {
                *cell += term(row, i) * term(row, j);
            }
            equation[n] += term(row, i);
        }
    }
    // A trace of ridge: columns that say the same, as with one shape alone, share what there is to explain.
    for (i, equation) in matrix.iter_mut().enumerate() {
        equation[i] += 1e-9;
    }
    eliminate(matrix)
}

/// Gauss and Jordan's elimination with the largest pivot.
fn eliminate(mut matrix: Vec<Vec<f64>>) -> Vec<f64> {
    let n = matrix.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()));
        matrix.swap(column, pivot.unwrap_or(column));
        let lead = matrix[column].clone();
        for (place, equation) in matrix.iter_mut().enumerate() {
            if place != column {
                let factor = equation[column] / lead[column];
                equation.iter_mut().zip(&lead).for_each(|(cell, lead)| *cell -= factor * lead);
            }
        }
    }
    matrix.iter().enumerate().map(|(place, equation)| equation[n] / equation[place]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_that_made_the_values_are_found() {
        let terms = [[1.0, 2e9, 3.0], [1.0, 1e9, 5.0], [1.0, 4e9, 1.0], [1.0, 3e9, 9.0]];
        let values = terms.iter().map(|t| (t.to_vec(), 0.5 * t[0] + 2e-9 * t[1] + 0.25 * t[2]));
        for (factor, expected) in least_squares(values).iter().zip([0.5, 2e-9, 0.25]) {
            assert!((factor / expected - 1.0).abs() < 1e-6, "{factor} {expected}");
        }
    }

    #[test]
    fn a_term_that_would_count_against_the_others_is_left_out() {
        // The values fall with the second term.
        let values = [(vec![1.0, 1.0], 3.0), (vec![1.0, 2.0], 2.0), (vec![1.0, 3.0], 1.0)];
        let factors = least_squares(values.into_iter());
        assert_eq!(factors[1], 0.0);
        assert!(factors[0] > 1.0 && factors[0] < 2.0, "{factors:?}");
    }

    #[test]
    fn terms_that_say_the_same_share_what_there_is() {
        let factors = least_squares([(vec![1.0, 2.0], 10.0)].into_iter());
        assert!((factors[0] + 2.0 * factors[1] - 10.0).abs() < 1e-3, "{factors:?}");
    }
}
