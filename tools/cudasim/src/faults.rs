//! Failures on demand: `CUDASIM_FAIL=alloc:3` makes the third allocation of the process fail.

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
    const NAMES: [(&'static str, Self); 5] = [
        ("alloc", Self::Alloc),
        ("launch", Self::Launch),
        ("copy", Self::Copy),
        ("collective", Self::Collective),
        ("other", Self::Other),
    ];

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

/// Which call fails, and how many there have been.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    planned: Option<(Call, u64)>,
    counts: [u64; 5],
}

impl Faults {
    pub(crate) fn from_environment() -> Self {
        std::env::var("CUDASIM_FAIL").map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// `kind:N`, N from 1, or `none`. Anything else is a mistake in a test, which must not go unnoticed.
    fn parse(text: &str) -> Self {
        if text == "none" {
            return Self::default();
        }
        let planned = text.split_once(':').and_then(|(kind, number)| {
            let (_, call) = Call::NAMES.iter().find(|(name, _)| *name == kind)?;
            Some((*call, number.parse().ok().filter(|number| *number > 0)?))
        });
        assert!(
            planned.is_some(),
            "CUDASIM_FAIL: expected alloc, launch, copy, collective or other, then :N, found '{text}'"
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

    /// Counts a call; fails when it is the one.
    pub(crate) fn meet(&mut self, call: Call) -> Result<(), CUresult> {
        let count = &mut self.counts[call as usize];
        *count += 1;
        match self.planned {
            Some((kind, number)) if kind == call && number == *count => Err(call.error()),
            _ => Ok(()),
        }
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
