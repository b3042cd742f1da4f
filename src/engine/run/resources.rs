//! What stages share: processors, GPUs, memory. (A teacher's concurrency is shared by its own limits, request by request.)

use std::collections::BTreeSet;

use stillhouse_stage::Needs;

/// The pools, and what is taken of them.
#[derive(Debug)]
pub(crate) struct Resources {
    jobs: usize,
    processors: usize,
    gpus: BTreeSet<String>,
    memory: u64,
    computing: usize,
}

/// What one stage holds.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    compute: bool,
    memory: u64,
    gpu: Option<String>,
    /// Threads that the stage may keep busy.
    pub(crate) threads: usize,
}

impl Holding {
    /// The GPU that is this stage's.
    pub(crate) fn gpu(&self) -> Option<&str> {
        self.gpu.as_deref()
    }
}

impl Resources {
    pub(crate) fn new(jobs: usize, processors: usize, gpus: &[String], memory: u64) -> Self {
        Self {
            jobs: jobs.max(1),
            processors: processors.max(1),
            gpus: gpus.iter().cloned().collect(),
            memory,
            computing: 0,
        }
    }

    /// Takes what a stage needs, if it is free; `waiting` stages want processors as well.
    pub(crate) fn take(&mut self, needs: &Needs, uses_gpus: bool, waiting: usize) -> Option<Holding> {
        if needs.compute && self.computing >= self.jobs {
            return None;
        }
        // What needs more than there is may still run alone: the estimate may be wrong.
        if needs.memory > self.memory && self.computing > 0 {
            return None;
        }
        let gpu = match (needs.device && uses_gpus, self.gpus.first().cloned()) {
            (true, None) => return None,
            (true, gpu) => gpu,
            (false, _) => None,
        };
        if let Some(gpu) = &gpu {
            self.gpus.remove(gpu);
        }
        self.computing += usize::from(needs.compute);
        let memory = needs.memory.min(self.memory);
        self.memory -= memory;
        let sharing = (self.computing + waiting).clamp(1, self.jobs);
        Some(Holding { compute: needs.compute, memory, gpu, threads: (self.processors / sharing).max(1) })
    }

    /// Gives back what a stage held.
    pub(crate) fn give_back(&mut self, holding: Holding) {
        self.computing -= usize::from(holding.compute);
        self.memory += holding.memory;
        self.gpus.extend(holding.gpu);
    }
}

/// Bytes of memory that are free for stages now; no limit where that cannot be told.
pub(crate) fn available_memory() -> u64 {
    let text = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.map_or(u64::MAX, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute() -> Needs {
        Needs { compute: true, ..Needs::default() }
    }

    #[test]
    fn processors_are_shared_by_those_that_compute() {
        let mut resources = Resources::new(2, 8, &[], u64::MAX);
        let alone = resources.take(&compute(), false, 0).unwrap();
        assert_eq!(alone.threads, 8);
        resources.give_back(alone);
        let first = resources.take(&compute(), false, 1).unwrap();
        let second = resources.take(&compute(), false, 0).unwrap();
        assert_eq!((first.threads, second.threads), (4, 4));
        assert!(resources.take(&compute(), false, 0).is_none(), "no more than `jobs` compute at once");
        assert!(resources.take(&Needs::default(), false, 0).is_some(), "a stage that only waits needs no processor");
        resources.give_back(first);
        assert!(resources.take(&compute(), false, 0).is_some());
    }

    #[test]
    fn a_gpu_serves_one_stage() {
        let mut resources = Resources::new(8, 8, &["cuda:0".into()], u64::MAX);
        let device = Needs { device: true, ..Needs::default() };
        let first = resources.take(&device, true, 0).unwrap();
        assert_eq!(first.gpu(), Some("cuda:0"));
        assert!(resources.take(&device, true, 0).is_none());
        resources.give_back(first);
        assert!(resources.take(&device, true, 0).is_some());
    }

    #[test]
    fn what_needs_too_much_memory_runs_alone() {
        let mut resources = Resources::new(4, 4, &[], 100);
        let large = Needs { compute: true, memory: 1000, ..Needs::default() };
        let first = resources.take(&large, false, 0).unwrap();
        assert!(resources.take(&large, false, 0).is_none());
        resources.give_back(first);
        assert!(resources.take(&large, false, 0).is_some());
    }
}
