//! Input: the pixels of a micro-batch become the tensor that a module is run on.
//!
//! Between decode's bytes and the forward pass. On the CPU they are normalised straight into channels-last memory,
//! the layout in which convolutions are quickest (1.3 to 1.6 times, measured). For a CUDA device
//! they are put as bytes into page-locked memory, copied without waiting, and normalised there. Both give the very
//! floats of torchvision's `ToTensor` and `Normalize`. Must never hand out memory that a pass still reads.

use super::{ModelError, network::forward, normalise::Normalise};
use std::cell::RefCell;
use tch::{Kind, TchError, Tensor};
use trawl_common::bundle::InputSpec;

thread_local! {
    /// The normalised input of this thread's passes, kept so that its pages are touched once.
    static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// The bytes on their way to this thread's device.
    static STAGING: RefCell<Staging> = const { RefCell::new(Staging { bytes: None }) };
}

/// Page-locked memory of one thread: a copy from it goes on while the thread does not wait.
struct Staging {
    bytes: Option<Tensor>,
}

impl Staging {
    /// So many bytes of it, for `device`; grown by half more than is asked for, since locking pages takes long.
    fn room(&mut self, bytes: i64, device: tch::Device) -> Result<Tensor, TchError> {
        let fits = self.bytes.as_ref().is_some_and(|held| held.numel() as i64 >= bytes);
        if !fits {
            let fresh = Tensor::f_empty([bytes + bytes / 2], (Kind::Uint8, tch::Device::Cpu))?;
            // Without CUDA there is nothing to lock pages for; a test runs this path there.
            self.bytes = Some(match device {
                tch::Device::Cuda(_) => fresh.f_pin_memory(device)?,
                _ => fresh,
            });
        }
        let held = self.bytes.as_ref().expect("it was made above if it was not there");
        held.f_narrow(0, 0, bytes)
    }
}

/// What pixels are normalised with, each of shape `[1, 3, 1, 1]`.
struct Constants {
    /// 255 in each channel.
    scale: Tensor,
    mean: Tensor,
    std: Tensor,
}

// SAFETY: they are only read, as operands, which libtorch allows from several threads at once.
unsafe impl Sync for Constants {}

impl Constants {
    fn new(spec: &InputSpec, device: tch::Device) -> Result<Self, TchError> {
        let channels =
            |values: [f32; 3]| Tensor::f_from_slice(&values)?.f_view([1, 3, 1, 1])?.f_to_device(device);
        Ok(Self { scale: channels([255.0; 3])?, mean: channels(spec.mean)?, std: channels(spec.std)? })
    }
}

/// How pixels become a module's input.
pub(super) struct Input {
    device: tch::Device,
    kind: Kind,
    normalise: Normalise,
    /// Where the model runs on a device: what its pixels are normalised with, there.
    on_device: Option<Constants>,
    /// Height and width, in pixels.
    crop: [usize; 2],
}

impl Input {
    /// In single precision, on `device`.
    ///
    /// # Errors
    /// If the device has no room.
    pub(super) fn new(spec: &InputSpec, device: tch::Device) -> Result<Self, ModelError> {
        let constants = || Constants::new(spec, device).map_err(|e| forward(&e));
        let on_device = (device != tch::Device::Cpu).then(constants).transpose()?;
        let crop = spec.crop.map(|side| side as usize);
        Ok(Self { device, kind: Kind::Float, normalise: Normalise::new(spec), crop, on_device })
    }

    /// In another precision, on its device.
    pub(super) fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Where it is made.
    pub(super) fn device(&self) -> tch::Device {
        self.device
    }

    /// Height and width, in pixels.
    pub(super) fn crop(&self) -> [usize; 2] {
        self.crop
    }

    /// Lends the normalised images as one tensor; `run` must not keep it, and on a device must have waited for what it
    /// did with it: the memory that it was copied from is used again by this thread's next call.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub(super) fn with_tensor<T>(
        &self,
        images: &[&[u8]],
        run: impl FnOnce(&Tensor) -> T,
    ) -> Result<T, ModelError> {
        let _no_grad = tch::no_grad_guard();
        match &self.on_device {
            None => Ok(self.with_floats(images, run)),
            Some(constants) => self.with_bytes(images, constants, run).map_err(|e| forward(&e)),
        }
    }

    /// Normalised here, for a model that runs here.
    fn with_floats<T>(&self, images: &[&[u8]], run: impl FnOnce(&Tensor) -> T) -> T {
        FLOATS.with_borrow_mut(|floats| {
            let [height, width] = self.crop;
            let pixels = height * width;
            floats.resize(images.len() * pixels * 3, 0.0);
            for (image, slot) in images.iter().zip(floats.chunks_exact_mut(pixels * 3)) {
                self.normalise.apply(image, slot);
            }
            let (n, h, w) = (images.len() as i64, height as i64, width as i64);
            // SAFETY: `floats` has n*h*w*3 floats and outlives the tensor, which is dropped (with what the
            // pass made of it; outputs are copied out) before this closure returns.
            let x = unsafe {
                Tensor::from_blob(
                    floats.as_ptr().cast(),
                    &[n, 3, h, w],
                    &[h * w * 3, 1, w * 3, 3],
                    Kind::Float,
                    tch::Device::Cpu,
                )
            };
            run(&x)
        })
    }

    /// As bytes to the device, a quarter of what floats would be, and normalised there.
    fn with_bytes<T>(
        &self,
        images: &[&[u8]],
        constants: &Constants,
        run: impl FnOnce(&Tensor) -> T,
    ) -> Result<T, TchError> {
        let [height, width] = self.crop.map(|side| side as i64);
        let x = STAGING.with_borrow_mut(|staging| {
            let of_image = height * width * 3;
            let shape = [images.len() as i64, height, width, 3];
            let staged = staging.room(images.len() as i64 * of_image, self.device)?;
            for (image, at) in images.iter().zip((0..).step_by(self.crop[0] * self.crop[1] * 3)) {
                debug_assert_eq!(image.len() as i64, of_image);
                // SAFETY: `room` gave as many bytes as all images have, on the host, and no copy of an earlier call
                // still reads them: that call waited for its output.
                unsafe {
                    let to = staged.data_ptr().cast::<u8>().add(at);
                    std::ptr::copy_nonoverlapping(image.as_ptr(), to, image.len());
                }
            }
            staged.f_view(shape)?.f_to_device_(self.device, Kind::Uint8, true, false)
        })?;
        // A channel's bytes lie three apart: as N, C, H, W that is channels last, and stays so.
        let mut x = x.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        // The three steps of torchvision, each rounded; by tensors, since a division by a number is made a
        // multiplication on CUDA, with another last bit.
        let _same = x.f_divide_(&constants.scale)?.f_subtract_(&constants.mean)?.f_divide_(&constants.std)?;
        Ok(run(&x.f_to_kind(self.kind)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::normalise::tests::spec;

    #[test]
    fn bytes_that_are_normalised_on_the_device_are_the_same_floats() {
        let spec = spec([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        // Every value in every channel.
        let images: Vec<Vec<u8>> =
            (0..3).map(|i| (0..16 * 16 * 3).map(|at| ((at / 3 + i * 7) % 256) as u8).collect()).collect();
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let plain = Input::new(&spec, tch::Device::Cpu).unwrap();
        let mut on_device = Input::new(&spec, tch::Device::Cpu).unwrap();
        on_device.on_device = Some(Constants::new(&spec, tch::Device::Cpu).unwrap());
        // Fewer images after more: what is left of the earlier ones must not show.
        for count in [3, 1, 2] {
            let one = plain.with_tensor(&images[..count], Tensor::copy).unwrap();
            let other = on_device.with_tensor(&images[..count], Tensor::copy).unwrap();
            assert_eq!(one.size(), other.size());
            assert!(one == other, "the floats differ with {count} images");
            assert_eq!(other.stride(), one.stride(), "channels last, as convolutions want it");
        }
    }
}
