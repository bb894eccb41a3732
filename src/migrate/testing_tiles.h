// For tests: one tile of AMX.
#pragma once

#include <array>
#include <cstdint>

#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/abi.h"

namespace telefork::migrate {

constexpr unsigned kTileData = 18;

inline bool has_tile_bit(long question) {
  std::uint64_t components = 0;
  return ::syscall(SYS_arch_prctl, question, &components) == 0 &&
         (components >> kTileData & 1) != 0;
}

inline bool has_tiles() {
  constexpr long kArchGetXcompSupp = 0x1021;
  return has_tile_bit(kArchGetXcompSupp);
}
inline bool may_use_tiles() { return has_tile_bit(kernel::kArchGetXcompPerm); }
inline bool ask_for_tiles() {
  return ::syscall(SYS_arch_prctl, kernel::kArchReqXcompPerm, kTileData) == 0;
}

using Tile = std::array<std::uint8_t, 1024>;

inline Tile make_tile(std::uint8_t seed) {
  Tile tile;
  for (std::size_t i = 0; i < tile.size(); ++i) tile[i] = static_cast<std::uint8_t>(i * 7 + seed);
  return tile;
}

// Into tmm1, for the calling thread; a system call leaves it as it is.
inline void load_tile(const Tile& tile) {
  struct alignas(64) {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {64, 64};
    std::uint8_t rows[16] = {16, 16};
  } configuration;
  static_assert(sizeof(configuration) == 64);
  asm volatile("ldtilecfg %0\n tileloadd (%1,%2,1), %%tmm1"
               :
               : "m"(configuration), "r"(tile.data()), "r"(std::int64_t{64})
               : "memory");
}

inline void store_tile(Tile& tile) {
  asm volatile("tilestored %%tmm1, (%0,%1,1)\n tilerelease"
               :
               : "r"(tile.data()), "r"(std::int64_t{64})
               : "memory");
}

}  // namespace telefork::migrate
