//! Lists, tables and reports as sources: which images a plan of them has, and going on in the middle of one.

use crate::{
    batch::{ImageRef, Place},
    carried::CarriedColumn,
    job::JobSpec,
    location::Location,
    planning::{
        Enumeration, PlanError,
        enumerate::{Found, Scope},
        tests::spec,
    },
    results::Cursor,
    storage::Stores,
};
use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray},
    datatypes::{DataType, Field},
};
use bytes::Bytes;
use md5::{Digest, Md5};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use std::{io::Write, path::Path, sync::Arc};

async fn stores(objects: &[(&str, Bytes)]) -> Arc<Stores> {
    let stores = Stores::in_memory();
    for (url, bytes) in objects {
        let place = Location::parse(url, Path::new("/")).unwrap();
        stores.open(&place).await.put(place.key(), bytes.clone()).await.unwrap();
    }
    stores
}

async fn found(job: &JobSpec, stores: &Arc<Stores>, from: Cursor) -> Result<(Vec<Found>, Cursor), PlanError> {
    let mut pages = Enumeration::start(Scope::of(job).await?, stores.clone(), from.clone());
    let (mut found, mut end) = (Vec::new(), from);
    while let Some(page) = pages.next().await? {
        found.extend(page.found);
        end = page.cursor;
    }
    Ok((found, end))
}

async fn images(job: &JobSpec, stores: &Arc<Stores>) -> Vec<ImageRef> {
    let (all, _) = found(job, stores, Cursor::default()).await.unwrap();
    // From behind any image the same rest is found: a producer may be killed anywhere.
    for (n, one) in all.iter().enumerate() {
        let (rest, _) = found(job, stores, one.cursor()).await.unwrap();
        assert_eq!(rest, all[n + 1..], "behind image {n}");
    }
    all.into_iter().map(|found| found.image).collect()
}

fn keys(images: &[ImageRef]) -> Vec<&str> {
    images.iter().map(|image| image.key.as_str()).collect()
}

fn carry(names: &[&str]) -> Vec<CarriedColumn> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn gzipped(text: &str) -> Bytes {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap().into()
}

fn parquet(columns: Vec<(&str, ArrayRef)>, group: usize) -> Bytes {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_every_form_name_the_same_images() {
    let table: Vec<(&str, ArrayRef)> = vec![
        ("label", Arc::new(StringArray::from(vec!["x", "y"]))),
        ("key", Arc::new(StringArray::from(vec!["p/a b.jpg", "s3://c/ä.dat"]))),
    ];
    let stores = stores(&[
        ("s3://b/keys.txt", "p/a b.jpg\r\n\ns3://c/ä.dat".into()),
        ("s3://b/keys.csv", "\u{feff}label,url\nx,p/a b.jpg\ny,\"s3://c/ä.dat\"\n".into()),
        ("s3://b/plain.csv", "p/a b.jpg\ns3://c/ä.dat\n".into()),
        (
            "s3://b/keys.jsonl.gz",
            gzipped(
                "{\"key\": \"p/a b.jpg\", \"label\": \"x\"}\n{\"label\": \"y\", \"key\": \"s3://c/ä.dat\"}\n",
            ),
        ),
        ("s3://b/keys.parquet", parquet(table, 1)),
    ])
    .await;
    for (source, labelled) in [
        ("keys.txt", false),
        ("keys.csv", true),
        ("plain.csv", false),
        ("keys.jsonl.gz", true),
        ("keys.parquet", true),
    ] {
        let mut job = spec(&[&format!("s3://b/{source}")]);
        job.carry = carry(&["label"]);
        if source == "keys.parquet" {
            job.select.kind = crate::selection::SourceKind::List;
        }
        let images = images(&job, &stores).await;
        assert_eq!(keys(&images), ["s3://b/p/a b.jpg", "s3://c/ä.dat"], "{source}");
        let labels: Vec<_> = images.iter().map(|image| image.carried[0].as_deref()).collect();
        assert_eq!(labels, if labelled { [Some("x"), Some("y")] } else { [None, None] }, "{source}");
        job.select.root = Some("s3://other/".into());
        assert_eq!(
            found(&job, &stores, Cursor::default()).await.unwrap().0[0].image.key,
            "s3://other/p/a b.jpg"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_says_of_an_object_is_planned_and_secrets_are_not() {
    let list =
        "key,size,etag,note\na.jpg,12,\"\"\"t\"\"\",n\ns3://AKIA:canary@b/x.jpg,1,,\n\u{fffd}.jpg,,,\n";
    let stores = stores(&[("s3://b/keys.csv", list.into())]).await;
    let job = spec(&["s3://b/keys.csv"]);
    let (found, end) = found(&job, &stores, Cursor::default()).await.unwrap();
    assert_eq!(found[0].image, ImageRef::whole("s3://b/a.jpg", Some("t".into()), 12));
    assert_eq!((found.len(), end.unlistable), (2, 1), "the one with credentials is counted");
    for (name, content, said) in [
        ("a.csv", "x,y\n1,2\n", "--key-column"),
        ("a.jsonl", "{\"x\": 1}\n", "--key-column"),
        ("a.jsonl", "no json\n", "line 1"),
        ("a.parquet", "no parquet", "Parquet"),
        ("a.txt.gz", "no gzip", "line 1"),
    ] {
        let stores = self::stores(&[(&format!("s3://b/{name}"), content.into())]).await;
        let error =
            self::found(&spec(&[&format!("s3://b/{name}")]), &stores, Cursor::default()).await.unwrap_err();
        assert!(error.to_string().contains(said) && !error.is_transient(), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_images_are_read_by_row_groups() {
    let files: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..25_u8).map(|n| vec![n; 9])));
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values((0..25).map(|n| format!("{n}.jpg"))));
    let image: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, false)), files),
        (Arc::new(Field::new("path", DataType::Utf8, false)), paths),
    ]));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(100..125));
    let stores = stores(&[("s3://b/t/0.parquet", parquet(vec![("id", ids), ("image", image)], 12))]).await;
    let mut job = spec(&["s3://b/t/*.parquet"]);
    job.carry = carry(&["id:int"]);
    let images = images(&job, &stores).await;
    assert_eq!(images.len(), 25);
    let last = &images[24];
    assert_eq!((last.key.as_str(), last.object()), ("s3://b/t/0.parquet#24", "s3://b/t/0.parquet"));
    assert_eq!(last.within.unwrap().at, Place::Row(2, 0));
    assert_eq!(last.carried, [Some("124".to_owned())]);
    job.select.key_column = Some("id".into());
    assert_eq!(self::images(&job, &stores).await[13].key, "s3://b/t/0.parquet#113");
    // A row group goes into one batch: 12 rows are not much more than the ten of a batch.
    let preview = crate::planning::dry_run(&job, &stores).await.unwrap();
    assert_eq!((preview.images, preview.batches), (25, 3));
    job.select.image_column = Some("id".into());
    let error = found(&job, &stores, Cursor::default()).await.unwrap_err();
    assert!(error.to_string().contains("Int64"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_stands_for_its_bucket() {
    let rows = "\"photos\",\"a/b%20c.jpg\",\"12\",\"t1\",\"true\",\"false\"\n\
                \"photos\",\"old.jpg\",\"12\",\"t2\",\"false\",\"false\"\n\
                \"photos\",\"gone.jpg\",\"\",\"\",\"true\",\"true\"\n\
                \"photos\",\"folder%2F\",\"0\",\"\",\"true\",\"false\"\n\
                \"photos\",\"notes.txt\",\"5\",\"t3\",\"true\",\"false\"\n\
                \"photos\",\"z.png\",\"7\",\"t4\",\"true\",\"false\"\n";
    let file = gzipped(rows);
    let hex = |bytes: &[u8]| Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let manifest = |md5: &str| {
        serde_json::json!({
            "sourceBucket": "photos", "destinationBucket": "arn:aws:s3:::b", "fileFormat": "CSV",
            "fileSchema": "Bucket, Key, Size, ETag, IsLatest, IsDeleteMarker",
            "files": [{"key": "inv/data/1.csv.gz", "size": file.len(), "MD5checksum": md5}],
        })
        .to_string()
    };
    let good = manifest(&hex(&file));
    let checksum: Bytes = hex(good.as_bytes()).into();
    let (url, sum) =
        ("s3://b/inv/2026-11-22T01-00Z/manifest.json", "s3://b/inv/2026-11-22T01-00Z/manifest.checksum");
    let data = "s3://b/inv/data/1.csv.gz";
    let whole = stores(&[(url, good.clone().into()), (sum, checksum.clone()), (data, file.clone())]).await;
    let images = images(&spec(&[url]), &whole).await;
    assert_eq!(
        images,
        [
            ImageRef::whole("s3://photos/a/b c.jpg", Some("t1".into()), 12),
            ImageRef::whole("s3://photos/z.png", Some("t4".into()), 7),
        ]
    );
    let spoiled = manifest(&hex(b"other"));
    for objects in [
        [(url, spoiled.clone().into()), (sum, hex(spoiled.as_bytes()).into()), (data, file.clone())],
        [(url, good.into()), (sum, hex(b"other").into()), (data, file.clone())],
    ] {
        let error = found(&spec(&[url]), &stores(&objects).await, Cursor::default()).await.unwrap_err();
        assert!(error.to_string().contains("MD5"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_give_columns_and_bounds_leave_out() {
    let stores = stores(&[
        ("s3://b/year=2025/cats/1.jpg", "x".into()),
        ("s3://b/year=2026/dogs/2.jpg", "xxxx".into()),
        ("s3://b/year=2026/dogs/large.jpg", "xxxxxxxxx".into()),
    ])
    .await;
    let mut job = spec(&["s3://b"]);
    job.carry = carry(&["year:int", "class"]);
    job.select.capture = Some("{class}/{name}.jpg".into());
    job.select.max_bytes = Some(4);
    let (all, end) = found(&job, &stores, Cursor::default()).await.unwrap();
    let carried: Vec<_> = all.iter().map(|found| found.image.carried.clone()).collect();
    let row = |year: &str, class: &str| vec![Some(year.to_owned()), Some(class.to_owned())];
    assert_eq!(carried, [row("2025", "cats"), row("2026", "dogs")]);
    assert_eq!(end.skipped, 1);
    job.select.modified_before = Some(1000);
    assert!(found(&job, &stores, Cursor::default()).await.unwrap().0.is_empty());
}
