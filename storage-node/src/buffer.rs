//! Aligned buffers from a bounded pool: what bodies live in between socket and drive.
