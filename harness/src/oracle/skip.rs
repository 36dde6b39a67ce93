// SPDX-License-Identifier: MIT OR Apache-2.0
//! Functions that are never to blame, as data: each group says why. A pattern is a whole name, or has one `*` at its
//! end, at its beginning or both.

use std::{collections::HashMap, sync::LazyLock};

/// Functions left out together for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    /// They print the report.
    Reporting,
    /// They are the trap, exception or interrupt that led to the report.
    Trap,
    /// Helpers inlined or called by everybody that act on what the caller gave them.
    Access,
    /// Allocators and freers: the bug is in who calls them.
    Memory,
    /// Taking or dropping a lock: the bug is in who does it.
    Lock,
    /// Waiting: whoever waits is not the cause, its caller names the place.
    Wait,
    /// Containers and counters whose debugging found the caller's mistake.
    Object,
    /// Core code that drives other people's objects on request: timers, workqueues, device model, inode references.
    Core,
    /// Constructors of objects that somebody else owns and should have freed.
    Construct,
}

/// (group, patterns)
pub(crate) const GROUPS: &[(Group, &[&str])] = &[
    (
        Group::Reporting,
        &[
            "dump_stack*", "__dump_stack", "show_stack*", "dump_backtrace*", "unwind_backtrace", "show_regs*",
            "show_trace*", "print_*", "__print_*", "panic*", "vpanic", "check_panic_on_warn", "warn_bogus_irq_restore", "try_invoke_on_locked_down_task", "__warn*", "warn_slowpath*", "warn_alloc",
            "report_bug*", "__report_bug", "handle_bug*", "fixup_bug*", "nmi_cpu_backtrace*", "nmi_trigger_*",
            "arch_trigger_*", "trigger_*_cpu_backtrace", "*lockdep_rcu_suspicious", "debug_show_*",
            "check_preemption_disabled", "debug_smp_processor_id", "__this_cpu_preempt_check", "___might_sleep", "__might_sleep*", "__might_resched", "__might_fault",
            "might_fault", "__schedule_bug", "__cant_sleep*", "kasan_*", "__kasan_*", "*asan_report_*", "__asan_*",
            "check_memory_region*", "check_region_inline", "__hwasan_*", "kmsan_*", "__msan_*", "kfence_*", "__kfence_*",
            "kcsan_*", "__kcsan_*", "__tsan_*", "end_report", "start_report", "describe_object*", "address_is_*",
            "ubsan_*", "__ubsan_*", "handle_overflow", "val_to_string", "debug_check_no_locks_*", "debug_print_object",
            "__debug_object_*", "debug_object_*", "debug_check_no_obj_freed*", "__debug_check_no_obj_freed",
            "fortify_panic*", "__fortify_panic*", "fortify_report", "__fortify_report", "__stack_chk_fail",
            "should_fail*", "fail_dump", "usercopy_abort", "report_usercopy*", "report_addr", "__check_object_size*",
            "check_heap_object", "__check_heap_object", "bad_page*", "dump_page*", "__dump_page*", "check_slab*", "*slab_err*",
            "object_err", "slab_bug*", "slab_fix*", "slab_pad_check*", "check_bytes_and_report*", "check_object*",
            "skb_panic*", "skb_over_panic*", "skb_under_panic*", "__reiserfs_panic*", "rcu_check_*", "rcu_sched_clock_irq",
            "rcu_dump_*", "rcu_print_*", "watchdog_*", "hrtimer_run*", "set_report_*", "spin_dump*", "spin_bug*",
            "__spin_lock_debug", "rwlock_bug*", "do_raw_*", "debug_spin_*", "kmemleak_*",
        ],
    ),
    (
        Group::Trap,
        &[
            "*do_error_trap*", "do_trap*", "do_invalid_op", "invalid_op", "exc_*", "asm_exc_*", "do_general_protection",
            "general_protection", "die*", "__die*", "do_page_fault*", "__do_page_fault*", "do_user_addr_fault",
            "do_kern_addr_fault", "page_fault*", "async_page_fault", "bad_area*", "__bad_area*", "no_context",
            "page_fault_oops", "kernelmode_fixup*", "do_mem_abort", "do_translation_fault", "el1_da", "el1_abort",
            "el1h_64_*", "el1_dbg", "el1_undef", "el1_sync*", "do_undef*", "brk_handler", "call_break_hook", "bug_handler",
            "do_debug_exception", "*__do_kernel_fault*", "do_DataAbort", "do_PrefetchAbort", "__dabt_svc", "__pabt_svc",
            "__und_svc*", "do_kernel_fault", "error_entry*", "ret_from_exception", "do_brk64", "do_el1_brk64",
            "asm_call_*", "call_on_stack", "arm_notify_die", "oops_*", "__x86_indirect_thunk_*", "do_tag_check_fault", "do_tag_recovery", "crash_kexec*",
            "__crash_kexec", "do_double_fault", "double_fault", "df_debug",
        ],
    ),
    (
        Group::Access,
        &[
            "memcpy*", "__memcpy*", "memset*", "__memset*", "memmove*", "__memmove*", "memcmp*", "memchr*", "strlen*",
            "strnlen*", "strcpy*", "strncpy*", "strscpy*", "sized_strscpy*", "strlcpy*", "strcmp*", "strncmp*", "strcasecmp", "strchr*",
            "strstr", "strcat*", "strnchr", "*copy_from_user*", "*copy_to_user*", "*copy_user*", "_copy_*iter*", "copy_page*iter*",
            "__get_user*", "__put_user*", "*atomic*_read*", "atomic*", "arch_atomic*", "*instrument_*", "test_bit*",
            "set_bit", "clear_bit*", "test_and_*", "variable_test_bit", "__read_once*", "__write_once*", "READ_ONCE*",
            "__phys_addr*", "kmap*", "__sanitizer_cov*", "csum_partial*", "clear_page*", "copy_page*",
            "_find_*_bit", "find_*_bit", "bitmap_*", "__bitmap_*", "crc*", "hex_dump*", "string*", "vsnprintf", "snprintf",
            "number", "bcmp", "skip_spaces", "read_word_at_a_time", "strnstr", "hex_string", "_atomic_dec_*", "kmemdup*", "kstrdup*",
        ],
    ),
    (
        Group::Memory,
        &[
            "kmalloc*", "__kmalloc*", "___kmalloc*", "alloc_page*", "kzalloc*", "kcalloc*", "krealloc*", "__krealloc*", "kvmalloc*", "__kvmalloc*", "kvzalloc*",
            "kmem_cache_*", "__kmem_cache_*", "slab_*", "__slab_*", "___slab_*", "kfree*", "__kfree*", "___kfree*", "kvfree*",
            "vmalloc*", "__vmalloc*", "vzalloc*", "vfree*", "__vunmap*", "__vfree*", "free_pages*", "__free_pages*", "free_page*",
            "__free_page*", "free_unref_*", "free_pcp*", "get_page_from_freelist", "alloc_pages*", "__alloc_pages*",
            "__alloc_frozen_pages*", "alloc_frozen_pages*", "__get_free_page*", "get_zeroed_page*", "free_the_page", "new_slab*", "allocate_slab*",
            "___cache_free", "__cache_free", "cache_free*", "do_slab_free", "free_debug_processing", "free_to_partial_list", "alloc_debug_processing", "alloc_consistency_checks", "free_consistency_checks",
            "memcg_*_alloc*", "free_large_kmalloc", "__do_kmalloc*", "do_kmalloc*", "cache_alloc*", "cache_grow*",
            "kmemleak_alloc*", "percpu_*alloc*", "pcpu_*", "__alloc_percpu*", "alloc_percpu*", "free_percpu", "page_frag_*", "init_object", "prep_new_page",
            "post_alloc_hook", "kasan_*", "rcu_free_*", "stack_depot_*", "__stack_depot_*", "save_stack*", "__save_stack*", "stack_trace_*", "set_track*", "kvrealloc*", "sock_kmalloc*", "memdup_user*", "vmemdup_user*", "strndup_user", "devm_k*", "mempool_*", "usercopy*",
            "poison_*", "unpoison_*", "__poison_*", "__unpoison_*", "free_one_page", "qlist_free_*", "qlink_free", "quarantine_*", "free_frozen_pages*", "__free_frozen_pages*", "folio_alloc*", "__folio_alloc*", "vma_alloc_folio*", "discard_slab", "free_slab", "__free_slab",
        ],
    ),
    (
        Group::Lock,
        &[
            "_raw_*", "__raw_*", "do_raw_*", "spin_*", "__spin_*", "queued_*", "native_queued_*", "arch_spin_*", "pv_*", "__pv_*",
            "mutex_*", "__mutex_*", "ww_mutex_*", "down*", "__down*", "up*_read", "up*_write", "up", "__up*", "rwsem_*", "rwlock_*", "percpu_down_*", "percpu_up_*", "__percpu_*_read", "__percpu_rwsem_*", "percpu_rwsem_*",
            "lock_acquire*", "__lock_acquire*", "lock_release*", "__lock_release*", "lock_downgrade", "__lock_*acquired", "lock_contended", "lock_is_held*", "lockdep_*", "check_noncircular", "check_prev*_add", "check_irq_usage*", "check_deadlock", "check_wait_context", "check_flags*", "reacquire_held_locks", "hlock_class", "call_rwsem_*", "tty_ldisc_lock*", "validate_chain*", "mark_lock*", "mark_usage",
            "mark_held_locks", "register_lock_class*", "look_up_lock_class", "assign_lock_key", "rt_mutex_*", "__rt_mutex*", "rt_spin_*", "rt_read_*", "rt_write_*", "seqcount_*", "read_seq*", "write_seq*", "do_write_seq*", "__wake_up*", "wake_up*", "prepare_to_wait*", "finish_wait", "add_wait_queue*", "remove_wait_queue",
            "rcu_lock_*", "rcu_read_*", "__rcu_read_*", "srcu_*", "__srcu_*", "trace_hardirqs_*", "trace_softirqs_*", "__trace_hardirqs_*", "hardirqs_*", "preempt_*", "preempt_count_*", "__local_bh_*", "local_bh_*", "_local_bh_*", "add_lock_to_list*", "static_key_*", "__static_key_*", "cpus_read_*", "try_to_wake_up", "ldsem_*", "__ldsem_*", "bit_spin_*", "lock_sock*", "__lock_sock*", "release_sock",
        ],
    ),
    (
        Group::Wait,
        &[
            "schedule*", "__schedule*", "__sched_text_start", "io_schedule*", "context_switch", "__switch_to*", "preempt_schedule*", "wait_for_*",
            "__wait_for_*", "do_wait_for_common", "__wait_on_*", "wait_on_*", "out_of_line_wait_*", "bit_wait*", "wait_woken", "wait_event*", "__wait_rcu_gp", "process_one_work", "process_scheduled_works", "worker_thread", "kthread",
            "_cond_resched", "__cond_resched*", "cond_resched", "usleep_range*", "msleep*", "__refrigerator", "congestion_wait", "flush_work", "__flush_work*", "flush_workqueue*", "__flush_workqueue*", "drain_workqueue*", "cancel_work_sync", "__cancel_work_*", "__cancel_work*", "flush_delayed_work", "cancel_delayed_work_sync", "kthread_stop*", "__synchronize_hardirq", "synchronize_irq", "exp_funnel_lock", "rcu_barrier*", "_rcu_barrier*", "__synchronize_srcu*", "__synchronize_rcu*", "hrtimer_nanosleep", "do_nanosleep", "folio_wait_*", "__folio_lock*", "folio_lock*", "__lock_page*", "lock_page*",
        ],
    ),
    (
        Group::Object,
        &[
            "__list_add*", "__list_del*", "list_add*", "list_del*", "list_move*", "__list_*", "hlist_*", "__hlist_*", "rb_*", "__rb_*", "refcount_*", "__refcount_*",
            "kref_*", "kobject_*", "klist_*", "xa_*", "xas_*", "radix_tree_*", "__radix_tree_*", "idr_*", "ida_*", "plist_*", "llist_*", "timer_*debug*", "detach_timer*", "ref_tracker_*", "rhashtable_*", "__rhashtable_*", "rht_*", "kthread_*",
        ],
    ),
    (
        Group::Core,
        &[
            "lock_timer_base*", "__mod_timer", "mod_timer*", "add_timer*", "del_timer*", "timer_delete*", "__timer_delete*", "try_to_del_timer*", "__try_to_del_timer*", "sk_stop_timer*", "sk_reset_timer", "work_is_static_object", "timer_is_static_object", "*flush_work*", "flush_delayed_*", "*cancel_work*", "cancel_delayed_*", "__cancel_*", "drain_workqueue", "destroy_workqueue", "*queue_work*", "*queue_delayed_work*", "insert_work", "get_work_pool",
            "device_del", "device_remove_*", "device_release", "dpm_sysfs_*", "cleanup_srcu_struct", "device_add", "device_register", "device_unregister", "device_destroy", "get_device*", "put_device", "devres_release_*", "release_nodes", "sysfs_*", "kernfs_*", "usb_kill_*", "usb_poison_*", "usb_submit_urb", "usb_start_wait_urb", "usb_bulk_msg", "usb_control_msg*", "usb_internal_control_msg", "usb_interrupt_msg", "usb_free_urb", "hwrng_unregister", "proc_register", "proc_create*", "__proc_create*", "proc_mkdir*", "proc_net_mkdir",
            "rollback_registered*", "unregister_netdevice_*", "skb_put*", "skb_push*", "skb_pull*", "__skb_pull*", "skb_trim*", "pskb_*", "__pskb_*", "kfree_skb*", "__kfree_skb*", "consume_skb", "sk_destruct", "__sk_destruct", "sk_free", "__sk_free", "sk_prot_free", "sock_put",
            "iput*", "dput*", "fast_dput", "drop_nlink", "inc_nlink", "clear_nlink", "set_nlink", "find_lock_entries*", "truncate_*", "folio_unlock", "__folio_put*", "folio_put*", "unlock_page", "put_page", "folio_mark_dirty", "mark_buffer_dirty", "printk*", "_printk", "vprintk*", "vscnprintf", "va_format", "scnprintf", "sprintf*", "vsprintf", "format_decode", "pointer", "console_*",
        ],
    ),
    (
        Group::Construct,
        &[
            "*list_lru_init*", "memcg_init_list_lru*", "shrinker_alloc", "shrinker_debugfs_*", "create_object", "__create_object", "sk_alloc", "sk_prot_alloc", "*alloc_skb*", "sock_alloc*", "new_inode*", "alloc_inode", "__d_alloc", "d_alloc*", "htab_map_alloc", "bpf_map_alloc*", "sget_userns", "*_alloc", "*_alloc_node", "alloc_*", "*_kzalloc", "debug_objects_mem_init", "kobject_*", "dev_set_name", "device_create*", "kmem_cache_*", "kthread_create*", "prealloc_shrinker",
        ],
    ),
];

struct Matcher {
    exact: HashMap<&'static str, Vec<Group>>,
    globs: Vec<(&'static str, Group)>,
}

static MATCHER: LazyLock<Matcher> = LazyLock::new(|| {
    let mut matcher = Matcher { exact: HashMap::new(), globs: Vec::new() };
    for (group, patterns) in GROUPS {
        for pattern in *patterns {
            if pattern.contains('*') {
                matcher.globs.push((pattern, *group));
            } else {
                matcher.exact.entry(pattern).or_default().push(*group);
            }
        }
    }
    matcher
});

/// Is the function in one of the groups?
pub(crate) fn is_skipped(function: &str, groups: &[Group]) -> bool {
    let exact = MATCHER.exact.get(function);
    exact.is_some_and(|hits| hits.iter().any(|group| groups.contains(group)))
        || MATCHER.globs.iter().any(|(pattern, group)| groups.contains(group) && glob(pattern, function))
}

/// One pattern against one name: no backtracking over more than the one gap a pattern has.
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let (Some(first), rest) = (parts.next(), parts) else { return false };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut rest = rest.peekable();
    if rest.peek().is_none() {
        return name.is_empty();
    }
    while let Some(part) = rest.next() {
        if rest.peek().is_none() {
            return name.ends_with(part);
        }
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    true
}
