//! That pieces say what one manifest says, and that none that differs is believed.

use super::*;
use crate::{location::Location, results::manifest::MANIFEST_VERSION, storage::memory::MemoryStorage};
use std::path::Path;

fn place() -> (MemoryStorage, OutputLayout) {
    let layout = OutputLayout::new(Location::parse("s3://b/out", Path::new("/")).unwrap());
    (MemoryStorage::new("s3://b"), layout)
}

fn footer(batch: u64) -> PartFooter {
    PartFooter {
        job: "j".parse().unwrap(),
        created_unix_ms: None,
        batch: BatchNumber(batch),
        rows: batch + 1,
        failures: batch % 2,
        errors: [(crate::error_code::ErrorCode::Corrupt, batch % 2)].into(),
        model_sha256: "m".into(),
        preprocess_sha256: "p".into(),
        version: "0.1.0".into(),
        attempt_id: "a".into(),
        worker: "w".into(),
        stages: Default::default(),
        engine: Default::default(),
    }
}

fn empty() -> Manifest {
    Manifest {
        version: MANIFEST_VERSION,
        job: "j".parse().unwrap(),
        batches: 0,
        rows: 0,
        images_ok: 0,
        images_failed: 0,
        errors: Default::default(),
        stages: Default::default(),
        model_sha256: "m".into(),
        preprocess_sha256: "p".into(),
        created_unix_ms: 1,
        finished_unix_ms: 2,
        engines: Default::default(),
        trawl: "0.1.0".into(),
        parts: Vec::new(),
        pieces: Vec::new(),
    }
}

async fn written(store: &MemoryStorage, layout: &OutputLayout, parts: u64, a_piece: u64) -> Manifest {
    let mut writer = ManifestWriter::new(store, layout, empty(), parts, a_piece);
    for batch in 0..parts {
        writer.push(format!("part-{batch:08}.parquet"), 100 + batch, &footer(batch)).await.unwrap();
    }
    writer.finish().await.unwrap()
}

#[tokio::test]
async fn pieces_have_the_parts_and_the_manifest_has_the_sums_of_one_without() {
    for parts in 1..30 {
        let (store, layout) = place();
        let whole = written(&store, &layout, parts, parts).await;
        assert_eq!((whole.version, whole.parts.len() as u64, whole.pieces.len()), (1, parts, 0));
        assert!(store.get(&layout.manifest_piece(0), 1 << 20).await.is_err(), "a small job has no pieces");
        for a_piece in 1..parts {
            let cut = written(&store, &layout, parts, a_piece).await;
            let sums_alone =
                Manifest { version: 2, parts: Vec::new(), pieces: cut.pieces.clone(), ..whole.clone() };
            assert_eq!(cut, sums_alone);
            assert_eq!(cut.pieces.len() as u64, parts.div_ceil(a_piece));
            assert_eq!((cut.listed(), cut.bytes()), (whole.listed(), whole.bytes()));
            assert_eq!(Manifest::parse(&cut.to_json()).unwrap(), cut);
            let mut reader = ManifestParts::new(&store, &layout, cut);
            let mut read = Vec::new();
            for piece in 0..reader.pieces() {
                read.extend_from_slice(reader.piece(piece).await.unwrap());
            }
            assert_eq!(read, whole.parts);
            // In any order, and beyond the end.
            for batch in [0, parts - 1, parts / 2, parts, u64::MAX, 0] {
                let expected = whole.parts.get(usize::try_from(batch).unwrap());
                assert_eq!(reader.part(BatchNumber(batch)).await.unwrap(), expected, "{batch} of {parts}");
                assert!(reader.held.len() <= HELD);
            }
        }
    }
}

#[tokio::test]
async fn a_manifest_without_pieces_is_one_piece() {
    let (store, layout) = place();
    let whole = written(&store, &layout, 3, PARTS_A_PIECE).await;
    let parts = whole.parts.clone();
    let mut reader = ManifestParts::new(&store, &layout, whole);
    assert_eq!((reader.pieces(), reader.piece(0).await.unwrap()), (1, &parts[..]));
    assert_eq!(reader.part(BatchNumber(2)).await.unwrap(), parts.get(2));
    assert_eq!(reader.part(BatchNumber(3)).await.unwrap(), None);
}

/// Names of nine digits sort between those of eight: 10000000, 100000000, ..., 100000009, 10000001.
#[tokio::test]
async fn parts_of_two_pieces_in_turn_are_not_read_again_and_again() {
    let (store, layout) = place();
    let manifest = written(&store, &layout, 30, 10).await;
    let mut reader = ManifestParts::new(&store, &layout, manifest);
    for n in 0..10 {
        reader.part(BatchNumber(n)).await.unwrap().unwrap();
        reader.part(BatchNumber(20 + n)).await.unwrap().unwrap();
        // What is held is not asked for.
        store.delete(&layout.manifest_piece(0)).await.unwrap();
        store.delete(&layout.manifest_piece(2)).await.unwrap();
    }
    reader.part(BatchNumber(10)).await.unwrap().unwrap();
    reader.part(BatchNumber(0)).await.unwrap_err();
}

#[tokio::test]
async fn a_piece_that_is_not_the_one_named_is_refused_by_its_name() {
    let (store, layout) = place();
    let manifest = written(&store, &layout, 30, 10).await;
    let key = layout.manifest_piece(1);
    let good = store.get(&key, 1 << 20).await.unwrap().bytes;
    let text = std::str::from_utf8(&good).unwrap();
    let other = store.get(&layout.manifest_piece(2), 1 << 20).await.unwrap().bytes;
    let refused = async |reason: &str| {
        let mut reader = ManifestParts::new(&store, &layout, manifest.clone());
        reader.part(BatchNumber(9)).await.unwrap().unwrap();
        let error = reader.part(BatchNumber(10)).await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("manifest/00000001.json") && said.contains(reason), "{reason}: {said}");
        assert!(!error.is_transient());
    };
    for (bytes, reason) in [
        (good.slice(..good.len() / 2), "EOF"),
        (Bytes::new(), "EOF"),
        (Bytes::from_static(b"{}"), "missing field"),
        (other, "it lists 10 parts from batch 00000020 on"),
        (Bytes::from(text.replacen("\"version\":2", "\"version\":3", 1)), "version 3"),
        (Bytes::from(text.replacen("\"job\":\"j\"", "\"job\":\"k\"", 1)), "another job, k"),
        (Bytes::from(text.replacen("\"created_unix_ms\":1", "\"created_unix_ms\":9", 1)), "another job"),
        (Bytes::from(text.replacen("\"rows\":11", "\"rows\":12", 1)), "the manifest says"),
        (
            Bytes::from(text.replacen("\"bytes\":110", &format!("\"bytes\":{}", u64::MAX), 1)),
            "the manifest says",
        ),
        (Bytes::from(text.replacen("\"last_batch\":19", "\"last_batch\":20", 1)), "the manifest says"),
        (Bytes::from(text.replacen("\"batch\":11", "\"batch\":12", 1)), "the manifest says"),
    ] {
        assert_ne!(bytes, good, "{reason}");
        store.put(&key, bytes).await.unwrap();
        refused(reason).await;
    }
    store.delete(&key).await.unwrap();
    refused("not there").await;
    store.put(&key, good.clone()).await.unwrap();
    let mut elsewhere = manifest.clone();
    elsewhere.pieces[1].name = "../../etc/passwd".into();
    let error = ManifestParts::new(&store, &layout, elsewhere).part(BatchNumber(10)).await.unwrap_err();
    assert!(error.to_string().contains("names `../../etc/passwd`"), "{error}");
}
