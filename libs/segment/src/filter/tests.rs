use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::{
    attributes::AttributesWriter,
    documents::{Document, DocumentsWriter},
    store::PartFiles,
};

/// Metadata of documents, and how many passages each has, as a segment.
struct Fixture {
    types: AttributeTypes,
    attributes: Attributes,
    documents: Documents,
    _folders: [tempfile::TempDir; 2],
}

impl Fixture {
    fn new(corpus: &[(Map<String, serde_json::Value>, usize)]) -> Self {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut types = AttributeTypes::default();
        let mut attributes = AttributesWriter::new(folders[0].path());
        let mut documents = DocumentsWriter::new(folders[1].path()).unwrap();
        for (number, (metadata, passages)) in corpus.iter().enumerate() {
            types.observe(metadata).unwrap();
            attributes.push(metadata).unwrap();
            let id = format!("{number:06}");
            let passages = vec!["text".to_owned(); *passages];
            let (title, metadata_json) = (String::new(), String::new());
            documents
                .push(&Document {
                    id,
                    title,
                    metadata_json,
                    passages,
                })
                .unwrap();
        }
        attributes.finish().unwrap();
        documents.finish().unwrap();
        let files = |folder: &tempfile::TempDir| PartFiles::of_folder(folder.path()).unwrap();
        let attributes = Attributes::open(&files(&folders[0])).unwrap();
        attributes.check_types(&types).unwrap();
        let documents = Documents::open(&files(&folders[1])).unwrap();
        Self {
            types,
            attributes,
            documents,
            _folders: folders,
        }
    }

    fn documents_of(&self, filter: &Filter) -> Vec<u32> {
        let compiled = CompiledFilter::new(filter, &self.types).unwrap();
        let passages = compiled.evaluate(&self.attributes, &self.documents);
        let mut found: Vec<_> = passages
            .iter()
            .map(|ordinal| self.documents.document_of(ordinal).unwrap())
            .collect();
        found.dedup();
        found
    }

    fn refusal(&self, filter: &Filter) -> String {
        CompiledFilter::new(filter, &self.types)
            .unwrap_err()
            .to_string()
    }
}

fn object(value: serde_json::Value) -> Map<String, serde_json::Value> {
    value.as_object().unwrap().clone()
}

fn fixture(documents: &[serde_json::Value]) -> Fixture {
    let corpus: Vec<_> = documents
        .iter()
        .map(|metadata| (object(metadata.clone()), 1))
        .collect();
    Fixture::new(&corpus)
}

fn equals(field: &str, value: Value) -> Filter {
    Filter::Equals {
        field: field.to_owned(),
        value,
    }
}

fn keyword(word: &str) -> Value {
    Value::Keyword(word.to_owned())
}

fn range(field: &str, lower: Option<(Value, bool)>, upper: Option<(Value, bool)>) -> Filter {
    let bound = |(value, inclusive)| Bound { value, inclusive };
    Filter::Range {
        field: field.to_owned(),
        lower: lower.map(bound),
        upper: upper.map(bound),
    }
}

#[test]
fn integers_and_floats_compare_without_rounding() {
    const LARGE: i64 = (1 << 53) + 1;
    let segment = fixture(&[
        json!({"n": LARGE - 1}),
        json!({"n": LARGE}),
        json!({"n": -3}),
        json!({}),
    ]);
    #[expect(clippy::cast_precision_loss, reason = "that is the point")]
    let rounded = LARGE as f64;
    assert_eq!(
        segment.documents_of(&equals("n", Value::Float(rounded))),
        [0]
    );
    assert_eq!(
        segment.documents_of(&equals("n", Value::Integer(LARGE))),
        [1]
    );
    assert_eq!(segment.documents_of(&equals("n", Value::Float(-3.0))), [2]);
    assert!(
        segment
            .documents_of(&equals("n", Value::Float(-3.5)))
            .is_empty()
    );
    let above = |bound| range("n", Some((Value::Float(bound), false)), None);
    assert_eq!(segment.documents_of(&above(-3.5)), [0, 1, 2]);
    assert_eq!(segment.documents_of(&above(-3.0)), [0, 1]);
    assert_eq!(segment.documents_of(&above(rounded)), [1]);
    assert_eq!(segment.documents_of(&above(-1e300)), [0, 1, 2]);
    assert!(segment.documents_of(&above(1e300)).is_empty());
}

#[test]
fn a_segment_of_integers_serves_a_field_that_became_float() {
    let mut segment = fixture(&[json!({"n": 1}), json!({"n": 2})]);
    segment.types.observe(&object(json!({"n": 1.5}))).unwrap();
    segment.attributes.check_types(&segment.types).unwrap();
    assert_eq!(
        segment.documents_of(&range("n", Some((Value::Float(1.5), true)), None)),
        [1]
    );
}

#[test]
fn dates_compare_with_days_and_instants() {
    let segment = fixture(&[
        json!({"at": "2020-01-01"}),
        json!({"at": "2020-01-01T01:00:00+01:00"}),
        json!({"at": "2020-01-01T12:00:00.5Z"}),
    ]);
    assert_eq!(
        segment.documents_of(&equals("at", keyword("2020-01-01"))),
        [0, 1]
    );
    let after = range("at", Some((keyword("2020-01-01T12:00:00Z"), false)), None);
    assert_eq!(segment.documents_of(&after), [2]);
    assert_eq!(
        segment.refusal(&equals("at", keyword("soon"))),
        "equals.value.keyword: \"soon\" is no date: RFC 3339 or YYYY-MM-DD"
    );
    assert_eq!(
        segment.refusal(&equals("at", Value::Integer(2020))),
        "equals.value: is of type integer, but \"at\" holds date values"
    );
}

#[test]
fn mistakes_are_told_by_path() {
    let segment = fixture(&[json!({"n": 1, "lang": "en", "open": true, "a": {"b": [1.5]}})]);
    let deep = Filter::AllOf(vec![
        equals("n", Value::Integer(1)),
        Filter::Not(Box::new(range("n", None, Some((keyword("x"), true))))),
    ]);
    assert_eq!(
        segment.refusal(&deep),
        "all_of.filters[1].not.range.upper: is of type keyword, but \"n\" holds integer values"
    );
    assert_eq!(
        segment.refusal(&equals("year", Value::Integer(1))),
        "equals.field: no document has the metadata field \"year\""
    );
    assert_eq!(
        segment.refusal(&Filter::Exists {
            field: "a".to_owned()
        }),
        "exists: no document has the metadata field \"a\""
    );
    assert_eq!(
        segment.refusal(&range("lang", Some((keyword("e"), true)), None)),
        "range.field: \"lang\" holds keyword values: a range needs numbers or dates"
    );
    let one_of = Filter::OneOf {
        field: "open".to_owned(),
        values: vec![Value::Boolean(true), Value::Integer(1)],
    };
    assert_eq!(
        segment.refusal(&one_of),
        "one_of.values[1]: is of type integer, but \"open\" holds boolean values"
    );
    assert_eq!(
        segment.refusal(&Filter::AllOf(vec![])),
        "all_of.filters: has 0 conditions; 1 to 256 are allowed"
    );
    assert_eq!(segment.documents_of(&equals("a.b", Value::Float(1.5))), [0]);
}

fn metadata() -> impl Strategy<Value = Map<String, serde_json::Value>> {
    let word = || prop::sample::select(vec!["en", "de", "", "zh"]);
    let number = || {
        prop_oneof![
            (-3_i64..4).prop_map(|n| json!(n)),
            (-6_i64..7).prop_map(|n| json!(n as f64 / 2.0))
        ]
    };
    let day = || (1_u32..5).prop_map(|day| json!(format!("2020-01-{day:02}")));
    let one_or_more = |value: BoxedStrategy<serde_json::Value>| {
        prop_oneof![
            Just(serde_json::Value::Null),
            value.clone(),
            prop::collection::vec(value, 0..3).prop_map(serde_json::Value::Array),
        ]
    };
    let fields = (
        one_or_more(word().prop_map(|word| json!(word)).boxed()),
        one_or_more(number().boxed()),
        one_or_more((-3_i64..4).prop_map(|n| json!(n)).boxed()),
        one_or_more(day().boxed()),
        one_or_more(any::<bool>().prop_map(|value| json!(value)).boxed()),
    );
    fields.prop_map(|(k, f, i, d, b)| {
        object(json!({"k": k, "f": f, "i": i, "d": d, "nested": {"b": b}}))
    })
}

fn value_for(field: &'static str) -> BoxedStrategy<Value> {
    match field {
        "k" => prop::sample::select(vec!["en", "de", "", "fr"])
            .prop_map(keyword)
            .boxed(),
        "d" => (1_u32..6)
            .prop_map(|day| keyword(&format!("2020-01-{day:02}T00:00:00Z")))
            .boxed(),
        "nested.b" => any::<bool>().prop_map(Value::Boolean).boxed(),
        _ => prop_oneof![
            (-4_i64..5).prop_map(Value::Integer),
            (-8_i64..9).prop_map(|n| Value::Float(n as f64 / 2.0))
        ]
        .boxed(),
    }
}

fn comparisons(field: &'static str) -> BoxedStrategy<Filter> {
    let value = || value_for(field);
    let bound = || (value(), any::<bool>());
    let equality = prop_oneof![
        value().prop_map(|value| equals(field, value)),
        prop::collection::vec(value(), 1..4).prop_map(|values| Filter::OneOf {
            field: field.to_owned(),
            values
        }),
        Just(Filter::Exists {
            field: field.to_owned()
        }),
    ];
    match field {
        "k" | "nested.b" => equality.boxed(),
        _ => prop_oneof![
            equality,
            (bound(), any::<bool>()).prop_map(|(bound, lower)| match lower {
                true => range(field, Some(bound), None),
                false => range(field, None, Some(bound)),
            }),
            (bound(), bound()).prop_map(|(lower, upper)| range(field, Some(lower), Some(upper))),
        ]
        .boxed(),
    }
}

fn filters() -> impl Strategy<Value = Filter> {
    let leaf =
        prop::sample::select(vec!["k", "f", "i", "d", "nested.b"]).prop_flat_map(comparisons);
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Filter::AllOf),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Filter::AnyOf),
            inner.prop_map(|filter| Filter::Not(Box::new(filter))),
        ]
    })
}

/// The meaning of a filter, one document at a time. The numbers of this test are halves: exact in f64.
fn interpret(filter: &Filter, metadata: &Map<String, serde_json::Value>) -> bool {
    let values = |field: &str| -> Vec<serde_json::Value> {
        let found = field
            .split('.')
            .try_fold(&json!(metadata), |at, name| at.get(name))
            .cloned();
        match found.unwrap_or_default() {
            serde_json::Value::Null => vec![],
            serde_json::Value::Array(list) => list,
            one => vec![one],
        }
    };
    match filter {
        Filter::AllOf(filters) => filters.iter().all(|filter| interpret(filter, metadata)),
        Filter::AnyOf(filters) => filters.iter().any(|filter| interpret(filter, metadata)),
        Filter::Not(filter) => !interpret(filter, metadata),
        Filter::Exists { field } => !values(field).is_empty(),
        Filter::Equals { field, value } => values(field)
            .iter()
            .any(|stored| order(stored, value).is_eq()),
        Filter::OneOf {
            field,
            values: wanted,
        } => values(field)
            .iter()
            .any(|stored| wanted.iter().any(|value| order(stored, value).is_eq())),
        Filter::Range {
            field,
            lower,
            upper,
        } => values(field).iter().any(|stored| {
            let above = lower
                .as_ref()
                .is_none_or(|lower| match order(stored, &lower.value) {
                    Ordering::Equal => lower.inclusive,
                    order => order.is_gt(),
                });
            let below = upper
                .as_ref()
                .is_none_or(|upper| match order(stored, &upper.value) {
                    Ordering::Equal => upper.inclusive,
                    order => order.is_lt(),
                });
            above && below
        }),
    }
}

fn order(stored: &serde_json::Value, value: &Value) -> Ordering {
    match value {
        Value::Keyword(text) if text.ends_with("T00:00:00Z") => {
            stored.as_str().unwrap().cmp(&text[..10])
        }
        Value::Keyword(text) => stored.as_str().unwrap().cmp(text),
        Value::Integer(number) => stored.as_f64().unwrap().total_cmp(&(*number as f64)),
        Value::Float(number) => (stored.as_f64().unwrap() + 0.0).total_cmp(&(number + 0.0)),
        Value::Boolean(value) => stored.as_bool().unwrap().cmp(value),
    }
}

/// Gives every field its type, so that no filter is refused.
fn all_fields() -> Map<String, serde_json::Value> {
    object(json!({"k": "en", "f": 0.5, "i": 1, "d": "2020-01-01", "nested": {"b": true}}))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn evaluation_is_the_interpretation_of_each_document(
        mut corpus in prop::collection::vec((metadata(), 1_usize..3), 0..40),
        filters in prop::collection::vec(filters(), 8),
    ) {
        corpus.push((all_fields(), 1));
        let segment = Fixture::new(&corpus);
        for filter in filters {
            let wanted: Vec<u32> =
                (0..).zip(&corpus).filter(|(_, (metadata, _))| interpret(&filter, metadata)).map(|(n, _)| n).collect();
            prop_assert_eq!(segment.documents_of(&filter), wanted, "{:?}", filter);
        }
    }

    #[test]
    fn numbers_compare_as_their_values(integer: i64, float in any::<f64>().prop_filter("finite", |f| f.is_finite())) {
        // Decimal expansion is exact: compare through a wide integer where the float is whole and in reach.
        let order = compare_integer(integer, float);
        if float.fract() == 0.0 && float.abs() < 1e30 {
            prop_assert_eq!(order, i128::from(integer).cmp(&(float as i128)));
        } else if float.abs() < 1e15 {
            let below = float.floor() as i128;
            let wanted = if i128::from(integer) <= below { Ordering::Less } else { Ordering::Greater };
            prop_assert_eq!(order, wanted);
        }
    }
}
