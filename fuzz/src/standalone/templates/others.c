// SPDX-License-Identifier: GPL-2.0
//{ objects

/* --- objects with a shrinker of their own, as superblocks have --- */

struct object {
	struct shrinker *shrinker;
	atomic_t n_things;
	atomic_t scans_left;
	char padding[200];
};

static struct object *objects[8];

static unsigned long object_count(struct shrinker *shrinker,
				  struct shrink_control *sc)
{
	struct object *object = shrinker->private_data;

	/* Reads the far end too. */
	return atomic_read(&object->n_things) + object->padding[199] ?:
	       SHRINK_EMPTY;
}

static unsigned long object_scan(struct shrinker *shrinker,
				 struct shrink_control *sc)
{
	struct object *object = shrinker->private_data;
	int now = atomic_read(&object->n_things);
	int taken;

	if (atomic_dec_return(&object->scans_left) < 0)
		return SHRINK_STOP;
	do {
		taken = min_t(unsigned long, now, sc->nr_to_scan);
	} while (!atomic_try_cmpxchg(&object->n_things, &now, now - taken));
	return taken;
}

static void free_object(struct object *object)
{
	if (!object)
		return;
	shrinker_free(object->shrinker);
	kfree(object);
}

static void do_object_new(int nr, unsigned int flags, int n_things)
{
	struct object *object;

	if (READ_ONCE(objects[nr]))
		return;
	object = kzalloc(sizeof(*object), GFP_KERNEL);
	if (!object)
		return;
	object->shrinker = shrinker_alloc(flags, "st-object");
	if (!object->shrinker) {
		kfree(object);
		return;
	}
	atomic_set(&object->n_things, n_things);
	atomic_set(&object->scans_left, 1024);
	object->shrinker->private_data = object;
	object->shrinker->count_objects = object_count;
	object->shrinker->scan_objects = object_scan;
	shrinker_register(object->shrinker);
	/* Another thread may have been faster. */
	if (cmpxchg(&objects[nr], NULL, object))
		free_object(object);
}
//}
//{ object_free

static void do_object_free(int nr)
{
	free_object(xchg(&objects[nr], NULL));
}
//}
//{ pads

/* --- shrinkers in bulk, that take ids; they have nothing to shrink --- */

#define PADS_MAX	4096
#define REGISTERED_PADS_MAX	(IS_ENABLED(CONFIG_KASAN) || \
				 IS_ENABLED(CONFIG_KCSAN) ? 256 : PADS_MAX)

static DEFINE_MUTEX(pads_lock);
static struct shrinker *pads[PADS_MAX];
static bool is_registered[PADS_MAX];
static int n_registered;

static unsigned long pad_count(struct shrinker *shrinker,
			       struct shrink_control *sc)
{
	return SHRINK_EMPTY;
}

static unsigned long pad_scan(struct shrinker *shrinker,
			      struct shrink_control *sc)
{
	return SHRINK_STOP;
}

static int shrinker_id(struct shrinker *shrinker)
{
#ifdef CONFIG_MEMCG
	return shrinker->id;
#else
	return 0;
#endif
}

/*
 * n of them, or until the next id modulo 64, which is what mm/shrinker.c keeps
 * in a unit, is to.
 */
static void do_pads(int n, int to, bool registers)
{
	struct shrinker *pad;
	int place, id;

	mutex_lock(&pads_lock);
	for (place = 0; n; n--) {
		while (place < PADS_MAX && pads[place])
			place++;
		if (place == PADS_MAX)
			break;
		if (registers && n_registered == REGISTERED_PADS_MAX)
			break;
		pad = shrinker_alloc(SHRINKER_MEMCG_AWARE | SHRINKER_NONSLAB,
				     "st-pad");
		if (!pad)
			break;
		id = shrinker_id(pad);
		if (registers) {
			pad->count_objects = pad_count;
			pad->scan_objects = pad_scan;
			shrinker_register(pad);
			n_registered++;
		}
		is_registered[place] = registers;
		pads[place] = pad;
		if ((id + 1) % 64 == to)
			break;
	}
	mutex_unlock(&pads_lock);
}

static void free_pads(int n, int first, int step)
{
	int place;

	mutex_lock(&pads_lock);
	for (place = first; n && place >= 0 && place < PADS_MAX; place += step) {
		if (!pads[place])
			continue;
		shrinker_free(pads[place]);
		pads[place] = NULL;
		n_registered -= is_registered[place];
		n--;
	}
	mutex_unlock(&pads_lock);
}
//}
//{ caches

/* --- slab caches --- */

#define CONSTRUCTED	0x7368726b756e6b21ULL
#define CACHE_OBJECTS_MAX	256

struct cache {
	/* Read: uses it. Write: makes or destroys it. */
	struct rw_semaphore users;
	struct kmem_cache *raw;
	/* Whoever takes an object out of its place may free it. */
	u64 *objects[CACHE_OBJECTS_MAX];
	atomic_t turn;
};

static struct cache caches[4];
//{ cache_ctor

static void construct(void *object)
{
	*(u64 *)object = CONSTRUCTED;
}
//}

static void free_objects(struct cache *cache, int n, int first, int step)
{
	u64 *object;
	int place;

	for (place = first; n && place < CACHE_OBJECTS_MAX; place += step) {
		object = xchg(&cache->objects[place], NULL);
		if (!object)
			continue;
		/* As it was constructed. */
		*object = CONSTRUCTED;
		kmem_cache_free(cache->raw, object);
		n--;
	}
}

static void do_cache_create(int nr, const char *name, unsigned int size,
			    slab_flags_t flags, void (*ctor)(void *))
{
	struct cache *cache = &caches[nr];

	down_write(&cache->users);
	if (!cache->raw)
		cache->raw = kmem_cache_create(name, size, 8, flags, ctor);
	up_write(&cache->users);
}

static void do_cache_destroy(int nr)
{
	struct cache *cache = &caches[nr];

	down_write(&cache->users);
	if (cache->raw) {
		free_objects(cache, CACHE_OBJECTS_MAX, 0, 1);
		kmem_cache_destroy(cache->raw);
		cache->raw = NULL;
	}
	up_write(&cache->users);
}
//{ cache_alloc

static void do_cache_alloc(int nr, int n)
{
	struct cache *cache = &caches[nr];
	u64 *object;
	int place;

	down_read(&cache->users);
	for (place = 0; cache->raw && n && place < CACHE_OBJECTS_MAX; place++) {
		if (READ_ONCE(cache->objects[place]))
			continue;
		object = kmem_cache_alloc(cache->raw, GFP_KERNEL);
		if (!object)
			break;
		*object = n--;
		/* Another thread may have been faster. */
		if (cmpxchg(&cache->objects[place], NULL, object)) {
			*object = CONSTRUCTED;
			kmem_cache_free(cache->raw, object);
		}
	}
	up_read(&cache->users);
}
//}
//{ cache_free

/* Every second one; the others the next time. */
static void do_cache_free(int nr, int n)
{
	struct cache *cache = &caches[nr];

	down_read(&cache->users);
	if (cache->raw)
		free_objects(cache, n, atomic_inc_return(&cache->turn) % 2, 2);
	up_read(&cache->users);
}
//}
//{ cache_shrink

static void do_cache_shrink(int nr)
{
	struct cache *cache = &caches[nr];

	down_read(&cache->users);
	if (cache->raw)
		kmem_cache_shrink(cache->raw);
	up_read(&cache->users);
}
//}
//}
