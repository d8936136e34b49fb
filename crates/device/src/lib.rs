//! The GPU that a guest sees: resources, scanouts, fences.
