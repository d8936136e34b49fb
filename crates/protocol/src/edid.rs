//! EDID 1.4.
