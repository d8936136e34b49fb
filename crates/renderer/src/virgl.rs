//! libvirglrenderer, loaded while running.
