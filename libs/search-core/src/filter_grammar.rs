//! Filters as people write them: `year >= 2019 and (lang = "en" or not exists lang)`.
//!
//! ```text
//! any        = all { "or" all }
//! all        = unary { "and" unary }
//! unary      = "not" unary | "(" any ")" | "exists" field | comparison
//! comparison = field ("=" | "!=" | "<" | "<=" | ">" | ">=") value
//!            | field ["not"] "in" "(" value { "," value } ")"
//!            | value ("<" | "<=") field ("<" | "<=") value
//! ```
//!
//! Keywords are case-insensitive. A value is a number, `true`, `false`, a "quoted" or 'quoted' string (`\"` and `\\` inside) or a bare word,
//! which is a string too. A field is a bare word, or quoted where it has other characters. [`Filter`]'s `Display` prints this
//! grammar, and what it prints is read back as the same filter.

use crate::filter::{MAX_DEPTH, too_deep};
use crate::{Bound, Filter, Value};
use std::fmt;

/// Words that are part of the grammar, and so must be quoted to be a field or a value.
const RESERVED: [&str; 5] = ["and", "or", "not", "in", "exists"];

/// What cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {message}")]
pub struct FilterSyntaxError {
    /// Offset in the text, in bytes; its length at the end.
    pub at: usize,
    /// What was expected.
    pub message: String,
}

/// Reads a filter and checks its limits.
pub fn parse(text: &str) -> Result<Filter, FilterSyntaxError> {
    let tokens = tokenize(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        next: 0,
        end: text.len(),
        depth: 1,
    };
    let filter = parser.any()?;
    parser.expect_end()?;
    filter.validate().map_err(|error| FilterSyntaxError {
        at: 0,
        message: error.message,
    })?;
    Ok(filter)
}

#[derive(Clone, Debug, PartialEq)]
enum TokenKind {
    /// A bare word: a keyword of the grammar, a field, a number, a boolean or a string.
    Word(String),
    Quoted(String),
    /// `( ) , = != < <= > >=`
    Symbol(&'static str),
}

#[derive(Clone, Debug)]
struct Token {
    at: usize,
    kind: TokenKind,
}

/// Longer symbols first.
const SYMBOLS: [&str; 9] = ["!=", "<=", ">=", "<", ">", "=", "(", ")", ","];

fn tokenize(text: &str) -> Result<Vec<Token>, FilterSyntaxError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let rest = text[at..].trim_start();
        at = text.len() - rest.len();
        if rest.is_empty() {
            return Ok(tokens);
        }
        let (kind, bytes) = next_token(rest, at)?;
        tokens.push(Token { at, kind });
        at += bytes;
    }
}

fn next_token(rest: &str, at: usize) -> Result<(TokenKind, usize), FilterSyntaxError> {
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        return quoted(rest, quote, at);
    }
    if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
        return Ok((TokenKind::Symbol(symbol), symbol.len()));
    }
    let bytes = rest
        .find(|character: char| !is_word(character))
        .unwrap_or(rest.len());
    if bytes == 0 {
        return Err(FilterSyntaxError {
            at,
            message: "'!' is no operator; did you mean '!='?".to_owned(),
        });
    }
    Ok((TokenKind::Word(rest[..bytes].to_owned()), bytes))
}

fn is_word(character: char) -> bool {
    !character.is_whitespace() && !"!<>=(),\"".contains(character)
}

fn quoted(rest: &str, quote: char, at: usize) -> Result<(TokenKind, usize), FilterSyntaxError> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((offset, character)) = characters.next() {
        match character {
            _ if character == quote => return Ok((TokenKind::Quoted(text), offset + 1)),
            '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => text.push(character),
        }
    }
    Err(FilterSyntaxError {
        at,
        message: "this quote is not closed".to_owned(),
    })
}

struct Parser<'a> {
    tokens: &'a [Token],
    next: usize,
    /// Length of the text: where an error at its end is.
    end: usize,
    depth: usize,
}

type Parsed<T> = Result<T, FilterSyntaxError>;

impl Parser<'_> {
    fn any(&mut self) -> Parsed<Filter> {
        let first = self.all()?;
        self.list(first, "or", Filter::AnyOf, Self::all)
    }

    fn all(&mut self) -> Parsed<Filter> {
        let first = self.unary()?;
        self.list(first, "and", Filter::AllOf, Self::unary)
    }

    fn list(
        &mut self,
        first: Filter,
        word: &str,
        join: fn(Vec<Filter>) -> Filter,
        operand: fn(&mut Self) -> Parsed<Filter>,
    ) -> Parsed<Filter> {
        let mut filters = vec![first];
        while self.take_word(word) {
            filters.push(operand(self)?);
        }
        if filters.len() == 1 {
            Ok(filters.swap_remove(0))
        } else {
            Ok(join(filters))
        }
    }

    fn unary(&mut self) -> Parsed<Filter> {
        if self.take_word("not") {
            let filter = self.deeper(Self::unary)?;
            return Ok(Filter::Not(Box::new(filter)));
        }
        if self.take_symbol("(") {
            let filter = self.deeper(Self::any)?;
            return self.expect_symbol(")").map(|()| filter);
        }
        if self.take_word("exists") {
            return Ok(Filter::Exists {
                field: self.field()?,
            });
        }
        self.comparison()
    }

    /// Guards the stack: the text decides how deep this recursion goes.
    fn deeper(&mut self, inner: fn(&mut Self) -> Parsed<Filter>) -> Parsed<Filter> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(&too_deep().message));
        }
        self.depth += 1;
        let filter = inner(self)?;
        self.depth -= 1;
        Ok(filter)
    }

    fn comparison(&mut self) -> Parsed<Filter> {
        if self.is_chain() {
            return self.chain();
        }
        let field = self.field()?;
        if self.take_word("in") {
            return Ok(Filter::OneOf {
                field,
                values: self.values()?,
            });
        }
        if self.take_word("not") {
            self.expect_word("in")?;
            return Ok(Filter::Not(Box::new(Filter::OneOf {
                field,
                values: self.values()?,
            })));
        }
        let operator = self.operator("one of = != < <= > >= in")?;
        let value = self.value()?;
        Ok(compare(field, operator, value))
    }

    /// `lower < field <= upper`: the operator behind the second operand tells it from `field < upper`.
    fn is_chain(&self) -> bool {
        let is_less = |token: Option<&Token>| {
            token.is_some_and(|token| matches!(token.kind, TokenKind::Symbol("<" | "<=")))
        };
        is_less(self.tokens.get(self.next + 1)) && is_less(self.tokens.get(self.next + 3))
    }

    fn chain(&mut self) -> Parsed<Filter> {
        let value = self.value()?;
        let lower = Bound {
            value,
            inclusive: self.operator("<")? == "<=",
        };
        let field = self.field()?;
        let inclusive = self.operator("<")? == "<=";
        let upper = Bound {
            value: self.value()?,
            inclusive,
        };
        Ok(Filter::Range {
            field,
            lower: Some(lower),
            upper: Some(upper),
        })
    }

    fn values(&mut self) -> Parsed<Vec<Value>> {
        self.expect_symbol("(")?;
        let mut values = vec![self.value()?];
        while self.take_symbol(",") {
            values.push(self.value()?);
        }
        self.expect_symbol(")")?;
        Ok(values)
    }

    fn field(&mut self) -> Parsed<String> {
        match self.peek() {
            Some(TokenKind::Word(word)) if !is_reserved(word) => Ok(self.advance(word.clone())),
            Some(TokenKind::Quoted(text)) if !text.is_empty() => Ok(self.advance(text.clone())),
            _ => Err(self.error("a field name was expected")),
        }
    }

    fn value(&mut self) -> Parsed<Value> {
        match self.peek() {
            Some(TokenKind::Word(word)) if !is_reserved(word) => Ok(self.advance(typed(word))),
            Some(TokenKind::Quoted(text)) => Ok(self.advance(Value::Keyword(text.clone()))),
            _ => Err(self.error("a value was expected")),
        }
    }

    fn operator(&mut self, expected: &str) -> Parsed<&'static str> {
        match self.peek() {
            Some(TokenKind::Symbol(symbol)) if !["(", ")", ","].contains(symbol) => {
                Ok(self.advance(*symbol))
            }
            _ => Err(self.error(&format!("{expected} was expected"))),
        }
    }

    fn peek(&self) -> Option<&TokenKind> {
        self.tokens.get(self.next).map(|token| &token.kind)
    }

    fn advance<T>(&mut self, value: T) -> T {
        self.next += 1;
        value
    }

    fn take_if(&mut self, wanted: impl Fn(&TokenKind) -> bool) -> bool {
        let taken = self.peek().is_some_and(wanted);
        self.next += usize::from(taken);
        taken
    }

    fn take_word(&mut self, keyword: &str) -> bool {
        self.take_if(
            |kind| matches!(kind, TokenKind::Word(word) if word.eq_ignore_ascii_case(keyword)),
        )
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        self.take_if(|kind| matches!(kind, TokenKind::Symbol(found) if *found == symbol))
    }

    fn expect_word(&mut self, keyword: &str) -> Parsed<()> {
        if self.take_word(keyword) {
            Ok(())
        } else {
            Err(self.error(&format!("'{keyword}' was expected")))
        }
    }

    fn expect_symbol(&mut self, symbol: &str) -> Parsed<()> {
        if self.take_symbol(symbol) {
            Ok(())
        } else {
            Err(self.error(&format!("'{symbol}' was expected")))
        }
    }

    fn expect_end(&self) -> Parsed<()> {
        if self.peek().is_none() {
            Ok(())
        } else {
            Err(self.error("'and', 'or' or the end was expected"))
        }
    }

    fn error(&self, message: &str) -> FilterSyntaxError {
        let at = self
            .tokens
            .get(self.next)
            .map_or(self.end, |token| token.at);
        FilterSyntaxError {
            at,
            message: message.to_owned(),
        }
    }
}

fn compare(field: String, operator: &str, value: Value) -> Filter {
    let bound = |inclusive| {
        Some(Bound {
            value: value.clone(),
            inclusive,
        })
    };
    match operator {
        "<" => Filter::Range {
            field,
            lower: None,
            upper: bound(false),
        },
        "<=" => Filter::Range {
            field,
            lower: None,
            upper: bound(true),
        },
        ">" => Filter::Range {
            field,
            lower: bound(false),
            upper: None,
        },
        ">=" => Filter::Range {
            field,
            lower: bound(true),
            upper: None,
        },
        "!=" => Filter::Not(Box::new(Filter::Equals { field, value })),
        _ => Filter::Equals { field, value },
    }
}

fn is_reserved(word: &str) -> bool {
    RESERVED
        .iter()
        .any(|reserved| word.eq_ignore_ascii_case(reserved))
}

/// What a bare word is. Names of infinities and NaN are strings.
fn typed(word: &str) -> Value {
    if let Ok(integer) = word.parse() {
        return Value::Integer(integer);
    }
    let has_digits = word.bytes().any(|byte| byte.is_ascii_digit());
    match word.parse::<f64>() {
        Ok(float) if has_digits && float.is_finite() => Value::Float(float),
        _ if word.eq_ignore_ascii_case("true") => Value::Boolean(true),
        _ if word.eq_ignore_ascii_case("false") => Value::Boolean(false),
        _ => Value::Keyword(word.to_owned()),
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllOf(filters) => write_list(formatter, filters, " and "),
            Self::AnyOf(filters) => write_list(formatter, filters, " or "),
            Self::Not(filter) => write!(formatter, "not {}", Operand(filter)),
            Self::Equals { field, value } => write!(formatter, "{} = {value}", Field(field)),
            Self::OneOf { field, values } => {
                write!(formatter, "{} in (", Field(field))?;
                write_joined(formatter, values, ", ")?;
                formatter.write_str(")")
            }
            Self::Range {
                field,
                lower,
                upper,
            } => write_range(formatter, field, lower.as_ref(), upper.as_ref()),
            Self::Exists { field } => write!(formatter, "exists {}", Field(field)),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyword(text) => write_quoted(formatter, text),
            Self::Integer(integer) => integer.fmt(formatter),
            // `{:?}` keeps a point or an exponent, so that a float is read back as one.
            Self::Float(float) => write!(formatter, "{float:?}"),
            Self::Boolean(boolean) => boolean.fmt(formatter),
        }
    }
}

/// A filter inside another one: lists take parentheses.
struct Operand<'a>(&'a Filter);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Filter::AllOf(_) | Filter::AnyOf(_) => write!(formatter, "({})", self.0),
            filter => filter.fmt(formatter),
        }
    }
}

struct Field<'a>(&'a str);

impl fmt::Display for Field<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bare = !self.0.is_empty()
            && !self.0.starts_with('\'')
            && self.0.chars().all(is_word)
            && !is_reserved(self.0);
        if is_bare {
            formatter.write_str(self.0)
        } else {
            write_quoted(formatter, self.0)
        }
    }
}

fn write_list(
    formatter: &mut fmt::Formatter<'_>,
    filters: &[Filter],
    separator: &str,
) -> fmt::Result {
    write_joined(formatter, filters.iter().map(Operand), separator)
}

fn write_joined<T: fmt::Display>(
    formatter: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = T>,
    separator: &str,
) -> fmt::Result {
    for (position, item) in items.into_iter().enumerate() {
        formatter.write_str(if position > 0 { separator } else { "" })?;
        item.fmt(formatter)?;
    }
    Ok(())
}

fn write_range(
    formatter: &mut fmt::Formatter<'_>,
    field: &str,
    lower: Option<&Bound>,
    upper: Option<&Bound>,
) -> fmt::Result {
    let less = |bound: &Bound| if bound.inclusive { "<=" } else { "<" };
    let more = |bound: &Bound| if bound.inclusive { ">=" } else { ">" };
    let field = Field(field);
    match (lower, upper) {
        (Some(low), Some(high)) => {
            write!(
                formatter,
                "{} {} {field} {} {}",
                low.value,
                less(low),
                less(high),
                high.value
            )
        }
        (Some(low), None) => write!(formatter, "{field} {} {}", more(low), low.value),
        (None, Some(high)) => write!(formatter, "{field} {} {}", less(high), high.value),
        (None, None) => write!(formatter, "{field} without bounds"),
    }
}

fn write_quoted(formatter: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    write!(formatter, "\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn equals(field: &str, value: Value) -> Filter {
        Filter::Equals {
            field: field.to_owned(),
            value,
        }
    }

    fn keyword(text: &str) -> Value {
        Value::Keyword(text.to_owned())
    }

    fn lower(field: &str, value: Value, inclusive: bool) -> Filter {
        Filter::Range {
            field: field.to_owned(),
            lower: Some(Bound { value, inclusive }),
            upper: None,
        }
    }

    #[test]
    fn reads_the_example_of_the_documentation() {
        let expected = Filter::AllOf(vec![
            lower("year", Value::Integer(2019), true),
            Filter::AnyOf(vec![
                equals("lang", keyword("en")),
                Filter::Not(Box::new(Filter::Exists {
                    field: "lang".to_owned(),
                })),
            ]),
        ]);
        assert_eq!(
            parse("year >= 2019 and (lang = \"en\" or not exists lang)"),
            Ok(expected.clone())
        );
        assert_eq!(
            parse("year>=2019 AND(lang=en OR NOT EXISTS lang)"),
            Ok(expected)
        );
    }

    #[test]
    fn and_binds_closer_than_or() {
        let [a, b, c] = ["a", "b", "c"].map(|field| equals(field, Value::Integer(1)));
        assert_eq!(
            parse("a = 1 or b = 1 and c = 1"),
            Ok(Filter::AnyOf(vec![a, Filter::AllOf(vec![b, c])]))
        );
    }

    #[test]
    fn types_bare_words() {
        let value = |text: &str| match parse(&format!("f = {text}")).unwrap() {
            Filter::Equals { value, .. } => value,
            other => panic!("{other}"),
        };
        assert_eq!(value("-7"), Value::Integer(-7));
        assert_eq!(value("1e3"), Value::Float(1000.0));
        assert_eq!(value("0.5"), Value::Float(0.5));
        assert_eq!(value("TRUE"), Value::Boolean(true));
        assert_eq!(value("2019-01-31"), keyword("2019-01-31"));
        assert_eq!(
            value("2019-01-31T10:00:00Z"),
            keyword("2019-01-31T10:00:00Z")
        );
        assert_eq!(value("nan"), keyword("nan"));
        assert_eq!(value("-inf"), keyword("-inf"));
        assert_eq!(value("1e999"), keyword("1e999"));
        assert_eq!(value("\"7\""), keyword("7"));
        assert_eq!(value(r#""a \"b\" \\ c""#), keyword(r#"a "b" \ c"#));
    }

    #[test]
    fn reads_in_not_in_unequal_and_chains() {
        let one_of = Filter::OneOf {
            field: "lang".to_owned(),
            values: vec![keyword("en"), keyword("de")],
        };
        assert_eq!(parse("lang in (en, de)"), Ok(one_of.clone()));
        assert_eq!(
            parse("lang not in (en, de)"),
            Ok(Filter::Not(Box::new(one_of)))
        );
        assert_eq!(
            parse("lang != en"),
            Ok(Filter::Not(Box::new(equals("lang", keyword("en")))))
        );
        let range = Filter::Range {
            field: "year".to_owned(),
            lower: Some(Bound {
                value: Value::Integer(2000),
                inclusive: true,
            }),
            upper: Some(Bound {
                value: Value::Integer(2010),
                inclusive: false,
            }),
        };
        assert_eq!(parse("2000 <= year < 2010"), Ok(range));
    }

    #[test]
    fn says_where_and_what() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error(""), "at byte 0: a field name was expected");
        assert_eq!(error("year >="), "at byte 7: a value was expected");
        assert_eq!(
            error("year 2019"),
            "at byte 5: one of = != < <= > >= in was expected"
        );
        assert_eq!(
            error("year = 1 lang = 2"),
            "at byte 9: 'and', 'or' or the end was expected"
        );
        assert_eq!(error("(year = 1"), "at byte 9: ')' was expected");
        assert_eq!(error("lang = \"en"), "at byte 7: this quote is not closed");
        assert_eq!(error("lang = 'en"), "at byte 7: this quote is not closed");
        assert_eq!(
            error("lang ! en"),
            "at byte 5: '!' is no operator; did you mean '!='?"
        );
        assert_eq!(error("lang in ()"), "at byte 9: a value was expected");
        assert_eq!(error("and = 1"), "at byte 0: a field name was expected");
        assert_eq!(
            error("year > true"),
            "at byte 0: must be a number or a date, not a boolean"
        );
    }

    #[test]
    fn nesting_is_limited_before_the_stack_is() {
        let deep = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(parse(&deep(MAX_DEPTH - 1)).is_ok());
        assert!(
            parse(&deep(100_000))
                .unwrap_err()
                .message
                .contains("nested deeper than 16")
        );
        assert!(
            parse(&"not ".repeat(100_000))
                .unwrap_err()
                .message
                .contains("nested deeper than 16")
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(Value::Keyword),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>()
                .prop_filter("finite", |float| float.is_finite())
                .prop_map(Value::Float),
            any::<bool>().prop_map(Value::Boolean),
        ]
    }

    fn any_number_bound() -> impl Strategy<Value = Bound> {
        let value = prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            (-1e9..1e9).prop_map(Value::Float)
        ];
        (value, any::<bool>()).prop_map(|(value, inclusive)| Bound { value, inclusive })
    }

    fn any_field() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z_.]{1,6}",
            "\\PC{1,6}",
            Just("not".to_owned()),
            Just("In".to_owned())
        ]
    }

    fn any_leaf() -> impl Strategy<Value = Filter> {
        prop_oneof![
            any_field().prop_map(|field| Filter::Exists { field }),
            (any_field(), any_value()).prop_map(|(field, value)| Filter::Equals { field, value }),
            (any_field(), prop::collection::vec(any_value(), 1..4))
                .prop_map(|(field, values)| Filter::OneOf { field, values }),
            (
                any_field(),
                any_number_bound(),
                prop::option::of(any_number_bound())
            )
                .prop_map(|(field, lower, upper)| Filter::Range {
                    field,
                    lower: Some(lower),
                    upper
                }),
            (any_field(), any_number_bound()).prop_map(|(field, upper)| Filter::Range {
                field,
                lower: None,
                upper: Some(upper)
            }),
        ]
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        any_leaf().prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::AllOf),
                prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::AnyOf),
                inner.prop_map(|filter| Filter::Not(Box::new(filter))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(filter in any_filter()) {
            prop_assert_eq!(parse(&filter.to_string()), Ok(filter.clone()), "{}", filter);
        }

        #[test]
        fn never_panics(text in "[ a-z0-9().,=<>!\"\\\\é]{0,60}|\\PC{0,40}") {
            if let Ok(filter) = parse(&text) {
                prop_assert_eq!(parse(&filter.to_string()), Ok(filter));
            }
        }
    }
}
