// Whole reads and writes of files, whatever the kernel gives at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/unique_fd.h"

namespace telefork {

// Gives [0, size) of a file to `take` in pieces, by pread. Throws where the file is shorter, or
// cannot be read; `name` is for the message.
void read_in_pieces(const UniqueFd& file, std::uint64_t size, const std::string& name,
                    const std::function<void(std::span<const std::byte>)>& take);

// The same of [offset, offset + size).
void read_in_pieces(const UniqueFd& file, std::uint64_t offset, std::uint64_t size,
                    const std::string& name,
                    const std::function<void(std::span<const std::byte>)>& take);

// Fills `bytes` from the beginning of a file, by pread and with no buffer between. Throws as
// read_in_pieces().
void read_fully(const UniqueFd& file, std::span<std::byte> bytes, const std::string& name);

// The Error of a write(2) that failed just now: that of a full disk, or of a limit, which is named,
// is kResources. The process ignores SIGXFSZ.
[[noreturn]] void throw_write_errno(const std::string& name);

// Writes all of it at the file's position.
void write_fully(const UniqueFd& file, std::span<const std::byte> bytes, const std::string& name);

}  // namespace telefork
