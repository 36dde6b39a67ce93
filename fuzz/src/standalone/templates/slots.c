// SPDX-License-Identifier: GPL-2.0

/* --- shrinkers, each in a slot, and what they shrink --- */

#define N_SLOTS	@N_SLOTS@
//{ objects_of
#define N_NODES	2
#define OBJECTS_MAX	4096
//}
//{ items
#define ITEMS_MAX	64
//}
//{ register
/* Calls that a shrinker serves in its life: no reclaim goes on for ever. */
#define CALLS_MAX	4096
//}
//{ delay
/* What callbacks wait in its life. */
#define DELAY_NS_MAX	5000000
//}

/* BUSY: whoever made it so is at work on the slot. */
enum { EMPTY, BUSY, ALLOCATED, REGISTERED };
//{ set_behaviour

/* What a callback returns. */
enum {
	HONEST,
	//{ count_zero scan_zero
	ZERO,
	//}
	//{ count_stop scan_stop
	STOP,
	//}
	//{ count_lie scan_lie
	LIE,
	//}
	//{ count_half scan_half
	HALF,
	//}
	//{ count_part scan_part
	PART,
	//}
	//{ count_fitful scan_fitful
	FITFUL,
	//}
};

/* What it does before that. */
enum {
	NO_DELAY,
	//{ delay_sleep
	DELAY_SLEEP,
	//}
	//{ delay_spin
	DELAY_SPIN,
	//}
	//{ delay_yield
	DELAY_YIELD,
	//}
	//{ delay_alloc
	DELAY_ALLOC,
	//}
	//{ delay_lock
	DELAY_LOCK,
	//}
	//{ delay_trylock
	DELAY_TRYLOCK,
	//}
	//{ delay_other
	DELAY_OTHER,
	//}
};

struct behaviour {
	int returns;
	int delay;
	u32 ns;
};
//}

struct slot {
	atomic_t state;
	/* Read: uses what is shrunk. Write: makes or frees that. */
	struct rw_semaphore users;
	bool is_there;
	struct shrinker *shrinker;
	//{ lru
	struct list_lru lru;
	//}
	//{ items
	/* Whoever takes an item out of its place may take it off its list. */
	struct item *items[ITEMS_MAX];
	//}
	//{ objects_of
	atomic_t objects[N_NODES];
	//}
	//{ register
	atomic_t calls_left;
	//}
	//{ delay
	atomic_long_t delay_left_ns;
	//}
	//{ set_count
	struct behaviour count;
	//}
	//{ set_scan
	struct behaviour scan;
	//}
};

static struct slot slots[N_SLOTS];
//{ register

/*
 * What callbacks begin with: freed as soon as shrinker_free() has returned, so
 * that KASAN tells of those that come later.
 */
struct private {
	struct slot *slot;
};
//}
@LISTS@
//{ delay

static void delay(struct slot *slot, const struct behaviour *behaviour)
{
	int kind = READ_ONCE(behaviour->delay);
	u32 ns = READ_ONCE(behaviour->ns);
	long cost = max_t(long, ns, 50000);

	if (kind == NO_DELAY ||
	    atomic_long_sub_return(cost, &slot->delay_left_ns) < 0)
		return;
	switch (kind) {
	//{ delay_sleep
	case DELAY_SLEEP:
		usleep_range(ns / 1000 + 1, ns / 800 + 1);
		break;
	//}
	//{ delay_spin
	case DELAY_SPIN:
		busy_ns(ns);
		break;
	//}
	//{ delay_yield
	case DELAY_YIELD:
		yield();
		break;
	//}
	//{ delay_alloc
	case DELAY_ALLOC:
		kfree(kmalloc(1024, GFP_NOFS));
		break;
	//}
	//{ delay_lock
	case DELAY_LOCK:
		mutex_lock(&callback_lock);
		busy_ns(ns);
		mutex_unlock(&callback_lock);
		break;
	//}
	//{ delay_trylock
	case DELAY_TRYLOCK:
		if (mutex_trylock(&callback_lock)) {
			busy_ns(ns);
			mutex_unlock(&callback_lock);
		}
		break;
	//}
	//{ delay_other
	case DELAY_OTHER:
		add_to_next(slot);
		break;
	//}
	}
}
//}
//{ register

static bool spend_calls(struct slot *slot, int n)
{
	return atomic_sub_return(n, &slot->calls_left) >= 0;
}

static unsigned long repro_count(struct shrinker *shrinker,
				 struct shrink_control *sc)
{
	struct private *private = shrinker->private_data;
	struct slot *slot = private->slot;
	unsigned long n = 0;

	if (!spend_calls(slot, 1))
		return 0;
	//{ count_delay
	delay(slot, &slot->count);
	//}
	//{ objects_of
	if (sc->nid < N_NODES)
		n += atomic_read(&slot->objects[sc->nid]);
	//}
	//{ lru
	n += list_lru_shrink_count(&slot->lru, sc);
	//}
	//{ set_count
	switch (READ_ONCE(slot->count.returns)) {
	//{ count_zero
	case ZERO:
		n = 0;
		break;
	//}
	//{ count_stop
	case STOP:
		n = SHRINK_EMPTY;
		break;
	//}
	//{ count_lie
	case LIE:
		n = 1024;
		break;
	//}
	//{ count_half
	case HALF:
		n = n ?: SHRINK_EMPTY;
		break;
	//}
	//{ count_part
	case PART:
		n = 65536;
		break;
	//}
	//{ count_fitful
	case FITFUL:
		n = ULONG_MAX / 8;
		break;
	//}
	default:
		if (!n && shrinker->flags & SHRINKER_MEMCG_AWARE)
			n = SHRINK_EMPTY;
	}
	//}
	//{ no_set_count
	if (!n && shrinker->flags & SHRINKER_MEMCG_AWARE)
		n = SHRINK_EMPTY;
	//}
	//{ count_only
	if (!shrinker->scan_objects && n != SHRINK_EMPTY)
		n = 0;
	//}
	return n;
}
//}
//{ register

static unsigned long free_up_to(struct slot *slot, struct shrink_control *sc,
				unsigned long n)
{
	unsigned long n_freed = 0;
	//{ items
	unsigned long n_walk = n;
	struct walk walk = { .slot = slot, .n_left = n };

	INIT_LIST_HEAD(&walk.taken);
	list_lru_walk_one(&slot->lru, sc->nid, sc->memcg, isolate, &walk,
			  &n_walk);
	n_freed += free_taken(&walk);
	//}
	//{ objects_of
	if (sc->nid < N_NODES)
		n_freed += take_objects(slot, sc->nid, n - n_freed);
	//}
	return n_freed;
}

static unsigned long repro_scan(struct shrinker *shrinker,
				struct shrink_control *sc)
{
	struct private *private = shrinker->private_data;
	struct slot *slot = private->slot;
	unsigned long n = sc->nr_to_scan;
	int cost = 1;

	//{ count_fitful
	/* There is always more, it said: that would go on for ever. */
	if (READ_ONCE(slot->count.returns) == FITFUL)
		cost = 64;
	//}
	if (!spend_calls(slot, cost))
		return SHRINK_STOP;
	//{ scan_delay
	delay(slot, &slot->scan);
	//}
	//{ set_scan
	switch (READ_ONCE(slot->scan.returns)) {
	//{ scan_zero
	case ZERO:
		return 0;
	//}
	//{ scan_stop
	case STOP:
		return SHRINK_STOP;
	//}
	//{ scan_lie
	case LIE:
		return n;
	//}
	//{ scan_half
	case HALF:
		return free_up_to(slot, sc, n / 2);
	//}
	//{ scan_part
	case PART:
		sc->nr_scanned = max(n / 2, 1UL);
		return free_up_to(slot, sc, n / 2);
	//}
	//{ scan_fitful
	case FITFUL:
		if (atomic_read(&slot->calls_left) / cost % 4 == 0)
			return SHRINK_STOP;
		break;
	//}
	}
	//}
	return free_up_to(slot, sc, n);
}
//}

/* Takes the slot out of one state, to do something with its shrinker. */
static bool take(struct slot *slot, int from)
{
	return atomic_cmpxchg(&slot->state, from, BUSY) == from;
}

static void do_alloc(struct slot *slot, unsigned int flags, bool memcg_lru,
		     bool scans, const char *name)
{
	if (!take(slot, EMPTY))
		return;
	slot->shrinker = shrinker_alloc(flags, "%s", name);
	if (!slot->shrinker) {
		atomic_set(&slot->state, EMPTY);
		return;
	}
	//{ lru
	memset(&slot->lru, 0, sizeof(slot->lru));
	if (memcg_lru ? list_lru_init_memcg(&slot->lru, slot->shrinker) :
			list_lru_init(&slot->lru)) {
		shrinker_free(slot->shrinker);
		atomic_set(&slot->state, EMPTY);
		return;
	}
	//}
	//{ objects_of
	memset(slot->objects, 0, sizeof(slot->objects));
	//}
	//{ register
	atomic_set(&slot->calls_left, CALLS_MAX);
	slot->shrinker->count_objects = repro_count;
	if (scans)
		slot->shrinker->scan_objects = repro_scan;
	//}
	//{ delay
	atomic_long_set(&slot->delay_left_ns, DELAY_NS_MAX);
	//}
	//{ set_count
	slot->count = (struct behaviour) {};
	//}
	//{ set_scan
	slot->scan = (struct behaviour) {};
	//}
	down_write(&slot->users);
	slot->is_there = true;
	up_write(&slot->users);
	atomic_set(&slot->state, ALLOCATED);
}
//{ set_seeks

static void do_set_seeks(struct slot *slot, int seeks)
{
	if (!take(slot, ALLOCATED))
		return;
	slot->shrinker->seeks = seeks;
	atomic_set(&slot->state, ALLOCATED);
}
//}
//{ set_batch

static void do_set_batch(struct slot *slot, long batch)
{
	if (!take(slot, ALLOCATED))
		return;
	slot->shrinker->batch = batch;
	atomic_set(&slot->state, ALLOCATED);
}
//}
//{ register

static void do_register(struct slot *slot)
{
	struct private *private;

	if (!take(slot, ALLOCATED))
		return;
	private = kmalloc(sizeof(*private), GFP_KERNEL);
	if (!private) {
		atomic_set(&slot->state, ALLOCATED);
		return;
	}
	private->slot = slot;
	slot->shrinker->private_data = private;
	shrinker_register(slot->shrinker);
	atomic_set(&slot->state, REGISTERED);
}
//}
//{ rename

static void do_rename(struct slot *slot, const char *name)
{
	int state = REGISTERED;

	if (!take(slot, REGISTERED)) {
		state = ALLOCATED;
		if (!take(slot, ALLOCATED))
			return;
	}
	if (shrinker_debugfs_rename(slot->shrinker, "%s", name))
		pr_debug("cannot rename\n");
	atomic_set(&slot->state, state);
}
//}

static void do_free(struct slot *slot)
{
	void *private;

	if (!take(slot, REGISTERED) && !take(slot, ALLOCATED))
		return;
	private = slot->shrinker->private_data;
	shrinker_free(slot->shrinker);
	kfree(private);
	down_write(&slot->users);
	slot->is_there = false;
	//{ items
	free_items(slot);
	//}
	//{ lru
	list_lru_destroy(&slot->lru);
	//}
	up_write(&slot->users);
	atomic_set(&slot->state, EMPTY);
}
//{ add_objects

static void do_add_objects(struct slot *slot, int nid, int n)
{
	int now, more;

	down_read(&slot->users);
	if (slot->is_there) {
		now = atomic_read(&slot->objects[nid]);
		do {
			more = min(now + n, OBJECTS_MAX);
		} while (!atomic_try_cmpxchg(&slot->objects[nid], &now, more));
	}
	up_read(&slot->users);
}
//}
//{ del_objects

static void do_del_objects(struct slot *slot, int nid, int n)
{
	down_read(&slot->users);
	if (slot->is_there)
		take_objects(slot, nid, n);
	up_read(&slot->users);
}
//}
//{ set_count

static void do_set_count(struct slot *slot, int returns, int delay, u32 ns)
{
	down_read(&slot->users);
	if (slot->is_there) {
		WRITE_ONCE(slot->count.returns, returns);
		WRITE_ONCE(slot->count.delay, delay);
		WRITE_ONCE(slot->count.ns, ns);
	}
	up_read(&slot->users);
}
//}
//{ set_scan

static void do_set_scan(struct slot *slot, int returns, int delay, u32 ns)
{
	down_read(&slot->users);
	if (slot->is_there) {
		WRITE_ONCE(slot->scan.returns, returns);
		WRITE_ONCE(slot->scan.delay, delay);
		WRITE_ONCE(slot->scan.ns, ns);
	}
	up_read(&slot->users);
}
//}
