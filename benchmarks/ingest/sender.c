/* A DICOM sender that outruns every receiver: one association, C-STORE of one prepared data set again and
 * again with a new SOP Instance UID each time, synchronous as the standard has it by default.
 *
 *   sender HOST PORT COMMAND_FILE DATA_FILE UID_OFFSETS COUNT PDU
 *
 * COMMAND_FILE and DATA_FILE hold the encoded command set and data set; in both, 12 digits at each offset
 * of UID_OFFSETS (c:N in the command, d:N in the data set, joined by commas) are overwritten by a counter.
 * Prints seconds for all, and for the first and the last sixth.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) { perror(what); exit(2); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint8_t *slurp(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    *length = ftell(file);
    rewind(file);
    uint8_t *data = malloc(*length + 1);
    if (fread(data, 1, *length, file) != *length) die(path);
    fclose(file);
    return data;
}

static void put32(uint8_t *at, uint32_t value) {
    at[0] = value >> 24; at[1] = value >> 16; at[2] = value >> 8; at[3] = value;
}

static void send_all(int fd, const uint8_t *data, size_t length) {
    while (length) {
        ssize_t n = send(fd, data, length, MSG_NOSIGNAL);
        if (n <= 0) die("send");
        data += n; length -= n;
    }
}

static void read_all(int fd, uint8_t *data, size_t length) {
    while (length) {
        ssize_t n = recv(fd, data, length, 0);
        if (n <= 0) die("recv");
        /* DCMTK and Orthanc write an answer in two parts, and Nagle's algorithm holds the second back
         * until the first is acknowledged: without this the kernel waits 40 ms, and hides all else */
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
        data += n; length -= n;
    }
}

static size_t read_pdu(int fd, uint8_t *body, size_t room, int *type) {
    uint8_t head[6];
    read_all(fd, head, 6);
    size_t length = ((size_t)head[2] << 24) | head[3] << 16 | head[4] << 8 | head[5];
    if (length > room) { fprintf(stderr, "PDU too long\n"); exit(2); }
    read_all(fd, body, length);
    *type = head[0];
    return length;
}

static uint8_t *item(uint8_t *at, int type, const void *value, size_t length) {
    *at++ = type; *at++ = 0; *at++ = length >> 8; *at++ = length;
    memcpy(at, value, length);
    return at + length;
}

static void associate(int fd) {
    static const char *ct = "1.2.840.10008.5.1.4.1.1.2", *le = "1.2.840.10008.1.2.1";
    uint8_t pdu[2048] = {1, 0}, context[256] = {1, 0, 0, 0}, user[256], *at = context + 4;
    at = item(at, 0x30, ct, strlen(ct));
    at = item(at, 0x40, le, strlen(le));
    size_t context_length = at - context;
    uint8_t maximum[4];
    put32(maximum, 16384);
    at = item(user, 0x51, maximum, 4);
    at = item(at, 0x52, "1.2.3", 5);
    size_t user_length = at - user;
    uint8_t *body = pdu + 6;
    body[1] = 1;
    memcpy(body + 4, "DICOM_NODE      SENDER          ", 32);
    at = item(body + 68, 0x10, "1.2.840.10008.3.1.1.1", 21);
    at = item(at, 0x20, context, context_length);
    at = item(at, 0x50, user, user_length);
    put32(pdu + 2, at - body);
    send_all(fd, pdu, at - pdu);
    uint8_t answer[65536];
    int type;
    read_pdu(fd, answer, sizeof answer, &type);
    if (type != 2) { fprintf(stderr, "not accepted: PDU %d\n", type); exit(3); }
}

int main(int argc, char **argv) {
    if (argc != 8) { fprintf(stderr, "usage: see the source\n"); return 2; }
    size_t command_length, data_length;
    uint8_t *command = slurp(argv[3], &command_length), *data = slurp(argv[4], &data_length);
    long count = atol(argv[6]);
    size_t fragment = atol(argv[7]) - 6;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) die("address");
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    associate(fd);
    /* one buffer holds the whole message as PDUs; only the counters change */
    size_t fragments = (data_length + fragment - 1) / fragment;
    size_t total = 12 + command_length + fragments * 12 + data_length;
    uint8_t *message = malloc(total), *at = message;
    long base = (long)(getpid() % 100000) * 1000000L;
    double began = now(), first = 0, last = 0;
    for (long i = 0; i < count; i++) {
        char digits[13], *offsets = strdup(argv[5]), *save = NULL;
        snprintf(digits, sizeof digits, "1%011ld", (base + i) % 100000000000L);
        for (char *one = strtok_r(offsets, ",", &save); one; one = strtok_r(NULL, ",", &save))
            memcpy((one[0] == 'c' ? command : data) + atol(one + 2), digits, 12);
        free(offsets);
        at = message;
        *at++ = 4; *at++ = 0; put32(at, command_length + 6); at += 4;
        put32(at, command_length + 2); at += 4; *at++ = 1; *at++ = 3;
        memcpy(at, command, command_length); at += command_length;
        for (size_t done = 0; done < data_length; done += fragment) {
            size_t part = data_length - done < fragment ? data_length - done : fragment;
            *at++ = 4; *at++ = 0; put32(at, part + 6); at += 4;
            put32(at, part + 2); at += 4; *at++ = 1; *at++ = done + part == data_length ? 2 : 0;
            memcpy(at, data + done, part); at += part;
        }
        send_all(fd, message, at - message);
        uint8_t answer[65536];
        int type;
        size_t length = read_pdu(fd, answer, sizeof answer, &type);
        int status = -1;
        for (size_t p = 6; type == 4 && p + 8 <= length;) {
            uint32_t size = answer[p + 4] | answer[p + 5] << 8 | answer[p + 6] << 16;
            if (answer[p + 2] == 0 && answer[p + 3] == 9 && answer[p] == 0)
                status = answer[p + 8] | answer[p + 9] << 8;
            p += 8 + size;
        }
        if (status) { fprintf(stderr, "status %04X, PDU %d\n", status, type); return 4; }
        if (i == count / 6 - 1) first = now() - began;
        if (i == count - count / 6 - 1) last = now();
    }
    double end = now();
    uint8_t release[10] = {5, 0, 0, 0, 0, 4}, answer[256];
    int type;
    send_all(fd, release, 10);
    read_pdu(fd, answer, sizeof answer, &type);
    printf("%.6f %.6f %.6f\n", end - began, first, end - last);
    return 0;
}
