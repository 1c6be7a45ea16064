//! That the columns stay what they were, and that a file's say which they are.

use super::*;

const EVERY_PART: &str = "key etag size width height status error_code error_message";

fn names(columns: &Columns) -> String {
    let names: Vec<String> = columns.schema().fields().iter().map(|field| field.name().clone()).collect();
    names.join(" ")
}

fn several() -> Columns {
    let head = |name: &str, kind| HeadColumns { name: Some(name.into()), kind };
    let carried = |name: &str, kind| CarriedColumn { name: name.into(), kind };
    Columns {
        heads: vec![
            head("species", HeadKind::Classes),
            head("tags", HeadKind::Labels),
            head("things", HeadKind::Boxes),
            head("look", HeadKind::Vector(8, VectorType::F16)),
            head("a_b", HeadKind::Tensor([16, 7, 7].into())),
        ],
        carried: vec![
            carried("labels", CarriedKind::Text),
            carried("x_predicted_class_idx", CarriedKind::Int),
            carried("weight", CarriedKind::Float),
            carried("kept", CarriedKind::Bool),
        ],
    }
}

#[test]
fn the_columns_are_frozen() {
    assert_eq!(
        names(&Columns::classes()),
        format!("{EVERY_PART} predicted_class_idx predicted_label confidence topk")
    );
    assert_eq!(names(&Columns::vector(3)), format!("{EVERY_PART} embedding"));
    assert_eq!(names(&Columns::only(HeadKind::Labels)), format!("{EVERY_PART} labels"));
    assert_eq!(names(&Columns::only(HeadKind::Boxes)), format!("{EVERY_PART} boxes"));
    assert_eq!(
        names(&Columns::only(HeadKind::Tensor([2, 2].into()))),
        format!("{EVERY_PART} embedding shape")
    );
    assert_eq!(
        names(&several()),
        format!(
            "{EVERY_PART} species_predicted_class_idx species_predicted_label species_confidence species_topk \
             tags_labels things_boxes look_embedding a_b_embedding a_b_shape \
             labels x_predicted_class_idx weight kept"
        )
    );
}

#[test]
fn a_schema_says_which_columns_it_has() {
    let kinds = [
        HeadKind::Classes,
        HeadKind::Labels,
        HeadKind::Boxes,
        HeadKind::Vector(1280, VectorType::F32),
        HeadKind::Vector(1, VectorType::F16),
        HeadKind::Tensor([5].into()),
    ];
    for columns in kinds.map(Columns::only).into_iter().chain([several()]) {
        assert_eq!(Columns::of_schema(&columns.schema()), Some(columns));
    }
    let foreign = Schema::new(vec![Field::new("key", DataType::Utf8, false)]);
    assert_eq!(Columns::of_schema(&foreign), None);
    let more = |field: Field| {
        let schema = Columns::classes().schema();
        let fields: Vec<FieldRef> = schema.fields().iter().cloned().chain([Arc::new(field)]).collect();
        Columns::of_schema(&Schema::new(fields))
    };
    assert_eq!(more(Field::new("when", DataType::Date32, true)), None);
    assert_eq!(more(Field::new("n", DataType::Int64, true)).unwrap().carried[0].kind, CarriedKind::Int);
}

#[test]
fn a_job_has_the_columns_of_its_heads_with_the_sizes_of_its_model() {
    let head = |name: &str, head| HeadSpec { name: Some(name.into()), ..HeadSpec::only(head, Vec::new()) };
    let heads = [
        head("things", Head::Detection { threshold: 0.5, max_boxes: 9 }),
        head("look", Head::Embedding { dtype: VectorType::F16, normalize: false }),
        head("map", Head::Raw),
    ];
    let shapes = [vec![20, 4], vec![20], vec![20], vec![12], vec![3, 2]];
    let columns = Columns::of_job(&heads, &shapes, &[]).unwrap();
    let kinds: Vec<HeadKind> = columns.heads.into_iter().map(|head| head.kind).collect();
    assert_eq!(
        kinds,
        [HeadKind::Boxes, HeadKind::Vector(12, VectorType::F16), HeadKind::Tensor([3, 2].into())]
    );
}

#[test]
fn two_columns_of_one_name_are_refused() {
    let carry = |name: &str| [CarriedColumn { name: name.into(), kind: CarriedKind::Text }];
    let only = [HeadSpec::only(Head::Classification, Vec::new())];
    for taken in ["key", "topk"] {
        let error = Columns::check(&only, &carry(taken)).unwrap_err();
        assert!(error.contains(&format!("`{taken}`")), "{error}");
    }
    Columns::check(&only, &carry("embedding")).unwrap();
    let named = |name: &str| HeadSpec { name: Some(name.into()), ..HeadSpec::only(Head::Raw, Vec::new()) };
    Columns::check(&[named("a")], &carry("a_embedding")).unwrap_err();
}
