// Is the file that is open there the very file that is open here?
//
// A file open for writing may be reopened at the destination only if it is the same file, on a
// filesystem that both machines share: an equal path, size and content is not enough, a second
// machine's /var/log/x would be written to instead of ours.
//
//     image: identity of the source's descriptor      destination: open(path), identity of that
//                                     \               /
//                                      same_file(a, b)
//
// The answer is "definitely the same" or "not known to be the same". It is yes when
//   * both were taken in one boot of one kernel, by device, inode and ctime; or
//   * the filesystem is one that is mounted from elsewhere (NFS, Lustre, CephFS, GPFS, ...), and
//     type, f_fsid, file handle, inode and ctime are equal. A filesystem whose f_fsid is 0, or that
//     gives no handle, is never known to be the same.
// ctime is in it because a file that was written to meanwhile, or an inode number that was used
// again, is not the file that the process knew. So both must be taken while nobody writes.
//
// Two containers on one kernel are the same machine in this sense.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <sys/stat.h>

namespace telefork::kernel {

struct FileIdentity {
  std::string boot_id;
  std::uint64_t device = 0;  // st_dev
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t ctime_ns = 0;
  std::uint64_t fs_type = 0;  // f_type of statfs(2)
  std::uint64_t fs_id = 0;    // f_fsid
  // handle_type and f_handle of name_to_handle_at(2); empty where the filesystem gives none.
  std::vector<std::byte> handle;
};

// Of any descriptor, O_PATH included. `boot_id` is read_boot_id() unless a test says otherwise;
// `status` is what fstat(2) says of it.
FileIdentity identify_file(int fd, const struct stat& status, const std::string& boot_id);
FileIdentity identify_file(int fd, const std::string& boot_id);
FileIdentity identify_file(int fd);

bool same_file(const FileIdentity& a, const FileIdentity& b);
// The same without ctime: for a file open for writing, which others may write to all the time, and
// which is right to reopen as long as it is that file.
bool same_file_whatever_its_content(const FileIdentity& a, const FileIdentity& b);

// By f_type: the same for every machine that mounts it.
bool is_network_filesystem(std::uint64_t fs_type);

// Those of /proc and /sys: the kernel makes up what their files say when they are read, and their
// sizes say nothing. Such a file stands for what its machine says by that name.
bool is_made_up(std::uint64_t fs_type);

}  // namespace telefork::kernel
