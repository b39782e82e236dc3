//! From the parsed query to weighted clauses of the inverted index.
//!
//! A word that analyses to several terms (`covid-19` → `covid`, `19`) stands for all of them: each is optional if the word
//! is, each is required for `+covid-19`, while `-covid-19` excludes the passages where they stand together, since excluding
//! every passage with `19` is not what was asked. A phrase of one term is that term; a clause without terms (`!?`) is
//! dropped. A word that is repeated counts as often as it is said.

use search_core::{Clause, Occur, ParsedQuery};
use segment::sparse::{Analyzer, BODY};
use tantivy::query::{
    Bm25StatisticsProvider, BooleanQuery, EnableScoring, PhraseQuery, Query, TermQuery, Weight,
};
use tantivy::schema::IndexRecordOption;
use tantivy::{Searcher, Term};

/// More terms than any question has; a query of 8192 bytes could name four thousand.
pub const MAX_TERMS: usize = 1024;

/// The query has too many terms.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("has {terms} terms; at most {MAX_TERMS} are searched")]
pub struct TooManyTerms {
    terms: usize,
}

/// What is looked up: a term, or several terms at given distances.
#[derive(Debug, PartialEq, Eq)]
struct LexicalClause {
    occur: Occur,
    /// Never empty. The numbers are positions in the phrase.
    terms: Vec<(usize, Term)>,
}

/// A query in the terms of a collection's language.
#[derive(Debug, PartialEq, Eq)]
pub struct LexicalQuery {
    clauses: Vec<LexicalClause>,
}

impl LexicalQuery {
    /// Analyses a query as the passages were analysed.
    pub fn analyze(query: &ParsedQuery, analyzer: &mut Analyzer) -> Result<Self, TooManyTerms> {
        let mut clauses = Vec::new();
        for clause in &query.clauses {
            add_clauses(clause, analyzer, &mut clauses);
        }
        let terms = clauses.iter().map(|clause| clause.terms.len()).sum();
        match terms {
            0..=MAX_TERMS => Ok(Self { clauses }),
            _ => Err(TooManyTerms { terms }),
        }
    }

    /// Gives each clause its weight by the snapshot's statistics. Any segment's searcher will do.
    pub fn weigh(
        &self,
        statistics: &dyn Bm25StatisticsProvider,
        searcher: &Searcher,
    ) -> tantivy::Result<WeightedQuery> {
        let scoring = EnableScoring::enabled_from_statistics_provider(statistics, searcher);
        let weighted = |clause: &LexicalClause| Ok((clause.occur, clause.query().weight(scoring)?));
        let clauses: Vec<_> = self
            .clauses
            .iter()
            .map(weighted)
            .collect::<tantivy::Result<_>>()?;
        let wanted = || {
            self.clauses
                .iter()
                .filter(|clause| clause.occur != Occur::MustNot)
        };
        let weight = match wanted().count() {
            0 => None,
            // tantivy rewrites a union of one and would search it without pruning
            1 => wanted()
                .map(weighted)
                .next()
                .transpose()?
                .map(|(_, weight)| weight),
            _ => Some(union(wanted()).weight(scoring)?),
        };
        let finder = weight.map(|weight| Finder {
            weight,
            prunes: can_prune(wanted()),
        });
        Ok(WeightedQuery { clauses, finder })
    }
}

/// tantivy prunes unions and intersections of terms; phrases, and unions of which a part is required, are walked through.
fn can_prune<'a>(clauses: impl Iterator<Item = &'a LexicalClause> + Clone) -> bool {
    let all_are = |occur| clauses.clone().all(|clause| clause.occur == occur);
    let terms_only = clauses.clone().all(|clause| clause.terms.len() == 1);
    terms_only && (all_are(Occur::Should) || all_are(Occur::Must))
}

fn union<'a>(clauses: impl Iterator<Item = &'a LexicalClause>) -> BooleanQuery {
    let clauses = clauses.map(|clause| (engine_occur(clause.occur), clause.query()));
    clauses.collect::<Vec<_>>().into()
}

impl LexicalClause {
    fn query(&self) -> Box<dyn Query> {
        match self.terms.as_slice() {
            [(_, term)] => Box::new(TermQuery::new(term.clone(), IndexRecordOption::WithFreqs)),
            terms => Box::new(PhraseQuery::new_with_offset(terms.to_vec())),
        }
    }
}

fn add_clauses(clause: &Clause, analyzer: &mut Analyzer, clauses: &mut Vec<LexicalClause>) {
    let mut terms = Vec::new();
    analyzer.for_each_term(&clause.text, |position, term| {
        terms.push((position, Term::from_field_text(BODY, term)));
    });
    let occur = clause.occur;
    if terms.is_empty() {
        return;
    }
    if clause.phrase || occur == Occur::MustNot {
        clauses.push(LexicalClause { occur, terms });
    } else {
        clauses.extend(terms.into_iter().map(|term| LexicalClause {
            occur,
            terms: vec![term],
        }));
    }
}

fn engine_occur(occur: Occur) -> tantivy::query::Occur {
    match occur {
        Occur::Should => tantivy::query::Occur::Should,
        Occur::Must => tantivy::query::Occur::Must,
        Occur::MustNot => tantivy::query::Occur::MustNot,
    }
}

/// A query ready to be run on the segments of one snapshot.
pub struct WeightedQuery {
    /// In the order of the query: scores are summed in this order.
    pub(crate) clauses: Vec<(Occur, Box<dyn Weight>)>,
    /// Finds what the clauses look for, with no regard to what they exclude. `None`: no clause says what to look for.
    pub(crate) finder: Option<Finder>,
}

/// What the index looks for.
pub(crate) struct Finder {
    pub(crate) weight: Box<dyn Weight>,
    /// Whether the index skips passages below a threshold. Otherwise it visits every match.
    pub(crate) prunes: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn analyzed(query: &str) -> LexicalQuery {
        let parsed = ParsedQuery::parse(query).unwrap();
        let mut analyzer = Analyzer::for_language("english").unwrap();
        LexicalQuery::analyze(&parsed, &mut analyzer).unwrap()
    }

    fn query<const CLAUSES: usize>(clauses: [(Occur, &[(usize, &str)]); CLAUSES]) -> LexicalQuery {
        let clause = |(occur, terms): (Occur, &[(usize, &str)])| LexicalClause {
            occur,
            terms: terms
                .iter()
                .map(|(at, term)| (*at, Term::from_field_text(BODY, term)))
                .collect(),
        };
        LexicalQuery {
            clauses: clauses.map(clause).into(),
        }
    }

    use Occur::{Must, MustNot, Should};

    #[test]
    fn a_word_of_several_terms_stands_for_all_of_them() {
        let terms = |occur| query([(occur, &[(0, "covid")]), (occur, &[(1, "19")])]);
        assert_eq!(analyzed("covid-19"), terms(Should));
        assert_eq!(analyzed("+covid-19"), terms(Must));
        let excluded = query([
            (Should, &[(0, "mice")]),
            (MustNot, &[(0, "covid"), (1, "19")]),
        ]);
        assert_eq!(analyzed("mice -covid-19"), excluded);
    }

    #[test]
    fn phrases_keep_their_gaps_and_empty_clauses_are_dropped() {
        let gap = "x".repeat(200);
        let phrase = query([(Should, &[(0, "bone"), (2, "loss")])]);
        assert_eq!(analyzed(&format!("\"bone {gap} loss\" !? \"...\"")), phrase);
        assert_eq!(analyzed("\"bones\""), analyzed("bone"));
        assert_eq!(analyzed("!?"), query([]));
    }

    #[test]
    fn repeated_words_count_twice() {
        assert_eq!(
            analyzed("cell cells"),
            query([(Should, &[(0, "cell")]), (Should, &[(0, "cell")])])
        );
    }

    #[test]
    fn too_many_terms_are_refused() {
        let words = |count: usize| ParsedQuery::parse(&"a ".repeat(count)).unwrap();
        let mut analyzer = Analyzer::for_language("none").unwrap();
        assert!(LexicalQuery::analyze(&words(1024), &mut analyzer).is_ok());
        let refused = LexicalQuery::analyze(&words(1025), &mut analyzer).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "has 1025 terms; at most 1024 are searched"
        );
    }
}
