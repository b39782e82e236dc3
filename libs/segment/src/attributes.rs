//! The attributes part: the metadata of documents as typed columns, for filters.
//!
//! Types come from the values: JSON strings are keywords, or dates where they read as one (RFC 3339 or
//! `YYYY-MM-DD`), numbers are integers or floats, booleans are booleans. Objects are flattened: `{"a": {"b": 1}}` is the
//! field `a.b`. Lists give a field several values; null and empty lists give none. A field has one type in the
//! whole collection; only an integer field widens to float when a fraction comes.
//!
//! One file, `columns.bin`: magic, documents u32, columns u32; then each column: name, type, values in all u64, the
//! end of each document's values (u32 × documents) and the values. Keywords are numbers into a sorted dictionary.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::{
    Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description,
};

use crate::{
    SegmentError,
    layout::{Walk, f64s, i64s, is_ascending, u32s, u64_at, u64s},
    mapped::Mapped,
    store::PartFiles,
};

/// Most fields of a collection: a column each, and a bound on what hostile metadata can make.
pub const MAX_FIELDS: usize = 1024;
/// Longest field name.
pub const MAX_FIELD_BYTES: usize = 256;
/// Most values of one field in one document.
pub const MAX_VALUES: usize = 65_536;

const COLUMNS: &str = "columns.bin";
const MAGIC: &[u8; 8] = b"fmattr01";
/// Every integer of at most this magnitude is a float too.
const EXACT_INTEGER: u64 = 1 << f64::MANTISSA_DIGITS;

/// Type of a metadata field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeType {
    /// Strings, compared to the byte.
    Keyword,
    /// 64-bit integers.
    Integer,
    /// Finite floats.
    Float,
    /// Booleans.
    Boolean,
    /// Instants, to the microsecond.
    Date,
}

impl AttributeType {
    /// The type's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keyword => "keyword",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Date => "date",
        }
    }

    /// The type that holds values of both types.
    fn merge(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Integer, Self::Float) | (Self::Float, Self::Integer) => Some(Self::Float),
            (left, right) => (left == right).then_some(left),
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Keyword => 1,
            Self::Integer => 2,
            Self::Float => 3,
            Self::Boolean => 4,
            Self::Date => 5,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        [
            Self::Keyword,
            Self::Integer,
            Self::Float,
            Self::Boolean,
            Self::Date,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }
}

impl fmt::Display for AttributeType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Metadata that cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata.{field}: {message}")]
pub struct AttributeError {
    /// The field, flattened with dots.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl From<AttributeError> for SegmentError {
    fn from(error: AttributeError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// The types of the fields of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttributeTypes(BTreeMap<String, AttributeType>);

impl AttributeTypes {
    /// Takes in the fields of one more document, or refuses them and stays as it is.
    pub fn observe(&mut self, metadata: &Map<String, Value>) -> Result<(), AttributeError> {
        let mut news = Vec::new();
        for (field, values) in flatten(metadata)? {
            let found = values_type(&field, &values)?;
            let merged = match self.get(&field) {
                Some(known) => known
                    .merge(found)
                    .ok_or_else(|| mixed(&field, known, found))?,
                None => found,
            };
            check_exact(&field, merged, &values)?;
            news.push((field, merged));
        }
        let added = news
            .iter()
            .filter(|(field, _)| self.get(field).is_none())
            .count();
        if let Some((field, _)) = news.last().filter(|_| self.0.len() + added > MAX_FIELDS) {
            return Err(refused(
                field,
                format!("there are more than {MAX_FIELDS} fields"),
            ));
        }
        self.0.extend(news);
        Ok(())
    }

    /// The type of a field.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<AttributeType> {
        self.0.get(field).copied()
    }

    /// Fields and types, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, AttributeType)> {
        self.0.iter().map(|(field, kind)| (field.as_str(), *kind))
    }
}

/// One value, typed.
#[derive(Clone, Debug, PartialEq)]
enum Typed {
    Keyword(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// Microseconds since 1970.
    Date(i64),
}

impl Typed {
    fn kind(&self) -> AttributeType {
        match self {
            Self::Keyword(_) => AttributeType::Keyword,
            Self::Integer(_) => AttributeType::Integer,
            Self::Float(_) => AttributeType::Float,
            Self::Boolean(_) => AttributeType::Boolean,
            Self::Date(_) => AttributeType::Date,
        }
    }
}

/// Microseconds since 1970 of an RFC 3339 instant, or of the first instant (UTC) of a `YYYY-MM-DD` day.
#[must_use]
pub fn parse_date(text: &str) -> Option<i64> {
    let day = || Date::parse(text, format_description!("[year]-[month]-[day]")).ok();
    let instant = match text.len() {
        10 => day()?.midnight().assume_utc(),
        _ => OffsetDateTime::parse(text, &Rfc3339).ok()?,
    };
    i64::try_from(instant.unix_timestamp_nanos().div_euclid(1000)).ok()
}

fn refused(field: &str, message: impl Into<String>) -> AttributeError {
    AttributeError {
        field: field.to_owned(),
        message: message.into(),
    }
}

fn mixed(field: &str, known: AttributeType, found: AttributeType) -> AttributeError {
    refused(field, format!("is {found} here and {known} elsewhere"))
}

/// The fields of a document with their values; fields without values are left out.
fn flatten(metadata: &Map<String, Value>) -> Result<BTreeMap<String, Vec<Typed>>, AttributeError> {
    let mut fields = BTreeMap::new();
    metadata
        .iter()
        .try_for_each(|(name, value)| flatten_value(name, value, &mut fields))?;
    Ok(fields)
}

fn flatten_value(
    field: &str,
    value: &Value,
    fields: &mut BTreeMap<String, Vec<Typed>>,
) -> Result<(), AttributeError> {
    match value {
        Value::Null => Ok(()),
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| flatten_value(field, value, fields)),
        Value::Object(object) => object
            .iter()
            .try_for_each(|(name, value)| flatten_value(&format!("{field}.{name}"), value, fields)),
        Value::Bool(value) => add(field, Typed::Boolean(*value), fields),
        Value::Number(number) => add(field, typed_number(field, number)?, fields),
        Value::String(text) => {
            let date = parse_date(text).map(Typed::Date);
            add(
                field,
                date.unwrap_or_else(|| Typed::Keyword(text.clone())),
                fields,
            )
        }
    }
}

fn add(
    field: &str,
    value: Typed,
    fields: &mut BTreeMap<String, Vec<Typed>>,
) -> Result<(), AttributeError> {
    if field.is_empty() || field.len() > MAX_FIELD_BYTES {
        return Err(refused(
            field,
            format!("a name has 1 to {MAX_FIELD_BYTES} bytes"),
        ));
    }
    let values = fields.entry(field.to_owned()).or_default();
    if values.len() == MAX_VALUES {
        return Err(refused(field, format!("has more than {MAX_VALUES} values")));
    }
    values.push(value);
    Ok(())
}

fn typed_number(field: &str, number: &serde_json::Number) -> Result<Typed, AttributeError> {
    match (number.as_i64(), number.as_f64()) {
        (Some(integer), _) => Ok(Typed::Integer(integer)),
        (None, Some(float)) if number.is_f64() && float.is_finite() => Ok(Typed::Float(float)),
        _ => Err(refused(field, format!("{number} is out of range"))),
    }
}

fn values_type(field: &str, values: &[Typed]) -> Result<AttributeType, AttributeError> {
    let mut kinds = values.iter().map(Typed::kind);
    let first = kinds
        .next()
        .ok_or_else(|| refused(field, "has no values"))?;
    kinds.try_fold(first, |known, found| {
        known.merge(found).ok_or_else(|| mixed(field, known, found))
    })
}

/// An integer in a float field has to be a float to the digit, so that filters stay exact.
fn check_exact(field: &str, kind: AttributeType, values: &[Typed]) -> Result<(), AttributeError> {
    let inexact = |value: &Typed| match value {
        Typed::Integer(integer) => integer.unsigned_abs() > EXACT_INTEGER,
        _ => false,
    };
    match values
        .iter()
        .find(|value| kind == AttributeType::Float && inexact(value))
    {
        Some(_) => Err(refused(
            field,
            "has an integer that a float field cannot hold exactly",
        )),
        None => Ok(()),
    }
}

/// Writes the attributes part of a segment.
pub struct AttributesWriter {
    folder: PathBuf,
    documents: u32,
    types: AttributeTypes,
    columns: BTreeMap<String, ColumnBuilder>,
}

/// Values of a column, and where each document's end; documents behind the last end have none.
#[derive(Default)]
struct ColumnBuilder {
    ends: Vec<u32>,
    values: Vec<Typed>,
}

impl ColumnBuilder {
    fn push(&mut self, document: u32, values: Vec<Typed>) -> Result<(), SegmentError> {
        self.pad(document)?;
        self.values.extend(values);
        self.pad(document + 1)
    }

    /// Gives no values to the documents without an end below this one.
    fn pad(&mut self, documents: u32) -> Result<(), SegmentError> {
        let end = u32::try_from(self.values.len());
        let end =
            end.map_err(|_| SegmentError::invalid("too many metadata values in one segment"))?;
        self.ends.resize(documents as usize, end);
        Ok(())
    }

    fn write(
        mut self,
        kind: AttributeType,
        documents: u32,
        file: &mut Vec<u8>,
    ) -> Result<(), SegmentError> {
        self.pad(documents)?;
        file.extend((self.values.len() as u64).to_le_bytes());
        file.extend(self.ends.iter().flat_map(|end| end.to_le_bytes()));
        match kind {
            AttributeType::Keyword => write_keywords(&self.values, file),
            _ => self
                .values
                .iter()
                .for_each(|value| write_value(value, kind, file)),
        }
        Ok(())
    }
}

fn write_value(value: &Typed, kind: AttributeType, file: &mut Vec<u8>) {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "checked to be exact")]
        Typed::Integer(value) if kind == AttributeType::Float => {
            file.extend((*value as f64).to_le_bytes())
        }
        Typed::Integer(value) | Typed::Date(value) => file.extend(value.to_le_bytes()),
        Typed::Float(value) => file.extend(value.to_le_bytes()),
        Typed::Boolean(value) => file.push(u8::from(*value)),
        Typed::Keyword(_) => {}
    }
}

/// Dictionary size, end of each word, words; then the word of each value.
fn write_keywords(values: &[Typed], file: &mut Vec<u8>) {
    let word = |value: &'_ Typed| match value {
        Typed::Keyword(word) => word.clone(),
        _ => String::new(),
    };
    let words: Vec<String> = values.iter().map(word).collect();
    let mut dictionary: BTreeMap<&str, u32> = words.iter().map(|word| (word.as_str(), 0)).collect();
    file.extend((dictionary.len() as u64).to_le_bytes());
    let mut end = 0_u64;
    for (number, (word, slot)) in (0..).zip(&mut dictionary) {
        *slot = number;
        end += word.len() as u64;
        file.extend(end.to_le_bytes());
    }
    dictionary
        .keys()
        .for_each(|word| file.extend_from_slice(word.as_bytes()));
    file.extend(
        words
            .iter()
            .flat_map(|word| dictionary[word.as_str()].to_le_bytes()),
    );
}

impl AttributesWriter {
    /// Starts the part in an existing empty folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            documents: 0,
            types: AttributeTypes::default(),
            columns: BTreeMap::new(),
        }
    }

    /// Adds the metadata of the next document.
    pub fn push(&mut self, metadata: &Map<String, Value>) -> Result<(), SegmentError> {
        self.types.observe(metadata)?;
        for (field, values) in flatten(metadata)? {
            self.columns
                .entry(field)
                .or_default()
                .push(self.documents, values)?;
        }
        self.documents += 1;
        Ok(())
    }

    /// Writes the columns.
    pub fn finish(self) -> Result<(), SegmentError> {
        let mut file = MAGIC.to_vec();
        file.extend(self.documents.to_le_bytes());
        file.extend(self.types.0.len().to_le_bytes().into_iter().take(4));
        for (field, column) in self.columns {
            let kind = self.types.get(&field).unwrap_or(AttributeType::Keyword);
            file.extend((field.len() as u64).to_le_bytes());
            file.extend_from_slice(field.as_bytes());
            file.extend(kind.code().to_le_bytes());
            column.write(kind, self.documents, &mut file)?;
        }
        let path = self.folder.join(COLUMNS);
        std::fs::write(&path, file).map_err(SegmentError::io(&path))
    }
}

/// The attributes part of a segment, mapped.
pub struct Attributes {
    file: Mapped,
    documents: u32,
    columns: BTreeMap<String, ColumnLayout>,
}

/// Where a column lies in the file.
struct ColumnLayout {
    kind: AttributeType,
    ends: Range<usize>,
    values: Range<usize>,
    word_ends: Range<usize>,
    words: Range<usize>,
}

/// A column of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a> {
    pub(crate) kind: AttributeType,
    ends: &'a [u8],
    values: &'a [u8],
    word_ends: &'a [u8],
    words: &'a [u8],
}

impl Attributes {
    /// Opens the part and checks its columns.
    pub fn open(files: &PartFiles) -> Result<Self, SegmentError> {
        let file = Mapped::open(files.get(COLUMNS)?)?;
        let mut walk = Walk::new(COLUMNS, &file, MAGIC)?;
        let (documents, count) = (walk.u32()?, walk.u32()?);
        let mut columns = BTreeMap::new();
        for _ in 0..count {
            let (name, column) = read_column(&mut walk, &file, documents)?;
            if columns.insert(name.clone(), column).is_some() {
                return Err(SegmentError::damaged(
                    COLUMNS,
                    format!("has the column {name} twice"),
                ));
            }
        }
        walk.end()?;
        Ok(Self {
            file,
            documents,
            columns,
        })
    }

    /// Documents that the part describes.
    #[must_use]
    pub fn documents(&self) -> u32 {
        self.documents
    }

    /// The fields of the segment and their types here: integer where the collection has widened to float since.
    pub fn types(&self) -> impl Iterator<Item = (&str, AttributeType)> {
        self.columns
            .iter()
            .map(|(name, column)| (name.as_str(), column.kind))
    }

    /// Refuses a segment whose columns are not of the collection's types.
    pub(crate) fn check_types(&self, types: &AttributeTypes) -> Result<(), SegmentError> {
        for (field, kind) in self.types() {
            let wanted = types.get(field);
            if wanted.is_none_or(|wanted| kind.merge(wanted) != Some(wanted)) {
                let wanted = wanted.map_or("nothing", AttributeType::as_str);
                let reason = format!("has {field} as {kind}, its manifest says {wanted}");
                return Err(SegmentError::damaged(COLUMNS, reason));
            }
        }
        Ok(())
    }

    pub(crate) fn column(&self, field: &str) -> Option<Column<'_>> {
        let layout = self.columns.get(field)?;
        let part = |range: &Range<usize>| self.file.get(range.clone()).unwrap_or_default();
        Some(Column {
            kind: layout.kind,
            ends: part(&layout.ends),
            values: part(&layout.values),
            word_ends: part(&layout.word_ends),
            words: part(&layout.words),
        })
    }
}

fn read_column(
    walk: &mut Walk<'_>,
    file: &[u8],
    documents: u32,
) -> Result<(String, ColumnLayout), SegmentError> {
    let length = walk.length()?;
    let name = std::str::from_utf8(&file[walk.take(length)?]).map(str::to_owned);
    let name = name.map_err(|_| walk.damaged("has a column name that is not UTF-8"))?;
    let code = walk.u32()?;
    let kind = AttributeType::from_code(code)
        .ok_or_else(|| walk.damaged(format!("has the column {name} of unknown type {code}")))?;
    let values = walk.length()?;
    let ends = walk.array(documents as usize, 4)?;
    let (word_ends, words) = read_dictionary(walk, file, kind)?;
    let value_bytes = match kind {
        AttributeType::Keyword => 4,
        AttributeType::Boolean => 1,
        AttributeType::Integer | AttributeType::Float | AttributeType::Date => 8,
    };
    let column = ColumnLayout {
        kind,
        ends,
        values: walk.array(values, value_bytes)?,
        word_ends,
        words,
    };
    match column.holds(file, values) {
        true => Ok((name, column)),
        false => Err(walk.damaged(format!("has the column {name}, which contradicts itself"))),
    }
}

fn read_dictionary(
    walk: &mut Walk<'_>,
    file: &[u8],
    kind: AttributeType,
) -> Result<(Range<usize>, Range<usize>), SegmentError> {
    if kind != AttributeType::Keyword {
        return Ok((0..0, 0..0));
    }
    let words = walk.length()?;
    let word_ends = walk.array(words, 8)?;
    let bytes = u64s(&file[word_ends.clone()]).last().unwrap_or_default();
    let bytes =
        usize::try_from(bytes).map_err(|_| walk.damaged("has a dictionary out of range"))?;
    Ok((word_ends, walk.take(bytes)?))
}

impl ColumnLayout {
    fn holds(&self, file: &[u8], values: usize) -> bool {
        let ends = || u32s(&file[self.ends.clone()]);
        let data = &file[self.values.clone()];
        let word_count = self.word_ends.len() / 8;
        let values_hold = match self.kind {
            AttributeType::Keyword => u32s(data).all(|word| (word as usize) < word_count),
            AttributeType::Boolean => data.iter().all(|&value| value < 2),
            AttributeType::Float => f64s(data).all(f64::is_finite),
            AttributeType::Integer | AttributeType::Date => true,
        };
        let all_used = ends().last().unwrap_or_default() as usize == values;
        is_ascending(ends()) && all_used && values_hold && self.dictionary_holds(file)
    }

    fn dictionary_holds(&self, file: &[u8]) -> bool {
        let ends = &file[self.word_ends.clone()];
        let words = &file[self.words.clone()];
        let word = |number| word_at(ends, words, number);
        let ascending = |number: usize| match number.checked_sub(1) {
            Some(before) => word(before)
                .zip(word(number))
                .is_some_and(|(before, this)| before < this),
            None => word(number).is_some(),
        };
        is_ascending(u64s(ends)) && (0..ends.len() / 8).all(ascending)
    }
}

fn word_at<'a>(ends: &[u8], words: &'a [u8], number: usize) -> Option<&'a [u8]> {
    let start = match number.checked_sub(1) {
        Some(before) => u64_at(ends, before)?,
        None => 0,
    };
    words.get(usize::try_from(start).ok()?..usize::try_from(u64_at(ends, number)?).ok()?)
}

impl<'a> Column<'a> {
    /// The place of each document's values among all values.
    pub(crate) fn value_ranges(self) -> impl Iterator<Item = Range<usize>> {
        let ends = || u32s(self.ends).map(|end| end as usize);
        std::iter::once(0)
            .chain(ends())
            .zip(ends())
            .map(|(start, end)| start..end)
    }

    /// The values of an integer or date column.
    pub(crate) fn integers(self) -> impl Iterator<Item = i64> {
        i64s(self.values)
    }

    /// The values of a float column.
    pub(crate) fn floats(self) -> impl Iterator<Item = f64> {
        f64s(self.values)
    }

    /// The values of a boolean column.
    pub(crate) fn booleans(self) -> impl Iterator<Item = bool> {
        self.values.iter().map(|&value| value == 1)
    }

    /// The values of a keyword column, as numbers of words.
    pub(crate) fn words(self) -> impl Iterator<Item = u32> {
        u32s(self.values)
    }

    /// The number of a word, if the column has it.
    pub(crate) fn word(self, word: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.word_ends.len() / 8);
        while low < high {
            let middle = low + (high - low) / 2;
            match word_at(self.word_ends, self.words, middle)?.cmp(word.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return u32::try_from(middle).ok(),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
