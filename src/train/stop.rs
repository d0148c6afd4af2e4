//! Stopping a run from outside: SIGINT, SIGTERM and SIGUSR1 ask for a checkpoint and exit 75.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::error::{Error, Result};

/// A signal that asks a run to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Int,
    /// SIGTERM: what batch systems send before they kill.
    Term,
    /// SIGUSR1: what a batch system can be told to send some time before its limit.
    Usr1,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Int, Self::Term, Self::Usr1];

    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
            Self::Usr1 => "SIGUSR1",
        }
    }

    fn number(self) -> i32 {
        match self {
            Self::Int => SIGINT,
            Self::Term => SIGTERM,
            Self::Usr1 => SIGUSR1,
        }
    }
}

/// Whether somebody asked the run to stop. Looked at between micro-batches.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// 0, or 1 + the signal's place in [`Signal::ALL`].
    asked: Arc<AtomicUsize>,
}

impl Stop {
    /// Listens to the signals from now on. A second SIGINT or SIGTERM ends the process at once, without a checkpoint.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        let asked_before = Arc::new(AtomicBool::new(false));
        let register = || -> std::io::Result<()> {
            for (index, signal) in Signal::ALL.into_iter().enumerate() {
                let number = signal.number();
                if signal != Signal::Usr1 {
                    // Registered before the flag that arms it, so it acts from the second signal on.
                    flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&asked_before))?;
                    flag::register(number, Arc::clone(&asked_before))?;
                }
                flag::register_usize(number, Arc::clone(&stop.asked), index + 1)?;
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
    pub fn asked(&self) -> Option<Signal> {
        let index = self.asked.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Signal::ALL[index])
    }

    /// Asks, as SIGTERM would.
    pub fn ask(&self) {
        self.asked.store(2, Ordering::Relaxed);
    }
}
