//! That a compacted output is an output: whole, each row once, whenever it was stopped.

use super::*;
use crate::{
    cli::{Cli, Command},
    fixture::{self, place},
    rows,
};
use clap::Parser;
use std::path::Path;
use trawl_common::{
    audit::{Depth, audit},
    results::row::ResultRow,
};

const NEW: &str = "s3://bucket/compact";

/// Two of the fixture's three parts, and not three.
const TWO_PARTS: &str = "--target-size 10000";

fn new_place() -> Location {
    Location::parse(NEW, Path::new("/")).unwrap()
}

fn args(flags: &str) -> CompactArgs {
    let line = format!("trawl compact s3://bucket/labels --to {NEW} {flags}");
    match Cli::parse_from(line.split_whitespace()).command {
        Command::Compact(args) => args,
        other => panic!("{other:?}"),
    }
}

async fn compacted(stores: &Arc<Stores>, flags: &str) -> Result<serde_json::Value, Stop> {
    let mut out = Vec::new();
    run(stores, &place(), &new_place(), &args(flags), OutputFormat::Json, &mut out).await?;
    Ok(serde_json::from_slice(&out).unwrap())
}

async fn rows_at(stores: &Stores, at: Location) -> Vec<ResultRow> {
    let (store, layout) = (stores.open(&at).await, OutputLayout::new(at));
    let parts: Vec<_> = rows::of_parts(store.as_ref(), &layout).try_collect().await.unwrap();
    parts.into_iter().flat_map(|part| part.rows).collect()
}

/// Everything of an output, in the order of its keys.
async fn objects(stores: &Stores, at: Location) -> Vec<String> {
    let (store, layout) = (stores.open(&at).await, OutputLayout::new(at));
    let pages: Vec<_> = store.list(&layout.prefix(), None).try_collect().await.unwrap();
    pages.into_iter().flat_map(|page| page.objects).map(|object| object.key).collect()
}

async fn assert_whole(stores: &Stores) {
    let (store, layout) = (stores.open(&new_place()).await, OutputLayout::new(new_place()));
    let mut findings = Vec::new();
    let audit =
        audit(store.as_ref(), &layout, Depth::Keys, &mut |finding| findings.push(finding)).await.unwrap();
    assert!(findings.is_empty() && audit.success, "{findings:?}");
    assert_eq!((audit.images_planned, audit.totals.images_ok, audit.totals.images_failed), (9, 5, 4));
    assert_eq!(rows_at(stores, new_place()).await, rows_at(stores, place()).await);
}

#[tokio::test]
async fn a_compacted_output_is_whole_and_its_source_stays() {
    let stores = fixture::output(3, true).await;
    let before = objects(&stores, place()).await;
    assert_eq!(compacted(&stores, "--dry-run").await.unwrap()["files"], 1);
    assert!(objects(&stores, new_place()).await.is_empty(), "a dry run writes nothing");
    let report = compacted(&stores, TWO_PARTS).await.unwrap();
    assert_eq!((&report["files"], &report["rows"]), (&2.into(), &9.into()), "{report}");
    assert_whole(&stores).await;
    assert_eq!(objects(&stores, place()).await, before);
    let (_, progress) = crate::bucket::progress(&stores, &new_place()).await.unwrap();
    assert_eq!((progress.batches_done, progress.images_ok), (2, 5));
    // Done again, it is done.
    assert_eq!(compacted(&stores, TWO_PARTS).await.unwrap(), report);
}

#[tokio::test]
async fn stopped_after_any_write_it_goes_on() {
    let order = {
        let stores = fixture::output(3, true).await;
        compacted(&stores, TWO_PARTS).await.unwrap();
        let layout = OutputLayout::new(new_place());
        let mut order = vec![layout.compacted(), layout.job(), layout.plan_file(0), layout.plan_file(1)];
        order.push(layout.plan_done());
        order.extend([0, 1].map(|n| layout.part(BatchNumber(n))));
        order.extend([layout.manifest(), layout.success()]);
        let (mut there, mut known) = (objects(&stores, new_place()).await, order.clone());
        there.sort();
        known.sort();
        assert_eq!(there, known, "every write is in the order below");
        order
    };
    for kept in 0..order.len() {
        let stores = fixture::output(3, true).await;
        compacted(&stores, TWO_PARTS).await.unwrap();
        let store = stores.open(&new_place()).await;
        for key in &order[kept..] {
            store.delete(key).await.unwrap();
        }
        compacted(&stores, TWO_PARTS).await.unwrap_or_else(|stop| panic!("{kept}: {}", stop.lines()));
        assert_whole(&stores).await;
    }
}

#[tokio::test]
async fn what_is_no_place_or_not_finished_is_refused() {
    let refused = async |stores: &Arc<Stores>, flags: &str, words: &str| {
        let said = compacted(stores, flags).await.unwrap_err().lines();
        assert!(said.contains(words), "{said}");
    };
    refused(&fixture::output(2, true).await, "", "not finished").await;
    let stores = fixture::output(3, true).await;
    compacted(&stores, TWO_PARTS).await.unwrap();
    refused(&stores, "", "holds a compaction of s3://bucket/labels").await;
    let stores = fixture::output(3, true).await;
    let store = stores.open(&new_place()).await;
    store.put("compact/mine.txt", bytes::Bytes::new()).await.unwrap();
    refused(&stores, "", "is not empty").await;
    for (a, b) in [("s3://b/o", "s3://b/o"), ("s3://b/o", "s3://b/o/new"), ("s3://b/o/x", "s3://b/o")] {
        let [a, b] = [a, b].map(|text| Location::parse(text, Path::new("/")).unwrap());
        assert!(apart(&a, &b).is_err(), "{a} {b}");
    }
    let [a, b] = ["s3://b/o", "s3://b/o2"].map(|text| Location::parse(text, Path::new("/")).unwrap());
    assert!(apart(&a, &b).is_ok());
}

#[tokio::test]
async fn a_part_that_is_another_stops_it_by_name() {
    let stores = fixture::output(3, true).await;
    let (store, layout) = (stores.open(&place()).await, OutputLayout::new(place()));
    let other = store.get(&layout.part(BatchNumber(0)), u64::MAX).await.unwrap().bytes;
    store.put(&layout.part(BatchNumber(1)), other).await.unwrap();
    let said = compacted(&stores, "").await.unwrap_err().lines();
    assert!(said.contains("part-00000001") && said.contains("trawl verify"), "{said}");
    assert!(!objects(&stores, new_place()).await.contains(&"compact/_SUCCESS".to_owned()));
}

#[test]
fn sizes_are_numbers_with_units() {
    assert_eq!(args("--target-size 64MiB").target_size, 64 << 20);
    assert_eq!(args("--target-size 7").target_size, 7);
    assert_eq!(args("").target_size, 256 << 20);
    for text in ["0", "5GiB", "1MB", "x", "99999999999999999999GiB"] {
        let line = format!("trawl compact o --to n --target-size {text}");
        assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{text}");
    }
}

#[tokio::test]
async fn an_output_whose_manifest_is_in_pieces_is_compacted_as_any_other() {
    let expected = compacted(&fixture::output(3, true).await, TWO_PARTS).await.unwrap();
    for parts_a_piece in [1, 2] {
        let stores = fixture::output_in_pieces(3, true, parts_a_piece).await;
        let (store, layout) = (stores.open(&place()).await, OutputLayout::new(place()));
        assert!(store.head(&layout.manifest_piece(1)).await.is_ok());
        assert_eq!(compacted(&stores, TWO_PARTS).await.unwrap(), expected);
        assert_whole(&stores).await;
        store.delete(&layout.manifest_piece(1)).await.unwrap();
        let said = compacted(&stores, TWO_PARTS).await.unwrap_err().lines();
        assert!(said.contains("00000001.json") && said.contains("trawl repair"), "{said}");
    }
}
