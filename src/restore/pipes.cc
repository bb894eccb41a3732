#include "restore/pipes.h"

#include <span>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "kernel/procfs_file.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;

constexpr unsigned kSettable = O_ACCMODE | O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC;
constexpr std::uint32_t kLargestPacket = 4096;  // PIPE_BUF: a larger one is made of several

void set_flags(const UniqueFd& file, unsigned flags) {
  if (::fcntl(file.get(), F_SETFL, flags) != 0) throw_errno("setting the flags of a pipe");
}

std::size_t bytes_in(const UniqueFd& pipe) {
  int count = 0;
  if (::ioctl(pipe.get(), FIONREAD, &count) != 0) throw_errno("asking what lies in a pipe");
  return static_cast<std::size_t>(count);
}

void write_part(const UniqueFd& pipe, std::span<const std::byte> bytes, unsigned flags) {
  if (bytes.empty()) return;
  set_flags(pipe, O_NONBLOCK | flags);
  write_fully(pipe, bytes, "a pipe");
}

}  // namespace

Pipes::Pipes(image::schema::Files::Reader files, const ContentStore& contents,
             OpenFiles& open_files, bool live, std::function<void(const std::string&)> warn)
    : files_(files),
      contents_(contents),
      open_files_(open_files),
      live_(live),
      warn_(std::move(warn)),
      pipes_(files.getPipes().size()) {
  for (FileDescription::Reader description : files.getDescriptions()) {
    if (description.getKind() != FileDescription::Kind::PIPE) continue;
    if (description.getPipe() >= pipes_.size()) {
      throw Error(Code::kCorrupt, "an end is of a pipe that is not in the image");
    }
    ++pipes_[description.getPipe()].ends_left;
  }
}

// A user's pipes may have been made small (pipe(7), pipe-user-pages-soft).
void Pipes::set_size(image::schema::Pipe::Reader record, const Pipe& pipe) const {
  const int capacity = static_cast<int>(record.getCapacity());
  if (::fcntl(pipe.write.get(), F_GETPIPE_SZ) == capacity ||
      ::fcntl(pipe.write.get(), F_SETPIPE_SZ, capacity) >= 0) {
    return;
  }
  warn_(fmt::format("a pipe of it holds {} bytes instead of {}: this user may have no larger one",
                    ::fcntl(pipe.write.get(), F_GETPIPE_SZ), capacity));
}

// Bytes that were no packet may lie in front of one: read(2) goes on to the end of that.
void Pipes::fill(image::schema::Pipe::Reader record, const Pipe& pipe) const {
  if (record.getContentId() == 0) return;
  const std::vector<std::byte> bytes = contents_.read(record.getContentId());
  std::span<const std::byte> rest(bytes);
  for (image::schema::PipePiece::Reader piece : record.getPieces()) {
    if (piece.getSize() > rest.size())
      throw Error(Code::kCorrupt, "a pipe holds less than it says");
    std::span<const std::byte> part = rest.first(piece.getSize());
    rest = rest.subspan(part.size());
    if (!piece.getPacket()) {
      write_part(pipe.write, part, 0);
      continue;
    }
    const std::size_t before = part.size() > kLargestPacket ? part.size() - kLargestPacket : 0;
    write_part(pipe.write, part.first(before), 0);
    write_part(pipe.write, part.subspan(before), O_DIRECT);
  }
  set_flags(pipe.write, 0);
}

void Pipes::make(image::schema::Pipe::Reader record, Pipe& pipe) {
  if (!record.hasFifo()) {
    std::tie(pipe.read, pipe.write) = make_pipe();
    set_size(record, pipe);
    fill(record, pipe);
    return;
  }
  const std::string path = record.getFifo().getPath();
  pipe.write = open_files_.open_fifo(record.getFifo());
  pipe.read = pipe.write.duplicate();
  // Others of the same machine may have it open.
  const bool used = bytes_in(pipe.write) != 0;
  if (used && !live_) {
    throw Error(Code::kRefused, fmt::format("FIFO {}: another process has written to it", path));
  }
  set_size(record, pipe);
  // What lies in it while the process waits is what it left there.
  if (!used) fill(record, pipe);
}

UniqueFd Pipes::open_end(FileDescription::Reader description) {
  Pipe& pipe = pipes_.at(description.getPipe());
  image::schema::Pipe::Reader record = files_.getPipes()[description.getPipe()];
  if (!pipe.write) make(record, pipe);
  const unsigned access = description.getFlags() & (O_ACCMODE | O_PATH);
  const unsigned flags = description.getFlags() & (O_NONBLOCK | O_DIRECT);
  // What is opened by a name has another flag still, O_LARGEFILE, whose number the C library hides.
  const bool reopened = (description.getFlags() & ~kSettable) != 0 || record.hasFifo();
  UniqueFd end;
  if (!reopened && access == O_RDONLY && !std::exchange(pipe.read_given, true)) {
    end = pipe.read.duplicate();
  } else if (!reopened && access == O_WRONLY && !std::exchange(pipe.write_given, true)) {
    end = pipe.write.duplicate();
  } else {
    end = open_file(kernel::self_fd_path(pipe.write.get()), static_cast<int>(access | O_NONBLOCK));
  }
  if ((access & O_PATH) == 0) set_flags(end, flags);
  if (--pipe.ends_left == 0) {
    pipe.read.reset();
    pipe.write.reset();
  }
  return end;
}

}  // namespace telefork::restore
