//! Models behind the data crate's [`LanguageModel`]: what teachers, evaluations and `generate` use.

use stillhouse_data::lm::{GenerateRequest, Generated, LanguageModel, LmError, ModelLoader, Watch};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::signals::Head;

use crate::backend::Cpu;
#[cfg(feature = "cuda")]
use crate::backend::Cuda;
use crate::cpu::flush_subnormals;
use crate::device::{DeviceChoice, choose};
#[cfg(not(feature = "cuda"))]
use crate::device::{NO_CUDA, WITH_CUDA};
use crate::generate::generate;
use crate::kernels::Kernels;
use crate::score::{hidden, score, score_hidden};
use crate::weights::{LoadedModel, read_model};

/// Opens model folders with burn.
#[derive(Debug, Clone, Copy, Default)]
pub struct BurnLoader;

impl ModelLoader for BurnLoader {
    fn load(&self, folder: &ModelFolder, device: &str) -> Result<Box<dyn LanguageModel>, LmError> {
        let chosen = choose(device)?;
        tracing::info!(model = folder.label, device = %chosen.device, reason = chosen.reason, "loading");
        match chosen.device {
            DeviceChoice::Cpu => Ok(Box::new(DeviceModel::<Cpu> {
                model: read_model(folder, &Default::default())?,
                device: chosen.device,
            })),
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda(number) => {
                let device = burn::backend::cuda::CudaDevice::new(number);
                Ok(Box::new(DeviceModel::<Cuda> { model: read_model(folder, &device)?, device: chosen.device }))
            }
            #[cfg(not(feature = "cuda"))]
            DeviceChoice::Cuda(_) => {
                Err(LmError::new(stillhouse_data::lm::LmErrorKind::Device, NO_CUDA).with_hint(WITH_CUDA))
            }
        }
    }
}

struct DeviceModel<B: Kernels> {
    model: LoadedModel<B>,
    device: DeviceChoice,
}

impl<B: Kernels> LanguageModel for DeviceModel<B> {
    fn vocabulary(&self) -> usize {
        self.model.config.vocabulary
    }

    fn max_length(&self) -> usize {
        self.model.config.context
    }

    fn device(&self) -> String {
        self.device.to_string()
    }

    fn score(&mut self, sequences: &[Vec<u32>], visit: &mut dyn FnMut(usize, usize, &[f32])) -> Result<(), LmError> {
        flush_subnormals();
        Ok(score(&self.model, sequences, visit)?)
    }

    fn hidden(&mut self, sequences: &[Vec<u32>], visit: &mut dyn FnMut(usize, usize, &[f32])) -> Result<(), LmError> {
        flush_subnormals();
        Ok(hidden(&self.model, sequences, visit)?)
    }

    fn head(&mut self) -> Result<Head, LmError> {
        let weights = self.model.decoder.head().into_data().convert::<f32>();
        // f32 by the conversion, so the fallback is never taken.
        Ok(Head { width: self.model.config.hidden, weights: weights.into_vec().unwrap_or_default() })
    }

    fn log_probs_of(&mut self, states: &[f32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), LmError> {
        flush_subnormals();
        Ok(score_hidden(&self.model, states, visit)?)
    }

    fn generate(&mut self, requests: &[GenerateRequest], watch: &mut Watch<'_>) -> Result<Vec<Generated>, LmError> {
        flush_subnormals();
        Ok(generate(&self.model, requests, watch)?)
    }
}
