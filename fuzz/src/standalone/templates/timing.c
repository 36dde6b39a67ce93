// SPDX-License-Identifier: GPL-2.0
//{ threads

/* --- threads of repro.sh --- */

static DECLARE_WAIT_QUEUE_HEAD(meeting);
static atomic_t n_begun = ATOMIC_INIT(0);
static atomic_t n_running = ATOMIC_INIT(0);

/* Waits until all n have begun. */
static void do_begin(int n)
{
	atomic_inc(&n_running);
	atomic_inc(&n_begun);
	wake_up_all(&meeting);
	wait_event_timeout(meeting, atomic_read(&n_begun) >= n, 5 * HZ);
}

static void do_end(void)
{
	atomic_dec(&n_running);
	wake_up_all(&meeting);
}
//}
//{ barrier

static atomic_t n_arrived[4];

static bool all_arrived(int nr, int ticket)
{
	int n = max(atomic_read(&n_running), 1);

	return atomic_read(&n_arrived[nr]) >= roundup(ticket, n);
}

/* Waits until all that still run have come, but not for long. */
static void do_barrier(int nr)
{
	int ticket = atomic_inc_return(&n_arrived[nr]);

	wake_up_all(&meeting);
	wait_event_timeout(meeting, all_arrived(nr, ticket), HZ / 10);
}
//}
//{ preempt

/* --- timers that take a CPU away from what runs there --- */

struct preemption {
	struct hrtimer timer;
	u32 hold_ns;
	//{ preempt_task
	bool by_task;
	struct task_struct *task;
	u32 task_ns;
	//}
	//{ preempt_wake
	struct irq_work wakes;
	//}
};

static DEFINE_PER_CPU(struct preemption, preemption);
//{ preempt_timer preempt_timer_task

static enum hrtimer_restart preemption_fires(struct hrtimer *timer)
{
	struct preemption *here = container_of(timer, struct preemption, timer);

	//{ preempt_task
	if (here->by_task) {
		if (here->task) {
			WRITE_ONCE(here->task_ns, here->hold_ns);
			wake_up_process(here->task);
		}
		return HRTIMER_NORESTART;
	}
	//}
	busy_ns(here->hold_ns);
	return HRTIMER_NORESTART;
}

static void preempt_by(u32 in_ns, u32 hold_ns, bool by_task)
{
	struct preemption *here = get_cpu_ptr(&preemption);

	here->hold_ns = hold_ns;
	//{ preempt_task
	here->by_task = by_task;
	//}
	hrtimer_start(&here->timer, ns_to_ktime(in_ns),
		      HRTIMER_MODE_REL_PINNED_HARD);
	put_cpu_ptr(&preemption);
}
//}
//}
//{ preempt_timer

/* In so many ns its interrupt holds this CPU. */
static void do_preempt(u32 in_ns, u32 hold_ns)
{
	preempt_by(in_ns, hold_ns, false);
}
//}
//{ preempt_timer_task

/* In so many ns a task of high priority holds this CPU; RCU goes on. */
static void do_preempt_task(u32 in_ns, u32 hold_ns)
{
	preempt_by(in_ns, hold_ns, true);
}
//}
//{ preempt_wake

/* --- the same as soon as one thread has woken another --- */

static struct watch {
	struct task_struct *task;
	int n_wakes;
	u32 hold_ns;
} watches[16];

static struct tracepoint *sched_waking;

static void wake_holder(struct irq_work *work)
{
	struct task_struct *task =
		container_of(work, struct preemption, wakes)->task;

	if (task)
		wake_up_process(task);
}

static void woken(void *data, struct task_struct *task)
{
	struct preemption *here = this_cpu_ptr(&preemption);
	int i;

	if (!in_task() || task == current ||
	    task->real_parent != current->real_parent)
		return;
	for (i = 0; i < ARRAY_SIZE(watches); i++) {
		struct watch *watch = &watches[i];

		if (READ_ONCE(watch->task) != current || !watch->n_wakes)
			continue;
		if (--watch->n_wakes || !here->task)
			continue;
		WRITE_ONCE(here->task_ns, watch->hold_ns);
		irq_work_queue(&here->wakes);
	}
}

/* When this thread has woken another one n times. */
static void do_preempt_wake(int n, u32 hold_ns)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(watches); i++) {
		struct watch *watch = &watches[i];

		if (READ_ONCE(watch->task) == current ||
		    !cmpxchg(&watch->task, NULL, current)) {
			watch->hold_ns = hold_ns;
			WRITE_ONCE(watch->n_wakes, n);
			return;
		}
	}
}

static void find_sched_waking(struct tracepoint *tracepoint, void *data)
{
	if (!strcmp(tracepoint->name, "sched_waking"))
		sched_waking = tracepoint;
}

static int start_listening(void)
{
	for_each_kernel_tracepoint(find_sched_waking, NULL);
	if (!sched_waking)
		return -ENODEV;
	return tracepoint_probe_register(sched_waking, woken, NULL);
}

static void stop_listening(void)
{
	tracepoint_probe_unregister(sched_waking, woken, NULL);
	tracepoint_synchronize_unregister();
}
//}
//{ preempt_task

static int hold_when_told(void *data)
{
	struct preemption *here = data;
	u32 ns;

	for (;;) {
		set_current_state(TASK_IDLE);
		if (kthread_should_stop())
			break;
		ns = READ_ONCE(here->task_ns);
		if (!ns) {
			schedule();
			continue;
		}
		__set_current_state(TASK_RUNNING);
		busy_ns(ns);
		WRITE_ONCE(here->task_ns, 0);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static void stop_holders(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct preemption *there = per_cpu_ptr(&preemption, cpu);

		if (there->task)
			kthread_stop(there->task);
		there->task = NULL;
	}
}

static int start_holders(void)
{
	int cpu;

	for_each_online_cpu(cpu) {
		struct preemption *there = per_cpu_ptr(&preemption, cpu);
		struct task_struct *task;

		task = kthread_create_on_cpu(hold_when_told, there, cpu,
					     "hold/%u");
		if (IS_ERR(task)) {
			stop_holders();
			return PTR_ERR(task);
		}
		there->task = task;
		//{ preempt_wake
		init_irq_work(&there->wakes, wake_holder);
		//}
		sched_set_fifo(task);
		wake_up_process(task);
	}
	return 0;
}
//}
//{ hold_lock

static void do_hold_lock(u64 ns)
{
	mutex_lock(&callback_lock);
	busy_ns(ns);
	mutex_unlock(&callback_lock);
}
//}
//{ fail_nth

/* The n-th allocation of this task fails; 0: none. */
static void do_fail_nth(unsigned int n)
{
#ifdef CONFIG_FAULT_INJECTION
	WRITE_ONCE(current->fail_nth, n);
#endif
}
//}
//{ touch

/* Touches so much anonymous memory. */
static void do_touch(unsigned long bytes)
{
	unsigned long start, at;

	start = vm_mmap(NULL, 0, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, 0);
	if (IS_ERR_VALUE(start))
		return;
	for (at = start; at < start + bytes; at += PAGE_SIZE)
		if (put_user(1, (char __user *)at))
			break;
	vm_munmap(start, bytes);
}
//}
//{ held_read

static void do_rewind(unsigned int fd)
{
	struct file *file = fget(fd);

	if (!file)
		return;
	vfs_llseek(file, 0, SEEK_SET);
	fput(file);
}
//}
