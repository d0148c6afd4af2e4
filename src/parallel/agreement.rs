//! What replicas tell one another before any of them acts.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Group;
use crate::backend::Backend;
use crate::error::{Error, Result};

/// How one replica fared.
#[derive(Serialize, Deserialize)]
enum Said<T> {
    Well(T),
    Failed { message: String, exit: u8 },
}

/// Tells all replicas how this one fared. What each says, by rank, where all are well; else the first failure: as it is
/// for the replica that had it, as [`Error::Replica`] for the others.
pub fn agree<B: Backend, T: Serialize + DeserializeOwned>(
    group: &mut impl Group<B>,
    own: Result<T>,
) -> Result<Vec<T>> {
    let said = match &own {
        Ok(value) => Said::Well(value),
        Err(error) => Said::Failed {
            message: error.to_string(),
            exit: error.exit_code(),
        },
    };
    let message = serde_json::to_vec(&said).expect("plain data serialises");
    let rank = group.place().rank;
    let mut own = own.err();
    let mut all = Vec::with_capacity(group.place().replicas);
    for (other, message) in group.exchange(message)?.iter().enumerate() {
        match serde_json::from_slice(message) {
            Ok(Said::Well(value)) => all.push(value),
            Ok(Said::Failed { message, exit }) => {
                let error = own.take().filter(|_| other == rank);
                return Err(error.unwrap_or(Error::Replica {
                    rank: other,
                    message,
                    exit,
                }));
            }
            Err(why) => {
                return Err(Error::invalid(
                    format_args!("what replica {other} said"),
                    "a message of this program's",
                    why,
                ));
            }
        }
    }
    Ok(all)
}

/// `own` where all replicas are well; errors as [`agree`] does.
pub fn all_well<B: Backend, T>(group: &mut impl Group<B>, own: Result<T>) -> Result<T> {
    let (said, own) = match own {
        Ok(value) => (Ok(()), Some(value)),
        Err(error) => (Err(error), None),
    };
    agree(group, said)?;
    own.ok_or_else(|| Error::invalid("an agreement", "this replica's own failure", "none"))
}
