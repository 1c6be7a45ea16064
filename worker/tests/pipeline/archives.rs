//! Images in tar archives get the rows that they get as objects.

use super::*;
use bytes::Bytes;
use trawl_common::planning::contents::packing::Packing;

impl Scene {
    /// Puts the uploaded images into archives of `each`, with a label beside every image, and makes them the source.
    async fn pack(&mut self, each: usize) -> usize {
        let objects = list_all(&*self.bucket, "in/", None).await;
        for (n, shard) in objects.chunks(each).enumerate() {
            let mut archive = Packing::default();
            for object in shard {
                let bytes = self.bucket.get(&object.key, u64::MAX).await.unwrap().bytes;
                archive.member("pax", b'x', b"30 mtime=1700000000.123456789\n");
                archive.add(object.key.trim_start_matches("in/"), &bytes);
                archive.add("label.cls", b"7");
            }
            self.bucket.put(&format!("shards/{n:03}.tar"), archive.end()).await.unwrap();
        }
        self.spec.sources = vec!["s3://b/shards/{000..099}.tar".into()];
        self.spec.job = self.spec.derived_id();
        objects.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_archives_get_the_rows_of_objects() {
    let mut scene = Scene::new(10).await;
    scene.upload(0..35).await;
    scene.bucket.put("in/0007x.png", Bytes::from_static(b"no image")).await.unwrap();
    let images = scene.pack(12).await;
    scene.run(None).await;
    let rows = scene.rows(images.div_ceil(10) as u64).await;
    assert_eq!(rows.len(), images);
    for row in &rows {
        let (object, name) = row.key.split_once('#').unwrap();
        assert!(object.starts_with("s3://b/shards/00"), "{}", row.key);
        if name == "0007x.png" {
            assert!(matches!(row.outcome, Outcome::Failed { code: ErrorCode::NotAnImage, .. }), "{row:?}");
            continue;
        }
        assert_eq!(row.outcome, scene.expected(&format!("in/{name}")).await, "{name}");
        assert_eq!((row.width, row.height), (Some(9), Some(7)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_replaced_is_an_answer_and_one_that_was_cut_too() {
    let mut scene = Scene::new(100).await;
    scene.upload(0..20).await;
    scene.pack(10).await;
    scene.enlist().await;
    let whole = scene.bucket.get("shards/000.tar", u64::MAX).await.unwrap().bytes;
    scene.bucket.put("shards/000.tar", whole.slice(..whole.len() - 1024)).await.unwrap();
    let (pipeline, _threads) = scene.pipeline(None);
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    let rows = scene.rows(1).await;
    assert_eq!(rows.len(), 20);
    for row in rows {
        let changed = matches!(row.outcome, Outcome::Failed { code: ErrorCode::Changed, .. });
        assert_eq!(changed, row.key.starts_with("s3://b/shards/000.tar#"), "{row:?}");
    }
}
