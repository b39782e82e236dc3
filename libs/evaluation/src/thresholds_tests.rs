//! Simulated collections: of some queries the first hit is lost without the stage, and the feature tells which, or does not.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const TOLERANCE: f64 = 0.005;

/// Without the stage, these queries lose with a chance that depends on their feature, 0 to 1.
fn collection(queries: usize, seed: u64, chance: impl Fn(f64) -> f64) -> Vec<Case> {
    let mut numbers = ChaCha8Rng::seed_from_u64(seed);
    let mut case = || {
        let feature = numbers.random::<f64>();
        let loses = numbers.random::<f64>() < chance(feature);
        case(feature, if loses { UNSEEN_LOSS } else { 0.0 })
    };
    (0..queries).map(|_| case()).collect()
}

fn case(feature: f64, regret: f64) -> Case {
    Case {
        feature: Some(feature),
        lost: 0.0,
        regret,
        saved_ms: 10.0,
    }
}

fn mean_regret(cases: &[Case], threshold: f64) -> f64 {
    regrets(cases, threshold).iter().sum::<f64>() / cases.len() as f64
}

/// Below the half, one query in two loses; above it none does.
fn telling(feature: f64) -> f64 {
    if feature < 0.5 { 0.5 } else { 0.0 }
}

#[test]
fn a_feature_that_tells_is_found() {
    let mut cost_too_much = 0;
    for seed in 0..20 {
        let threshold = fit(&collection(1000, seed, telling), TOLERANCE).unwrap();
        assert!((0.4..0.55).contains(&threshold), "{threshold}");
        let cost = (0.5 - threshold).max(0.0) * 0.5 * UNSEEN_LOSS;
        cost_too_much += usize::from(cost > TOLERANCE);
    }
    assert!(cost_too_much <= 1, "{cost_too_much}");
}

#[test]
fn an_effect_is_over_all_queries() {
    let mut cases = vec![case(0.2, 0.5); 100];
    cases[..25].fill(case(0.7, 0.1));
    let effect = Effect::of(&cases, Some(0.7), 1).unwrap();
    assert_eq!((effect.share, effect.saved_ms), (0.25, 2.5));
    let regret = effect.regret;
    assert!((regret.mean - 0.025).abs() < 1e-12, "{regret:?}");
    assert!(regret.low > 0.01 && regret.low < 0.025 && regret.high > 0.025);
}

/// One query in five loses, whatever its feature: to leave out one in fifteen costs all that is tolerated. Where the threshold that is taken
/// costs more than that, the fit was wrong; it may be once in twenty times.
#[test]
fn a_feature_that_does_not_tell_costs_no_more_than_is_tolerated() {
    const FITS: u64 = 200;
    let costs_too_much = |seed: &u64| {
        let threshold = fit(&collection(500, *seed, |_| 0.2), TOLERANCE);
        threshold.is_some_and(|threshold| (1.0 - threshold) * 0.2 * UNSEEN_LOSS > TOLERANCE)
    };
    let wrong = (0..FITS).filter(costs_too_much).count();
    assert!(wrong <= FITS as usize / 20, "{wrong}");
}

#[test]
fn a_small_sample_turns_nothing_on() {
    for queries in [0, 1, 2, 10, 50, 200] {
        for seed in 0..20 {
            let harmless = collection(queries, seed, |_| 0.0);
            assert_eq!(fit(&harmless, TOLERANCE), None, "{queries}");
            let gains: Vec<Case> = harmless.iter().map(gaining).collect();
            assert_eq!(fit(&gains, TOLERANCE), None, "{queries}");
        }
    }
    assert!(fit(&collection(250, 1, |_| 0.0), TOLERANCE).is_some());
}

fn gaining(case: &Case) -> Case {
    Case {
        regret: -0.5,
        ..*case
    }
}

#[test]
fn a_few_queries_that_are_left_out_are_not_worth_it() {
    let mut cases = vec![case(0.0, 0.0); 1000];
    for case in &mut cases[..49] {
        case.feature = Some(0.8);
    }
    assert_eq!(fit(&cases, TOLERANCE), None);
    cases[49].feature = Some(0.7996);
    assert_eq!(
        fit(&cases, TOLERANCE),
        None,
        "it is rounded to .8, and keeps the stage"
    );
    cases[49].feature = Some(0.8);
    assert_eq!(fit(&cases, TOLERANCE), Some(0.8));
}

/// Two thresholds that each cost a little less than is tolerated cost more than that together.
#[test]
fn what_earlier_thresholds_lost_is_not_there_to_spend() {
    let mut cases = collection(1000, 1, telling);
    let alone = fit(&cases, TOLERANCE).unwrap();
    for case in &mut cases[..4] {
        case.lost = UNSEEN_LOSS;
    }
    assert!(fit(&cases, TOLERANCE).unwrap() > alone);
    for case in &mut cases[..40] {
        case.lost = UNSEEN_LOSS;
    }
    assert_eq!(fit(&cases, TOLERANCE), None);
}

/// Where a high feature loses, one that is lower is not looked at.
#[test]
fn the_first_refusal_ends_it() {
    let mut cases = collection(1000, 1, |_| 0.0);
    assert!(fit(&cases, TOLERANCE).unwrap() < 0.01);
    for case in &mut cases {
        let feature = case.feature.unwrap();
        case.regret = if feature > 0.9 { 0.3 } else { -0.3 };
    }
    assert_eq!(fit(&cases, TOLERANCE), None);
}

#[test]
fn what_is_off_does_nothing() {
    let cases = collection(100, 1, |_| 0.5);
    let nothing = Difference {
        mean: 0.0,
        low: 0.0,
        high: 0.0,
    };
    let expected = Effect {
        share: 0.0,
        regret: nothing,
        saved_ms: 0.0,
    };
    assert_eq!(Effect::of(&cases, None, 1), Some(expected));
    assert_eq!(Effect::of(&[], None, 1), None);
}

fn any_cases() -> impl Strategy<Value = Vec<Case>> {
    let feature = prop::option::weighted(0.9, prop_oneof![Just(0.0), Just(1.0), 0.0..4.0_f64]);
    let regret = prop_oneof![4 => Just(0.0), 1 => -1.0..1.0_f64];
    let case = (feature, regret).prop_map(|(feature, regret)| Case {
        feature,
        lost: 0.0,
        regret,
        saved_ms: 1.0,
    });
    prop::collection::vec(case, 0..400)
}

proptest! {
    #[test]
    fn what_is_taken_may_be_taken(cases in any_cases(), tolerance in 0.001..0.5_f64) {
        if let Some(threshold) = fit(&cases, tolerance) {
            prop_assert!(cases.len() as f64 >= UNSEEN_QUERIES * UNSEEN_LOSS / tolerance);
            prop_assert!(threshold > 0.0);
            prop_assert_eq!(threshold, (threshold * 1000.0).round() / 1000.0);
            prop_assert!(share(&cases, threshold) >= LEAST_SHARE);
            prop_assert!(mean_regret(&cases, threshold) <= tolerance);
        }
    }

    #[test]
    fn who_tolerates_more_leaves_out_more(cases in any_cases(), tolerance in 0.001..0.5_f64) {
        let (strict, lax) = (fit(&cases, tolerance), fit(&cases, 2.0 * tolerance));
        prop_assert!(strict.is_none() || lax <= strict && lax.is_some());
    }

    #[test]
    fn thresholds_are_rounded_up(feature in 0.0..100.0_f64) {
        let mut rounded = feature;
        round_up(&mut rounded);
        prop_assert!(rounded >= feature && rounded - feature <= 0.001 + 1e-9);
        let mut again = rounded;
        round_up(&mut again);
        prop_assert_eq!(again, rounded);
    }
}
