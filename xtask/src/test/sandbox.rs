// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hostile Makefiles in a real sandbox: what they try fails, what they leave behind is gone, and an honest build works.

mod folders;

use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    io::ErrorKind,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::unistd;

use self::folders::{Folders, GONE_WITHIN, MIB, pids, text_of, wait_for};
use super::checks::Checks;
use crate::{
    lock::Lock,
    proc,
    sandbox::{self, ENDED, Limits, SETUP_FAILED},
};

/// Processes that come and go on a machine that does other things.
const OTHERS: usize = 100;

/// Runs them.
pub fn run(checks: &mut Checks) {
    checks.check("sandbox: works on this machine", sandbox::probe);
    checks.check("sandbox: an honest build works and its files are the caller's", honest_build);
    checks.check("sandbox: exit codes, signals, environment and output pass through", passes_through);
    checks.check("sandbox: a secret is not readable", no_secret);
    checks.check("sandbox: nothing outside can be written", no_write);
    checks.check("sandbox: no privilege can be had", no_privilege);
    checks.check("sandbox: the network is not reachable", no_network);
    checks.check("sandbox: what no namespace holds is refused", no_calls);
    checks.check("sandbox: processes over the limit end it", bounded_forks);
    checks.check("sandbox: a fork bomb ends and the machine stays usable", fork_bomb);
    checks.check("sandbox: a daemon left behind is gone", no_daemon);
    checks.check("sandbox: a large file and a full /tmp are stopped", no_flood);
    checks.check("sandbox: memory over the limit ends it", bounded_memory);
    checks.check("sandbox: time over the limit ends it", bounded_time);
    checks.check("sandbox: killed from outside it leaves nothing, and holds its lock until then", killed);
}

/// A file: path, content, mode, time of change.
type Pictured = (PathBuf, Vec<u8>, u32, i64);

/// Every file in a folder.
fn picture(folder: &Path) -> Result<Vec<Pictured>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = path.symlink_metadata()?;
        files.push((path.clone(), fs::read(&path).unwrap_or_default(), meta.mode(), meta.mtime_nsec()));
    }
    files.sort();
    Ok(files)
}

fn honest_build() -> Result<()> {
    let folders = Folders::new()?;
    fs::write(
        folders.path("src/hello.c"),
        "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n",
    )?;
    let compiler = ["gcc", "clang"].into_iter().find(|name| proc::which(name).is_some());
    let compiler = compiler.context("neither gcc nor clang is here")?;
    let script = format!(
        "set -e; {compiler} -o $(OUT)/hello hello.c; $(OUT)/hello; cat /seen/hello.c | wc -l\n\
         test ! -e /proc/self || [ \"$$(cat <(echo substituted))\" = substituted ]"
    );
    folders.make(&script)?.expect(0, &["hello", "2\n"])?;
    let meta = folders.path("out/hello").metadata()?;
    let (uid, gid) = (unistd::geteuid().as_raw(), unistd::getegid().as_raw());
    ensure!((meta.uid(), meta.gid()) == (uid, gid), "is {}:{} and not {uid}:{gid}", meta.uid(), meta.gid());
    ensure!(meta.permissions().mode() & 0o111 != 0, "mode {:o}", meta.mode());
    folders.make("false")?.expect(2, &["Error 1"])
}

fn passes_through() -> Result<()> {
    let folders = Folders::new()?;
    let shell = |script: &str| folders.run(folders.command("sh")?.args(["-c", script]));
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        shell(script)?.expect(code, &[]).context(script)?;
    }
    let output = folders.command("/usr/bin/env")?.env_clear().env("ONE", "1 and a half").output()?;
    ensure!(output.stdout == b"ONE=1 and a half\n", "another environment:\n{}", text_of(&output));
    let mut command = folders.command("sh")?;
    command.args(["-c", "echo out; echo err >&2; cat; pwd"]).current_dir(folders.path("outside"));
    let output = command.output()?;
    let is_as_printed = output.stdout == b"out\n/\n" && output.stderr.ends_with(b"err\n");
    ensure!(is_as_printed, "{}", text_of(&output));
    let mut command = folders.command("pwd")?;
    let output = command.current_dir(folders.path("out")).output()?;
    let folder = format!("{}\n", folders.path("out").display());
    ensure!(output.stdout == folder.as_bytes(), "another folder:\n{}", text_of(&output));
    let nonesuch = folders.run(&mut folders.command("nonesuch")?)?;
    nonesuch.expect(SETUP_FAILED, &["sandbox: cannot run nonesuch"])
}

fn no_secret() -> Result<()> {
    let folders = Folders::new()?;
    let secret = format!("secret-{}", folders.mark);
    let file = folders.path("outside/secret");
    fs::write(&file, &secret)?;
    // Links that were planted in an earlier build lead nowhere either.
    symlink(&file, folders.path("out/link"))?;
    symlink("/", folders.path("out/root"))?;
    let caller = std::process::id();
    let environment = fs::read("/proc/self/environ")?;
    let environment = String::from_utf8_lossy(&environment);
    let longest = environment.split('\0').max_by_key(|text| text.len()).unwrap_or_default();
    let script = format!(
        "-cat $(OUTSIDE)/secret\n-cat $(OUT)/link\n-cat $(OUT)/root$(OUTSIDE)/secret\n\
         -for d in /proc/[0-9]*; do cat $$d/root$(OUTSIDE)/secret $$d/cwd/secret; done\n\
         -cat ../outside/secret; ls $(OUT)/../..\n\
         -cat /etc/shadow /etc/passwd && echo ACCOUNTS\n\
         -ls -A /root /home /var /run /mnt /sys/* && echo FOLDERS\n\
         -cat /proc/{caller}/environ && echo CALLER\n-tr '\\0' '\\n' < /proc/1/environ && echo INIT\n\
         -ls -l /proc/1/exe /proc/1/fd/ && echo DESCRIPTORS\n\
         -ls -l /proc/self/fd/; readlink /proc/self/fd/0 /proc/self/fd/* | grep -E '^/[^dp]' && echo LEAKED\n\
         -head -c1 /dev/mem /dev/vda /dev/sda /dev/nvme0n1 /proc/kcore && echo DEVICES\n\
         @echo at the top: `ls -A /`\n@echo processes: `ls -d /proc/[0-9]* | wc -l`; echo tried"
    );
    let ended = folders.make(&script)?;
    ended.expect(0, &["tried", "at the top: "])?;
    let marks = ["ACCOUNTS", "FOLDERS", "CALLER", "INIT", "DESCRIPTORS", "LEAKED", "DEVICES"];
    let printed = marks.map(|mark| format!("\n{mark}\n"));
    ended.expect_none_of(&printed.each_ref().map(String::as_str))?;
    ended.expect_none_of(&[&secret])?;
    ensure!(longest.is_empty() || !ended.text.contains(longest), "shows the caller's environment");
    let top = ended.text.lines().find_map(|line| line.strip_prefix("at the top: ")).unwrap_or_default();
    // The folder with those of this check is below one of them.
    let own = folders.top.path().components().nth(1).map(|part| part.as_os_str().to_owned());
    let allowed = |name: &&str| {
        ["bin", "sbin", "usr", "etc", "dev", "proc", "tmp", "seen"].contains(name)
            || name.starts_with("lib")
            || own.as_deref() == Some(OsStr::new(name))
    };
    ensure!(top.split(' ').all(|name| allowed(&name)), "at the top: {top}");
    Ok(())
}

fn no_write() -> Result<()> {
    let folders = Folders::new()?;
    fs::write(folders.path("outside/file"), "before")?;
    symlink(folders.path("outside"), folders.path("out/link"))?;
    let script = "-echo x > /new && echo WROTE top\n-echo x > /usr/new && echo WROTE usr\n\
        -echo x > /etc/new && echo WROTE etc\n-echo x > /dev/new && echo WROTE dev\n\
        -echo x > $(SRC)/new && echo WROTE source\n-echo x >> $(SRC)/Makefile && echo WROTE Makefile\n\
        -echo x > /seen/new && echo WROTE seen\n-chmod 777 $(SRC)/Makefile && echo WROTE mode\n\
        -touch -d yesterday $(SRC)/Makefile && echo WROTE time\n-rm -f $(SRC)/Makefile && echo WROTE removal\n\
        -mv $(OUT) $(OUT).gone && echo WROTE rename\n-rmdir $(SRC) && echo WROTE rmdir\n\
        -echo x > $(OUT)/link/file && echo WROTE link\n-echo x > $(OUT)/link/new && echo WROTE link2\n\
        -ln $(SRC)/Makefile $(OUT)/hard && echo WROTE hard\n-chmod 600 /dev/null && echo WROTE device\n\
        -echo x > /proc/sys/kernel/core_pattern && echo WROTE core_pattern\n\
        -echo h > /proc/sysrq-trigger && echo WROTE sysrq\n\
        -echo 9999 > /proc/sys/kernel/pid_max && echo WROTE pid_max\n\
        -echo -1000 > /proc/self/oom_score_adj && echo WROTE oom\n\
        -echo x > $(OUT)/new && echo allowed 1\n-echo x > /tmp/new && echo allowed 2\n\
        -echo x > /dev/shm/new && echo allowed 3\n-echo x > /dev/null && echo allowed 4";
    folders.makefile(script)?;
    let (src, outside) = (picture(&folders.path("src"))?, picture(&folders.path("outside"))?);
    let device = fs::metadata("/dev/null")?.mode();
    let ended = folders.run(folders.command("make")?.args(folders.args()))?;
    ended.expect(0, &["\nallowed 1\n", "\nallowed 2\n", "\nallowed 3\n", "\nallowed 4\n"])?;
    ended.expect_none_of(&["\nWROTE "])?;
    ensure!(picture(&folders.path("src"))? == src, "the source was changed");
    ensure!(picture(&folders.path("outside"))? == outside, "a folder outside was changed");
    ensure!(fs::metadata("/dev/null")?.mode() == device, "/dev/null has another mode");
    for path in ["/new", "/usr/new", "/etc/new", "/dev/new"].map(Path::new) {
        ensure!(!path.exists(), "{} is there", path.display());
    }
    ensure!(fs::read(folders.path("out/new"))? == b"x\n", "what it may write is not there");
    Ok(())
}

fn no_privilege() -> Result<()> {
    let folders = Folders::new()?;
    let script = "@if [ -e /proc/self ]; then grep -E '^(Cap|NoNewPrivs)' /proc/self/status; else echo NO PROC; fi; id -u\n\
        -mount -t tmpfs none /tmp && echo GOT mount\n-mount -o remount,bind,rw /usr && echo GOT remount\n\
        -umount -l /usr && echo GOT umount\n-unshare -Ur true && echo GOT user namespace\n\
        -unshare -m true && echo GOT mount namespace\n-nsenter -t 1 -m true && echo GOT old namespace\n\
        -chroot / true && echo GOT chroot\n-hostname x && echo GOT hostname\n\
        -mknod $(OUT)/disk b 254 0 && echo GOT device\n-chown 12345 $(OUT) && echo GOT owner\n\
        -kill -KILL 1; kill -STOP 1; kill -SEGV 1; kill -TERM 1; sleep 0.2; kill -0 1 && echo PID 1 lives\n\
        -echo x > /dev/tty && echo GOT terminal\n-ulimit -u unlimited && echo GOT limit\n@echo tried";
    let ended = folders.make(script)?;
    let none = |name: &str| format!("Cap{name}:\t{:016x}\n", 0);
    let caps = ["Inh", "Prm", "Eff", "Amb"].map(none);
    ended.expect(0, &["\ntried\n", "\nPID 1 lives\n", "\n1000\n"])?;
    // On a machine that forbids a new /proc, what was tried has to do.
    if !ended.text.contains("\nNO PROC\n") {
        ended.expect(0, &["NoNewPrivs:\t1\n"])?;
        ended.expect(0, &caps.each_ref().map(String::as_str))?;
    }
    ended.expect_none_of(&["\nGOT "])
}

fn no_network() -> Result<()> {
    let folders = Folders::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let script = format!(
        "-exec 3<>/dev/tcp/127.0.0.1/{port} && echo CONNECTED\n\
         -exec 3<>/dev/udp/192.0.2.1/53 && echo ROUTED\n@echo tried"
    );
    let ended = folders.make(&script)?;
    ended.expect(0, &["\ntried\n"])?;
    ended.expect_none_of(&["\nCONNECTED", "\nROUTED"])?;
    let seen = listener.accept();
    ensure!(
        seen.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
        "the listener saw {seen:?}"
    );
    let outside = text_of(&folders.make_outside()?);
    ensure!(outside.contains("\nCONNECTED\n"), "not even outside does it connect:\n{outside}");
    listener.accept().context("the listener saw nothing of the connection from outside")?;
    Ok(())
}

/// Each fails for the reason that we give, and not because this machine has no such thing.
fn no_calls() -> Result<()> {
    let folders = Folders::new()?;
    let vsock = "socket(S, 40, 1, 0) ? \"GOT\" : $$!";
    // keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING), io_uring_setup(1, NULL)
    let (keyring, ring) =
        ("syscall(250, 0, -3, 1) >= 0 ? \"GOT\" : $$!", "syscall(425, 1, 0) >= 0 ? \"GOT\" : $$!");
    let internet = "socket(S, 2, 1, 0) ? \"fine\" : $$!";
    let mut script = String::new();
    for (name, what) in [("vsock", vsock), ("keyring", keyring), ("ring", ring), ("internet", internet)] {
        script.push_str(&format!("@perl -e 'print \"{name}: \", {what}, \"\\n\"'\n"));
    }
    let ended = folders.make(script.trim_end())?;
    let refused = ["vsock", "keyring", "ring"].map(|name| format!("{name}: Operation not permitted\n"));
    ended.expect(0, &refused.each_ref().map(String::as_str))?;
    ended.expect(0, &["internet: fine\n"])
}

fn bounded_forks() -> Result<()> {
    let mut folders = Folders::new()?;
    folders.limits.wall_seconds = 20;
    // Below the limit all of them run: it is no matter of chance that more do not.
    let some = folders.make("for i in {1..30}; do sleep 1 & done; wait; echo all ran")?;
    some.expect(0, &["\nall ran\n"])?;
    let many = folders.make("for i in {1..200}; do sleep $(MARK) & done; wait; echo all ran")?;
    many.expect(ENDED, &["sandbox: ended: ", " processes, 64 allowed"])?;
    many.expect_none_of(&["\nall ran"])?;
    folders.all_gone()
}

fn fork_bomb() -> Result<()> {
    let mut folders = Folders::new()?;
    folders.limits.wall_seconds = 10;
    folders.makefile("bomb() { bomb $(MARK) | bomb $(MARK) & }; bomb; sleep $(MARK)")?;
    let before = pids().len();
    let pid_max = fs::read("/proc/sys/kernel/pid_max")?;
    let is_over = AtomicBool::new(false);
    let mut command = folders.command("make")?;
    command.args(folders.args());
    let (ended, peak, slowest) = thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = 0;
            while !is_over.load(Ordering::Relaxed) {
                peak = peak.max(pids().len());
            }
            peak
        });
        let slowest = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                let status = Command::new("true").status();
                slowest = slowest.max(if status.is_ok() { started.elapsed() } else { Duration::MAX });
            }
            slowest
        });
        let ended = folders.run(&mut command);
        is_over.store(true, Ordering::Relaxed);
        (ended, peak.join().unwrap_or(usize::MAX), slowest.join().unwrap_or(Duration::MAX))
    });
    let ended = ended?;
    let measured = format!(
        "ended after {:?}; {peak} processes at most, {before} before; `true` took {slowest:?} at most",
        ended.elapsed
    );
    println!("    {measured}");
    ensure!(
        ended.code == Some(ENDED.into()),
        "exit {:?}; {measured}:\n{}",
        ended.code,
        proc::tail(&ended.text)
    );
    ensure!(ended.elapsed < Duration::from_secs(20), "{measured}");
    // What the kernel lets it have on the way to the limit, see `sandbox/init.rs`.
    let most = before + 300 + folders.limits.processes as usize + OTHERS;
    ensure!(peak <= most && slowest < Duration::from_secs(5), "{measured}, {most} allowed");
    ensure!(fs::read("/proc/sys/kernel/pid_max")? == pid_max, "the machine has another pid_max now");
    folders.all_gone()
}

fn no_daemon() -> Result<()> {
    let folders = Folders::new()?;
    let script = "setsid sleep $(MARK) > /dev/null 2>&1 < /dev/null & sleep 0.2; kill -0 $$! && echo runs\n\
        (setsid nohup sh -c 'trap \"\" TERM HUP INT; sleep $(MARK)' &) ; sleep 0.2; echo left";
    let ended = folders.make(script)?;
    ended.expect(0, &["\nruns\n", "\nleft\n"])?;
    let left = folders.marked();
    ensure!(left.is_empty(), "running when the command had ended: {left:?}");
    ensure!(ended.elapsed < Duration::from_secs(20), "took {:?}", ended.elapsed);
    Ok(())
}

fn no_flood() -> Result<()> {
    let folders = Folders::new()?;
    let script = "-head -c 64M /dev/zero > $(OUT)/big && echo WROTE big\n\
        -head -c 10M /dev/zero > /tmp/one && echo WROTE tmp\n\
        -rm -f /tmp/*; for i in {1..200}; do head -c 1M /dev/zero > /tmp/$$i || break; done; echo MiB in /tmp: $$i\n\
        -head -c 15M /dev/zero > /dev/shm/one; head -c 15M /dev/zero > /dev/shm/two && echo WROTE shm\n@echo tried";
    let ended = folders.make(script)?;
    ended.expect(
        0,
        &["\ntried\n", "MiB in /tmp: 9\n", "No space left on device", "File size limit exceeded"],
    )?;
    ended.expect_none_of(&["\nWROTE "])?;
    let length = folders.path("out/big").metadata()?.len();
    ensure!(length == folders.limits.file_bytes, "{length} bytes in one file");
    Ok(())
}

fn bounded_memory() -> Result<()> {
    let mut folders = Folders::new()?;
    folders.limits.memory_bytes = 128 * MIB;
    folders.limits.wall_seconds = 30;
    // One line without an end is kept in memory.
    let one = folders.make("-head -c 400M /dev/zero | tail -n 1 | wc -c\n@echo tried")?;
    one.expect(0, &["\ntried\n", "memory exhausted", "\n0\n"])?;
    let all = "for i in 1 2 3 4; do (head -c 60M /dev/zero; exec sleep $(MARK)) | tail -n 1 & done; wait";
    let all = folders.make(all)?;
    all.expect(ENDED, &["sandbox: ended: ", " MiB of memory, 128 allowed"])?;
    folders.all_gone()
}

fn bounded_time() -> Result<()> {
    let mut folders = Folders::new()?;
    folders.limits.wall_seconds = 1;
    let ended = folders.make("trap '' TERM INT; sleep $(MARK); sleep $(MARK)")?;
    ended.expect(ENDED, &["sandbox: ended: 1 seconds are over"])?;
    ensure!(ended.elapsed < Duration::from_secs(10), "took {:?}", ended.elapsed);
    folders.all_gone()?;
    folders.limits = Limits { wall_seconds: 30, cpu_seconds: 1, ..folders.limits };
    let ended = folders.make("while :; do :; done")?;
    ended.expect(2, &["Killed"])?;
    ensure!(ended.elapsed < Duration::from_secs(20), "took {:?}", ended.elapsed);
    Ok(())
}

fn killed() -> Result<()> {
    let folders = Folders::new()?;
    let path = folders.path("lock");
    let lock = Lock::acquire(&path, "a check")?;
    folders.makefile("setsid sleep $(MARK) & sleep $(MARK)")?;
    let mut command = folders.command("make")?;
    command.args(folders.args()).stdin(lock.as_stdin()?).stdout(Stdio::null());
    let mut child = command.spawn().context("start a sandbox")?;
    drop((command, lock));
    let runs = wait_for(GONE_WITHIN, || {
        folders.marked().iter().filter(|line| line.starts_with("sleep")).count() == 2
    });
    let again = File::open(&path)?;
    let is_held = matches!(again.try_lock(), Err(TryLockError::WouldBlock));
    let marked = folders.marked();
    child.kill().context("kill the sandbox")?;
    child.wait()?;
    ensure!(runs && is_held, "held: {is_held}; running: {marked:?}");
    folders.all_gone()?;
    ensure!(wait_for(GONE_WITHIN, || again.try_lock().is_ok()), "the lock is still held");
    Ok(())
}
