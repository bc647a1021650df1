//! The process and its user: what it prints, and how it is told to stop.
//!
//! It stops on SIGINT, SIGTERM, or the end of its stdin.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Prints a line for the user: the one place that writes to stdout.
///
/// Nobody may be reading it any more (`quorate dev | head`), which is no reason to fail.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A token that is cancelled when this process is told to stop.
///
/// Told a second time, or not done `within` so long, it exits at once with code 1: a node is built
/// to be killed at any moment, and an operator is not to be kept waiting.
pub fn stop_when_told(within: Duration, stdin_too: bool) -> io::Result<CancellationToken> {
    let mut signals = Signals::new(stdin_too)?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let reason = signals.next().await;
        info!(reason, "stopping");
        stop.cancel();
        tokio::select! {
            reason = signals.next() => warn!(reason, "told to stop twice: exiting at once"),
            () = tokio::time::sleep(within) => error!(?within, "cannot stop in time: exiting"),
        }
        std::process::exit(1);
    });
    Ok(token)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Signals {
    fn new(stdin_too: bool) -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let stdin = if stdin_too { Some(stdin_end()?) } else { None };
        Ok(Self { interrupt, terminate, stdin })
    }

    async fn next(&mut self) -> &'static str {
        let stdin_ends = async {
            match &mut self.stdin {
                Some(end) => drop(end.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            () = stdin_ends => {
                self.stdin = None;
                "the parent process ended"
            }
        }
    }
}

/// Reads stdin to its end on a thread of its own, which does not keep the process alive.
fn stdin_end() -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = [0; 64];
        while io::stdin().read(&mut buffer).is_ok_and(|read| read > 0) {}
        drop(ended);
    })?;
    Ok(end)
}
