//! What a model's numbers mean: softmax and top-k, labels, vectors, boxes.
//!
//! After the forward pass, before the result row; one answer an image, of one head or of several. A value that is not a
//! number never becomes a prediction.

use super::Outputs;
use crate::preprocess::Placement;
use trawl_common::{
    bundle::{BundleSpec, Head, HeadSpec, VectorType},
    results::row::{ClassScore, FoundBox, Prediction},
};

/// The largest number of half precision.
const LARGEST_HALF: f32 = 65_504.0;

/// torch's own: a vector that is shorter is not made longer.
const SHORTEST_NORM: f32 = 1e-12;

/// The prediction for the image at place `image` of a micro-batch, which lies in the model's input as `placement` says.
///
/// # Errors
/// In words, if a value in it is not finite, or does not fit the type that it is to be stored in.
pub fn predict(
    outputs: &Outputs,
    image: usize,
    spec: &BundleSpec,
    topk: usize,
    placement: &Placement,
) -> Result<Prediction, String> {
    let mut first = 0;
    let mut answer = |head: &HeadSpec| {
        let tensors = &outputs.tensors[first..first + head.head.tensors()];
        first += tensors.len();
        let rows = tensors.iter().map(|tensor| tensor.row(image));
        if !rows.flatten().all(|v| v.is_finite()) {
            let whose = head.name.as_ref().map(|name| format!(" for the head `{name}`")).unwrap_or_default();
            return Err(format!("the model's output{whose} holds a value that is not a finite number"));
        }
        let row = tensors[0].row(image);
        Ok(match head.head {
            Head::Classification => Prediction::Classes(classes(row, &head.labels, topk)),
            Head::MultiLabel { threshold } => Prediction::Labels(labels(row, &head.labels, threshold)),
            Head::Embedding { dtype, normalize } => Prediction::Vector(vector(row, dtype, normalize)?),
            Head::Detection { threshold, max_boxes } => {
                let (scores, indices) = (tensors[1].row(image), tensors[2].row(image));
                let found = Found { corners: row, scores, indices };
                Prediction::Boxes(found.boxes(&head.labels, threshold, max_boxes as usize, placement))
            }
            Head::Raw => Prediction::Tensor(row.to_vec(), tensors[0].shape.clone()),
        })
    };
    match &spec.heads[..] {
        [only] if only.name.is_none() => answer(only),
        heads => {
            let named =
                |head: &HeadSpec| Ok((head.name.as_deref().unwrap_or_default().into(), answer(head)?));
            heads.iter().map(named).collect::<Result<_, String>>().map(Prediction::Several)
        }
    }
}

/// The prediction in the `row` of a model with one output; `None` if it holds a value that is not finite.
pub fn interpret(row: &[f32], spec: &BundleSpec, topk: usize) -> Option<Prediction> {
    let outputs = Outputs::single(row.to_vec(), row.len());
    predict(&outputs, 0, spec, topk, &Placement::default()).ok()
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

/// Every label whose own probability reaches `threshold`, the most probable first; equal ones in the order of their
/// indices.
fn labels(logits: &[f32], labels: &[String], threshold: f32) -> Vec<ClassScore> {
    let probabilities = logits.iter().map(|v| 1.0 / (1.0 + (-v).exp()));
    let mut given: Vec<ClassScore> = probabilities
        .enumerate()
        .filter(|(_, probability)| *probability >= threshold)
        .map(|(i, probability)| ClassScore {
            index: i32::try_from(i).unwrap_or(i32::MAX),
            label: labels.get(i).cloned(),
            probability,
        })
        .collect();
    // A stable sort keeps the order of indices.
    given.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    given
}

fn vector(row: &[f32], dtype: VectorType, normalize: bool) -> Result<Vec<f32>, String> {
    let mut values = row.to_vec();
    if normalize {
        // In double precision: the squares of a long vector's numbers may be beyond single.
        let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
        let norm = norm.max(SHORTEST_NORM);
        values.iter_mut().for_each(|v| *v /= norm);
    }
    match values.iter().find(|v| dtype == VectorType::F16 && v.abs() > LARGEST_HALF) {
        Some(large) => Err(format!("the embedding holds {large}, which half precision cannot")),
        None => Ok(values),
    }
}

/// A detector's answer for one image.
struct Found<'a> {
    /// Four for each.
    corners: &'a [f32],
    scores: &'a [f32],
    indices: &'a [f32],
}

impl Found<'_> {
    /// The boxes whose scores reach `threshold`, the best first and at most so many, in pixels of the stored image. What
    /// a detector fills its list up with has no score and no size.
    fn boxes(&self, labels: &[String], threshold: f32, most: usize, placement: &Placement) -> Vec<FoundBox> {
        let mut order: Vec<usize> = (0..self.scores.len()).filter(|i| self.scores[*i] >= threshold).collect();
        order.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]));
        let boxes = order.into_iter().filter_map(|i| {
            let corners: [f32; 4] = self.corners.get(i * 4..i * 4 + 4)?.try_into().ok()?;
            let corners = placement.to_image(corners);
            let index = *self.indices.get(i)? as i32;
            let label = usize::try_from(index).ok().and_then(|index| labels.get(index).cloned());
            let has_size = corners[2] > corners[0] && corners[3] > corners[1];
            has_size.then_some(FoundBox { corners, index, label, score: self.scores[i] })
        });
        boxes.take(most).collect()
    }
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

    fn spec(heads: &str) -> BundleSpec {
        let json = format!(
            r#"{{"version":1,"name":"t",{heads},"input":{{"crop":[1,1],"resize_mode":"squash",
                "interpolation":"nearest","mean":[0,0,0],"std":[1,1,1]}}}}"#
        );
        BundleSpec::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn labels_reach_the_threshold_and_are_sorted() {
        let spec = spec(r#""head":"multi_label","threshold":0.5,"labels":["a","b","c"]"#);
        let Some(Prediction::Labels(given)) = interpret(&[0.0, -0.1, 3.0, 200.0], &spec, 1) else { panic!() };
        let seen: Vec<(i32, Option<&str>)> = given.iter().map(|l| (l.index, l.label.as_deref())).collect();
        assert_eq!(seen, [(3, None), (2, Some("c")), (0, Some("a"))], "top-k is for classes");
        assert_eq!((given[0].probability, given[2].probability), (1.0, 0.5));
        assert_eq!(interpret(&[-5.0; 3], &spec, 1), Some(Prediction::Labels(Vec::new())));
    }

    #[test]
    fn a_vector_may_be_made_one_long_and_must_fit_half_precision() {
        let plain = spec(r#""head":"embedding""#);
        assert_eq!(interpret(&[3.0, 4.0], &plain, 1), Some(Prediction::Vector(vec![3.0, 4.0])));
        let unit = spec(r#""head":"embedding","normalize":true,"dtype":"f16""#);
        let Some(Prediction::Vector(vector)) = interpret(&[3e30, 4e30], &unit, 1) else { panic!() };
        assert!((vector[0] - 0.6).abs() < 1e-6 && (vector[1] - 0.8).abs() < 1e-6, "{vector:?}");
        assert_eq!(interpret(&[0.0, 0.0], &unit, 1), Some(Prediction::Vector(vec![0.0, 0.0])));
        let half = spec(r#""head":"embedding","dtype":"f16""#);
        let outputs = Outputs::single(vec![1.0, -7e4], 2);
        let error = predict(&outputs, 0, &half, 1, &Placement::default()).unwrap_err();
        assert!(error.contains("-70000"), "{error}");
    }

    #[test]
    fn one_head_that_is_no_number_fails_the_image_and_is_named() {
        let spec = spec(r#""heads":[{"name":"a","head":"raw"},{"name":"b","head":"embedding"}]"#);
        let tensor = |values: Vec<f32>| Outputs::single(values, 1).tensors.remove(0);
        let outputs = Outputs { tensors: vec![tensor(vec![1.0, 2.0]), tensor(vec![3.0, f32::NAN])] };
        let at = |image| predict(&outputs, image, &spec, 1, &Placement::default());
        assert!(matches!(at(0), Ok(Prediction::Several(heads)) if heads.len() == 2));
        assert!(at(1).unwrap_err().contains("`b`"));
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
