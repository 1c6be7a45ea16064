//! Which code makes the pixels: of several that make the same, the quickest that the CPU runs.
//!
//! Below the resampler, above the codes. Nothing but time may depend on the choice.

use super::{Target, coeffs::AxisTable, portable};

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Code {
    /// All that this CPU runs, the quickest last.
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            all.push(Self::Avx2);
            if avx512::is_there() {
                all.push(Self::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self::Neon);
        }
        all
    }

    /// Rows that it takes together in the horizontal pass, so that weights are loaded once for all of them.
    fn rows(self) -> usize {
        match self {
            Self::Portable => 1,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::ROWS,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::ROWS,
        }
    }

    /// What takes its place where there are fewer rows, fewer bytes or larger weights than it can do with.
    fn simpler(self) -> Self {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Self::Avx2,
            _ => Self::Portable,
        }
    }
}

impl Default for Code {
    fn default() -> Self {
        Self::all().pop().expect("the portable one is always there")
    }
}

/// The rows of `src` begin at input column `first`.
pub(super) fn horizontal_pass(
    src: &[u8],
    stride: usize,
    first: usize,
    rows: usize,
    table: &AxisTable,
    target: &mut Target<'_>,
    code: Code,
) {
    let together = code.rows();
    #[cfg(target_arch = "x86_64")]
    let chunks = if code == Code::Avx512 { table.chunks() } else { None };
    #[cfg(target_arch = "x86_64")]
    let unable = code == Code::Avx512 && chunks.is_none();
    #[cfg(not(target_arch = "x86_64"))]
    let unable = false;
    if rows == 0 {
        return;
    }
    if rows < together || unable {
        return horizontal_pass(src, stride, first, rows, table, target, code.simpler());
    }
    for row in (0..rows).step_by(together) {
        // The last step makes some rows of the one before again, so that none is left over.
        let row = row.min(rows - together);
        let (src, out) = (&src[row * stride..], &mut target.rgb[row * target.stride..]);
        // SAFETY: `code` is one of those that the CPU runs; `src` has all rows and OVERREAD bytes more: `resize` saw to it.
        unsafe {
            match code {
                Code::Portable => {
                    portable::horizontal_row(src, first, table, &mut out[..table.spans.len() * 3]);
                }
                #[cfg(target_arch = "x86_64")]
                Code::Avx2 => avx2::horizontal_rows(src, stride, first, table, out, target.stride),
                #[cfg(target_arch = "x86_64")]
                Code::Avx512 => {
                    let chunks = chunks.expect("there, or the simpler code was taken");
                    avx512::horizontal_rows(src, stride, first, chunks, out, target.stride);
                }
                #[cfg(target_arch = "aarch64")]
                Code::Neon => neon::horizontal_rows(src, stride, first, table, out, target.stride),
            }
        }
    }
}

/// `bytes` of each output row; `src` begins at input row `first`.
pub(super) fn vertical_pass(
    src: &[u8],
    stride: usize,
    first: usize,
    bytes: usize,
    table: &AxisTable,
    target: &mut Target<'_>,
    code: Code,
) {
    #[cfg(target_arch = "x86_64")]
    let digits = if code == Code::Avx512 && bytes >= avx512::BLOCK { table.digits() } else { None };
    for (row, span) in table.spans.iter().enumerate() {
        let rows = &src[(span.start - first) * stride..];
        let out = &mut target.rgb[row * target.stride..][..bytes];
        // SAFETY: the CPU runs `code`, and what is simpler; `rows` has the span's rows: `resize` saw to it.
        unsafe {
            match code {
                Code::Portable => {
                    let weights = &table.weights[span.offset..span.offset + span.len];
                    portable::vertical_row(rows, stride, weights, 0, out);
                }
                #[cfg(target_arch = "x86_64")]
                Code::Avx2 => avx2::vertical_row(rows, stride, table, span, out),
                #[cfg(target_arch = "x86_64")]
                Code::Avx512 => match digits {
                    Some(digits) => avx512::vertical_row(rows, stride, digits, span, out),
                    None => avx2::vertical_row(rows, stride, table, span, out),
                },
                #[cfg(target_arch = "aarch64")]
                Code::Neon => neon::vertical_row(rows, stride, table, span, out),
            }
        }
    }
}
