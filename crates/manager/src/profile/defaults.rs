//! What a GPU offers when nobody has said anything.

use crate::gpu::{Gpu, GpuId};
use crate::profile::{Priority, Promise, Renderer, Type};
use crate::value::Mode;

/// The smallest part of a GPU that draws 3D.
const LEAST: u64 = 512 << 20;
/// How many sizes a GPU is offered in.
const SIZES: u32 = 8;
/// The largest weight of a type.
pub(super) const MAX_WEIGHT: u32 = 1000;

pub(crate) const FULL_HD: Mode = Mode { width: 1920, height: 1080, refresh: 60 };
const QUAD_HD: Mode = Mode { width: 2560, height: 1440, refresh: 60 };

/// Types for 2D of the software GPU, which draws it whatever other GPUs there are; types for 3D of each GPU that does it.
pub(super) fn types(gpus: &[Gpu]) -> Vec<Type> {
    let mut types = Vec::new();
    for gpu in gpus.iter().filter(|gpu| gpu.software && gpu.memory > 0) {
        for (memory, head) in [(128 << 20, FULL_HD), (256 << 20, QUAD_HD)] {
            if memory <= gpu.memory {
                types.push(flat(gpu, memory, head));
            }
        }
    }
    for gpu in gpus.iter().filter(|gpu| !gpu.capsets.is_empty() && gpu.memory > 0) {
        let suffix = suffix(gpu, gpus);
        let sizes = (0..SIZES).map(|power| LEAST << power).take_while(|memory| *memory <= gpu.memory);
        types.extend(sizes.map(|memory| drawing(gpu, memory, &suffix)));
    }
    types
}

/// One for 2D.
pub(crate) fn flat(gpu: &Gpu, memory: u64, head: Mode) -> Type {
    Type {
        name: format!("desktop-2d-{}", size(memory)),
        gpu: gpu.id.clone(),
        memory,
        renderer_memory: None,
        heads: vec![head],
        weight: 100,
        priority: Priority::Normal,
        capsets: Vec::new(),
        renderer: Renderer::Soft,
        display: vec!["vmm".to_owned()],
        isolate: true,
        input: true,
        max_instances: None,
        overcommit: false,
        share: Promise::Advisory,
    }
}

/// Who has twice the memory has twice the time.
fn drawing(gpu: &Gpu, memory: u64, suffix: &str) -> Type {
    let weight = u32::try_from(memory >> 20).unwrap_or(u32::MAX) / 10;
    Type {
        name: format!("render-{}{suffix}", size(memory)),
        heads: vec![if memory < 2 << 30 { FULL_HD } else { QUAD_HD }],
        weight: weight.clamp(1, MAX_WEIGHT),
        capsets: gpu.capsets.clone(),
        renderer: Renderer::Virgl,
        ..flat(gpu, memory, FULL_HD)
    }
}

/// What tells the types of this GPU from those of others that draw 3D: nothing where there is one alone; the processor gives way to
/// a real one.
fn suffix(gpu: &Gpu, gpus: &[Gpu]) -> String {
    let others = gpus.iter().filter(|other| other.id != gpu.id && !other.capsets.is_empty());
    let rivals = others.filter(|other| gpu.software || !other.software).count();
    match rivals {
        0 => String::new(),
        _ => format!("-{}", word(&gpu.id)),
    }
}

/// `software`, `03-00.0`, `0001-03-00.0`: what may stand in a name.
fn word(gpu: &GpuId) -> String {
    let text = gpu.0.strip_prefix("pci-").unwrap_or(&gpu.0);
    text.strip_prefix("0000:").unwrap_or(text).replace(':', "-")
}

fn size(bytes: u64) -> String {
    crate::value::Bytes(bytes).to_string().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Catalogue, file};
    use crate::testing::gpu;

    fn names(gpus: &[Gpu]) -> Vec<String> {
        types(gpus).into_iter().map(|kind| kind.name).collect()
    }

    #[test]
    fn a_host_with_a_processor_alone_offers_what_fits_by_names_that_say_what_it_is() {
        assert_eq!(
            names(&[gpu("software", 3 << 30)]),
            ["desktop-2d-128m", "desktop-2d-256m", "render-512m", "render-1g", "render-2g"]
        );
        let flat = Gpu { capsets: Vec::new(), ..gpu("software", 200 << 20) };
        assert_eq!(names(&[flat]), ["desktop-2d-128m"]);
    }

    #[test]
    fn the_plain_name_is_that_of_the_one_real_gpu() {
        let gpus = [gpu("software", 1 << 30), gpu("pci-0000:03:00.0", 1 << 30)];
        let all = names(&gpus);
        assert_eq!(all[2..], ["render-512m-software", "render-1g-software", "render-512m", "render-1g"]);
    }

    #[test]
    fn of_several_real_gpus_each_has_its_address_in_the_name() {
        let gpus = [gpu("pci-0000:03:00.0", 512 << 20), gpu("pci-0001:82:00.0", 512 << 20)];
        assert_eq!(names(&gpus), ["render-512m-03-00.0", "render-512m-0001-82-00.0"]);
    }

    #[test]
    fn a_gpu_of_unknown_memory_offers_nothing() {
        assert_eq!(names(&[gpu("pci-0000:03:00.0", 0)]), Vec::<String>::new());
    }

    #[test]
    fn twice_the_memory_has_twice_the_time() {
        let weights: Vec<_> = types(&[gpu("software", 64 << 30)])[2..].iter().map(|kind| kind.weight).collect();
        assert_eq!(weights, [51, 102, 204, 409, 819, 1000, 1000, 1000]);
    }

    #[test]
    fn the_defaults_can_be_had_as_a_file_and_read_back() {
        let gpus = [gpu("software", 3 << 30), gpu("pci-0000:03:00.0", 8 << 30)];
        let text = file::print(types(&gpus).iter());
        assert_eq!(Catalogue::parse(&text, &gpus), Ok(Catalogue::defaults(&gpus)));
    }
}
