//! Watching over the lease of an attempt while it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stillhouse_stage::Cancel;
use stillhouse_store::Lease;

use crate::run::worker_process::ChildSlot;

/// How often a working attempt looks whether its lease is still its own.
const LEASE_CHECK: Duration = Duration::from_secs(2);
/// How long a worker may take to reach a good point once it was asked to stop.
const STOP_GRACE: Duration = Duration::from_secs(60);

/// Watches over a lease while its attempt works, until it is dropped: a lost lease stops the attempt.
pub(super) struct LeaseWatch {
    thread: Option<std::thread::JoinHandle<()>>,
    done: Arc<AtomicBool>,
}

impl LeaseWatch {
    pub(super) fn start(lease: &Arc<Lease>, cancel: &Cancel, child: &ChildSlot) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (lease, cancel, child, done_too) = (Arc::clone(lease), cancel.clone(), child.clone(), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut asked_to_stop = None;
            while !done_too.load(Ordering::Relaxed) {
                std::thread::park_timeout(LEASE_CHECK);
                if done_too.load(Ordering::Relaxed) {
                    return;
                }
                if cancel.is_cancelled() && asked_to_stop.get_or_insert_with(Instant::now).elapsed() > STOP_GRACE {
                    child.signal(libc::SIGKILL);
                }
                if !lease.still_held() {
                    cancel.cancel();
                    child.signal(libc::SIGKILL);
                    return;
                }
            }
        });
        Self { thread: Some(thread), done }
    }
}

impl Drop for LeaseWatch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            _ = thread.join();
        }
    }
}
