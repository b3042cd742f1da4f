//! What a training reads, opened and checked before it begins.

use std::path::Path;

use stillhouse_data::model_folder::{MODEL_FILE_ENDING, ModelFolder};
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_stage::{Context, Failure};

use super::config::StudentConfig;
use super::initial::{Beginning, fresh_shape};
use crate::backend::{Device, TrainBackend};
use crate::device::DeviceChoice;
use crate::error::{Result, StudentError};
use crate::model::{DecoderConfig, bytes_in_words, read_config};
use crate::precision::Precision;
use crate::trainer::Holds;

/// Tokens that end a text of the student: as when it is used, see [`Tokenizer::stop_ids`].
pub(super) fn stop_ids(tokenizer: &Tokenizer, pretrained: Option<&ModelFolder>) -> Result<Vec<u32>, Failure> {
    match pretrained {
        Some(folder) => Ok(tokenizer.stop_ids(folder)?),
        None => Ok(tokenizer.eos().into_iter().collect()),
    }
}

/// A student that names a tokenizer must learn from rows made with it.
pub(super) fn same_tokenizer(context: &Context, of_data: &Tokenizer) -> Result<(), Failure> {
    let config: StudentConfig = context.config()?;
    if config.tokenizer.is_none() {
        return Ok(());
    }
    let named = stillhouse_data::model::tokenizer_of(context, "tokenizer")?;
    if named.digest() == of_data.digest() {
        return Ok(());
    }
    Err(Failure::input("the student's tokenizer is not the one that its data was made with")
        .hint("leave `tokenizer` out of the dataset, so that it takes the student's"))
}

/// The shape that a student begins with, what its trajectory says of its first weights, and the folder they come from.
pub(super) fn beginning(
    context: &Context,
    config: &StudentConfig,
    tokenizer: &Tokenizer,
    length: usize,
) -> Result<(DecoderConfig, String, Option<ModelFolder>), Failure> {
    let (field, cut) = match config.init.value.beginning() {
        Beginning::Fresh(shape) => {
            let shape = fresh_shape(shape, tokenizer, length);
            shape.check().map_err(|why| StudentError::training(format!("`init` {why}"), "change `init`"))?;
            return Ok((shape, format!("seed {}", context.seed()), None));
        }
        Beginning::Weights(field) => (field, None),
        Beginning::Cut(field, cut) => (field, Some(cut)),
    };
    let folder = pretrained_folder(context, field)?;
    let (_, shape) = read_config(&folder.label, &folder.read_text("config.json")?)?;
    tokenizer.vocabulary_fits(&folder.label, shape.vocabulary)?;
    same_words(&folder, tokenizer)?;
    let begins = format!("weights {}", weights_digest(&folder)?);
    Ok(match cut {
        None => (shape, begins, Some(folder)),
        Some(cut) => (cut.shape(&shape).map_err(StudentError::from)?, cut.identity(&shape, &begins), Some(folder)),
    })
}

/// Refuses weights whose embeddings stand for other words than the data's ids do: nothing else would tell, for ids fit any
/// vocabulary that is large enough. Some tokens may differ, as where a model was given new special ones.
fn same_words(folder: &ModelFolder, tokenizer: &Tokenizer) -> Result<(), Failure> {
    // A folder of weights alone says nothing of words.
    let Ok(own) = Tokenizer::load(folder) else { return Ok(()) };
    let known = own.vocabulary().min(tokenizer.vocabulary());
    let same = (0..known as u32).filter(|id| own.token(*id) == tokenizer.token(*id)).count();
    if 2 * same >= known {
        return Ok(());
    }
    Err(Failure::input(format!(
        "the data's tokens are not those of {}: of {known} ids {} stand for other words",
        folder.label,
        known - same
    ))
    .hint("give the dataset the model's tokenizer, or begin from scratch: `init = { llama = { … } }`"))
}

/// Whether a device has a precision. The processor computes in f32 and rounds what it stores, which is said once.
pub(super) fn can_compute<B: TrainBackend>(
    precision: Precision,
    device: &Device<B>,
    choice: DeviceChoice,
    context: &Context,
) -> Result<(), Failure> {
    if !B::supports_dtype(device, precision.stored().into()) {
        let message = format!("{choice} can't compute in {}", precision.name());
        return Err(
            Failure::input(message).hint("leave `precision` out, or take a GPU of NVIDIA's Ampere generation or later")
        );
    }
    if precision != Precision::F32 && choice == DeviceChoice::Cpu {
        context.warn(format!(
            "the processor imitates {}: the numbers are right, and slower to make than in f32",
            precision.name()
        ));
    }
    Ok(())
}

/// Refuses a training whose weights and all that goes with them have no room in this machine, before it takes the memory
/// and is killed for it.
pub(super) fn fits_memory(holds: &Holds<'_>, device: DeviceChoice) -> Result<(), Failure> {
    let needed = usize::try_from(holds.without_rows()?.total()).unwrap_or(usize::MAX);
    let there = crate::cpu::memory_bytes().unwrap_or(usize::MAX);
    if device != DeviceChoice::Cpu || needed <= there {
        return Ok(());
    }
    let beside = if holds.teacher.is_some() { " beside its teacher" } else { "" };
    let (parameters, needed, there) = (holds.config.parameters(), bytes_in_words(needed), bytes_in_words(there));
    let fewer = if holds.method.trains_everything() { "`lora` or `freeze`, " } else { "" };
    Err(Failure::input(format!(
        "a student of {parameters} parameters{beside} takes {needed} and more to train, this machine has {there}"
    ))
    .hint(format!("{fewer}fewer layers or a smaller width in `init`, or another machine")))
}

fn pretrained_folder(context: &Context, field: &str) -> Result<ModelFolder, Failure> {
    if context.has_input(field) {
        let artifact = context.input(field)?;
        return Ok(ModelFolder::from_files(artifact.stage.clone(), artifact.files("")));
    }
    let label = format!("model.{}", context.definition_order(field)?.name);
    let folder = ModelFolder::open(&context.file(&format!("{field}.path"))?)?;
    Ok(ModelFolder { label, ..folder })
}

/// Digest of configuration and weights, whatever the files are called on disk.
pub(super) fn weights_digest(folder: &ModelFolder) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/weights/1\0");
    let mut add = |name: &str, path: &Path| -> Result<()> {
        hasher.update(name.as_bytes());
        hasher.update(b"\0");
        let mut file = blake3::Hasher::new();
        file.update_mmap_rayon(path).map_err(StudentError::io(path))?;
        hasher.update(file.finalize().as_bytes());
        Ok(())
    };
    if let Some(gguf) = folder.gguf() {
        add(MODEL_FILE_ENDING, gguf.path())?;
    } else {
        for name in folder.files.keys() {
            if name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
                add(name, folder.path(name)?)?;
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::tests::write_tokenizer;

    #[test]
    fn weights_whose_ids_stand_for_other_words_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = place.path().join(name);
            write_tokenizer(&path);
            fs_err::write(path.join("config.json"), "{}").unwrap();
            path
        };
        let (own, other, bare) = (folder("own"), folder("other"), folder("bare"));
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let text = fs_err::read_to_string(other.join(file)).unwrap();
            fs_err::write(other.join(file), text.replace("\"w", "\"v")).unwrap();
        }
        fs_err::remove_file(bare.join("tokenizer.json")).unwrap();
        let data = Tokenizer::load(&ModelFolder::open(&own).unwrap()).unwrap();
        let looked = |path| same_words(&ModelFolder::open(path).unwrap(), &data);
        assert!(looked(&own).is_ok() && looked(&bare).is_ok());
        let failure = looked(&other).unwrap_err();
        assert!(failure.message.ends_with("of 6 ids 6 stand for other words"), "{failure}");
        assert!(failure.hint.unwrap().starts_with("give the dataset the model's tokenizer"));
    }
}
