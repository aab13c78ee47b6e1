/* A PKCS#11 module that passes calls on to REAL, logs their names and obeys orders: files in $ENVELOPEFS_TEST_SHIM named after functions.
 * Every function takes at most eight arguments of the size of a word; more are passed on than are looked at, as the calling conventions of
 * Linux allow. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long W;
typedef W (*Function)(W, W, W, W, W, W, W, W);

enum { FUNCTIONS = 68, GENERAL_ERROR = 5, OK = 0 };

/* CK_FUNCTION_LIST of PKCS#11 2.40. */
struct list {
    unsigned char version[2];
    Function function[FUNCTIONS];
};

static struct list *real, ours;
static const char *directory;

/* Calls under way. */
static _Atomic int inside;

/* Where orders are: a place of its own for each of several shims in one process, else as the environment says. */
#ifndef CONTROL
#define CONTROL getenv("ENVELOPEFS_TEST_SHIM")
#endif

#define ALL(X) \
    X(0, Initialize) X(1, Finalize) X(4, GetSlotList) X(6, GetTokenInfo) X(7, GetMechanismList) X(12, OpenSession) X(13, CloseSession) \
    X(18, Login) X(19, Logout) X(20, CreateObject) X(22, DestroyObject) X(24, GetAttributeValue) X(26, FindObjectsInit) X(27, FindObjects) X(29, EncryptInit) X(30, Encrypt) \
    X(33, DecryptInit) X(34, Decrypt) X(42, SignInit) X(43, Sign) X(58, GenerateKey) X(59, GenerateKeyPair) \
    X(60, WrapKey) X(61, UnwrapKey) X(62, DeriveKey)

static void note(const char *name)
{
    char path[4096], line[64];
    snprintf(path, sizeof path, "%s/log", directory);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int len = snprintf(line, sizeof line, "%s\n", name);
    if (log >= 0 && write(log, line, len) != len)
        abort();
    close(log);
}

/* The order for a function; 0 if there is none. */
static int ordered(const char *name, char *order, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int file = open(path, O_RDONLY);
    if (file < 0)
        return 0;
    ssize_t len = read(file, order, size - 1);
    close(file);
    order[len > 0 ? len : 0] = 0;
    return 1;
}

static W call(int at, const char *name, W a, W b, W c, W d, W e, W f, W g, W h)
{
    char order[64];
    note(name);
    /* The module may then do anything: PKCS#11, C_Finalize. */
    if (inside++ && !strcmp(name, "C_Finalize"))
        note("C_Finalize beside another call");
    while (ordered(name, order, sizeof order) && !strcmp(order, "hang"))
        usleep(20000);
    int is = ordered(name, order, sizeof order);
    int garbage = is && !strcmp(order, "garbage"), zero = is && !strcmp(order, "zero"), slow = is && !strcmp(order, "slow");
    if (slow)
        usleep(300000);
    int instead = is && !garbage && !zero && !slow;
    W result = instead ? strtoul(order, NULL, 0) : real->function[at](a, b, c, d, e, f, g, h);
    inside--;
    if (instead)
        return result;
    /* C_Encrypt, C_Decrypt, C_Sign: output and its length are the fourth and fifth arguments. */
    if (result == OK && d && garbage)
        *(unsigned char *)d ^= 1;
    if (result == OK && d && zero)
        memset((void *)d, 0, *(W *)e);
    return result;
}

#define DEFINE(at, name) \
    static W shim_##name(W a, W b, W c, W d, W e, W f, W g, W h) { return call(at, "C_" #name, a, b, c, d, e, f, g, h); }
ALL(DEFINE)

/* Runs at exit, as handlers of modules do that free what calls use. */
__attribute__((destructor)) static void end(void)
{
    if (inside)
        note("exit beside a call");
}

W C_GetFunctionList(struct list **out)
{
    directory = CONTROL;
    void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
    W (*get)(struct list **) = library ? (W (*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;
    if (!directory || !get || get(&real) != OK)
        return GENERAL_ERROR;
    ours = *real;
#define PUT(at, name) ours.function[at] = shim_##name;
    ALL(PUT)
    *out = &ours;
    return OK;
}
