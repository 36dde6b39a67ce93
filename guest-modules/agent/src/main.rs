// SPDX-License-Identifier: MIT OR Apache-2.0
//! PID 1 of the guest. Boots it to the point where programs can run, then runs batches of them:
//!
//! boot -> ready -> (pause for a snapshot) -> batch in shared memory -> results -> end or next batch.
//!
//! Nothing here depends on host time: with the batch in place before the guest runs, the guest's whole course is a
//! function of its inputs.

mod audit;
mod batch;
mod boot;
mod control;
mod cover;
mod ext4;
mod log;
mod profile;
mod sample;
mod sys;
mod user_ops;
mod watch;
mod watched;
mod worker;

use std::{convert::Infallible, fs::File, mem::offset_of, thread, time::Duration};

use abi::{
    layout::{ABI_MAGIC, ABI_VERSION, ioc},
    shm::{EXIT_DONE, Header, PORT_EXIT, PORT_PVPANIC, flag, state},
};

use crate::{
    batch::Runner,
    boot::{Context, Result},
    control::Control,
    sys::Mapping,
    worker::World,
};

/// How often an idle guest looks for its batch, in guest time.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Guest time in which the console drains before the machine ends.
const DRAIN: Duration = Duration::from_millis(100);

/// Argument that asks for the barest boot there is: the end of the machine, for `xtask bench`.
const BARE: &str = "bare";

fn main() {
    // The kernel hands on what it does not know itself, too.
    if std::env::args().any(|argument| argument == BARE) {
        let _ = boot::mount_dev();
        let _ = boot::out_byte(PORT_EXIT, EXIT_DONE);
    }
    let Err(error) = serve();
    log::failure(&error);
    thread::sleep(DRAIN);
    let _ = boot::out_byte(PORT_EXIT, EXIT_DONE);
    // No such device: let the kernel end the machine.
    std::process::exit(1);
}

fn serve() -> Result<Infallible> {
    boot::mount_all()?;
    boot::prepare()?;
    let shm = boot::shared_memory()?;
    let header: Header = shm.read(0);
    if (header.magic, header.version) != (ABI_MAGIC, ABI_VERSION) {
        return Err(format!("host speaks ABI {}, agent {ABI_VERSION}", header.version));
    }
    let device = boot::load_module("shrinktorture")?;
    boot::check_module(&device)?;
    let canary = boot::load_module("canary")?;
    let n_cpus = thread::available_parallelism().context("count CPUs")?.get();
    let world = World { shm, control: Control::new().context("control block")?, device: &device, n_cpus };
    let mut runner = Runner::new(world)?;
    sample::start();
    if header.flags & (flag::PAUSE_WHEN_READY | flag::LEAK_SCAN) != 0 {
        batch::forget_leaks(&device);
    }
    shm.write(offset_of!(Header, guest_version), ABI_VERSION);
    shm.write(offset_of!(Header, guest_magic), ABI_MAGIC);
    log::say("ready");
    serve_batches(shm, &mut runner, &canary)
}

fn serve_batches(shm: Mapping, runner: &mut Runner<'_>, canary: &File) -> Result<Infallible> {
    let waits = |header: &Header| header.batch_seq != header.done_seq;
    set_state(shm, state::READY);
    let header: Header = shm.read(0);
    if header.flags & flag::PAUSE_WHEN_READY != 0 && !waits(&header) {
        thread::sleep(DRAIN);
        boot::out_byte(PORT_PVPANIC, 1).context("ask for a pause")?;
    }
    loop {
        let header: Header = shm.read(0);
        if !waits(&header) {
            thread::sleep(LOOK_EVERY);
            continue;
        }
        set_state(shm, state::RUNNING);
        if header.canary != 0 {
            sys::ioctl_value(canary, ioc::CANARY.into(), header.canary.into()).context("arm the canary")?;
        }
        let end = runner.run(&header)?;
        shm.write(offset_of!(Header, done_seq), header.batch_seq);
        set_state(shm, end);
        if header.flags & flag::EXIT_WHEN_DONE != 0 {
            thread::sleep(DRAIN);
            boot::out_byte(PORT_EXIT, EXIT_DONE).context("end the machine")?;
        }
    }
}

fn set_state(shm: Mapping, value: u32) {
    shm.write(offset_of!(Header, state), value);
}
