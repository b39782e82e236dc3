//! Filters evaluated on the attributes of a segment: the one piece of code for all retrievers, and exact.
//!
//! A filter is compiled against the types of its collection, which finds every mistake a caller can make; what
//! is compiled evaluates on each segment without failing. Numbers compare by value, integers with floats too, without
//! rounding. Where a field holds several values, a comparison holds when one of them satisfies it. A document
//! without the field satisfies no comparison, and so satisfies `not` of each. A day stands for its first
//! instant in UTC, in filters as in documents.

use std::cmp::Ordering;

use search_core::{Bound, FieldError, Filter, Value};

use crate::{
    attributes::{AttributeType, AttributeTypes, Attributes, Column, parse_date},
    bitmap::Bitmap,
    documents::Documents,
};

/// A filter that fits the types of a collection.
#[derive(Clone, Debug)]
pub struct CompiledFilter(Condition);

#[derive(Clone, Debug)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Field { field: String, test: Test },
}

/// What one of a field's values has to be.
#[derive(Clone, Debug)]
enum Test {
    Anything,
    Words(Vec<String>),
    /// In order. Dates are numbers too: microseconds.
    Numbers(Vec<Number>),
    Between(Option<NumberBound>, Option<NumberBound>),
    Booleans {
        yes: bool,
        no: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Integer(i64),
    /// Finite.
    Float(f64),
}

#[derive(Clone, Copy, Debug)]
struct NumberBound {
    number: Number,
    inclusive: bool,
}

impl CompiledFilter {
    /// Checks a filter and fits it to the types of a collection. The path of an error starts below the filter
    /// itself, as in [`Filter::validate`].
    pub fn new(filter: &Filter, types: &AttributeTypes) -> Result<Self, FieldError> {
        filter.validate()?;
        compile(filter, types).map(Self)
    }

    /// The passages whose document satisfies the filter.
    #[must_use]
    pub fn evaluate(&self, attributes: &Attributes, documents: &Documents) -> Bitmap {
        let satisfied = self.0.evaluate(attributes);
        if documents.documents() == documents.passages() {
            return satisfied;
        }
        let mut passages = Bitmap::new(documents.passages());
        for (document, range) in (0..).zip(documents.passage_ranges()) {
            if satisfied.contains(document) {
                passages.set_range(range);
            }
        }
        passages
    }
}

fn compile(filter: &Filter, types: &AttributeTypes) -> Result<Condition, FieldError> {
    match filter {
        Filter::AllOf(filters) => compile_list(filters, types, "all_of").map(Condition::All),
        Filter::AnyOf(filters) => compile_list(filters, types, "any_of").map(Condition::Any),
        Filter::Not(filter) => {
            let inner = compile(filter, types).map_err(|error| error.inside("not"))?;
            Ok(Condition::Not(Box::new(inner)))
        }
        Filter::Equals { field, value } => {
            let test = compile_values(field, std::slice::from_ref(value), types, |_| {
                "value".to_owned()
            });
            on_field(field, test.map_err(|error| error.inside("equals")))
        }
        Filter::OneOf { field, values } => {
            let test = compile_values(field, values, types, |index| format!("values[{index}]"));
            on_field(field, test.map_err(|error| error.inside("one_of")))
        }
        Filter::Range {
            field,
            lower,
            upper,
        } => {
            let test = compile_range(field, lower.as_ref(), upper.as_ref(), types);
            on_field(field, test.map_err(|error| error.inside("range")))
        }
        Filter::Exists { field } => on_field(
            field,
            type_of(field, "exists", types).map(|_| Test::Anything),
        ),
    }
}

fn on_field(field: &str, test: Result<Test, FieldError>) -> Result<Condition, FieldError> {
    test.map(|test| Condition::Field {
        field: field.to_owned(),
        test,
    })
}

fn compile_list(
    filters: &[Filter],
    types: &AttributeTypes,
    name: &str,
) -> Result<Vec<Condition>, FieldError> {
    let compile_one = |(index, filter)| {
        compile(filter, types).map_err(|error| error.inside(&format!("{name}.filters[{index}]")))
    };
    filters.iter().enumerate().map(compile_one).collect()
}

fn type_of(field: &str, path: &str, types: &AttributeTypes) -> Result<AttributeType, FieldError> {
    let unknown = || {
        FieldError::new(
            path,
            format!("no document has the metadata field {field:?}"),
        )
    };
    types.get(field).ok_or_else(unknown)
}

fn compile_values(
    field: &str,
    values: &[Value],
    types: &AttributeTypes,
    path: impl Fn(usize) -> String,
) -> Result<Test, FieldError> {
    let kind = type_of(field, "field", types)?;
    let mut test = match kind {
        AttributeType::Keyword => Test::Words(Vec::new()),
        AttributeType::Boolean => Test::Booleans {
            yes: false,
            no: false,
        },
        AttributeType::Integer | AttributeType::Float | AttributeType::Date => {
            Test::Numbers(Vec::new())
        }
    };
    for (index, value) in values.iter().enumerate() {
        match (&mut test, value) {
            (Test::Words(words), Value::Keyword(word)) => words.push(word.clone()),
            (Test::Booleans { yes, .. }, Value::Boolean(true)) => *yes = true,
            (Test::Booleans { no, .. }, Value::Boolean(false)) => *no = true,
            (Test::Numbers(numbers), value) => {
                numbers
                    .push(number(field, kind, value).map_err(|error| error.inside(&path(index)))?);
            }
            _ => return Err(mismatch(field, kind, value).inside(&path(index))),
        }
    }
    if let Test::Numbers(numbers) = &mut test {
        numbers.sort_unstable_by(Number::compare);
    }
    Ok(test)
}

fn compile_range(
    field: &str,
    lower: Option<&Bound>,
    upper: Option<&Bound>,
    types: &AttributeTypes,
) -> Result<Test, FieldError> {
    let kind = type_of(field, "field", types)?;
    if matches!(kind, AttributeType::Keyword | AttributeType::Boolean) {
        let message = format!("{field:?} holds {kind} values: a range needs numbers or dates");
        return Err(FieldError::new("field", message));
    }
    let end = |bound: Option<&Bound>, name| {
        let number = bound
            .map(|bound| number_bound(field, kind, bound))
            .transpose();
        number.map_err(|error| error.inside(name))
    };
    Ok(Test::Between(end(lower, "lower")?, end(upper, "upper")?))
}

fn number_bound(
    field: &str,
    kind: AttributeType,
    bound: &Bound,
) -> Result<NumberBound, FieldError> {
    let number = number(field, kind, &bound.value)?;
    Ok(NumberBound {
        number,
        inclusive: bound.inclusive,
    })
}

fn number(field: &str, kind: AttributeType, value: &Value) -> Result<Number, FieldError> {
    match (kind, value) {
        (AttributeType::Date, Value::Keyword(text)) => {
            let date = parse_date(text).map(Number::Integer);
            let message = || format!("{text:?} is no date: RFC 3339 or YYYY-MM-DD");
            date.ok_or_else(|| FieldError::new("keyword", message()))
        }
        (AttributeType::Integer | AttributeType::Float, Value::Integer(value)) => {
            Ok(Number::Integer(*value))
        }
        (AttributeType::Integer | AttributeType::Float, Value::Float(value)) => {
            Ok(Number::Float(*value))
        }
        _ => Err(mismatch(field, kind, value)),
    }
}

fn mismatch(field: &str, kind: AttributeType, value: &Value) -> FieldError {
    FieldError::new(
        "",
        format!(
            "is of type {}, but {field:?} holds {kind} values",
            value.kind()
        ),
    )
}

impl Condition {
    /// The documents that satisfy the condition.
    fn evaluate(&self, attributes: &Attributes) -> Bitmap {
        match self {
            Self::All(conditions) => {
                let mut all = Bitmap::full(attributes.documents());
                conditions
                    .iter()
                    .for_each(|condition| all.and(&condition.evaluate(attributes)));
                all
            }
            Self::Any(conditions) => {
                let mut any = Bitmap::new(attributes.documents());
                conditions
                    .iter()
                    .for_each(|condition| any.or(&condition.evaluate(attributes)));
                any
            }
            Self::Not(condition) => {
                let mut satisfied = condition.evaluate(attributes);
                satisfied.not();
                satisfied
            }
            Self::Field { field, test } => match attributes.column(field) {
                Some(column) => test.evaluate(column, attributes.documents()),
                None => Bitmap::new(attributes.documents()),
            },
        }
    }
}

impl Test {
    fn evaluate(&self, column: Column<'_>, documents: u32) -> Bitmap {
        let found = Bitmap::new(documents);
        match (self, column.kind) {
            (Self::Anything, _) => documents_with(column, std::iter::repeat(true), found),
            (Self::Words(words), AttributeType::Keyword) => {
                let mut wanted: Vec<u32> =
                    words.iter().filter_map(|word| column.word(word)).collect();
                wanted.sort_unstable();
                let matches = column
                    .words()
                    .map(|word| wanted.binary_search(&word).is_ok());
                documents_with(column, matches, found)
            }
            (Self::Booleans { yes, no }, AttributeType::Boolean) => {
                let matches = column
                    .booleans()
                    .map(|value| if value { *yes } else { *no });
                documents_with(column, matches, found)
            }
            (_, AttributeType::Integer | AttributeType::Date) => {
                let matches = column
                    .integers()
                    .map(|value| self.accepts(Number::Integer(value)));
                documents_with(column, matches, found)
            }
            (_, AttributeType::Float) => {
                let matches = column
                    .floats()
                    .map(|value| self.accepts(Number::Float(value)));
                documents_with(column, matches, found)
            }
            // A segment whose columns are of other types than the collection's is refused when loaded.
            _ => found,
        }
    }

    fn accepts(&self, value: Number) -> bool {
        match self {
            Self::Numbers(wanted) => wanted
                .binary_search_by(|wanted| wanted.compare(&value))
                .is_ok(),
            Self::Between(lower, upper) => {
                lower.is_none_or(|lower| lower.admits(lower.number.compare(&value)))
                    && upper.is_none_or(|upper| upper.admits(value.compare(&upper.number)))
            }
            _ => false,
        }
    }
}

impl NumberBound {
    /// `order` is that of the two numbers, the smaller one first when inside.
    fn admits(self, order: Ordering) -> bool {
        order == Ordering::Less || (self.inclusive && order == Ordering::Equal)
    }
}

impl Number {
    /// By value, without rounding.
    fn compare(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Integer(left), Self::Integer(right)) => left.cmp(&right),
            (Self::Float(left), Self::Float(right)) => compare_floats(left, right),
            (Self::Integer(left), Self::Float(right)) => compare_integer(left, right),
            (Self::Float(left), Self::Integer(right)) => compare_integer(right, left).reverse(),
        }
    }
}

/// Both finite; the two zeros are equal.
fn compare_floats(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or(Ordering::Equal)
}

fn compare_integer(integer: i64, float: f64) -> Ordering {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if float >= END {
        return Ordering::Less;
    }
    if float < -END {
        return Ordering::Greater;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole and inside the range of i64"
    )]
    let whole = float.trunc() as i64;
    integer.cmp(&whole).then(compare_floats(0.0, float.fract()))
}

/// Adds the documents that have a value that matches; `matches` is parallel to the values of the column.
fn documents_with(
    column: Column<'_>,
    mut matches: impl Iterator<Item = bool>,
    mut found: Bitmap,
) -> Bitmap {
    for (document, values) in (0..found.bound()).zip(column.value_ranges()) {
        let of_document = matches.by_ref().take(values.len());
        if of_document.fold(false, |any, matches| any | matches) {
            found.set(document);
        }
    }
    found
}

#[cfg(test)]
mod tests;
