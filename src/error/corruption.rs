//! What `--audit-every` can find.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Numbers that a device has changed or computed wrongly without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// Finished steps; the one under way was given up.
    pub step: u64,
    /// What is wrong and how it was seen.
    pub what: String,
    /// The replicas that it can be.
    pub suspects: Vec<Suspect>,
}

/// A replica whose hardware may be at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Its rank.
    pub rank: usize,
    /// Its host's name.
    pub host: String,
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {} (host {})", self.rank, self.host)
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suspects: Vec<String> = self.suspects.iter().map(Suspect::to_string).collect();
        write!(
            f,
            "silent corruption after step {}: {}: {}; nothing was saved: test the hardware, then --resume goes on from the \
             newest checkpoint",
            self.step,
            self.what,
            suspects.join(" or ")
        )
    }
}
