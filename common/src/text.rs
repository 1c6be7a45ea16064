//! Numbers and names as people read them.
//!
//! Everything that either binary prints for people goes through here; JSON never does. Keys come from buckets
//! that anybody may write to, so control characters must never reach a terminal.

pub use crate::telemetry::printable;

/// Seconds in a minute and in an hour.
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// What the progress bar in a block of text is wide.
const BAR_WIDTH: u64 = 30;

/// `1234567` as `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 image`, `2 images`.
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `8s`, `2m05s`, `3h20m`, `4d02h`; nothing finer, an estimate is no clock.
pub fn seconds(total: f64) -> String {
    if !total.is_finite() || total < 0.0 {
        return "unknown".to_owned();
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Saturates; it was checked above.
    let total = total.round() as u64;
    match total {
        0..MINUTE => format!("{total}s"),
        MINUTE..HOUR => format!("{}m{:02}s", total / MINUTE, total % MINUTE),
        _ if total < 48 * HOUR => format!("{}h{:02}m", total / HOUR, total % HOUR / MINUTE),
        _ => format!("{}d{:02}h", total / (24 * HOUR), total % (24 * HOUR) / HOUR),
    }
}

/// `512 B`, `1.5 KiB`, `16 KiB`, `2.3 TiB`: bytes in the largest unit of which there is one.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(power) = n.checked_ilog2().map(|log| log as usize / 10).filter(|power| *power > 0) else {
        return format!("{n} B");
    };
    #[allow(clippy::cast_precision_loss)] // Three digits are shown.
    let of_unit = n as f64 / (1_u64 << (10 * power)) as f64;
    let text = if of_unit < 9.95 { format!("{of_unit:.1}") } else { format!("{of_unit:.0}") };
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[power - 1])
}

/// How long ago a moment was, both in milliseconds since 1970.
pub fn ago(then_unix_ms: u64, now_unix_ms: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // Rounded to seconds anyway.
    let passed = now_unix_ms.saturating_sub(then_unix_ms) as f64 / 1000.0;
    format!("{} ago", seconds(passed))
}

/// `42.0`, `0.35`: images a second.
pub fn rate(per_second: f64) -> String {
    if per_second >= 10.0 { format!("{per_second:.0}") } else { format!("{per_second:.2}") }
}

/// The share of `part` in `whole`, rounded down so that `100 %` means all.
pub fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "0 %".to_owned(),
        _ => format!("{} %", u128::from(part) * 100 / u128::from(whole)),
    }
}

/// `[######........]`: plain characters, it goes into logs too.
pub fn bar(part: u64, whole: u64) -> String {
    let filled = match whole {
        0 => 0,
        _ => u64::try_from(u128::from(part) * u128::from(BAR_WIDTH) / u128::from(whole))
            .unwrap_or(BAR_WIDTH)
            .min(BAR_WIDTH),
    };
    let mut text = String::from("[");
    for i in 0..BAR_WIDTH {
        text.push(if i < filled { '#' } else { '.' });
    }
    text.push(']');
    text
}

/// At most `width` characters, the end of a name being what tells it from its neighbours.
pub fn cut_front(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(length - width.saturating_sub(1)).collect();
    format!("…{kept}")
}

/// At most `width` characters, the beginning kept.
pub fn cut_back(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(
            [0, 999, 1000, 1_234_567, u64::MAX].map(count),
            ["0", "999", "1,000", "1,234,567", "18,446,744,073,709,551,615"]
        );
        assert_eq!(counted(1, "image", "images"), "1 image");
        assert_eq!(counted(0, "image", "images"), "0 images");
        assert_eq!(rate(0.351), "0.35");
        assert_eq!(rate(512.4), "512");
    }

    #[test]
    fn sizes() {
        assert_eq!(
            [0, 1023, 1024, 1536, 16 << 10, 1_500_000, 5 << 30, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1 KiB", "1.5 KiB", "16 KiB", "1.4 MiB", "5 GiB", "16 EiB"]
        );
    }

    #[test]
    fn times() {
        assert_eq!(
            [0.4, 59.4, 125.0, 12_000.0, 360_000.0].map(seconds),
            ["0s", "59s", "2m05s", "3h20m", "4d04h"]
        );
        assert_eq!(seconds(f64::NAN), "unknown");
        assert_eq!(seconds(f64::INFINITY), "unknown");
        assert_eq!(ago(5_000, 1_000), "0s ago", "clocks of two machines differ");
    }

    #[test]
    fn shares_round_down() {
        assert_eq!(percent(999, 1000), "99 %");
        assert_eq!(percent(1000, 1000), "100 %");
        assert_eq!(percent(0, 0), "0 %");
        assert_eq!(bar(0, 0).matches('#').count(), 0);
        assert_eq!(bar(1, 2).matches('#').count(), 15);
        assert_eq!(bar(u64::MAX, 1).matches('#').count(), 30);
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!(cut_front("s3://bucket/größe.jpg", 8), "…öße.jpg");
        assert_eq!(cut_back("golden retriever", 8), "golden …");
        assert_eq!(cut_front("short", 8), "short");
        assert_eq!(cut_back("x", 0), "…");
    }
}
