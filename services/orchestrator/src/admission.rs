//! The door of the mesh: a search that would not be answered in its time is done with less, or refused before anything is done for it.
//!
//! Whether there is time is told by what answers took that found as many on their way ([`LatencyCurve`]). A mesh that has no time for
//! whole answers may have it for lesser ones, which cost less: as optional parts of an answer are left out under load in brownout (Klein
//! et al. 2014). A lesser answer says so (`overloaded`).

use crate::error::SearchError;
use crate::extent::Extent;
use crate::funnel::Answer;
use crate::plan::{Pipelines, Plan};
use load_metrics::{Counts, Refused};
use search_core::admission::TooLate;
use search_core::{Criticality, Deadline, LatencyCurve, StageReason, StageReport, StageStatus};
use service_kit::{criticality, now};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What can be answered with less has to have so many times the time that it needs.
const MORE_TIME: u32 = 2;

/// Counts the answers on their way, and learns what each pipeline's take.
#[derive(Debug)]
pub(crate) struct Door {
    on_their_way: AtomicUsize,
    /// By pipeline.
    curves: HashMap<String, Curves>,
    counts: Counts,
}

/// Of one pipeline, for each extent.
#[derive(Debug, Default)]
struct Curves {
    whole: Mutex<LatencyCurve>,
    without_head: Mutex<LatencyCurve>,
    sparse_alone: Mutex<LatencyCurve>,
}

impl Curves {
    fn of(&self, extent: Extent) -> &Mutex<LatencyCurve> {
        match extent {
            Extent::Whole => &self.whole,
            Extent::WithoutHead(_) => &self.without_head,
            Extent::SparseAlone(_) => &self.sparse_alone,
        }
    }
}

/// An answer on its way. Dropped, it is no more; if its time is over then, it was given up.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    door: &'a Door,
    /// Of what is run.
    curve: Option<&'a Mutex<LatencyCurve>>,
    /// Answers that were on their way when it came.
    before_it: usize,
    entered: Instant,
    deadline: Option<Deadline>,
    is_learnt: bool,
}

impl Door {
    pub(crate) fn new(pipelines: &Pipelines) -> Self {
        let names = pipelines.by_name.keys();
        Self {
            on_their_way: AtomicUsize::new(0),
            curves: names
                .map(|name| (name.clone(), Curves::default()))
                .collect(),
            counts: Counts::of("answers"),
        }
    }

    /// A place for the answer. The plan is left with as much as there is time for.
    ///
    /// # Errors
    /// [`SearchError::Busy`] where even the least would come too late, [`SearchError::DeadlineExceeded`] where it is too late already.
    pub(crate) fn enter(&self, plan: &mut Plan) -> Result<Place<'_>, SearchError> {
        let mut place = Place {
            door: self,
            curve: None,
            before_it: self.on_their_way.fetch_add(1, Ordering::Relaxed),
            entered: now(),
            deadline: plan.request.deadline,
            is_learnt: false,
        };
        let time_left = match plan.end_of_stages(place.entered) {
            None => None,
            Some(end) => Some(
                end.remaining(place.entered)
                    .ok_or(SearchError::DeadlineExceeded)?,
            ),
        };
        let fullest = self.fullest(plan, place.before_it, time_left);
        plan.extent = fullest.map_err(|late| {
            self.counts
                .refused(Refused::Deadline, criticality::current());
            SearchError::Busy(late)
        })?;
        place.curve = self.curve(plan, plan.extent);
        Ok(place)
    }

    /// The most that there is time for.
    fn fullest(
        &self,
        plan: &Plan,
        before_it: usize,
        time_left: Option<Duration>,
    ) -> Result<Extent, TooLate> {
        let fits = |extent, time_left| {
            let curve = self.curve(plan, extent);
            curve.map_or(Ok(()), |curve| {
                lock(curve).admit(before_it, time_left, criticality::current())
            })
        };
        let mut extent = plan.extent;
        for lesser in plan.lesser_extents() {
            if fits(extent, time_left.map(|time| time / MORE_TIME)).is_ok() {
                return Ok(extent);
            }
            extent = lesser;
        }
        fits(extent, time_left).map(|()| extent)
    }

    fn curve(&self, plan: &Plan, extent: Extent) -> Option<&Mutex<LatencyCurve>> {
        let curves = self.curves.get(&plan.pipeline.name);
        curves.map(|curves| curves.of(extent))
    }
}

/// What an answer says of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lesson {
    /// How long one takes.
    Time,
    /// That there was too little time.
    GivenUp,
    Nothing,
}

impl Place<'_> {
    /// Learns how long the answer took, where that says something of the load.
    pub(crate) fn leave(mut self, answer: &Result<Answer, SearchError>) {
        self.is_learnt = true;
        match lesson(answer) {
            Lesson::Time => self.learn(LatencyCurve::observe, self.took()),
            Lesson::GivenUp => self.give_up(),
            Lesson::Nothing => {}
        }
    }

    /// It would have taken all the time there was, and more. An answer that found nobody before it had too little time, whatever the load.
    fn give_up(&self) {
        if self.before_it > 0 {
            let time = self
                .deadline
                .and_then(|deadline| deadline.remaining(self.entered));
            let time = self.took().max(time.unwrap_or_default());
            self.learn(LatencyCurve::observe_given_up, time);
        }
    }

    fn learn(&self, learn: impl FnOnce(&mut LatencyCurve, usize, Duration), time: Duration) {
        if let Some(curve) = self.curve {
            learn(&mut lock(curve), self.before_it, time);
        }
    }

    fn took(&self) -> Duration {
        now().saturating_duration_since(self.entered)
    }
}

fn lesson(answer: &Result<Answer, SearchError>) -> Lesson {
    match answer {
        Ok(answer) => lesson_of(&answer.stages),
        Err(error) => lesson_of_loss(error.reason()),
    }
}

/// What was left out by a decision, or failed for another reason than the load, made the answer quicker than they are: nothing is learnt.
fn lesson_of(stages: &[StageReport]) -> Lesson {
    let failed = stages
        .iter()
        .filter(|stage| stage.status == StageStatus::Failed);
    let mut lessons = failed.map(|stage| stage.reason.map_or(Lesson::Nothing, lesson_of_loss));
    let decided = |stage: &StageReport| stage.reason.is_some_and(StageReason::is_decision);
    match lessons.next() {
        Some(first) => lessons.fold(first, |first, next| {
            if first == next {
                first
            } else {
                Lesson::Nothing
            }
        }),
        None if stages.iter().any(decided) => Lesson::Nothing,
        None => Lesson::Time,
    }
}

/// Services refuse what is sheddable while there is time for what is critical.
fn lesson_of_loss(reason: StageReason) -> Lesson {
    match (reason, criticality::current()) {
        (StageReason::Deadline, _) | (StageReason::Overloaded, Criticality::Critical) => {
            Lesson::GivenUp
        }
        _ => Lesson::Nothing,
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let is_late = |deadline: Deadline| deadline.remaining(now()).is_none();
        if !self.is_learnt && self.deadline.is_some_and(is_late) {
            self.give_up();
        }
        self.door.on_their_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Held for some arithmetic, twice an answer. A panic meanwhile leaves an estimate that further observations correct.
fn lock(curve: &Mutex<LatencyCurve>) -> MutexGuard<'_, LatencyCurve> {
    curve.lock().unwrap_or_else(PoisonError::into_inner)
}
