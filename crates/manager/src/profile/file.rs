//! The file of types.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::document::{self, FileError};
use crate::gpu::{Gpu, GpuId};
use crate::profile::defaults::{self, MAX_WEIGHT};
use crate::profile::{Catalogue, Priority, Promise, Renderer, Type, Types, display, promise};
use crate::value::{self, Bytes, Capset, Mode};

/// The least memory with which a device shows a console.
const MIN_MEMORY: u64 = 16 << 20;
/// The least that a process for 3D is given: libraries and drivers take so much before they draw.
const MIN_RENDERER: u64 = 256 << 20;
/// The longest name of a type, in bytes.
const MAX_NAME: usize = 64;
/// The most types of a file: a table of more helps nobody, and each is compared with each vGPU.
const MAX_TYPES: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    /// Whether the default types are offered besides; where the file has none of its own they are.
    defaults: Option<bool>,
    #[serde(default)]
    gpu: BTreeMap<String, Spanned<GpuWords>>,
    #[serde(default, rename = "type")]
    types: Vec<Spanned<Words>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GpuWords {
    memory: Spanned<Bytes>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Words {
    name: Place<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<Place<String>>,
    memory: Place<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renderer_memory: Option<Place<Bytes>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heads: Option<Place<Heads>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<Place<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capsets: Option<Place<Vec<Capset>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renderer: Option<Place<Renderer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display: Option<Place<Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    isolate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_instances: Option<Place<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overcommit: Option<Place<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<Place<Promise>>,
}

/// A value and where it stands; of one that is written, nowhere.
type Place<T> = Spanned<T>;

#[derive(Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
#[derive(Clone)]
struct Heads(Vec<Mode>);

impl TryFrom<String> for Heads {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        value::read_heads(&text).map(Heads)
    }
}

impl From<Heads> for String {
    fn from(heads: Heads) -> String {
        value::write_heads(&heads.0)
    }
}

pub(super) fn parse(text: &str, gpus: &[Gpu]) -> Result<Catalogue, FileError> {
    let document: Document = document::read(text)?;
    let mut gpus = gpus.to_vec();
    for (id, words) in &document.gpu {
        // The words' own place begins behind the name.
        let memory = &words.get_ref().memory;
        check_gpu(id).map_err(|why| FileError::at(text, memory.span(), why))?;
        if memory.get_ref().0 == 0 {
            return Err(FileError::at(text, memory.span(), format!("{id} without memory makes no vGPUs")));
        }
        if let Some(gpu) = gpus.iter_mut().find(|gpu| gpu.id.0 == *id) {
            gpu.memory = memory.get_ref().0;
        }
    }
    if document.types.len() > MAX_TYPES {
        let span = document.types[MAX_TYPES].span();
        return Err(FileError::at(text, span, format!("More than {MAX_TYPES} types")));
    }
    let with_defaults = document.defaults.unwrap_or(document.types.is_empty());
    let mut kinds = if with_defaults { defaults::types(&gpus) } else { Vec::new() };
    let mut places = HashMap::new();
    for words in document.types {
        let name = words.get_ref().name.clone();
        let kind = judge(words.into_inner(), &gpus).map_err(|(place, why)| FileError::at(text, place, why))?;
        if places.insert(kind.name.clone(), name.span()).is_some() {
            let why = format!("There are two types '{}'", kind.name);
            return Err(FileError::at(text, name.span(), why));
        }
        match kinds.iter_mut().find(|known| known.name == kind.name) {
            Some(default) => *default = kind,
            None => kinds.push(kind),
        }
    }
    Ok(Catalogue { types: Types::collect(kinds, &gpus), gpus })
}

/// What is wrong, and where.
type Wrong = (Range<usize>, String);

fn wrong<T>(place: Range<usize>, why: impl Into<String>) -> Result<T, Wrong> {
    Err((place, why.into()))
}

/// What the words of one type mean together, or what is wrong with which.
fn judge(words: Words, gpus: &[Gpu]) -> Result<Type, Wrong> {
    let name = words.name.get_ref();
    let place = words.name.span();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(letters) || name.starts_with(['-', '.']) {
        let why =
            format!("'{name}' is no name: it has 1 to {MAX_NAME} letters, digits, '-', '_' or '.', as in render-1g");
        return wrong(place, why);
    }
    judge_named(&words, gpus).map_err(|(span, why)| (span, format!("Type '{name}': {why}")))
}

fn judge_named(words: &Words, gpus: &[Gpu]) -> Result<Type, Wrong> {
    let name = words.name.get_ref();
    let place = words.name.span();
    let id = gpu_of(words, gpus)?;
    let gpu = gpus.iter().find(|gpu| gpu.id == id);
    let memory = words.memory.get_ref().0;
    if memory < MIN_MEMORY {
        return wrong(words.memory.span(), format!("{} hold no screen: give at least 16M", Bytes(memory)));
    }
    let weight = words.weight.as_ref().map_or(100, |weight| *weight.get_ref());
    if !(1..=MAX_WEIGHT).contains(&weight) {
        return wrong(span(&words.weight, &place), format!("weight {weight} is outside 1 to {MAX_WEIGHT}"));
    }
    let (renderer, capsets) = three_d(words, gpu)?;
    let (max_instances, overcommit) = instances(words)?;
    let kind = Type {
        heads: words.heads.as_ref().map_or_else(usual_heads, |heads| heads.get_ref().0.clone()),
        priority: words.priority.unwrap_or_default(),
        isolate: words.isolate.unwrap_or(true),
        input: words.input.unwrap_or(true),
        share: words.share.as_ref().map_or(Promise::Advisory, |share| *share.get_ref()),
        display: shown(words, max_instances)?,
        name: name.clone(),
        gpu: id,
        memory,
        renderer_memory: renderer_memory(words, renderer)?,
        weight,
        capsets,
        renderer,
        max_instances,
        overcommit,
    };
    match gpu.and_then(|gpu| promise::unkept(&kind, gpu)) {
        Some(why) => wrong(span(&words.share, &place), why),
        None => Ok(kind),
    }
}

/// Whose type it is. 2D is drawn in the host's memory, whatever GPUs there are; 3D by the only GPU, or the one that is named.
fn gpu_of(words: &Words, gpus: &[Gpu]) -> Result<GpuId, Wrong> {
    let asked = words.renderer.as_ref().map(|renderer| *renderer.get_ref());
    let three_d =
        asked == Some(Renderer::Virgl) || words.capsets.as_ref().is_some_and(|capsets| !capsets.get_ref().is_empty());
    match (&words.gpu, gpus) {
        (Some(id), _) if !three_d && id.get_ref() != "software" && check_gpu(id.get_ref()).is_ok() => {
            wrong(id.span(), "2D is drawn in the host's memory: leave gpu out, or name kinds of 3D in capsets")
        }
        (Some(id), _) => match check_gpu(id.get_ref()) {
            Ok(()) => Ok(GpuId(id.get_ref().clone())),
            Err(why) => wrong(id.span(), why),
        },
        (None, _) if !three_d => Ok(GpuId::software()),
        (None, [only]) => Ok(only.id.clone()),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|gpu| gpu.id.0.as_str()).collect();
            wrong(words.name.span(), format!("say which GPU draws its 3D, gpu = one of {}", names.join(", ")))
        }
    }
}

fn three_d(words: &Words, gpu: Option<&Gpu>) -> Result<(Renderer, Vec<Capset>), Wrong> {
    let place = span(&words.renderer, &words.name.span());
    let asked = words.renderer.as_ref().map(|renderer| *renderer.get_ref());
    let mut capsets = match &words.capsets {
        Some(capsets) => capsets.get_ref().clone(),
        // 3D without a word about which: all that works here.
        None if asked == Some(Renderer::Virgl) => gpu.map_or(Vec::new(), |gpu| gpu.capsets.clone()),
        None => Vec::new(),
    };
    capsets.sort_unstable();
    capsets.dedup();
    match asked {
        Some(Renderer::Soft) if !capsets.is_empty() => {
            wrong(place, "renderer \"soft\" draws no 3D: leave out one of renderer and capsets")
        }
        Some(Renderer::Virgl) if capsets.is_empty() => wrong(
            place,
            "renderer \"virgl\" has no kind of 3D here: name some, as in capsets = [\"virgl2\", \"venus\"]",
        ),
        _ if capsets.is_empty() => Ok((Renderer::Soft, capsets)),
        _ => Ok((Renderer::Virgl, capsets)),
    }
}

fn renderer_memory(words: &Words, renderer: Renderer) -> Result<Option<u64>, Wrong> {
    let Some(bytes) = &words.renderer_memory else {
        return Ok(None);
    };
    let isolated = words.isolate.unwrap_or(true);
    match bytes.get_ref().0 {
        _ if renderer == Renderer::Soft => {
            wrong(bytes.span(), "renderer-memory is of what draws 3D: name kinds in capsets")
        }
        _ if !isolated => wrong(bytes.span(), "renderer-memory is of processes, and without isolate there is none"),
        few if few < MIN_RENDERER => {
            let (few, least) = (Bytes(few), Bytes(MIN_RENDERER));
            wrong(bytes.span(), format!("renderer-memory {few} does not hold a driver: give at least {least}"))
        }
        bytes => Ok(Some(bytes)),
    }
}

fn instances(words: &Words) -> Result<(Option<u32>, bool), Wrong> {
    let max = words.max_instances.as_ref().map(|max| *max.get_ref());
    let overcommit = words.overcommit.as_ref().is_some_and(|overcommit| *overcommit.get_ref());
    if max == Some(0) {
        let why = "max-instances = 0 makes none: leave the type out";
        return wrong(span(&words.max_instances, &words.name.span()), why);
    }
    if overcommit && max.is_none() {
        return wrong(span(&words.overcommit, &words.name.span()), "overcommit has no end without max-instances");
    }
    Ok((max, overcommit))
}

fn shown(words: &Words, max_instances: Option<u32>) -> Result<Vec<String>, Wrong> {
    let place = span(&words.display, &words.name.span());
    let Some(display) = &words.display else {
        return Ok(vec!["vmm".to_owned()]);
    };
    let display = display.get_ref();
    if display.is_empty() {
        return wrong(place, "display is empty: \"none\" is shown nowhere");
    }
    if let Err(why) = display::check(display) {
        return wrong(place, format!("display {why}"));
    }
    match display::alone(display).filter(|_| max_instances != Some(1)) {
        Some(word) => wrong(
            place,
            format!(
                "display '{word}' is for one vGPU: say max-instances = 1, or a port 0, or {{uuid}} in the file's name, or leave \
                 it to each definition"
            ),
        ),
        None => Ok(display.clone()),
    }
}

fn usual_heads() -> Vec<Mode> {
    vec![Mode { width: 1280, height: 800, refresh: value::USUAL_REFRESH }]
}

/// Where a value stands, else where the name does.
fn span<T>(value: &Option<Place<T>>, name: &Range<usize>) -> Range<usize> {
    value.as_ref().map_or(name.clone(), Spanned::span)
}

/// Refuses what is the name of no GPU on any host.
fn check_gpu(id: &str) -> Result<(), String> {
    let address = id.strip_prefix("pci-").is_some_and(is_address);
    let device = |name: &str| !name.is_empty() && !name.contains('/') && !name.contains(char::is_control);
    if id == "software" || address || id.strip_prefix("platform-").is_some_and(device) {
        Ok(())
    } else {
        Err(format!("'{id}' is no GPU: it is software, or as in pci-0000:03:00.0"))
    }
}

/// `0000:03:00.0`.
fn is_address(text: &str) -> bool {
    let shape = "hhhh:hh:hh.h";
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
            b'h' => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            mark => byte == mark,
        })
}

pub(super) fn print<'a>(kinds: impl Iterator<Item = &'a Type>) -> String {
    #[derive(Serialize)]
    struct Out {
        r#type: Vec<Words>,
    }
    fn place<T>(value: T) -> Place<T> {
        Spanned::new(0..0, value)
    }
    let words = |kind: &Type| Words {
        name: place(kind.name.clone()),
        gpu: Some(place(kind.gpu.0.clone())),
        memory: place(Bytes(kind.memory)),
        renderer_memory: kind.renderer_memory.map(|bytes| place(Bytes(bytes))),
        heads: Some(place(Heads(kind.heads.clone()))),
        weight: Some(place(kind.weight)),
        priority: Some(kind.priority),
        capsets: kind.draws_3d().then(|| place(kind.capsets.clone())),
        renderer: Some(place(kind.renderer)),
        display: Some(place(kind.display.clone())),
        isolate: (!kind.isolate).then_some(false),
        input: (!kind.input).then_some(false),
        max_instances: kind.max_instances.map(place),
        overcommit: kind.overcommit.then(|| place(true)),
        share: Some(place(kind.share)),
    };
    let out = Out { r#type: kinds.map(words).collect() };
    toml::to_string(&out).unwrap_or_else(|error| unreachable!("types are plain text, numbers and lists: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gpu;

    fn host() -> Vec<Gpu> {
        vec![gpu("software", 8 << 30)]
    }

    fn one(words: &str) -> Type {
        let text = format!("[[type]]\nname = 'one'\nmemory = '1G'\n{words}");
        let catalogue = Catalogue::parse(&text, &host()).unwrap_or_else(|error| panic!("{words}: {error}"));
        catalogue.types.get("one").unwrap().clone()
    }

    #[test]
    fn a_type_is_its_name_and_memory_and_what_is_said_of_it() {
        let kind = one("");
        assert_eq!((kind.gpu, kind.memory, kind.renderer), (GpuId::software(), 1 << 30, Renderer::Soft));
        assert_eq!((kind.weight, kind.priority, kind.share), (100, Priority::Normal, Promise::Advisory));
        let kind = one(
            "heads = '1920x1080,1280x800@75'\nweight = 7\npriority = 'high'\ncapsets = ['venus', 'virgl2', 'venus']\n\
             display = ['web=127.0.0.1:0', 'vmm']\ninput = false\nmax-instances = 3\novercommit = true\nshare = 'strict'",
        );
        assert_eq!(kind.capsets, [Capset::Virgl2, Capset::Venus]);
        assert_eq!((kind.renderer, kind.max_instances, kind.overcommit), (Renderer::Virgl, Some(3), true));
        assert_eq!(kind.heads[1], "1280x800@75".parse().unwrap());
    }

    #[test]
    fn three_d_without_a_word_about_which_is_all_that_works_here() {
        assert_eq!(one("renderer = 'virgl'").capsets, host()[0].capsets);
    }

    #[test]
    fn own_types_stand_alone_unless_the_defaults_are_asked_for_and_then_replace_those_of_their_name() {
        let names = |text: &str| {
            let catalogue = Catalogue::parse(text, &host()).unwrap();
            catalogue.types.iter().map(|kind| kind.name.clone()).collect::<Vec<_>>()
        };
        let own = "[[type]]\nname = 'render-1g'\nmemory = '1G'\nweight = 9\n";
        assert_eq!(names(own), ["render-1g"]);
        assert_eq!(names("").len(), names(&format!("defaults = true\n{own}")).len());
        assert_eq!(names("defaults = false"), Vec::<String>::new());
        let both = Catalogue::parse(&format!("defaults = true\n{own}"), &host()).unwrap();
        assert_eq!(both.types.get("render-1g").unwrap().weight, 9);
    }

    #[test]
    fn the_file_says_how_much_memory_a_gpu_has() {
        let text = "[gpu.software]\nmemory = '700M'\n[gpu.\"pci-0000:03:00.0\"]\nmemory = '2G'\n";
        let catalogue = Catalogue::parse(text, &host()).unwrap();
        assert_eq!((catalogue.gpus.len(), catalogue.gpus[0].memory), (1, 700 << 20));
        assert!(catalogue.types.get("render-1g").is_none());
    }

    #[test]
    fn a_type_of_a_gpu_that_is_away_is_kept_and_barred() {
        let text =
            "[[type]]\nname = 'away'\ngpu = 'pci-0000:03:00.0'\nmemory = '1G'\ncapsets = ['virgl2']\nshare = 'strict'";
        let catalogue = Catalogue::parse(text, &host()).unwrap();
        assert!(catalogue.types.barred("away").unwrap().contains("0000:03:00.0"));
    }

    #[test]
    fn bad_files_are_refused_with_the_line_and_what_is_wrong() {
        let cases = [
            ("colour = 'red'", "colour"),
            ("memory = '2G'", "memory"),
            ("heads = '1280'", "Head 1"),
            ("heads = 5", "string"),
            ("weight = 0", "1 to 1000"),
            ("weight = 1001", "1 to 1000"),
            ("weight = -1", "-1"),
            ("priority = 'highest'", "highest"),
            ("capsets = ['gl']", "gl"),
            ("capsets = 'virgl2'", "virgl2"),
            ("renderer = 'opengl'", "opengl"),
            ("renderer-memory = '1G'", "capsets"),
            ("display = []", "empty"),
            ("display = ['teapot']", "teapot"),
            ("display = ['vnc=127.0.0.1:5900']", "max-instances = 1"),
            ("max-instances = 0", "leave the type out"),
            ("overcommit = true", "max-instances"),
            ("gpu = 'nvidia0'", "pci-0000:03:00.0"),
            ("gpu = 'pci-03:00.0'", "pci-0000:03:00.0"),
            ("share = 'always'", "always"),
            ("share = 'strict'", "2D"),
        ];
        for (words, named) in cases {
            let text = format!("# Types\n[[type]]\nname = 'one'\nmemory = '1G'\n{words}\n");
            let error = Catalogue::parse(&text, &host()).expect_err(words);
            assert_eq!(error.line, 5, "{words}: {error}");
            assert!(error.why.contains(named) && !error.why.contains('\n'), "{words}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_with_two_words_together_is_told_at_one_of_them() {
        for (text, line, named) in [
            ("[[type]]\nname = 'a b'\nmemory = '1G'", 2, "'a b'"),
            ("[[type]]\nname = 'a'\nmemory = '15M'", 3, "16M"),
            ("[[type]]\nname = 'a'", 1, "memory"),
            ("[[type]]\nname = 'a'\nmemory = '1G'\nrenderer = 'soft'\ncapsets = ['venus']", 4, "soft"),
            ("[[type]]\nname = 'a'\nmemory = '1G'\nrenderer = 'virgl'\ncapsets = []", 4, "capsets ="),
            ("[[type]]\nname = 'a'\nmemory = '1G'\n[[type]]\nname = 'a'\nmemory = '2G'", 5, "two types 'a'"),
            (
                "[[type]]\nname = 'a'\nmemory = '1G'\nisolate = false\ncapsets = ['venus']\nshare = 'strict'",
                6,
                "isolate",
            ),
            ("[[type]]\nname = 'a'\nmemory = '1G'\ncapsets = ['venus']\nrenderer-memory = '9M'", 5, "at least 256M"),
            ("\n[gpu.software]\nmemory = '0'", 3, "without memory"),
            ("\n[gpu.softwear]\nmemory = '1G'", 3, "softwear"),
            ("[gpu.software]\nmemory = '1G'\nname = 'x'", 3, "name"),
            ("defaults = 'yes'", 1, "boolean"),
            ("[[type]\nname", 1, ""),
        ] {
            let error = Catalogue::parse(text, &host()).expect_err(text);
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.why.contains(named), "{text:?}: {error}");
        }
    }

    #[test]
    fn of_several_gpus_the_one_that_draws_3d_must_be_named_and_2d_is_the_processors() {
        let gpus = [gpu("software", 1 << 30), gpu("pci-0000:03:00.0", 1 << 30)];
        let read = |words: &str| Catalogue::parse(&format!("[[type]]\nname = 'a'\nmemory = '1G'\n{words}"), &gpus);
        assert_eq!(read("").unwrap().types.get("a").unwrap().gpu, GpuId::software());
        let error = read("capsets = ['virgl2']").unwrap_err();
        assert!(error.why.contains("software, pci-0000:03:00.0"), "{error}");
        let error = read("gpu = 'pci-0000:03:00.0'").unwrap_err();
        assert!(error.line == 4 && error.why.contains("host's memory"), "{error}");
    }

    #[test]
    fn more_types_than_anybody_reads_are_refused() {
        let types: String = (0..=MAX_TYPES).map(|n| format!("[[type]]\nname = 't{n}'\nmemory = '16M'\n")).collect();
        assert!(Catalogue::parse(&types, &host()).unwrap_err().why.contains("1000"));
    }
}
