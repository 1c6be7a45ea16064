//! What the rows of a job are.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_image_gets_the_models_answer_in_the_order_of_the_plan() {
    let scene = Scene::new(3).await;
    scene.upload(0..20).await;
    let pipeline = scene.run(None).await;
    let rows = scene.rows(7).await;
    assert_eq!(rows.len(), 20);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row.key, format!("s3://b/in/{i:04}.png"));
        assert_eq!(row.outcome, scene.expected(&format!("in/{i:04}.png")).await);
    }
    assert!(scene.bucket.head("out/_SUCCESS").await.is_ok());
    assert_eq!(pipeline.meters.computed(), 20);
    let passes = pipeline.meters.render();
    assert!(passes.contains("trawl_batch_fill_ratio_count"), "{passes}");
    assert_eq!(pipeline.meters.total(Stage::Forward).count, 20);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_model_cannot_bear_pays_alone() {
    let scene = Scene::new(8).await;
    scene.upload([1, 2, 77, 4, 5, 6, 7, 8]).await;
    scene.run(Some(77)).await;
    for (i, row) in scene.rows(1).await.into_iter().enumerate() {
        match row.outcome {
            Outcome::Failed { code, message } => {
                assert_eq!((i, code), (2, ErrorCode::ModelFailed));
                assert!(message.contains("the fake refuses"), "{message}");
            }
            outcome => assert_eq!(outcome, scene.expected(&format!("in/{i:04}.png")).await),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_one_unbearable_image_still_has_its_row() {
    let scene = Scene::new(1).await;
    scene.upload([77]).await;
    scene.run(Some(77)).await;
    let rows = scene.rows(1).await;
    assert!(matches!(rows[0].outcome, Outcome::Failed { code: ErrorCode::ModelFailed, .. }), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_always_fails_ends_in_the_dead_letters_and_writes_nothing() {
    let scene = Scene::new(2).await;
    // Black images: the blank image that tells a broken model from a bad picture fails like them.
    let black = image::RgbImage::new(9, 7);
    let mut bytes = std::io::Cursor::new(Vec::new());
    black.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    for i in 0..2 {
        scene.bucket.put(&format!("in/{i}.png"), bytes.get_ref().clone().into()).await.unwrap();
    }
    let (pipeline, _threads) = scene.pipeline(Some(0));
    scene.enlist().await;
    scene.serve(&pipeline, async || scene.broker.dead_depth().await.unwrap() == 1).await;
    let dead = scene.broker.dead_letters();
    assert!(dead[0].reason.contains("the fake refuses"), "{}", dead[0].reason);
    assert!(scene.bucket.head("out/part-00000000.parquet").await.is_err());
    assert!(scene.bucket.head("out/_SUCCESS").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_enqueued_twice_are_computed_and_counted_once() {
    let scene = Scene::new(2).await;
    scene.upload(0..10).await;
    scene.enlist().await;
    let pipeline = scene.run(None).await;
    let empty = async || {
        let depth = scene.broker.depth(&scene.spec.queue).await.unwrap().unwrap();
        depth.ready == 0
    };
    let (second, _threads) = scene.pipeline(None);
    scene.serve(&second, empty).await;
    let progress = scene.ledger.progress(&scene.spec.job).await.unwrap().unwrap();
    assert_eq!((progress.images_ok, progress.batches_done), (10, 5));
    assert_eq!(pipeline.meters.computed() + second.meters.computed(), 10);
    assert_eq!(scene.rows(5).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_object_is_a_row() {
    let scene = Scene::new(4).await;
    scene.upload(0..4).await;
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    scene.bucket.delete("in/0001.png").await.unwrap();
    scene.bucket.put("in/0002.png", bytes::Bytes::from_static(b"another file")).await.unwrap();
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    let codes: Vec<_> = scene
        .rows(1)
        .await
        .into_iter()
        .map(|row| match row.outcome {
            Outcome::Failed { code, .. } => Some(code),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
        })
        .collect();
    assert_eq!(codes, [None, Some(ErrorCode::NotFound), Some(ErrorCode::Changed), None]);
}

/// The model seam's contract, for the fake and for TorchScript alike.
fn rows_out_are_images_in(model: &dyn Model, bytes: usize) {
    let images: Vec<Vec<u8>> =
        (0..5_u8).map(|i| (0..bytes).map(|b| (b as u8).wrapping_mul(i + 1)).collect()).collect();
    let one: Vec<Outputs> = images.iter().map(|image| model.forward(&[image]).unwrap()).collect();
    let all: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let together = model.forward(&all).unwrap();
    assert_eq!(together.rows().len(), 5);
    assert_eq!(together.tensors[0].width, model.width());
    for (alone, row) in one.iter().zip(together.rows()) {
        for (a, b) in alone.tensors[0].values.iter().zip(row) {
            assert!((a - b).abs() <= 1e-3, "{a} alone, {b} in a batch");
        }
    }
}

#[test]
fn both_models_keep_the_contract() {
    use trawl_worker::model::{self, Device, GraphPasses};
    rows_out_are_images_in(&FakeModel::default(), 300);
    let spec = BundleSpec::read(Path::new(BUNDLE)).unwrap();
    let model =
        model::load(Path::new(BUNDLE), &spec, Device::Cpu, Precision::Fp32, GraphPasses::On, None).unwrap();
    rows_out_are_images_in(&model, 64 * 64 * 3);
    let fake = FakeModel { refuses: Some(0), ..FakeModel::default() };
    assert!(matches!(fake.forward(&[&[0, 1]]), Err(ModelError::Forward(_))));
    assert_eq!(fake.passes.load(Ordering::Relaxed), 1);
    let half = model::load(Path::new(BUNDLE), &spec, Device::Cpu, Precision::Fp16, GraphPasses::On, None);
    assert!(matches!(half, Err(ModelError::Device(_))));
}
