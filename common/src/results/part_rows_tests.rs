//! That rows come back from a part as they went in, and that nothing else is taken for one.

use super::super::{
    engine::Engine,
    footer::FooterError,
    part::{PartError, PartFooter, encode_part},
    row::{ClassScore, FoundBox, Outcome, Prediction, ResultRow},
    schema::{Columns, HeadColumns, HeadKind},
};
use super::read_rows;
use crate::{
    batch::BatchNumber,
    bundle::VectorType,
    carried::{CarriedColumn, CarriedKind},
    error_code::ErrorCode,
};
use bytes::Bytes;

fn footer(rows: &[ResultRow]) -> PartFooter {
    let empty = PartFooter {
        job: "j-1".parse().unwrap(),
        created_unix_ms: std::num::NonZeroU64::new(7),
        batch: BatchNumber(42),
        rows: 0,
        failures: 0,
        errors: Default::default(),
        stages: Default::default(),
        // A part has its trawl's version twice.
        engine: Engine { trawl: "0.1.0".into(), ..Engine::default() },
        model_sha256: "ab".repeat(32),
        preprocess_sha256: "cd".repeat(32),
        version: "0.1.0".into(),
        attempt_id: "attempt-ü".into(),
        worker: "host/1".into(),
    };
    empty.counted(rows)
}

fn row(key: &str, outcome: Outcome) -> ResultRow {
    ResultRow {
        key: key.into(),
        etag: Some("e".into()),
        size: 7,
        width: Some(2),
        height: Some(3),
        outcome,
        carried: Vec::new(),
    }
}

fn failed(key: &str, code: ErrorCode, message: &str) -> ResultRow {
    let outcome = Outcome::Failed { code, message: message.into() };
    ResultRow { etag: None, width: None, height: None, ..row(key, outcome) }
}

fn classes(n: i32) -> Prediction {
    let class = |i: i32| ClassScore {
        index: i,
        label: (i % 2 == 0).then(|| format!("Größe {i}")),
        probability: 1.0 / (i as f32 + 2.0),
    };
    Prediction::Classes((0..n).map(class).collect())
}

fn class_rows() -> Vec<ResultRow> {
    vec![
        row("s3://b/ä/日本 .jpg", Outcome::Ok(classes(5))),
        failed("s3://b/x", ErrorCode::NotAnImage, ""),
        ResultRow { size: 0, ..failed("s3://b/", ErrorCode::Empty, "the object has no bytes\nat all") },
        row("photos/t.jpg", Outcome::OkTruncated(classes(2))),
        row("photos/one.jpg", Outcome::Ok(classes(1))),
    ]
}

#[test]
fn classes_round_trip() {
    let rows = class_rows();
    let part = encode_part(&rows, &Columns::classes(), &footer(&rows)).unwrap();
    assert_eq!(read_rows(part).unwrap(), rows);
}

#[test]
fn vectors_round_trip_with_nulls_between() {
    let vector = |x: f32| Outcome::Ok(Prediction::Vector(vec![x, -x, f32::MIN_POSITIVE]));
    let rows = vec![
        failed("a", ErrorCode::Corrupt, "x"),
        row("b", vector(1.5)),
        failed("c", ErrorCode::Corrupt, "x"),
        row("d", vector(-0.25)),
    ];
    let part = encode_part(&rows, &Columns::vector(3), &footer(&rows)).unwrap();
    assert_eq!(read_rows(part).unwrap(), rows);
}

#[test]
fn parts_of_nothing_but_errors_have_the_same_columns() {
    let rows = vec![failed("a", ErrorCode::Forbidden, "no"), failed("b", ErrorCode::NotFound, "gone")];
    for columns in [Columns::classes(), Columns::vector(1280)] {
        let part = encode_part(&rows, &columns, &footer(&rows)).unwrap();
        let builder =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(part.clone()).unwrap();
        assert_eq!(Columns::of_schema(builder.schema()), Some(columns));
        assert_eq!(read_rows(part).unwrap(), rows);
    }
}

#[test]
fn the_footer_is_read_from_the_tail_alone() {
    let rows = class_rows();
    let part = encode_part(&rows, &Columns::classes(), &footer(&rows)).unwrap();
    let size = part.len() as u64;
    let FooterError::NeedMore(needed) = PartFooter::read(&part.slice(part.len() - 8..), size).unwrap_err()
    else {
        panic!("eight bytes are no footer")
    };
    assert!(needed < part.len());
    let read = PartFooter::read(&part.slice(part.len() - needed..), size).unwrap();
    assert_eq!(read, footer(&rows));
    let outcome = read.outcome();
    assert_eq!((outcome.images_ok, outcome.images_failed), (3, 2));
    assert_eq!(outcome.errors[&ErrorCode::Empty], 1);
    assert!(needed < 64 << 10, "one request must do for a footer, it has {needed} bytes");
}

#[test]
fn what_is_no_part_is_refused_and_never_a_panic() {
    let rows = class_rows();
    let part = encode_part(&rows, &Columns::classes(), &footer(&rows)).unwrap();
    for cut in [0, 3, 8, part.len() / 2, part.len() - 1] {
        let broken = part.slice(..cut);
        assert!(PartFooter::read(&broken, cut as u64).is_err(), "cut at {cut}");
        assert!(read_rows(broken).is_err(), "cut at {cut}");
    }
    let mut huge = part.to_vec();
    let at = huge.len() - 8;
    huge[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = PartFooter::read(&Bytes::from(huge), 1 << 40).unwrap_err();
    assert!(matches!(error, FooterError::Parquet(_)), "{error}");
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let rows = vec![row("k", Outcome::Ok(Prediction::Vector(vec![1.0])))];
    for columns in [Columns::classes(), Columns::vector(2)] {
        let error = encode_part(&rows, &columns, &footer(&rows)).unwrap_err();
        assert!(matches!(&error, PartError::WrongShape { key, .. } if key == "k"), "{error}");
    }
    let error = encode_part(&rows, &Columns::vector(1), &footer(&[])).unwrap_err();
    assert!(matches!(error, PartError::Counts { rows: 1, said: 0, .. }), "{error}");
}

fn several() -> (Columns, Vec<ResultRow>) {
    let head = |name: &str, kind| HeadColumns { name: Some(name.into()), kind };
    let carried = |name: &str, kind| CarriedColumn { name: name.into(), kind };
    let columns = Columns {
        heads: vec![
            head("species", HeadKind::Classes),
            head("tags", HeadKind::Labels),
            head("things", HeadKind::Boxes),
            head("look", HeadKind::Vector(2, VectorType::F16)),
            head("map", HeadKind::Tensor([1, 3].into())),
        ],
        carried: vec![
            carried("id", CarriedKind::Int),
            carried("weight", CarriedKind::Float),
            carried("kept", CarriedKind::Bool),
            carried("source", CarriedKind::Text),
        ],
    };
    let found = |n: u16| FoundBox {
        corners: [0.0, 1.5, f32::from(n), 480.0],
        index: i32::from(n),
        label: (n == 1).then(|| "Löwe".into()),
        score: 0.75,
    };
    let Prediction::Classes(tags) = classes(3) else { unreachable!() };
    let answers = |tags: Vec<ClassScore>, boxes: u16| {
        Prediction::Several(vec![
            ("species".into(), classes(2)),
            ("tags".into(), Prediction::Labels(tags)),
            ("things".into(), Prediction::Boxes((0..boxes).map(found).collect())),
            ("look".into(), Prediction::Vector(vec![0.5, -65504.0])),
            ("map".into(), Prediction::Tensor(vec![1.0, 2.0, 3.0], [1, 3].into())),
        ])
    };
    let text = |texts: [&str; 4]| texts.map(|t| Some(t.to_owned())).into();
    let rows = vec![
        ResultRow {
            carried: text(["-7", "0.5", "true", "a,\"b\""]),
            ..row("a", Outcome::Ok(answers(tags, 3)))
        },
        ResultRow { carried: vec![None; 4], ..row("b", Outcome::OkTruncated(answers(Vec::new(), 0))) },
        ResultRow { carried: text(["1", "1", "false", ""]), ..failed("c", ErrorCode::Empty, "x") },
    ];
    (columns, rows)
}

#[test]
fn several_heads_and_carried_values_round_trip() {
    let (columns, rows) = several();
    let part = encode_part(&rows, &columns, &footer(&rows)).unwrap();
    assert_eq!(read_rows(part).unwrap(), rows);
    let failures = &rows[2..];
    let part = encode_part(failures, &columns, &footer(failures)).unwrap();
    let builder =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(part.clone()).unwrap();
    assert_eq!(Columns::of_schema(builder.schema()), Some(columns), "whatever happened to its images");
    assert_eq!(read_rows(part).unwrap(), failures);
}

#[test]
fn a_carried_value_that_does_not_fit_is_null_and_fails_nothing() {
    let (columns, mut rows) = several();
    rows[0].carried = ["seven", "x", "yes", "text"].map(|t| Some(t.to_owned())).into();
    rows[1].carried = vec![Some(" 12 ".into())];
    rows[2].carried = ["9223372036854775808", "1e400", "TRUE", "t"].map(|t| Some(t.to_owned())).into();
    let part = encode_part(&rows, &columns, &footer(&rows)).unwrap();
    let read: Vec<Vec<Option<String>>> = read_rows(part).unwrap().into_iter().map(|r| r.carried).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(read[0], [None, None, None, some("text")]);
    assert_eq!(read[1], [some("12"), None, None, None]);
    assert_eq!(read[2], [None, some("inf"), some("true"), some("t")]);
}

#[test]
fn half_precision_is_rounded_to_the_nearest() {
    let rows = vec![row("k", Outcome::Ok(Prediction::Vector(vec![0.1, 1.0 / 3.0, 2049.0])))];
    let columns = Columns::only(HeadKind::Vector(3, VectorType::F16));
    let part = encode_part(&rows, &columns, &footer(&rows)).unwrap();
    let Outcome::Ok(Prediction::Vector(read)) = &read_rows(part).unwrap()[0].outcome else { panic!() };
    assert_eq!(read[..], [0.099_975_586, 0.333_251_95, 2048.0]);
}

#[test]
fn answers_of_other_heads_are_refused_by_name() {
    let (columns, mut rows) = several();
    rows[1].outcome = Outcome::Ok(classes(1));
    let error = encode_part(&rows, &columns, &footer(&rows)).unwrap_err();
    assert!(matches!(&error, PartError::WrongShape { key, .. } if key == "b"), "{error}");
    let (_, rows) = several();
    let error = encode_part(&rows[..1], &Columns::classes(), &footer(&rows[..1])).unwrap_err();
    assert!(matches!(&error, PartError::WrongShape { key, .. } if key == "a"), "{error}");
    let tensor = vec![row("k", Outcome::Ok(Prediction::Tensor(vec![1.0; 6], [2, 3].into())))];
    let columns = Columns::only(HeadKind::Tensor([3, 2].into()));
    let error = encode_part(&tensor, &columns, &footer(&tensor)).unwrap_err();
    assert!(error.to_string().contains("[2, 3]"), "{error}");
}
