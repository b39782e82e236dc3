//! How sure a model is that the answer is yes: the log-odds of yes against no, from the log-probabilities of the first token.

use crate::completion::Alternative;

/// Less likely than this is as good as impossible; some endpoints say −9999 for whatever they did not compute.
const LEAST_LOG_PROBABILITY: f64 = -20.0;

/// ln P(yes) − ln P(no), each summed over its spellings. Where only one of the two is among the alternatives, the other is taken as likely
/// as it can be: at most as likely as the least of them, and no likelier than what they leave. So the log-odds are never overstated.
/// None: neither is there.
pub(crate) fn log_odds(alternatives: &[Alternative]) -> Option<f32> {
    let yes = log_probability(alternatives, "yes");
    let no = log_probability(alternatives, "no");
    let bound = || most_of_the_rest(alternatives);
    let odds = match (yes, no) {
        (None, None) => return None,
        (Some(yes), Some(no)) => yes - no,
        (Some(yes), None) => yes - bound(),
        (None, Some(no)) => bound() - no,
    };
    Some(odds as f32)
}

fn log_probability(alternatives: &[Alternative], word: &str) -> Option<f64> {
    let spellings = alternatives
        .iter()
        .filter(|alternative| is_word(&alternative.token, word));
    let sum: f64 = spellings.map(probability).sum();
    (sum > 0.0).then(|| sum.ln())
}

/// Tokens carry the space before them, some servers' as `Ġ` or `▁`.
fn is_word(token: &str, word: &str) -> bool {
    let bare = token.trim().trim_start_matches(['Ġ', '▁']);
    bare.eq_ignore_ascii_case(word)
}

fn probability(alternative: &Alternative) -> f64 {
    alternative.logprob.clamp(LEAST_LOG_PROBABILITY, 0.0).exp()
}

fn most_of_the_rest(alternatives: &[Alternative]) -> f64 {
    let probabilities = || alternatives.iter().map(probability);
    let least = probabilities().fold(1.0, f64::min);
    let left = (1.0 - probabilities().sum::<f64>()).max(0.0);
    least.min(left).ln().max(LEAST_LOG_PROBABILITY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alternatives(tokens: &[(&str, f64)]) -> Vec<Alternative> {
        let alternative = |&(token, probability): &(&str, f64)| Alternative {
            token: token.to_owned(),
            logprob: probability.ln(),
        };
        tokens.iter().map(alternative).collect()
    }

    fn odds(tokens: &[(&str, f64)]) -> Option<f32> {
        log_odds(&alternatives(tokens))
    }

    #[test]
    fn all_spellings_count() {
        let odds = odds(&[
            ("Yes", 0.5),
            (" yes", 0.2),
            ("▁YES", 0.05),
            ("No", 0.2),
            ("ĠNo", 0.05),
        ])
        .unwrap();
        assert!((odds - 3.0_f32.ln()).abs() < 1e-6, "{odds}");
    }

    #[test]
    fn what_is_not_listed_is_as_likely_as_it_can_be() {
        // "No" has at most what "Maybe" has.
        let yes = odds(&[("Yes", 0.8), ("Maybe", 0.02)]).unwrap();
        assert!((yes - 40.0_f32.ln()).abs() < 1e-5, "{yes}");
        // Or at most what is left.
        let no = odds(&[("No", 0.9)]).unwrap();
        assert!((no + 9.0_f32.ln()).abs() < 1e-5, "{no}");
    }

    #[test]
    fn other_words_say_nothing() {
        assert_eq!(
            odds(&[("Maybe", 0.9), ("Yesterday", 0.05), ("Not", 0.05)]),
            None
        );
        assert_eq!(odds(&[]), None);
    }

    #[test]
    fn impossible_numbers_are_bounded() {
        let wild = [("Yes", 3.0), ("No", -9999.0)];
        let wild = wild.map(|(token, logprob)| Alternative {
            token: token.into(),
            logprob,
        });
        assert_eq!(log_odds(&wild), Some(20.0));
        assert_eq!(odds(&[("Yes", 1.0)]), Some(20.0));
    }

    proptest! {
        #[test]
        fn whatever_the_endpoint_says_the_log_odds_are_finite(
            listed in proptest::collection::vec(("yes|no|Yes|No|x", -1e300_f64..1e300), 0..20),
        ) {
            let listed: Vec<_> = listed.into_iter().map(|(token, logprob)| Alternative { token, logprob }).collect();
            if let Some(odds) = log_odds(&listed) {
                // 20 spellings at most share one bound.
                prop_assert!(odds.is_finite() && odds.abs() < 24.0);
            }
        }
    }
}
