//! Replicas that answer, fail, hang and die as scripted, in virtual time.

use super::*;
use futures::future::join_all;
use search_core::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a replica does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    /// Answers in half of this to one and a half.
    Answers(Duration),
    Fails(ErrorKind),
    /// Until the deadline of the call.
    Hangs,
    /// Calls fail, those in flight too.
    Dead,
}

use Behaviour::{Answers, Dead, Fails, Hangs};

struct Fake {
    behaviour: watch::Sender<Behaviour>,
    calls: AtomicUsize,
}

impl Fake {
    fn new(behaviour: Behaviour) -> Self {
        Self {
            behaviour: watch::Sender::new(behaviour),
            calls: AtomicUsize::new(0),
        }
    }

    fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    async fn ask(&self) -> Result<(), CallError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut behaviour = self.behaviour.subscribe();
        let at_first = *behaviour.borrow();
        tokio::select! {
            biased;
            outcome = behave(at_first, call) => outcome,
            _ = behaviour.wait_for(|now| *now == Dead) => Err(failed(ErrorKind::Unavailable)),
        }
    }
}

async fn behave(behaviour: Behaviour, call: usize) -> Result<(), CallError> {
    match behaviour {
        Answers(mean) => {
            // Steps of a ninth, in an order that is none of time.
            let step = u32::try_from(call * 7 % 10).unwrap();
            sleep(mean / 2 + mean * step / 9).await;
            Ok(())
        }
        Fails(kind) => Err(failed(kind)),
        Hangs => {
            sleep(Duration::from_secs(1)).await;
            Err(failed(ErrorKind::DeadlineExceeded))
        }
        Dead => Err(failed(ErrorKind::Unavailable)),
    }
}

fn failed(kind: ErrorKind) -> CallError {
    CallError {
        service: Service::SparseRetriever,
        replica: "one".to_owned(),
        kind,
        message: String::new(),
        fields: Vec::new(),
        pushback: None,
    }
}

fn replicas(behaviours: &[Behaviour]) -> Replicas<Fake> {
    of_service(Service::SparseRetriever, behaviours)
}

fn of_service(service: Service, behaviours: &[Behaviour]) -> Replicas<Fake> {
    Replicas::new(service, behaviours.iter().copied().map(Fake::new))
}

impl Replicas<Fake> {
    async fn ask(&self) -> Result<(), CallError> {
        self.call(&self.everyone(), Fake::ask).await
    }

    fn calls(&self) -> Vec<usize> {
        self.clients().map(Fake::calls).collect()
    }

    fn all_calls(&self) -> usize {
        self.calls().iter().sum()
    }

    /// So many requests, one in every such time.
    async fn load(&self, requests: u32, every: Duration) -> Vec<Asked> {
        let request = |number| async move {
            sleep(every * number).await;
            let start = Instant::now();
            let outcome = self.ask().await;
            Asked {
                is_answered: outcome.is_ok(),
                took: start.elapsed(),
            }
        };
        join_all((0..requests).map(request)).await
    }
}

struct Asked {
    is_answered: bool,
    took: Duration,
}

fn answered(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| asked.is_answered).count()
}

fn p99(asked: &[Asked]) -> Duration {
    let mut took: Vec<Duration> = asked.iter().map(|asked| asked.took).collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

#[tokio::test(start_paused = true)]
async fn equals_get_equal_shares() {
    let replicas = replicas(&[Answers(millis(10)); 3]);
    let asked = replicas.load(900, millis(1)).await;
    assert_eq!(answered(&asked), 900);
    let calls = replicas.calls();
    assert!(
        calls.iter().all(|calls| (250..400).contains(calls)),
        "{calls:?}"
    );
}

/// With one call at a time there is no load to tell them apart by.
#[tokio::test(start_paused = true)]
async fn equals_get_equal_shares_of_few_calls() {
    let replicas = replicas(&[Answers(millis(10)); 2]);
    replicas.load(400, millis(50)).await;
    let calls = replicas.calls();
    assert!(calls.iter().all(|calls| *calls > 100), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_gets_much_less() {
    // Too fast to be ejected for its latency, and of a service without hedges.
    let replicas = of_service(
        Service::CrossEncoder,
        &[Answers(millis(1)), Answers(millis(10))],
    );
    let asked = replicas.load(2000, millis(1)).await;
    assert_eq!(answered(&asked), 2000);
    let calls = replicas.calls();
    assert!(calls[1] > 0 && calls[1] * 10 < calls[0], "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_take_many_times_what_the_others_take_eject() {
    for (mean, is_ejected) in [(millis(400), true), (millis(40), false)] {
        let replicas = of_service(
            Service::CrossEncoder,
            &[Answers(millis(20)), Answers(mean), Answers(millis(20))],
        );
        replicas.load(20, millis(1)).await;
        for _ in 0..5 {
            let in_flight = replicas
                .roster
                .begin(1, &replicas.everyone(), CallKind::First);
            follow(in_flight, replicas.clients[1].ask()).await.unwrap();
        }
        assert_eq!(replicas.roster.is_out(1), is_ejected, "{mean:?}");
    }
}

/// The aim: no failed request, the p99 at most doubled five seconds later, and one call in ten extra.
async fn assert_borne(behaviour: Behaviour) {
    let replicas = replicas(&[Answers(millis(10)); 2]);
    let change = async {
        sleep(Duration::from_secs(4)).await;
        replicas.clients[0].set(behaviour);
    };
    let (asked, ()) = tokio::join!(replicas.load(6000, millis(2)), change);
    assert_eq!(answered(&asked), asked.len(), "{behaviour:?}");
    let (before, after) = (p99(&asked[..2000]), p99(&asked[4500..]));
    assert!(after <= 2 * before, "{behaviour:?}: {before:?}, {after:?}");
    let extra = replicas.all_calls() - asked.len();
    assert!(extra <= asked.len() / 10 + 10, "{behaviour:?}: {extra}");
    assert_eq!(replicas.roster.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_under_load_fails_nothing() {
    assert_borne(Dead).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_under_load_fails_nothing() {
    assert_borne(Hangs).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_becomes_ten_times_slower_is_borne() {
    assert_borne(Answers(millis(100))).await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_twin_is_hedged_around_and_ejected() {
    let replicas = replicas(&[Answers(millis(10)); 2]);
    replicas.load(600, millis(1)).await;
    let patience = replicas.roster.patience().unwrap();
    assert!((millis(14)..millis(19)).contains(&patience), "{patience:?}");
    replicas.clients[0].set(Hangs);
    let before = replicas.clients[0].calls();
    let asked = replicas.load(600, millis(1)).await;
    assert_eq!(answered(&asked), 600);
    let slowest = asked.iter().map(|asked| asked.took).max().unwrap();
    assert!(slowest <= 2 * patience + millis(15), "{slowest:?}");
    let to_hung = replicas.clients[0].calls() - before;
    assert!((5..20).contains(&to_hung), "{to_hung}");
    assert!(replicas.roster.is_out(0));
}

/// Those of a big collection, and those of a small one.
#[tokio::test(start_paused = true)]
async fn holders_of_other_things_are_not_compared() {
    let (big, small) = (Answers(millis(200)), Answers(millis(5)));
    let replicas = replicas(&[big, big, small, small, small, small]);
    for _ in 0..200 {
        for holders in [&[0, 1][..], &[2, 3, 4, 5]] {
            replicas.call(holders, Fake::ask).await.unwrap();
        }
        assert!((0..6).all(|position| !replicas.roster.is_out(position)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_replica_is_retried_and_then_ejected() {
    let replicas = replicas(&[Dead, Answers(millis(10))]);
    let asked = replicas.load(200, millis(1)).await;
    assert_eq!(answered(&asked), 200);
    assert!(replicas.roster.is_out(0));
    assert_eq!(replicas.clients[0].calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_dead_replica_is_probed_less_and_less_and_comes_back() {
    let replicas = replicas(&[Dead, Answers(millis(10))]);
    let asked = replicas.load(9000, millis(10)).await;
    assert_eq!(answered(&asked), 9000);
    // After 1, 2, 4, 8, 16 and 30 seconds.
    assert_eq!(replicas.clients[0].calls(), 5 + 6);
    replicas.clients[0].set(Answers(millis(10)));
    replicas.load(4000, millis(10)).await;
    let before = replicas.calls();
    replicas.load(1000, millis(10)).await;
    let after = replicas.calls();
    assert!(after[0] - before[0] > 300, "{before:?}, {after:?}");
}

#[tokio::test(start_paused = true)]
async fn where_everything_fails_one_call_in_ten_is_extra() {
    for kind in [ErrorKind::Unavailable, ErrorKind::Internal] {
        let replicas = replicas(&[Fails(kind); 3]);
        let asked = replicas.load(1000, millis(1)).await;
        assert_eq!(answered(&asked), 0);
        assert!(
            replicas.all_calls() <= 1100 + 10,
            "{}",
            replicas.all_calls()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_everything_becomes_slow_one_call_in_ten_is_extra() {
    let replicas = replicas(&[Answers(millis(10)); 3]);
    replicas.load(100, millis(1)).await;
    for replica in &replicas.clients {
        replica.set(Answers(millis(500)));
    }
    let asked = replicas.load(1000, millis(1)).await;
    assert_eq!(answered(&asked), 1000);
    assert!(
        replicas.all_calls() <= 1210 + 10,
        "{}",
        replicas.all_calls()
    );
}

#[tokio::test(start_paused = true)]
async fn where_most_are_dead_the_living_answers_most() {
    let replicas = replicas(&[Dead, Dead, Answers(millis(10))]);
    let asked = replicas.load(1000, millis(1)).await;
    let answered = answered(&asked);
    assert!(answered > 500, "{answered}");
}

#[tokio::test(start_paused = true)]
async fn what_others_would_answer_alike_is_neither_retried_nor_blamed() {
    let replicas = replicas(&[Fails(ErrorKind::InvalidArgument); 2]);
    let asked = replicas.load(100, millis(1)).await;
    assert_eq!(answered(&asked), 0);
    assert_eq!(replicas.all_calls(), 100);
    assert!(!replicas.roster.is_out(0) && !replicas.roster.is_out(1));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_fails_leaves_the_first_call() {
    let replicas = replicas(&[Hangs; 2]);
    let first = async {
        sleep(millis(100)).await;
        Ok(())
    };
    let hedge = async { Err(failed(ErrorKind::ResourceExhausted)) };
    let begin = |position, kind| replicas.roster.begin(position, &[0, 1], kind);
    let first = pin!(follow(begin(0, CallKind::First), first));
    let hedge = pin!(follow(begin(1, CallKind::Hedge), hedge));
    assert!(first_good::<()>(first, hedge).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn of_two_errors_the_one_of_the_request_is_told() {
    let [refused, broken] = [ErrorKind::InvalidArgument, ErrorKind::Unavailable];
    for (one, other) in [(refused, broken), (broken, refused)] {
        let told = or_other::<()>(Err(failed(one)), async { Err(failed(other)) }).await;
        assert_eq!(told.unwrap_err().kind, refused);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dear_service_is_retried_and_not_hedged() {
    let behaviours = [Answers(millis(10)); 2];
    let replicas = of_service(Service::CrossEncoder, &behaviours);
    replicas.load(100, millis(1)).await;
    assert!(replicas.roster.patience().is_some());
    for replica in &replicas.clients {
        replica.set(Answers(millis(1000)));
    }
    replicas.load(10, millis(1)).await;
    assert_eq!(replicas.all_calls(), 110);
    let replicas = of_service(Service::CrossEncoder, &[Dead, Answers(millis(10))]);
    assert_eq!(answered(&replicas.load(20, millis(1)).await), 20);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_leaves_nothing_in_flight_and_a_late_replica_behind() {
    let replicas = replicas(&[Answers(millis(10)); 2]);
    replicas.load(10, millis(20)).await;
    replicas.clients[0].set(Hangs);
    let hung = timeout(millis(500), replicas.call(&[0], Fake::ask)).await;
    assert!(hung.is_err());
    assert_eq!(replicas.roster.in_flight(), 0);
    replicas.clients[0].set(Answers(millis(10)));
    let before = replicas.clients[0].calls();
    replicas.load(100, millis(1)).await;
    assert_eq!(replicas.clients[0].calls(), before);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_in_flight_until_it_is_dropped() {
    let replicas = replicas(&[Answers(millis(10)); 2]);
    let open = replicas.open(&[0, 1], Fake::ask).await.unwrap();
    assert_eq!(replicas.roster.in_flight(), 1);
    drop(open);
    assert_eq!(replicas.roster.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_replicas_nobody_is_there() {
    let error = replicas(&[]).ask().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let error = replicas(&[Dead]).ask().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
}
