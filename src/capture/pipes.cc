// What lies in pipes and FIFOs. It is copied by tee(2), which leaves it where it is: the process
// may have to go on with it.
#include <algorithm>
#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/capture.h"
#include "kernel/pidfd.h"

namespace telefork::capture {

struct PipePiece {
  std::uint32_t size;
  bool packet;
};

namespace {

using Kind = image::schema::FileDescription::Kind;

std::size_t bytes_in(const UniqueFd& pipe, const std::string& name) {
  int count = 0;
  if (::ioctl(pipe.get(), FIONREAD, &count) != 0) throw_errno("asking what lies in " + name);
  return static_cast<std::size_t>(count);
}

// A pipe of ours with the same buffers in it.
std::pair<UniqueFd, UniqueFd> copy_pipe(const UniqueFd& pipe, int capacity, std::size_t bytes,
                                        const std::string& name) {
  auto [read, write] = make_pipe(O_NONBLOCK);
  // Another process's may be larger than this user may make one; what lies in it may fit all the
  // same.
  static_cast<void>(::fcntl(write.get(), F_SETPIPE_SZ, capacity));
  const ssize_t count = ::tee(pipe.get(), write.get(), bytes, SPLICE_F_NONBLOCK);
  if (count < 0) throw_errno("copying what lies in " + name);
  if (static_cast<std::size_t>(count) != bytes) {
    throw Error(Code::kResources,
                fmt::format("{} has {} bytes in it, and this user may copy {} of them (pipe(7), "
                            "pipe-user-pages-soft)",
                            name, bytes, count));
  }
  return {std::move(read), std::move(write)};
}

// read(2) ends where a packet ends, whoever reads. One byte more, behind all of it, tells of the
// last piece too: it comes with it where that is none.
void take_pieces(const UniqueFd& read, const UniqueFd& write, std::vector<std::byte>& bytes,
                 std::vector<PipePiece>& pieces, const std::string& name) {
  std::size_t taken = 0;
  std::vector<std::byte> buffer(bytes.size() + 1);
  bool marked = false;
  while (taken < bytes.size()) {
    marked = marked || ::write(write.get(), "", 1) == 1;
    const ssize_t count = ::read(read.get(), buffer.data(), buffer.size());
    if (count <= 0) throw_errno("reading what lies in " + name);
    const auto size = static_cast<std::size_t>(count);
    const bool packet = taken + size <= bytes.size() && (marked || taken + size < bytes.size());
    const std::size_t own = std::min(size, bytes.size() - taken);
    std::copy_n(buffer.begin(), own, bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    pieces.push_back({static_cast<std::uint32_t>(own), packet});
    taken += own;
  }
}

}  // namespace

struct Capture::PipeContent {
  int capacity = 0;
  std::vector<std::byte> bytes;
  std::vector<PipePiece> pieces;
};

Capture::PipeContent Capture::read_pipe(std::size_t index) {
  auto is_end = [&](const Description& one, bool readable) {
    return one.kind == Kind::PIPE && one.object == index &&
           (!readable || (one.flags & O_ACCMODE) != O_WRONLY) && (one.flags & O_PATH) == 0;
  };
  const std::vector<Description>& all = survey_.descriptions;
  auto end = std::find_if(all.begin(), all.end(),
                          [&](const Description& one) { return is_end(one, true); });
  const bool readable = end != all.end();
  if (!readable) {
    end = std::find_if(all.begin(), all.end(),
                       [&](const Description& one) { return is_end(one, false); });
  }
  PipeContent content;
  if (end == all.end()) return content;
  const std::string& name = end->name;
  UniqueFd pipe = kernel::take_fd(end->pid, end->fd);
  if (!pipe) throw Error(Code::kGone, name + " has just been closed");
  content.capacity = ::fcntl(pipe.get(), F_GETPIPE_SZ);
  if (content.capacity < 0) throw_errno("asking for the size of " + name);
  // What nobody can read any more counts as well: who reopens it by /proc would find it.
  content.bytes.resize(bytes_in(pipe, name));
  if (content.bytes.empty()) return content;
  if (!readable) {
    pipe = open_file(kernel::self_fd_path(pipe.get()), O_RDONLY | O_NONBLOCK);
  }
  auto [read, write] = copy_pipe(pipe, content.capacity, content.bytes.size(), name);
  take_pieces(read, write, content.bytes, content.pieces, name);
  return content;
}

void Capture::write_pipes(image::schema::Files::Builder files, image::RecordSink& sink) {
  auto list = files.initPipes(static_cast<unsigned>(survey_.pipes.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    PipeContent content = read_pipe(i);
    list[i].setCapacity(static_cast<std::uint32_t>(content.capacity));
    if (!content.bytes.empty()) list[i].setContentId(write_bytes(content.bytes, sink));
    auto pieces = list[i].initPieces(static_cast<unsigned>(content.pieces.size()));
    for (unsigned k = 0; k < pieces.size(); ++k) {
      pieces[k].setSize(content.pieces[k].size);
      pieces[k].setPacket(content.pieces[k].packet);
    }
    const std::optional<std::size_t>& fifo = survey_.pipes[i].fifo;
    if (fifo) survey_.files.fill(*fifo, list[i].initFifo());
  }
}

}  // namespace telefork::capture
