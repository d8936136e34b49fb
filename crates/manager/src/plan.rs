//! A declared set of vGPUs, and what has to be done until it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use uuid::Uuid;

use crate::document::{self, FileError};
use crate::grant::Grant;
use crate::machine::{Event, Machine, Refusal, Status};
use crate::rehearsal::settle;
use crate::value::Mode;
use crate::vgpu::{Definition, Model, Start, State, Transport, written_heads, written_uuid};

/// The most vGPUs of a set: far more than a host runs, and little enough to compare.
pub const MAX_VGPUS: usize = 10_000;

/// vGPUs as somebody wants them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// Whether there are to be no others.
    pub exact: bool,
    /// Whether one that runs with something else is stopped and started again, which its guest loses the GPU by.
    pub restart: bool,
    /// Those that are declared.
    pub vgpus: Vec<Wanted>,
}

/// A vGPU as somebody wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What is to be written down of it.
    pub definition: Definition,
    /// Whether it is to run; without a word that is left as it is.
    pub state: Option<Wish>,
}

/// Whether a vGPU is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// It is.
    Running,
    /// It is not.
    Stopped,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    exact: bool,
    #[serde(default)]
    restart: bool,
    #[serde(default)]
    vgpu: Vec<Spanned<Words>>,
}

/// The words of a definition file, and one more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    #[serde(with = "written_uuid")]
    uuid: Uuid,
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    #[serde(default)]
    start: Start,
    #[serde(default)]
    transport: Transport,
    model: Option<Model>,
    display: Option<Vec<String>>,
    #[serde(default, with = "written_heads")]
    heads: Option<Vec<Mode>>,
    state: Option<Wish>,
}

impl From<Words> for Wanted {
    fn from(words: Words) -> Wanted {
        let Words { uuid, kind, name, start, transport, model, display, heads, state } = words;
        Wanted { definition: Definition { uuid, kind, name, start, transport, model, display, heads }, state }
    }
}

impl Declared {
    /// Reads a declared set.
    pub fn parse(text: &str) -> Result<Declared, FileError> {
        let Document { exact, restart, vgpu } = document::read(text)?;
        let (mut uuids, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut vgpus = Vec::new();
        for words in vgpu {
            let place = words.span();
            let wrong = |why: String| Err(FileError::at(text, place.clone(), why));
            if vgpus.len() == MAX_VGPUS {
                return wrong(format!("More than {MAX_VGPUS} vGPUs"));
            }
            let wanted = Wanted::from(words.into_inner());
            let Definition { uuid, name, .. } = &wanted.definition;
            if let Err(why) = wanted.definition.check() {
                return wrong(why);
            }
            if !uuids.insert(*uuid) {
                return wrong(format!("{uuid} is declared twice"));
            }
            if let Some(name) = name.as_ref().filter(|name| !names.insert((*name).clone())) {
                return wrong(format!("Two are called '{name}'"));
            }
            vgpus.push(wanted);
        }
        Ok(Declared { exact, restart, vgpus })
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verb")]
pub enum Verb {
    /// End it.
    Stop {
        /// Which.
        uuid: Uuid,
    },
    /// Remove what is written down of it.
    Undefine {
        /// Which.
        uuid: Uuid,
    },
    /// Write it down.
    Define {
        /// As this.
        definition: Definition,
    },
    /// Write it down as something else.
    Modify {
        /// As this.
        definition: Definition,
    },
    /// Have it run.
    Start {
        /// Which.
        uuid: Uuid,
    },
}

impl Verb {
    /// What the machine is told.
    pub fn event(&self) -> Event {
        match self.clone() {
            Verb::Stop { uuid } => Event::Stop { uuid },
            Verb::Undefine { uuid } => Event::Undefine { uuid },
            Verb::Define { definition } => Event::Define { definition },
            Verb::Modify { definition } => Event::Modify { definition },
            Verb::Start { uuid } => Event::Start { uuid },
        }
    }

    /// Which vGPU it is about.
    pub fn uuid(&self) -> Uuid {
        match self {
            Verb::Stop { uuid } | Verb::Undefine { uuid } | Verb::Start { uuid } => *uuid,
            Verb::Define { definition } | Verb::Modify { definition } => definition.uuid,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verb::Stop { uuid } => write!(f, "stop {uuid}"),
            Verb::Undefine { uuid } => write!(f, "undefine {uuid}"),
            Verb::Define { definition } => write!(f, "define {} as {}", definition.uuid, definition.kind),
            Verb::Modify { definition } => write!(f, "modify {} to {}", definition.uuid, definition.kind),
            Verb::Start { uuid } => write!(f, "start {uuid}"),
        }
    }
}

/// A verb, why it is needed, and what would become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// What to do.
    #[serde(flatten)]
    pub verb: Verb,
    /// What is not as declared.
    pub because: String,
    /// Why it would be refused after those before it, if it would.
    pub refused: Option<String>,
}

/// What has to be done until everything is as declared, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Nothing, when it is so already.
    pub steps: Vec<Planned>,
}

impl Plan {
    /// Compares what is declared with what there is.
    ///
    /// What is stopped comes first, so that there is room for what is started; what is started comes last.
    pub fn of(machine: &Machine, declared: &Declared) -> Plan {
        let mut stages = Stages::default();
        let wanted: BTreeSet<Uuid> = declared.vgpus.iter().map(|wanted| wanted.definition.uuid).collect();
        if declared.exact {
            for status in machine.list().filter(|status| !wanted.contains(&status.uuid)) {
                stages.remove(&status);
            }
        }
        for wanted in &declared.vgpus {
            stages.want(machine, wanted, declared.restart);
        }
        rehearse(machine, stages)
    }

    /// Whether it is all so already.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The first step that would be refused.
    pub fn refusal(&self) -> Option<&Planned> {
        self.steps.iter().find(|step| step.refused.is_some())
    }
}

/// One line for each step, for people.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing to do");
        }
        for step in &self.steps {
            write!(f, "{}: {}", step.verb, step.because)?;
            match &step.refused {
                Some(why) => writeln!(f, " -- would be refused: {why}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// Verbs with their reasons, by when they come.
#[derive(Default)]
struct Stages {
    stops: Vec<(Verb, String)>,
    removals: Vec<(Verb, String)>,
    writes: Vec<(Verb, String)>,
    starts: Vec<(Verb, String)>,
}

impl Stages {
    fn remove(&mut self, status: &Status) {
        let uuid = status.uuid;
        let why = || "it is not declared".to_owned();
        // A transient one is gone when it is stopped.
        if runs(status) || !status.persistent {
            self.stops.push((Verb::Stop { uuid }, why()));
        }
        if status.persistent {
            self.removals.push((Verb::Undefine { uuid }, why()));
        }
    }

    fn want(&mut self, machine: &Machine, wanted: &Wanted, restart: bool) {
        let definition = &wanted.definition;
        let uuid = definition.uuid;
        let status = machine.status(uuid);
        let written = machine.definition(uuid).filter(|_| status.as_ref().is_some_and(|status| status.persistent));
        match (&status, written) {
            (None, _) => {
                self.writes.push((Verb::Define { definition: definition.clone() }, "it is not there".to_owned()))
            }
            (Some(status), _) if !status.persistent => {
                let why = "nothing is written down of it".to_owned();
                self.writes.push((Verb::Define { definition: definition.clone() }, why));
            }
            (Some(_), Some(written)) if written == definition => {}
            (Some(_), _) => {
                let why = "something else is written down".to_owned();
                self.writes.push((Verb::Modify { definition: definition.clone() }, why));
            }
        }
        let start = Verb::Start { uuid };
        let running = status.as_ref().is_some_and(runs);
        match (wanted.state, &status) {
            (Some(Wish::Stopped), Some(_)) if running => self.stops.push((Verb::Stop { uuid }, "it runs".to_owned())),
            (Some(Wish::Running), Some(Status { state: State::Held { why, .. }, .. })) => {
                self.starts.push((start, format!("it is held: {why}")));
            }
            (Some(Wish::Running), Some(Status { state: State::Failed { why }, .. })) => {
                self.starts.push((start, format!("it failed: {why}")));
            }
            (Some(Wish::Running), Some(Status { state: State::Stopping, .. })) => {
                self.starts.push((start, "it is stopping".to_owned()));
            }
            (Some(Wish::Running), _) if !running => self.starts.push((start, "it does not run".to_owned())),
            (Some(Wish::Running), Some(status)) if restart && is_stale(machine, status, definition) => {
                let why = "it runs with something else".to_owned();
                self.stops.push((Verb::Stop { uuid }, format!("{why}; its guest loses the GPU")));
                self.starts.push((start, why));
            }
            _ => {}
        }
    }
}

/// Whether it has a device, or will have one again by itself.
fn runs(status: &Status) -> bool {
    match status.state {
        State::Starting | State::Running | State::Held { .. } => true,
        State::Failed { .. } => status.retry_ms.is_some(),
        State::Defined | State::Stopping => false,
    }
}

/// Whether its device was started with something else than it would be now.
fn is_stale(machine: &Machine, status: &Status, definition: &Definition) -> bool {
    let now = Grant::resolve(definition, machine.types()).ok();
    let given = status.grant.as_ref();
    // What a guest does not see of a definition is no reason to take its GPU away.
    let seen = |grant: &Grant| (grant.profile.clone(), grant.definition.transport, grant.definition.model);
    now.as_ref().map(seen) != given.map(seen)
}

/// Carries the verbs out on a copy of the machine, in a world where nothing fails. That also finds an order in which names become
/// free before others take them.
fn rehearse(machine: &Machine, stages: Stages) -> Plan {
    let mut machine = machine.clone();
    let mut plan = Plan::default();
    let mut carry_out = |machine: &mut Machine, (verb, because): (Verb, String)| {
        let refused = settle(machine, verb.event()).err();
        // Only what is under way now; when its turn comes, whoever applies the plan waits for it.
        let refused = refused.filter(|refusal| !matches!(refusal, Refusal::Busy(_)));
        plan.steps.push(Planned { verb, because, refused: refused.map(|refusal| refusal.to_string()) });
    };
    for step in stages.stops.into_iter().chain(stages.removals) {
        carry_out(&mut machine, step);
    }
    let mut writes = stages.writes;
    while !writes.is_empty() {
        let taken: BTreeMap<String, Uuid> =
            machine.list().filter_map(|status| Some((status.name?, status.uuid))).collect();
        let free = |(verb, _): &(Verb, String)| match verb {
            Verb::Define { definition } | Verb::Modify { definition } => {
                let holder = definition.name.as_ref().and_then(|name| taken.get(name));
                holder.is_none_or(|holder| *holder == definition.uuid)
            }
            _ => true,
        };
        let (ready, waiting): (Vec<_>, Vec<_>) = writes.into_iter().partition(free);
        // A ring of names: the first refusal says which.
        let stuck = ready.is_empty();
        for step in ready {
            carry_out(&mut machine, step);
        }
        writes = waiting;
        if stuck {
            for step in std::mem::take(&mut writes) {
                carry_out(&mut machine, step);
            }
        }
    }
    for step in stages.starts {
        carry_out(&mut machine, step);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Catalogue;
    use crate::testing::{gpu, uuid};

    fn machine() -> Machine {
        let mut machine = Machine::new(Catalogue::defaults(&[gpu("software", 2 << 30)]));
        settle(&mut machine, Event::Begin { autostart: false }).unwrap();
        machine
    }

    fn declared(text: &str) -> Declared {
        let text =
            (1..=9).fold(text.to_owned(), |text, n| text.replace(&format!("#{n}"), &format!("uuid = '{}'", uuid(n))));
        Declared::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn plan(machine: &Machine, text: &str) -> String {
        let mut plan = Plan::of(machine, &declared(text)).to_string();
        for number in 1..=9 {
            plan = plan.replace(&uuid(number).to_string(), &number.to_string());
        }
        plan
    }

    fn apply(machine: &mut Machine, text: &str) {
        for step in Plan::of(machine, &declared(text)).steps {
            assert_eq!(step.refused, None, "{step:?}");
            settle(machine, step.verb.event()).unwrap();
        }
        assert_eq!(plan(machine, text), "nothing to do\n");
    }

    const TWO: &str = "
        [[vgpu]]
        #1
        type = 'render-1g'
        state = 'running'
        [[vgpu]]
        #2
        type = 'desktop-2d-128m'
        name = 'desk'
    ";

    #[test]
    fn what_is_declared_is_made_and_then_nothing_is_left_to_do() {
        let mut machine = machine();
        assert_eq!(
            plan(&machine, TWO),
            "define 1 as render-1g: it is not there\n\
             define 2 as desktop-2d-128m: it is not there\n\
             start 1: it does not run\n"
        );
        apply(&mut machine, TWO);
        assert_eq!(machine.status(uuid(1)).unwrap().state, State::Running);
        assert_eq!(machine.status(uuid(2)).unwrap().state, State::Defined);
    }

    #[test]
    fn an_exact_set_ends_the_others_first_and_leaves_room_for_its_own() {
        let mut machine = machine();
        apply(&mut machine, "[[vgpu]]\n#3\ntype = 'render-2g'\nstate = 'running'");
        let transient = Definition::new(uuid(4), "desktop-2d-128m");
        settle(&mut machine, Event::Create { definition: transient, start: false }).unwrap();
        let exact = format!("exact = true\n{TWO}");
        assert_eq!(
            plan(&machine, &exact),
            "stop 3: it is not declared\n\
             stop 4: it is not declared\n\
             undefine 3: it is not declared\n\
             define 1 as render-1g: it is not there\n\
             define 2 as desktop-2d-128m: it is not there\n\
             start 1: it does not run\n"
        );
        apply(&mut machine, &exact);
        assert_eq!(machine.list().count(), 2);
    }

    #[test]
    fn a_plan_that_cannot_be_carried_out_says_so_before_anything_is_done() {
        let mut machine = machine();
        apply(&mut machine, "[[vgpu]]\n#3\ntype = 'render-2g'\nstate = 'running'");
        let text = plan(&machine, TWO);
        assert!(text.contains("start 1: it does not run -- would be refused: software has 0 left"), "{text}");
        assert!(text.contains("held by 3 (render-2g, 2G)"), "{text}");
        let text = plan(&machine, "[[vgpu]]\n#1\ntype = 'render-9g'");
        assert!(text.contains("would be refused: There is no type 'render-9g'"), "{text}");
        assert!(Plan::of(&machine, &declared(TWO)).refusal().is_some());
    }

    #[test]
    fn one_that_runs_is_modified_and_only_restarted_when_that_was_said() {
        let mut machine = machine();
        apply(&mut machine, TWO);
        let changed = TWO.replace("render-1g", "render-512m");
        assert_eq!(plan(&machine, &changed), "modify 1 to render-512m: something else is written down\n");
        apply(&mut machine, &changed);
        assert_eq!(machine.status(uuid(1)).unwrap().grant.unwrap().profile.name, "render-1g");
        let restarted = format!("restart = true\n{changed}");
        assert_eq!(
            plan(&machine, &restarted),
            "stop 1: it runs with something else; its guest loses the GPU\nstart 1: it runs with something else\n"
        );
        apply(&mut machine, &restarted);
        assert_eq!(machine.status(uuid(1)).unwrap().grant.unwrap().profile.name, "render-512m");
    }

    #[test]
    fn a_new_name_alone_takes_nobodys_gpu_away() {
        let mut machine = machine();
        apply(&mut machine, TWO);
        let renamed = format!("restart = true\n{}", TWO.replace("state =", "name = 'x'\nstate ="));
        assert_eq!(plan(&machine, &renamed), "modify 1 to render-1g: something else is written down\n");
    }

    #[test]
    fn names_are_passed_on_in_an_order_that_works_and_rings_are_refused() {
        let mut machine = machine();
        let names = |one: &str, two: &str| {
            format!(
                "[[vgpu]]\n#1\ntype = 'render-1g'\nname = '{one}'\n[[vgpu]]\n#2\ntype = 'render-1g'\nname = '{two}'"
            )
        };
        apply(&mut machine, &names("a", "b"));
        apply(&mut machine, &names("b", "c"));
        let text = plan(&machine, &names("c", "b"));
        assert!(text.contains("would be refused: 'c' is the name of 2 already"), "{text}");
    }

    #[test]
    fn one_that_is_held_or_failed_or_transient_is_not_as_declared() {
        let mut machine = machine();
        apply(&mut machine, TWO);
        let held = crate::record::Held { why: "it hung".to_owned(), last: None };
        settle(&mut machine, Event::Hung { uuid: uuid(1), held }).unwrap();
        assert_eq!(plan(&machine, TWO), "start 1: it is held: it hung\n");
        let transient = Definition::new(uuid(5), "desktop-2d-128m");
        settle(&mut machine, Event::Create { definition: transient, start: true }).unwrap();
        let five = "[[vgpu]]\n#5\ntype = 'desktop-2d-128m'\nstate = 'stopped'";
        assert_eq!(
            plan(&machine, five),
            "stop 5: it runs\ndefine 5 as desktop-2d-128m: nothing is written down of it\n"
        );
        apply(&mut machine, five);
    }

    #[test]
    fn bad_sets_are_refused_with_the_line() {
        let one = format!("[[vgpu]]\nuuid = '{}'\ntype = 'a'\n", uuid(1));
        for (text, line, named) in [
            (format!("{one}{one}"), 4, "declared twice"),
            (format!("{one}name = 'x'\n{}name = 'x'", one.replace("01'", "02'")), 5, "Two are called 'x'"),
            (format!("{one}state = 'gone'"), 4, "gone"),
            (format!("{one}colour = 'red'"), 4, "colour"),
            (format!("{one}model = 'vga'"), 1, "vfio-user"),
            ("exact = 1".to_owned(), 1, "boolean"),
            ("[[vgpu]]\ntype = 'a'".to_owned(), 1, "uuid"),
        ] {
            let error = Declared::parse(&text).expect_err(&text);
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.why.contains(named), "{text}: {error}");
        }
    }
}
