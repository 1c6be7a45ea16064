//! A sample of a job's images, as `trawl submit --dry-run --sample` hands it to `trawl-worker bench`.
//!
//! The producer links no torch: it lists and chooses, the worker reads and computes. One JSON document on the worker's
//! standard input, so that nothing is left on a disk whatever ends the two. Carries names of images and no bytes.

use crate::{
    batch::ImageRef,
    job::{JobSpec, JobSpecError},
};
use serde::{Deserialize, Serialize};

/// The most images of a sample: more say little more, and all of their bytes are held in memory.
pub const MAX_SAMPLE: usize = 1024;

/// The most bytes of the document: so many images with the longest keys, tags and JSON escapes.
pub const MAX_SAMPLE_BYTES: u64 = 32 << 20;

/// A job and some of its images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSample {
    /// The spec, as workers read it.
    spec: serde_json::Value,
    /// The images, in the plan's order.
    pub images: Vec<ImageRef>,
}

/// A document that is no sample.
#[derive(Debug, thiserror::Error)]
pub enum BadSample {
    /// Not JSON of this shape.
    #[error("the sample is not readable: are `trawl` and `trawl-worker` of the same version?")]
    Json(#[from] serde_json::Error),
    /// Its spec is none.
    #[error(transparent)]
    Spec(#[from] JobSpecError),
    /// No images, or too many.
    #[error("the sample has {0} images, it must have 1 to {MAX_SAMPLE}")]
    Count(usize),
}

impl JobSample {
    /// A sample of the job `spec`. What rows carry along is left away.
    pub fn new(spec: &JobSpec, mut images: Vec<ImageRef>) -> Self {
        images.iter_mut().for_each(|image| image.carried.clear());
        let spec = serde_json::to_value(spec).expect("a job spec is plain data");
        Self { spec, images }
    }

    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a sample is plain data")
    }

    /// Reads the document.
    ///
    /// # Errors
    /// [`BadSample`].
    pub fn parse(json: &[u8]) -> Result<(JobSpec, Vec<ImageRef>), BadSample> {
        let Self { spec, images } = serde_json::from_slice(json)?;
        if !(1..=MAX_SAMPLE).contains(&images.len()) {
            return Err(BadSample::Count(images.len()));
        }
        Ok((JobSpec::parse(&serde_json::to_vec(&spec)?)?, images))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planning::tests::spec;

    #[test]
    fn a_sample_survives_the_way_and_has_bounds() {
        let spec = spec(&["s3://b/p"]);
        let image = ImageRef {
            carried: vec![Some("x".into())],
            ..ImageRef::whole("s3://b/p/a.jpg", Some("t".into()), 7)
        };
        let sent = |images| JobSample::parse(&JobSample::new(&spec, images).to_json());
        let (read, images) = sent(vec![image.clone(); 3]).unwrap();
        assert_eq!(read, spec);
        assert_eq!(images, vec![ImageRef { carried: Vec::new(), ..image.clone() }; 3]);
        for count in [0, MAX_SAMPLE + 1] {
            assert!(matches!(sent(vec![image.clone(); count]), Err(BadSample::Count(n)) if n == count));
        }
        assert!(matches!(JobSample::parse(b"{}"), Err(BadSample::Json(_))));
        assert!(matches!(
            JobSample::parse(br#"{"spec":{"version":0},"images":[{"key":"a","size":1}]}"#),
            Err(BadSample::Spec(_))
        ));
    }
}
