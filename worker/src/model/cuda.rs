//! Brings CUDA into the process, only when a CUDA device was asked for.
//!
//! The binary links libtorch's CPU half alone. `libtorch_cuda.so` must be loaded before the first CUDA
//! query: libtorch caches the answer of that query, and a late load changes nothing. It costs 0.15 to
//! 0.7 s and about 240 MB, so a CPU worker never does it.

use super::ModelError;
use std::ffi::{CStr, CString};

/// Loads the CUDA half of libtorch from the library path, or from `library` if given.
///
/// # Errors
/// [`ModelError::Device`] with the loader's words and what to do.
pub fn load(library: Option<&str>) -> Result<(), ModelError> {
    let name = library.unwrap_or("libtorch_cuda.so");
    let path = CString::new(name).map_err(|_| ModelError::Device(format!("`{name}` is no file name")))?;
    // SAFETY: a plain dlopen of a library whose initialisers are meant to run at load; the handle is kept
    // open for the life of the process on purpose.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null or a string that stays valid until the next dl call of this thread.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            String::from("no reason given")
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    Err(ModelError::Device(format!(
        "a cuda device was asked for and {name} cannot be loaded: {reason}; install PyTorch with CUDA and put its \
         torch/lib folder on LD_LIBRARY_PATH, or give --cuda-lib, or use --device cpu"
    )))
}
