//! Who makes pixels: null, soft.
