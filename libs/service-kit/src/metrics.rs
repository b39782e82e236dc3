//! What is counted of calls that are refused and of work that waits, by OpenTelemetry's API. Names are `finemesh.…`; labels are bounded.
//!
//! Where no receiver is configured nothing is kept. The instruments are made when the first thing is counted: telemetry has to be started
//! before a server is.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};
use search_core::Criticality;

/// Bounds of queue times in seconds: from what nobody notices to more than anybody waits for.
const QUEUE_SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

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
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = global::meter("service-kit");
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
            .with_boundaries(QUEUE_SECONDS.to_vec())
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
    }

    /// Work was begun that had waited this long.
    pub fn waited(&self, time: Duration) {
        INSTRUMENTS
            .queue
            .record(time.as_secs_f64(), &[self.label()]);
    }

    fn label(&self) -> KeyValue {
        KeyValue::new("place", Arc::clone(&self.place))
    }
}

/// Work that waits. Dropped, it counts as cancelled, unless it was begun or its time was over.
#[derive(Debug)]
pub(crate) struct Waiting {
    counts: Counts,
    is_settled: bool,
}

impl Waiting {
    pub(crate) fn new(counts: &Counts) -> Self {
        Self {
            counts: counts.clone(),
            is_settled: false,
        }
    }

    pub(crate) fn begun(mut self, waited: Duration) {
        self.is_settled = true;
        self.counts.waited(waited);
    }

    pub(crate) fn expired(mut self) {
        self.is_settled = true;
        self.counts.dropped(Dropped::Deadline, 1);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_settled {
            self.counts.dropped(Dropped::Cancelled, 1);
        }
    }
}
