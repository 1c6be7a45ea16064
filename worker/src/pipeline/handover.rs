//! What the stages hand to each other.
//!
//! An image passes from fetch to decode as [`Undecoded`] and from decode to infer as [`Decoded`]. The stages
//! know these types and not each other.

use super::{batch::OpenBatch, seats::Seat};
use crate::preprocess::Prepared;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A share of the fetch stage's bounds; dropping it makes room for the next object.
pub struct Room {
    /// One of the objects that may be here at once.
    pub image: Seat,
    /// Its part of their bytes.
    pub bytes: OwnedSemaphorePermit,
}

/// An image whose bytes are here.
pub struct Undecoded {
    /// Its batch.
    pub batch: Arc<OpenBatch>,
    /// Its place in the batch.
    pub index: usize,
    /// The file.
    pub bytes: Bytes,
    /// The tag of these bytes.
    pub etag: Option<String>,
    /// Held until it, and all that came with it, is decoded.
    pub room: Arc<Room>,
}

/// An image as pixels at the model's size.
pub struct Decoded {
    /// Its batch.
    pub batch: Arc<OpenBatch>,
    /// Its place in the batch.
    pub index: usize,
    /// The pixels.
    pub prepared: Prepared,
    /// The tag of the bytes that were read.
    pub etag: Option<String>,
    /// How many they were.
    pub size: u64,
}
