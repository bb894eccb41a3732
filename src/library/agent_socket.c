// The library's socket to its agent, kept between calls. Programs close all descriptors, and fork:
// before each use the number must still be the very socket (device, inode) that this very process
// opened; else it is somebody else's and is left alone.
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "library/internal.h"

// As long as a node has to answer a greeting.
enum { kTakenWithin = 10 };  // seconds

static struct tf_agent_memory agent;

static bool is_our_socket(void) {
  struct stat now;
  return agent.open && fstat(agent.fd, &now) == 0 && now.st_dev == agent.device &&
         now.st_ino == agent.inode;
}

void tf_forget_agent(void) { agent.open = false; }

struct tf_agent_memory tf_remember_agent(void) {
  return agent;
}

void tf_recall_agent(const struct tf_agent_memory* memory) { agent = *memory; }

static void drop_agent(void) {
  if (is_our_socket()) close(agent.fd);
  agent.open = false;
}

// Out of the way of programs that count on low numbers, yet below 1024: the kernel's table is as
// long as the highest number, and each fork() copies it. A number that cannot be moved is kept.
static int move_high(int fd) {
  struct rlimit limit;
  rlim_t numbers = 1024;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < numbers) numbers = limit.rlim_cur;
  rlim_t room = numbers < 256 ? numbers / 4 : 64;  // for others that want to lie high
  for (int lowest = (int)(numbers - room); lowest > fd; lowest /= 2) {
    int high = fcntl(fd, F_DUPFD_CLOEXEC, lowest);
    if (high < 0) continue;
    close(fd);
    return high;
  }
  return fd;
}

// Without a name (the kernel is out of memory) nothing but `telefork check` and `save` is worse
// off.
static void name_socket(int fd) {
  static unsigned serial;  // an older one may still be open in a forked process
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int length = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%s%d/%u",
                        TELEFORK_AGENT_SOCKET_NAME, (int)getpid(), serial++);
  (void)bind(fd, (const struct sockaddr*)&address,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length));
}

static bool remember(int fd, pid_t tracer) {
  struct stat now;
  fd = move_high(fd);
  if (fstat(fd, &now) != 0) {
    tf_set_error(TELEFORK_FAILED, errno, "the agent's socket: %s", strerror(errno));
    close(fd);
    return false;
  }
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  name_socket(fd);
  agent.open = true;
  agent.fd = fd;
  agent.tracer = tracer;
  agent.pid = getpid();
  agent.user = geteuid();
  agent.device = now.st_dev;
  agent.inode = now.st_ino;
  return true;
}

// Who listens there: by the kernel, not by the path. False where it does not say.
static bool find_listener(int fd, struct ucred* peer) {
  socklen_t size = sizeof *peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &size) == 0;
}

static bool peer_is_trusted(int fd) {
  struct ucred peer;
  return find_listener(fd, &peer) && (peer.uid == 0 || peer.uid == geteuid());
}

// The telepad, whose child the agent is.
static pid_t pid_of_listener(int fd) {
  struct ucred peer;
  return find_listener(fd, &peer) ? peer.pid : 0;
}

// A connected socket, the preamble sent; or -1 with errno.
static int try_telepad(const char* path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  int result;
  do {
    result = connect(fd, (const struct sockaddr*)&address, sizeof address);
  } while (result != 0 && errno == EINTR);
  if (result == 0 && !peer_is_trusted(fd)) {
    errno = EACCES;
    result = -1;
  }
  if (result == 0 && send(fd, TELEFORK_AGENT_PREAMBLE, TELEFORK_AGENT_PREAMBLE_SIZE,
                          MSG_NOSIGNAL) == TELEFORK_AGENT_PREAMBLE_SIZE) {
    return fd;
  }
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

// Anybody can make a folder in /tmp: ours must be ours alone.
static bool is_private_folder(const char* path) {
  struct stat folder;
  return lstat(path, &folder) == 0 && S_ISDIR(folder.st_mode) && folder.st_uid == geteuid() &&
         (folder.st_mode & 077) == 0;
}

static int try_default_telepads(void) {
  int fd = try_telepad("/run/telefork/telepad.sock");
  if (fd >= 0) return fd;
  char path[sizeof((struct sockaddr_un*)0)->sun_path + 32];
  const char* runtime = secure_getenv("XDG_RUNTIME_DIR");
  if (runtime != NULL && runtime[0] == '/') {
    int length = snprintf(path, sizeof path, "%s/telefork/telepad.sock", runtime);
    if (length < (int)sizeof path) fd = try_telepad(path);
    if (fd >= 0) return fd;
  }
  snprintf(path, sizeof path, "/tmp/telefork-%u", (unsigned)geteuid());
  if (!is_private_folder(path)) return -1;
  strcat(path, "/telepad.sock");
  return try_telepad(path);
}

// TELEFORK_SOCKET names the telepad's socket, and then there is no other way; empty: no telepad.
static bool connect_agent(void) {
  const char* chosen = secure_getenv("TELEFORK_SOCKET");
  int fd = -1;
  pid_t agent_pid = 0;
  if (chosen != NULL && chosen[0] != '\0') {
    fd = try_telepad(chosen);
    if (fd < 0) {
      tf_set_error(TELEFORK_UNREACHABLE, errno, "telepad at %s (TELEFORK_SOCKET): %s", chosen,
                   strerror(errno));
      return false;
    }
  } else {
    if (chosen == NULL) fd = try_default_telepads();
    if (fd < 0) fd = tf_start_private_agent(&agent_pid);
    if (fd < 0) return false;
  }
  return remember(fd, agent_pid != 0 ? agent_pid : pid_of_listener(fd));
}

static bool send_request(const struct telefork_agent_request* request) {
  const char* bytes = (const char*)request;
  size_t sent = 0;
  while (sent < sizeof *request) {
    ssize_t n = send(agent.fd, bytes + sent, sizeof *request - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    sent += (size_t)n;
  }
  return true;
}

static long long now_in_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

// At most kSlice of it, which is longer than that where the whole process was stopped meanwhile.
enum { kSlice = 100 };

static long long ms_waited_for_answer(int limit, bool* answered) {
  struct pollfd entry = {agent.fd, POLLIN, 0};
  const long long begin = now_in_ms();
  const int ready = poll(&entry, 1, limit < kSlice ? limit : kSlice);
  *answered = ready > 0 || (ready < 0 && errno != EINTR);
  const long long waited = now_in_ms() - begin;
  return waited < kSlice ? waited : kSlice;
}

static void say_that_nobody_reads(void) {
  struct sockaddr_un telepad;
  socklen_t size = sizeof telepad;
  if (getpeername(agent.fd, (struct sockaddr*)&telepad, &size) == 0 &&
      size > offsetof(struct sockaddr_un, sun_path)) {
    tf_set_error(
        TELEFORK_UNREACHABLE, ETIMEDOUT,
        "telepad at %.*s has not read the call for %d s; TELEFORK_SOCKET= does without telepad",
        (int)(size - offsetof(struct sockaddr_un, sun_path)), telepad.sun_path, kTakenWithin);
    return;
  }
  tf_set_error(TELEFORK_UNREACHABLE, ETIMEDOUT,
               "telefork-agent (process %d) has not read the call for %d s; kill -CONT lets one "
               "that was stopped go on",
               (int)agent.tracer, kTakenWithin);
}

// Whether there is an answer, or an end, or somebody who has read the request: who lives and works
// on it is waited for, for as long as it takes. One that is stopped would never read it.
static bool is_taken(void) {
  long long left = kTakenWithin * 1000LL;
  bool answered = false;
  while (left > 0 && !answered) left -= ms_waited_for_answer((int)left, &answered);
  if (answered) return true;
  int unread = 0;  // of what this end has sent (unix(7), SIOCOUTQ)
  if (ioctl(agent.fd, SIOCOUTQ, &unread) != 0 || unread == 0) return true;
  say_that_nobody_reads();
  drop_agent();
  return false;
}

static void take_control_data(struct msghdr* message, struct tf_go_ahead* go) {
  for (struct cmsghdr* c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SCM_CREDENTIALS) {
      struct ucred sender;
      memcpy(&sender, CMSG_DATA(c), sizeof sender);
      go->agent_pid = sender.pid;
    } else if (c->cmsg_type == SCM_RIGHTS) {
      if (go->session_fd >= 0) close(go->session_fd);
      memcpy(&go->session_fd, CMSG_DATA(c), sizeof go->session_fd);
    }
  }
}

static bool receive_reply(struct telefork_agent_reply* reply, struct tf_go_ahead* go) {
  size_t received = 0;
  while (received < sizeof *reply) {
    struct iovec rest = {(char*)reply + received, sizeof *reply - received};
    _Alignas(
        struct cmsghdr) char control[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
    struct msghdr message = {.msg_iov = &rest,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t n = recvmsg(agent.fd, &message, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    take_control_data(&message, go);
    received += (size_t)n;
  }
  return true;
}

// True for go ahead.
static bool read_reply(struct telefork_agent_reply* reply, struct tf_go_ahead* go) {
  const struct telefork_abi_header* header = &reply->header;
  if (header->magic != TELEFORK_MAGIC_REPLY || header->size != sizeof *reply) {
    tf_set_error(TELEFORK_CORRUPT, 0, "the agent's answer is damaged");
  } else if (header->version != TELEFORK_ABI_VERSION) {
    tf_set_error(TELEFORK_UNSUPPORTED, 0, "the agent is of another version (%u, this library's %d)",
                 (unsigned)header->version, TELEFORK_ABI_VERSION);
  } else if (reply->code != TELEFORK_OK) {
    reply->message[sizeof reply->message - 1] = '\0';
    tf_set_error((enum telefork_code)reply->code, reply->error, "%s", reply->message);
    return false;
  } else if (go->session_fd < 0) {
    // No number was free in this process, or the agent forgot it.
    tf_set_error(TELEFORK_RESOURCES, EMFILE, "no descriptor for the fork's session");
  } else {
    snprintf(go->lease, sizeof go->lease, "%.*s", (int)sizeof go->lease - 1, reply->message);
    return true;
  }
  drop_agent();  // what it sends next cannot be trusted to be an answer
  return false;
}

static bool ask_agent(struct telefork_agent_request* request, struct tf_go_ahead* go) {
  static struct telefork_agent_reply reply;
  for (;;) {
    // An agent acts as the user that the program was when it began.
    bool fresh = agent.pid != getpid() || agent.user != geteuid() || !is_our_socket();
    if (fresh) {
      drop_agent();
      if (!connect_agent()) return false;
    }
    *go = (struct tf_go_ahead){.session_fd = -1, .agent_fd = agent.fd};
    request->agent_fd = agent.fd;
    tf_let_trace(agent.tracer);
    // A telepad that can start no agent says why at once, and closes.
    bool sent = send_request(request);
    bool closed = !sent && (errno == EPIPE || errno == ECONNRESET);
    if (sent && !is_taken()) return false;
    if ((sent || closed) && receive_reply(&reply, go)) break;
    if (go->session_fd >= 0) close(go->session_fd);
    drop_agent();
    // An agent of earlier calls may have ended meanwhile: nothing has happened yet, so ask another.
    if (!fresh) continue;
    tf_set_error(TELEFORK_LOST, 0, "the agent ended without an answer");
    return false;
  }
  if (!read_reply(&reply, go)) {
    if (go->session_fd >= 0) close(go->session_fd);
    return false;
  }
  go->session_fd = move_high(go->session_fd);
  return true;
}

bool tf_ask_agent(struct telefork_agent_request* request, struct tf_go_ahead* go) {
  if (ask_agent(request, go)) return true;
  tf_let_nobody_trace();
  return false;
}
