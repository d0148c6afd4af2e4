//! Stopping a run from outside: SIGINT, SIGTERM and SIGUSR1 ask for a checkpoint and exit 75.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::error::{Error, Result};

const SIGNALS: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGUSR1, "SIGUSR1")];

/// Whether somebody asked the run to stop. Looked at between micro-batches.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// 0, or 1 + the signal's index in [`SIGNALS`].
    asked: Arc<AtomicUsize>,
}

impl Stop {
    /// Listens to the signals from now on. A second SIGINT or SIGTERM ends the process at once, without a checkpoint.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        let asked_before = Arc::new(AtomicBool::new(false));
        let register = || -> std::io::Result<()> {
            for (index, (signal, _)) in SIGNALS.iter().enumerate() {
                if *signal != SIGUSR1 {
                    // Registered before the flag that arms it, so it acts from the second signal on.
                    flag::register_conditional_shutdown(*signal, 128 + signal, Arc::clone(&asked_before))?;
                    flag::register(*signal, Arc::clone(&asked_before))?;
                }
                flag::register_usize(*signal, Arc::clone(&stop.asked), index + 1)?;
            }
            Ok(())
        };
        register().map_err(|source| Error::Io {
            action: "register",
            path: "signal handlers".into(),
            source,
        })?;
        Ok(stop)
    }

    /// The signal that asked, if one did.
    pub fn asked(&self) -> Option<&'static str> {
        let index = self.asked.load(Ordering::Relaxed).checked_sub(1)?;
        Some(SIGNALS[index].1)
    }

    /// Asks, as SIGTERM would.
    pub fn ask(&self) {
        self.asked.store(2, Ordering::Relaxed);
    }
}
