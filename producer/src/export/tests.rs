//! That what is exported is what the parts hold, in each format.

use super::*;
use crate::{
    cli::Cli,
    fixture::{self, place},
};
use clap::Parser;
use trawl_common::{
    batch::BatchNumber,
    bundle::VectorType,
    carried::{CarriedColumn, CarriedKind},
    error_code::ErrorCode,
    results::{
        PartFooter, encode_part,
        row::{ClassScore, Outcome, Prediction},
        schema::{HeadColumns, HeadKind},
    },
};

fn args(line: &str) -> ExportArgs {
    match Cli::parse_from(format!("trawl export s3://bucket/labels {line}").split_whitespace()).command {
        crate::cli::Command::Export(args) => args,
        other => panic!("{other:?}"),
    }
}

async fn exported(stores: &Arc<Stores>, line: &str) -> Result<Vec<u8>, Stop> {
    let mut out = Vec::new();
    run(stores, &place(), &args(line), &mut out).await?;
    Ok(out)
}

async fn text(stores: &Arc<Stores>, line: &str) -> String {
    String::from_utf8(exported(stores, line).await.unwrap()).unwrap()
}

/// An output whose two parts hold what is awkward: quotes, line ends, nulls, two heads, carried values.
async fn awkward() -> Arc<Stores> {
    let stores = fixture::output(0, true).await;
    let (store, layout) = (stores.open(&place()).await, OutputLayout::new(place()));
    let head = |name: &str, kind| HeadColumns { name: Some(name.into()), kind };
    let carried = |name: &str, kind| CarriedColumn { name: name.into(), kind };
    let columns = Columns {
        heads: vec![head("kind", HeadKind::Classes), head("look", HeadKind::Vector(2, VectorType::F16))],
        carried: vec![carried("id", CarriedKind::Int), carried("note", CarriedKind::Text)],
    };
    let row = |key: &str, carried: [Option<&str>; 2]| {
        let class = ClassScore { index: 1, label: Some("a \"b\", c".into()), probability: 0.1 };
        let answer = Prediction::Several(vec![
            ("kind".into(), Prediction::Classes(vec![class])),
            ("look".into(), Prediction::Vector(vec![0.5, -2.0])),
        ]);
        ResultRow {
            key: key.into(),
            etag: None,
            size: 9,
            width: Some(4),
            height: None,
            outcome: Outcome::Ok(answer),
            carried: carried.map(|text| text.map(str::to_owned)).into(),
        }
    };
    let failed = Outcome::Failed { code: ErrorCode::Corrupt, message: "cut\nhere".into() };
    let parts = [
        vec![
            row("s3://b/a,1.jpg", [Some("7"), Some("x,\"y\"")]),
            row("s3://b/\u{e4}\r\n.jpg", [None, Some("")]),
            ResultRow { outcome: failed, ..row("s3://b/bad.jpg", [Some("-1"), None]) },
        ],
        vec![row("s3://b/z.jpg", [None, None])],
    ];
    for (batch, rows) in (0..).map(BatchNumber).zip(parts) {
        let footer = PartFooter::new(&fixture::spec(), batch, "attempt", "worker").counted(&rows);
        store.put(&layout.part(batch), encode_part(&rows, &columns, &footer).unwrap()).await.unwrap();
    }
    stores
}

#[tokio::test]
async fn csv_quotes_what_must_be_and_tells_null_from_empty() {
    let stores = awkward().await;
    let csv =
        text(&stores, "--to csv --columns key,kind_predicted_label,kind_topk,look_embedding,id,note").await;
    let expected = "key,kind_predicted_label,kind_topk,look_embedding,id,note\r\n\
        \"s3://b/a,1.jpg\",\"a \"\"b\"\", c\",\
        \"[{\"\"idx\"\":1,\"\"label\"\":\"\"a \\\"\"b\\\"\", c\"\",\"\"prob\"\":0.1}]\",\"[0.5,-2.0]\",7,\"x,\"\"y\"\"\"\r\n\
        \"s3://b/\u{e4}\r\n.jpg\",\"a \"\"b\"\", c\",\
        \"[{\"\"idx\"\":1,\"\"label\"\":\"\"a \\\"\"b\\\"\", c\"\",\"\"prob\"\":0.1}]\",\"[0.5,-2.0]\",,\"\"\r\n\
        s3://b/bad.jpg,,,,-1,\r\n\
        s3://b/z.jpg,\"a \"\"b\"\", c\",\
        \"[{\"\"idx\"\":1,\"\"label\"\":\"\"a \\\"\"b\\\"\", c\"\",\"\"prob\"\":0.1}]\",\"[0.5,-2.0]\",,\r\n";
    assert_eq!(csv, expected);
    let errors = text(&stores, "--to csv --status error --columns key,error_message").await;
    assert_eq!(errors, "key,error_message\r\ns3://b/bad.jpg,\"cut\nhere\"\r\n");
}

#[tokio::test]
async fn json_lines_have_the_columns_in_their_order() {
    let stores = awkward().await;
    let lines = text(&stores, "--to jsonl --columns id,key,look_embedding").await;
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], r#"{"id":7,"key":"s3://b/a,1.jpg","look_embedding":[0.5,-2.0]}"#);
    assert_eq!(lines[2], r#"{"id":-1,"key":"s3://b/bad.jpg","look_embedding":null}"#);
    let all = text(&stores, "--to jsonl --status ok").await;
    assert_eq!(all.lines().count(), 3);
    let row: serde_json::Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    assert_eq!(row.as_object().unwrap().len(), 8 + 4 + 1 + 2);
    assert_eq!(row["kind_confidence"], serde_json::json!(0.1));
}

#[tokio::test]
async fn a_matrix_has_a_line_for_each_key_beside_it() {
    let stores = awkward().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vectors.npy");
    exported(&stores, &format!("--to npy --file {}", file.display())).await.unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let header = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
    assert_eq!(header % 64, 0);
    let words = String::from_utf8_lossy(&bytes[10..header]).into_owned();
    assert!(words.starts_with("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 2), }"), "{words}");
    assert_eq!(bytes.len() - header, 3 * 2 * 2);
    // 0.5 and -2 in half precision.
    assert_eq!(bytes[header..header + 4], [0x00, 0x38, 0x00, 0xc0]);
    let keys = std::fs::read_to_string(folder.path().join("vectors.keys.csv")).unwrap();
    assert_eq!(keys, "key\r\n\"s3://b/a,1.jpg\"\r\n\"s3://b/\u{e4}\r\n.jpg\"\r\ns3://b/z.jpg\r\n");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing unfinished is left: {left:?}");
    let ids = format!("--to npy --file {} --columns look_embedding,id", file.display());
    exported(&stores, &ids).await.unwrap();
    assert!(
        std::fs::read_to_string(folder.path().join("vectors.keys.csv")).unwrap().starts_with("id\r\n7\r\n")
    );
}

#[tokio::test]
async fn what_cannot_be_exported_is_said_with_what_can() {
    let refused = async |stores: &Arc<Stores>, line: &str, code: u8, words: &[&str]| {
        let stop = exported(stores, line).await.unwrap_err();
        let said = stop.lines();
        assert_eq!(stop.code, code, "{line}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{line}: {said}");
    };
    let classes = fixture::output(3, true).await;
    refused(&classes, "--to npy", exit::USAGE, &["no embedding", "--to csv", "topk"]).await;
    refused(&classes, "--to csv --columns label", exit::USAGE, &["`label`", "predicted_label"]).await;
    let two = awkward().await;
    refused(&two, "--to npy --status all", exit::USAGE, &["failed image"]).await;
    refused(&two, "--to npy --columns key", exit::USAGE, &["look_embedding"]).await;
    refused(&fixture::output(0, true).await, "--to csv", exit::FAILED, &["no results yet"]).await;
    refused(&Stores::in_memory(), "--to csv", exit::NOT_FOUND, &["not the output"]).await;
}

#[tokio::test]
async fn a_job_that_runs_gives_what_is_there() {
    let half = fixture::output(2, true).await;
    assert_eq!(text(&half, "--to jsonl").await.lines().count(), 6);
    assert_eq!(text(&fixture::output(3, true).await, "--to jsonl").await.lines().count(), 9);
}
