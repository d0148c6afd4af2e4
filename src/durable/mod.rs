//! Floor 0: files that survive. Everything that must still be there after a crash is written through this module:
//! checkpoints, logs and recipes of runs, shards, plan files, compiled kernels, exports.
//!
//! A file is either whole or absent: it grows under a temporary name, is synced, renamed, and its folder is synced
//! ([`NewFile`]; [`NewFolder`] does it for a folder). What grows line by line ends after a whole line ([`AppendFile`]), and
//! where the next process goes on after it, every line is checked ([`Journal`]). Who writes a folder holds its [`Lock`];
//! whoever dies lets go of it. Every request to the system passes [`faults`], where tests make it fail.

mod append;
pub mod faults;
mod folder;
mod journal;
mod lock;
mod new_file;
mod new_folder;

pub use append::AppendFile;
pub use folder::{create_folder, remove_file, remove_orphans};
pub use journal::Journal;
pub use lock::Lock;
pub use new_file::{NewFile, write_atomically};
pub use new_folder::{NewFolder, WhenDropped};
