// make_mesh FILE.obj: a knotted tube of some 65,000 triangles, as a Wavefront OBJ file.
#include <cmath>
#include <cstdio>

#include "vec.h"

namespace {

constexpr int kAlong = 1024;
constexpr int kAround = 32;
constexpr float kTwoPi = 6.2831853F;

// A torus knot, (2, 3).
Vec curve(float t) {
  float r = 2 + std::cos(3 * t);
  return {r * std::cos(2 * t), 1.2F * std::sin(3 * t), r * std::sin(2 * t)};
}

}  // namespace

int main(int argc, char** argv) {
  std::FILE* file = argc == 2 ? std::fopen(argv[1], "w") : nullptr;
  if (file == nullptr) {
    std::fprintf(stderr, "usage: make_mesh FILE.obj\n");
    return 2;
  }
  for (int i = 0; i < kAlong; ++i) {
    float t = kTwoPi * static_cast<float>(i) / kAlong;
    Vec middle = curve(t);
    Vec tangent = normalize(curve(t + 0.001F) - curve(t - 0.001F));
    Vec side = normalize(cross(tangent, Vec{0, 1, 0.1F}));
    Vec other = cross(side, tangent);
    float radius = 0.38F + 0.05F * std::cos(24 * t);
    for (int j = 0; j < kAround; ++j) {
      float a = kTwoPi * static_cast<float>(j) / kAround;
      Vec normal = side * std::cos(a) + other * std::sin(a);
      Vec point = middle + normal * radius;
      std::fprintf(file, "v %.6f %.6f %.6f\nvn %.5f %.5f %.5f\n", static_cast<double>(point.x),
                   static_cast<double>(point.y), static_cast<double>(point.z),
                   static_cast<double>(normal.x), static_cast<double>(normal.y),
                   static_cast<double>(normal.z));
    }
  }
  for (int i = 0; i < kAlong; ++i) {
    for (int j = 0; j < kAround; ++j) {
      int a = i * kAround + j + 1;
      int b = i * kAround + (j + 1) % kAround + 1;
      int c = (i + 1) % kAlong * kAround + (j + 1) % kAround + 1;
      int d = (i + 1) % kAlong * kAround + j + 1;
      std::fprintf(file, "f %d//%d %d//%d %d//%d %d//%d\n", a, a, b, b, c, c, d, d);
    }
  }
  return std::fclose(file) == 0 ? 0 : 1;
}
