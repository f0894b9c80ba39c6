//! Tests of the store as a whole.
//!
//! `sequences` follows the method of "Using lightweight formal methods to validate a key-value storage node in Amazon
//! S3" (SOSP 2021): random operations, crashes among them, against the store and against a model of it.

mod exhausted;
mod flaky;
mod local;
mod model;
mod saboteurs;
mod sequences;
mod world;
