//! Vectors of `f32` of whatever width the machine has, and the one place where a width is chosen.
//!
//! 1. [`Lanes`]: the few operations that the kernels need, on a vector of [`Lanes::WIDTH`] numbers.
//! 2. `avx512`, `avx2`, `portable`: the three vectors.
//! 3. [`SimdLevel`] and [`dispatch`]: detection at run time, and entry into code compiled for a level.
//!
//! Invariant: a value of a vector type exists only inside [`dispatch`], which has checked that the machine has the
//! instructions. Everything that handles vectors is `#[inline(always)]`, so that it is compiled with the instruction
//! set of the function that [`dispatch`] enters; closures are avoided in it because they can't be marked so.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::keep::KeepRow;
use std::sync::OnceLock;

/// The widest vector there is, in numbers: the size of a buffer that holds any vector.
pub(crate) const WIDEST: usize = 16;

/// A vector of [`Lanes::WIDTH`] numbers.
///
/// Minimum and maximum return their *second* operand when either is not a number, as the x86 instructions do.
pub(crate) trait Lanes: Copy {
    /// How many numbers a vector holds; at most [`WIDEST`].
    const WIDTH: usize;

    fn splat(value: f32) -> Self;
    /// The first `WIDTH` numbers of `from`, which has at least as many.
    fn load(from: &[f32]) -> Self;
    /// Writes the vector to the first `WIDTH` numbers of `to`, which has at least as many.
    fn store(self, to: &mut [f32]);

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once where the machine can.
    fn mul_add(self, factor: Self, term: Self) -> Self;

    /// `self * 2^power`, correct down to the subnormal numbers; `power` is integral and within ±250.
    fn times_power_of_two(self, power: Self) -> Self;
    /// `(m, e)` with `self = m * 2^e` and `m` in [√½, √2), for positive normal numbers.
    fn mantissa_and_exponent(self) -> (Self, Self);
    /// `self` where `left < right`, else `otherwise`.
    fn where_less(self, left: Self, right: Self, otherwise: Self) -> Self;
    /// Whether any lane equals the same lane of `other`.
    fn any_equal(self, other: Self) -> bool;
    /// Dropout's factors of the places `first` and after it.
    fn keep_factors(row: &KeepRow, first: u32) -> Self;

    /// The sum of all lanes, added pairwise.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0.0; WIDEST];
        self.store(&mut lanes);
        let mut width = WIDEST / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }

    /// The greatest lane.
    #[inline(always)]
    fn greatest(self) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; WIDEST];
        self.store(&mut lanes);
        let mut width = WIDEST / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] = if lanes[lane] > lanes[lane + width] { lanes[lane] } else { lanes[lane + width] };
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// Runs a block for every vector of a row of the given length: `at` is where the vector starts, and the constant `FULL`
/// says whether all of it lies within the row. The block is expanded twice, so that the loop over full vectors has no
/// branch and nothing passes through memory; a closure would not do (see the module).
macro_rules! sweep {
    ($lanes:ty, $length:expr, |$at:ident, $full:ident| $body:block) => {{
        let length: usize = $length;
        let full_end = length - length % <$lanes>::WIDTH;
        let mut position = 0;
        while position < full_end {
            const $full: bool = true;
            let $at = position;
            $body
            position += <$lanes>::WIDTH;
        }
        if full_end < length {
            const $full: bool = false;
            let $at = full_end;
            $body
        }
    }};
}
pub(crate) use sweep;

/// The vector at `at`, with `fill` in the lanes past the end of the row unless it is `FULL`.
#[inline(always)]
pub(crate) fn load<L: Lanes, const FULL: bool>(row: &[f32], at: usize, fill: f32) -> L {
    if FULL {
        return L::load(&row[at..]);
    }
    let mut padded = [fill; WIDEST];
    let rest = &row[at..];
    padded[..rest.len()].copy_from_slice(rest);
    L::load(&padded)
}

/// Stores the vector at `at`, without the lanes past the end of the row unless it is `FULL`.
#[inline(always)]
pub(crate) fn store<L: Lanes, const FULL: bool>(vector: L, row: &mut [f32], at: usize) {
    if FULL {
        return vector.store(&mut row[at..]);
    }
    let mut padded = [0.0; WIDEST];
    vector.store(&mut padded);
    let rest = &mut row[at..];
    rest.copy_from_slice(&padded[..rest.len()]);
}

/// A sum of many vectors: lane by lane in `f32`, in two levels so that rounding errors stay far below those of one
/// long chain, and across lanes in `f64`. The order is a function of the length and the level alone.
#[derive(Clone, Copy)]
pub(crate) struct LaneSum<L> {
    short: L,
    long: L,
    terms: u32,
}

impl<L: Lanes> LaneSum<L> {
    const BLOCK: u32 = 32;

    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { short: L::splat(0.0), long: L::splat(0.0), terms: 0 }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, vector: L) {
        self.short = self.short.add(vector);
        self.flush_when_due();
    }

    #[inline(always)]
    pub(crate) fn add_product(&mut self, left: L, right: L) {
        self.short = left.mul_add(right, self.short);
        self.flush_when_due();
    }

    #[inline(always)]
    fn flush_when_due(&mut self) {
        self.terms += 1;
        if self.terms == Self::BLOCK {
            self.long = self.long.add(self.short);
            self.short = L::splat(0.0);
            self.terms = 0;
        }
    }

    #[inline(always)]
    pub(crate) fn total(self) -> f64 {
        let mut lanes = [0.0; WIDEST];
        self.long.add(self.short).store(&mut lanes);
        lanes[..L::WIDTH].iter().map(|&lane| f64::from(lane)).sum()
    }
}

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    /// Plain Rust, whatever the target of the build guarantees.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl SimdLevel {
    /// The levels that this machine can run, slowest first.
    pub fn available() -> &'static [SimdLevel] {
        static AVAILABLE: OnceLock<Vec<SimdLevel>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let all = [Self::Portable, Self::Avx2, Self::Avx512];
            all.into_iter().filter(|level| level.detected()).collect()
        })
    }

    /// The fastest level that this machine can run, or the one that the environment variable `MEDLEY_SIMD` names.
    pub fn best() -> SimdLevel {
        static BEST: OnceLock<SimdLevel> = OnceLock::new();
        *BEST.get_or_init(|| {
            let asked = std::env::var("MEDLEY_SIMD").unwrap_or_default();
            let available = || Self::available().iter().copied();
            let named = available().find(|level| format!("{level:?}").eq_ignore_ascii_case(&asked));
            named.or(available().last()).unwrap_or(Self::Portable)
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn detected(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detected(self) -> bool {
        self == Self::Portable
    }
}

/// Work that is written once for vectors of any width. `run` must be `#[inline(always)]`.
pub(crate) trait Task {
    fn run<L: Lanes>(self);
}

/// Runs the task compiled for `level`. Falls back to portable code where the machine lacks the level.
#[cfg(target_arch = "x86_64")]
pub(crate) fn dispatch<K: Task>(level: SimdLevel, task: K) {
    #[target_feature(enable = "avx512f")]
    fn on_avx512<K: Task>(task: K) {
        task.run::<avx512::F32x16>();
    }
    #[target_feature(enable = "avx2,fma")]
    fn on_avx2<K: Task>(task: K) {
        task.run::<avx2::F32x8>();
    }
    match level {
        // SAFETY: the guard has found the instructions on this machine.
        SimdLevel::Avx512 if SimdLevel::available().contains(&level) => unsafe { on_avx512(task) },
        // SAFETY: as above.
        SimdLevel::Avx2 if SimdLevel::available().contains(&level) => unsafe { on_avx2(task) },
        _ => task.run::<portable::F32x8>(),
    }
}

/// Runs the task in portable code, the only level of this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn dispatch<K: Task>(_level: SimdLevel, task: K) {
    task.run::<portable::F32x8>();
}
