/*
 * What busybox cannot do, for the inside of a guest. Static, since there is no C library in it.
 *
 *     sockets vsock <port> <word>    says a word to a port of the host, and prints the answer
 *     sockets udp <port>             answers every datagram with itself
 *     sockets say <address> <port> <word>    says a word in a datagram, and prints the answer if there is one in 10 seconds
 */
#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int fail(const char *what) {
  perror(what);
  return 1;
}

static int ask_host(int port, const char *word) {
  struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&host, sizeof host) != 0) return fail("connect");
  if (write(fd, word, strlen(word)) < 0) return fail("write");
  char answer[256];
  ssize_t length = read(fd, answer, sizeof answer);
  if (length < 0) return fail("read");
  fwrite(answer, 1, length, stdout);
  return 0;
}

static int echo_datagrams(int port) {
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (bind(fd, (struct sockaddr *)&here, sizeof here) != 0) return fail("bind");
  for (;;) {
    char word[256];
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    ssize_t length = recvfrom(fd, word, sizeof word, 0, (struct sockaddr *)&from, &size);
    if (length < 0) return fail("recvfrom");
    sendto(fd, word, length, 0, (struct sockaddr *)&from, size);
  }
}

static int say(const char *address, int port, const char *word) {
  struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct timeval patience = {.tv_sec = 10};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  inet_pton(AF_INET, address, &there.sin_addr);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (sendto(fd, word, strlen(word), 0, (struct sockaddr *)&there, sizeof there) < 0) return fail("sendto");
  char answer[256];
  ssize_t length = recv(fd, answer, sizeof answer, 0);
  if (length < 0) return fail("recv");
  fwrite(answer, 1, length, stdout);
  return 0;
}

int main(int count, char **words) {
  if (count == 4 && strcmp(words[1], "vsock") == 0) return ask_host(atoi(words[2]), words[3]);
  if (count == 3 && strcmp(words[1], "udp") == 0) return echo_datagrams(atoi(words[2]));
  if (count == 5 && strcmp(words[1], "say") == 0) return say(words[2], atoi(words[3]), words[4]);
  return 64;
}
