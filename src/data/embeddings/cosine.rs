//! Cosines of many vectors with many others: products of unit vectors, block by block so that a block stays in the cache.
//!
//! Each product is summed in an order of its own, whatever is computed beside it and on whichever thread: 16 sums, one for
//! every sixteenth place, which are then added up in their order. No product is fused with a sum. So a cosine is the same
//! number on every processor.

use std::sync::OnceLock;

use pulp::Arch;

/// Sums of one product.
const LANES: usize = 16;
/// Rows that a query is multiplied with at once.
const TOGETHER: usize = 4;
/// Rows of a block: few enough to stay in the nearest cache while one query after another is multiplied with them.
const BLOCK: usize = 8;

/// Unit vectors of one width, one behind the other, each filled up with zeros to a multiple of [`LANES`].
#[derive(Debug, Default)]
pub(crate) struct Units {
    padded: usize,
    numbers: Vec<f32>,
    rows: usize,
}

impl Units {
    /// No vectors yet; all will have this width.
    pub(crate) fn new(width: usize) -> Self {
        Self { padded: width.next_multiple_of(LANES), numbers: Vec::new(), rows: 0 }
    }

    pub(crate) fn push(&mut self, unit: &[f32]) {
        let start = self.numbers.len();
        self.numbers.extend_from_slice(unit);
        self.numbers.resize(start + self.padded, 0.0);
        self.rows += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// A vector with its zeros.
    pub(crate) fn row(&self, place: usize) -> &[f32] {
        &self.numbers[place * self.padded..(place + 1) * self.padded]
    }

    /// The cosines of one vector with some others, in their order.
    pub(crate) fn cosines(&self, query: &[f32], others: &[usize]) -> Vec<f32> {
        vectorised(
            #[inline(always)]
            || others.iter().map(|other| product(query, self.row(*other))).collect(),
        )
    }

    /// For each query the other vector that is most like it, with the cosine; of equals the first. Nothing where there are
    /// no others.
    pub(crate) fn nearest(&self, queries: &[&[f32]]) -> Vec<Option<Near>> {
        let mut nearest = vec![None; queries.len()];
        for start in (0..self.rows).step_by(BLOCK) {
            let end = (start + BLOCK).min(self.rows);
            vectorised(
                #[inline(always)]
                || {
                    for (query, nearest) in queries.iter().zip(&mut nearest) {
                        self.each(query, start..end, |place, cosine| Near::keep(nearest, place, cosine));
                    }
                },
            );
        }
        nearest
    }

    /// The sum of the squares of one vector's cosines with all.
    pub(crate) fn squares(&self, query: &[f32]) -> f64 {
        let mut sum = 0.0;
        vectorised(
            #[inline(always)]
            || self.each(query, 0..self.rows, |_, cosine| sum += f64::from(cosine) * f64::from(cosine)),
        );
        sum
    }

    /// Takes the cosine with each of some vectors, in their order. To be called within [`vectorised`].
    #[inline(always)]
    pub(super) fn each(&self, query: &[f32], places: std::ops::Range<usize>, mut take: impl FnMut(usize, f32)) {
        let mut place = places.start;
        while place + TOGETHER <= places.end {
            let rows = [self.row(place), self.row(place + 1), self.row(place + 2), self.row(place + 3)];
            for (cosine, place) in products(query, rows).into_iter().zip(place..) {
                take(place, cosine);
            }
            place += TOGETHER;
        }
        for place in place..places.end {
            take(place, product(query, self.row(place)));
        }
    }
}

/// The vector that is most like another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Near {
    pub(crate) place: usize,
    pub(crate) cosine: f32,
}

impl Near {
    /// Keeps the nearer one; of equals the one that was there.
    #[inline(always)]
    pub(crate) fn keep(nearest: &mut Option<Self>, place: usize, cosine: f32) {
        if nearest.is_none_or(|near| cosine > near.cosine) {
            *nearest = Some(Self { place, cosine });
        }
    }
}

/// Runs a loop with the widest vector instructions there are. Only what is inlined into the closure is compiled for them.
#[inline(always)]
pub(super) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    static WIDEST: OnceLock<Arch> = OnceLock::new();
    WIDEST.get_or_init(Arch::new).dispatch(work)
}

/// The product of two vectors of one width, a multiple of [`LANES`].
#[inline(always)]
fn product(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    total(sums)
}

/// The products of a vector with some others: the same numbers as one by one, with the vector read once. Sums of their own names
/// stay in registers, which a list of them does not.
#[inline(always)]
fn products(a: &[f32], [b, c, d, e]: [&[f32]; TOGETHER]) -> [f32; TOGETHER] {
    let chunks = |row: &[f32]| -> usize { row.len() / LANES };
    let length = chunks(a).min(chunks(b)).min(chunks(c)).min(chunks(d)).min(chunks(e));
    let lanes = |row: &[f32], place: usize| -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        lanes.copy_from_slice(&row[place * LANES..(place + 1) * LANES]);
        lanes
    };
    let (mut sum_b, mut sum_c, mut sum_d, mut sum_e) = ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for place in 0..length {
        let a = lanes(a, place);
        let (b, c, d, e) = (lanes(b, place), lanes(c, place), lanes(d, place), lanes(e, place));
        for lane in 0..LANES {
            sum_b[lane] += a[lane] * b[lane];
            sum_c[lane] += a[lane] * c[lane];
            sum_d[lane] += a[lane] * d[lane];
            sum_e[lane] += a[lane] * e[lane];
        }
    }
    [sum_b, sum_c, sum_d, sum_e].map(total)
}

#[inline(always)]
fn total(sums: [f32; LANES]) -> f32 {
    sums.into_iter().fold(0.0, |total, sum| total + sum)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::random::Stream;

    /// A vector of numbers between −1 and 1, at length 1.
    pub(crate) fn random_unit(seed: u64, width: usize) -> Vec<f32> {
        let mut stream = Stream::new("test-unit", seed, 0);
        let numbers: Vec<f64> = (0..width).map(|_| stream.below(2_000_001) as f64 / 1e6 - 1.0).collect();
        let length = numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
        numbers.into_iter().map(|number| (number / length) as f32).collect()
    }

    #[test]
    fn blocks_give_the_bits_of_single_products_and_those_are_right() {
        let width = 37;
        let mut units = Units::new(width);
        (0..150).for_each(|seed| units.push(&random_unit(seed, width)));
        let query = units.row(149).to_vec();
        let mut all = Vec::new();
        units.each(&query, 0..150, |place, cosine| all.push((place, cosine)));
        assert_eq!(all.len(), 150);
        for (place, cosine) in all {
            assert_eq!(cosine.to_bits(), units.cosines(&query, &[place])[0].to_bits());
            let exact: f64 = query.iter().zip(units.row(place)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(cosine) - exact).abs() < 1e-6, "{place}: {cosine} {exact}");
        }
    }

    #[test]
    fn the_nearest_is_the_most_alike_and_of_equals_the_first() {
        let mut units = Units::new(2);
        assert_eq!(units.nearest(&[&[1.0; 16]]), [None]);
        for unit in [[0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [1.0, 0.0]] {
            units.push(&unit);
        }
        let query = units.row(3).to_vec();
        assert_eq!(units.nearest(&[&query]), [Some(Near { place: 2, cosine: 1.0 })]);
        assert!((units.squares(&query) - (0.36 + 2.0)).abs() < 1e-6);
    }
}
