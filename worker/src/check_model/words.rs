//! What a description does to an image, in words.
//!
//! For people who compare it with what they trained with. Must say everything that changes a pixel.

use trawl_common::bundle::{Centre, InputSpec, Resize, ResizeMode};

/// One sentence a step.
pub(super) fn preprocessing(input: &InputSpec) -> Vec<String> {
    let [height, width] = input.crop;
    let filter = format!("{:?}", input.interpolation).to_lowercase();
    let size = |resize: Option<Resize>| match resize {
        Some(Resize::Side(side)) => format!("{side} x {side}"),
        Some(Resize::Sides([height, width])) => format!("{height} x {width}"),
        None => format!("{height} x {width}"),
    };
    let fill = |usual: [u8; 3]| match input.fill.unwrap_or(usual) {
        [0, 0, 0] => "black".to_owned(),
        [r, g, b] if r == g && g == b => format!("grey ({r})"),
        [r, g, b] => format!("the colour {r}, {g}, {b}"),
    };
    let resized = match (input.resize_mode, input.resize) {
        (ResizeMode::Shortest, None) => "not resized".to_owned(),
        (ResizeMode::Shortest, Some(Resize::Side(side))) => {
            format!("resized so that the shorter side has {side} pixels ({filter}), as torchvision does")
        }
        (ResizeMode::Shortest, resize) => {
            format!("resized to cover {} in its own shape ({filter}), as timm does", size(resize))
        }
        (ResizeMode::Squash, resize) => format!("squashed to {} whatever its shape ({filter})", size(resize)),
        (ResizeMode::Letterbox, resize) => {
            format!("fitted into {} in its own shape ({filter}), as timm's border does", size(resize))
        }
    };
    let whole = input.resize_mode == ResizeMode::Squash
        && input.resize.is_none_or(|resize| resize.bounds() == (width, height));
    let mut steps = vec!["decoded to RGB as Pillow does".to_owned(), resized];
    if !whole {
        let border = match input.resize_mode {
            ResizeMode::Letterbox => fill([114; 3]),
            ResizeMode::Shortest | ResizeMode::Squash => fill([0; 3]),
        };
        let rule = match input.centre {
            Centre::Torchvision => "torchvision",
            Centre::HuggingFace => "Hugging Face",
        };
        steps.push(format!(
            "the centre {height} x {width} of it, by {rule}'s rounding; {border} around what is smaller"
        ));
    }
    steps.push(format!("scaled to 0..1, less the mean {:?}, over the deviation {:?}", input.mean, input.std));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::bundle::Interpolation;

    #[test]
    fn every_step_is_said() {
        let mut input = InputSpec {
            crop: [224, 192],
            resize: Some(256.into()),
            resize_mode: ResizeMode::Shortest,
            interpolation: Interpolation::Bicubic,
            fill: None,
            centre: Centre::HuggingFace,
            mean: [0.5; 3],
            std: [0.25; 3],
        };
        let said = preprocessing(&input).join("; ");
        for word in ["256", "bicubic", "224 x 192", "Hugging Face", "black", "0.5", "0.25"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        (input.resize, input.resize_mode) = (None, ResizeMode::Squash);
        assert_eq!(preprocessing(&input).len(), 3, "nothing is cropped");
        (input.resize_mode, input.fill) = (ResizeMode::Letterbox, Some([1, 2, 3]));
        assert!(preprocessing(&input)[2].contains("1, 2, 3"));
    }
}
