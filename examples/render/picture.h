// A picture, and how a mesh becomes one: path tracing on all cores of the machine that it runs on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mesh.h"

struct Picture {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> pixels;  // rows from the top, three bytes a pixel
};

// The same bytes on every machine: each pixel has random numbers of its own, and nothing is used
// that a library computes differently on another processor.
Picture render(const Mesh& mesh, int width, int height, int samples, unsigned threads);

// Throws std::runtime_error that names the file.
void write_png(const Picture& picture, const std::string& path);
