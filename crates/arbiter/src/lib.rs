//! The seam between a device and the manager of time slices: a sealed page for each device, and a socket it is passed by.
