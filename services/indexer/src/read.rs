//! Lines become documents, or are refused with the field that is wrong.
//!
//! A line is one JSON object: `_id` (a string, or an integer, which is read as its digits), `text`, and optionally `title` and
//! `metadata`; other fields are left alone. Blank lines are no documents and no mistakes.

use std::path::Path;
use std::sync::Arc;

use segment::attributes::AttributeTypes;
use segment::documents::MAX_DOCUMENT_ID_BYTES;
use serde_json::{Map, Value};

use crate::documents::{DocumentsBuilder, Origin, Place, RunDocuments};
use crate::error::IndexError;
use crate::progress::InvalidLine;
use crate::source::{LineBatch, MAX_LINE_BYTES};
use crate::spool::SpooledDocument;

/// Takes in the lines of a run.
pub(crate) struct Reader {
    documents: DocumentsBuilder,
    types: CheckedTypes,
    invalid: u64,
    first_invalid: Option<InvalidLine>,
}

/// The types of the metadata fields without the run's documents and with them.
#[derive(Debug, Clone)]
pub(crate) struct CheckedTypes {
    pub(crate) before: AttributeTypes,
    pub(crate) after: AttributeTypes,
}

/// What was read.
pub(crate) struct ReadDocuments {
    pub(crate) documents: RunDocuments,
    pub(crate) types: CheckedTypes,
    pub(crate) invalid: u64,
}

impl Reader {
    /// `types` are those of the collection's documents so far.
    pub(crate) fn new(types: AttributeTypes, directory: &Arc<Path>) -> Result<Self, IndexError> {
        let documents = DocumentsBuilder::create(directory)?;
        let types = CheckedTypes {
            before: types.clone(),
            after: types,
        };
        Ok(Self {
            documents,
            types,
            invalid: 0,
            first_invalid: None,
        })
    }

    /// Takes in a batch; returns its invalid lines.
    pub(crate) fn read(&mut self, batch: &LineBatch) -> Result<Vec<InvalidLine>, IndexError> {
        let mut refused = Vec::new();
        for (line, number) in batch.lines.iter().zip(batch.first_line..) {
            let place = Place {
                file: Arc::clone(&batch.file),
                line: number,
            };
            match self.check_line(line, number) {
                Ok(Some(read)) => {
                    let origin = Origin::Line(place);
                    self.documents.push(read.id, origin, &read.document)?;
                }
                Ok(None) => {}
                Err(reason) => refused.push(place.invalid(reason)),
            }
        }
        self.invalid += refused.len() as u64;
        if self.first_invalid.is_none() {
            self.first_invalid = refused.first().cloned();
        }
        Ok(refused)
    }

    /// Documents so far.
    pub(crate) fn documents(&self) -> u64 {
        self.documents.len() as u64
    }

    /// Everything that was read; unless they may be left out, no line may have been refused.
    pub(crate) fn finish(self, skip_invalid: bool) -> Result<ReadDocuments, IndexError> {
        match self.first_invalid {
            Some(first) if !skip_invalid => Err(IndexError::InvalidLines {
                count: self.invalid,
                first,
            }),
            _ => Ok(ReadDocuments {
                documents: self.documents.finish()?,
                types: self.types,
                invalid: self.invalid,
            }),
        }
    }

    fn check_line(&mut self, line: &[u8], number: u64) -> Result<Option<ReadLine>, String> {
        let Some(mut fields) = parse_object(line, number)? else {
            return Ok(None);
        };
        let id = document_id(fields.remove("_id"))?;
        if let Some(first) = self.documents.first_place(&id) {
            return Err(format!(
                "_id: {id:?} was in {}:{} already",
                first.file, first.line
            ));
        }
        let title = title(fields.remove("title"))?;
        let text = text(fields.remove("text"))?;
        let metadata = metadata(fields.remove("metadata"))?;
        let metadata_json = metadata_json(&metadata)?;
        // The last check, because it remembers what it has seen.
        self.types
            .after
            .observe(&metadata)
            .map_err(|error| error.to_string())?;
        Ok(Some(ReadLine {
            id,
            document: SpooledDocument {
                title,
                text,
                metadata_json,
            },
        }))
    }
}

struct ReadLine {
    id: String,
    document: SpooledDocument,
}

/// A title is stored, indexed and encoded with every passage; the longest of real ones, those of court cases, have some
/// kilobytes.
const MAX_TITLE_BYTES: usize = 8 << 10;
/// Metadata is for filters and comes back with every hit; a thousand hits of this much still fit into some messages.
const MAX_METADATA_BYTES: usize = 64 << 10;

/// Some editors put it in front of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn parse_object(line: &[u8], number: u64) -> Result<Option<Map<String, Value>>, String> {
    if line.len() > MAX_LINE_BYTES {
        return Err(format!("the line is longer than {MAX_LINE_BYTES} bytes"));
    }
    let line = if number == 1 {
        line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
    } else {
        line
    };
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => Ok(Some(fields)),
        Ok(other) => Err(format!(
            "the line is {}, not a JSON object",
            kind_of(&other)
        )),
        Err(error) => Err(format!("the line is not JSON: {}", without_line(&error))),
    }
}

/// serde_json counts lines within what it was given, which is always line 1.
fn without_line(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match message.strip_suffix(&place) {
        Some(message) => format!("{message} at byte {}", error.column()),
        None => message,
    }
}

fn document_id(value: Option<Value>) -> Result<String, String> {
    let id = match value {
        Some(Value::String(id)) => id,
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        Some(other) => {
            return Err(format!(
                "_id: is {}, not a string or an integer",
                kind_of(&other)
            ));
        }
        None => return Err("_id: is missing".to_owned()),
    };
    match id.len() {
        0 => Err("_id: is empty".to_owned()),
        1..=MAX_DOCUMENT_ID_BYTES if id.chars().any(char::is_control) => {
            Err(format!("_id: {id:?} has control characters"))
        }
        1..=MAX_DOCUMENT_ID_BYTES => Ok(id),
        bytes => Err(format!(
            "_id: has {bytes} bytes, at most {MAX_DOCUMENT_ID_BYTES} are allowed"
        )),
    }
}

fn title(value: Option<Value>) -> Result<String, String> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(title)) if title.len() > MAX_TITLE_BYTES => Err(format!(
            "title: has {} bytes, at most {MAX_TITLE_BYTES} are allowed",
            title.len()
        )),
        Some(Value::String(title)) => Ok(title),
        Some(other) => Err(format!("title: is {}, not a string", kind_of(&other))),
    }
}

fn text(value: Option<Value>) -> Result<String, String> {
    match value {
        Some(Value::String(text)) if text.trim().is_empty() => Err("text: is empty".to_owned()),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("text: is {}, not a string", kind_of(&other))),
        None => Err("text: is missing".to_owned()),
    }
}

fn metadata(value: Option<Value>) -> Result<Map<String, Value>, String> {
    match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(metadata)) => Ok(metadata),
        Some(other) => Err(format!("metadata: is {}, not an object", kind_of(&other))),
    }
}

/// As it is stored; nothing if there is none.
fn metadata_json(metadata: &Map<String, Value>) -> Result<String, String> {
    if metadata.is_empty() {
        return Ok(String::new());
    }
    let json = serde_json::to_string(metadata).map_err(|error| format!("metadata: {error}"))?;
    match json.len() {
        bytes if bytes > MAX_METADATA_BYTES => Err(format!(
            "metadata: has {bytes} bytes, at most {MAX_METADATA_BYTES} are allowed"
        )),
        _ => Ok(json),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> (tempfile::TempDir, Reader) {
        let directory = tempfile::tempdir().unwrap();
        let path: Arc<Path> = directory.path().into();
        (
            directory,
            Reader::new(AttributeTypes::default(), &path).unwrap(),
        )
    }

    fn batch(first_line: u64, lines: &[&str]) -> LineBatch {
        let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        LineBatch {
            file: "f.jsonl".into(),
            first_line,
            lines,
        }
    }

    fn reason(line: &str) -> String {
        let (_directory, mut reader) = reader();
        let refused = reader.read(&batch(1, &[line])).unwrap();
        refused
            .first()
            .map(|line| line.reason.clone())
            .unwrap_or_default()
    }

    #[test]
    fn good_lines_are_read_whole() {
        let (_directory, mut reader) = reader();
        let lines = [
            "\u{feff}{\"_id\": 7, \"text\": \"seven\", \"more\": 1}",
            "  ",
            r#"{"_id": "a", "title": null, "text": "b", "metadata": {"year": 2019, "x": {"y": null}}}"#,
        ];
        assert_eq!(reader.read(&batch(1, &lines)).unwrap(), []);
        let read = reader.finish(false).unwrap();
        assert_eq!((read.documents.len(), read.invalid), (2, 0));
        assert_eq!(&**read.documents.id(0), "7");
        let second = read.documents.read(1).unwrap();
        assert_eq!((second.title.as_str(), second.text.as_str()), ("", "b"));
        assert_eq!(second.metadata_json, r#"{"year":2019,"x":{"y":null}}"#);
        assert_eq!(read.documents.name(1), "f.jsonl:3: document a");
    }

    #[test]
    fn each_mistake_names_its_field() {
        let cases = [
            (
                r#"{"_id": "a", "text": "#,
                "the line is not JSON: EOF while parsing a value at byte 21",
            ),
            (r#"["a"]"#, "the line is a list, not a JSON object"),
            (r#"{"text": "b"}"#, "_id: is missing"),
            (r#"{"_id": "", "text": "b"}"#, "_id: is empty"),
            (
                r#"{"_id": 1.5, "text": "b"}"#,
                "_id: is a number, not a string or an integer",
            ),
            (
                r#"{"_id": "a\nb", "text": "b"}"#,
                "_id: \"a\\nb\" has control characters",
            ),
            (r#"{"_id": "a"}"#, "text: is missing"),
            (
                r#"{"_id": "a", "title": "t", "text": " \n"}"#,
                "text: is empty",
            ),
            (
                r#"{"_id": "a", "text": null}"#,
                "text: is null, not a string",
            ),
            (
                r#"{"_id": "a", "title": 1, "text": "b"}"#,
                "title: is a number, not a string",
            ),
            (
                r#"{"_id": "a", "text": "b", "metadata": []}"#,
                "metadata: is a list, not an object",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(reason(line), expected, "{line}");
        }
        assert!(
            reason(&format!(r#"{{"_id": "{}", "text": "b"}}"#, "x".repeat(513)))
                .starts_with("_id: has 513")
        );
        assert!(
            reason(r#"{"_id": "a", "text": "b", "metadata": {"x": [1, "y"]}}"#)
                .starts_with("metadata.x: ")
        );
        let line = |field: &str, value: &str| {
            format!(r#"{{"_id": "a", "text": "b", "{field}": {value}}}"#)
        };
        assert_eq!(
            reason(&line("title", &format!("{:?}", "x".repeat(8192)))),
            ""
        );
        assert_eq!(
            reason(&line("title", &format!("{:?}", "x".repeat(8193)))),
            "title: has 8193 bytes, at most 8192 are allowed"
        );
        let metadata = format!(r#"{{"x": "{}"}}"#, "y".repeat(65_536));
        assert_eq!(
            reason(&line("metadata", &metadata)),
            "metadata: has 65544 bytes, at most 65536 are allowed"
        );
        assert!(reason(&"[".repeat(100_000)).starts_with("the line is not JSON: recursion limit"));
        assert!(reason(&"x".repeat(MAX_LINE_BYTES + 1)).starts_with("the line is longer than"));
    }

    #[test]
    fn a_duplicate_names_its_first_line_and_numbers_run_on() {
        let (_directory, mut reader) = reader();
        let good = r#"{"_id": "a", "text": "b"}"#;
        assert!(reader.read(&batch(10, &[good])).unwrap().is_empty());
        let refused = reader.read(&batch(11, &["{}", good])).unwrap();
        let printed: Vec<String> = refused.iter().map(InvalidLine::to_string).collect();
        assert_eq!(
            printed,
            [
                "f.jsonl:11: _id: is missing",
                "f.jsonl:12: _id: \"a\" was in f.jsonl:10 already"
            ]
        );
    }

    #[test]
    fn a_type_that_changes_is_refused_with_both() {
        let (_directory, mut reader) = reader();
        let line = |id: &str, year: &str| {
            format!(r#"{{"_id": "{id}", "text": "b", "metadata": {{"year": {year}}}}}"#)
        };
        let lines = [line("a", "2019"), line("b", "\"x\""), line("b", "2020")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let refused = reader.read(&batch(1, &lines)).unwrap();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].line, 2);
        let reason = &refused[0].reason;
        assert!(
            reason.contains("year") && reason.contains("integer") && reason.contains("keyword"),
            "{reason}"
        );
    }

    #[test]
    fn one_invalid_line_refuses_the_run_unless_it_may_be_left_out() {
        for skip_invalid in [false, true] {
            let (_directory, mut reader) = reader();
            reader
                .read(&batch(1, &[r#"{"_id": "a", "text": "b"}"#, "{}", "[]"]))
                .unwrap();
            match reader.finish(skip_invalid) {
                Ok(read) => assert_eq!(
                    (skip_invalid, read.documents.len(), read.invalid),
                    (true, 1, 2)
                ),
                Err(error) => {
                    assert!(!skip_invalid);
                    let expected = "2 invalid lines, nothing was written; the first is f.jsonl:2: _id: is missing";
                    assert_eq!(error.to_string(), expected);
                }
            }
        }
    }
}
