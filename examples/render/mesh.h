// A triangle mesh, and the tree in which a ray finds the first triangle that it meets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vec.h"

struct Triangle {
  Vec a, b, c;
  Vec na, nb, nc;  // the surface's normals there
};

struct Hit {
  float distance = 0;
  std::uint32_t triangle = 0;
  float u = 0, v = 0;  // barycentric
};

class Mesh {
 public:
  // The v, vn and f lines of a Wavefront OBJ file; without normals each face is flat. Throws
  // std::runtime_error that names the file, the line and, of a face, the index.
  static Mesh load(const std::string& path);

  std::size_t size() const { return triangles_.size(); }
  const Triangle& operator[](std::uint32_t i) const { return triangles_[i]; }
  Vec low() const { return nodes_[0].low; }
  Vec high() const { return nodes_[0].high; }
  // False: it meets nothing nearer than hit.distance.
  bool meet(Vec from, Vec direction, Hit& hit) const;

 private:
  // A leaf holds `count` triangles from `first`; else its children are the next node and `first`.
  struct Node {
    Vec low, high;
    std::uint32_t first = 0;
    std::uint32_t count = 0;
  };
  void build(std::uint32_t first, std::uint32_t count);

  std::vector<Triangle> triangles_;
  std::vector<Node> nodes_;
};
