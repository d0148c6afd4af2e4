//! Failures on demand: `CUDASIM_FAIL=alloc:3` makes the third allocation of the process fail, `CUDASIM_FAIL=die:3` kills
//! the process at its third call of a collective.

use std::ffi::c_int;

use cudarc::driver::sys::CUresult;

/// Kinds of calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Device or pinned memory.
    Alloc,
    Launch,
    Copy,
    /// A call on a communicator, which then fails asynchronously.
    Collective,
    /// Streams, events, modules, library handles.
    Other,
}

impl Call {
    fn error(self) -> CUresult {
        match self {
            Self::Alloc => CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            Self::Launch => CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            Self::Copy => CUresult::CUDA_ERROR_UNKNOWN,
            Self::Collective => CUresult::CUDA_ERROR_EXTERNAL_DEVICE,
            Self::Other => CUresult::CUDA_ERROR_OPERATING_SYSTEM,
        }
    }
}

/// What becomes of a planned call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    Fails,
    /// A collective that this rank never takes part in, though nobody is told of an error.
    Hangs,
}

/// What is planned: the course of a call, or the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Call(Course),
    /// The process gets this signal.
    Signal(c_int),
}

/// The names of faults.
const FAULTS: [(&str, Call, Plan); 8] = [
    ("alloc", Call::Alloc, Plan::Call(Course::Fails)),
    ("launch", Call::Launch, Plan::Call(Course::Fails)),
    ("copy", Call::Copy, Plan::Call(Course::Fails)),
    ("collective", Call::Collective, Plan::Call(Course::Fails)),
    ("other", Call::Other, Plan::Call(Course::Fails)),
    ("hang", Call::Collective, Plan::Call(Course::Hangs)),
    ("die", Call::Collective, Plan::Signal(libc::SIGKILL)),
    ("freeze", Call::Collective, Plan::Signal(libc::SIGSTOP)),
];

/// Which call fails, and how many there have been.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    planned: Option<(Call, Plan, u64)>,
    counts: [u64; 5],
}

impl Faults {
    pub(crate) fn from_environment() -> Self {
        std::env::var("CUDASIM_FAIL").map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// `fault:N`, N from 1, or `none`. Anything else is a mistake in a test, which must not go unnoticed.
    fn parse(text: &str) -> Self {
        if text == "none" {
            return Self::default();
        }
        let planned = text.split_once(':').and_then(|(fault, number)| {
            let (_, call, plan) = FAULTS.into_iter().find(|(name, ..)| *name == fault)?;
            Some((call, plan, number.parse().ok().filter(|number| *number > 0)?))
        });
        let names = FAULTS.map(|(name, ..)| name).join(", ");
        assert!(
            planned.is_some(),
            "CUDASIM_FAIL: expected one of {names}, then :N, found '{text}'"
        );
        Self {
            planned,
            ..Self::default()
        }
    }

    /// Plans a failure, counting from now on.
    pub(crate) fn plan(&mut self, text: &str) {
        *self = Self::parse(text);
    }

    /// Counts a call; says what becomes of it when it is the planned one.
    pub(crate) fn count(&mut self, call: Call) -> Option<Course> {
        let count = &mut self.counts[call as usize];
        *count += 1;
        let (kind, plan, number) = self.planned?;
        if (kind, number) != (call, *count) {
            return None;
        }
        match plan {
            Plan::Call(course) => Some(course),
            Plan::Signal(signal) => {
                // SAFETY: ends or stops this process.
                unsafe { libc::kill(libc::getpid(), signal) };
                None // continued
            }
        }
    }

    /// Counts a call that is not a collective; fails when it is the planned one.
    pub(crate) fn meet(&mut self, call: Call) -> Result<(), CUresult> {
        self.count(call).map_or(Ok(()), |_| Err(call.error()))
    }

    /// Calls so far, in the order alloc, launch, copy, collective, other.
    pub(crate) fn counts(&self) -> [u64; 5] {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_planned_call_fails() {
        let mut faults = Faults::parse("copy:2");
        assert_eq!(faults.meet(Call::Copy), Ok(()));
        assert_eq!(faults.meet(Call::Alloc), Ok(()));
        assert!(faults.meet(Call::Copy).is_err());
        assert_eq!(faults.meet(Call::Copy), Ok(()));
        assert_eq!(faults.counts(), [1, 0, 3, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "CUDASIM_FAIL")]
    fn a_misspelt_fault_is_noticed() {
        Faults::parse("alloc");
    }
}
