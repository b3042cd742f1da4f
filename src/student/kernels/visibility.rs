//! Which keys a query may look at.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Int, Tensor, TensorData};

/// Query `i` of row `b` sees the keys `starts[b, i] ..= offset + i`: causal, and never beyond the start of its
/// own packed example (or of the sequence, behind left padding). Kept as one number a query, not as a matrix,
/// so that a kernel can skip what is hidden. Starts never fall from one query of a row to the next.
#[derive(Debug, Clone)]
pub struct Visibility {
    starts: Arc<[u32]>,
    batch: usize,
    queries: usize,
    offset: usize,
    on_device: OnDevice,
}

/// The starts as a device has them: whatever a backend's kernels put there.
#[derive(Clone, Default)]
struct OnDevice(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

impl std::fmt::Debug for OnDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDevice")
    }
}

impl Visibility {
    /// Causal attention inside runs of equal segment numbers.
    ///
    /// `segments` is `[batch, time]`, row by row; positions attend only to earlier ones of the same run, so
    /// padding (a run of its own) never reaches an example.
    pub fn from_segments(segments: &[u32], batch: usize, time: usize) -> Self {
        let mut starts = Vec::with_capacity(batch * time);
        for row in segments.chunks_exact(time.max(1)) {
            let mut start = 0;
            for (position, segment) in row.iter().enumerate() {
                if position > 0 && row[position - 1] != *segment {
                    start = position;
                }
                starts.push(start as u32);
            }
        }
        Self { starts: starts.into(), batch, queries: time, offset: 0, on_device: OnDevice::default() }
    }

    /// Causal attention for `queries` new positions after `offset` cached ones, where row `b` begins behind
    /// `padding[b]` positions of left padding. A padded query sees only itself, so nothing divides by zero.
    pub fn with_cache(padding: &[usize], queries: usize, offset: usize) -> Self {
        let starts =
            padding.iter().flat_map(|&pad| (0..queries).map(move |query| pad.min(offset + query) as u32)).collect();
        Self { starts, batch: padding.len(), queries, offset, on_device: OnDevice::default() }
    }

    /// The same, but no query sees more than the latest `width` keys, its own among them: a sliding window.
    pub fn within(&self, width: usize) -> Self {
        let starts = self.starts.iter().enumerate().map(|(place, &start)| {
            let own = self.offset + place % self.queries.max(1);
            start.max((own + 1).saturating_sub(width) as u32)
        });
        Self { starts: starts.collect(), on_device: OnDevice::default(), ..*self }
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Queries a row.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// Keys a row: the cached ones and the new ones.
    pub fn keys(&self) -> usize {
        self.offset + self.queries
    }

    /// First and last key (inclusive) that `query` of `row` sees.
    pub fn range(&self, row: usize, query: usize) -> (usize, usize) {
        (self.starts[row * self.queries + query] as usize, self.offset + query)
    }

    /// What `put` made of the starts (`[batch, queries]`, row by row) when it was first asked for, shared by all copies
    /// of this value: every layer of a model looks through the same one. `fits` says whether what is there will do.
    pub fn on_device<T: Any + Clone + Send>(&self, fits: impl Fn(&T) -> bool, put: impl FnOnce(&[u32]) -> T) -> T {
        // A panic elsewhere leaves either a whole value here or none.
        let mut kept = self.on_device.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = kept.as_ref().and_then(|kept| kept.downcast_ref::<T>()).filter(|there| fits(there)) {
            return there.clone();
        }
        let made = put(&self.starts);
        *kept = Some(Box::new(made.clone()));
        made
    }

    /// `true` where a key is hidden.
    ///
    /// # Shapes
    /// - output: `[batch, 1, 1, queries, keys]`
    pub fn hidden_mask<B: Backend>(&self, device: &B::Device) -> Tensor<B, 5, Bool> {
        let (queries, keys) = (self.queries as i64, self.keys() as i64);
        let starts: Vec<i32> = self.starts.iter().map(|&start| start as i32).collect();
        let starts =
            Tensor::<B, 5, Int>::from_data(TensorData::new(starts, [self.batch, 1, 1, self.queries, 1]), device);
        let last = Tensor::<B, 1, Int>::arange(self.offset as i64..self.offset as i64 + queries, device).reshape([
            1,
            1,
            1,
            self.queries,
            1,
        ]);
        let key = Tensor::<B, 1, Int>::arange(0..keys, device).reshape([1, 1, 1, 1, self.keys()]);
        let shape = [self.batch, 1, 1, self.queries, self.keys()];
        let key = key.expand(shape);
        key.clone().lower(starts.expand(shape)).bool_or(key.greater(last.expand(shape)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    #[test]
    fn a_packed_example_sees_itself_and_its_past_only() {
        let visibility = Visibility::from_segments(&[1, 1, 2, 2, 0], 1, 5);
        let ranges: Vec<_> = (0..5).map(|query| visibility.range(0, query)).collect();
        assert_eq!(ranges, [(0, 0), (0, 1), (2, 2), (2, 3), (4, 4)]);
    }

    #[test]
    fn starts_never_fall_along_a_row() {
        for visibility in [
            Visibility::from_segments(&[1, 1, 2, 2, 0, 3, 1, 1, 0, 0], 2, 5),
            Visibility::with_cache(&[0, 3], 5, 2),
            Visibility::with_cache(&[0, 3], 5, 2).within(2),
        ] {
            for row in 0..2 {
                for query in 1..5 {
                    assert!(visibility.range(row, query).0 >= visibility.range(row, query - 1).0);
                }
            }
        }
    }

    #[test]
    fn what_is_on_the_device_is_put_there_once_for_all_copies() {
        let visibility = Visibility::from_segments(&[1, 1, 2], 1, 3);
        let copy = visibility.clone();
        let put = |device: u8| move |starts: &[u32]| (device, starts.to_vec());
        let on = |device: u8| move |there: &(u8, Vec<u32>)| there.0 == device;
        assert_eq!(visibility.on_device(on(1), put(1)), (1, vec![0, 0, 2]));
        assert_eq!(copy.on_device(on(1), |_: &[u32]| unreachable!()), (1, vec![0, 0, 2]));
        assert_eq!(copy.on_device(on(2), put(2)).0, 2);
    }

    #[test]
    fn a_window_hides_what_lies_further_back_and_shows_nothing_more() {
        let packed = Visibility::from_segments(&[1, 1, 1, 1, 2, 2, 2], 1, 7).within(2);
        let ranges: Vec<_> = (0..7).map(|query| packed.range(0, query)).collect();
        assert_eq!(ranges, [(0, 0), (0, 1), (1, 2), (2, 3), (4, 4), (4, 5), (5, 6)]);
        let cached = Visibility::with_cache(&[0, 3], 2, 4).within(3);
        assert_eq!(
            [cached.range(0, 0), cached.range(0, 1), cached.range(1, 0), cached.range(1, 1)],
            [(2, 4), (3, 5), (3, 4), (3, 5)]
        );
    }

    #[test]
    fn the_mask_says_the_same_as_the_ranges() {
        for visibility in [
            Visibility::from_segments(&[1, 1, 2, 2, 0, 1, 1, 1, 1, 1], 2, 5),
            Visibility::with_cache(&[0, 3], 2, 4),
            Visibility::with_cache(&[0, 3], 5, 0),
            Visibility::with_cache(&[0, 3], 5, 0).within(2),
        ] {
            let mask = visibility.hidden_mask::<Flex>(&Default::default());
            let mask = mask.into_data().to_vec::<bool>().unwrap();
            for row in 0..2 {
                for query in 0..visibility.queries() {
                    let (first, last) = visibility.range(row, query);
                    for key in 0..visibility.keys() {
                        let at = (row * visibility.queries() + query) * visibility.keys() + key;
                        assert_eq!(mask[at], key < first || key > last, "row {row} query {query} key {key}");
                    }
                }
            }
        }
    }
}
