// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests side by side: epochs go in, outcomes come out in order of submission, whichever guest is done first.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use crate::{
    det::{self, Limits},
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::{Execution, GuestConfig, Leaks},
    machine::MachineError,
    par::Stream,
    program::Schedule,
    run_dir::RunDir,
    snapshot::{self, Snapshot},
};

/// What every worker needs.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Kernel and machine.
    pub guest: GuestConfig,
    /// Engine: deterministic, or one of the parallel two.
    pub execution: Execution,
    /// Guests side by side.
    pub jobs: usize,
    /// Limits of an epoch.
    pub limits: Limits,
    /// Folder of snapshots; deterministic engine only.
    pub snapshots: PathBuf,
}

/// A pool of guests. Dropping it abandons what runs.
pub struct Pool {
    shared: Arc<Shared>,
    outcomes: mpsc::Receiver<(u64, EpochOutcome)>,
    early: BTreeMap<u64, EpochOutcome>,
    n_submitted: u64,
    n_answered: u64,
    /// Epochs with lower numbers are not waited for.
    n_cancelled: u64,
    _run_dir: RunDir,
}

struct Shared {
    config: PoolConfig,
    queue: Mutex<Queue>,
    wake: Condvar,
    snapshots: Mutex<BTreeMap<(Schedule, Leaks), Snapshot>>,
    /// Whose boot was told.
    told: Mutex<BTreeSet<(Schedule, Leaks)>>,
}

#[derive(Default)]
struct Queue {
    epochs: VecDeque<(u64, Epoch)>,
    closed: bool,
}

impl Pool {
    /// Starts the workers; machines start with the first epoch.
    ///
    /// # Errors
    /// When the folder for running machines cannot be made.
    pub fn new(config: PoolConfig) -> io::Result<Pool> {
        let own_dir = RunDir::new()?;
        let (send, outcomes) = mpsc::channel();
        let jobs = config.jobs.max(1);
        let shared = Arc::new(Shared {
            config,
            queue: Mutex::default(),
            wake: Condvar::new(),
            snapshots: Mutex::default(),
            told: Mutex::default(),
        });
        for job in 0..jobs {
            let (shared, send, run_dir) =
                (Arc::clone(&shared), send.clone(), own_dir.path().join(format!("job{job}")));
            thread::Builder::new()
                .name(format!("guest{job}"))
                .spawn(move || work(&shared, &send, &run_dir))?;
        }
        Ok(Pool {
            shared,
            outcomes,
            early: BTreeMap::new(),
            n_submitted: 0,
            n_answered: 0,
            n_cancelled: 0,
            _run_dir: own_dir,
        })
    }

    /// What the pool was made with.
    pub fn config(&self) -> &PoolConfig {
        &self.shared.config
    }

    /// The snapshot epochs of a schedule start from, made now if need be.
    ///
    /// # Errors
    /// When the guest does not boot.
    pub fn snapshot(&self, schedule: Schedule, leaks: Leaks) -> Result<Snapshot, MachineError> {
        self.shared.snapshot(schedule, leaks)
    }

    /// Queues an epoch; its number.
    pub fn submit(&mut self, epoch: Epoch) -> u64 {
        let number = self.n_submitted;
        lock(&self.shared.queue).epochs.push_back((number, epoch));
        self.n_submitted += 1;
        self.shared.wake.notify_one();
        number
    }

    /// The answer to the oldest epoch without one, if it comes within `wait`. For callers that take all answers this way.
    pub fn next(&mut self, wait: Duration) -> Option<EpochOutcome> {
        let outcome = self.take(self.n_answered, wait)?;
        self.n_answered += 1;
        Some(outcome)
    }

    /// The answer to an epoch, if it comes within `wait`.
    pub fn take(&mut self, wanted: u64, wait: Duration) -> Option<EpochOutcome> {
        let deadline = std::time::Instant::now() + wait;
        loop {
            if let Some(outcome) = self.early.remove(&wanted) {
                return Some(outcome);
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let (number, outcome) = self.outcomes.recv_timeout(left).ok()?;
            if number >= self.n_cancelled {
                self.early.insert(number, outcome);
            }
        }
    }

    /// Runs one epoch and waits for it.
    pub fn run(&mut self, epoch: Epoch) -> EpochOutcome {
        self.submit(epoch);
        loop {
            if let Some(outcome) = self.next(Duration::from_secs(3600)) {
                return outcome;
            }
        }
    }

    /// Forgets every epoch not yet answered; what already runs, runs to its end unheard.
    pub fn cancel(&mut self) {
        lock(&self.shared.queue).epochs.clear();
        self.n_answered = self.n_submitted;
        self.n_cancelled = self.n_submitted;
        self.early.clear();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn snapshot(&self, schedule: Schedule, leaks: Leaks) -> Result<Snapshot, MachineError> {
        if let Some(snapshot) = lock(&self.snapshots).get(&(schedule, leaks)) {
            return Ok(snapshot.clone());
        }
        // Not under the lock: other workers go on while this one boots, and two that want the same one wait in there.
        let snapshot = snapshot::open(&self.config.guest, schedule, leaks, &self.config.snapshots)?;
        lock(&self.snapshots).insert((schedule, leaks), snapshot.clone());
        Ok(snapshot)
    }

    fn take(&self) -> Option<(u64, Epoch)> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            if let Some(next) = queue.epochs.pop_front() {
                return Some(next);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(shared: &Shared, send: &mpsc::Sender<(u64, EpochOutcome)>, run_dir: &Path) {
    let mut stream: Option<(Schedule, Stream)> = None;
    while let Some((number, epoch)) = shared.take() {
        let outcome = run_one(shared, &epoch, run_dir, &mut stream);
        if send.send((number, outcome)).is_err() {
            return;
        }
    }
}

fn run_one(
    shared: &Shared,
    epoch: &Epoch,
    run_dir: &Path,
    stream: &mut Option<(Schedule, Stream)>,
) -> EpochOutcome {
    let config = &shared.config;
    let schedule = epoch.programs.first().map(|program| program.schedule).unwrap_or_default();
    if config.execution == Execution::Deterministic {
        return match shared.snapshot(schedule, epoch.leaks()) {
            Ok(snapshot) => {
                let is_news = lock(&shared.told).insert((schedule, epoch.leaks()));
                let boot = if is_news { snapshot.boot_console() } else { Vec::new() };
                let outcome = det::run_epoch(&config.guest, &snapshot, epoch, config.limits, run_dir);
                EpochOutcome { boot, ..outcome }
            }
            Err(error) => EpochOutcome::no_machine(error, epoch.programs.len()),
        };
    }
    // One living guest a worker; another number of vCPUs is another machine.
    if stream.as_ref().is_none_or(|(have, _)| have.vcpus != schedule.vcpus) {
        let new = Stream::new(config.guest.clone(), schedule, config.execution, run_dir.to_owned());
        *stream = Some((schedule, new));
    }
    match stream {
        Some((_, stream)) => stream.run_epoch(epoch, config.limits),
        None => EpochOutcome::failed(EpochEnd::Machine("no guest".into()), epoch.programs.len()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked leaves plain data behind; the others go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
