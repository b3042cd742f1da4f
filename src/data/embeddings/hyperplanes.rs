//! Brings together vectors that are probably alike, without comparing each with each: random hyperplanes (Charikar 2002).
//!
//! Two vectors at an angle θ lie on the same side of a random plane through the origin with probability p = 1 − θ/π. A band
//! of r planes brings them together with probability pʳ, and at least one of b bands with 1 − (1 − pʳ)ᵇ. At the angle of the
//! similarity that is asked for, the chance to be missed is at most [`MISSED`]; nearer pairs are missed less.

use super::cosine::{Units, vectorised};
use crate::random::Stream;

/// The largest chance that a pair exactly at the similarity is brought together by no band.
pub(crate) const MISSED: f64 = 1e-3;
/// The most bands: each takes four bytes a row and some more for its table.
const MOST_BANDS: usize = 64;
/// The longest band: what a hash of 32 bits holds.
const MOST_BITS: u32 = 32;

/// Planes, a band behind the other.
#[derive(Debug)]
pub(crate) struct Hyperplanes {
    planes: Units,
    bits: usize,
}

/// The longest bands of which no more than [`MOST_BANDS`] are needed, with their number: longer ones bring together fewer vectors
/// that are not alike. Below a similarity of about 0.6 even bands of few planes would have to be more than that: it is then bands of
/// one plane, which bring nearly all together.
fn shape(similarity: f64) -> (usize, usize) {
    let side = 1.0 - similarity.clamp(-1.0, 1.0).acos() / std::f64::consts::PI;
    let bands = |bits: u32| {
        let together = side.powi(bits as i32);
        if together >= 1.0 { 1.0 } else { (MISSED.ln() / (-together).ln_1p()).ceil() }
    };
    let bits = (1..=MOST_BITS).rev().find(|bits| bands(*bits) <= MOST_BANDS as f64).unwrap_or(1);
    (bits as usize, bands(bits) as usize)
}

impl Hyperplanes {
    /// Planes for vectors of a width, always the same ones.
    pub(crate) fn new(width: usize, similarity: f64) -> Self {
        let (bits, bands) = shape(similarity);
        let mut planes = Units::new(width);
        for number in 0..bits * bands {
            planes.push(&normal(number as u64, width));
        }
        Self { planes, bits }
    }

    pub(crate) fn bands(&self) -> usize {
        self.planes.len() / self.bits
    }

    /// A hash for each band: on which side of its planes a vector (with its zeros) lies.
    pub(crate) fn keys(&self, unit: &[f32]) -> Vec<u32> {
        let mut keys = vec![0; self.bands()];
        vectorised(
            #[inline(always)]
            || {
                self.planes.each(unit, 0..self.planes.len(), |plane, side| {
                    let key = &mut keys[plane / self.bits];
                    *key = *key << 1 | u32::from(side >= 0.0);
                });
            },
        );
        keys
    }
}

/// Independent normal numbers (Box and Muller 1958): a direction of which all are equally likely.
fn normal(number: u64, width: usize) -> Vec<f32> {
    let mut stream = Stream::new("hyperplanes", 0, number);
    let mut uniform = || (stream.below(1 << 53) as f64 + 0.5) / (1u64 << 53) as f64;
    let mut numbers = Vec::with_capacity(width + 1);
    while numbers.len() < width {
        let (length, turn) = ((-2.0 * libm::log(uniform())).sqrt(), std::f64::consts::TAU * uniform());
        numbers.extend([(length * libm::cos(turn)) as f32, (length * libm::sin(turn)) as f32]);
    }
    numbers.truncate(width);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embeddings::cosine::tests::random_unit;

    #[test]
    fn the_chance_to_miss_a_pair_at_the_similarity_is_what_is_said() {
        for similarity in [0.7, 0.8, 0.9, 0.95, 0.99] {
            let (bits, bands) = shape(similarity);
            let side = 1.0 - similarity.acos() / std::f64::consts::PI;
            let missed = (1.0 - side.powi(bits as i32)).powi(bands as i32);
            assert!(missed <= MISSED && bands <= MOST_BANDS, "{similarity}: {bits} × {bands} misses {missed}");
        }
        assert_eq!(shape(0.95), (21, 62));
        assert_eq!(shape(1.0), (32, 1));
    }

    /// Of 400 pairs at the similarity no more than a few are missed; of pairs far from it hardly one is met.
    #[test]
    fn pairs_at_the_similarity_are_brought_together_and_others_hardly() {
        let (width, similarity) = (24, 0.95);
        let planes = Hyperplanes::new(width, similarity);
        let mut units = Units::new(width);
        let (mut missed, mut met) = (0, 0);
        for pair in 0..400 {
            let (one, other) = (random_unit(2 * pair, width), random_unit(2 * pair + 1, width));
            // What of the other is at a right angle to the one, at length 1.
            let along: f32 = one.iter().zip(&other).map(|(a, b)| a * b).sum();
            let across: Vec<f32> = one.iter().zip(&other).map(|(a, b)| b - along * a).collect();
            let length = across.iter().map(|number| number * number).sum::<f32>().sqrt();
            let sine = (1.0 - similarity * similarity).sqrt() as f32 / length;
            let near: Vec<f32> = one.iter().zip(&across).map(|(a, b)| similarity as f32 * a + sine * b).collect();
            for unit in [&one, &near, &other] {
                units.push(unit);
            }
            let keys: Vec<Vec<u32>> =
                (3 * pair..3 * pair + 3).map(|place| planes.keys(units.row(place as usize))).collect();
            let share = |a: &[u32], b: &[u32]| a.iter().zip(b).any(|(a, b)| a == b);
            missed += usize::from(!share(&keys[0], &keys[1]));
            met += usize::from(share(&keys[0], &keys[2]));
        }
        // 0.4 are expected: more than 4 would come once in 10,000 times.
        assert!(missed <= 4, "{missed} of 400 were missed");
        assert!(met <= 4, "{met} of 400 were met");
    }
}
