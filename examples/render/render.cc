// render [-o PICTURE.png] [-s SAMPLES] MESH.obj NODE: a mesh is loaded here, becomes a picture on
// the node with all its cores, and the picture is saved here.
//
//      this process                 node
//      load the mesh
//      telefork::fork() ----------> the mesh is in memory: trace
//      save it  <---- stdout ------ the picture
#include <fcntl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "picture.h"
#include "telefork/telefork.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWidth = 960;
constexpr int kHeight = 600;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string host() {
  utsname name{};
  uname(&name);
  return name.nodename;
}

// On the node.
[[noreturn]] void render_to_stdout(const Mesh& mesh, int samples) {
  const auto start = Clock::now();
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  const Picture picture = render(mesh, kWidth, kHeight, samples, cores);
  std::fprintf(stderr, "%-8s traced %zu triangles on %u cores in %.1f s\n", host().c_str(),
               mesh.size(), cores, seconds_since(start));
  std::fwrite(picture.pixels.data(), 1, picture.pixels.size(), stdout);
  _exit(std::fflush(stdout) == 0 ? 0 : 1);
}

// Stdout is a pipe while it forks, and so the child's is.
Picture render_on(const std::string& node, const Mesh& mesh, int samples) {
  std::fflush(stdout);
  int pipe[2];
  const int saved = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  if (saved < 0 || pipe2(pipe, O_CLOEXEC) != 0) throw std::runtime_error("no descriptors left");
  dup2(pipe[1], STDOUT_FILENO);
  close(pipe[1]);
  telefork::Options options;
  options.fds = telefork::Fds::leave_home;  // the pipe's other end, and what stdout was
  const pid_t pid = telefork::fork(node, options);
  if (pid == 0) render_to_stdout(mesh, samples);
  dup2(saved, STDOUT_FILENO);
  close(saved);

  Picture picture{kWidth, kHeight, {}};
  std::uint8_t buffer[65536];
  for (ssize_t n; (n = read(pipe[0], buffer, sizeof buffer)) > 0;) {
    picture.pixels.insert(picture.pixels.end(), buffer, buffer + n);
  }
  close(pipe[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  if (status != 0 || picture.pixels.size() != std::size_t{kWidth} * kHeight * 3) {
    throw std::runtime_error("the picture did not come home");
  }
  return picture;
}

}  // namespace

int main(int argc, char** argv) try {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  std::string path = "picture.png";
  int samples = 16;
  while (arguments.size() > 2 && (arguments[0] == "-o" || arguments[0] == "-s")) {
    if (arguments[0] == "-o") path = arguments[1];
    if (arguments[0] == "-s") samples = std::max(1, std::stoi(arguments[1]));
    arguments.erase(arguments.begin(), arguments.begin() + 2);
  }
  if (arguments.size() != 2) {
    std::fprintf(stderr, "usage: render [-o PICTURE.png] [-s SAMPLES] MESH.obj NODE\n");
    return 2;
  }
  auto start = Clock::now();
  const Mesh mesh = Mesh::load(arguments[0]);
  std::printf("%-8s loaded %zu triangles in %.1f s\n", host().c_str(), mesh.size(),
              seconds_since(start));
  start = Clock::now();
  const Picture picture = render_on(arguments[1], mesh, samples);
  write_png(picture, path);
  std::printf("%-8s saved %s, %.1f s after fork()\n", host().c_str(), path.c_str(),
              seconds_since(start));
} catch (const std::exception& error) {
  std::fprintf(stderr, "render: %s\n", error.what());
  return 1;
}
