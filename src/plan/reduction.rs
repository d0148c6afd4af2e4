//! How gradients of replicas are added.

use serde::{Deserialize, Serialize};

/// How replicas on several devices add their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// In the order of the reduction tree: the same bits for any number of replicas.
    #[default]
    Exact,
    /// In an order of NCCL's.
    Nccl,
}
