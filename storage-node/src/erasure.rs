//! Chunk to shards and back (Reed-Solomon over GF(2^8)).
