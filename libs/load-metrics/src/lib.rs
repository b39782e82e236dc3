//! What is counted of calls and of work that waits, by OpenTelemetry's API. Names are `finemesh.…`; labels are bounded.
//!
//! Where no receiver is configured nothing is kept. The instruments are made when the first thing is counted: telemetry has to be started
//! before a server is.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use opentelemetry::{KeyValue, global};
use search_core::Criticality;

/// Bounds of times in seconds: from what nobody notices to more than anybody waits for.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// Bounds of parts of a budget. A stage that leaves more than a tenth of its calls' time to its queue wants another replica.
const BUDGET_SHARES: [f64; 11] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0];

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The server has as many calls in flight as it can answer.
    Limit,
    /// The queue has no place.
    Queue,
    /// The queue is longer than the call has time.
    Deadline,
}

impl Refused {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Queue => "queue",
            Self::Deadline => "deadline",
        }
    }
}

/// Why work that waited was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Its time was over.
    Deadline,
    /// Its caller had gone.
    Cancelled,
}

impl Dropped {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
        }
    }
}

struct Instruments {
    refused: Counter<u64>,
    dropped: Counter<u64>,
    queue: Histogram<f64>,
    queue_share: Histogram<f64>,
    in_flight: UpDownCounter<i64>,
    calls: Histogram<f64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = global::meter("finemesh");
    Instruments {
        refused: meter
            .u64_counter("finemesh.calls.refused")
            .with_description("Calls that were refused for load")
            .with_unit("{call}")
            .build(),
        dropped: meter
            .u64_counter("finemesh.work.dropped")
            .with_description("Work that waited and was not begun")
            .with_unit("{item}")
            .build(),
        queue: meter
            .f64_histogram("finemesh.queue.duration")
            .with_description("How long work waited that was begun")
            .with_unit("s")
            .with_boundaries(SECONDS.to_vec())
            .build(),
        queue_share: meter
            .f64_histogram("finemesh.queue.budget_share")
            .with_description("Time that work waited, by the time that its call had when it came")
            .with_boundaries(BUDGET_SHARES.to_vec())
            .build(),
        in_flight: meter
            .i64_up_down_counter("finemesh.calls.in_flight")
            .with_description("Calls that are being answered")
            .with_unit("{call}")
            .build(),
        calls: meter
            .f64_histogram("finemesh.calls.duration")
            .with_description(
                "How long calls took until the end of their answer, by RPC and status",
            )
            .with_unit("s")
            .with_boundaries(SECONDS.to_vec())
            .build(),
    }
});

/// The counts of one queue, or of the server's limit. Clones share them.
#[derive(Debug, Clone)]
pub struct Counts {
    place: Arc<str>,
}

impl Counts {
    /// Of the place of this name, one of few.
    #[must_use]
    pub fn of(place: &str) -> Self {
        Self {
            place: place.into(),
        }
    }

    /// A call was refused.
    pub fn refused(&self, why: Refused, criticality: Criticality) {
        let labels = [
            self.label(),
            KeyValue::new("reason", why.as_str()),
            KeyValue::new("criticality", criticality.as_str()),
        ];
        INSTRUMENTS.refused.add(1, &labels);
    }

    /// So many items of work were not begun.
    pub fn dropped(&self, why: Dropped, items: u64) {
        if items > 0 {
            let labels = [self.label(), KeyValue::new("reason", why.as_str())];
            INSTRUMENTS.dropped.add(items, &labels);
        }
        if why == Dropped::Deadline && items > 0 {
            // All of its time was left in the queue.
            INSTRUMENTS.queue_share.record(1.0, &[self.label()]);
        }
    }

    /// Work was begun that had waited this long. `budget` is the time that it had when it came; none: it had no deadline.
    pub fn waited(&self, time: Duration, budget: Option<Duration>) {
        let label = [self.label()];
        INSTRUMENTS.queue.record(time.as_secs_f64(), &label);
        if let Some(budget) = budget.filter(|budget| !budget.is_zero()) {
            let share = time.as_secs_f64() / budget.as_secs_f64();
            INSTRUMENTS.queue_share.record(share, &label);
        }
    }

    fn label(&self) -> KeyValue {
        KeyValue::new("place", Arc::clone(&self.place))
    }
}

/// A call that is being answered, until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    rpc: KeyValue,
    began: Instant,
    status: &'static str,
}

impl InFlight {
    /// Of this RPC, one of few.
    #[must_use]
    pub fn begin(rpc: impl Into<Arc<str>>) -> Self {
        let rpc = KeyValue::new("rpc", rpc.into());
        INSTRUMENTS.in_flight.add(1, std::slice::from_ref(&rpc));
        Self {
            rpc,
            began: Instant::now(),
            status: "CANCELLED",
        }
    }

    /// It ended with this status; otherwise it is cancelled.
    pub const fn end(&mut self, status: &'static str) {
        self.status = status;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        INSTRUMENTS
            .in_flight
            .add(-1, std::slice::from_ref(&self.rpc));
        let labels = [self.rpc.clone(), KeyValue::new("status", self.status)];
        INSTRUMENTS.calls.record(took.as_secs_f64(), &labels);
    }
}
