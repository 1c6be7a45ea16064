//! Modules through the C++ in `worker/shim`: load, make faster, run.
//!
//! tch's own `CModule` cannot hold a module whose graph was changed in memory, and it has no passes. Only pointers and
//! words cross here: every C++ exception comes back as a `String`, in libtorch's words. Must never hand out a module
//! that another function still changes: what is changed is owned by the one who changes it.

use std::{
    cell::Cell,
    ffi::{CStr, CString, c_char, c_int},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::{NonNull, null_mut},
};
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;
use trawl_common::bundle::head::Slot;

/// Groups of graph passes; the numbers are those of `shim.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passes(u32);

impl Passes {
    /// Batch norm, constants and dropout into the layers beside them; padding, and on the CPU activations and sums, into
    /// the convolutions; what is left of these, and products, over their operand.
    pub(super) const ALL: Self = Self(1 | 2 | 4 | 8);
    /// [`Self::ALL`] but what gives convolutions to oneDNN.
    #[cfg(test)]
    pub(super) const WITHOUT_ONEDNN: Self = Self(1 | 2 | 4);
    /// [`Self::ALL`] and one that changes the result.
    #[cfg(test)]
    pub(super) const WRONG: Self = Self(Self::ALL.0 | 1 << 31);
}

/// What the passes changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(super) struct Counts {
    /// Operations that are gone, folded into others.
    pub(super) folded: u32,
    /// Padding layers that are gone.
    pub(super) padded: u32,
    /// Operations that overwrite their operand.
    pub(super) in_place: u32,
    /// Convolutions that are oneDNN's now, with the activations and sums behind them.
    pub(super) fused: u32,
}

impl Counts {
    /// Whether nothing was.
    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

#[repr(C)]
struct RawModule {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawSlot {
    key: *const c_char,
    index: i64,
}

/// Where the tensors that are wanted are looked for in what a model returns, in the order that they are wanted in.
pub(super) struct Wanted {
    // What the pointers of the other point to.
    _keys: Vec<CString>,
    raw: Vec<RawSlot>,
}

// SAFETY: it is never changed once it is made, and its pointers are to what it owns.
unsafe impl Send for Wanted {}
// SAFETY: as above.
unsafe impl Sync for Wanted {}

impl Wanted {
    /// For these slots.
    ///
    /// # Errors
    /// If a key has a zero byte.
    pub(super) fn new(slots: &[Slot]) -> Result<Self, String> {
        let key = |slot: &Slot| slot.key.as_deref().map(CString::new).transpose();
        let keys = slots.iter().map(key).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|_| "the key of an output has a zero byte".to_owned())?;
        let raw = |(slot, key): (&Slot, &Option<CString>)| RawSlot {
            key: key.as_ref().map_or(std::ptr::null(), |key| key.as_ptr()),
            index: slot.index.map_or(-1, i64::from),
        };
        let raw = slots.iter().zip(&keys).map(raw).collect();
        // A CString's bytes stay where they are when it is moved.
        Ok(Self { _keys: keys.into_iter().flatten().collect(), raw })
    }
}

unsafe extern "C" {
    fn trawl_load(path: *const c_char, device: c_int, out: *mut *mut RawModule) -> *mut c_char;
    fn trawl_load_exported(path: *const c_char, out: *mut *mut RawModule) -> *mut c_char;
    fn trawl_optimise(
        from: *const RawModule,
        passes: u32,
        example: *const C_tensor,
        kind: c_int,
        out: *mut *mut RawModule,
        counts: *mut Counts,
    ) -> *mut c_char;
    fn trawl_convert(module: *mut RawModule, device: c_int, kind: c_int) -> *mut c_char;
    fn trawl_forward(
        module: *mut RawModule,
        input: *const C_tensor,
        slots: *const RawSlot,
        count: usize,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn trawl_set_specialising(on: c_int);
    fn trawl_allow_tf32(on: c_int) -> c_int;
    fn trawl_own_stream(device: c_int) -> *mut c_char;
    fn trawl_device_memory(device: c_int, bytes: *mut u64) -> *mut c_char;
    fn trawl_torch_version() -> *const c_char;
    fn trawl_free_module(module: *mut RawModule);
    fn trawl_free_text(text: *mut c_char);
}

/// A module on a device, in evaluation mode: TorchScript's, or one of `torch.export`.
pub(super) struct Module(NonNull<RawModule>);

// SAFETY: libtorch's modules belong to no thread; the pointer is ours alone until it is dropped.
unsafe impl Send for Module {}
// SAFETY: what takes `&self` is a forward pass, which libtorch allows from several threads at once (its executor locks
// what it caches), and the making of a copy, which only reads.
unsafe impl Sync for Module {}

impl Module {
    /// Loads the file at `path` onto `device`. Blocking.
    ///
    /// # Errors
    /// libtorch's words.
    pub(super) fn load(path: &Path, device: Device) -> Result<Self, String> {
        let (path, mut module) = (c_path(path)?, null_mut());
        // SAFETY: `path` is a C string and `module` a place to write to; both outlive the call.
        unwrap(unsafe { trawl_load(path.as_ptr(), device_number(device), &raw mut module) })?;
        Self::own(module)
    }

    /// Loads the `torch.export` file at `path` onto the CPU. Only [`Self::forward`] is for such a module. Blocking.
    ///
    /// # Errors
    /// libtorch's words.
    pub(super) fn load_exported(path: &Path) -> Result<Self, String> {
        let (path, mut module) = (c_path(path)?, null_mut());
        // SAFETY: `path` is a C string and `module` a place to write to; both outlive the call.
        unwrap(unsafe { trawl_load_exported(path.as_ptr(), &raw mut module) })?;
        Self::own(module)
    }

    /// A frozen copy that `passes` were run on, its constants in the precision `kind` if one is given. `example` is an
    /// input of at least two images on the module's device; it is run once. Blocking.
    ///
    /// # Errors
    /// libtorch's words.
    pub(super) fn optimise(
        &self,
        passes: Passes,
        example: &Tensor,
        kind: Option<Kind>,
    ) -> Result<(Self, Counts), String> {
        let (mut module, mut counts) = (null_mut(), Counts::default());
        // SAFETY: all pointers are valid for the call; the shim reads the module and the tensor and keeps neither.
        unwrap(unsafe {
            trawl_optimise(
                self.0.as_ptr(),
                passes.0,
                example.as_ptr(),
                kind.map_or(-1, kind_number),
                &raw mut module,
                &raw mut counts,
            )
        })?;
        Ok((Self::own(module)?, counts))
    }

    /// Converts its weights; must not have run yet.
    ///
    /// # Errors
    /// libtorch's words.
    pub(super) fn convert(&mut self, device: Device, kind: Kind) -> Result<(), String> {
        // SAFETY: `&mut self`: nobody else uses the module.
        unwrap(unsafe { trawl_convert(self.0.as_ptr(), device_number(device), kind_number(kind)) })
    }

    /// One pass, without gradients; the tensors that are `wanted`. Blocking.
    ///
    /// # Errors
    /// libtorch's words, or those of a wanted tensor that is not there.
    pub(super) fn forward(&self, input: &Tensor, wanted: &Wanted) -> Result<Vec<Tensor>, String> {
        let slots = &wanted.raw;
        let mut outputs = vec![null_mut(); slots.len()];
        // SAFETY: the pointers are valid for the call, and there is room for as many outputs as there are slots. The shim
        // drops its reference to the input; libtorch's modules may be run from several threads.
        let done = unsafe {
            trawl_forward(self.0.as_ptr(), input.as_ptr(), slots.as_ptr(), slots.len(), outputs.as_mut_ptr())
        };
        unwrap(done)?;
        // SAFETY: without an error they are tensors from C++'s `new`, which nobody else owns; tch deletes them the same way.
        Ok(outputs.into_iter().map(|output| unsafe { Tensor::from_ptr(output) }).collect())
    }

    fn own(module: *mut RawModule) -> Result<Self, String> {
        NonNull::new(module).map(Self).ok_or_else(|| "the shim gave no module".to_owned())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it came from the shim and is freed once.
        unsafe { trawl_free_module(self.0.as_ptr()) }
    }
}

/// Whether libtorch specialises the graphs of modules that did not run yet to the shapes of their first runs, in the
/// whole process.
pub(super) fn set_specialising(on: bool) {
    // SAFETY: sets an atomic of libtorch.
    unsafe { trawl_set_specialising(c_int::from(on)) }
}

/// Whether CUDA's convolutions may round to `TensorFloat-32`, in the whole process; gives what was set before.
pub(super) fn allow_tf32(on: bool) -> bool {
    // SAFETY: sets a switch of libtorch.
    unsafe { trawl_allow_tf32(c_int::from(on)) != 0 }
}

thread_local! {
    /// The device on which this thread has a stream of its own.
    static STREAM_ON: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Gives the calling thread a stream of its own on CUDA device `device`, once: two threads then copy and compute at the
/// same time, where libtorch's default stream would do one after the other.
///
/// # Errors
/// libtorch's words.
pub(super) fn own_stream(device: usize) -> Result<(), String> {
    if STREAM_ON.get() != Some(device) {
        // SAFETY: no pointers.
        unwrap(unsafe { trawl_own_stream(device_number(Device::Cuda(device))) })?;
        STREAM_ON.set(Some(device));
    }
    Ok(())
}

/// Bytes that this process holds of CUDA device `device`'s memory; `None` if nobody can tell.
pub(super) fn device_memory(device: usize) -> Option<u64> {
    let mut bytes = 0;
    // SAFETY: `bytes` outlives the call.
    let asked = unwrap(unsafe { trawl_device_memory(device_number(Device::Cuda(device)), &raw mut bytes) });
    asked.is_ok().then_some(bytes)
}

/// The version of libtorch, as `2.11.0`.
pub fn torch_version() -> String {
    // SAFETY: a constant C string.
    unsafe { CStr::from_ptr(trawl_torch_version()) }.to_string_lossy().into_owned()
}

fn c_path(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| "its name has a zero byte".to_owned())
}

fn unwrap(text: *mut c_char) -> Result<(), String> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: a C string of the shim's, freed once, after it was copied.
    unsafe {
        let words = CStr::from_ptr(text).to_string_lossy().into_owned();
        trawl_free_text(text);
        Err(words)
    }
}

fn device_number(device: Device) -> c_int {
    match device {
        Device::Cuda(n) => c_int::try_from(n).unwrap_or(c_int::MAX),
        _ => -1,
    }
}

/// `c10::ScalarType` of what a model may run in.
fn kind_number(kind: Kind) -> c_int {
    match kind {
        Kind::Half => 5,
        Kind::BFloat16 => 15,
        _ => 6,
    }
}
