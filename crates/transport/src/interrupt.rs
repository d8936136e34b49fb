//! How the driver is told.

/// The way from a device to its driver.
pub trait Interrupt {
    /// The used ring of `queue` has news that the driver wants to hear of.
    fn queue(&mut self, queue: u16);
    /// The configuration changed.
    fn config(&mut self);
    /// The ring of `queue` cannot be followed and has been stopped.
    fn broken(&mut self, queue: u16);
}
