//! Metrics as text: OpenMetrics for whoever asks for it, Prometheus's older text format for all others.
//!
//! Behind the `/metrics` of worker and monitor. The two formats have the same series and differ in their comments; a
//! reader of the older one (`promtool check metrics`, many agents) takes a counter's `# TYPE` line of OpenMetrics for
//! that of another metric. It must never change a sample.

use std::collections::HashSet;

/// What OpenMetrics is called.
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the older format is called.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The content type and the text for a client that sent `accept`, out of metrics in OpenMetrics' text.
pub fn answer(accept: Option<&str>, openmetrics: String) -> (&'static str, String) {
    match accept {
        Some(accept) if accept.contains("application/openmetrics-text") => (OPEN, openmetrics),
        _ => (PLAIN, plain(&openmetrics)),
    }
}

/// The same metrics in the older format: counters are described by the names of their samples, and there is neither a
/// unit nor an end.
fn plain(openmetrics: &str) -> String {
    let counters: HashSet<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        match described(line) {
            Some((keyword, name, rest)) if counters.contains(name) => {
                text.extend(["# ", keyword, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Keyword, name and the rest of a `# HELP` or `# TYPE` line.
fn described(line: &str) -> Option<(&str, &str, &str)> {
    let (keyword, rest) = line.strip_prefix("# ")?.split_once(' ')?;
    let (name, rest) = rest.split_once(' ')?;
    matches!(keyword, "HELP" | "TYPE").then_some((keyword, name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP a Things.\n# TYPE a counter\na_total{x=\"# TYPE\"} 1\n# HELP a_b_seconds Time.\n\
                           # TYPE a_b_seconds gauge\n# UNIT a_b_seconds seconds\na_b_seconds 2.5\n# EOF\n";

    #[test]
    fn who_asks_for_openmetrics_gets_it_untouched() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5";
        assert_eq!(answer(Some(prometheus), METRICS.to_owned()), (OPEN, METRICS.to_owned()));
    }

    #[test]
    fn all_others_get_the_older_format_with_the_same_samples() {
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"# TYPE\"} 1\n\
                        # HELP a_b_seconds Time.\n# TYPE a_b_seconds gauge\na_b_seconds 2.5\n";
        for accept in [None, Some("*/*"), Some("text/html")] {
            assert_eq!(answer(accept, METRICS.to_owned()), (PLAIN, expected.to_owned()), "{accept:?}");
        }
    }
}
