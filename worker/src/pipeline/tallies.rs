//! What the common code counts for the whole process, as metrics: requests to stores, connections to the broker.
//!
//! Part of [`super::meters`]. The counts themselves are kept at the seams, which know nothing of Prometheus; they are
//! taken over each time somebody looks. Labels are those closed sets.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use std::sync::atomic::Ordering;
use trawl_common::{
    broker::reconnects::{Lost, reconnects},
    storage::counted::{StoreCode, StoreOp, store_requests},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LostLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabel {
    op: &'static str,
    code: &'static str,
}

/// The series of these counts.
#[derive(Default)]
pub(super) struct Tallies {
    amqp_reconnects: Family<LostLabel, Counter>,
    store_requests: Family<StoreLabel, Counter>,
    store_throttled: Counter,
}

impl Tallies {
    /// Adds them to what is exported.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "amqp_reconnects",
            "Connections to the broker made again, by what ended them",
            self.amqp_reconnects.clone(),
        );
        registry.register(
            "store_requests",
            "Requests to stores, each try, by what was asked and how the store answered",
            self.store_requests.clone(),
        );
        registry.register(
            "store_throttled",
            "Requests that a store refused because it is asked too much at once",
            self.store_throttled.clone(),
        );
    }

    /// Takes the counts over as they are now.
    pub(super) fn take_over(&self) {
        for lost in Lost::ALL {
            let counter = self.amqp_reconnects.get_or_create(&LostLabel { reason: lost.name() });
            counter.inner().store(reconnects(lost), Ordering::Relaxed);
        }
        for (op, code) in StoreOp::ALL.iter().flat_map(|op| StoreCode::ALL.map(|code| (*op, code))) {
            let label = StoreLabel { op: op.name(), code: code.name() };
            let counter = self.store_requests.get_or_create(&label);
            counter.inner().store(store_requests(op, code), Ordering::Relaxed);
        }
        let throttled = StoreOp::ALL.map(|op| store_requests(op, StoreCode::Throttled));
        self.store_throttled.inner().store(throttled.iter().sum(), Ordering::Relaxed);
    }
}
