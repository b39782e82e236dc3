use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn refusal(documents: &[Value]) -> String {
    let mut types = AttributeTypes::default();
    let observed = documents
        .iter()
        .try_for_each(|document| types.observe(&object(document.clone())));
    observed.unwrap_err().to_string()
}

#[test]
fn types_come_from_values_and_nesting_from_dots() {
    let mut types = AttributeTypes::default();
    let document = json!({
        "year": 2019, "score": 0.5, "open": false, "lang": ["en", null, "de"], "day": "2019-02-28",
        "at": "2019-02-28T10:00:00.123456+02:00", "none": null, "empty": [],
        "source": {"name": "x", "pages": [[1, 2], 3]}, "authors": [{"name": "A"}, {"name": "B"}],
        "not a day": "2019-02-30",
    });
    types.observe(&object(document)).unwrap();
    let found: Vec<_> = types
        .iter()
        .map(|(field, kind)| format!("{field}: {kind}"))
        .collect();
    let wanted = [
        "at: date",
        "authors.name: keyword",
        "day: date",
        "lang: keyword",
        "not a day: keyword",
        "open: boolean",
        "score: float",
        "source.name: keyword",
        "source.pages: integer",
        "year: integer",
    ];
    assert_eq!(found, wanted);
}

#[test]
fn contradicting_types_are_told_with_the_field() {
    assert_eq!(
        refusal(&[json!({"year": 2019}), json!({"year": "n/a"})]),
        "metadata.year: is keyword here and integer elsewhere"
    );
    assert_eq!(
        refusal(&[json!({"a": {"b": [1, true]}})]),
        "metadata.a.b: is boolean here and integer elsewhere"
    );
    assert_eq!(
        refusal(&[json!({"n": u64::MAX})]),
        "metadata.n: 18446744073709551615 is out of range"
    );
    assert_eq!(
        refusal(&[json!({"": 1})]),
        "metadata.: a name has 1 to 256 bytes"
    );
    assert_eq!(
        refusal(&[json!({"n": 0.5}), json!({"n": (1_i64 << 53) + 1})]),
        "metadata.n: has an integer that a float field cannot hold exactly"
    );
    let many: Map<String, Value> = (0..=MAX_FIELDS)
        .map(|n| (format!("f{n}"), json!(n)))
        .collect();
    assert!(refusal(&[Value::Object(many)]).ends_with("there are more than 1024 fields"));
}

#[test]
fn a_refused_document_leaves_the_types_as_they_were() {
    let mut types = AttributeTypes::default();
    types.observe(&object(json!({"year": 2019}))).unwrap();
    let before = types.clone();
    types
        .observe(&object(json!({"a": 1, "year": "x"})))
        .unwrap_err();
    assert_eq!(types, before);
    types.observe(&object(json!({"year": 0.5}))).unwrap();
    assert_eq!(types.get("year"), Some(AttributeType::Float));
}

#[test]
fn dates_are_days_and_instants() {
    assert_eq!(parse_date("1970-01-02"), Some(86_400_000_000));
    assert_eq!(parse_date("1970-01-01T00:00:00.000001Z"), Some(1));
    assert_eq!(parse_date("1970-01-01T01:00:00+01:00"), Some(0));
    for text in [
        "",
        "1970",
        "1970-1-1",
        "1970-13-01",
        "today",
        "1970-01-01 00:00",
        "１970-01-01",
    ] {
        assert_eq!(parse_date(text), None, "{text}");
    }
}

fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = AttributesWriter::new(folder.path());
    for n in 0..5 {
        let document =
            json!({"k": ["en", format!("w{n}")], "i": n, "f": 0.5, "b": true, "d": "2020-01-01"});
        writer.push(&object(document)).unwrap();
    }
    writer.finish().unwrap();
    folder
}

/// Reads everything there is; what it returns does not matter.
fn read_all(attributes: &Attributes) {
    let fields: Vec<String> = attributes
        .types()
        .map(|(field, _)| field.to_owned())
        .collect();
    for field in fields {
        let column = attributes.column(&field).unwrap();
        let _ = column
            .value_ranges()
            .map(|range| range.len())
            .sum::<usize>();
        let _ = (
            column.integers().count(),
            column.floats().count(),
            column.words().count(),
        );
        let _ = (column.booleans().count(), column.word("w3"));
    }
}

fn open(folder: &Path) -> Result<Attributes, SegmentError> {
    Attributes::open(&PartFiles::of_folder(folder)?)
}

#[test]
fn flipped_and_cut_files_are_errors_and_never_panics() {
    let folder = written();
    let path = folder.path().join(COLUMNS);
    let whole = std::fs::read(&path).unwrap();
    let rewrite = |content: &[u8]| {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, content).unwrap();
    };
    for place in 0..whole.len() {
        for mask in [1_u8, 0x80, 0xff] {
            let mut flipped = whole.clone();
            flipped[place] ^= mask;
            rewrite(&flipped);
            if let Ok(attributes) = open(folder.path()) {
                read_all(&attributes);
            }
        }
        rewrite(&whole[..place]);
        assert!(open(folder.path()).is_err(), "cut at {place}");
    }
    rewrite(&whole);
    assert_eq!(open(folder.path()).unwrap().types().count(), 5);
}

proptest! {
    #[test]
    fn random_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..120), counts in (0_u32..3, 0_u32..3)) {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MAGIC.to_vec();
        file.extend(counts.0.to_le_bytes());
        file.extend(counts.1.to_le_bytes());
        file.extend(bytes);
        std::fs::write(folder.path().join(COLUMNS), file).unwrap();
        if let Ok(attributes) = open(folder.path()) {
            read_all(&attributes);
        }
    }
}
