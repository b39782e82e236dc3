//! Sends each request when it is due, and waits for none before the next.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, ensure};
use evaluation::load::Arrival;
use search_proto::search::SearchResponse;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// Requests that may wait for their answers. Where more do, the rate is far beyond what the mesh answers, and the client's memory and
/// sockets would be measured.
pub(super) const MOST_WAITING: usize = 10_000;

/// What became of a request.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) arrival: Arrival,
    /// When it was sent, from the beginning of the load: the client is late itself where its machine is busy.
    pub(super) sent: Duration,
    /// When its answer was there.
    pub(super) ended: Duration,
    pub(super) answer: Result<SearchResponse, Status>,
}

/// Runs the whole load, and hands on each request as it ends.
///
/// # Errors
/// When more than `most_waiting` requests wait, or one panics.
pub(super) async fn run<F>(
    arrivals: &[Arrival],
    most_waiting: usize,
    ask: impl Fn(&Arrival) -> F,
    mut see: impl FnMut(Seen),
) -> Result<()>
where
    F: Future<Output = Result<SearchResponse, Status>> + Send + 'static,
{
    let start = Instant::now();
    let mut waiting = JoinSet::new();
    for arrival in arrivals {
        until(start + arrival.at, &mut waiting, &mut see).await?;
        ensure!(
            waiting.len() < most_waiting,
            "{most_waiting} requests wait for their answers: the rate is far beyond what this mesh answers"
        );
        waiting.spawn(asked(start, *arrival, ask(arrival)));
    }
    while let Some(seen) = waiting.join_next().await {
        see(seen?);
    }
    Ok(())
}

/// Takes what ends until a time has come, and what had ended by then.
async fn until(
    due: Instant,
    waiting: &mut JoinSet<Seen>,
    see: &mut impl FnMut(Seen),
) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            Some(seen) = waiting.join_next() => see(seen?),
            () = sleep_until(due) => return Ok(()),
        }
    }
}

async fn asked(
    start: Instant,
    arrival: Arrival,
    answer: impl Future<Output = Result<SearchResponse, Status>>,
) -> Seen {
    let sent = start.elapsed();
    let answer = answer.await;
    Seen {
        arrival,
        sent,
        ended: start.elapsed(),
        answer,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evaluation::load::{Load, Process};
    use tokio::sync::Mutex;
    use tokio::time::sleep;

    use super::*;

    /// One arrival each 50 ms.
    fn arrivals() -> Vec<Arrival> {
        let load = Load {
            process: Process::Constant,
            per_second: 20.0,
            span: Duration::from_secs(1),
            queries: 1,
            critical_share: 1.0,
            seed: 1,
        };
        load.arrivals()
    }

    /// Answers one request at a time.
    async fn served(server: Arc<Mutex<()>>, time: Duration) -> Result<SearchResponse, Status> {
        let _turn = server.lock().await;
        sleep(time).await;
        Ok(SearchResponse::default())
    }

    async fn latencies_ms(service_ms: u64, most_waiting: usize) -> Result<Vec<u128>> {
        let server = Arc::new(Mutex::new(()));
        let mut latencies = Vec::new();
        let ask = |_: &Arrival| served(Arc::clone(&server), Duration::from_millis(service_ms));
        let see = |seen: Seen| latencies.push((seen.ended - seen.arrival.at).as_millis());
        run(&arrivals(), most_waiting, ask, see).await?;
        Ok(latencies)
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_keeps_up_has_its_own_latency() {
        assert_eq!(latencies_ms(20, 10).await.unwrap(), [20; 19]);
    }

    /// A load that waited for its answers would see 80 ms each time.
    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_keep_up_has_the_wait_in_its_latency() {
        let latencies = latencies_ms(80, 1000).await.unwrap();
        let expected: Vec<u128> = (0..19).map(|place| 80 + 30 * place).collect();
        assert_eq!(latencies, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_that_wait_end_the_run() {
        let error = latencies_ms(10_000, 5).await.unwrap_err();
        assert!(error.to_string().contains("5 requests wait"), "{error}");
    }
}
