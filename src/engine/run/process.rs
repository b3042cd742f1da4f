//! Child processes that do not outlive us, stop as a group, and end with a reason in words.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long a stopped group has before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Starts a program in a process group of its own that is killed when the calling *thread* ends: so call it from the
/// thread that waits for the program. After kill -9 of the engine no trainer goes on in the dark.
pub(crate) fn spawn_tied(command: &mut Command) -> io::Result<Child> {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "pre_exec: prctl is async-signal-safe and touches no memory")]
        // SAFETY: the closure makes one system call with constant arguments and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
    }
    command.spawn()
}

/// Sends a signal to the group of a child.
pub(crate) fn signal_group(pid: u32, signal: i32) {
    let Ok(group) = i32::try_from(pid) else { return };
    #[expect(unsafe_code, reason = "the standard library has no way to signal a group")]
    // SAFETY: kill takes plain numbers; a group that is gone makes it return an error, which is fine.
    unsafe {
        libc::kill(-group, signal);
    }
}

/// Asks a child's group to stop, then makes it.
pub(crate) fn stop_group(child: &mut Child) {
    signal_group(child.id(), libc::SIGTERM);
    let started = Instant::now();
    while started.elapsed() < GRACE {
        if !matches!(child.try_wait(), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    signal_group(child.id(), libc::SIGKILL);
    // Collects the child; that it is gone already is fine.
    _ = child.wait();
}

/// How a program ended, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(libc::SIGKILL)) => "killed (signal 9), most likely because memory ran out".into(),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended for an unknown reason".into(),
    }
}

/// The last line of a log that says anything, at most 300 characters of it.
pub(crate) fn last_line(log: &Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs_err::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(8192))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(300).collect())
}
