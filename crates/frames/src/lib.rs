//! The seam between a device and its viewer: frames in a sealed memfd, messages on a socket pair.
