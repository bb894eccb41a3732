// Pipes and FIFOs with what lay in them, and their ends.
//
//     Pipes pipes(files_record, contents, open_files, live, warn);
//     UniqueFd end = pipes.open_end(description);         // once a description of kind pipe
//
// A pipe is open here from its first end to its last, so that an end that nobody had is closed when
// all that somebody had are there.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "restore/content_store.h"
#include "restore/files.h"

namespace telefork::restore {

class Pipes {
 public:
  // All of these outlive it. `live`: see OpenFiles.
  Pipes(image::schema::Files::Reader files, const ContentStore& contents, OpenFiles& open_files,
        bool live, std::function<void(const std::string&)> warn);
  // Throws kCorrupt for a pipe that is not in the record, kRefused for a FIFO that somebody else
  // has written to here.
  UniqueFd open_end(image::schema::FileDescription::Reader description);

 private:
  struct Pipe {
    UniqueFd read;  // of a FIFO one description for both
    UniqueFd write;
    unsigned ends_left = 0;
    bool read_given = false;
    bool write_given = false;
  };
  void make(image::schema::Pipe::Reader record, Pipe& pipe);
  void set_size(image::schema::Pipe::Reader record, const Pipe& pipe) const;
  void fill(image::schema::Pipe::Reader record, const Pipe& pipe) const;

  image::schema::Files::Reader files_;
  const ContentStore& contents_;
  OpenFiles& open_files_;
  bool live_;
  std::function<void(const std::string&)> warn_;
  std::vector<Pipe> pipes_;
};

}  // namespace telefork::restore
