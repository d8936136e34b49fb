//! Makes SPIR-V of the shaders.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=shaders");
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    for name in ["triangle", "compute"] {
        let source = fs::read_to_string(format!("shaders/{name}.wgsl"))?;
        let module = naga::front::wgsl::parse_str(&source).map_err(|error| error.emit_to_string(&source))?;
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module)?;
        let words = spv::write_vec(&module, &info, &spv::Options::default(), None)?;
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        fs::write(folder.join(format!("{name}.spv")), bytes)?;
    }
    Ok(())
}
