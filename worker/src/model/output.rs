//! What a row of model output means: softmax and top-k, or the vector itself.
//!
//! After the forward pass, before the result row. A value that is not a number never becomes a
//! prediction.

use trawl_common::{
    bundle::{BundleSpec, Head},
    results::row::{ClassScore, Prediction},
};

/// The prediction in `row`, or `None` if it holds a value that is not finite.
pub fn interpret(row: &[f32], spec: &BundleSpec, topk: usize) -> Option<Prediction> {
    if !row.iter().all(|v| v.is_finite()) {
        return None;
    }
    Some(match spec.head {
        Head::Classification => Prediction::Classes(classes(row, &spec.labels, topk)),
        Head::Embedding | Head::Raw => Prediction::Vector(row.to_vec()),
    })
}

/// The `k` most probable classes of `logits`, the best first; equal ones in the order of their indices.
fn classes(logits: &[f32], labels: &[String], k: usize) -> Vec<ClassScore> {
    // Subtracting the largest keeps exp() in range and changes no ratio.
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|v| (v - largest).exp()).sum();
    let k = k.min(logits.len());
    let better = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    if k < order.len() {
        order.select_nth_unstable_by(k, better);
        order.truncate(k);
    }
    order.sort_unstable_by(better);
    order
        .into_iter()
        .map(|i| ClassScore {
            index: i32::try_from(i).unwrap_or(i32::MAX),
            label: labels.get(i).cloned(),
            probability: (logits[i] - largest).exp() / total,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_is_sorted_and_sums_to_one() {
        let logits = [1.0, 3.0, 3.0, -2.0, 0.5];
        let all = classes(&logits, &["a".into(), "b".into()], 10);
        assert_eq!(all.iter().map(|c| c.index).collect::<Vec<_>>(), [1, 2, 0, 4, 3]);
        assert!((all.iter().map(|c| c.probability).sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(all[0].label.as_deref(), Some("b"));
        assert_eq!(all[1].label, None);
        assert_eq!(classes(&logits, &[], 2), classes(&logits, &[], 5)[..2]);
    }

    #[test]
    fn large_logits_do_not_overflow_and_nan_is_no_prediction() {
        let scores = classes(&[1e4, 0.0], &[], 2);
        assert_eq!((scores[0].probability, scores[1].probability), (1.0, 0.0));
        let spec = BundleSpec::parse(
            br#"{"version":1,"name":"t","head":"classification","input":{"crop":[1,1],"resize_mode":"squash",
                "interpolation":"nearest","mean":[0,0,0],"std":[1,1,1]}}"#,
        )
        .unwrap();
        assert_eq!(interpret(&[1.0, f32::NAN], &spec, 1), None);
        assert_eq!(interpret(&[f32::INFINITY, 0.0], &spec, 1), None);
    }
}
