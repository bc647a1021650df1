/* Loaded before libc (LD_PRELOAD) into a process under test: writes down which files it writes and
 * syncs, in order, and lets the disk fail on demand.
 *
 *   SHIM_UNDER   only regular files below this directory count
 *   SHIM_LOG     where to append one line an event, in the order in which they happened:
 *                  W PATH   a write has ended     B PATH   a sync begins     S PATH   it succeeded
 *                  A        an acknowledgement is about to be written to stdout
 *   SHIM_FAULTS  a directory of flags, looked for at each call:
 *                  full     writes end with ENOSPC, the first one after half of its bytes
 *                  sync     syncs end with EIO
 *                  once     the first sync from now on ends with EIO, after a while: as the operating
 *                           system does, which tells a failure of an open file a single time
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static ssize_t plain_write(int fd, const void *bytes, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, bytes, length);
}

/* Whether a descriptor is a file that counts; its path if so. */
static int counts(int fd, char path[PATH_MAX]) {
    const char *under = getenv("SHIM_UNDER");
    struct stat status;
    char link[64];
    if (!under || fstat(fd, &status) || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return strncmp(path, under, strlen(under)) == 0;
}

static void note(const char *event, const char *path) {
    static int log = -1;
    int kept = errno;
    const char *name = getenv("SHIM_LOG");
    if (name) {
        if (log < 0)
            log = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        char line[PATH_MAX + 8];
        int length = snprintf(line, sizeof line, "%s %s\n", event, path);
        /* One call a line, so that lines of several threads stay whole and in order. */
        if (log < 0 || plain_write(log, line, (size_t)length) != length)
            abort();
    }
    errno = kept;
}

static int flagged(const char *flag) {
    const char *faults = getenv("SHIM_FAULTS");
    char path[PATH_MAX];
    if (!faults)
        return 0;
    snprintf(path, sizeof path, "%s/%s", faults, flag);
    return access(path, F_OK) == 0;
}

/* How much of a write of so many bytes still fits; negative: nothing, errno says so. */
static ssize_t room(size_t length) {
    static int torn;
    if (!flagged("full")) {
        torn = 0;
        return (ssize_t)length;
    }
    if (!torn && length > 1) {
        torn = 1;
        return (ssize_t)(length / 2);
    }
    errno = ENOSPC;
    return -1;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    char path[PATH_MAX];
    if (fd == STDOUT_FILENO && length > 4 && memcmp(bytes, "ack ", 4) == 0)
        note("A", "");
    if (!counts(fd, path))
        return plain_write(fd, bytes, length);
    ssize_t fits = room(length);
    if (fits < 0)
        return -1;
    ssize_t written = plain_write(fd, bytes, (size_t)fits);
    note("W", path);
    return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    char path[PATH_MAX];
    if (!counts(fd, path))
        return real(fd, parts, count);
    for (int at = 0; at < count; at++)
        if (parts[at].iov_len > 0)
            return write(fd, parts[at].iov_base, parts[at].iov_len);
    return 0;
}

static ssize_t write_at(const char *name, int fd, const void *bytes, size_t length, off_t offset) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, name);
    char path[PATH_MAX];
    if (!counts(fd, path))
        return real(fd, bytes, length, offset);
    ssize_t fits = room(length);
    if (fits < 0)
        return -1;
    ssize_t written = real(fd, bytes, (size_t)fits, offset);
    note("W", path);
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return write_at("pwrite", fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    return write_at("pwrite64", fd, bytes, length, offset);
}

static int sync_by(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    char path[PATH_MAX];
    if (!counts(fd, path))
        return real(fd);
    static int told;
    if (flagged("sync") || (flagged("once") && !__sync_fetch_and_add(&told, 1))) {
        usleep(flagged("once") ? 100000 : 0);
        errno = EIO;
        return -1;
    }
    note("B", path);
    int done = real(fd);
    if (done == 0)
        note("S", path);
    return done;
}

int fsync(int fd) { return sync_by("fsync", fd); }

int fdatasync(int fd) { return sync_by("fdatasync", fd); }
