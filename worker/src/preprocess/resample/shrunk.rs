//! The filter weights of one axis for an image that its decoder has shrunk already.
//!
//! libjpeg's decodes by 1/2, 1/4 and 1/8 leave the mean of 2, 4 or 8 pixels of each axis (`jidctred.c`: "averages of adjacent
//! outputs"). Filtering those as if they were an image blurs twice: with the means and with the filter. So the weights
//! here are the best linear guess at what Pillow's filter would have made of the pixels themselves: of all weights that
//! sum to one, those with the smallest expected square of the error (ordinary kriging; Matheron 1963), for pixels
//! whose correlation falls off with their distance as photographs' does. Used by `--decode fast` alone, whose
//! pixels are close to Pillow's and never claimed to be them.

/// Correlation of one pixel with the next. Photographs have 0.95 to 0.99, the larger the finer they are sampled; the
/// mean error of the guess differs by less than one in a hundred between 0.95 and 0.995.
const NEIGHBOURS: f64 = 0.98;

/// Variance of a mean's rounding to 8 bits, 1/12, over that of a photograph's pixels, some 50 squared. It also keeps the
/// equations well conditioned.
const ROUNDING: f64 = 3e-5;

/// Under a filter over more means than these the blur of one is nothing, and the equations, whose cost is the cube of
/// their number, are not solved: an axis that stays very long while the other one is shrunk.
const MOST_GUESSED: usize = 32;

/// How an axis was shrunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::preprocess) struct Shrunk {
    /// Pixels along the axis before that.
    pub full: u32,
    /// How many of them became one: 1 (not shrunk), 2, 4 or 8.
    pub by: u32,
    /// The image was turned since, and the axis runs the other way: its first pixel is the mean of what was left.
    pub backwards: bool,
}

impl Shrunk {
    /// An axis as it was stored.
    pub(in crate::preprocess) fn not(full: u32) -> Self {
        Self { full, by: 1, backwards: false }
    }
}

/// Covariances of pixels and of the means of `by` of them; the same for every place of an axis.
pub(super) struct Statistics {
    by: usize,
    /// Of a mean with a pixel, by the pixel's distance from the mean's first.
    with_pixel: Vec<f64>,
    /// Of two means, by the distance in means.
    with_mean: Vec<f64>,
    /// By the number of means less one: made when first needed, for there are few.
    factors: Vec<Option<Factor>>,
}

impl Statistics {
    /// For windows of at most `means` means.
    pub(super) fn new(by: u32, means: usize) -> Self {
        let (by, means) = (by as usize, means.min(MOST_GUESSED));
        let apart = |distance: usize| NEIGHBOURS.powi(distance as i32);
        // Distances before the mean's first pixel equal those behind its last, from the other end.
        let with_pixel: Vec<f64> = (0..by * (means + 1))
            .map(|at| (0..by).map(|u| apart(at.abs_diff(u))).sum::<f64>() / by as f64)
            .collect();
        let with_mean = (0..means.max(1))
            .map(|k| (0..by).map(|u| with_pixel[k * by + u]).sum::<f64>() / by as f64)
            .collect();
        Self { by, with_pixel, with_mean, factors: (0..means).map(|_| None).collect() }
    }

    /// The weights of the means from `first` on, `count` of them, that come closest to `taps`, weights of sum one for the
    /// pixels from `start` on, all of which are in those means.
    pub(super) fn weights(&mut self, first: usize, count: usize, start: usize, taps: &[f64]) -> Vec<f64> {
        let mut target = vec![0.0; count];
        if count > MOST_GUESSED {
            for (x, tap) in (start..).zip(taps) {
                target[x / self.by - first] += tap;
            }
            return target;
        }
        for (mean, sum) in target.iter_mut().enumerate() {
            let origin = (first + mean) * self.by;
            for (x, tap) in (start..).zip(taps) {
                let at = if x >= origin { x - origin } else { origin + self.by - 1 - x };
                *sum += tap * self.with_pixel[at];
            }
        }
        if self.factors[count - 1].is_none() {
            self.factors[count - 1] = Some(self.factor(count));
        }
        let factor = self.factors[count - 1].as_ref().expect("made above");
        let mut weights = factor.solve(target);
        // What the sum lacks of one, spread as costs least.
        let short = (1.0 - weights.iter().sum::<f64>()) / factor.ones.iter().sum::<f64>();
        for (weight, one) in weights.iter_mut().zip(&factor.ones) {
            *weight += short * one;
        }
        weights
    }

    fn factor(&self, count: usize) -> Factor {
        let mut rows: Vec<Vec<f64>> = Vec::with_capacity(count);
        for i in 0..count {
            let mut row = Vec::with_capacity(i + 1);
            for (j, above) in rows.iter().enumerate() {
                let known: f64 = row.iter().zip(above).map(|(a, b): (&f64, &f64)| a * b).sum();
                row.push((self.with_mean[i - j] - known) / above[j]);
            }
            let known: f64 = row.iter().map(|a| a * a).sum();
            row.push((self.with_mean[0] + ROUNDING - known).sqrt());
            rows.push(row);
        }
        let mut factor = Factor { rows, ones: Vec::new() };
        factor.ones = factor.solve(vec![1.0; count]);
        factor
    }
}

/// What is solved for any target of so many means.
struct Factor {
    /// The lower triangle of the covariance matrix's Cholesky factor.
    rows: Vec<Vec<f64>>,
    /// The solution for a target of ones.
    ones: Vec<f64>,
}

impl Factor {
    fn solve(&self, mut right: Vec<f64>) -> Vec<f64> {
        let rows = &self.rows;
        for i in 0..rows.len() {
            let known: f64 = rows[i][..i].iter().zip(&right).map(|(a, b)| a * b).sum();
            right[i] = (right[i] - known) / rows[i][i];
        }
        for i in (0..rows.len()).rev() {
            let known: f64 = (i + 1..rows.len()).map(|k| rows[k][i] * right[k]).sum();
            right[i] = (right[i] - known) / rows[i][i];
        }
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_means_are_guessed_without_error() {
        // A box over exactly two means is their mean, whatever the pixels are.
        let mut statistics = Statistics::new(4, 6);
        let weights = statistics.weights(0, 6, 8, &[0.125; 8]);
        for (mean, weight) in weights.iter().enumerate() {
            let expected = if (2..4).contains(&mean) { 0.5 } else { 0.0 };
            assert!((weight - expected).abs() < 1e-3, "{weights:?}");
        }
    }

    #[test]
    fn weights_sum_to_one_and_mirror_with_the_taps() {
        let mut statistics = Statistics::new(8, 5);
        let taps = [0.05, 0.1, 0.15, 0.2, 0.2, 0.15, 0.1, 0.03, 0.02];
        let there = statistics.weights(0, 5, 11, &taps);
        let back: Vec<f64> = taps.iter().rev().copied().collect();
        let mirrored = statistics.weights(0, 5, 40 - 11 - taps.len(), &back);
        assert!((there.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        for (a, b) in there.iter().zip(mirrored.iter().rev()) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn many_means_are_taken_for_their_pixels() {
        let mut statistics = Statistics::new(2, 5000);
        let taps = vec![1.0 / 9000.0; 9000];
        let weights = statistics.weights(100, 4500, 200, &taps);
        assert_eq!(weights.len(), 4500);
        assert!(weights.iter().all(|weight| (weight - 2.0 / 9000.0).abs() < 1e-12));
    }

    #[test]
    fn a_ramp_comes_out_where_the_filter_would_put_it() {
        // The mean of a straight line over the taps, to a twentieth of a step, although no pixel is known.
        let mut statistics = Statistics::new(8, 6);
        let taps: Vec<f64> = (0..21).map(|i| f64::from(11 - (i - 10_i32).abs()) / 121.0).collect();
        for start in 8..16 {
            let value: f64 = taps.iter().zip(start..).map(|(tap, x)| tap * f64::from(x)).sum();
            let weights = statistics.weights(0, 6, start as usize, &taps);
            let guess: f64 = weights.iter().zip(0..).map(|(w, k)| w * (f64::from(8 * k) + 3.5)).sum();
            assert!((guess - value).abs() < 0.05 * 8.0, "{start}: {guess} for {value}");
        }
    }
}
