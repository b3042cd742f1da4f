//! Random choices that never change: drawn from BLAKE3's output stream, so no dependency's new version can reorder a
//! batch that a trajectory key already stands for.

/// A stream of random numbers named by a purpose, a seed and a counter.
pub struct Stream {
    bytes: blake3::OutputReader,
}

impl Stream {
    /// The stream of `purpose` (a constant of the caller), `seed` and `counter`.
    #[must_use]
    pub fn new(purpose: &str, seed: u64, counter: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/random/1\0");
        hasher.update(purpose.as_bytes());
        hasher.update(&[0]);
        hasher.update(&seed.to_le_bytes());
        hasher.update(&counter.to_le_bytes());
        Self { bytes: hasher.finalize_xof() }
    }

    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.bytes.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `bound` (not 0), every one equally likely: the few draws that would favour some are thrown away.
    pub fn below(&mut self, bound: u64) -> u64 {
        let fair = u64::MAX - u64::MAX % bound;
        loop {
            let drawn = self.next();
            if drawn < fair {
                return drawn % bound;
            }
        }
    }

    /// So many different numbers below `bound`, in the order in which they are drawn; all of them where there are no more.
    #[must_use]
    pub fn pick(&mut self, count: usize, bound: usize) -> Vec<usize> {
        let mut picked = Vec::with_capacity(count.min(bound));
        if count >= bound {
            picked.extend(0..bound);
            self.shuffle(&mut picked);
            return picked;
        }
        while picked.len() < count {
            let drawn = self.below(bound as u64) as usize;
            if !picked.contains(&drawn) {
                picked.push(drawn);
            }
        }
        picked
    }

    /// Fisher and Yates' shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_never_changes() {
        let mut items: Vec<u32> = (0..10).collect();
        Stream::new("test", 17, 0).shuffle(&mut items);
        assert_eq!(items, [7, 2, 3, 1, 9, 0, 4, 6, 5, 8]);
    }

    #[test]
    fn what_is_picked_is_different_and_never_changes() {
        assert_eq!(Stream::new("test", 17, 0).pick(3, 1_000), [738, 114, 638]);
        let mut all = Stream::new("test", 17, 0).pick(9, 5);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn numbers_stay_below_the_bound_and_reach_all_of_it() {
        let mut stream = Stream::new("test", 1, 1);
        let mut seen = [0u32; 7];
        (0..7_000).for_each(|_| seen[stream.below(7) as usize] += 1);
        assert!(seen.iter().all(|count| (900..1_100).contains(count)), "{seen:?}");
    }
}
