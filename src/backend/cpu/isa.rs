//! Which instructions the hot loops are compiled for, chosen once at run time.

use crate::error::{Error, Result};

/// The instruction-set path. Element-wise results do not depend on it. Sums of products do where one path has fused
/// multiply-adds and the other has not; AVX2 and AVX-512 give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// What every processor of the target has.
    Portable,
    /// AVX2 and FMA. Made by [`Isa::detect`] only, after asking the processor.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 (F, BW, DQ, VL) beside AVX2 and FMA. Made as [`Isa::Avx2`] is.
    #[cfg(target_arch = "x86_64")]
    Avx512,
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
        let named = match word {
            "" | "auto" => Some(Self::best()),
            word => Self::all().into_iter().find(|isa| isa.word() == word),
        };
        named.ok_or_else(|| {
            let here = Self::all().into_iter().map(Self::word).collect::<Vec<_>>();
            Error::invalid_hint(
                VARIABLE,
                format_args!(
                    "auto, or what the processor has of portable, avx2, avx512: {}",
                    here.join(", ")
                ),
                format_args!("'{word}'"),
                "unset it to use the best path",
            )
        })
    }

    /// The best path that the processor has.
    pub(super) fn best() -> Self {
        *Self::all().last().expect("every processor has the portable path")
    }

    /// Every path that the processor has, the best last.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(Self::Avx2);
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                all.push(Self::Avx512);
            }
        }
        all
    }

    /// Every path that the processor has.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn all() -> Vec<Self> {
        vec![Self::Portable]
    }

    /// What `VERYDEEP_ISA` calls it.
    fn word(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
        }
    }

    /// How products are summed, which is all of a path that bits depend on: part of the equivalence class.
    pub(super) fn arithmetic(self) -> &'static str {
        match self {
            Self::Portable => "products rounded",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::Avx512 => "products fused",
        }
    }
}

/// Compiles a function once per path and adds a first argument that chooses: `fn f(a: A)` becomes
/// `fn f(isa: Isa, a: A)`.
///
/// The body must be plain code without reassociation, so that all paths give the same bits; `f32::mul_add` is
/// one instruction in the AVX copies and an exact library call in the portable one.
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

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                portable($($arg),*)
            }

            match isa {
                $crate::backend::cpu::isa::Isa::Portable => portable($($arg),*),
                // SAFETY: `Isa::Avx2` is made only where the processor has AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: `Isa::Avx512` is made only where the processor has AVX-512.
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
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
        assert!(
            Isa::all()
                .into_iter()
                .all(|isa| Isa::named(isa.word()).unwrap() == isa)
        );
    }
}
