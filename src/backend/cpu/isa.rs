//! Which instructions the hot loops are compiled for, chosen once at run time.

use crate::error::{Error, Result};

/// The instruction-set path. Element-wise results do not depend on it; sums of products do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// What every processor of the target has.
    Portable,
    /// AVX2 and FMA. Made by [`Isa::detect`] only, after asking the processor.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

/// The variable that forces a path.
const VARIABLE: &str = "VERYDEEP_ISA";

impl Isa {
    /// The best path that the processor has, or the one that `VERYDEEP_ISA` asks for.
    pub(super) fn detect() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Err(_) => Ok(Self::best()),
            Ok(word) => Self::named(&word),
        }
    }

    fn named(word: &str) -> Result<Self> {
        match word {
            "" | "auto" => Ok(Self::best()),
            "portable" => Ok(Self::Portable),
            "avx2" if Self::best() != Self::Portable => Ok(Self::best()),
            _ => Err(Error::invalid_hint(
                VARIABLE,
                "auto, portable, or avx2 where the processor has it",
                format_args!("'{word}'"),
                "unset it to use the best path",
            )),
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn best() -> Self {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self::Avx2
        } else {
            Self::Portable
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn best() -> Self {
        Self::Portable
    }

    /// Part of the equivalence class.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2+fma",
        }
    }
}

/// Compiles a function once per path and adds a first argument that chooses: `fn f(a: A)` becomes
/// `fn f(isa: Isa, a: A)`.
///
/// The body must be plain code without reassociation, so that all paths give the same bits; `f32::mul_add` is
/// one instruction in the AVX2 copy and an exact library call in the portable one.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::backend::cpu::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                portable($($arg),*)
            }

            match isa {
                $crate::backend::cpu::isa::Isa::Portable => portable($($arg),*),
                // SAFETY: `Isa::Avx2` is made only where the processor has AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
            }
        }
    };
}
pub(super) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_are_refused() {
        assert_eq!(Isa::named("portable").unwrap(), Isa::Portable);
        assert_eq!(Isa::named("auto").unwrap(), Isa::best());
        assert_eq!(Isa::named("sse9").unwrap_err().exit_code(), 3);
    }
}
