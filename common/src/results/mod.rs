//! What an output is made of: rows, parts, plan files, manifest.
//!
//! Between the model's answer and the bucket, and the format that users read. Nothing here talks to a
//! store; [`layout`] names the objects, the others turn values into bytes and back.

pub mod layout;
pub mod manifest;
pub mod part;
pub mod plan_file;
pub mod row;

pub use layout::OutputLayout;
