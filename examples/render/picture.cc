#include "picture.h"

#include <atomic>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>

#include <png.h>

namespace {

constexpr int kBounces = 5;
constexpr float kFar = std::numeric_limits<float>::max();
constexpr Vec kMeshColor = {0.85F, 0.55F, 0.25F};
constexpr Vec kFloorColor = {0.70F, 0.72F, 0.75F};

// xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) { next(); }
  float next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<float>((state_ * 0x2545f4914f6cdd1d) >> 40) * 0x1p-24F;
  }

 private:
  std::uint64_t state_;
};

// On the unit sphere, by trial: no sine.
Vec random_direction(Random& random) {
  for (;;) {
    Vec v = {2 * random.next() - 1, 2 * random.next() - 1, 2 * random.next() - 1};
    float length = dot(v, v);
    if (length > 1e-6F && length <= 1) return normalize(v);
  }
}

constexpr Vec kSunLight = {2.6F, 2.3F, 1.9F};
constexpr float kSunSize = 0.06F;  // soft shadows
const Vec kSun = normalize({0.5F, 0.8F, 0.35F});

Vec sky(Vec direction) {
  float height = 0.5F * (direction.y + 1);
  return Vec{0.75F, 0.75F, 0.75F} * (1 - height) + Vec{0.30F, 0.50F, 0.85F} * height;
}

struct Surface {
  Vec point, normal, color;
};

// The mesh, or the floor on which it stands. False: the ray meets the sky.
bool meet(const Mesh& mesh, Vec from, Vec direction, Surface& surface) {
  Hit hit;
  hit.distance = kFar;
  float floor = mesh.low().y;
  bool on_floor = direction.y < 0 && from.y > floor;
  if (on_floor) hit.distance = (floor - from.y) / direction.y;
  if (mesh.meet(from, direction, hit)) {
    const Triangle& t = mesh[hit.triangle];
    Vec normal = normalize(t.na * (1 - hit.u - hit.v) + t.nb * hit.u + t.nc * hit.v);
    if (dot(cross(t.b - t.a, t.c - t.a), direction) > 0) normal = -normal;
    surface = {from + direction * hit.distance, normal, kMeshColor};
    return true;
  }
  if (!on_floor) return false;
  Vec point = from + direction * hit.distance;
  bool dark =
      ((static_cast<long>(std::floor(point.x)) + static_cast<long>(std::floor(point.z))) & 1) != 0;
  surface = {point, {0, 1, 0}, kFloorColor * (dark ? 0.45F : 1)};
  return true;
}

Vec trace(const Mesh& mesh, Vec from, Vec direction, Random& random) {
  Vec light;
  Vec weight = {1, 1, 1};
  for (int bounce = 0; bounce < kBounces; ++bounce) {
    Surface surface;
    if (!meet(mesh, from, direction, surface)) return light + weight * sky(direction);
    weight = weight * surface.color;
    from = surface.point + surface.normal * 1e-3F;
    Vec to_sun = normalize(kSun + random_direction(random) * kSunSize);
    float facing = dot(surface.normal, to_sun);
    Surface in_the_way;
    if (facing > 0 && !meet(mesh, from, to_sun, in_the_way)) {
      light = light + weight * kSunLight * facing;
    }
    // Lambert: a point of the unit sphere that touches the surface there.
    direction = normalize(surface.normal * 1.0001F + random_direction(random));
  }
  return light;
}

std::uint8_t to_byte(float light) {
  float mapped = std::sqrt(light / (1 + light));
  return static_cast<std::uint8_t>(std::fmin(mapped, 1) * 255 + 0.5F);
}

struct Camera {
  Vec place, forward, right, up;
};

Camera look_at(const Mesh& mesh) {
  Vec middle = (mesh.low() + mesh.high()) * 0.5F;
  Vec size = mesh.high() - mesh.low();
  float distance = 1.0F * std::sqrt(dot(size, size));
  Camera camera;
  camera.place = middle + normalize({0.55F, 0.45F, 1}) * distance;
  camera.forward = normalize(middle - camera.place);
  camera.right = normalize(cross(camera.forward, {0, 1, 0}));
  camera.up = cross(camera.right, camera.forward);
  return camera;
}

}  // namespace

Picture render(const Mesh& mesh, int width, int height, int samples, unsigned threads) {
  Picture picture{width, height, {}};
  picture.pixels.resize(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  const Camera camera = look_at(mesh);
  std::atomic<int> next_row = 0;
  auto work = [&] {
    for (int y; (y = next_row++) < height;) {
      for (int x = 0; x < width; ++x) {
        Random random(static_cast<std::uint64_t>(y) * static_cast<std::uint64_t>(width) +
                      static_cast<std::uint64_t>(x));
        Vec sum;
        for (int i = 0; i < samples; ++i) {
          float right = (2 * (static_cast<float>(x) + random.next()) - static_cast<float>(width)) /
                        static_cast<float>(height);
          float up = 1 - 2 * (static_cast<float>(y) + random.next()) / static_cast<float>(height);
          Vec direction = normalize(camera.forward * 2 + camera.right * right + camera.up * up);
          sum = sum + trace(mesh, camera.place, direction, random);
        }
        sum = sum * (1 / static_cast<float>(samples));
        std::uint8_t* pixel =
            &picture.pixels[(static_cast<std::size_t>(y) * static_cast<std::size_t>(width) +
                             static_cast<std::size_t>(x)) *
                            3];
        pixel[0] = to_byte(sum.x);
        pixel[1] = to_byte(sum.y);
        pixel[2] = to_byte(sum.z);
      }
    }
  };
  std::vector<std::thread> pool;
  for (unsigned i = 0; i < threads; ++i) pool.emplace_back(work);
  for (std::thread& thread : pool) thread.join();
  return picture;
}

void write_png(const Picture& picture, const std::string& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, path.c_str(), 0, picture.pixels.data(), 0, nullptr) == 0) {
    throw std::runtime_error(path + ": " + image.message);
  }
}
