//! Pillow's colour conversions to 8-bit RGB, in its integer arithmetic.

use super::resample::OVERREAD;

/// An image of 8-bit RGB, and room behind it for the resampler's wide reads.
#[derive(Debug, Default)]
pub(super) struct Rgb {
    /// Rows without gaps, then [`OVERREAD`] bytes without meaning.
    pub bytes: Vec<u8>,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rgb {
    /// Takes the size; the pixels hold whatever was there before. `black` clears them.
    ///
    /// The size must have passed the limits: this is where memory is taken.
    pub(super) fn reset(&mut self, width: u32, height: u32, black: bool) {
        (self.width, self.height) = (width, height);
        let needed = width as usize * height as usize * 3 + OVERREAD;
        if black || needed > self.bytes.capacity() {
            // From empty, growing copies nothing over.
            self.bytes.clear();
        }
        self.bytes.resize(needed, 0);
    }

    /// The pixels without the room behind them.
    pub(super) fn pixels_mut(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - OVERREAD;
        &mut self.bytes[..end]
    }

    /// One row.
    pub(super) fn row_mut(&mut self, y: u32) -> &mut [u8] {
        let stride = self.width as usize * 3;
        &mut self.bytes[y as usize * stride..][..stride]
    }
}

/// Pillow's `MULDIV255`: `a * b / 255`, rounded.
fn muldiv255(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// CMYK as Adobe's JPEGs store it, inverted (Pillow's raw mode `CMYK;I`), to RGB.
pub(super) fn adobe_cmyk_to_rgb(cmyk: &[u8], rgb: &mut [u8]) {
    for (from, to) in cmyk.as_chunks::<4>().0.iter().zip(rgb.as_chunks_mut::<3>().0) {
        // Pillow inverts all four, then takes 255 - k: the stored k again.
        let not_k = from[3];
        for (channel, ink) in to.iter_mut().zip(from) {
            *channel = not_k.saturating_sub(muldiv255(!ink, not_k));
        }
    }
}

/// One sample on all three channels.
pub(super) fn gray_to_rgb(gray: impl Iterator<Item = u8>, rgb: &mut [u8]) {
    for (value, to) in gray.zip(rgb.as_chunks_mut::<3>().0) {
        *to = [value; 3];
    }
}

/// A 16-bit gray sample as Pillow converts mode `I;16` to RGB: clipped, not scaled.
pub(super) fn clip_gray16(sample: u16) -> u8 {
    sample.min(255) as u8
}

/// The first three of every `N` bytes.
pub(super) fn drop_alpha<const N: usize>(pixels: &[u8], rgb: &mut [u8]) {
    for (from, to) in pixels.as_chunks::<N>().0.iter().zip(rgb.as_chunks_mut::<3>().0) {
        *to = [from[0], from[1], from[2]];
    }
}

/// Colours by index; an index beyond the palette is black, as in Pillow.
#[derive(Debug, Clone)]
pub(super) struct Palette([[u8; 3]; 256]);

impl Palette {
    /// From RGB triples; what is missing is black.
    pub(super) fn new(triples: &[u8]) -> Self {
        let mut colors = [[0; 3]; 256];
        for (color, triple) in colors.iter_mut().zip(triples.as_chunks::<3>().0) {
            *color = *triple;
        }
        Self(colors)
    }

    /// The colour of `index`.
    pub(super) fn color(&self, index: u8) -> [u8; 3] {
        self.0[usize::from(index)]
    }

    /// Colours for a row of indices.
    pub(super) fn apply(&self, indices: impl Iterator<Item = u8>, rgb: &mut [u8]) {
        for (index, to) in indices.zip(rgb.as_chunks_mut::<3>().0) {
            *to = self.color(index);
        }
    }
}

/// The `bits`-wide samples of a packed row, most significant first; `bits` is 1, 2, 4 or 8.
pub(super) fn unpack(row: &[u8], bits: u8) -> impl Iterator<Item = u8> {
    let in_byte = 8 / bits;
    let mask = (0xff_u16 >> (8 - bits)) as u8;
    row.iter().flat_map(move |&byte| (0..in_byte).map(move |i| byte >> (8 - bits * (i + 1)) & mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inks_become_light() {
        let mut rgb = [9; 9];
        // Stored inverted: 255 is no ink.
        adobe_cmyk_to_rgb(&[255, 255, 255, 255, 255, 255, 255, 0, 0, 128, 255, 255], &mut rgb);
        assert_eq!(rgb, [255, 255, 255, 0, 0, 0, 0, 128, 255]);
    }

    #[test]
    fn packed_samples_come_out_in_order() {
        assert_eq!(unpack(&[0b1011_0001], 1).collect::<Vec<_>>(), [1, 0, 1, 1, 0, 0, 0, 1]);
        assert_eq!(unpack(&[0b1011_0001], 2).collect::<Vec<_>>(), [2, 3, 0, 1]);
        assert_eq!(unpack(&[0xb1], 4).collect::<Vec<_>>(), [11, 1]);
        assert_eq!(unpack(&[0xb1], 8).collect::<Vec<_>>(), [0xb1]);
    }

    #[test]
    fn a_reused_buffer_is_black_when_asked() {
        let mut rgb = Rgb::default();
        rgb.reset(4, 4, false);
        rgb.pixels_mut().fill(200);
        rgb.reset(2, 2, true);
        assert_eq!(rgb.pixels_mut(), [0; 12]);
    }
}
