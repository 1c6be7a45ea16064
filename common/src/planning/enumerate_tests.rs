//! What sources list: keys, filters, limits, and going on after any image.

use super::*;
use crate::planning::tests::{put, spec};

async fn list(
    spec: &JobSpec,
    stores: &Arc<Stores>,
    cursor: Cursor,
) -> Result<(Vec<Found>, Cursor), PlanError> {
    let scope = Scope::of(spec).await?;
    let mut pages = Enumeration::start(scope, stores.clone(), cursor.clone());
    let (mut found, mut end) = (Vec::new(), cursor);
    while let Some(page) = pages.next().await? {
        found.extend(page.found);
        end = page.cursor;
    }
    Ok((found, end))
}

async fn keys(spec: &JobSpec, stores: &Arc<Stores>) -> Vec<String> {
    let (found, _) = list(spec, stores, Cursor::default()).await.unwrap();
    found.into_iter().map(|found| found.image.key).collect()
}

async fn bucket(keys: &[&str]) -> Arc<Stores> {
    let stores = Stores::in_memory();
    for key in keys {
        put(&stores, &format!("s3://b/{key}")).await;
    }
    stores
}

#[tokio::test]
async fn a_prefix_is_a_folder_or_an_object_and_never_a_beginning() {
    let stores = bucket(&["a", "a-b/1.jpg", "a/", "a/1.jpg", "a/c/2.JPG", "a/notes.txt", "ab.jpg"]).await;
    assert_eq!(keys(&spec(&["s3://b/a/"]), &stores).await, ["s3://b/a/1.jpg", "s3://b/a/c/2.JPG"]);
    // The object `a` was named, so it needs no extension.
    assert_eq!(keys(&spec(&["s3://b/a"]), &stores).await, ["s3://b/a", "s3://b/a/1.jpg", "s3://b/a/c/2.JPG"]);
    assert_eq!(keys(&spec(&["s3://b"]), &stores).await.len(), 4);
    assert_eq!(keys(&spec(&["s3://b/a*/*.jpg"]), &stores).await, ["s3://b/a-b/1.jpg", "s3://b/a/1.jpg"]);
    assert_eq!(
        keys(&spec(&["s3://b/ab.jpg", "s3://b/a-b"]), &stores).await,
        ["s3://b/ab.jpg", "s3://b/a-b/1.jpg"]
    );
}

#[tokio::test]
async fn the_own_output_is_left_out_and_not_counted() {
    let stores = bucket(&["x/1.jpg", "x/out/_trawl/a.jpg", "x/out/b.jpg", "x/out.jpg"]).await;
    let mut job = spec(&["s3://b/x"]);
    job.out = "s3://b/x/out".into();
    let (found, end) = list(&job, &stores, Cursor::default()).await.unwrap();
    assert_eq!(found.iter().map(|f| f.store_key.as_str()).collect::<Vec<_>>(), ["x/1.jpg", "x/out.jpg"]);
    assert_eq!(end.skipped, 0);
    // The source lies in the output: only what a job writes is left out.
    job.out = "s3://b/x".into();
    assert_eq!(keys(&job, &stores).await.len(), 4);
    job.include = vec!["*".into()];
    put(&stores, "s3://b/x/part-00000000.parquet").await;
    put(&stores, "s3://b/x/_trawl/job.json").await;
    assert_eq!(keys(&job, &stores).await.len(), 4);
}

#[tokio::test]
async fn counts_and_limits() {
    let stores = bucket(&["a.jpg", "b.txt", "c.jpg", "d.txt", "e.jpg"]).await;
    let mut job = spec(&["s3://b"]);
    let (found, end) = list(&job, &stores, Cursor::default()).await.unwrap();
    assert_eq!((found.len(), end.images, end.skipped, end.source), (3, 3, 2, 1));
    job.limit = Some(2);
    let (found, end) = list(&job, &stores, Cursor::default()).await.unwrap();
    assert_eq!((found.len(), end.images, end.source), (2, 2, 1));
    let after = found[0].cursor();
    let (rest, end) = list(&job, &stores, after).await.unwrap();
    assert_eq!((rest.len(), end.images), (1, 2), "the limit is of the job and not of the listing");
}

#[tokio::test]
async fn what_is_left_out_is_counted_by_reason() {
    let stores = bucket(&["a.jpg", "b.txt", "c-thumb.jpg", "d.jpg", "x/e.png", "x/f.tar"]).await;
    let large = Location::parse("s3://b/d.jpg", Path::new("/")).unwrap();
    stores.open(&large).await.put("d.jpg", bytes::Bytes::from_static(b"large")).await.unwrap();
    let left_out = async |job: &JobSpec| {
        let mut pages = Enumeration::start(Scope::of(job).await.unwrap(), stores.clone(), Cursor::default());
        let mut last = None;
        while let Some(page) = pages.next().await.unwrap() {
            last = Some(page);
        }
        let Page { cursor, left_out, .. } = last.expect("there is a last page");
        let there: Vec<_> = left_out.there().collect();
        assert_eq!(there.iter().map(|(_, objects)| objects).sum::<u64>(), cursor.skipped, "{there:?}");
        there
    };
    let mut job = spec(&["s3://b"]);
    job.exclude = vec!["*-thumb.*".into()];
    job.select.max_bytes = Some(4);
    let expected = [(Reason::NotAnImage, 2), (Reason::Excluded, 1), (Reason::Size, 1)];
    assert_eq!(left_out(&job).await, expected);
    job.include = vec!["*.png".into()];
    assert_eq!(left_out(&job).await, [(Reason::NotIncluded, 5)]);
    assert_eq!(left_out(&spec(&["s3://b/*.jpg"])).await, [(Reason::Unreached, 3)]);
    let mut archives = spec(&["s3://b/"]);
    archives.select.kind = SourceKind::Tar;
    archives.exclude = vec!["*.tar".into()];
    assert_eq!(left_out(&archives).await, [(Reason::Excluded, 1), (Reason::OtherType, 5)]);
}

#[tokio::test]
async fn the_listing_goes_on_after_any_image() {
    let names: Vec<String> =
        (0..2500).map(|n| format!("p/{n:05}.{}", if n % 7 == 0 { "txt" } else { "jpg" })).collect();
    let stores = bucket(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    put(&stores, "s3://c/q").await;
    put(&stores, "s3://c/q/z.png").await;
    let job = spec(&["s3://b/p", "s3://c/q"]);
    let (all, end) = list(&job, &stores, Cursor::default()).await.unwrap();
    for at in [0, 1, 998, 999, 1000, all.len() - 3, all.len() - 2, all.len() - 1] {
        let (rest, rest_end) = list(&job, &stores, all[at].cursor()).await.unwrap();
        assert_eq!(rest, all[at + 1..], "after image {at}");
        assert_eq!(rest_end, end, "after image {at}");
    }
}

#[tokio::test]
async fn folders_files_and_globs_of_this_machine() {
    let root = tempfile::tempdir().unwrap();
    for name in ["photos/x/1.jpg", "photos/2.PNG", "photos/notes.txt", "odd [1]/3.gif", "weird.dat"] {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }
    let stores = Stores::in_memory();
    let job = |sources: &[&str]| {
        let base_dir = root.path().to_str().unwrap().to_owned();
        JobSpec { base_dir, ..spec(sources) }
    };
    assert_eq!(keys(&job(&["photos/"]), &stores).await, ["photos/2.PNG", "photos/x/1.jpg"]);
    assert_eq!(keys(&job(&["photos/**/*.jpg"]), &stores).await, ["photos/x/1.jpg"]);
    assert_eq!(keys(&job(&["odd [1]", "weird.dat"]), &stores).await, ["odd [1]/3.gif", "weird.dat"]);
    let error = list(&job(&["nowhere"]), &stores, Cursor::default()).await.unwrap_err();
    assert!(matches!(&error, PlanError::SourceMissing { given, .. } if given == "nowhere"), "{error}");
}

#[tokio::test]
async fn missing_sources_are_named_before_anything_is_listed() {
    let stores = bucket(&["a/1.jpg"]).await;
    for (sources, missing) in [
        (vec!["s3://b/a", "s3://b/typo"], Some("s3://b/typo")),
        (vec!["/no/such"], Some("/no/such")),
        (vec!["s3://b"], None),
    ] {
        let checked = Scope::of(&spec(&sources)).await.unwrap().check_sources(&stores).await;
        match (checked, missing) {
            (Ok(()), None) => {}
            (Err(PlanError::SourceMissing { given, .. }), Some(missing)) => assert_eq!(given, missing),
            (other, _) => panic!("{sources:?}: {other:?}"),
        }
    }
}
