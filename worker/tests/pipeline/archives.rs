//! Images in tar archives get the rows that they get as objects.

use super::*;
use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use bytes::Bytes;
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
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

#[tokio::test(flavor = "multi_thread")]
async fn cells_of_tables_get_the_rows_of_objects() {
    let mut scene = Scene::new(10).await;
    scene.upload(0..27).await;
    scene.bucket.put("in/0007x.png", Bytes::from_static(b"no image")).await.unwrap();
    let objects = list_all(&*scene.bucket, "in/", None).await;
    let mut files = Vec::new();
    for object in &objects {
        files.push(Some(scene.bucket.get(&object.key, u64::MAX).await.unwrap().bytes));
    }
    files.push(None);
    // Groups that are smaller than a batch, so that one batch reads several, and one that is larger than four.
    for (n, group) in [(0, 4), (1, 100)] {
        scene.bucket.put(&format!("t/{n}.parquet"), table(&files, group)).await.unwrap();
        scene.spec.sources = vec![format!("s3://b/t/{n}.parquet")];
        scene.spec.out = format!("s3://b/out{n}");
        scene.spec.batch_size = if n == 0 { 10 } else { 6 };
        scene.spec.job = scene.spec.derived_id();
        scene.run(None).await;
        let batches = if n == 0 { 4 } else { 5 };
        let rows = scene.rows(batches).await;
        assert_eq!(rows.len(), files.len());
        for (row, object) in rows.iter().zip(&objects) {
            if object.key == "in/0007x.png" {
                assert!(
                    matches!(row.outcome, Outcome::Failed { code: ErrorCode::NotAnImage, .. }),
                    "{row:?}"
                );
            } else {
                assert_eq!(row.outcome, scene.expected(&object.key).await, "{}", object.key);
                assert_eq!(row.size, object.size);
            }
        }
        assert!(matches!(rows.last().unwrap().outcome, Outcome::Failed { code: ErrorCode::Empty, .. }));
    }
}

fn table(files: &[Option<Bytes>], group: usize) -> Bytes {
    let cells = BinaryArray::from_iter(files.iter().map(|file| file.as_deref()));
    let batch = RecordBatch::try_from_iter([("image", Arc::new(cells) as ArrayRef)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}
