//! How long an answer of a whole mesh takes, by how many are on their way: what to refuse at its door.
//!
//! A queue knows its own wait, and refuses what has spent most of its time in the queues before it: work that was done for nothing. The
//! door sees all of them at once. By Little's law the time of an answer is that of one alone and so much more for each that is on its
//! way before it, wherever in the mesh they meet:
//!
//! ```text
//! time(n) = base + (mean time - base) / (mean n + 1) * (n + 1)
//! ```
//!
//! The base is the time of the fastest answers, as in TCP Vegas (Brakmo, Peterson 1995): it falls at once, and rises slowly, by
//! answers that took not much longer and by those that found few others on their way, so that the wait of a storm is not taken for work.
//! An answer that was given up would have taken longer, and is taken for twice its time, or a mesh that starts in a storm
//! would learn that everything takes all the time there is, and that refusing would spare nobody anything.
//!
//! Before anything was seen, and where nothing else is on its way, nothing is refused; and where so many were
//! refused that nothing more is seen, the wait is forgotten. So a wrong estimate meets new observations.

use std::time::Duration;

use crate::admission::TooLate;
use crate::cost::{Surprise, duration};
use crate::criticality::Criticality;

/// Of a slower answer that much is taken to be the base: half of it after some seventy answers.
const BASE_RISES: f64 = 0.01;
/// By answers that took more than this multiple of it the base does not rise, unless they found few on their way:
const BASE_RISES_BY: f64 = 2.0;
/// this part of the mean at most.
const FEW: f64 = 0.5;
/// After so many that were refused one after the other, without an answer between them,
const REFUSED_IN_A_ROW: u32 = 200;
/// that much of the wait is forgotten with each, half of it after some 1400: so slowly that few are let in before it is seen what becomes
/// of them.
const FORGOTTEN: f64 = 0.0005;
/// What waits is reckoned to wait at least by this part longer than expected, for what is learnt of an answer is as old as the answer took.
const LEAST_CAUTION: f64 = 0.25;
/// An answer that was given up is taken to have needed so many times the time that it had: nobody knows how much longer.
const GIVEN_UP: f64 = 2.0;
/// The part of its time that an answer may need for itself; what it needs beyond that no refusal of others would spare it.
const OWN_PART: f64 = 0.5;

/// Learnt from the answers that were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatencyCurve {
    /// None until one was seen.
    seen: Option<Seen>,
}

/// Times in seconds.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    surprise: Surprise,
    base: f64,
    mean: f64,
    /// Answers on their way, that which was observed included: their mean.
    on_their_way: f64,
    /// Since something was learnt.
    refused: u32,
}

impl LatencyCurve {
    /// Learns what an answer took that found so many on their way.
    pub fn observe(&mut self, before_it: usize, took: Duration) {
        let took = took.as_secs_f64();
        match &mut self.seen {
            Some(seen) => seen.observe(before_it, took),
            None => self.seen = Some(Seen::first(before_it, took, took)),
        }
    }

    /// Learns of an answer that was given up after this time.
    pub fn observe_given_up(&mut self, before_it: usize, took: Duration) {
        let most_own = took.as_secs_f64() * OWN_PART;
        let took = took.as_secs_f64() * GIVEN_UP;
        let Some(seen) = &mut self.seen else {
            self.seen = Some(Seen::first(before_it, took, most_own));
            return;
        };
        if took > seen.expected(before_it) {
            seen.observe(before_it, took);
        }
    }

    /// Lets a request in that finds so many on their way, if there is time to wait for them.
    ///
    /// # Errors
    /// [`TooLate`] where there is not.
    pub fn admit(
        &mut self,
        before_it: usize,
        time_left: Option<Duration>,
        criticality: Criticality,
    ) -> Result<(), TooLate> {
        let (Some(seen), Some(time_left)) = (&mut self.seen, time_left) else {
            return Ok(());
        };
        let wait = duration(seen.cautious_wait(before_it));
        let own = duration(seen.base).min(time_left.mul_f64(OWN_PART));
        let time_to_wait = criticality.waiting_time(time_left - own);
        if wait <= time_to_wait {
            return Ok(());
        }
        seen.refuse();
        Err(TooLate {
            wait,
            fits_after: Some(wait - time_to_wait),
        })
    }
}

impl Seen {
    fn first(before_it: usize, took: f64, base: f64) -> Self {
        Self {
            surprise: Surprise::after(1.0),
            base,
            mean: took,
            on_their_way: with_itself(before_it),
            refused: 0,
        }
    }

    fn observe(&mut self, before_it: usize, took: f64) {
        let weight = self.surprise.observe(self.expected(before_it), took);
        self.refused = 0;
        let found_few = with_itself(before_it) <= (FEW * self.on_their_way).max(1.0);
        if found_few || took < BASE_RISES_BY * self.base {
            self.base = took.min(self.base + BASE_RISES * (took - self.base));
        }
        self.mean += weight * (took - self.mean);
        self.on_their_way += weight * (with_itself(before_it) - self.on_their_way);
    }

    fn refuse(&mut self) {
        self.refused = self.refused.saturating_add(1);
        if self.refused > REFUSED_IN_A_ROW {
            self.mean -= FORGOTTEN * (self.mean - self.base).max(0.0);
        }
    }

    /// For each that is on its way.
    fn wait_for_one(&self) -> f64 {
        (self.mean - self.base).max(0.0) / self.on_their_way
    }

    fn expected(&self, before_it: usize) -> f64 {
        self.base + self.wait_for_one() * with_itself(before_it)
    }

    fn cautious_wait(&self, before_it: usize) -> f64 {
        self.wait_for_one() * before_it as f64 * (1.0 + LEAST_CAUTION.max(self.surprise.caution()))
    }
}

fn with_itself(before_it: usize) -> f64 {
    before_it as f64 + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// An answer takes 10 ms, and 5 ms for each before it.
    fn taught() -> LatencyCurve {
        let mut curve = LatencyCurve::default();
        for round in 0..200_u32 {
            let before_it = round * 7 % 30;
            curve.observe(before_it as usize, 10 * MS + before_it * 5 * MS);
        }
        curve
    }

    fn admits(curve: &LatencyCurve, before_it: usize, left: Duration, class: Criticality) -> bool {
        curve.clone().admit(before_it, Some(left), class).is_ok()
    }

    #[test]
    fn what_would_wait_too_long_is_refused_and_told_when_to_come() {
        let curve = taught();
        assert!(admits(&curve, 13, 100 * MS, Criticality::Critical));
        let late = curve
            .clone()
            .admit(25, Some(100 * MS), Criticality::Critical)
            .unwrap_err();
        let after = late.fits_after.unwrap();
        assert!(after > 25 * MS && after < 60 * MS, "{after:?}");
    }

    #[test]
    fn what_is_sheddable_may_wait_for_a_quarter_of_its_time() {
        let curve = taught();
        assert!(admits(&curve, 3, 100 * MS, Criticality::Sheddable));
        assert!(!admits(&curve, 6, 100 * MS, Criticality::Sheddable));
        assert!(admits(&curve, 6, 100 * MS, Criticality::Critical));
    }

    #[test]
    fn who_knows_nothing_or_has_all_the_time_is_let_in() {
        assert!(admits(
            &LatencyCurve::default(),
            1000,
            MS,
            Criticality::Critical
        ));
        assert_eq!(taught().admit(1000, None, Criticality::Critical), Ok(()));
    }

    /// An answer that takes longer than it has is not helped by refusing the others: it comes as far as it comes.
    #[test]
    fn a_short_time_is_no_reason_to_refuse_where_nobody_waits() {
        let mut curve = LatencyCurve::default();
        for round in 0..200 {
            curve.observe(round % 8, 40 * MS);
        }
        for before_it in 0..8 {
            assert!(admits(&curve, before_it, 10 * MS, Criticality::Critical));
        }
    }

    #[test]
    fn a_door_that_opens_in_a_storm_closes() {
        let mut curve = LatencyCurve::default();
        for _ in 0..100 {
            curve.observe_given_up(500, 200 * MS);
        }
        assert!(!admits(&curve, 500, 200 * MS, Criticality::Critical));
    }

    /// Where everything takes all the time it has, whatever is let in, fewer and fewer are.
    #[test]
    fn a_storm_that_is_not_of_its_own_making_closes_it_too() {
        let mut curve = taught();
        let mut most = 0;
        for _ in 0..2000 {
            most = (0..500)
                .take_while(|before_it| admits(&curve, *before_it, 200 * MS, Criticality::Critical))
                .count();
            curve.observe_given_up(most, 200 * MS);
        }
        assert!(most < 4, "{most}");
    }

    #[test]
    fn it_follows_a_mesh_that_has_lost_half_of_its_threads() {
        let mut curve = taught();
        assert!(admits(&curve, 13, 100 * MS, Criticality::Critical));
        for before_it in 0..100 {
            curve.observe(before_it % 10, MS * (20 + 10 * (before_it as u32 % 10)));
        }
        assert!(!admits(&curve, 13, 100 * MS, Criticality::Critical));
        assert!(admits(&curve, 4, 100 * MS, Criticality::Critical));
    }

    /// One that was quick, as it found nothing, or that had no time at all.
    #[test]
    fn an_odd_answer_does_not_close_a_door_that_nobody_waits_at() {
        let mut curve = LatencyCurve::default();
        curve.observe(0, MS);
        curve.observe_given_up(1, MS);
        for round in 0..300 {
            curve.observe(round % 3, 100 * MS);
        }
        assert!(admits(&curve, 3, 200 * MS, Criticality::Critical));
    }

    /// The others that are let in need not be of its kind: then it learns nothing of them.
    #[test]
    fn what_is_refused_again_and_again_is_let_in_once() {
        let mut curve = taught();
        for _ in 0..50 {
            curve.observe_given_up(3, 2000 * MS);
        }
        let mut refused = 0;
        while curve
            .admit(8, Some(1000 * MS), Criticality::Critical)
            .is_err()
        {
            refused += 1;
            assert!(refused < 10_000);
        }
        assert!(refused > 100, "{refused}");
    }

    proptest! {
        #[test]
        fn the_first_is_always_let_in_and_more_before_it_never_help(
            seen in prop::collection::vec((0_usize..300, 0_u64..3_000_000), 0..60),
            before_it in 0_usize..300, left_us in 0_u64..3_000_000,
        ) {
            let mut curve = LatencyCurve::default();
            for (before_it, took_us) in seen {
                curve.observe(before_it, Duration::from_micros(took_us));
            }
            let left = Duration::from_micros(left_us);
            for class in [Criticality::Critical, Criticality::Sheddable] {
                prop_assert!(admits(&curve, 0, left, class));
                prop_assert!(admits(&curve, before_it, left, class) || !admits(&curve, before_it + 1, left, class));
            }
            let critical = admits(&curve, before_it, left, Criticality::Critical);
            prop_assert!(critical || !admits(&curve, before_it, left, Criticality::Sheddable));
        }
    }
}
