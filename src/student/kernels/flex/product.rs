//! Matrix products of strided parts of slices.

#![expect(unsafe_code, reason = "the products under burn's backend take raw pointers; the bounds are checked here")]

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie `row_stride` numbers apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same numbers, rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let Self { data, rows, columns, row_stride, column_stride } = self;
        Self { data, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }

    fn extent(&self) -> usize {
        extent(self.rows, self.columns, self.row_stride, self.column_stride)
    }
}

/// Numbers from the first element to the last, both included.
fn extent(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + (columns - 1) * column_stride + 1 }
}

/// `out = factor · left · right`, or `out += …` with `add`; `out` has rows `row_stride` numbers apart.
///
/// # Panics
/// When the shapes do not fit each other or a slice is too short: faults of the caller.
pub(super) fn multiply(
    out: &mut [f32],
    row_stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    factor: f32,
    add: bool,
) {
    let (rows, inner, columns) = (left.rows, left.columns, right.columns);
    assert_eq!(inner, right.rows, "inner dimensions differ");
    assert!(columns <= row_stride || rows <= 1, "rows of the product overlap");
    assert!(extent(rows, columns, row_stride, 1) <= out.len(), "the product does not fit");
    assert!(left.extent() <= left.data.len() && right.extent() <= right.data.len(), "a factor is too short");
    let stride = |stride: usize| stride as isize;
    // SAFETY: the assertions above bound every element that rows, columns and strides reach; `out` is borrowed mutably,
    // so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            stride(row_stride),
            add,
            left.data.as_ptr(),
            stride(left.column_stride),
            stride(left.row_stride),
            right.data.as_ptr(),
            stride(right.column_stride),
            stride(right.row_stride),
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
