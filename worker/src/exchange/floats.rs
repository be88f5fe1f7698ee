//! The border between tensors and slices.

use tch::{Device, Kind, Tensor};

/// The values of a contiguous float tensor in main memory, to read.
///
/// # Panics
/// If the tensor is anything else.
pub(crate) fn slice(tensor: &Tensor) -> &[f32] {
    check(tensor);
    let (start, length) = (tensor.data_ptr().cast::<f32>(), tensor.numel());
    if length == 0 {
        return &[];
    }
    // SAFETY: `start` points to `length` floats (checked above to be contiguous, of this kind and in main memory), which live
    // as long as the tensor, whose borrow the slice carries on. What writes to parameters, the optimiser and checkpoints, runs
    // between the passes that read them, on the thread that owns the networks.
    unsafe { std::slice::from_raw_parts(start, length) }
}

/// The values of a contiguous float tensor in main memory.
pub fn slice_mut(tensor: &mut Tensor) -> &mut [f32] {
    check(tensor);
    let (start, length) = (tensor.data_ptr().cast::<f32>(), tensor.numel());
    if length == 0 {
        return &mut [];
    }
    // SAFETY: `start` points to `length` floats (checked above to be contiguous, of this kind and in main memory), which
    // live as long as the tensor, whose exclusive borrow the slice carries on. Views of the same storage are used by
    // this one thread only, and not while the slice lives.
    unsafe { std::slice::from_raw_parts_mut(start, length) }
}

fn check(tensor: &Tensor) {
    assert!(
        tensor.is_contiguous() && tensor.kind() == Kind::Float && tensor.device() == Device::Cpu,
        "a slice needs contiguous float values in main memory"
    );
}

/// A copy of a tensor's values in row-major order.
pub fn to_vec(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.numel()];
    tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().copy_data(&mut values, tensor.numel());
    values
}

/// A tensor of a copy of some values.
pub fn to_tensor(values: &[f32], shape: &[i64], device: Device) -> Tensor {
    Tensor::from_slice(values).view(shape).to_device(device)
}
