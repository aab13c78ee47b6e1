//! Tests of `Fs` without a mount, through the public interfaces of its rooms.

#[path = "../common/history.rs"]
mod history;
#[path = "../common/random.rs"]
mod random;

mod faulty;
mod model;
