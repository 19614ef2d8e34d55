/* Records what would survive power loss. Loaded into a process under test with LD_PRELOAD.
 *
 * For every file below $SKERRY_POWER_LOSS_DIR the trace directory $SKERRY_POWER_LOSS_TRACE holds
 *
 *   live/INODE      a hard link: the file as it is, also after its last name was removed
 *   durable/INODE   a copy as of its last fsync
 *   journal         changes of names and syncs of directories, a line each, in the order they happened
 *
 * so that after SIGKILL, at whatever moment, `durable` and the journal say what was promised and `live`
 * what might have reached the disk besides. Nothing is really synced: a killed process loses no page of the
 * operating system's cache, and the trace needs no more than that. Tests run the faster for it.
 *
 * How: every call that changes a file notes the range it wrote, and fsync copies the noted ranges from live
 * to durable before it returns. All of it happens under one lock, so at most one change is not yet in the
 * journal when the process dies; a change that is not there counts as not synced, which it was not.
 *
 * With $SKERRY_POWER_LOSS_OPERATIONS the process kills itself at that operation, before or in the middle of
 * it: so a test can die at moments that it cannot see from outside.
 *
 * What is not modelled counts as never synced (memory maps, O_DSYNC, stdio, raw system calls, sync and
 * syncfs), so a mistake here shows as a loss and never hides one. Calls that would make names wrong end the
 * process with a message.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* -- state ------------------------------------------------------------------------------------------ */

struct range {
    off_t start, end;
};

/* A file below the root. `whole` replaces the ranges when there are too many or nobody knows them. */
struct file {
    ino_t inode;
    int whole;
    size_t count, room;
    struct range *ranges;
};

#define FILES 65536 /* a power of two; far more than an engine opens in a test */
#define RANGES_MAX 4096

static struct file files[FILES];
static char root[PATH_MAX], trace[PATH_MAX];
static size_t root_length;
static dev_t root_device;
static int active, journal = -1;
static long operations_left = -1; /* negative: as many as it likes */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void give_up(const char *what) {
    fprintf(stderr, "power loss shim: %s: %s\n", what, strerror(errno));
    _exit(99);
}

/* The function that this library hides. */
static void *hidden(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (function == NULL) give_up(name);
    return function;
}
#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))hidden(#name)

/* Counts an operation; under the lock. */
static void tick(void) {
    if (operations_left == 0) kill(getpid(), SIGKILL);
    if (operations_left > 0) operations_left--;
}

static int plain_open(const char *path, int flags, mode_t mode) {
    REAL(open);
    return real(path, flags, mode);
}

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("SKERRY_POWER_LOSS_DIR"), *place = getenv("SKERRY_POWER_LOSS_TRACE");
    if (directory == NULL || place == NULL) return;
    struct stat status;
    if (realpath(directory, root) == NULL || stat(root, &status) != 0) give_up(directory);
    if (realpath(place, trace) == NULL) give_up(place);
    root_length = strlen(root);
    root_device = status.st_dev;
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/journal", trace);
    journal = plain_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (journal < 0) give_up(path);
    const char *operations = getenv("SKERRY_POWER_LOSS_OPERATIONS");
    if (operations != NULL) operations_left = atol(operations);
    active = 1;
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...) {
    REAL(write);
    tick();
    char line[2 * NAME_MAX + 128];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof line || real(journal, line, length) != length) give_up("journal");
}

/* -- contents --------------------------------------------------------------------------------------- */

/* The record of an inode; with `add`, made if there is none. */
static struct file *find(ino_t inode, int add) {
    size_t slot = (inode * UINT64_C(0x9E3779B97F4A7C15)) >> 48;
    for (size_t step = 0; step < FILES; step++, slot = (slot + 1) % FILES) {
        if (files[slot].inode == inode) return &files[slot];
        if (files[slot].inode == 0) {
            if (!add) return NULL;
            files[slot].inode = inode;
            return &files[slot];
        }
    }
    give_up("too many files");
    return NULL;
}

static struct file *file_of(int descriptor, struct stat *status) {
    if (!active || fstat(descriptor, status) != 0) return NULL;
    if (status->st_dev != root_device || !S_ISREG(status->st_mode)) return NULL;
    return find(status->st_ino, 0);
}

static void dirty(struct file *file, off_t start, off_t end) {
    if (start >= end || file->whole) return;
    if (file->count > 0) {
        struct range *last = &file->ranges[file->count - 1];
        if (start >= last->start && start <= last->end) {
            if (end > last->end) last->end = end;
            return;
        }
    }
    if (file->count == RANGES_MAX) {
        file->whole = 1;
        return;
    }
    if (file->count == file->room) {
        file->room = file->room ? 2 * file->room : 16;
        file->ranges = realloc(file->ranges, file->room * sizeof(struct range));
        if (file->ranges == NULL) give_up("memory");
    }
    file->ranges[file->count++] = (struct range){start, end};
}

static int trace_open(const char *kind, ino_t inode, int flags) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s/%llu", trace, kind, (unsigned long long)inode);
    int descriptor = plain_open(path, flags | O_CLOEXEC, 0644);
    if (descriptor < 0) give_up(path);
    return descriptor;
}

static void copy(int from, int to, off_t start, off_t end) {
    REAL(pwrite);
    static char buffer[1 << 18]; /* used under the lock */
    while (start < end) {
        size_t wanted = end - start < (off_t)sizeof buffer ? (size_t)(end - start) : sizeof buffer;
        ssize_t length = pread(from, buffer, wanted, start);
        if (length < 0) give_up("reading a file to be synced");
        if (length == 0) return; /* cut off behind the note */
        if (real(to, buffer, length, start) != length) give_up("writing a synced copy");
        start += length;
    }
}

/* Makes the file's present content and length the durable one. */
static void make_durable(struct file *file) {
    REAL(ftruncate);
    int from = trace_open("live", file->inode, O_RDONLY);
    int to = trace_open("durable", file->inode, O_WRONLY | O_CREAT);
    struct stat status;
    tick();
    if (fstat(from, &status) != 0) give_up("fstat");
    if (file->whole) {
        copy(from, to, 0, status.st_size);
    } else {
        for (size_t i = 0; i < file->count; i++) copy(from, to, file->ranges[i].start, file->ranges[i].end);
    }
    tick();
    if (real(to, status.st_size) != 0) give_up("length of a synced copy");
    file->count = 0;
    file->whole = 0;
    close(from);
    close(to);
}

/* -- names ------------------------------------------------------------------------------------------ */

/* A name in a directory, which may not exist (yet). */
struct place {
    int inside; /* below the root */
    ino_t parent;
    char name[NAME_MAX + 1];
};

static int is_inside(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == 0 || path[root_length] == '/');
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static struct place locate(int directory, const char *path) {
    struct place place = {0};
    REAL(openat);
    if (!active || path == NULL || strlen(path) >= PATH_MAX) return place;
    char parent[PATH_MAX], resolved[PATH_MAX];
    strcpy(parent, path);
    size_t length = strlen(parent);
    while (length > 1 && parent[length - 1] == '/') parent[--length] = 0;
    char *slash = strrchr(parent, '/');
    const char *name = slash ? slash + 1 : parent;
    if (strlen(name) > NAME_MAX) return place;
    strcpy(place.name, name);
    if (slash == NULL) strcpy(parent, ".");
    else if (slash == parent) parent[1] = 0;
    else *slash = 0;
    int saved = errno;
    int descriptor = real(directory, parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat status;
    if (descriptor >= 0) {
        if (fstat(descriptor, &status) == 0 && path_of(descriptor, resolved)) {
            place.inside = status.st_dev == root_device && is_inside(resolved);
            place.parent = status.st_ino;
        }
        close(descriptor);
    }
    errno = saved;
    return place;
}

/* A file below the root was opened: knows it from now on, and notes its name if it is new. */
static void opened(int descriptor, int flags) {
    struct stat status;
    char path[PATH_MAX], link_path[PATH_MAX + 64];
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode) || status.st_dev != root_device) return;
    if (!path_of(descriptor, path) || !is_inside(path)) return;
    if ((flags & O_TMPFILE) == O_TMPFILE) give_up("O_TMPFILE is not modelled");
    struct file *file = find(status.st_ino, 1);
    snprintf(link_path, sizeof link_path, "%s/live/%llu", trace, (unsigned long long)status.st_ino);
    REAL(link);
    if (real(path, link_path) == 0) {
        struct place place = locate(AT_FDCWD, path);
        close(trace_open("durable", status.st_ino, O_WRONLY | O_CREAT));
        note("create\t%llu\t%llu\t%s\n", (unsigned long long)place.parent,
             (unsigned long long)status.st_ino, place.name);
    } else if (errno != EEXIST) {
        give_up(link_path);
    }
    if (flags & O_TRUNC) file->whole = 1;
}

/* -- what is hidden: opening ------------------------------------------------------------------------ */

static int changes(int flags) {
    return active && ((flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)));
}

static int finish_open(int descriptor, int flags) {
    int saved = errno;
    if (descriptor >= 0) opened(descriptor, flags);
    errno = saved;
    return descriptor;
}

#define MODE_OF(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode = va_arg(arguments, mode_t); \
        va_end(arguments); \
    }

#define LOCKED(type, call) \
    pthread_mutex_lock(&lock); \
    type result = call; \
    pthread_mutex_unlock(&lock)

#define OPEN(name) \
    EXPORT int name(const char *path, int flags, ...) { \
        REAL(name); \
        MODE_OF(flags); \
        if (!changes(flags)) return real(path, flags, mode); \
        LOCKED(int, finish_open(real(path, flags, mode), flags)); \
        return result; \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    EXPORT int name(int directory, const char *path, int flags, ...) { \
        REAL(name); \
        MODE_OF(flags); \
        if (!changes(flags)) return real(directory, path, flags, mode); \
        LOCKED(int, finish_open(real(directory, path, flags, mode), flags)); \
        return result; \
    }
OPENAT(openat)
OPENAT(openat64)

/* What the compiler makes of open when it checks the arguments itself. */
EXPORT int __open_2(const char *path, int flags) { return open(path, flags); }
EXPORT int __open64_2(const char *path, int flags) { return open64(path, flags); }
EXPORT int __openat_2(int directory, const char *path, int flags) { return openat(directory, path, flags); }
EXPORT int __openat64_2(int directory, const char *path, int flags) { return openat64(directory, path, flags); }
EXPORT int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
EXPORT int creat64(const char *path, mode_t mode) { return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* -- what is hidden: writing ------------------------------------------------------------------------ */

/* Does `call`, which answers a count of bytes, and notes them: at `offset`, or before the position. */
#define WRITE(descriptor, at_position, offset, call) \
    struct stat status; \
    struct file *file = file_of(descriptor, &status); \
    if (file == NULL) return call; \
    pthread_mutex_lock(&lock); \
    tick(); \
    ssize_t written = call; \
    int saved = errno; \
    if (written > 0) { \
        off_t end = (at_position) ? lseek(descriptor, 0, SEEK_CUR) : (off_t)(offset) + written; \
        dirty(file, end - written, end); \
    } \
    errno = saved; \
    pthread_mutex_unlock(&lock); \
    return written

EXPORT ssize_t write(int descriptor, const void *bytes, size_t count) {
    REAL(write);
    WRITE(descriptor, 1, 0, real(descriptor, bytes, count));
}

EXPORT ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(writev);
    WRITE(descriptor, 1, 0, real(descriptor, parts, count));
}

#define PWRITE(name, offset_type) \
    EXPORT ssize_t name(int descriptor, const void *bytes, size_t count, offset_type offset) { \
        REAL(name); \
        WRITE(descriptor, 0, offset, real(descriptor, bytes, count, offset)); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, offset_type) \
    EXPORT ssize_t name(int descriptor, const struct iovec *parts, int count, offset_type offset) { \
        REAL(name); \
        WRITE(descriptor, 0, offset, real(descriptor, parts, count, offset)); \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

EXPORT ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *offset, size_t count, unsigned flags) {
    REAL(copy_file_range);
    struct stat status;
    struct file *file = file_of(to, &status);
    if (file == NULL) return real(from, at, to, offset, count, flags);
    pthread_mutex_lock(&lock);
    ssize_t written = real(from, at, to, offset, count, flags);
    file->whole = 1;
    pthread_mutex_unlock(&lock);
    return written;
}

/* Everything between the old and the new length is new: gone, or zeros. */
static int change_length(int descriptor, int result, off_t old, off_t length) {
    struct stat status;
    struct file *file = file_of(descriptor, &status);
    if (result == 0 && file != NULL) dirty(file, old < length ? old : length, old < length ? length : old);
    return result;
}

#define FTRUNCATE(name, offset_type) \
    EXPORT int name(int descriptor, offset_type length) { \
        REAL(name); \
        struct stat status; \
        if (file_of(descriptor, &status) == NULL) return real(descriptor, length); \
        LOCKED(int, change_length(descriptor, real(descriptor, length), status.st_size, length)); \
        return result; \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define FALLOCATE(name, offset_type) \
    EXPORT int name(int descriptor, int mode, offset_type offset, offset_type length) { \
        REAL(name); \
        struct stat status; \
        struct file *file = file_of(descriptor, &status); \
        if (file == NULL) return real(descriptor, mode, offset, length); \
        pthread_mutex_lock(&lock); \
        int result = real(descriptor, mode, offset, length); \
        if (result == 0 && (mode & ~FALLOC_FL_KEEP_SIZE)) file->whole = 1; \
        pthread_mutex_unlock(&lock); \
        return result; \
    }
FALLOCATE(fallocate, off_t)
FALLOCATE(fallocate64, off64_t)

/* -- what is hidden: syncing ------------------------------------------------------------------------ */

static int sync_descriptor(int descriptor) {
    struct stat status;
    char path[PATH_MAX];
    struct file *file = file_of(descriptor, &status);
    pthread_mutex_lock(&lock);
    if (file != NULL) make_durable(file);
    else if (active && fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)
             && path_of(descriptor, path) && is_inside(path))
        note("sync\t%llu\n", (unsigned long long)status.st_ino);
    pthread_mutex_unlock(&lock);
    return 0;
}

EXPORT int fsync(int descriptor) {
    REAL(fsync);
    return active ? sync_descriptor(descriptor) : real(descriptor);
}

EXPORT int fdatasync(int descriptor) {
    REAL(fdatasync);
    return active ? sync_descriptor(descriptor) : real(descriptor);
}

/* -- what is hidden: names -------------------------------------------------------------------------- */

static int note_removal(int result, const struct place *place) {
    if (result == 0 && place->inside)
        note("remove\t%llu\t%s\n", (unsigned long long)place->parent, place->name);
    return result;
}

#define REMOVE(name, parameters, arguments, directory, path) \
    EXPORT int name parameters { \
        REAL(name); \
        pthread_mutex_lock(&lock); \
        struct place place = locate(directory, path); \
        int result = note_removal(real arguments, &place); \
        pthread_mutex_unlock(&lock); \
        return result; \
    }
REMOVE(unlink, (const char *path), (path), AT_FDCWD, path)
REMOVE(rmdir, (const char *path), (path), AT_FDCWD, path)
REMOVE(unlinkat, (int directory, const char *path, int flags), (directory, path, flags), directory, path)

static int note_directory(int result, int directory, const char *path) {
    REAL(openat);
    struct place place = locate(directory, path);
    if (result != 0 || !place.inside) return result;
    /* Stays open, so that the number is not given to another directory while the trace goes on. */
    int descriptor = real(directory, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat status;
    if (descriptor < 0 || fstat(descriptor, &status) != 0) give_up("a new directory");
    note("mkdir\t%llu\t%llu\t%s\n", (unsigned long long)place.parent,
         (unsigned long long)status.st_ino, place.name);
    return 0;
}

EXPORT int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    LOCKED(int, note_directory(real(path, mode), AT_FDCWD, path));
    return result;
}

EXPORT int mkdirat(int directory, const char *path, mode_t mode) {
    REAL(mkdirat);
    LOCKED(int, note_directory(real(directory, path, mode), directory, path));
    return result;
}

static int note_link(int result, int old_directory, const char *old, int directory, const char *path) {
    struct place from = locate(old_directory, old), to = locate(directory, path);
    if (result != 0 || (!from.inside && !to.inside)) return result;
    if (!from.inside || !to.inside) give_up("a link across the root is not modelled");
    struct stat status;
    if (fstatat(directory, path, &status, AT_SYMLINK_NOFOLLOW) != 0) give_up("a new link");
    note("link\t%llu\t%llu\t%s\n", (unsigned long long)to.parent, (unsigned long long)status.st_ino, to.name);
    return 0;
}

EXPORT int link(const char *old, const char *path) {
    REAL(link);
    LOCKED(int, note_link(real(old, path), AT_FDCWD, old, AT_FDCWD, path));
    return result;
}

EXPORT int linkat(int old_directory, const char *old, int directory, const char *path, int flags) {
    REAL(linkat);
    LOCKED(int, note_link(real(old_directory, old, directory, path, flags), old_directory, old, directory, path));
    return result;
}

EXPORT int symlink(const char *target, const char *path) {
    REAL(symlink);
    if (locate(AT_FDCWD, path).inside) give_up("a symbolic link is not modelled");
    return real(target, path);
}

/* `from` and `to` were looked up before: afterwards the old name is gone. */
static int note_rename(int result, const struct place *from, const struct place *to) {
    if (result != 0 || (!from->inside && !to->inside)) return result;
    if (!from->inside || !to->inside) give_up("a renaming across the root is not modelled");
    note("rename\t%llu\t%llu\t%s\t%s\n", (unsigned long long)from->parent, (unsigned long long)to->parent,
         from->name, to->name);
    return 0;
}

#define RENAME(name, parameters, arguments, old_directory, new_directory) \
    EXPORT int name parameters { \
        REAL(name); \
        pthread_mutex_lock(&lock); \
        struct place from = locate(old_directory, old), to = locate(new_directory, path); \
        int result = note_rename(real arguments, &from, &to); \
        pthread_mutex_unlock(&lock); \
        return result; \
    }
RENAME(rename, (const char *old, const char *path), (old, path), AT_FDCWD, AT_FDCWD)
RENAME(renameat, (int from_fd, const char *old, int to_fd, const char *path), (from_fd, old, to_fd, path), from_fd, to_fd)
RENAME(renameat2, (int from_fd, const char *old, int to_fd, const char *path, unsigned flags),
       (from_fd, old, to_fd, path, flags), from_fd, to_fd)
