/*
 * What a guest reaches: many tries side by side, by one program, since each start of one takes long in an emulated machine.
 * Static, for a guest that has no C library.
 *
 *     reach <patience>      a try on each line of its input; a line of its output is `<name> <what came>`, or `<name> denied`
 *                           when nothing did in so many milliseconds. Why nothing came is on stderr.
 *     reach serve <port>…   answers on TCP ports with `guest <port>`, in the background
 *
 * A host is an address, a name, or `gateway`. Tries:
 *
 *     <name> web <host> <port> [<request>]   asks by HTTP, with headers `\r\n` and all in the request, and gives the last line
 *     <name> raw <host> <port> <words>       says what is no HTTP; with `-` nothing, with `!` how a TLS handshake begins
 *     <name> udp <host> <port> <word>        says a word in datagrams
 *     <name> name <name> A|AAAA              asks for a name
 *     <name> ping <address>
 *     <name> hold <host> <port> <count>      begins connections, and gives how many are greeted
 *     <name> talk <host> <port> <count>      says a word from so many sockets, and again from the first; gives whether the
 *                                            other side sees the first as it was: `same`, or `other`
 *     <name> drink <host> <port>             gives how many bytes come until none come
 *     <name> pour <host> <port> <count>      sends datagrams of 1000 bytes
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *name = "reach";
static int patience = 8000;

/* Said at once, so that lines of several programs do not mix. */
static void tell(const char *what) {
  char line[1024];
  int length = snprintf(line, sizeof line, "%s %s\n", name, what);
  if (write(1, line, length < (int)sizeof line ? length : (int)sizeof line - 1) < 0) _exit(1);
  /* Not by exit: what is left of the input is the parent's. */
  _exit(0);
}

static void deny(const char *why) {
  fprintf(stderr, "%s: %s: %s\n", name, why, strerror(errno));
  tell("denied");
}

struct address {
  struct sockaddr_storage at;
  socklen_t size;
};

static int parse(const char *text, int port, struct address *found) {
  memset(found, 0, sizeof *found);
  struct sockaddr_in *four = (struct sockaddr_in *)&found->at;
  struct sockaddr_in6 *six = (struct sockaddr_in6 *)&found->at;
  if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    found->size = sizeof *four;
    return 1;
  }
  if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    found->size = sizeof *six;
    return 1;
  }
  return 0;
}

/* The first IPv4 name server, which is the gateway. */
static void find_gateway(char *text, size_t size) {
  char line[256];
  FILE *file = fopen("/etc/resolv.conf", "r");
  text[0] = 0;
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    char server[128];
    if (sscanf(line, "nameserver %127s", server) == 1 && (text[0] == 0 || strchr(server, ':') == NULL))
      snprintf(text, size, "%s", server);
  }
  if (file != NULL) fclose(file);
  if (text[0] == 0) deny("no name server");
}

static int ready(int fd, short events, int milliseconds) {
  struct pollfd one = {.fd = fd, .events = events};
  int count = poll(&one, 1, milliseconds);
  if (count == 0) errno = ETIMEDOUT;
  return count > 0;
}

static int open_to(const char *host, int port, int type);

/* Asks for a name, twice: a datagram can get lost. Leaves the text of the first address. */
static int look_up(const char *what, int kind, char *text, size_t size) {
  unsigned char query[512] = {0x12, 0x34, 1, 0, 0, 1}, answer[2048];
  int length = 12;
  for (const char *label = what; *label != 0;) {
    int width = strcspn(label, ".");
    query[length++] = width;
    memcpy(query + length, label, width);
    length += width;
    label += width + (label[width] == '.');
  }
  query[length++] = 0;
  query[length + 1] = kind;
  query[length + 3] = 1;
  length += 4;
  char gateway[128];
  find_gateway(gateway, sizeof gateway);
  int fd = open_to(gateway, 53, SOCK_DGRAM);
  for (int turn = 0; turn < 2; turn++) {
    if (send(fd, query, length, 0) < 0) continue;
    if (!ready(fd, POLLIN, patience / 2)) continue;
    int got = recv(fd, answer, sizeof answer, 0);
    if (got < length) continue;
    close(fd);
    int at = length;
    for (int left = answer[6] << 8 | answer[7]; left > 0 && at + 12 <= got; left--) {
      if (answer[at] >= 0xc0) at += 2;
      else {
        while (at < got && answer[at] != 0) at += answer[at] + 1;
        at++;
      }
      int width = answer[at + 8] << 8 | answer[at + 9];
      if (answer[at + 1] == kind)
        return inet_ntop(kind == 1 ? AF_INET : AF_INET6, answer + at + 10, text, size) != NULL;
      at += 10 + width;
    }
    fprintf(stderr, "%s: %s is not found, with code %d\n", name, what, answer[3] & 15);
    return 0;
  }
  close(fd);
  return 0;
}

/* A socket that is connected, or about to be. */
static int open_to(const char *host, int port, int type) {
  struct address found;
  char text[128];
  if (strcmp(host, "gateway") == 0) {
    find_gateway(text, sizeof text);
    host = text;
  }
  if (!parse(host, port, &found)) {
    if (!look_up(host, 1, text, sizeof text)) deny("no such name");
    parse(text, port, &found);
  }
  int fd = socket(found.at.ss_family, type, 0);
  if (fd < 0) deny("socket");
  if (type == SOCK_STREAM) fcntl(fd, F_SETFL, O_NONBLOCK);
  if (connect(fd, (struct sockaddr *)&found.at, found.size) != 0 && errno != EINPROGRESS) deny("connect");
  return fd;
}

static int connect_to(const char *host, int port) {
  int fd = open_to(host, port, SOCK_STREAM), error = 0;
  socklen_t size = sizeof error;
  if (!ready(fd, POLLOUT, patience)) deny("connect");
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  errno = error;
  if (error != 0) deny("connect");
  return fd;
}

/* Reads to the end, or for as long as there is patience, and gives the last line. */
static void tell_last_line(int fd) {
  char answer[4096];
  int length = 0;
  while (length < (int)sizeof answer - 1 && ready(fd, POLLIN, patience)) {
    int got = read(fd, answer + length, sizeof answer - 1 - length);
    if (got <= 0) break;
    length += got;
  }
  while (length > 0 && (answer[length - 1] == '\n' || answer[length - 1] == '\r')) length--;
  if (length == 0) deny("no answer");
  answer[length] = 0;
  char *line = strrchr(answer, '\n');
  tell(line == NULL ? answer : line + 1);
}

static void web(const char *host, const char *port, const char *request) {
  char own[1024], text[1024];
  int six = strchr(host, ':') != NULL;
  snprintf(own, sizeof own, "GET / HTTP/1.1\\r\\nHost: %s%s%s:%s\\r\\nConnection: close\\r\\n\\r\\n", six ? "[" : "", host,
           six ? "]" : "", port);
  if (request == NULL || *request == 0) request = own;
  int length = 0;
  for (const char *at = request; *at != 0 && length < (int)sizeof text; at++) {
    if (at[0] == '\\' && (at[1] == 'r' || at[1] == 'n')) text[length++] = *++at == 'r' ? '\r' : '\n';
    else text[length++] = *at;
  }
  int fd = connect_to(host, atoi(port));
  if (write(fd, text, length) < 0) deny("write");
  tell_last_line(fd);
}

static void raw(const char *host, const char *port, const char *words) {
  char text[256];
  int fd = connect_to(host, atoi(port)), length = snprintf(text, sizeof text, "%s\n", words);
  /* A record of a handshake, and the rest of it never comes. */
  if (strcmp(words, "!") == 0) length = 9, memcpy(text, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 9);
  if (strcmp(words, "-") != 0 && write(fd, text, length) < 0) deny("write");
  tell_last_line(fd);
}

static int ask(int fd, const char *word, char *answer, size_t size) {
  for (int turn = 0; turn < 2; turn++) {
    if (send(fd, word, strlen(word), 0) < 0) return 0;
    if (!ready(fd, POLLIN, patience / 2)) continue;
    int got = recv(fd, answer, size - 1, 0);
    if (got < 0) return 0;
    answer[got] = 0;
    return 1;
  }
  return 0;
}

static void udp(const char *host, const char *port, const char *word) {
  char answer[512];
  if (!ask(open_to(host, atoi(port), SOCK_DGRAM), word, answer, sizeof answer)) deny("no answer");
  tell(answer);
}

static void talk(const char *host, const char *port, int count) {
  char first[512], answer[512];
  int fd = open_to(host, atoi(port), SOCK_DGRAM);
  if (!ask(fd, "who", first, sizeof first)) deny("no answer");
  for (int other = 1; other < count; other++)
    if (!ask(open_to(host, atoi(port), SOCK_DGRAM), "who", answer, sizeof answer)) deny("no answer for another");
  if (!ask(fd, "who", answer, sizeof answer)) deny("no answer again");
  tell(strcmp(first, answer) == 0 ? "same" : "other");
}

static void ask_for(const char *what, const char *kind) {
  char text[128];
  if (!look_up(what, strcmp(kind, "A") == 0 ? 1 : 28, text, sizeof text)) deny("no address");
  tell(text);
}

static void ping(const char *host) {
  struct address found;
  if (!parse(host, 0, &found)) tell("no address");
  int six = found.at.ss_family == AF_INET6;
  int fd = socket(found.at.ss_family, SOCK_RAW, six ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
  if (fd < 0) deny("socket");
  int ident = getpid() & 0xffff;
  unsigned char packet[16] = {six ? 128 : 8, 0, 0, 0, ident >> 8, ident, 0, 1, 'h', 'e', 'l', 'l', 'o', '!', '!', '!'};
  if (!six) {
    unsigned sum = 0;
    for (int at = 0; at < 16; at += 2) sum += packet[at] << 8 | packet[at + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~((sum & 0xffff) + (sum >> 16));
    packet[2] = sum >> 8;
    packet[3] = sum;
  }
  if (connect(fd, (struct sockaddr *)&found.at, found.size) != 0) deny("connect");
  for (int turn = 0; turn < 2; turn++) {
    if (send(fd, packet, sizeof packet, 0) < 0) deny("send");
    while (ready(fd, POLLIN, patience / 2)) {
      unsigned char answer[256];
      int got = recv(fd, answer, sizeof answer, 0), at = six ? 0 : (answer[0] & 15) * 4;
      if (got >= at + 16 && answer[at] == (six ? 129 : 0) && memcmp(answer + at + 4, packet + 4, 12) == 0) tell("pong");
    }
  }
  deny("no answer");
}

static void hold(const char *host, const char *port, int count) {
  int greeted = 0, fds[64];
  char answer[64];
  for (int at = 0; at < count; at++) {
    fds[at] = open_to(host, atoi(port), SOCK_STREAM);
    if (ready(fds[at], POLLIN, patience) && read(fds[at], answer, sizeof answer) > 0) greeted++;
  }
  snprintf(answer, sizeof answer, "%d", greeted);
  tell(answer);
}

static void drink(const char *host, const char *port) {
  static char part[65536];
  int fd = connect_to(host, atoi(port)), got;
  long total = 0;
  while (ready(fd, POLLIN, patience) && (got = read(fd, part, sizeof part)) > 0) total += got;
  snprintf(part, sizeof part, "%ld", total);
  tell(part);
}

static void pour(const char *host, const char *port, int count) {
  static char part[1000];
  int fd = open_to(host, atoi(port), SOCK_DGRAM), sent = 0;
  fcntl(fd, F_SETFL, O_NONBLOCK);
  while (sent < count && ready(fd, POLLOUT, patience)) {
    if (send(fd, part, sizeof part, 0) > 0) {
      /* What takes them on has a short queue. */
      if (++sent % 32 == 0) usleep(20000);
    } else if (errno != EAGAIN && errno != ENOBUFS) deny("send");
  }
  snprintf(part, sizeof part, "%d", sent);
  tell(part);
}

static int serve(int count, char **ports) {
  struct pollfd open[16];
  for (int at = 0; at < count; at++) {
    struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(ports[at]))};
    open[at] = (struct pollfd){.fd = socket(AF_INET6, SOCK_STREAM, 0), .events = POLLIN};
    int yes = 1;
    setsockopt(open[at].fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(open[at].fd, (struct sockaddr *)&here, sizeof here) != 0 || listen(open[at].fd, 16) != 0) {
      perror("serve");
      return 1;
    }
  }
  if (fork() != 0) return 0;
  setsid();
  for (int fd = 0; fd < 3; fd++) close(fd);
  for (;;) {
    poll(open, count, -1);
    for (int at = 0; at < count; at++) {
      if (!(open[at].revents & POLLIN)) continue;
      char answer[64];
      int fd = accept(open[at].fd, NULL, NULL), length = snprintf(answer, sizeof answer, "guest %s\n", ports[at]);
      if (write(fd, answer, length) > 0) shutdown(fd, SHUT_WR);
      close(fd);
    }
  }
}

static void attempt(char *line) {
  char *words[5] = {0};
  for (int at = 0; at < 5 && line != NULL; at++) {
    words[at] = line;
    /* The last has blanks of its own. */
    if (at < 4) strsep(&line, " ");
  }
  name = words[0];
  const char *kind = words[1], *host = words[2], *port = words[3], *rest = words[4] == NULL ? "" : words[4];
  if (strcmp(kind, "web") == 0) web(host, port, rest);
  if (strcmp(kind, "raw") == 0) raw(host, port, rest);
  if (strcmp(kind, "udp") == 0) udp(host, port, rest);
  if (strcmp(kind, "name") == 0) ask_for(host, port);
  if (strcmp(kind, "ping") == 0) ping(host);
  if (strcmp(kind, "hold") == 0) hold(host, port, atoi(rest));
  if (strcmp(kind, "talk") == 0) talk(host, port, atoi(rest));
  if (strcmp(kind, "drink") == 0) drink(host, port);
  if (strcmp(kind, "pour") == 0) pour(host, port, atoi(rest));
  tell("no such try");
}

int main(int count, char **words) {
  signal(SIGPIPE, SIG_IGN);
  if (count > 2 && strcmp(words[1], "serve") == 0) return serve(count - 2, words + 2);
  if (count != 2) return 64;
  patience = atoi(words[1]);
  char line[1024];
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = 0;
    fflush(stdout);
    if (fork() == 0) attempt(line);
  }
  while (wait(NULL) > 0) continue;
  return 0;
}
