//! Faults on demand: `VERYDEEP_FAULT` makes chosen operations of this module fail, so that tests can try every one of
//! them, in the library and in the program. Without the variable an operation costs one look at an empty list.
//!
//! The variable is a list of faults, separated by commas. `KIND@N:PART` meets the N-th operation, counted from 1, on a path
//! that contains PART (or on any path, without `:PART`); `KIND@N+:PART` meets that and all later ones. A kind is
//!
//! | Kind | What happens |
//! |---|---|
//! | `ENOSPC`, `EIO`, `EDQUOT`, `EROFS`, `EACCES`, `ENOLCK` | the operation fails with it, nothing is done |
//! | `short` | a write takes half of its bytes, as the system may; nothing else changes |
//! | `die` | the process ends at once, before the operation |
//! | `tear` | the same, but half of a write's bytes are in the file |
//!
//! `list=FILE` appends a line to FILE for every operation: what it is, a blank, its path.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// The variable that asks for faults.
pub const VARIABLE: &str = "VERYDEEP_FAULT";

/// What the system is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    CreateFolder,
    Create,
    Open,
    Write,
    Truncate,
    Sync,
    Rename,
    SyncFolder,
    Remove,
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateFolder => "create-folder",
            Self::Create => "create",
            Self::Open => "open",
            Self::Write => "write",
            Self::Truncate => "truncate",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::SyncFolder => "sync-folder",
            Self::Remove => "remove",
            Self::Lock => "lock",
        })
    }
}

/// Names of system errors, as the variable spells them.
const ERRORS: [(&str, i32); 6] = [
    ("ENOSPC", libc::ENOSPC),
    ("EIO", libc::EIO),
    ("EDQUOT", libc::EDQUOT),
    ("EROFS", libc::EROFS),
    ("EACCES", libc::EACCES),
    ("ENOLCK", libc::ENOLCK),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error(i32),
    Short,
    Die,
    Tear,
}

#[derive(Debug)]
struct Fault {
    kind: Kind,
    /// Counted from 1, among the operations on its paths.
    at: u64,
    lasting: bool,
    part: String,
    seen: AtomicU64,
}

impl Fault {
    /// Reads `KIND@N`, `KIND@N+`, `KIND@N:PART` or `KIND@N+:PART`.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('@')?;
        let (number, part) = rest.split_once(':').unwrap_or((rest, ""));
        let kind = match kind {
            "short" => Kind::Short,
            "die" => Kind::Die,
            "tear" => Kind::Tear,
            name => Kind::Error(ERRORS.iter().find(|(known, _)| *known == name)?.1),
        };
        Some(Self {
            kind,
            at: number.trim_end_matches('+').parse().ok().filter(|at| *at > 0)?,
            lasting: number.ends_with('+'),
            part: part.into(),
            seen: AtomicU64::new(0),
        })
    }

    /// Counts an operation; whether the fault meets it.
    fn meets(&self, path: &str) -> bool {
        if !path.contains(&self.part) {
            return false;
        }
        let number = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        number == self.at || (self.lasting && number > self.at)
    }
}

/// What the variable says.
#[derive(Debug, Default)]
struct Plan {
    faults: Vec<Fault>,
    list: Option<File>,
}

impl Plan {
    fn parse(text: &str) -> Result<Self> {
        let mut plan = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            if let Some(path) = part.strip_prefix("list=") {
                let list = OpenOptions::new().append(true).create(true).open(path);
                plan.list = Some(list.map_err(Error::io("open", Path::new(path)))?);
                continue;
            }
            let fault = Fault::parse(part).ok_or_else(|| {
                Error::Usage(format!(
                    "{VARIABLE}: expected KIND@N, KIND@N+, either with :PART, or list=FILE, separated by commas, found \
                     {part}; kinds are {}, short, die, tear",
                    ERRORS.map(|(name, _)| name).join(", ")
                ))
            })?;
            plan.faults.push(fault);
        }
        Ok(plan)
    }

    fn consult(&self, operation: Operation, path: &Path) -> io::Result<Option<Kind>> {
        if self.faults.is_empty() && self.list.is_none() {
            return Ok(None);
        }
        let path = path.to_string_lossy();
        if let Some(mut list) = self.list.as_ref() {
            list.write_all(format!("{operation} {path}\n").as_bytes())?;
        }
        // All count, also behind the one that strikes.
        let met = self.faults.iter().filter(|fault| fault.meets(&path));
        Ok(met.map(|fault| fault.kind).collect::<Vec<_>>().first().copied())
    }
}

fn plan() -> &'static Result<Plan> {
    static PLAN: OnceLock<Result<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| Plan::parse(&std::env::var(VARIABLE).unwrap_or_default()))
}

/// What faults this process was asked to meet, if any. Errors where the variable cannot be read, exit 2.
pub fn asked() -> Result<Option<String>> {
    match (plan(), std::env::var(VARIABLE)) {
        (Err(error), _) => Err(Error::Usage(error.to_string())),
        (Ok(_), Ok(text)) if !text.is_empty() => Ok(Some(text)),
        (Ok(_), _) => Ok(None),
    }
}

fn consult(operation: Operation, path: &Path) -> io::Result<Option<Kind>> {
    #[cfg(test)]
    if let Some(met) = tests::consult(operation, path) {
        return met;
    }
    match plan() {
        Ok(plan) => plan.consult(operation, path),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

/// Every operation but a write asks here first.
pub(super) fn before(operation: Operation, path: &Path) -> io::Result<()> {
    match consult(operation, path)? {
        None | Some(Kind::Short) => Ok(()),
        Some(Kind::Error(number)) => Err(io::Error::from_raw_os_error(number)),
        Some(Kind::Die | Kind::Tear) => std::process::abort(),
    }
}

/// Writes some of `bytes`, as [`Write::write`] does.
pub(super) fn write(mut file: &File, path: &Path, bytes: &[u8]) -> io::Result<usize> {
    let half = &bytes[..bytes.len().div_ceil(2)];
    match consult(Operation::Write, path)? {
        None => file.write(bytes),
        Some(Kind::Short) => file.write(half),
        Some(Kind::Error(number)) => Err(io::Error::from_raw_os_error(number)),
        Some(Kind::Die) => std::process::abort(),
        Some(Kind::Tear) => {
            file.write_all(half)?;
            std::process::abort()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// The faults of a test, and what its thread has done so far.
        static OF_THIS_THREAD: RefCell<Option<(Plan, Vec<String>)>> = const { RefCell::new(None) };
    }

    pub(super) fn consult(operation: Operation, path: &Path) -> Option<io::Result<Option<Kind>>> {
        OF_THIS_THREAD.with_borrow_mut(|own| {
            let (plan, done) = own.as_mut()?;
            done.push(format!("{operation} {}", path.display()));
            Some(plan.consult(operation, path))
        })
    }

    /// Calls `work` with faults for this thread; gives also what operations there were.
    pub(crate) fn with_faults<T>(faults: &str, work: impl FnOnce() -> T) -> (T, Vec<String>) {
        let plan = Plan::parse(faults).unwrap();
        OF_THIS_THREAD.set(Some((plan, Vec::new())));
        let result = work();
        let (_, done) = OF_THIS_THREAD.take().unwrap();
        (result, done)
    }

    #[test]
    fn the_variable_is_read_or_refused() {
        let plan = Plan::parse("ENOSPC@3:log,short@1+,die@2").unwrap();
        assert_eq!(plan.faults.len(), 3);
        assert_eq!(plan.faults[0].kind, Kind::Error(libc::ENOSPC));
        for text in ["ENOSPC", "ENOSPC@0", "ENOSPC@x", "EWHAT@1", "list", "@1", "die@+"] {
            let refusal = Plan::parse(text).unwrap_err();
            assert_eq!(refusal.exit_code(), 2, "{text}");
            assert!(refusal.to_string().contains(text), "{refusal}");
        }
    }

    #[test]
    fn a_fault_meets_the_operations_that_it_says() {
        let strikes = |fault: &str| -> Vec<bool> {
            let paths = ["a/log", "b/x", "a/log", "a/log"];
            let look = || paths.map(|path| before(Operation::Sync, Path::new(path)).is_err());
            with_faults(fault, look).0.to_vec()
        };
        assert_eq!(strikes("EIO@2"), [false, true, false, false]);
        assert_eq!(strikes("EIO@2:log"), [false, false, true, false]);
        assert_eq!(strikes("EIO@2+:log"), [false, false, true, true]);
        assert_eq!(strikes("EIO@1:x,EIO@1:log"), [true, true, false, false]);
        assert_eq!(strikes("short@1+"), [false; 4]);
    }
}
