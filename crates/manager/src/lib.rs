//! Policy: which vGPUs there are, what each may have, and when it runs. No file, socket, process or clock is touched here: facts
//! and moments come in as values, what is to be done goes out as values.
#![forbid(unsafe_code)]
