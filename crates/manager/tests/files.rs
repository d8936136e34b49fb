//! Files that somebody wrote, or that a disk mangled: they are read, or refused with a line, and nothing else.
#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

use manager::gpu::Timed;
use manager::plan::Declared;
use manager::profile::Catalogue;
use manager::record::Record;
use manager::value::{Bytes, Capset, Mode};
use manager::vgpu::{Model, Start, Transport, parse_uuid};
use manager::{Definition, FileError, Gpu, GpuId, Uuid};
use proptest::prelude::*;

const TYPES: &str = "defaults = true\n[gpu.software]\nmemory = \"4G\"\n[[type]]\nname = \"a\"\nmemory = \"1G\"\nheads = \"1x1@60\"\n\
    weight = 5\npriority = \"low\"\ncapsets = [\"venus\"]\ndisplay = [\"vnc=127.0.0.1:0\"]\nmax-instances = 2\nshare = \"strict\"\n";
const VGPU: &str = "uuid = \"4b1c2a60-7a35-4c5c-9c0a-1f2e3d4c5b6a\"\ntype = \"a\"\nname = \"é\"\nstart = \"auto\"\n\
    transport = \"vfio-user\"\nmodel = \"vga\"\ndisplay = [\"vmm\"]\nheads = \"1x1\"\n";

fn gpus() -> Vec<Gpu> {
    vec![Gpu {
        id: GpuId::software(),
        name: "the processor".to_owned(),
        memory: 1 << 33,
        node: None,
        capsets: Capset::ALL.to_vec(),
        software: true,
        timed: Timed::Processor,
    }]
}

/// A text with a piece cut out and another put in.
fn mangled(text: &'static str) -> impl Strategy<Value = String> {
    let letters: Vec<char> = text.chars().collect();
    let places = 0..=letters.len();
    (places.clone(), places, "\\PC{0,3}|[\\x00-\\x7f]{0,5}|18446744073709551616|\\[\\[|'''").prop_map(
        move |(one, other, piece)| {
            let (from, to) = (one.min(other), one.max(other).min(one.min(other) + 8));
            letters[..from].iter().copied().chain(piece.chars()).chain(letters[to..].iter().copied()).collect()
        },
    )
}

fn sound<T>(text: &str, read: Result<T, FileError>) -> Result<(), TestCaseError> {
    if let Err(error) = read {
        prop_assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1, "{error} of {text:?}");
        prop_assert!(!error.why.is_empty() && !error.why.contains('\n'), "{error:?}");
    }
    Ok(())
}

fn definitions() -> impl Strategy<Value = Definition> {
    let mode = (1..=16_384_u32, 1..=16_384_u32, 1..=1000_u32).prop_map(|(width, height, refresh)| Mode {
        width,
        height,
        refresh,
    });
    let transport = prop_oneof![
        Just((Transport::VhostUser, None)),
        Just((Transport::VfioUser, None)),
        Just((Transport::VfioUser, Some(Model::Virtio))),
        Just((Transport::VfioUser, Some(Model::Bochs))),
    ];
    (
        1..u128::MAX,
        "\\PC{0,20}",
        prop::option::of("[^\\p{C}\\p{Z}]{1,12}"),
        any::<bool>(),
        transport,
        prop::option::of(prop::collection::vec("\\PC{0,12}", 0..3)),
        prop::option::of(prop::collection::vec(mode, 1..4)),
    )
        .prop_map(|(uuid, kind, name, auto, (transport, model), display, heads)| Definition {
            uuid: Uuid::from_u128(uuid),
            kind,
            name,
            start: if auto { Start::Auto } else { Start::Manual },
            transport,
            model,
            display,
            heads,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn mangled_files_are_read_or_refused_with_a_line(types in mangled(TYPES), vgpu in mangled(VGPU), any in "\\PC{0,40}") {
        for text in [types, vgpu, any] {
            sound(&text, Catalogue::parse(&text, &gpus()))?;
            sound(&text, Definition::parse(&text))?;
            sound(&text, Declared::parse(&text))?;
            sound(&text, Declared::parse(&format!("[[vgpu]]\n{text}")).map_err(|error| FileError { line: error.line.max(2) - 1, ..error }))?;
            // Of JSON there is no line to name.
            let _ = serde_json::from_str::<Record>(&text);
        }
    }

    #[test]
    fn what_is_written_down_reads_back(definition in definitions()) {
        prop_assert_eq!(Definition::parse(&definition.print()).unwrap(), definition.clone());
        let json = serde_json::to_string(&definition).unwrap();
        prop_assert_eq!(serde_json::from_str::<Definition>(&json).unwrap(), definition);
    }

    #[test]
    fn small_values_read_back(bytes in any::<u64>(), uuid in 1..u128::MAX) {
        prop_assert_eq!(Bytes(bytes).to_string().parse::<Bytes>(), Ok(Bytes(bytes)));
        let uuid = Uuid::from_u128(uuid);
        prop_assert_eq!(parse_uuid(&uuid.to_string().to_uppercase()), Ok(uuid));
    }
}

#[test]
fn the_texts_that_are_mangled_are_sound_themselves() {
    Catalogue::parse(TYPES, &gpus()).unwrap();
    Definition::parse(VGPU).unwrap();
}

/// The lines of an example that are commented out, without their mark; prose has a space behind it.
fn uncommented(example: &str) -> String {
    let words =
        example.lines().map(|line| line.strip_prefix('#').filter(|word| !word.starts_with(' ')).unwrap_or(line));
    words.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_of_types_is_read_as_it_is_and_without_its_marks() {
    let example = include_str!("../../../packaging/types.toml");
    assert_eq!(Catalogue::parse(example, &gpus()), Ok(Catalogue::defaults(&gpus())));
    let mut host = gpus();
    // One whose kernel says nothing of its memory.
    let gpu =
        Gpu { id: GpuId::pci("0000:03:00.0"), memory: 0, software: false, timed: Timed::Fdinfo, ..host[0].clone() };
    host.push(gpu);
    let catalogue = Catalogue::parse(&uncommented(example), &host).unwrap();
    assert_eq!(catalogue.gpus[1].memory, 8 << 30);
    let kind = catalogue.types.get("render-2g").unwrap();
    assert_eq!((kind.memory, kind.renderer_memory(), kind.weight), (2 << 30, 4 << 30, 200));
    assert_eq!((kind.heads.len(), kind.max_instances, &kind.gpu), (2, Some(4), &host[1].id));
    assert_eq!(catalogue.types.barred("render-2g"), None);
    // With the default types of both, which it says.
    assert!(catalogue.types.get("render-4g").is_some() && catalogue.types.get("desktop-2d-128m").is_some());
}

#[test]
fn the_handbook_says_words_and_files_that_are_understood() {
    let handbook = include_str!("../../../docs/vgpus.md");
    let types = handbook.split("\n## Types\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = types.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let words: Vec<_> = rows.map(|(word, _)| word).collect();
    assert!(words.len() >= 15 && words.contains(&"max-instances"), "{words:?}");
    for word in words {
        // No word takes this; one that is not known is told to be none.
        let text = format!("[[type]]\n{word} = {{ a = {{}} }}\n");
        let told = Catalogue::parse(&text, &gpus()).unwrap_err().why;
        assert!(!told.contains("unknown field"), "{word}: {told}");
    }
    let files: Vec<_> = handbook.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(files.len() >= 2);
    for file in files {
        match file.contains("[[vgpu]]") {
            true => assert!(!Declared::parse(file).unwrap().vgpus.is_empty()),
            false => assert_eq!(Definition::parse(file).unwrap().name.as_deref(), Some("desk")),
        }
    }
}
