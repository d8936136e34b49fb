//! Shows frames to people: VNC and a web page.
