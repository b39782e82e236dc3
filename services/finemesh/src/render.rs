//! Answers for people: a table of hits, a waterfall of the stages, the trail of a score.

use std::fmt::Write as _;

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, Width, presets};
use console::style;
use search_proto::search::{Hit, Reading, SearchResponse, StageReport, StageStatus, TokenMatch};

use crate::json::{reason_name, status_name};
use crate::output::printable;
use crate::snippet::{matches_query, query_stems, snippet};

/// Columns that the waterfall's bars take.
const WATERFALL_COLUMNS: usize = 40;
/// Columns that the names of stages take at least.
const MIN_NAME_COLUMNS: usize = 9;
/// Columns of a document id before it is folded.
const MAX_ID_COLUMNS: u16 = 36;
/// How vocabularies write tokens that are no text.
const SPECIAL_TOKEN_BRACKETS: [(char, char); 2] = [('[', ']'), ('<', '>')];

/// The whole answer: hits, then stages.
pub(crate) fn answer(query: &str, response: &SearchResponse, explain: bool) -> String {
    let mut text = hits_table(query, &response.hits, explain);
    text.push('\n');
    text.push_str(&waterfall(response));
    text
}

fn hits_table(query: &str, hits: &[Hit], explain: bool) -> String {
    if hits.is_empty() {
        return "no hits\n".to_owned();
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["#", "score", "id", "passage"]);
    let stems = query_stems(query);
    for (index, hit) in hits.iter().enumerate() {
        let mut passage = passage_text(hit, query, &stems);
        if explain {
            passage.push_str(&trail(hit));
        }
        table.add_row([
            Cell::new(index + 1),
            Cell::new(format!("{:.4}", hit.score)),
            Cell::new(&hit.id),
            Cell::new(passage),
        ]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(
            MAX_ID_COLUMNS,
        )));
    }
    format!("{table}\n")
}

fn passage_text(hit: &Hit, query: &str, stems: &[String]) -> String {
    let shown = highlighted(&printable(&snippet(&hit.text, query)), stems);
    if hit.title.is_empty() {
        return shown;
    }
    format!("{}\n{shown}", style(printable(&hit.title)).bold())
}

fn highlighted(text: &str, stems: &[String]) -> String {
    let words = text.split(' ').map(|word| {
        if matches_query(word, stems) {
            style(word).yellow().to_string()
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn trail(hit: &Hit) -> String {
    let mut text = String::new();
    let names = hit.trail.iter().map(|step| step.stage.len());
    let name_columns = names.max().unwrap_or(0);
    for step in &hit.trail {
        let completed = if step.completed { ", completed" } else { "" };
        let reading = step.reading.as_ref().map_or_else(String::new, reading);
        let _ = write!(
            text,
            "\n  {:<name_columns$} raw {:>9.4}  rank {:>5}  scaled {:>7.4} × weight {:.2} = {:.4}{completed}{reading}",
            step.stage, step.raw, step.rank, step.normalized, step.weight, step.contribution
        );
        let matched = matches(&step.matches);
        if !matched.is_empty() {
            let _ = write!(text, "\n    {matched}");
        }
    }
    text
}

/// What each word of the query matched; what is no text tells nobody anything.
fn matches(matches: &[TokenMatch]) -> String {
    let words = matches
        .iter()
        .filter(|found| !is_special(&found.query_token));
    words.map(token_match).collect::<Vec<_>>().join("  ")
}

fn token_match(found: &TokenMatch) -> String {
    let [query_token, passage_token] =
        [&found.query_token, &found.passage_token].map(|token| printable(token));
    let similarity = format!("{:.2}", found.similarity).replacen("0.", ".", 1);
    format!("{query_token}→{passage_token} {similarity}")
}

/// `[SEP]`, `<s>` and their like; a lone bracket is a word.
fn is_special(token: &str) -> bool {
    let inside = |(open, close)| token.strip_prefix(open)?.strip_suffix(close);
    let mut inside = SPECIAL_TOKEN_BRACKETS.into_iter().filter_map(inside);
    inside.any(|name| !name.is_empty())
}

fn reading(reading: &Reading) -> String {
    format!(
        ", calibrated {:.4}, {} tokens in batch {}",
        reading.calibrated, reading.tokens, reading.batch
    )
}

/// One line per stage: when it ran, how long it waited and computed, what came out.
pub(crate) fn waterfall(response: &SearchResponse) -> String {
    let mut text = String::new();
    let names = response.stages.iter().map(|report| report.stage.len());
    let name_columns = names.max().unwrap_or(0).max(MIN_NAME_COLUMNS);
    for report in &response.stages {
        let _ = writeln!(
            text,
            "{:<name_columns$} {} {:>8}  {}{}",
            report.stage,
            bar(report, response.wall_us),
            milliseconds(report.wall_us),
            counts(report),
            trouble(report),
        );
    }
    let _ = writeln!(
        text,
        "{:<name_columns$} {} {:>8}  pipeline {}, snapshot {}{}",
        "total",
        " ".repeat(WATERFALL_COLUMNS),
        milliseconds(response.wall_us),
        response.pipeline,
        response
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.number),
        if response.degraded {
            format!(", {}", style("degraded").red())
        } else {
            String::new()
        },
    );
    text
}

fn bar(report: &StageReport, total_us: u64) -> String {
    let column = |us: u64| (us as f64 / total_us.max(1) as f64 * WATERFALL_COLUMNS as f64) as usize;
    let start = column(report.start_us).min(WATERFALL_COLUMNS - 1);
    let length = column(report.wall_us).clamp(1, WATERFALL_COLUMNS - start);
    let rest = WATERFALL_COLUMNS - start - length;
    format!(
        "{}{}{}",
        " ".repeat(start),
        "█".repeat(length),
        " ".repeat(rest)
    )
}

fn counts(report: &StageReport) -> String {
    let shards = match report.shards_asked {
        0 => String::new(),
        asked => format!(", shards {}/{asked}", report.shards_answered),
    };
    let compute = match report.compute_us {
        0 => String::new(),
        us => format!(", compute {}", milliseconds(us)),
    };
    format!(
        "{} → {}{shards}{compute}",
        report.candidates_in, report.candidates_out
    )
}

fn trouble(report: &StageReport) -> String {
    if report.status() == StageStatus::Complete {
        return String::new();
    }
    let reason = reason_name(report.reason()).unwrap_or("no reason given");
    format!(
        "  {}",
        style(format!("{}: {reason}", status_name(report.status()))).red()
    )
}

/// Microseconds as milliseconds, for people.
pub(crate) fn milliseconds(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(start_us: u64, wall_us: u64) -> StageReport {
        StageReport {
            stage: "sparse".to_owned(),
            start_us,
            wall_us,
            ..StageReport::default()
        }
    }

    #[test]
    fn matches_are_told_of_words() {
        let found = |query_token: &str, passage_token: &str, similarity| TokenMatch {
            query_token: query_token.to_owned(),
            passage_token: passage_token.to_owned(),
            similarity,
        };
        let all = [
            found("[CLS]", "[CLS]", 0.7),
            found("sea", "ocean", 0.824),
            found("##s", "levels\u{1b}[2J", -0.051),
            found("[", "<", 1.0),
            found("</s>", "level", 0.4),
        ];
        let told = matches(&all);
        assert!(told.starts_with("sea→ocean .82  ##s→levels"), "{told:?}");
        assert!(told.ends_with(" -.05  [→< 1.00"), "{told:?}");
        assert!(!told.contains('\u{1b}'));
        assert_eq!(matches(&all[..1]), "");
    }

    #[test]
    fn bars_stay_inside_their_columns() {
        for (start, wall, total) in [
            (0, 0, 0),
            (0, 100, 100),
            (99, 1, 100),
            (500, 900, 100),
            (0, 1, u64::MAX),
        ] {
            assert_eq!(
                bar(&report(start, wall), total).chars().count(),
                WATERFALL_COLUMNS
            );
        }
    }
}
