//! The backends of the one binary: the processor always, a GPU where the `cuda` feature is on.

use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::AutodiffBackend;

use crate::kernels::Kernels;
use crate::loss::{Loss, LossSum, Positions};

/// The processor.
pub type Cpu = Flex;
/// The processor with a tape for gradients.
pub type CpuTape = Autodiff<Cpu>;
/// A GPU.
#[cfg(feature = "cuda")]
pub type Cuda = burn::backend::Cuda;
/// A GPU with a tape for gradients.
#[cfg(feature = "cuda")]
pub type CudaTape = Autodiff<Cuda>;

/// A Vulkan device, for testing the kernels where there is no NVIDIA GPU.
#[cfg(feature = "vulkan")]
pub type Vulkan = burn::backend::Wgpu;
/// A Vulkan device with a tape for gradients.
#[cfg(feature = "vulkan")]
pub type VulkanTape = Autodiff<Vulkan>;

/// A backend that students train on.
pub trait TrainBackend: AutodiffBackend<InnerBackend: Kernels> + Kernels {
    /// A loss on this backend: losses stand behind pointers, which can't be generic over backends themselves.
    fn loss_sum(loss: &dyn Loss, positions: &Positions<'_, Self>) -> LossSum<Self>;

    /// The device's memory that this process takes; none where that is the process's own, or the device does not say.
    fn device_memory(device: &Device<Self>) -> Option<DeviceMemory> {
        let _ = device;
        None
    }
}

/// Memory of a device, as the allocator of the calling thread's stream counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes in tensors.
    pub in_use: u64,
    /// Bytes taken from the device, those for later tensors included.
    pub reserved: u64,
}

/// The backend under a tape.
pub type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// A device of a backend.
pub type Device<B> = <B as burn::tensor::backend::BackendTypes>::Device;

impl TrainBackend for CpuTape {
    fn loss_sum(loss: &dyn Loss, positions: &Positions<'_, Self>) -> LossSum<Self> {
        loss.sum_on_cpu(positions)
    }
}

#[cfg(feature = "cuda")]
impl TrainBackend for CudaTape {
    fn loss_sum(loss: &dyn Loss, positions: &Positions<'_, Self>) -> LossSum<Self> {
        loss.sum_on_cuda(positions)
    }

    fn device_memory(device: &Device<Self>) -> Option<DeviceMemory> {
        <Cuda as crate::kernels::CountsMemory>::device_memory(device)
    }
}

#[cfg(feature = "vulkan")]
impl TrainBackend for VulkanTape {
    fn loss_sum(loss: &dyn Loss, positions: &Positions<'_, Self>) -> LossSum<Self> {
        loss.sum_on_vulkan(positions)
    }

    fn device_memory(device: &Device<Self>) -> Option<DeviceMemory> {
        <Vulkan as crate::kernels::CountsMemory>::device_memory(device)
    }
}
