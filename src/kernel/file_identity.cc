#include "kernel/file_identity.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/error.h"
#include "kernel/procfs_system.h"

namespace telefork::kernel {
namespace {

// include/uapi/linux/magic.h, and for those outside the kernel their own headers.
constexpr auto kNetworkFilesystems = std::to_array<std::uint64_t>({
    0x6969,      // NFS
    0xff534d42,  // CIFS
    0xfe534d42,  // SMB2
    0x00c36400,  // Ceph
    0x0bd00bd0,  // Lustre
    0x47504653,  // GPFS
    0x01021997,  // 9p
    0x5346414f,  // AFS
    0x19830326,  // BeeGFS
    0x20030528,  // OrangeFS
    0x01161970,  // GFS2
    0x7461636f,  // OCFS2
});

constexpr auto kMadeUpFilesystems = std::to_array<std::uint64_t>({
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    DEBUGFS_MAGIC,
    TRACEFS_MAGIC,
    SECURITYFS_MAGIC,
});

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::vector<std::byte> try_file_handle(int fd) {
  alignas(file_handle) std::array<std::byte, sizeof(file_handle) + MAX_HANDLE_SZ> buffer{};
  auto* handle = reinterpret_cast<file_handle*>(buffer.data());
  handle->handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  if (::name_to_handle_at(fd, "", handle, &mount_id, AT_EMPTY_PATH) != 0) return {};
  std::vector<std::byte> bytes(sizeof handle->handle_type + handle->handle_bytes);
  std::memcpy(bytes.data(), &handle->handle_type, sizeof handle->handle_type);
  std::memcpy(bytes.data() + sizeof handle->handle_type, handle->f_handle, handle->handle_bytes);
  return bytes;
}

void take_stat(FileIdentity& identity, const struct stat& status) {
  identity.device = status.st_dev;
  identity.inode = status.st_ino;
  identity.size = static_cast<std::uint64_t>(status.st_size);
  identity.mtime_ns = nanoseconds(status.st_mtim);
  identity.ctime_ns = nanoseconds(status.st_ctim);
}

void take_statfs(FileIdentity& identity, int fd) {
  struct statfs filesystem {};
  if (::fstatfs(fd, &filesystem) != 0) throw_errno("asking for a file's filesystem");
  // f_type is signed, and some magic numbers have the highest of 32 bits set.
  identity.fs_type = static_cast<std::uint32_t>(filesystem.f_type);
  static_assert(sizeof filesystem.f_fsid == sizeof identity.fs_id);
  std::memcpy(&identity.fs_id, &filesystem.f_fsid, sizeof identity.fs_id);
}

bool same_inode(const FileIdentity& a, const FileIdentity& b) {
  // The handle tells an inode number that was used again (it has the inode's generation).
  return a.inode == b.inode && a.handle == b.handle;
}

bool same_kernel(const FileIdentity& a, const FileIdentity& b) {
  return !a.boot_id.empty() && a.boot_id == b.boot_id && a.device == b.device;
}

bool same_shared_filesystem(const FileIdentity& a, const FileIdentity& b) {
  return is_network_filesystem(a.fs_type) && a.fs_type == b.fs_type && a.fs_id != 0 &&
         a.fs_id == b.fs_id && !a.handle.empty() && a.handle == b.handle;
}

}  // namespace

FileIdentity identify_file(int fd, const struct stat& status, const std::string& boot_id) {
  FileIdentity identity;
  identity.boot_id = boot_id;
  take_stat(identity, status);
  take_statfs(identity, fd);
  identity.handle = try_file_handle(fd);
  return identity;
}

FileIdentity identify_file(int fd, const std::string& boot_id) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_errno("asking for a file's status");
  return identify_file(fd, status, boot_id);
}

FileIdentity identify_file(int fd) { return identify_file(fd, read_boot_id()); }

bool same_file(const FileIdentity& a, const FileIdentity& b) {
  return a.ctime_ns == b.ctime_ns && same_file_whatever_its_content(a, b);
}

bool same_file_whatever_its_content(const FileIdentity& a, const FileIdentity& b) {
  return same_inode(a, b) && (same_kernel(a, b) || same_shared_filesystem(a, b));
}

bool is_made_up(std::uint64_t fs_type) {
  return std::find(kMadeUpFilesystems.begin(), kMadeUpFilesystems.end(), fs_type) !=
         kMadeUpFilesystems.end();
}

bool is_network_filesystem(std::uint64_t fs_type) {
  return std::find(kNetworkFilesystems.begin(), kNetworkFilesystems.end(), fs_type) !=
         kNetworkFilesystems.end();
}

}  // namespace telefork::kernel
