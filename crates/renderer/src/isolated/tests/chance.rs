//! Conversations and deaths as chance has them.

use proptest::prelude::*;

use super::script::{Script, play};
use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Open(u32, bool),
    Close(u32),
    Join(u32, u32),
    Leave(u32, u32),
    Submit(u32, usize),
    Fence(u32, u8),
    Create(u32),
    Blob(u32, u32, u64),
    Destroy(u32),
    Attach(u32),
    Detach(u32),
    Read(u32),
    Turn,
    Kill(u32),
    Reset,
    Idle,
    OtherMemory,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (context, resource) = (1u32..4, 1u32..6);
    let pair = (context.clone(), resource.clone());
    let step = prop_oneof![
        4 => (context.clone(), any::<bool>()).prop_map(|(context, vulkan)| Step::Open(context, vulkan)),
        1 => context.clone().prop_map(Step::Close),
        2 => pair.clone().prop_map(|(context, resource)| Step::Join(context, resource)),
        1 => pair.clone().prop_map(|(context, resource)| Step::Leave(context, resource)),
        4 => (context.clone(), prop_oneof![0usize..64, Just(3 << 20)]).prop_map(|(context, len)| Step::Submit(context, len)),
        4 => (context.clone(), 0u8..65).prop_map(|(context, ring)| Step::Fence(context, ring)),
        3 => resource.clone().prop_map(Step::Create),
        2 => (pair, 0u64..3).prop_map(|((context, resource), id)| Step::Blob(context, resource, id)),
        2 => resource.clone().prop_map(Step::Destroy),
        2 => resource.clone().prop_map(Step::Attach),
        1 => resource.clone().prop_map(Step::Detach),
        3 => resource.prop_map(Step::Read),
        5 => Just(Step::Turn),
        1 => (1u32..8).prop_map(Step::Kill),
        1 => Just(Step::Reset),
        1 => Just(Step::Idle),
        1 => Just(Step::OtherMemory),
    ];
    prop::collection::vec(step, 1..80)
}

/// What a device knows: it never uses a name twice.
#[derive(Default)]
struct Names {
    contexts: Map<u32, Ticket>,
    resources: Map<u32, Ticket>,
}

impl Names {
    /// What failed does not exist.
    fn forget_failures(&mut self, desk: &Desk) {
        let failed = |ticket: &Ticket| matches!(desk.answers.get(ticket), Some(Err(_)));
        self.resources.retain(|_, ticket| !failed(ticket));
    }
}

fn take(desk: &mut Desk, names: &mut Names, step: Step) {
    names.forget_failures(desk);
    match step {
        Step::Open(context, vulkan) if !names.contexts.contains_key(&context) => {
            let ticket = desk.open(context, if vulkan { CapsetId::VENUS } else { CapsetId::VIRGL2 });
            names.contexts.insert(context, ticket);
        }
        Step::Close(context) => {
            names.contexts.remove(&context);
            desk.isolated.close(ContextId(context));
        }
        Step::Join(context, resource) => desk.isolated.join(ContextId(context), ResourceId(resource)),
        Step::Leave(context, resource) => desk.isolated.leave(ContextId(context), ResourceId(resource)),
        Step::Submit(context, len) => drop(desk.submit(context, &vec![1; len])),
        Step::Fence(context, ring) => drop(desk.fence(context, ring)),
        Step::Create(resource) if !names.resources.contains_key(&resource) => {
            let ticket = desk.create(resource, 4, 4);
            names.resources.insert(resource, ticket);
        }
        Step::Blob(context, resource, id) if !names.resources.contains_key(&resource) => {
            let ticket = desk.create_blob(context, resource, id, 4096);
            names.resources.insert(resource, ticket);
        }
        Step::Destroy(resource) => {
            names.resources.remove(&resource);
            desk.isolated.destroy(ResourceId(resource));
        }
        Step::Attach(resource) => {
            let entries = [MemEntry { addr: 0, length: 64 }, MemEntry { addr: 128, length: 64 }];
            desk.ask(|isolated, ticket| isolated.attach(ticket, ResourceId(resource), &entries));
        }
        Step::Detach(resource) => drop(desk.ask(|isolated, ticket| isolated.detach(ticket, ResourceId(resource)))),
        Step::Read(resource) => {
            desk.ask(|isolated, ticket| isolated.read(ticket, ResourceId(resource), Rect::of_size(4, 4)));
        }
        Step::Turn => desk.turn(),
        Step::Kill(id) => desk.isolated.children.kill(id),
        Step::Reset => {
            desk.isolated.reset();
            *names = Names::default();
        }
        Step::Idle => desk.later += IDLE,
        Step::OtherMemory => desk.isolated.memory(&memory(&[region(0, 0x1000)])),
        Step::Open(..) | Step::Create(_) | Step::Blob(..) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_request_is_answered_once_whatever_happens_in_between(steps in steps()) {
        let script = Arc::new(Script::default());
        let mut desk = Desk::new(play(&script));
        desk.isolated.memory(&memory(&[region(0, 0x1000)]));
        let mut names = Names::default();
        for step in steps {
            take(&mut desk, &mut names, step);
        }
        // Each answer is judged as it comes.
        desk.settle();
        prop_assert_eq!(desk.answers.len() as u64, desk.tickets);
        prop_assert_eq!(desk.stats.renderer_lies.get(), 0);
        for process in desk.isolated.processes.iter().flatten() {
            let homes = desk.isolated.contexts.values().map(|context| context.home);
            let homes = homes.chain(desk.isolated.resources.values().map(|resource| resource.home));
            prop_assert_eq!(homes.filter(|home| home.life == process.life).count(), process.members);
        }
        // What it says is there works, or is lost: nothing in between.
        for (context, ticket) in &names.contexts {
            let lived = desk.isolated.context(ContextId(*context)).is_some();
            let submitted = desk.submit(*context, b"last");
            desk.settle();
            let lives = desk.isolated.context(ContextId(*context)).is_some();
            prop_assert!(lived && desk.is_ok(*ticket) || !desk.is_ok(submitted));
            prop_assert!(desk.is_ok(submitted) || !lives);
        }
    }
}
