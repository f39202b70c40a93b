// An echo server: one thread, one level-triggered epoll, recv and send. Whole frames (1 byte type, 3 bytes
// length, payload) are answered, all of one recv with one send. It prints its address and ends when its
// standard input is closed. It has no liveness: it is what there is at least to be done.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 4, PAYLOAD_MAX = 64 << 10, BUFFER = 256 << 10, EVENTS = 1024 };

// A conn keeps what cannot be done yet: the start of a frame, and what the kernel did not take.
struct conn {
	int fd;
	unsigned char *rest, *out;
	size_t rest_len, out_len;
};

static int epfd;
static unsigned char buffer[BUFFER];

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static void *keep(const void *from, size_t n) {
	void *p = malloc(n);
	if (p == NULL)
		fail("malloc");
	return memcpy(p, from, n);
}

static void watch(int op, struct conn *c, unsigned events) {
	struct epoll_event ev = {.events = events, .data.ptr = c};
	if (epoll_ctl(epfd, op, c->fd, &ev) < 0)
		fail("epoll_ctl");
}

static void end(struct conn *c) {
	close(c->fd);
	free(c->rest);
	free(c->out);
	free(c);
}

// whole returns how many of the n bytes at b are whole frames, or -1 if one is too long.
static ssize_t whole(const unsigned char *b, size_t n) {
	size_t at = 0;
	while (n - at >= HEADER) {
		size_t len = (size_t)b[at + 1] << 16 | (size_t)b[at + 2] << 8 | b[at + 3];
		if (len > PAYLOAD_MAX)
			return -1;
		if (n - at < HEADER + len)
			break;
		at += HEADER + len;
	}
	return at;
}

// readable answers what has come. It returns 0 if the connection is to be ended.
static int readable(struct conn *c) {
	size_t have = c->rest_len;
	if (have > 0) {
		memcpy(buffer, c->rest, have);
		free(c->rest);
		c->rest = NULL;
		c->rest_len = 0;
	}
	ssize_t n = recv(c->fd, buffer + have, BUFFER - have, 0);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		return 0;
	if (n > 0)
		have += n;
	ssize_t answer = whole(buffer, have);
	if (answer < 0)
		return 0;
	if ((size_t)answer < have) {
		c->rest_len = have - answer;
		c->rest = keep(buffer + answer, c->rest_len);
	}
	if (answer == 0)
		return 1;
	n = send(c->fd, buffer, answer, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return 0;
	if (n < 0)
		n = 0;
	if (n < answer) { // nothing more is read until this has gone
		c->out_len = answer - n;
		c->out = keep(buffer + n, c->out_len);
		watch(EPOLL_CTL_MOD, c, EPOLLOUT);
	}
	return 1;
}

// writable sends what was kept.
static int writable(struct conn *c) {
	ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	c->out_len -= n;
	if (c->out_len > 0) {
		memmove(c->out, c->out + n, c->out_len);
		return 1;
	}
	free(c->out);
	c->out = NULL;
	watch(EPOLL_CTL_MOD, c, EPOLLIN);
	return 1;
}

static struct conn *add(int fd) {
	struct conn *c = calloc(1, sizeof *c);
	if (c == NULL)
		fail("calloc");
	c->fd = fd;
	watch(EPOLL_CTL_ADD, c, EPOLLIN);
	return c;
}

int main(void) {
	signal(SIGPIPE, SIG_IGN);
	int ln = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	if (ln < 0 || bind(ln, (struct sockaddr *)&addr, len) < 0 || listen(ln, 4096) < 0 ||
	    getsockname(ln, (struct sockaddr *)&addr, &len) < 0)
		fail("listen");
	if ((epfd = epoll_create1(EPOLL_CLOEXEC)) < 0)
		fail("epoll_create1");
	struct conn *door = add(ln), *stdin_conn = add(0);
	printf("127.0.0.1:%d\n", ntohs(addr.sin_port));
	fflush(stdout);
	static struct epoll_event events[EVENTS];
	for (;;) {
		int n = epoll_wait(epfd, events, EVENTS, -1);
		if (n < 0 && errno != EINTR)
			fail("epoll_wait");
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			if (c == stdin_conn) {
				if (read(0, buffer, BUFFER) <= 0)
					return 0;
			} else if (c == door) {
				int fd = accept4(ln, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
				if (fd >= 0) {
					setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
					add(fd);
				}
			} else if (!(c->out != NULL ? writable(c) : readable(c))) {
				end(c);
			}
		}
	}
}
