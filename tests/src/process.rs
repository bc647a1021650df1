//! Processes: started without the environment's settings, signalled by id.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use crate::wait::until;

/// A command that no `QUORATE_*` variable of the user's environment reaches.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(key);
        }
    }
    command
}

/// SIGKILL: the process ends without another instruction.
pub fn kill(child: &mut Child) -> ExitStatus {
    // It may have ended by itself, which leaves nothing to kill.
    let _ = child.kill();
    child.wait().expect("a child can be waited for")
}

/// SIGTERM: asks the process to end.
pub fn terminate(child: &Child) {
    signal("TERM", child.id());
}

/// SIGINT: what Ctrl-C sends.
pub fn interrupt(child: &Child) {
    signal("INT", child.id());
}

/// SIGSTOP: the process keeps what it has and does nothing until [`go_on`].
pub fn pause(child: &Child) {
    signal("STOP", child.id());
}

/// SIGCONT: ends a [`pause`].
pub fn go_on(child: &Child) {
    signal("CONT", child.id());
}

/// Waits until the process ends by itself.
pub fn wait_for_exit(child: &mut Child) -> ExitStatus {
    until("the process ends", || child.try_wait().expect("a child can be waited for"))
}

/// Sends a signal to a process that this test started; the shell's own `kill`, since the standard
/// library knows only SIGKILL.
pub(crate) fn signal(name: &str, pid: u32) {
    let script = format!("kill -{name} {pid}");
    let status = Command::new("sh").args(["-c", &script]).status().expect("there is a shell");
    assert!(status.success(), "cannot signal process {pid}");
}

/// Whether a process of this id runs.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // A zombie has ended; whoever is to wait for it just has not yet.
    stat.is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}
