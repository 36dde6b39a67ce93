// SPDX-License-Identifier: GPL-2.0
//{ take_objects

static unsigned long take_objects(struct slot *slot, int nid, unsigned long n)
{
	int now = atomic_read(&slot->objects[nid]);
	int taken;

	do {
		taken = min_t(unsigned long, now, n);
	} while (!atomic_try_cmpxchg(&slot->objects[nid], &now, now - taken));
	return taken;
}
//}
//{ items

/* --- items on the list_lru of a slot --- */

struct item {
	struct list_head node;
	unsigned int place;
	/* On the list of the memcg that was said, not on that of its page's. */
	bool by_memcg;
	bool is_listed;
};

/* A place whose item is being made. */
#define RESERVED ((struct item *)1)

/* Accounted to the memcg of whoever allocates. */
static struct kmem_cache *item_cache;

struct walk {
	struct slot *slot;
	unsigned long n_left;
	//{ walk_unlocks
	enum lru_status verdict;
	//}
	//{ lru_del
	bool only_by_memcg;
	//}
	struct list_head taken;
};

static ISOLATE(isolate)
{
	struct item *item = container_of(node, struct item, node);
	struct walk *walk = arg;

	if (!walk->n_left)
		return LRU_SKIP;
	//{ lru_del
	if (walk->only_by_memcg && !item->by_memcg)
		return LRU_SKIP;
	//}
	//{ walk_unlocks
	switch (walk->verdict) {
	case LRU_RETRY:
		DROP_LOCK();
		return LRU_RETRY;
	case LRU_STOP:
		DROP_LOCK_AT_STOP();
		return LRU_STOP;
	case LRU_ROTATE:
	case LRU_SKIP:
		return walk->verdict;
	default:
		break;
	}
	//}
	/* Whoever adds it is not done yet, or it is being deleted. */
	if (cmpxchg(&walk->slot->items[item->place], item, NULL) != item)
		return LRU_SKIP;
	walk->n_left--;
	list_lru_isolate_move(list, node, &walk->taken);
	//{ walk_unlocks
	if (walk->verdict == LRU_REMOVED_RETRY) {
		DROP_LOCK();
		return LRU_REMOVED_RETRY;
	}
	//}
	return LRU_REMOVED;
}

static unsigned long free_taken(struct walk *walk)
{
	struct item *item, *next;
	unsigned long n = 0;

	list_for_each_entry_safe(item, next, &walk->taken, node) {
		kmem_cache_free(item_cache, item);
		n++;
	}
	return n;
}

static unsigned long walk_node(struct walk *walk, int nid, unsigned long n)
{
	INIT_LIST_HEAD(&walk->taken);
	if (node_online(nid))
		list_lru_walk_node(&walk->slot->lru, nid, isolate, walk, &n);
	return free_taken(walk);
}

/* Nobody uses the list any more; a memcg on its way out may hide its items. */
static void free_items(struct slot *slot)
{
	int nid, place, tries;

	for (place = 0; place < ITEMS_MAX; place++) {
		if (slot->items[place] && !slot->items[place]->is_listed) {
			kmem_cache_free(item_cache, slot->items[place]);
			slot->items[place] = NULL;
		}
	}
	for (tries = 0; tries < 2000; tries++) {
		for_each_online_node(nid) {
			struct walk walk = { .slot = slot, .n_left = ULONG_MAX };

			walk_node(&walk, nid, ULONG_MAX);
		}
		for (place = 0; place < ITEMS_MAX; place++)
			if (slot->items[place])
				break;
		if (place == ITEMS_MAX)
			return;
		usleep_range(1000, 2000);
	}
	pr_err("items are on no list of their list_lru\n");
}

static struct item *new_item(struct slot *slot, gfp_t gfp)
{
	struct item *item;
	int place;

	for (place = 0; place < ITEMS_MAX; place++)
		if (!cmpxchg(&slot->items[place], NULL, RESERVED))
			break;
	if (place == ITEMS_MAX)
		return NULL;
	item = kmem_cache_alloc_lru(item_cache, &slot->lru, gfp);
	if (!item) {
		WRITE_ONCE(slot->items[place], NULL);
		return NULL;
	}
	memset(item, 0, sizeof(*item));
	INIT_LIST_HEAD(&item->node);
	item->place = place;
	return item;
}
//{ add_one

static bool add_one(struct slot *slot, gfp_t gfp)
{
	struct item *item = new_item(slot, gfp);

	if (!item)
		return false;
	item->is_listed = true;
	list_lru_add_obj(&slot->lru, &item->node);
	/* From here on anybody may take it. */
	smp_store_release(&slot->items[item->place], item);
	return true;
}
//}
//{ lru_add_obj

static void do_lru_add(struct slot *slot, int n)
{
	down_read(&slot->users);
	while (slot->is_there && n-- && add_one(slot, GFP_KERNEL))
		;
	up_read(&slot->users);
}
//}
//{ delay_other

/* A callback of one that adds to the list of another, if it is free. */
static void add_to_next(struct slot *slot)
{
	struct slot *next = &slots[(slot - slots + 1) % 16];

	if (!down_read_trylock(&next->users))
		return;
	if (next->is_there)
		add_one(next, GFP_NOFS);
	up_read(&next->users);
}
//}
//{ lru_add_memcg

/* The memcg's lists are there, or it uses those of one above it. */
static bool has_lists(struct list_lru *lru, struct mem_cgroup *memcg)
{
#ifdef CONFIG_MEMCG
	int id = memcg_kmem_id(memcg);

	return !lru->memcg_aware || id < 0 || xa_load(&lru->xa, id);
#else
	return true;
#endif
}

static bool add_one_by_memcg(struct slot *slot, int nid)
{
	struct item *item = new_item(slot, GFP_KERNEL);
	struct mem_cgroup *memcg;
	bool added = false;

	if (!item)
		return false;
	item->by_memcg = true;
	item->is_listed = true;
	rcu_read_lock();
	memcg = mem_cgroup_from_task(current);
	if (has_lists(&slot->lru, memcg))
		added = list_lru_add(&slot->lru, &item->node, nid, memcg);
	rcu_read_unlock();
	smp_store_release(&slot->items[item->place], added ? item : NULL);
	if (!added)
		kmem_cache_free(item_cache, item);
	return added;
}

/* As zswap does: the memcg is said, not found by the item. */
static void do_lru_add_by_memcg(struct slot *slot, int nid, int n)
{
	down_read(&slot->users);
	while (slot->is_there && node_online(nid) && n-- &&
	       add_one_by_memcg(slot, nid))
		;
	up_read(&slot->users);
}
//}
//{ lru_make

static void do_lru_make(struct slot *slot, int n)
{
	struct item *item;

	down_read(&slot->users);
	while (slot->is_there && n--) {
		item = new_item(slot, GFP_KERNEL);
		if (!item)
			break;
		smp_store_release(&slot->items[item->place], item);
	}
	up_read(&slot->users);
}
//}
//{ lru_put

static void do_lru_put(struct slot *slot, int n)
{
	struct item *item;
	int place;

	down_read(&slot->users);
	for (place = 0; slot->is_there && n && place < ITEMS_MAX; place++) {
		/* Not given up while it is looked at: it is on no list. */
		item = xchg(&slot->items[place], RESERVED);
		if (item && item != RESERVED && !item->is_listed) {
			item->is_listed = true;
			list_lru_add_obj(&slot->lru, &item->node);
			n--;
		}
		if (item != RESERVED)
			smp_store_release(&slot->items[place], item);
	}
	up_read(&slot->users);
}
//}
//{ lru_del

static void do_lru_del(struct slot *slot, int n)
{
	struct item *item;
	int place;

	down_read(&slot->users);
	for (place = 0; slot->is_there && n && place < ITEMS_MAX; place++) {
		item = xchg(&slot->items[place], RESERVED);
		if (item == RESERVED)
			continue;
		if (!item || item->by_memcg || !item->is_listed) {
			smp_store_release(&slot->items[place], item);
			continue;
		}
		list_lru_del_obj(&slot->lru, &item->node);
		smp_store_release(&slot->items[place], NULL);
		kmem_cache_free(item_cache, item);
		n--;
	}
	//{ lru_del
	if (slot->is_there) {
		struct walk walk = {
			.slot = slot, .n_left = n, .only_by_memcg = true,
		};

		for_each_online_node(place)
			walk_node(&walk, place, ULONG_MAX);
	}
	//}
	up_read(&slot->users);
}
//}
//{ lru_walk

static void do_lru_walk(struct slot *slot, int nid, int n)
{
	struct walk walk = { .slot = slot, .n_left = n };

	down_read(&slot->users);
	if (slot->is_there)
		walk_node(&walk, nid, n);
	up_read(&slot->users);
}
//}
//{ lru_walk_as

static void do_lru_walk_as(struct slot *slot, int nid, int n,
			   enum lru_status verdict)
{
	struct walk walk = { .slot = slot, .n_left = n, .verdict = verdict };

	down_read(&slot->users);
	if (slot->is_there)
		walk_node(&walk, nid, n);
	up_read(&slot->users);
}
//}
//}
