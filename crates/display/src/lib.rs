//! Who shows pixels: none, capture, the VMM's window, the viewer process.
