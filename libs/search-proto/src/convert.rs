//! Wire messages from and to the types of `search-core`.
//!
//! Nothing that arrives is trusted: lengths, finiteness, enums, depth and missing messages are checked, and each error is a
//! [`FieldError`] with the path of the field below the converted message. The caller puts its own field's name in front with
//! [`FieldError::inside`].

mod rerank;
mod texts;

use crate::{common, search};
use common::filter::Condition;
use common::value::Kind;
use search_core::filter::{MAX_DEPTH, too_deep};
use search_core::{
    Address, Bound, Candidate, CollectionName, FieldError, Filter, HeldSnapshot, RefusedCollection,
    RefusedSegment, Score, SnapshotId, StageReason, StageReport, StageStatus, Value, micros,
};
use std::time::Duration;

pub use rerank::{MAX_PASSAGE_BYTES, calibrated, check_rerank_request, keep_best};
pub use texts::{check_text, check_texts, most_encoded_texts};

/// Packs candidates, in their order.
pub fn candidates_to_wire(candidates: &[Candidate]) -> common::Candidates {
    common::Candidates {
        addresses: candidates
            .iter()
            .map(|candidate| candidate.address.to_u64())
            .collect(),
        scores: candidates
            .iter()
            .map(|candidate| candidate.score.get())
            .collect(),
        places: candidates.iter().map(place_in_document).collect(),
    }
}

/// Unpacks candidates, in their order.
pub fn candidates_from_wire(wire: &common::Candidates) -> Result<Vec<Candidate>, FieldError> {
    for (field, values) in [("scores", wire.scores.len()), ("places", wire.places.len())] {
        if values != wire.addresses.len() {
            let message = format!("has {values} values for {} addresses", wire.addresses.len());
            return Err(FieldError::new(field, message));
        }
    }
    let candidate = |(position, &address): (usize, &u64)| {
        let address = Address::from_u64(address);
        Ok(Candidate {
            address,
            document: document_from_wire(address, wire.places[position], position)?,
            score: score_from_wire(wire.scores[position], position)?,
        })
    };
    wire.addresses.iter().enumerate().map(candidate).collect()
}

/// How far a passage is behind the first one of its document.
fn place_in_document(candidate: &Candidate) -> u32 {
    candidate
        .address
        .ordinal()
        .saturating_sub(candidate.document.ordinal())
}

fn document_from_wire(
    address: Address,
    place: u32,
    position: usize,
) -> Result<Address, FieldError> {
    let outside = || {
        let message = format!("is {place} for the passage {address}");
        FieldError::new(format!("places[{position}]"), message)
    };
    let first = address.ordinal().checked_sub(place).ok_or_else(outside)?;
    Ok(Address::new(address.segment(), first))
}

/// Checks an array of scores.
pub fn scores_from_wire(scores: &[f32]) -> Result<Vec<Score>, FieldError> {
    scores
        .iter()
        .enumerate()
        .map(|(position, score)| score_from_wire(*score, position))
        .collect()
}

fn score_from_wire(score: f32, position: usize) -> Result<Score, FieldError> {
    Score::try_from(score)
        .map_err(|error| FieldError::new(format!("scores[{position}]"), error.to_string()))
}

/// Packs addresses, in their order.
pub fn addresses_to_wire(addresses: &[Address]) -> Vec<u64> {
    addresses.iter().map(|address| address.to_u64()).collect()
}

/// Reads the `addresses` of a request, in their order: at least one, at most `most`. Every number is one.
pub fn addresses_from_wire(addresses: &[u64], most: usize) -> Result<Vec<Address>, FieldError> {
    if (1..=most).contains(&addresses.len()) {
        return Ok(addresses.iter().copied().map(Address::from_u64).collect());
    }
    let message = format!("has {} addresses, must have 1 to {most}", addresses.len());
    Err(FieldError::new("addresses", message))
}

/// Names a snapshot.
pub fn snapshot_to_wire(snapshot: &SnapshotId) -> common::Snapshot {
    common::Snapshot {
        collection: snapshot.collection.to_string(),
        number: snapshot.number,
    }
}

/// Reads the `snapshot` of a request. Paths start with `snapshot`.
pub fn snapshot_from_wire(wire: Option<&common::Snapshot>) -> Result<SnapshotId, FieldError> {
    let wire = wire.ok_or_else(|| FieldError::new("snapshot", "is missing"))?;
    let collection = CollectionName::try_from(wire.collection.as_str())
        .map_err(|error| FieldError::new("snapshot.collection", error.to_string()))?;
    if wire.number == 0 {
        return Err(FieldError::new("snapshot.number", "must be 1 or more"));
    }
    Ok(SnapshotId {
        collection,
        number: wire.number,
    })
}

/// Where the time went, in whole microseconds.
pub fn timing_to_wire(queue: Duration, compute: Duration) -> common::Timing {
    common::Timing {
        queue_us: micros(queue),
        compute_us: micros(compute),
    }
}

/// What a replica announces.
pub fn held_to_wire(
    held: Vec<HeldSnapshot>,
    refused: Vec<RefusedCollection>,
) -> common::DescribeResponse {
    let refused = refused.into_iter().map(refused_collection_to_wire);
    common::DescribeResponse {
        snapshots: held.into_iter().map(held_snapshot_to_wire).collect(),
        refused_collections: refused.collect(),
    }
}

fn refused_collection_to_wire(refused: RefusedCollection) -> common::RefusedCollection {
    common::RefusedCollection {
        collection: refused.collection.into(),
        reason: refused.reason,
        may_pass: refused.may_pass,
    }
}

/// Reads a collection that a replica refused.
pub fn refused_collection_from_wire(
    wire: common::RefusedCollection,
) -> Result<RefusedCollection, FieldError> {
    let collection = CollectionName::try_from(wire.collection.as_str())
        .map_err(|error| FieldError::new("collection", error.to_string()))?;
    if wire.reason.is_empty() {
        return Err(FieldError::new("reason", "is empty"));
    }
    Ok(RefusedCollection {
        collection,
        reason: wire.reason,
        may_pass: wire.may_pass,
    })
}

fn held_snapshot_to_wire(held: HeldSnapshot) -> common::HeldSnapshot {
    common::HeldSnapshot {
        snapshot: Some(common::Snapshot {
            collection: held.collection.into(),
            number: held.number,
        }),
        shards: held.shards,
        held_shards: held.held_shards,
        encoder_fingerprint: held.encoder_fingerprint,
        rescore_fingerprint: held.rescore_fingerprint,
        colbert_fingerprint: held.colbert_fingerprint,
        title_tokens: held.title_tokens,
        passages: held.passages,
        refused_segments: held.refused.into_iter().map(refused_to_wire).collect(),
    }
}

fn refused_to_wire(refused: RefusedSegment) -> common::RefusedSegment {
    common::RefusedSegment {
        segment: refused.segment,
        shard: refused.shard,
        reason: refused.reason,
    }
}

/// The wire form of a filter.
pub fn filter_to_wire(filter: &Filter) -> common::Filter {
    let condition = match filter {
        Filter::AllOf(filters) => Condition::AllOf(list_to_wire(filters)),
        Filter::AnyOf(filters) => Condition::AnyOf(list_to_wire(filters)),
        Filter::Not(filter) => Condition::Not(Box::new(filter_to_wire(filter))),
        Filter::Equals { field, value } => Condition::Equals(common::FieldValue {
            field: field.clone(),
            value: Some(value_to_wire(value)),
        }),
        Filter::OneOf { field, values } => Condition::OneOf(common::FieldValues {
            field: field.clone(),
            values: values.iter().map(value_to_wire).collect(),
        }),
        Filter::Range {
            field,
            lower,
            upper,
        } => Condition::Range(range_to_wire(field, lower.as_ref(), upper.as_ref())),
        Filter::Exists { field } => Condition::Exists(field.clone()),
    };
    common::Filter {
        condition: Some(condition),
    }
}

fn list_to_wire(filters: &[Filter]) -> common::FilterList {
    common::FilterList {
        filters: filters.iter().map(filter_to_wire).collect(),
    }
}

fn range_to_wire(field: &str, lower: Option<&Bound>, upper: Option<&Bound>) -> common::FieldRange {
    let exclusive = |bound: Option<&Bound>| bound.is_some_and(|bound| !bound.inclusive);
    common::FieldRange {
        field: field.to_owned(),
        lower: lower.map(|bound| value_to_wire(&bound.value)),
        upper: upper.map(|bound| value_to_wire(&bound.value)),
        lower_exclusive: exclusive(lower),
        upper_exclusive: exclusive(upper),
    }
}

fn value_to_wire(value: &Value) -> common::Value {
    let kind = match value {
        Value::Keyword(text) => Kind::Keyword(text.clone()),
        Value::Integer(integer) => Kind::Integer(*integer),
        Value::Float(float) => Kind::Float(*float),
        Value::Boolean(boolean) => Kind::Boolean(*boolean),
    };
    common::Value { kind: Some(kind) }
}

/// Reads a filter and checks all its limits. Paths start below the filter.
pub fn filter_from_wire(wire: common::Filter) -> Result<Filter, FieldError> {
    let filter = filter_at(wire, 1)?;
    filter.validate()?;
    Ok(filter)
}

/// Reads the optional `filter` of a request. Paths start with `filter`.
pub fn request_filter(wire: Option<common::Filter>) -> Result<Option<Filter>, FieldError> {
    wire.map(filter_from_wire)
        .transpose()
        .map_err(|error| error.inside("filter"))
}

fn filter_at(wire: common::Filter, depth: usize) -> Result<Filter, FieldError> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match wire
        .condition
        .ok_or_else(|| FieldError::new("", "has no condition"))?
    {
        Condition::AllOf(list) => list_at(list, depth)
            .map(Filter::AllOf)
            .map_err(|error| error.inside("all_of")),
        Condition::AnyOf(list) => list_at(list, depth)
            .map(Filter::AnyOf)
            .map_err(|error| error.inside("any_of")),
        Condition::Not(inner) => {
            let filter = filter_at(*inner, depth + 1).map_err(|error| error.inside("not"))?;
            Ok(Filter::Not(Box::new(filter)))
        }
        Condition::Equals(equals) => {
            equals_from_wire(equals).map_err(|error| error.inside("equals"))
        }
        Condition::OneOf(one_of) => {
            one_of_from_wire(one_of).map_err(|error| error.inside("one_of"))
        }
        Condition::Range(range) => range_from_wire(range).map_err(|error| error.inside("range")),
        Condition::Exists(field) => Ok(Filter::Exists { field }),
    }
}

fn list_at(list: common::FilterList, depth: usize) -> Result<Vec<Filter>, FieldError> {
    let numbered = list.filters.into_iter().enumerate();
    let filter = |(position, filter)| {
        filter_at(filter, depth + 1).map_err(|error| error.inside(&format!("filters[{position}]")))
    };
    numbered.map(filter).collect()
}

fn equals_from_wire(equals: common::FieldValue) -> Result<Filter, FieldError> {
    let value = value_from_wire(equals.value.unwrap_or_default(), "value")?;
    Ok(Filter::Equals {
        field: equals.field,
        value,
    })
}

fn one_of_from_wire(one_of: common::FieldValues) -> Result<Filter, FieldError> {
    let numbered = one_of.values.into_iter().enumerate();
    let values =
        numbered.map(|(position, value)| value_from_wire(value, &format!("values[{position}]")));
    Ok(Filter::OneOf {
        field: one_of.field,
        values: values.collect::<Result<_, _>>()?,
    })
}

fn range_from_wire(range: common::FieldRange) -> Result<Filter, FieldError> {
    let lower = bound_from_wire(range.lower, range.lower_exclusive, "lower")?;
    let upper = bound_from_wire(range.upper, range.upper_exclusive, "upper")?;
    Ok(Filter::Range {
        field: range.field,
        lower,
        upper,
    })
}

fn bound_from_wire(
    value: Option<common::Value>,
    exclusive: bool,
    path: &str,
) -> Result<Option<Bound>, FieldError> {
    let value = value
        .map(|value| value_from_wire(value, path))
        .transpose()?;
    Ok(value.map(|value| Bound {
        value,
        inclusive: !exclusive,
    }))
}

fn value_from_wire(value: common::Value, path: &str) -> Result<Value, FieldError> {
    match value
        .kind
        .ok_or_else(|| FieldError::new(path, "has no value"))?
    {
        Kind::Keyword(text) => Ok(Value::Keyword(text)),
        Kind::Integer(integer) => Ok(Value::Integer(integer)),
        Kind::Float(float) => Ok(Value::Float(float)),
        Kind::Boolean(boolean) => Ok(Value::Boolean(boolean)),
    }
}

/// The wire form of a stage report.
pub fn report_to_wire(report: &StageReport) -> search::StageReport {
    search::StageReport {
        stage: report.stage.clone(),
        status: status_to_wire(report.status).into(),
        reason: report
            .reason
            .map_or(search::StageReason::Unspecified, reason_to_wire)
            .into(),
        candidates_in: report.candidates_in,
        candidates_out: report.candidates_out,
        shards_asked: report.shards_asked,
        shards_answered: report.shards_answered,
        queue_us: report.queue_us,
        compute_us: report.compute_us,
        wall_us: report.wall_us,
        start_us: report.start_us,
        granted_us: report.granted_us,
        expected_us: report.expected_us,
    }
}

const fn status_to_wire(status: StageStatus) -> search::StageStatus {
    match status {
        StageStatus::Complete => search::StageStatus::Complete,
        StageStatus::Partial => search::StageStatus::Partial,
        StageStatus::Skipped => search::StageStatus::Skipped,
        StageStatus::Failed => search::StageStatus::Failed,
    }
}

const fn reason_to_wire(reason: StageReason) -> search::StageReason {
    match reason {
        StageReason::Deadline => search::StageReason::Deadline,
        StageReason::Overloaded => search::StageReason::Overloaded,
        StageReason::Unavailable => search::StageReason::Unavailable,
        StageReason::ShardMissing => search::StageReason::ShardMissing,
        StageReason::SnapshotMissing => search::StageReason::SnapshotMissing,
        StageReason::ModelMismatch => search::StageReason::ModelMismatch,
        StageReason::DamagedSegment => search::StageReason::DamagedSegment,
        StageReason::Depth => search::StageReason::Depth,
        StageReason::Size => search::StageReason::Size,
        StageReason::NotIndexed => search::StageReason::NotIndexed,
        StageReason::NotConfigured => search::StageReason::NotConfigured,
        StageReason::Routed => search::StageReason::Routed,
        StageReason::Gated => search::StageReason::Gated,
        StageReason::Fault => search::StageReason::Fault,
    }
}

/// The error of an enum field whose number is unspecified or not known here.
pub fn unknown_number(path: &str, number: i32) -> FieldError {
    FieldError::new(path, format!("{number} is not a value that is known here"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    fn exists(field: &str) -> common::Filter {
        common::Filter {
            condition: Some(Condition::Exists(field.to_owned())),
        }
    }

    fn not(inner: common::Filter) -> common::Filter {
        common::Filter {
            condition: Some(Condition::Not(Box::new(inner))),
        }
    }

    fn all_of(filters: Vec<common::Filter>) -> common::Filter {
        common::Filter {
            condition: Some(Condition::AllOf(common::FilterList { filters })),
        }
    }

    fn error(wire: common::Filter) -> String {
        request_filter(Some(wire)).unwrap_err().to_string()
    }

    #[test]
    fn candidates_of_different_lengths_are_refused() {
        let wire = common::Candidates {
            addresses: vec![1, 2],
            scores: vec![0.5],
            places: vec![0, 0],
        };
        assert_eq!(
            candidates_from_wire(&wire).unwrap_err().to_string(),
            "scores: has 1 values for 2 addresses"
        );
        let wire = common::Candidates {
            scores: vec![0.5, 0.4],
            places: Vec::new(),
            ..wire
        };
        assert_eq!(
            candidates_from_wire(&wire).unwrap_err().to_string(),
            "places: has 0 values for 2 addresses"
        );
    }

    #[test]
    fn a_place_in_front_of_the_segment_is_refused() {
        let wire = common::Candidates {
            addresses: vec![Address::new(7, 2).to_u64(), Address::new(7, 1).to_u64()],
            scores: vec![0.5, 0.4],
            places: vec![2, 2],
        };
        assert_eq!(
            candidates_from_wire(&wire).unwrap_err().to_string(),
            "places[1]: is 2 for the passage 7:1"
        );
    }

    #[test]
    fn scores_that_are_not_finite_are_refused() {
        for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let wire = common::Candidates {
                addresses: vec![1, 2],
                scores: vec![0.5, score],
                places: vec![0, 0],
            };
            assert_eq!(candidates_from_wire(&wire).unwrap_err().path, "scores[1]");
            assert_eq!(
                scores_from_wire(&wire.scores).unwrap_err().path,
                "scores[1]"
            );
        }
    }

    #[test]
    fn snapshots_are_checked() {
        let wire = |collection: &str, number| common::Snapshot {
            collection: collection.to_owned(),
            number,
        };
        let path = |wire: Option<&common::Snapshot>| snapshot_from_wire(wire).unwrap_err().path;
        assert_eq!(path(None), "snapshot");
        assert_eq!(path(Some(&wire("../up", 1))), "snapshot.collection");
        assert_eq!(path(Some(&wire("scifact", 0))), "snapshot.number");
        let snapshot = snapshot_from_wire(Some(&wire("scifact", 3))).unwrap();
        assert_eq!(snapshot_to_wire(&snapshot), wire("scifact", 3));
    }

    #[test]
    fn refused_collections_survive_the_wire_and_are_checked() {
        let refused = RefusedCollection {
            collection: CollectionName::try_from("scifact").unwrap(),
            reason: "a: is damaged".to_owned(),
            may_pass: true,
        };
        let wire = held_to_wire(Vec::new(), vec![refused.clone()])
            .refused_collections
            .remove(0);
        let path = |wire| refused_collection_from_wire(wire).unwrap_err().path;
        let collection = "../up".to_owned();
        let named_wrongly = common::RefusedCollection {
            collection,
            ..wire.clone()
        };
        assert_eq!(path(named_wrongly), "collection");
        let reason = String::new();
        let unexplained = common::RefusedCollection {
            reason,
            ..wire.clone()
        };
        assert_eq!(path(unexplained), "reason");
        assert_eq!(refused_collection_from_wire(wire), Ok(refused));
    }

    #[test]
    fn filter_errors_name_the_place() {
        assert_eq!(error(common::Filter::default()), "filter: has no condition");
        assert_eq!(
            error(all_of(vec![])),
            "filter.all_of.filters: has 0 conditions; 1 to 256 are allowed"
        );
        assert_eq!(
            error(all_of(vec![exists("a"), not(exists(""))])),
            "filter.all_of.filters[1].not.exists: must name a metadata field"
        );
        let equals = Condition::Equals(common::FieldValue {
            field: "year".to_owned(),
            value: None,
        });
        assert_eq!(
            error(common::Filter {
                condition: Some(equals)
            }),
            "filter.equals.value: has no value"
        );
        let float = common::Value {
            kind: Some(Kind::Float(f64::NAN)),
        };
        let range = common::FieldRange {
            field: "year".to_owned(),
            lower: Some(float),
            ..Default::default()
        };
        let wire = all_of(vec![
            exists("a"),
            exists("b"),
            common::Filter {
                condition: Some(Condition::Range(range)),
            },
        ]);
        assert_eq!(
            error(wire),
            "filter.all_of.filters[2].range.lower.float: must be finite"
        );
    }

    #[test]
    fn filter_depth_is_limited() {
        let nested = |depth| (1..depth).fold(exists("a"), |filter, _| not(filter));
        assert!(filter_from_wire(nested(MAX_DEPTH)).is_ok());
        assert!(error(nested(MAX_DEPTH + 1)).ends_with("is nested deeper than 16"));
    }

    /// Each has a value of its own name in the contract.
    #[test]
    fn statuses_and_reasons_keep_their_names() {
        use StageReason as R;
        let wire = |status, reason| {
            report_to_wire(&StageReport {
                status,
                reason,
                ..StageReport::complete("dense")
            })
        };
        for status in [
            StageStatus::Complete,
            StageStatus::Partial,
            StageStatus::Skipped,
            StageStatus::Failed,
        ] {
            let report = wire(status, None);
            assert_eq!(format!("{:?}", report.status()), format!("{status:?}"));
        }
        for reason in [
            R::Deadline,
            R::Overloaded,
            R::Unavailable,
            R::ShardMissing,
            R::SnapshotMissing,
            R::ModelMismatch,
            R::DamagedSegment,
            R::Depth,
            R::Size,
            R::NotIndexed,
            R::NotConfigured,
            R::Routed,
            R::Gated,
            R::Fault,
        ] {
            let report = wire(StageStatus::Partial, Some(reason));
            assert_eq!(format!("{:?}", report.reason()), format!("{reason:?}"));
        }
        assert_eq!(
            wire(StageStatus::Complete, None).reason(),
            search::StageReason::Unspecified
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(Value::Keyword),
            any::<i64>().prop_map(Value::Integer),
            (-1e300..1e300).prop_map(Value::Float),
            any::<bool>().prop_map(Value::Boolean),
        ]
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        let field = || "[a-z]{1,5}".boxed();
        let bound = || {
            (any::<i64>(), any::<bool>()).prop_map(|(value, inclusive)| Bound {
                value: Value::Integer(value),
                inclusive,
            })
        };
        let leaf = prop_oneof![
            field().prop_map(|field| Filter::Exists { field }),
            (field(), any_value()).prop_map(|(field, value)| Filter::Equals { field, value }),
            (field(), prop::collection::vec(any_value(), 1..4))
                .prop_map(|(field, values)| Filter::OneOf { field, values }),
            (field(), bound(), prop::option::of(bound())).prop_map(|(field, lower, upper)| {
                Filter::Range {
                    field,
                    lower: Some(lower),
                    upper,
                }
            }),
        ];
        leaf.prop_recursive(5, 30, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(Filter::AllOf),
                prop::collection::vec(inner.clone(), 1..4).prop_map(Filter::AnyOf),
                inner.prop_map(|filter| Filter::Not(Box::new(filter))),
            ]
        })
    }

    proptest! {
        #[test]
        fn filters_survive_the_wire(filter in any_filter()) {
            let bytes = filter_to_wire(&filter).encode_to_vec();
            let wire = common::Filter::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(filter_from_wire(wire), Ok(filter));
        }

        #[test]
        fn candidates_survive_the_wire(
            passages in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>(), -1e30_f32..1e30), 0..50)
        ) {
            let candidate = |(segment, one, other, score): (u32, u32, u32, f32)| Candidate {
                address: Address::new(segment, one.max(other)),
                document: Address::new(segment, one.min(other)),
                score: score.try_into().unwrap(),
            };
            let candidates: Vec<Candidate> = passages.into_iter().map(candidate).collect();
            prop_assert_eq!(candidates_from_wire(&candidates_to_wire(&candidates)), Ok(candidates));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(wire) = common::Filter::decode(bytes.as_slice()) {
                let _ = filter_from_wire(wire);
            }
            if let Ok(wire) = common::Candidates::decode(bytes.as_slice()) {
                let _ = candidates_from_wire(&wire);
            }
        }
    }
}
