// SPDX-License-Identifier: MIT OR Apache-2.0
//! Picks the function a report is blamed on.

use super::{
    Frame,
    rules::{Blame, Rule},
    skip::{Group, glob, is_skipped},
    stacks::{Stack, StackKind},
};

/// Functions that only hand work on. In a loop the interesting function is what they called.
const DISPATCHERS: &[&str] = &[
    "do_syscall_*",
    "do_fast_syscall_*",
    "__do_fast_syscall_*",
    "entry_SYSCALL*",
    "entry_SYSENTER*",
    "sysenter_*",
    "tracesys_phase2",
    "system_call*",
    "ret_fast_syscall",
    "el0_svc*",
    "invoke_syscall",
    "__invoke_syscall",
    "x64_sys_call",
    "process_one_work",
    "worker_thread",
    "kthread",
    "ret_from_fork*",
    "call_timer_fn",
    "__run_timers*",
    "run_timer_*",
    "__hrtimer_run_queues",
    "hrtimer_run_queues",
    "netif_receive_skb*",
    "__netif_receive_skb*",
    "process_backlog",
    "net_rx_action",
    "__napi_poll*",
    "__do_softirq",
    "do_softirq*",
    "handle_softirqs",
    "run_ksoftirqd",
    "smpboot_thread_fn",
    "irq_exit*",
    "__irq_exit*",
    "invoke_softirq",
    "tasklet_action*",
    "rcu_do_batch",
    "rcu_core*",
    "rcu_process_callbacks",
    "start_secondary",
    "cpu_startup_entry",
    "start_kernel",
    "rest_init",
    "vfs_write",
    "vfs_read",
    "__vfs_write",
    "__vfs_read",
    "new_sync_write",
    "new_sync_read",
    "call_write_iter",
    "call_read_iter",
    "do_iter_*",
    "vfs_iter_*",
    "vfs_ioctl",
    "do_vfs_ioctl",
    "__se_sys_ioctl",
    "SyS_ioctl",
    "compat_SyS_ioctl",
    "ksys_ioctl",
    "sys_ioctl",
    "__x64_sys_ioctl",
    "__do_sys_ioctl",
    "__arm64_sys_ioctl",
    "__ia32_compat_sys_ioctl",
    "sock_sendmsg*",
    "__sock_sendmsg",
    "sock_recvmsg*",
    "sock_write_iter",
    "sock_read_iter",
    "__sys_connect",
    "___sys_sendmsg",
    "____sys_sendmsg",
    "__sys_sendto",
    "do_mmap",
    "mmap_region",
    "call_mmap",
    "netlink_rcv_skb",
    "netlink_dump",
    "rtnetlink_rcv_msg",
    "nfnetlink_rcv_msg",
    "__sys_setsockopt",
    "__sys_getsockopt",
    "do_sock_setsockopt",
    "sock_common_setsockopt",
    "__se_sys_setsockopt",
    "genl_rcv_msg",
    "genl_family_rcv_msg*",
    "do_fault*",
    "__do_fault",
    "handle_mm_fault",
    "__handle_mm_fault",
    "handle_pte_fault",
    "splice_direct_to_actor",
    "do_splice*",
    "exit_to_usermode_loop",
    "exit_to_user_mode_*",
    "syscall_exit_to_user_mode*",
    "arch_do_signal_or_restart",
    "do_signal",
    "ksys_write",
    "ksys_read",
    "ksys_pwrite64",
    "full_proxy_write",
    "full_proxy_read",
    "full_proxy_unlocked_ioctl",
    "proc_reg_write",
    "proc_reg_read*",
    "proc_sys_call_handler",
    "proc_sys_write",
    "kernfs_fop_write*",
    "kernfs_fop_read*",
    "cgroup_file_write",
    "seq_read*",
    "task_work_run",
    "do_one_initcall",
    "execute_in_process_context",
    "ioctl_*",
    "sock_ioctl",
    "tty_write",
    "do_loop_readv_writev",
    "do_readv_writev",
];

/// Interrupt entries: what stands further out is what was interrupted.
const INTERRUPTS: &[&str] = &[
    "*apic_timer_interrupt*",
    "asm_sysvec_*",
    "sysvec_*",
    "smp_apic_*",
    "*reschedule_interrupt*",
    "call_function_interrupt",
    "common_interrupt",
    "asm_common_interrupt",
    "ret_from_intr",
    "el1_irq*",
    "el1h_64_irq*",
    "__irq_svc",
    "gic_handle_irq",
    "nmi",
    "end_repeat_nmi",
    "asm_exc_nmi",
    "nmi_restore",
    "first_nmi",
];

/// Stacks of an idle CPU say nothing, nor do those of who asked for the stacks.
const IDLE: &[&str] = &[
    "default_idle*",
    "arch_cpu_idle",
    "cpu_idle*",
    "native_safe_halt",
    "acpi_idle_*",
    "pv_native_safe_halt",
    "cpuidle_*",
    "do_idle",
    "mwait_idle*",
    "intel_idle*",
    "acpi_safe_halt",
    "rcu_gp_kthread",
    "rcu_gp_fqs_loop",
    "__handle_sysrq",
];

/// The blamed function, if the stacks give one.
pub(crate) fn blamed<'a>(
    rule: &Rule,
    stacks: &'a [Stack],
    sites: &'a [Frame],
    pid: Option<u32>,
) -> Option<&'a Frame> {
    match rule.blame {
        Blame::None | Blame::Untold | Blame::Orphan | Blame::Head => None,
        Blame::Trace => first_of_traces(stacks, rule.skip),
        Blame::LockSite => first(sites, rule.skip)
            .or_else(|| {
                stacks.iter().find_map(|stack| first(&stack.frames, rule.skip)).filter(|_| !sites.is_empty())
            })
            .or_else(|| first_of_traces(stacks, rule.skip)),
        Blame::LockOrder => {
            let history = stacks.iter().find(|stack| stack.kind == StackKind::LockHistory);
            history
                .and_then(|stack| first(&stack.frames, rule.skip))
                .or_else(|| first_of_traces(stacks, rule.skip))
        }
        Blame::Overflow => {
            recursing(stacks).or_else(|| traces(stacks).find_map(|stack| loops(stack, rule.skip)))
        }
        Blame::Stall => stalled(stacks, rule.skip),
        Blame::Deadline => stuck(stacks, pid, rule.skip).or_else(|| stalled(stacks, rule.skip)),
    }
}

/// The stack that tells where it went wrong.
pub(crate) fn main_stack(stacks: &[Stack]) -> Option<&Stack> {
    traces(stacks).find(|stack| stack.frames.len() > stack.n_registers).or_else(|| stacks.first())
}

fn traces(stacks: &[Stack]) -> impl Iterator<Item = &Stack> {
    stacks.iter().filter(|stack| stack.kind == StackKind::Trace)
}

fn first_of_traces<'a>(stacks: &'a [Stack], skip: &[Group]) -> Option<&'a Frame> {
    let known = |stack: &&Stack| stack.frames.iter().any(|frame| frame.reliable);
    let stack =
        traces(stacks).find(known).or_else(|| stacks.iter().find(|stack| stack.kind == StackKind::Fault))?;
    first(&stack.frames, skip)
}

/// First reliable frame that is not skipped.
fn first<'a>(frames: &'a [Frame], skip: &[Group]) -> Option<&'a Frame> {
    frames.iter().filter(|frame| frame.reliable).find(|frame| !is_skipped(&frame.function, skip))
}

/// The looping function: on the first stack that is not idle, what the first dispatcher called. Stacks that an
/// interrupt broke into come before those of tasks that were merely shown.
fn stalled<'a>(stacks: &'a [Stack], skip: &[Group]) -> Option<&'a Frame> {
    let broken_into = |stack: &&Stack| {
        stack.n_registers > 0 || stack.frames.iter().any(|frame| frame.reliable && is_any(INTERRUPTS, frame))
    };
    traces(stacks).filter(broken_into).find_map(|stack| loops(stack, skip))
}

/// The function that calls itself.
fn recursing(stacks: &[Stack]) -> Option<&Frame> {
    let same =
        |pair: &&[Frame]| pair[0].function == pair[1].function && pair.iter().all(|frame| frame.reliable);
    traces(stacks).find_map(|stack| stack.frames.windows(2).find(same)).map(|pair| &pair[0])
}

fn loops<'a>(stack: &'a Stack, skip: &[Group]) -> Option<&'a Frame> {
    let reliable: Vec<&Frame> = interrupted(&stack.frames).iter().filter(|frame| frame.reliable).collect();
    if reliable.iter().any(|frame| is_any(IDLE, frame)) {
        return None;
    }
    // Waiting for another CPU to answer: that CPU is stuck, this one only shows it.
    if let Some(waiting) = reliable.iter().take(4).find(|frame| glob("smp_call_function*", &frame.function)) {
        return Some(waiting);
    }
    let dispatcher = reliable.iter().position(|frame| is_any(DISPATCHERS, frame));
    let callee = dispatcher.and_then(|at| at.checked_sub(1)).map(|at| reliable[at]);
    callee.or_else(|| reliable.iter().copied().find(|frame| !is_skipped(&frame.function, skip)))
}

/// What the innermost interrupt interrupted; everything, when none did.
fn interrupted(frames: &[Frame]) -> &[Frame] {
    let Some(entry) = frames.iter().position(|frame| frame.reliable && is_any(INTERRUPTS, frame)) else {
        return frames;
    };
    let rest = &frames[entry..];
    let beyond = rest.iter().position(|frame| frame.reliable && !is_any(INTERRUPTS, frame));
    beyond.map_or(&[], |at| &rest[at..])
}

/// The stuck worker: its own stack as the agent read it, else the task of that pid, else one that came from a system
/// call rather than a kernel thread.
fn stuck<'a>(stacks: &'a [Stack], pid: Option<u32>, skip: &[Group]) -> Option<&'a Frame> {
    let from_user = |stack: &Stack| {
        stack
            .frames
            .iter()
            .any(|frame| glob("do_syscall_*", &frame.function) || glob("el0_svc*", &frame.function))
    };
    let own = stacks.iter().filter(|stack| stack.kind == StackKind::Stuck);
    let same = traces(stacks).filter(|stack| stack.pid.is_some() && stack.pid == pid);
    let listed = traces(stacks).filter(|stack| stack.pid.is_some() && from_user(stack));
    own.chain(same).chain(listed).find_map(|stack| first(&stack.frames, skip))
}

fn is_any(patterns: &[&str], frame: &Frame) -> bool {
    patterns.iter().any(|pattern| glob(pattern, &frame.function))
}
