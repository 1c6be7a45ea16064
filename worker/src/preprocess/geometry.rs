//! Which part of which size: the resize and crop of torchvision, in whole pixels.
//!
//! A plan is made from the image's size and the model's `InputSpec` alone, before any pixel is decoded, so
//! that a scaled decode can aim at it. Rounding follows Python where torchvision does it (`int()` for the
//! longer side, `round()` to even for the crop) and is written down at each rule of our own.

use super::resample::Window;
use trawl_common::bundle::{Centre, InputSpec, Resize, ResizeMode};

/// The grey of a letterbox's bars, unless the model says otherwise.
const LETTERBOX_FILL: [u8; 3] = [114; 3];

/// The black around an image that is smaller than the crop.
const CROP_FILL: [u8; 3] = [0; 3];

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
    pub fill: [u8; 3],
}

impl Plan {
    /// Plans for an image of `width` x `height` pixels, neither of them 0.
    pub(super) fn new(width: u32, height: u32, input: &InputSpec) -> Self {
        let [crop_height, crop_width] = input.crop;
        let bounds = input.resize.map_or((crop_width, crop_height), Resize::bounds);
        let resized = match (input.resize_mode, input.resize) {
            (ResizeMode::Shortest, None) => (width, height),
            (ResizeMode::Shortest, Some(Resize::Side(side))) => shortest(width, height, side),
            (ResizeMode::Shortest, Some(Resize::Sides(_))) => keep_shape(width, height, bounds, f64::min),
            (ResizeMode::Squash, _) => bounds,
            (ResizeMode::Letterbox, _) => keep_shape(width, height, bounds, f64::max),
        };
        let fill = input.fill.unwrap_or(match input.resize_mode {
            ResizeMode::Letterbox => LETTERBOX_FILL,
            ResizeMode::Shortest | ResizeMode::Squash => CROP_FILL,
        });
        let (x, to_x, kept_width) = centre(resized.0, crop_width, input.centre);
        let (y, to_y, kept_height) = centre(resized.1, crop_height, input.centre);
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

/// timm's `ResizeKeepRatio`: of how many times the sides are larger than `bounds`, the smaller makes an image that covers
/// them and the larger one that fits within. Python's `round()` takes halves to the even neighbour.
fn keep_shape(width: u32, height: u32, bounds: (u32, u32), of: fn(f64, f64) -> f64) -> (u32, u32) {
    let ratio = of(f64::from(height) / f64::from(bounds.1), f64::from(width) / f64::from(bounds.0));
    let scaled = |side: u32| ((f64::from(side) / ratio).round_ties_even() as u32).max(1);
    (scaled(width), scaled(height))
}

/// The centre of an axis: where the kept part begins in the image, where it goes in the crop, and how long it is.
fn centre(image: u32, crop: u32, rule: Centre) -> (u32, u32, u32) {
    if image < crop {
        let spare = crop - image;
        let before = match rule {
            Centre::Torchvision => spare / 2,
            Centre::HuggingFace => spare.div_ceil(2),
        };
        return (0, before, image);
    }
    let spare = image - crop;
    let half = spare / 2;
    let first = match rule {
        // Python's round(spare / 2): halves go to the even neighbour.
        Centre::Torchvision if spare % 2 == 1 && half % 2 == 1 => half + 1,
        Centre::Torchvision | Centre::HuggingFace => half,
    };
    (first, 0, crop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::bundle::Interpolation;

    fn input(crop: [u32; 2], resize: Option<u32>, resize_mode: ResizeMode) -> InputSpec {
        InputSpec {
            crop,
            resize: resize.map(Resize::Side),
            resize_mode,
            interpolation: Interpolation::Bilinear,
            fill: None,
            centre: Centre::default(),
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
        let begin = |image| centre(image, 224, Centre::Torchvision).0;
        assert_eq!([225, 227, 229, 231].map(begin), [0, 2, 2, 4]);
        let begin = |image| centre(image, 224, Centre::HuggingFace).0;
        assert_eq!([225, 227, 229, 231].map(begin), [0, 1, 2, 3]);
        assert_eq!(centre(5, 8, Centre::Torchvision), (0, 1, 5));
        assert_eq!(centre(5, 8, Centre::HuggingFace), (0, 2, 5));
    }

    #[test]
    fn two_numbers_are_covered_as_timm_does() {
        let mut spec = input([192, 256], None, ResizeMode::Shortest);
        spec.resize = Some(Resize::Sides([219, 292]));
        // 500 / 292 is the smaller ratio: 375 / 1.712 = 219.0
        assert_eq!(Plan::new(500, 375, &spec).resized, (292, 219));
        assert_eq!(Plan::new(375, 500, &spec).resized, (292, 389));
    }

    #[test]
    fn a_small_image_is_centred_in_black() {
        let plan = Plan::new(3, 300, &input([224, 224], None, ResizeMode::Shortest));
        assert_eq!((plan.resized, plan.at, plan.fill), ((3, 300), (110, 0), [0; 3]));
        assert_eq!(plan.window, Window { x: 0, y: 38, width: 3, height: 224 });
    }

    #[test]
    fn letterbox_keeps_the_shape_and_touches_a_bound() {
        let plan = Plan::new(1000, 500, &input([640, 640], None, ResizeMode::Letterbox));
        assert_eq!((plan.resized, plan.at, plan.fill), ((640, 320), (0, 160), [114; 3]));
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
