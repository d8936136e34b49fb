//! How a guest's words arrive: vhost-user, and an in-process guest for tests.
