/* Test only: preloaded (LD_PRELOAD) into a program, stands in for /dev/sev-guest of Linux.
 *
 * Opening the device connects to the Unix socket that ENVELOPEFS_TEST_SEV_GUEST names; an ioctl on it goes there as
 *     u8 number, u32 message version, u32 length, request            and comes back as
 *     u32 errno, u64 exitinfo2, u32 length, response
 * in the machine's byte order. What the chip and its guest are is the other side's matter (tests/common/firmware.rs). SNP_GET_EXT_REPORT ends the
 * program: nothing may ever call it. An absent socket is an absent device.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEVICE "/dev/sev-guest"
#define MAX_FD 4096

static unsigned char ours[MAX_FD];

/* The argument of all three calls (linux/sev-guest.h, struct snp_guest_request_ioctl). */
struct argument {
    uint32_t version;
    uint32_t pad;
    uint64_t request;
    uint64_t response;
    uint64_t exitinfo2;
};
_Static_assert(sizeof(struct argument) == 32, "as the request numbers say");

static int connect_device(void)
{
    const char *path = getenv("ENVELOPEFS_TEST_SEV_GUEST");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd;

    if (!path || strlen(path) >= sizeof address.sun_path) {
        errno = ENOENT;
        return -1;
    }
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || fd >= MAX_FD || connect(fd, (struct sockaddr *)&address, sizeof address)) {
        if (fd >= 0)
            close(fd);
        errno = ENOENT;
        return -1;
    }
    ours[fd] = 1;
    return fd;
}

static int open_either(const char *symbol, const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...);

    if (!strcmp(path, DEVICE))
        return connect_device();
    next = dlsym(RTLD_NEXT, symbol);
    return next(path, flags, mode);
}

#define OPENER(name)                                                             \
    int name(const char *path, int flags, ...)                                   \
    {                                                                            \
        mode_t mode = 0;                                                         \
        if (flags & (O_CREAT | O_TMPFILE)) {                                     \
            va_list rest;                                                        \
            va_start(rest, flags);                                               \
            mode = va_arg(rest, mode_t);                                         \
            va_end(rest);                                                        \
        }                                                                        \
        return open_either(#name, path, flags, mode);                            \
    }

OPENER(open)
OPENER(open64)

int close(int fd)
{
    int (*next)(int) = dlsym(RTLD_NEXT, "close");

    if (fd >= 0 && fd < MAX_FD)
        ours[fd] = 0;
    return next(fd);
}

static void all(int fd, void *bytes, size_t len, int out)
{
    while (len) {
        ssize_t n = out ? send(fd, bytes, len, MSG_NOSIGNAL) : recv(fd, bytes, len, 0);
        if (n <= 0)
            abort();
        bytes = (char *)bytes + n;
        len -= (size_t)n;
    }
}

static int call(int fd, uint8_t number, struct argument *argument)
{
    /* The driver's own sizes, whatever the caller's structures are. */
    uint32_t len = number == 0 ? 96 : 32, most = number == 0 ? 4000 : 64, got;
    uint32_t error;
    uint64_t exitinfo2;
    char response[4000];

    if (number > 1)
        abort();
    all(fd, &number, sizeof number, 1);
    all(fd, &argument->version, sizeof argument->version, 1);
    all(fd, &len, sizeof len, 1);
    all(fd, (void *)(uintptr_t)argument->request, len, 1);
    all(fd, &error, sizeof error, 0);
    all(fd, &exitinfo2, sizeof exitinfo2, 0);
    all(fd, &got, sizeof got, 0);
    if (got > most)
        abort();
    all(fd, response, got, 0);
    argument->exitinfo2 = exitinfo2;
    if (error) {
        errno = (int)error;
        return -1;
    }
    memcpy((void *)(uintptr_t)argument->response, response, got);
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    void *argument;
    va_list rest;

    va_start(rest, request);
    argument = va_arg(rest, void *);
    va_end(rest);
    if (fd < 0 || fd >= MAX_FD || !ours[fd])
        return next(fd, request, argument);
    if ((request & 0xffffff00) != 0xc0205300) {
        errno = ENOTTY;
        return -1;
    }
    return call(fd, (uint8_t)(request & 0xff), argument);
}
