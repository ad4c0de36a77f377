// supervise RULES TRACE ROOT PROGRAM ARGUMENT...
//
// Becomes PROGRAM, all of whose calls that change files below ROOT are first shown to a supervisor, which writes each of them to TRACE, and
// by RULES lets it happen, fails it, or kills the program instead.
//
// The kernel asks the supervisor (seccomp's user notification), so that calls are seen however they are made and by whatever thread, and are
// counted together. LD_PRELOAD would not see those that Rust makes without libc; strace counts each thread by itself.
//
// A line of RULES is `CALL PATTERN SKIP COUNT ACTION`: of the calls that match, the first SKIP happen, and the next COUNT get ACTION, which is
// `kill` or an errno. CALL is one of the names below or `*`, PATTERN a shell pattern for the path below ROOT. The first line is a number that only this
// version of the file has. It is looked at in each call: whoever has replaced the file knows that later calls are judged by the new one, with which
// counting starts anew.
//
// A line of TRACE is `CALL PATH`, with ` ACTION` behind it where it was not let happen.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "tell the name of this architecture (linux/audit.h)"
#endif

#define RULES_MAX 8
#define PATH_BYTES 4096

// Which argument has the file: a descriptor, or a path.
enum argument { DESCRIPTOR, PATH };

static const struct call {
    int number;
    const char *name;
    enum argument kind;
    int argument;
} CALLS[] = {
    {SYS_pwrite64, "write", DESCRIPTOR, 0},
    {SYS_pwritev, "write", DESCRIPTOR, 0},
    {SYS_pwritev2, "write", DESCRIPTOR, 0},
    {SYS_fdatasync, "fdatasync", DESCRIPTOR, 0},
    {SYS_fsync, "fsync", DESCRIPTOR, 0},
    {SYS_ftruncate, "truncate", DESCRIPTOR, 0},
    // A rename is known by the new name.
    {SYS_renameat, "rename", PATH, 3},
    {SYS_renameat2, "rename", PATH, 3},
    {SYS_unlinkat, "remove", PATH, 1},
    {SYS_mkdirat, "mkdir", PATH, 1},
    {SYS_openat, "create", PATH, 1},
#ifdef SYS_rename
    {SYS_rename, "rename", PATH, 1},
    {SYS_unlink, "remove", PATH, 0},
    {SYS_rmdir, "remove", PATH, 0},
    {SYS_mkdir, "mkdir", PATH, 0},
#endif
};
enum { CALL_COUNT = sizeof CALLS / sizeof CALLS[0] };

static struct rule {
    char call[16], pattern[256], action[16];
    long skip, count, seen;
} rules[RULES_MAX];
static int rule_count;

static void fail(const char *what) {
    perror(what);
    exit(125);
}

// Reads the rules again if they are others.
static void read_rules(const char *path) {
    static long current;
    long number;
    FILE *file = fopen(path, "r");
    if (!file) fail(path);
    if (fscanf(file, "%ld", &number) == 1 && number != current) {
        current = number;
        memset(rules, 0, sizeof rules);
        for (rule_count = 0; rule_count < RULES_MAX; rule_count++) {
            struct rule *rule = &rules[rule_count];
            if (fscanf(file, "%15s %255s %ld %ld %15s", rule->call, rule->pattern, &rule->skip, &rule->count, rule->action) != 5) break;
        }
    }
    fclose(file);
}

// What becomes of a call: an action, or NULL where it happens.
static const char *judge(const char *call, const char *path) {
    const char *action = NULL;
    for (int at = 0; at < rule_count; at++) {
        struct rule *rule = &rules[at];
        if (strcmp(rule->call, "*") != 0 && strcmp(rule->call, call) != 0) continue;
        if (fnmatch(rule->pattern, path, 0) != 0) continue;
        rule->seen++;
        if (!action && rule->seen > rule->skip && rule->seen <= rule->skip + rule->count) action = rule->action;
    }
    return action;
}

static const struct call *call_of(int number) {
    for (int at = 0; at < CALL_COUNT; at++)
        if (CALLS[at].number == number) return &CALLS[at];
    return NULL;
}

// The file that a call is about; whether it could be told.
static int path_of(const struct call *call, const struct seccomp_notif *asked, char *path) {
    char link[64];
    unsigned long long argument = asked->data.args[call->argument];
    if (call->kind == DESCRIPTOR) {
        snprintf(link, sizeof link, "/proc/%u/fd/%d", asked->pid, (int)argument);
        ssize_t length = readlink(link, path, PATH_BYTES - 1);
        if (length < 0) return 0;
        path[length] = 0;
        return 1;
    }
    snprintf(link, sizeof link, "/proc/%u/mem", asked->pid);
    int memory = open(link, O_RDONLY);
    if (memory < 0) fail(link);
    ssize_t length = pread(memory, path, PATH_BYTES - 1, (off_t)argument);
    close(memory);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

// Answers every call of the program until it ends.
static void supervise(int listener, pid_t program, const char *rules_path, const char *trace_path, const char *root) {
    FILE *trace = fopen(trace_path, "a");
    if (!trace) fail(trace_path);
    size_t root_length = strlen(root);
    for (;;) {
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        if (poll(&ready, 1, -1) < 0 && errno != EINTR) fail("poll");
        if (!(ready.revents & POLLIN)) {
            if (ready.revents & (POLLHUP | POLLERR)) exit(0);
            continue;
        }
        struct seccomp_notif asked = {0};
        // The thread that asked may be gone by now.
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) continue;
        struct seccomp_notif_resp answer = {.id = asked.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        const struct call *call = call_of(asked.data.nr);
        char path[PATH_BYTES];
        if (call && path_of(call, &asked, path) && strncmp(path, root, root_length) == 0 &&
            (path[root_length] == '/' || path[root_length] == 0)) {
            const char *relative = path[root_length] ? path + root_length + 1 : ".";
            read_rules(rules_path);
            const char *action = judge(call->name, relative);
            fprintf(trace, "%s %s%s%s\n", call->name, relative, action ? " " : "", action ? action : "");
            fflush(trace);
            if (action && strcmp(action, "kill") == 0) {
                kill(program, SIGKILL);
                continue; // Never answered: the call does not happen.
            }
            if (action) {
                answer.flags = 0;
                answer.error = -atoi(action);
            }
        }
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

// Has the kernel ask about every call of the table. Gives the descriptor on which it asks.
static int install_filter(void) {
    struct sock_filter code[CALL_COUNT * 4 + 8];
    int at = 0;
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_filter load_number = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    struct sock_filter ask = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    code[at++] = allow;
    for (int n = 0; n < CALL_COUNT; n++) {
        code[at++] = load_number;
        if (CALLS[n].number == SYS_openat) {
            // Only those that may create a file. (The flags are the low half of the argument.)
            code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3);
            code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2]));
            code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT, 0, 1);
        } else {
            code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)CALLS[n].number, 0, 1);
        }
        code[at++] = ask;
    }
    code[at++] = allow;
    struct sock_fprog filter = {.len = (unsigned short)at, .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("PR_SET_NO_NEW_PRIVS");
    int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
    if (listener < 0) fail("seccomp");
    return listener;
}

union carrier {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
};

static struct msghdr message(struct iovec *byte, union carrier *carrier) {
    return (struct msghdr){.msg_iov = byte, .msg_iovlen = 1, .msg_control = carrier->bytes, .msg_controllen = sizeof carrier->bytes};
}

static void send_descriptor(int socket, int descriptor) {
    char text = 'd';
    struct iovec byte = {&text, 1};
    union carrier carrier = {0};
    struct msghdr sent = message(&byte, &carrier);
    struct cmsghdr *header = CMSG_FIRSTHDR(&sent);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof descriptor)};
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    if (sendmsg(socket, &sent, 0) != 1) fail("sendmsg");
}

static int receive_descriptor(int socket) {
    char text;
    struct iovec byte = {&text, 1};
    union carrier carrier = {0};
    struct msghdr received = message(&byte, &carrier);
    int descriptor;
    if (recvmsg(socket, &received, 0) != 1 || !CMSG_FIRSTHDR(&received)) exit(125); // The program did not come so far, and said why.
    memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&received)), sizeof descriptor);
    return descriptor;
}

int main(int count, char **arguments) {
    if (count < 5) {
        fprintf(stderr, "usage: supervise RULES TRACE ROOT PROGRAM ARGUMENT...\n");
        return 125;
    }
    // Where Yama restricts who may read another process's memory: this program's may be read by its supervisor, which is its child.
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) fail("socketpair");
    pid_t program = getpid();
    pid_t supervisor = fork();
    if (supervisor < 0) fail("fork");
    if (supervisor == 0) {
        // Whoever reads what the program says must not wait for the supervisor to end.
        int nothing = open("/dev/null", O_RDWR);
        for (int stream = 0; stream <= 1; stream++) dup2(nothing, stream);
        close(sockets[0]);
        supervise(receive_descriptor(sockets[1]), program, arguments[1], arguments[2], arguments[3]);
    }
    close(sockets[1]);
    // The listener is closed by exec: only the supervisor has it then.
    send_descriptor(sockets[0], install_filter());
    execv(arguments[4], arguments + 4);
    fail(arguments[4]);
}
