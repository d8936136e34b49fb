//! Links the unwinder in: a shared libgcc_s costs every start of a device a twentieth of its time
//! (docs/decisions/0100-the-unwinder-is-linked-in.md).

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The archive comes with gcc, which links for this target; others have an unwinder of their own.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux")
        && env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu")
    {
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}
