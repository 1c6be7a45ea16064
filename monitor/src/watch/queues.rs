//! The lanes' queues, as one row a lane: work, retries and dead letters together.
//!
//! From the management API where there is one; else what AMQP tells, which is less. Pure: it asks nobody.

use crate::management::QueueFigures;
use serde::Serialize;
use std::collections::BTreeMap;
use trawl_common::{
    broker::{QueueDepth, topology},
    job::QueueName,
};

/// One lane.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct QueueRow {
    /// The lane's name.
    pub queue: String,
    /// Waiting for a worker.
    pub ready: u64,
    /// In workers' hands; AMQP does not tell.
    pub unacked: Option<u64>,
    /// Resting before they are tried again.
    pub retry: Option<u64>,
    /// Given up.
    pub dead: Option<u64>,
    /// Workers that take from it.
    pub consumers: u64,
    /// Messages a second that come in.
    pub publish_rate: Option<f64>,
    /// That are handed out.
    pub deliver_rate: Option<f64>,
    /// That are settled.
    pub ack_rate: Option<f64>,
}

/// Everything the broker holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Queues {
    /// By lane.
    pub rows: Vec<QueueRow>,
    /// Dead letters of all lanes and of none.
    pub dead: Option<u64>,
}

impl Queues {
    /// From the management API's figures.
    pub fn of_figures(figures: &[QueueFigures]) -> Self {
        let mut rows: BTreeMap<QueueName, QueueRow> = BTreeMap::new();
        let mut dead = Some(0);
        for queue in figures {
            let held = queue.ready + queue.unacked;
            if queue.name == topology::DEAD {
                dead = Some(held);
            } else if let Some(lane) = queue.name.strip_suffix(".retry").and_then(topology::lane_of) {
                let row = rows.entry(lane).or_default();
                row.retry = Some(held);
            } else if let Some(lane) = topology::lane_of(&queue.name) {
                let row = rows.entry(lane).or_default();
                row.ready = queue.ready;
                row.unacked = Some(queue.unacked);
                row.consumers = queue.consumers;
                (row.publish_rate, row.deliver_rate, row.ack_rate) =
                    (queue.publish_rate, queue.deliver_rate, queue.ack_rate);
            }
        }
        let named = |(lane, row): (QueueName, QueueRow)| QueueRow { queue: lane.to_string(), ..row };
        Self { rows: rows.into_iter().map(named).collect(), dead }
    }

    /// From what AMQP tells.
    pub fn of_depths(depths: impl IntoIterator<Item = (QueueName, QueueDepth)>, dead: Option<u64>) -> Self {
        let row = |(lane, depth): (QueueName, QueueDepth)| QueueRow {
            queue: lane.to_string(),
            ready: depth.ready,
            consumers: depth.consumers,
            ..QueueRow::default()
        };
        Self { rows: depths.into_iter().map(row).collect(), dead }
    }

    /// Says how many of the dead letters are each lane's.
    pub fn count_dead(&mut self, of_lane: impl Fn(&str) -> Option<u64>) {
        for row in &mut self.rows {
            row.dead = of_lane(&row.queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_retries_of_a_lane_are_one_row() {
        let of = |name: &str, ready, unacked| QueueFigures {
            name: name.into(),
            ready,
            unacked,
            ..Default::default()
        };
        let figures = [
            of("trawl.gpu", 5, 2),
            of("trawl.gpu.retry", 1, 0),
            of("trawl.dead", 3, 1),
            of("trawl.cpu", 0, 0),
            of("trawl.gpu.retry.retry", 9, 9),
            of("other", 9, 9),
            of("trawl.<b>", 9, 9),
        ];
        let queues = Queues::of_figures(&figures);
        assert_eq!(queues.dead, Some(4));
        let names: Vec<&str> = queues.rows.iter().map(|row| row.queue.as_str()).collect();
        assert_eq!(names, ["cpu", "gpu"]);
        assert_eq!(
            (queues.rows[1].ready, queues.rows[1].unacked, queues.rows[1].retry),
            (5, Some(2), Some(1))
        );
        assert_eq!(queues.rows[0].retry, None, "nobody made it");
    }
}
