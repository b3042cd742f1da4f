//! Which device to compute on.
//!
//! Without a driver the GPU backend panics on a thread of its own, so what it needs is looked for before it is touched:
//! NVIDIA's driver library with at least one device, and the toolkit's headers, which its run-time compiler reads.

use std::fmt;

use crate::error::{Result, StudentError};

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    Cpu,
    /// A GPU by number.
    Cuda(usize),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// What a look for GPUs found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaStatus {
    /// That many can be used.
    Ready(usize),
    /// None can, for this reason.
    Missing(String),
}

/// Why a program that knows no GPU uses none.
pub(crate) const NO_CUDA: &str = "this program was built without CUDA";

/// What to do about that.
pub(crate) const WITH_CUDA: &str =
    "build it with `--features cuda`, which is on unless `--no-default-features` is given; or take `--device cpu`";

/// A choice with the reason for it, for `doctor` and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Where to run.
    pub device: DeviceChoice,
    /// Why.
    pub reason: String,
}

/// Follows `auto`, `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// An unknown word; a GPU that is not there, with what was found.
pub fn choose(wanted: &str) -> Result<Chosen> {
    choose_given(wanted, cuda_status)
}

fn choose_given(wanted: &str, cuda: impl FnOnce() -> CudaStatus) -> Result<Chosen> {
    let refused = |message: String, hint: &str| Err(StudentError::Device { message, hint: hint.into() });
    let refuse =
        |message| refused(message, "use `cpu`, `auto`, `cuda` or `cuda:N`; `stillhouse doctor` says what is there");
    let number = match wanted {
        "cpu" => return Ok(Chosen { device: DeviceChoice::Cpu, reason: "asked for".into() }),
        "auto" => {
            return Ok(match cuda() {
                CudaStatus::Ready(count) => {
                    Chosen { device: DeviceChoice::Cuda(0), reason: format!("{count} CUDA device(s) found") }
                }
                CudaStatus::Missing(why) => {
                    Chosen { device: DeviceChoice::Cpu, reason: format!("no CUDA device can be used: {why}") }
                }
            });
        }
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|number| number.parse::<usize>().ok()),
    };
    let Some(number) = number else {
        return refuse(format!("there is no device `{wanted}`"));
    };
    match cuda() {
        CudaStatus::Ready(count) if number < count => {
            Ok(Chosen { device: DeviceChoice::Cuda(number), reason: "asked for".into() })
        }
        CudaStatus::Ready(count) => refuse(format!("there is no device `{wanted}`: {count} CUDA device(s) found")),
        CudaStatus::Missing(why) if why == NO_CUDA => refused(format!("`{wanted}` can't be used: {why}"), WITH_CUDA),
        CudaStatus::Missing(why) => refuse(format!("`{wanted}` can't be used: {why}")),
    }
}

/// Looks for GPUs. Cheap, and leaves no trace in the process but the loaded driver library.
pub fn cuda_status() -> CudaStatus {
    #[cfg(not(feature = "cuda"))]
    return CudaStatus::Missing(NO_CUDA.into());
    #[cfg(feature = "cuda")]
    match probe::devices() {
        Err(why) => CudaStatus::Missing(why),
        Ok(count) => match probe::headers() {
            Ok(()) => CudaStatus::Ready(count),
            Err(why) => CudaStatus::Missing(why),
        },
    }
}

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "the driver is a C library that is looked up at run time")]
mod probe {
    use std::ffi::c_int;
    use std::path::PathBuf;

    const DRIVER: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    const COMPILER: &[&str] = if cfg!(windows) {
        &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
    } else {
        &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"]
    };

    /// How many devices the driver knows.
    pub(super) fn devices() -> Result<usize, String> {
        // SAFETY: the library is NVIDIA's driver, whose initialisation on loading is made to be run by any process.
        let library = DRIVER.iter().find_map(|name| unsafe { libloading::Library::new(name) }.ok());
        let library = library.ok_or("NVIDIA's driver library (libcuda) is not installed")?;
        // SAFETY: the two signatures are those of the driver's documented interface, unchanged since its first version,
        // and the count is written to a variable that outlives the call.
        let count = unsafe {
            let init: libloading::Symbol<'_, unsafe extern "C" fn(u32) -> c_int> =
                library.get(b"cuInit\0").map_err(|error| error.to_string())?;
            let get_count: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_int) -> c_int> =
                library.get(b"cuDeviceGetCount\0").map_err(|error| error.to_string())?;
            let code = init(0);
            if code != 0 {
                return Err(format!("NVIDIA's driver does not start (code {code})"));
            }
            let mut count: c_int = 0;
            let code = get_count(&raw mut count);
            if code != 0 {
                return Err(format!("NVIDIA's driver does not tell its devices (code {code})"));
            }
            count
        };
        // Kept loaded: the backend loads it again in a moment, and unloading a driver is not worth the risk.
        std::mem::forget(library);
        match usize::try_from(count) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err("NVIDIA's driver knows no device".into()),
        }
    }

    /// Whether kernels can be compiled at run time: NVRTC and the headers that kernels include.
    pub(super) fn headers() -> Result<(), String> {
        // SAFETY: NVRTC is a pure compiler library without initialisation that could fail a process.
        if !COMPILER.iter().any(|name| unsafe { libloading::Library::new(name) }.is_ok()) {
            return Err("the CUDA toolkit's run-time compiler (libnvrtc) is not installed".into());
        }
        let variables = ["CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
        let mut roots: Vec<PathBuf> = variables.iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
        roots.extend(["/usr/local/cuda", "/opt/cuda", "/usr"].map(PathBuf::from));
        match roots.iter().any(|root| root.join("include/cuda_runtime.h").is_file()) {
            true => Ok(()),
            false => Err("the CUDA toolkit's headers are not found (set CUDA_PATH to the toolkit's folder)".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> CudaStatus {
        CudaStatus::Missing("no driver".into())
    }

    #[test]
    fn auto_falls_back_to_the_processor_and_says_why() {
        let chosen = choose_given("auto", missing).unwrap();
        assert_eq!(chosen.device, DeviceChoice::Cpu);
        assert_eq!(chosen.reason, "no CUDA device can be used: no driver");
        assert_eq!(choose_given("auto", || CudaStatus::Ready(2)).unwrap().device, DeviceChoice::Cuda(0));
    }

    #[test]
    fn a_gpu_that_is_asked_for_must_be_there() {
        assert_eq!(choose_given("cuda:1", || CudaStatus::Ready(2)).unwrap().device, DeviceChoice::Cuda(1));
        let error = choose_given("cuda:2", || CudaStatus::Ready(2)).unwrap_err();
        assert_eq!(error.to_string(), "there is no device `cuda:2`: 2 CUDA device(s) found");
        assert_eq!(choose_given("cuda", missing).unwrap_err().to_string(), "`cuda` can't be used: no driver");
        let without = choose_given("cuda", || CudaStatus::Missing(NO_CUDA.into())).unwrap_err();
        assert_eq!(without.to_string(), "`cuda` can't be used: this program was built without CUDA");
        assert!(without.hint().unwrap().contains("--features cuda"));
    }

    #[test]
    fn an_unknown_word_is_refused_without_a_look() {
        for word in ["gpu", "cuda:", "cuda:x", ""] {
            assert!(choose_given(word, || unreachable!()).is_err(), "{word}");
        }
    }

    #[test]
    fn looking_never_panics() {
        let _ = cuda_status();
    }
}
