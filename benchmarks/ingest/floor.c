/* The least that a durable receiver can do, in C: one association a process, fragments from the socket into
 * a buffer, the buffer to the end of one file, fdatasync, then the answer. It understands nothing: it takes
 * the sender's one presentation context, and counts fragments.
 *
 *   floor FOLDER PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 64 << 20, AHEAD = 128 << 10 };

static void die(const char *what) { perror(what); exit(2); }

static int read_all(int fd, uint8_t *data, size_t length) {
    while (length) {
        ssize_t n = recv(fd, data, length, 0);
        if (n <= 0) return 0;
        data += n; length -= n;
    }
    return 1;
}

static void send_all(int fd, const uint8_t *data, size_t length) {
    while (length) {
        ssize_t n = send(fd, data, length, MSG_NOSIGNAL);
        if (n <= 0) exit(0);
        data += n; length -= n;
    }
}

static uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

static uint8_t *item(uint8_t *at, int type, const void *value, size_t length) {
    *at++ = type; *at++ = 0; *at++ = length >> 8; *at++ = length;
    memcpy(at, value, length);
    return at + length;
}

static void accept_association(int fd, const uint8_t *request) {
    static const char *le = "1.2.840.10008.1.2.1";
    uint8_t pdu[1024] = {2, 0}, context[128] = {1, 0, 0, 0}, user[64], *body = pdu + 6, *at;
    size_t context_length = item(context + 4, 0x40, le, strlen(le)) - context;
    uint8_t maximum[4] = {0, 2, 0, 0};
    at = item(user, 0x51, maximum, 4);
    size_t user_length = item(at, 0x52, "1.2.3", 5) - user;
    memcpy(body, request, 68);
    at = item(body + 68, 0x10, "1.2.840.10008.3.1.1.1", 21);
    at = item(at, 0x21, context, context_length);
    at = item(at, 0x50, user, user_length);
    size_t length = at - body;
    pdu[4] = length >> 8; pdu[5] = length;
    send_all(fd, pdu, at - pdu);
}

static void answer(int fd) {
    /* command field 8001, message 1, no data set, status 0000 */
    static const uint8_t response[] = {
        4, 0, 0, 0, 0, 58, 0, 0, 0, 54, 1, 3,
        0, 0, 0, 0, 4, 0, 0, 0, 40, 0, 0, 0,
        0, 0, 0, 1, 2, 0, 0, 0, 1, 0x80,
        0, 0, 0x20, 1, 2, 0, 0, 0, 1, 0,
        0, 0, 0, 8, 2, 0, 0, 0, 1, 1,
        0, 0, 0, 9, 2, 0, 0, 0, 0, 0};
    send_all(fd, response, sizeof response);
}

static void serve(int fd, const char *folder) {
    uint8_t head[6], *buffer = malloc(ROOM);
    size_t used = 0, started = 0;
    off_t end = 0;
    char path[4096];
    snprintf(path, sizeof path, "%s/%d.segment", folder, getpid());
    int file = open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    if (file < 0 || !buffer) die("segment");
    while (read_all(fd, head, 6)) {
        size_t length = get32(head + 2);
        if (length > ROOM - used) exit(3);
        if (head[0] == 1) {
            if (!read_all(fd, buffer, length)) break;
            accept_association(fd, buffer);
            continue;
        }
        if (head[0] != 4) {
            static const uint8_t release[10] = {6, 0, 0, 0, 0, 4};
            if (head[0] == 5 && read_all(fd, buffer, length)) send_all(fd, release, 10);
            break;
        }
        uint8_t pdv[6];
        if (!read_all(fd, pdv, 6)) break;
        size_t size = length - 6;
        if (pdv[5] & 1) {
            uint8_t command[65536];
            if (size > sizeof command || !read_all(fd, command, size)) break;
            continue;
        }
        if (!read_all(fd, buffer + used, size)) break;
        used += size;
        if (!(pdv[5] & 2)) {
            if (used - started >= AHEAD) {
                if (pwrite(file, buffer + started, used - started, end + started) < 0) die("write");
                posix_fadvise(file, end + started, used - started, POSIX_FADV_DONTNEED);
                started = used;
            }
            continue;
        }
        if (pwrite(file, buffer + started, used - started, end + started) < 0) die("write");
        if (fdatasync(file)) die("sync");
        end += used;
        used = started = 0;
        answer(fd);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) { fprintf(stderr, "usage: see the source\n"); return 2; }
    signal(SIGCHLD, SIG_DFL);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) die("bind");
    if (listen(listener, 16)) die("listen");
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) die("accept");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (fork() == 0) {
            close(listener);
            serve(fd, argv[1]);
            _exit(0);
        }
        close(fd);
    }
}
