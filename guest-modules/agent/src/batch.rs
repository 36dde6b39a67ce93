// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a batch: program after program, until all are done or the kernel complains.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    mem::offset_of,
    os::fd::AsFd,
    thread,
    time::Duration,
};

use abi::{
    layout::{N_THREADS, Op, ioc, kind, situation::Seen},
    ops,
    program::{WIRE_MAX, WireThread, decode, is_deep},
    shm::{
        DATA_BYTES, DATA_OFFSET, Header, OpRecord, PROGRAMS_BYTES, PROGRAMS_OFFSET, ProgramRef,
        ProgramResult, RESULTS_OFFSET, flag, state, status,
    },
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::wait::{WaitPidFlag, waitpid},
};

use crate::{
    audit::Auditor,
    boot::{Context, Result, put},
    log, profile,
    sys::{self, Plain},
    user_ops::Leftovers,
    watch::Watch,
    worker::{Worker, World},
};

/// How often the agent looks whether an op is overdue.
const LOOK_EVERY_MS: u16 = 1000;
/// kmemleak reports objects that are at least 5 s old.
const LEAK_AGE: Duration = Duration::from_secs(6);
/// Lost objects shown at most.
const LEAKS_SHOWN: usize = 16;
const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// Everything that outlives a batch.
pub struct Runner<'a> {
    world: World<'a>,
    workers: Vec<Worker>,
    /// Made for the first program: what the kernel complained of before is the boot's.
    watch: Option<Watch>,
    data_used: usize,
    leftovers: Leftovers,
    auditor: Auditor,
    /// A worker of the present program was killed.
    killed: bool,
}

impl<'a> Runner<'a> {
    /// Forks the workers.
    pub fn new(world: World<'a>) -> Result<Runner<'a>> {
        let workers: io::Result<Vec<Worker>> =
            (0..N_THREADS).map(|thread| Worker::spawn(thread, world)).collect();
        Ok(Runner {
            world,
            workers: workers.context("fork a worker")?,
            watch: None,
            data_used: 0,
            leftovers: Leftovers::new().context("look at a fresh guest")?,
            auditor: Auditor::new(world.device),
            killed: false,
        })
    }

    /// Runs the batch the header announces; the state to end with.
    pub fn run(&mut self, header: &Header) -> Result<u32> {
        self.data_used = 0;
        if self.watch.is_none() {
            self.watch = Some(Watch::new().context("/dev/kmsg")?);
        }
        if header.flags & flag::PCS != 0 {
            profile::start();
        }
        for program_idx in 0..header.n_programs as usize {
            self.world.shm.write(offset_of!(Header, program_idx), program_idx as u32);
            let end = self.run_program(program_idx, header)?;
            if end != state::RUNNING {
                return Ok(end);
            }
            self.world.shm.write(offset_of!(Header, n_done), program_idx as u32 + 1);
        }
        if header.flags & flag::PCS != 0 && header.n_programs > 0 {
            self.record_functions(header.n_programs as usize - 1)?;
        }
        if header.flags & flag::LEAK_SCAN != 0 && self.leaks()? {
            return Ok(state::KERNEL_FINDING);
        }
        Ok(state::DONE)
    }

    fn run_program(&mut self, program_idx: usize, header: &Header) -> Result<u32> {
        let place: ProgramRef = self.world.shm.read(PROGRAMS_OFFSET + program_idx * size_of::<ProgramRef>());
        let (offset, len) = (place.offset as usize, place.len as usize);
        let end = PROGRAMS_OFFSET + PROGRAMS_BYTES;
        if len > WIRE_MAX || offset < PROGRAMS_OFFSET || offset + len > end {
            return Err(format!("program {program_idx} lies outside the batch"));
        }
        let bytes = self.world.shm.read_bytes(offset, len);
        let (n_threads, threads) =
            decode(&bytes).map_err(|error| format!("program {program_idx}: {error:?}"))?;
        let threads: Vec<WireThread> = threads.into_iter().flatten().collect();

        let result_at = RESULTS_OFFSET + program_idx * size_of::<ProgramResult>();
        let mut result =
            ProgramResult { status: status::RUNNING, start_ns: sys::now_ns(), ..ProgramResult::default() };
        self.world.shm.write(result_at, result);
        self.leftovers.note(&threads);
        self.auditor.note(threads.iter().flat_map(WireThread::ops));
        self.killed = false;
        // What came after the last program's end is nobody's.
        self.situations()?;
        self.world.control.reset(n_threads);
        for worker in &mut self.workers[..n_threads] {
            worker.start(place.offset, place.len).context("start a worker")?;
        }
        let overdue = self.wait(&threads, header.op_deadline_ms)?;
        result.end_ns = sys::now_ns();
        self.record(&threads, &mut result)?;
        if overdue {
            result.status = status::DEADLINE;
            self.world.shm.write(result_at, result);
            return Ok(state::DEADLINE);
        }
        let deep = is_deep(&bytes);
        let device = self.world.device;
        // Both may keep the kernel from making debugfs files.
        let starves = |op: Op| matches!(op.kind, kind::FAIL_NTH | kind::MEMCG_MAX);
        let debugfs_sure = !self.killed && !threads.iter().flat_map(WireThread::ops).any(starves);
        self.auditor.before_reset(device, deep, debugfs_sure).context("audit the program's shrinkers")?;
        self.clean_up()?;
        let deterministic = header.flags & flag::EXIT_WHEN_DONE != 0;
        self.auditor.after_reset(device, deep, deterministic).context("audit what is left")?;
        result.status = status::DONE;
        self.world.shm.write(result_at, result);
        match self.watch.as_mut().and_then(Watch::complaint) {
            Some(what) => {
                log::say(&format!("program {program_idx}: the kernel complained: {what}"));
                Ok(state::KERNEL_FINDING)
            }
            None => Ok(state::RUNNING),
        }
    }

    /// Waits for the threads; true when an op passed its deadline.
    fn wait(&mut self, threads: &[WireThread<'_>], deadline_ms: u32) -> Result<bool> {
        let mut running: Vec<usize> = (0..threads.len()).collect();
        while !running.is_empty() {
            let mut fds: Vec<PollFd> = running
                .iter()
                .map(|thread| PollFd::new(self.workers[*thread].done.as_fd(), PollFlags::POLLIN))
                .collect();
            poll(&mut fds, PollTimeout::from(LOOK_EVERY_MS)).context("poll")?;
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            let mut still = Vec::new();
            for (thread, ready) in running.into_iter().zip(ready) {
                if !ready {
                    still.push(thread);
                } else if self.workers[thread].finish().is_err() {
                    self.revive(thread)?;
                }
            }
            running = still;
            if let Some((thread, op_idx)) = self.overdue(&running, deadline_ms) {
                self.report_overdue(thread, op_idx, threads[thread].ops().nth(op_idx));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A worker that the OOM killer took is replaced; its thread of this program is over.
    fn revive(&mut self, thread: usize) -> Result<()> {
        self.killed = true;
        let _ = waitpid(self.workers[thread].pid, Some(WaitPidFlag::WNOHANG));
        self.workers[thread] = Worker::spawn(thread, self.world).context("fork a worker anew")?;
        Ok(())
    }

    fn overdue(&self, running: &[usize], deadline_ms: u32) -> Option<(usize, usize)> {
        let now = sys::now_ns();
        running.iter().copied().find_map(|thread| {
            let started = self.world.control.op_started(thread);
            let late = started != 0 && now.saturating_sub(started) > u64::from(deadline_ms) * 1_000_000;
            let op: u32 = self.world.shm.read(offset_of!(Header, thread_op) + 4 * thread);
            late.then(|| (thread, op.saturating_sub(1) as usize))
        })
    }

    fn report_overdue(&self, thread: usize, op_idx: usize, op: Option<Op>) {
        let op = op.unwrap_or_default();
        let name = ops::spec(op.kind).map_or("unknown", |spec| spec.name);
        let pid = self.workers[thread].pid;
        log::say(&format!("op deadline: {name} slot={} (thread {thread}, op {op_idx}, pid {pid})", op.slot));
        // Blocked tasks, then what the CPUs are at.
        let _ = put("/proc/sysrq-trigger", "w");
        let _ = put("/proc/sysrq-trigger", "l");
        let stack = fs::read_to_string(format!("/proc/{pid}/stack")).unwrap_or_default();
        for line in stack.lines() {
            log::say(&format!("stuck: {line}"));
        }
    }

    fn clean_up(&mut self) -> Result<()> {
        // A shrinker_free() that never returns stops PID 1 here; the hung-task detector then reports it.
        sys::ioctl_value(self.world.device, ioc::RESET.into(), 0).context("reset the module")?;
        self.leftovers.clear();
        Ok(())
    }

    /// Writes op results, merged coverage and situations behind what earlier programs wrote.
    fn record(&mut self, threads: &[WireThread<'_>], result: &mut ProgramResult) -> Result<()> {
        let control = self.world.control;
        result.results_offset = (DATA_OFFSET + self.data_used) as u32;
        for (thread, wire) in threads.iter().enumerate() {
            for op_idx in 0..wire.n_ops() {
                let record = control.record(thread, op_idx);
                let ran = record.result != OpRecord::NOT_RUN;
                result.n_ops += u32::from(ran);
                result.n_errors += u32::from(ran && record.result < 0);
                result.results_len += u32::from(self.push(record));
            }
        }
        result.cover_offset = (DATA_OFFSET + self.data_used) as u32;
        for thread in 0..threads.len() {
            for record in control.cover(thread) {
                let stored = self.push(record);
                result.cover_len += u32::from(stored);
                result.n_lost += u32::from(!stored);
            }
        }
        result.situations_offset = (DATA_OFFSET + self.data_used) as u32;
        for situation in self.situations()?.all() {
            result.situations_len += u32::from(self.push(situation));
        }
        self.world.shm.write(offset_of!(Header, data_used), self.data_used as u32);
        Ok(())
    }

    /// Adds the functions that ran in this batch, by whomever, to what its last program covered.
    fn record_functions(&mut self, last: usize) -> Result<()> {
        let at = RESULTS_OFFSET + last * size_of::<ProgramResult>();
        let mut result: ProgramResult = self.world.shm.read(at);
        let own = (0..result.cover_len as usize)
            .map(|n| self.world.shm.read(result.cover_offset as usize + n * size_of::<u32>()));
        let own: Vec<u32> = own.collect();
        let functions = profile::stop().context("function profile")?;
        result.cover_offset = (DATA_OFFSET + self.data_used) as u32;
        result.cover_len = 0;
        for pc in own.into_iter().chain(functions) {
            result.cover_len += u32::from(self.push(pc));
        }
        self.world.shm.write(at, result);
        Ok(())
    }

    /// What callbacks saw since this was asked last.
    fn situations(&self) -> Result<Seen> {
        let mut seen = Seen::default();
        sys::ioctl_struct(self.world.device, ioc::SITUATIONS, &mut seen).context("ask for situations")?;
        Ok(seen)
    }

    fn push<T: Plain>(&mut self, value: T) -> bool {
        if self.data_used + size_of::<T>() > DATA_BYTES {
            return false;
        }
        self.world.shm.write(DATA_OFFSET + self.data_used, value);
        self.data_used += size_of::<T>();
        true
    }

    /// Two scans some seconds apart; objects unreferenced in both are reported. A kernel without kmemleak cannot tell.
    fn leaks(&mut self) -> Result<bool> {
        if !std::path::Path::new(KMEMLEAK).exists() {
            return Ok(false);
        }
        for _ in 0..2 {
            thread::sleep(LEAK_AGE);
            scan(self.world.device)?;
        }
        let report = fs::read_to_string(KMEMLEAK).context(KMEMLEAK)?;
        for object in one_of_each(&report) {
            for line in object {
                log::say(&format!("kmemleak: {line}"));
            }
        }
        Ok(!report.trim().is_empty())
    }
}

/// Makes kmemleak forget what the boot left behind.
pub fn forget_leaks(device: &File) {
    if File::open(KMEMLEAK).is_ok() {
        thread::sleep(LEAK_AGE);
        let _ = scan(device);
        let _ = put(KMEMLEAK, "clear");
    }
}

/// The first object lost by each call chain, at most [`LEAKS_SHOWN`] of them: the console is slow, and the rest says no more.
fn one_of_each(report: &str) -> Vec<Vec<&str>> {
    let mut objects: Vec<Vec<&str>> = Vec::new();
    for line in report.lines() {
        if line.starts_with("unreferenced object") || objects.is_empty() {
            objects.push(Vec::new());
        }
        objects.last_mut().expect("one was pushed").push(line);
    }
    let mut chains = BTreeSet::new();
    objects.retain(|object| {
        let backtrace = object.iter().skip_while(|line| !line.trim_start().starts_with("backtrace"));
        // The heading has a checksum of the object.
        chains.insert(backtrace.skip(1).copied().collect::<Vec<_>>())
    });
    objects.truncate(LEAKS_SHOWN);
    objects
}

/// Scans. Lockdep looks away: the scan takes and gives back millions of locks of its own, and would take several times as long.
fn scan(device: &File) -> Result<()> {
    let lockdep = |on| sys::ioctl_value(device, ioc::LOCKDEP.into(), on).context("lockdep");
    lockdep(0)?;
    let scanned = put(KMEMLEAK, "scan");
    lockdep(1)?;
    scanned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_objects_lost_by_one_call_chain_the_first_is_shown() {
        let object = |address: u32, function: &str| {
            format!(
                "unreferenced object 0x{address:x} (size 256):\n  comm \"init\", pid 1, jiffies 42\n  hex dump (first 32 bytes):\n    \
                 00 01 ..\n  backtrace (crc {address:x}):\n    {function}+0x1/0x2\n    main+0x3/0x4\n"
            )
        };
        let report = [object(1, "leak"), object(2, "leak"), object(3, "other"), object(4, "leak")].concat();
        let shown = one_of_each(&report);
        let firsts: Vec<&str> = shown.iter().map(|object| object[0]).collect();
        assert_eq!(firsts, ["unreferenced object 0x1 (size 256):", "unreferenced object 0x3 (size 256):"]);
        assert!(shown.iter().all(|object| object.len() == 7));
        assert!(one_of_each("").is_empty());
        let many: String = (0..100).map(|n| object(n, &format!("leak{n}"))).collect();
        assert_eq!(one_of_each(&many).len(), LEAKS_SHOWN);
    }
}
