//! What is counted of the encoder's queue, by OpenTelemetry's API: the same names and labels as for every other queue of the mesh.

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};
use search_core::Criticality;

/// Bounds of queue times in seconds: from what nobody notices to more than anybody waits for.
const QUEUE_SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

struct Instruments {
    refused: Counter<u64>,
    dropped: Counter<u64>,
    queue: Histogram<f64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = global::meter("inference");
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

/// A job was refused: for want of places (`queue`) or of time (`deadline`).
pub(crate) fn refused(reason: &'static str, criticality: Criticality) {
    let criticality = KeyValue::new("criticality", criticality.as_str());
    let labels = [place(), KeyValue::new("reason", reason), criticality];
    INSTRUMENTS.refused.add(1, &labels);
}

/// So many texts were not computed: too late (`deadline`) or for nobody (`cancelled`).
pub(crate) fn dropped(reason: &'static str, texts: usize) {
    if texts > 0 {
        let labels = [place(), KeyValue::new("reason", reason)];
        INSTRUMENTS.dropped.add(texts as u64, &labels);
    }
}

/// A job was computed that had waited this long.
pub(crate) fn waited(time: Duration) {
    INSTRUMENTS.queue.record(time.as_secs_f64(), &[place()]);
}

fn place() -> KeyValue {
    KeyValue::new("place", "encoder")
}
