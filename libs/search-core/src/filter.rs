//! Conditions on the typed metadata of documents.
//!
//! This is the meaning; the wire form lies in `search-proto`, the text form in [`crate::filter_grammar`], and the one
//! evaluation in `segment`. Paths in errors are those of the wire form, the only one that has names for every place.

use crate::FieldError;

/// Deepest nesting; a plain comparison has depth 1.
pub const MAX_DEPTH: usize = 16;
/// Most conditions of one `all_of` or `any_of`.
pub const MAX_CONDITIONS: usize = 256;
/// Most values of one `one_of`.
pub const MAX_VALUES: usize = 4096;

/// A condition. Where a field holds a list, a comparison holds when one of its values satisfies it.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All of these hold.
    AllOf(Vec<Filter>),
    /// At least one of these holds.
    AnyOf(Vec<Filter>),
    /// This does not hold.
    Not(Box<Filter>),
    /// The field has this value.
    Equals {
        /// Metadata field.
        field: String,
        /// The value.
        value: Value,
    },
    /// The field has one of these values.
    OneOf {
        /// Metadata field.
        field: String,
        /// The values.
        values: Vec<Value>,
    },
    /// The field lies between two bounds. Numbers and dates only.
    Range {
        /// Metadata field.
        field: String,
        /// Lower bound; none: no lower bound.
        lower: Option<Bound>,
        /// Upper bound; none: no upper bound.
        upper: Option<Bound>,
    },
    /// The field is present.
    Exists {
        /// Metadata field.
        field: String,
    },
}

/// One end of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// Where the range ends.
    pub value: Value,
    /// Whether the end itself is inside.
    pub inclusive: bool,
}

/// One typed value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Compared to the byte; or a date, where the field holds dates.
    Keyword(String),
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Float(f64),
    /// True or false.
    Boolean(bool),
}

impl Value {
    /// What the value is, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Keyword(_) => "keyword",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::Boolean(_) => "boolean",
        }
    }
}

/// Conditions and listed values of a whole filter: each is looked up for every document of a segment.
pub const MAX_SIZE: usize = 8192;

impl Filter {
    /// Checks every limit. The path of an error starts below the filter itself, as in `all_of.filters[2].range.lower`.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.validate_at(1)?;
        let size = self.size();
        if size > MAX_SIZE {
            let message =
                format!("has {size} conditions and values in all; at most {MAX_SIZE} are allowed");
            return Err(FieldError::new("", message));
        }
        Ok(())
    }

    /// Conditions and listed values in all.
    fn size(&self) -> usize {
        match self {
            Self::AllOf(filters) | Self::AnyOf(filters) => {
                1 + filters.iter().map(Self::size).sum::<usize>()
            }
            Self::Not(filter) => 1 + filter.size(),
            Self::OneOf { values, .. } => values.len(),
            Self::Equals { .. } | Self::Range { .. } | Self::Exists { .. } => 1,
        }
    }

    fn validate_at(&self, depth: usize) -> Result<(), FieldError> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match self {
            Self::AllOf(filters) => {
                validate_list(filters, depth).map_err(|error| error.inside("all_of"))
            }
            Self::AnyOf(filters) => {
                validate_list(filters, depth).map_err(|error| error.inside("any_of"))
            }
            Self::Not(filter) => filter
                .validate_at(depth + 1)
                .map_err(|error| error.inside("not")),
            Self::Equals { field, value } => {
                validate_equals(field, value).map_err(|error| error.inside("equals"))
            }
            Self::OneOf { field, values } => {
                validate_one_of(field, values).map_err(|error| error.inside("one_of"))
            }
            Self::Range {
                field,
                lower,
                upper,
            } => validate_range(field, lower.as_ref(), upper.as_ref())
                .map_err(|error| error.inside("range")),
            Self::Exists { field } => validate_field("exists", field),
        }
    }
}

/// The error of a filter that is nested deeper than [`MAX_DEPTH`].
pub fn too_deep() -> FieldError {
    FieldError::new("", format!("is nested deeper than {MAX_DEPTH}"))
}

fn validate_list(filters: &[Filter], depth: usize) -> Result<(), FieldError> {
    validate_count(filters.len(), MAX_CONDITIONS, "filters", "conditions")?;
    for (position, filter) in filters.iter().enumerate() {
        filter
            .validate_at(depth + 1)
            .map_err(|error| error.inside(&format!("filters[{position}]")))?;
    }
    Ok(())
}

fn validate_equals(field: &str, value: &Value) -> Result<(), FieldError> {
    validate_field("field", field)?;
    validate_value(value).map_err(|error| error.inside("value"))
}

fn validate_one_of(field: &str, values: &[Value]) -> Result<(), FieldError> {
    validate_field("field", field)?;
    validate_count(values.len(), MAX_VALUES, "values", "values")?;
    for (position, value) in values.iter().enumerate() {
        validate_value(value).map_err(|error| error.inside(&format!("values[{position}]")))?;
    }
    Ok(())
}

fn validate_range(
    field: &str,
    lower: Option<&Bound>,
    upper: Option<&Bound>,
) -> Result<(), FieldError> {
    validate_field("field", field)?;
    if lower.is_none() && upper.is_none() {
        return Err(FieldError::new("", "needs a lower or an upper bound"));
    }
    for (name, bound) in [("lower", lower), ("upper", upper)] {
        bound
            .map_or(Ok(()), validate_bound)
            .map_err(|error| error.inside(name))?;
    }
    match (lower, upper) {
        (Some(lower), Some(upper)) if is_number(&lower.value) != is_number(&upper.value) => {
            let message = format!(
                "is a {}, but the lower bound is a {}",
                upper.value.kind(),
                lower.value.kind()
            );
            Err(FieldError::new("upper", message))
        }
        _ => Ok(()),
    }
}

fn validate_bound(bound: &Bound) -> Result<(), FieldError> {
    match bound.value {
        Value::Boolean(_) => Err(FieldError::new(
            "",
            "must be a number or a date, not a boolean",
        )),
        _ => validate_value(&bound.value),
    }
}

fn validate_value(value: &Value) -> Result<(), FieldError> {
    match value {
        Value::Float(number) if !number.is_finite() => {
            Err(FieldError::new("float", "must be finite"))
        }
        _ => Ok(()),
    }
}

fn validate_field(path: &str, field: &str) -> Result<(), FieldError> {
    if field.is_empty() {
        Err(FieldError::new(path, "must name a metadata field"))
    } else {
        Ok(())
    }
}

fn validate_count(count: usize, limit: usize, path: &str, noun: &str) -> Result<(), FieldError> {
    if (1..=limit).contains(&count) {
        return Ok(());
    }
    Err(FieldError::new(
        path,
        format!("has {count} {noun}; 1 to {limit} are allowed"),
    ))
}

const fn is_number(value: &Value) -> bool {
    matches!(value, Value::Integer(_) | Value::Float(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exists() -> Filter {
        Filter::Exists {
            field: "year".to_owned(),
        }
    }

    fn nested(depth: usize) -> Filter {
        (1..depth).fold(exists(), |filter, _| Filter::Not(Box::new(filter)))
    }

    fn error(filter: &Filter) -> String {
        filter.validate().unwrap_err().to_string()
    }

    fn bound(value: Value) -> Option<Bound> {
        Some(Bound {
            value,
            inclusive: true,
        })
    }

    #[test]
    fn depth_is_limited() {
        assert_eq!(nested(MAX_DEPTH).validate(), Ok(()));
        assert!(error(&nested(MAX_DEPTH + 1)).ends_with("not: is nested deeper than 16"));
    }

    #[test]
    fn counts_are_limited() {
        assert_eq!(
            error(&Filter::AllOf(vec![])),
            "all_of.filters: has 0 conditions; 1 to 256 are allowed"
        );
        assert_eq!(
            Filter::AnyOf(vec![exists(); MAX_CONDITIONS]).validate(),
            Ok(())
        );
        assert!(
            Filter::AnyOf(vec![exists(); MAX_CONDITIONS + 1])
                .validate()
                .is_err()
        );
        let one_of = |count| Filter::OneOf {
            field: "year".to_owned(),
            values: vec![Value::Integer(1); count],
        };
        assert_eq!(
            error(&one_of(0)),
            "one_of.values: has 0 values; 1 to 4096 are allowed"
        );
        assert_eq!(one_of(MAX_VALUES).validate(), Ok(()));
        assert!(one_of(MAX_VALUES + 1).validate().is_err());
    }

    #[test]
    fn errors_name_the_place() {
        let range = |lower, upper| Filter::Range {
            field: "year".to_owned(),
            lower,
            upper,
        };
        let deep = Filter::AllOf(vec![
            exists(),
            Filter::Not(Box::new(range(bound(Value::Float(f64::NAN)), None))),
        ]);
        assert_eq!(
            error(&deep),
            "all_of.filters[1].not.range.lower.float: must be finite"
        );
        assert_eq!(
            error(&range(None, None)),
            "range: needs a lower or an upper bound"
        );
        assert_eq!(
            error(&range(bound(Value::Boolean(true)), None)),
            "range.lower: must be a number or a date, not a boolean"
        );
        assert_eq!(
            error(&range(
                bound(Value::Integer(1)),
                bound(Value::Keyword("2020".to_owned()))
            )),
            "range.upper: is a keyword, but the lower bound is a integer"
        );
        assert_eq!(
            error(&Filter::Exists {
                field: String::new()
            }),
            "exists: must name a metadata field"
        );
    }
}
