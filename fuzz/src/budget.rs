//! How much memory an input may take. libFuzzer's own limit on single allocations needs a sanitizer; its limit on the
//! process is only looked at once a second.

use cap::Cap;
use std::alloc::System;
use std::sync::Once;

/// What one input may allocate beyond what was there before it, in bytes. Inputs are some kilobytes.
pub const BUDGET: usize = 32 << 20;

/// What is allocated beyond its limit fails, which aborts the process: libFuzzer then keeps the input.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs a check within [`BUDGET`].
pub fn within(check: impl FnOnce() -> bool) -> bool {
    static LIFTED_BY_PANICS: Once = Once::new();
    LIFTED_BY_PANICS.call_once(|| {
        // A panic ends the process, and the names in its backtrace take more than an input may.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            lift();
            report(panic);
        }));
    });
    let limit = ALLOCATOR.allocated().saturating_add(BUDGET);
    ALLOCATOR.set_limit(limit).expect("a limit above what is allocated");
    let accepted = check();
    // The fuzzer's own growth is not the input's.
    lift();
    accepted
}

fn lift() {
    ALLOCATOR.set_limit(usize::MAX).expect("no limit");
}
