//! A queue with threads behind it under more load than it can carry, in virtual time: nothing is computed in vain, what comes in time
//! stays what it was, and what is critical gets in.
//!
//! The simulated pool is the one of `service-kit`: first come, first served, a bounded number of places, work whose deadline has passed
//! leaves the queue, and work that is at it stops then.

use std::collections::VecDeque;
use std::time::Duration;

use search_core::Criticality;
use search_core::admission::{Load, Newcomer, QueueCost, Workshop};

const THREADS: usize = 4;
const WAITING_PLACES: usize = 256;
/// Mean of what a request takes.
const MEAN_SERVICE: f64 = 0.010;
/// Requests that a second has time for.
const CAPACITY: f64 = THREADS as f64 / MEAN_SERVICE;
/// What each request has.
const TIMEOUT: f64 = 0.100;
const SECONDS: f64 = 60.0;

/// Random numbers in (0, 1], the same every time (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.next().ln()
    }
}

/// How long requests take.
#[derive(Clone, Copy, Debug)]
enum Service {
    /// From half of the mean to three halves.
    Even,
    /// Many short ones, few long ones.
    Exponential,
}

const SERVICES: [Service; 2] = [Service::Even, Service::Exponential];

impl Service {
    fn seconds(self, random: &mut Random) -> f64 {
        match self {
            Self::Even => MEAN_SERVICE * (0.5 + random.next()),
            Self::Exponential => random.exponential(MEAN_SERVICE),
        }
    }
}

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Control {
    /// Who finds a place.
    Places,
    /// Who finds a place and has time.
    PlacesAndTime,
}

#[derive(Clone, Copy)]
struct Request {
    arrives: f64,
    takes: f64,
    criticality: Criticality,
}

impl Request {
    fn deadline(&self) -> f64 {
        self.arrives + TIMEOUT
    }
}

/// Of one class of requests.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    asked: f64,
    admitted: f64,
    /// Done before the deadline.
    in_time: f64,
}

#[derive(Debug, Default)]
struct Outcome {
    critical: Counts,
    sheddable: Counts,
    begun: usize,
    begun_too_late: usize,
}

impl Outcome {
    fn of(&mut self, criticality: Criticality) -> &mut Counts {
        match criticality {
            Criticality::Critical => &mut self.critical,
            Criticality::Sheddable => &mut self.sheddable,
        }
    }

    /// Done in time, by second.
    fn goodput(&self) -> f64 {
        (self.critical.in_time + self.sheddable.in_time) / SECONDS
    }
}

/// What a thread is at, and until when.
#[derive(Clone, Copy)]
struct Running {
    request: Request,
    began: f64,
    ends: f64,
}

struct Pool {
    control: Control,
    cost: QueueCost,
    waiting: VecDeque<Request>,
    running: Vec<Running>,
    outcome: Outcome,
}

impl Pool {
    fn new(control: Control) -> Self {
        let workshop = Workshop {
            threads: THREADS,
            batch_items: 1.0,
            fixed_items: 0.0,
        };
        Self {
            control,
            cost: QueueCost::new(workshop),
            waiting: VecDeque::new(),
            running: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// Ends all work that ends by then.
    fn advance(&mut self, now: f64) {
        while let Some(first) = self.next_end().filter(|&at| self.running[at].ends <= now) {
            let ended = self.running.swap_remove(first);
            self.end(ended);
            self.begin(ended.ends);
        }
    }

    fn next_end(&self) -> Option<usize> {
        (0..self.running.len()).min_by(|&left, &right| {
            f64::total_cmp(&self.running[left].ends, &self.running[right].ends)
        })
    }

    fn end(&mut self, ended: Running) {
        let took = Duration::from_secs_f64(ended.ends - ended.began);
        if ended.ends < ended.request.deadline() {
            self.cost.observe(1.0, took);
            self.outcome.of(ended.request.criticality).in_time += 1.0;
        } else {
            self.cost.observe_broken_off(1.0, took);
        }
    }

    fn begin(&mut self, now: f64) {
        self.waiting.retain(|request| request.deadline() > now);
        if self.running.len() == THREADS {
            return;
        }
        if let Some(request) = self.waiting.pop_front() {
            self.outcome.begun += 1;
            self.outcome.begun_too_late += usize::from(request.deadline() <= now);
            self.running.push(Running {
                request,
                began: now,
                ends: (now + request.takes).min(request.deadline()),
            });
        }
    }

    fn arrive(&mut self, request: Request) {
        let (now, criticality) = (request.arrives, request.criticality);
        self.advance(now);
        self.waiting.retain(|request| request.deadline() > now);
        self.outcome.of(criticality).asked += 1.0;
        let has_place = self.waiting.len() < criticality.places(WAITING_PLACES);
        let has_time = self.control == Control::Places || self.has_time_for(request);
        if has_place && has_time {
            self.outcome.of(criticality).admitted += 1.0;
            self.waiting.push_back(request);
            self.begin(now);
        }
    }

    fn has_time_for(&self, request: Request) -> bool {
        let load = Load {
            waiting_items: self.waiting.len() as f64,
            computing_items: self.running.len() as f64,
            computing_batches: self.running.len(),
        };
        let newcomer = Newcomer {
            items: 1.0,
            time_left: Some(Duration::from_secs_f64(TIMEOUT)),
            criticality: request.criticality,
        };
        self.cost.admit(load, newcomer).is_ok()
    }
}

/// Requests at these multiples of the capacity, at random times.
fn run(critical_load: f64, sheddable_load: f64, service: Service, control: Control) -> Outcome {
    let mut random = Random(7);
    let mut pool = Pool::new(control);
    let load = critical_load + sheddable_load;
    let mut now = 0.0;
    while now < SECONDS {
        now += random.exponential(1.0 / (load * CAPACITY));
        let criticality = match random.next() * load <= critical_load {
            true => Criticality::Critical,
            false => Criticality::Sheddable,
        };
        pool.arrive(Request {
            arrives: now,
            takes: service.seconds(&mut random),
            criticality,
        });
    }
    pool.outcome
}

fn controlled(critical_load: f64, sheddable_load: f64, service: Service) -> Outcome {
    run(
        critical_load,
        sheddable_load,
        service,
        Control::PlacesAndTime,
    )
}

#[test]
fn at_twice_the_load_nothing_expired_is_begun() {
    for service in SERVICES {
        let outcome = controlled(2.0, 0.0, service);
        assert_eq!(outcome.begun_too_late, 0, "{service:?}: {outcome:?}");
        assert!(
            outcome.critical.admitted < outcome.critical.asked,
            "{outcome:?}"
        );
    }
}

#[test]
fn goodput_stays_near_its_peak_at_five_times_the_load() {
    for service in SERVICES {
        let goodput = |load| controlled(load, 0.0, service).goodput();
        let by_load = [0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0].map(goodput);
        let peak = by_load.into_iter().fold(0.0, f64::max);
        let at_five = goodput(5.0);
        println!("{service:?}: {by_load:.0?}, at 5x {at_five:.0}, capacity {CAPACITY:.0}");
        assert!(at_five >= 0.85 * peak, "{service:?}: {at_five} of {peak}");
    }
}

/// That the control is what does it.
#[test]
fn by_places_alone_goodput_falls() {
    let by_time = controlled(5.0, 0.0, Service::Even).goodput();
    let by_places = run(5.0, 0.0, Service::Even, Control::Places).goodput();
    println!("by time {by_time:.0}, by places {by_places:.0}");
    assert!(by_places < 0.1 * by_time, "{by_places} against {by_time}");
}

#[test]
fn what_is_critical_gets_in_whatever_else_is_asked() {
    for service in SERVICES {
        let outcome = controlled(0.7, 4.3, service);
        println!("{service:?}: {outcome:?}");
        let Counts {
            asked, admitted, ..
        } = outcome.critical;
        assert!(admitted >= 0.99 * asked, "{service:?}: {outcome:?}");
        assert!(outcome.sheddable.in_time > 0.0, "{outcome:?}");
    }
}

#[test]
fn below_the_capacity_hardly_anything_is_refused() {
    for service in SERVICES {
        let Counts {
            asked, admitted, ..
        } = controlled(0.7, 0.0, service).critical;
        assert!(
            admitted >= 0.99 * asked,
            "{service:?}: {admitted} of {asked}"
        );
    }
}
