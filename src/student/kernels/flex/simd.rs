//! Loops compiled once for each family of vector instructions; the widest that the processor has is taken.

use std::sync::OnceLock;

use pulp::Arch;

/// Runs a loop with the widest vector instructions there are. What the loop computes is the same with each: nothing here
/// fuses a product with a sum, and sums have one order ([`sum`](super::rows::sum)).
///
/// The loop must be in the closure's own body, or in functions that are always inlined: only that is compiled anew.
#[inline(always)]
pub(super) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    static WIDEST: OnceLock<Arch> = OnceLock::new();
    WIDEST.get_or_init(Arch::new).dispatch(work)
}
