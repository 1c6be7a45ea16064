//! What an output is made of: rows, parts, plan files, manifest.
//!
//! Between the model's answer and the bucket, and the format that users read. [`layout`] names the
//! objects, the others turn values into bytes and back; the only request made here is the one for a
//! file's [`footer`].

pub mod engine;
pub mod footer;
pub mod layout;
pub mod manifest;
pub mod part;
pub mod part_brief;
pub mod part_keys;
pub mod part_rows;
pub mod plan_file;
pub mod row;
pub mod schema;

pub use layout::OutputLayout;
pub use manifest::Manifest;
pub use part::{PartFooter, encode_part};
pub use plan_file::{Cursor, Inside, PlanDone, PlanFileFooter};
pub use schema::Columns;
