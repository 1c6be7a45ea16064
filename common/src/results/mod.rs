//! What an output is made of: rows, parts, plan files, manifest.
//!
//! Between the model's answer and the bucket, and the format that users read. [`layout`] names the
//! objects, the others turn values into bytes and back; the only requests made here are those for a
//! file's [`footer`] and for the [pieces of a manifest](manifest_pieces).

pub mod engine;
pub mod footer;
pub mod layout;
pub mod manifest;
pub mod manifest_pieces;
mod merge;
pub mod part;
mod part_answers;
pub mod part_brief;
mod part_carried;
pub mod part_keys;
pub mod part_rows;
mod part_views;
pub mod plan_file;
pub mod row;
pub mod schema;

pub use layout::OutputLayout;
pub use manifest::Manifest;
pub use merge::Merger;
pub use part::{PartFooter, encode_part};
pub use part_answers::half_bytes;
pub use part_rows::PartReader;
pub use plan_file::{Cursor, Inside, PlanDone, PlanFileFooter};
pub use schema::Columns;
