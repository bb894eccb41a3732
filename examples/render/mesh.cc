#include "mesh.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace {

constexpr std::uint32_t kLeaf = 4;

// "7", "7/2/3" or "7//3": the vertex, and the normal or 0; counted from 1, or back from the end.
struct Corner {
  long vertex = 0;
  long normal = 0;
};

long parse_index(const std::string& word) {
  std::size_t end = 0;
  long number = 0;
  try {
    number = std::stol(word, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  if (end == 0 || end != word.size()) throw std::invalid_argument("'" + word + "' is no index");
  return number;
}

Corner parse_corner(const std::string& word) {
  Corner corner;
  std::size_t slash = word.find('/');
  corner.vertex = parse_index(word.substr(0, slash));
  std::size_t last = word.rfind('/');
  if (last != slash && last + 1 < word.size()) corner.normal = parse_index(word.substr(last + 1));
  return corner;
}

Vec at(const std::vector<Vec>& all, long number, const char* what) {
  const long size = static_cast<long>(all.size());
  if (number == 0 || number > size || number < -size) {
    throw std::out_of_range(std::string("there is no ") + what + " " + std::to_string(number) +
                            ", of the " + std::to_string(size) + " before this line");
  }
  return all[static_cast<std::size_t>(number > 0 ? number - 1 : size + number)];
}

Vec parse_vec(std::istream& words) {
  Vec v;
  if (!(words >> v.x >> v.y >> v.z)) throw std::invalid_argument("three numbers are wanted");
  return v;
}

Vec center(const Triangle& t) { return (t.a + t.b + t.c) * (1.0F / 3); }

bool meets_box(Vec low, Vec high, Vec from, Vec inverse, float nearest) {
  float enter = 0;
  float leave = nearest;
  for (int axis = 0; axis < 3; ++axis) {
    float one = (low[axis] - from[axis]) * inverse[axis];
    float other = (high[axis] - from[axis]) * inverse[axis];
    enter = std::max(enter, std::min(one, other));
    leave = std::min(leave, std::max(one, other));
  }
  return enter <= leave;
}

// Moeller and Trumbore, "Fast, Minimum Storage Ray-Triangle Intersection", 1997.
bool meets_triangle(const Triangle& t, Vec from, Vec direction, Hit& hit) {
  Vec ab = t.b - t.a;
  Vec ac = t.c - t.a;
  Vec p = cross(direction, ac);
  float determinant = dot(ab, p);
  if (determinant == 0) return false;
  float inverse = 1 / determinant;
  Vec s = from - t.a;
  float u = dot(s, p) * inverse;
  if (u < 0 || u > 1) return false;
  Vec q = cross(s, ab);
  float v = dot(direction, q) * inverse;
  if (v < 0 || u + v > 1) return false;
  float distance = dot(ac, q) * inverse;
  if (distance <= 1e-4F || distance >= hit.distance) return false;
  hit.distance = distance;
  hit.u = u;
  hit.v = v;
  return true;
}

}  // namespace

Mesh Mesh::load(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  Mesh mesh;
  std::vector<Vec> vertices;
  std::vector<Vec> normals;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    try {
      if (kind == "v") vertices.push_back(parse_vec(words));
      if (kind == "vn") normals.push_back(normalize(parse_vec(words)));
      if (kind != "f") continue;
      std::vector<Corner> corners;
      for (std::string word; words >> word;) corners.push_back(parse_corner(word));
      for (std::size_t i = 2; i < corners.size(); ++i) {
        Triangle t{at(vertices, corners[0].vertex, "vertex"),
                   at(vertices, corners[i - 1].vertex, "vertex"),
                   at(vertices, corners[i].vertex, "vertex"),
                   {},
                   {},
                   {}};
        t.na = t.nb = t.nc = normalize(cross(t.b - t.a, t.c - t.a));
        if (corners[0].normal != 0) {
          t.na = at(normals, corners[0].normal, "normal");
          t.nb = at(normals, corners[i - 1].normal, "normal");
          t.nc = at(normals, corners[i].normal, "normal");
        }
        mesh.triangles_.push_back(t);
      }
    } catch (const std::exception& error) {
      throw std::runtime_error(path + ":" + std::to_string(number) + ": " + error.what());
    }
  }
  if (mesh.triangles_.empty()) throw std::runtime_error(path + ": no triangle is in it");
  mesh.build(0, static_cast<std::uint32_t>(mesh.triangles_.size()));
  return mesh;
}

// Halves along the longest side, depth first.
void Mesh::build(std::uint32_t first, std::uint32_t count) {
  Node node;
  node.low = node.high = triangles_[first].a;
  for (std::uint32_t i = first; i < first + count; ++i) {
    const Triangle& t = triangles_[i];
    node.low = min(node.low, min(t.a, min(t.b, t.c)));
    node.high = max(node.high, max(t.a, max(t.b, t.c)));
  }
  std::size_t index = nodes_.size();
  nodes_.push_back(node);
  if (count <= kLeaf) {
    nodes_[index].first = first;
    nodes_[index].count = count;
    return;
  }
  Vec size = node.high - node.low;
  int axis = size.x > size.y && size.x > size.z ? 0 : size.y > size.z ? 1 : 2;
  std::uint32_t half = count / 2;
  auto begin = triangles_.begin() + first;
  std::nth_element(
      begin, begin + half, begin + count,
      [axis](const Triangle& a, const Triangle& b) { return center(a)[axis] < center(b)[axis]; });
  build(first, half);
  nodes_[index].first = static_cast<std::uint32_t>(nodes_.size());
  build(first + half, count - half);
}

bool Mesh::meet(Vec from, Vec direction, Hit& hit) const {
  Vec inverse = {1 / direction.x, 1 / direction.y, 1 / direction.z};
  std::uint32_t stack[64];
  int depth = 0;
  stack[depth++] = 0;
  bool met = false;
  while (depth > 0) {
    std::uint32_t index = stack[--depth];
    const Node& node = nodes_[index];
    if (!meets_box(node.low, node.high, from, inverse, hit.distance)) continue;
    if (node.count == 0) {
      stack[depth++] = node.first;
      stack[depth++] = index + 1;
      continue;
    }
    for (std::uint32_t i = node.first; i < node.first + node.count; ++i) {
      if (meets_triangle(triangles_[i], from, direction, hit)) {
        hit.triangle = i;
        met = true;
      }
    }
  }
  return met;
}
