//! Where an image lies in the model's input, to find the way back from there.
//!
//! Made with the pixels, used after the forward pass by whatever a model says in pixels: boxes. It undoes, in this
//! order, crop or letterbox, resize, and the turn that brought the image upright.

use super::{geometry::Plan, orient::Origins};

/// See the file's head. The default is that of an image that is the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Placement(Option<Place>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    /// What has to be added to the input's coordinates to get those of the resized image.
    shift: [f32; 2],
    /// Pixels of the upright image to one of the resized, across and down.
    scale: [f32; 2],
    /// Width and height of the upright image.
    upright: [f32; 2],
    origins: Origins,
}

impl Placement {
    /// Of an image of this size, upright, that went through `plan`.
    pub(super) fn new((width, height): (u32, u32), plan: &Plan, origins: Origins) -> Self {
        let upright = [width as f32, height as f32];
        let shift = |first: u32, at: u32| first as f32 - at as f32;
        Self(Some(Place {
            shift: [shift(plan.window.x, plan.at.0), shift(plan.window.y, plan.at.1)],
            scale: [upright[0] / plan.resized.0 as f32, upright[1] / plan.resized.1 as f32],
            upright,
            origins,
        }))
    }

    /// A box (left, top, right, bottom) of the model's input in pixels of the image as it is stored, cut off at its edges.
    /// What lies wholly outside of it comes back without width or height.
    pub fn to_image(&self, [x0, y0, x1, y1]: [f32; 4]) -> [f32; 4] {
        let Some(Place { shift, scale, upright, origins }) = self.0 else { return [x0, y0, x1, y1] };
        let back = |v: f32, axis: usize| ((v + shift[axis]) * scale[axis]).clamp(0.0, upright[axis]);
        let mut across = [back(x0, 0), back(x1, 0)];
        let mut down = [back(y0, 1), back(y1, 1)];
        if origins.mirrored_x {
            across = [upright[0] - across[1], upright[0] - across[0]];
        }
        if origins.mirrored_y {
            down = [upright[1] - down[1], upright[1] - down[0]];
        }
        if origins.transposed {
            std::mem::swap(&mut across, &mut down);
        }
        [across[0], down[0], across[1], down[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::super::orient::Orientation;
    use super::*;
    use trawl_common::bundle::InputSpec;

    fn placed(size: (u32, u32), mode: &str, orientation: Orientation) -> Placement {
        let spec = serde_json::json!({"crop": [224, 224], "resize": 256, "resize_mode": mode,
            "interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]});
        let input: InputSpec = serde_json::from_value(spec).unwrap();
        let upright = orientation.applied_to(size.0, size.1);
        Placement::new(upright, &Plan::new(upright.0, upright.1, &input), orientation.origins())
    }

    fn near(a: [f32; 4], b: [f32; 4]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.01), "{a:?} is not {b:?}");
    }

    #[test]
    fn a_crop_begins_where_it_was_cut_and_a_box_ends_where_the_image_does() {
        // 512 x 1024 becomes 256 x 512; the crop begins at 16, 144.
        let placed = placed((512, 1024), "shortest", Orientation::Upright);
        near(placed.to_image([0.0, 0.0, 224.0, 224.0]), [32.0, 288.0, 480.0, 736.0]);
        near(placed.to_image([-100.0, 10.0, 900.0, 20.0]), [0.0, 308.0, 512.0, 328.0]);
    }

    #[test]
    fn the_bars_of_a_letterbox_are_outside() {
        // 512 x 256 becomes 256 x 128, of which 224 x 128 are kept, 48 from the top.
        let placed = placed((512, 256), "letterbox", Orientation::Upright);
        near(placed.to_image([0.0, 48.0, 224.0, 176.0]), [32.0, 0.0, 480.0, 256.0]);
        let [_, y0, _, y1] = placed.to_image([0.0, 0.0, 10.0, 40.0]);
        assert!(y0 == y1, "in the bar alone there is nothing");
    }

    #[test]
    fn every_turn_is_undone() {
        // The stored image has 512 columns and 256 rows; a box at its top left corner, 100 wide and 30 high.
        let stored = [0.0, 0.0, 100.0, 30.0];
        let (w, h) = (512.0, 256.0);
        let turned = |o: Orientation| {
            let [x0, y0, x1, y1] = stored;
            match o {
                Orientation::Upright => [x0, y0, x1, y1],
                Orientation::MirrorHorizontally => [w - x1, y0, w - x0, y1],
                Orientation::Rotate180 => [w - x1, h - y1, w - x0, h - y0],
                Orientation::MirrorVertically => [x0, h - y1, x1, h - y0],
                Orientation::Transpose => [y0, x0, y1, x1],
                Orientation::Rotate90Clockwise => [h - y1, x0, h - y0, x1],
                Orientation::Transverse => [h - y1, w - x1, h - y0, w - x0],
                Orientation::Rotate90CounterClockwise => [y0, w - x1, y1, w - x0],
            }
        };
        for orientation in [
            Orientation::Upright,
            Orientation::MirrorHorizontally,
            Orientation::Rotate180,
            Orientation::MirrorVertically,
            Orientation::Transpose,
            Orientation::Rotate90Clockwise,
            Orientation::Transverse,
            Orientation::Rotate90CounterClockwise,
        ] {
            let placed = placed((512, 256), "squash", orientation);
            let upright = orientation.applied_to(512, 256);
            let upright = [upright.0 as f32, upright.1 as f32];
            // Into the model's input: squashed to 256 x 256, of which the middle 224 are kept.
            let forth = |v: f32, axis: usize| v / upright[axis] * 256.0 - 16.0;
            let [x0, y0, x1, y1] = turned(orientation);
            let there = placed.to_image([forth(x0, 0), forth(y0, 1), forth(x1, 0), forth(y1, 1)]);
            near(there, stored);
        }
    }
}
