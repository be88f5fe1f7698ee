//! Where a worker computes: on a GPU where there is one, else on the processor.
//!
//! Networks live on the device; what crosses the wire and the losses of a chunk of rows pass through main memory. The
//! binary is linked to the CPU part of libtorch alone and loads the CUDA part, which `GPU=1 make setup` installs whole,
//! where the system shows a GPU: one binary serves both.

use crate::matrix;
use crate::train::TrainError;
use medley_common::config::{DeviceChoice, Precision};
use std::path::Path;
use std::sync::OnceLock;
use tch::Device;

/// Files by which drivers show a GPU: NVIDIA's on Linux, and Windows' in its subsystem for Linux.
const DRIVER_FILES: [&str; 2] = ["/dev/nvidiactl", "/dev/dxg"];

/// The device of the worker that fills a place: the GPUs of a machine are dealt out in turn.
///
/// # Errors
/// When a GPU is asked for and cannot be used.
pub fn choose(choice: DeviceChoice, slot: u32) -> Result<Device, TrainError> {
    if choice == DeviceChoice::Cpu {
        return Ok(Device::Cpu);
    }
    match (choice, gpus()) {
        (_, Ok(count)) => Ok(Device::Cuda(slot as usize % count)),
        (DeviceChoice::Cuda, Err(reason)) => {
            Err(TrainError::Input(format!("train.device: is \"cuda\", but {reason}; or use \"cpu\"")))
        }
        (_, Err(reason)) => {
            tracing::debug!(%reason, "computing on the processor");
            Ok(Device::Cpu)
        }
    }
}

/// Refuses a precision that the device does not compute in.
///
/// # Errors
/// One line that says why, and what to use.
pub fn check_precision(precision: Precision, device: Device) -> Result<(), TrainError> {
    let reason = match (precision, device) {
        (Precision::Float32, _) => return Ok(()),
        (_, Device::Cpu) if matrix::has_bfloat16() => return Ok(()),
        (_, Device::Cpu) => "this processor has no AVX-512 BF16 (avx512_bf16 in /proc/cpuinfo); use \"float32\"",
        _ => "on a GPU networks are computed in float32; use \"float32\", or train.device = \"cpu\"",
    };
    Err(TrainError::Input(format!("train.precision: is \"{}\", but {reason}", precision.as_str())))
}

/// How many GPUs a job may use.
pub fn usable_gpus(choice: DeviceChoice) -> usize {
    match choice {
        DeviceChoice::Cpu => 0,
        DeviceChoice::Auto | DeviceChoice::Cuda => gpus().as_ref().map_or(0, |count| *count),
    }
}

/// What the machine offers, as the coordinator records it: `cuda` or `cpu`.
pub fn offered() -> &'static str {
    if has_driver() { "cuda" } else { "cpu" }
}

fn has_driver() -> bool {
    DRIVER_FILES.iter().any(|file| Path::new(file).exists())
}

/// How many GPUs can be used, at least one; or why none.
fn gpus() -> &'static Result<usize, String> {
    static GPUS: OnceLock<Result<usize, String>> = OnceLock::new();
    GPUS.get_or_init(|| {
        if !has_driver() {
            return Err("no NVIDIA driver shows a GPU on this machine".into());
        }
        // SAFETY: libtorch's own libraries run no code on loading but the registration of their operators, for which they
        // are made; the handle is never closed.
        let library = unsafe { libloading::Library::new("libtorch_cuda.so") };
        match library {
            Ok(library) => std::mem::forget(library),
            Err(error) => {
                return Err(format!(
                    "libtorch's CUDA part cannot be loaded ({error}); install it by `GPU=1 make setup`"
                ));
            }
        }
        match usize::try_from(tch::Cuda::device_count()) {
            Ok(count) if count > 0 && tch::Cuda::is_available() => Ok(count),
            _ => Err("libtorch finds no GPU that it can use; look at nvidia-smi".into()),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bfloat16_is_refused_where_it_cannot_be_computed() {
        for device in [Device::Cpu, Device::Cuda(0)] {
            check_precision(Precision::Float32, device).unwrap();
        }
        let refused = |device| {
            let error = check_precision(Precision::Bfloat16, device).unwrap_err();
            assert!(error.is_bad_input());
            error.to_string()
        };
        assert!(refused(Device::Cuda(0)).starts_with("train.precision: is \"bf16\", but on a GPU"));
        if matrix::has_bfloat16() {
            check_precision(Precision::Bfloat16, Device::Cpu).unwrap();
        } else {
            assert!(refused(Device::Cpu).contains("AVX-512 BF16"));
        }
    }

    #[test]
    fn the_processor_is_always_there_and_a_gpu_is_dealt_out_or_refused_with_a_reason() {
        assert_eq!(choose(DeviceChoice::Cpu, 3).unwrap(), Device::Cpu);
        assert_eq!(usable_gpus(DeviceChoice::Cpu), 0);
        assert_eq!(usable_gpus(DeviceChoice::Auto), gpus().as_ref().map_or(0, |count| *count));
        match gpus() {
            Ok(count) => {
                let second_round = choose(DeviceChoice::Cuda, *count as u32).unwrap();
                assert_eq!(second_round, Device::Cuda(0));
                assert_eq!(choose(DeviceChoice::Auto, 0).unwrap(), Device::Cuda(0));
            }
            Err(reason) => {
                let error = choose(DeviceChoice::Cuda, 0).unwrap_err();
                assert!(error.is_bad_input() && error.to_string().contains(reason.as_str()), "{error}");
                assert_eq!(choose(DeviceChoice::Auto, 0).unwrap(), Device::Cpu);
            }
        }
    }
}
