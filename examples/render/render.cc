// render [-o PICTURE.png] [-s SAMPLES] MESH.obj NODE: a mesh is loaded here, becomes a picture on
// the node with all its cores, and the picture is saved here.
//
//      here                           node
//      load the mesh
//      telefork::run_on() ----------> the mesh is in memory: trace
//      save the picture <------------ it is too
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
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

// With all the cores of the machine that it runs on.
Picture trace(const Mesh& mesh, int samples) {
  const auto start = Clock::now();
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  Picture picture = render(mesh, kWidth, kHeight, samples, cores);
  std::printf("%-8s traced %zu triangles on %u cores in %.1f s\n", host().c_str(), mesh.size(),
              cores, seconds_since(start));
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
  // Better now than when the work is done.
  if (!std::ofstream(path, std::ios::app)) {
    throw std::runtime_error(path + " cannot be written: " + std::strerror(errno));
  }
  std::fflush(stdout);
  start = Clock::now();
  Clock::time_point done;  // the steady clock is steady across machines
  const Picture picture = telefork::run_on(arguments[1], [&] {
    std::printf("%-8s is where it runs now, %.2f s after the call\n", host().c_str(),
                seconds_since(start));
    Picture traced = trace(mesh, samples);
    done = Clock::now();
    return traced;
  });
  std::printf("%-8s has it back, %.2f s later\n", host().c_str(), seconds_since(done));
  write_png(picture, path);
  std::printf("%-8s saved %s\n", host().c_str(), path.c_str());
} catch (const std::exception& error) {
  std::fprintf(stderr, "render: %s\n", error.what());
  return 1;
}
