//! The directory: buckets by name, and the cluster map, as the placement group's state.
