// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line and a stack each: wordings of kernels 4.x to 7.x, and text that only looks like one.

use crate::oracle::judge;

/// What follows a head where the kernel prints a stack.
const STACK: &str = "CPU: 1 PID: 7 Comm: worker\nCall Trace:\n <TASK>\n dump_stack_lvl+0x1/0x2\n helper+0x1/0x20 [mod]\n caller+0x3/0x40\n vfs_write+0x5/0x60\n do_syscall_64+0x7/0x80\n </TASK>\nend\n";

/// The same where the kernel prints registers first.
const FAULT: &str = "CPU: 1 PID: 7 Comm: worker\nRIP: 0010:helper+0x1/0x20\nCall Trace:\n caller+0x3/0x40\n vfs_write+0x5/0x60\n do_syscall_64+0x7/0x80\nend\n";

fn first(console: &str) -> (String, String) {
    judge(console.as_bytes())
        .into_iter()
        .next()
        .map_or_else(Default::default, |report| (report.title, report.kind))
}

#[test]
fn reports_with_a_stack_have_the_titles_of_dashboards() {
    for (head, title, kind) in [
        ("BUG: spinlock bad magic on CPU#1, worker/7", "BUG: spinlock bad magic in helper", "LOCKDEP"),
        (
            "BUG: rwlock cpu recursion on CPU#1, worker/7, 00000000",
            "BUG: rwlock cpu recursion in helper",
            "LOCKDEP",
        ),
        (
            "BUG: scheduling while atomic: worker/7/0x00000002",
            "BUG: scheduling while atomic in helper",
            "ATOMIC_SLEEP",
        ),
        (
            "BUG: using __this_cpu_read() in preemptible [00000000] code: worker/7",
            "BUG: using __this_cpu_read() in preemptible code in helper",
            "LOCKDEP",
        ),
        ("INFO: trying to register non-static key.", "INFO: trying to register non-static key in helper", ""),
        ("INFO: task worker:7 blocked for more than 143 seconds.", "INFO: task hung in helper", "HANG"),
        (
            "INFO: task worker:7 blocked in I/O wait for more than 143 seconds.",
            "INFO: task hung in helper",
            "HANG",
        ),
        (
            "INFO: task worker:7 can't die for more than 143 seconds.",
            "INFO: task can't die in helper",
            "HANG",
        ),
        ("UBSAN: Undefined behaviour in mm/a.c:1:2", "UBSAN: undefined-behaviour in helper", "UBSAN"),
        ("UBSAN: shift-out-of-bounds in mm/a.c:1:2", "UBSAN: shift-out-of-bounds in helper", "UBSAN"),
        (
            "UBSAN: array-index-out-of-bounds in mm/a.c:1:2",
            "UBSAN: array-index-out-of-bounds in helper",
            "MEMORY_SAFETY_UBSAN",
        ),
        ("WARNING: CPU: 1 PID: 7 at mm/a.c:1 helper+0x1/0x20", "WARNING in helper", "WARNING"),
        ("WARNING: mm/a.c:1 at helper+0x1/0x20, CPU#1: worker/7", "WARNING in helper", "WARNING"),
        ("WARNING: [n < 0] mm/a.c:1 at helper+0x1/0x20, CPU#1: worker/7", "WARNING in helper", "WARNING"),
        ("WARNING: mm/a.c:1 at 0x0, CPU#1: worker/7", "WARNING in helper", "WARNING"),
        (
            "WARNING: CPU: 1 PID: 7 at lib/refcount.c:28 refcount_warn_saturate+0x1/0x2",
            "WARNING: refcount bug in helper",
            "REFCOUNT_WARNING",
        ),
        (
            "WARNING: lib/refcount.c:28 at refcount_warn_saturate+0x1/0x2, CPU#1: worker/7",
            "WARNING: refcount bug in helper",
            "REFCOUNT_WARNING",
        ),
        (
            "WARNING: kernel/locking/lockdep.c:99 at hlock_class+0x1/0x2, CPU#1: worker/7",
            "WARNING: locking bug in helper",
            "LOCKDEP",
        ),
        ("WARNING: Nested lock was not taken", "WARNING: nested lock was not taken in helper", "LOCKDEP"),
        ("WARNING: bad contention detected!", "WARNING: bad contention detected!", "WARNING"),
        ("BUG: MAX_LOCKDEP_CHAINS too low!", "BUG: MAX_LOCKDEP_CHAINS too low!", ""),
        ("BUG: assuming atomic context at mm/a.c:1", "BUG: assuming atomic context at mm/a.c:NUM", ""),
        ("BUG: non-zero nr_ptes on freeing mm: 3", "BUG: non-zero nr_ptes on freeing mm", ""),
        (
            "BUG: non-zero pgtables_bytes on freeing mm: 4096",
            "BUG: non-zero pgtables_bytes on freeing mm: NUM",
            "",
        ),
        ("BUG: Bad page map in process worker  pte:1 pmd:2", "BUG: Bad page map", ""),
        ("BUG kmalloc-64 (Tainted: G    B): Object already free", "BUG: Object already free", "DoS"),
        (
            "BUG kmalloc-64 (Not tainted): Poison overwritten",
            "BUG: Poison overwritten in helper",
            "MEMORY_SAFETY_BUG",
        ),
        (
            "BUG shadow (Not tainted): Objects remaining on __kmem_cache_shutdown()",
            "BUG: Objects remaining on __kmem_cache_shutdown() in helper",
            "",
        ),
        (
            "unregister_netdevice: waiting for lo to become free. Usage count = 2",
            "unregister_netdevice: waiting for DEV to become free",
            "DoS",
        ),
        (
            "VFS: Busy inodes after unmount of loop0 (ext4)",
            "VFS: Busy inodes after unmount (use-after-free)",
            "DoS",
        ),
        ("VFS: Close: file count is 0", "VFS: Close: file count is zero (use-after-free)", "DoS"),
        (
            "Kernel panic - not syncing: Couldn't open N_TTY ldisc for pts0 --- error -12.",
            "kernel panic: Couldn't open N_TTY ldisc",
            "DoS",
        ),
        ("Kernel panic - not syncing: kernel stack overflow", "kernel stack overflow in caller", "DoS"),
        (
            "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
            "kernel panic: Attempted to kill init!",
            "DoS",
        ),
        ("rust_kernel: panicked at mod.rs:1:2:\nexplicit panic", "explicit panic in helper", "BUG"),
        (
            "BUG: memory leak\nunreferenced object 0xffff888100000000 (size 8):\n  backtrace (crc 1234):",
            "memory leak in helper",
            "LEAK",
        ),
    ] {
        assert_eq!(first(&format!("{head}\n{STACK}")), (title.to_string(), kind.to_string()), "{head}");
    }
}

#[test]
fn what_the_guest_module_had_made_is_lost_by_who_made_it() {
    let leak = |frames: &str| {
        format!(
            "unreferenced object 0xffff888006acb1e0 (size 8):\n  comm \"init\", pid 60, jiffies 4294899862\n  backtrace (crc 7aaf33b6):\n    kstrdup+0x2d/0x90\n{frames}    do_syscall_64+0xa7/0x2f0\n"
        )
    };
    for (frames, title) in [
        (
            "    shrinker_alloc+0xe2/0xc00\n    ioctl+0x1/0x2 [shrinktorture]\n",
            "memory leak in shrinker_alloc",
        ),
        ("    shrinker_alloc+0xe2/0xc00\n    sget_fc+0x1/0x2\n", "memory leak in sget_fc"),
        ("    canary_leak+0xe2/0xc00 [canary]\n", "memory leak in canary_leak"),
    ] {
        assert_eq!(first(&leak(frames)).0, title);
    }
}

#[test]
fn faults_of_every_architecture_have_the_titles_of_dashboards() {
    const NULL: &str = "BUG: unable to handle kernel NULL pointer dereference in helper";
    const PAGING: &str = "BUG: unable to handle kernel paging request in helper";
    for (head, title) in [
        ("BUG: kernel NULL pointer dereference, address: 0000000000000008", NULL),
        ("BUG: unable to handle kernel NULL pointer dereference at 0000000000000008", NULL),
        ("BUG: Kernel NULL pointer dereference on read at 0x00000008", NULL),
        ("Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008", NULL),
        ("BUG: unable to handle page fault for address: ffffed1000000000", PAGING),
        ("BUG: Unable to handle kernel data access on read at 0xc00c000000000000", PAGING),
        ("BUG: Unable to handle kernel instruction fetch", PAGING),
        ("CPU 0 Unable to handle kernel paging request at virtual address 00000008, epc == 80100000", PAGING),
        ("Unable to handle kernel read from unreadable memory at virtual address 0000000000000008", PAGING),
        ("Unable to handle kernel pointer dereference in virtual kernel address space", PAGING),
        (
            "Unable to handle kernel access to user memory outside uaccess routines at virtual address 0000000020000000",
            "BUG: unable to handle kernel access to user memory in helper",
        ),
        ("general protection fault: 0000 [#1] PREEMPT SMP KASAN", "general protection fault in helper"),
        (
            "Oops: general protection fault, probably for non-canonical address 0xdffffc0000000001: 0000 [#1] SMP",
            "general protection fault in helper",
        ),
        ("stack segment: 0000 [#1] PREEMPT SMP", "stack segment fault in helper"),
        ("divide error: 0000 [#1] SMP", "divide error in helper"),
        ("Oops: divide_error: 0000 [#1] SMP", "divide error in helper"),
        ("Oops: control protection: 0003 [#1] SMP", "control protection in helper"),
        ("invalid opcode: 0000 [#1] SMP", "invalid opcode in helper"),
        ("Internal error: synchronous external abort: 96000010 [#1] SMP", "Internal error in helper"),
        ("Unhandled fault: page domain fault (0x01b) at 0x00000008", "Unhandled fault in helper"),
        ("Alignment trap: not handling instruction e1931f9f at [<c0100000>]", "Alignment trap in helper"),
        ("Oops: 0000 [#1] SMP", "kernel oops in helper"),
        ("Oops - illegal instruction [#1]", "kernel oops in helper"),
        ("specification exception: 0006 ilc:2 [#1] SMP", "kernel oops in helper"),
        ("Kernel bug detected[#1]:", "kernel BUG in helper"),
        ("kernel BUG at mm/a.c:1!", "kernel BUG in helper"),
    ] {
        assert_eq!(first(&format!("{head}\n{FAULT}")).0, title, "{head}");
    }
}

#[test]
fn a_shrinker_whose_debugfs_folder_is_there_already_breaks_the_model() {
    for line in [
        "debugfs: Directory 'st-pad-12' with parent 'shrinker' already present!",
        "debugfs: 'st-pad-12' already exists in 'shrinker'",
    ] {
        let title = "MODEL: the debugfs folder of a new shrinker is already present";
        assert_eq!(first(&format!("[   12.345678][  T101] {line}\n")).0, title, "{line}");
    }
}

#[test]
fn text_that_only_looks_like_a_report_is_none() {
    for line in [
        // Two slab caches may have one name.
        "debugfs: Directory 'st-cache' with parent 'slab' already present!",
        "debugfs: 'st-cache' already exists in 'slab'",
        "debugfs: 'sb-ext4:a-name-that-was-cut' already exists in 'shrinker'",
        "traps: worker[7] general protection fault ip:401000 sp:7ffc error:0 in worker[400000+1000]",
        "worker[7]: segfault at 8 ip 0000000000401000 sp 00007ffc error 4 in worker[400000+1000]",
        "worker[7] general protection fault ip:401000 sp:7ffc error:0 in worker[400000+1000]",
        "Kernel command line: panic_on_warn=1 foo=\"BUG: KASAN: use-after-free in f\"",
        "audit: type=1400 audit(1.2:3): comm=\"BUG: soft lockup\"",
        "tmpfs: Unknown parameter 'BUG: KASAN: use-after-free in f+0x1/0x2'",
        "INFO: lockdep is turned off.",
        "INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.234 msecs",
        "FAULT_INJECTION: forcing a failure.\nname failslab, interval 1, probability 0, space 0, times 0",
        "worker: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL), nodemask=(null)",
        "worker invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!",
        "WARNING: The mand mount option has been deprecated and",
        "EXT4-fs (loop0): WARNING: mounting unchecked fs, running e2fsck is recommended",
        "XFS (loop0): WARNING: Reset corrupted AGFL on AG 0.",
        "kasan: KernelAddressSanitizer initialized (generic)",
        "Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
        "ODEBUG: selftest passed",
        "systemd[1]: BUG: unit file is odd",
        "cc1: fatal error: DEBUG: no such file",
        "BUG: Bad page state: 17 messages suppressed",
        "Booting Linux on physical CPU 0x0",
    ] {
        assert_eq!(first(&format!("{line}\n")).0, "", "{line}");
        assert_eq!(first(&format!("[   12.345678][  T101] {line}\n{STACK}")).0, "", "{line}");
    }
}
