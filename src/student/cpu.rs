//! The processor's floating-point mode.
//!
//! Training drives some numbers below 1.2e-38, where processors of the x86 family compute many times slower. Nothing
//! that small matters to a model, so such numbers are taken as zero, on every thread that computes.

/// Takes numbers too small for a normal float as zero, on this thread and on every thread of rayon's pool.
///
/// The mode belongs to a thread and changes results in their last bits, so whoever computes calls this first.
pub fn flush_subnormals() {
    mode::flush_on_this_thread();
    static POOL: std::sync::Once = std::sync::Once::new();
    POOL.call_once(|| {
        rayon::broadcast(|_| mode::flush_on_this_thread());
    });
}

/// Makes the process ready to train: `threads` threads (0 leaves the number alone), subnormal numbers flushed.
pub fn prepare(threads: usize) {
    if threads > 0 {
        // Fails only where the pool was made before, by whoever came first: then it stays as it is.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        tracing::debug!(threads, made = pool.is_ok(), "thread pool");
    }
    flush_subnormals();
}

/// Bytes of memory that this process may use: the machine's, or less where a control group says so; none where neither is
/// known.
pub fn memory_bytes() -> Option<usize> {
    let kibibytes = fs_err::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"))?;
        line.trim().parse::<usize>().ok()
    });
    let machine = kibibytes.map(|size| size.saturating_mul(1024));
    let group = fs_err::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    [machine, group].into_iter().flatten().min()
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the mode can only be set with an instruction")]
mod mode {
    /// Results that are too small become zero.
    const FLUSH_TO_ZERO: u32 = 1 << 15;
    /// Operands that are too small count as zero.
    const DENORMALS_ARE_ZERO: u32 = 1 << 6;

    /// Sets the two bits in this thread's control register.
    pub(super) fn flush_on_this_thread() {
        let mut control: u32 = 0;
        // SAFETY: both instructions belong to SSE, which every x86-64 processor has, and touch four bytes that are ours.
        // Rust assumes the default mode for constant folding only; a last bit that differs there is of no consequence.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack, preserves_flags));
            control |= FLUSH_TO_ZERO | DENORMALS_ARE_ZERO;
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack, preserves_flags));
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod mode {
    /// Other processors compute with small numbers at full speed.
    pub(super) fn flush_on_this_thread() {}
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::hint::black_box;

    #[test]
    fn small_numbers_are_zero_on_every_thread() {
        super::flush_subnormals();
        let product = || black_box(1e-30f32) * black_box(1e-10f32);
        assert_eq!(product(), 0.0);
        assert!(rayon::broadcast(|_| product()).iter().all(|product| *product == 0.0));
    }
}
