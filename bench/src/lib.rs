//! The cost of each abstraction, and of the peers.
