//! What a probe finds.

use device::Capset;

use super::*;
use crate::virgl::{Probe, probe};

fn show(probe: &Probe) {
    for capset in &probe.capsets {
        println!("{}: version {}, {} bytes", capset.id, capset.version, capset.bytes.len());
    }
    println!("{:?} {:?} drivers {:?} missing {:?}", probe.version, probe.path, probe.drivers, probe.missing);
}

#[test]
fn a_probe_finds_opengl_and_who_draws() {
    alone("probes::gl");
}

#[test]
#[ignore = "started by a_probe_finds_opengl_and_who_draws"]
fn gl() {
    if load().is_none() {
        return;
    }
    let found = probe(Kind::Gl, None, None, None);
    show(&found);
    if let Some(missing) = found.missing.first() {
        return skip(format_args!("{}: {}", missing.what, missing.why));
    }
    let ids: Vec<_> = found.capsets.iter().map(|capset| (capset.id, capset.rings, capset.maps)).collect();
    assert_eq!(ids, [(CapsetId::VIRGL, 1, false), (CapsetId::VIRGL2, 1, false)]);
    assert_eq!(found.drivers.len(), 1);
    let offered = Capset::from(&found.capsets[1]);
    assert!(offered.bytes.len() >= 1376);
    let again = probe(Kind::Gl, None, None, None);
    assert_eq!(again.capsets, []);
    assert!(again.missing[0].why.contains("before"), "{again:?}");
}

#[test]
fn a_probe_finds_vulkan_whose_memory_can_be_given_away() {
    alone("probes::vk");
}

#[test]
#[ignore = "started by a_probe_finds_vulkan_whose_memory_can_be_given_away"]
fn vk() {
    let Some(loaded) = load() else { return };
    let Some((server, _child)) = serve(&loaded) else { return };
    let found = probe(Kind::Vk, None, None, Some(server));
    show(&found);
    // Without /dev/udmabuf or a stand-in for it, lavapipe cannot: then it says so and offers nothing.
    assert_eq!(found.capsets.is_empty(), !found.missing.is_empty());
    assert!(env::var_os(COMPLETE).is_none() || found.missing.is_empty());
    if let [venus] = found.capsets.as_slice() {
        assert_eq!((venus.id, venus.rings, venus.maps), (CapsetId::VENUS, 64, true));
        assert!(venus.bytes.len() >= 156 && !found.drivers.is_empty());
    }
}

#[test]
fn a_probe_without_a_render_server_offers_no_vulkan() {
    alone("probes::no_server");
}

#[test]
#[ignore = "started by a_probe_without_a_render_server_offers_no_vulkan"]
fn no_server() {
    if load().is_none() {
        return;
    }
    let found = probe(Kind::Vk, None, None, None);
    show(&found);
    assert!(found.capsets.is_empty() && !found.missing.is_empty());
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let found = probe(Kind::Gl, Some("/nonexistent/libvirglrenderer.so.1".as_ref()), None, None);
    assert!(found.missing[0].why.contains("/nonexistent/"), "{found:?}");
    assert_eq!(found.version, None);
}

#[test]
fn a_library_of_something_else_is_no_virglrenderer() {
    let found = probe(Kind::Gl, Some("libc.so.6".as_ref()), None, None);
    assert!(found.missing[0].why.contains("virgl_renderer_init"), "{found:?}");
}
