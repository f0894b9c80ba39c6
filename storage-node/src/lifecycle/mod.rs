//! What goes by itself: the rules of buckets' lifecycles, and who carries them out (user guide, "Managing the lifecycle of
//! objects").

mod rules;
mod worker;

pub use rules::{
    DAY_SECS, Expiration, Filter, FilterForm, Lifecycle, MinimumSize, Noncurrent,
    NoncurrentTransition, Rule, Transition, When, due, first_to_expire,
};
pub use worker::{LifecycleConfig, LifecycleDone, LifecycleWorker};
