//! Which part of which size: the resize and crop of torchvision, in whole pixels.
//!
//! A plan is made from the image's size and the model's `InputSpec` alone, before any pixel is decoded, so
//! that a scaled decode can aim at it. Rounding follows Python where torchvision does it (`int()` for the
//! longer side, `round()` to even for the crop) and is written down at each rule of our own.

use super::resample::Window;
use trawl_common::bundle::{InputSpec, ResizeMode};

/// The grey of a letterbox's bars, on every channel.
const LETTERBOX_FILL: u8 = 114;

/// The black around an image that is smaller than the crop.
const CROP_FILL: u8 = 0;

/// How one image becomes the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Width and height of the resized image.
    pub resized: (u32, u32),
    /// The part of it that is kept.
    pub window: Window,
    /// Where that part's top left corner is in the input: (x, y).
    pub at: (u32, u32),
    /// What the rest of the input is filled with.
    pub fill: u8,
}

impl Plan {
    /// Plans for an image of `width` x `height` pixels, neither of them 0.
    pub(super) fn new(width: u32, height: u32, input: &InputSpec) -> Self {
        let [crop_height, crop_width] = input.crop;
        let (resized, fill) = match input.resize_mode {
            ResizeMode::Shortest => {
                (input.resize.map_or((width, height), |side| shortest(width, height, side)), CROP_FILL)
            }
            ResizeMode::Squash => {
                (input.resize.map_or((crop_width, crop_height), |side| (side, side)), CROP_FILL)
            }
            ResizeMode::Letterbox => {
                let bounds = input.resize.map_or((crop_width, crop_height), |side| (side, side));
                (fit(width, height, bounds), LETTERBOX_FILL)
            }
        };
        let (x, to_x, kept_width) = centre(resized.0, crop_width);
        let (y, to_y, kept_height) = centre(resized.1, crop_height);
        let window = Window { x, y, width: kept_width, height: kept_height };
        Self { resized, window, at: (to_x, to_y), fill }
    }
}

/// torchvision's `Resize(side)`: the shorter side becomes `side`, the longer `int(side * long / short)`.
fn shortest(width: u32, height: u32, side: u32) -> (u32, u32) {
    let (short, long) = (width.min(height), width.max(height));
    // Python divides two exact integers and truncates; at most 2^13 * 2^16, so f64 holds them exactly.
    let longer = (f64::from(side) * f64::from(long) / f64::from(short)) as u32;
    if width <= height { (side, longer) } else { (longer, side) }
}

/// The largest size of the same shape within `bounds`; the side that does not touch its bound is rounded to
/// the nearest pixel, halves up, and is at least 1.
fn fit(width: u32, height: u32, bounds: (u32, u32)) -> (u32, u32) {
    let scaled = |side: u32, to: u32, of: u32| {
        let (side, to, of) = (u64::from(side), u64::from(to), u64::from(of));
        ((2 * side * to + of) / (2 * of)).max(1) as u32
    };
    if u64::from(width) * u64::from(bounds.1) >= u64::from(height) * u64::from(bounds.0) {
        (bounds.0, scaled(height, bounds.0, width).min(bounds.1))
    } else {
        (scaled(width, bounds.1, height).min(bounds.0), bounds.1)
    }
}

/// torchvision's `CenterCrop` along one axis: where the kept part begins in the image, where it goes in the
/// crop, and how long it is. A smaller image is padded, the odd pixel after it.
fn centre(image: u32, crop: u32) -> (u32, u32, u32) {
    if image < crop {
        return (0, (crop - image) / 2, image);
    }
    let spare = image - crop;
    // Python's round(spare / 2): halves go to the even neighbour.
    let half = spare / 2;
    let first = if spare % 2 == 1 && half % 2 == 1 { half + 1 } else { half };
    (first, 0, crop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::bundle::Interpolation;

    fn input(crop: [u32; 2], resize: Option<u32>, resize_mode: ResizeMode) -> InputSpec {
        InputSpec {
            crop,
            resize,
            resize_mode,
            interpolation: Interpolation::Bilinear,
            mean: [0.5; 3],
            std: [0.5; 3],
        }
    }

    #[test]
    fn shortest_is_torchvisions() {
        // 256 * 500 / 375 = 341.33
        let plan = Plan::new(500, 375, &input([224, 224], Some(256), ResizeMode::Shortest));
        assert_eq!(plan.resized, (341, 256));
        // (341 - 224) / 2 = 58.5, rounded to even.
        assert_eq!(plan.window, Window { x: 58, y: 16, width: 224, height: 224 });
        assert_eq!(plan.at, (0, 0));
        assert_eq!(
            Plan::new(375, 500, &input([224, 224], Some(256), ResizeMode::Shortest)).resized,
            (256, 341)
        );
    }

    #[test]
    fn odd_spare_pixels_round_to_even() {
        assert_eq!(centre(225, 224).0, 0);
        assert_eq!(centre(227, 224).0, 2);
        assert_eq!(centre(229, 224).0, 2);
        assert_eq!(centre(231, 224).0, 4);
    }

    #[test]
    fn a_small_image_is_centred_in_black() {
        let plan = Plan::new(3, 300, &input([224, 224], None, ResizeMode::Shortest));
        assert_eq!((plan.resized, plan.at, plan.fill), ((3, 300), (110, 0), 0));
        assert_eq!(plan.window, Window { x: 0, y: 38, width: 3, height: 224 });
    }

    #[test]
    fn letterbox_keeps_the_shape_and_touches_a_bound() {
        let plan = Plan::new(1000, 500, &input([640, 640], None, ResizeMode::Letterbox));
        assert_eq!((plan.resized, plan.at, plan.fill), ((640, 320), (0, 160), 114));
        let plan = Plan::new(1, 60_000, &input([640, 320], None, ResizeMode::Letterbox));
        assert_eq!((plan.resized, plan.at), ((1, 640), (159, 0)));
        let plan = Plan::new(30, 20, &input([224, 224], Some(320), ResizeMode::Letterbox));
        assert_eq!((plan.resized, plan.at), ((320, 213), (0, 5)));
        assert_eq!(plan.window, Window { x: 48, y: 0, width: 224, height: 213 });
    }

    #[test]
    fn squash_ignores_the_shape() {
        assert_eq!(Plan::new(10, 999, &input([224, 192], None, ResizeMode::Squash)).resized, (192, 224));
        assert_eq!(Plan::new(10, 999, &input([224, 192], Some(256), ResizeMode::Squash)).resized, (256, 256));
    }

    #[test]
    fn the_longest_sides_do_not_overflow() {
        let plan = Plan::new(65_535, 1, &input([8192, 8192], Some(8192), ResizeMode::Shortest));
        assert_eq!(plan.resized, (8192 * 65_535, 8192));
        assert_eq!(plan.window.width, 8192);
    }
}
