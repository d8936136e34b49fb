//! The schedule on virtual time, with clients that behave as real ones do.

mod machine;
mod pauses;
mod promises;
mod properties;
mod waiting;
