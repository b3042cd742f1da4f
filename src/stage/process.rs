//! Child processes that do not outlive us, stop as a group, and end with a reason in words.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a stopped group has before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The groups that this process has started and that still run: they die with it, see [`kill_groups`].
static GROUPS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A program in a process group of its own, that is never left running: all of the group is killed when the program
/// ends, when it is stopped, and when this process ends by [`kill_groups`].
pub struct Group {
    child: Child,
}

impl Group {
    /// Starts a program. The kernel kills it when the calling *thread* ends: so call this from the thread that waits.
    ///
    /// # Errors
    /// What the system says when the program cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = spawn_tied(command, libc::SIGKILL)?;
        if let Ok(mut groups) = GROUPS.lock() {
            groups.push(child.id());
        }
        Ok(Self { child })
    }

    /// Whether it has ended. If so, what it left running in its group is killed first: nothing may go on writing to files
    /// that are about to be hashed.
    ///
    /// # Errors
    /// What the system says when it cannot be asked.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if !has_exited(self.child.id())? {
            return Ok(None);
        }
        // Not collected yet, so the number still means this group.
        signal_group(self.child.id(), libc::SIGKILL);
        self.child.wait().map(Some)
    }

    /// Asks the group to stop, then makes it.
    pub fn stop(&mut self) {
        signal_group(self.child.id(), libc::SIGTERM);
        let started = Instant::now();
        while started.elapsed() < GRACE && matches!(has_exited(self.child.id()), Ok(false)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        signal_group(self.child.id(), libc::SIGKILL);
        // Collects the program; that it is gone already is fine.
        _ = self.child.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(mut groups) = GROUPS.lock() {
            groups.retain(|pid| *pid != self.child.id());
        }
    }
}

/// Kills every group that [`Group::start`] has running: the last thing before this process ends early.
pub fn kill_groups() {
    if let Ok(groups) = GROUPS.lock() {
        groups.iter().for_each(|pid| signal_group(*pid, libc::SIGKILL));
    }
}

/// Starts a program in a process group of its own, to which the kernel sends a signal when the calling thread ends.
///
/// # Errors
/// What the system says when the program cannot be started.
pub fn spawn_tied(command: &mut Command, signal: libc::c_int) -> io::Result<Child> {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "pre_exec: prctl is async-signal-safe and touches no memory")]
        // SAFETY: the closure makes one system call with plain numbers and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, signal) == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
    }
    command.spawn()
}

/// Sends a signal to the group of a child.
pub fn signal_group(pid: u32, signal: i32) {
    let Ok(group) = i32::try_from(pid) else { return };
    #[expect(unsafe_code, reason = "the standard library has no way to signal a group")]
    // SAFETY: kill takes plain numbers; a group that is gone makes it return an error, which is fine.
    unsafe {
        libc::kill(-group, signal);
    }
}

/// Whether a child has ended, without collecting it: its number stays its own.
fn has_exited(pid: u32) -> io::Result<bool> {
    #[expect(unsafe_code, reason = "the standard library collects a child when it looks")]
    // SAFETY: `siginfo_t` is plain data that may be all zeros, and waitid writes only to it.
    let (answer, ended) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let answer = libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT | libc::WNOHANG);
        (answer, info.si_pid() != 0)
    };
    if answer == 0 { Ok(ended) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process was started to go on when its terminal is closed (`nohup`): then a hangup stops nothing.
#[must_use]
pub fn ignores_hangup() -> bool {
    #[expect(unsafe_code, reason = "the standard library does not tell what becomes of a signal")]
    // SAFETY: `sigaction` is plain data that may be all zeros; with no new action given, the call only writes the present one.
    let (answer, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let answer = libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action);
        (answer, action)
    };
    answer == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// How a program ended, in words.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(libc::SIGKILL)) => "killed (signal 9), most likely because memory ran out".into(),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended for an unknown reason".into(),
    }
}

/// The last line of a log that says anything, at most 300 characters of it.
#[must_use]
pub fn last_line(log: &Path) -> Option<String> {
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
