//! The stable JSON of `--json`; documented in the README.

use search_proto::search::{
    Hit, ScoreScale, ScoreTrail, SearchResponse, StageReason, StageReport, StageStatus, TokenMatch,
};
use serde_json::{Value, json};

/// `{"hits": […], "stages": […], "degraded": …, "snapshot": …, "wall_us": …, "pipeline": …, "score_scale": …}`
pub(crate) fn search_answer(response: &SearchResponse) -> Value {
    json!({
        "hits": response.hits.iter().map(hit).collect::<Vec<_>>(),
        "stages": response.stages.iter().map(stage).collect::<Vec<_>>(),
        "degraded": response.degraded,
        "snapshot": response.snapshot.as_ref().map(|snapshot| snapshot.number),
        "wall_us": response.wall_us,
        "pipeline": response.pipeline,
        "score_scale": scale_name(response.score_scale()),
    })
}

/// The word for a scale.
const fn scale_name(scale: ScoreScale) -> Option<&'static str> {
    match scale {
        ScoreScale::Unspecified => None,
        ScoreScale::Bm25 => Some("bm25"),
        ScoreScale::Cosine => Some("cosine"),
        ScoreScale::MinMax => Some("min_max"),
        ScoreScale::ZScore => Some("z_score"),
        ScoreScale::Rrf => Some("rrf"),
        ScoreScale::Dbsf => Some("dbsf"),
    }
}

fn hit(hit: &Hit) -> Value {
    let trail: Vec<Value> = hit.trail.iter().map(trail_step).collect();
    json!({
        "id": hit.id,
        "score": hit.score,
        "title": hit.title,
        "text": hit.text,
        "passage": hit.passage,
        "metadata": metadata(&hit.metadata_json),
        "trail": trail,
    })
}

fn trail_step(step: &ScoreTrail) -> Value {
    let mut object = json!({
        "stage": step.stage,
        "raw": step.raw,
        "rank": step.rank,
        "normalized": step.normalized,
        "weight": step.weight,
        "contribution": step.contribution,
        "completed": step.completed,
    });
    if let Some(reading) = &step.reading {
        object["reading"] = json!({
            "calibrated": reading.calibrated,
            "tokens": reading.tokens,
            "batch": reading.batch,
        });
    }
    if !step.matches.is_empty() {
        object["matches"] = step.matches.iter().map(token_match).collect();
    }
    object
}

fn token_match(found: &TokenMatch) -> Value {
    json!({
        "query_token": found.query_token,
        "passage_token": found.passage_token,
        "similarity": found.similarity,
    })
}

/// The server stores metadata as JSON; what is not JSON is passed on as a string rather than lost.
fn metadata(text: &str) -> Value {
    match text {
        "" => json!({}),
        _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}

fn stage(report: &StageReport) -> Value {
    json!({
        "stage": report.stage,
        "status": status_name(report.status()),
        "reason": reason_name(report.reason()),
        "candidates_in": report.candidates_in,
        "candidates_out": report.candidates_out,
        "shards_asked": report.shards_asked,
        "shards_answered": report.shards_answered,
        "queue_us": report.queue_us,
        "compute_us": report.compute_us,
        "wall_us": report.wall_us,
        "start_us": report.start_us,
        "granted_us": report.granted_us,
        "expected_us": report.expected_us,
    })
}

/// The word for a status.
pub(crate) fn status_name(status: StageStatus) -> &'static str {
    match status {
        StageStatus::Unspecified => "unspecified",
        StageStatus::Complete => "complete",
        StageStatus::Partial => "partial",
        StageStatus::Skipped => "skipped",
        StageStatus::Failed => "failed",
    }
}

/// The word for a reason; none for a complete stage.
pub(crate) fn reason_name(reason: StageReason) -> Option<&'static str> {
    match reason {
        StageReason::Unspecified => None,
        StageReason::Deadline => Some("deadline"),
        StageReason::Overloaded => Some("overloaded"),
        StageReason::Unavailable => Some("unavailable"),
        StageReason::ShardMissing => Some("shard_missing"),
        StageReason::SnapshotMissing => Some("snapshot_missing"),
        StageReason::ModelMismatch => Some("model_mismatch"),
        StageReason::DamagedSegment => Some("damaged_segment"),
        StageReason::Depth => Some("depth"),
        StageReason::Size => Some("size"),
        StageReason::NotIndexed => Some("not_indexed"),
        StageReason::NotConfigured => Some("not_configured"),
        StageReason::Routed => Some("routed"),
        StageReason::Gated => Some("gated"),
        StageReason::Fault => Some("fault"),
    }
}
