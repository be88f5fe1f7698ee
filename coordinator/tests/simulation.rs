//! Random schedules of faults under simulated time: whatever befalls a job, no step is lost and it ends.
//!
//! `MEDLEY_SIMULATION_SEED=N` plays one schedule, with all that happens in it; `MEDLEY_SIMULATION_SCHEDULES=N` says how
//! many are played otherwise.

#![allow(clippy::unwrap_used)]

use medley_coordinator::chaos::simulation::{Outline, simulate};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const SCHEDULES: u64 = 1_500;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[test]
fn whatever_befalls_a_job_no_step_is_lost_and_it_ends() {
    if let Some(seed) = variable("MEDLEY_SIMULATION_SEED") {
        match simulate(seed) {
            Ok(outline) => return println!("{outline:#?}"),
            Err(violation) => panic!("{violation}"),
        }
    }
    let schedules = variable("MEDLEY_SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
    let (next, outlines, broken) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::<String>::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= schedules || broken.lock().unwrap().len() >= 20 {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
                        Ok(Ok(outline)) => outlines.lock().unwrap().push(outline),
                        Ok(Err(violation)) => broken.lock().unwrap().push(violation.to_string()),
                        Err(_) => broken.lock().unwrap().push(format!("schedule {seed} panics")),
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap();
    let summary: Vec<&str> = broken.iter().filter_map(|text| text.lines().rev().nth(1)).collect();
    assert!(broken.is_empty(), "{}\n{}", broken[0], summary.join("\n"));
    let outlines: Vec<Outline> = outlines.into_inner().unwrap();
    let count = |holds: &dyn Fn(&Outline) -> bool| outlines.iter().filter(|outline| holds(outline)).count();
    let largest = outlines.iter().map(|outline| outline.workers).max().unwrap_or(0);
    println!(
        "{} schedules of up to {largest} workers: {} completed, {} failed with a verdict; {} generations, {} of them from a checkpoint",
        outlines.len(),
        count(&|outline| outline.outcome == "completed"),
        count(&|outline| outline.outcome == "failed"),
        outlines.iter().map(|outline| outline.generations).sum::<u64>(),
        outlines.iter().map(|outline| outline.rollbacks).sum::<u64>(),
    );
    // A simulation in which nothing happens shows nothing.
    assert!(count(&|outline| outline.generations > 1) * 3 > outlines.len());
    assert!(count(&|outline| outline.rollbacks > 0) * 50 > outlines.len());
    assert!(count(&|outline| outline.outcome == "failed") * 50 > outlines.len());
}
